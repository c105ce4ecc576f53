//! The words of the API, shared by the server and every client: the table of kinds,
//! typed and dynamic objects, and the small languages (quantities, selectors, names).
//! Nothing here does I/O, reads a clock or knows an async runtime.

pub mod fields;
pub mod labels;
pub mod names;
pub mod object;
pub mod options;
pub mod quantity;
pub mod resources;
pub mod schema;
pub mod status;
pub mod table;

pub use object::{Key, Object};
pub use quantity::Quantity;
pub use resources::{Resource, Scope, Subresource, Verb, Verbs};
pub use status::{ApiError, Cause, FieldError};

/// The public API structs, by the name of their group.
pub mod k8s {
    pub use k8s_openapi::ByteString;
    pub use k8s_openapi::api::{
        admissionregistration::v1 as admissionregistration, apps::v1 as apps, authentication::v1 as authentication,
        authorization::v1 as authorization, autoscaling::v1 as autoscaling, autoscaling::v2 as autoscaling_v2,
        batch::v1 as batch, certificates::v1 as certificates, coordination::v1 as coordination, core::v1 as core,
        discovery::v1 as discovery, events::v1 as events, flowcontrol::v1 as flowcontrol, networking::v1 as networking,
        node::v1 as node, policy::v1 as policy, rbac::v1 as rbac, resource::v1 as resource,
        scheduling::v1 as scheduling, storage::v1 as storage,
    };
    pub use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
    pub use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
    pub use k8s_openapi::apimachinery::pkg::{api::resource::Quantity, util::intstr::IntOrString};
    pub use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as apiregistration;
}
pub use k8s_openapi::jiff;
