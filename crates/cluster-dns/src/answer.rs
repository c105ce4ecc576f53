//! What a question gets for an answer, from the zone alone. Pure.
//!
//! Source: the Kubernetes DNS-based service discovery specification, 1.1.0; where it says
//! nothing, CoreDNS's plugin kubernetes.

use std::net::IpAddr;

use hickory_server::proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT},
};

use crate::zone::{Entry, Host, Port, Zone, undashed};

/// Records may be kept for so long, and so may the news that there is none.
pub const TTL_S: u32 = 5;
/// Version of the specification, told by `dns-version`.
const VERSION: &str = "1.1.0";
/// Everything in the zone is as good as everything else.
const SRV_PRIORITY: u16 = 0;
const SRV_WEIGHT: u16 = 100;

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Found {
        answers: Vec<Record>,
        /// Addresses of the names in `answers`.
        additionals: Vec<Record>,
    },
    /// The name stands for another one, whose records are to be added if they can be had.
    Alias {
        cname: Box<Record>,
        target: Name,
    },
    /// The name is there, but no record of this type.
    NoData,
    NoSuchName,
    /// Not ours to say.
    Elsewhere,
}

/// Answers one question. `turn` rotates several answers, so that clients that take the first are spread.
pub fn answer(name: &Name, kind: RecordType, zone: &Zone, turn: usize) -> Answer {
    let text = name.to_lowercase().to_ascii();
    let text = text.trim_end_matches('.');
    if let Some(address) = reverse(name) {
        return by_address(name, kind, zone, address);
    }
    let Some(rest) = within(text, &zone.domain) else { return Answer::Elsewhere };
    let labels: Vec<&str> = rest.split('.').filter(|label| !label.is_empty()).collect();
    let found = match labels.as_slice() {
        [] => apex(name, kind, zone),
        ["dns-version"] => records(name, kind, vec![RData::TXT(TXT::new(vec![VERSION.to_owned()]))]),
        ["svc" | "pod" | "dns"] => Answer::NoData,
        ["ns", "dns"] => addresses(name, kind, &server_addresses(zone)),
        [namespace, "svc" | "pod"] => {
            if zone.has_namespace(namespace) {
                Answer::NoData
            } else {
                Answer::NoSuchName
            }
        }
        [address, namespace, "pod"] => pod(name, kind, zone, address, namespace),
        [inner @ .., service, namespace, "svc"] => match zone.service(namespace, service) {
            Some(entry) => of_service(name, kind, entry, inner),
            None => Answer::NoSuchName,
        },
        _ => Answer::NoSuchName,
    };
    rotated(found, turn)
}

/// `a.b` of `a.b.cluster.local`.
fn within<'a>(text: &'a str, domain: &str) -> Option<&'a str> {
    let rest = text.strip_suffix(domain)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_suffix('.') }
}

/// The address that a name under `in-addr.arpa` or `ip6.arpa` stands for.
fn reverse(name: &Name) -> Option<IpAddr> {
    let network = name.parse_arpa_name().ok()?;
    (network.prefix_len() == network.max_prefix_len()).then(|| network.addr())
}

fn by_address(name: &Name, kind: RecordType, zone: &Zone, address: IpAddr) -> Answer {
    let names = zone.names_of(address);
    if names.is_empty() {
        return Answer::Elsewhere;
    }
    let pointers = names.iter().filter_map(|name| Name::from_ascii(name).ok()).map(|name| RData::PTR(PTR(name)));
    records(name, kind, pointers.collect())
}

fn apex(name: &Name, kind: RecordType, zone: &Zone) -> Answer {
    match kind {
        RecordType::SOA => Answer::Found { answers: vec![soa(zone)], additionals: Vec::new() },
        RecordType::NS => {
            let server = zone_name("ns.dns", zone);
            let additionals = server_addresses(zone).iter().map(|address| record(&server, data(*address))).collect();
            Answer::Found { answers: vec![record(name, RData::NS(NS(server)))], additionals }
        }
        _ => Answer::NoData,
    }
}

/// Where the cluster's DNS answers: the Service that all clusters call `kube-dns`.
fn server_addresses(zone: &Zone) -> Vec<IpAddr> {
    match zone.service("kube-system", "kube-dns").map(AsRef::as_ref) {
        Some(Entry::Balanced { addresses, .. }) => addresses.clone(),
        Some(Entry::Headless { .. } | Entry::External { .. }) | None => Vec::new(),
    }
}

/// `10-244-0-5.ns.pod`: any address, as long as the namespace is there.
fn pod(name: &Name, kind: RecordType, zone: &Zone, address: &str, namespace: &str) -> Answer {
    match undashed(address).filter(|_| zone.has_namespace(namespace)) {
        Some(address) => addresses(name, kind, &[address]),
        None => Answer::NoSuchName,
    }
}

/// `inner` is what stands before the Service's name.
fn of_service(name: &Name, kind: RecordType, entry: &Entry, inner: &[&str]) -> Answer {
    match (entry, inner) {
        (Entry::External { target }, []) => match Name::from_ascii(format!("{target}.")) {
            Ok(target) => Answer::Alias { cname: Box::new(record(name, RData::CNAME(CNAME(target.clone())))), target },
            Err(_) => Answer::NoData,
        },
        (Entry::Balanced { ports, .. }, []) if kind == RecordType::SRV => {
            let data = ports.iter().map(|port| srv(port, name.clone()));
            with_addresses(name, data.collect(), entry)
        }
        (Entry::Balanced { addresses: all, .. }, []) => addresses(name, kind, all),
        (Entry::Balanced { ports, .. }, [port, protocol]) => {
            let chosen: Vec<&Port> = matching(ports, port, protocol);
            if chosen.is_empty() {
                return Answer::NoSuchName;
            }
            if kind != RecordType::SRV {
                return Answer::NoData;
            }
            let service = name.trim_to(usize::from(name.num_labels()) - 2);
            let data = chosen.into_iter().map(|port| srv(port, service.clone())).collect();
            with_addresses(name, data, entry)
        }
        (Entry::Headless { hosts }, []) if kind == RecordType::SRV => {
            let all = hosts.iter().flat_map(|(host, of)| of.ports.iter().map(move |port| (host, port)));
            let data = all.filter_map(|(host, port)| Some(srv(port, below(host, name)?)));
            with_addresses(name, data.collect(), entry)
        }
        (Entry::Headless { hosts }, []) => {
            let all: Vec<IpAddr> = hosts.values().flat_map(|host| host.addresses.iter().copied()).collect();
            // A headless Service without a ready endpoint is there all the same.
            addresses(name, kind, &all)
        }
        (Entry::Headless { hosts }, [host]) => match hosts.get(*host) {
            Some(Host { addresses: all, .. }) => addresses(name, kind, &all.iter().copied().collect::<Vec<_>>()),
            None => Answer::NoSuchName,
        },
        (Entry::Headless { hosts }, [port, protocol]) => {
            let all = hosts
                .iter()
                .flat_map(|(host, of)| matching(&of.ports, port, protocol).into_iter().map(move |port| (host, port)));
            let all: Vec<(&String, &Port)> = all.collect();
            if all.is_empty() {
                return Answer::NoSuchName;
            }
            if kind != RecordType::SRV {
                return Answer::NoData;
            }
            let service = name.trim_to(usize::from(name.num_labels()) - 2);
            let data = all.into_iter().filter_map(|(host, port)| Some(srv(port, below(host, &service)?)));
            with_addresses(name, data.collect(), entry)
        }
        (Entry::External { .. } | Entry::Balanced { .. } | Entry::Headless { .. }, _) => Answer::NoSuchName,
    }
}

/// Ports that `_name._protocol` means.
fn matching<'a>(ports: &'a [Port], name: &str, protocol: &str) -> Vec<&'a Port> {
    let (Some(name), Some(protocol)) = (name.strip_prefix('_'), protocol.strip_prefix('_')) else { return Vec::new() };
    ports.iter().filter(|port| port.name == name && port.protocol == protocol).collect()
}

fn srv(port: &Port, target: Name) -> RData {
    RData::SRV(SRV::new(SRV_PRIORITY, SRV_WEIGHT, port.number, target))
}

fn below(host: &str, service: &Name) -> Option<Name> {
    Name::from_ascii(host).ok()?.append_name(service).ok()
}

/// SRV records with the addresses of their targets, which saves the client a question.
fn with_addresses(name: &Name, data: Vec<RData>, entry: &Entry) -> Answer {
    if data.is_empty() {
        return Answer::NoData;
    }
    let mut targets: Vec<&Name> = data
        .iter()
        .filter_map(|data| match data {
            RData::SRV(srv) => Some(&srv.target),
            _ => None,
        })
        .collect();
    targets.sort();
    targets.dedup();
    let mut additionals = Vec::new();
    for target in targets {
        let all: Vec<IpAddr> = match entry {
            Entry::Balanced { addresses, .. } => addresses.clone(),
            Entry::Headless { hosts } => {
                let first = target.iter().next().map(String::from_utf8_lossy).unwrap_or_default();
                hosts.get(first.as_ref()).map(|host| host.addresses.iter().copied().collect()).unwrap_or_default()
            }
            Entry::External { .. } => Vec::new(),
        };
        additionals.extend(all.into_iter().map(|address| record(target, self::data(address))));
    }
    Answer::Found { answers: data.into_iter().map(|data| record(name, data)).collect(), additionals }
}

/// Those of `all` that are of the kind asked for.
fn addresses(name: &Name, kind: RecordType, all: &[IpAddr]) -> Answer {
    records(name, kind, all.iter().copied().map(data).collect())
}

fn records(name: &Name, kind: RecordType, all: Vec<RData>) -> Answer {
    let fits = |data: &RData| kind == RecordType::ANY || data.record_type() == kind;
    let answers: Vec<Record> = all.into_iter().filter(fits).map(|data| record(name, data)).collect();
    if answers.is_empty() { Answer::NoData } else { Answer::Found { answers, additionals: Vec::new() } }
}

fn data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL_S, data)
}

fn zone_name(within: &str, zone: &Zone) -> Name {
    Name::from_ascii(format!("{within}.{}.", zone.domain)).unwrap_or_else(|_| Name::root())
}

/// Goes along with every "no".
pub fn soa(zone: &Zone) -> Record {
    const REFRESH_S: i32 = 7200;
    const RETRY_S: i32 = 1800;
    const EXPIRE_S: i32 = 86_400;
    let apex = Name::from_ascii(format!("{}.", zone.domain)).unwrap_or_else(|_| Name::root());
    let (server, person) = (zone_name("ns.dns", zone), zone_name("hostmaster", zone));
    record(&apex, RData::SOA(SOA::new(server, person, zone.serial, REFRESH_S, RETRY_S, EXPIRE_S, TTL_S)))
}

fn rotated(answer: Answer, turn: usize) -> Answer {
    match answer {
        Answer::Found { mut answers, additionals } => {
            let by = turn % answers.len().max(1);
            answers.rotate_left(by);
            Answer::Found { answers, additionals }
        }
        Answer::Alias { .. } | Answer::NoData | Answer::NoSuchName | Answer::Elsewhere => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::tests::zone;

    /// What `kind name` gets, sorted: data of the answers, `no data`, `no name` or `elsewhere`.
    fn check(name: &str, kind: RecordType, expected: &[&str]) {
        let name = Name::from_ascii(name).unwrap();
        let mut found: Vec<String> = match answer(&name, kind, &zone(), 0) {
            Answer::Found { answers, .. } => answers.iter().map(|record| record.data.to_string()).collect(),
            Answer::Alias { target, .. } => vec![format!("alias {target}")],
            Answer::NoData => vec!["no data".to_owned()],
            Answer::NoSuchName => vec!["no name".to_owned()],
            Answer::Elsewhere => vec!["elsewhere".to_owned()],
        };
        found.sort();
        assert_eq!(found, expected, "{kind} {name}");
    }

    use RecordType as T;

    #[test]
    fn services() {
        check("web.ns.svc.cluster.local.", T::A, &["10.96.0.5"]);
        check("WEB.ns.svc.Cluster.Local.", T::AAAA, &["fd00::5"]);
        check("web.ns.svc.cluster.local.", T::TXT, &["no data"]);
        check("nope.ns.svc.cluster.local.", T::A, &["no name"]);
        check("sub.web.ns.svc.cluster.local.", T::A, &["no name"]);
        check("ext.ns.svc.cluster.local.", T::A, &["alias example.com."]);
    }

    #[test]
    fn ports() {
        check("_http._tcp.web.ns.svc.cluster.local.", T::SRV, &["0 100 80 web.ns.svc.cluster.local."]);
        check("_dns._udp.web.ns.svc.cluster.local.", T::SRV, &["0 100 53 web.ns.svc.cluster.local."]);
        check("_dns._tcp.web.ns.svc.cluster.local.", T::SRV, &["no name"]);
        check("_http._tcp.web.ns.svc.cluster.local.", T::A, &["no data"]);
        check(
            "_http._tcp.db.ns.svc.cluster.local.",
            T::SRV,
            &["0 100 8080 10-244-0-2.db.ns.svc.cluster.local.", "0 100 8080 db-0.db.ns.svc.cluster.local."],
        );
    }

    #[test]
    fn headless_services_stand_for_ready_endpoints() {
        check("db.ns.svc.cluster.local.", T::A, &["10.244.0.1", "10.244.0.2"]);
        check("db.ns.svc.cluster.local.", T::AAAA, &["no data"]);
        check("db-0.db.ns.svc.cluster.local.", T::A, &["10.244.0.1"]);
        check("10-244-0-2.db.ns.svc.cluster.local.", T::A, &["10.244.0.2"]);
        check("10-244-0-3.db.ns.svc.cluster.local.", T::A, &["no name"]);
    }

    #[test]
    fn targets_come_with_their_addresses() {
        let name = Name::from_ascii("_http._tcp.db.ns.svc.cluster.local.").unwrap();
        let Answer::Found { additionals, .. } = answer(&name, T::SRV, &zone(), 0) else { panic!("not found") };
        let lines: Vec<String> = additionals.iter().map(|record| format!("{} {}", record.name, record.data)).collect();
        assert_eq!(
            lines,
            ["10-244-0-2.db.ns.svc.cluster.local. 10.244.0.2", "db-0.db.ns.svc.cluster.local. 10.244.0.1"]
        );
    }

    #[test]
    fn pods_and_reverse_names() {
        check("10-244-0-9.ns.pod.cluster.local.", T::A, &["10.244.0.9"]);
        check("10-244-0-9.nowhere.pod.cluster.local.", T::A, &["no name"]);
        check("x.ns.pod.cluster.local.", T::A, &["no name"]);
        check("5.0.96.10.in-addr.arpa.", T::PTR, &["web.ns.svc.cluster.local."]);
        check("1.0.244.10.in-addr.arpa.", T::PTR, &["db-0.db.ns.svc.cluster.local."]);
        check("9.9.9.9.in-addr.arpa.", T::PTR, &["elsewhere"]);
    }

    #[test]
    fn the_tree_above_the_names_is_there() {
        for name in ["cluster.local.", "svc.cluster.local.", "pod.cluster.local.", "ns.svc.cluster.local."] {
            check(name, T::A, &["no data"]);
        }
        check("nowhere.svc.cluster.local.", T::A, &["no name"]);
        check("dns-version.cluster.local.", T::TXT, &["1.1.0"]);
        check("cluster.local.", T::NS, &["ns.dns.cluster.local."]);
        check("x.cluster.local.", T::A, &["no name"]);
        // What a resolver's search list makes of an outside name must not go outside.
        check("example.com.ns.svc.cluster.local.", T::A, &["no name"]);
        check("example.com.", T::A, &["elsewhere"]);
        check("notcluster.local.", T::A, &["elsewhere"]);
    }

    #[test]
    fn answers_take_turns() {
        let name = Name::from_ascii("db.ns.svc.cluster.local.").unwrap();
        let first = |turn| match answer(&name, T::A, &zone(), turn) {
            Answer::Found { answers, .. } => answers[0].data.to_string(),
            other => panic!("{other:?}"),
        };
        assert_ne!(first(0), first(1));
    }
}
