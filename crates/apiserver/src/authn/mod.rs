//! Who is asking. Sources of identity are asked in upstream's order, and the first that knows the
//! caller decides: a proxy's headers, a client certificate, then a bearer token: static,
//! of a ServiceAccount, bootstrap, of a foreign issuer, or known to a webhook. Nobody else is anybody.

pub mod assemble;
pub mod bootstrap_token;
pub mod certificate;
pub mod claims;
pub mod configuration;
pub mod constrained;
pub mod discovery;
pub mod flags;
pub mod impersonation;
pub mod keys;
pub mod legacy_token;
pub mod memory;
pub mod provider;
pub mod request_header;
pub mod static_tokens;
pub mod token;
pub mod webhook;

use std::{collections::BTreeMap, sync::Arc};

use api_types::{ApiError, Key, jiff::Timestamp, resources};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use daemon::reload::Reloading;
use http::{
    HeaderMap, HeaderValue,
    header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL},
};
use rustls::{
    pki_types::{CertificateDer, UnixTime},
    server::danger::ClientCertVerifier,
};
use tokio::sync::mpsc;

use crate::reader::Reader;
use certificate::{CertificateError, Certified};
use provider::Provider;
use token::{Token, TokenError};

pub const ANONYMOUS: &str = "system:anonymous";
pub const AUTHENTICATED: &str = "system:authenticated";
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Members may do anything; authorisation is not asked.
pub const MASTERS: &str = "system:masters";

/// Before a token that a browser hides among a WebSocket's subprotocols.
const WEBSOCKET_BEARER: &str = "base64url.bearer.authorization.k8s.io.";
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

/// A user, and for which of the audiences asked for the credentials are good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identified {
    pub user: User,
    pub audiences: Vec<String>,
}

/// Judge client certificates, each by its authority.
pub struct Judges {
    clients: Option<Arc<dyn ClientCertVerifier>>,
    proxies: Option<Arc<dyn ClientCertVerifier>>,
}

/// The certificate of a connection, judged once for all its requests.
pub struct Peer {
    certified: Result<Certified, CertificateError>,
    is_client: bool,
    is_proxy: bool,
}

/// Where requests without credentials are admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anonymity {
    Nowhere,
    On(Vec<String>),
    /// What they may is for authorisation to say.
    Everywhere,
}

impl Anonymity {
    fn health() -> Self {
        Self::On(ANONYMOUS_PATHS.map(str::to_owned).to_vec())
    }
    fn configured(anonymous: configuration::Anonymous) -> Self {
        match (anonymous.enabled, anonymous.conditions.is_empty()) {
            (false, _) => Self::Nowhere,
            (true, true) => Self::Everywhere,
            (true, false) => Self::On(anonymous.conditions.into_iter().map(|condition| condition.path).collect()),
        }
    }
    fn admits(&self, path: &str) -> bool {
        match self {
            Self::Nowhere => false,
            Self::On(paths) => paths.iter().any(|admitted| admitted == path),
            Self::Everywhere => true,
        }
    }
}

/// What --authentication-config says.
pub struct Issuers {
    providers: Vec<Arc<Provider>>,
    anonymity: Anonymity,
}

/// Checks credentials.
pub struct Authenticator {
    judges: Reloading<Judges>,
    proxy_names: request_header::Names,
    static_tokens: static_tokens::StaticTokens,
    service_accounts: Reloading<token::Verifier>,
    bootstrap_tokens: bool,
    issuers: Reloading<Issuers>,
    webhook: Option<webhook::TokenWebhook>,
    reader: Arc<dyn Reader>,
    /// Secrets whose token was used today for the first time.
    used_legacy: mpsc::Sender<Key>,
}

impl Authenticator {
    /// Judges the certificate chain of a connection, which TLS has found to be of one of our authorities.
    pub fn peer(&self, chain: &[CertificateDer<'_>]) -> Option<Peer> {
        let (leaf, intermediates) = chain.split_first()?;
        let judges = self.judges.current();
        let is_of = |judge: &Option<Arc<dyn ClientCertVerifier>>| {
            let judge = judge.as_ref();
            judge.is_some_and(|judge| judge.verify_client_cert(leaf, intermediates, UnixTime::now()).is_ok())
        };
        let is_proxy = is_of(&judges.proxies);
        Some(Peer { certified: Certified::read(leaf), is_client: is_of(&judges.clients), is_proxy })
    }

    /// The user behind a request for `path`.
    ///
    /// Errs with 401 for credentials that do not hold, and where none are given and some are needed.
    pub async fn authenticate(&self, headers: &HeaderMap, path: &str, peer: Option<&Peer>) -> Result<User, ApiError> {
        let mut refusal = None;
        if let Some(peer) = peer {
            match self.by_certificate(headers, peer) {
                Ok(user) => return Ok(user.authenticated()),
                Err(why) => refusal = Some(why.to_string()),
            }
        }
        if let Some(token) = bearer(headers).or_else(|| websocket_bearer(headers)) {
            match self.review(&token, &[]).await {
                Ok(identified) => return Ok(identified.user.authenticated()),
                Err(why) => refusal = Some(why),
            }
        }
        // The reason goes to the log only: whoever holds bad credentials learns nothing from the answer.
        match refusal {
            Some(why) => tracing::debug!(why, "credentials refused"),
            None if self.issuers.current().anonymity.admits(path) => return Ok(User::anonymous()),
            None => {}
        }
        Err(ApiError::unauthorized())
    }

    fn by_certificate(&self, headers: &HeaderMap, peer: &Peer) -> Result<User, CertificateError> {
        let certified = peer.certified.as_ref().map_err(Clone::clone)?;
        let own = certified.user(Timestamp::now())?;
        if peer.is_proxy
            && self.proxy_names.admits(certified.common_name())
            && let Some(user) = self.proxy_names.user(headers)
        {
            return Ok(user);
        }
        if peer.is_client { Ok(own) } else { Err(CertificateError::NoClient) }
    }

    /// Whose a token is that must be for any of `audiences` (the apiserver's own if empty). Errs with all
    /// that its sources say.
    pub async fn review(&self, token: &str, audiences: &[String]) -> Result<Identified, String> {
        let mut refusals = vec!["invalid bearer token".to_owned()];
        let service_accounts = self.service_accounts.current();
        let api = service_accounts.api_audiences();
        let wanted = if audiences.is_empty() { api } else { audiences };
        // For sources that know nothing of audiences: a token of theirs is for the apiserver.
        let own: Vec<String> = api.iter().filter(|audience| wanted.contains(audience)).cloned().collect();
        let for_us = |user: User| Identified { user, audiences: own.clone() };
        if !own.is_empty()
            && let Some(user) = self.static_tokens.user(token)
        {
            return Ok(for_us(user));
        }
        match self.by_service_account(&service_accounts, token, wanted) {
            Ok(Some(identified)) => return Ok(identified),
            Ok(None) => {}
            Err(why) => refusals.push(why.to_string()),
        }
        if !own.is_empty() {
            if let Some(user) = self.by_bootstrap_token(token) {
                return Ok(for_us(user));
            }
            match self.by_issuer(token).await {
                Ok(Some(user)) => return Ok(for_us(user)),
                Ok(None) => {}
                Err(why) => refusals.push(why.to_string()),
            }
        }
        if let Some(webhook) = &self.webhook {
            match webhook.review(token, wanted, api).await {
                Ok(Some(identified)) => return Ok(identified),
                Ok(None) => {}
                Err(why) => refusals.push(why.to_string()),
            }
        }
        Err(format!("[{}]", refusals.join(", ")))
    }

    fn by_service_account(
        &self,
        verifier: &token::Verifier,
        token: &str,
        wanted: &[String],
    ) -> Result<Option<Identified>, TokenError> {
        let now = Timestamp::now();
        let get = |resource: &api_types::Resource, key: &Key| self.reader.get(resource, key);
        let Some(verified) = verifier.verify(token)? else { return Ok(None) };
        let identified = match &*verified {
            Token::Bound(claims) => {
                let audiences = verifier.audiences(&claims.aud, wanted)?;
                token::check_times(claims, now)?;
                Identified { user: token::check_bound(claims, now, get)?, audiences }
            }
            Token::Legacy(claims) => {
                let audiences = verifier.audiences(&[], wanted)?;
                let day = now.strftime("%Y-%m-%d").to_string();
                let held = legacy_token::check(claims, token, &day, get)?;
                if let Some(secret) = held.unnoted {
                    // A full queue loses nothing: the next use asks for the note again.
                    let _ = self.used_legacy.try_send(secret);
                }
                Identified { user: held.user, audiences }
            }
        };
        Ok(Some(identified))
    }

    fn by_bootstrap_token(&self, token: &str) -> Option<User> {
        let parts = bootstrap_token::parts(token).filter(|_| self.bootstrap_tokens)?;
        let secret = self.reader.get(&resources::SECRET, &parts.key())?;
        parts.user(&secret, Timestamp::now())
    }

    async fn by_issuer(&self, token: &str) -> Result<Option<User>, provider::ProviderError> {
        let issuers = self.issuers.current();
        if issuers.providers.is_empty() {
            return Ok(None);
        }
        let Some(named) = token::issuer_of(token) else { return Ok(None) };
        let Some(provider) = issuers.providers.iter().find(|provider| provider.url() == named) else {
            return Ok(None);
        };
        provider.user(token, Timestamp::now().as_second()).await.map(Some)
    }

    /// What verifies ServiceAccount tokens, as its files stand now.
    pub fn service_accounts(&self) -> Arc<token::Verifier> {
        self.service_accounts.current()
    }
}

/// A health path: it answers whoever asks, whatever the state of store and cache.
pub fn is_open(path: &str) -> bool {
    ANONYMOUS_PATHS.contains(&path)
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
}

/// Browsers cannot set headers of a WebSocket; they hide the token among its subprotocols, of which another one
/// must be there to speak.
///
/// Source: apiserver/pkg/authentication/request/websocket.
fn websocket_bearer(headers: &HeaderMap) -> Option<String> {
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let (tokens, others): (Vec<&str>, Vec<&str>) = offered
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .partition(|protocol| protocol.starts_with(WEBSOCKET_BEARER));
    let [token] = tokens.as_slice() else { return None };
    let bytes = URL_SAFE_NO_PAD.decode(token.strip_prefix(WEBSOCKET_BEARER)?.trim_end_matches('=')).ok()?;
    let token = String::from_utf8(bytes).ok()?;
    (!others.is_empty() && !token.is_empty()).then_some(token)
}

/// Takes such a token out of what is offered: nobody behind us may have it.
pub fn without_websocket_bearer(headers: &mut HeaderMap) {
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let protocols = offered.flat_map(|value| value.split(',')).map(str::trim);
    let kept: Vec<&str> = protocols.filter(|protocol| !protocol.starts_with(WEBSOCKET_BEARER)).collect();
    let kept = HeaderValue::from_str(&kept.join(", ")).ok().filter(|value| !value.is_empty());
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    headers.extend(kept.map(|value| (SEC_WEBSOCKET_PROTOCOL, value)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_anonymous_are_admitted() {
        let configured = |enabled: bool, paths: &[&str]| {
            let conditions = paths.iter().map(|path| configuration::Condition { path: (*path).to_owned() }).collect();
            Anonymity::configured(configuration::Anonymous { enabled, conditions })
        };
        for (path, by_default, on_version, everywhere) in [
            ("/livez", true, false, true),
            ("/readyz", true, false, true),
            ("/healthz", true, false, true),
            ("/healthz/etcd", false, false, true),
            ("/version", false, true, true),
            ("/metrics", false, false, true),
            ("/api/v1/pods", false, false, true),
        ] {
            assert_eq!(Anonymity::health().admits(path), by_default, "{path}");
            assert_eq!(configured(true, &["/version"]).admits(path), on_version, "{path}");
            assert_eq!(configured(true, &[]).admits(path), everywhere, "{path}");
            assert!(!configured(false, &[]).admits(path) && !Anonymity::Nowhere.admits(path), "{path}");
        }
    }

    fn headers(name: http::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().expect("a value"))])
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
            assert_eq!(bearer(&headers(AUTHORIZATION, header)).as_deref(), expected, "{header:?}");
        }
    }

    #[test]
    fn a_token_among_the_subprotocols() {
        for (value, expected) in [
            ("base64url.bearer.authorization.k8s.io.YWJj, v4.channel.k8s.io", Some("abc")),
            ("v4.channel.k8s.io,base64url.bearer.authorization.k8s.io.YWJj", Some("abc")),
            ("base64url.bearer.authorization.k8s.io.YWJj", None),
            ("base64url.bearer.authorization.k8s.io.!, v4.channel.k8s.io", None),
            ("base64url.bearer.authorization.k8s.io.YWJj, base64url.bearer.authorization.k8s.io.YWJj, x", None),
            ("v4.channel.k8s.io", None),
        ] {
            let mut headers = headers(SEC_WEBSOCKET_PROTOCOL, value);
            assert_eq!(websocket_bearer(&headers).as_deref(), expected, "{value}");
            without_websocket_bearer(&mut headers);
            let left = headers.get(SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok()).unwrap_or_default();
            assert!(!left.contains("base64url") && left.contains("v4") == value.contains("v4"), "{value}: {left}");
        }
    }
}
