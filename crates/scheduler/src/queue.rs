//! Which pod is looked at next, and when one that did not fit is looked at again: active,
//! backing off, or unschedulable until something happens that may help it. Pure: `now` comes in.
//!
//! Source: scheduler/backend/queue.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use api_types::Key;
use tokio::time::Instant;

use crate::{
    facts::PodFacts,
    plugins::{
        inter_pod_affinity, node_affinity, node_name, node_ports, node_resources, node_unschedulable, scheduling_gates,
        taint_toleration, topology_spread, volume_binding,
    },
};

const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// An unschedulable pod is tried again after so long even if nothing seems to help it.
const UNSCHEDULABLE_MAX: Duration = Duration::from_secs(5 * 60);

/// Something that may let a pod fit that did not before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hint {
    NodeAdded,
    /// Its topology domains may have gone with it.
    NodeGone,
    NodeAllocatable,
    NodeLabels,
    NodeTaints,
    /// A bound pod appeared or changed its labels.
    PodPlaced,
    /// A bound pod is gone, finished, or takes other amounts.
    PodGone,
    Volumes,
    Namespaces,
}

/// Whether `hint` may undo a rejection by `plugin`.
fn helps(plugin: &str, hint: Hint) -> bool {
    match plugin {
        node_unschedulable::NAME | taint_toleration::NAME => matches!(hint, Hint::NodeAdded | Hint::NodeTaints),
        node_name::NAME => matches!(hint, Hint::NodeAdded),
        node_affinity::NAME => matches!(hint, Hint::NodeAdded | Hint::NodeLabels),
        node_ports::NAME => matches!(hint, Hint::NodeAdded | Hint::PodGone),
        node_resources::NAME => matches!(hint, Hint::NodeAdded | Hint::NodeAllocatable | Hint::PodGone),
        topology_spread::NAME => {
            matches!(
                hint,
                Hint::NodeAdded
                    | Hint::NodeGone
                    | Hint::NodeLabels
                    | Hint::NodeTaints
                    | Hint::PodPlaced
                    | Hint::PodGone
            )
        }
        inter_pod_affinity::NAME => {
            matches!(hint, Hint::NodeAdded | Hint::NodeLabels | Hint::PodPlaced | Hint::PodGone | Hint::Namespaces)
        }
        volume_binding::NAME => matches!(hint, Hint::NodeAdded | Hint::NodeLabels | Hint::Volumes),
        // An update of the pod itself, nothing else.
        scheduling_gates::NAME => false,
        _ => true,
    }
}

#[derive(Debug, Default)]
pub struct Queue {
    pods: HashMap<Key, Entry>,
    active: BTreeSet<Turn>,
    backing_off: BTreeSet<(Instant, Key)>,
    /// By when they were found to fit nowhere.
    unschedulable: BTreeSet<(Instant, Key)>,
    /// Counts pods that were made active, to keep their order.
    turns: u64,
}

/// Higher priority first, then who came first.
type Turn = (Reverse<i32>, u64, Key);

#[derive(Debug)]
struct Entry {
    pod: Arc<PodFacts>,
    attempts: u32,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Active(u64),
    /// Being decided on or bound.
    InFlight,
    BackingOff {
        until: Instant,
    },
    Unschedulable {
        since: Instant,
        /// Who spoke against it. Empty: no node was there.
        plugins: Vec<&'static str>,
    },
    Gated,
}

impl Queue {
    /// Takes in a pod that waits, or its newest state. A change of the pod itself makes an unschedulable one active.
    pub fn set(&mut self, pod: Arc<PodFacts>, now: Instant) {
        let key = pod.id.key.clone();
        let gated = scheduling_gates::is_gated(&pod);
        let Some(entry) = self.pods.get_mut(&key).filter(|entry| entry.pod.id.uid == pod.id.uid) else {
            self.remove(&key);
            self.pods.insert(key.clone(), Entry { pod, attempts: 0, state: State::Gated });
            if !gated {
                self.activate(&key);
            }
            return;
        };
        let old = std::mem::replace(&mut entry.pod, Arc::clone(&pod));
        match entry.state.clone() {
            State::Gated if !gated => self.activate(&key),
            State::Unschedulable { since, .. } if may_fit_better(&old, &pod) => self.wake(&key, since, now),
            State::Active(turn) if old.priority != pod.priority => {
                self.active.remove(&(Reverse(old.priority.value), turn, key.clone()));
                self.active.insert((Reverse(pod.priority.value), turn, key));
            }
            State::Gated
            | State::Active(_)
            | State::InFlight
            | State::BackingOff { .. }
            | State::Unschedulable { .. } => {}
        }
    }

    /// The pod is bound, gone, or not ours.
    pub fn remove(&mut self, key: &Key) {
        let Some(entry) = self.pods.remove(key) else { return };
        self.unlist(key, &entry);
    }

    fn unlist(&mut self, key: &Key, entry: &Entry) {
        match &entry.state {
            State::Active(turn) => {
                self.active.remove(&(Reverse(entry.pod.priority.value), *turn, key.clone()));
            }
            State::BackingOff { until } => {
                self.backing_off.remove(&(*until, key.clone()));
            }
            State::Unschedulable { since, .. } => {
                self.unschedulable.remove(&(*since, key.clone()));
            }
            State::InFlight | State::Gated => {}
        }
    }

    /// The next pod to decide on; it is in flight until told otherwise.
    pub fn pop(&mut self) -> Option<Arc<PodFacts>> {
        let (_, _, key) = self.active.pop_first()?;
        let entry = self.pods.get_mut(&key).expect("every active key has an entry");
        entry.state = State::InFlight;
        entry.attempts += 1;
        Some(Arc::clone(&entry.pod))
    }

    /// No node will do, say `plugins`.
    pub fn unschedulable(&mut self, key: &Key, plugins: Vec<&'static str>, now: Instant) {
        if let Some(entry) = self.in_flight(key) {
            entry.state = State::Unschedulable { since: now, plugins };
            self.unschedulable.insert((now, key.clone()));
        }
    }

    /// Something went wrong that has nothing to do with the cluster's state: again after a pause.
    pub fn failed(&mut self, key: &Key, now: Instant) {
        let Some(entry) = self.in_flight(key) else { return };
        let until = now + backoff(entry.attempts);
        entry.state = State::BackingOff { until };
        self.backing_off.insert((until, key.clone()));
    }

    fn in_flight(&mut self, key: &Key) -> Option<&mut Entry> {
        self.pods.get_mut(key).filter(|entry| entry.state == State::InFlight)
    }

    /// Something happened: pods it may help are tried again, not before their pause is over.
    pub fn hint(&mut self, hint: Hint, now: Instant) {
        let is_helped = |key: &Key| match self.pods.get(key).map(|entry| &entry.state) {
            Some(State::Unschedulable { plugins, .. }) => {
                plugins.is_empty() || plugins.iter().any(|plugin| helps(plugin, hint))
            }
            Some(State::Active(_) | State::InFlight | State::BackingOff { .. } | State::Gated) | None => false,
        };
        let helped: Vec<(Instant, Key)> =
            self.unschedulable.iter().filter(|(_, key)| is_helped(key)).cloned().collect();
        for (since, key) in helped {
            self.wake(&key, since, now);
        }
    }

    fn wake(&mut self, key: &Key, since: Instant, now: Instant) {
        self.unschedulable.remove(&(since, key.clone()));
        let Some(entry) = self.pods.get_mut(key) else { return };
        let until = since + backoff(entry.attempts);
        if until <= now {
            self.activate(key);
        } else {
            entry.state = State::BackingOff { until };
            self.backing_off.insert((until, key.clone()));
        }
    }

    fn activate(&mut self, key: &Key) {
        let Some(entry) = self.pods.get_mut(key) else { return };
        self.turns += 1;
        entry.state = State::Active(self.turns);
        self.active.insert((Reverse(entry.pod.priority.value), self.turns, key.clone()));
    }

    /// Makes active whose pause is over.
    pub fn promote(&mut self, now: Instant) {
        while self.backing_off.first().is_some_and(|(until, _)| *until <= now) {
            let (_, key) = self.backing_off.pop_first().expect("it was looked at");
            self.activate(&key);
        }
        while self.unschedulable.first().is_some_and(|(since, _)| *since + UNSCHEDULABLE_MAX <= now) {
            let (_, key) = self.unschedulable.pop_first().expect("it was looked at");
            self.activate(&key);
        }
    }

    /// When [`Queue::promote`] next has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let stale = self.unschedulable.first().map(|(since, _)| *since + UNSCHEDULABLE_MAX);
        self.backing_off.first().map(|(until, _)| *until).into_iter().chain(stale).min()
    }

    pub fn get(&self, key: &Key) -> Option<&Arc<PodFacts>> {
        self.pods.get(key).map(|entry| &entry.pod)
    }

    /// How many pods wait in each place, under upstream's names.
    pub fn lengths(&self) -> [(&'static str, usize); 4] {
        let gated = self.pods.values().filter(|entry| entry.state == State::Gated).count();
        [
            ("active", self.active.len()),
            ("backoff", self.backing_off.len()),
            ("unschedulable", self.unschedulable.len()),
            ("gated", gated),
        ]
    }
}

/// Changes of an unbound pod that can matter: its labels, gates, requests (in place), tolerations.
fn may_fit_better(old: &PodFacts, new: &PodFacts) -> bool {
    old.labels != new.labels
        || old.needs.resources != new.needs.resources
        || old.place.tolerations != new.place.tolerations
        || old.place.node_selector != new.place.node_selector
        || old.status.gates != new.status.gates
}

/// 1 s, doubling, at most 10 s.
fn backoff(attempts: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cycle::tests::pod;

    fn queue(pods: &[(&str, i32)]) -> (Queue, Instant) {
        let mut queue = Queue::default();
        let now = Instant::now();
        for (name, priority) in pods {
            queue.set(Arc::new(pod(name, json!({"priority": priority}))), now);
        }
        (queue, now)
    }

    fn drain(queue: &mut Queue) -> String {
        std::iter::from_fn(|| queue.pop()).map(|pod| pod.id.key.name.clone()).collect::<Vec<_>>().join(" ")
    }

    fn key(name: &str) -> Key {
        Key::new("ns", name)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn priority_then_arrival() {
        let (mut queue, _) = queue(&[("a", 0), ("b", 5), ("c", 0), ("d", 5)]);
        assert_eq!(drain(&mut queue), "b d a c");
    }

    #[test]
    fn only_what_may_help_wakes_a_pod_and_not_before_its_pause_is_over() {
        let (mut queue, now) = queue(&[("a", 0)]);
        queue.pop();
        queue.unschedulable(&key("a"), vec![node_resources::NAME], now);
        queue.hint(Hint::NodeLabels, now + SECOND * 20);
        assert_eq!(drain(&mut queue), "");
        queue.hint(Hint::PodGone, now);
        assert_eq!(drain(&mut queue), "");
        assert_eq!(queue.deadline(), Some(now + SECOND));
        queue.promote(now + SECOND);
        assert_eq!(drain(&mut queue), "a");
        queue.unschedulable(&key("a"), vec![node_resources::NAME], now);
        queue.hint(Hint::PodGone, now + SECOND * 2);
        assert_eq!(drain(&mut queue), "a");
    }

    #[test]
    fn an_unschedulable_pod_is_tried_again_after_five_minutes() {
        let (mut queue, now) = queue(&[("a", 0)]);
        queue.pop();
        queue.unschedulable(&key("a"), vec![node_name::NAME], now);
        assert_eq!(queue.deadline(), Some(now + UNSCHEDULABLE_MAX));
        queue.promote(now + UNSCHEDULABLE_MAX);
        assert_eq!(drain(&mut queue), "a");
    }

    #[test]
    fn a_failed_binding_backs_off() {
        let (mut queue, now) = queue(&[("a", 0)]);
        for expected_s in [1, 2, 4, 8, 10, 10] {
            queue.pop();
            queue.failed(&key("a"), now);
            assert_eq!(queue.deadline(), Some(now + SECOND * expected_s));
            queue.promote(now + SECOND * expected_s);
        }
    }

    #[test]
    fn gates_hold_a_pod_until_they_are_removed() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.set(Arc::new(pod("a", json!({"schedulingGates": [{"name": "g"}]}))), now);
        queue.hint(Hint::NodeAdded, now);
        assert_eq!(drain(&mut queue), "");
        queue.set(Arc::new(pod("a", json!({}))), now);
        assert_eq!(drain(&mut queue), "a");
    }

    #[test]
    fn removal_and_recreation() {
        let (mut queue, now) = queue(&[("a", 0), ("b", 0)]);
        queue.remove(&key("a"));
        assert_eq!(drain(&mut queue), "b");
        let mut again = pod("b", json!({}));
        again.id.uid = "another".to_owned();
        queue.set(Arc::new(again), now);
        assert_eq!(drain(&mut queue), "b", "the same name, but another pod");
    }

    #[test]
    fn a_status_update_does_not_wake_a_pod() {
        let (mut queue, now) = queue(&[("a", 0)]);
        queue.pop();
        queue.unschedulable(&key("a"), vec![node_name::NAME], now);
        queue.set(Arc::new(pod("a", json!({}))), now + SECOND * 60);
        assert_eq!(drain(&mut queue), "");
    }
}
