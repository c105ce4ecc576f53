//! What a kind does differently, as pure functions over JSON. [`rules`] is the one place
//! where kinds are told apart; a kind that is not named there is [`PLAIN`].

use api_types::{FieldError, Resource, names};
use serde::de::DeserializeOwned;
use serde_json::Value;

use meta::NameRule;
use path::Errors;

pub mod address;
pub mod amounts;
pub mod autoscaling;
pub mod certificate;
pub mod config;
pub mod coordination;
pub mod device;
pub mod edit;
pub mod endpoints;
pub mod event;
pub mod extension;
pub mod facts;
pub mod flow;
pub mod limits;
pub mod meta;
pub mod namespace;
pub mod networking;
pub mod node;
pub mod ownable;
pub mod path;
pub mod pod;
pub mod rbac;
pub mod scheduling;
pub mod selector;
pub mod service;
pub mod status;
pub mod storage;
pub mod warnings;
pub mod webhook;
pub mod workload;

/// What happens to dependents when the deleter does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Orphan,
}

/// Plain fn pointers; [`PLAIN`] for kinds that do not differ.
#[derive(Clone, Copy)]
pub struct Rules {
    /// What names look like.
    pub name: NameRule,
    /// On every decode: create, update, and stored objects.
    pub default: fn(&mut Value),
    /// After name, uid and creationTimestamp are set, before validation.
    pub prepare_create: fn(&mut Value),
    /// (new, old): keeps the status, counts generations.
    pub prepare_update: fn(&mut Value, &Value),
    /// (new, old): takes the status only.
    pub prepare_status_update: fn(&mut Value, &Value),
    /// Everything but the metadata, which [`meta`] checks for every kind.
    pub validate: fn(&Value) -> Vec<FieldError>,
    /// (new, old)
    pub validate_update: fn(&Value, &Value) -> Vec<FieldError>,
    /// (new, old)
    pub validate_status_update: fn(&Value, &Value) -> Vec<FieldError>,
    /// Texts for `Warning` headers on create and, from what was, update.
    pub warnings: fn(&Value, Option<&Value>) -> Vec<String>,
    /// What every answer about a kind on its way out warns of.
    pub deprecation: &'static str,
    /// Values of the selectable fields besides metadata.name and metadata.namespace.
    pub selectable: fn(&Value) -> Vec<(&'static str, String)>,
    pub selectable_names: &'static [&'static str],
    /// The selectable field by which lists find objects without looking at the others; empty: none.
    pub indexed: &'static str,
    /// PUT of an absent object creates it.
    pub create_on_update: bool,
    /// PUT without a resourceVersion replaces whatever is there.
    pub unconditional_update: bool,
    /// (object, requested seconds): `Some(grace)` where deletion gives notice first.
    pub graceful: fn(&Value, Option<i64>) -> Option<i64>,
    pub default_propagation: Propagation,
    /// Something besides metadata.finalizers keeps a deleted object.
    pub is_held: fn(&Value) -> bool,
    /// What a deletion changes in an object that it does not remove, besides its metadata.
    pub mark_deleted: fn(&mut Value),
    /// DELETE answers with the object where other kinds answer with a Status.
    pub returns_deleted: bool,
}

pub const PLAIN: Rules = Rules {
    name: names::dns1123_subdomain,
    default: |_| {},
    prepare_create: |_| {},
    prepare_update: |_, _| {},
    prepare_status_update: take_status,
    validate: |_| Vec::new(),
    validate_update: |_, _| Vec::new(),
    validate_status_update: |_, _| Vec::new(),
    warnings: |_, _| Vec::new(),
    deprecation: "",
    selectable: |_| Vec::new(),
    selectable_names: &[],
    indexed: "",
    create_on_update: false,
    unconditional_update: true,
    graceful: |_, _| None,
    default_propagation: Propagation::Background,
    is_held: |_| false,
    mark_deleted: |_| {},
    returns_deleted: false,
};

/// What `resource` does differently.
pub fn rules(resource: &Resource) -> Rules {
    match (resource.group.as_ref(), resource.plural.as_ref()) {
        ("", "componentstatuses") => Rules { deprecation: "v1 ComponentStatus is deprecated in v1.19+", ..PLAIN },
        ("", "configmaps") => config::CONFIG_MAP,
        ("", "endpoints") => endpoints::ENDPOINTS,
        ("", "events") => event::RULES,
        ("", "limitranges") => limits::LIMIT_RANGE,
        ("", "namespaces") => namespace::RULES,
        ("", "nodes") => node::RULES,
        ("", "persistentvolumeclaims") => storage::claim::RULES,
        ("", "persistentvolumes") => storage::volume::RULES,
        ("", "pods") => pod::RULES,
        ("", "podtemplates") => workload::POD_TEMPLATE,
        ("", "replicationcontrollers") => workload::REPLICATION_CONTROLLER,
        ("", "resourcequotas") => limits::RESOURCE_QUOTA,
        ("", "secrets") => config::SECRET,
        ("", "serviceaccounts") => config::SERVICE_ACCOUNT,
        ("", "services") => service::RULES,
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations") => webhook::MUTATING_WEBHOOKS,
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies") => webhook::MUTATING_POLICY,
        ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings") => webhook::MUTATING_POLICY_BINDING,
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => webhook::ADMISSION_POLICY,
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings") => webhook::ADMISSION_POLICY_BINDING,
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations") => webhook::VALIDATING_WEBHOOKS,
        ("apiextensions.k8s.io", "customresourcedefinitions") => extension::CUSTOM_RESOURCE_DEFINITION,
        ("apiregistration.k8s.io", "apiservices") => extension::API_SERVICE,
        ("apps", "controllerrevisions") => workload::CONTROLLER_REVISION,
        ("apps", "daemonsets") => workload::DAEMON_SET,
        ("apps", "deployments") => workload::DEPLOYMENT,
        ("apps", "replicasets") => workload::REPLICA_SET,
        ("apps", "statefulsets") => workload::STATEFUL_SET,
        ("autoscaling", "horizontalpodautoscalers") if resource.version == "v1" => autoscaling::AUTOSCALER_V1,
        ("autoscaling", "horizontalpodautoscalers") => autoscaling::AUTOSCALER,
        ("batch", "cronjobs") => workload::cron_job::RULES,
        ("batch", "jobs") => workload::job::RULES,
        ("certificates.k8s.io", "certificatesigningrequests") => certificate::CERTIFICATE_REQUEST,
        ("coordination.k8s.io", "leases") => coordination::LEASE,
        ("discovery.k8s.io", "endpointslices") => endpoints::ENDPOINT_SLICE,
        ("events.k8s.io", "events") => event::NEWER,
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => flow::FLOW_SCHEMA,
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => flow::PRIORITY_LEVEL,
        ("networking.k8s.io", "ingressclasses") => networking::INGRESS_CLASS,
        ("networking.k8s.io", "ingresses") => networking::INGRESS,
        ("networking.k8s.io", "ipaddresses") => networking::IP_ADDRESS,
        ("networking.k8s.io", "networkpolicies") => networking::NETWORK_POLICY,
        ("networking.k8s.io", "servicecidrs") => networking::SERVICE_CIDR,
        ("node.k8s.io", "runtimeclasses") => scheduling::RUNTIME_CLASS,
        ("policy", "poddisruptionbudgets") => autoscaling::DISRUPTION_BUDGET,
        ("rbac.authorization.k8s.io", "clusterrolebindings") => rbac::CLUSTER_ROLE_BINDING,
        ("rbac.authorization.k8s.io", "clusterroles") => rbac::CLUSTER_ROLE,
        ("rbac.authorization.k8s.io", "rolebindings") => rbac::ROLE_BINDING,
        ("rbac.authorization.k8s.io", "roles") => rbac::ROLE,
        ("resource.k8s.io", "deviceclasses") => device::DEVICE_CLASS,
        ("resource.k8s.io", "resourceclaims") => device::RESOURCE_CLAIM,
        ("resource.k8s.io", "resourceclaimtemplates") => device::RESOURCE_CLAIM_TEMPLATE,
        ("resource.k8s.io", "resourceslices") => device::RESOURCE_SLICE,
        ("scheduling.k8s.io", "priorityclasses") => scheduling::PRIORITY_CLASS,
        ("storage.k8s.io", "csidrivers") => storage::CSI_DRIVER,
        ("storage.k8s.io", "csinodes") => storage::CSI_NODE,
        ("storage.k8s.io", "csistoragecapacities") => storage::CSI_STORAGE_CAPACITY,
        ("storage.k8s.io", "storageclasses") => storage::STORAGE_CLASS,
        ("storage.k8s.io", "volumeattachments") => storage::VOLUME_ATTACHMENT,
        ("storage.k8s.io", "volumeattributesclasses") => storage::VOLUME_ATTRIBUTES_CLASS,
        _ => PLAIN,
    }
}

/// The status comes from the new object and all else from the old one, but for the metadata: built-in kinds let
/// labels and annotations be written through the status, too.
fn take_status(new: &mut Value, old: &Value) {
    let mut kept = old.clone();
    let (Some(new), Some(kept_fields)) = (new.as_object_mut(), kept.as_object_mut()) else { return };
    for field in ["metadata", "status"] {
        match new.remove(field) {
            Some(value) => kept_fields.insert(field.to_owned(), value),
            None => kept_fields.remove(field),
        };
    }
    *new = std::mem::take(kept_fields);
    let generation = old.pointer("/metadata/generation").cloned();
    if let Some(meta) = new.get_mut("metadata").and_then(Value::as_object_mut) {
        match generation {
            Some(generation) => meta.insert("generation".to_owned(), generation),
            None => meta.remove("generation"),
        };
    }
}

/// The status alone: the newer kinds do not let labels and their like be written through it.
fn take_status_alone(new: &mut Value, old: &Value) {
    take_status(new, old);
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        edit::copy(edit::child(new, "metadata"), &old["metadata"], field);
    }
}

/// Validates an object as its typed struct.
fn check<T: DeserializeOwned>(object: &Value, validate: fn(&T, &mut Errors)) -> Vec<FieldError> {
    let mut errors = Errors::default();
    match T::deserialize(object) {
        Ok(object) => validate(&object, &mut errors),
        Err(error) => errors.0.push(FieldError::type_invalid("", "", error.to_string())),
    }
    errors.0
}

/// Validates a change, (new, old), as typed structs.
fn check_change<T: DeserializeOwned>(new: &Value, old: &Value, validate: fn(&T, &T, &mut Errors)) -> Vec<FieldError> {
    let mut errors = Errors::default();
    match (T::deserialize(new), T::deserialize(old)) {
        (Ok(new), Ok(old)) => validate(&new, &old, &mut errors),
        (Err(error), _) | (_, Err(error)) => errors.0.push(FieldError::type_invalid("", "", error.to_string())),
    }
    errors.0
}

/// Errors as tests compare them.
#[cfg(test)]
fn texts(errors: Vec<FieldError>) -> Vec<String> {
    errors.iter().map(|error| format!("{}: {}", error.field, error.message())).collect()
}

#[cfg(test)]
mod recorded;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Decoding refuses most of these; nothing behind it may rely on that to stay alive.
    #[test]
    fn no_shape_of_an_object_is_fatal() {
        let odd = [
            json!(null),
            json!(1),
            json!("a"),
            json!([]),
            json!([null, 1, "a", [], {}]),
            json!({}),
            json!({"containers": [1, {"env": [{"valueFrom": {"resourceFieldRef": "a"}}]}], "volumes": ["a", {"projected": 1}]}),
            json!({"template": {"metadata": 1, "spec": {"containers": {}}}, "selector": [], "ports": [1], "limits": [1]}),
            json!({"template": 1, "conditions": 1, "names": 1, "behavior": 1, "service": 1, "resources": 1, "devices": [1]}),
        ];
        let fields = [
            "metadata", "spec", "status", "data", "subsets", "webhooks", "rules", "roleRef", "subjects", "template",
            "ports",
        ];
        for resource in api_types::resources::BUILT_IN {
            let rules = rules(resource);
            for value in &odd {
                let filled = fields.iter().map(|field| ((*field).to_owned(), value.clone())).collect();
                for object in [Value::Object(filled), value.clone()] {
                    let (mut new, old) = (object.clone(), object);
                    (rules.default)(&mut new);
                    (rules.prepare_create)(&mut new);
                    (rules.prepare_update)(&mut new, &old);
                    (rules.prepare_status_update)(&mut new, &old);
                    (rules.validate)(&new);
                    (rules.validate_update)(&new, &old);
                    (rules.validate_status_update)(&new, &old);
                    (rules.warnings)(&old, Some(&new));
                    (rules.selectable)(&old);
                    (rules.graceful)(&old, None);
                    (rules.is_held)(&old);
                    (rules.mark_deleted)(&mut new);
                    meta::validate_create(resource, &old, rules.name);
                    meta::validate_update(&new, &old);
                }
            }
        }
    }

    #[test]
    fn a_status_update_takes_the_status() {
        let old = json!({"metadata": {"generation": 1}, "spec": {"a": 1}, "status": {"b": 1}});
        let mut new =
            json!({"metadata": {"generation": 5, "annotations": {"x": "y"}}, "spec": {"a": 2}, "status": {"b": 2}});
        take_status(&mut new, &old);
        assert_eq!(
            new,
            json!({"metadata": {"generation": 1, "annotations": {"x": "y"}}, "spec": {"a": 1}, "status": {"b": 2}})
        );
    }
}
