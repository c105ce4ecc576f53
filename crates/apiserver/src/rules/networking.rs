//! Ingresses, their classes, and NetworkPolicies.
//!
//! Source: pkg/apis/networking/{v1/defaults.go,validation/validation.go}.

use api_types::{
    k8s::{
        IntOrString,
        networking::{
            HTTPIngressPath, IPBlock, Ingress, IngressBackend, IngressClass, IngressSpec, NetworkPolicy,
            NetworkPolicyPeer, NetworkPolicyPort, ServiceCIDR,
        },
    },
    names,
};
use serde_json::{Value, json};

use super::{
    PLAIN, Rules,
    address::{self, PROTOCOLS},
    check, check_change,
    edit::{child, copy, each, fill_text, first_generation, is_present, list, next_generation, set},
    facts::{self, Fact, Must},
    path::{Errors, IMMUTABLE, Path, items, text},
    selector::label_selector,
    status, take_status_alone, warnings,
};

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const CONTROLLER_MAX: usize = 250;
const SPEC: Path = Path::root("spec");
/// Parts of a path that a proxy might read as another path.
const PATH_SEQUENCES: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const PATH_SUFFIXES: [&str; 2] = ["/..", "/."];

pub const INGRESS: Rules = Rules {
    default: |ingress| {
        child(child(ingress, "status"), "loadBalancer");
        child(ingress, "spec");
    },
    prepare_create: |ingress| {
        first_generation(ingress);
        set(ingress, "status", json!({ "loadBalancer": {} }));
    },
    prepare_update: |new, old| {
        copy(new, old, "status");
        let changed = new.get("spec") != old.get("spec");
        next_generation(new, old, changed);
    },
    validate: |ingress| check(ingress, validate_new_ingress),
    validate_update: |ingress, _| check(ingress, validate_ingress),
    validate_status_update: status::ingress,
    warnings: warnings::ingress,
    ..PLAIN
};

pub const INGRESS_CLASS: Rules = Rules {
    default: |class| {
        if let Some(parameters) =
            super::edit::field(class, "spec").and_then(|spec| super::edit::field(spec, "parameters"))
        {
            fill_text(parameters, "scope", "Cluster");
        }
    },
    prepare_create: first_generation,
    prepare_update: count_specs,
    validate: |class| check(class, validate_class),
    validate_update: |new, old| {
        check_change(new, old, |new: &IngressClass, old, errors| {
            let controller = |class: &IngressClass| class.spec.as_ref().and_then(|spec| spec.controller.clone());
            errors.immutable(&SPEC.field("controller"), &controller(new), &controller(old));
            validate_class(new, errors);
        })
    },
    ..PLAIN
};

pub const NETWORK_POLICY: Rules = Rules {
    default: default_policy,
    prepare_create: first_generation,
    prepare_update: count_specs,
    validate: |policy| check(policy, validate_policy),
    validate_update: |policy, _| check(policy, validate_policy),
    ..PLAIN
};

/// The name is the address, in its one canonical spelling.
pub const IP_ADDRESS: Rules = Rules {
    name: |name| match name.parse::<std::net::IpAddr>() {
        Ok(address) if address.to_string() == name => Vec::new(),
        Ok(address) => vec![format!("must be in canonical form ({:?})", address.to_string())],
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    },
    validate: |address| facts::check(address, ADDRESS),
    validate_update: |new, old| facts::frozen(new, old, &["spec.parentRef"]),
    ..PLAIN
};

const ADDRESS: &[Fact] = &[
    Fact("spec.parentRef", Must::Exist("")),
    Fact(
        "spec.parentRef",
        Must::Hold(&[
            Fact("group", Must::BeNamed(names::dns1123_subdomain)),
            Fact("resource", Must::ExistAs(names::path_segment)),
            Fact("name", Must::ExistAs(names::path_segment)),
            Fact("namespace", Must::BeNamed(names::path_segment)),
        ]),
    ),
];

/// The status is the controller's, but no part of a write is kept from it.
pub const SERVICE_CIDR: Rules = Rules {
    default: |range| {
        child(range, "status");
    },
    prepare_status_update: take_status_alone,
    validate: |range| check(range, validate_ranges),
    validate_update: |new, old| check_change(new, old, ranges_update),
    ..PLAIN
};

/// One range, or one for each family.
fn validate_ranges(range: &ServiceCIDR, errors: &mut Errors) {
    let ranges = range.spec.as_ref().map(|spec| items(&spec.cidrs)).unwrap_or_default();
    let path = SPEC.field("cidrs");
    match ranges.len() {
        0 => return errors.required(&path, "at least one CIDR required"),
        1 | 2 => {}
        _ => return errors.invalid(&path, ranges, "may only hold up to 2 values"),
    }
    let parsed: Vec<_> =
        ranges.iter().enumerate().map(|(i, range)| address::cidr(range, &path.index(i), errors)).collect();
    if let [Some(one), Some(other)] = parsed[..]
        && one.addr().is_ipv4() == other.addr().is_ipv4()
    {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.invalid(&path, ranges, detail);
    }
}

/// A second family may be added; what is there stays.
fn ranges_update(new: &ServiceCIDR, old: &ServiceCIDR, errors: &mut Errors) {
    let ranges = |range: &ServiceCIDR| range.spec.as_ref().and_then(|spec| spec.cidrs.clone()).unwrap_or_default();
    let (after, before) = (ranges(new), ranges(old));
    let path = SPEC.field("cidrs");
    if after.len() != before.len() && (before.len(), after.len()) != (1, 2) {
        return errors.invalid(&path, after, IMMUTABLE);
    }
    for (i, (after, _)) in after.iter().zip(&before).enumerate().filter(|(_, (after, before))| after != before) {
        errors.invalid(&path.index(i), after, IMMUTABLE);
    }
    if after.len() > before.len() {
        validate_ranges(new, errors);
    }
}

/// For kinds whose only state is the spec.
pub fn count_specs(new: &mut Value, old: &Value) {
    let changed = new.get("spec") != old.get("spec");
    next_generation(new, old, changed);
}

fn default_policy(policy: &mut Value) {
    let spec = child(policy, "spec");
    for rules in ["ingress", "egress"] {
        for rule in each(spec, rules) {
            each(rule, "ports").for_each(|port| fill_text(port, "protocol", "TCP"));
        }
    }
    if list(spec, "policyTypes").is_empty() {
        let both = is_present(spec, "egress") && !list(spec, "egress").is_empty();
        set(spec, "policyTypes", if both { vec!["Ingress", "Egress"] } else { vec!["Ingress"] });
    }
}

/// The class is named by the field or, the old way, by the annotation.
fn validate_new_ingress(ingress: &Ingress, errors: &mut Errors) {
    let annotations = ingress.metadata.annotations.as_ref();
    let class = annotations.and_then(|annotations| annotations.get(CLASS_ANNOTATION));
    let is_named = ingress.spec.as_ref().is_some_and(|spec| spec.ingress_class_name.is_some());
    if let Some(class) = class.filter(|_| is_named) {
        let path = Path::root("metadata.annotations");
        errors.invalid(&path.field(CLASS_ANNOTATION), class, "can not be set when the class field is also set");
    }
    validate_ingress(ingress, errors);
}

fn validate_ingress(ingress: &Ingress, errors: &mut Errors) {
    let none = IngressSpec::default();
    let spec = ingress.spec.as_ref().unwrap_or(&none);
    if items(&spec.rules).is_empty() && spec.default_backend.is_none() {
        errors.invalid(&SPEC, items(&spec.rules), "either `defaultBackend` or `rules` must be specified");
    }
    if let Some(backend) = &spec.default_backend {
        validate_backend(backend, &SPEC.field("defaultBackend"), errors);
    }
    for (i, rule) in items(&spec.rules).iter().enumerate() {
        let path = SPEC.field("rules");
        let path = path.index(i);
        host(text(&rule.host), &path.field("host"), errors);
        let Some(http) = &rule.http else { continue };
        if http.paths.is_empty() {
            errors.required(&path.field("http.paths"), "");
        }
        for (j, http_path) in http.paths.iter().enumerate() {
            validate_path(http_path, &path.field("http.paths").index(j), errors);
        }
    }
    for (i, tls) in items(&spec.tls).iter().enumerate() {
        let path = SPEC.field("tls");
        let path = path.index(i);
        for (j, name) in items(&tls.hosts).iter().enumerate() {
            wildcard_or_name(name, &path.field("hosts").index(j), errors);
        }
        let secret = text(&tls.secret_name);
        if !secret.is_empty() {
            errors.invalid_all(&path.field("secretName"), secret, names::dns1123_subdomain(secret));
        }
    }
    if let Some(class) = &spec.ingress_class_name {
        errors.invalid_all(&SPEC.field("ingressClassName"), class.as_str(), names::dns1123_subdomain(class));
    }
}

fn host(name: &str, path: &Path, errors: &mut Errors) {
    if name.is_empty() {
        return;
    }
    if name.parse::<std::net::IpAddr>().is_ok() {
        errors.invalid(path, name, "must be a DNS name, not an IP address");
    }
    wildcard_or_name(name, path, errors);
}

fn wildcard_or_name(name: &str, path: &Path, errors: &mut Errors) {
    let messages =
        if name.contains('*') { names::wildcard_dns1123_subdomain(name) } else { names::dns1123_subdomain(name) };
    errors.invalid_all(path, name, messages);
}

fn validate_path(http_path: &HTTPIngressPath, path: &Path, errors: &mut Errors) {
    let value = text(&http_path.path);
    match http_path.path_type.as_str() {
        "" => errors.required(&path.field("pathType"), "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !value.starts_with('/') {
                errors.invalid(&path.field("path"), value, "must be an absolute path");
            }
            if !value.is_empty() {
                for sequence in PATH_SEQUENCES.iter().filter(|sequence| value.contains(**sequence)) {
                    errors.invalid(&path.field("path"), value, format!("must not contain '{sequence}'"));
                }
                for suffix in PATH_SUFFIXES.iter().filter(|suffix| value.ends_with(**suffix)) {
                    errors.invalid(&path.field("path"), value, format!("cannot end with '{suffix}'"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !value.is_empty() && !value.starts_with('/') {
                errors.invalid(&path.field("path"), value, "must be an absolute path");
            }
        }
        kind => {
            errors.not_supported(&path.field("pathType"), kind, &["Exact", "ImplementationSpecific", "Prefix"]);
        }
    }
    validate_backend(&http_path.backend, &path.field("backend"), errors);
}

fn validate_backend(backend: &IngressBackend, path: &Path, errors: &mut Errors) {
    match (&backend.service, &backend.resource) {
        (Some(_), Some(_)) => errors.invalid(path, "", "cannot set both resource and service backends"),
        (None, None) => errors.invalid(path, "", "resource or service backend is required"),
        (None, Some(resource)) => {
            for (field, value) in [("kind", &resource.kind), ("name", &resource.name)] {
                if value.is_empty() {
                    errors.required(&path.field("resource").field(field), "");
                }
            }
        }
        (Some(service), None) => {
            let path = path.field("service");
            match service.name.as_str() {
                "" => errors.required(&path.field("name"), ""),
                name => errors.invalid_all(&path.field("name"), name, names::dns1035_label(name)),
            }
            let port = service.port.clone().unwrap_or_default();
            match (text(&port.name), port.number.unwrap_or(0)) {
                ("", 0) => errors.required(&path, "port name or number is required"),
                ("", number) => address::port_number(number, &path.field("port.number"), errors),
                (name, 0) => errors.invalid_all(&path.field("port.name"), name, names::port_name(name)),
                (_, _) => errors.invalid(&path, "", "cannot set both port name & port number"),
            }
        }
    }
}

fn validate_class(class: &IngressClass, errors: &mut Errors) {
    let Some(spec) = &class.spec else { return };
    let controller = text(&spec.controller);
    let path = SPEC.field("controller");
    if controller.len() > CONTROLLER_MAX {
        errors.too_long(&path, CONTROLLER_MAX);
    }
    let is_path = controller
        .split_once('/')
        .is_some_and(|(domain, rest)| names::dns1123_subdomain(domain).is_empty() && !rest.is_empty());
    if !is_path {
        errors.invalid(&path, controller, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    }
    let Some(parameters) = &spec.parameters else { return };
    let path = SPEC.field("parameters");
    for (field, value) in [("kind", &parameters.kind), ("name", &parameters.name)] {
        if value.is_empty() {
            errors.required(&path.field(field), "");
        }
    }
    match (text(&parameters.scope), &parameters.namespace) {
        ("Cluster", Some(_)) => {
            errors.forbidden(&path.field("namespace"), "`parameters.scope` is set to 'Cluster'");
        }
        ("Namespace", None) => errors.required(&path.field("namespace"), "`parameters.scope` is set to 'Namespace'"),
        ("Cluster" | "Namespace", _) => {}
        (scope, _) => errors.not_supported(&path.field("scope"), scope, &["Cluster", "Namespace"]),
    }
}

fn validate_policy(policy: &NetworkPolicy, errors: &mut Errors) {
    let Some(spec) = &policy.spec else { return };
    label_selector(spec.pod_selector.as_ref(), &SPEC.field("podSelector"), errors);
    for (i, rule) in items(&spec.ingress).iter().enumerate() {
        let path = SPEC.field("ingress");
        let path = path.index(i);
        ports(items(&rule.ports), &path.field("ports"), errors);
        peers(items(&rule.from), &path.field("from"), errors);
    }
    for (i, rule) in items(&spec.egress).iter().enumerate() {
        let path = SPEC.field("egress");
        let path = path.index(i);
        ports(items(&rule.ports), &path.field("ports"), errors);
        peers(items(&rule.to), &path.field("to"), errors);
    }
    let types = items(&spec.policy_types);
    let path = SPEC.field("policyTypes");
    if types.len() > 2 {
        return errors.invalid(&path, types, "may not specify more than two policyTypes");
    }
    for (i, kind) in types.iter().enumerate() {
        errors.one_of(&path.index(i), kind, &["Egress", "Ingress"]);
    }
}

fn ports(ports: &[NetworkPolicyPort], path: &Path, errors: &mut Errors) {
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        if let Some(protocol) = &port.protocol {
            errors.one_of(&path.field("protocol"), protocol, &PROTOCOLS);
        }
        match (&port.port, port.end_port) {
            (Some(IntOrString::Int(start)), end) => {
                address::port_number(*start, &path.field("port"), errors);
                if let Some(end) = end.filter(|end| end < start) {
                    errors.invalid(&path.field("endPort"), end, "must be greater than or equal to `port`");
                }
                if let Some(end) = end {
                    address::port_number(end, &path.field("endPort"), errors);
                }
            }
            (Some(IntOrString::String(name)), end) => {
                errors.invalid_all(&path.field("port"), name.as_str(), names::port_name(name));
                if let Some(end) = end {
                    errors.invalid(&path.field("endPort"), end, "may not be specified when `port` is non-numeric");
                }
            }
            (None, Some(end)) => {
                errors.invalid(&path.field("endPort"), end, "may not be specified when `port` is not specified")
            }
            (None, None) => {}
        }
    }
}

fn peers(peers: &[NetworkPolicyPeer], path: &Path, errors: &mut Errors) {
    for (i, peer) in peers.iter().enumerate() {
        let path = path.index(i);
        label_selector(peer.pod_selector.as_ref(), &path.field("podSelector"), errors);
        label_selector(peer.namespace_selector.as_ref(), &path.field("namespaceSelector"), errors);
        let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        match &peer.ip_block {
            Some(_) if selects => {
                errors.forbidden(&path, "may not specify both ipBlock and another peer");
            }
            Some(block) => ip_block(block, &path.field("ipBlock"), errors),
            None if !selects => errors.required(&path, "must specify a peer"),
            None => {}
        }
    }
}

fn ip_block(block: &IPBlock, path: &Path, errors: &mut Errors) {
    if block.cidr.is_empty() {
        return errors.required(&path.field("cidr"), "");
    }
    let Some(network) = address::cidr(&block.cidr, &path.field("cidr"), errors) else { return };
    for (i, except) in items(&block.except).iter().enumerate() {
        let path = path.field("except");
        let path = path.index(i);
        let Some(hole) = address::cidr(except, &path, errors) else { continue };
        if !network.contains(&hole) || network.prefix_len() >= hole.prefix_len() {
            errors.invalid(&path, except, "must be a strict subset of `cidr`");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    #[test]
    fn ingresses() {
        for (spec, errors) in [
            (
                json!({"rules": [{"host": "a.b", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}}]}),
                &[][..],
            ),
            (json!({}), &["spec: Invalid value: []: either `defaultBackend` or `rules` must be specified"]),
            (
                json!({"rules": [{"host": "1.2.3.4", "http": {"paths": [{"path": "x", "pathType": "Exact", "backend": {"service": {"name": "s"}}}]}}]}),
                &[
                    "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
                    "spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path",
                    "spec.rules[0].http.paths[0].backend.service: Required value: port name or number is required",
                ],
            ),
        ] {
            assert_eq!(texts((INGRESS.validate)(&json!({ "spec": spec }))), errors);
        }
    }

    #[test]
    fn policies() {
        let mut policy = json!({"spec": {"podSelector": {}, "egress": [{"ports": [{"port": 80, "endPort": 70}],
            "to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}, {}]}]}});
        (NETWORK_POLICY.default)(&mut policy);
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(
            texts((NETWORK_POLICY.validate)(&policy)),
            [
                "spec.egress[0].ports[0].endPort: Invalid value: 70: must be greater than or equal to `port`",
                "spec.egress[0].to[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
                "spec.egress[0].to[1]: Required value: must specify a peer",
            ]
        );
    }
}
