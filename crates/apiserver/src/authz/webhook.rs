//! A webhook that is asked whether somebody may, and whose answers hold for a while.
//!
//! Source: apiserver/plugin/pkg/authorizer/webhook.

use std::time::{Duration, Instant};

use api_types::{
    fields::{self, FieldSelector},
    labels::{self, Selector},
};
use daemon::answers::Answers;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Attributes, Decision};
use crate::{authn::User, outbound::Webhook, subresource::user_fields};

/// A longer question is asked every time: its parts are the client's, and would fill the memory.
const KEPT_QUESTION_BYTES_MAX: usize = 10_000;

/// What counts when the webhook does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    #[default]
    NoOpinion,
    Deny,
}

/// How one webhook is asked.
#[derive(Clone, Debug)]
pub struct Manner {
    pub name: String,
    /// `v1` or `v1beta1` of authorization.k8s.io.
    pub version: String,
    pub allowed_for: Duration,
    pub denied_for: Duration,
    pub on_failure: OnFailure,
}

pub struct AccessWebhook {
    webhook: Webhook,
    manner: Manner,
    answers: Mutex<Answers<String, Decision>>,
}

impl AccessWebhook {
    pub fn new(webhook: Webhook, manner: Manner) -> Self {
        Self { webhook, manner, answers: Mutex::default() }
    }

    pub async fn authorize(&self, user: &User, asked: &Attributes<'_>) -> Decision {
        let spec = spec(user, asked);
        let question = spec.to_string();
        if let Some(known) = self.answers.lock().find(&question, Instant::now()) {
            return known;
        }
        let review = json!({
            "apiVersion": format!("authorization.k8s.io/{}", self.manner.version),
            "kind": "SubjectAccessReview",
            "metadata": {"creationTimestamp": null},
            "spec": spec,
        });
        let decision = match self.webhook.review(&review).await {
            Ok(answer) => decision(&answer["status"]),
            Err(why) => {
                tracing::warn!(webhook = self.manner.name, %why, "an authorisation webhook failed");
                return match self.manner.on_failure {
                    OnFailure::NoOpinion => Decision::NoOpinion { reason: String::new() },
                    OnFailure::Deny => Decision::Deny { reason: String::new() },
                };
            }
        };
        let keep_for = match decision {
            Decision::Allow { .. } => self.manner.allowed_for,
            Decision::NoOpinion { .. } | Decision::Deny { .. } => self.manner.denied_for,
        };
        if question.len() < KEPT_QUESTION_BYTES_MAX {
            self.answers.lock().keep(question, decision.clone(), keep_for, Instant::now());
        }
        decision
    }
}

/// A denial goes before an allowance.
fn decision(status: &Value) -> Decision {
    let reason = status["reason"].as_str().unwrap_or_default().to_owned();
    match (status["allowed"] == true, status["denied"] == true) {
        (_, true) => Decision::Deny { reason },
        (true, false) => Decision::Allow { reason },
        (false, false) => Decision::NoOpinion { reason },
    }
}

fn spec(user: &User, asked: &Attributes<'_>) -> Value {
    let mut spec = user_fields(user, "user");
    let mut attributes = serde_json::Map::new();
    let mut set = |field: &str, text: &str| {
        if !text.is_empty() {
            attributes.insert(field.to_owned(), json!(text));
        }
    };
    set("verb", asked.verb);
    if !asked.resource_request {
        set("path", asked.path);
        spec.insert("nonResourceAttributes".to_owned(), Value::Object(attributes));
        return Value::Object(spec);
    }
    set("namespace", asked.namespace);
    set("group", asked.group);
    set("version", asked.version);
    set("resource", asked.resource);
    set("subresource", asked.subresource);
    set("name", asked.name);
    for (field, requirements) in
        [("fieldSelector", by_fields(asked.field_selector)), ("labelSelector", by_labels(asked.label_selector))]
    {
        if !requirements.is_empty() {
            attributes.insert(field.to_owned(), json!({"requirements": requirements}));
        }
    }
    spec.insert("resourceAttributes".to_owned(), Value::Object(attributes));
    Value::Object(spec)
}

/// What does not parse narrows nothing, and so is not told.
fn by_fields(selector: &str) -> Vec<Value> {
    let selector = FieldSelector::parse(selector).unwrap_or_default();
    let requirement = |term: &fields::Term| {
        let operator = match term.operator {
            fields::Operator::Equals => "In",
            fields::Operator::NotEquals => "NotIn",
        };
        json!({"key": term.field, "operator": operator, "values": [term.value]})
    };
    selector.terms().iter().map(requirement).collect()
}

fn by_labels(selector: &str) -> Vec<Value> {
    let selector = Selector::parse(selector).unwrap_or_default();
    let requirement = |requirement: &labels::Requirement| {
        use labels::Operator::{DoesNotExist, Equals, Exists, GreaterThan, In, LessThan, NotEquals, NotIn};
        let operator = match requirement.operator {
            Equals | In => "In",
            NotEquals | NotIn => "NotIn",
            Exists => return Some(json!({"key": requirement.key, "operator": "Exists"})),
            DoesNotExist => return Some(json!({"key": requirement.key, "operator": "DoesNotExist"})),
            GreaterThan | LessThan => return None,
        };
        Some(json!({"key": requirement.key, "operator": operator, "values": requirement.values}))
    };
    selector.requirements().iter().filter_map(requirement).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_holds_what_is_asked() {
        let bob = User::new("bob", &["devs"]);
        let asked = Attributes {
            verb: "list",
            version: "v1",
            resource: "pods",
            namespace: "n",
            field_selector: "spec.nodeName=n1",
            label_selector: "app in (a,b),!x",
            resource_request: true,
            ..Attributes::default()
        };
        assert_eq!(
            spec(&bob, &asked),
            json!({"user": "bob", "groups": ["devs"], "resourceAttributes": {
                "verb": "list", "version": "v1", "resource": "pods", "namespace": "n",
                "fieldSelector": {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n1"]}]},
                "labelSelector": {"requirements": [
                    {"key": "app", "operator": "In", "values": ["a", "b"]}, {"key": "x", "operator": "DoesNotExist"},
                ]},
            }})
        );
        let path = Attributes { verb: "get", path: "/metrics", ..Attributes::default() };
        assert_eq!(spec(&bob, &path)["nonResourceAttributes"], json!({"verb": "get", "path": "/metrics"}));
    }

    #[test]
    fn a_denial_goes_first() {
        let reason = || "r".to_owned();
        for (status, expected) in [
            (json!({"allowed": true, "reason": "r"}), Decision::Allow { reason: reason() }),
            (json!({"allowed": false, "reason": "r"}), Decision::NoOpinion { reason: reason() }),
            (json!({"allowed": true, "denied": true, "reason": "r"}), Decision::Deny { reason: reason() }),
            (json!({}), Decision::NoOpinion { reason: String::new() }),
        ] {
            assert_eq!(decision(&status), expected, "{status}");
        }
    }
}
