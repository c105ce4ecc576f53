//! Checks of a write that need to know who asks or what else exists: first those that
//! change the object, then those that only refuse. Each is a pure decision over a
//! [`Reader`]; [`CHAIN`] is their order.

use api_types::{ApiError, Key, Resource};
use serde_json::Value;

use crate::{authn::User, reader::Reader};

mod default_class;
mod default_tolerations;
mod limit_ranger;
mod locks;
mod namespace_lifecycle;
mod node_restriction;
mod node_taint;
mod optional;
mod pod_security;
mod priority;
mod quota;
mod resize;
mod runtime_class;
mod service_account;
mod storage_in_use;
mod topology_labels;

pub use locks::Locks;
pub use pod_security::{annotations, warning};
pub use quota::charged_namespace;
pub use service_account::MISSING_DEFAULT_ACCOUNT;
pub use topology_labels::copy as copy_topology_labels;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
}

/// A write on its way, apart from the object itself.
#[derive(Clone, Copy)]
pub struct Attributes<'a> {
    pub user: &'a User,
    pub resource: &'a Resource,
    /// Empty for the object itself.
    pub subresource: &'a str,
    pub operation: Operation,
    pub key: &'a Key,
    /// What is stored, for updates and deletes.
    pub old: Option<&'a Value>,
    /// Five random letters, for names that are made here.
    pub suffix: &'a str,
    /// Checks that are made though they are off by default (`--enable-admission-plugins`).
    pub enabled: &'a [String],
    /// Checks that are not made (`--disable-admission-plugins`).
    pub disabled: &'a [String],
}

impl Attributes<'_> {
    fn is(&self, operation: Operation, resource: &Resource, subresource: &str) -> bool {
        // Not the whole rows: this is asked by each check of each write.
        self.operation == operation
            && self.resource.plural == resource.plural
            && self.resource.group == resource.group
            && self.subresource == subresource
    }
    fn creates(&self, resource: &Resource) -> bool {
        self.is(Operation::Create, resource, "")
    }
    fn updates(&self, resource: &Resource) -> bool {
        self.is(Operation::Update, resource, "")
    }
    fn forbidden(&self, why: impl std::fmt::Display) -> ApiError {
        ApiError::forbidden(self.resource, &self.key.name, why)
    }
}

type Mutate = fn(&Attributes, &mut Value, &dyn Reader) -> Result<(), ApiError>;
/// The object is absent for deletes.
type Validate = fn(&Attributes, Option<&Value>, &dyn Reader) -> Result<(), ApiError>;

enum Check {
    Mutate(Mutate),
    Validate(Validate),
}

/// Upstream's names and order; quota comes last, so that nothing is charged that is refused.
///
/// Source: `AllOrderedPlugins` in pkg/kubeapiserver/options/plugins.go.
const CHAIN: &[(&str, Check)] = &[
    ("NamespaceLifecycle", Check::Mutate(namespace_lifecycle::admit)),
    ("AlwaysPullImages", Check::Mutate(optional::always_pull)),
    ("LimitRanger", Check::Mutate(limit_ranger::fill)),
    ("ServiceAccount", Check::Mutate(service_account::fill)),
    ("PodNodeSelector", Check::Mutate(optional::select_nodes)),
    ("TaintNodesByCondition", Check::Mutate(node_taint::fill)),
    ("Priority", Check::Mutate(priority::fill)),
    ("DefaultTolerationSeconds", Check::Mutate(default_tolerations::fill)),
    ("ExtendedResourceToleration", Check::Mutate(optional::tolerate_devices)),
    ("StorageObjectInUseProtection", Check::Mutate(storage_in_use::fill)),
    ("RuntimeClass", Check::Mutate(runtime_class::fill)),
    ("DefaultIngressClass", Check::Mutate(default_class::fill_ingress)),
    ("DefaultStorageClass", Check::Mutate(default_class::fill_claim)),
    ("PodTopologyLabels", Check::Mutate(topology_labels::fill)),
    ("NamespaceLifecycle", Check::Validate(namespace_lifecycle::validate)),
    ("NamespaceExists", Check::Validate(optional::namespace_exists)),
    ("LimitPodHardAntiAffinityTopology", Check::Validate(optional::limit_anti_affinity)),
    ("LimitRanger", Check::Validate(limit_ranger::validate)),
    ("ServiceAccount", Check::Validate(service_account::validate)),
    ("NodeRestriction", Check::Validate(node_restriction::validate)),
    ("PodSecurity", Check::Validate(pod_security::validate)),
    ("Priority", Check::Validate(priority::validate)),
    ("PersistentVolumeClaimResize", Check::Validate(resize::validate)),
    ("RuntimeClass", Check::Validate(runtime_class::validate)),
    ("DenyServiceExternalIPs", Check::Validate(optional::deny_external_ips)),
    ("ResourceQuota", Check::Validate(quota::validate)),
];

const OFF_BY_DEFAULT: [&str; 6] = [
    "AlwaysPullImages",
    "DenyServiceExternalIPs",
    "ExtendedResourceToleration",
    "LimitPodHardAntiAffinityTopology",
    "NamespaceExists",
    "PodNodeSelector",
];
/// Made where a request is authorised (`authz::check_write`), as they ask for permissions.
const ALWAYS_ON: [&str; 4] =
    ["CertificateApproval", "CertificateSigning", "CertificateSubjectRestriction", "ClusterTrustBundleAttest"];

/// Whether a check has this name.
pub fn is_known(name: &str) -> bool {
    CHAIN.iter().any(|(known, _)| *known == name) || ALWAYS_ON.contains(&name)
}

fn chain<'a>(attributes: &'a Attributes<'_>) -> impl Iterator<Item = &'static (&'static str, Check)> + 'a {
    let has = |list: &[String], name: &str| list.iter().any(|other| other == name);
    CHAIN.iter().filter(move |(name, _)| {
        (!OFF_BY_DEFAULT.contains(name) || has(attributes.enabled, name)) && !has(attributes.disabled, name)
    })
}

/// Fills in what the cluster decides; runs after defaulting, before validation.
pub fn mutate(attributes: &Attributes, object: &mut Value, reader: &dyn Reader) -> Result<(), ApiError> {
    for (name, check) in chain(attributes) {
        if let Check::Mutate(mutate) = check {
            mutate(attributes, object, reader).inspect_err(|error| refused(name, error))?;
        }
    }
    Ok(())
}

/// Refuses what the cluster does not allow; runs on the object as it will be stored.
pub fn validate(attributes: &Attributes, object: Option<&Value>, reader: &dyn Reader) -> Result<(), ApiError> {
    for (name, check) in chain(attributes) {
        if let Check::Validate(validate) = check {
            validate(attributes, object, reader).inspect_err(|error| refused(name, error))?;
        }
    }
    Ok(())
}

fn refused(check: &str, error: &ApiError) {
    tracing::debug!(check, %error, "refused");
}

#[cfg(test)]
pub(crate) mod fixture {
    use std::sync::Arc;

    use super::*;

    /// Objects that a test's decision reads.
    #[derive(Default)]
    pub(crate) struct Objects(Vec<(Resource, Arc<Value>)>);

    impl Objects {
        pub(crate) fn with(mut self, resource: Resource, object: Value) -> Self {
            self.0.push((resource, Arc::new(object)));
            self
        }
    }

    impl Reader for Objects {
        fn get(&self, resource: &Resource, key: &Key) -> Option<Arc<Value>> {
            self.list(resource, &key.namespace)
                .into_iter()
                .find(|object| object["metadata"]["name"].as_str() == Some(&key.name))
        }
        fn list(&self, resource: &Resource, namespace: &str) -> Vec<Arc<Value>> {
            let is_in = |object: &Value| {
                namespace.is_empty() || object["metadata"]["namespace"].as_str().unwrap_or_default() == namespace
            };
            let all = self.0.iter().filter(|(other, object)| other == resource && is_in(object));
            all.map(|(_, object)| object.clone()).collect()
        }
    }

    /// A write by `user` of an object named `x` in namespace `n`.
    pub(crate) fn attributes<'a>(
        user: &'a User,
        resource: &'a Resource,
        operation: Operation,
        key: &'a Key,
        old: Option<&'a Value>,
    ) -> Attributes<'a> {
        Attributes {
            user,
            resource,
            subresource: "",
            operation,
            key,
            old,
            suffix: "abcde",
            enabled: &[],
            disabled: &[],
        }
    }

    /// Runs one filling check on an object that is created in namespace `n` under the name `x`.
    pub(super) fn filled(
        fill: Mutate,
        resource: &Resource,
        mut object: Value,
        objects: &Objects,
    ) -> Result<Value, String> {
        let (user, key) = (User::default(), Key::new("n", "x"));
        let attributes = attributes(&user, resource, Operation::Create, &key, None);
        fill(&attributes, &mut object, objects).map_err(|error| error.message().to_owned())?;
        Ok(object)
    }

    /// Runs one refusing check on such an object.
    pub(super) fn refusal(validate: Validate, resource: &Resource, object: &Value, objects: &Objects) -> String {
        let (user, key) = (User::default(), Key::new("n", "x"));
        let attributes = attributes(&user, resource, Operation::Create, &key, None);
        validate(&attributes, Some(object), objects).err().map(|error| error.message().to_owned()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use api_types::resources::{self, BUILT_IN};
    use serde_json::json;

    use super::*;

    /// Decoding refuses most of these; nothing behind it may rely on that to stay alive.
    #[test]
    fn no_shape_of_an_object_is_fatal() {
        let namespace =
            json!({"metadata": {"name": "n", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
        let account = json!({"metadata": {"name": "default", "namespace": "n"}});
        let range =
            json!({"metadata": {"namespace": "n"}, "spec": {"limits": [{"type": "Container", "default": {"cpu": 1}}]}});
        let quota = json!({"metadata": {"namespace": "n"}, "spec": 1, "status": {"hard": {"pods": "1", "cpu": 1}}});
        let objects = fixture::Objects::default()
            .with(resources::NAMESPACE, namespace)
            .with(resources::SERVICE_ACCOUNT, account)
            .with(resources::LIMIT_RANGE, range)
            .with(resources::RESOURCE_QUOTA, quota);
        let odd = [
            json!(null),
            json!([1]),
            json!({"metadata": 1, "spec": 1, "status": 1}),
            json!({"metadata": {"labels": 1, "annotations": []}, "spec": {"containers": [1, {"volumeMounts": 1}]}}),
            json!({"spec": {"containers": {}, "tolerations": 1, "volumes": [1], "taints": 1}}),
        ];
        let key = Key::new("n", "x");
        for (resource, object) in BUILT_IN.iter().flat_map(|resource| odd.iter().map(move |object| (resource, object)))
        {
            for user in [User::default(), User::new("system:node:x", &["system:nodes"])] {
                for operation in [Operation::Create, Operation::Update, Operation::Delete] {
                    let attributes = fixture::attributes(&user, resource, operation, &key, Some(object));
                    let mut new = object.clone();
                    // Refused or not, it answers.
                    let _ = mutate(&attributes, &mut new, &objects);
                    let _ = validate(&attributes, Some(&new), &objects);
                    warning(&attributes, &new, &objects);
                }
            }
        }
    }
}
