//! The audit policy: which requests are recorded, how much of them, and at which stages.
//! Pure: the first rule that matches decides.
//!
//! Source: apiserver/pkg/audit/policy.

use serde::Deserialize;

use crate::{authn::User, codec::decode, request::Request};

const API_VERSION: &str = "audit.k8s.io/v1";

/// How much of a request is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    #[default]
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    pub const fn name(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// When a request is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Stage {
    RequestReceived,
    /// Headers are sent, and the body goes on for long.
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    pub const fn name(self) -> &'static str {
        match self {
            Stage::RequestReceived => "RequestReceived",
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
            Stage::Panic => "Panic",
        }
    }
}

/// What the policy says of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub level: Level,
    pub omit_stages: Vec<Stage>,
    pub omit_managed_fields: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    rules: Vec<Rule>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    level: Option<Level>,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("it is no YAML: {0}")]
    Syntax(String),
    #[error("it is of {found}; expected {API_VERSION}, kind Policy")]
    Kind { found: String },
    #[error("loaded illegal policy with 0 rules")]
    Empty,
    #[error(transparent)]
    Field(#[from] serde_json::Error),
    #[error("rules[{rule}]: {why}")]
    Rule { rule: usize, why: &'static str },
}

impl Policy {
    /// Reads a policy file, and names the fields that mean nothing.
    pub fn parse(bytes: &[u8]) -> Result<(Self, Vec<String>), PolicyError> {
        let document = decode::yaml(bytes).map_err(PolicyError::Syntax)?;
        let text = |field: &str| document[field].as_str().unwrap_or_default().to_owned();
        let (version, kind) = (text("apiVersion"), text("kind"));
        if (version.as_str(), kind.as_str()) != (API_VERSION, "Policy") {
            return Err(PolicyError::Kind { found: format!("{version:?}, kind {kind:?}") });
        }
        let mut unknown = Vec::new();
        let policy: Self = serde_ignored::deserialize(document, |path| {
            let path = path.to_string();
            if !matches!(path.as_str(), "apiVersion" | "kind") && !path.starts_with("metadata") {
                unknown.push(path);
            }
        })?;
        if policy.rules.is_empty() {
            return Err(PolicyError::Empty);
        }
        for (rule, checked) in policy.rules.iter().enumerate() {
            checked.check().map_err(|why| PolicyError::Rule { rule, why })?;
        }
        Ok((policy, unknown))
    }

    /// `user` is `None` for a request whose credentials did not hold.
    pub fn verdict(&self, request: &Request, user: Option<&User>) -> Verdict {
        let Some(rule) = self.rules.iter().find(|rule| rule.matches(request, user)) else {
            return Verdict { omit_stages: self.omit_stages.clone(), ..Verdict::default() };
        };
        let mut omit_stages = self.omit_stages.clone();
        omit_stages.extend(rule.omit_stages.iter().filter(|stage| !self.omit_stages.contains(stage)));
        Verdict {
            level: rule.level.unwrap_or_default(),
            omit_stages,
            omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
        }
    }
}

impl Rule {
    fn check(&self) -> Result<(), &'static str> {
        if self.level.is_none() {
            return Err("a level is required");
        }
        let names_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if names_resources && !self.non_resource_urls.is_empty() {
            return Err("rules cannot apply to both regular resources and non-resource URLs");
        }
        for url in self.non_resource_urls.iter().filter(|url| *url != "*") {
            if !url.starts_with('/') {
                return Err("non-resource URL rules must begin with a '/' character");
            }
            if url.trim_end_matches('*').contains('*') || url.ends_with("**") {
                return Err("non-resource URL wildcards '*' must be the final character of the rule");
            }
        }
        for group in &self.resources {
            if !group.resource_names.is_empty() && group.resources.is_empty() {
                return Err("using resourceNames requires at least one resource");
            }
            // A version in the group never matches anything.
            if group.group.contains('/') {
                return Err("group cannot include a version");
            }
        }
        Ok(())
    }

    fn matches(&self, request: &Request, user: Option<&User>) -> bool {
        let has = |list: &[String], value: &str| list.iter().any(|item| item == value);
        let of_users = self.users.is_empty() || user.is_some_and(|user| has(&self.users, &user.name));
        let of_groups = self.user_groups.is_empty()
            || user.is_some_and(|user| user.groups.iter().any(|g| has(&self.user_groups, g)));
        if !of_users || !of_groups || !(self.verbs.is_empty() || has(&self.verbs, request.verb)) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            let Some(target) = &request.target else { return false };
            let in_namespace = self.namespaces.is_empty() || has(&self.namespaces, &target.key.namespace);
            let of_resource = self.resources.is_empty()
                || self.resources.iter().any(|group| {
                    group.matches(&target.group, &target.resource, &target.subresource, &target.authorized_name)
                });
            return in_namespace && of_resource;
        }
        if !self.non_resource_urls.is_empty() {
            return request.target.is_none() && self.non_resource_urls.iter().any(|url| covers(url, &request.path));
        }
        true
    }
}

fn covers(url: &str, path: &str) -> bool {
    match url.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path == url,
    }
}

impl GroupResources {
    fn matches(&self, group: &str, resource: &str, subresource: &str, name: &str) -> bool {
        if self.group != group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        let is_named = self.resource_names.is_empty() || self.resource_names.iter().any(|known| known == name);
        is_named && self.resources.iter().any(|pattern| resource_matches(pattern, resource, subresource))
    }
}

/// `pods` means pods themselves, `pods/*` their subresources too, `*/scale` that of any resource.
fn resource_matches(pattern: &str, resource: &str, subresource: &str) -> bool {
    match pattern.split_once('/') {
        None => pattern == "*" || (pattern == resource && subresource.is_empty()),
        Some(("*", sub)) => !subresource.is_empty() && sub == subresource,
        Some((of, "*")) => of == resource,
        Some((of, sub)) => of == resource && sub == subresource,
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::request;

    fn policy(rules: &str) -> Result<Policy, PolicyError> {
        let text = format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}");
        Policy::parse(text.as_bytes()).map(|(policy, _)| policy)
    }

    /// `rule` (a flow mapping without its level) matches the request of user `u` in group `g`.
    fn check(rule: &str, method: &str, uri: &str, expected: bool) {
        let policy = policy(&format!("rules: [{{level: Metadata, {rule}}}]")).unwrap();
        let request = request::read(&Method::from_bytes(method.as_bytes()).unwrap(), &uri.parse().unwrap());
        let verdict = policy.verdict(&request, Some(&User::new("u", &["g"])));
        assert_eq!(verdict.level == Level::Metadata, expected, "{rule} {method} {uri}");
    }

    const PODS: &str = "/api/v1/namespaces/a/pods";

    #[test]
    fn users_groups_and_verbs() {
        for (rule, expected) in [
            ("", true),
            ("users: [u]", true),
            ("users: [x]", false),
            ("userGroups: [x, g]", true),
            ("userGroups: [x]", false),
            ("users: [u], userGroups: [x]", false),
            ("verbs: [list]", true),
            ("verbs: [get]", false),
        ] {
            check(rule, "GET", PODS, expected);
        }
    }

    #[test]
    fn resources() {
        let log = "/api/v1/namespaces/a/pods/p/log";
        for (rule, uri, expected) in [
            (r#"resources: [{group: ""}]"#, PODS, true),
            (r#"resources: [{group: apps}]"#, PODS, false),
            (r#"resources: [{group: "", resources: [pods]}]"#, PODS, true),
            (r#"resources: [{group: "", resources: [pods]}]"#, log, false),
            (r#"resources: [{group: "", resources: [pods/log]}]"#, log, true),
            (r#"resources: [{group: "", resources: ["pods/*"]}]"#, log, true),
            (r#"resources: [{group: "", resources: ["pods/*"]}]"#, PODS, true),
            (r#"resources: [{group: "", resources: ["*/log"]}]"#, log, true),
            (r#"resources: [{group: "", resources: ["*/log"]}]"#, PODS, false),
            (r#"resources: [{group: "", resources: ["*"]}]"#, log, true),
            (r#"resources: [{group: "", resources: [pods/log], resourceNames: [p]}]"#, log, true),
            (r#"resources: [{group: "", resources: [pods/log], resourceNames: [q]}]"#, log, false),
            ("namespaces: [a]", PODS, true),
            ("namespaces: [b]", PODS, false),
            (r#"namespaces: [""]"#, "/api/v1/nodes", true),
            (r#"resources: [{group: ""}]"#, "/version", false),
            ("namespaces: [a]", "/version", false),
        ] {
            check(rule, "GET", uri, expected);
        }
    }

    #[test]
    fn paths() {
        for (rule, uri, expected) in [
            (r#"nonResourceURLs: ["*"]"#, "/version", true),
            (r#"nonResourceURLs: ["*"]"#, PODS, false),
            (r#"nonResourceURLs: ["/healthz*"]"#, "/healthz/etcd", true),
            (r#"nonResourceURLs: ["/healthz"]"#, "/healthz/etcd", false),
        ] {
            check(rule, "GET", uri, expected);
        }
    }

    #[test]
    fn the_first_rule_decides_and_stages_add_up() {
        let policy = policy(
            "omitStages: [RequestReceived]\nomitManagedFields: true\nrules:\n\
             - {level: None, users: [u]}\n- {level: Request, omitStages: [Panic], omitManagedFields: false}",
        )
        .unwrap();
        let request = request::read(&Method::GET, &PODS.parse().unwrap());
        assert_eq!(policy.verdict(&request, Some(&User::new("u", &[]))).level, Level::None);
        let expected = Verdict {
            level: Level::Request,
            omit_stages: vec![Stage::RequestReceived, Stage::Panic],
            omit_managed_fields: false,
        };
        assert_eq!(policy.verdict(&request, None), expected);
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        for rules in [
            "",
            "rules: []",
            "rules: [{}]",
            "rules: [{level: Everything}]",
            "rules: [{level: None, omitStages: [Nope]}]",
            "rules: [{level: None, namespaces: [a], nonResourceURLs: [/x]}]",
            "rules: [{level: None, nonResourceURLs: [x]}]",
            r#"rules: [{level: None, nonResourceURLs: ["/a*/b"]}]"#,
            "rules: [{level: None, resources: [{resourceNames: [a]}]}]",
            "rules: [{level: None, resources: [{group: apps/v1}]}]",
        ] {
            assert!(policy(rules).is_err(), "{rules}");
        }
        assert!(Policy::parse(b"apiVersion: v1\nkind: Policy\nrules: [{level: None}]").is_err());
    }

    #[test]
    fn a_misspelt_field_is_named() {
        let text = b"apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, verb: [get]}]";
        assert_eq!(Policy::parse(text).unwrap().1, ["rules.0.verb"]);
    }
}
