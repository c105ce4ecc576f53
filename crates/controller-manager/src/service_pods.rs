//! What a Service takes from its pods: which belong to it, by which ports and addresses they are
//! reached, and since when. Shared by Endpoints and EndpointSlices.
//!
//! Source: kubernetes/pkg/controller/util/endpoint and pkg/api/v1/pod.

use api_types::{
    Key, Object,
    jiff::Timestamp,
    k8s::{
        IntOrString,
        core::{Container, ObjectReference, Pod, Service, ServicePort},
    },
    labels::Selector,
};
use client::{Change, Queue};

use crate::{
    caches::{BY_NAMESPACE, Caches, Subscriptions},
    pods,
};

/// Told to consumers that measure how long a change takes.
pub const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Set on what belongs to a Service without an address of its own.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// Wakes the services themselves and those that select, or selected, a pod that changed.
pub fn watch(to: &mut Subscriptions, queue: &Queue<Key>) {
    let wake = queue.clone();
    to.services.push(Box::new(move |_, change| wake.add(change.object().key())));
    let wake = queue.clone();
    to.pods.push(Box::new(move |caches, change| {
        if is_relevant(change) {
            for pod in [change.old(), Some(change.object())].into_iter().flatten() {
                selecting(caches, pod).for_each(|key| wake.add(key));
            }
        }
    }));
}

/// Most changes of a pod's status concern neither its addresses nor its readiness.
fn is_relevant(change: &Change<Pod>) -> bool {
    let Change::Updated { old, new } = change else { return true };
    let facts = |pod: &Pod| {
        let ips = pod.status.as_ref().map(|status| (status.pod_ip.clone(), status.pod_ips.clone()));
        let node = pods::node_name(pod).to_owned();
        (ips, pods::is_ready(pod), pods::is_finished(pod), pod.is_terminating(), pod.metadata.labels.clone(), node)
    };
    facts(old) != facts(new)
}

fn selecting(caches: &Caches, pod: &Pod) -> impl Iterator<Item = Key> {
    let labels = pod.metadata.labels.clone();
    let services = caches.services.by_index(BY_NAMESPACE, pod.namespace());
    services
        .into_iter()
        .filter(move |service| selector(service).is_some_and(|selector| selector.matches(&labels)))
        .map(|service| service.key())
}

/// `None`: somebody else says where the Service leads.
pub fn selector(service: &Service) -> Option<Selector> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector.as_ref().filter(|selector| !selector.is_empty()).map(Selector::from)
}

pub fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

pub fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
}

pub fn ports(service: &Service) -> &[ServicePort] {
    service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default()
}

/// Pods that have an address and have not ended.
pub fn is_reachable(pod: &Pod) -> bool {
    !pods::is_finished(pod) && !addresses(pod).is_empty()
}

pub fn addresses(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all = status.pod_ips.iter().flatten().map(|address| address.ip.as_str());
    match status.pod_ip.as_deref() {
        Some(first) if status.pod_ips.as_ref().is_none_or(Vec::is_empty) => vec![first],
        _ => all.collect(),
    }
    .into_iter()
    .filter(|address| !address.is_empty())
    .collect()
}

/// The number of the port of `pod` that a service port leads to; `None`: the pod names no such port.
pub fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match port.target_port.as_ref() {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            spec.containers.iter().chain(sidecars).find_map(|container| named_port(container, name, protocol))
        }
    }
}

fn named_port(container: &Container, name: &str, protocol: &str) -> Option<i32> {
    let mut ports = container.ports.iter().flatten();
    let is_it = |port: &&api_types::k8s::core::ContainerPort| {
        port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    };
    ports.find(is_it).map(|port| port.container_port)
}

/// The pod's own name within a service of its subdomain.
pub fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let in_subdomain = spec.subdomain.as_deref() == Some(service.name());
    spec.hostname.clone().filter(|name| in_subdomain && !name.is_empty())
}

pub fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.namespace().to_owned()),
        name: Some(pod.name().to_owned()),
        uid: Some(pod.uid().to_owned()),
        ..ObjectReference::default()
    }
}

/// When the newest thing happened that the endpoints of a Service depend on.
pub fn trigger_time<'a>(service: &Service, pods: impl IntoIterator<Item = &'a Pod>) -> Option<Timestamp> {
    let of_pods = pods.into_iter().filter_map(|pod| pods::condition(pod, "Ready")?.last_transition_time.as_ref());
    of_pods.chain(service.metadata.creation_timestamp.as_ref()).map(|time| time.0).max()
}

#[cfg(test)]
mod tests {
    use api_types::k8s::core::{ContainerPort, PodSpec};

    use super::*;

    fn check(target: Option<IntOrString>, protocol: &str, expected: Option<i32>) {
        let named = |name: &str, number: i32, protocol: &str| ContainerPort {
            name: Some(name.to_owned()),
            container_port: number,
            protocol: Some(protocol.to_owned()),
            ..ContainerPort::default()
        };
        let ports = vec![named("dns", 5353, "TCP"), named("dns", 5354, "UDP")];
        let container = Container { ports: Some(ports), ..Container::default() };
        let pod = Pod { spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }), ..Pod::default() };
        let port = ServicePort {
            port: 53,
            target_port: target,
            protocol: Some(protocol.to_owned()),
            ..ServicePort::default()
        };
        assert_eq!(target_port(&pod, &port), expected);
    }

    #[test]
    fn target_ports_by_number_and_name() {
        let name = |name: &str| Some(IntOrString::String(name.to_owned()));
        check(None, "TCP", Some(53));
        check(Some(IntOrString::Int(8080)), "TCP", Some(8080));
        check(name("dns"), "TCP", Some(5353));
        check(name("dns"), "UDP", Some(5354));
        check(name("web"), "TCP", None);
    }
}
