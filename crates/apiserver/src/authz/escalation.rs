//! Nobody grants what they do not hold: writing a role needs every right in it (or `escalate`),
//! writing a binding every right of the role (or `bind`).
//!
//! Source: kubernetes/pkg/registry/rbac/{role,clusterrole,rolebinding,clusterrolebinding}/policybased.

use api_types::{ApiError, Resource};
use serde_json::Value;

use super::{
    Attributes, Authorizer,
    rule::{Rule, compact, missing, quoted},
};
use crate::authn::{MASTERS, User};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Checks a write of `new` over `old` (`None`: a create). Resources of other groups pass.
pub async fn check(
    authorizer: &Authorizer,
    user: &User,
    resource: &Resource,
    old: Option<&Value>,
    new: &Value,
) -> Result<(), ApiError> {
    if resource.group != GROUP || user.is_in(MASTERS) {
        return Ok(());
    }
    let metadata = &new["metadata"];
    let (namespace, name) = (text(&metadata["namespace"]), text(&metadata["name"]));
    let unchanged = |field: &str| old.is_some_and(|old| old[field] == new[field]);
    let grant = Grant { authorizer, user, resource, namespace, name };
    match resource.kind.as_ref() {
        "Role" | "ClusterRole" if unchanged("rules") && unchanged("aggregationRule") => Ok(()),
        "Role" | "ClusterRole" => grant.of_rules(new).await,
        "RoleBinding" | "ClusterRoleBinding" if unchanged("roleRef") && unchanged("subjects") => Ok(()),
        "RoleBinding" | "ClusterRoleBinding" => grant.of_role(&new["roleRef"]).await,
        _ => Ok(()),
    }
}

/// One who writes a role or binding.
struct Grant<'a> {
    authorizer: &'a Authorizer,
    user: &'a User,
    resource: &'a Resource,
    namespace: &'a str,
    name: &'a str,
}

impl Grant<'_> {
    async fn of_rules(&self, role: &Value) -> Result<(), ApiError> {
        if self.may("escalate", &self.resource.plural, self.name).await {
            return Ok(());
        }
        self.held(&Rule::list(&role["rules"]))?;
        let aggregates =
            role["aggregationRule"]["clusterRoleSelectors"].as_array().is_some_and(|list| !list.is_empty());
        if aggregates && self.held(&Rule::everything()).is_err() {
            return Err(self.refused("must have cluster-admin privileges to use the aggregationRule"));
        }
        Ok(())
    }

    async fn of_role(&self, role_ref: &Value) -> Result<(), ApiError> {
        let name = text(&role_ref["name"]);
        let (plural, namespace) =
            if role_ref["kind"] == "Role" { ("roles", self.namespace) } else { ("clusterroles", "") };
        if self.may("bind", plural, name).await {
            return Ok(());
        }
        let Some(rules) = self.authorizer.rbac().role(namespace, name) else {
            let kind = plural.trim_end_matches('s');
            let message = format!("{kind}.{GROUP} \"{name}\" not found");
            return Err(ApiError::new(404, "NotFound", message).with_object(GROUP, kind, name));
        };
        self.held(&rules)
    }

    async fn may(&self, verb: &str, plural: &str, name: &str) -> bool {
        let attributes = Attributes {
            verb,
            group: GROUP,
            version: "*",
            resource: plural,
            namespace: self.namespace,
            name,
            resource_request: true,
            ..Attributes::default()
        };
        self.authorizer.allows(self.user, &attributes).await
    }

    fn held(&self, wanted: &[Rule]) -> Result<(), ApiError> {
        let (held, gaps) = self.authorizer.rules_for(self.user, self.namespace);
        let lacking = missing(&held, wanted);
        if lacking.is_empty() {
            return Ok(());
        }
        let mut lines: Vec<String> = lacking.iter().map(compact).collect();
        lines.sort();
        let mut why = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            self.user.name,
            quoted(&self.user.groups),
            lines.join("\n")
        );
        if !gaps.is_empty() {
            why = format!("{why}; resolution errors: [{}]", gaps.join(" "));
        }
        Err(self.refused(&why))
    }

    fn refused(&self, why: &str) -> ApiError {
        ApiError::forbidden(self.resource, self.name, why)
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::fixture::rbac_only;
    use api_types::{Key, resources};
    use futures::FutureExt;
    use serde_json::json;

    /// bob may get pods anywhere, write roles, and bind `bindable`.
    fn authorizer() -> Authorizer {
        let authorizer = rbac_only();
        let rbac = authorizer.rbac();
        let apply = |kind: &str, name: &str, object: Value| rbac.apply(kind, &Key::cluster(name), Some(&object));
        apply(
            "ClusterRole",
            "bob",
            json!({"rules": [
                {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]},
                {"verbs": ["bind"], "apiGroups": [GROUP], "resources": ["clusterroles"], "resourceNames": ["bindable"]},
            ]}),
        );
        apply("ClusterRole", "root", json!({"rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]}));
        apply("ClusterRole", "bindable", json!({"rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]}));
        apply(
            "ClusterRoleBinding",
            "bob",
            json!({"roleRef": {"kind": "ClusterRole", "name": "bob"}, "subjects": [{"kind": "User", "name": "bob"}]}),
        );
        authorizer
    }
    fn refusal(resource: &Resource, old: Option<&Value>, new: &Value) -> Option<(u16, String)> {
        let bob = User::new("bob", &["devs"]);
        let checked = check(&authorizer(), &bob, resource, old, new).now_or_never();
        checked.expect("memory answers at once").err().map(|refusal| (refusal.code(), refusal.message().to_owned()))
    }
    fn role(verbs: &[&str]) -> Value {
        json!({"metadata": {"namespace": "n", "name": "r"}, "rules": [{"verbs": verbs, "apiGroups": [""], "resources": ["pods"]}]})
    }
    fn binding(role: &str) -> Value {
        json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": role}, "subjects": []})
    }

    #[test]
    fn roles() {
        assert_eq!(refusal(&resources::ROLE, None, &role(&["get"])), None);
        assert_eq!(
            refusal(&resources::ROLE, None, &role(&["get", "delete", "create"])),
            Some((
                403,
                "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"bob\" (groups=[\"devs\"]) is attempting to grant \
                 RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"create\" \"delete\"]}"
                    .to_owned()
            ))
        );
        let old = role(&["delete"]);
        assert_eq!(refusal(&resources::ROLE, Some(&old), &old), None, "what stands may stay");
        let aggregated = json!({"metadata": {"name": "r"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
        let (code, message) = refusal(&resources::CLUSTER_ROLE, None, &aggregated).expect("refused");
        assert_eq!(code, 403);
        assert!(message.ends_with("must have cluster-admin privileges to use the aggregationRule"), "{message}");
    }

    #[test]
    fn bindings() {
        assert_eq!(refusal(&resources::CLUSTER_ROLE_BINDING, None, &binding("bindable")), None);
        assert_eq!(refusal(&resources::CLUSTER_ROLE_BINDING, None, &binding("bob")), None, "he holds all of it");
        assert_eq!(refusal(&resources::CLUSTER_ROLE_BINDING, None, &binding("root")).map(|r| r.0), Some(403));
        assert_eq!(refusal(&resources::CLUSTER_ROLE_BINDING, None, &binding("absent")).map(|r| r.0), Some(404));
        assert_eq!(refusal(&resources::CONFIG_MAP, None, &json!({})), None);
    }
}
