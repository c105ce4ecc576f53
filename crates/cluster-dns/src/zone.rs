//! What the cluster's zone holds: Services by namespace and name, and their addresses back
//! to names. A clone shares everything, so that each change gives readers a new snapshot
//! at the cost of one entry. Pure.
//!
//! Source: the Kubernetes DNS-based service discovery specification, 1.1.0.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use api_types::{
    Key,
    k8s::{
        core::{Service, ServiceSpec},
        discovery::EndpointSlice,
    },
};
use imbl::{HashMap, HashSet};

/// All names under the cluster's domain.
#[derive(Clone, Debug)]
pub struct Zone {
    /// `cluster.local`, in lower case, without dots at the ends.
    pub domain: String,
    /// Counts changes; the SOA's serial.
    pub serial: u32,
    services: HashMap<Key, Arc<Entry>>,
    namespaces: HashSet<String>,
    /// Addresses and who has them, as `service` or `host.service` within the namespace.
    names: HashMap<IpAddr, BTreeSet<(Key, Option<String>)>>,
}

/// What is known of one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Has cluster addresses.
    Balanced { addresses: Vec<IpAddr>, ports: Vec<Port> },
    /// Stands for its endpoints, by host name.
    Headless { hosts: BTreeMap<String, Host> },
    /// An alias.
    External { target: String },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    pub addresses: BTreeSet<IpAddr>,
    pub ports: Vec<Port>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub name: String,
    /// In lower case.
    pub protocol: String,
    pub number: u16,
}

impl Zone {
    pub fn new(domain: &str) -> Self {
        Self {
            domain: domain.trim_matches('.').to_ascii_lowercase(),
            serial: 1,
            services: HashMap::new(),
            namespaces: HashSet::new(),
            names: HashMap::new(),
        }
    }

    pub fn service(&self, namespace: &str, name: &str) -> Option<&Arc<Entry>> {
        self.services.get(&Key::new(namespace, name))
    }

    pub fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    /// Names of an address, complete and with a dot at the end.
    pub fn names_of(&self, address: IpAddr) -> Vec<String> {
        let domain = &self.domain;
        let full = |(key, host): &(Key, Option<String>)| {
            let host = host.as_ref().map(|host| format!("{host}.")).unwrap_or_default();
            format!("{host}{}.{}.svc.{domain}.", key.name, key.namespace)
        };
        self.names.get(&address).into_iter().flatten().map(full).collect()
    }

    /// Replaces or removes a Service.
    pub fn set_service(&mut self, key: &Key, entry: Option<Entry>) {
        let old = self.services.get(key).cloned();
        if old.as_deref() == entry.as_ref() {
            return;
        }
        for (address, host) in old.iter().flat_map(|old| old.addresses()) {
            let name = (key.clone(), host);
            let left = self.names.get_mut(&address).map(|names| {
                names.remove(&name);
                names.len()
            });
            if left == Some(0) {
                self.names.remove(&address);
            }
        }
        match entry {
            Some(entry) => {
                for (address, host) in entry.addresses() {
                    self.names.entry(address).or_default().insert((key.clone(), host));
                }
                self.services.insert(key.clone(), Arc::new(entry));
            }
            None => {
                self.services.remove(key);
            }
        }
        self.serial = self.serial.wrapping_add(1);
    }

    pub fn add_namespace(&mut self, name: &str) {
        self.namespaces.insert(name.to_owned());
    }

    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }
}

impl Entry {
    /// `None` for a Service that has no names.
    pub fn read(service: &Service, slices: &[Arc<EndpointSlice>]) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() == Some("ExternalName") {
            let target = spec.external_name.as_ref().filter(|name| !name.is_empty())?;
            return Some(Entry::External { target: target.trim_end_matches('.').to_ascii_lowercase() });
        }
        if spec.cluster_ip.as_deref() == Some("None") {
            return Some(Entry::Headless { hosts: hosts(slices) });
        }
        let many = spec.cluster_ips.iter().flatten();
        let mut addresses: Vec<IpAddr> = many.chain(&spec.cluster_ip).filter_map(|ip| ip.parse().ok()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        (!addresses.is_empty()).then(|| Entry::Balanced { addresses, ports: ports(spec) })
    }

    /// Every address, with the host within the Service that has it.
    fn addresses(&self) -> Vec<(IpAddr, Option<String>)> {
        match self {
            Entry::Balanced { addresses, .. } => addresses.iter().map(|address| (*address, None)).collect(),
            Entry::Headless { hosts } => {
                let of = |(name, host): (&String, &Host)| {
                    host.addresses.iter().map(|address| (*address, Some(name.clone()))).collect::<Vec<_>>()
                };
                hosts.iter().flat_map(of).collect()
            }
            Entry::External { .. } => Vec::new(),
        }
    }
}

fn ports(spec: &ServiceSpec) -> Vec<Port> {
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        Some(Port {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase(),
            number: u16::try_from(port.port).ok()?,
        })
    });
    ports.collect()
}

/// Ready endpoints under their host name, or their address with dashes.
fn hosts(slices: &[Arc<EndpointSlice>]) -> BTreeMap<String, Host> {
    let mut hosts: BTreeMap<String, Host> = BTreeMap::new();
    for slice in slices {
        let ports = slice.ports.iter().flatten().filter_map(|port| {
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                protocol: port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase(),
                number: u16::try_from(port.port?).ok()?,
            })
        });
        let ports: Vec<Port> = ports.collect();
        for endpoint in slice.endpoints.iter().flatten() {
            let is_ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
            if !is_ready {
                continue;
            }
            for address in endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok()) {
                let name = endpoint.hostname.clone().unwrap_or_else(|| dashed(address));
                let host = hosts.entry(name).or_default();
                host.addresses.insert(address);
                for port in &ports {
                    if !host.ports.contains(port) {
                        host.ports.push(port.clone());
                    }
                }
            }
        }
    }
    hosts
}

/// `10-244-0-5`, `fd00--5`
pub fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// The way back.
pub fn undashed(text: &str) -> Option<IpAddr> {
    let v4 = text.replace('-', ".").parse::<std::net::Ipv4Addr>().ok().map(IpAddr::V4);
    v4.or_else(|| text.replace('-', ":").parse::<std::net::Ipv6Addr>().ok().map(IpAddr::V6))
}

#[cfg(test)]
pub mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub fn entry(spec: Value, endpoints: Value) -> Option<Entry> {
        let service: Service = serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": spec})).unwrap();
        let ports = json!([{"name": "http", "port": 8080, "protocol": "TCP"}]);
        let slice = json!({"addressType": "IPv4", "endpoints": endpoints, "ports": ports});
        Entry::read(&service, &[Arc::new(serde_json::from_value(slice).unwrap())])
    }

    /// `web` balanced, `db` headless, `ext` an alias; in namespace `ns`.
    pub fn zone() -> Zone {
        let mut zone = Zone::new("cluster.local.");
        zone.add_namespace("ns");
        let ports = json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
        let web = json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00::5"], "ports": ports});
        zone.set_service(&Key::new("ns", "web"), entry(web, json!([])));
        let endpoints = json!([
            {"addresses": ["10.244.0.1"], "hostname": "db-0"},
            {"addresses": ["10.244.0.2"]},
            {"addresses": ["10.244.0.3"], "conditions": {"ready": false}},
        ]);
        zone.set_service(&Key::new("ns", "db"), entry(json!({"clusterIP": "None"}), endpoints));
        let external = json!({"type": "ExternalName", "externalName": "Example.com"});
        zone.set_service(&Key::new("ns", "ext"), entry(external, json!([])));
        zone
    }

    #[test]
    fn addresses_lead_back_to_names() {
        let check = |zone: &Zone, address: &str, expected: &[&str]| {
            assert_eq!(zone.names_of(address.parse().unwrap()), expected, "{address}");
        };
        let mut zone = zone();
        check(&zone, "10.96.0.5", &["web.ns.svc.cluster.local."]);
        check(&zone, "10.244.0.1", &["db-0.db.ns.svc.cluster.local."]);
        check(&zone, "10.244.0.2", &["10-244-0-2.db.ns.svc.cluster.local."]);
        check(&zone, "10.244.0.3", &[]);
        zone.set_service(&Key::new("ns", "db"), None);
        check(&zone, "10.244.0.1", &[]);
    }

    #[test]
    fn a_clone_does_not_see_later_changes_and_nothing_new_counts_nothing() {
        let mut zone = zone();
        let before = zone.clone();
        let web = (**zone.service("ns", "web").unwrap()).clone();
        zone.set_service(&Key::new("ns", "web"), Some(web));
        assert_eq!(zone.serial, before.serial);
        zone.set_service(&Key::new("ns", "web"), None);
        assert_ne!(zone.serial, before.serial);
        assert!(before.service("ns", "web").is_some());
    }

    #[test]
    fn dashes() {
        for text in ["10.244.0.5", "fd00::5", "::1"] {
            let address = text.parse().unwrap();
            assert_eq!(undashed(&dashed(address)), Some(address), "{text}");
        }
        assert_eq!(undashed("web"), None);
        assert_eq!(undashed("10-244-0"), None);
    }
}
