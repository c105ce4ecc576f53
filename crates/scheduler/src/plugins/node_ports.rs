//! Two pods cannot listen on the same port of a node's address.

use super::Rejection;
use crate::facts::{ANY_ADDRESS, HostPort, NodeFacts, PodFacts};

pub const NAME: &str = "NodePorts";

pub fn filter(pod: &PodFacts, node: &NodeFacts) -> Result<(), Rejection> {
    let taken = |wanted: &HostPort| node.load.ports.iter().any(|used| conflict(wanted, used));
    if pod.needs.ports.iter().any(taken) {
        return Err(Rejection::resolvable(NAME, "node(s) didn't have free ports for the requested pod ports"));
    }
    Ok(())
}

fn conflict(wanted: &HostPort, used: &HostPort) -> bool {
    let (ip, protocol, port) = wanted;
    let (used_ip, used_protocol, used_port) = used;
    (port, protocol) == (used_port, used_protocol) && (ip == used_ip || ip == ANY_ADDRESS || used_ip == ANY_ADDRESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicts() {
        let check = |a: (&str, &str, i32), b: (&str, &str, i32), expected: bool| {
            let own = |(ip, protocol, port): (&str, &str, i32)| (ip.to_owned(), protocol.to_owned(), port);
            assert_eq!(conflict(&own(a), &own(b)), expected, "{a:?} {b:?}");
        };
        check(("0.0.0.0", "TCP", 80), ("0.0.0.0", "TCP", 80), true);
        check(("0.0.0.0", "TCP", 80), ("127.0.0.1", "TCP", 80), true);
        check(("127.0.0.1", "TCP", 80), ("127.0.0.2", "TCP", 80), false);
        check(("0.0.0.0", "TCP", 80), ("0.0.0.0", "UDP", 80), false);
        check(("0.0.0.0", "TCP", 80), ("0.0.0.0", "TCP", 81), false);
    }
}
