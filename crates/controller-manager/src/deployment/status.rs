//! What a Deployment reports: numbers, and the conditions Available, Progressing and ReplicaFailure
//! that `kubectl rollout status` and `kubectl describe` read.
//!
//! Source: kubernetes/pkg/controller/deployment/{progress,sync}.go.

use std::time::Duration;

use api_types::{
    Object,
    k8s::apps::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet},
};

use super::{
    fleet::{Fleet, available},
    numbers::{size, slack},
    replicas, spec,
};
use crate::{
    action::{Action, Outcome},
    plan::{Failure, FailureKind, Plan, since, time},
};

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const PAUSED: &str = "DeploymentPaused";
/// Means: no deadline.
const NO_DEADLINE: i32 = i32::MAX;

/// All replicas are of the current template and available, and the server's newest word is known.
pub fn is_complete(deployment: &Deployment, status: Option<&DeploymentStatus>) -> bool {
    let Some(status) = status else { return replicas(deployment) == 0 };
    let wanted = replicas(deployment);
    let is_wanted = |number: Option<i32>| number.unwrap_or_default() == wanted;
    is_wanted(status.updated_replicas)
        && is_wanted(status.replicas)
        && is_wanted(status.available_replicas)
        && status.observed_generation >= deployment.metadata.generation
}

/// Marks the beginning and the end of a pause, so that its time does not count as lack of progress.
pub fn pause(fleet: &mut Fleet) {
    if deadline(&fleet.before).is_none() {
        return;
    }
    let reason = condition(fleet.deployment.status.as_ref(), PROGRESSING).and_then(|it| it.reason.clone());
    let was_paused = reason.as_deref() == Some(PAUSED);
    let (reason, message) = match (reason.as_deref(), spec(&fleet.before).paused == Some(true)) {
        (Some(TIMED_OUT), _) => return,
        (_, true) if !was_paused => (PAUSED, "Deployment is paused"),
        (_, false) if was_paused => ("DeploymentResumed", "Deployment is resumed"),
        _ => return,
    };
    let paused = new_condition(fleet, PROGRESSING, "Unknown", reason, message.to_owned());
    set(fleet.deployment.status.get_or_insert_default(), paused);
}

pub fn created_new(fleet: &mut Fleet, message: String) {
    if deadline(&fleet.before).is_some() {
        let created = new_condition(fleet, PROGRESSING, "True", "NewReplicaSetCreated", message);
        set(fleet.deployment.status.get_or_insert_default(), created);
    }
}

/// Only where nothing is known of the progress.
pub fn found_new(fleet: &mut Fleet, message: String) {
    if deadline(&fleet.before).is_some() && condition(fleet.deployment.status.as_ref(), PROGRESSING).is_none() {
        let found = new_condition(fleet, PROGRESSING, "True", "FoundNewReplicaSet", message);
        set(fleet.deployment.status.get_or_insert_default(), found);
    }
}

/// The name of the next set was taken.
pub fn collided(fleet: &mut Fleet) {
    let status = fleet.deployment.status.get_or_insert_default();
    status.collision_count = Some(status.collision_count.unwrap_or_default() + 1);
}

/// Writes the status without judging progress.
pub fn report(plan: &mut Plan, fleet: &Fleet) {
    let status = numbers(fleet);
    write(plan, fleet, status);
}

/// Writes the status with what it says of the rollout.
pub fn report_rollout(plan: &mut Plan, fleet: &Fleet, failure: Option<&Failure>) {
    let mut status = numbers(fleet);
    match deadline(&fleet.before) {
        Some(deadline_s) => progress(fleet, &mut status, deadline_s),
        None => remove(&mut status, PROGRESSING),
    }
    match failures(fleet) {
        Some(condition) => set(&mut status, condition),
        None => remove(&mut status, REPLICA_FAILURE),
    }
    if let Some(failure) = failure.filter(|failure| failure.kind == FailureKind::Create && fleet.is_creating()) {
        creation_failed(plan, fleet, status, failure);
        return;
    }
    if let Some(after) = next_look(fleet, &status) {
        plan.look_again(after);
    }
    write(plan, fleet, status);
}

/// Said before the next attempt, as that may be refused too.
fn creation_failed(plan: &mut Plan, fleet: &Fleet, mut status: DeploymentStatus, failure: &Failure) {
    let name = fleet.new_set().map(Object::name).unwrap_or_default();
    let message = format!("Failed to create new replica set \"{name}\": {}", failure.message);
    let failed = new_condition(fleet, PROGRESSING, "False", "ReplicaSetCreateError", message.clone());
    set(&mut status, failed);
    let mut told = Plan::default();
    write(&mut told, fleet, status);
    let event = |action: Action| {
        let kind = client::EventKind::Warning;
        action.tell(Outcome::Done, &fleet.before, kind, "ReplicaSetCreateError", message.clone())
    };
    plan.actions.splice(0..0, told.actions.into_iter().map(event));
}

fn write(plan: &mut Plan, fleet: &Fleet, status: DeploymentStatus) {
    let next = Deployment { status: Some(status), ..fleet.deployment.clone() };
    let before = Deployment { status: Some(plain(fleet.before.status.clone())), ..fleet.before.clone() };
    if (Deployment { status: Some(plain(next.status.clone())), ..next.clone() }) != before {
        plan.act(Action::update_status(&next, "what its ReplicaSets report has changed"));
    }
}

/// Zero and absent are the same, and which of them is stored depends on who wrote it.
fn plain(status: Option<DeploymentStatus>) -> DeploymentStatus {
    let status = status.unwrap_or_default();
    let number = |number: Option<i32>| Some(number.unwrap_or_default());
    let mut conditions = status.conditions.unwrap_or_default();
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    DeploymentStatus {
        replicas: number(status.replicas),
        updated_replicas: number(status.updated_replicas),
        ready_replicas: number(status.ready_replicas),
        available_replicas: number(status.available_replicas),
        unavailable_replicas: number(status.unavailable_replicas),
        terminating_replicas: number(status.terminating_replicas),
        conditions: Some(conditions),
        ..status
    }
}

fn numbers(fleet: &Fleet) -> DeploymentStatus {
    let deployment = &fleet.deployment;
    let old = deployment.status.clone().unwrap_or_default();
    let sum = |of: fn(&ReplicaSet) -> i32| fleet.all().map(of).sum::<i32>();
    let reported = |set: &ReplicaSet| set.status.as_ref().map_or(0, |status| status.replicas);
    let ready = |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or_default();
    let terminating =
        |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.terminating_replicas).unwrap_or_default();
    let some = |number: i32| (number > 0).then_some(number);
    let are_available = sum(available);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(sum(reported)),
        updated_replicas: some(fleet.new_set().map_or(0, reported)),
        ready_replicas: some(sum(ready)),
        available_replicas: some(are_available),
        unavailable_replicas: some(sum(size) - are_available),
        terminating_replicas: Some(sum(terminating)),
        ..old
    };
    let is_enough = are_available >= replicas(deployment) - slack(deployment).unavailable;
    let condition = if is_enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    let (state, reason, message) = condition;
    set(&mut status, new_condition(fleet, AVAILABLE, state, reason, message.to_owned()));
    status
}

fn progress(fleet: &Fleet, status: &mut DeploymentStatus, deadline_s: i32) {
    let current = condition(fleet.deployment.status.as_ref(), PROGRESSING).cloned();
    let reason = current.as_ref().and_then(|it| it.reason.as_deref()).unwrap_or_default();
    if status.replicas == status.updated_replicas && reason == NEW_SET_AVAILABLE {
        return;
    }
    let who = match fleet.new_set() {
        Some(set) => format!("ReplicaSet \"{}\"", set.name()),
        None => format!("Deployment \"{}\"", fleet.before.name()),
    };
    if is_complete(&fleet.before, Some(status)) {
        let message = format!("{who} has successfully progressed.");
        set(status, new_condition(fleet, PROGRESSING, "True", NEW_SET_AVAILABLE, message));
    } else if has_progressed(fleet.before.status.as_ref(), status) {
        let message = format!("{who} is progressing.");
        let mut next = new_condition(fleet, PROGRESSING, "True", "ReplicaSetUpdated", message);
        if let Some(current) = current.filter(|current| current.status == "True") {
            next.last_transition_time = current.last_transition_time;
        }
        // Written even if only its time is new: the deadline counts from the last progress.
        remove(status, PROGRESSING);
        set(status, next);
    } else if has_timed_out(fleet, status, deadline_s) {
        let message = format!("{who} has timed out progressing.");
        set(status, new_condition(fleet, PROGRESSING, "False", TIMED_OUT, message));
    }
}

fn has_progressed(old: Option<&DeploymentStatus>, new: &DeploymentStatus) -> bool {
    let none = DeploymentStatus::default();
    let old = old.unwrap_or(&none);
    let number = |number: Option<i32>| number.unwrap_or_default();
    let of_old_sets = |status: &DeploymentStatus| number(status.replicas) - number(status.updated_replicas);
    number(new.updated_replicas) > number(old.updated_replicas)
        || of_old_sets(new) < of_old_sets(old)
        || number(new.ready_replicas) > number(old.ready_replicas)
        || number(new.available_replicas) > number(old.available_replicas)
}

fn has_timed_out(fleet: &Fleet, status: &DeploymentStatus, deadline_s: i32) -> bool {
    let Some(current) = condition(Some(status), PROGRESSING) else { return false };
    match (current.reason.as_deref(), &current.last_update_time) {
        (Some(NEW_SET_AVAILABLE), _) => false,
        (Some(TIMED_OUT), _) => true,
        (_, Some(updated)) => since(updated, fleet.now) > seconds(deadline_s),
        (_, None) => false,
    }
}

/// When a rollout that does not move will have timed out.
fn next_look(fleet: &Fleet, status: &DeploymentStatus) -> Option<Duration> {
    let deadline = seconds(deadline(&fleet.before)?);
    let current = condition(Some(status), PROGRESSING)?;
    if is_complete(&fleet.before, Some(status)) || current.reason.as_deref() == Some(TIMED_OUT) {
        return None;
    }
    let updated = current.last_update_time.as_ref()?;
    // A second more, as times are written in whole seconds.
    Some(deadline.saturating_sub(since(updated, fleet.now)) + Duration::from_secs(1))
}

fn deadline(deployment: &Deployment) -> Option<i32> {
    spec(deployment).progress_deadline_seconds.filter(|deadline| *deadline != NO_DEADLINE)
}

fn seconds(number: i32) -> Duration {
    Duration::from_secs(u64::try_from(number).unwrap_or_default())
}

/// A ReplicaSet's failure becomes the deployment's; that of the new set counts more.
fn failures(fleet: &Fleet) -> Option<DeploymentCondition> {
    let failure = |set: &ReplicaSet| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == REPLICA_FAILURE).cloned()
    };
    let found = fleet.new_set().and_then(failure).or_else(|| fleet.all().find_map(failure))?;
    Some(DeploymentCondition {
        type_: found.type_,
        status: found.status,
        reason: found.reason,
        message: found.message,
        last_update_time: found.last_transition_time.clone(),
        last_transition_time: found.last_transition_time,
    })
}

fn condition<'a>(status: Option<&'a DeploymentStatus>, kind: &str) -> Option<&'a DeploymentCondition> {
    status?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

fn new_condition(fleet: &Fleet, kind: &str, status: &str, reason: &str, message: String) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(time(fleet.now)),
        last_transition_time: Some(time(fleet.now)),
    }
}

/// One that says the same already stays as it is.
fn set(status: &mut DeploymentStatus, mut new: DeploymentCondition) {
    if let Some(old) = condition(Some(status), &new.type_) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time = old.last_transition_time.clone();
        }
    }
    remove(status, &new.type_);
    status.conditions.get_or_insert_default().push(new);
}

fn remove(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != kind);
    }
}
