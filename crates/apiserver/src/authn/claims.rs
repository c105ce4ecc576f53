//! Verified claims of a foreign token become a user, as the configuration maps them. Pure.
//!
//! Source: apiserver/plugin/pkg/authenticator/token/oidc.

use serde_json::{Map, Value};

use super::{
    User,
    configuration::{Jwt, Mapping},
};

/// How far `nbf` may lie ahead, as go-oidc has it.
const NOT_BEFORE_LEEWAY_S: i64 = 300;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ClaimError {
    #[error("oidc: token is expired")]
    Expired,
    #[error("oidc: current time is before the nbf (not before) time")]
    NotYet,
    #[error("oidc: expected audience in {wanted:?} got {found:?}")]
    Audience { wanted: Vec<String>, found: Vec<String> },
    #[error("oidc: claim {0:?} is not present")]
    Absent(String),
    #[error("oidc: claim {0:?} is not {1}")]
    Shape(String, &'static str),
    #[error("oidc: email not verified")]
    EmailNotVerified,
    #[error("oidc: claim {0:?} has not the required value")]
    Required(String),
}

/// Checks times, audience and rules, and maps what is left. The signature and `iss` hold already.
pub fn user(jwt: &Jwt, claims: &Map<String, Value>, now_s: i64) -> Result<User, ClaimError> {
    check_times(claims, now_s)?;
    check_audience(jwt, claims)?;
    for rule in jwt.claim_validation_rules.iter().filter(|rule| !rule.claim.is_empty()) {
        let found = claims.get(&rule.claim).ok_or_else(|| ClaimError::Absent(rule.claim.clone()))?;
        if found.as_str() != Some(rule.required_value.as_str()) {
            return Err(ClaimError::Required(rule.claim.clone()));
        }
    }
    let mappings = &jwt.claim_mappings;
    let name = text(claims, &mappings.username.claim)?;
    // An address that its owner has not confirmed is anybody's.
    if mappings.username.claim == "email"
        && claims.get("email_verified").is_some_and(|verified| verified != &Value::Bool(true))
    {
        return Err(ClaimError::EmailNotVerified);
    }
    let uid = if mappings.uid.claim.is_empty() { String::new() } else { text(claims, &mappings.uid.claim)? };
    Ok(User {
        name: format!("{}{name}", prefix(&mappings.username)),
        uid,
        groups: groups(&mappings.groups, claims)?,
        ..User::default()
    })
}

fn check_times(claims: &Map<String, Value>, now_s: i64) -> Result<(), ClaimError> {
    // Issuers may write fractions.
    let seconds = |claim: &str| claims.get(claim).and_then(Value::as_f64).map(|seconds| seconds as i64);
    if seconds("exp").ok_or_else(|| ClaimError::Absent("exp".to_owned()))? <= now_s {
        return Err(ClaimError::Expired);
    }
    if seconds("nbf").is_some_and(|start| now_s < start - NOT_BEFORE_LEEWAY_S) {
        return Err(ClaimError::NotYet);
    }
    Ok(())
}

fn check_audience(jwt: &Jwt, claims: &Map<String, Value>) -> Result<(), ClaimError> {
    let found = claims.get("aud").map(texts).unwrap_or_default();
    let wanted = &jwt.issuer.audiences;
    if found.iter().any(|audience| wanted.contains(audience)) {
        return Ok(());
    }
    Err(ClaimError::Audience { wanted: wanted.clone(), found })
}

fn groups(mapping: &Mapping, claims: &Map<String, Value>) -> Result<Vec<String>, ClaimError> {
    let Some(found) = claims.get(&mapping.claim).filter(|_| !mapping.claim.is_empty()) else { return Ok(Vec::new()) };
    let is_text_or_list = found.is_string() || found.as_array().is_some_and(|list| list.iter().all(Value::is_string));
    if !is_text_or_list {
        return Err(ClaimError::Shape(mapping.claim.clone(), "a string or a list of strings"));
    }
    Ok(texts(found).into_iter().map(|group| format!("{}{group}", prefix(mapping))).collect())
}

fn prefix(mapping: &Mapping) -> &str {
    mapping.prefix.as_deref().unwrap_or_default()
}

fn text(claims: &Map<String, Value>, claim: &str) -> Result<String, ClaimError> {
    let found = claims.get(claim).ok_or_else(|| ClaimError::Absent(claim.to_owned()))?;
    let text = found.as_str().ok_or_else(|| ClaimError::Shape(claim.to_owned(), "a string"))?;
    if text.is_empty() { Err(ClaimError::Absent(claim.to_owned())) } else { Ok(text.to_owned()) }
}

/// One string, or a list of them.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(one) => vec![one.clone()],
        other => other.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn jwt(mappings: Value, rules: Value) -> Jwt {
        serde_json::from_value(json!({
            "issuer": {"url": "https://idp", "audiences": ["a", "b"]},
            "claimMappings": mappings, "claimValidationRules": rules,
        }))
        .expect("a configuration")
    }

    fn mapped(jwt: &Jwt, change: &Value) -> Result<User, ClaimError> {
        let mut claims =
            json!({"iss": "https://idp", "aud": "a", "exp": 2000, "nbf": 900, "sub": "bob", "groups": ["x", "y"]});
        for (claim, value) in change.as_object().expect("an object") {
            claims[claim] = value.clone();
        }
        let mut claims = claims.as_object().expect("an object").clone();
        claims.retain(|_, value| !value.is_null());
        user(jwt, &claims, 1000)
    }

    #[test]
    fn claims_become_a_user() {
        let plain = jwt(
            json!({"username": {"claim": "sub", "prefix": "idp:"}, "groups": {"claim": "groups", "prefix": "g:"}, "uid": {"claim": "sub"}}),
            json!([]),
        );
        let bob = mapped(&plain, &json!({})).expect("a user");
        assert_eq!((bob.name.as_str(), bob.uid.as_str()), ("idp:bob", "bob"));
        assert_eq!(bob.groups, ["g:x", "g:y"]);
        assert_eq!(mapped(&plain, &json!({"groups": "one"})).expect("a user").groups, ["g:one"]);
        assert!(mapped(&plain, &json!({"groups": null})).expect("a user").groups.is_empty());
        assert!(mapped(&plain, &json!({"aud": ["z", "b"]})).is_ok());
    }

    #[test]
    fn what_does_not_hold_is_refused() {
        let plain = jwt(
            json!({"username": {"claim": "sub", "prefix": ""}, "groups": {"claim": "groups", "prefix": ""}}),
            json!([{"claim": "tenant", "requiredValue": "t1"}]),
        );
        assert!(mapped(&plain, &json!({"tenant": "t1"})).is_ok());
        for (change, expected) in [
            (json!({"tenant": "t2"}), ClaimError::Required("tenant".to_owned())),
            (json!({}), ClaimError::Absent("tenant".to_owned())),
            (json!({"exp": 1000}), ClaimError::Expired),
            (json!({"exp": null}), ClaimError::Absent("exp".to_owned())),
            (json!({"nbf": 1301}), ClaimError::NotYet),
            (
                json!({"aud": "z"}),
                ClaimError::Audience { wanted: vec!["a".into(), "b".into()], found: vec!["z".into()] },
            ),
            (json!({"aud": null}), ClaimError::Audience { wanted: vec!["a".into(), "b".into()], found: vec![] }),
            (json!({"tenant": "t1", "sub": null}), ClaimError::Absent("sub".to_owned())),
            (json!({"tenant": "t1", "sub": 7}), ClaimError::Shape("sub".to_owned(), "a string")),
            (
                json!({"tenant": "t1", "groups": [1]}),
                ClaimError::Shape("groups".to_owned(), "a string or a list of strings"),
            ),
        ] {
            assert_eq!(mapped(&plain, &change), Err(expected), "{change}");
        }
    }

    #[test]
    fn an_unconfirmed_address_is_nobody() {
        let by_email = jwt(json!({"username": {"claim": "email", "prefix": ""}}), json!([]));
        for (change, name) in [
            (json!({"email": "a@b"}), Some("a@b")),
            (json!({"email": "a@b", "email_verified": true}), Some("a@b")),
            (json!({"email": "a@b", "email_verified": false}), None),
            (json!({"email": "a@b", "email_verified": "true"}), None),
        ] {
            assert_eq!(mapped(&by_email, &change).ok().map(|user| user.name).as_deref(), name, "{change}");
        }
    }
}
