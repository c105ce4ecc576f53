//! disruption: how many pods of a budget may be evicted now.
//!
//! Source: kubernetes/pkg/controller/disruption.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use api_types::{
    Key, Object,
    jiff::Timestamp,
    k8s::{
        IntOrString,
        apps::{Deployment, ReplicaSet, StatefulSet},
        core::{Pod, ReplicationController},
        meta::{Condition, Time},
        policy::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    },
    labels::Selector,
    resources,
};

use crate::{
    action::Action,
    caches::{BY_NAMESPACE, Caches},
    deployment::{Round, share},
    owners::{controller_key, controller_of},
    plan::{Plan, Turn, World, since, time},
    pods,
    reconcile::Controller,
};

/// An eviction that was granted and did not show within this time did not happen.
const EVICTION_TIMEOUT: Duration = Duration::from_secs(120);

pub static CONTROLLER: Controller = Controller {
    name: "disruption-controller",
    resource: &resources::POD_DISRUPTION_BUDGET,
    account: "disruption-controller",
    component: "controllermanager",
    workers: 2,
    watch: |to, queue| {
        let wake = queue.clone();
        to.budgets.push(Box::new(move |_, change| wake.add(change.object().key())));
        let wake = queue.clone();
        to.pods.push(Box::new(move |caches, change| {
            for pod in [change.old(), Some(change.object())].into_iter().flatten() {
                let budgets = caches.budgets.by_index(BY_NAMESPACE, pod.namespace());
                let matching = budgets.iter().filter(|budget| selector(budget).matches(&pod.metadata.labels));
                matching.for_each(|budget| wake.add(budget.key()));
            }
        }));
    },
    watch_everything: None,
    decide: |world, turn| view(world, turn).map_or_else(Plan::default, |view| plan(&view)),
};

struct View {
    budget: Arc<PodDisruptionBudget>,
    pods: Vec<Arc<Pod>>,
    /// Sizes that the pods' controllers are to have, by uid; of an unknown controller there is none.
    sizes: HashMap<String, Option<i32>>,
    now: Timestamp,
}

fn view(world: &World<'_>, turn: &Turn<'_>) -> Option<View> {
    let caches = world.caches;
    let budget = caches.budgets.get(turn.key)?;
    let selector = selector(&budget);
    let pods = caches.pods.by_index(BY_NAMESPACE, budget.namespace()).into_iter();
    let pods: Vec<Arc<Pod>> =
        pods.filter(|pod| selector.matches(&pod.metadata.labels) && !pods::is_finished(pod)).collect();
    let sizes = pods.iter().map(|pod| size(caches, pod)).collect();
    Some(View { budget, pods, sizes, now: turn.now })
}

fn selector(budget: &PodDisruptionBudget) -> Selector {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.map_or_else(Selector::nothing, Selector::from)
}

/// The uid and size of what finally controls a pod.
fn size(caches: &Caches, pod: &Pod) -> (String, Option<i32>) {
    let Some(owner) = controller_of(&pod.metadata) else { return (pod.uid().to_owned(), None) };
    let by = (owner.uid.clone(), None);
    if let Some(set) = controller_key::<ReplicaSet>(&pod.metadata).and_then(|key| caches.replica_sets.get(&key)) {
        return match controller_key::<Deployment>(&set.metadata).and_then(|key| caches.deployments.get(&key)) {
            Some(it) => (it.uid().to_owned(), it.spec.as_ref().and_then(|spec| spec.replicas)),
            None => (set.uid().to_owned(), set.spec.as_ref().and_then(|spec| spec.replicas)),
        };
    }
    if let Some(set) = controller_key::<StatefulSet>(&pod.metadata).and_then(|key| caches.stateful_sets.get(&key)) {
        return (set.uid().to_owned(), set.spec.as_ref().and_then(|spec| spec.replicas));
    }
    let key: Option<Key> = controller_key::<ReplicationController>(&pod.metadata);
    match key.and_then(|key| caches.replication_controllers.get(&key)) {
        Some(it) => (it.uid().to_owned(), it.spec.as_ref().and_then(|spec| spec.replicas)),
        None => by,
    }
}

/// How many pods there should be, and how many of them healthy.
#[derive(Debug, PartialEq, Eq)]
struct Goal {
    expected: i32,
    healthy: i32,
}

fn goal(view: &View) -> Result<Goal, String> {
    let spec = view.budget.spec.clone().unwrap_or_default();
    let count = i32::try_from(view.pods.len()).unwrap_or(i32::MAX);
    if let Some(IntOrString::Int(healthy)) = spec.min_available {
        return Ok(Goal { expected: count, healthy });
    }
    if spec.min_available.is_none() && spec.max_unavailable.is_none() {
        return Ok(Goal { expected: count, healthy: 0 });
    }
    let mut expected = 0;
    for size in view.sizes.values() {
        expected += size.ok_or("found no controllers with a size for the pods of the budget")?;
    }
    let healthy = match (&spec.max_unavailable, &spec.min_available) {
        (Some(max), _) => (expected - share(max, expected, Round::Up)).max(0),
        (None, Some(min)) => share(min, expected, Round::Up),
        (None, None) => 0,
    };
    Ok(Goal { expected, healthy })
}

fn plan(view: &View) -> Plan {
    let budget = &*view.budget;
    let old = budget.status.clone().unwrap_or_default();
    let disrupted = disrupted(view, &old);
    let (goal, failure) = match goal(view) {
        Ok(goal) => (goal, None),
        Err(why) => (Goal { expected: 0, healthy: 0 }, Some(why)),
    };
    let is_healthy =
        |pod: &&Arc<Pod>| pods::is_ready(pod) && !pod.is_terminating() && !disrupted.contains_key(pod.name());
    let healthy = i32::try_from(view.pods.iter().filter(is_healthy).count()).unwrap_or(i32::MAX);
    let allowed = if goal.expected <= 0 || failure.is_some() { 0 } else { (healthy - goal.healthy).max(0) };
    let mut plan = Plan::nothing(
        "DisruptionsAllowed",
        format!("{healthy} pods are healthy, {} are to be: {allowed} may be disrupted", goal.healthy),
    );
    if let Some(soonest) = disrupted.values().map(|at| EVICTION_TIMEOUT.saturating_sub(since(at, view.now))).min() {
        plan.look_again(soonest.max(Duration::from_secs(1)));
    }
    let status = PodDisruptionBudgetStatus {
        conditions: Some(vec![condition(budget, &old, allowed, failure.as_deref(), view.now)]),
        current_healthy: Some(healthy),
        desired_healthy: Some(goal.healthy),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(goal.expected),
        observed_generation: budget.metadata.generation,
    };
    if status != old {
        let next = PodDisruptionBudget { status: Some(status), ..budget.clone() };
        plan.act(Action::update_status(&next, "pods of the budget have changed"));
    }
    plan
}

/// Evictions that were granted and do not show yet.
fn disrupted(view: &View, old: &PodDisruptionBudgetStatus) -> BTreeMap<String, Time> {
    let alive = |name: &str| view.pods.iter().any(|pod| pod.name() == name && !pod.is_terminating());
    let granted = old.disrupted_pods.clone().unwrap_or_default().into_iter();
    granted.filter(|(name, at)| alive(name) && since(at, view.now) < EVICTION_TIMEOUT).collect()
}

fn condition(
    budget: &PodDisruptionBudget,
    old: &PodDisruptionBudgetStatus,
    allowed: i32,
    failure: Option<&str>,
    now: Timestamp,
) -> Condition {
    let (status, reason, message) = match failure {
        Some(why) => ("False", "SyncFailed", why.to_owned()),
        None if allowed > 0 => ("True", "SufficientPods", String::new()),
        None => ("False", "InsufficientPods", String::new()),
    };
    let before = old.conditions.iter().flatten().find(|it| it.type_ == "DisruptionAllowed" && it.status == status);
    Condition {
        type_: "DisruptionAllowed".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: before.map_or_else(|| time(now), |before| before.last_transition_time.clone()),
        observed_generation: budget.metadata.generation,
    }
}

#[cfg(test)]
mod tests {
    use api_types::k8s::policy::PodDisruptionBudgetSpec;

    use super::*;
    use crate::pods::words;

    /// Gives `healthy/desired of expected: allowed`.
    fn check(min: Option<&str>, max: Option<&str>, size: Option<i32>, pods: &str, expected: &str) {
        let amount = |text: &str| text.parse().map_or_else(|_| IntOrString::String(text.to_owned()), IntOrString::Int);
        let spec = PodDisruptionBudgetSpec {
            min_available: min.map(amount),
            max_unavailable: max.map(amount),
            ..PodDisruptionBudgetSpec::default()
        };
        let budget = PodDisruptionBudget { spec: Some(spec), ..PodDisruptionBudget::default() };
        let pods = pods.split_whitespace().map(|word| Arc::new(words::pod(word))).collect();
        let sizes = [("rs".to_owned(), size)].into();
        let plan = plan(&View { budget: Arc::new(budget), pods, sizes, now: words::now() });
        let crate::action::Write::Update { object, .. } = &plan.actions[0].write else { panic!("no status") };
        let status = &object["status"];
        let text = format!(
            "{}/{} of {}: {}",
            status["currentHealthy"], status["desiredHealthy"], status["expectedPods"], status["disruptionsAllowed"]
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_left_over_may_go() {
        check(Some("2"), None, None, "a b c", "3/2 of 3: 1");
        check(Some("2"), None, None, "a b:u c", "2/2 of 3: 0");
        check(Some("50%"), None, Some(4), "a b c", "3/2 of 4: 1");
        check(None, Some("1"), Some(3), "a b c", "3/2 of 3: 1");
        check(None, Some("1"), Some(3), "a b c:t", "2/2 of 3: 0");
    }
    #[test]
    fn without_a_size_nothing_may_go() {
        check(None, Some("1"), None, "a b", "2/0 of 0: 0");
    }
}
