//! `--authorization-config`: who decides, in which order. Read strictly: a field that is not known is
//! an error, and so is a condition that this server could not hold to.
//!
//! Source: apiserver/pkg/apis/apiserver/{types,validation}.go.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use super::webhook::OnFailure;

const VERSIONS: [&str; 3] =
    ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];
const KIND: &str = "AuthorizationConfiguration";
const TYPES: [&str; 6] = ["ABAC", "AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"];

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Configuration {
    api_version: String,
    kind: String,
    pub authorizers: Vec<Entry>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Entry {
    #[serde(rename = "type")]
    pub kind: String,
    pub name: String,
    pub webhook: Option<WebhookEntry>,
}

/// Durations as Go writes them; empty is the default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct WebhookEntry {
    #[serde(rename = "authorizedTTL")]
    pub authorized_ttl: String,
    #[serde(rename = "unauthorizedTTL")]
    pub unauthorized_ttl: String,
    pub cache_authorized_requests: Option<bool>,
    pub cache_unauthorized_requests: Option<bool>,
    /// At most 30 s.
    pub timeout: String,
    pub subject_access_review_version: String,
    pub match_condition_subject_access_review_version: String,
    pub failure_policy: String,
    pub connection_info: Connection,
    pub match_conditions: Vec<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Connection {
    #[serde(rename = "type")]
    pub kind: String,
    pub kube_config_file: String,
}

/// What is wrong with a file, all of it.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct ConfigurationError(pub Vec<String>);

impl Configuration {
    pub fn parse(yaml: &str) -> Result<Self, ConfigurationError> {
        let alone = |why: String| ConfigurationError(vec![why]);
        let value: Value = serde_saphyr::from_str(yaml).map_err(|error| alone(error.to_string()))?;
        let parsed: Self = serde_json::from_value(value).map_err(|error| alone(error.to_string()))?;
        if !VERSIONS.contains(&parsed.api_version.as_str()) || parsed.kind != KIND {
            let found = format!("{:?} {:?}", parsed.api_version, parsed.kind);
            return Err(alone(format!("{found} is no {KIND} of {}", VERSIONS.join(", "))));
        }
        let errors = parsed.errors();
        if errors.is_empty() { Ok(parsed) } else { Err(ConfigurationError(errors)) }
    }

    fn errors(&self) -> Vec<String> {
        if self.authorizers.is_empty() {
            return vec!["authorizers: Required value: at least one authorization mode must be defined".to_owned()];
        }
        let mut errors = Vec::new();
        let (mut names, mut types) = (BTreeSet::new(), BTreeSet::new());
        for (index, entry) in self.authorizers.iter().enumerate() {
            let mut wrong = |field: &str, why: &str| errors.push(format!("authorizers[{index}].{field}: {why}"));
            let is_webhook = entry.kind == "Webhook";
            if !TYPES.contains(&entry.kind.as_str()) {
                wrong("type", &format!("Unsupported value: {:?}: supported values: {TYPES:?}", entry.kind));
            }
            if !types.insert(&entry.kind) && !is_webhook {
                wrong("type", &format!("Duplicate value: {:?}", entry.kind));
            }
            if entry.name.is_empty() {
                wrong("name", "Required value");
            } else if !names.insert(&entry.name) {
                wrong("name", &format!("Duplicate value: {:?}", entry.name));
            }
            match &entry.webhook {
                Some(webhook) if is_webhook => webhook.check(&mut wrong),
                None if is_webhook => wrong("webhook", "Required value: required when type=Webhook"),
                Some(_) => wrong("webhook", "Invalid value: may only be specified when type=Webhook"),
                None => {}
            }
        }
        errors
    }
}

impl WebhookEntry {
    fn check(&self, wrong: &mut dyn FnMut(&str, &str)) {
        match daemon::flags::duration(&self.timeout) {
            _ if self.timeout.is_empty() => wrong("webhook.timeout", "Required value"),
            Ok(timeout) if timeout.is_zero() || timeout.as_secs() > 30 => {
                wrong("webhook.timeout", "Invalid value: must be > 0s and <= 30s");
            }
            Ok(_) => {}
            Err(why) => wrong("webhook.timeout", &why),
        }
        for (field, text) in
            [("webhook.authorizedTTL", &self.authorized_ttl), ("webhook.unauthorizedTTL", &self.unauthorized_ttl)]
        {
            if let Err(why) = daemon::flags::duration(text)
                && !text.is_empty()
            {
                wrong(field, &why);
            }
        }
        if !["v1", "v1beta1"].contains(&self.subject_access_review_version.as_str()) {
            wrong("webhook.subjectAccessReviewVersion", "Required value: one of v1, v1beta1");
        }
        if self.on_failure().is_none() {
            wrong("webhook.failurePolicy", "Required value: one of NoOpinion, Deny");
        }
        match (self.connection_info.kind.as_str(), self.connection_info.kube_config_file.is_empty()) {
            ("KubeConfigFile", false) => {}
            ("KubeConfigFile", true) => wrong("webhook.connectionInfo.kubeConfigFile", "Required value"),
            _ => wrong("webhook.connectionInfo.type", "Unsupported value: this server knows KubeConfigFile"),
        }
        if !self.match_conditions.is_empty() {
            wrong(
                "webhook.matchConditions",
                "Forbidden: this server evaluates no expressions here, and would ask too often",
            );
        }
    }

    /// `None` for a word that is neither.
    pub fn on_failure(&self) -> Option<OnFailure> {
        match self.failure_policy.as_str() {
            "NoOpinion" => Some(OnFailure::NoOpinion),
            "Deny" => Some(OnFailure::Deny),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
apiVersion: apiserver.config.k8s.io/v1
kind: AuthorizationConfiguration
authorizers:
- type: Webhook
  name: w
  webhook:
    timeout: 3s
    subjectAccessReviewVersion: v1
    failurePolicy: Deny
    connectionInfo: {type: KubeConfigFile, kubeConfigFile: /w}
- {type: Node, name: node}
- {type: RBAC, name: rbac}
";

    #[test]
    fn a_good_file() {
        let parsed = Configuration::parse(GOOD).expect("parses");
        let kinds: Vec<&str> = parsed.authorizers.iter().map(|entry| entry.kind.as_str()).collect();
        assert_eq!(kinds, ["Webhook", "Node", "RBAC"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, expected) in [
            ("type: Node", "type: Magic", "authorizers[1].type: Unsupported value: \"Magic\""),
            ("type: RBAC, name: rbac", "type: Node, name: rbac", "authorizers[2].type: Duplicate value"),
            ("name: rbac", "name: node", "authorizers[2].name: Duplicate value: \"node\""),
            ("timeout: 3s", "timeout: 31s", "must be > 0s and <= 30s"),
            ("failurePolicy: Deny", "failurePolicy: Maybe", "one of NoOpinion, Deny"),
            ("kubeConfigFile: /w", "kubeConfigFile: ''", "webhook.connectionInfo.kubeConfigFile: Required value"),
            ("timeout: 3s", "matchConditions: [{expression: 'true'}]\n    timeout: 3s", "matchConditions: Forbidden"),
            ("- {type: Node, name: node}", "- {type: Node, name: node, weight: 3}", "unknown field `weight`"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD);
            let error = Configuration::parse(&text).expect_err(to).to_string();
            assert!(error.contains(expected), "{to}: {error}");
        }
    }
}
