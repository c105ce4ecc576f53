//! Claims and Ingresses that name no class get the cluster's default one, if it has one.
//!
//! Source: plugin/pkg/admission/storage/storageclass/setdefault, plugin/pkg/admission/network/defaultingressclass.

use api_types::{ApiError, Resource, resources};
use serde_json::Value;

use super::Attributes;
use crate::{
    reader::Reader,
    rules::edit::{child, is_present, set, text},
};

pub(super) fn fill_claim(attributes: &Attributes, claim: &mut Value, reader: &dyn Reader) -> Result<(), ApiError> {
    if !attributes.creates(&resources::PERSISTENT_VOLUME_CLAIM) {
        return Ok(());
    }
    let mark = "storageclass.kubernetes.io/is-default-class";
    fill(
        claim,
        "storageClassName",
        "volume.beta.kubernetes.io/storage-class",
        default(reader, &resources::STORAGE_CLASS, mark),
    );
    Ok(())
}

pub(super) fn fill_ingress(attributes: &Attributes, ingress: &mut Value, reader: &dyn Reader) -> Result<(), ApiError> {
    if !attributes.creates(&resources::INGRESS) {
        return Ok(());
    }
    let mark = "ingressclass.kubernetes.io/is-default-class";
    fill(ingress, "ingressClassName", "kubernetes.io/ingress.class", default(reader, &resources::INGRESS_CLASS, mark));
    Ok(())
}

/// The old way to name a class is an annotation.
fn fill(object: &mut Value, field: &str, annotation: &str, class: Option<String>) {
    let is_named = is_present(&object["spec"], field) || object["metadata"]["annotations"].get(annotation).is_some();
    if let Some(class) = class.filter(|_| !is_named) {
        set(child(object, "spec"), field, class);
    }
}

/// The newest of the classes that are marked as default; of those the first by name.
fn default(reader: &dyn Reader, resource: &Resource, mark: &str) -> Option<String> {
    let classes = reader.list(resource, "");
    let marked = classes.iter().filter(|class| text(&class["metadata"]["annotations"], mark) == "true");
    let age = |class: &Value| text(&class["metadata"], "creationTimestamp").to_owned();
    let name = |class: &Value| text(&class["metadata"], "name").to_owned();
    let newest = marked.max_by(|a, b| age(a).cmp(&age(b)).then(name(b).cmp(&name(a))))?;
    Some(name(newest))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::fixture::{Objects, filled},
        *,
    };

    #[test]
    fn the_newest_default_wins() {
        let class = |name: &str, created: &str| {
            json!({"metadata": {"name": name, "creationTimestamp": created,
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}})
        };
        let objects = Objects::default()
            .with(resources::STORAGE_CLASS, class("old", "2026-01-01T00:00:00Z"))
            .with(resources::STORAGE_CLASS, class("b", "2026-02-01T00:00:00Z"))
            .with(resources::STORAGE_CLASS, class("a", "2026-02-01T00:00:00Z"));
        for (spec, class) in [(json!({}), json!("a")), (json!({"storageClassName": ""}), json!(""))] {
            let claim = json!({"metadata": {}, "spec": spec});
            let claim = filled(fill_claim, &resources::PERSISTENT_VOLUME_CLAIM, claim, &objects).unwrap();
            assert_eq!(claim["spec"]["storageClassName"], class);
        }
    }
}
