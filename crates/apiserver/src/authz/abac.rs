//! ABAC: a file of policies, one JSON object a line, each allowing a user or group some things.
//!
//! Source: kubernetes/pkg/auth/authorizer/abac.

use serde::Deserialize;

use super::Attributes;
use crate::authn::User;

const API_VERSION: &str = "abac.authorization.kubernetes.io/v1beta1";
const READING: [&str; 3] = ["get", "list", "watch"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Line {
    api_version: String,
    kind: String,
    spec: Policy,
}

/// Texts match themselves, or everything if they are `*`; an empty one matches only what is empty.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Policy {
    user: String,
    group: String,
    readonly: bool,
    api_group: String,
    namespace: String,
    resource: String,
    non_resource_path: String,
}

#[derive(Debug, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct LineError {
    line: usize,
    why: String,
}

#[derive(Default)]
pub struct Policies(Vec<Policy>);

impl Policies {
    pub fn parse(text: &str) -> Result<Self, LineError> {
        let mut policies = Vec::new();
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |why: String| LineError { line: number, why };
            let read: Line = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
            if read.api_version != API_VERSION || read.kind != "Policy" {
                return Err(wrong(format!("{:?} {:?} is no Policy of {API_VERSION}", read.api_version, read.kind)));
            }
            policies.push(read.spec);
        }
        Ok(Self(policies))
    }

    pub fn allow(&self, user: &User, asked: &Attributes<'_>) -> bool {
        self.0.iter().any(|policy| policy.is_for(user) && policy.allows(asked))
    }
}

impl Policy {
    /// What is given must match, and something must be given.
    fn is_for(&self, user: &User) -> bool {
        let by_name = self.user.is_empty() || self.user == "*" || self.user == user.name;
        let by_group = self.group.is_empty() || self.group == "*" || user.is_in(&self.group);
        by_name && by_group && !(self.user.is_empty() && self.group.is_empty())
    }
    fn allows(&self, asked: &Attributes<'_>) -> bool {
        if self.readonly && !READING.contains(&asked.verb) {
            return false;
        }
        let matches = |policy: &str, asked: &str| policy == "*" || policy == asked;
        if asked.resource_request {
            return matches(&self.namespace, asked.namespace)
                && matches(&self.resource, asked.resource)
                && matches(&self.api_group, asked.group);
        }
        match self.non_resource_path.strip_suffix('*') {
            Some(prefix) => asked.path.starts_with(prefix),
            None => !self.non_resource_path.is_empty() && self.non_resource_path == asked.path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(spec: &str) -> String {
        format!(r#"{{"apiVersion": "{API_VERSION}", "kind": "Policy", "spec": {spec}}}"#)
    }

    #[test]
    fn policies_allow_what_they_name() {
        let pods = |verb, namespace| Attributes {
            verb,
            resource: "pods",
            namespace,
            resource_request: true,
            ..Attributes::default()
        };
        let path = |path| Attributes { verb: "get", path, ..Attributes::default() };
        for (spec, asked, allowed) in [
            (r#"{"user": "bob", "namespace": "n", "resource": "pods"}"#, pods("delete", "n"), true),
            (r#"{"user": "bob", "namespace": "n", "resource": "pods"}"#, pods("delete", "m"), false),
            (
                r#"{"user": "bob", "namespace": "*", "resource": "*", "apiGroup": "*", "readonly": true}"#,
                pods("list", "n"),
                true,
            ),
            (
                r#"{"user": "bob", "namespace": "*", "resource": "*", "apiGroup": "*", "readonly": true}"#,
                pods("delete", "n"),
                false,
            ),
            (r#"{"user": "eve", "namespace": "*", "resource": "*"}"#, pods("get", "n"), false),
            (r#"{"group": "devs", "namespace": "*", "resource": "pods"}"#, pods("get", "n"), true),
            (r#"{"group": "ops", "namespace": "*", "resource": "pods"}"#, pods("get", "n"), false),
            (r#"{"user": "*", "group": "ops", "namespace": "*", "resource": "pods"}"#, pods("get", "n"), false),
            (r#"{"namespace": "*", "resource": "*"}"#, pods("get", "n"), false),
            (r#"{"user": "*", "nonResourcePath": "/metrics*"}"#, path("/metrics/slis"), true),
            (r#"{"user": "*", "nonResourcePath": "/metrics"}"#, path("/metrics/slis"), false),
            (r#"{"user": "*", "resource": "pods"}"#, path("/metrics"), false),
        ] {
            let policies = Policies::parse(&policy(spec)).expect("parses");
            assert_eq!(policies.allow(&User::new("bob", &["devs"]), &asked), allowed, "{spec} {asked:?}");
        }
    }

    #[test]
    fn a_bad_line_is_named() {
        let text = format!("# comment\n\n{}\nnope\n", policy(r#"{"user": "bob"}"#));
        assert!(Policies::parse(&text).err().expect("refused").to_string().starts_with("line 4: "));
    }
}
