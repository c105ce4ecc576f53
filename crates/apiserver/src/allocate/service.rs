//! What a Service occupies, and what it still lacks. Pure: the numbers come from the caller.
//! What it keeps across an update, the kind's rules have put in its place already.
//!
//! Source: kubernetes/pkg/registry/core/service/storage/alloc.go.

use std::{collections::BTreeSet, net::IpAddr};

use api_types::{ApiError, FieldError};
use serde_json::{Value, json};

use super::families;

/// `clusterIP` of a headless Service.
pub const NONE: &str = "None";

/// The numbers that a Service occupies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub addresses: BTreeSet<IpAddr>,
    pub ports: BTreeSet<u16>,
}

/// Where numbers come from. A chosen number is taken as it is; `Err` says why it cannot be had.
pub trait Source {
    fn address(&mut self, family: &str, chosen: Option<IpAddr>) -> Result<IpAddr, String>;
    fn port(&mut self, chosen: Option<u16>) -> Result<u16, String>;
}

pub fn held(service: &Value) -> Held {
    let spec = &service["spec"];
    let addresses = if is_external(spec) { Vec::new() } else { texts(&spec["clusterIPs"]) };
    let first = spec["clusterIP"].as_str().filter(|_| addresses.is_empty() && !is_external(spec));
    let parsed = addresses.iter().map(String::as_str).chain(first).filter_map(|text| text.parse().ok());
    let node_ports = ports_of(spec).iter().map(|port| &port["nodePort"]);
    let ports = node_ports.chain([&spec["healthCheckNodePort"]]).filter_map(port_number);
    Held { addresses: parsed.collect(), ports: ports.collect() }
}

/// Fills the addresses and node ports that the Service needs and does not have.
pub fn fill(
    service: &mut Value,
    old: Option<&Value>,
    offered: &[&str],
    source: &mut dyn Source,
) -> Result<(), ApiError> {
    let name = service["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let invalid = |errors: Vec<FieldError>| ApiError::invalid("", "Service", &name, &errors);
    let before = old.map(held).unwrap_or_default();
    let spec = &mut service["spec"];
    let old = old.map(|old| &old["spec"]);
    families::fill(spec, old, offered).map_err(invalid)?;
    fill_addresses(spec, &before, source).map_err(|failure| failure.into_refusal(&name))?;
    fill_ports(spec, &before, source).map_err(|failure| failure.into_refusal(&name))?;
    Ok(())
}

/// A number that could not be had.
enum Failure {
    /// The one that the client chose.
    Chosen(FieldError),
    /// None is left.
    Exhausted(String),
}

impl Failure {
    fn into_refusal(self, name: &str) -> ApiError {
        match self {
            Self::Chosen(error) => ApiError::invalid("", "Service", name, &[error]),
            Self::Exhausted(why) => ApiError::internal(why),
        }
    }
}

pub fn is_external(spec: &Value) -> bool {
    spec["type"] == "ExternalName"
}
fn has_node_ports(spec: &Value) -> bool {
    spec["type"] == "NodePort" || spec["type"] == "LoadBalancer"
}
fn has_health_check(spec: &Value) -> bool {
    spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

fn fill_addresses(spec: &mut Value, before: &Held, source: &mut dyn Source) -> Result<(), Failure> {
    let mut addresses = texts(&spec["clusterIPs"]);
    if is_external(spec) || addresses.first().is_some_and(|first| first == NONE) {
        return Ok(());
    }
    let asked = addresses.clone();
    for (at, family) in texts(&spec["ipFamilies"]).iter().enumerate() {
        let chosen: Option<IpAddr> = addresses.get(at).and_then(|text| text.parse().ok());
        if chosen.is_some_and(|chosen| before.addresses.contains(&chosen)) {
            continue;
        }
        // Changing the first address of a Service that has one is refused by validation, not allocated.
        if at == 0 && chosen.is_some() && !before.addresses.is_empty() {
            continue;
        }
        let address = source.address(family, chosen).map_err(|why| match chosen {
            Some(chosen) => {
                let detail = format!("failed to allocate IP {chosen}: {why}");
                Failure::Chosen(FieldError::invalid("spec.clusterIPs", &asked, detail))
            }
            None => Failure::Exhausted(format!("failed to allocate a serviceIP: {why}")),
        })?;
        match addresses.get_mut(at) {
            Some(place) => *place = address.to_string(),
            None => addresses.push(address.to_string()),
        }
    }
    if let Some(first) = addresses.first() {
        spec["clusterIP"] = json!(first);
        spec["clusterIPs"] = json!(addresses);
    }
    Ok(())
}

fn fill_ports(spec: &mut Value, before: &Held, source: &mut dyn Source) -> Result<(), Failure> {
    let wants_any = spec["type"] != "LoadBalancer" || spec["allocateLoadBalancerNodePorts"] != false;
    let mut mine = before.ports.clone();
    if has_node_ports(spec) {
        // One node port serves the same port of several protocols.
        let mut shared: Vec<(Value, u16)> = Vec::new();
        let chosen_for = |spec: &Value, port: &Value| {
            let same = ports_of(spec).iter().filter(|other| other["port"] == port["port"]);
            same.filter_map(|other| port_number(&other["nodePort"])).next()
        };
        for at in 0..ports_of(spec).len() {
            let port = ports_of(spec)[at].clone();
            let own = port_number(&port["nodePort"]);
            if own.is_none() && !wants_any {
                continue;
            }
            let common = shared.iter().find(|(number, _)| *number == port["port"]).map(|(_, node_port)| *node_port);
            let chosen = own.or(common).or_else(|| chosen_for(spec, &port));
            let number = match chosen {
                Some(number) if mine.contains(&number) => number,
                chosen => source.port(chosen).map_err(|why| match chosen {
                    Some(number) => {
                        Failure::Chosen(FieldError::invalid(format!("spec.ports[{at}].nodePort"), number, why))
                    }
                    None => Failure::Exhausted(format!("failed to allocate a nodePort: {why}")),
                })?,
            };
            mine.insert(number);
            shared.push((port["port"].clone(), number));
            spec["ports"][at]["nodePort"] = json!(number);
        }
    }
    if has_health_check(spec) {
        let chosen = port_number(&spec["healthCheckNodePort"]);
        if chosen.is_none_or(|number| !mine.contains(&number)) {
            let number = source.port(chosen).map_err(|why| {
                let number = chosen.map(|number| format!(" requested HealthCheck NodePort {number}"));
                Failure::Exhausted(format!(
                    "failed to allocate{}: {why}",
                    number.as_deref().unwrap_or(" a HealthCheck NodePort")
                ))
            })?;
            spec["healthCheckNodePort"] = json!(number);
        }
    }
    Ok(())
}

fn ports_of(spec: &Value) -> &[Value] {
    spec["ports"].as_array().map(Vec::as_slice).unwrap_or_default()
}
fn port_number(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0)
}
/// The texts of a list; empty for anything else.
pub fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives 10.0.0.9, fd00::9 and ports from 30100; chosen ones but 10.0.0.66 and 30066.
    struct Plenty(u16);
    impl Source for Plenty {
        fn address(&mut self, family: &str, chosen: Option<IpAddr>) -> Result<IpAddr, String> {
            let own = if family == "IPv6" { "fd00::9" } else { "10.0.0.9" };
            let address = chosen.unwrap_or_else(|| own.parse().expect("an address"));
            if address.to_string() == "10.0.0.66" {
                Err("provided IP is already allocated".into())
            } else {
                Ok(address)
            }
        }
        fn port(&mut self, chosen: Option<u16>) -> Result<u16, String> {
            self.0 += 1;
            match chosen {
                Some(30066) => Err("provided port is already allocated".into()),
                chosen => Ok(chosen.unwrap_or(30099 + self.0)),
            }
        }
    }

    /// `clusterIPs | node ports | health check`, or the refusal.
    fn check(new: Value, old: Option<Value>, expected: &str) {
        let mut service = json!({"metadata": {"name": "s"}, "spec": new});
        let old = old.map(|spec| json!({"metadata": {"name": "s"}, "spec": spec}));
        let got = match fill(&mut service, old.as_ref(), &["IPv4", "IPv6"], &mut Plenty(0)) {
            Ok(()) => {
                let spec = &service["spec"];
                let number = |value: &Value| value.as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string());
                let ports: Vec<String> = ports_of(spec).iter().map(|port| number(&port["nodePort"])).collect();
                let first = texts(&spec["clusterIPs"]).first().cloned().unwrap_or_default();
                assert_eq!(first, spec["clusterIP"].as_str().unwrap_or_default());
                let line = format!(
                    "{} | {} | {}",
                    texts(&spec["clusterIPs"]).join(","),
                    ports.join(","),
                    number(&spec["healthCheckNodePort"])
                );
                line.trim_end_matches(" | -").to_owned()
            }
            Err(refusal) => refusal.message().to_owned(),
        };
        assert_eq!(got, expected, "{new} after {old:?}");
    }

    #[test]
    fn new_services() {
        let ports = json!([{"port": 80, "protocol": "TCP"}]);
        check(json!({"type": "ClusterIP", "ports": ports}), None, "10.0.0.9");
        check(json!({"type": "ClusterIP", "clusterIP": "10.0.0.7", "clusterIPs": ["10.0.0.7"]}), None, "10.0.0.7 | ");
        check(
            json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"], "selector": {"a": "b"}, "ports": ports}),
            None,
            "None",
        );
        check(json!({"type": "ExternalName", "ports": ports}), None, "");
        check(
            json!({"type": "ClusterIP", "ipFamilyPolicy": "RequireDualStack", "ports": ports}),
            None,
            "10.0.0.9,fd00::9",
        );
        check(json!({"type": "NodePort", "ports": ports}), None, "10.0.0.9 | 30100");
        check(
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": ports}),
            None,
            "10.0.0.9 | 30100 | 30101",
        );
        check(
            json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": ports}),
            None,
            "10.0.0.9",
        );
        let dns = json!([{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP", "nodePort": 30053}, {"port": 9153}]);
        check(json!({"type": "NodePort", "ports": dns}), None, "10.0.0.9 | 30053,30053,30101");
    }

    #[test]
    fn what_is_taken_is_refused() {
        check(
            json!({"type": "ClusterIP", "clusterIP": "10.0.0.66", "clusterIPs": ["10.0.0.66"]}),
            None,
            "Service \"s\" is invalid: spec.clusterIPs: Invalid value: [\"10.0.0.66\"]: failed to allocate IP 10.0.0.66: provided IP is already allocated",
        );
        check(
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30066}]}),
            None,
            "Service \"s\" is invalid: spec.ports[0].nodePort: Invalid value: 30066: provided port is already allocated",
        );
    }

    #[test]
    fn updates_keep_what_was_allocated() {
        let old = json!({
            "type": "NodePort", "clusterIP": "10.0.0.5", "clusterIPs": ["10.0.0.5"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}],
        });
        let with = |field: &str, value: Value| {
            let mut spec = old.clone();
            spec[field] = value;
            spec
        };
        check(old.clone(), Some(old.clone()), "10.0.0.5 | 30080");
        let another = json!([{"port": 81, "protocol": "TCP"}, {"port": 80, "protocol": "TCP", "nodePort": 30080}]);
        check(with("ports", another), Some(old.clone()), "10.0.0.5 | 30100,30080");
        check(json!({"type": "ExternalName"}), Some(old.clone()), " | ");
        check(json!({"type": "ClusterIP", "ports": [{"port": 80}]}), Some(json!({"type": "ExternalName"})), "10.0.0.9");
        check(with("ipFamilyPolicy", json!("PreferDualStack")), Some(old), "10.0.0.5,fd00::9 | 30080");
    }

    #[test]
    fn what_a_service_holds() {
        let service = json!({"spec": {
            "clusterIPs": ["10.0.0.5", "fd00::1"], "healthCheckNodePort": 30001, "ports": [{"nodePort": 30080}, {"port": 1}],
        }});
        let got = held(&service);
        assert_eq!((got.addresses.len(), got.ports), (2, BTreeSet::from([30001, 30080])));
        assert_eq!(held(&json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}})), Held::default());
        assert_eq!(held(&json!({"spec": {"type": "ExternalName", "clusterIP": "10.0.0.5"}})), Held::default());
    }
}
