//! A webhook that is asked whose a token is, and whose answers hold for a while.
//!
//! Source: apiserver/plugin/pkg/authenticator/token/webhook.

use std::time::{Duration, Instant};

use daemon::answers::Answers;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    Identified, User,
    memory::{Fingerprint, digest},
};
use crate::outbound::{OutboundError, Webhook};

/// By token and audiences; `None`: not known to the webhook.
type Known = Answers<(Fingerprint, Vec<String>), Option<Identified>>;

pub struct TokenWebhook {
    webhook: Webhook,
    /// `authentication.k8s.io/v1` or `/v1beta1`.
    api_version: String,
    keep_for: Duration,
    answers: Mutex<Known>,
}

impl TokenWebhook {
    pub fn new(webhook: Webhook, version: &str, keep_for: Duration) -> Self {
        let api_version = format!("authentication.k8s.io/{version}");
        Self { webhook, api_version, keep_for, answers: Mutex::default() }
    }

    /// `None`: the webhook does not know the token. `wanted` are audiences, of which one must be met;
    /// `own` those that a webhook means which says nothing of them.
    pub async fn review(
        &self,
        token: &str,
        wanted: &[String],
        own: &[String],
    ) -> Result<Option<Identified>, OutboundError> {
        let question = (digest(token), wanted.to_vec());
        if let Some(known) = self.answers.lock().find(&question, Instant::now()) {
            return Ok(known);
        }
        let review = json!({
            "apiVersion": self.api_version,
            "kind": "TokenReview",
            "metadata": {"creationTimestamp": null},
            "spec": {"token": token, "audiences": wanted},
        });
        let answer = self.webhook.review(&review).await?;
        let identified = identified(&answer["status"], wanted, own);
        self.answers.lock().keep(question, identified.clone(), self.keep_for, Instant::now());
        Ok(identified)
    }
}

fn identified(status: &Value, wanted: &[String], own: &[String]) -> Option<Identified> {
    if status["authenticated"] != true {
        return None;
    }
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let meant = match texts(&status["audiences"]) {
        none if none.is_empty() => own.to_vec(),
        named => named,
    };
    let audiences: Vec<String> = meant.into_iter().filter(|audience| wanted.contains(audience)).collect();
    if audiences.is_empty() {
        return None;
    }
    let user = &status["user"];
    let text = |field: &str| user[field].as_str().unwrap_or_default().to_owned();
    let extra = user["extra"].as_object().into_iter().flatten();
    let user = User {
        name: text("username"),
        uid: text("uid"),
        groups: texts(&user["groups"]),
        extra: extra.map(|(key, values)| (key.clone(), texts(values))).collect(),
    };
    Some(Identified { user, audiences })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let user = json!({"username": "bob", "uid": "7", "groups": ["g"], "extra": {"k": ["v"]}});
        let api = ["api".to_owned()];
        let vault = ["vault".to_owned()];
        for (status, wanted, expected) in [
            (json!({"authenticated": true, "user": user}), &api, Some("api")),
            (json!({"authenticated": true, "user": user}), &vault, None),
            (json!({"authenticated": true, "user": user, "audiences": ["vault", "x"]}), &vault, Some("vault")),
            (json!({"authenticated": true, "user": user, "audiences": ["x"]}), &api, None),
            (json!({"authenticated": false, "user": user}), &api, None),
            (json!({"user": user}), &api, None),
            (Value::Null, &api, None),
        ] {
            let found = identified(&status, wanted, &api);
            assert_eq!(found.as_ref().map(|found| found.audiences[0].as_str()), expected, "{status}");
            if let Some(found) = found {
                assert_eq!((found.user.name.as_str(), found.user.extra["k"][0].as_str()), ("bob", "v"));
            }
        }
    }
}
