//! What a Service asks of the packets of a node: at which addresses it answers, which
//! endpoints get a connection, whose source address has to be hidden. Pure.
//!
//! Source: pkg/proxy/topology.go, pkg/proxy/nftables/proxier.go.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use api_types::{
    Object,
    k8s::{
        core::{Service, ServicePort, ServiceSpec},
        discovery::{Endpoint, EndpointSlice},
    },
};

/// Sessions stay with their endpoint for so long unless the Service says otherwise.
const AFFINITY_DEFAULT_S: i32 = 3 * 60 * 60;
/// Names the proxy that is to serve a Service, where it is not this one.
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    fn read(text: Option<&str>) -> Option<Self> {
        match text.unwrap_or("TCP") {
            "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            _ => None,
        }
    }
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

/// Where a Service answers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum At {
    Address {
        ip: IpAddr,
        protocol: Protocol,
        port: u16,
    },
    /// On every address of the node but loopback.
    NodePort {
        protocol: Protocol,
        port: u16,
    },
}

impl At {
    pub fn protocol(&self) -> Protocol {
        match self {
            At::Address { protocol, .. } | At::NodePort { protocol, .. } => *protocol,
        }
    }
}

/// How a connection got to the node, and with it whose source address is hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The cluster's own address: hidden for clients outside the pod network.
    Cluster,
    /// From outside, to endpoints on any node: hidden, so that answers come back this way.
    External,
    /// From outside, to endpoints of this node only: kept.
    Local,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Balance {
        endpoints: Vec<SocketAddr>,
        /// Who is inside (pods, the node itself) goes to these instead; only with [`Scope::Local`].
        inside: Option<Vec<SocketAddr>>,
    },
    /// No endpoint anywhere: the client is told at once.
    Reject,
    /// No endpoint on this node, and only such are wanted.
    Drop,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    pub at: At,
    pub scope: Scope,
    pub fate: Fate,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balanced {
    /// `namespace/name:port`, unique.
    pub name: String,
    pub frontends: Vec<Frontend>,
    /// Session affinity by client address, for so many seconds.
    pub affinity_s: Option<u32>,
}

/// All that a Service asks for in one address family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub ports: Vec<Balanced>,
    /// Cluster addresses: other ports of them are refused.
    pub addresses: BTreeSet<IpAddr>,
    /// Endpoints on this node: they may reach themselves through the Service.
    pub local_endpoints: BTreeSet<IpAddr>,
    /// A port on which a load balancer asks whether this node has endpoints.
    pub health: Option<Health>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    pub port: u16,
    pub local_endpoints: usize,
}

/// Works out one Service. `node` is this node's name.
pub fn wanted(service: &Service, slices: &[Arc<EndpointSlice>], node: &str, family: Family) -> Wanted {
    let Some(spec) = service.spec.as_ref().filter(|spec| is_ours(service, spec)) else { return Wanted::default() };
    let cluster_ips: Vec<IpAddr> = addresses(spec.cluster_ips.iter().flatten(), family);
    let single: Vec<IpAddr> = addresses(spec.cluster_ip.iter(), family);
    let cluster_ips = if cluster_ips.is_empty() { single } else { cluster_ips };
    if cluster_ips.is_empty() {
        return Wanted::default();
    }
    let mut wanted = Wanted { addresses: cluster_ips.iter().copied().collect(), ..Wanted::default() };
    let mut local = BTreeSet::new();
    for port in spec.ports.iter().flatten() {
        let (Some(protocol), Ok(number)) = (Protocol::read(port.protocol.as_deref()), u16::try_from(port.port)) else {
            continue;
        };
        let backends = Backends::read(slices, port, node, family);
        local.extend(backends.on_node.iter().map(SocketAddr::ip));
        let mut frontends = Vec::new();
        for ip in &cluster_ips {
            let at = At::Address { ip: *ip, protocol, port: number };
            let fate = backends.fate(is_local(spec.internal_traffic_policy.as_deref()), false);
            frontends.push(Frontend { at, scope: Scope::Cluster, fate });
        }
        let external_local = is_local(spec.external_traffic_policy.as_deref());
        for at in external(service, spec, port, protocol, family) {
            let scope = if external_local { Scope::Local } else { Scope::External };
            frontends.push(Frontend { at, scope, fate: backends.fate(external_local, true) });
        }
        let port_name = port.name.as_deref().unwrap_or_default();
        wanted.ports.push(Balanced {
            name: format!("{}:{port_name}/{}", service.key(), protocol.name()),
            frontends,
            affinity_s: affinity(spec),
        });
    }
    if let Some(port) = health_port(spec) {
        wanted.health = Some(Health { port, local_endpoints: local.len() });
    }
    wanted.local_endpoints = local;
    wanted
}

fn is_ours(service: &Service, spec: &ServiceSpec) -> bool {
    service.label(PROXY_NAME_LABEL).is_none() && spec.type_.as_deref() != Some("ExternalName")
}

fn is_local(policy: Option<&str>) -> bool {
    policy == Some("Local")
}

/// Those that parse and are of the family; `None` of a headless Service does not parse.
fn addresses<'a>(texts: impl Iterator<Item = &'a String>, family: Family) -> Vec<IpAddr> {
    texts.filter_map(|text| text.parse().ok()).filter(|ip| Family::of(*ip) == family).collect()
}

/// External and load balancer addresses, and the node port.
fn external(service: &Service, spec: &ServiceSpec, port: &ServicePort, protocol: Protocol, family: Family) -> Vec<At> {
    let Ok(number) = u16::try_from(port.port) else { return Vec::new() };
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    // A balancer in proxy mode keeps the packets for itself.
    let ingress =
        ingress.filter(|point| point.ip_mode.as_deref() != Some("Proxy")).filter_map(|point| point.ip.as_ref());
    let ips = addresses(spec.external_ips.iter().flatten().chain(ingress), family);
    let mut all: Vec<At> = ips.into_iter().map(|ip| At::Address { ip, protocol, port: number }).collect();
    all.sort();
    all.dedup();
    let node_port = port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    all.extend(node_port.map(|port| At::NodePort { protocol, port }));
    all
}

fn affinity(spec: &ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let client = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = client.and_then(|client| client.timeout_seconds).unwrap_or(AFFINITY_DEFAULT_S);
    u32::try_from(seconds).ok().filter(|seconds| *seconds > 0)
}

fn health_port(spec: &ServiceSpec) -> Option<u16> {
    let wants = spec.type_.as_deref() == Some("LoadBalancer") && is_local(spec.external_traffic_policy.as_deref());
    let port = u16::try_from(spec.health_check_node_port.filter(|_| wants)?).ok()?;
    (port != 0).then_some(port)
}

/// Endpoints of one Service port that can take connections, by where they are.
struct Backends {
    anywhere: Vec<SocketAddr>,
    on_node: Vec<SocketAddr>,
}

impl Backends {
    /// Ready endpoints; where there are none, those that end but still serve.
    fn read(slices: &[Arc<EndpointSlice>], port: &ServicePort, node: &str, family: Family) -> Self {
        let mut ready = Self { anywhere: Vec::new(), on_node: Vec::new() };
        let mut ending = Self { anywhere: Vec::new(), on_node: Vec::new() };
        for slice in slices {
            let Some(number) = target_port(slice, port) else { continue };
            for endpoint in slice.endpoints.iter().flatten() {
                let address = endpoint.addresses.first().and_then(|text| text.parse::<IpAddr>().ok());
                let Some(ip) = address.filter(|ip| Family::of(*ip) == family) else { continue };
                let target = SocketAddr::new(ip, number);
                let of = match state(endpoint) {
                    State::Ready => &mut ready,
                    State::Ending => &mut ending,
                    State::Out => continue,
                };
                of.anywhere.push(target);
                if endpoint.node_name.as_deref() == Some(node) {
                    of.on_node.push(target);
                }
            }
        }
        let choose = |ready: Vec<SocketAddr>, ending: Vec<SocketAddr>| {
            let mut chosen = if ready.is_empty() { ending } else { ready };
            chosen.sort_unstable();
            chosen.dedup();
            chosen
        };
        Self { anywhere: choose(ready.anywhere, ending.anywhere), on_node: choose(ready.on_node, ending.on_node) }
    }

    /// `local`: only endpoints of this node. `shortcut`: who is inside may go anywhere nevertheless.
    fn fate(&self, local: bool, shortcut: bool) -> Fate {
        let inside = (local && shortcut && !self.anywhere.is_empty()).then(|| self.anywhere.clone());
        match (self.anywhere.is_empty(), local, self.on_node.is_empty()) {
            (true, _, _) => Fate::Reject,
            (false, false, _) => Fate::Balance { endpoints: self.anywhere.clone(), inside: None },
            (false, true, false) => Fate::Balance { endpoints: self.on_node.clone(), inside },
            (false, true, true) if inside.is_some() => Fate::Balance { endpoints: Vec::new(), inside },
            (false, true, true) => Fate::Drop,
        }
    }
}

enum State {
    Ready,
    Ending,
    Out,
}

/// Unset conditions mean ready, as old controllers do not write them.
fn state(endpoint: &Endpoint) -> State {
    let Some(conditions) = &endpoint.conditions else { return State::Ready };
    let serving = conditions.serving.or(conditions.ready).unwrap_or(true);
    match (conditions.ready.unwrap_or(true), serving, conditions.terminating.unwrap_or_default()) {
        (true, _, _) => State::Ready,
        (false, true, true) => State::Ending,
        (false, _, _) => State::Out,
    }
}

/// The slice's number for the Service's port: found by name.
fn target_port(slice: &EndpointSlice, port: &ServicePort) -> Option<u16> {
    let name = port.name.as_deref().unwrap_or_default();
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let mut ports = slice.ports.iter().flatten();
    let found = ports.find(|candidate| {
        candidate.name.as_deref().unwrap_or_default() == name
            && candidate.protocol.as_deref().unwrap_or("TCP") == protocol
    });
    found?.port.and_then(|number| u16::try_from(number).ok())
}

#[cfg(test)]
pub mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A Service `ns/web` with port 80 and `spec` laid over.
    pub fn service(spec: Value) -> Service {
        let mut full = json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ports": [{"port": 80}]});
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "web"}, "spec": full})).unwrap()
    }

    /// Endpoints on port 8080, as `ip[@node][!state]`; node `n` is this one, states are `unready` and `ending`.
    pub fn slices(text: &str) -> Vec<Arc<EndpointSlice>> {
        let endpoint = |word: &str| {
            let (place, state) = word.split_once('!').unwrap_or((word, "ready"));
            let (ip, node) = place.split_once('@').unwrap_or((place, "other"));
            let ending = state == "ending";
            let conditions = json!({"ready": state == "ready", "serving": state != "unready", "terminating": ending});
            json!({"addresses": [ip], "nodeName": node, "conditions": conditions})
        };
        let endpoints: Vec<Value> = text.split_whitespace().map(endpoint).collect();
        let slice = json!({"addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "", "port": 8080, "protocol": "TCP"}]});
        vec![Arc::new(serde_json::from_value(slice).unwrap())]
    }

    fn show(fate: &Fate) -> String {
        let list = |all: &[SocketAddr]| all.iter().map(|one| one.ip().to_string()).collect::<Vec<_>>().join(" ");
        match fate {
            Fate::Balance { endpoints, inside: None } => list(endpoints),
            Fate::Balance { endpoints, inside: Some(inside) } => format!("{} inside {}", list(endpoints), list(inside)),
            Fate::Reject => "reject".to_owned(),
            Fate::Drop => "drop".to_owned(),
        }
    }

    /// One line per frontend.
    fn check(spec: Value, endpoints: &str, expected: &[&str]) {
        let wanted = wanted(&service(spec), &slices(endpoints), "n", Family::V4);
        let lines: Vec<String> = wanted
            .ports
            .iter()
            .flat_map(|port| &port.frontends)
            .map(|frontend| {
                let at = match &frontend.at {
                    At::Address { ip, port, .. } => format!("{ip}:{port}"),
                    At::NodePort { port, .. } => format!("node:{port}"),
                };
                format!("{at} {:?}: {}", frontend.scope, show(&frontend.fate))
            })
            .collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn ready_endpoints_get_connections_ending_ones_only_if_there_are_no_others() {
        check(json!({}), "10.0.0.1 10.0.0.2!unready 10.0.0.3!ending", &["10.96.0.5:80 Cluster: 10.0.0.1"]);
        check(json!({}), "10.0.0.2!unready 10.0.0.3!ending", &["10.96.0.5:80 Cluster: 10.0.0.3"]);
        check(json!({}), "10.0.0.2!unready", &["10.96.0.5:80 Cluster: reject"]);
    }

    #[test]
    fn internal_traffic_may_stay_on_the_node() {
        let local = || json!({"internalTrafficPolicy": "Local"});
        check(local(), "10.0.0.1@n 10.0.0.2", &["10.96.0.5:80 Cluster: 10.0.0.1"]);
        check(local(), "10.0.0.2", &["10.96.0.5:80 Cluster: drop"]);
        check(local(), "", &["10.96.0.5:80 Cluster: reject"]);
    }

    #[test]
    fn external_traffic_is_hidden_or_stays_on_the_node() {
        let node_port = |policy: &str| {
            json!({"type": "NodePort", "externalTrafficPolicy": policy, "externalIPs": ["1.2.3.4"],
            "ports": [{"port": 80, "nodePort": 30080}]})
        };
        check(
            node_port("Cluster"),
            "10.0.0.1@n 10.0.0.2",
            &[
                "10.96.0.5:80 Cluster: 10.0.0.1 10.0.0.2",
                "1.2.3.4:80 External: 10.0.0.1 10.0.0.2",
                "node:30080 External: 10.0.0.1 10.0.0.2",
            ],
        );
        check(
            node_port("Local"),
            "10.0.0.1@n 10.0.0.2",
            &[
                "10.96.0.5:80 Cluster: 10.0.0.1 10.0.0.2",
                "1.2.3.4:80 Local: 10.0.0.1 inside 10.0.0.1 10.0.0.2",
                "node:30080 Local: 10.0.0.1 inside 10.0.0.1 10.0.0.2",
            ],
        );
        check(
            node_port("Local"),
            "10.0.0.2",
            &[
                "10.96.0.5:80 Cluster: 10.0.0.2",
                "1.2.3.4:80 Local:  inside 10.0.0.2",
                "node:30080 Local:  inside 10.0.0.2",
            ],
        );
    }

    #[test]
    fn headless_foreign_and_external_name_services_are_left_alone() {
        check(json!({"clusterIP": "None", "clusterIPs": ["None"]}), "10.0.0.1", &[]);
        check(json!({"type": "ExternalName", "clusterIP": null, "clusterIPs": null}), "10.0.0.1", &[]);
        let mut foreign = service(json!({}));
        foreign.metadata.labels = Some([(PROXY_NAME_LABEL.to_owned(), "mesh".to_owned())].into());
        assert_eq!(wanted(&foreign, &slices("10.0.0.1"), "n", Family::V4), Wanted::default());
    }

    #[test]
    fn affinity_health_and_families() {
        let sticky = service(
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}),
        );
        assert_eq!(wanted(&sticky, &[], "n", Family::V4).ports[0].affinity_s, Some(60));
        assert_eq!(wanted(&sticky, &[], "n", Family::V6), Wanted::default());
        let balanced =
            service(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000}));
        let health = wanted(&balanced, &slices("10.0.0.1@n 10.0.0.2"), "n", Family::V4).health;
        assert_eq!(health, Some(Health { port: 31000, local_endpoints: 1 }));
    }
}
