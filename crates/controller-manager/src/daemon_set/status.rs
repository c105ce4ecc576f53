//! What a DaemonSet reports of itself.

use api_types::{
    Object,
    jiff::Timestamp,
    k8s::apps::{DaemonSet, DaemonSetStatus},
};

use super::{Fit, HASH_LABEL, Place};
use crate::pods;

/// The set with its new status, if that differs from the old.
pub fn next(set: &DaemonSet, places: &[Place], hash: &str, now: Timestamp) -> Option<DaemonSet> {
    let min_ready_s = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or_default();
    let old = set.status.clone().unwrap_or_default();
    let mut status = DaemonSetStatus {
        observed_generation: set.metadata.generation,
        collision_count: old.collision_count,
        conditions: old.conditions.clone(),
        ..DaemonSetStatus::default()
    };
    let (mut updated, mut available) = (0, 0);
    for place in places {
        if place.fit != Fit::Runs {
            status.number_misscheduled += i32::from(!place.pods.is_empty() && place.fit == Fit::Never);
            continue;
        }
        status.desired_number_scheduled += 1;
        let Some(oldest) = place.pods.first() else { continue };
        status.current_number_scheduled += 1;
        status.number_ready += i32::from(pods::is_ready(oldest));
        available += i32::from(pods::is_available(oldest, min_ready_s, now));
        updated += i32::from(place.pods.iter().any(|pod| pod.label(HASH_LABEL) == Some(hash)));
    }
    let some = |number: i32| (number > 0).then_some(number);
    status.updated_number_scheduled = some(updated);
    status.number_available = some(available);
    status.number_unavailable = some(status.desired_number_scheduled - available);
    let plain = |status: &DaemonSetStatus| DaemonSetStatus {
        updated_number_scheduled: Some(status.updated_number_scheduled.unwrap_or_default()),
        number_available: Some(status.number_available.unwrap_or_default()),
        number_unavailable: Some(status.number_unavailable.unwrap_or_default()),
        ..status.clone()
    };
    (plain(&status) != plain(&old)).then(|| DaemonSet { status: Some(status), ..set.clone() })
}
