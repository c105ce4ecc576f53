//! statefulset: pods with names, order and storage of their own.
//!
//! Source: kubernetes/pkg/controller/statefulset.

mod identity;
mod order;
mod status;

use std::{collections::HashSet, sync::Arc};

use api_types::{
    Key, Object,
    jiff::Timestamp,
    k8s::{
        apps::{ControllerRevision, StatefulSet, StatefulSetSpec},
        core::{PersistentVolumeClaim, Pod},
    },
    labels::Selector,
    resources,
};
use client::{Change, Queue};

use crate::{
    action::Action,
    caches::{BY_NAMESPACE, BY_OWNER, Caches, ORPHANS, Subscriptions},
    owners::{claim, controller_key, controller_of},
    plan::{Plan, Turn, World},
    reconcile::Controller,
    replica_set::soonest_available,
    revisions::{Keeping, history},
};

/// Bears the hash of a revision; its pods bear its whole name under another label.
const REVISION_HASH_LABEL: &str = "controller.kubernetes.io/hash";
const POD_REVISION_LABEL: &str = "controller-revision-hash";
const HISTORY_LIMIT: i32 = 10;

pub static CONTROLLER: Controller = Controller {
    name: "statefulset-controller",
    resource: &resources::STATEFUL_SET,
    account: "statefulset-controller",
    component: "statefulset-controller",
    workers: 5,
    watch,
    watch_everything: None,
    decide: |world, turn| view(world, turn).map_or_else(Plan::default, |view| plan(&view)),
};

fn watch(to: &mut Subscriptions, queue: &Queue<Key>) {
    let wake = queue.clone();
    to.stateful_sets.push(Box::new(move |_, change| wake.add(change.object().key())));
    let wake = queue.clone();
    to.revisions.push(Box::new(move |_, change| {
        if let Some(key) = controller_key::<StatefulSet>(&change.object().metadata) {
            wake.add(key);
        }
    }));
    let wake = queue.clone();
    to.pods.push(Box::new(move |caches: &Caches, change| {
        for pod in [change.old(), Some(change.object())].into_iter().flatten() {
            if let Some(key) = controller_key::<StatefulSet>(&pod.metadata) {
                wake.add(key);
            }
        }
        let pod = change.object();
        if !matches!(change, Change::Deleted(_)) && controller_of(&pod.metadata).is_none() {
            let sets = caches.stateful_sets.by_index(BY_NAMESPACE, pod.namespace());
            let matching = sets.iter().filter(|set| selector(set).matches(&pod.metadata.labels));
            matching.for_each(|set| wake.add(set.key()));
        }
    }));
}

struct View<'a> {
    set: Arc<StatefulSet>,
    candidates: Vec<Arc<Pod>>,
    claims: Vec<Arc<PersistentVolumeClaim>>,
    revisions: Vec<Arc<ControllerRevision>>,
    deleting: &'a HashSet<String>,
    now: Timestamp,
}

fn view<'a>(world: &World<'_>, turn: &Turn<'a>) -> Option<View<'a>> {
    let caches = world.caches;
    let set = caches.stateful_sets.get(turn.key)?;
    let mut candidates = caches.pods.by_index(BY_OWNER, set.uid());
    let named = |pod: &Arc<Pod>| identity::ordinal(&set, pod).is_some();
    candidates.extend(caches.pods.by_index(ORPHANS, set.namespace()).into_iter().filter(named));
    Some(View {
        candidates,
        claims: caches.volume_claims.by_index(BY_NAMESPACE, set.namespace()),
        revisions: caches.revisions.by_index(BY_OWNER, set.uid()),
        deleting: turn.deleting,
        now: turn.now,
        set,
    })
}

fn selector(set: &StatefulSet) -> Selector {
    set.spec.as_ref().map_or_else(Selector::nothing, |spec| Selector::from(&spec.selector))
}

/// What pods are to be made from.
pub struct Versions {
    /// Names of revisions.
    pub current: String,
    pub update: String,
    pub current_template: api_types::k8s::core::PodTemplateSpec,
}

fn plan(view: &View<'_>) -> Plan {
    let set = &*view.set;
    let spec: StatefulSetSpec = set.spec.clone().unwrap_or_default();
    let claim = claim(set, &selector(set), view.candidates.iter().cloned());
    let mut plan = Plan { actions: claim.actions, ..Plan::default() };
    if set.is_terminating() {
        plan.because("Terminating", "the StatefulSet is being deleted, so it is left as it is");
        return plan;
    }
    let status = set.status.clone().unwrap_or_default();
    let mut in_use: HashSet<String> =
        claim.own.iter().filter_map(|pod| pod.label(POD_REVISION_LABEL)).map(str::to_owned).collect();
    in_use.extend(status.current_revision.clone());
    let limit = usize::try_from(spec.revision_history_limit.unwrap_or(HISTORY_LIMIT)).unwrap_or_default();
    let keeping = Keeping {
        template: &spec.template,
        hash_label: REVISION_HASH_LABEL,
        collisions: status.collision_count,
        limit,
    };
    let history = history(set, view.revisions.clone(), &keeping, &in_use);
    plan.actions.extend(history.actions);
    let update = history.current.name().to_owned();
    let current = status.current_revision.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| update.clone());
    let stored = history.stored.iter().find(|revision| revision.name() == current);
    let current_template =
        stored.and_then(|it| crate::revisions::template(it)).unwrap_or_else(|| spec.template.clone());
    let versions = Versions { current, update, current_template };

    let is_gone = |pod: &Pod| pod.is_terminating() || view.deleting.contains(pod.uid());
    let replicas = order::Replicas::new(set, &spec, claim.own.clone(), view.now, is_gone);
    let next = status::next(set, &spec, &replicas, &versions);
    plan.actions.extend(next.map(|next| Action::update_status(&next, "what there is has changed")));
    order::step(set, &spec, &replicas, &versions, &view.claims, &mut plan);
    if let Some(soonest) = soonest_available(&claim.own, spec.min_ready_seconds.unwrap_or_default(), view.now) {
        plan.look_again(soonest);
    }
    plan
}

#[cfg(test)]
mod tests;
