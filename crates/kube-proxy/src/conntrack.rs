//! UDP flows that the kernel still sends to an endpoint that is gone, or to nobody though
//! there is somebody now: which they are, and how they are forgotten. TCP notices by itself.
//!
//! Source: pkg/proxy/conntrack.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    process::Stdio,
};

use tokio::process::Command;

use crate::ruleset::{At, Family, Fate, Protocol, Wanted};

/// Flows to forget.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stale {
    pub family: Family,
    pub at: At,
    /// Those that go to this endpoint; `None`: all, as they go nowhere.
    pub endpoint: Option<IpAddr>,
}

/// Pure: what became stale between two states of a Service.
pub fn stale(old: &Wanted, new: &Wanted, family: Family) -> Vec<Stale> {
    let new = udp(new);
    let mut all = Vec::new();
    let before = udp(old);
    for (at, endpoints) in &before {
        let empty = BTreeSet::new();
        let left = new.get(at).unwrap_or(&empty);
        let gone = endpoints.difference(left);
        all.extend(gone.map(|endpoint| Stale { family, at: (*at).clone(), endpoint: Some(*endpoint) }));
    }
    for (at, endpoints) in &new {
        if !endpoints.is_empty() && before.get(at).is_none_or(BTreeSet::is_empty) {
            all.push(Stale { family, at: (*at).clone(), endpoint: None });
        }
    }
    all
}

/// Endpoints of all UDP frontends.
fn udp(wanted: &Wanted) -> BTreeMap<&At, BTreeSet<IpAddr>> {
    let frontends = wanted.ports.iter().flat_map(|port| &port.frontends);
    let udp = frontends.filter(|frontend| frontend.at.protocol() == Protocol::Udp);
    udp.map(|frontend| {
        let endpoints = match &frontend.fate {
            Fate::Balance { endpoints, inside } => {
                endpoints.iter().chain(inside.iter().flatten()).map(std::net::SocketAddr::ip).collect()
            }
            Fate::Reject | Fate::Drop => BTreeSet::new(),
        };
        (&frontend.at, endpoints)
    })
    .collect()
}

/// The `conntrack` command line that forgets them.
fn arguments(stale: &Stale) -> Vec<String> {
    let family = match stale.family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    };
    let mut words: Vec<String> = ["-D", "-f", family, "-p", "udp"].map(str::to_owned).to_vec();
    let port = match &stale.at {
        At::Address { ip, port, .. } => {
            words.extend(["--orig-dst".to_owned(), ip.to_string()]);
            port
        }
        At::NodePort { port, .. } => port,
    };
    words.extend(["--orig-port-dst".to_owned(), port.to_string()]);
    if let Some(endpoint) = stale.endpoint {
        words.extend(["--dst-nat".to_owned(), endpoint.to_string()]);
    }
    words
}

/// Forgets flows. That there were none is no failure; without the program they time out by themselves.
pub async fn forget(all: &[Stale]) {
    for stale in all {
        let mut command = Command::new("conntrack");
        command.args(arguments(stale)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        match command.status().await {
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "conntrack cannot be run: UDP clients may wait for a vanished endpoint; install conntrack");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ruleset::{
        tests::{service, slices},
        wanted,
    };

    fn check(before: &str, after: &str, expected: &[&str]) {
        let state = |endpoints: &str| {
            let mut all = slices(endpoints);
            let slice = std::sync::Arc::get_mut(&mut all[0]).unwrap();
            slice.ports.as_mut().unwrap()[0].protocol = Some("UDP".to_owned());
            let service = service(json!({"ports": [{"port": 53, "protocol": "UDP"}]}));
            wanted(&service, &all, "n", Family::V4)
        };
        let found = stale(&state(before), &state(after), Family::V4);
        let lines: Vec<String> = found.iter().map(|stale| arguments(stale).join(" ")).collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn flows_to_vanished_endpoints_and_to_nobody_are_stale() {
        check(
            "10.0.0.1 10.0.0.2",
            "10.0.0.2",
            &["-D -f ipv4 -p udp --orig-dst 10.96.0.5 --orig-port-dst 53 --dst-nat 10.0.0.1"],
        );
        check("", "10.0.0.2", &["-D -f ipv4 -p udp --orig-dst 10.96.0.5 --orig-port-dst 53"]);
        check("10.0.0.1", "10.0.0.1", &[]);
    }
}
