//! A new node takes no pods before a controller has seen it ready.
//!
//! Source: plugin/pkg/admission/nodetaint.

use api_types::{ApiError, resources};
use serde_json::{Value, json};

use super::Attributes;
use crate::{
    reader::Reader,
    rules::edit::{child, list, set, text},
};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) fn fill(attributes: &Attributes, node: &mut Value, _: &dyn Reader) -> Result<(), ApiError> {
    if !attributes.creates(&resources::NODE) {
        return Ok(());
    }
    let spec = child(node, "spec");
    let mut taints = list(spec, "taints").to_vec();
    if !taints.iter().any(|taint| text(taint, "key") == NOT_READY && text(taint, "effect") == "NoSchedule") {
        taints.push(json!({ "key": NOT_READY, "effect": "NoSchedule" }));
        set(spec, "taints", taints);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::fixture::{Objects, filled},
        *,
    };

    #[test]
    fn new_nodes_are_tainted_once() {
        let taint = json!({"key": NOT_READY, "effect": "NoSchedule"});
        for taints in [json!([]), json!([taint])] {
            let node =
                filled(fill, &resources::NODE, json!({"spec": {"taints": taints}}), &Objects::default()).unwrap();
            assert_eq!(node["spec"]["taints"], json!([taint]));
        }
    }
}
