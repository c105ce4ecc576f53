//! The taints that follow from a node's conditions: pure.

use api_types::{
    jiff::Timestamp,
    k8s::core::{Node, Taint},
};

use super::{condition, ready};
use crate::plan::time;

pub const NO_EXECUTE: &str = "NoExecute";
const NO_SCHEDULE: &str = "NoSchedule";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that, where True, keep pods away.
const BY_CONDITION: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
];

pub fn is_of_readiness(taint: &Taint) -> bool {
    taint.key == NOT_READY || taint.key == UNREACHABLE
}

/// Ours brought up to date; those of others stay as they are. One that stays keeps the time it was added.
pub fn taints(node: &Node, old: &[Taint], all_silent: bool, now: Timestamp) -> Vec<Taint> {
    let is_ours = |taint: &Taint| {
        let no_schedule = [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&taint.key.as_str())
            || BY_CONDITION.iter().any(|(_, key)| *key == taint.key);
        (no_schedule && taint.effect == NO_SCHEDULE) || (is_of_readiness(taint) && taint.effect == NO_EXECUTE)
    };
    let wanted = wanted(node, all_silent);
    let is_wanted = |taint: &Taint| wanted.iter().any(|(key, effect)| taint.key == *key && taint.effect == *effect);
    let mut taints: Vec<Taint> = old.iter().filter(|taint| !is_ours(taint) || is_wanted(taint)).cloned().collect();
    for (key, effect) in wanted {
        if taints.iter().all(|taint| taint.key != key || taint.effect != effect) {
            taints.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                value: None,
                time_added: (effect == NO_EXECUTE).then(|| time(now)),
            });
        }
    }
    taints
}

fn wanted(node: &Node, all_silent: bool) -> Vec<(&'static str, &'static str)> {
    let readiness = match ready(node) {
        "True" => None,
        "False" => Some(NOT_READY),
        _ => Some(UNREACHABLE),
    };
    let mut wanted: Vec<_> = readiness.into_iter().map(|key| (key, NO_SCHEDULE)).collect();
    let is_true = |kind: &str| condition(node, kind).is_some_and(|condition| condition.status == "True");
    wanted.extend(BY_CONDITION.iter().filter(|(kind, _)| is_true(kind)).map(|(_, key)| (*key, NO_SCHEDULE)));
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, NO_SCHEDULE));
    }
    if !all_silent {
        wanted.extend(readiness.map(|key| (key, NO_EXECUTE)));
    }
    wanted
}
