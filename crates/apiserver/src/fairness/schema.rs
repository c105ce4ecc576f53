//! Which flow a request belongs to: flow schemas and priority levels as read from the cluster, and the matching. Pure.
//!
//! Source: apiserver/pkg/util/flowcontrol/rule.go; what an object leaves out was filled in when it was stored.

use std::hash::{DefaultHasher, Hash, Hasher};

use api_types::k8s::{
    flowcontrol::{
        FlowSchema, NonResourcePolicyRule, PolicyRulesWithSubjects, PriorityLevelConfiguration, ResourcePolicyRule,
        Subject,
    },
    meta::ObjectMeta,
};

use super::{
    queues::{Discipline, HAND_SIZE_MAX, Queuing},
    shares::Share,
};
use crate::{authn::User, authz::Attributes};

const EVERY: &str = "*";

/// A flow schema.
#[derive(Clone, Debug)]
pub struct Schema {
    pub name: String,
    pub uid: String,
    pub level: String,
    precedence: i32,
    distinguisher: Option<Distinguisher>,
    rules: Vec<PolicyRulesWithSubjects>,
}

/// What tells the flows of a schema apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distinguisher {
    ByUser,
    ByNamespace,
}

impl Schema {
    pub fn read(object: &FlowSchema) -> Self {
        let spec = object.spec.clone().unwrap_or_default();
        let method = spec.distinguisher_method.map(|method| method.type_);
        let (name, uid) = identity(&object.metadata);
        Self {
            name,
            uid,
            level: spec.priority_level_configuration.name,
            precedence: spec.matching_precedence.unwrap_or_default(),
            distinguisher: match method.as_deref() {
                Some("ByUser") => Some(Distinguisher::ByUser),
                Some("ByNamespace") => Some(Distinguisher::ByNamespace),
                _ => None,
            },
            rules: spec.rules.unwrap_or_default(),
        }
    }

    /// The order in which schemas are tried.
    pub fn order(&self) -> (i32, &str) {
        (self.precedence, &self.name)
    }

    pub fn matches(&self, user: &User, request: &Attributes<'_>) -> bool {
        self.rules.iter().any(|rule| {
            let subjects = rule.subjects.iter();
            subjects.into_iter().any(|subject| is_subject(subject, user))
                && if request.resource_request {
                    rule.resource_rules.iter().flatten().any(|rule| is_resource(rule, request))
                } else {
                    rule.non_resource_rules.iter().flatten().any(|rule| is_path(rule, request))
                }
        })
    }

    /// The same for requests of the same flow, and hardly ever for others.
    pub fn flow(&self, user: &User, request: &Attributes<'_>) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        match self.distinguisher {
            Some(Distinguisher::ByUser) => user.name.hash(&mut hasher),
            Some(Distinguisher::ByNamespace) => request.namespace.hash(&mut hasher),
            None => {}
        }
        hasher.finish()
    }
}

fn identity(metadata: &ObjectMeta) -> (String, String) {
    (metadata.name.clone().unwrap_or_default(), metadata.uid.clone().unwrap_or_default())
}

fn is_subject(subject: &Subject, user: &User) -> bool {
    let covers = |pattern: &str, name: &str| pattern == EVERY || pattern == name;
    match subject.kind.as_str() {
        "User" => subject.user.as_ref().is_some_and(|wanted| covers(&wanted.name, &user.name)),
        "Group" => {
            subject.group.as_ref().is_some_and(|wanted| wanted.name == EVERY || user.groups.contains(&wanted.name))
        }
        "ServiceAccount" => subject.service_account.as_ref().is_some_and(|wanted| {
            let account = crate::authn::token::split_service_account(&user.name);
            account.is_some_and(|(namespace, name)| namespace == wanted.namespace && covers(&wanted.name, name))
        }),
        _ => false,
    }
}

/// A wildcard stands alone in its list.
fn lists(list: &[String], value: &str) -> bool {
    list.iter().any(|item| item == value) || matches!(list, [only] if only == EVERY)
}

fn is_resource(rule: &ResourcePolicyRule, request: &Attributes<'_>) -> bool {
    let is_named = match request.subresource {
        "" => lists(&rule.resources, request.resource),
        subresource => lists(&rule.resources, &format!("{}/{subresource}", request.resource)),
    };
    let in_scope = match request.namespace {
        "" => rule.cluster_scope == Some(true),
        namespace => rule.namespaces.as_ref().is_some_and(|namespaces| lists(namespaces, namespace)),
    };
    is_named && in_scope && lists(&rule.verbs, request.verb) && lists(&rule.api_groups, request.group)
}

fn is_path(rule: &NonResourcePolicyRule, request: &Attributes<'_>) -> bool {
    let covers = |url: &String| {
        let prefix = url.strip_suffix('*').unwrap_or(url).trim_end_matches('/');
        url == EVERY
            || url == request.path
            || request.path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
    };
    lists(&rule.verbs, request.verb) && rule.non_resource_urls.iter().any(covers)
}

/// A priority level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LevelSpec {
    pub name: String,
    pub uid: String,
    pub discipline: Discipline,
    pub share: Share,
}

impl LevelSpec {
    pub fn read(object: &PriorityLevelConfiguration) -> Self {
        let (name, uid) = identity(&object.metadata);
        let spec = object.spec.clone().unwrap_or_default();
        let count = |number: Option<i32>, or: u32| number.map_or(or, |number| u32::try_from(number).unwrap_or(0));
        if spec.type_ == "Exempt" {
            let exempt = spec.exempt.unwrap_or_default();
            let share = Share {
                is_exempt: true,
                nominal_shares: count(exempt.nominal_concurrency_shares, 0),
                lendable_percent: count(exempt.lendable_percent, 0),
                borrowing_limit_percent: None,
            };
            return Self { name, uid, discipline: Discipline::Exempt, share };
        }
        let limited = spec.limited.unwrap_or_default();
        let share = Share {
            is_exempt: false,
            nominal_shares: count(limited.nominal_concurrency_shares, 30),
            lendable_percent: count(limited.lendable_percent, 0),
            borrowing_limit_percent: limited.borrowing_limit_percent.map(|percent| count(Some(percent), 0)),
        };
        let queuing = limited.limit_response.and_then(|response| response.queuing);
        let discipline = queuing.map_or(Discipline::Reject, |queuing| {
            let size = |number: Option<i32>, or: usize| number.and_then(|n| usize::try_from(n).ok()).unwrap_or(or);
            let queues = size(queuing.queues, 64).max(1);
            Discipline::Queue(Queuing {
                queues,
                hand_size: size(queuing.hand_size, 8).clamp(1, queues.min(HAND_SIZE_MAX)),
                queue_length_max: size(queuing.queue_length_limit, 50),
            })
        });
        Self { name, uid, discipline, share }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{bootstrap::objects::flow_objects, request};

    fn schemas() -> Vec<Schema> {
        let mut schemas: Vec<Schema> = flow_objects()
            .into_iter()
            .filter(|object| object["kind"] == "FlowSchema")
            .map(|object| Schema::read(&serde_json::from_value(object).unwrap()))
            .collect();
        schemas.sort_by(|a, b| a.order().cmp(&b.order()));
        schemas
    }

    fn schema_of(user: &User, method: &str, uri: &str) -> String {
        let request = request::read(&http::Method::from_bytes(method.as_bytes()).unwrap(), &uri.parse().unwrap());
        let attributes = Attributes::of(&request);
        let schemas = schemas();
        let found = schemas.iter().find(|schema| schema.matches(user, &attributes));
        found.map(|schema| schema.name.clone()).unwrap_or_default()
    }

    /// Each bootstrap schema gets what it is there for.
    #[test]
    fn who_belongs_where() {
        let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/l";
        let pods = "/api/v1/namespaces/a/pods";
        let account = |namespace: &str| {
            let groups = crate::authn::token::service_account_groups(namespace);
            User { name: format!("system:serviceaccount:{namespace}:x"), groups, ..User::default() }.authenticated()
        };
        let node = User::new("system:node:n", &["system:nodes"]).authenticated();
        let manager = User::new("system:kube-controller-manager", &[]).authenticated();
        for (user, method, uri, expected) in [
            (User::apiserver(), "GET", pods, "exempt"),
            (User::anonymous(), "GET", "/livez", "probes"),
            (User::anonymous(), "GET", "/livez/ping", "probes"),
            (User::anonymous(), "GET", "/livezzz", "global-default"),
            (manager.clone(), "PUT", lease, "system-leader-election"),
            (manager, "GET", pods, "kube-controller-manager"),
            (User::new("system:kube-scheduler", &[]).authenticated(), "GET", "/api/v1/nodes", "kube-scheduler"),
            (node.clone(), "PUT", "/api/v1/nodes/n/status", "system-node-high"),
            (node.clone(), "GET", "/api/v1/nodes/n", "system-node-high"),
            (
                node.clone(),
                "PUT",
                "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n",
                "system-node-high",
            ),
            (node, "GET", pods, "system-nodes"),
            (account("kube-system"), "GET", pods, "kube-system-service-accounts"),
            (account("a"), "GET", pods, "service-accounts"),
            (account("kube"), "GET", pods, "service-accounts"),
            (User::new("u", &[]).authenticated(), "GET", pods, "global-default"),
            (User::new("u", &[]).authenticated(), "GET", "/api/v1/nodes", "global-default"),
        ] {
            assert_eq!(schema_of(&user, method, uri), expected, "{} {method} {uri}", user.name);
        }
    }

    fn check_rule(rule: Value, method: &str, uri: &str, expected: bool) {
        let subject = json!({"kind": "Group", "group": {"name": "*"}});
        let object = json!({"metadata": {"name": "s"}, "spec": {
            "priorityLevelConfiguration": {"name": "l"},
            "rules": [{"subjects": [subject], "resourceRules": [rule], "nonResourceRules": [rule]}]}});
        let mut object = object;
        let spec = if uri.starts_with("/api/") { "nonResourceRules" } else { "resourceRules" };
        object["spec"]["rules"][0].as_object_mut().unwrap().remove(spec);
        let schema = Schema::read(&serde_json::from_value(object).unwrap());
        let request = request::read(&http::Method::from_bytes(method.as_bytes()).unwrap(), &uri.parse().unwrap());
        assert_eq!(schema.matches(&User::new("u", &[]), &Attributes::of(&request)), expected, "{rule} {uri}");
    }

    #[test]
    fn rules() {
        let pods = "/api/v1/namespaces/a/pods";
        let rule = |verbs: &str, resources: &str, namespaces: &str, cluster: bool| {
            json!({"verbs": [verbs], "apiGroups": [""], "resources": [resources], "namespaces": [namespaces],
                "clusterScope": cluster})
        };
        for (rule, uri, expected) in [
            (rule("list", "pods", "a", false), pods, true),
            (rule("get", "pods", "a", false), pods, false),
            (rule("*", "*", "*", false), pods, true),
            (rule("*", "pods", "b", false), pods, false),
            (rule("*", "pods", "*", false), "/api/v1/pods", false),
            (rule("*", "pods", "*", true), "/api/v1/pods", true),
            (rule("*", "pods", "*", false), "/api/v1/namespaces/a/pods/p/status", false),
            (rule("*", "pods/status", "*", false), "/api/v1/namespaces/a/pods/p/status", true),
        ] {
            check_rule(rule, "GET", uri, expected);
        }
        let urls = |url: &str| json!({"verbs": ["get"], "nonResourceURLs": [url]});
        check_rule(urls("/metrics"), "GET", "/metrics/x", true);
        check_rule(urls("/metrics"), "GET", "/metricsx", false);
        check_rule(urls("/x/*"), "GET", "/x/y", true);
        check_rule(urls("*"), "GET", "/version", true);
        check_rule(urls("*"), "POST", "/version", false);
    }

    #[test]
    fn flows_are_told_apart_by_what_the_schema_says() {
        let schema = |method: Value| {
            let object = json!({"metadata": {"name": "s"}, "spec": {"distinguisherMethod": method,
                "priorityLevelConfiguration": {"name": "l"}}});
            Schema::read(&serde_json::from_value(object).unwrap())
        };
        let flow = |schema: &Schema, user: &str, namespace: &str| {
            schema.flow(&User::new(user, &[]), &Attributes { namespace, ..Attributes::default() })
        };
        for (method, by_user, by_namespace) in [
            (json!({"type": "ByUser"}), true, false),
            (json!({"type": "ByNamespace"}), false, true),
            (Value::Null, false, false),
        ] {
            let schema = schema(method);
            assert_eq!(flow(&schema, "u", "a") != flow(&schema, "v", "a"), by_user);
            assert_eq!(flow(&schema, "u", "a") != flow(&schema, "u", "b"), by_namespace);
        }
    }
}
