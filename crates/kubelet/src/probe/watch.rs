//! The tasks that probe one running container. They end when they are dropped.

use std::{sync::Arc, time::Duration};

use api_types::{
    jiff::Timestamp,
    k8s::core::{Container, Pod, Probe},
};
use client::EventKind;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use super::{
    Answer, Kind, Pace, Report, Streak,
    ask::{self, Target},
};
use crate::host::Host;

/// The probes of one container.
pub struct Probing {
    _tasks: JoinSet<()>,
    started: watch::Sender<bool>,
}

/// The container that is probed.
#[derive(Clone)]
pub struct Subject {
    pub host: Arc<Host>,
    pub pod: Arc<Pod>,
    pub container: Container,
    pub container_id: String,
    pub ip: String,
    pub started_at: Timestamp,
}

impl Probing {
    /// Begins to probe. `started` is known after a restart of the kubelet, or true where there is no startup probe.
    pub fn begin(subject: &Subject, started: bool, reports: &mpsc::Sender<Report>) -> Self {
        let (sender, _) = watch::channel(started);
        let mut tasks = JoinSet::new();
        let container = &subject.container;
        let probes = [
            (Kind::Startup, container.startup_probe.as_ref().filter(|_| !started)),
            (Kind::Liveness, container.liveness_probe.as_ref()),
            (Kind::Readiness, container.readiness_probe.as_ref()),
        ];
        for (kind, probe) in probes {
            if let Some(probe) = probe {
                tasks.spawn(run(subject.clone(), kind, probe.clone(), sender.subscribe(), reports.clone()));
            }
        }
        Self { _tasks: tasks, started: sender }
    }

    /// The startup probe has succeeded: the others begin.
    pub fn mark_started(&self) {
        self.started.send_replace(true);
    }
}

async fn run(
    subject: Subject,
    kind: Kind,
    probe: Probe,
    mut started: watch::Receiver<bool>,
    reports: mpsc::Sender<Report>,
) {
    if kind != Kind::Startup && started.wait_for(|started| *started).await.is_err() {
        return;
    }
    let pace = Pace::of(&probe);
    let mut ticks = tokio::time::interval_at(Instant::now() + delay(&subject, &pace), pace.period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut streak = Streak::default();
    let mut told = None;
    loop {
        ticks.tick().await;
        let good = ask_once(&subject, kind, &probe, &pace).await;
        let Some(good) = streak.count(good, &pace) else { continue };
        if told != Some(good) {
            told = Some(good);
            let report = Report {
                container: subject.container.name.clone(),
                container_id: subject.container_id.clone(),
                kind,
                good,
                grace_s: probe.termination_grace_period_seconds,
            };
            if reports.send(report).await.is_err() {
                return;
            }
        }
        // A started container stays started, and a condemned one is about to be killed.
        let is_settled = match kind {
            Kind::Startup => true,
            Kind::Liveness => !good,
            Kind::Readiness => false,
        };
        if is_settled {
            return;
        }
    }
}

/// `initialDelaySeconds` counts from the container's start, also across a restart of the kubelet.
fn delay(subject: &Subject, pace: &Pace) -> Duration {
    let age = Timestamp::now().duration_since(subject.started_at);
    pace.initial_delay.saturating_sub(Duration::try_from(age).unwrap_or_default())
}

async fn ask_once(subject: &Subject, kind: Kind, probe: &Probe, pace: &Pace) -> bool {
    let target = Target {
        runtime: subject.host.runtime.as_ref(),
        container: &subject.container,
        container_id: &subject.container_id,
        ip: &subject.ip,
    };
    let (good, reason, message) = match ask::probe(&target, probe, pace.timeout).await {
        Answer::Good => return true,
        Answer::Warning(message) => (true, "ProbeWarning", format!("{} probe warning: {message}", kind.title())),
        Answer::Bad(message) => (false, "Unhealthy", format!("{} probe failed: {message}", kind.title())),
    };
    subject.host.event(&subject.pod, &subject.container.name, EventKind::Warning, reason, message);
    good
}
