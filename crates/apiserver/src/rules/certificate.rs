//! Certificate signing requests: what was asked for stays, and approval is given elsewhere.
//!
//! Source: pkg/apis/certificates/validation/validation.go, pkg/registry/certificates/certificates/strategy.go.

use std::collections::BTreeSet;

use api_types::{FieldError, k8s::certificates::CertificateSigningRequest, names};
use serde_json::{Value, json};

use super::{
    PLAIN, Rules, check,
    edit::{child, copy, list, set, text, text_at},
    path::{Errors, IMMUTABLE, Path, items},
};

const SPEC: Path = Path::root("spec");
/// In the order in which upstream lists them.
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const EXPIRATION_MIN_S: i32 = 600;

/// Who asks is written by admission; the request never changes.
pub const CERTIFICATE_REQUEST: Rules = Rules {
    default: |request| {
        child(request, "status");
    },
    prepare_create: |request| set(request, "status", json!({})),
    prepare_update: |new, old| {
        copy(new, old, "spec");
        copy(new, old, "status");
    },
    prepare_status_update: |new, old| {
        (PLAIN.prepare_status_update)(new, old);
        keep_approval(new, old);
    },
    validate: |request| check(request, validate_request),
    validate_status_update: |new, old| {
        let mut errors = Errors::default();
        if text_at(old, "/status/certificate") != text_at(new, "/status/certificate")
            && !text_at(old, "/status/certificate").is_empty()
        {
            errors.invalid(&Path::root("status.certificate"), text_at(new, "/status/certificate"), IMMUTABLE);
        }
        errors.0.extend(kept_conditions(new, old));
        errors.0
    },
    selectable: |request| vec![("spec.signerName", text_at(request, "/spec/signerName").to_owned())],
    selectable_names: &["spec.signerName"],
    ..PLAIN
};

const APPROVALS: [&str; 2] = ["Approved", "Denied"];

/// Approval is given through /approval, never through /status.
fn keep_approval(new: &mut Value, old: &Value) {
    let is_approval = |condition: &&Value| APPROVALS.contains(&text(condition, "type"));
    let status =
        |request: &Value| request.get("status").map(|status| list(status, "conditions").to_vec()).unwrap_or_default();
    let mut conditions: Vec<Value> = status(new).iter().filter(|condition| !is_approval(condition)).cloned().collect();
    let approvals: Vec<Value> = status(old).iter().filter(is_approval).cloned().collect();
    if conditions.is_empty() && approvals.is_empty() {
        return;
    }
    conditions.splice(..0, approvals);
    set(child(new, "status"), "conditions", conditions);
}

/// Conditions are added and never taken back.
fn kept_conditions(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let kinds = |request: &Value| -> BTreeSet<String> {
        let status = request.get("status").map(|status| list(status, "conditions")).unwrap_or_default();
        status.iter().map(|condition| text(condition, "type").to_owned()).collect()
    };
    let (after, before) = (kinds(new), kinds(old));
    let path = Path::root("status.conditions");
    for kind in before.difference(&after).filter(|kind| ["Approved", "Denied", "Failed"].contains(&kind.as_str())) {
        errors.forbidden(&path, format!("updates may not remove a condition of type {kind:?}"));
    }
    if after.contains("Approved") && after.contains("Denied") {
        errors.invalid(&path, "Approved", "Approved and Denied conditions are mutually exclusive");
    }
    errors.0
}

fn validate_request(request: &CertificateSigningRequest, errors: &mut Errors) {
    let spec = &request.spec;
    if !spec.request.0.starts_with(b"-----BEGIN CERTIFICATE REQUEST-----") {
        let detail = "unable to parse csr: PEM block type must be CERTIFICATE REQUEST";
        errors.invalid(&SPEC.field("request"), &spec.request, detail);
    }
    let usages = items(&spec.usages);
    if usages.is_empty() {
        errors.required(&SPEC.field("usages"), "usages must contain at least one value");
    }
    for (i, usage) in usages.iter().enumerate() {
        errors.one_of(&SPEC.field("usages").index(i), usage, &USAGES);
        if usages[..i].contains(usage) {
            errors.duplicate(&SPEC.field("usages").index(i), usage);
        }
    }
    match spec.signer_name.split_once('/') {
        None if spec.signer_name.is_empty() => errors.required(&SPEC.field("signerName"), ""),
        Some((domain, path)) if names::dns1123_subdomain(domain).is_empty() && !path.is_empty() => {}
        Some(_) | None => {
            let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
            errors.invalid(&SPEC.field("signerName"), &spec.signer_name, detail);
        }
    }
    if let Some(expiration_s) = spec.expiration_seconds.filter(|expiration_s| *expiration_s < EXPIRATION_MIN_S) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.invalid(&SPEC.field("expirationSeconds"), expiration_s, detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    #[test]
    fn approval_is_not_a_matter_of_status() {
        let old = json!({"spec": {"a": 1}, "status": {"conditions": [{"type": "Approved"}]}});
        let mut new = json!({"spec": {"a": 2}, "status": {"conditions": [{"type": "Denied"}, {"type": "Failed"}], "certificate": "x"}});
        (CERTIFICATE_REQUEST.prepare_status_update)(&mut new, &old);
        assert_eq!(
            new,
            json!({"spec": {"a": 1}, "status": {"conditions": [{"type": "Approved"}, {"type": "Failed"}], "certificate": "x"}})
        );
        let emptied = json!({"status": {}});
        assert_eq!(
            texts(kept_conditions(&emptied, &old)),
            ["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""]
        );
    }
}
