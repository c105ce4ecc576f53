//! IP addresses, ranges and ports in objects, in upstream's words.

use std::net::IpAddr;

use api_types::{k8s::IntOrString, names};

use super::path::{Errors, Path};

/// Returns the address if it is one.
pub fn ip(value: &str, path: &Path, errors: &mut Errors) -> Option<IpAddr> {
    let address = value.parse().ok();
    if address.is_none() {
        errors.invalid(path, value, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }
    address
}

pub fn cidr(value: &str, path: &Path, errors: &mut Errors) -> Option<ipnet::IpNet> {
    let network = strict_cidr(value);
    if network.is_none() {
        errors.invalid(path, value, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    }
    network
}

/// Without leading zeros, which others read as octal (CVE-2021-29923): the network's own parser lets them pass.
fn strict_cidr(value: &str) -> Option<ipnet::IpNet> {
    let (address, prefix) = value.split_once('/')?;
    let has_one_reading = prefix == "0" || prefix.starts_with(|first: char| matches!(first, '1'..='9'));
    let address: IpAddr = address.parse().ok().filter(|_| has_one_reading)?;
    ipnet::IpNet::new(address, prefix.parse().ok()?).ok()
}

/// An address that another machine can be reached at: endpoints and external IPs.
///
/// Source: `ValidateNonSpecialIP` in pkg/apis/core/validation.
pub fn non_special(value: &str, path: &Path, errors: &mut Errors) {
    let Ok(address) = value.parse::<IpAddr>() else {
        errors.invalid(path, value, "must be a valid IP address");
        return;
    };
    // An IPv4 address in IPv6's clothes is that IPv4 address.
    let address = address.to_canonical();
    if address.is_unspecified() {
        errors.invalid(path, value, format!("may not be unspecified ({value})"));
    }
    if address.is_loopback() {
        errors.invalid(path, value, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    let (link_local, link_local_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    if link_local {
        errors.invalid(path, value, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_local_multicast {
        errors.invalid(path, value, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

pub fn port_number_or_name(port: &IntOrString, path: &Path, errors: &mut Errors) {
    match port {
        IntOrString::Int(number) => port_number(*number, path, errors),
        IntOrString::String(name) => errors.invalid_all(path, name.as_str(), names::port_name(name)),
    }
}

pub fn port_number(port: i32, path: &Path, errors: &mut Errors) {
    errors.invalid_all(path, port, names::port_number(i64::from(port)));
}

/// In the order in which upstream lists them.
pub const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_elsewhere() {
        for (address, word) in [
            ("10.0.0.1", ""),
            ("127.0.0.1", "loopback"),
            ("169.254.169.254", "link-local"),
            ("224.0.0.1", "link-local multicast"),
            ("0.0.0.0", "unspecified"),
            ("fe80::1", "link-local"),
            ("a", "valid IP"),
        ] {
            let mut errors = Errors::default();
            non_special(address, &Path::root("ip"), &mut errors);
            let message = errors.0.first().map(|error| error.detail.clone()).unwrap_or_default();
            assert!(message.contains(word) && message.is_empty() == word.is_empty(), "{address}: {message}");
        }
    }

    /// Attack table, row 30.
    #[test]
    fn networks_have_one_reading() {
        for (text, expected) in [
            ("10.0.0.0/8", true),
            ("0.0.0.0/0", true),
            ("10.1.2.3/8", true),
            ("2001:db8::/64", true),
            ("010.0.0.0/8", false),
            ("10.0.0.0/08", false),
            ("10.0.0.0/+8", false),
            ("10.0.0.0/33", false),
            ("10.0.0.0", false),
            ("10.0.0.0/", false),
        ] {
            assert_eq!(strict_cidr(text).is_some(), expected, "{text}");
        }
    }

    /// Attack table, row 8.
    #[test]
    fn special_addresses_have_no_other_name() {
        for (address, expected) in
            [("10.0.0.1", 0), ("::ffff:127.0.0.1", 1), ("::ffff:169.254.169.254", 1), ("::ffff:224.0.0.1", 1)]
        {
            let mut errors = Errors::default();
            non_special(address, &Path::root("ip"), &mut errors);
            assert_eq!(errors.0.len(), expected, "{address}");
        }
    }
}
