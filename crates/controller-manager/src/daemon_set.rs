//! daemonset: one pod on every node that it fits.
//!
//! Source: kubernetes/pkg/controller/daemon.

mod placement;
mod rollout;
mod status;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use api_types::{
    Key, Object,
    jiff::Timestamp,
    k8s::{
        apps::{ControllerRevision, DaemonSet, DaemonSetSpec},
        core::{Node, Pod},
    },
    labels::Selector,
    resources,
};
use client::{Change, EventKind, Queue};

use crate::{
    action::{Action, Outcome},
    caches::{BY_NAMESPACE, BY_OWNER, ORPHANS, Subscriptions},
    owners::{claim, controller_key, controller_of, controller_reference},
    plan::{Plan, Turn, World, since},
    pods,
    reconcile::Controller,
    revisions::{Keeping, history},
};
use placement::Fit;

const HASH_LABEL: &str = "controller-revision-hash";
/// Creations and deletions in one turn.
const BURST_MAX: usize = 250;
/// A pod that failed is replaced only after this, so that one that always fails costs little.
const FAILED_FOR: Duration = Duration::from_secs(10);
const HISTORY_LIMIT: i32 = 10;

pub static CONTROLLER: Controller = Controller {
    name: "daemonset-controller",
    resource: &resources::DAEMON_SET,
    account: "daemon-set-controller",
    component: "daemonset-controller",
    workers: 2,
    watch,
    watch_everything: None,
    decide: |world, turn| view(world, turn).map_or_else(Plan::default, |view| plan(&view)),
};

fn watch(to: &mut Subscriptions, queue: &Queue<Key>) {
    let wake = queue.clone();
    to.daemon_sets.push(Box::new(move |_, change| wake.add(change.object().key())));
    let wake = queue.clone();
    to.revisions.push(Box::new(move |_, change| {
        if let Some(key) = controller_key::<DaemonSet>(&change.object().metadata) {
            wake.add(key);
        }
    }));
    let wake = queue.clone();
    to.nodes.push(Box::new(move |caches, change| {
        let facts = |node: &Node| {
            let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone());
            (node.metadata.labels.clone(), taints, node.spec.as_ref().and_then(|spec| spec.unschedulable))
        };
        if change.old().filter(|_| !matches!(change, Change::Deleted(_))).map(|old| facts(old))
            != Some(facts(change.object()))
        {
            caches.daemon_sets.list().iter().for_each(|set| wake.add(set.key()));
        }
    }));
    let wake = queue.clone();
    to.pods.push(Box::new(move |caches, change| {
        for pod in [change.old(), Some(change.object())].into_iter().flatten() {
            if let Some(key) = controller_key::<DaemonSet>(&pod.metadata) {
                wake.add(key);
            }
        }
        let pod = change.object();
        if !matches!(change, Change::Deleted(_)) && controller_of(&pod.metadata).is_none() {
            let sets = caches.daemon_sets.by_index(BY_NAMESPACE, pod.namespace());
            let matching = sets.iter().filter(|set| selector(set).matches(&pod.metadata.labels));
            matching.for_each(|set| wake.add(set.key()));
        }
    }));
}

struct View<'a> {
    set: Arc<DaemonSet>,
    nodes: Vec<Arc<Node>>,
    candidates: Vec<Arc<Pod>>,
    revisions: Vec<Arc<ControllerRevision>>,
    deleting: &'a HashSet<String>,
    now: Timestamp,
}

fn view<'a>(world: &World<'_>, turn: &Turn<'a>) -> Option<View<'a>> {
    let caches = world.caches;
    let set = caches.daemon_sets.get(turn.key)?;
    let mut candidates = caches.pods.by_index(BY_OWNER, set.uid());
    candidates.extend(caches.pods.by_index(ORPHANS, set.namespace()));
    let revisions = caches.revisions.by_index(BY_OWNER, set.uid());
    Some(View { nodes: caches.nodes.list(), candidates, revisions, deleting: turn.deleting, now: turn.now, set })
}

fn selector(set: &DaemonSet) -> Selector {
    set.spec.as_ref().map_or_else(Selector::nothing, |spec| Selector::from(&spec.selector))
}

/// The pods of one node.
struct Place {
    node: Arc<Node>,
    fit: Fit,
    /// Oldest first, without those that are going.
    pods: Vec<Arc<Pod>>,
    /// A pod is told to go and still runs: another would want its ports and volumes too.
    is_held: bool,
}

fn plan(view: &View<'_>) -> Plan {
    let set = &*view.set;
    let spec = set.spec.clone().unwrap_or_default();
    let claim = claim(set, &selector(set), view.candidates.iter().cloned());
    let mut plan = Plan { actions: claim.actions, ..Plan::default() };
    if set.is_terminating() {
        plan.because("Terminating", "the DaemonSet is being deleted, so it is left as it is");
        return plan;
    }
    let hashes = claim.own.iter().filter_map(|pod| pod.label(HASH_LABEL)).map(str::to_owned).collect();
    let limit = usize::try_from(spec.revision_history_limit.unwrap_or(HISTORY_LIMIT)).unwrap_or_default();
    let collisions = set.status.as_ref().and_then(|status| status.collision_count);
    let keeping = Keeping { template: &spec.template, hash_label: HASH_LABEL, collisions, limit };
    let history = history(set, view.revisions.clone(), &keeping, &hashes);
    let hash = history.current.label(HASH_LABEL).unwrap_or_default().to_owned();
    plan.actions.extend(history.actions);

    let places = places(view, &spec, &claim.own);
    let next = status::next(set, &places, &hash, view.now);
    plan.actions.extend(next.map(|next| Action::update_status(&next, "what there is has changed")));
    let mut steps = manage(view, &places, &mut plan);
    steps.extend(rollout::steps(&spec, &places, &hash, view.now));
    act(set, &spec, &hash, steps, &mut plan);
    plan
}

/// What to do on a node.
#[derive(Debug)]
enum Step {
    Create(Arc<Node>),
    Delete { pod: Arc<Pod>, why: &'static str, tell: Option<(EventKind, &'static str, String)> },
}

fn places(view: &View<'_>, spec: &DaemonSetSpec, own: &[Arc<Pod>]) -> Vec<Place> {
    let mut by_node: BTreeMap<&str, Vec<Arc<Pod>>> = BTreeMap::new();
    let (going, staying): (Vec<_>, Vec<_>) =
        own.iter().partition(|pod| pod.is_terminating() || view.deleting.contains(pod.uid()));
    let held: HashSet<&str> =
        going.into_iter().filter(|pod| !pods::is_finished(pod)).map(|pod| placement::node_of(pod)).collect();
    for pod in staying {
        by_node.entry(placement::node_of(pod)).or_default().push(Arc::clone(pod));
    }
    let place = |node: &Arc<Node>| {
        let mut pods = by_node.remove(node.name()).unwrap_or_default();
        pods.sort_by(|a, b| {
            (&a.metadata.creation_timestamp, a.name()).cmp(&(&b.metadata.creation_timestamp, b.name()))
        });
        let is_held = held.contains(node.name());
        Place { node: Arc::clone(node), fit: placement::fit(&spec.template, node), pods, is_held }
    };
    view.nodes.iter().map(place).collect()
}

/// One pod where one should be, none where none should.
fn manage(view: &View<'_>, places: &[Place], plan: &mut Plan) -> Vec<Step> {
    let surges = rollout::surge(view.set.spec.as_ref(), places) > 0;
    let mut steps = Vec::new();
    for place in places {
        if place.fit == Fit::Never {
            let all = place.pods.iter().cloned();
            steps.extend(all.map(|pod| Step::Delete { pod, why: "does not fit its node", tell: None }));
            continue;
        }
        let (ended, live): (Vec<_>, Vec<_>) = place.pods.iter().cloned().partition(|pod| pods::is_finished(pod));
        for pod in ended {
            let made = pod.metadata.creation_timestamp.as_ref();
            let age = made.map_or(FAILED_FOR, |made| since(made, view.now));
            match FAILED_FOR.checked_sub(age).filter(|left| !left.is_zero()) {
                Some(left) => plan.look_again(left),
                None => steps.push(replace(pod, place.node.name())),
            }
        }
        if place.pods.is_empty() && place.fit == Fit::Runs && !place.is_held {
            steps.push(Step::Create(Arc::clone(&place.node)));
        } else if !surges {
            let twins = live.into_iter().skip(1);
            steps.extend(twins.map(|pod| Step::Delete { pod, why: "another pod is on its node", tell: None }));
        }
    }
    steps
}

fn replace(pod: Arc<Pod>, node: &str) -> Step {
    let tell = match pods::phase(&pod) {
        "Failed" => {
            let message = format!("Found failed daemon pod {} on node {node}, will try to kill it", pod.key());
            (EventKind::Warning, "FailedDaemonPod", message)
        }
        _ => {
            let message = format!("Found succeeded daemon pod {} on node {node}, will try to delete it", pod.key());
            (EventKind::Normal, "SucceededDaemonPod", message)
        }
    };
    Step::Delete { pod, why: "has ended", tell: Some(tell) }
}

fn act(set: &DaemonSet, spec: &DaemonSetSpec, hash: &str, steps: Vec<Step>, plan: &mut Plan) {
    let (creations, deletions): (Vec<_>, Vec<_>) = steps.into_iter().partition(|step| matches!(step, Step::Create(_)));
    plan.because("Nodes", format!("creates {}, deletes {} pods", creations.len(), deletions.len()));
    for step in creations.into_iter().take(BURST_MAX).chain(deletions.into_iter().take(BURST_MAX)) {
        plan.act(match step {
            Step::Create(node) => {
                let mut pod =
                    pods::from_template(set.namespace(), set.name(), &spec.template, controller_reference(set));
                pod.metadata.labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.to_owned());
                placement::bind_to(&mut pod, node.name());
                Action::create(&pod, format!("node {} has none", node.name()))
                    .tell(Outcome::Done, set, EventKind::Normal, "SuccessfulCreate", "Created pod: {name}")
                    .tell(Outcome::Refused, set, EventKind::Warning, "FailedCreate", "Error creating: {error}")
            }
            Step::Delete { pod, why, tell } => {
                let action = Action::delete(&*pod, why)
                    .tell(Outcome::Done, set, EventKind::Normal, "SuccessfulDelete", "Deleted pod: {name}")
                    .tell(Outcome::Refused, set, EventKind::Warning, "FailedDelete", "Error deleting: {error}");
                match tell {
                    Some((kind, reason, message)) => action.tell(Outcome::Done, set, kind, reason, message),
                    None => action,
                }
            }
        });
    }
}

#[cfg(test)]
mod tests;
