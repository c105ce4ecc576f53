//! The next step: pods come in the order of their numbers and go in the reverse, each only when the
//! others are well, unless the set says Parallel.
//!
//! Source: `updateStatefulSet` in kubernetes/pkg/controller/statefulset/stateful_set_control.go.

use std::sync::Arc;

use api_types::{
    Object,
    jiff::Timestamp,
    k8s::{
        apps::{StatefulSet, StatefulSetSpec},
        core::{PersistentVolumeClaim, Pod},
    },
};
use client::EventKind;

use super::{POD_REVISION_LABEL, Versions, identity};
use crate::{
    action::{Action, Outcome},
    plan::Plan,
    pods,
};

/// A pod by its number.
pub struct Replica {
    pub ordinal: i32,
    pub pod: Option<Arc<Pod>>,
    pub gone: bool,
    pub ready: bool,
    pub available: bool,
}

/// The pods that are to be, by number, and those that are not.
pub struct Replicas {
    pub wanted: Vec<Replica>,
    /// Highest number first.
    pub excess: Vec<Replica>,
}

impl Replicas {
    /// `is_gone`: told to go.
    pub fn new(
        set: &StatefulSet,
        spec: &StatefulSetSpec,
        pods: Vec<Arc<Pod>>,
        now: Timestamp,
        is_gone: impl Fn(&Pod) -> bool,
    ) -> Self {
        let start = start(spec);
        let end = start + spec.replicas.unwrap_or(1);
        let min_ready_s = spec.min_ready_seconds.unwrap_or_default();
        let replica = |ordinal: i32, pod: Option<Arc<Pod>>| {
            let is_running = |pod: &Pod| pods::phase(pod) == "Running" && pods::is_ready(pod);
            Replica {
                ordinal,
                gone: pod.as_deref().is_some_and(&is_gone),
                ready: pod.as_deref().is_some_and(is_running),
                available: pod
                    .as_deref()
                    .is_some_and(|pod| is_running(pod) && pods::is_available(pod, min_ready_s, now)),
                pod,
            }
        };
        let mut wanted: Vec<Replica> = (start..end).map(|ordinal| replica(ordinal, None)).collect();
        let mut excess = Vec::new();
        for pod in pods {
            let Some(ordinal) = identity::ordinal(set, &pod) else { continue };
            match usize::try_from(ordinal - start).ok().and_then(|place| wanted.get_mut(place)) {
                Some(place) => *place = replica(ordinal, Some(pod)),
                None => excess.push(replica(ordinal, Some(pod))),
            }
        }
        excess.sort_by_key(|replica| std::cmp::Reverse(replica.ordinal));
        Self { wanted, excess }
    }

    /// All that are there.
    pub fn pods(&self) -> impl Iterator<Item = &Replica> {
        self.wanted.iter().chain(&self.excess).filter(|replica| replica.pod.is_some())
    }
}

impl Replica {
    pub fn revision(&self) -> &str {
        self.pod.as_deref().and_then(|pod| pod.label(POD_REVISION_LABEL)).unwrap_or_default()
    }
    fn is_well(&self) -> bool {
        self.available && !self.gone
    }
}

pub fn start(spec: &StatefulSetSpec) -> i32 {
    spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or_default()
}

/// Numbers below it keep the current revision.
fn partition(spec: &StatefulSetSpec) -> Option<i32> {
    let rolling = spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    rolling.and_then(|rolling| rolling.partition)
}

pub fn is_rolling(spec: &StatefulSetSpec) -> bool {
    let strategy = spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
    strategy.unwrap_or("RollingUpdate") == "RollingUpdate"
}

pub fn step(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    replicas: &Replicas,
    versions: &Versions,
    claims: &[Arc<PersistentVolumeClaim>],
    plan: &mut Plan,
) {
    let one_by_one = spec.pod_management_policy.as_deref() != Some("Parallel");
    for replica in &replicas.wanted {
        let before = plan.actions.len();
        let waits = bring_up(set, spec, replica, versions, claims, plan);
        if one_by_one && (waits || plan.actions.len() > before) {
            return;
        }
    }
    // Excess pods wait for the unhealthy with lower numbers, except that the unhealthy may go themselves.
    let first_ill = replicas.wanted.iter().chain(replicas.excess.iter().rev()).find(|replica| !replica.is_well());
    let first_ill = first_ill.map(|replica| replica.ordinal);
    for replica in &replicas.excess {
        if replica.gone {
            if one_by_one {
                plan.because(
                    "WaitingForPod",
                    format!("pod {} is still going", identity::pod_name(set, replica.ordinal)),
                );
                return;
            }
            continue;
        }
        if one_by_one && !replica.ready && first_ill != Some(replica.ordinal) {
            plan.because("WaitingForPod", "a pod with a lower number is not ready");
            return;
        }
        plan.actions.extend(replica.pod.as_deref().map(|pod| delete(set, pod, "its number is not wanted")));
        if one_by_one {
            return;
        }
    }
    if is_rolling(spec) {
        roll(set, spec, replicas, versions, plan);
    }
}

/// Tells whether the next has to wait for this one.
fn bring_up(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    replica: &Replica,
    versions: &Versions,
    claims: &[Arc<PersistentVolumeClaim>],
    plan: &mut Plan,
) -> bool {
    let name = identity::pod_name(set, replica.ordinal);
    let Some(pod) = replica.pod.as_deref() else {
        plan.actions.extend(missing_claims(set, spec, replica.ordinal, claims));
        plan.act(create(set, spec, replica.ordinal, versions));
        return true;
    };
    if pods::is_finished(pod) && !replica.gone {
        let message = format!("StatefulSet {} is recreating failed Pod {name}", set.key());
        let action = delete(set, pod, "it has ended");
        plan.act(action.tell(Outcome::Done, set, EventKind::Warning, "RecreatingFailedPod", message));
        return true;
    }
    if pods::phase(pod) == "Pending" {
        plan.actions.extend(missing_claims(set, spec, replica.ordinal, claims));
    }
    if !replica.is_well() {
        plan.because("WaitingForPod", format!("pod {name} is not available"));
    }
    !replica.is_well()
}

fn missing_claims(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    ordinal: i32,
    claims: &[Arc<PersistentVolumeClaim>],
) -> Vec<Action> {
    let wanted = identity::claims(set, spec, ordinal).into_iter().map(|(_, claim)| claim);
    let missing = wanted.filter(|wanted| claims.iter().all(|claim| claim.name() != wanted.name()));
    let pod = identity::pod_name(set, ordinal);
    let tell = |claim: PersistentVolumeClaim| {
        let done = format!("create Claim {} Pod {pod} in StatefulSet {} success", claim.name(), set.name());
        let refused = format!(
            "create Claim {} for Pod {pod} in StatefulSet {} failed error: {{error}}",
            claim.name(),
            set.name()
        );
        Action::create(&claim, "every pod has storage of its own")
            .tell(Outcome::Done, set, EventKind::Normal, "SuccessfulCreate", done)
            .tell(Outcome::Refused, set, EventKind::Warning, "FailedCreate", refused)
    };
    missing.map(tell).collect()
}

fn create(set: &StatefulSet, spec: &StatefulSetSpec, ordinal: i32, versions: &Versions) -> Action {
    let current = set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or_default();
    let keeps_current = is_rolling(spec)
        && match partition(spec) {
            Some(partition) => ordinal < start(spec) + partition,
            None => ordinal < start(spec) + current,
        };
    let pod = match keeps_current {
        true => identity::pod(set, spec, &versions.current_template, &versions.current, ordinal),
        false => identity::pod(set, spec, &spec.template, &versions.update, ordinal),
    };
    let name = pod.name().to_owned();
    let done = format!("create Pod {name} in StatefulSet {} successful", set.name());
    let refused = format!("create Pod {name} in StatefulSet {} failed error: {{error}}", set.name());
    Action::create(&pod, "its number is wanted")
        .tell(Outcome::Done, set, EventKind::Normal, "SuccessfulCreate", done)
        .tell(Outcome::Refused, set, EventKind::Warning, "FailedCreate", refused)
}

fn delete(set: &StatefulSet, pod: &Pod, why: &str) -> Action {
    let done = format!("delete Pod {} in StatefulSet {} successful", pod.name(), set.name());
    let refused = format!("delete Pod {} in StatefulSet {} failed error: {{error}}", pod.name(), set.name());
    Action::delete(pod, why).tell(Outcome::Done, set, EventKind::Normal, "SuccessfulDelete", done).tell(
        Outcome::Refused,
        set,
        EventKind::Warning,
        "FailedDelete",
        refused,
    )
}

/// Replaces the highest number that has an old template, when all above it are well.
fn roll(set: &StatefulSet, spec: &StatefulSetSpec, replicas: &Replicas, versions: &Versions, plan: &mut Plan) {
    let lowest = start(spec) + partition(spec).unwrap_or_default();
    for replica in replicas.wanted.iter().rev().filter(|replica| replica.ordinal >= lowest) {
        let Some(pod) = replica.pod.as_deref() else { return };
        if replica.revision() != versions.update && !replica.gone {
            plan.because("Rolling", format!("pod {} has an old template", pod.name()));
            plan.act(delete(set, pod, "its template is old"));
            return;
        }
        if !replica.is_well() {
            plan.because("WaitingForPod", format!("pod {} is not available yet", pod.name()));
            return;
        }
    }
    plan.because("ReplicasAsWanted", "all pods are there and of the current template");
}
