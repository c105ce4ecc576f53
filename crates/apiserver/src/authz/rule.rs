//! One RBAC rule: what it matches, and whether some rules cover another.
//!
//! Source: kubernetes/pkg/apis/rbac/v1/evaluation_helpers.go and component-helpers/auth/rbac/validation.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::Attributes;

const ALL: &str = "*";

/// `rbac.authorization.k8s.io` PolicyRule, with absent and null lists empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    #[serde(deserialize_with = "or_empty")]
    pub verbs: Vec<String>,
    #[serde(deserialize_with = "or_empty")]
    pub api_groups: Vec<String>,
    #[serde(deserialize_with = "or_empty")]
    pub resources: Vec<String>,
    #[serde(deserialize_with = "or_empty")]
    pub resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs", deserialize_with = "or_empty")]
    pub non_resource_urls: Vec<String>,
}

fn or_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Rule {
    /// The rules of a role, as stored. What does not parse grants nothing.
    pub fn list(rules: &Value) -> Vec<Self> {
        Option::<Vec<Self>>::deserialize(rules).ok().flatten().unwrap_or_default()
    }

    /// Whatever can be asked.
    pub fn everything() -> [Self; 2] {
        let all = || vec![ALL.to_owned()];
        [
            Self { verbs: all(), api_groups: all(), resources: all(), ..Self::default() },
            Self { verbs: all(), non_resource_urls: all(), ..Self::default() },
        ]
    }

    pub fn allows(&self, asked: &Attributes<'_>) -> bool {
        if !has(&self.verbs, asked.verb) {
            return false;
        }
        if !asked.resource_request {
            return self.non_resource_urls.iter().any(|pattern| url_matches(pattern, asked.path));
        }
        has(&self.api_groups, asked.group)
            && self.resources.iter().any(|pattern| resource_matches(pattern, asked.resource, asked.subresource))
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|name| name == asked.name))
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == ALL || item == wanted)
}

/// `pods`, `pods/log`, `*` or `*/log`.
fn resource_matches(pattern: &str, resource: &str, subresource: &str) -> bool {
    match pattern.split_once('/') {
        _ if pattern == ALL => true,
        None => subresource.is_empty() && pattern == resource,
        Some((parent, sub)) => !subresource.is_empty() && sub == subresource && (parent == ALL || parent == resource),
    }
}

/// `/path`, `/path/*` or `*`.
fn url_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix.trim_end_matches('*')),
        None => pattern == path,
    }
}

/// The parts of `wanted` that no rule of `held` covers, merged for reading; empty if all are held.
pub fn missing(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let lacking = wanted.iter().flat_map(atoms).filter(|atom| !held.iter().any(|rule| covers(rule, atom)));
    merged(lacking.collect())
}

/// A rule as single grants: one verb on one resource (and name), or one verb on one path.
fn atoms(rule: &Rule) -> Vec<Rule> {
    let one = |text: &String| vec![text.clone()];
    let mut atoms = Vec::new();
    for verb in &rule.verbs {
        for group in &rule.api_groups {
            for resource in &rule.resources {
                let atom =
                    Rule { verbs: one(verb), api_groups: one(group), resources: one(resource), ..Rule::default() };
                if rule.resource_names.is_empty() {
                    atoms.push(atom.clone());
                }
                atoms.extend(rule.resource_names.iter().map(|name| Rule { resource_names: one(name), ..atom.clone() }));
            }
        }
        atoms.extend(rule.non_resource_urls.iter().map(|url| Rule {
            verbs: one(verb),
            non_resource_urls: one(url),
            ..Rule::default()
        }));
    }
    atoms
}

fn covers(held: &Rule, atom: &Rule) -> bool {
    let every = |wanted: &[String], covered: &dyn Fn(&str) -> bool| wanted.iter().all(|item| covered(item));
    let is_held = |resource: &str| {
        let (parent, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        held.resources.iter().any(|pattern| pattern == resource || resource_matches(pattern, parent, subresource))
    };
    every(&atom.verbs, &|verb| has(&held.verbs, verb))
        && every(&atom.api_groups, &|group| has(&held.api_groups, group))
        && every(&atom.resources, &is_held)
        && every(&atom.non_resource_urls, &|url| held.non_resource_urls.iter().any(|pattern| url_matches(pattern, url)))
        && (held.resource_names.is_empty()
            || (!atom.resource_names.is_empty()
                && every(&atom.resource_names, &|name| held.resource_names.iter().any(|held| held == name))))
}

/// Grants on the same thing become one rule with several verbs.
fn merged(atoms: Vec<Rule>) -> Vec<Rule> {
    let mut by_object: BTreeMap<Rule, BTreeSet<String>> = BTreeMap::new();
    for mut atom in atoms {
        let verbs = std::mem::take(&mut atom.verbs);
        by_object.entry(atom).or_default().extend(verbs);
    }
    by_object.into_iter().map(|(object, verbs)| Rule { verbs: verbs.into_iter().collect(), ..object }).collect()
}

/// As upstream prints a rule: `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`.
pub fn compact(rule: &Rule) -> String {
    let parts = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ];
    let shown = parts.iter().filter(|(_, list)| !list.is_empty());
    let texts: Vec<String> = shown.map(|(name, list)| format!("{name}:{}", quoted(list))).collect();
    format!("{{{}}}", texts.join(", "))
}

/// Go's `%q` of a list of strings.
pub fn quoted(list: &[String]) -> String {
    let texts: Vec<String> = list.iter().map(|item| format!("{item:?}")).collect();
    format!("[{}]", texts.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `verbs groups resources [names]`, lists by comma, `-` for the core group; or `verbs /paths`.
    pub(in crate::authz) fn rule(text: &str) -> Rule {
        let list = |text: &str| text.split(',').map(|item| item.replace('-', "")).collect::<Vec<_>>();
        let words: Vec<&str> = text.split(' ').collect();
        match words.as_slice() {
            [verbs, urls] => Rule { verbs: list(verbs), non_resource_urls: list(urls), ..Rule::default() },
            [verbs, groups, resources, names @ ..] => Rule {
                verbs: list(verbs),
                api_groups: list(groups),
                resources: list(resources),
                resource_names: names.first().map(|names| list(names)).unwrap_or_default(),
                ..Rule::default()
            },
            _ => panic!("{text:?} is no rule"),
        }
    }

    /// `verb group resource[/subresource] [name]`, or `verb /path`.
    fn asked(text: &str) -> Attributes<'_> {
        let words: Vec<&str> = text.split(' ').collect();
        match words.as_slice() {
            [verb, path] => Attributes { verb, path, ..Attributes::default() },
            [verb, group, resource, name @ ..] => {
                let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                Attributes {
                    verb,
                    group: if *group == "-" { "" } else { group },
                    resource,
                    subresource,
                    name: name.first().copied().unwrap_or_default(),
                    resource_request: true,
                    ..Attributes::default()
                }
            }
            _ => panic!("{text:?} asks nothing"),
        }
    }

    #[test]
    fn matching() {
        for (given, request, allowed) in [
            ("get - pods", "get - pods", true),
            ("get - pods", "list - pods", false),
            ("get - pods", "get apps pods", false),
            ("get - pods", "get - pods/log", false),
            ("get - pods/log", "get - pods/log", true),
            ("get - pods/log", "get - pods", false),
            ("* * *", "patch a.b pods/exec x", true),
            ("* * *", "get /metrics", false),
            ("update * */scale", "update apps deployments/scale", true),
            ("update * */scale", "update apps deployments", false),
            ("get - pods a,b", "get - pods b", true),
            ("get - pods a,b", "get - pods c", false),
            ("list - pods a,b", "list - pods", false),
            ("get /healthz", "get /healthz", true),
            ("get /healthz", "get /healthz/etcd", false),
            ("get /healthz/*", "get /healthz/etcd", true),
            ("get /apis*", "get /apis", true),
            ("get *", "get /anything", true),
            ("get *", "get - pods", false),
            ("get a.b pods", "get a.b.c pods", false),
        ] {
            assert_eq!(rule(given).allows(&asked(request)), allowed, "{given} | {request}");
        }
    }

    #[test]
    fn covering() {
        for (held, wanted, lacking) in [
            ("get,list - pods", "get - pods", ""),
            ("get - pods", "get,list,watch - pods", r#"{APIGroups:[""], Resources:["pods"], Verbs:["list" "watch"]}"#),
            ("* * *", "get - pods/log", ""),
            ("* * *", "get /metrics", r#"{NonResourceURLs:["/metrics"], Verbs:["get"]}"#),
            ("get - pods a", "get - pods", r#"{APIGroups:[""], Resources:["pods"], Verbs:["get"]}"#),
            (
                "get - pods a",
                "get - pods a,b",
                r#"{APIGroups:[""], Resources:["pods"], ResourceNames:["b"], Verbs:["get"]}"#,
            ),
            ("get - pods", "get - pods a", ""),
            ("get - pods", "get - *", r#"{APIGroups:[""], Resources:["*"], Verbs:["get"]}"#),
            ("get - */scale", "get - pods/scale", ""),
            ("get /a/*", "get /a/b", ""),
            ("get /a/*", "get /a/*", ""),
            ("get /a/*", "get /b", r#"{NonResourceURLs:["/b"], Verbs:["get"]}"#),
        ] {
            let texts: Vec<String> = missing(&[rule(held)], &[rule(wanted)]).iter().map(compact).collect();
            assert_eq!(texts.join(";"), lacking, "{held} | {wanted}");
        }
    }

    #[test]
    fn null_and_absent_lists_grant_nothing() {
        let rules = Rule::list(&serde_json::json!([{"verbs": ["get"], "resources": null}]));
        assert_eq!(rules, [Rule { verbs: vec!["get".into()], ..Rule::default() }]);
        assert!(Rule::list(&Value::Null).is_empty());
    }
}
