//! What of an object can be owned by who writes it through one endpoint: nobody owns what
//! the endpoint puts back to what it was.
//!
//! Source: `GetResetFields` and `GetResetFieldsFilter` of the strategies in kubernetes/pkg/registry.

use api_types::Resource;
use merge::apply::{Ownable, Set};

pub fn ownable(resource: &Resource, subresource: &str) -> Ownable {
    let except = |fields: &[&str]| Ownable::Except(Set::fields(fields));
    match (resource.group.as_ref(), resource.plural.as_ref(), subresource) {
        ("", "pods", "status") => except(&["spec", "metadata.deletionTimestamp", "metadata.ownerReferences"]),
        ("", "pods", "ephemeralcontainers") => Ownable::Only(&["spec.ephemeralContainers"]),
        ("", "pods", "resize") => Ownable::Only(&[
            "spec.containers.*.resources",
            "spec.containers.*.resizePolicy",
            "spec.initContainers.*.resources",
            "spec.initContainers.*.resizePolicy",
        ]),
        ("", "namespaces", "finalize") => except(&["status"]),
        ("apps", "deployments", "status") => except(&["spec", "metadata.labels"]),
        ("certificates.k8s.io", "certificatesigningrequests", "status") => except(&["spec", "status.conditions"]),
        ("certificates.k8s.io", "certificatesigningrequests", "approval") => except(&["spec", "status.certificate"]),
        (
            "admissionregistration.k8s.io"
            | "apiextensions.k8s.io"
            | "apiregistration.k8s.io"
            | "flowcontrol.apiserver.k8s.io",
            _,
            "status",
        ) => except(&["spec", "metadata"]),
        (_, _, "status") => except(&["spec"]),
        (_, _, "") if resource.subresource("status").is_some() => except(&["status"]),
        _ => except(&[]),
    }
}
