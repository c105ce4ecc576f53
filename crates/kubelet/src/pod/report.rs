//! Tells the API a pod's status: only when it differs from what the API has, each time against the revision that it was
//! computed from.

use std::sync::Arc;

use api_types::{
    Object,
    jiff::{SignedDuration, Timestamp},
    k8s::core::{Pod, PodStatus},
};
use client::Client;
use serde_json::Value;

use super::{
    desired::Desired,
    observed::{Observed, Sandbox, Volumes},
    steps::Plan,
};
use crate::static_pods;

const RETRY_MIN: SignedDuration = SignedDuration::from_secs(1);
const RETRY_MAX: SignedDuration = SignedDuration::from_secs(10);

/// How a try to tell ended.
pub enum Told {
    /// The object as it is now, and what was told.
    Written {
        pod: Box<Pod>,
        status: Value,
    },
    /// Somebody else was first: this is the object now.
    Newer(Box<Pod>),
    /// There is nobody to tell of.
    Gone,
    Failed(client::Error),
}

/// What a worker remembers of what it told.
#[derive(Default)]
pub struct Teller {
    newest: Option<Arc<Pod>>,
    last: Option<Value>,
    failures: i32,
    retry_at: Option<Timestamp>,
}

impl Teller {
    /// The newer one of what the cache has and what a write answered.
    pub fn newest(&self, cached: Arc<Pod>) -> Arc<Pod> {
        match &self.newest {
            Some(newest) if newest.uid() != cached.uid() => cached,
            // A file has no revision; what was told is newer than the file.
            Some(newest) if revision(newest) > revision(&cached) || static_pods::is_static(&cached) => newest.clone(),
            Some(_) | None => cached,
        }
    }
    /// What was told before is lost.
    pub fn begin_anew(&mut self) {
        (self.last, self.retry_at) = (None, None);
    }
    pub fn retry_at(&self) -> Option<Timestamp> {
        self.retry_at
    }
    pub fn may_try(&self, now: Timestamp) -> bool {
        self.retry_at.is_none_or(|at| at <= now)
    }

    /// The API has this status, or was told it and made something else of it.
    pub fn is_known(&self, pod: &Arc<Pod>, status: &PodStatus) -> bool {
        let wanted = json(status);
        if static_pods::is_static(pod) {
            return self.last.as_ref() == Some(&wanted);
        }
        let has = pod.status.as_ref().map(json).unwrap_or_default();
        let is_own_write = self.newest.as_ref().is_some_and(|newest| revision(newest) >= revision(pod));
        has == wanted || (is_own_write && self.last.as_ref() == Some(&wanted))
    }

    pub fn told(&mut self, told: Told, now: Timestamp) {
        self.retry_at = None;
        match told {
            Told::Written { pod, status } => {
                (self.newest, self.last, self.failures) = (Some(Arc::new(*pod)), Some(status), 0);
            }
            Told::Newer(pod) => self.newest = Some(Arc::new(*pod)),
            Told::Gone => self.failed(now),
            Told::Failed(error) => {
                tracing::warn!(%error, "cannot tell the API a pod's status; trying again");
                self.failed(now);
            }
        }
    }

    fn failed(&mut self, now: Timestamp) {
        self.failures = (self.failures + 1).min(10);
        self.retry_at = now.checked_add((RETRY_MIN * self.failures).min(RETRY_MAX)).ok();
    }
}

/// As it travels: times in whole seconds, fields in one order.
fn json(status: &PodStatus) -> Value {
    serde_json::to_value(status).unwrap_or_default()
}

fn revision(pod: &Pod) -> u64 {
    pod.resource_version().parse().unwrap_or_default()
}

pub async fn write(client: &Client, pod: Arc<Pod>, status: PodStatus) -> Told {
    let told = json(&status);
    let base = if static_pods::is_static(&pod) {
        match client.get::<Pod>(&pod.key()).await {
            Ok(mirror) if static_pods::mirrors(&mirror, &pod) => mirror,
            Ok(_) => return Told::Gone,
            Err(error) if error.is_not_found() => return Told::Gone,
            Err(error) => return Told::Failed(error),
        }
    } else {
        pod.as_ref().clone()
    };
    let mut object = base;
    object.status = Some(status);
    match client.update_status(&object).await {
        Ok(mut written) => {
            if static_pods::is_static(&pod) {
                written = Pod { status: written.status, ..pod.as_ref().clone() };
            }
            Told::Written { pod: Box::new(written), status: told }
        }
        Err(error) if error.is_not_found() => Told::Gone,
        Err(error) if error.is_conflict() => match client.get::<Pod>(&pod.key()).await {
            Ok(newer) if newer.uid() == pod.uid() => Told::Newer(Box::new(newer)),
            Ok(_) => Told::Gone,
            Err(error) if error.is_not_found() => Told::Gone,
            Err(error) => Told::Failed(error),
        },
        Err(error) => Told::Failed(error),
    }
}

/// Why a pod is not ready, for whoever asks: code and sentence.
pub fn reasons(pod: &Pod, desired: &Desired, observed: &Observed, plan: &Plan) -> Vec<(String, String)> {
    let mut reasons = vec![];
    if let Some(failure) = &plan.failure {
        reasons.push((failure.reason.clone(), failure.message.clone()));
    }
    if let Volumes::Failed(failure) = &observed.volumes {
        reasons.push((failure.reason.clone(), failure.message.clone()));
    }
    if let Some(failure) = &observed.sandbox_failure {
        reasons.push((failure.reason.clone(), failure.message.clone()));
    }
    if observed.sandbox == Sandbox::Absent && !plan.waiting.is_empty() {
        reasons.push(("SandboxNotReady".to_owned(), "the pod has no sandbox yet".to_owned()));
    }
    for (name, waiting) in &plan.waiting {
        let message = match waiting.message.as_str() {
            "" => format!("container {name} waits: {}", waiting.reason),
            message => format!("container {name} waits: {message}"),
        };
        reasons.push((waiting.reason.clone(), message));
    }
    for wish in &desired.containers {
        let Some(container) = observed.newest(&wish.name).filter(|container| container.is_running()) else { continue };
        let probes = observed.probes(&wish.name, &container.id);
        if wish.startup_probe && probes.started != Some(true) {
            reasons.push((
                "StartupProbe".to_owned(),
                format!("container {} runs, but its startup probe has not succeeded", wish.name),
            ));
        } else if probes.ready == Some(false) {
            reasons.push((
                "ReadinessProbe".to_owned(),
                format!("container {} runs, but its readiness probe fails", wish.name),
            ));
        }
    }
    if pod.is_terminating() {
        reasons.push(("Terminating".to_owned(), "the pod is being deleted; its containers get their grace".to_owned()));
    }
    reasons
}
