//! May they? Authorisers are asked in turn, and the first that allows or forbids decides. What Node and
//! RBAC decide from is kept by change callbacks, so that a request reads memory only; only a webhook is asked.

pub mod abac;
pub mod assemble;
pub mod configuration;
pub mod escalation;
pub mod flags;
pub mod graph;
pub mod node;
pub mod rbac;
pub mod rule;
pub mod signers;
pub mod webhook;

use std::sync::Arc;

use api_types::{ApiError, Key, Resource, resources};
use daemon::reload::Reloading;
use parking_lot::RwLock;
use serde_json::Value;

use crate::{
    audit,
    authn::{self, MASTERS, User},
    reader::Changes,
    request::Request,
};
use graph::Graph;
use rbac::Rbac;
use rule::Rule;

/// What is asked of what. Texts are empty where they do not apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    /// The object's name, or the one to which a field selector narrows a collection.
    pub name: &'a str,
    /// The non-resource path.
    pub path: &'a str,
    /// As in the query: `spec.nodeName=n1`.
    pub field_selector: &'a str,
    /// As in the query: `app=web`.
    pub label_selector: &'a str,
    pub resource_request: bool,
}

impl<'a> Attributes<'a> {
    pub fn of(request: &'a Request) -> Self {
        let verb = request.verb;
        let Some(target) = &request.target else {
            return Self { verb, path: &request.path, ..Self::default() };
        };
        Self {
            verb,
            group: &target.group,
            version: &target.version,
            resource: &target.resource,
            subresource: &target.subresource,
            namespace: &target.key.namespace,
            name: &target.authorized_name,
            path: &request.path,
            field_selector: selector(verb, request.query.text("fieldSelector")),
            label_selector: selector(verb, request.query.text("labelSelector")),
            resource_request: true,
        }
    }
    /// Whether the field selector demands that `field` equals `value`.
    fn selects(&self, field: &str, value: &str) -> bool {
        self.field_selector.split(',').any(|term| {
            let wanted = term.trim().strip_prefix(field).and_then(|rest| rest.strip_prefix('='));
            wanted.is_some_and(|rest| rest.strip_prefix('=').unwrap_or(rest) == value)
        })
    }
}

/// Selectors narrow only what goes over many objects.
fn selector<'a>(verb: &str, text: &'a str) -> &'a str {
    if matches!(verb, "list" | "watch" | "deletecollection") { text } else { "" }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow {
        reason: String,
    },
    /// Nobody allowed it; the answer is 403 with the reason at its end.
    NoOpinion {
        reason: String,
    },
    /// Somebody forbade it, whatever the others say.
    Deny {
        reason: String,
    },
}

/// One authoriser.
pub enum Link {
    Node,
    Rbac,
    Abac(abac::Policies),
    AlwaysAllow,
    AlwaysDeny,
    Webhook(Box<webhook::AccessWebhook>),
}

pub struct Authorizer {
    chain: Reloading<Vec<Link>>,
    rbac: Arc<Rbac>,
    graph: Arc<RwLock<Graph>>,
    /// What every node may do, whatever its pods.
    node_rules: Vec<Rule>,
}

impl Authorizer {
    /// Follows the cluster's roles, bindings, pods and volumes through `changes`.
    pub fn new(chain: Reloading<Vec<Link>>, node_rules: Vec<Rule>, changes: &dyn Changes) -> Self {
        let rbac = Arc::new(Rbac::default());
        for resource in
            [&resources::CLUSTER_ROLE, &resources::CLUSTER_ROLE_BINDING, &resources::ROLE, &resources::ROLE_BINDING]
        {
            let rbac = rbac.clone();
            let kind = resource.kind.clone();
            changes.subscribe(resource, Box::new(move |key, object| rbac.apply(&kind, key, object)));
        }
        let graph = Arc::new(RwLock::new(Graph::default()));
        let follow = |resource: &Resource, apply: fn(&mut Graph, &Key, Option<&Value>)| {
            let graph = graph.clone();
            changes.subscribe(resource, Box::new(move |key, object| apply(&mut graph.write(), key, object)));
        };
        follow(&resources::POD, Graph::pod_changed);
        follow(&resources::PERSISTENT_VOLUME, Graph::volume_changed);
        follow(&resources::VOLUME_ATTACHMENT, Graph::attachment_changed);
        follow(&resources::RESOURCE_SLICE, Graph::slice_changed);
        Self { chain, rbac, graph, node_rules }
    }

    pub async fn authorize(&self, user: &User, attributes: &Attributes<'_>) -> Decision {
        let is_probe = !attributes.resource_request && attributes.verb == "get" && authn::is_open(attributes.path);
        if user.is_in(MASTERS) || is_probe {
            return Decision::Allow { reason: String::new() };
        }
        let mut reasons = Vec::new();
        for link in self.chain.current().iter() {
            let decision = match link {
                Link::Webhook(webhook) => webhook.authorize(user, attributes).await,
                link => self.decide(link, user, attributes),
            };
            match decision {
                Decision::NoOpinion { reason } if reason.is_empty() => {}
                Decision::NoOpinion { reason } => reasons.push(reason),
                decided @ (Decision::Allow { .. } | Decision::Deny { .. }) => return decided,
            }
        }
        Decision::NoOpinion { reason: reasons.join("\n") }
    }

    /// What a link says that need ask nobody.
    fn decide(&self, link: &Link, user: &User, attributes: &Attributes<'_>) -> Decision {
        match link {
            Link::Node => node::authorize(user, attributes, &self.graph.read(), &self.node_rules),
            Link::Rbac => self.rbac.authorize(user, attributes),
            Link::Abac(policies) if policies.allow(user, attributes) => Decision::Allow { reason: String::new() },
            Link::Abac(_) => Decision::NoOpinion { reason: "No policy matched.".to_owned() },
            Link::AlwaysAllow => Decision::Allow { reason: String::new() },
            Link::AlwaysDeny => Decision::NoOpinion { reason: "Everything is forbidden.".to_owned() },
            Link::Webhook(_) => Decision::NoOpinion { reason: String::new() },
        }
    }

    pub async fn allows(&self, user: &User, attributes: &Attributes<'_>) -> bool {
        matches!(self.authorize(user, attributes).await, Decision::Allow { .. })
    }

    /// [`Authorizer::authorize`] as the answer to a request.
    pub async fn check(&self, user: &User, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        let decision = self.authorize(user, attributes).await;
        audit::decided(&decision);
        match decision {
            Decision::Allow { .. } => Ok(()),
            Decision::NoOpinion { reason } | Decision::Deny { reason } => Err(forbidden(user, attributes, &reason)),
        }
    }

    /// Every rule that holds for `user` in `namespace`, and why the list may lack some.
    pub fn rules_for(&self, user: &User, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let (mut rules, mut gaps) = self.rbac.rules_for(user, namespace);
        if user.is_in(MASTERS) {
            rules.extend(Rule::everything());
        }
        for link in self.chain.current().iter() {
            match link {
                Link::AlwaysAllow => rules.extend(Rule::everything()),
                Link::Node if node::name_of(user).is_some() => {
                    gaps.push("node authorizer does not support user rule resolution".to_owned());
                }
                Link::Webhook(_) => gaps.push("webhook authorizer does not support user rule resolution".to_owned()),
                Link::Abac(_) => gaps.push("ABAC authorizer does not support user rule resolution".to_owned()),
                Link::Node | Link::Rbac | Link::AlwaysDeny => {}
            }
        }
        (rules, gaps)
    }

    pub fn rbac(&self) -> &Rbac {
        &self.rbac
    }
}

/// What a write of `new` over `old` (`None`: a create) demands beyond the verb: rights that it grants
/// must be held, signers must be the writer's to speak for.
pub async fn check_write(
    authorizer: &Authorizer,
    user: &User,
    resource: &Resource,
    subresource: &str,
    old: Option<&Value>,
    new: &Value,
) -> Result<(), ApiError> {
    escalation::check(authorizer, user, resource, old, new).await?;
    signers::check(authorizer, user, resource, subresource, old, new).await
}

/// 403 in upstream's words.
///
/// Source: `Forbidden` and `forbiddenMessage` in apiserver/pkg/endpoints/handlers/responsewriters/errors.go.
pub fn forbidden(user: &User, attributes: &Attributes<'_>, reason: &str) -> ApiError {
    let Attributes { verb, group, resource, subresource, namespace, name, path, .. } = *attributes;
    let who = &user.name;
    let mut why = if attributes.resource_request {
        let slash = if subresource.is_empty() { "" } else { "/" };
        let scope = match namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace \"{namespace}\""),
        };
        format!(
            "User \"{who}\" cannot {verb} resource \"{resource}{slash}{subresource}\" in API group \"{group}\" {scope}"
        )
    } else {
        format!("User \"{who}\" cannot {verb} path \"{path}\"")
    };
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    let subject = match group {
        "" => resource.to_owned(),
        group => format!("{resource}.{group}"),
    };
    let message = match (attributes.resource_request, name) {
        (false, _) => format!("forbidden: {why}"),
        (true, "") => format!("{subject} is forbidden: {why}"),
        (true, name) => format!("{subject} \"{name}\" is forbidden: {why}"),
    };
    let name = if attributes.resource_request { name } else { "" };
    ApiError::new(403, "Forbidden", message).with_object(group, resource, name)
}

#[cfg(test)]
pub(crate) mod fixture {
    use api_types::Resource;
    use daemon::reload::Reloading;

    use super::{Authorizer, Link};
    use crate::reader::{Changes, OnChange};

    struct Still;
    impl Changes for Still {
        fn subscribe(&self, _: &Resource, _: OnChange) {}
    }

    /// RBAC alone, and no role yet.
    pub(crate) fn rbac_only() -> Authorizer {
        Authorizer::new(Reloading::fixed(vec![Link::Rbac]), Vec::new(), &Still)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Still;
    impl Changes for Still {
        fn subscribe(&self, _: &Resource, _: crate::reader::OnChange) {}
    }

    #[test]
    fn denials_are_worded_as_upstream() {
        let pods = Attributes { verb: "list", resource: "pods", resource_request: true, ..Attributes::default() };
        let in_namespace = Attributes { namespace: "n", ..pods };
        let logs = Attributes { verb: "get", subresource: "log", name: "p2", ..in_namespace };
        let scale = Attributes {
            verb: "patch",
            group: "apps",
            resource: "deployments",
            subresource: "scale",
            name: "d",
            ..in_namespace
        };
        let path = Attributes { verb: "get", path: "/metrics", ..Attributes::default() };
        for (attributes, reason, expected) in [
            (
                pods,
                "",
                r#"pods is forbidden: User "u" cannot list resource "pods" in API group "" at the cluster scope"#,
            ),
            (
                in_namespace,
                "",
                r#"pods is forbidden: User "u" cannot list resource "pods" in API group "" in the namespace "n""#,
            ),
            (
                logs,
                "",
                r#"pods "p2" is forbidden: User "u" cannot get resource "pods/log" in API group "" in the namespace "n""#,
            ),
            (
                scale,
                "why",
                r#"deployments.apps "d" is forbidden: User "u" cannot patch resource "deployments/scale" in API group "apps" in the namespace "n": why"#,
            ),
            (path, "", r#"forbidden: User "u" cannot get path "/metrics""#),
        ] {
            assert_eq!(forbidden(&User::new("u", &[]), &attributes, reason).message(), expected);
        }
    }

    /// Liveness must not depend on roles that are read from the store.
    #[tokio::test]
    async fn probes_need_no_role() {
        let chain = Reloading::fixed(vec![Link::Node, Link::Rbac]);
        let authorizer = Authorizer::new(chain, Vec::new(), &Still);
        for (verb, path, allowed) in [("get", "/livez", true), ("get", "/metrics", false), ("post", "/livez", false)] {
            let asked = Attributes { verb, path, ..Attributes::default() };
            assert_eq!(authorizer.allows(&User::anonymous(), &asked).await, allowed, "{verb} {path}");
        }
    }

    #[tokio::test]
    async fn links_are_asked_in_turn() {
        let policies = || Link::Abac(abac::Policies::default());
        let no = |reason: &str| Decision::NoOpinion { reason: reason.to_owned() };
        let yes = Decision::Allow { reason: String::new() };
        for (chain, expected) in [
            (vec![Link::Rbac, Link::AlwaysAllow], yes.clone()),
            (vec![Link::AlwaysDeny, Link::AlwaysAllow], yes),
            (vec![Link::AlwaysDeny, policies()], no("Everything is forbidden.\nNo policy matched.")),
            (vec![Link::Node, Link::Rbac], no("")),
        ] {
            let authorizer = Authorizer::new(Reloading::fixed(chain), Vec::new(), &Still);
            let asked = Attributes { verb: "get", resource: "pods", resource_request: true, ..Attributes::default() };
            assert_eq!(authorizer.authorize(&User::new("bob", &[]), &asked).await, expected);
        }
    }

    #[test]
    fn field_selectors() {
        let attributes = Attributes { field_selector: "a=b, spec.nodeName==n1", ..Attributes::default() };
        assert!(attributes.selects("spec.nodeName", "n1"));
        assert!(!attributes.selects("spec.nodeName", "n"));
        assert!(!attributes.selects("nodeName", "n1"));
        let other = Attributes { field_selector: "spec.nodeName!=n1", ..Attributes::default() };
        assert!(!other.selects("spec.nodeName", "n1"));
    }
}
