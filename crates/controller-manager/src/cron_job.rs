//! cronjob: makes a Job at every time of a schedule.
//!
//! Source: kubernetes/pkg/controller/cronjob.

mod schedule;

use std::{collections::HashSet, sync::Arc, time::Duration};

use api_types::{
    Object,
    jiff::{Timestamp, tz::TimeZone},
    k8s::{
        batch::{CronJob, CronJobSpec, Job},
        meta::ObjectMeta,
    },
    resources,
};
use client::{EventKind, events};

use crate::{
    action::{Action, Outcome},
    caches::BY_OWNER,
    job::finished,
    owners::{controller_key, controller_reference},
    plan::{Plan, Turn, World, time, until},
    reconcile::Controller,
};
use schedule::Schedule;

const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed times than this are told of.
const MISSED_MAX: usize = 100;
const ZONES: &str = "/usr/share/zoneinfo";

pub static CONTROLLER: Controller = Controller {
    name: "cronjob-controller",
    resource: &resources::CRON_JOB,
    account: "cronjob-controller",
    component: "cronjob-controller",
    workers: 5,
    watch: |to, queue| {
        let wake = queue.clone();
        to.cron_jobs.push(Box::new(move |_, change| wake.add(change.object().key())));
        let wake = queue.clone();
        to.jobs.push(Box::new(move |_, change| {
            if let Some(key) = controller_key::<CronJob>(&change.object().metadata) {
                wake.add(key);
            }
        }));
    },
    watch_everything: None,
    decide: |world, turn| view(world, turn).map_or_else(Plan::default, |view| plan(&view)),
};

struct View<'a> {
    cron: Arc<CronJob>,
    jobs: Vec<Arc<Job>>,
    /// `None`: this machine knows no such zone.
    zone: Option<TimeZone>,
    deleting: &'a HashSet<String>,
    now: Timestamp,
}

fn view<'a>(world: &World<'_>, turn: &Turn<'a>) -> Option<View<'a>> {
    let cron = world.caches.cron_jobs.get(turn.key)?;
    let zone = cron.spec.time_zone.as_deref().map_or(Some(TimeZone::UTC), zone);
    Some(View {
        jobs: world.caches.jobs.by_index(BY_OWNER, cron.uid()),
        zone,
        deleting: turn.deleting,
        now: turn.now,
        cron,
    })
}

/// A zone by the name that `spec.timeZone` gives it.
fn zone(name: &str) -> Option<TimeZone> {
    if name == "UTC" || name == "Etc/UTC" {
        return Some(TimeZone::UTC);
    }
    let is_plain = |part: &str| !part.is_empty() && part != ".." && part != ".";
    if !name.split('/').all(is_plain) {
        return None;
    }
    let data = std::fs::read(format!("{ZONES}/{name}")).ok()?;
    TimeZone::tzif(name, &data).ok()
}

fn plan(view: &View<'_>) -> Plan {
    let cron = &*view.cron;
    let spec = cron.spec.clone();
    let jobs: Vec<&Arc<Job>> = view.jobs.iter().filter(|job| !view.deleting.contains(job.uid())).collect();
    let mut plan = Plan::default();
    plan.actions.extend(beyond_history(cron, &spec, &jobs));
    let mut next = with_active(cron, &jobs);
    if cron.is_terminating() {
        plan.because("Terminating", "the CronJob is being deleted");
    } else if spec.suspend == Some(true) {
        plan.because("Suspended", "spec.suspend is true");
    } else {
        start(view, &spec, &jobs, &mut next, &mut plan);
    }
    if next.status.clone().unwrap_or_default() != cron.status.clone().unwrap_or_default() {
        plan.act(tell_ended(Action::update_status(&next, "Jobs have begun or ended"), cron, &jobs));
    }
    plan
}

/// Makes the Job of the latest time that has come, if there is one and it may run.
fn start(view: &View<'_>, spec: &CronJobSpec, jobs: &[&Arc<Job>], next: &mut CronJob, plan: &mut Plan) {
    let cron = &*view.cron;
    let Some(zone) = &view.zone else {
        let name = spec.time_zone.clone().unwrap_or_default();
        return plan.because("UnknownTimeZone", format!("invalid timeZone: {name:?}: there is no {ZONES}/{name}"));
    };
    let schedule = match Schedule::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(why) => {
            return plan.because("UnparseableSchedule", format!("unparseable schedule: {:?} : {why}", spec.schedule));
        }
    };
    if let Some(at) = schedule.next(view.now, zone) {
        plan.because("NextSchedule", format!("the next time is {at}"));
        plan.look_again(until(at, view.now) + Duration::from_millis(100));
    }
    let earliest = earliest(cron, spec, view.now);
    let Some(at) = schedule.latest(earliest, view.now, zone) else { return };
    if schedule.count(earliest, view.now, zone, MISSED_MAX + 1) > MISSED_MAX {
        plan.because(
            "TooManyMissedTimes",
            "too many missed start times: set or decrease .spec.startingDeadlineSeconds",
        );
    }
    let name = format!("{}-{}", cron.name(), at.as_second() / 60);
    if jobs.iter().any(|job| job.name() == name) {
        // Made in a turn that ended before it could say so.
        next.status.get_or_insert_default().last_schedule_time = Some(time(at));
        return;
    }
    let active: Vec<&&Arc<Job>> = jobs.iter().filter(|job| finished(job).is_none()).collect();
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let why = "Not starting job because prior execution is running and concurrency policy is Forbid";
            return plan.because("JobAlreadyActive", why);
        }
        Some("Replace") => plan.actions.extend(active.iter().map(|job| delete(cron, job, "a new one replaces it"))),
        _ => {}
    }
    plan.act(create(cron, spec, name, at, zone));
    next.status.get_or_insert_default().last_schedule_time = Some(time(at));
}

/// Times before it do not count: they have been served, or it is too late for them.
fn earliest(cron: &CronJob, spec: &CronJobSpec, now: Timestamp) -> Timestamp {
    let last = cron.status.as_ref().and_then(|status| status.last_schedule_time.as_ref());
    let since = last.or(cron.metadata.creation_timestamp.as_ref()).map_or(now, |time| time.0);
    let deadline = spec.starting_deadline_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let not_before = deadline.and_then(|seconds| now.checked_sub(Duration::from_secs(seconds)).ok());
    not_before.map_or(since, |not_before| since.max(not_before))
}

fn create(cron: &CronJob, spec: &CronJobSpec, name: String, at: Timestamp, zone: &TimeZone) -> Action {
    let model = spec.job_template.metadata.clone().unwrap_or_default();
    let mut annotations = model.annotations.unwrap_or_default();
    let stamp = at.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
    annotations.insert(SCHEDULED_AT.to_owned(), stamp.replace("+00:00", "Z"));
    let job = Job {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(cron.namespace().to_owned()),
            labels: model.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(cron)]),
            ..ObjectMeta::default()
        },
        spec: spec.job_template.spec.clone(),
        status: None,
    };
    Action::create(&job, format!("its time is {at}"))
        .tell(Outcome::Done, cron, EventKind::Normal, "SuccessfulCreate", "Created job {name}")
        .tell(Outcome::Refused, cron, EventKind::Warning, "FailedCreate", "Error creating job: {error}")
}

fn delete(cron: &CronJob, job: &Job, why: &str) -> Action {
    Action::delete(job, why)
        .with_propagation("Background")
        .tell(Outcome::Done, cron, EventKind::Normal, "SuccessfulDelete", "Deleted job {name}")
        .tell(Outcome::Refused, cron, EventKind::Warning, "FailedDelete", "Deleted job: {error}")
}

/// With the Jobs that run now, and the last success.
fn with_active(cron: &CronJob, jobs: &[&Arc<Job>]) -> CronJob {
    let mut next = cron.clone();
    let status = next.status.get_or_insert_default();
    let active = jobs.iter().filter(|job| finished(job).is_none()).map(|job| events::reference(&***job));
    let active: Vec<_> = active.collect();
    let same = |a: &[api_types::k8s::core::ObjectReference]| {
        a.iter().map(|it| &it.uid).collect::<HashSet<_>>() == active.iter().map(|it| &it.uid).collect()
    };
    // References carry a resourceVersion, which is no news.
    if !same(status.active.as_deref().unwrap_or_default()) {
        status.active = (!active.is_empty()).then_some(active);
    }
    let successes = jobs.iter().filter(|job| finished(job).is_some_and(|end| end.type_ == "Complete"));
    let last = successes.filter_map(|job| job.status.as_ref()?.completion_time.clone()).max();
    if last > status.last_successful_time {
        status.last_successful_time = last;
    }
    next
}

/// One event for each Job that was active and has ended.
fn tell_ended(mut action: Action, cron: &CronJob, jobs: &[&Arc<Job>]) -> Action {
    let was_active = cron.status.as_ref().and_then(|status| status.active.as_deref()).unwrap_or_default();
    for reference in was_active {
        let Some(job) = jobs.iter().find(|job| reference.uid.as_deref() == Some(job.uid())) else { continue };
        if let Some(end) = finished(job) {
            let message = format!("Saw completed job: {}, condition: {}", job.name(), end.type_);
            action = action.tell(Outcome::Done, cron, EventKind::Normal, "SawCompletedJob", message);
        }
    }
    action
}

/// Finished Jobs beyond the limits, oldest first.
fn beyond_history(cron: &CronJob, spec: &CronJobSpec, jobs: &[&Arc<Job>]) -> Vec<Action> {
    let ended = |kind: &'static str, limit: Option<i32>| {
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        let mut ended: Vec<&Arc<Job>> =
            jobs.iter().copied().filter(|job| finished(job).is_some_and(|end| end.type_ == kind)).collect();
        ended.sort_by_key(|job| job.status.as_ref().and_then(|status| status.start_time.clone()));
        let excess = ended.len().saturating_sub(limit);
        ended.into_iter().take(excess).map(|job| delete(cron, job, "beyond the history limit")).collect::<Vec<_>>()
    };
    let mut actions = ended("Complete", spec.successful_jobs_history_limit);
    actions.extend(ended("Failed", spec.failed_jobs_history_limit));
    actions
}

#[cfg(test)]
mod tests {
    use api_types::k8s::batch::{CronJobStatus, JobCondition, JobStatus};

    use super::*;
    use crate::action::Write;

    fn at(text: &str) -> Timestamp {
        format!("2026-01-01T{text}Z").parse().unwrap()
    }

    /// Jobs: `name` with `c` complete, `f` failed. Gives `+name`, `-name`, `=last schedule time`.
    fn check(policy: &str, last: &str, now: &str, jobs: &str, expected: &str) {
        let cron = CronJob {
            metadata: ObjectMeta {
                name: Some("cron".into()),
                uid: Some("cron".into()),
                creation_timestamp: Some(time(at("00:00:00"))),
                ..ObjectMeta::default()
            },
            spec: CronJobSpec {
                schedule: "*/10 * * * *".into(),
                concurrency_policy: Some(policy.into()),
                successful_jobs_history_limit: Some(1),
                ..CronJobSpec::default()
            },
            status: Some(CronJobStatus {
                last_schedule_time: (!last.is_empty()).then(|| time(at(last))),
                ..CronJobStatus::default()
            }),
        };
        let jobs = jobs.split_whitespace().zip(1..).map(|(word, number)| {
            let (name, flags) = word.split_once(':').unwrap_or((word, ""));
            let condition =
                |kind: &str| JobCondition { type_: kind.into(), status: "True".into(), ..JobCondition::default() };
            let conditions = match flags {
                "c" => vec![condition("Complete")],
                "f" => vec![condition("Failed")],
                _ => vec![],
            };
            let status = JobStatus {
                conditions: Some(conditions),
                start_time: Some(time(Timestamp::from_second(number).unwrap())),
                ..JobStatus::default()
            };
            let metadata = ObjectMeta { name: Some(name.into()), uid: Some(name.into()), ..ObjectMeta::default() };
            Arc::new(Job { metadata, spec: None, status: Some(status) })
        });
        let (jobs, none) = (jobs.collect(), HashSet::new());
        let view = View { cron: Arc::new(cron), jobs, zone: Some(TimeZone::UTC), deleting: &none, now: at(now) };
        let done = plan(&view).actions.into_iter().map(|action| match action.write {
            Write::Create(_) => format!("+{}", action.key.name),
            Write::Delete(_) => format!("-{}", action.key.name),
            Write::Update { object, .. } => {
                format!("={}", &object["status"]["lastScheduleTime"].as_str().unwrap_or("T--:--:")[11..16])
            }
            Write::Patch { .. } | Write::DeleteAll(_) | Write::Certify { .. } => "other".to_owned(),
        });
        assert_eq!(done.collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn a_job_at_every_time() {
        check("Allow", "", "00:05:00", "", "");
        check("Allow", "", "00:10:01", "", "+cron-29453770 =00:10");
        check("Allow", "00:10:00", "00:15:00", "cron-29453770:c", "");
        check("Allow", "00:10:00", "00:45:00", "", "+cron-29453800 =00:40");
    }
    #[test]
    fn prior_jobs_may_forbid_or_be_replaced() {
        check("Forbid", "00:10:00", "00:20:01", "old", "=00:10");
        check("Replace", "00:10:00", "00:20:01", "old", "-old +cron-29453780 =00:20");
    }
    #[test]
    fn a_job_that_is_there_is_not_made_twice() {
        check("Allow", "00:10:00", "00:20:01", "cron-29453780:c", "=00:20");
    }
    #[test]
    fn the_oldest_go() {
        check("Allow", "00:10:00", "00:15:00", "a:c b:c c:f", "-a");
    }
}
