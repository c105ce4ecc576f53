//! endpoints: the older form in which a Service's pods are told, one object per Service.
//!
//! Source: kubernetes/pkg/controller/endpoint.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use api_types::{
    Object,
    k8s::{
        core::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service},
        meta::ObjectMeta,
    },
    resources,
};
use client::EventKind;

use crate::{
    action::{Action, Outcome},
    caches::BY_NAMESPACE,
    plan::{Plan, Turn, World},
    pods,
    reconcile::Controller,
    service_pods::{
        self, HEADLESS_LABEL, TRIGGER_TIME, addresses, hostname, is_headless, is_reachable, ports, publishes_not_ready,
        reference, selector, target_port, trigger_time,
    },
};

/// More would make the object too large; the rest is in the slices only.
const ADDRESSES_MAX: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");

pub static CONTROLLER: Controller = Controller {
    name: "endpoints-controller",
    resource: &resources::SERVICE,
    account: "endpoint-controller",
    component: "endpoint-controller",
    workers: 5,
    watch: |to, queue| {
        service_pods::watch(to, queue);
        let wake = queue.clone();
        to.endpoints.push(Box::new(move |_, change| wake.add(change.object().key())));
    },
    watch_everything: None,
    decide: |world, turn| plan(&view(world, turn)),
};

struct View {
    service: Option<Arc<Service>>,
    endpoints: Option<Arc<Endpoints>>,
    pods: Vec<Arc<Pod>>,
}

fn view(world: &World<'_>, turn: &Turn<'_>) -> View {
    let service = world.caches.services.get(turn.key);
    let selector = service.as_deref().and_then(selector);
    let pods = selector.map(|selector| {
        let all = world.caches.pods.by_index(BY_NAMESPACE, &turn.key.namespace);
        all.into_iter().filter(|pod| selector.matches(&pod.metadata.labels)).collect()
    });
    View { service, endpoints: world.caches.endpoints.get(turn.key), pods: pods.unwrap_or_default() }
}

fn plan(view: &View) -> Plan {
    let Some(service) = view.service.as_deref() else {
        let Some(left) = view.endpoints.as_deref() else { return Plan::default() };
        // Others, such as leader elections of old, keep Endpoints without a Service.
        if left.label(MANAGED_BY.0) != Some(MANAGED_BY.1) {
            return Plan::default();
        }
        return Plan { actions: vec![Action::delete(left, "its Service is gone")], ..Plan::default() };
    };
    if selector(service).is_none() {
        return Plan::nothing("NoSelector", "a Service without a selector has its Endpoints from somebody else");
    }
    let mut next = view.endpoints.as_deref().cloned().unwrap_or_else(|| named_as(service));
    let mut subsets = pack(facts(service, &view.pods));
    let labels = labels(service);
    let is_cut = cut(&mut subsets);
    let was_cut = next.annotation(OVER_CAPACITY).is_some();
    let same_subsets = next.subsets.clone().unwrap_or_default() == subsets;
    if view.endpoints.is_some() && same_subsets && next.metadata.labels.as_ref() == Some(&labels) && is_cut == was_cut {
        return Plan::nothing("EndpointsCurrent", format!("{} subsets are as the pods are", subsets.len()));
    }
    next.subsets = (!subsets.is_empty()).then_some(subsets);
    next.metadata.labels = Some(labels);
    annotate(&mut next, service, &view.pods, is_cut);
    let why = "the pods of its Service have changed";
    let action = match &view.endpoints {
        None => Action::create(&next, why).tell(
            Outcome::Refused,
            service,
            EventKind::Warning,
            "FailedToCreateEndpoint",
            format!("Failed to create endpoint for service {}: {{error}}", service.key()),
        ),
        Some(_) => Action::update(&next, why).tell(
            Outcome::Refused,
            &next,
            EventKind::Warning,
            "FailedToUpdateEndpoint",
            format!("Failed to update endpoint {}: {{error}}", service.key()),
        ),
    };
    Plan { actions: vec![action], ..Plan::default() }
}

fn named_as(service: &Service) -> Endpoints {
    let metadata = ObjectMeta {
        name: service.metadata.name.clone(),
        namespace: service.metadata.namespace.clone(),
        ..ObjectMeta::default()
    };
    Endpoints { metadata, subsets: None }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    if is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    labels
}

fn annotate(endpoints: &mut Endpoints, service: &Service, pods: &[Arc<Pod>], is_cut: bool) {
    let annotations = endpoints.metadata.annotations.get_or_insert_default();
    annotations.remove(OVER_CAPACITY);
    if is_cut {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
    if let Some(at) = trigger_time(service, pods.iter().map(|pod| &**pod)) {
        annotations.insert(TRIGGER_TIME.to_owned(), at.to_string());
    }
    if annotations.is_empty() {
        endpoints.metadata.annotations = None;
    }
}

/// An address behind one port.
struct Fact {
    port: Option<EndpointPort>,
    address: EndpointAddress,
    ready: bool,
}

fn facts(service: &Service, pods: &[Arc<Pod>]) -> Vec<Fact> {
    let publish = publishes_not_ready(service);
    let mut facts = Vec::new();
    for pod in pods.iter().filter(|pod| is_reachable(pod) && (publish || !pod.is_terminating())) {
        let Some(address) = address(service, pod) else { continue };
        let ready = publish || pods::is_ready(pod);
        let fact = |port| Fact { port, address: address.clone(), ready };
        if ports(service).is_empty() {
            facts.push(fact(None));
        }
        facts.extend(ports(service).iter().filter_map(|port| {
            let number = target_port(pod, port)?;
            Some(fact(Some(EndpointPort {
                name: port.name.clone(),
                port: number,
                protocol: port.protocol.clone(),
                app_protocol: port.app_protocol.clone(),
            })))
        }));
    }
    facts
}

/// The pod's address of the Service's first IP family.
fn address(service: &Service, pod: &Pod) -> Option<EndpointAddress> {
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.as_ref());
    let wants_v6 = families.and_then(|families| families.first()).map(|family| family == "IPv6");
    let all = addresses(pod);
    let ip = all.iter().find(|ip| wants_v6.is_none_or(|wants_v6| ip.contains(':') == wants_v6))?;
    Some(EndpointAddress {
        ip: (*ip).to_owned(),
        hostname: hostname(pod, service),
        node_name: Some(pods::node_name(pod).to_owned()).filter(|node| !node.is_empty()),
        target_ref: Some(reference(pod)),
    })
}

/// Orders what has no order: addresses and ports.
type AddressKey = (String, String);
/// With whether each is ready.
type Addresses = BTreeSet<(AddressKey, bool)>;
type PortKey = Option<(String, i32, String)>;

/// Ports that lead to the same addresses share a subset.
///
/// Source: `RepackSubsets` in kubernetes/pkg/api/v1/endpoints.
fn pack(facts: Vec<Fact>) -> Vec<EndpointSubset> {
    let mut known: BTreeMap<AddressKey, EndpointAddress> = BTreeMap::new();
    let mut by_port: BTreeMap<PortKey, (Option<EndpointPort>, Addresses)> = BTreeMap::new();
    for Fact { port, address, ready } in facts {
        let uid = address.target_ref.as_ref().and_then(|pod| pod.uid.clone()).unwrap_or_default();
        let key = (address.ip.clone(), uid);
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let port_key = port.as_ref().map(|port| (text(&port.name), port.port, text(&port.protocol)));
        by_port.entry(port_key).or_insert_with(|| (port, BTreeSet::new())).1.insert((key.clone(), ready));
        known.insert(key, address);
    }
    let mut by_addresses: BTreeMap<Addresses, Vec<EndpointPort>> = BTreeMap::new();
    for (port, addresses) in by_port.into_values() {
        by_addresses.entry(addresses).or_default().extend(port);
    }
    let subset = |(keys, ports): (Addresses, Vec<EndpointPort>)| {
        let of = |wanted: bool| {
            let keys = keys.iter().filter(|(_, ready)| *ready == wanted);
            let found: Vec<EndpointAddress> = keys.map(|(key, _)| known[key].clone()).collect();
            (!found.is_empty()).then_some(found)
        };
        EndpointSubset {
            addresses: of(true),
            not_ready_addresses: of(false),
            ports: (!ports.is_empty()).then_some(ports),
        }
    };
    by_addresses.into_iter().map(subset).collect()
}

/// Cuts to what an object may hold; tells whether anything was cut off. Ready addresses stay longest.
fn cut(subsets: &mut [EndpointSubset]) -> bool {
    let mut room = ADDRESSES_MAX;
    let mut is_cut = false;
    let mut keep = |addresses: &mut Option<Vec<EndpointAddress>>| {
        if let Some(all) = addresses {
            is_cut |= all.len() > room;
            all.truncate(room);
            room -= all.len();
        }
    };
    subsets.iter_mut().for_each(|subset| keep(&mut subset.addresses));
    subsets.iter_mut().for_each(|subset| keep(&mut subset.not_ready_addresses));
    is_cut
}

#[cfg(test)]
mod tests {
    use api_types::k8s::{
        IntOrString,
        core::{PodIP, ServicePort, ServiceSpec},
    };

    use super::*;
    use crate::{action::Write, pods::words};

    fn service(ports: &[(&str, i32)], spec: ServiceSpec) -> Service {
        let port = |(name, number): &(&str, i32)| ServicePort {
            name: Some((*name).to_owned()),
            port: *number,
            target_port: Some(IntOrString::Int(*number)),
            protocol: Some("TCP".to_owned()),
            ..ServicePort::default()
        };
        let metadata = ObjectMeta { name: Some("web".into()), namespace: Some("ns".into()), ..ObjectMeta::default() };
        let spec = ServiceSpec {
            ports: Some(ports.iter().map(port).collect()),
            selector: spec.selector.clone().or(Some([("app".to_owned(), "web".to_owned())].into())),
            ..spec
        };
        Service { metadata, spec: Some(spec), status: None }
    }

    /// Gives the subsets as `ready|unready:ports`, or `nothing`.
    fn check(service: Service, pods: &str, expected: &str) {
        let pods = pods.split_whitespace().zip(1..).map(|(word, number)| {
            let mut pod = words::pod(word);
            let status = pod.status.as_mut().unwrap();
            status.pod_ips = Some(vec![PodIP { ip: format!("10.0.0.{number}") }]);
            Arc::new(pod)
        });
        let plan = plan(&View { service: Some(Arc::new(service)), endpoints: None, pods: pods.collect() });
        let Some(action) = plan.actions.first() else { return assert_eq!("nothing", expected) };
        let Write::Create(object) = &action.write else { panic!("not created") };
        let list = |value: &serde_json::Value, name: &str| {
            let all = value.as_array().into_iter().flatten();
            let words = all.map(|it| it[name].as_str().map_or_else(|| it[name].to_string(), |ip| ip[7..].to_owned()));
            words.collect::<Vec<_>>().join(",")
        };
        let subsets = object["subsets"].as_array().into_iter().flatten().map(|subset| {
            let (ready, unready) = (list(&subset["addresses"], "ip"), list(&subset["notReadyAddresses"], "ip"));
            format!("{ready}|{unready}:{}", list(&subset["ports"], "port"))
        });
        assert_eq!(subsets.collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn ready_and_unready_pods_stand_apart() {
        check(service(&[("http", 80), ("admin", 81)], ServiceSpec::default()), "a b:u c", "1,3|2:81,80");
    }
    #[test]
    fn terminating_and_finished_pods_are_out() {
        check(service(&[("http", 80)], ServiceSpec::default()), "a:t b:s c", "3|:80");
    }
    #[test]
    fn not_ready_may_be_published() {
        let spec = ServiceSpec { publish_not_ready_addresses: Some(true), ..ServiceSpec::default() };
        check(service(&[("http", 80)], spec), "a:t b:u", "1,2|:80");
    }
    #[test]
    fn headless_services_need_no_ports() {
        let spec = ServiceSpec { cluster_ip: Some("None".into()), ..ServiceSpec::default() };
        check(service(&[], spec), "a", "1|:");
    }
    #[test]
    fn without_a_selector_nothing_is_done() {
        let spec = ServiceSpec { selector: Some(BTreeMap::new()), ..ServiceSpec::default() };
        check(service(&[("http", 80)], spec), "a", "nothing");
    }
    #[test]
    fn without_pods_the_object_exists_all_the_same() {
        check(service(&[("http", 80)], ServiceSpec::default()), "", "");
    }
}
