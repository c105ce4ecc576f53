//! Brings claims (IPAddress objects, node ports) and Services together again after a crash between the two writes.
//!
//! Source: kubernetes/pkg/registry/core/service/ipallocator/controller/repairip.go.

use std::collections::{HashMap, HashSet};

use api_types::jiff::Timestamp;
use serde_json::Value;

use super::{MANAGED_BY, MANAGED_BY_LABEL, address_object, claims::PortClaim, service};

/// A younger object may belong to a Service that another apiserver is about to store.
const GRACE_S: i64 = 60;

#[derive(Clone, Debug, PartialEq)]
pub enum Repair {
    /// A Service holds the address and no object says so.
    Create(Value),
    /// The object's Service does not hold the address.
    Delete { name: String, uid: String },
    /// A Service holds the port and no claim says so.
    Claim(u16, PortClaim),
    /// The Service of the claim does not hold the port.
    Free { port: u16, uid: String },
}

/// The same for the claims of node ports.
pub fn ports<'a>(
    services: impl IntoIterator<Item = &'a Value>,
    claims: &[(u16, PortClaim)],
    now: Timestamp,
) -> Vec<Repair> {
    let mut wanted: HashMap<u16, String> = HashMap::new();
    for service in services {
        let uid = service["metadata"]["uid"].as_str().unwrap_or_default();
        wanted.extend(service::held(service).ports.into_iter().map(|port| (port, uid.to_owned())));
    }
    let mut repairs = Vec::new();
    for (port, claim) in claims {
        let is_right = wanted.remove(port).is_some_and(|uid| uid == claim.uid);
        if !is_right && now.as_second() - claim.at_s >= GRACE_S {
            repairs.push(Repair::Free { port: *port, uid: claim.uid.clone() });
        }
    }
    let claim = |uid| PortClaim { uid, after: 0, at_s: now.as_second() };
    repairs.extend(wanted.into_iter().map(|(port, uid)| Repair::Claim(port, claim(uid))));
    repairs
}

pub fn plan<'a>(
    services: impl IntoIterator<Item = &'a Value>,
    objects: impl IntoIterator<Item = &'a Value>,
    now: Timestamp,
) -> Vec<Repair> {
    let mut wanted = HashMap::new();
    for service in services {
        for ip in service::held(service).addresses {
            wanted.insert(ip.to_string(), (ip, &service["metadata"]));
        }
    }
    let mut repairs = Vec::new();
    let mut present = HashSet::new();
    for object in objects {
        let Some(name) = object["metadata"]["name"].as_str() else { continue };
        present.insert(name);
        let parent = &object["spec"]["parentRef"];
        let is_right = wanted.get(name).is_some_and(|(_, metadata)| {
            metadata["namespace"] == parent["namespace"] && metadata["name"] == parent["name"]
        });
        let is_ours = object["metadata"]["labels"][MANAGED_BY_LABEL] == MANAGED_BY;
        let created = object["metadata"]["creationTimestamp"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
        let is_young = created.is_some_and(|at| now.as_second() - at.as_second() < GRACE_S);
        if is_ours && !is_right && !is_young {
            let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            repairs.push(Repair::Delete { name: name.to_owned(), uid });
        }
    }
    let lacking = wanted.iter().filter(|(name, _)| !present.contains(name.as_str()));
    repairs.extend(lacking.map(|(_, (ip, metadata))| Repair::Create(address_object(*ip, metadata))));
    repairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(name: &str, service: &str, created: &str) -> Value {
        let mut object = address_object("10.0.0.1".parse().expect("ip"), &json!({"namespace": "ns", "name": service}));
        object["metadata"]["name"] = json!(name);
        object["metadata"]["creationTimestamp"] = json!(created);
        object
    }

    #[test]
    fn node_ports() {
        let services = [
            json!({"metadata": {"uid": "a"}, "spec": {"type": "NodePort", "ports": [{"nodePort": 30001}]}}),
            json!({"metadata": {"uid": "b"}, "spec": {"type": "NodePort", "ports": [{"nodePort": 30002}]}}),
        ];
        let claim = |uid: &str, at_s| PortClaim { uid: uid.to_owned(), after: 0, at_s };
        let claims = [(30001, claim("a", 0)), (30003, claim("gone", 0)), (30004, claim("soon", 960))];
        let now = Timestamp::from_second(1000).expect("a time");
        let expected = [Repair::Free { port: 30003, uid: "gone".to_owned() }, Repair::Claim(30002, claim("b", 1000))];
        assert_eq!(ports(&services, &claims, now), expected);
    }

    #[test]
    fn both_ways() {
        let services = [
            json!({"metadata": {"namespace": "ns", "name": "a"}, "spec": {"clusterIPs": ["10.0.0.1"]}}),
            json!({"metadata": {"namespace": "ns", "name": "b"}, "spec": {"clusterIPs": ["10.0.0.2"]}}),
        ];
        let old = "1970-01-01T00:00:00Z";
        let mut foreign = object("10.0.0.9", "x", old);
        foreign["metadata"]["labels"] = json!({});
        let objects = [
            object("10.0.0.1", "a", old),
            object("10.0.0.3", "gone", old),
            object("10.0.0.4", "soon", "1970-01-01T00:16:00Z"),
            foreign,
        ];
        let now = Timestamp::from_second(1000).expect("a time");
        assert_eq!(
            plan(&services, &objects, now),
            [
                Repair::Delete { name: "10.0.0.3".to_owned(), uid: String::new() },
                Repair::Create(address_object("10.0.0.2".parse().expect("ip"), &services[1]["metadata"])),
            ]
        );
    }
}
