//! CertificateSigningRequests: who asked is written by the server, and approving or signing needs
//! a right on the signer.
//!
//! Source: kubernetes/plugin/pkg/admission/certificates and pkg/registry/certificates.

use api_types::{ApiError, Resource};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use x509_parser::{certification_request::X509CertificationRequest, pem::Pem, prelude::FromDer};

use super::{Attributes, Authorizer};
use crate::authn::{MASTERS, User};

const GROUP: &str = "certificates.k8s.io";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

fn is_request(resource: &Resource) -> bool {
    resource.group == GROUP && resource.kind == "CertificateSigningRequest"
}

/// Notes in a new object who makes it, where its kind has a place for that; what the client wrote
/// there is dropped.
pub fn fill_requester(resource: &Resource, user: &User, object: &mut Value) {
    if !is_request(resource) || !object["spec"].is_object() {
        return;
    }
    let spec = &mut object["spec"];
    for (field, value, is_empty) in [
        ("username", json!(user.name), user.name.is_empty()),
        ("uid", json!(user.uid), user.uid.is_empty()),
        ("groups", json!(user.groups), user.groups.is_empty()),
        ("extra", json!(user.extra), user.extra.is_empty()),
    ] {
        if !is_empty {
            spec[field] = value;
        } else if let Some(spec) = spec.as_object_mut() {
            spec.remove(field);
        }
    }
}

/// Checks a write of `new` over `old` (`None`: a create).
pub async fn check(
    authorizer: &Authorizer,
    user: &User,
    resource: &Resource,
    subresource: &str,
    old: Option<&Value>,
    new: &Value,
) -> Result<(), ApiError> {
    if !is_request(resource) {
        return Ok(());
    }
    let name = new["metadata"]["name"].as_str().unwrap_or_default();
    let signer = old.unwrap_or(new)["spec"]["signerName"].as_str().unwrap_or_default();
    let (verb, what) = match (old, subresource) {
        (None, _) if signer == CLIENT_SIGNER && organizations(new).iter().any(|group| group == MASTERS) => {
            let why = format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed");
            return Err(ApiError::forbidden(resource, name, why));
        }
        (Some(_), "approval") => ("approve", "approve requests"),
        (Some(old), "status") if is_signed_by(new, old) => ("sign", "sign requests"),
        _ => return Ok(()),
    };
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    for signer in [signer, &format!("{domain}/*")] {
        let attributes = Attributes {
            verb,
            group: GROUP,
            version: "*",
            resource: "signers",
            name: signer,
            resource_request: true,
            ..Attributes::default()
        };
        if authorizer.allows(user, &attributes).await {
            return Ok(());
        }
    }
    Err(ApiError::forbidden(resource, name, format!("user not permitted to {what} with signerName {signer:?}")))
}

fn is_signed_by(new: &Value, old: &Value) -> bool {
    let failures = |object: &Value| -> usize {
        let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
        conditions.filter(|condition| condition["type"] == "Failed").count()
    };
    new["status"]["certificate"] != old["status"]["certificate"] || failures(new) != failures(old)
}

/// The organisations in the request's subject; none for what does not parse, which validation refuses.
fn organizations(object: &Value) -> Vec<String> {
    let pem = object["spec"]["request"].as_str().and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
    let Some(Ok(block)) = Pem::iter_from_buffer(&pem).next() else { return Vec::new() };
    let Ok((_, request)) = X509CertificationRequest::from_der(&block.contents) else { return Vec::new() };
    let organizations = request.certification_request_info.subject.iter_organization();
    organizations.filter_map(|organization| organization.as_str().ok()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::fixture::rbac_only;
    use api_types::{Key, resources};

    /// carol may approve for example.com and sign for example.com/a.
    fn authorizer() -> Authorizer {
        let authorizer = rbac_only();
        let rule = |verb: &str, name: &str| json!({"verbs": [verb], "apiGroups": [GROUP], "resources": ["signers"], "resourceNames": [name]});
        let role = json!({"rules": [rule("approve", "example.com/*"), rule("sign", "example.com/a")]});
        authorizer.rbac().apply("ClusterRole", &Key::cluster("carol"), Some(&role));
        let binding = json!({"roleRef": {"kind": "ClusterRole", "name": "carol"}, "subjects": [{"kind": "User", "name": "carol"}]});
        authorizer.rbac().apply("ClusterRoleBinding", &Key::cluster("carol"), Some(&binding));
        authorizer
    }
    fn csr(signer: &str, certificate: Option<&str>) -> Value {
        json!({"metadata": {"name": "c"}, "spec": {"signerName": signer}, "status": {"certificate": certificate}})
    }

    #[tokio::test]
    async fn signers_have_their_approvers() {
        for (user, subresource, signer, allowed) in [
            ("carol", "approval", "example.com/a", true),
            ("carol", "approval", "example.com/b", true),
            ("carol", "approval", "other.org/a", false),
            ("carol", "status", "example.com/a", true),
            ("carol", "status", "example.com/b", false),
            ("dave", "approval", "example.com/a", false),
        ] {
            let (old, new) = (csr(signer, None), csr(signer, Some("pem")));
            let resource = &resources::CERTIFICATE_SIGNING_REQUEST;
            let got = check(&authorizer(), &User::new(user, &[]), resource, subresource, Some(&old), &new).await;
            assert_eq!(got.is_ok(), allowed, "{user} {subresource} {signer}");
        }
    }

    #[tokio::test]
    async fn nobody_asks_to_be_a_master() {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, MASTERS);
        let key = rcgen::KeyPair::generate().expect("a key");
        let pem = params.serialize_request(&key).expect("a request").pem().expect("PEM");
        let mut object = csr(CLIENT_SIGNER, None);
        object["spec"]["request"] = json!(STANDARD.encode(pem));
        let resource = &resources::CERTIFICATE_SIGNING_REQUEST;
        let refusal =
            check(&authorizer(), &User::new("dave", &[]), resource, "", None, &object).await.expect_err("refused");
        assert!(
            refusal.message().ends_with("signer with system:masters group is not allowed"),
            "{}",
            refusal.message()
        );
    }

    #[test]
    fn the_requester_is_who_asks() {
        let mut object = json!({"spec": {"username": "root", "uid": "0", "groups": ["system:masters"]}});
        fill_requester(&resources::CERTIFICATE_SIGNING_REQUEST, &User::new("dave", &["devs"]), &mut object);
        assert_eq!(object, json!({"spec": {"username": "dave", "groups": ["devs"]}}));
        let mut other = json!({"spec": {"username": "root"}});
        fill_requester(&resources::POD, &User::new("dave", &[]), &mut other);
        assert_eq!(other["spec"]["username"], "root");
    }
}
