//! A foreign issuer of JSON web tokens (OIDC): its keys are fetched over TLS when a token of it first
//! comes, again when a token names a key that is not known, and now and then so that a withdrawn key ends.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use http::Uri;
use jsonwebtoken::{
    Algorithm, DecodingKey, Header, Validation,
    jwk::{JwkSet, PublicKeyUse},
};
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use super::{
    User,
    claims::{self, ClaimError},
    configuration::{ConfigurationError, Jwt},
    memory::{Memory, digest},
};
use crate::outbound::{Outbound, OutboundError};

const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two fetches, whoever asks: tokens with invented keys must not become a load on the issuer.
const REFETCH_PAUSE: Duration = Duration::from_secs(1);
/// After this the keys are looked at again.
const KEYS_AGE_MAX: Duration = Duration::from_secs(300);
const ASYMMETRIC: [&str; 9] = ["RS256", "RS384", "RS512", "ES256", "ES384", "PS256", "PS384", "PS512", "EdDSA"];

#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    #[error("oidc: malformed jwt")]
    Malformed,
    #[error("oidc: id token signed with unsupported algorithm {0:?}")]
    Algorithm(Algorithm),
    #[error("oidc: failed to verify id token signature")]
    Signature,
    #[error("oidc: issuer did not match the issuer returned by provider, expected {wanted:?} got {found:?}")]
    Issuer { wanted: String, found: String },
    #[error("oidc: the issuer's documents cannot be used: {0}")]
    Documents(&'static str),
    #[error("oidc: the issuer's keys cannot be fetched: {0}")]
    Fetch(#[from] OutboundError),
    #[error("{0}")]
    Claims(#[from] ClaimError),
}

/// The keys of an issuer as they were at a time.
struct Keys {
    fetched_at: Instant,
    document: Value,
    keys: Vec<(Option<String>, DecodingKey)>,
}

pub struct Provider {
    jwt: Jwt,
    algorithms: Vec<Algorithm>,
    discovery: Uri,
    outbound: Outbound,
    keys: ArcSwapOption<Keys>,
    /// When the last fetch began; held while one is under way, so that all who wait share it.
    fetching: Mutex<Option<Instant>>,
    remembered: Memory<Map<String, Value>>,
}

impl Provider {
    pub fn new(jwt: Jwt) -> Result<Self, ConfigurationError> {
        let wrong = |why: String| ConfigurationError(vec![format!("{}: {why}", jwt.issuer.url)]);
        let names: Vec<&str> = match jwt.algorithms.as_slice() {
            [] => ASYMMETRIC.to_vec(),
            named => named.iter().map(String::as_str).collect(),
        };
        // What is symmetric, or `none`, would let a public key sign.
        if let Some(other) = names.iter().find(|name| !ASYMMETRIC.contains(name)) {
            return Err(wrong(format!("signing algorithm {other:?} is not one of {}", ASYMMETRIC.join(", "))));
        }
        let issuer = &jwt.issuer;
        let discovery = match issuer.discovery_url.as_str() {
            "" => format!("{}/.well-known/openid-configuration", issuer.url.trim_end_matches('/')),
            url => url.to_owned(),
        };
        let authority = Some(issuer.certificate_authority.as_str()).filter(|pem| !pem.is_empty());
        Ok(Self {
            algorithms: names.iter().filter_map(|name| name.parse().ok()).collect(),
            discovery: discovery.parse().map_err(|error| wrong(format!("{discovery}: {error}")))?,
            outbound: Outbound::trusting(authority).map_err(|error| wrong(error.to_string()))?,
            keys: ArcSwapOption::empty(),
            fetching: Mutex::default(),
            remembered: Memory::default(),
            jwt,
        })
    }

    pub fn url(&self) -> &str {
        &self.jwt.issuer.url
    }

    /// Whose a token of this issuer is.
    pub async fn user(&self, token: &str, now_s: i64) -> Result<User, ProviderError> {
        let keys = self.keys.load_full();
        if let Some(keys) = keys.filter(|keys| keys.fetched_at.elapsed() > KEYS_AGE_MAX)
            && let Err(error) = self.fetch(Some(&keys)).await
        {
            tracing::warn!(issuer = self.url(), %error, "the keys stay as they were");
        }
        let digest = digest(token);
        let claims = match self.remembered.get(&digest) {
            Some(claims) => claims,
            None => {
                let claims = Arc::new(self.verify(token).await?);
                self.remembered.put(digest, claims.clone());
                claims
            }
        };
        Ok(claims::user(&self.jwt, &claims, now_s)?)
    }

    async fn verify(&self, token: &str) -> Result<Map<String, Value>, ProviderError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| ProviderError::Malformed)?;
        if !self.algorithms.contains(&header.alg) {
            return Err(ProviderError::Algorithm(header.alg));
        }
        let known = self.keys.load_full();
        if let Some(claims) = known.as_ref().and_then(|keys| keys.verify(token, &header)) {
            return Ok(claims);
        }
        // The key may be a new one.
        let keys = self.fetch(known.as_deref()).await?;
        keys.verify(token, &header).ok_or(ProviderError::Signature)
    }

    /// Newer keys than `known`. Those who ask at the same time share one fetch.
    async fn fetch(&self, known: Option<&Keys>) -> Result<Arc<Keys>, ProviderError> {
        let mut last = self.fetching.lock().await;
        let current = self.keys.load_full();
        let is_newer = |keys: &Arc<Keys>| known.is_none_or(|known| keys.fetched_at > known.fetched_at);
        if let Some(keys) = current.as_ref().filter(|keys| is_newer(keys)) {
            return Ok(keys.clone());
        }
        if last.is_some_and(|at| at.elapsed() < REFETCH_PAUSE) {
            return current.ok_or(ProviderError::Documents("the last try has just failed"));
        }
        *last = Some(Instant::now());
        let keys = Arc::new(self.fetched().await?);
        if current.is_none_or(|before| before.document != keys.document) {
            self.remembered.forget();
            tracing::info!(issuer = self.url(), keys = keys.keys.len(), "the issuer's keys were fetched");
        }
        self.keys.store(Some(keys.clone()));
        Ok(keys)
    }

    async fn fetched(&self) -> Result<Keys, ProviderError> {
        let configuration = self.outbound.get(&self.discovery, FETCH_TIMEOUT).await?;
        let found = configuration["issuer"].as_str().unwrap_or_default();
        if found != self.url() {
            return Err(ProviderError::Issuer { wanted: self.url().to_owned(), found: found.to_owned() });
        }
        let uri = configuration["jwks_uri"].as_str().and_then(|uri| uri.parse::<Uri>().ok());
        let uri = uri.ok_or(ProviderError::Documents("jwks_uri is no URL"))?;
        let document = self.outbound.get(&uri, FETCH_TIMEOUT).await?;
        Keys::read(document)
    }
}

impl Keys {
    /// Keys of kinds that nobody here knows are left out: the others serve.
    fn read(document: Value) -> Result<Self, ProviderError> {
        let listed = document["keys"].as_array().ok_or(ProviderError::Documents("the key set has no keys"))?;
        let set = JwkSet { keys: listed.iter().filter_map(|key| serde_json::from_value(key.clone()).ok()).collect() };
        let signing = set
            .keys
            .iter()
            .filter(|key| key.common.public_key_use.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature));
        let keys = signing.filter_map(|key| Some((key.common.key_id.clone(), DecodingKey::from_jwk(key).ok()?)));
        Ok(Self { fetched_at: Instant::now(), keys: keys.collect(), document })
    }

    /// The token's own choice is among asymmetric algorithms, and a key verifies only those of its family.
    fn verify(&self, token: &str, header: &Header) -> Option<Map<String, Value>> {
        let mut validation = Validation::new(header.alg);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let fits = |id: &Option<String>| header.kid.is_none() || *id == header.kid;
        let candidates = self.keys.iter().filter(|(id, _)| fits(id));
        candidates.map(|(_, key)| key).find_map(|key| {
            jsonwebtoken::decode::<Map<String, Value>>(token, key, &validation).ok().map(|token| token.claims)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::keys;
    use jsonwebtoken::EncodingKey;
    use serde_json::json;

    fn header(alg: Algorithm, kid: Option<&str>) -> Header {
        Header { kid: kid.map(str::to_owned), ..Header::new(alg) }
    }

    #[test]
    fn only_the_issuers_keys_verify() {
        let key = || {
            let pair = rcgen::KeyPair::generate().expect("a key");
            keys::signing_key(pair.serialize_pem().as_bytes()).expect("a signing key")
        };
        let (ours, theirs) = (key(), key());
        let strange = json!({"kty": "quantum", "kid": "q"});
        let set = Keys::read(json!({"keys": [strange, ours.public.jwk]})).expect("a key set");
        assert_eq!(set.keys.len(), 1);
        let claims = json!({"sub": "bob"});
        let signed = |key: &EncodingKey, header: &Header| jsonwebtoken::encode(header, &claims, key).expect("signs");
        let verifies =
            |token: &str| set.verify(token, &jsonwebtoken::decode_header(token).expect("a header")).is_some();
        let id = ours.public.id.as_str();
        assert!(verifies(&signed(&ours.encoding, &header(Algorithm::ES256, Some(id)))));
        assert!(verifies(&signed(&ours.encoding, &header(Algorithm::ES256, None))), "no id: any key");
        assert!(!verifies(&signed(&ours.encoding, &header(Algorithm::ES256, Some("../../dev/null")))));
        assert!(!verifies(&signed(&theirs.encoding, &header(Algorithm::ES256, Some(id)))));
        let public = EncodingKey::from_secret(ours.public.jwk["x"].as_str().expect("x").as_bytes());
        assert!(!verifies(&signed(&public, &header(Algorithm::HS256, Some(id)))));
    }

    #[test]
    fn symmetric_algorithms_are_refused_at_the_start() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let jwt = |algorithm: &str| Jwt { algorithms: vec![algorithm.to_owned()], ..Jwt::default() };
        assert!(Provider::new(jwt("HS256")).is_err() && Provider::new(jwt("none")).is_err());
    }
}
