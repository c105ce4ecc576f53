//! deployment: moves from one template to the next by scaling one ReplicaSet per template.
//!
//! Source: kubernetes/pkg/controller/deployment.

mod fleet;
mod hash;
mod numbers;
mod revision;
mod rollback;
mod rollout;
mod status;

use std::sync::Arc;

use api_types::{
    Key, Object,
    jiff::Timestamp,
    k8s::{
        apps::{Deployment, DeploymentSpec, ReplicaSet},
        core::Pod,
    },
    labels::Selector,
    resources,
};
use client::{Change, EventKind, Queue};

use crate::{
    action::{Action, Outcome},
    caches::{BY_NAMESPACE, BY_OWNER, Caches, ORPHANS, Subscriptions},
    owners::{claim, controller_key, controller_of},
    plan::{Failure, Plan, Turn, World},
    pods,
    reconcile::Controller,
};
use fleet::Fleet;

pub use hash::template_hash;
pub use numbers::{Round, share};

pub static CONTROLLER: Controller = Controller {
    name: "deployment-controller",
    resource: &resources::DEPLOYMENT,
    account: "deployment-controller",
    component: "deployment-controller",
    workers: 5,
    watch,
    watch_everything: None,
    decide: |world, turn| view(world, turn).map_or_else(Plan::default, |view| plan(&view)),
};

fn watch(to: &mut Subscriptions, queue: &Queue<Key>) {
    let wake = queue.clone();
    to.deployments.push(Box::new(move |_, change| wake.add(change.object().key())));
    let wake = queue.clone();
    to.replica_sets.push(Box::new(move |caches, change| {
        for set in [change.old(), Some(change.object())].into_iter().flatten() {
            if let Some(key) = controller_key::<Deployment>(&set.metadata) {
                wake.add(key);
            }
        }
        if !matches!(change, Change::Deleted(_)) && controller_of(&change.object().metadata).is_none() {
            matching(caches, change.object()).for_each(|key| wake.add(key));
        }
    }));
    // Recreate waits for the last old pod to go.
    let wake = queue.clone();
    to.pods.push(Box::new(move |caches, change| {
        let pod = change.object();
        if !matches!(change, Change::Deleted(_)) && !pods::is_finished(pod) {
            return;
        }
        let set = controller_key::<ReplicaSet>(&pod.metadata).and_then(|key| caches.replica_sets.get(&key));
        if let Some(key) = set.and_then(|set| controller_key::<Deployment>(&set.metadata)) {
            wake.add(key);
        }
    }));
}

/// The deployments that might adopt an orphan.
fn matching(caches: &Caches, set: &ReplicaSet) -> impl Iterator<Item = Key> {
    let labels = set.metadata.labels.clone();
    let all = caches.deployments.by_index(BY_NAMESPACE, set.namespace());
    all.into_iter().filter(move |it| selector(it).matches(&labels)).map(|it| it.key())
}

struct View<'a> {
    deployment: Arc<Deployment>,
    /// Controlled by the deployment, or orphans in its namespace.
    candidates: Vec<Arc<ReplicaSet>>,
    /// Pods of the candidates that the deployment controls.
    pods: Vec<Arc<Pod>>,
    /// Has the name that the set of the current template would get.
    namesake: Option<Arc<ReplicaSet>>,
    failure: Option<&'a Failure>,
    now: Timestamp,
}

fn view<'a>(world: &World<'_>, turn: &Turn<'a>) -> Option<View<'a>> {
    let caches = world.caches;
    let deployment = caches.deployments.get(turn.key)?;
    let mut candidates = caches.replica_sets.by_index(BY_OWNER, deployment.uid());
    let pods = candidates.iter().flat_map(|set| caches.pods.by_index(BY_OWNER, set.uid())).collect();
    candidates.extend(caches.replica_sets.by_index(ORPHANS, deployment.namespace()));
    let name = revision::set_name(&deployment);
    let namesake = caches.replica_sets.get(&Key::new(deployment.namespace(), name));
    Some(View { deployment, candidates, pods, namesake, failure: turn.failure, now: turn.now })
}

fn selector(deployment: &Deployment) -> Selector {
    deployment.spec.as_ref().map_or_else(Selector::nothing, |spec| Selector::from(&spec.selector))
}

/// The spec, with the defaults that the server sets anyway.
fn spec(deployment: &Deployment) -> DeploymentSpec {
    deployment.spec.clone().unwrap_or_default()
}

fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn is_rolling(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()).unwrap_or("RollingUpdate") == "RollingUpdate"
}

fn plan(view: &View<'_>) -> Plan {
    let deployment = &*view.deployment;
    let selector = selector(deployment);
    if selector.is_empty() {
        return selects_everything(deployment);
    }
    let claim = claim(deployment, &selector, view.candidates.iter().cloned());
    let mut plan = Plan { actions: claim.actions, ..Plan::default() };
    let mut fleet = Fleet::new(deployment, claim.own, view.now);
    if deployment.is_terminating() {
        plan.because("Terminating", "the Deployment is being deleted, so it is left as it is");
        status::report(&mut plan, &fleet);
        return plan;
    }
    status::pause(&mut fleet);
    if spec(deployment).paused == Some(true) {
        fleet.sync_revision();
        fleet.scale_proportionally();
        if !rollback::is_asked_for(deployment) {
            fleet.clean_up();
        }
        plan.because("DeploymentPaused", "spec.paused is true: scaled, but not rolled");
        fleet.finish(&mut plan);
        status::report(&mut plan, &fleet);
        return plan;
    }
    if rollback::is_asked_for(deployment) {
        plan.actions.extend(rollback::plan(&fleet));
        plan.because("RollingBack", "an annotation asks for an earlier revision");
        return plan;
    }
    if fleet.is_scaled() {
        fleet.sync_revision();
        fleet.scale_proportionally();
        plan.because("Scaling", format!("spec.replicas is now {}", replicas(deployment)));
        fleet.finish(&mut plan);
        status::report(&mut plan, &fleet);
        return plan;
    }
    rollout::plan(view, &mut fleet, &mut plan);
    plan
}

fn selects_everything(deployment: &Deployment) -> Plan {
    const WHY: &str = "This deployment is selecting all pods. A non-empty selector is required.";
    let mut plan = Plan::nothing("SelectingAll", WHY);
    let mut status = deployment.status.clone().unwrap_or_default();
    if status.observed_generation != deployment.metadata.generation {
        status.observed_generation = deployment.metadata.generation;
        let observed = Deployment { status: Some(status), ..deployment.clone() };
        let action = Action::update_status(&observed, "its generation was seen");
        plan.act(action.tell(Outcome::Done, deployment, EventKind::Warning, "SelectingAll", WHY));
    }
    plan
}

#[cfg(test)]
mod tests;
