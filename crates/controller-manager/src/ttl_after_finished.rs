//! ttl-after-finished: deletes Jobs some time after they have finished, if they say so.
//!
//! Source: kubernetes/pkg/controller/ttlafterfinished.

use std::{sync::Arc, time::Duration};

use api_types::{Object, jiff::Timestamp, k8s::batch::Job, resources};
use client::Change;

use crate::{
    action::Action,
    job::finished,
    plan::{Plan, Turn, World, since},
    reconcile::Controller,
};

pub static CONTROLLER: Controller = Controller {
    name: "ttl-after-finished-controller",
    resource: &resources::JOB,
    account: "ttl-after-finished-controller",
    component: "ttl-after-finished-controller",
    workers: 5,
    watch: |to, queue| {
        let wake = queue.clone();
        to.jobs.push(Box::new(move |_, change| {
            if !matches!(change, Change::Deleted(_)) && finished(change.object()).is_some() {
                wake.add(change.object().key());
            }
        }));
    },
    watch_everything: None,
    decide: |world, turn| view(world, turn).map_or_else(Plan::default, |view| plan(&view)),
};

struct View {
    job: Arc<Job>,
    now: Timestamp,
}

fn view(world: &World<'_>, turn: &Turn<'_>) -> Option<View> {
    Some(View { job: world.caches.jobs.get(turn.key)?, now: turn.now })
}

fn plan(view: &View) -> Plan {
    let job = &*view.job;
    let ttl_s = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished);
    let (Some(ttl_s), Some(end)) = (ttl_s, finished(job)) else { return Plan::default() };
    let Some(at) = end.last_transition_time.as_ref().filter(|_| !job.is_terminating()) else { return Plan::default() };
    let ttl = Duration::from_secs(u64::try_from(ttl_s).unwrap_or_default());
    match ttl.checked_sub(since(at, view.now)).filter(|left| !left.is_zero()) {
        Some(left) => {
            let mut plan = Plan::nothing("WaitingForTTL", format!("is deleted in {} s", left.as_secs()));
            plan.look_again(left);
            plan
        }
        None => {
            let delete =
                Action::delete(job, format!("finished more than {ttl_s} s ago")).with_propagation("Foreground");
            Plan { actions: vec![delete], ..Plan::default() }
        }
    }
}

#[cfg(test)]
mod tests {
    use api_types::k8s::batch::{JobCondition, JobSpec, JobStatus};

    use super::*;
    use crate::pods::words::{ago, now};

    fn check(ttl_s: Option<i32>, finished_s: Option<i64>, expected: (usize, Option<u64>)) {
        let condition = |seconds| JobCondition {
            type_: "Complete".into(),
            status: "True".into(),
            last_transition_time: Some(ago(seconds)),
            ..JobCondition::default()
        };
        let job = Job {
            spec: Some(JobSpec { ttl_seconds_after_finished: ttl_s, ..JobSpec::default() }),
            status: Some(JobStatus {
                conditions: finished_s.map(|seconds| vec![condition(seconds)]),
                ..JobStatus::default()
            }),
            ..Job::default()
        };
        let plan = plan(&View { job: Arc::new(job), now: now() });
        assert_eq!((plan.actions.len(), plan.look_again_after.map(|after| after.as_secs())), expected);
    }

    #[test]
    fn finished_jobs_go_in_time() {
        check(None, Some(1000), (0, None));
        check(Some(60), None, (0, None));
        check(Some(60), Some(20), (0, Some(40)));
        check(Some(60), Some(60), (1, None));
        check(Some(0), Some(0), (1, None));
    }
}
