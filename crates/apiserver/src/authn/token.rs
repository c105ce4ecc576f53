//! ServiceAccount tokens: what they claim, how they are signed and verified, and whether what
//! they are bound to still lives.
//!
//! Source: kubernetes/pkg/serviceaccount/{claims,jwt}.go.

use std::{collections::BTreeMap, sync::Arc};

use api_types::{Key, Resource, jiff::Timestamp, resources};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{DecodingKey, Header, Validation};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{
    User,
    keys::{PublicKey, SigningKey},
    legacy_token::{self, LegacyClaims},
    memory::{Memory, digest},
};

/// Clock skew that a token's times forgive, as go-jose does.
const LEEWAY_S: i64 = 60;
/// A JWT with every claim is near 1.5 KiB; longer is an attack on the verifier.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// In the order that Go writes them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    #[serde(default, deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    pub exp: i64,
    #[serde(default)]
    pub iat: i64,
    pub iss: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub bound: Bound,
    #[serde(default)]
    pub nbf: i64,
    pub sub: String,
}

/// The objects that must live, by uid, for the token to hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    pub serviceaccount: Reference,
    /// When the kubelet should have replaced the token, seconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    pub name: String,
    /// Absent for a node that did not exist when the token was made.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("the token is no JWT signed by one of the ServiceAccount keys")]
    Signature,
    #[error("the token does not claim what a ServiceAccount token must")]
    Claims,
    #[error("the token audiences {found:?} is invalid for the target audiences {wanted:?}")]
    Audience { found: Vec<String>, wanted: Vec<String> },
    #[error("service account token has expired")]
    Expired,
    #[error("service account token is not valid yet")]
    NotYet,
    #[error("the token's subject {0:?} does not match its claims")]
    Subject(String),
    #[error("service account token has been invalidated: {what} {name:?} is gone")]
    Gone { what: &'static str, name: String },
    #[error(
        "the token in secret {secret} has been marked invalid; remove its label {} to allow it again",
        legacy_token::INVALID_SINCE
    )]
    Retired { secret: Key },
}

/// Makes tokens.
pub struct Issuer {
    key: SigningKey,
    issuer: String,
    api_audiences: Vec<String>,
}

impl Issuer {
    pub fn new(key: SigningKey, issuer: String, api_audiences: Vec<String>) -> Self {
        Self { key, issuer, api_audiences }
    }
    pub fn issuer(&self) -> &str {
        &self.issuer
    }
    /// For a request that names none.
    pub fn api_audiences(&self) -> &[String] {
        &self.api_audiences
    }
    pub fn sign(&self, claims: &Claims) -> Result<String, jsonwebtoken::errors::Error> {
        let mut header = Header::new(self.key.public.algorithm);
        header.typ = None;
        header.kid = Some(self.key.public.id.clone());
        jsonwebtoken::encode(&header, claims, &self.key.encoding)
    }
}

/// What a token of this cluster claims.
#[derive(Debug, PartialEq)]
pub enum Token {
    Bound(Box<Claims>),
    Legacy(LegacyClaims),
}

/// Knows the keys, issuers and audiences of this cluster. A signature that held once is
/// remembered: it cannot stop holding, while times and bound objects are looked at every time.
pub struct Verifier {
    keys: Vec<PublicKey>,
    issuers: Vec<String>,
    api_audiences: Vec<String>,
    remembered: Memory<Token>,
}

impl Verifier {
    pub fn new(keys: Vec<PublicKey>, issuers: Vec<String>, api_audiences: Vec<String>) -> Self {
        Self { keys, issuers, api_audiences, remembered: Memory::default() }
    }
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }
    pub fn api_audiences(&self) -> &[String] {
        &self.api_audiences
    }

    /// The claims of a token that one of our issuers made. `None`: it is another's.
    pub fn verify(&self, token: &str) -> Result<Option<Arc<Token>>, TokenError> {
        let digest = digest(token);
        if let Some(known) = self.remembered.get(&digest) {
            return Ok(Some(known));
        }
        let Some(issuer) = issuer_of(token) else { return Ok(None) };
        let is_legacy = issuer == legacy_token::ISSUER;
        if !is_legacy && !self.issuers.contains(&issuer) {
            return Ok(None);
        }
        let claims = self.verify_signature(token).ok_or(TokenError::Signature)?;
        let read = if is_legacy {
            serde_json::from_value(claims).map(Token::Legacy)
        } else {
            serde_json::from_value(claims).map(|claims| Token::Bound(Box::new(claims)))
        };
        let verified = Arc::new(read.map_err(|_| TokenError::Claims)?);
        self.remembered.put(digest, verified.clone());
        Ok(Some(verified))
    }

    /// Only a key's own algorithm counts, so a token cannot choose how it is verified.
    fn verify_signature(&self, token: &str) -> Option<Value> {
        let header = jsonwebtoken::decode_header(token).ok()?;
        let named = header.kid.as_deref().is_some_and(|kid| self.keys.iter().any(|key| key.id == kid));
        let candidates = self
            .keys
            .iter()
            .filter(|key| key.algorithm == header.alg && (!named || header.kid.as_deref() == Some(key.id.as_str())));
        candidates.into_iter().find_map(|key| claims_signed_by(token, &key.decoding, &signature_only(key)))
    }

    /// Which of `wanted` (the apiserver's own if empty) a token for `found` is good for. A token that
    /// names no audience is for the apiserver.
    pub fn audiences(&self, found: &[String], wanted: &[String]) -> Result<Vec<String>, TokenError> {
        let wanted = if wanted.is_empty() { &self.api_audiences } else { wanted };
        let found = if found.is_empty() { &self.api_audiences } else { found };
        let common: Vec<String> = found.iter().filter(|audience| wanted.contains(audience)).cloned().collect();
        if common.is_empty() {
            return Err(TokenError::Audience { found: found.to_vec(), wanted: wanted.to_vec() });
        }
        Ok(common)
    }
}

/// The issuer that a JWT names, unverified: it only says who is to verify it.
pub fn issuer_of(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issuer {
        iss: String,
    }
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let (header, rest) = token.split_once('.')?;
    let (payload, signature) = rest.split_once('.')?;
    if header.is_empty() || signature.contains('.') {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(payload).ok()?;
    serde_json::from_slice::<Issuer>(&bytes).ok().map(|claims| claims.iss)
}

fn claims_signed_by(token: &str, key: &DecodingKey, validation: &Validation) -> Option<Value> {
    jsonwebtoken::decode::<Value>(token, key, validation).ok().map(|token| token.claims)
}

/// Times and audiences are checked by [`check_times`] and [`Verifier::audiences`], with `now` given.
fn signature_only(key: &PublicKey) -> Validation {
    let mut validation = Validation::new(key.algorithm);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    validation
}

pub fn check_times(claims: &Claims, now: Timestamp) -> Result<(), TokenError> {
    let now_s = now.as_second();
    if now_s > claims.exp.saturating_add(LEEWAY_S) {
        return Err(TokenError::Expired);
    }
    if now_s < claims.nbf.saturating_sub(LEEWAY_S) {
        return Err(TokenError::NotYet);
    }
    Ok(())
}

/// Whether every object that the token is bound to lives under its uid, and whose it is.
pub fn check_bound(
    claims: &Claims,
    now: Timestamp,
    get: impl Fn(&Resource, &Key) -> Option<Arc<Value>>,
) -> Result<User, TokenError> {
    let bound = &claims.bound;
    let subject = service_account_name(&bound.namespace, &bound.serviceaccount.name);
    if claims.sub != subject {
        return Err(TokenError::Subject(claims.sub.clone()));
    }
    let account = Some(&bound.serviceaccount);
    for (what, resource, reference, namespace) in [
        ("service account", &resources::SERVICE_ACCOUNT, account, bound.namespace.as_str()),
        ("secret", &resources::SECRET, bound.secret.as_ref(), bound.namespace.as_str()),
        ("pod", &resources::POD, bound.pod.as_ref(), bound.namespace.as_str()),
    ] {
        let Some(reference) = reference else { continue };
        let object = get(resource, &Key::new(namespace, reference.name.as_str()));
        if !object.is_some_and(|object| lives(&object, &reference.uid, now)) {
            return Err(TokenError::Gone { what, name: reference.name.clone() });
        }
    }
    // A pod's token names the node for information; only a token bound to the node itself dies with it.
    if let (Some(node), None, None) = (&bound.node, &bound.pod, &bound.secret) {
        let object = get(&resources::NODE, &Key::cluster(node.name.as_str()));
        if !object.is_some_and(|object| lives(&object, &node.uid, now)) {
            return Err(TokenError::Gone { what: "node", name: node.name.clone() });
        }
    }
    Ok(user(claims, subject))
}

fn lives(object: &Value, uid: &str, now: Timestamp) -> bool {
    let meta = &object["metadata"];
    let deleted = meta["deletionTimestamp"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    meta["uid"] == uid && deleted.is_none_or(|at| at.as_second() >= now.as_second() - LEEWAY_S)
}

fn user(claims: &Claims, name: String) -> User {
    let mut extra = BTreeMap::new();
    let mut note = |key: &str, value: String| {
        if !value.is_empty() {
            extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
        }
    };
    if !claims.jti.is_empty() {
        note("credential-id", format!("JTI={}", claims.jti));
    }
    for (kind, reference) in [("pod", &claims.bound.pod), ("node", &claims.bound.node)] {
        if let Some(reference) = reference {
            note(&format!("{kind}-name"), reference.name.clone());
            note(&format!("{kind}-uid"), reference.uid.clone());
        }
    }
    User {
        name,
        uid: claims.bound.serviceaccount.uid.clone(),
        groups: service_account_groups(&claims.bound.namespace),
        extra,
    }
}

/// `system:serviceaccount:<namespace>:<name>`
pub fn service_account_name(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// The namespace and name in `system:serviceaccount:<namespace>:<name>`.
pub fn split_service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

pub fn service_account_groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::keys;
    use serde_json::json;

    const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

    fn key() -> SigningKey {
        let pair = rcgen::KeyPair::generate().expect("a key");
        keys::signing_key(pair.serialize_pem().as_bytes()).expect("a signing key")
    }
    fn claims() -> Claims {
        let reference = |name: &str| Reference { name: name.to_owned(), uid: format!("{name}-uid") };
        Claims {
            aud: vec![ISSUER.to_owned()],
            exp: 2000,
            iat: 1000,
            nbf: 1000,
            iss: ISSUER.to_owned(),
            sub: "system:serviceaccount:ns:sa".to_owned(),
            bound: Bound {
                namespace: "ns".to_owned(),
                serviceaccount: reference("sa"),
                pod: Some(reference("p")),
                node: Some(reference("n1")),
                ..Bound::default()
            },
            ..Claims::default()
        }
    }
    fn issuer(key: &SigningKey) -> Issuer {
        Issuer::new(key.clone(), ISSUER.to_owned(), vec![ISSUER.to_owned()])
    }
    fn verifier(keys: &[&SigningKey]) -> Verifier {
        let keys = keys.iter().map(|key| key.public.clone()).collect();
        Verifier::new(keys, vec![ISSUER.to_owned()], vec![ISSUER.to_owned()])
    }
    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn signed_tokens_verify_under_any_known_key() {
        let (old, new) = (key(), key());
        let token = issuer(&old).sign(&claims()).expect("signs");
        let verified = verifier(&[&new, &old]).verify(&token).expect("verifies").expect("ours");
        assert_eq!(*verified, Token::Bound(Box::new(claims())));
        assert!(matches!(verifier(&[&new]).verify(&token), Err(TokenError::Signature)));
    }

    #[test]
    fn forgeries_are_refused() {
        let key = key();
        let verifier = verifier(&[&key]);
        let good = issuer(&key).sign(&claims()).expect("signs");
        let parts: Vec<&str> = good.split('.').collect();
        let header = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let forged =
            URL_SAFE_NO_PAD.encode(serde_json::to_vec(&Claims { sub: "admin".into(), ..claims() }).expect("json"));
        let hmac = jsonwebtoken::encode(
            &Header::new(jsonwebtoken::Algorithm::HS256),
            &claims(),
            &jsonwebtoken::EncodingKey::from_secret(key.public.jwk["x"].as_str().expect("x").as_bytes()),
        )
        .expect("signs");
        for token in [
            format!("{}.{}.", header(json!({"alg": "none"})), parts[1]),
            format!("{}.{}.{}", parts[0], forged, parts[2]),
            format!("{}.{}.{}", header(json!({"alg": "ES256", "kid": "../../etc/passwd"})), forged, parts[2]),
            hmac,
        ] {
            assert!(matches!(verifier.verify(&token), Err(TokenError::Signature)), "{token:.80}");
        }
        let foreign = Issuer::new(key.clone(), "https://evil".into(), vec![]);
        let token = foreign.sign(&Claims { iss: "https://evil".into(), ..claims() }).expect("signs");
        for token in [token, "nope".to_owned(), String::new(), "a".repeat(TOKEN_BYTES_MAX + 1)] {
            assert!(matches!(verifier.verify(&token), Ok(None)), "{token:.80}");
        }
    }

    #[test]
    fn audiences_intersect() {
        let verifier = verifier(&[]);
        let check = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|text| (*text).to_owned()).collect();
            verifier.audiences(&claims().aud, &wanted).ok()
        };
        assert_eq!(check(&[]), Some(vec![ISSUER.to_owned()]));
        assert_eq!(check(&["vault", ISSUER]), Some(vec![ISSUER.to_owned()]));
        assert_eq!(check(&["vault"]), None);
    }

    #[test]
    fn times_forgive_a_minute() {
        for (now, holds) in [(939, false), (940, true), (1500, true), (2060, true), (2061, false)] {
            assert_eq!(check_times(&claims(), at(now)).is_ok(), holds, "{now}");
        }
    }

    #[test]
    fn bound_objects_must_live_by_uid() {
        let object = |uid: &str| Some(Arc::new(json!({"metadata": {"uid": uid}})));
        let check = |account: &str, pod: Option<Value>| {
            check_bound(&claims(), at(1500), |resource, key| {
                match (resource.plural.as_ref(), key.to_string().as_str()) {
                    ("serviceaccounts", "ns/sa") => object(account),
                    ("pods", "ns/p") => pod.clone().map(Arc::new),
                    _ => None,
                }
            })
        };
        let pod = json!({"metadata": {"uid": "p-uid"}});
        let user = check("sa-uid", Some(pod.clone())).expect("lives");
        assert_eq!(user.name, "system:serviceaccount:ns:sa");
        assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:ns"]);
        assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
        assert_eq!(user.extra["authentication.kubernetes.io/node-name"], ["n1"]);
        assert!(check("recreated", Some(pod.clone())).is_err(), "another account of the same name");
        assert!(check("sa-uid", None).is_err(), "pod gone");
        assert!(check("sa-uid", Some(json!({"metadata": {"uid": "other"}}))).is_err(), "another pod of the same name");
        let terminating = |at: &str| Some(json!({"metadata": {"uid": "p-uid", "deletionTimestamp": at}}));
        assert!(check("sa-uid", terminating("1970-01-01T00:24:30Z")).is_ok(), "still within its grace");
        assert!(check("sa-uid", terminating("1970-01-01T00:20:00Z")).is_err(), "should be gone");
    }

    #[test]
    fn subject_must_match() {
        let claims = Claims { sub: "system:serviceaccount:kube-system:root".into(), ..claims() };
        assert!(matches!(check_bound(&claims, at(1500), |_, _| None), Err(TokenError::Subject(_))));
    }

    #[test]
    fn service_account_names() {
        assert_eq!(split_service_account("system:serviceaccount:a:b"), Some(("a", "b")));
        for user in ["bob", "system:serviceaccount:a", "system:serviceaccount::b", "system:serviceaccount:a:b:c"] {
            assert_eq!(split_service_account(user), None, "{user}");
        }
    }
}
