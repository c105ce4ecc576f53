//! Which IP families a Service has: from what it asks for, what it had, and what the cluster offers.
//!
//! Source: `initIPFamilyFields` in kubernetes/pkg/registry/core/service/storage/alloc.go.

use std::net::IpAddr;

use api_types::FieldError;
use serde_json::{Value, json};

use super::service::{NONE, is_external, texts};

const POLICY: &str = "ipFamilyPolicy";
const SINGLE: &str = "SingleStack";
const REQUIRE: &str = "RequireDualStack";

/// Fills `ipFamilyPolicy` and `ipFamilies` of a Service's spec. `offered` are the cluster's
/// families, the default first.
pub fn fill(spec: &mut Value, old: Option<&Value>, offered: &[&str]) -> Result<(), Vec<FieldError>> {
    if is_external(spec) || old.is_some_and(|old| keeps_prefer_dual(spec, old)) {
        return Ok(());
    }
    let selectorless = spec["selector"].as_object().is_none_or(|selector| selector.is_empty());
    let is_open_headless = spec["clusterIP"] == NONE && selectorless;
    if !spec[POLICY].is_string() {
        let before = old.map(|old| &old[POLICY]).filter(|policy| policy.is_string());
        spec[POLICY] = match before {
            Some(policy) => policy.clone(),
            None if is_open_headless => json!(REQUIRE),
            None => json!(SINGLE),
        };
    }
    let policy = spec[POLICY].as_str().unwrap_or_default().to_owned();
    let mut errors = old.map(|old| shrink(spec, old, &policy)).unwrap_or_default();
    errors.extend(too_many(spec, &policy));
    errors.extend(infer_from_addresses(spec, offered));
    if !errors.is_empty() {
        return Err(errors);
    }
    if !is_open_headless {
        errors = not_offered(spec, &policy, offered);
        if !errors.is_empty() {
            return Err(errors);
        }
    }
    complete(spec, &policy, if is_open_headless { &["IPv4", "IPv6"] } else { offered }, offered);
    Ok(())
}

/// A PreferDualStack Service is neither widened nor narrowed because the cluster's offer changed.
fn keeps_prefer_dual(spec: &Value, old: &Value) -> bool {
    let same_type = spec["type"] == old["type"];
    let same_policy = spec[POLICY] == "PreferDualStack" && spec[POLICY] == old[POLICY];
    let same_or_first = |field: &str| texts(&spec[field]).is_empty() || texts(&spec[field]) == texts(&old[field]);
    same_type
        && same_policy
        && (spec["clusterIP"].is_null() || spec["clusterIP"] == old["clusterIP"])
        && same_or_first("clusterIPs")
        && same_or_first("ipFamilies")
        && !texts(&spec["clusterIPs"]).is_empty()
}

/// Going to single stack gives up the second address; otherwise giving one up is a mistake.
fn shrink(spec: &mut Value, old: &Value, policy: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (field, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
        let (new, before) = (texts(&spec[field]), texts(&old[field]));
        if policy == SINGLE {
            if new.len() > 1 && new == before {
                spec[field] = json!([new[0]]);
            }
        } else if before.len() == 2 && new.len() == 1 && new[0] == before[0] {
            let detail = format!("must be 'SingleStack' to release the secondary {what}");
            errors.push(FieldError::invalid("spec.ipFamilyPolicy", policy, detail));
        }
    }
    errors
}

fn too_many(spec: &Value, policy: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (field, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
        if policy == SINGLE && texts(&spec[field]).len() == 2 {
            let detail = format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
            errors.push(FieldError::invalid("spec.ipFamilyPolicy", policy, detail));
        }
    }
    errors
}

fn infer_from_addresses(spec: &mut Value, offered: &[&str]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let addresses = texts(&spec["clusterIPs"]);
    let mut families = texts(&spec["ipFamilies"]);
    for (at, address) in addresses.iter().enumerate().skip(families.len()) {
        if address == NONE || address.is_empty() {
            break;
        }
        let family = family_of(address);
        if offered.contains(&family) {
            families.push(family.to_owned());
        } else {
            let detail = format!("{family} is not configured on this cluster");
            errors.push(FieldError::invalid(format!("spec.clusterIPs[{at}]"), &addresses, detail));
        }
    }
    if !families.is_empty() {
        spec["ipFamilies"] = json!(families);
    }
    errors
}

fn not_offered(spec: &Value, policy: &str, offered: &[&str]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if policy == REQUIRE && offered.len() < 2 {
        let detail = "this cluster is not configured for dual-stack services";
        errors.push(FieldError::invalid("spec.ipFamilyPolicy", policy, detail));
    }
    for (at, family) in texts(&spec["ipFamilies"]).iter().enumerate() {
        if !offered.contains(&family.as_str()) {
            errors.push(FieldError::invalid(
                format!("spec.ipFamilies[{at}]"),
                family,
                "not configured on this cluster",
            ));
        }
    }
    errors
}

fn complete(spec: &mut Value, policy: &str, possible: &[&str], offered: &[&str]) {
    let mut families = texts(&spec["ipFamilies"]);
    if families.is_empty() {
        families.extend(offered.first().map(|family| (*family).to_owned()));
    }
    if policy != SINGLE && families.len() == 1 {
        let other = possible.iter().find(|family| **family != families[0]);
        families.extend(other.map(|family| (*family).to_owned()));
    }
    spec["ipFamilies"] = json!(families);
}

/// `IPv6` for what has a colon; other texts were refused by validation.
pub fn family_of(address: &str) -> &'static str {
    match address.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => "IPv6",
        Ok(IpAddr::V4(_)) | Err(_) => "IPv4",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &[&str] = &["IPv4"];
    const DUAL: &[&str] = &["IPv4", "IPv6"];

    /// `expected`: `policy families`, or the refusal.
    fn check(spec: Value, old: Option<Value>, offered: &[&str], expected: &str) {
        let mut filled = spec.clone();
        let got = match fill(&mut filled, old.as_ref(), offered) {
            Ok(()) => format!("{} {}", filled[POLICY].as_str().unwrap_or("-"), texts(&filled["ipFamilies"]).join(",")),
            Err(errors) => format!("{}: {}", errors[0].field, errors[0].detail),
        };
        assert_eq!(got, expected, "{spec} after {old:?} on {offered:?}");
    }

    #[test]
    fn new_services() {
        check(json!({"selector": {"a": "b"}}), None, V4, "SingleStack IPv4");
        check(json!({}), None, DUAL, "SingleStack IPv4");
        check(json!({"type": "ExternalName"}), None, V4, "- ");
        check(json!({"clusterIP": "None", "clusterIPs": ["None"]}), None, V4, "RequireDualStack IPv4,IPv6");
        check(
            json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": {"a": "b"}}),
            None,
            V4,
            "SingleStack IPv4",
        );
        check(json!({"ipFamilyPolicy": "PreferDualStack"}), None, V4, "PreferDualStack IPv4");
        check(json!({"ipFamilyPolicy": "PreferDualStack"}), None, DUAL, "PreferDualStack IPv4,IPv6");
        check(
            json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6"]}),
            None,
            DUAL,
            "PreferDualStack IPv6,IPv4",
        );
        check(json!({"clusterIP": "fd00::5", "clusterIPs": ["fd00::5"]}), None, DUAL, "SingleStack IPv6");
    }

    #[test]
    fn what_the_cluster_cannot_do() {
        check(
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            None,
            V4,
            "spec.ipFamilyPolicy: this cluster is not configured for dual-stack services",
        );
        check(json!({"ipFamilies": ["IPv6"]}), None, V4, "spec.ipFamilies[0]: not configured on this cluster");
        check(
            json!({"clusterIP": "fd00::5", "clusterIPs": ["fd00::5"]}),
            None,
            V4,
            "spec.clusterIPs[0]: IPv6 is not configured on this cluster",
        );
        check(
            json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"]}),
            None,
            DUAL,
            "spec.ipFamilyPolicy: must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
        );
    }

    #[test]
    fn updates() {
        let dual = json!({
            "type": "ClusterIP", "ipFamilyPolicy": "RequireDualStack", "clusterIP": "10.0.0.1",
            "clusterIPs": ["10.0.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"],
        });
        let mut single = dual.clone();
        single[POLICY] = json!(SINGLE);
        check(single, Some(dual.clone()), DUAL, "SingleStack IPv4");
        let mut fewer = dual.clone();
        fewer["clusterIPs"] = json!(["10.0.0.1"]);
        check(
            fewer,
            Some(dual),
            DUAL,
            "spec.ipFamilyPolicy: must be 'SingleStack' to release the secondary cluster IP",
        );
    }
}
