//! Numbers to give out: addresses of a CIDR or ports of a range. New ones come from the upper
//! part, so that the lower stays free for those who choose their own.
//!
//! Source: kubernetes/pkg/registry/core/service/{ipallocator,portallocator}.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The offset that separates the band for chosen numbers, as `min(max(min, size/step), max)`.
#[derive(Clone, Copy)]
struct Band {
    min: u128,
    max: u128,
    step: u128,
}

const ADDRESS_BAND: Band = Band { min: 16, max: 256, step: 16 };
const PORT_BAND: Band = Band { min: 16, max: 128, step: 32 };

impl Band {
    fn offset(self, size: u128) -> u128 {
        if size <= self.min { 0 } else { (size / self.step).clamp(self.min, self.max) }
    }
}

/// Numbers `0..size` that map to addresses or ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Space {
    size: u128,
    offset: u128,
}

impl Space {
    /// A free number: the first from a random start in the upper part, else in the lower.
    fn pick(self, random: u128, is_free: impl Fn(u128) -> bool) -> Option<u128> {
        let from = |start: u128, size: u128| {
            let turn = if size == 0 { 0 } else { random % size };
            (turn..size).chain(0..turn).map(move |step| start + step)
        };
        let upper = from(self.offset, self.size - self.offset);
        upper.chain(from(0, self.offset)).find(|number| is_free(*number))
    }
}

/// The addresses of one Service CIDR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub net: IpNet,
    first: u128,
    space: Space,
}

impl Addresses {
    /// Without the network's own address and, for IPv4, its broadcast address.
    pub fn new(net: IpNet) -> Self {
        let total = 1_u128.checked_shl(u32::from(net.max_prefix_len() - net.prefix_len())).unwrap_or(u128::MAX);
        let reserved = if net.addr().is_ipv4() { 2 } else { 1 };
        let size = total.saturating_sub(reserved);
        let first = number(net.network()) + 1;
        Self { net, first, space: Space { size, offset: ADDRESS_BAND.offset(size) } }
    }
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.net.addr().is_ipv4()
            && (self.first..self.first.saturating_add(self.space.size)).contains(&number(ip))
    }
    pub fn pick(&self, random: u128, is_free: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let number = self.space.pick(random, |number| is_free(self.address(number)))?;
        Some(self.address(number))
    }
    fn address(&self, offset: u128) -> IpAddr {
        let number = self.first + offset;
        match self.net {
            IpNet::V4(_) => Ipv4Addr::from(u32::try_from(number).expect("within an IPv4 range")).into(),
            IpNet::V6(_) => Ipv6Addr::from(number).into(),
        }
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

/// `--service-node-port-range`, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub first: u16,
    pub last: u16,
}

impl Ports {
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
    pub fn pick(&self, random: u128, is_free: impl Fn(u16) -> bool) -> Option<u16> {
        let size = u128::from(self.last - self.first) + 1;
        let port = |number: u128| self.first + u16::try_from(number).expect("within a port range");
        let space = Space { size, offset: PORT_BAND.offset(size) };
        space.pick(random, |number| is_free(port(number))).map(port)
    }
}

impl std::fmt::Display for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl std::str::FromStr for Ports {
    type Err = String;

    /// `30000-32767`
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a port range such as 30000-32767");
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let [first, last] = [first, last].map(|end| end.trim().parse().map_err(|_| wrong()));
        let (first, last): (u16, u16) = (first?, last?);
        if first == 0 || first > last { Err(wrong()) } else { Ok(Self { first, last }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(net: &str) -> Addresses {
        Addresses::new(net.parse().expect("a network"))
    }
    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn what_a_network_holds() {
        for (net, address, holds) in [
            ("10.96.0.0/16", "10.96.0.0", false),
            ("10.96.0.0/16", "10.96.0.1", true),
            ("10.96.0.0/16", "10.96.255.254", true),
            ("10.96.0.0/16", "10.96.255.255", false),
            ("10.96.0.0/16", "10.97.0.1", false),
            ("10.96.0.0/16", "fd00::1", false),
            ("10.0.0.1/32", "10.0.0.1", false),
            ("fd00::/112", "fd00::", false),
            ("fd00::/112", "fd00::ffff", true),
        ] {
            assert_eq!(addresses(net).contains(ip(address)), holds, "{address} in {net}");
        }
    }

    #[test]
    fn new_addresses_come_from_the_upper_part() {
        let net = addresses("10.96.0.0/16");
        assert_eq!(net.pick(0, |_| true), Some(ip("10.96.1.1")), "the lower 256 are for those who choose");
        assert_eq!(net.pick(5, |_| true), Some(ip("10.96.1.6")));
        assert_eq!(net.pick(0, |address| address != ip("10.96.1.1")), Some(ip("10.96.1.2")));
        let small = addresses("10.0.0.0/28");
        assert_eq!(small.pick(13, |_| true), Some(ip("10.0.0.14")));
        assert_eq!(small.pick(13, |address| address != ip("10.0.0.14")), Some(ip("10.0.0.1")), "wraps");
        assert_eq!(small.pick(0, |_| false), None, "full");
        assert_eq!(net.pick(7, |address| address == ip("10.96.0.9")), Some(ip("10.96.0.9")), "the lower part at last");
        assert_eq!(addresses("fd00::/64").pick(0, |_| true), Some(ip("fd00::101")));
    }

    #[test]
    fn ports() {
        let range: Ports = "30000-32767".parse().expect("a range");
        assert_eq!(range.pick(0, |_| true), Some(30086));
        assert_eq!(range.pick(0, |port| port < 30002), Some(30000));
        assert!(range.contains(30000) && range.contains(32767) && !range.contains(32768));
        for wrong in ["", "30000", "2-1", "0-1", "a-b", "1-70000"] {
            assert!(wrong.parse::<Ports>().is_err(), "{wrong}");
        }
    }
}
