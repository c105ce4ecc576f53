//! A step of a rollout, by either strategy.
//!
//! Source: kubernetes/pkg/controller/deployment/{rolling,recreate}.go.

use api_types::Object;

use super::{
    View,
    fleet::{Fleet, available},
    is_rolling,
    numbers::{Slack, size, slack},
    replicas, revision, status,
};
use crate::{owners::controller_of, plan::Plan, pods};

pub fn plan(view: &View<'_>, fleet: &mut Fleet, plan: &mut Plan) {
    fleet.sync_revision();
    let rolling = is_rolling(&view.deployment);
    if !rolling && (scale_down_all(fleet) || are_old_pods_running(view, fleet)) {
        plan.because("WaitingForOldPods", "strategy Recreate: no new pod is made before the last old one has gone");
    } else if fleet.new_set().is_none() && is_name_taken(view) {
        status::collided(fleet);
        plan.because("HashCollision", "another ReplicaSet has the name, so the next one is tried");
        status::report(plan, fleet);
        return;
    } else {
        if fleet.new_set().is_none() {
            let wanted = replicas(&view.deployment);
            fleet.create(|fleet| if rolling { room_for_new(fleet) } else { wanted });
        }
        advance(fleet, plan, rolling);
    }
    fleet.finish(plan);
    status::report_rollout(plan, fleet, view.failure);
}

fn advance(fleet: &mut Fleet, plan: &mut Plan, rolling: bool) {
    let scaled = if rolling { scale_new(fleet) || scale_old(fleet) } else { scale_new(fleet) };
    if scaled {
        plan.because("Rolling", "ReplicaSets were scaled by one step");
    } else if status::is_complete(&fleet.before, fleet.before.status.as_ref()) {
        plan.because("RolloutComplete", "all replicas are of the current template and available");
        fleet.clean_up();
    } else {
        plan.because("WaitingForReplicas", waiting(fleet));
    }
}

fn waiting(fleet: &Fleet) -> String {
    let Slack { unavailable, .. } = slack(&fleet.before);
    let available: i32 = fleet.all().map(available).sum();
    let wanted = replicas(&fleet.before);
    format!("{available} of {wanted} replicas are available, at most {unavailable} may be missing")
}

/// Tells whether it did anything.
fn scale_new(fleet: &mut Fleet) -> bool {
    let Some(index) = fleet.new_index() else { return false };
    let (have, wanted) = (fleet.size(index), replicas(&fleet.before));
    let size = if have > wanted || !is_rolling(&fleet.before) { wanted } else { room_for_new(fleet) };
    fleet.scale(index, size)
}

/// The size that the new set can have now without too many pods at a time.
fn room_for_new(fleet: &Fleet) -> i32 {
    let wanted = replicas(&fleet.before);
    let have = fleet.new_set().map_or(0, size);
    let all: i32 = fleet.all().map(size).sum();
    let room = wanted + slack(&fleet.before).surge - all;
    if room <= 0 { have } else { have + room.min(wanted - have) }
}

/// Shrinks old sets as far as availability allows; unhealthy pods cost nothing and go first.
fn scale_old(fleet: &mut Fleet) -> bool {
    let old = fleet.active_old();
    if old.is_empty() {
        return false;
    }
    let min_available = replicas(&fleet.before) - slack(&fleet.before).unavailable;
    let all: i32 = fleet.all().map(size).sum();
    let new_unavailable = fleet.new_set().map_or(0, |set| size(set) - available(set));
    let may_go = all - min_available - new_unavailable;
    if may_go <= 0 {
        return false;
    }
    let unhealthy = shrink(fleet, &old, may_go, |fleet, index| fleet.size(index) - fleet.available(index));
    let available: i32 = fleet.all().map(available).sum();
    let healthy = shrink(fleet, &old, available - min_available, Fleet::size);
    unhealthy || healthy
}

/// Takes up to `budget` pods from `sets` in their order, from each at most what `from` says.
fn shrink(fleet: &mut Fleet, sets: &[usize], mut budget: i32, from: impl Fn(&Fleet, usize) -> i32) -> bool {
    let mut shrunk = false;
    for index in sets {
        let take = from(fleet, *index).min(budget);
        if take > 0 {
            budget -= take;
            shrunk |= fleet.scale(*index, fleet.size(*index) - take);
        }
    }
    shrunk
}

fn scale_down_all(fleet: &mut Fleet) -> bool {
    let old = fleet.active_old();
    old.iter().for_each(|index| _ = fleet.scale(*index, 0));
    !old.is_empty()
}

/// Terminating pods count too: two versions must not run at a time.
fn are_old_pods_running(view: &View<'_>, fleet: &Fleet) -> bool {
    let new = fleet.new_set().map(Object::uid);
    let of_old = |uid: &str| Some(uid) != new;
    view.pods
        .iter()
        .filter(|pod| controller_of(&pod.metadata).is_some_and(|owner| of_old(&owner.uid)))
        .any(|pod| !pods::is_finished(pod))
}

/// By a set that cannot become ours: of another owner, or of another template.
fn is_name_taken(view: &View<'_>) -> bool {
    view.namesake.as_ref().is_some_and(|namesake| {
        let template = namesake.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
        let ours = controller_of(&namesake.metadata).is_some_and(|owner| owner.uid == view.deployment.uid());
        !ours || !revision::same_template(&template, &super::spec(&view.deployment).template)
    })
}
