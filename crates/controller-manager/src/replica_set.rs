//! replicaset: as many pods of a template as asked for.
//!
//! Source: kubernetes/pkg/controller/replicaset.

mod scale;
mod status;

use std::{collections::HashSet, sync::Arc, time::Duration};

use api_types::{
    Key, Object,
    jiff::Timestamp,
    k8s::{apps::ReplicaSet, core::Pod},
    labels::Selector,
    resources,
};
use client::{Change, Queue};

use crate::{
    action::Action,
    caches::{BY_OWNER, Caches, ORPHANS, Subscriptions},
    owners::{claim, controller_key, controller_of},
    plan::{Failure, Plan, Turn, World},
    pods::{self, Availability},
    reconcile::Controller,
};

pub use scale::{Scaled, Sizes, scale};
pub use status::{Counts, counts};

pub static CONTROLLER: Controller = Controller {
    name: "replicaset-controller",
    resource: &resources::REPLICA_SET,
    account: "replicaset-controller",
    component: "replicaset-controller",
    workers: 5,
    watch,
    watch_everything: None,
    decide: |world, turn| view(world, turn).map_or_else(Plan::default, |view| plan(&view)),
};

fn watch(to: &mut Subscriptions, queue: &Queue<Key>) {
    let wake = queue.clone();
    to.replica_sets.push(Box::new(move |_, change| wake.add(change.object().key())));
    let wake = queue.clone();
    to.pods.push(Box::new(move |caches, change| {
        for pod in [change.old(), Some(change.object())].into_iter().flatten() {
            if let Some(key) = controller_key::<ReplicaSet>(&pod.metadata) {
                wake.add(key);
            }
        }
        if !matches!(change, Change::Deleted(_)) && controller_of(&change.object().metadata).is_none() {
            matching(caches, change.object()).for_each(|key| wake.add(key));
        }
    }));
}

/// The sets that might adopt an orphan.
fn matching(caches: &Caches, pod: &Pod) -> impl Iterator<Item = Key> {
    let sets = caches.replica_sets.by_index(crate::caches::BY_NAMESPACE, pod.namespace());
    let labels = pod.metadata.labels.clone();
    sets.into_iter().filter(move |set| selector(set).matches(&labels)).map(|set| set.key())
}

struct View<'a> {
    set: Arc<ReplicaSet>,
    /// Controlled by the set, or orphans in its namespace.
    candidates: Vec<Arc<Pod>>,
    /// Pods of the sets of the same owner: what a rollout leaves beside ours on a node.
    related: Vec<Arc<Pod>>,
    deleting: &'a HashSet<String>,
    failure: Option<&'a Failure>,
    now: Timestamp,
}

fn view<'a>(world: &World<'_>, turn: &Turn<'a>) -> Option<View<'a>> {
    let set = world.caches.replica_sets.get(turn.key)?;
    let mut candidates = world.caches.pods.by_index(BY_OWNER, set.uid());
    candidates.extend(world.caches.pods.by_index(ORPHANS, set.namespace()));
    let related = match controller_of(&set.metadata) {
        Some(owner) => world.caches.replica_sets.by_index(BY_OWNER, &owner.uid),
        None => vec![Arc::clone(&set)],
    };
    let related = related.iter().flat_map(|set| world.caches.pods.by_index(BY_OWNER, set.uid())).collect();
    Some(View { set, candidates, related, deleting: turn.deleting, failure: turn.failure, now: turn.now })
}

fn selector(set: &ReplicaSet) -> Selector {
    set.spec.as_ref().map_or_else(Selector::nothing, |spec| Selector::from(&spec.selector))
}

fn plan(view: &View<'_>) -> Plan {
    let set = &*view.set;
    let spec = set.spec.clone().unwrap_or_default();
    let (inactive, active): (Vec<_>, Vec<_>) =
        view.candidates.iter().cloned().partition(|pod| !pods::is_active(pod) || view.deleting.contains(pod.uid()));
    let claim = claim(set, &selector(set), active);
    let mut plan = Plan { actions: claim.actions, ..Plan::default() };

    let template = spec.template.clone().unwrap_or_default();
    let min_ready_s = spec.min_ready_seconds.unwrap_or_default();
    let terminating = inactive
        .iter()
        .filter(|pod| crate::owners::is_controlled_by(&pod.metadata, set.uid()) && !pods::is_finished(pod));
    let counts = Counts { terminating: terminating.count(), ..counts(&claim.own, &template, min_ready_s, view.now) };
    let wanted = spec.replicas.unwrap_or(1);
    let status = status::next(set, &counts, view.failure, wanted, view.now);
    plan.actions.extend(status.map(|set| Action::update_status(&set, "what there is has changed")));

    if set.is_terminating() {
        plan.because("Terminating", "the ReplicaSet is being deleted, so it is left as it is");
        return plan;
    }
    let sizes = Sizes { wanted: usize::try_from(wanted).unwrap_or_default(), now: view.now };
    let Scaled { actions, reason } = scale(set, &template, &claim.own, &view.related, &sizes);
    plan.actions.extend(actions);
    plan.reasons.push(reason);
    if let Some(soonest) = soonest_available(&claim.own, min_ready_s, view.now) {
        plan.look_again(soonest);
    }
    plan
}

/// When the next of the ready pods will have been ready for long enough.
pub fn soonest_available(pods: &[Arc<Pod>], min_ready_s: i32, now: Timestamp) -> Option<Duration> {
    let waits = pods.iter().filter_map(|pod| match pods::availability(pod, min_ready_s, now) {
        Availability::After(wait) => Some(wait),
        Availability::Now | Availability::No => None,
    });
    waits.min()
}

#[cfg(test)]
mod tests {
    use api_types::k8s::{
        apps::ReplicaSetSpec,
        core::PodTemplateSpec,
        meta::{LabelSelector, ObjectMeta},
    };

    use super::*;
    use crate::{action::Write, owners::controller_reference, pods::words};

    fn set(replicas: i32) -> ReplicaSet {
        let labels = [("app".to_owned(), "web".to_owned())];
        ReplicaSet {
            metadata: ObjectMeta {
                name: Some("web".to_owned()),
                namespace: Some("ns".to_owned()),
                uid: Some("rs".to_owned()),
                generation: Some(1),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(replicas),
                selector: LabelSelector { match_labels: Some(labels.clone().into()), ..LabelSelector::default() },
                template: Some(PodTemplateSpec {
                    metadata: Some(ObjectMeta { labels: Some(labels.into()), ..ObjectMeta::default() }),
                    ..PodTemplateSpec::default()
                }),
                ..ReplicaSetSpec::default()
            }),
            status: None,
        }
    }

    /// Words: see [`words::pod`]; `o` is an orphan. Gives `+` a creation, `-name` a deletion, `~name` a patch,
    /// `=replicas/ready` a status.
    fn check(replicas: i32, pods: &str, deleting: &str, expected: &str) {
        let set = Arc::new(set(replicas));
        let candidates = pods.split_whitespace().map(|word| {
            let mut pod = words::pod(word);
            pod.metadata.labels = Some([("app".to_owned(), "web".to_owned())].into());
            if !word.split_once(':').is_some_and(|(_, flags)| flags.contains('o')) {
                pod.metadata.owner_references = Some(vec![controller_reference(&*set)]);
            }
            Arc::new(pod)
        });
        let candidates: Vec<_> = candidates.collect();
        let deleting = deleting.split_whitespace().map(str::to_owned).collect();
        let related = candidates.clone();
        let plan = plan(&View { set, candidates, related, deleting: &deleting, failure: None, now: words::now() });
        let done = plan.actions.iter().map(|action| match &action.write {
            Write::Create(_) => "+".to_owned(),
            Write::Delete(_) => format!("-{}", action.key.name),
            Write::Patch { .. } | Write::DeleteAll(_) | Write::Certify { .. } => format!("~{}", action.key.name),
            Write::Update { object, .. } => {
                let status = &object["status"];
                format!("={}/{}", status["replicas"], status["readyReplicas"].as_i64().unwrap_or_default())
            }
        });
        assert_eq!(done.collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn missing_pods_are_created() {
        check(2, "", "", "=0/0 + +");
        check(2, "a", "", "=1/1 +");
    }
    #[test]
    fn terminating_and_finished_pods_do_not_count() {
        check(1, "a:t", "", "=0/0 +");
        check(1, "a:f b:s", "", "=0/0 +");
    }
    #[test]
    fn pending_and_unready_die_first() {
        check(1, "a b:u c:p", "", "=3/1 -c -b");
    }
    #[test]
    fn a_deletion_that_the_cache_does_not_show_yet_counts() {
        check(1, "a b:u c:p", "b c", "=1/1");
    }
    #[test]
    fn orphans_are_adopted_and_count() {
        check(1, "a:o", "", "~a =1/1");
    }
    #[test]
    fn at_most_a_burst_at_a_time() {
        let set = Arc::new(set(700));
        let none = HashSet::new();
        let view = View { set, candidates: vec![], related: vec![], deleting: &none, failure: None, now: words::now() };
        assert_eq!(plan(&view).actions.len(), 1 + 500);
    }
}
