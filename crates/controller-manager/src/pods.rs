//! What controllers ask of a pod: does it count, is it ready, since when, and which to lose first.
//!
//! Source: kubernetes/pkg/controller/controller_utils.go and pkg/api/v1/pod.

use std::{cmp::Ordering, time::Duration};

use api_types::{
    Object,
    jiff::Timestamp,
    k8s::{
        core::{Pod, PodCondition, PodTemplateSpec},
        meta::{ObjectMeta, OwnerReference, Time},
    },
};

use crate::plan::since;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// Has ended, and will not run again.
pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Runs or will run.
pub fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !pod.is_terminating()
}

pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Whether a pod has been ready for long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    Now,
    /// If it stays ready.
    After(Duration),
    No,
}

pub fn availability(pod: &Pod, min_ready_s: i32, now: Timestamp) -> Availability {
    let Some(ready) = condition(pod, "Ready").filter(|ready| ready.status == "True") else { return Availability::No };
    if min_ready_s <= 0 {
        return Availability::Now;
    }
    let Some(since_when) = &ready.last_transition_time else { return Availability::No };
    let wanted = Duration::from_secs(min_ready_s.unsigned_abs().into());
    match wanted.checked_sub(since(since_when, now)) {
        Some(missing) if !missing.is_zero() => Availability::After(missing),
        _ => Availability::Now,
    }
}

pub fn is_available(pod: &Pod, min_ready_s: i32, now: Timestamp) -> bool {
    availability(pod, min_ready_s, now) == Availability::Now
}

/// A pod made from `template`, whose name the server makes from `base`.
pub fn from_template(namespace: &str, base: &str, template: &PodTemplateSpec, owner: OwnerReference) -> Pod {
    let model = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(generate_prefix(base)),
            namespace: Some(namespace.to_owned()),
            labels: model.labels,
            annotations: model.annotations,
            finalizers: model.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// With a dash if that makes a name that is allowed.
fn generate_prefix(base: &str) -> String {
    let with_dash = format!("{base}-");
    // The server cuts a base that is too long; a trailing dash is what validation refuses.
    if api_types::names::dns1123_subdomain(base).is_empty() { with_dash } else { base.to_owned() }
}

/// `Less`: `a` is lost before `b`. `rank`: how many pods of the same family share a pod's node.
///
/// Source: `ActivePodsWithRanks.Less`.
pub fn cheaper(a: (&Pod, usize), b: (&Pod, usize), now: Timestamp) -> Ordering {
    let ((a, rank_a), (b, rank_b)) = (a, b);
    (!node_name(a).is_empty())
        .cmp(&!node_name(b).is_empty())
        .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| rank_b.cmp(&rank_a))
        .then_with(|| match (ready_since(a), ready_since(b)) {
            (Some(ready_a), Some(ready_b)) if ready_a != ready_b => younger(a, ready_a, b, ready_b, now),
            _ => Ordering::Equal,
        })
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| match (&a.metadata.creation_timestamp, &b.metadata.creation_timestamp) {
            (Some(made_a), Some(made_b)) if made_a != made_b => younger(a, made_a, b, made_b, now),
            _ => Ordering::Equal,
        })
}

fn phase_rank(pod: &Pod) -> u8 {
    match phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        "Running" => 2,
        _ => 0,
    }
}

fn deletion_cost(pod: &Pod) -> i32 {
    pod.annotation(DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or_default()
}

fn ready_since(pod: &Pod) -> Option<&Time> {
    condition(pod, "Ready").filter(|ready| ready.status == "True")?.last_transition_time.as_ref()
}

/// Ages count by their order of magnitude, so that a scale-down does not always hit the same batch.
fn younger(a: &Pod, time_a: &Time, b: &Pod, time_b: &Time, now: Timestamp) -> Ordering {
    let magnitude = |time: &Time| since(time, now).as_nanos().checked_ilog2().map_or(-1, i64::from);
    magnitude(time_a).cmp(&magnitude(time_b)).then_with(|| a.uid().cmp(b.uid()))
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    statuses.iter().map(|container| container.restart_count).max().unwrap_or_default()
}

/// For tests of all controllers: a pod in a word, `name` with flags behind a colon.
#[cfg(test)]
pub mod words {
    use api_types::k8s::{
        core::{PodSpec, PodStatus},
        meta::ObjectMeta,
    };

    use super::*;

    /// The time at which all table tests take place.
    pub const NOW_S: i64 = 1_000_000;

    pub fn now() -> Timestamp {
        Timestamp::from_second(NOW_S).unwrap()
    }

    pub fn ago(seconds: i64) -> Time {
        Time(Timestamp::from_second(NOW_S - seconds).unwrap())
    }

    /// Flags: `p` pending, `u` running but unready, `t` terminating, `f` failed, `s` succeeded, `n` not bound.
    pub fn pod(word: &str) -> Pod {
        let (name, flags) = word.split_once(':').unwrap_or((word, ""));
        let flag = |flag: char| flags.contains(flag);
        let phase = match flags.chars().find(|it| "pfs".contains(*it)) {
            Some('p') => "Pending",
            Some('f') => "Failed",
            Some('s') => "Succeeded",
            _ => "Running",
        };
        let ready = phase == "Running" && !flag('u');
        let condition = PodCondition {
            type_: "Ready".to_owned(),
            status: if ready { "True" } else { "False" }.to_owned(),
            last_transition_time: Some(ago(100)),
            ..PodCondition::default()
        };
        Pod {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some("ns".to_owned()),
                uid: Some(name.to_owned()),
                resource_version: Some("1".to_owned()),
                creation_timestamp: Some(ago(100)),
                deletion_timestamp: flag('t').then(|| ago(1)),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec { node_name: (!flag('n')).then(|| "n1".to_owned()), ..PodSpec::default() }),
            status: Some(PodStatus {
                phase: Some(phase.to_owned()),
                conditions: Some(vec![condition]),
                ..PodStatus::default()
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        words::{ago, now, pod},
        *,
    };

    fn check_order(words: &str, expected: &str) {
        let mut pods: Vec<Pod> = words.split(' ').map(pod).collect();
        pods.sort_by(|a, b| cheaper((a, 0), (b, 0), now()));
        let names: Vec<&str> = pods.iter().map(Object::name).collect();
        assert_eq!(names.join(" "), expected);
    }

    #[test]
    fn the_cheapest_loss_comes_first() {
        check_order("a b:u c:p d:pn", "d c b a");
    }

    #[test]
    fn cost_goes_before_age() {
        let mut dear = pod("dear");
        dear.metadata.annotations = Some([(DELETION_COST.to_owned(), "5".to_owned())].into());
        dear.metadata.creation_timestamp = Some(ago(1));
        assert_eq!(cheaper((&pod("old"), 0), (&dear, 0), now()), Ordering::Less);
        assert_eq!(cheaper((&pod("old"), 0), (&dear, 9), now()), Ordering::Less, "cost before rank");
        assert_eq!(cheaper((&pod("a"), 2), (&pod("b"), 1), now()), Ordering::Less, "doubled up first");
    }

    #[test]
    fn availability_counts_from_readiness() {
        let check = |word: &str, min_ready_s: i32, expected: Availability| {
            assert_eq!(availability(&pod(word), min_ready_s, now()), expected, "{word}");
        };
        check("a:u", 0, Availability::No);
        check("a", 0, Availability::Now);
        check("a", 100, Availability::Now);
        check("a", 130, Availability::After(Duration::from_secs(30)));
    }
}
