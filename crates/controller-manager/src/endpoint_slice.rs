//! endpointslice: the pods behind a Service, in slices of bounded size, so that one change costs
//! one small object.
//!
//! Source: kubernetes/staging/src/k8s.io/endpointslice.

mod mirror;
mod pack;

use std::{collections::BTreeMap, sync::Arc};

use api_types::{
    Key, Object,
    k8s::{
        core::{Node, Pod, Service},
        discovery::{Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone},
        meta::ObjectMeta,
    },
    resources,
};

use client::EventKind;

use crate::{
    action::{Action, Outcome},
    caches::{BY_NAMESPACE, BY_NODE, BY_SERVICE, SERVICE_NAME_LABEL},
    owners::controller_reference,
    plan::{Plan, Turn, World},
    pods,
    reconcile::Controller,
    service_pods::{
        self, HEADLESS_LABEL, addresses, hostname, is_headless, is_reachable, ports, publishes_not_ready, reference,
        selector, target_port, trigger_time,
    },
};
use pack::Wanted;

pub use mirror::CONTROLLER as MIRRORING;

pub const MANAGED_BY: (&str, &str) = ("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io");
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

pub static CONTROLLER: Controller = Controller {
    name: "endpointslice-controller",
    resource: &resources::SERVICE,
    account: "endpointslice-controller",
    component: "endpoint-slice-controller",
    workers: 5,
    watch: |to, queue| {
        service_pods::watch(to, queue);
        let wake = queue.clone();
        to.slices.push(Box::new(move |_, change| {
            let slice = change.object();
            if let Some(service) = slice.label(SERVICE_NAME_LABEL) {
                wake.add(Key::new(slice.namespace(), service));
            }
        }));
        // Endpoints of a node that is not known, or whose zone changes, wait for it.
        let wake = queue.clone();
        to.nodes.push(Box::new(move |caches, change| {
            let zone = |node: &Arc<Node>| node.label(ZONE_LABEL).map(str::to_owned);
            if change.old().map(zone) == Some(zone(change.object())) {
                return;
            }
            for pod in caches.pods.by_index(BY_NODE, change.object().name()) {
                for service in caches.services.by_index(BY_NAMESPACE, pod.namespace()) {
                    if selector(&service).is_some_and(|selector| selector.matches(&pod.metadata.labels)) {
                        wake.add(service.key());
                    }
                }
            }
        }));
    },
    watch_everything: None,
    decide: |world, turn| plan(&view(world, turn)),
};

struct View {
    service: Option<Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
    /// With the node that each is on, if that is known.
    pods: Vec<(Arc<Pod>, Option<Arc<Node>>)>,
}

fn view(world: &World<'_>, turn: &Turn<'_>) -> View {
    let caches = world.caches;
    let service = caches.services.get(turn.key);
    let selector = service.as_deref().and_then(selector);
    let with_node = |pod: Arc<Pod>| {
        let node = caches.nodes.get(&Key::cluster(pods::node_name(&pod)));
        (pod, node)
    };
    let pods = selector.map(|selector| {
        let all = caches.pods.by_index(BY_NAMESPACE, &turn.key.namespace).into_iter();
        all.filter(|pod| selector.matches(&pod.metadata.labels)).map(with_node).collect()
    });
    let slices = caches.slices.by_index(BY_SERVICE, &turn.key.to_string()).into_iter();
    let ours = |slice: &Arc<EndpointSlice>| {
        slice.label(MANAGED_BY.0) == Some(MANAGED_BY.1) && !turn.deleting.contains(slice.uid())
    };
    View { service, slices: slices.filter(ours).collect(), pods: pods.unwrap_or_default() }
}

fn plan(view: &View) -> Plan {
    let Some(service) = view.service.as_deref() else {
        // The owner reference does it as well; this way it does not wait for that.
        let gone = view.slices.iter().map(|slice| Action::delete(&**slice, "its Service is gone"));
        return Plan { actions: gone.collect(), ..Plan::default() };
    };
    if selector(service).is_none() {
        return Plan::nothing("NoSelector", "a Service without a selector has its slices from somebody else");
    }
    if service.is_terminating() {
        return Plan::nothing("Terminating", "the Service is being deleted, so its slices are left as they are");
    }
    let kinds = address_types(service, &view.pods);
    let mut plan = Plan::default();
    let at = trigger_time(service, view.pods.iter().map(|(pod, _)| &**pod));
    for kind in &kinds {
        let have: Vec<&EndpointSlice> =
            view.slices.iter().map(|slice| &**slice).filter(|slice| slice.address_type == *kind).collect();
        let groups = groups(service, &view.pods, kind);
        let wanted = Wanted { model: model(service, kind), keeps_one: true, groups };
        let writes = pack::pack(&have, wanted, at).into_iter();
        plan.actions.extend(writes.map(|action| tell(action, service)));
    }
    let stale = view.slices.iter().filter(|slice| !kinds.contains(&slice.address_type));
    plan.actions.extend(stale.map(|slice| Action::delete(&**slice, "the Service is not of this IP family any more")));
    if plan.actions.is_empty() {
        plan.because("SlicesCurrent", format!("{} slices are as the pods are", view.slices.len()));
    }
    plan
}

/// A slice without endpoints that belongs to `service`.
fn model(service: &Service, address_type: &str) -> EndpointSlice {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    if is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME_LABEL.to_owned(), service.name().to_owned());
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.name())),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![controller_reference(service)]),
            ..ObjectMeta::default()
        },
        address_type: address_type.to_owned(),
        endpoints: Some(Vec::new()),
        ..EndpointSlice::default()
    }
}

fn tell(action: Action, service: &Service) -> Action {
    let message = format!("Error updating Endpoint Slices for Service {}: {{error}}", service.key());
    action.tell(Outcome::Refused, service, EventKind::Warning, "FailedToUpdateEndpointSlices", message)
}

fn address_types(service: &Service, pods: &[(Arc<Pod>, Option<Arc<Node>>)]) -> Vec<String> {
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.clone()).unwrap_or_default();
    if !families.is_empty() {
        return families;
    }
    let first = pods.iter().find_map(|(pod, _)| addresses(pod).first().map(|ip| ip.contains(':')));
    vec![if first == Some(true) { "IPv6" } else { "IPv4" }.to_owned()]
}

/// Endpoints by the ports that lead to them.
fn groups(
    service: &Service,
    pods: &[(Arc<Pod>, Option<Arc<Node>>)],
    address_type: &str,
) -> Vec<(Vec<EndpointPort>, Vec<Endpoint>)> {
    let mut groups: BTreeMap<String, (Vec<EndpointPort>, Vec<Endpoint>)> = BTreeMap::new();
    for (pod, node) in pods.iter().filter(|(pod, _)| is_reachable(pod)) {
        let is_bound = !pods::node_name(pod).is_empty();
        if is_bound && node.is_none() && !publishes_not_ready(service) {
            continue;
        }
        let Some(endpoint) = endpoint(service, pod, node.as_deref(), address_type) else { continue };
        let Some(ports) = endpoint_ports(service, pod) else { continue };
        let key = pack::port_key(&ports);
        groups.entry(key).or_insert_with(|| (ports, Vec::new())).1.push(endpoint);
    }
    groups.into_values().collect()
}

/// `None`: there are ports, but none that the pod has.
fn endpoint_ports(service: &Service, pod: &Pod) -> Option<Vec<EndpointPort>> {
    if ports(service).is_empty() {
        return is_headless(service).then(Vec::new);
    }
    let found = ports(service).iter().filter_map(|port| {
        Some(EndpointPort {
            // Present even where it is empty, as upstream has it.
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(target_port(pod, port)?),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            app_protocol: port.app_protocol.clone(),
        })
    });
    Some(found.collect())
}

fn endpoint(service: &Service, pod: &Pod, node: Option<&Node>, address_type: &str) -> Option<Endpoint> {
    let of_family = |ip: &&str| ip.contains(':') == (address_type == "IPv6");
    let addresses: Vec<String> = addresses(pod).into_iter().filter(of_family).map(str::to_owned).collect();
    if addresses.is_empty() {
        return None;
    }
    let (serving, terminating) = (pods::is_ready(pod), pod.is_terminating());
    let ready = publishes_not_ready(service) || (serving && !terminating);
    let zone = node.and_then(|node| node.label(ZONE_LABEL)).map(str::to_owned);
    let node_name = Some(pods::node_name(pod).to_owned()).filter(|name| !name.is_empty());
    Some(Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(pod, service),
        hints: if ready { hints(service, zone.as_deref(), node_name.as_deref()) } else { None },
        node_name,
        target_ref: Some(reference(pod)),
        zone,
        ..Endpoint::default()
    })
}

/// Where `spec.trafficDistribution` wants the endpoint used.
fn hints(service: &Service, zone: Option<&str>, node: Option<&str>) -> Option<EndpointHints> {
    let distribution = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    let for_zones = || Some(vec![ForZone { name: zone?.to_owned() }]);
    let for_nodes = || Some(vec![ForNode { name: node?.to_owned() }]);
    match distribution {
        "PreferClose" | "PreferSameZone" => Some(EndpointHints { for_zones: Some(for_zones()?), for_nodes: None }),
        "PreferSameNode" => Some(EndpointHints { for_zones: for_zones(), for_nodes: Some(for_nodes()?) }),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
