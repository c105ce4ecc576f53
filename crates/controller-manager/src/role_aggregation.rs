//! clusterrole-aggregation: a ClusterRole with an aggregation rule holds the rules of all that it selects.
//!
//! Source: kubernetes/pkg/controller/clusterroleaggregation.

use std::sync::Arc;

use api_types::{
    Object,
    k8s::rbac::{ClusterRole, PolicyRule},
    labels::Selector,
    resources,
};

use crate::{
    action::Action,
    plan::{Plan, Turn, World},
    reconcile::Controller,
};

pub static CONTROLLER: Controller = Controller {
    name: "clusterrole-aggregation-controller",
    resource: &resources::CLUSTER_ROLE,
    account: "clusterrole-aggregation-controller",
    component: "clusterrole-aggregation-controller",
    workers: 5,
    watch: |to, queue| {
        let wake = queue.clone();
        to.cluster_roles.push(Box::new(move |caches, change| {
            // Whichever role changed, any aggregate may select it.
            let aggregates = caches.cluster_roles.list().into_iter().filter(|role| role.aggregation_rule.is_some());
            aggregates.for_each(|role| wake.add(role.key()));
            wake.add(change.object().key());
        }));
    },
    watch_everything: None,
    decide: |world, turn| view(world, turn).map_or_else(Plan::default, |view| plan(&view)),
};

struct View {
    role: Arc<ClusterRole>,
    /// By name.
    all: Vec<Arc<ClusterRole>>,
}

fn view(world: &World<'_>, turn: &Turn<'_>) -> Option<View> {
    let role = world.caches.cluster_roles.get(turn.key)?;
    Some(View { role, all: world.caches.cluster_roles.list() })
}

fn plan(view: &View) -> Plan {
    let role = &*view.role;
    let Some(aggregation) = &role.aggregation_rule else { return Plan::default() };
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in aggregation.cluster_role_selectors.iter().flatten().map(Selector::from) {
        let others = view.all.iter().filter(|other| other.name() != role.name());
        for other in others.filter(|other| selector.matches(&other.metadata.labels)) {
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    if role.rules.clone().unwrap_or_default() == rules {
        return Plan::nothing("RulesAggregated", "the role holds the rules of all that it selects");
    }
    let next = ClusterRole { rules: Some(rules), ..role.clone() };
    Plan { actions: vec![Action::update(&next, "a role that it selects has changed")], ..Plan::default() }
}

#[cfg(test)]
mod tests {
    use api_types::k8s::{
        meta::{LabelSelector, ObjectMeta},
        rbac::AggregationRule,
    };

    use super::*;
    use crate::action::Write;

    fn role(name: &str, label: &str, verbs: &str) -> ClusterRole {
        let rule = |verb: &str| PolicyRule { verbs: vec![verb.to_owned()], ..PolicyRule::default() };
        ClusterRole {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some([("to".to_owned(), label.to_owned())].into()),
                ..ObjectMeta::default()
            },
            rules: Some(verbs.split_whitespace().map(rule).collect()),
            aggregation_rule: None,
        }
    }

    /// `have`: what the aggregate holds. Gives its verbs after the turn, or `nothing`.
    fn check(have: &str, expected: &str) {
        let mut all = role("all", "", have);
        let selector = LabelSelector {
            match_labels: Some([("to".to_owned(), "all".to_owned())].into()),
            ..LabelSelector::default()
        };
        all.aggregation_rule = Some(AggregationRule { cluster_role_selectors: Some(vec![selector]) });
        let roles =
            [all.clone(), role("a", "all", "get list"), role("b", "all", "list watch"), role("c", "x", "delete")];
        let plan = plan(&View { role: Arc::new(all), all: roles.into_iter().map(Arc::new).collect() });
        let Some(action) = plan.actions.first() else { return assert_eq!("nothing", expected) };
        let Write::Update { object, .. } = &action.write else { panic!("not an update") };
        let verbs = object["rules"].as_array().unwrap().iter().map(|rule| rule["verbs"][0].as_str().unwrap());
        assert_eq!(verbs.collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn rules_are_gathered_once_each() {
        check("", "get list watch");
        check("get list watch", "nothing");
    }
}
