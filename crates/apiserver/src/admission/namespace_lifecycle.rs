//! Nothing is created in a namespace that is absent or on its way out, and the cluster's own
//! namespaces stay.
//!
//! Source: apiserver/pkg/admission/plugin/namespace/lifecycle.

use api_types::{ApiError, Key, resources};
use serde_json::Value;

use super::{Attributes, Operation};
use crate::{reader::Reader, rules::edit::text_at};

const IMMORTAL: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

pub(super) fn admit(attributes: &Attributes, _: &mut Value, reader: &dyn Reader) -> Result<(), ApiError> {
    if attributes.operation != Operation::Create || !attributes.resource.is_namespaced() {
        return Ok(());
    }
    let name = &attributes.key.namespace;
    let Some(namespace) = reader.get(&resources::NAMESPACE, &Key::cluster(name)) else {
        return Err(ApiError::not_found(&resources::NAMESPACE, name));
    };
    // A review of access asks a question and leaves nothing behind.
    if attributes.resource.group == "authorization.k8s.io" || text_at(&namespace, "/status/phase") != "Terminating" {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {name} because it is being terminated");
    let cause = format!("namespace {name} is being terminated");
    Err(attributes.forbidden(why).with_cause("NamespaceTerminating", cause, "metadata.namespace"))
}

pub(super) fn validate(attributes: &Attributes, _: Option<&Value>, _: &dyn Reader) -> Result<(), ApiError> {
    let is_immortal = IMMORTAL.contains(&attributes.key.name.as_str());
    if is_immortal && attributes.is(Operation::Delete, &resources::NAMESPACE, "") {
        return Err(attributes.forbidden("this namespace may not be deleted"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::fixture::{Objects, attributes, filled},
        *,
    };
    use crate::authn::User;

    #[test]
    fn content_needs_a_living_namespace() {
        let active = json!({"metadata": {"name": "n"}, "status": {"phase": "Active"}});
        let terminating = json!({"metadata": {"name": "n"}, "status": {"phase": "Terminating"}});
        for (objects, refusal) in [
            (Objects::default().with(resources::NAMESPACE, active), ""),
            (
                Objects::default().with(resources::NAMESPACE, terminating),
                "configmaps \"x\" is forbidden: unable to create new content in namespace n because it is being terminated",
            ),
            (Objects::default(), "namespaces \"n\" not found"),
        ] {
            let found = filled(admit, &resources::CONFIG_MAP, json!({}), &objects).err().unwrap_or_default();
            assert_eq!(found, refusal);
        }
    }

    #[test]
    fn some_namespaces_stay() {
        let (user, resource) = (User::default(), resources::NAMESPACE);
        for (name, is_refused) in [("default", true), ("kube-system", true), ("mine", false)] {
            let key = Key::cluster(name);
            let attributes = attributes(&user, &resource, Operation::Delete, &key, None);
            assert_eq!(validate(&attributes, None, &Objects::default()).is_err(), is_refused, "{name}");
        }
    }
}
