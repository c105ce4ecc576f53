//! Who calls a daemon's own port, and whether it may: client certificates are judged
//! here, tokens and permissions by the apiserver, whose answers are kept for a while.

use std::time::{Duration, Instant};

use api_types::k8s::{
    authentication::{TokenReview, TokenReviewSpec},
    authorization::{NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use client::Client;
use http::{HeaderMap, header::AUTHORIZATION};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::answers::Answers;

/// Members may do everything; nobody is asked.
const MASTERS: &str = "system:masters";
const AUTHENTICATED: &str = "system:authenticated";
/// The kubelet's defaults upstream.
const ALLOWED_FOR: Duration = Duration::from_secs(300);
const DENIED_FOR: Duration = Duration::from_secs(30);
const TOKEN_FOR: Duration = Duration::from_secs(120);

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
}

/// What a caller wants to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wish {
    /// A path of ours, such as `/metrics`.
    Path { verb: &'static str, path: String },
    /// Something about a node, such as its `proxy`.
    Node { verb: &'static str, node: String, subresource: &'static str },
}

/// Why a call is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    Unauthorized,
    Forbidden(String),
    /// The apiserver could not be asked.
    Unavailable(String),
}

/// Judges callers.
pub struct Access {
    reviewer: Option<Client>,
    tokens: Mutex<Answers<String, Option<User>>>,
    decisions: Mutex<Answers<(User, Wish), bool>>,
}

impl Access {
    /// Certificates only, and only the group `system:masters`: for a daemon without a way to ask.
    pub fn local() -> Self {
        Self { reviewer: None, tokens: Mutex::default(), decisions: Mutex::default() }
    }

    /// Asks the apiserver by TokenReview and SubjectAccessReview.
    pub fn delegated(reviewer: Client) -> Self {
        Self { reviewer: Some(reviewer), ..Self::local() }
    }

    /// The caller, if it may do what it wants.
    pub async fn admit(
        &self,
        certificates: &[CertificateDer<'_>],
        headers: &HeaderMap,
        wish: &Wish,
    ) -> Result<User, Refusal> {
        let user = match certificates.first().and_then(user) {
            Some(user) => user,
            None => self.by_token(bearer(headers).ok_or(Refusal::Unauthorized)?).await?,
        };
        if self.may(&user, wish).await? { Ok(user) } else { Err(Refusal::Forbidden(forbidden(&user, wish))) }
    }

    async fn by_token(&self, token: &str) -> Result<User, Refusal> {
        let reviewer = self.reviewer.as_ref().ok_or(Refusal::Unauthorized)?;
        if let Some(known) = self.tokens.lock().find(&token.to_owned(), Instant::now()) {
            return known.ok_or(Refusal::Unauthorized);
        }
        let spec = TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let status = reviewer.create(&review).await.map_err(unavailable)?.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true)).map(|user| User {
            name: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
        });
        self.tokens.lock().keep(token.to_owned(), user.clone(), TOKEN_FOR, Instant::now());
        user.ok_or(Refusal::Unauthorized)
    }

    async fn may(&self, user: &User, wish: &Wish) -> Result<bool, Refusal> {
        if user.groups.iter().any(|group| group == MASTERS) {
            return Ok(true);
        }
        let Some(reviewer) = &self.reviewer else { return Ok(false) };
        let question = (user.clone(), wish.clone());
        if let Some(known) = self.decisions.lock().find(&question, Instant::now()) {
            return Ok(known);
        }
        let review = reviewer.create(&review(user, wish)).await.map_err(unavailable)?;
        let allowed = review.status.is_some_and(|status| status.allowed);
        let keep_for = if allowed { ALLOWED_FOR } else { DENIED_FOR };
        self.decisions.lock().keep(question, allowed, keep_for, Instant::now());
        Ok(allowed)
    }
}

fn unavailable(error: client::Error) -> Refusal {
    Refusal::Unavailable(client::controller::chain(&error))
}

/// Common name and organizations, as the apiserver reads them. TLS has verified the certificate.
pub fn user(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let organizations = subject.iter_organization().filter_map(|group| group.as_str().ok());
    let groups = organizations.chain([AUTHENTICATED]).map(str::to_owned).collect();
    (!name.is_empty()).then_some(User { name, uid: String::new(), groups })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn review(user: &User, wish: &Wish) -> SubjectAccessReview {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut spec = SubjectAccessReviewSpec {
        user: some(&user.name),
        uid: some(&user.uid),
        groups: Some(user.groups.clone()),
        ..SubjectAccessReviewSpec::default()
    };
    match wish {
        Wish::Path { verb, path } => {
            spec.non_resource_attributes = Some(NonResourceAttributes { path: some(path), verb: some(verb) });
        }
        Wish::Node { verb, node, subresource } => {
            spec.resource_attributes = Some(ResourceAttributes {
                verb: some(verb),
                version: some("v1"),
                resource: some("nodes"),
                subresource: some(subresource),
                name: some(node),
                ..ResourceAttributes::default()
            });
        }
    }
    SubjectAccessReview { spec, ..SubjectAccessReview::default() }
}

/// Upstream's words.
fn forbidden(user: &User, wish: &Wish) -> String {
    match wish {
        Wish::Path { verb, path } => format!("Forbidden (user={}, verb={verb}, path={path})", user.name),
        Wish::Node { verb, subresource, .. } => {
            format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{subresource}])", user.name)
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    fn certificate(group: Option<&str>) -> CertificateDer<'static> {
        let (ca, _) = pki::Ca::create("ca").unwrap();
        let leaf = pki::Leaf {
            common_name: "someone",
            organization: group,
            dns_names: Vec::new(),
            addresses: Vec::new(),
            usage: pki::Usage::Client,
            days: 1,
        };
        CertificateDer::from_pem_slice(ca.issue(&leaf).unwrap().certificate_pem.as_bytes()).unwrap()
    }

    fn metrics() -> Wish {
        Wish::Path { verb: "get", path: "/metrics".to_owned() }
    }

    #[tokio::test]
    async fn without_an_apiserver_only_masters_may() {
        let access = Access::local();
        let headers = HeaderMap::new();
        let masters = [certificate(Some(MASTERS))];
        assert_eq!(access.admit(&masters, &headers, &metrics()).await.unwrap().name, "someone");
        let nodes = [certificate(Some("system:nodes"))];
        let refused = access.admit(&nodes, &headers, &metrics()).await;
        assert_eq!(refused, Err(Refusal::Forbidden("Forbidden (user=someone, verb=get, path=/metrics)".to_owned())));
        assert_eq!(access.admit(&[], &headers, &metrics()).await, Err(Refusal::Unauthorized));
    }

    #[tokio::test]
    async fn a_token_that_nobody_can_review_is_worth_nothing() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        assert_eq!(Access::local().admit(&[], &headers, &metrics()).await, Err(Refusal::Unauthorized));
    }

    #[test]
    fn tokens_are_read_from_the_header() {
        let check = |value: &'static str, expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static(value));
            assert_eq!(bearer(&headers), expected, "{value}");
        };
        check("Bearer abc", Some("abc"));
        check("bearer abc ", Some("abc"));
        check("Basic abc", None);
        check("Bearer", None);
        check("Bearer ", None);
    }
}
