//! Volumes and claims are not deleted under their users: a controller takes the finalizer
//! off when nobody uses them.
//!
//! Source: plugin/pkg/admission/storage/storageobjectinuseprotection.

use api_types::{ApiError, resources};
use serde_json::Value;

use super::Attributes;
use crate::{
    reader::Reader,
    rules::edit::{child, list, set},
};

pub(super) fn fill(attributes: &Attributes, object: &mut Value, _: &dyn Reader) -> Result<(), ApiError> {
    for (resource, finalizer) in [
        (&resources::PERSISTENT_VOLUME_CLAIM, "kubernetes.io/pvc-protection"),
        (&resources::PERSISTENT_VOLUME, "kubernetes.io/pv-protection"),
        (&resources::VOLUME_ATTRIBUTES_CLASS, "kubernetes.io/vac-protection"),
    ] {
        let meta = child(object, "metadata");
        if attributes.creates(resource) && !list(meta, "finalizers").iter().any(|other| other == finalizer) {
            let mut finalizers = list(meta, "finalizers").to_vec();
            finalizers.push(finalizer.into());
            set(meta, "finalizers", finalizers);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::fixture::{Objects, filled},
        *,
    };

    #[test]
    fn claims_are_protected() {
        let claim =
            filled(fill, &resources::PERSISTENT_VOLUME_CLAIM, json!({"metadata": {}}), &Objects::default()).unwrap();
        assert_eq!(claim["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
        let map = filled(fill, &resources::CONFIG_MAP, json!({"metadata": {}}), &Objects::default()).unwrap();
        assert_eq!(map, json!({"metadata": {}}));
    }
}
