//! The recent events of a resource, shared by all its watchers. Each reads by a cursor of
//! its own, at its own pace; one that falls out of the window is told so and closed.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, OnceLock, Weak},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::item::Item;

/// Bytes of objects that one resource's window holds on to.
const WINDOW_BYTES_MAX: usize = 32 << 20;
const WINDOW_EVENTS_MAX: usize = 16_384;
/// A lane holds only what its own few watchers have not read yet.
const LANE_EVENTS_MAX: usize = 2_048;
/// Events handed to a watcher at once.
const READ_EVENTS_MAX: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    Added,
    Modified,
    Deleted,
}

/// One change of one object.
#[derive(Debug)]
pub struct Event {
    pub revision: u64,
    pub kind: ChangeKind,
    /// The new state; of a deletion the last one, under the deletion's revision.
    pub item: Arc<Item>,
    /// The state before; `None` for Added.
    pub previous: Option<Arc<Item>>,
    /// The encoded watch event in the stored version, made by the first watcher that sends it.
    pub frame: OnceLock<Bytes>,
}

/// What a watcher can be concerned by, as narrow as its request says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Interest {
    All,
    Namespace(String),
    /// `namespace/name` or `name`.
    Object(String),
    /// A selectable field must have this value.
    Field(String, String),
}

impl Event {
    /// Both states, as an event may take an object out of somebody's sight.
    fn concerns(&self, lanes: &HashMap<Interest, Weak<Lane>>) -> Vec<Arc<Lane>> {
        let mut interests =
            vec![Interest::Namespace(self.item.key.namespace.clone()), Interest::Object(self.item.key.to_string())];
        for item in [Some(&self.item), self.previous.as_ref()].into_iter().flatten() {
            for (name, value) in &item.fields {
                let interest = Interest::Field((*name).to_owned(), value.clone());
                if !interests.contains(&interest) {
                    interests.push(interest);
                }
            }
        }
        interests.iter().filter_map(|interest| lanes.get(interest)?.upgrade()).collect()
    }

    fn concerns_interest(&self, interest: &Interest) -> bool {
        let is = |item: &Item| match interest {
            Interest::All => true,
            Interest::Namespace(namespace) => item.key.namespace == *namespace,
            Interest::Object(key) => item.key.to_string() == *key,
            Interest::Field(name, value) => item.field(name) == Some(value),
        };
        is(&self.item) || self.previous.as_ref().is_some_and(|previous| is(previous))
    }
}

/// A numbered run of events, and the bell that rings when there are more.
#[derive(Debug)]
struct Lane {
    log: Mutex<Log>,
    /// The number of the next event.
    bell: watch::Sender<u64>,
}

/// Numbers begin here, so that older events can be put before the first.
const FIRST: u64 = 1 << 32;

#[derive(Debug)]
struct Log {
    events: VecDeque<Arc<Event>>,
    /// The number of the first of `events`.
    first: u64,
    bytes: usize,
}

impl Lane {
    fn new() -> Self {
        let log = Log { events: VecDeque::new(), first: FIRST, bytes: 0 };
        Self { log: Mutex::new(log), bell: watch::Sender::new(FIRST) }
    }

    /// Returns the revision of the newest event that had to make room.
    fn push(&self, event: Arc<Event>, events_max: usize, bytes_max: usize) -> Option<u64> {
        let mut dropped = None;
        let mut log = self.log.lock();
        log.bytes += event.item.size();
        log.events.push_back(event);
        while log.events.len() > events_max || (log.bytes > bytes_max && log.events.len() > 1) {
            let Some(event) = log.events.pop_front() else { break };
            log.bytes -= event.item.size();
            log.first += 1;
            dropped = Some(event.revision);
        }
        let next = log.first + log.events.len() as u64;
        drop(log);
        self.bell.send_replace(next);
        dropped
    }
}

/// The window of one resource.
#[derive(Debug)]
pub struct Window {
    all: Arc<Lane>,
    lanes: Mutex<Lanes>,
}

#[derive(Debug)]
struct Lanes {
    by_interest: HashMap<Interest, Weak<Lane>>,
    /// Events after this revision are all here.
    complete_after: u64,
    /// The oldest ones had to make room, so older ones have none either.
    has_dropped: bool,
}

/// The revision lies before the window.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("events after revision {asked} are asked for, those after {oldest} are kept")]
pub struct TooOld {
    pub asked: u64,
    pub oldest: u64,
}

/// The watcher was too slow for the window.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the watcher fell behind")]
pub struct Fallen;

impl Window {
    /// Complete for events after `revision`.
    pub fn new(revision: u64) -> Self {
        let lanes = Lanes { by_interest: HashMap::new(), complete_after: revision, has_dropped: false };
        Self { all: Arc::new(Lane::new()), lanes: Mutex::new(lanes) }
    }

    /// Events come in revision order, from one caller at a time.
    pub fn push(&self, event: Arc<Event>) {
        let mut lanes = self.lanes.lock();
        if !lanes.by_interest.is_empty() {
            lanes.by_interest.retain(|_, lane| lane.strong_count() > 0);
            for lane in event.concerns(&lanes.by_interest) {
                lane.push(event.clone(), LANE_EVENTS_MAX, WINDOW_BYTES_MAX);
            }
        }
        if let Some(dropped) = self.all.push(event, WINDOW_EVENTS_MAX, WINDOW_BYTES_MAX) {
            lanes.complete_after = dropped;
            lanes.has_dropped = true;
        }
    }

    /// Where the window begins, if older events may be put before it.
    pub fn may_extend(&self) -> Option<u64> {
        let lanes = self.lanes.lock();
        (!lanes.has_dropped).then_some(lanes.complete_after)
    }

    /// Puts older events before the first: those after `revision`, in order, up to where the window begins.
    pub fn extend(&self, revision: u64, events: Vec<Arc<Event>>) {
        let mut lanes = self.lanes.lock();
        if lanes.has_dropped || revision >= lanes.complete_after {
            return;
        }
        let mut log = self.all.log.lock();
        for event in events.into_iter().rev() {
            log.bytes += event.item.size();
            log.first -= 1;
            log.events.push_front(event);
        }
        lanes.complete_after = revision;
    }

    /// Nothing will follow: every cursor falls out.
    pub fn close(&self) {
        let lanes = self.lanes.lock();
        for lane in lanes.by_interest.values().filter_map(Weak::upgrade).chain([self.all.clone()]) {
            let mut log = lane.log.lock();
            *log = Log { events: VecDeque::new(), first: u64::MAX, bytes: 0 };
            lane.bell.send_replace(u64::MAX);
        }
    }

    /// A cursor before the first event after `revision` that concerns `interest`.
    pub fn after(&self, revision: u64, interest: Interest) -> Result<Cursor, TooOld> {
        let mut lanes = self.lanes.lock();
        if revision < lanes.complete_after {
            return Err(TooOld { asked: revision, oldest: lanes.complete_after });
        }
        let log = self.all.log.lock();
        let at = log.events.partition_point(|event| event.revision <= revision);
        if interest == Interest::All {
            let next = log.first + at as u64;
            let bell = self.all.bell.subscribe();
            return Ok(Cursor { lane: self.all.clone(), backlog: VecDeque::new(), next, bell });
        }
        let backlog = log.events.range(at..).filter(|event| event.concerns_interest(&interest)).cloned().collect();
        drop(log);
        let existing = lanes.by_interest.get(&interest).and_then(Weak::upgrade);
        let lane = existing.unwrap_or_else(|| {
            let lane = Arc::new(Lane::new());
            lanes.by_interest.insert(interest, Arc::downgrade(&lane));
            lane
        });
        let bell = lane.bell.subscribe();
        let next = *bell.borrow();
        Ok(Cursor { lane, backlog, next, bell })
    }
}

/// A watcher's place in the window.
#[derive(Debug)]
pub struct Cursor {
    lane: Arc<Lane>,
    /// Events from before the watcher joined its lane.
    backlog: VecDeque<Arc<Event>>,
    next: u64,
    bell: watch::Receiver<u64>,
}

impl Cursor {
    /// The next events, if there are any now.
    pub fn read(&mut self) -> Result<Vec<Arc<Event>>, Fallen> {
        if !self.backlog.is_empty() {
            let count = self.backlog.len().min(READ_EVENTS_MAX);
            return Ok(self.backlog.drain(..count).collect());
        }
        let log = self.lane.log.lock();
        let Some(at) = self.next.checked_sub(log.first) else { return Err(Fallen) };
        let at = usize::try_from(at).expect("a window has fewer events than memory has bytes").min(log.events.len());
        let events: Vec<_> = log.events.range(at..).take(READ_EVENTS_MAX).cloned().collect();
        self.next += events.len() as u64;
        Ok(events)
    }

    /// Returns once [`Cursor::read`] may have something. Cancel-safe.
    pub async fn ready(&mut self) {
        let next = self.next;
        if self.backlog.is_empty() && self.bell.wait_for(|end| *end > next).await.is_err() {
            // The lane lives as long as this cursor, and with it the bell.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: u64, key: &str, node: &str, before: Option<&str>) -> Arc<Event> {
        let item = |revision, node: &str| {
            let bytes = format!(r#"{{"apiVersion":"v1","kind":"K","metadata":{{"name":"n"}},"node":"{node}"}}"#);
            Arc::new(Item::new(key, revision, bytes.into(), |value| {
                vec![("node", value["node"].as_str().unwrap_or_default().to_owned())]
            }))
        };
        Arc::new(Event {
            revision,
            kind: ChangeKind::Modified,
            item: item(revision, node),
            previous: before.map(|node| item(revision - 1, node)),
            frame: OnceLock::new(),
        })
    }

    fn revisions(cursor: &mut Cursor) -> Vec<u64> {
        cursor.read().unwrap().iter().map(|event| event.revision).collect()
    }

    #[test]
    fn every_watcher_reads_all_after_its_revision() {
        let window = Window::new(10);
        for revision in 11..15 {
            window.push(event(revision, "ns/a", "", None));
        }
        assert_eq!(window.after(9, Interest::All).unwrap_err(), TooOld { asked: 9, oldest: 10 });
        let mut early = window.after(10, Interest::All).unwrap();
        let mut late = window.after(13, Interest::All).unwrap();
        assert_eq!(revisions(&mut late), [14]);
        window.push(event(20, "ns/a", "", None));
        assert_eq!(revisions(&mut early), [11, 12, 13, 14, 20]);
        assert_eq!(revisions(&mut late), [20]);
        assert_eq!(revisions(&mut late), [0; 0]);
    }

    #[test]
    fn a_narrow_watcher_sees_what_enters_and_leaves_its_sight() {
        let window = Window::new(0);
        window.push(event(1, "ns/a", "n1", None));
        window.push(event(2, "ns/b", "n2", None));
        let mut node = window.after(0, Interest::Field("node".into(), "n1".into())).unwrap();
        let mut object = window.after(0, Interest::Object("ns/b".into())).unwrap();
        let mut namespace = window.after(2, Interest::Namespace("other".into())).unwrap();
        window.push(event(3, "other/c", "n2", None));
        window.push(event(4, "ns/b", "n1", Some("n2")));
        window.push(event(5, "ns/a", "n2", Some("n1")));
        assert_eq!([revisions(&mut node), revisions(&mut node)].concat(), [1, 4, 5]);
        assert_eq!([revisions(&mut object), revisions(&mut object)].concat(), [2, 4]);
        assert_eq!(revisions(&mut namespace), [3]);
    }

    #[test]
    fn a_watcher_that_falls_out_is_told() {
        let window = Window::new(0);
        let mut cursor = window.after(0, Interest::All).unwrap();
        for revision in 1..=WINDOW_EVENTS_MAX as u64 + 1 {
            window.push(event(revision, "ns/a", "", None));
        }
        assert_eq!(cursor.read().unwrap_err(), Fallen);
        assert_eq!(window.after(0, Interest::All).unwrap_err().oldest, 1);
        assert!(window.after(1, Interest::All).is_ok());
    }

    #[test]
    fn history_goes_before_what_is_here() {
        let window = Window::new(10);
        window.push(event(11, "ns/a", "", None));
        let mut now = window.after(10, Interest::All).unwrap();
        window.extend(7, vec![event(8, "ns/a", "", None), event(10, "ns/b", "", None)]);
        assert_eq!(revisions(&mut window.after(7, Interest::All).unwrap()), [8, 10, 11]);
        assert_eq!(revisions(&mut window.after(9, Interest::Object("ns/b".into())).unwrap()), [10]);
        assert_eq!(revisions(&mut now), [11]);
        assert_eq!(window.after(6, Interest::All).unwrap_err().oldest, 7);
        assert_eq!(window.may_extend(), Some(7));
    }

    #[tokio::test]
    async fn the_bell_rings_for_news_only() {
        let window = Window::new(0);
        let mut cursor = window.after(0, Interest::All).unwrap();
        assert!(futures::FutureExt::now_or_never(cursor.ready()).is_none());
        window.push(event(1, "a", "", None));
        cursor.ready().await;
        assert_eq!(revisions(&mut cursor), [1]);
        assert!(futures::FutureExt::now_or_never(cursor.ready()).is_none());
    }
}
