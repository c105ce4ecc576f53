//! replicationcontroller: what a ReplicaSet is, in its older form.

use std::{collections::HashSet, sync::Arc};

use api_types::{
    Key, Object,
    jiff::Timestamp,
    k8s::core::{
        Pod, PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerSpec,
        ReplicationControllerStatus,
    },
    labels::Selector,
    resources,
};
use client::{Change, Queue};

use crate::{
    action::Action,
    caches::{BY_NAMESPACE, BY_OWNER, ORPHANS, Subscriptions},
    owners::{claim, controller_key, controller_of},
    plan::{Failure, FailureKind, Plan, Turn, World, time},
    pods,
    reconcile::Controller,
    replica_set::{Counts, Scaled, Sizes, counts, scale, soonest_available},
};

pub static CONTROLLER: Controller = Controller {
    name: "replicationcontroller-controller",
    resource: &resources::REPLICATION_CONTROLLER,
    account: "replication-controller",
    component: "replication-controller",
    workers: 5,
    watch,
    watch_everything: None,
    decide: |world, turn| view(world, turn).map_or_else(Plan::default, |view| plan(&view)),
};

fn watch(to: &mut Subscriptions, queue: &Queue<Key>) {
    let wake = queue.clone();
    to.replication_controllers.push(Box::new(move |_, change| wake.add(change.object().key())));
    let wake = queue.clone();
    to.pods.push(Box::new(move |caches, change| {
        for pod in [change.old(), Some(change.object())].into_iter().flatten() {
            if let Some(key) = controller_key::<ReplicationController>(&pod.metadata) {
                wake.add(key);
            }
        }
        let pod = change.object();
        if !matches!(change, Change::Deleted(_)) && controller_of(&pod.metadata).is_none() {
            let all = caches.replication_controllers.by_index(BY_NAMESPACE, pod.namespace());
            let matching = all.iter().filter(|it| selector(it).matches(&pod.metadata.labels));
            matching.for_each(|it| wake.add(it.key()));
        }
    }));
}

struct View<'a> {
    controller: Arc<ReplicationController>,
    candidates: Vec<Arc<Pod>>,
    deleting: &'a HashSet<String>,
    failure: Option<&'a Failure>,
    now: Timestamp,
}

fn view<'a>(world: &World<'_>, turn: &Turn<'a>) -> Option<View<'a>> {
    let controller = world.caches.replication_controllers.get(turn.key)?;
    let mut candidates = world.caches.pods.by_index(BY_OWNER, controller.uid());
    candidates.extend(world.caches.pods.by_index(ORPHANS, controller.namespace()));
    Some(View { controller, candidates, deleting: turn.deleting, failure: turn.failure, now: turn.now })
}

fn selector(controller: &ReplicationController) -> Selector {
    let labels = controller.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    labels.filter(|labels| !labels.is_empty()).map_or_else(Selector::nothing, Selector::from)
}

fn plan(view: &View<'_>) -> Plan {
    let controller = &*view.controller;
    let spec: ReplicationControllerSpec = controller.spec.clone().unwrap_or_default();
    let live = |pod: &&Arc<Pod>| pods::is_active(pod) && !view.deleting.contains(pod.uid());
    let claim = claim(controller, &selector(controller), view.candidates.iter().filter(live).cloned());
    let mut plan = Plan { actions: claim.actions, ..Plan::default() };
    let template: PodTemplateSpec = spec.template.unwrap_or_default();
    let (wanted, min_ready_s) = (spec.replicas.unwrap_or(1), spec.min_ready_seconds.unwrap_or_default());
    let counts = counts(&claim.own, &template, min_ready_s, view.now);
    let next = status(controller, &counts, view.failure, view.now);
    plan.actions.extend(next.map(|next| Action::update_status(&next, "what there is has changed")));
    if controller.is_terminating() {
        plan.because("Terminating", "it is being deleted, so it is left as it is");
        return plan;
    }
    let sizes = Sizes { wanted: usize::try_from(wanted).unwrap_or_default(), now: view.now };
    let Scaled { actions, reason } = scale(controller, &template, &claim.own, &claim.own, &sizes);
    plan.actions.extend(actions);
    plan.reasons.push(reason);
    if let Some(soonest) = soonest_available(&claim.own, min_ready_s, view.now) {
        plan.look_again(soonest);
    }
    plan
}

fn status(
    controller: &ReplicationController,
    counts: &Counts,
    failure: Option<&Failure>,
    now: Timestamp,
) -> Option<ReplicationController> {
    let old = controller.status.clone().unwrap_or_default();
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let some = |count: usize| (count > 0).then(|| number(count));
    let failure = failure.filter(|failure| failure.kind != FailureKind::Other);
    let known = old.conditions.iter().flatten().find(|condition| condition.type_ == "ReplicaFailure");
    let condition = failure.map(|failure| {
        known.cloned().unwrap_or_else(|| ReplicationControllerCondition {
            type_: "ReplicaFailure".to_owned(),
            status: "True".to_owned(),
            reason: Some(if failure.kind == FailureKind::Create { "FailedCreate" } else { "FailedDelete" }.to_owned()),
            message: Some(failure.message.clone()),
            last_transition_time: Some(time(now)),
        })
    });
    let status = ReplicationControllerStatus {
        replicas: number(counts.all),
        fully_labeled_replicas: some(counts.fully_labeled),
        ready_replicas: some(counts.ready),
        available_replicas: some(counts.available),
        observed_generation: controller.metadata.generation,
        conditions: condition.map(|condition| vec![condition]),
    };
    (status != old).then(|| ReplicationController { status: Some(status), ..controller.clone() })
}

#[cfg(test)]
mod tests {
    use api_types::k8s::meta::ObjectMeta;

    use super::*;
    use crate::{action::Write, owners::controller_reference, pods::words};

    fn check(replicas: i32, pods: &str, expected: &str) {
        let labels = [("app".to_owned(), "web".to_owned())];
        let controller = Arc::new(ReplicationController {
            metadata: ObjectMeta { name: Some("rc".into()), uid: Some("rc".into()), ..ObjectMeta::default() },
            spec: Some(ReplicationControllerSpec {
                replicas: Some(replicas),
                selector: Some(labels.clone().into()),
                ..ReplicationControllerSpec::default()
            }),
            status: None,
        });
        let candidates = pods.split_whitespace().map(|word| {
            let mut pod = words::pod(word);
            pod.metadata.labels = Some(labels.clone().into());
            pod.metadata.owner_references = Some(vec![controller_reference(&*controller)]);
            Arc::new(pod)
        });
        let (candidates, none) = (candidates.collect(), HashSet::new());
        let view =
            View { controller: Arc::clone(&controller), candidates, deleting: &none, failure: None, now: words::now() };
        let done = plan(&view).actions.into_iter().filter_map(|action| match action.write {
            Write::Create(_) => Some("+".to_owned()),
            Write::Delete(_) => Some(format!("-{}", action.key.name)),
            Write::Update { .. } | Write::Patch { .. } | Write::DeleteAll(_) | Write::Certify { .. } => None,
        });
        assert_eq!(done.collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn it_keeps_its_number() {
        check(2, "a", "+");
        check(1, "a b:u", "-b");
        check(1, "a b:t", "");
    }
}
