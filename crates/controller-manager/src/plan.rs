//! What a decision gives back: what to do now, when to look again, and why nothing more is done.

use std::{collections::HashSet, time::Duration};

use api_types::{Key, jiff::Timestamp, k8s::meta::Time};

use crate::{action::Action, caches::Caches, everything::Everything, settings::Settings};

/// What is given to every decision beside the key.
pub struct World<'a> {
    pub caches: &'a Caches,
    /// Metadata of all kinds. Complete only for controllers that wait for it.
    pub everything: &'a Everything,
    pub settings: &'a Settings,
}

/// One turn of a key. All that is not in the caches and yet bears on a decision comes in here.
pub struct Turn<'a> {
    pub key: &'a Key,
    pub now: Timestamp,
    /// Why the turn before ended early, if it did.
    pub failure: Option<&'a Failure>,
    /// Uids whose deletion the server has confirmed, though the caches do not show it yet.
    pub deleting: &'a HashSet<String>,
}

/// A write that was refused in the turn before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    Create,
    Delete,
    Other,
}

/// The actions are done in their order: a run of creations in growing batches, a run of deletions
/// side by side, all else one by one. The first refusal ends the turn.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub reasons: Vec<Reason>,
    pub look_again_after: Option<Duration>,
}

/// Why something is, or is not, done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// CamelCase, to match on.
    pub code: &'static str,
    pub message: String,
}

impl Plan {
    /// Nothing to do, because …
    pub fn nothing(code: &'static str, message: impl Into<String>) -> Self {
        let mut plan = Self::default();
        plan.because(code, message);
        plan
    }
    pub fn act(&mut self, action: Action) {
        self.actions.push(action);
    }
    pub fn because(&mut self, code: &'static str, message: impl Into<String>) {
        self.reasons.push(Reason { code, message: message.into() });
    }
    /// The earliest of all times asked for holds.
    pub fn look_again(&mut self, after: Duration) {
        self.look_again_after = Some(self.look_again_after.map_or(after, |before| before.min(after)));
    }
}

/// As the API writes times: whole seconds.
pub fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).expect("a second of a time that exists"))
}

/// How long ago `then` was; zero where clocks disagree.
pub fn since(then: &Time, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then.0)).unwrap_or_default()
}

/// How long until `then`; zero when it is past.
pub fn until(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(now)).unwrap_or_default()
}
