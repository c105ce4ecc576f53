//! A pod bears the zone and the region of its node, so that its containers can ask for them.
//!
//! Source: plugin/pkg/admission/podtopologylabels.

use api_types::{ApiError, Key, resources};
use serde_json::Value;

use super::Attributes;
use crate::{
    reader::Reader,
    rules::edit::{child, fill_text, text, text_at},
};

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// Pods that are created on a node; others get the labels with their binding.
pub(super) fn fill(attributes: &Attributes, pod: &mut Value, reader: &dyn Reader) -> Result<(), ApiError> {
    let node = text_at(pod, "/spec/nodeName").to_owned();
    if attributes.creates(&resources::POD) && !node.is_empty() {
        copy(&node, pod, reader);
    }
    Ok(())
}

/// Gives the node's labels to `object`, a pod or a binding; what it has stays.
pub fn copy(node: &str, object: &mut Value, reader: &dyn Reader) {
    let Some(node) = reader.get(&resources::NODE, &Key::cluster(node)) else { return };
    for label in LABELS {
        let value = text(&node["metadata"]["labels"], label);
        if !value.is_empty() {
            fill_text(child(child(object, "metadata"), "labels"), label, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::fixture::{Objects, filled},
        *,
    };

    #[test]
    fn the_nodes_zone_and_region_are_the_pods() {
        let labels = json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r", "other": "o"});
        let objects = Objects::default().with(resources::NODE, json!({"metadata": {"name": "n1", "labels": labels}}));
        let pod =
            json!({"metadata": {"labels": {"topology.kubernetes.io/region": "mine"}}, "spec": {"nodeName": "n1"}});
        let pod = filled(fill, &resources::POD, pod, &objects).unwrap();
        let expected = json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "mine"});
        assert_eq!(pod["metadata"]["labels"], expected);
        let unbound = filled(fill, &resources::POD, json!({"spec": {}}), &objects).unwrap();
        assert!(unbound.get("metadata").is_none());
    }
}
