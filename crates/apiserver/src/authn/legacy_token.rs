//! Tokens out of Secrets of type `kubernetes.io/service-account-token`: they name no audience and never
//! expire, and hold as long as their Secret has them. That they are used is noted on the Secret.
//!
//! Source: kubernetes/pkg/serviceaccount/legacy.go.

use std::sync::Arc;

use api_types::{Key, Resource, resources};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    User,
    token::{TokenError, service_account_groups, service_account_name},
};

pub const ISSUER: &str = "kubernetes/serviceaccount";
/// On the Secret: the day of its token's last use.
pub const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// On the Secret: it was not used for long, and no longer holds.
pub const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LegacyClaims {
    pub sub: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    pub namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    pub secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub account_uid: String,
}

/// A token that holds.
#[derive(Debug, PartialEq)]
pub struct Held {
    pub user: User,
    /// Its Secret, if that does not yet say that it was used on this day.
    pub unnoted: Option<Key>,
}

/// Whether the token's Secret still has it and its account still lives. `day` is today's, as `2026-01-31`.
pub fn check(
    claims: &LegacyClaims,
    token: &str,
    day: &str,
    get: impl Fn(&Resource, &Key) -> Option<Arc<Value>>,
) -> Result<Held, TokenError> {
    let name = service_account_name(&claims.namespace, &claims.account);
    if claims.sub != name {
        return Err(TokenError::Subject(claims.sub.clone()));
    }
    let gone = |what, name: &str| TokenError::Gone { what, name: name.to_owned() };
    let live = |resource: &Resource, name: &str| -> Option<Arc<Value>> {
        let object = get(resource, &Key::new(claims.namespace.as_str(), name))?;
        object["metadata"]["deletionTimestamp"].is_null().then_some(object)
    };
    let secret = live(&resources::SECRET, &claims.secret).ok_or_else(|| gone("secret", &claims.secret))?;
    let kept = secret["data"]["token"].as_str().and_then(|text| STANDARD.decode(text).ok());
    if kept.as_deref() != Some(token.as_bytes()) {
        return Err(gone("secret", &claims.secret));
    }
    let account = live(&resources::SERVICE_ACCOUNT, &claims.account);
    let account = account.ok_or_else(|| gone("service account", &claims.account))?;
    if account["metadata"]["uid"] != claims.account_uid.as_str() {
        return Err(gone("service account", &claims.account));
    }
    let labels = &secret["metadata"]["labels"];
    if labels[INVALID_SINCE].as_str().is_some_and(|since| !since.is_empty()) {
        return Err(TokenError::Retired { secret: Key::new(claims.namespace.as_str(), claims.secret.as_str()) });
    }
    let is_noted = labels[LAST_USED] == day;
    Ok(Held {
        user: User {
            name,
            uid: claims.account_uid.clone(),
            groups: service_account_groups(&claims.namespace),
            ..User::default()
        },
        unnoted: (!is_noted).then(|| Key::new(claims.namespace.as_str(), claims.secret.as_str())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claims() -> LegacyClaims {
        LegacyClaims {
            sub: "system:serviceaccount:ns:sa".to_owned(),
            namespace: "ns".to_owned(),
            secret: "s".to_owned(),
            account: "sa".to_owned(),
            account_uid: "u".to_owned(),
        }
    }

    fn held(token: &str, secret: &Value, account: &Value) -> Result<Held, TokenError> {
        check(&claims(), token, "2026-01-31", |resource, key| {
            let object = match (resource.plural.as_ref(), key.to_string().as_str()) {
                ("secrets", "ns/s") => secret,
                ("serviceaccounts", "ns/sa") => account,
                _ => &Value::Null,
            };
            (!object.is_null()).then(|| Arc::new(object.clone()))
        })
    }

    #[test]
    fn the_secret_and_the_account_decide() {
        let secret = |labels: Value| json!({"metadata": {"labels": labels}, "data": {"token": STANDARD.encode("t")}});
        let account = json!({"metadata": {"uid": "u"}});
        let first = held("t", &secret(Value::Null), &account).expect("holds");
        assert_eq!(
            (first.user.name.as_str(), first.unnoted),
            ("system:serviceaccount:ns:sa", Some(Key::new("ns", "s")))
        );
        let again = held("t", &secret(json!({LAST_USED: "2026-01-31"})), &account).expect("holds");
        assert_eq!(again.unnoted, None);
        assert!(held("t", &secret(json!({LAST_USED: "2026-01-30"})), &account).expect("holds").unnoted.is_some());
        let mut dying = secret(Value::Null);
        dying["metadata"]["deletionTimestamp"] = json!("2026-01-31T00:00:00Z");
        for (token, secret, account) in [
            ("other", secret(Value::Null), account.clone()),
            ("t", Value::Null, account.clone()),
            ("t", dying, account.clone()),
            ("t", secret(Value::Null), Value::Null),
            ("t", secret(Value::Null), json!({"metadata": {"uid": "another"}})),
            ("t", secret(json!({INVALID_SINCE: "2025-01-01"})), account.clone()),
        ] {
            assert!(held(token, &secret, &account).is_err(), "{token} {secret} {account}");
        }
    }
}
