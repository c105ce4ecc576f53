//! Nodes, namespaces, events and what the cluster itself is run by.

use serde_json::{Value, json};

use super::{
    AGE,
    About::{Field, Words},
    NAME, Spec, boolean, integer, text,
    view::View,
    wide,
};

const ROLE_LABEL_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";

pub const NAME_AND_AGE: &[Spec] = &[NAME, AGE];

pub fn name_and_age(view: &View) -> Vec<Value> {
    vec![view.name(), view.age()]
}

pub const NODE: &[Spec] = &[
    NAME,
    text("Status", Words("Whether the node can run pods.")),
    text("Roles", Words("The roles that the node's labels give it.")),
    AGE,
    text("Version", Field("core.v1.NodeSystemInfo", "kubeletVersion")),
    wide("Internal-IP", Field("core.v1.NodeStatus", "addresses")),
    wide("External-IP", Field("core.v1.NodeStatus", "addresses")),
    wide("OS-Image", Field("core.v1.NodeSystemInfo", "osImage")),
    wide("Kernel-Version", Field("core.v1.NodeSystemInfo", "kernelVersion")),
    wide("Container-Runtime", Field("core.v1.NodeSystemInfo", "containerRuntimeVersion")),
];

pub fn node(node: &View) -> Vec<Value> {
    let mut status = match node.condition("Ready") {
        "" => "Unknown",
        "True" => "Ready",
        _ => "NotReady",
    }
    .to_owned();
    if node.flag("/spec/unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    let address = |of_type: &str| {
        let mut addresses = node.items("/status/addresses");
        let found = addresses.find(|address| address.text("/type") == of_type);
        Value::from(found.map_or("<none>", |address| address.text("/address")))
    };
    let info = |field: &str| Value::from(node.text_or(&format!("/status/nodeInfo/{field}"), "<unknown>"));
    vec![
        node.name(),
        status.into(),
        roles(node).into(),
        node.age(),
        node.text("/status/nodeInfo/kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn roles(node: &View) -> String {
    let labels = node.map("/metadata/labels").into_iter().flatten();
    let role = |(key, value): (&String, &Value)| match key.strip_prefix(ROLE_LABEL_PREFIX) {
        Some(role) => Some(role.to_owned()),
        None if key == ROLE_LABEL => value.as_str().map(str::to_owned),
        None => None,
    };
    let mut roles: Vec<String> = labels.filter_map(role).filter(|role| !role.is_empty()).collect();
    roles.sort();
    roles.dedup();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

pub const NAMESPACE: &[Spec] = &[NAME, text("Status", Words("Whether the namespace is active or going away.")), AGE];

pub fn namespace(namespace: &View) -> Vec<Value> {
    vec![namespace.name(), namespace.text("/status/phase").into(), namespace.age()]
}

pub const COMPONENT_STATUS: &[Spec] = &[
    NAME,
    text("Status", Words("Whether the component is healthy.")),
    text("Message", Words("What the component says of itself.")),
    text("Error", Words("Why the component could not be asked.")),
];

pub fn component_status(component: &View) -> Vec<Value> {
    let healthy = component.items("/conditions").find(|condition| condition.text("/type") == "Healthy");
    let status = match healthy.as_ref().map(|condition| condition.text("/status")) {
        None => "Unknown",
        Some("True") => "Healthy",
        Some(_) => "Unhealthy",
    };
    let of = |pointer: &str| Value::from(healthy.as_ref().map_or("", |condition| condition.text(pointer)));
    vec![component.name(), status.into(), of("/message"), of("/error")]
}

pub const QUOTA: &[Spec] = &[
    NAME,
    text("Request", Words("What is requested, of what may be.")),
    text("Limit", Words("What limits add up to, of what they may.")),
    AGE,
];

pub fn quota(quota: &View) -> Vec<Value> {
    let mut requests = Vec::new();
    let mut limits = Vec::new();
    for (resource, hard) in quota.map("/status/hard").into_iter().flatten() {
        let used = quota.map("/status/used").and_then(|used| used.get(resource)).and_then(Value::as_str).unwrap_or("0");
        let text = format!("{resource}: {used}/{}", hard.as_str().unwrap_or_default());
        if resource.starts_with("limits.") { limits.push(text) } else { requests.push(text) }
    }
    vec![quota.name(), requests.join(", ").into(), limits.join(", ").into(), quota.age()]
}

pub const EVENT: &[Spec] = &[
    text("Last Seen", Field("core.v1.Event", "lastTimestamp")),
    text("Type", Field("core.v1.Event", "type")),
    text("Reason", Field("core.v1.Event", "reason")),
    text("Object", Field("core.v1.Event", "involvedObject")),
    wide("Subobject", Field("core.v1.ObjectReference", "fieldPath")),
    wide("Source", Field("core.v1.Event", "source")),
    text("Message", Field("core.v1.Event", "message")),
    wide("First Seen", Field("core.v1.Event", "firstTimestamp")),
    wide("Count", Field("core.v1.Event", "count")),
    Spec { priority: 1, ..NAME },
];

/// Both forms of an event: events.k8s.io has other names for the same fields.
pub fn event(event: &View) -> Vec<Value> {
    let either = |core: &str, newer: &str| event.text_or(core, event.text(newer)).to_owned();
    let object = |field: &str| either(&format!("/involvedObject/{field}"), &format!("/regarding/{field}"));
    let first = event.time("/firstTimestamp").or_else(|| event.time("/deprecatedFirstTimestamp"));
    let first = first.or_else(|| event.time("/eventTime"));
    let mut last = event.time("/lastTimestamp").or_else(|| event.time("/deprecatedLastTimestamp")).or(first);
    let mut count = event.int("/count").max(event.int("/deprecatedCount")).max(1);
    if event.has("/series") {
        last = event.time("/series/lastObservedTime");
        count = event.int("/series/count");
    }
    let age = |time: Option<_>| time.map_or_else(|| "<unknown>".to_owned(), |time| event.ago(time));
    let target = match (object("kind").to_lowercase(), object("name")) {
        (kind, name) if name.is_empty() => kind,
        (kind, name) => format!("{kind}/{name}"),
    };
    vec![
        age(last).into(),
        event.text("/type").into(),
        event.text("/reason").into(),
        target.into(),
        object("fieldPath").into(),
        event_source(event).into(),
        either("/message", "/note").trim().into(),
        age(first).into(),
        count.into(),
        event.name(),
    ]
}

fn event_source(event: &View) -> String {
    let first =
        |pointers: [&str; 4]| pointers.into_iter().map(|pointer| event.text(pointer)).find(|text| !text.is_empty());
    let component =
        first(["/source/component", "/deprecatedSource/component", "/reportingComponent", "/reportingController"]);
    let host = first(["/source/host", "/deprecatedSource/host", "/reportingInstance", "/reportingInstance"]);
    match (component.unwrap_or_default(), host) {
        (component, None) => component.to_owned(),
        (component, Some(host)) => format!("{component}, {host}"),
    }
}

pub const API_SERVICE: &[Spec] = &[
    NAME,
    text("Service", Words("The service that serves this group and version.")),
    text("Available", Words("Whether it can be reached.")),
    AGE,
];

pub fn api_service(service: &View) -> Vec<Value> {
    let served_by = match service.has("/spec/service") {
        true => format!("{}/{}", service.text("/spec/service/namespace"), service.text("/spec/service/name")),
        false => "Local".to_owned(),
    };
    let available = service.items("/status/conditions").find(|condition| condition.text("/type") == "Available");
    let available = match available {
        None => "Unknown".to_owned(),
        Some(condition) if condition.text("/status") == "True" => "True".to_owned(),
        Some(condition) => format!("{} ({})", condition.text("/status"), condition.text("/reason")),
    };
    vec![service.name(), served_by.into(), available.into(), service.age()]
}

pub const LEASE: &[Spec] = &[NAME, text("Holder", Field("coordination.v1.LeaseSpec", "holderIdentity")), AGE];

pub fn lease(lease: &View) -> Vec<Value> {
    vec![lease.name(), lease.text("/spec/holderIdentity").into(), lease.age()]
}

pub const RUNTIME_CLASS: &[Spec] = &[NAME, text("Handler", Field("node.v1.RuntimeClass", "handler")), AGE];

pub fn runtime_class(class: &View) -> Vec<Value> {
    vec![class.name(), class.text("/handler").into(), class.age()]
}

pub const PRIORITY_CLASS: &[Spec] = &[
    NAME,
    integer("Value", Field("scheduling.v1.PriorityClass", "value")),
    boolean("Global-Default", Field("scheduling.v1.PriorityClass", "globalDefault")),
    AGE,
    text("PreemptionPolicy", Field("scheduling.v1.PriorityClass", "preemptionPolicy")),
];

pub fn priority_class(class: &View) -> Vec<Value> {
    vec![
        class.name(),
        class.int("/value").into(),
        class.flag("/globalDefault").into(),
        class.age(),
        class.text("/preemptionPolicy").into(),
    ]
}

pub const FLOW_SCHEMA: &[Spec] = &[
    NAME,
    text("PriorityLevel", Field("flowcontrol.v1.PriorityLevelConfigurationReference", "name")),
    text("MatchingPrecedence", Field("flowcontrol.v1.FlowSchemaSpec", "matchingPrecedence")),
    text("DistinguisherMethod", Field("flowcontrol.v1.FlowSchemaSpec", "distinguisherMethod")),
    AGE,
    text("MissingPL", Words("Whether the priority level does not exist.")),
];

pub fn flow_schema(schema: &View) -> Vec<Value> {
    let missing = match schema.condition("Dangling") {
        "" => "?",
        status => status,
    };
    vec![
        schema.name(),
        schema.text("/spec/priorityLevelConfiguration/name").into(),
        schema.int("/spec/matchingPrecedence").into(),
        schema.text_or("/spec/distinguisherMethod/type", "<none>").into(),
        schema.age(),
        missing.into(),
    ]
}

pub const PRIORITY_LEVEL: &[Spec] = &[
    NAME,
    text("Type", Field("flowcontrol.v1.PriorityLevelConfigurationSpec", "type")),
    text(
        "NominalConcurrencyShares",
        Field("flowcontrol.v1.LimitedPriorityLevelConfiguration", "nominalConcurrencyShares"),
    ),
    text("Queues", Field("flowcontrol.v1.QueuingConfiguration", "queues")),
    text("HandSize", Field("flowcontrol.v1.QueuingConfiguration", "handSize")),
    text("QueueLengthLimit", Field("flowcontrol.v1.QueuingConfiguration", "queueLengthLimit")),
    AGE,
];

pub fn priority_level(level: &View) -> Vec<Value> {
    let number = |of: &str, field: &str| match level.has(of) {
        true => json!(level.int(&format!("{of}/{field}"))),
        false => json!("<none>"),
    };
    let queuing = "/spec/limited/limitResponse/queuing";
    vec![
        level.name(),
        level.text("/spec/type").into(),
        number("/spec/limited", "nominalConcurrencyShares"),
        number(queuing, "queues"),
        number(queuing, "handSize"),
        number(queuing, "queueLengthLimit"),
        level.age(),
    ]
}

pub const RESOURCE_CLAIM: &[Spec] =
    &[NAME, text("State", Words("Whether the claim is pending, allocated, reserved or deleted.")), AGE];

pub fn resource_claim(claim: &View) -> Vec<Value> {
    let allocated = claim.has("/status/allocation");
    let reserved = allocated && !claim.list("/status/reservedFor").is_empty();
    let states = [
        (claim.is_terminating(), "deleted"),
        (!allocated && !claim.is_terminating(), "pending"),
        (allocated, "allocated"),
        (reserved, "reserved"),
    ];
    let states: Vec<&str> = states.into_iter().filter_map(|(is, state)| is.then_some(state)).collect();
    vec![claim.name(), states.join(",").into(), claim.age()]
}

pub const RESOURCE_SLICE: &[Spec] = &[
    NAME,
    text("Node", Field("resource.v1.ResourceSliceSpec", "nodeName")),
    text("Driver", Field("resource.v1.ResourceSliceSpec", "driver")),
    text("Pool", Field("resource.v1.ResourcePool", "name")),
    AGE,
];

pub fn resource_slice(slice: &View) -> Vec<Value> {
    vec![
        slice.name(),
        slice.text("/spec/nodeName").into(),
        slice.text("/spec/driver").into(),
        slice.text("/spec/pool/name").into(),
        slice.age(),
    ]
}
