//! Constrained impersonation: a right to act as somebody, and only for some verbs on some resources.
//! Both are asked for: `impersonate:<mode>` on the identity, `impersonate-on:<mode>:<verb>` on what is done.
//! The unconstrained right is asked for first and is worth the same as ever.
//!
//! Source: KEP-5284, apiserver/pkg/endpoints/filters/impersonation/mode.go.

use super::{MASTERS, User, token};
use crate::authz::{Attributes, Authorizer};

const GROUP: &str = "authentication.k8s.io";
const NODE_PREFIX: &str = "system:node:";
const NODES: &str = "system:nodes";
const OWN_NODE: &str = "authentication.kubernetes.io/node-name";

/// Who can be impersonated in a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The node on which the caller's pod runs.
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    /// Anybody who is neither, with all that a user has.
    UserInfo,
}

/// In the order in which they are tried.
pub const MODES: [Mode; 4] = [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo];

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::AssociatedNode => "associated-node",
            Self::ArbitraryNode => "arbitrary-node",
            Self::ServiceAccount => "serviceaccount",
            Self::UserInfo => "user-info",
        }
    }

    /// Whether the mode is about such an identity.
    pub fn fits(self, wanted: &User, caller: &User) -> bool {
        let is_bare = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let node = node_of(&wanted.name);
        let is_account = token::split_service_account(&wanted.name).is_some();
        match self {
            Self::AssociatedNode => {
                let own = caller.extra.get(OWN_NODE).and_then(|names| names.first()).map(String::as_str);
                is_bare && node.is_some() && own == node && token::split_service_account(&caller.name).is_some()
            }
            Self::ArbitraryNode => is_bare && node.is_some(),
            Self::ServiceAccount => is_bare && is_account,
            Self::UserInfo => node.is_none() && !is_account && is_sane(wanted),
        }
    }

    pub async fn may(self, wanted: &User, caller: &User, authorizer: &Authorizer, asked: &Attributes<'_>) -> bool {
        let on = format!("impersonate-on:{}:{}", self.name(), asked.verb);
        if !authorizer.allows(caller, &Attributes { verb: &on, ..*asked }).await {
            return false;
        }
        let verb = format!("impersonate:{}", self.name());
        for part in self.parts(wanted, &verb) {
            if !authorizer.allows(caller, &part).await {
                return false;
            }
        }
        true
    }

    fn parts<'a>(self, wanted: &'a User, verb: &'a str) -> Vec<Attributes<'a>> {
        let part = Attributes { verb, group: GROUP, version: "v1", resource_request: true, ..Attributes::default() };
        let who = match (self, node_of(&wanted.name), token::split_service_account(&wanted.name)) {
            (Self::AssociatedNode, ..) => Attributes { resource: "nodes", name: "*", ..part },
            (_, Some(node), _) => Attributes { resource: "nodes", name: node, ..part },
            (_, _, Some((namespace, name))) => Attributes { resource: "serviceaccounts", namespace, name, ..part },
            _ => Attributes { resource: "users", name: &wanted.name, ..part },
        };
        let uid = (!wanted.uid.is_empty()).then_some(Attributes { resource: "uids", name: &wanted.uid, ..part });
        let groups = wanted.groups.iter().map(|name| Attributes { resource: "groups", name, ..part });
        let extra = wanted.extra.iter().flat_map(|(key, values)| {
            values.iter().map(move |name| Attributes { resource: "userextras", subresource: key, name, ..part })
        });
        std::iter::once(who).chain(uid).chain(groups).chain(extra).collect()
    }
}

/// A node's groups follow from its name.
pub fn with_groups(mut wanted: User) -> User {
    if wanted.groups.is_empty() && node_of(&wanted.name).is_some() {
        wanted.groups.push(NODES.to_owned());
    }
    wanted
}

/// Nobody becomes a master this way, and nothing is left blank.
fn is_sane(wanted: &User) -> bool {
    let groups = wanted.groups.iter().all(|group| !group.is_empty() && group != MASTERS);
    let extra =
        wanted.extra.iter().all(|(key, values)| key.contains('/') && values.iter().all(|value| !value.is_empty()));
    groups && extra
}

fn node_of(user: &str) -> Option<&str> {
    user.strip_prefix(NODE_PREFIX).filter(|name| !name.is_empty() && !name.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::fixture::rbac_only;
    use api_types::Key;
    use serde_json::json;

    /// The account ns/agent may list pods as its own node, as bob and as another account.
    fn authorizer() -> Authorizer {
        let authorizer = rbac_only();
        let identity = |mode: &str, resource: &str| json!({"verbs": [format!("impersonate:{mode}")], "apiGroups": [GROUP], "resources": [resource]});
        let on = |mode: &str| json!({"verbs": [format!("impersonate-on:{mode}:list")], "apiGroups": [""], "resources": ["pods"]});
        let role = json!({"rules": [
            identity("associated-node", "nodes"), on("associated-node"),
            identity("serviceaccount", "serviceaccounts"), on("serviceaccount"),
            identity("user-info", "users"), identity("user-info", "groups"), on("user-info"),
        ]});
        authorizer.rbac().apply("ClusterRole", &Key::cluster("r"), Some(&role));
        let subject = json!({"kind": "ServiceAccount", "namespace": "ns", "name": "agent"});
        let binding = json!({"roleRef": {"kind": "ClusterRole", "name": "r"}, "subjects": [subject]});
        authorizer.rbac().apply("ClusterRoleBinding", &Key::cluster("b"), Some(&binding));
        authorizer
    }

    /// The first mode in which the caller may do `verb` on pods as `wanted`.
    async fn mode(wanted: &User, verb: &str) -> Option<Mode> {
        let mut caller = User::new("system:serviceaccount:ns:agent", &[]);
        caller.extra.insert(OWN_NODE.to_owned(), vec!["n1".to_owned()]);
        let asked = Attributes { verb, resource: "pods", resource_request: true, ..Attributes::default() };
        for mode in MODES {
            if mode.fits(wanted, &caller) && mode.may(wanted, &caller, &authorizer(), &asked).await {
                return Some(mode);
            }
        }
        None
    }

    #[tokio::test]
    async fn both_rights_are_needed() {
        for (wanted, verb, expected) in [
            (User::new("system:node:n1", &[]), "list", Some(Mode::AssociatedNode)),
            (User::new("system:node:n2", &[]), "list", None),
            (User::new("system:node:n1", &["system:masters"]), "list", None),
            (User::new("system:node:n1", &[]), "delete", None),
            (User::new("system:serviceaccount:a:b", &[]), "list", Some(Mode::ServiceAccount)),
            (User::new("system:serviceaccount:a:b", &["g"]), "list", None),
            (User::new("bob", &["g"]), "list", Some(Mode::UserInfo)),
            (User::new("bob", &[]), "get", None),
            (User::new("bob", &["system:masters"]), "list", None),
            (User::new("bob", &[""]), "list", None),
        ] {
            assert_eq!(mode(&wanted, verb).await, expected, "{wanted:?} {verb}");
        }
    }

    #[test]
    fn a_nodes_groups_follow() {
        assert_eq!(with_groups(User::new("system:node:n1", &[])).groups, [NODES]);
        assert!(with_groups(User::new("bob", &[])).groups.is_empty());
    }
}
