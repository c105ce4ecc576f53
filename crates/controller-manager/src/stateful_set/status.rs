//! What a StatefulSet reports of itself.

use api_types::k8s::apps::{StatefulSet, StatefulSetSpec, StatefulSetStatus};

use super::{
    Versions,
    order::{Replica, Replicas, is_rolling},
};

/// The set with its new status, if that differs from the old.
pub fn next(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    replicas: &Replicas,
    versions: &Versions,
) -> Option<StatefulSet> {
    let old = set.status.clone().unwrap_or_default();
    let count = |is: &dyn Fn(&Replica) -> bool| {
        i32::try_from(replicas.pods().filter(|replica| is(replica)).count()).unwrap_or(i32::MAX)
    };
    let all = count(&|_| true);
    let ready = count(&|replica| replica.ready);
    let updated = count(&|replica| !replica.gone && replica.revision() == versions.update);
    let mut status = StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas: all,
        ready_replicas: Some(ready),
        available_replicas: Some(count(&|replica| replica.available)),
        current_replicas: Some(count(&|replica| !replica.gone && replica.revision() == versions.current)),
        updated_replicas: Some(updated),
        current_revision: Some(versions.current.clone()),
        update_revision: Some(versions.update.clone()),
        collision_count: Some(old.collision_count.unwrap_or_default()),
        conditions: old.conditions.clone(),
    };
    if is_rolling(spec) && updated == all && ready == all && all == spec.replicas.unwrap_or(1) {
        status.current_replicas = Some(updated);
        status.current_revision = Some(versions.update.clone());
    }
    let plain = |status: &StatefulSetStatus| StatefulSetStatus {
        ready_replicas: Some(status.ready_replicas.unwrap_or_default()),
        available_replicas: Some(status.available_replicas.unwrap_or_default()),
        current_replicas: Some(status.current_replicas.unwrap_or_default()),
        updated_replicas: Some(status.updated_replicas.unwrap_or_default()),
        collision_count: Some(status.collision_count.unwrap_or_default()),
        ..status.clone()
    };
    (plain(&status) != plain(&old)).then(|| StatefulSet { status: Some(status), ..set.clone() })
}
