//! Which events are worth writing: the same again becomes a count, many alike become
//! one, and an object that never falls silent is held to a trickle. Pure but for its
//! own bounded memory.
//!
//! Source: client-go/tools/record/events_cache.go.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

use api_types::{
    Key,
    jiff::{SignedDuration, Timestamp},
    k8s::core::ObjectReference,
};

use crate::events::EventKind;

/// Keys remembered of each sort.
const REMEMBERED_MAX: usize = 4096;
/// Events of one source about one object: this many at once, ...
const SPAM_BURST: f64 = 25.0;
/// ... and one more every five minutes.
const SPAM_REFILL_PER_S: f64 = 1.0 / 300.0;
/// From this many alike within [`ALIKE_WINDOW`] on, they are written as one.
const ALIKE_MAX: usize = 10;
const ALIKE_WINDOW: SignedDuration = SignedDuration::from_mins(10);
const ALIKE_PREFIX: &str = "(combined from similar events): ";

/// What is told of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    pub about: ObjectReference,
    pub kind: EventKind,
    pub reason: String,
    pub message: String,
}

/// What to do with an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Create {
        facts: Facts,
        at: Timestamp,
    },
    /// It stands under `key` already: patch its count and time.
    Repeat {
        facts: Facts,
        key: Key,
        count: i32,
        first: Timestamp,
        at: Timestamp,
    },
    Drop,
}

#[derive(Default)]
pub struct Correlator {
    spam: Memory<About, Bucket>,
    alike: Memory<(About, EventKind, String), Alike>,
    written: Memory<(About, EventKind, String, String), Written>,
}

/// The object, as far as it tells events apart.
type About = (String, String, String, String, String);

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

#[derive(Default)]
struct Alike {
    messages: Vec<String>,
    last: Timestamp,
}

struct Written {
    key: Option<Key>,
    count: i32,
    first: Timestamp,
}

impl Correlator {
    pub fn judge(&mut self, facts: Facts, now: Timestamp) -> Verdict {
        let about = about(&facts.about);
        let (combined, facts) = self.combine(&about, facts, now);
        if !self.admit(about.clone(), now) {
            return Verdict::Drop;
        }
        let written = self.written.entry(written_key(&facts, combined), || Written { key: None, count: 0, first: now });
        written.count = written.count.saturating_add(1);
        match &written.key {
            Some(key) => {
                Verdict::Repeat { facts, key: key.clone(), count: written.count, first: written.first, at: now }
            }
            None => {
                (written.count, written.first) = (1, now);
                Verdict::Create { facts, at: now }
            }
        }
    }

    /// Remembers under which key `facts` stand now.
    pub fn stored(&mut self, facts: &Facts, key: Key) {
        let combined = facts.message.starts_with(ALIKE_PREFIX);
        if let Some(written) = self.written.find(&written_key(facts, combined)) {
            written.key = Some(key);
        }
    }

    /// A token bucket per object.
    fn admit(&mut self, about: About, now: Timestamp) -> bool {
        let bucket = self.spam.entry(about, || Bucket { tokens: SPAM_BURST, at: now });
        let elapsed_s = now.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + elapsed_s * SPAM_REFILL_PER_S).min(SPAM_BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    /// Many messages of one reason about one object become one event.
    fn combine(&mut self, about: &About, mut facts: Facts, now: Timestamp) -> (bool, Facts) {
        let alike = self.alike.entry((about.clone(), facts.kind, facts.reason.clone()), Alike::default);
        if now.duration_since(alike.last) > ALIKE_WINDOW {
            alike.messages.clear();
        }
        alike.last = now;
        if alike.messages.contains(&facts.message) {
            return (false, facts);
        }
        if alike.messages.len() + 1 >= ALIKE_MAX {
            facts.message = format!("{ALIKE_PREFIX}{}", facts.message);
            return (true, facts);
        }
        alike.messages.push(facts.message.clone());
        (false, facts)
    }
}

fn about(reference: &ObjectReference) -> About {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    (
        text(&reference.kind),
        text(&reference.namespace),
        text(&reference.name),
        text(&reference.uid),
        text(&reference.field_path),
    )
}

/// Combined events are one, whatever their message.
fn written_key(facts: &Facts, combined: bool) -> (About, EventKind, String, String) {
    let message = if combined { ALIKE_PREFIX.to_owned() } else { facts.message.clone() };
    (about(&facts.about), facts.kind, facts.reason.clone(), message)
}

/// A map of bounded size: the oldest key makes room for a new one.
struct Memory<K, V> {
    entries: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Memory<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Clone + Eq + Hash, V> Memory<K, V> {
    fn entry(&mut self, key: K, new: impl FnOnce() -> V) -> &mut V {
        if !self.entries.contains_key(&key) {
            if self.order.len() >= REMEMBERED_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.entries.remove(&oldest);
            }
            self.order.push_back(key.clone());
        }
        self.entries.entry(key).or_insert_with(new)
    }
    fn find(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(name: &str, message: &str) -> Facts {
        Facts {
            about: ObjectReference { name: Some(name.to_owned()), ..ObjectReference::default() },
            kind: EventKind::Normal,
            reason: "Why".to_owned(),
            message: message.to_owned(),
        }
    }

    /// Judges and, like the writer, notes what was created.
    fn judge(correlator: &mut Correlator, name: &str, message: &str, at_s: i64) -> String {
        let at = Timestamp::from_second(at_s).unwrap();
        match correlator.judge(facts(name, message), at) {
            Verdict::Create { facts, .. } => {
                correlator.stored(&facts, Key::new("ns", format!("{name}.{at_s}")));
                format!("create {}", facts.message)
            }
            Verdict::Repeat { key, count, first, .. } => format!("{} x{count} since {}", key.name, first.as_second()),
            Verdict::Drop => "drop".to_owned(),
        }
    }

    #[test]
    fn the_same_again_is_counted() {
        let mut correlator = Correlator::default();
        assert_eq!(judge(&mut correlator, "a", "m", 1), "create m");
        assert_eq!(judge(&mut correlator, "a", "m", 2), "a.1 x2 since 1");
        assert_eq!(judge(&mut correlator, "a", "m", 9), "a.1 x3 since 1");
        assert_eq!(judge(&mut correlator, "b", "m", 9), "create m");
    }

    #[test]
    fn many_alike_become_one() {
        let mut correlator = Correlator::default();
        for number in 0..9 {
            assert_eq!(judge(&mut correlator, "a", &format!("m{number}"), number), format!("create m{number}"));
        }
        assert_eq!(judge(&mut correlator, "a", "m9", 9), format!("create {ALIKE_PREFIX}m9"));
        assert_eq!(judge(&mut correlator, "a", "m10", 10), "a.9 x2 since 9");
        assert_eq!(judge(&mut correlator, "a", "late", 2000), "create late");
    }

    #[test]
    fn one_object_cannot_flood() {
        let mut correlator = Correlator::default();
        let judged: Vec<String> = (0..30).map(|_| judge(&mut correlator, "a", "m", 1)).collect();
        assert_eq!(judged.iter().filter(|verdict| *verdict == "drop").count(), 5);
        assert_eq!(judge(&mut correlator, "b", "m", 1), "create m", "others are heard");
        assert_ne!(judge(&mut correlator, "a", "m", 302), "drop", "one more in five minutes");
        assert_eq!(judge(&mut correlator, "a", "m", 303), "drop");
    }

    #[test]
    fn memory_is_bounded() {
        let mut correlator = Correlator::default();
        for number in 0..REMEMBERED_MAX + 10 {
            judge(&mut correlator, &number.to_string(), "m", 1);
        }
        assert_eq!(correlator.written.entries.len(), REMEMBERED_MAX);
        assert_eq!(correlator.written.order.len(), REMEMBERED_MAX);
        assert_eq!(judge(&mut correlator, "0", "m", 2), "create m", "the oldest was forgotten");
    }
}
