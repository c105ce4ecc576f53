//! Leader election by a Lease, compatible with client-go's: what to do next is decided
//! by a pure function over what was observed, `lead` does it.
//!
//! It does not promise that only one process acts as leader: one that is cut off learns
//! of its loss only at its renew deadline. So every write carries a precondition.
//!
//! Source: client-go/tools/leaderelection, resourcelock/leaselock.go.

use std::{collections::BTreeMap, time::Duration};

use api_types::{
    Key,
    jiff::Timestamp,
    k8s::{
        coordination::{Lease, LeaseSpec},
        meta::{MicroTime, ObjectMeta},
    },
};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{error::Error, http::Client, metrics};

/// Who wants to lead what. Durations by default 15 s, 10 s and 2 s.
#[derive(Clone, Debug)]
pub struct LeaseConfig {
    pub namespace: String,
    pub name: String,
    /// Unique among those who want to lead.
    pub identity: String,
    /// How long others wait after they last saw the leader renew.
    pub lease_duration: Duration,
    /// How long the leader tries to renew before it steps down.
    pub renew_deadline: Duration,
    pub retry_period: Duration,
    /// What the leader says of itself, such as where it answers.
    pub annotations: BTreeMap<String, String>,
}

impl LeaseConfig {
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
            annotations: BTreeMap::new(),
        }
    }
    fn key(&self) -> Key {
        Key::new(&self.namespace, &self.name)
    }
}

/// How a leadership, or the wish for it, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The shutdown token was cancelled; a lease that was held is released.
    ShutDown,
    /// The lease could not be renewed in time or was taken: the process should exit.
    Lost,
    /// The work returned by itself; the lease is released.
    Finished,
}

/// What to do about the lease at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// There is none: create it.
    Create,
    /// Ours: write a new renewTime.
    Renew,
    /// Nobody's, or its holder is silent for too long: write ourselves.
    Take,
    /// Somebody else's, and alive.
    Wait,
}

/// A lease as last seen. Only our own clock counts: `since` is when it last changed before our eyes.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    lease: Option<Lease>,
    since: Option<Instant>,
}

impl Observed {
    /// Takes in what the server shows now.
    pub fn see(&mut self, lease: Option<Lease>, now: Instant) {
        let spec = |lease: &Option<Lease>| lease.as_ref().and_then(|lease| lease.spec.clone());
        if self.since.is_none() || spec(&self.lease) != spec(&lease) {
            self.since = Some(now);
        }
        self.lease = lease;
    }
}

/// Pure: what `identity` should do.
pub fn decide(observed: &Observed, identity: &str, now: Instant) -> Action {
    let Some(lease) = &observed.lease else { return Action::Create };
    let spec = lease.spec.clone().unwrap_or_default();
    let duration = Duration::from_secs(spec.lease_duration_seconds.unwrap_or_default().max(0).unsigned_abs().into());
    let silent = observed.since.is_none_or(|since| since + duration < now);
    match spec.holder_identity.as_deref().unwrap_or_default() {
        "" => Action::Take,
        holder if holder == identity => Action::Renew,
        _ if silent => Action::Take,
        _ => Action::Wait,
    }
}

/// Pure: the lease that `action` writes.
fn written(observed: &Observed, action: Action, config: &LeaseConfig, now: Timestamp) -> Lease {
    let mut lease = observed.lease.clone().unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(config.name.clone()),
            namespace: Some(config.namespace.clone()),
            ..ObjectMeta::default()
        },
        spec: None,
    });
    lease.metadata.annotations.get_or_insert_default().extend(config.annotations.clone());
    let spec = lease.spec.get_or_insert_default();
    let transitions = spec.lease_transitions.unwrap_or_default();
    if action != Action::Renew {
        spec.acquire_time = Some(MicroTime(now));
        spec.lease_transitions = Some(if action == Action::Take { transitions.saturating_add(1) } else { 0 });
    }
    spec.holder_identity = Some(config.identity.clone());
    spec.lease_duration_seconds = Some(i32::try_from(config.lease_duration.as_secs()).unwrap_or(i32::MAX));
    spec.renew_time = Some(MicroTime(now));
    lease
}

/// Pure: the lease given up, so that the next leader need not wait.
fn released(mut lease: Lease, now: Timestamp) -> Lease {
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(String::new()),
        lease_duration_seconds: Some(1),
        acquire_time: Some(MicroTime(now)),
        renew_time: Some(MicroTime(now)),
        lease_transitions: lease.spec.and_then(|spec| spec.lease_transitions),
        ..LeaseSpec::default()
    });
    lease
}

/// Waits until the lease is ours, then runs `work`, and renews the lease beside it. `work` is given
/// a token that is cancelled when leadership ends; it is awaited until it has returned.
pub async fn lead<F, Fut>(client: Client, config: LeaseConfig, shutdown: CancellationToken, work: F) -> End
where
    F: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = ()>,
{
    let mut candidate = Candidate { client, config, observed: Observed::default() };
    if shutdown.run_until_cancelled(Box::pin(candidate.acquire())).await.is_none() {
        return End::ShutDown;
    }
    let (name, identity) = (candidate.config.name.clone(), candidate.config.identity.clone());
    tracing::info!(lease = name, identity, "leading");
    metrics::leading(&name, true);
    let lost = shutdown.child_token();
    let mut work = std::pin::pin!(work(lost.clone()));
    let end = tokio::select! {
        () = &mut work => End::Finished,
        () = candidate.renew() => End::Lost,
        () = shutdown.cancelled() => End::ShutDown,
    };
    lost.cancel();
    if end != End::Finished {
        work.await;
    }
    metrics::leading(&name, false);
    match end {
        End::Lost => tracing::error!(lease = name, identity, "leadership lost"),
        End::ShutDown | End::Finished => candidate.release().await,
    }
    end
}

/// How a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    Ours,
    Theirs,
    Unreachable,
}

/// The first pause after a server that did not answer; doubled up to the retry period.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(50);

struct Candidate {
    client: Client,
    config: LeaseConfig,
    observed: Observed,
}

impl Candidate {
    /// Returns when the lease is ours.
    async fn acquire(&mut self) {
        /// Spreads the candidates: 1 to 2.2 times the retry period.
        const JITTER: f64 = 1.2;
        let mut unreachable = UNREACHABLE_PAUSE;
        loop {
            let pause = match self.attempt().await {
                Attempt::Ours => return,
                Attempt::Theirs => self.config.retry_period,
                // Nobody answers, so nobody leads: a server that comes up is found soon.
                Attempt::Unreachable => {
                    let pause = unreachable;
                    unreachable = (pause * 2).min(self.config.retry_period);
                    pause
                }
            };
            sleep(pause.mul_f64(1.0 + JITTER * rand::random::<f64>())).await;
        }
    }

    /// Returns when the lease is lost.
    async fn renew(&mut self) {
        let mut renewed = Instant::now();
        loop {
            sleep(self.config.retry_period).await;
            let deadline = renewed + self.config.renew_deadline;
            match tokio::time::timeout_at(deadline, self.attempt()).await {
                Ok(Attempt::Ours) => renewed = Instant::now(),
                Ok(_) if Instant::now() < deadline && !self.is_taken() => {}
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// Somebody else holds it, as far as we saw.
    fn is_taken(&self) -> bool {
        decide(&self.observed, &self.config.identity, Instant::now()) == Action::Wait
    }

    /// One round: look, decide, write.
    async fn attempt(&mut self) -> Attempt {
        match self.try_once().await {
            Ok(true) => Attempt::Ours,
            Ok(false) => Attempt::Theirs,
            Err(error) if error.is_conflict() || error.is_already_exists() => {
                // What we knew is old; look again in the next round.
                self.observed.lease = None;
                Attempt::Theirs
            }
            Err(error) => {
                tracing::debug!(lease = self.config.name, why = crate::controller::chain(&error), "lease not written");
                Attempt::Unreachable
            }
        }
    }

    async fn try_once(&mut self) -> Result<bool, Error> {
        let known_ours = decide(&self.observed, &self.config.identity, Instant::now()) == Action::Renew;
        if !known_ours {
            let found = match self.client.get::<Lease>(&self.config.key()).await {
                Ok(lease) => Some(lease),
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(error),
            };
            self.observed.see(found, Instant::now());
        }
        let action = decide(&self.observed, &self.config.identity, Instant::now());
        let lease = written(&self.observed, action, &self.config, Timestamp::now());
        let stored = match action {
            Action::Wait => return Ok(false),
            Action::Create => self.client.create(&lease).await?,
            Action::Renew | Action::Take => self.client.update(&lease).await?,
        };
        self.observed.see(Some(stored), Instant::now());
        Ok(true)
    }

    async fn release(&mut self) {
        let Some(lease) = self.observed.lease.take() else { return };
        if let Err(error) = self.client.update(&released(lease, Timestamp::now())).await {
            tracing::debug!(lease = self.config.name, why = crate::controller::chain(&error), "lease not released");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, renewed_s: i64, transitions: i32) -> Lease {
        Lease {
            metadata: ObjectMeta::default(),
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: Some(15),
                renew_time: Some(MicroTime(Timestamp::from_second(renewed_s).unwrap())),
                lease_transitions: Some(transitions),
                ..LeaseSpec::default()
            }),
        }
    }

    /// `seen`: (seconds, holder, renewTime) as the server showed it; then what "me" decides at `now_s`.
    fn check(seen: &[(u64, &str, i64)], now_s: u64, expected: Action) {
        let begun = Instant::now();
        let mut observed = Observed::default();
        for (at_s, holder, renewed_s) in seen {
            observed.see(Some(lease(holder, *renewed_s, 0)), begun + Duration::from_secs(*at_s));
        }
        assert_eq!(decide(&observed, "me", begun + Duration::from_secs(now_s)), expected, "{seen:?} at {now_s}");
    }

    #[test]
    fn decisions() {
        check(&[], 0, Action::Create);
        check(&[(0, "me", 1)], 100, Action::Renew);
        check(&[(0, "", 1)], 0, Action::Take);
        check(&[(0, "you", 1)], 10, Action::Wait);
        check(&[(0, "you", 1)], 16, Action::Take);
    }

    #[test]
    fn only_what_changes_before_our_eyes_is_alive() {
        check(&[(0, "you", 1), (10, "you", 2)], 20, Action::Wait);
        check(&[(0, "you", 1), (10, "you", 1)], 20, Action::Take);
        // The other's clock is an hour ahead: no matter.
        check(&[(0, "you", 3600)], 16, Action::Take);
    }

    #[test]
    fn a_change_of_holder_is_counted_and_a_renewal_is_not() {
        let config = LeaseConfig::new("kube-system", "x", "me");
        let now = Timestamp::from_second(50).unwrap();
        let transitions = |holder: Option<&str>, action| {
            let observed = Observed { lease: holder.map(|holder| lease(holder, 1, 4)), since: None };
            let spec = written(&observed, action, &config, now).spec.unwrap();
            assert_eq!(spec.holder_identity.as_deref(), Some("me"));
            assert_eq!(spec.renew_time, Some(MicroTime(now)));
            (spec.lease_transitions.unwrap(), spec.acquire_time.is_some())
        };
        assert_eq!(transitions(None, Action::Create), (0, true));
        assert_eq!(transitions(Some("you"), Action::Take), (5, true));
        assert_eq!(transitions(Some("me"), Action::Renew), (4, false));
    }

    #[test]
    fn a_released_lease_is_free_at_once() {
        let now = Timestamp::from_second(50).unwrap();
        let mut observed = Observed::default();
        observed.see(Some(released(lease("you", 1, 4), now)), Instant::now());
        assert_eq!(decide(&observed, "me", Instant::now()), Action::Take);
        assert_eq!(observed.lease.unwrap().spec.unwrap().lease_transitions, Some(4));
    }
}
