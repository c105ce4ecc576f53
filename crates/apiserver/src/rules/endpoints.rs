//! Endpoints and EndpointSlices: addresses that can be reached from elsewhere.
//!
//! Source: pkg/apis/core/validation/validation.go, pkg/apis/discovery/validation/validation.go.

use std::collections::BTreeSet;

use api_types::{
    k8s::{
        core::{EndpointAddress, Endpoints},
        discovery::{EndpointPort, EndpointSlice},
    },
    names,
};
use serde_json::Value;

use super::{
    PLAIN, Rules,
    address::{self, PROTOCOLS},
    check, check_change,
    edit::{each, fill, fill_text, first_generation, next_generation},
    path::{Errors, IMMUTABLE, Path, items, text},
};

const SLICE_PORTS_MAX: usize = 20_000;
const SLICE_ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const HINTS_MAX: usize = 8;

pub const ENDPOINTS: Rules = Rules {
    default: |endpoints| {
        for subset in each(endpoints, "subsets") {
            each(subset, "ports").for_each(|port| fill_text(port, "protocol", "TCP"));
        }
    },
    validate: |endpoints| check(endpoints, validate_endpoints),
    validate_update: |endpoints, _| check(endpoints, validate_endpoints),
    create_on_update: true,
    deprecation: "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
    ..PLAIN
};

pub const ENDPOINT_SLICE: Rules = Rules {
    default: default_slice,
    prepare_create: first_generation,
    prepare_update: |new, old| {
        let changed = ["addressType", "endpoints", "ports"].iter().any(|field| new.get(*field) != old.get(*field))
            || new.pointer("/metadata/labels") != old.pointer("/metadata/labels");
        next_generation(new, old, changed);
    },
    validate: |slice| check(slice, validate_slice),
    validate_update: |new, old| {
        check_change(new, old, |new: &EndpointSlice, old, errors| {
            validate_slice(new, errors);
            if new.address_type != old.address_type {
                errors.invalid(&Path::root("addressType"), &new.address_type, IMMUTABLE);
            }
        })
    },
    ..PLAIN
};

fn default_slice(slice: &mut Value) {
    for port in each(slice, "ports") {
        fill(port, "name", "");
        fill_text(port, "protocol", "TCP");
    }
}

fn validate_endpoints(endpoints: &Endpoints, errors: &mut Errors) {
    for (i, subset) in items(&endpoints.subsets).iter().enumerate() {
        let path = Path::root("subsets");
        let path = path.index(i);
        let (ready, not_ready) = (items(&subset.addresses), items(&subset.not_ready_addresses));
        if ready.is_empty() && not_ready.is_empty() {
            errors.required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for (field, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
            for (j, address) in addresses.iter().enumerate() {
                endpoint_address(address, &path.field(field).index(j), errors);
            }
        }
        let ports = items(&subset.ports);
        for (j, port) in ports.iter().enumerate() {
            let path = path.field("ports");
            let path = path.index(j);
            match text(&port.name) {
                "" if ports.len() > 1 => errors.required(&path.field("name"), ""),
                "" => {}
                name => errors.invalid_all(&path.field("name"), name, names::dns1123_label(name)),
            }
            address::port_number(port.port, &path.field("port"), errors);
            errors.required_one_of(&path.field("protocol"), text(&port.protocol), &PROTOCOLS);
            app_protocol(port.app_protocol.as_ref(), &path.field("appProtocol"), errors);
        }
    }
}

fn endpoint_address(address: &EndpointAddress, path: &Path, errors: &mut Errors) {
    let hostname = text(&address.hostname);
    if !hostname.is_empty() {
        errors.invalid_all(&path.field("hostname"), hostname, names::dns1123_label(hostname));
    }
    if let Some(node) = &address.node_name {
        errors.invalid_all(&path.field("nodeName"), node.as_str(), names::dns1123_subdomain(node));
    }
    if address::ip(&address.ip, &path.field("ip"), errors).is_some() {
        address::non_special(&address.ip, &path.field("ip"), errors);
    }
}

fn app_protocol(protocol: Option<&String>, path: &Path, errors: &mut Errors) {
    if let Some(protocol) = protocol {
        errors.invalid_all(path, protocol.as_str(), names::qualified_name(protocol));
    }
}

fn validate_slice(slice: &EndpointSlice, errors: &mut Errors) {
    let kind = slice.address_type.as_str();
    match kind {
        "" => errors.required(&Path::root("addressType"), ""),
        kind => errors.one_of(&Path::root("addressType"), kind, &["FQDN", "IPv4", "IPv6"]),
    }
    let endpoints_path = Path::root("endpoints");
    let endpoints = items(&slice.endpoints);
    if endpoints.len() > SLICE_ENDPOINTS_MAX {
        errors.too_many(&endpoints_path, endpoints.len(), SLICE_ENDPOINTS_MAX);
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let path = endpoints_path.index(i);
        let addresses = path.field("addresses");
        match endpoint.addresses.len() {
            0 => errors.required(&addresses, "must contain at least 1 address"),
            many if many > ADDRESSES_MAX => errors.too_many(&addresses, many, ADDRESSES_MAX),
            _ => {}
        }
        for (j, address) in endpoint.addresses.iter().enumerate() {
            slice_address(kind, address, &addresses.index(j), errors);
        }
        if let Some(node) = &endpoint.node_name {
            errors.invalid_all(&path.field("nodeName"), node.as_str(), names::dns1123_subdomain(node));
        }
        if let Some(hostname) = &endpoint.hostname {
            errors.invalid_all(&path.field("hostname"), hostname.as_str(), names::dns1123_label(hostname));
        }
        // Older versions of the API said in the topology what now has fields of its own.
        for key in endpoint.deprecated_topology.iter().flatten().map(|(key, _)| key) {
            if matches!(key.as_str(), "topology.kubernetes.io/zone" | "kubernetes.io/hostname") {
                let detail = format!("may not set {key} label in deprecatedTopology");
                errors.forbidden(&path.field("deprecatedTopology").key(key), detail);
            }
        }
        let zones = endpoint.hints.as_ref().map(|hints| items(&hints.for_zones)).unwrap_or_default();
        if zones.len() > HINTS_MAX {
            errors.too_many(&path.field("hints.forZones"), zones.len(), HINTS_MAX);
        }
        for (j, zone) in zones.iter().enumerate() {
            let path = path.field("hints.forZones");
            let path = path.index(j);
            match zone.name.as_str() {
                "" => errors.required(&path.field("name"), ""),
                name => errors.invalid_all(&path.field("name"), name, names::label_value(name)),
            }
            if zones[..j].contains(zone) {
                errors.duplicate(&path.field("name"), &zone.name);
            }
        }
    }
    slice_ports(items(&slice.ports), errors);
}

fn slice_address(kind: &str, value: &str, path: &Path, errors: &mut Errors) {
    match kind {
        "IPv4" | "IPv6" => {
            let parsed = value.parse::<std::net::IpAddr>().ok();
            let is_family = parsed.is_some_and(|ip| ip.is_ipv4() == (kind == "IPv4"));
            if !is_family {
                errors.invalid(path, value, format!("must be a valid {kind} address"));
            } else {
                address::non_special(value, path, errors);
            }
        }
        "FQDN" => errors.invalid_all(path, value, names::dns1123_subdomain(value)),
        _ => {}
    }
}

fn slice_ports(ports: &[EndpointPort], errors: &mut Errors) {
    let path = Path::root("ports");
    if ports.len() > SLICE_PORTS_MAX {
        errors.too_many(&path, ports.len(), SLICE_PORTS_MAX);
    }
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = text(&port.name);
        if !name.is_empty() {
            errors.invalid_all(&path.field("name"), name, names::dns1123_label(name));
        }
        if !seen.insert(name) {
            errors.duplicate(&path.field("name"), name);
        }
        errors.required_one_of(&path.field("protocol"), text(&port.protocol), &PROTOCOLS);
        app_protocol(port.app_protocol.as_ref(), &path.field("appProtocol"), errors);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::texts;

    #[test]
    fn endpoints() {
        let object = json!({"subsets": [{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 80}]}, {}]});
        let mut object = object;
        (ENDPOINTS.default)(&mut object);
        assert_eq!(
            texts((ENDPOINTS.validate)(&object)),
            [
                "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                "subsets[1]: Required value: must specify `addresses` or `notReadyAddresses`",
            ]
        );
    }

    #[test]
    fn slices() {
        let slice = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["::1"]}, {"addresses": []}]});
        assert_eq!(
            texts((ENDPOINT_SLICE.validate)(&slice)),
            [
                "endpoints[1].addresses[0]: Invalid value: \"::1\": must be a valid IPv4 address",
                "endpoints[2].addresses: Required value: must contain at least 1 address",
            ]
        );
    }

    /// Addresses that would lead back to the node itself, in whatever clothes.
    #[test]
    fn addresses_lead_elsewhere() {
        for (address, part) in [
            ("127.0.0.1", "loopback range"),
            ("::1", "loopback range"),
            ("::ffff:127.0.0.1", "loopback range"),
            ("169.254.1.1", "link-local range"),
            ("::ffff:169.254.1.1", "link-local range"),
            ("fe80::1", "link-local range"),
            ("224.0.0.1", "link-local multicast range"),
            ("ff02::1", "link-local multicast range"),
            ("0.0.0.0", "unspecified"),
            ("::", "unspecified"),
        ] {
            let object = json!({"subsets": [{"addresses": [{"ip": address}]}]});
            let found = texts((ENDPOINTS.validate)(&object));
            assert!(found.len() == 1 && found[0].contains(part), "{address}: {found:?}");
            let kind = if address.contains(':') { "IPv6" } else { "IPv4" };
            let slice = json!({"addressType": kind, "endpoints": [{"addresses": [address]}]});
            let found = texts((ENDPOINT_SLICE.validate)(&slice));
            assert!(found.len() == 1 && found[0].contains(part), "{address}: {found:?}");
        }
    }
}
