//! What is there of a pod: containers that the runtime knows, work that is under way, and what the kubelet remembers of
//! failures and probes.

use std::{collections::BTreeMap, net::IpAddr};

use api_types::jiff::Timestamp;

use super::backoff::Backoff;
use crate::runtime::{Container, Exit, Role, State};

/// The decider's view of a pod on this machine.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub sandbox: Sandbox,
    /// By name, newest attempt first.
    pub containers: BTreeMap<String, Vec<Container>>,
    pub volumes: Volumes,
    /// What is being done at this moment.
    pub doing: BTreeMap<Work, Doing>,
    /// By container name.
    pub memory: BTreeMap<String, Memory>,
    /// Why the last try to make a sandbox failed, and when the next may be.
    pub sandbox_failure: Option<Failure>,
    /// The API has been told all that is known.
    pub reported: bool,
    /// The highest restart count that the API knows, by container name, for containers that somebody removed.
    pub reported_restarts: BTreeMap<String, u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    #[default]
    Absent,
    Ready {
        id: String,
        attempt: u32,
        ips: Vec<IpAddr>,
    },
    /// Ended, or never got its network.
    Broken {
        id: String,
        attempt: u32,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Volumes {
    #[default]
    Unprepared,
    Failed(Failure),
    Ready,
    /// Ready, but an object behind them has changed.
    Stale,
}

/// A thing that at most one step works on at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    Volumes,
    Sandbox,
    /// By the container's name.
    Container(String),
    /// By the container's id.
    Removal(String),
    Status,
    Forget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    Start,
    Kill { grace_s: i64 },
    Other,
}

/// What the kubelet remembers of a container beside what the runtime knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub restarts: Option<Backoff>,
    pub pulls: Option<Backoff>,
    /// Why the last start failed.
    pub failure: Option<Failure>,
    /// What probes found out about the running container; reset when another one starts.
    pub probes: Probes,
}

/// Results of a container's probes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    /// The container that the results are about.
    pub container_id: String,
    /// `None`: not known yet.
    pub started: Option<bool>,
    pub ready: Option<bool>,
    /// The kind of probe that condemns the container: `liveness` or `startup`.
    pub condemned_by: Option<&'static str>,
    /// `terminationGracePeriodSeconds` of the probe that condemns.
    pub grace_s: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// In the API's words, such as `ErrImagePull`.
    pub reason: String,
    pub message: String,
    pub at: Timestamp,
    pub retry_at: Timestamp,
}

impl Observed {
    /// The newest container of this name, in the sandbox that is there or an older one.
    pub fn newest(&self, name: &str) -> Option<&Container> {
        self.containers.get(name)?.first()
    }
    /// The newest container of this name that belongs to the present sandbox.
    pub fn current(&self, name: &str) -> Option<&Container> {
        let newest = self.newest(name)?;
        match (&newest.role, &self.sandbox) {
            (Role::App { sandbox_id, .. }, Sandbox::Ready { id, .. } | Sandbox::Broken { id, .. })
                if sandbox_id == id =>
            {
                Some(newest)
            }
            (Role::App { .. } | Role::Sandbox, _) => None,
        }
    }
    pub fn is_running(&self, name: &str) -> bool {
        self.newest(name).is_some_and(Container::is_running)
    }
    pub fn exit(&self, name: &str) -> Option<&Exit> {
        match &self.newest(name)?.state {
            State::Exited(exit) => Some(exit),
            State::Created | State::Running { .. } => None,
        }
    }
    pub fn is_doing(&self, work: &Work) -> bool {
        self.doing.contains_key(work)
    }
    /// What is known of the probes of this container; nothing if they were about another one.
    pub fn probes(&self, name: &str, container_id: &str) -> Probes {
        match self.memory.get(name) {
            Some(memory) if memory.probes.container_id == container_id => memory.probes.clone(),
            Some(_) | None => Probes { container_id: container_id.to_owned(), ..Probes::default() },
        }
    }
    /// Running, past its postStart hook and its startup probe.
    pub fn is_started(&self, name: &str, startup_probe: bool) -> bool {
        let Some(container) = self.newest(name).filter(|container| container.is_running()) else { return false };
        let starting = self.doing.get(&Work::Container(name.to_owned())) == Some(&Doing::Start);
        !starting && (!startup_probe || self.probes(name, &container.id).started == Some(true))
    }
    /// The attempt number that a new container of this name gets.
    pub fn next_attempt(&self, name: &str) -> u32 {
        let seen = self.newest(name).map(|container| container.attempt);
        let told = self.reported_restarts.get(name).copied();
        match (seen, told) {
            (Some(seen), told) => (seen + 1).max(told.unwrap_or_default()),
            // The API counts restarts of a container that is no longer there: this is one more.
            (None, Some(told)) => told + 1,
            (None, None) => 0,
        }
    }
}
