//! What a ReplicaSet reports of itself.

use std::sync::Arc;

use api_types::{
    Object,
    jiff::Timestamp,
    k8s::{
        apps::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::{Pod, PodTemplateSpec},
    },
};

use crate::{
    plan::{Failure, FailureKind, time},
    pods,
};

const REPLICA_FAILURE: &str = "ReplicaFailure";

/// Pods by what they have reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub all: usize,
    /// Bear all labels of the template.
    pub fully_labeled: usize,
    pub ready: usize,
    pub available: usize,
    pub terminating: usize,
}

pub fn counts(own: &[Arc<Pod>], template: &PodTemplateSpec, min_ready_s: i32, now: Timestamp) -> Counts {
    let wanted = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    let labeled = |pod: &Pod| wanted.iter().all(|(key, value)| pod.label(key) == Some(value));
    Counts {
        all: own.len(),
        fully_labeled: own.iter().filter(|pod| labeled(pod)).count(),
        ready: own.iter().filter(|pod| pods::is_ready(pod)).count(),
        available: own.iter().filter(|pod| pods::is_available(pod, min_ready_s, now)).count(),
        terminating: 0,
    }
}

/// The set with its new status, if that differs from the old.
pub fn next(
    set: &ReplicaSet,
    counts: &Counts,
    failure: Option<&Failure>,
    wanted: i32,
    now: Timestamp,
) -> Option<ReplicaSet> {
    let old = set.status.clone().unwrap_or_default();
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let some = |count: usize| (count > 0).then(|| number(count));
    let status = ReplicaSetStatus {
        replicas: number(counts.all),
        fully_labeled_replicas: some(counts.fully_labeled),
        ready_replicas: some(counts.ready),
        available_replicas: some(counts.available),
        terminating_replicas: Some(number(counts.terminating)),
        observed_generation: set.metadata.generation,
        conditions: conditions(&old, failure, number(counts.all) < wanted, now),
    };
    // Zero and absent are the same, and which of them is stored depends on who wrote it.
    let plain = |status: &ReplicaSetStatus| ReplicaSetStatus {
        fully_labeled_replicas: Some(status.fully_labeled_replicas.unwrap_or_default()),
        ready_replicas: Some(status.ready_replicas.unwrap_or_default()),
        available_replicas: Some(status.available_replicas.unwrap_or_default()),
        terminating_replicas: Some(status.terminating_replicas.unwrap_or_default()),
        conditions: Some(status.conditions.clone().unwrap_or_default()),
        ..status.clone()
    };
    (plain(&status) != plain(&old)).then(|| ReplicaSet { status: Some(status), ..set.clone() })
}

fn conditions(
    old: &ReplicaSetStatus,
    failure: Option<&Failure>,
    too_few: bool,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let known = conditions.iter().any(|condition| condition.type_ == REPLICA_FAILURE);
    let failure = failure.filter(|failure| failure.kind != FailureKind::Other);
    match failure {
        Some(failure) if !known => conditions.push(ReplicaSetCondition {
            type_: REPLICA_FAILURE.to_owned(),
            status: "True".to_owned(),
            reason: Some(if too_few { "FailedCreate" } else { "FailedDelete" }.to_owned()),
            message: Some(failure.message.clone()),
            last_transition_time: Some(time(now)),
        }),
        Some(_) => {}
        None => conditions.retain(|condition| condition.type_ != REPLICA_FAILURE),
    }
    (!conditions.is_empty()).then_some(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::words::now;

    #[test]
    fn a_refusal_is_shown_until_it_is_over() {
        let set = ReplicaSet::default();
        let failure = Failure { kind: FailureKind::Create, message: "quota".to_owned() };
        let failed = next(&set, &Counts::default(), Some(&failure), 1, now()).unwrap();
        let condition = &failed.status.as_ref().unwrap().conditions.as_ref().unwrap()[0];
        assert_eq!((condition.reason.as_deref(), condition.message.as_deref()), (Some("FailedCreate"), Some("quota")));
        assert_eq!(next(&failed, &Counts::default(), Some(&failure), 1, now()), None, "said once");
        let over = next(&failed, &Counts::default(), None, 1, now()).unwrap();
        assert_eq!(over.status.unwrap().conditions, None);
    }

    #[test]
    fn nothing_new_is_not_written() {
        let set = ReplicaSet { status: Some(ReplicaSetStatus::default()), ..ReplicaSet::default() };
        assert_eq!(next(&set, &Counts::default(), None, 0, now()), None);
    }
}
