//! Who is asking: a client certificate or a ServiceAccount token becomes a [`User`].
//! Requests without credentials reach the health paths only.

pub mod certificate;
pub mod discovery;
pub mod impersonation;
pub mod keys;
pub mod token;

use std::{collections::BTreeMap, sync::Arc};

use api_types::{ApiError, jiff::Timestamp};
use http::{header::AUTHORIZATION, request::Parts};
use rustls::pki_types::CertificateDer;

use crate::reader::Reader;

pub const ANONYMOUS: &str = "system:anonymous";
pub const AUTHENTICATED: &str = "system:authenticated";
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Members may do anything; authorisation is not asked.
pub const MASTERS: &str = "system:masters";

/// Paths that answer without credentials: probes of load balancers and init systems have none.
const ANONYMOUS_PATHS: [&str; 3] = ["/livez", "/readyz", "/healthz"];

/// An authenticated (or anonymous) identity, as `authentication.k8s.io` UserInfo has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        Self { name: name.into(), groups, ..Self::default() }
    }
    /// The apiserver itself, for its own writes through the ordinary verbs.
    pub fn apiserver() -> Self {
        Self::new("system:apiserver", &[MASTERS, AUTHENTICATED])
    }
    pub fn anonymous() -> Self {
        Self::new(ANONYMOUS, &[UNAUTHENTICATED])
    }
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|member| member == group)
    }
    /// Everyone who proved an identity is in `system:authenticated`.
    pub fn authenticated(mut self) -> Self {
        if !self.is_in(AUTHENTICATED) && !self.is_in(UNAUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }
}

/// Checks credentials. Certificates were verified by TLS; tokens are verified here.
pub struct Authenticator {
    tokens: token::Verifier,
    reader: Arc<dyn Reader>,
}

impl Authenticator {
    pub fn new(tokens: token::Verifier, reader: Arc<dyn Reader>) -> Self {
        Self { tokens, reader }
    }

    /// The user behind a request. `peer` is the client's certificate chain, verified against
    /// the client CA. `None` means no credentials; see [`anonymous`].
    ///
    /// Errs with 401 for credentials that do not hold.
    pub fn authenticate(&self, parts: &Parts, peer: Option<&[CertificateDer<'_>]>) -> Result<Option<User>, ApiError> {
        if let Some(leaf) = peer.and_then(<[CertificateDer]>::first) {
            let user = certificate::user(leaf, Timestamp::now()).map_err(|why| refused(&why))?;
            return Ok(Some(user.authenticated()));
        }
        let Some(token) = bearer(parts) else { return Ok(None) };
        let (user, _) = self.review(token, &[]).map_err(|why| refused(&why))?;
        Ok(Some(user.authenticated()))
    }

    /// Verifies a ServiceAccount token for any of `audiences` (the apiserver's own if empty),
    /// and returns whose it is and for which of them it is good.
    pub fn review(&self, token: &str, audiences: &[String]) -> Result<(User, Vec<String>), token::TokenError> {
        let now = Timestamp::now();
        let claims = self.tokens.verify(token)?;
        let audiences = self.tokens.audiences(&claims, audiences)?;
        token::check_times(&claims, now)?;
        let user = token::check_bound(&claims, now, |resource, key| self.reader.get(resource, key))?;
        Ok((user, audiences))
    }

    /// The keys that verify tokens.
    pub fn keys(&self) -> &[keys::PublicKey] {
        self.tokens.keys()
    }

    pub fn api_audiences(&self) -> &[String] {
        self.tokens.api_audiences()
    }
}

/// A health path: it answers whoever asks, whatever the state of store and cache.
pub fn is_open(path: &str) -> bool {
    ANONYMOUS_PATHS.contains(&path)
}

/// The anonymous user where `path` admits one; elsewhere 401.
pub fn anonymous(path: &str) -> Result<User, ApiError> {
    if is_open(path) { Ok(User::anonymous()) } else { Err(ApiError::unauthorized()) }
}

/// The reason goes to the log only: whoever holds bad credentials learns nothing from the answer.
fn refused(why: &dyn std::error::Error) -> ApiError {
    tracing::debug!(%why, "credentials refused");
    ApiError::unauthorized()
}

fn bearer(parts: &Parts) -> Option<&str> {
    let value = parts.headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_health_paths_are_anonymous() {
        for (path, admitted) in [
            ("/livez", true),
            ("/readyz", true),
            ("/healthz", true),
            ("/healthz/etcd", false),
            ("/version", false),
            ("/metrics", false),
            ("/api/v1/pods", false),
        ] {
            match anonymous(path) {
                Ok(user) => assert!(admitted && user == User::anonymous(), "{path}"),
                Err(refusal) => assert!(!admitted && refusal.code() == 401, "{path}"),
            }
        }
    }

    #[test]
    fn bearer_header() {
        for (header, expected) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Basic abc", None),
            ("Bearer", None),
            ("Bearer ", None),
        ] {
            let (parts, ()) = http::Request::builder()
                .header(AUTHORIZATION, header)
                .body(())
                .expect("a literal request")
                .into_parts();
            assert_eq!(bearer(&parts), expected, "{header:?}");
        }
    }
}
