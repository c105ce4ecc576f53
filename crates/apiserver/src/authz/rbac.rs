//! RBAC over immutable snapshots. Bindings are indexed by subject, so a request costs what its
//! user's bindings cost, however many others there are.
//!
//! Source: kubernetes/plugin/pkg/auth/authorizer/rbac.

use std::{collections::BTreeMap, sync::Arc};

use api_types::Key;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::Value;

use super::{Attributes, Decision, rule::Rule};
use crate::authn::{User, token};

/// On the roles that every cluster has.
const BOOTSTRAPPING: &str = "kubernetes.io/bootstrapping";
/// Roles that are named to who asks which would help.
const SHOWN_MAX: usize = 10;

/// One who is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    User(String),
    Group(String),
    ServiceAccount { namespace: String, name: String },
}

impl Subject {
    fn read(subject: &Value, binding_namespace: &str) -> Option<Self> {
        let name = subject["name"].as_str()?.to_owned();
        match subject["kind"].as_str()? {
            "User" => Some(Self::User(name)),
            "Group" => Some(Self::Group(name)),
            "ServiceAccount" => {
                let namespace = subject["namespace"].as_str().filter(|text| !text.is_empty());
                Some(Self::ServiceAccount { namespace: namespace.unwrap_or(binding_namespace).to_owned(), name })
            }
            _ => None,
        }
    }
    fn is(&self, user: &User) -> bool {
        match self {
            Self::User(name) => user.name == *name,
            Self::Group(name) => user.is_in(name),
            Self::ServiceAccount { namespace, name } => {
                token::split_service_account(&user.name) == Some((namespace.as_str(), name.as_str()))
            }
        }
    }
    fn describe(&self) -> String {
        match self {
            Self::User(name) => format!("User {name:?}"),
            Self::Group(name) => format!("Group {name:?}"),
            Self::ServiceAccount { namespace, name } => format!("ServiceAccount \"{name}/{namespace}\""),
        }
    }
}

/// A role by name; the namespace is empty for a ClusterRole.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RoleRef(Key);

impl RoleRef {
    fn read(role_ref: &Value, binding_namespace: &str) -> Self {
        let name = role_ref["name"].as_str().unwrap_or_default();
        let namespace = if role_ref["kind"] == "Role" { binding_namespace } else { "" };
        Self(Key::new(namespace, name))
    }
    fn kind(&self) -> &'static str {
        if self.0.namespace.is_empty() { "ClusterRole" } else { "Role" }
    }
    fn not_found(&self) -> String {
        format!("{}.rbac.authorization.k8s.io \"{}\" not found", self.kind().to_lowercase(), self.0.name)
    }
}

/// A binding; cluster-wide if its key has no namespace.
#[derive(Debug)]
struct Binding {
    key: Key,
    role: RoleRef,
    subjects: Vec<Subject>,
}

impl Binding {
    fn read(key: &Key, object: &Value) -> Self {
        let subjects = object["subjects"].as_array().map(Vec::as_slice).unwrap_or_default();
        Self {
            key: key.clone(),
            role: RoleRef::read(&object["roleRef"], &key.namespace),
            subjects: subjects.iter().filter_map(|subject| Subject::read(subject, &key.namespace)).collect(),
        }
    }
    fn describe(&self, user: &User) -> String {
        let subject = self.subjects.iter().find(|subject| subject.is(user)).map(Subject::describe).unwrap_or_default();
        let (kind, name) = match self.key.namespace.as_str() {
            "" => ("ClusterRoleBinding", self.key.name.clone()),
            namespace => ("RoleBinding", format!("{}/{namespace}", self.key.name)),
        };
        let role = &self.role;
        format!("{kind} {name:?} of {} {:?} to {subject}", role.kind(), role.0.name)
    }
}

/// A ClusterRole's own rules and what it takes from others.
#[derive(Debug)]
struct Role {
    own: Vec<Rule>,
    labels: BTreeMap<String, String>,
    /// `aggregationRule.clusterRoleSelectors`; a role that matches one gives its rules.
    selectors: Vec<api_types::labels::Selector>,
    /// `own` and all that the selectors bring.
    rules: Arc<[Rule]>,
}

impl Role {
    fn read(object: &Value) -> Self {
        let own = Rule::list(&object["rules"]);
        let rules = own.clone().into();
        let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
        let selectors = object["aggregationRule"]["clusterRoleSelectors"].as_array().into_iter().flatten();
        Self {
            own,
            labels: labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect(),
            selectors: selectors.filter_map(selector).collect(),
            rules,
        }
    }
    fn takes_from(&self, other: &Self) -> bool {
        self.selectors.iter().any(|selector| selector.matches(&other.labels))
    }
}

fn selector(value: &Value) -> Option<api_types::labels::Selector> {
    let selector: api_types::k8s::meta::LabelSelector = serde_json::from_value(value.clone()).ok()?;
    Some(api_types::labels::Selector::from(&selector))
}

type Bound = imbl::OrdMap<String, Arc<Binding>>;

/// Bindings by who is bound, so that a request looks up its user and nobody else. ServiceAccounts are
/// users by their full name.
#[derive(Clone, Default)]
struct Scope {
    users: imbl::HashMap<String, Bound>,
    groups: imbl::HashMap<String, Bound>,
}

impl Scope {
    fn place(&mut self, subject: &Subject) -> (&mut imbl::HashMap<String, Bound>, String) {
        match subject {
            Subject::User(name) => (&mut self.users, name.clone()),
            Subject::Group(name) => (&mut self.groups, name.clone()),
            Subject::ServiceAccount { namespace, name } => {
                (&mut self.users, token::service_account_name(namespace, name))
            }
        }
    }
    fn insert(&mut self, subject: &Subject, binding: &Arc<Binding>) {
        let (map, name) = self.place(subject);
        map.entry(name).or_default().insert(binding.key.name.clone(), binding.clone());
    }
    fn remove(&mut self, subject: &Subject, binding: &str) {
        let (map, name) = self.place(subject);
        let Some(mut bound) = map.remove(&name) else { return };
        bound.remove(binding);
        if !bound.is_empty() {
            map.insert(name, bound);
        }
    }
    fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }
}

#[derive(Clone, Default)]
struct Snapshot {
    roles: imbl::HashMap<Key, Arc<Role>>,
    bindings: imbl::HashMap<Key, Arc<Binding>>,
    /// By the namespace in which bindings hold; empty: all.
    scopes: imbl::HashMap<String, Scope>,
    /// ClusterRoles with an aggregation rule.
    aggregated: imbl::OrdSet<String>,
}

impl Snapshot {
    fn set_binding(&mut self, key: &Key, binding: Option<Arc<Binding>>) {
        let mut scope = self.scopes.remove(&key.namespace).unwrap_or_default();
        if let Some(old) = self.bindings.remove(key) {
            old.subjects.iter().for_each(|subject| scope.remove(subject, &key.name));
        }
        if let Some(binding) = &binding {
            binding.subjects.iter().for_each(|subject| scope.insert(subject, binding));
        }
        if !scope.is_empty() {
            self.scopes.insert(key.namespace.clone(), scope);
        }
        let Some(binding) = binding else { return };
        self.bindings.insert(key.clone(), binding);
    }

    fn set_role(&mut self, key: &Key, role: Option<Role>) {
        let old = self.roles.remove(key);
        self.aggregated.remove(&key.name);
        let mut touched: Vec<Arc<Role>> = old.into_iter().collect();
        if let Some(role) = role {
            if !role.selectors.is_empty() {
                self.aggregated.insert(key.name.clone());
            }
            let role = Arc::new(role);
            touched.push(role.clone());
            self.roles.insert(key.clone(), role);
        }
        let is_affected = |name: &String| {
            let taker = self.roles.get(&Key::cluster(name.as_str()));
            taker.is_some_and(|taker| touched.iter().any(|role| taker.takes_from(role) || !role.selectors.is_empty()))
        };
        if key.namespace.is_empty() && self.aggregated.iter().any(is_affected) {
            self.aggregate();
        }
    }

    /// Fills every aggregated role. They may feed each other (`view` into `edit` into `admin`), so all
    /// are done together: each takes from the roles' own rules along every path of selectors.
    fn aggregate(&mut self) {
        let cluster: Vec<(Key, Arc<Role>)> = self
            .roles
            .iter()
            .filter(|(key, _)| key.namespace.is_empty())
            .map(|(key, role)| (key.clone(), role.clone()))
            .collect();
        for name in &self.aggregated.clone() {
            let key = Key::cluster(name.as_str());
            let Some(role) = self.roles.get(&key) else { continue };
            let mut sources = vec![role.clone()];
            let mut seen = std::collections::BTreeSet::from([name.clone()]);
            let mut rules = Vec::new();
            while let Some(source) = sources.pop() {
                rules.extend(source.own.iter().cloned());
                for (other_key, other) in &cluster {
                    if source.takes_from(other) && seen.insert(other_key.name.clone()) {
                        sources.push(other.clone());
                    }
                }
            }
            rules.sort();
            rules.dedup();
            let filled = Role {
                own: role.own.clone(),
                labels: role.labels.clone(),
                selectors: role.selectors.clone(),
                rules: rules.into(),
            };
            self.roles.insert(key, Arc::new(filled));
        }
    }

    /// The bindings that hold for `user` in `namespace`, cluster-wide ones first.
    fn bindings_of<'a>(&'a self, user: &'a User, namespace: &str) -> impl Iterator<Item = &'a Arc<Binding>> + 'a {
        let narrow = (!namespace.is_empty()).then(|| self.scopes.get(namespace)).flatten();
        self.scopes.get("").into_iter().chain(narrow).flat_map(move |scope| {
            let groups = user.groups.iter().filter_map(|group| scope.groups.get(group));
            scope.users.get(&user.name).into_iter().chain(groups).flat_map(|bound| bound.values())
        })
    }
}

/// The RBAC objects of the cluster, as the last change left them.
#[derive(Default)]
pub struct Rbac {
    current: ArcSwap<Snapshot>,
    /// Held while the next snapshot is made: each resource calls back from its own place.
    writer: Mutex<()>,
}

impl Rbac {
    /// `kind` is one of the four of the group; `None` for a deleted object.
    pub fn apply(&self, kind: &str, key: &Key, object: Option<&Value>) {
        let _writer = self.writer.lock();
        let mut next = Snapshot::clone(&self.current.load());
        match kind {
            "Role" | "ClusterRole" => next.set_role(key, object.map(Role::read)),
            _ => next.set_binding(key, object.map(|object| Arc::new(Binding::read(key, object)))),
        }
        self.current.store(Arc::new(next));
    }

    pub fn authorize(&self, user: &User, asked: &Attributes<'_>) -> Decision {
        let snapshot = self.current.load();
        let mut lost = Vec::new();
        for binding in snapshot.bindings_of(user, asked.namespace) {
            match snapshot.roles.get(&binding.role.0) {
                Some(role) if role.rules.iter().any(|rule| rule.allows(asked)) => {
                    return Decision::Allow { reason: format!("RBAC: allowed by {}", binding.describe(user)) };
                }
                Some(_) => {}
                None => lost.push(binding.role.not_found()),
            }
        }
        let reason = match lost.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            many => format!("RBAC: [{}]", many.join(", ")),
        };
        Decision::NoOpinion { reason }
    }

    /// Every rule that holds for `user` in `namespace`, and the bindings' roles that do not exist.
    pub fn rules_for(&self, user: &User, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let snapshot = self.current.load();
        let (mut rules, mut gaps) = (Vec::new(), Vec::new());
        for binding in snapshot.bindings_of(user, namespace) {
            match snapshot.roles.get(&binding.role.0) {
                Some(role) => rules.extend(role.rules.iter().cloned()),
                None => gaps.push(binding.role.not_found()),
            }
        }
        (rules, gaps)
    }

    /// Roles that allow what is asked, whoever is bound to them: upstream's own, and others as the flags say.
    pub fn would_allow(&self, asked: &Attributes<'_>, with_cluster_roles: bool, with_roles: bool) -> Vec<String> {
        let snapshot = self.current.load();
        let mut found = Vec::new();
        for (key, role) in snapshot.roles.iter() {
            let is_in_reach = key.namespace.is_empty() || (with_roles && key.namespace == asked.namespace);
            let is_public = role.labels.contains_key(BOOTSTRAPPING) || with_cluster_roles || !key.namespace.is_empty();
            if is_in_reach && is_public && role.rules.iter().any(|rule| rule.allows(asked)) {
                found.push(format!("{} {:?}", RoleRef(key.clone()).kind(), key.name));
            }
        }
        found.sort();
        found.truncate(SHOWN_MAX);
        found
    }

    /// The rules of a role; `namespace` is empty for a ClusterRole. `None`: there is no such role.
    pub fn role(&self, namespace: &str, name: &str) -> Option<Arc<[Rule]>> {
        Some(self.current.load().roles.get(&Key::new(namespace, name))?.rules.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn role(rbac: &Rbac, key: &str, labels: Value, rules: Value, aggregate: Option<&str>) {
        let selectors = aggregate.map(|label| json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]}));
        let object = json!({"metadata": {"labels": labels}, "rules": rules, "aggregationRule": selectors});
        let (key, kind) = match key.split_once('/') {
            Some((namespace, name)) => (Key::new(namespace, name), "Role"),
            None => (Key::cluster(key), "ClusterRole"),
        };
        rbac.apply(kind, &key, Some(&object));
    }
    fn bind(rbac: &Rbac, key: &str, role_kind: &str, role: &str, subject: Value) {
        let object = json!({"roleRef": {"kind": role_kind, "name": role}, "subjects": [subject]});
        let (key, kind) = match key.split_once('/') {
            Some((namespace, name)) => (Key::new(namespace, name), "RoleBinding"),
            None => (Key::cluster(key), "ClusterRoleBinding"),
        };
        rbac.apply(kind, &key, Some(&object));
    }
    fn rules(verb: &str, resource: &str) -> Value {
        json!([{"verbs": [verb], "apiGroups": [""], "resources": [resource]}])
    }
    fn ask(rbac: &Rbac, user: &User, verb: &str, resource: &str, namespace: &str) -> String {
        let asked = Attributes { verb, resource, namespace, resource_request: true, ..Attributes::default() };
        match rbac.authorize(user, &asked) {
            Decision::Allow { reason } => reason,
            Decision::NoOpinion { reason } | Decision::Deny { reason } => format!("no: {reason}"),
        }
    }
    fn bob() -> User {
        User::new("bob", &["devs", "system:authenticated"])
    }

    #[test]
    fn who_is_bound_where() {
        let rbac = Rbac::default();
        role(&rbac, "reader", json!({}), rules("get", "pods"), None);
        role(&rbac, "n/lister", json!({}), rules("list", "pods"), None);
        bind(&rbac, "all-devs", "ClusterRole", "reader", json!({"kind": "Group", "name": "devs"}));
        bind(&rbac, "n/bob-lists", "Role", "lister", json!({"kind": "User", "name": "bob"}));
        bind(&rbac, "n/sa", "ClusterRole", "reader", json!({"kind": "ServiceAccount", "name": "app"}));
        let account = User::new("system:serviceaccount:n:app", &[]);
        for (user, verb, namespace, expected) in [
            (
                bob(),
                "get",
                "",
                r#"RBAC: allowed by ClusterRoleBinding "all-devs" of ClusterRole "reader" to Group "devs""#,
            ),
            (
                bob(),
                "get",
                "x",
                r#"RBAC: allowed by ClusterRoleBinding "all-devs" of ClusterRole "reader" to Group "devs""#,
            ),
            (bob(), "list", "n", r#"RBAC: allowed by RoleBinding "bob-lists/n" of Role "lister" to User "bob""#),
            (bob(), "list", "x", "no: "),
            (bob(), "list", "", "no: "),
            (
                account.clone(),
                "get",
                "n",
                r#"RBAC: allowed by RoleBinding "sa/n" of ClusterRole "reader" to ServiceAccount "app/n""#,
            ),
            (account, "get", "x", "no: "),
            (User::new("devs", &[]), "get", "", "no: "),
        ] {
            assert_eq!(ask(&rbac, &user, verb, "pods", namespace), expected, "{} {verb} in {namespace}", user.name);
        }
    }

    #[test]
    fn changes_take_effect() {
        let rbac = Rbac::default();
        bind(&rbac, "b", "ClusterRole", "r", json!({"kind": "User", "name": "bob"}));
        assert_eq!(
            ask(&rbac, &bob(), "get", "pods", ""),
            r#"no: RBAC: clusterrole.rbac.authorization.k8s.io "r" not found"#
        );
        role(&rbac, "r", json!({}), rules("get", "pods"), None);
        assert!(ask(&rbac, &bob(), "get", "pods", "").starts_with("RBAC: allowed"));
        role(&rbac, "r", json!({}), rules("get", "nodes"), None);
        assert_eq!(ask(&rbac, &bob(), "get", "pods", ""), "no: ");
        bind(&rbac, "b", "ClusterRole", "r", json!({"kind": "User", "name": "eve"}));
        assert_eq!(ask(&rbac, &bob(), "get", "nodes", ""), "no: ");
        rbac.apply("ClusterRoleBinding", &Key::cluster("b"), None);
        assert_eq!(ask(&rbac, &User::new("eve", &[]), "get", "nodes", ""), "no: ");
        assert!(rbac.current.load().scopes.is_empty());
    }

    #[test]
    fn aggregated_roles_follow_their_sources() {
        let rbac = Rbac::default();
        bind(&rbac, "b", "ClusterRole", "admin", json!({"kind": "User", "name": "bob"}));
        role(&rbac, "admin", json!({}), Value::Null, Some("to-admin"));
        role(&rbac, "view", json!({"to-admin": "true"}), Value::Null, Some("to-view"));
        assert_eq!(ask(&rbac, &bob(), "get", "pods", ""), "no: ");
        role(&rbac, "pods-view", json!({"to-view": "true"}), rules("get", "pods"), None);
        assert!(ask(&rbac, &bob(), "get", "pods", "").starts_with("RBAC: allowed"), "through view into admin");
        role(&rbac, "pods-view", json!({}), rules("get", "pods"), None);
        assert_eq!(ask(&rbac, &bob(), "get", "pods", ""), "no: ", "the label is gone");
        role(&rbac, "pods-view", json!({"to-view": "true"}), rules("get", "pods"), None);
        rbac.apply("ClusterRole", &Key::cluster("pods-view"), None);
        assert_eq!(ask(&rbac, &bob(), "get", "pods", ""), "no: ", "the source is gone");
    }

    /// A small generator, so that a failure repeats.
    struct Dice(u64);
    impl Dice {
        fn roll(&mut self, sides: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(self.0 >> 33).expect("31 bits") % sides
        }
        fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
            of[self.roll(of.len())]
        }
    }

    const NAMES: [&str; 4] = ["a", "b", "c", "d"];
    const NAMESPACES: [&str; 3] = ["", "n", "m"];
    const VERBS: [&str; 4] = ["get", "list", "delete", "*"];
    const RESOURCES: [&str; 5] = ["pods", "pods/log", "nodes", "*", "*/log"];

    /// By looking at every binding and role.
    fn naively(roles: &[(Key, Value)], bindings: &[(Key, Value)], user: &User, asked: &Attributes<'_>) -> bool {
        bindings.iter().filter(|(key, _)| key.namespace.is_empty() || key.namespace == asked.namespace).any(
            |(key, binding)| {
                let subject = &binding["subjects"][0];
                let name = subject["name"].as_str().expect("named");
                let is_bound = match subject["kind"].as_str() {
                    Some("User") => user.name == name,
                    Some("Group") => user.is_in(name),
                    _ => {
                        user.name
                            == token::service_account_name(
                                subject["namespace"].as_str().unwrap_or(&key.namespace),
                                name,
                            )
                    }
                };
                let namespace = if binding["roleRef"]["kind"] == "Role" { key.namespace.as_str() } else { "" };
                let role_key = Key::new(namespace, binding["roleRef"]["name"].as_str().expect("named"));
                let role = roles.iter().rev().find(|(key, _)| *key == role_key);
                is_bound
                    && role.is_some_and(|(_, role)| Rule::list(&role["rules"]).iter().any(|rule| rule.allows(asked)))
            },
        )
    }

    #[test]
    fn the_index_decides_as_a_naive_look_at_everything() {
        let mut dice = Dice(1);
        let rbac = Rbac::default();
        let (mut roles, mut bindings) = (Vec::new(), Vec::new());
        for _ in 0..60 {
            let key = Key::new(dice.pick(&NAMESPACES), dice.pick(&NAMES));
            let rule = json!({"verbs": [dice.pick(&VERBS)], "apiGroups": [""], "resources": [dice.pick(&RESOURCES)]});
            let role = json!({"rules": [rule]});
            rbac.apply(if key.namespace.is_empty() { "ClusterRole" } else { "Role" }, &key, Some(&role));
            roles.push((key, role));
        }
        for n in 0..60 {
            let key = Key::new(dice.pick(&NAMESPACES), format!("b{n}"));
            let kind = if key.namespace.is_empty() { "ClusterRole" } else { dice.pick(&["Role", "ClusterRole"]) };
            let mut subject =
                json!({"kind": dice.pick(&["User", "Group", "ServiceAccount"]), "name": dice.pick(&NAMES)});
            if key.namespace.is_empty() && subject["kind"] == "ServiceAccount" {
                subject["namespace"] = json!("n");
            }
            let binding = json!({"roleRef": {"kind": kind, "name": dice.pick(&NAMES)}, "subjects": [subject]});
            let what = if key.namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
            rbac.apply(what, &key, Some(&binding));
            if dice.roll(4) == 0 {
                rbac.apply(what, &key, None);
            } else {
                bindings.push((key, binding));
            }
        }
        let mut allowed = 0;
        for n in 0..100_000 {
            let name = dice.pick(&NAMES);
            let user = match dice.roll(2) {
                0 => User::new(name, &[dice.pick(&NAMES)]),
                _ => User::new(token::service_account_name(dice.pick(&["n", "m"]), name), &[]),
            };
            let asked = Attributes {
                verb: dice.pick(&VERBS[..3]),
                resource: dice.pick(&["pods", "nodes"]),
                subresource: dice.pick(&["", "log"]),
                namespace: dice.pick(&NAMESPACES),
                resource_request: true,
                ..Attributes::default()
            };
            let decision = matches!(rbac.authorize(&user, &asked), Decision::Allow { .. });
            assert_eq!(decision, naively(&roles, &bindings, &user, &asked), "query {n}: {user:?} {asked:?}");
            allowed += usize::from(decision);
        }
        assert!((10_000..90_000).contains(&allowed), "{allowed} allowed: the dice are loaded");
    }

    /// 1,000 namespaces with 10 bindings each: what a request looks at is its own user's, and no more.
    #[test]
    fn other_peoples_bindings_cost_nothing() {
        let rbac = Rbac::default();
        role(&rbac, "reader", json!({}), rules("get", "pods"), None);
        for namespace in 0..1000 {
            for number in 0..10 {
                let subject = json!({"kind": "User", "name": format!("u{number}-{namespace}")});
                bind(&rbac, &format!("ns{namespace}/b{number}"), "ClusterRole", "reader", subject);
            }
        }
        let snapshot = rbac.current.load();
        let user = User::new("u3-500", &["devs", "system:authenticated"]);
        let visited = |namespace: &str| snapshot.bindings_of(&user, namespace).count();
        assert_eq!((visited("ns500"), visited("ns501"), visited("")), (1, 0, 0));
        assert!(ask(&rbac, &user, "get", "pods", "ns500").starts_with("RBAC: allowed by RoleBinding \"b3/ns500\""));
        let rounds = 20_000;
        let asked = Attributes {
            verb: "get",
            resource: "pods",
            namespace: "ns500",
            resource_request: true,
            ..Attributes::default()
        };
        let begun = std::time::Instant::now();
        let allowed = (0..rounds).filter(|_| matches!(rbac.authorize(&user, &asked), Decision::Allow { .. })).count();
        assert_eq!(allowed, rounds);
        eprintln!("{} ns to allow a request among 10,000 bindings", begun.elapsed().as_nanos() / rounds as u128);
    }
}
