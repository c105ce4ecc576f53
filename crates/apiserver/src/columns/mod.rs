//! Objects as rows of cells, as `kubectl get` shows them: for each kind its columns and the
//! function that fills them. Kinds without an entry show their name and when they were made.
//!
//! Source: pkg/printers/internalversion/printers.go.

use api_types::{
    Resource,
    jiff::Timestamp,
    schema::descriptions,
    table::{Column, Row, RowCondition},
};
use serde_json::Value;

mod access;
mod cluster;
mod duration;
mod network;
mod pods;
mod storage;
mod view;
mod workloads;

use view::View;

/// The columns of a kind, in order. Clients get them once, also in a watch.
pub fn columns(resource: &Resource) -> Vec<Column> {
    printer(resource).columns.iter().map(Spec::column).collect()
}

/// An object's row. The caller adds the object itself, as the client wants it.
pub fn row(resource: &Resource, object: &Value, now: Timestamp) -> Row {
    let view = View { object, now };
    Row { cells: (printer(resource).cells)(&view), conditions: conditions(resource, &view), object: Value::Null }
}

/// Pods that have ended are marked, so that clients can leave them out.
fn conditions(resource: &Resource, view: &View) -> Vec<RowCondition> {
    if !(resource.group.is_empty() && resource.plural == "pods") {
        return vec![];
    }
    let message = match view.text("/status/phase") {
        "Succeeded" => "The pod has completed successfully.",
        "Failed" => "The pod failed.",
        _ => return vec![],
    };
    vec![RowCondition {
        type_: "Completed".to_owned(),
        status: "True".to_owned(),
        reason: view.text("/status/phase").to_owned(),
        message: message.to_owned(),
    }]
}

/// How a kind is shown.
struct Printer {
    columns: &'static [Spec],
    cells: fn(&View) -> Vec<Value>,
}

/// A column before it is described.
struct Spec {
    name: &'static str,
    type_: &'static str,
    format: &'static str,
    priority: i32,
    about: About,
}

/// Where a column's description comes from.
#[derive(Clone, Copy)]
enum About {
    /// The documentation of a field: the type's name without `io.k8s.api.`, and the field.
    Field(&'static str, &'static str),
    Words(&'static str),
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const COMMON_PREFIX: &str = "io.k8s.api.";

const NAME: Spec = Spec { format: "name", ..text("Name", About::Field(META, "name")) };
const AGE: Spec = text("Age", About::Field(META, "creationTimestamp"));
const CREATED_AT: Spec = Spec { type_: "date", ..text("Created At", About::Field(META, "creationTimestamp")) };
const CONTAINERS: Spec = wide("Containers", About::Words("Names of the containers in the template."));
const IMAGES: Spec = wide("Images", About::Words("Images of the containers in the template."));

const fn text(name: &'static str, about: About) -> Spec {
    Spec { name, type_: "string", format: "", priority: 0, about }
}
const fn integer(name: &'static str, about: About) -> Spec {
    Spec { type_: "integer", ..text(name, about) }
}
const fn boolean(name: &'static str, about: About) -> Spec {
    Spec { type_: "boolean", ..text(name, about) }
}
/// Shown with `-o wide` only.
const fn wide(name: &'static str, about: About) -> Spec {
    Spec { priority: 1, ..text(name, about) }
}

impl Spec {
    fn column(&self) -> Column {
        let description = match self.about {
            About::Words(words) => words,
            About::Field(of, field) => {
                let name = if of.starts_with("io.") { of.to_owned() } else { format!("{COMMON_PREFIX}{of}") };
                descriptions::of(&name).and_then(|description| description.field(field)).unwrap_or_default()
            }
        };
        Column {
            name: self.name.to_owned(),
            type_: self.type_.to_owned(),
            format: self.format.to_owned(),
            description: description.to_owned(),
            priority: self.priority,
        }
    }
}

const DEFAULT: Printer = Printer {
    columns: &[NAME, CREATED_AT],
    cells: |view| vec![view.name(), view.text("/metadata/creationTimestamp").into()],
};

const fn printer_of(columns: &'static [Spec], cells: fn(&View) -> Vec<Value>) -> Printer {
    Printer { columns, cells }
}

// long: one row per kind
fn printer(resource: &Resource) -> Printer {
    match (resource.group.as_ref(), resource.plural.as_ref()) {
        ("", "pods") => printer_of(pods::COLUMNS, pods::cells),
        ("", "podtemplates") => printer_of(workloads::POD_TEMPLATE, workloads::pod_template),
        ("", "replicationcontrollers") => {
            printer_of(workloads::REPLICATION_CONTROLLER, workloads::replication_controller)
        }
        ("apps", "replicasets") => printer_of(workloads::REPLICA_SET, workloads::replica_set),
        ("apps", "deployments") => printer_of(workloads::DEPLOYMENT, workloads::deployment),
        ("apps", "statefulsets") => printer_of(workloads::STATEFUL_SET, workloads::stateful_set),
        ("apps", "daemonsets") => printer_of(workloads::DAEMON_SET, workloads::daemon_set),
        ("apps", "controllerrevisions") => printer_of(workloads::CONTROLLER_REVISION, workloads::controller_revision),
        ("batch", "jobs") => printer_of(workloads::JOB, workloads::job),
        ("batch", "cronjobs") => printer_of(workloads::CRON_JOB, workloads::cron_job),
        ("autoscaling", "horizontalpodautoscalers") => printer_of(workloads::AUTOSCALER, workloads::autoscaler),
        ("policy", "poddisruptionbudgets") => printer_of(workloads::DISRUPTION_BUDGET, workloads::disruption_budget),
        ("", "services") => printer_of(network::SERVICE, network::service),
        ("", "endpoints") => printer_of(network::ENDPOINTS, network::endpoints),
        ("discovery.k8s.io", "endpointslices") => printer_of(network::ENDPOINT_SLICE, network::endpoint_slice),
        ("networking.k8s.io", "ingresses") => printer_of(network::INGRESS, network::ingress),
        ("networking.k8s.io", "ingressclasses") => printer_of(network::INGRESS_CLASS, network::ingress_class),
        ("networking.k8s.io", "networkpolicies") => printer_of(network::NETWORK_POLICY, network::network_policy),
        ("networking.k8s.io", "ipaddresses") => printer_of(network::IP_ADDRESS, network::ip_address),
        ("networking.k8s.io", "servicecidrs") => printer_of(network::SERVICE_CIDR, network::service_cidr),
        ("", "configmaps") => printer_of(storage::CONFIG_MAP, storage::config_map),
        ("", "secrets") => printer_of(storage::SECRET, storage::secret),
        ("", "persistentvolumes") => printer_of(storage::VOLUME, storage::volume),
        ("", "persistentvolumeclaims") => printer_of(storage::CLAIM, storage::claim),
        ("storage.k8s.io", "storageclasses") => printer_of(storage::CLASS, storage::class),
        ("storage.k8s.io", "csinodes") => printer_of(storage::CSI_NODE, storage::csi_node),
        ("storage.k8s.io", "csidrivers") => printer_of(storage::CSI_DRIVER, storage::csi_driver),
        ("storage.k8s.io", "volumeattachments") => printer_of(storage::ATTACHMENT, storage::attachment),
        ("storage.k8s.io", "volumeattributesclasses") => {
            printer_of(storage::ATTRIBUTES_CLASS, storage::attributes_class)
        }
        ("rbac.authorization.k8s.io", "rolebindings") => printer_of(access::ROLE_BINDING, access::role_binding),
        ("rbac.authorization.k8s.io", "clusterrolebindings") => {
            printer_of(access::CLUSTER_ROLE_BINDING, access::role_binding)
        }
        ("certificates.k8s.io", "certificatesigningrequests") => {
            printer_of(access::SIGNING_REQUEST, access::signing_request)
        }
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations") => {
            printer_of(access::MUTATING_WEBHOOKS, access::webhooks)
        }
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations") => {
            printer_of(access::VALIDATING_WEBHOOKS, access::webhooks)
        }
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => {
            printer_of(access::VALIDATING_POLICY, access::validating_policy)
        }
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies") => {
            printer_of(access::MUTATING_POLICY, access::mutating_policy)
        }
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings") => {
            printer_of(access::VALIDATING_POLICY_BINDING, access::policy_binding)
        }
        ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings") => {
            printer_of(access::MUTATING_POLICY_BINDING, access::policy_binding)
        }
        ("", "nodes") => printer_of(cluster::NODE, cluster::node),
        ("", "namespaces") => printer_of(cluster::NAMESPACE, cluster::namespace),
        ("", "serviceaccounts") => printer_of(cluster::NAME_AND_AGE, cluster::name_and_age),
        ("", "componentstatuses") => printer_of(cluster::COMPONENT_STATUS, cluster::component_status),
        ("", "resourcequotas") => printer_of(cluster::QUOTA, cluster::quota),
        ("" | "events.k8s.io", "events") => printer_of(cluster::EVENT, cluster::event),
        ("apiregistration.k8s.io", "apiservices") => printer_of(cluster::API_SERVICE, cluster::api_service),
        ("coordination.k8s.io", "leases") => printer_of(cluster::LEASE, cluster::lease),
        ("node.k8s.io", "runtimeclasses") => printer_of(cluster::RUNTIME_CLASS, cluster::runtime_class),
        ("scheduling.k8s.io", "priorityclasses") => printer_of(cluster::PRIORITY_CLASS, cluster::priority_class),
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => printer_of(cluster::FLOW_SCHEMA, cluster::flow_schema),
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => {
            printer_of(cluster::PRIORITY_LEVEL, cluster::priority_level)
        }
        ("resource.k8s.io", "deviceclasses" | "resourceclaimtemplates") => {
            printer_of(cluster::NAME_AND_AGE, cluster::name_and_age)
        }
        ("resource.k8s.io", "resourceclaims") => printer_of(cluster::RESOURCE_CLAIM, cluster::resource_claim),
        ("resource.k8s.io", "resourceslices") => printer_of(cluster::RESOURCE_SLICE, cluster::resource_slice),
        _ => DEFAULT,
    }
}

#[cfg(test)]
#[path = "columns_tests.rs"]
mod tests;
