//! A claim grows only where its class says that volumes can.
//!
//! Source: plugin/pkg/admission/storage/persistentvolume/resize.

use api_types::{ApiError, Key, Quantity, resources};
use serde_json::Value;

use super::Attributes;
use crate::{reader::Reader, rules::edit::text_at};

pub(super) fn validate(attributes: &Attributes, claim: Option<&Value>, reader: &dyn Reader) -> Result<(), ApiError> {
    let (Some(new), Some(old)) = (claim, attributes.old) else { return Ok(()) };
    if !attributes.updates(&resources::PERSISTENT_VOLUME_CLAIM) || size(new) <= size(old) {
        return Ok(());
    }
    if text_at(old, "/status/phase") != "Bound" {
        return Err(attributes.forbidden("Only bound persistent volume claims can be expanded"));
    }
    let class = match old.pointer("/metadata/annotations/volume.beta.kubernetes.io~1storage-class") {
        Some(class) => class.as_str().unwrap_or_default(),
        None => text_at(old, "/spec/storageClassName"),
    };
    let class = reader.get(&resources::STORAGE_CLASS, &Key::cluster(class));
    let can_grow = |class: &Value| class.get("allowVolumeExpansion").and_then(Value::as_bool) == Some(true);
    if class.is_some_and(|class| can_grow(&class)) {
        return Ok(());
    }
    Err(attributes.forbidden(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
    ))
}

fn size(claim: &Value) -> Quantity {
    Quantity::parse(text_at(claim, "/spec/resources/requests/storage")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::{
            Operation,
            fixture::{Objects, attributes},
        },
        *,
    };
    use crate::authn::User;

    #[test]
    fn classes_decide() {
        let claim = |size: &str| json!({"spec": {"storageClassName": "c", "resources": {"requests": {"storage": size}}}, "status": {"phase": "Bound"}});
        let (user, key, old) = (User::default(), Key::new("n", "x"), claim("1Gi"));
        let resource = resources::PERSISTENT_VOLUME_CLAIM;
        let attributes = attributes(&user, &resource, Operation::Update, &key, Some(&old));
        for (can_grow, size, is_admitted) in [(true, "2Gi", true), (false, "2Gi", false), (false, "1Gi", true)] {
            let class = json!({"metadata": {"name": "c"}, "allowVolumeExpansion": can_grow});
            let objects = Objects::default().with(resources::STORAGE_CLASS, class);
            assert_eq!(validate(&attributes, Some(&claim(size)), &objects).is_ok(), is_admitted);
        }
    }
}
