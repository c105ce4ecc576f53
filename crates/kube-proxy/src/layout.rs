//! How Services lie in nftables: all as elements of a few maps, so that a change costs the
//! same at any size. A connection is looked up by address, protocol and port; the verdict
//! goes to a chain that all Services with as many endpoints share; that chain draws a
//! number and finds the endpoint in one more map. Only session affinity needs chains of
//! its own. Pure.

use std::{
    collections::{BTreeMap, HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    net::SocketAddr,
};

use api_types::Key;
use ipnet::IpNet;

use crate::ruleset::{At, Balanced, Family, Fate, Frontend, Protocol, Scope, Wanted};

/// Endpoints for clients inside follow those for all in the same map, from this index on.
const INSIDE_OFFSET: usize = 0x1_0000;

/// What holds for all Services of one address family.
#[derive(Clone, Debug)]
pub struct Layout {
    pub family: Family,
    pub table: String,
    /// Networks of pods: from there nothing is hidden.
    pub cluster_cidrs: Vec<IpNet>,
    pub masquerade_all: bool,
    /// A packet with this bit in its mark gets the node's address as its source.
    pub masquerade_mark: u32,
    /// Node ports answer on these only; empty: on all addresses but loopback.
    pub nodeport_addresses: Vec<IpNet>,
}

/// The maps and sets that hold elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Map {
    /// Address, protocol, port: to the chain that balances.
    Services,
    /// Protocol, port: the same on the node's own addresses.
    NodePorts,
    /// The same two for clients inside the cluster, where they fare differently.
    InsideServices,
    InsideNodePorts,
    /// Address, port and an index: the endpoint. A map for each protocol, as nft ties the
    /// type of a port to the protocol of the first rule that it reads.
    Endpoints(Protocol),
    NodePortEndpoints(Protocol),
    /// Connections that find nobody: refused or dropped.
    NoEndpoints,
    NoEndpointNodePorts,
    /// Cluster addresses; what is not served on them is refused.
    ClusterAddresses,
    /// Pairs of the same address: an endpoint of this node that reaches itself.
    Hairpins,
}

/// A thing in the table. The order is that in which things can be added.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// Clients that stay with an endpoint.
    Set(String),
    Chain(String),
    Element(Map, String),
}

/// A set's declaration, a chain's rules, an element's value.
pub type Body = Vec<String>;

/// What one Service puts into the table.
pub type Part = BTreeMap<Name, Body>;

/// The whole table. Several Services may want the same thing; the first by name decides what it is.
#[derive(Debug, Default)]
pub struct Table {
    parts: HashMap<Key, Part>,
    claims: HashMap<Name, BTreeMap<Key, Body>>,
}

/// Things that were touched since the last transaction, with what they were then.
pub type Touched = BTreeMap<Name, Option<Body>>;

impl Table {
    /// Replaces what `service` puts in, and notes what that touches.
    pub fn set(&mut self, service: &Key, part: Part, touched: &mut Touched) {
        let old = self.parts.remove(service).unwrap_or_default();
        for name in old.keys().filter(|name| !part.contains_key(*name)) {
            self.note(name, touched);
            if let Some(claims) = self.claims.get_mut(name) {
                claims.remove(service);
                if claims.is_empty() {
                    self.claims.remove(name);
                }
            }
        }
        for (name, body) in part.iter().filter(|(name, body)| old.get(*name) != Some(*body)) {
            self.note(name, touched);
            self.claims.entry(name.clone()).or_default().insert(service.clone(), body.clone());
        }
        if !part.is_empty() {
            self.parts.insert(service.clone(), part);
        }
    }

    fn note(&self, name: &Name, touched: &mut Touched) {
        if !touched.contains_key(name) {
            touched.insert(name.clone(), self.get(name).cloned());
        }
    }

    /// What the thing is now.
    pub fn get(&self, name: &Name) -> Option<&Body> {
        self.claims.get(name)?.first_key_value().map(|(_, body)| body)
    }

    /// Everything as if nothing had been there.
    pub fn everything(&self) -> Touched {
        self.claims.keys().map(|name| (name.clone(), None)).collect()
    }
}

impl Layout {
    /// What a Service puts into the table.
    pub fn part(&self, wanted: &Wanted) -> Part {
        let mut part = Part::new();
        for address in &wanted.addresses {
            part.insert(Name::Element(Map::ClusterAddresses, address.to_string()), Body::new());
        }
        for address in &wanted.local_endpoints {
            part.insert(Name::Element(Map::Hairpins, format!("{address} . {address}")), Body::new());
        }
        for port in &wanted.ports {
            for frontend in &port.frontends {
                self.frontend(port, frontend, &mut part);
            }
        }
        part
    }

    fn frontend(&self, port: &Balanced, frontend: &Frontend, part: &mut Part) {
        let maps = Maps::of(&frontend.at);
        let key = key(&frontend.at);
        let mut put = |map: Map, key: String, value: String| {
            part.insert(Name::Element(map, key), vec![value]);
        };
        let (endpoints, inside) = match &frontend.fate {
            Fate::Reject => return put(maps.nobody, key, "goto refuse".to_owned()),
            Fate::Drop => return put(maps.nobody, key, "drop".to_owned()),
            Fate::Balance { endpoints, inside } => (endpoints, inside),
        };
        if endpoints.is_empty() {
            put(maps.nobody, key.clone(), "drop".to_owned());
        } else {
            let chain = match port.affinity_s {
                Some(seconds) => self.sticky(port, frontend, endpoints, seconds, part),
                None => self.balancing(&frontend.at, Some(frontend.scope), endpoints, part),
            };
            part.insert(Name::Element(maps.verdicts, key.clone()), vec![format!("goto {chain}")]);
        }
        if let Some(inside) = inside {
            let chain = self.balancing(&frontend.at, None, inside, part);
            part.insert(Name::Element(maps.inside, key), vec![format!("goto {chain}")]);
        }
    }

    /// Puts in the endpoints as elements, and the chain that all with this number of endpoints share; gives its name.
    /// `scope` `None` is for clients inside, whose addresses are never hidden.
    fn balancing(&self, at: &At, scope: Option<Scope>, endpoints: &[SocketAddr], part: &mut Part) -> String {
        let offset = if scope.is_none() { INSIDE_OFFSET } else { 0 };
        let maps = Maps::of(at);
        let key = match at {
            At::Address { ip, port, .. } => format!("{ip} . {port}"),
            At::NodePort { port, .. } => port.to_string(),
        };
        for (index, endpoint) in endpoints.iter().enumerate() {
            let name = Name::Element(maps.endpoints, format!("{key} . {}", offset + index));
            part.insert(name, vec![format!("{} . {}", endpoint.ip(), endpoint.port())]);
        }
        let number = endpoints.len();
        let scope_name = scope.map_or("inside", scope_name);
        let chain = format!("{}{scope_name}-{}-{number}", maps.prefix, at.protocol().name());
        let mut rules: Body = scope.and_then(|scope| self.hiding(scope)).into_iter().collect();
        let offset = if offset == 0 { String::new() } else { format!(" offset {offset}") };
        let (ip, protocol, map) = (self.ip(), at.protocol().name(), maps.endpoints.name());
        let lookup = match at {
            At::Address { .. } => format!("{ip} daddr . {protocol} dport"),
            At::NodePort { .. } => format!("{protocol} dport"),
        };
        rules.push(format!("dnat {ip} to {lookup} . numgen random mod {number}{offset} map @{map}"));
        part.insert(Name::Chain(chain.clone()), rules);
        chain
    }

    /// Chains of its own for a port with session affinity: one per endpoint, which remembers the client.
    fn sticky(
        &self,
        port: &Balanced,
        frontend: &Frontend,
        endpoints: &[SocketAddr],
        seconds: u32,
        part: &mut Part,
    ) -> String {
        let ip = self.ip();
        let mut rules: Body = self.hiding(frontend.scope).into_iter().collect();
        let mut draw = Vec::new();
        for (index, endpoint) in endpoints.iter().enumerate() {
            // All frontends of a port share the memory of its clients.
            let id = digest(&(&port.name, endpoint, seconds));
            let (set, chain) = (format!("clients-{id}"), format!("endpoint-{id}"));
            let declaration = format!("type {} ; flags dynamic,timeout ; timeout {seconds}s ;", self.address_type());
            part.insert(Name::Set(set.clone()), vec![declaration]);
            let (protocol, to) = (frontend.at.protocol().name(), endpoint);
            let body = vec![format!("update @{set} {{ {ip} saddr }}"), format!("meta l4proto {protocol} dnat to {to}")];
            part.insert(Name::Chain(chain.clone()), body);
            rules.push(format!("{ip} saddr @{set} goto {chain}"));
            draw.push(format!("{index} : goto {chain}"));
        }
        rules.push(format!("numgen random mod {} vmap {{ {} }}", endpoints.len(), draw.join(", ")));
        let chain = format!("sticky-{}", digest(&(&port.name, &frontend.at)));
        part.insert(Name::Chain(chain.clone()), rules);
        chain
    }

    /// The rule that marks packets whose source address has to be hidden.
    fn hiding(&self, scope: Scope) -> Option<String> {
        let mark = format!("meta mark set meta mark or {:#x}", self.masquerade_mark);
        let inside = self.networks(&self.cluster_cidrs);
        match (scope, inside) {
            (Scope::Local, _) => None,
            (Scope::External, _) => Some(mark),
            (Scope::Cluster, _) if self.masquerade_all => Some(mark),
            (Scope::Cluster, Some(networks)) => Some(format!("{} saddr != {networks} {mark}", self.ip())),
            (Scope::Cluster, None) => None,
        }
    }

    /// `{ a, b }` of those of this family.
    pub fn networks(&self, all: &[IpNet]) -> Option<String> {
        let mine: Vec<String> =
            all.iter().filter(|net| Family::of(net.addr()) == self.family).map(ToString::to_string).collect();
        (!mine.is_empty()).then(|| format!("{{ {} }}", mine.join(", ")))
    }

    pub fn ip(&self) -> &'static str {
        match self.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        }
    }

    pub fn address_type(&self) -> &'static str {
        match self.family {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        }
    }
}

impl Map {
    pub const ALL: [Map; 14] = [
        Map::Services,
        Map::NodePorts,
        Map::InsideServices,
        Map::InsideNodePorts,
        Map::Endpoints(Protocol::Tcp),
        Map::Endpoints(Protocol::Udp),
        Map::Endpoints(Protocol::Sctp),
        Map::NodePortEndpoints(Protocol::Tcp),
        Map::NodePortEndpoints(Protocol::Udp),
        Map::NodePortEndpoints(Protocol::Sctp),
        Map::NoEndpoints,
        Map::NoEndpointNodePorts,
        Map::ClusterAddresses,
        Map::Hairpins,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Map::Services => "services",
            Map::NodePorts => "nodeports",
            Map::InsideServices => "inside-services",
            Map::InsideNodePorts => "inside-nodeports",
            Map::Endpoints(Protocol::Tcp) => "endpoints-tcp",
            Map::Endpoints(Protocol::Udp) => "endpoints-udp",
            Map::Endpoints(Protocol::Sctp) => "endpoints-sctp",
            Map::NodePortEndpoints(Protocol::Tcp) => "nodeport-endpoints-tcp",
            Map::NodePortEndpoints(Protocol::Udp) => "nodeport-endpoints-udp",
            Map::NodePortEndpoints(Protocol::Sctp) => "nodeport-endpoints-sctp",
            Map::NoEndpoints => "no-endpoints",
            Map::NoEndpointNodePorts => "no-endpoint-nodeports",
            Map::ClusterAddresses => "cluster-addresses",
            Map::Hairpins => "hairpins",
        }
    }
}

/// Which maps a frontend's elements go to.
struct Maps {
    verdicts: Map,
    inside: Map,
    endpoints: Map,
    nobody: Map,
    prefix: &'static str,
}

impl Maps {
    fn of(at: &At) -> Self {
        match at {
            At::Address { .. } => Self {
                verdicts: Map::Services,
                inside: Map::InsideServices,
                endpoints: Map::Endpoints(at.protocol()),
                nobody: Map::NoEndpoints,
                prefix: "",
            },
            At::NodePort { .. } => Self {
                verdicts: Map::NodePorts,
                inside: Map::InsideNodePorts,
                endpoints: Map::NodePortEndpoints(at.protocol()),
                nobody: Map::NoEndpointNodePorts,
                prefix: "nodeport-",
            },
        }
    }
}

fn key(at: &At) -> String {
    match at {
        At::Address { ip, protocol, port } => format!("{ip} . {} . {port}", protocol.name()),
        At::NodePort { protocol, port } => format!("{} . {port}", protocol.name()),
    }
}

fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::Cluster => "cluster",
        Scope::External => "external",
        Scope::Local => "local",
    }
}

/// A short name; equal for equal things as long as this process lives, which is as long as the table does.
fn digest(of: &impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
pub mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::ruleset::{
        tests::{service, slices},
        wanted,
    };

    pub fn layout() -> Layout {
        Layout {
            family: Family::V4,
            table: "kube-proxy".to_owned(),
            cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
            masquerade_all: false,
            masquerade_mark: 0x4000,
            nodeport_addresses: vec![],
        }
    }

    pub fn part(spec: Value, endpoints: &str) -> Part {
        layout().part(&wanted(&service(spec), &slices(endpoints), "n", Family::V4))
    }

    /// A Service with UDP port 80 at `ip`.
    pub fn udp_part(ip: &str, endpoints: &str) -> Part {
        let mut slices = slices(endpoints);
        let slice = std::sync::Arc::get_mut(&mut slices[0]).unwrap();
        slice.ports.as_mut().unwrap()[0].protocol = Some("UDP".to_owned());
        let spec = json!({"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80, "protocol": "UDP"}]});
        layout().part(&wanted(&service(spec), &slices, "n", Family::V4))
    }

    fn check(part: &Part, expected: &[&str]) {
        let lines: Vec<String> = part
            .iter()
            .map(|(name, body)| match name {
                Name::Set(set) => format!("set {set}"),
                Name::Chain(chain) => format!("chain {chain}: {}", body.join("; ")),
                Name::Element(map, key) => format!("{} {key} -> {}", map.name(), body.join("")),
            })
            .collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_service_is_elements_and_a_shared_chain() {
        check(
            &part(json!({}), "10.244.0.1@n 10.244.0.2"),
            &[
                "chain cluster-tcp-2: ip saddr != { 10.244.0.0/16 } meta mark set meta mark or 0x4000; \
             dnat ip to ip daddr . tcp dport . numgen random mod 2 map @endpoints-tcp",
                "services 10.96.0.5 . tcp . 80 -> goto cluster-tcp-2",
                "endpoints-tcp 10.96.0.5 . 80 . 0 -> 10.244.0.1 . 8080",
                "endpoints-tcp 10.96.0.5 . 80 . 1 -> 10.244.0.2 . 8080",
                "cluster-addresses 10.96.0.5 -> ",
                "hairpins 10.244.0.1 . 10.244.0.1 -> ",
            ],
        );
    }

    #[test]
    fn nobody_there_is_said_at_once() {
        check(
            &part(json!({}), ""),
            &["no-endpoints 10.96.0.5 . tcp . 80 -> goto refuse", "cluster-addresses 10.96.0.5 -> "],
        );
    }

    #[test]
    fn only_the_difference_is_touched() {
        let key = Key::new("ns", "web");
        let mut table = Table::default();
        let mut touched = Touched::new();
        table.set(&key, part(json!({}), "10.244.0.1 10.244.0.2"), &mut touched);
        assert_eq!(touched.len(), 5);
        let mut touched = Touched::new();
        table.set(&key, part(json!({}), "10.244.0.1 10.244.0.3"), &mut touched);
        let names: Vec<_> = touched.keys().collect();
        assert_eq!(names, [&Name::Element(Map::Endpoints(Protocol::Tcp), "10.96.0.5 . 80 . 1".to_owned())]);
    }

    #[test]
    fn what_two_services_want_stays_until_both_are_gone() {
        let (a, b) = (Key::new("ns", "a"), Key::new("ns", "b"));
        let chain = Name::Chain("cluster-tcp-1".to_owned());
        let mut table = Table::default();
        table.set(&b, part(json!({}), "10.244.0.9"), &mut Touched::new());
        table.set(&a, part(json!({}), "10.244.0.1"), &mut Touched::new());
        let endpoint = Name::Element(Map::Endpoints(Protocol::Tcp), "10.96.0.5 . 80 . 0".to_owned());
        assert_eq!(table.get(&endpoint).unwrap(), &["10.244.0.1 . 8080"], "the first by name decides");
        table.set(&a, Part::new(), &mut Touched::new());
        assert_eq!(table.get(&endpoint).unwrap(), &["10.244.0.9 . 8080"]);
        assert!(table.get(&chain).is_some());
        table.set(&b, Part::new(), &mut Touched::new());
        assert!(table.get(&chain).is_none());
        assert!(table.everything().is_empty());
    }
}
