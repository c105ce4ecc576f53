//! Replaces pods of an old template, as many at a time as may be missing.
//!
//! Source: `rollingUpdate` in kubernetes/pkg/controller/daemon/update.go.

use std::sync::Arc;

use api_types::{
    Object,
    jiff::Timestamp,
    k8s::{
        IntOrString,
        apps::{DaemonSetSpec, RollingUpdateDaemonSet},
        core::Pod,
    },
};

use super::{Fit, HASH_LABEL, Place, Step};
use crate::{
    deployment::{Round, share},
    pods,
};

fn rolling(spec: Option<&DaemonSetSpec>) -> Option<RollingUpdateDaemonSet> {
    let strategy = spec.and_then(|spec| spec.update_strategy.clone()).unwrap_or_default();
    let is_rolling = strategy.type_.as_deref().unwrap_or("RollingUpdate") == "RollingUpdate";
    is_rolling.then(|| strategy.rolling_update.unwrap_or_default())
}

fn wanted(places: &[Place]) -> i32 {
    i32::try_from(places.iter().filter(|place| place.fit == Fit::Runs).count()).unwrap_or(i32::MAX)
}

/// New pods that may run beside old ones.
pub fn surge(spec: Option<&DaemonSetSpec>, places: &[Place]) -> i32 {
    let surge = rolling(spec).and_then(|rolling| rolling.max_surge);
    surge.map_or(0, |surge| share(&surge, wanted(places), Round::Up))
}

/// A node's pods of the new and of an old template.
struct Pair<'a> {
    place: &'a Place,
    new: Option<&'a Arc<Pod>>,
    old: Option<&'a Arc<Pod>>,
}

pub fn steps(spec: &DaemonSetSpec, places: &[Place], hash: &str, now: Timestamp) -> Vec<Step> {
    let Some(rolling) = rolling(Some(spec)) else { return Vec::new() };
    let min_ready_s = spec.min_ready_seconds.unwrap_or_default();
    let is_available = |pod: &Pod| pods::is_available(pod, min_ready_s, now);
    let max = rolling.max_unavailable.unwrap_or(IntOrString::Int(1));
    let max_unavailable = usize::try_from(share(&max, wanted(places), Round::Up)).unwrap_or_default();
    let max_surge = usize::try_from(surge(Some(spec), places)).unwrap_or_default();
    let nodes: Vec<Pair<'_>> = places
        .iter()
        .filter(|place| place.fit != Fit::Never)
        .map(|place| {
            let of = |is_new: bool| {
                place.pods.iter().find(|pod| !pods::is_finished(pod) && (pod.label(HASH_LABEL) == Some(hash)) == is_new)
            };
            Pair { place, new: of(true), old: of(false) }
        })
        .collect();
    if max_surge > 0 {
        return surging(&nodes, max_surge, is_available);
    }
    let missing = nodes.iter().filter(|pair| match (pair.new, pair.old) {
        (Some(new), _) => !is_available(new),
        (None, Some(_)) => false,
        (None, None) => pair.place.fit == Fit::Runs,
    });
    let mut budget = max_unavailable.saturating_sub(missing.count());
    let mut steps = Vec::new();
    for old in nodes.iter().filter(|pair| pair.new.is_none()).filter_map(|pair| pair.old) {
        // One that is not available costs nothing.
        if is_available(old) {
            if budget == 0 {
                continue;
            }
            budget -= 1;
        }
        steps.push(Step::Delete { pod: Arc::clone(old), why: "its template is old", tell: None });
    }
    steps
}

/// Makes the new pod first, and deletes the old one when the new is available.
fn surging(nodes: &[Pair<'_>], max_surge: usize, is_available: impl Fn(&Pod) -> bool) -> Vec<Step> {
    let under_way = nodes.iter().filter(|pair| pair.new.is_some() && pair.old.is_some());
    let mut budget = max_surge.saturating_sub(under_way.count());
    let mut steps = Vec::new();
    for pair in nodes {
        match (pair.new, pair.old) {
            (Some(new), Some(old)) if is_available(new) => {
                steps.push(Step::Delete { pod: Arc::clone(old), why: "its successor is available", tell: None });
            }
            (None, Some(old)) if budget > 0 || !is_available(old) => {
                budget = budget.saturating_sub(1);
                steps.push(Step::Create(Arc::clone(&pair.place.node)));
            }
            (None, Some(_)) | (Some(_), Some(_)) | (_, None) => {}
        }
    }
    steps
}
