//! The recent events of a resource, shared by all its watchers. Each reads by a cursor of
//! its own, at its own pace; one that falls out of the window is told so and closed.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::item::Item;

/// Bytes that one resource's window holds on to besides the objects that are: states that have passed.
const WINDOW_BYTES_MAX: usize = 16 << 20;
const WINDOW_EVENTS_MAX: usize = 16_384;
/// Lanes are looked through for what nobody reads any more once in so many events.
const SWEEP_EVENTS: u64 = 1_024;
/// Events handed to a watcher at once.
const READ_EVENTS_MAX: usize = 128;
/// About the bytes of their objects.
const READ_BYTES_MAX: usize = 256 << 10;

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
    /// What is in memory because of this event alone: a state that has passed.
    fn size(&self) -> usize {
        let gone = if self.kind == ChangeKind::Deleted { self.item.size() } else { 0 };
        size_of::<Self>() + gone + self.previous.as_ref().map_or(0, |previous| previous.size())
    }

    /// Both states, as an event may take an object out of somebody's sight.
    fn concerns(&self, interest: &Interest) -> bool {
        let is = |item: &Item| match interest {
            Interest::All => true,
            Interest::Namespace(namespace) => item.key.namespace == *namespace,
            Interest::Object(key) => item.key.to_string() == *key,
            Interest::Field(name, value) => item.field(name) == value,
        };
        is(&self.item) || self.previous.as_ref().is_some_and(|previous| is(previous))
    }
}

type LaneMap = HashMap<String, Weak<Lane>>;

/// The lanes of the narrow watchers, by what an event is asked for. What nobody watches costs no look.
#[derive(Debug, Default)]
struct Lanes {
    by_namespace: LaneMap,
    by_object: LaneMap,
    /// By the field's name, then its value.
    by_field: HashMap<String, LaneMap>,
}

impl Lanes {
    fn join(&mut self, interest: Interest) -> Arc<Lane> {
        let (map, key) = match interest {
            Interest::All => unreachable!("all events have a lane of their own"),
            Interest::Namespace(namespace) => (&mut self.by_namespace, namespace),
            Interest::Object(key) => (&mut self.by_object, key),
            Interest::Field(name, value) => (self.by_field.entry(name).or_default(), value),
        };
        if let Some(lane) = map.get(&key).and_then(Weak::upgrade) {
            return lane;
        }
        let lane = Arc::new(Lane::new());
        map.insert(key, Arc::downgrade(&lane));
        lane
    }

    /// Calls `tell` for each lane that the event concerns, once.
    fn concerned(&self, event: &Event, mut tell: impl FnMut(&Lane)) {
        let mut at = |map: &LaneMap, key: &str| {
            if let Some(lane) = map.get(key).and_then(Weak::upgrade) {
                tell(&lane);
            }
        };
        if !self.by_namespace.is_empty() {
            at(&self.by_namespace, &event.item.key.namespace);
        }
        if !self.by_object.is_empty() {
            at(&self.by_object, &event.item.key.to_string());
        }
        for (name, map) in &self.by_field {
            let now = event.item.field(name);
            at(map, now);
            if let Some(before) = event.previous.as_ref().map(|previous| previous.field(name)).filter(|it| *it != now) {
                at(map, before);
            }
        }
    }

    fn maps(&mut self) -> impl Iterator<Item = &mut LaneMap> {
        [&mut self.by_namespace, &mut self.by_object].into_iter().chain(self.by_field.values_mut())
    }

    /// Forgets lanes that nobody reads, and in the others what the window has forgotten.
    fn sweep(&mut self, complete_after: u64) {
        for map in self.maps() {
            map.retain(|_, lane| lane.upgrade().inspect(|lane| lane.forget(complete_after)).is_some());
        }
        self.by_field.retain(|_, map| !map.is_empty());
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
}

impl Lane {
    fn new() -> Self {
        Self { log: Mutex::new(Log { events: VecDeque::new(), first: FIRST }), bell: watch::Sender::new(FIRST) }
    }

    fn push(&self, event: Arc<Event>) {
        let next = {
            let mut log = self.log.lock();
            log.events.push_back(event);
            log.first + log.events.len() as u64
        };
        self.bell.send_replace(next);
    }

    /// Takes the oldest event away.
    fn pop(&self) -> Option<Arc<Event>> {
        let mut log = self.log.lock();
        let event = log.events.pop_front()?;
        log.first += 1;
        Some(event)
    }

    fn forget(&self, upto: u64) {
        let mut log = self.log.lock();
        while log.events.front().is_some_and(|event| event.revision <= upto) {
            log.events.pop_front();
            log.first += 1;
        }
    }
}

/// The window of one resource.
#[derive(Debug)]
pub struct Window {
    all: Arc<Lane>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    lanes: Lanes,
    /// Events after this revision are all here.
    complete_after: u64,
    /// The oldest ones had to make room, so older ones have none either.
    has_dropped: bool,
    events: usize,
    bytes: usize,
    /// Until lanes are swept.
    pushed: u64,
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
        let state = State {
            lanes: Lanes::default(),
            complete_after: revision,
            has_dropped: false,
            events: 0,
            bytes: 0,
            pushed: 0,
        };
        Self { all: Arc::new(Lane::new()), state: Mutex::new(state) }
    }

    /// Events come in revision order, from one caller at a time.
    pub fn push(&self, event: Arc<Event>) {
        let mut state = self.state.lock();
        state.lanes.concerned(&event, |lane| lane.push(event.clone()));
        state.events += 1;
        state.bytes += event.size();
        self.all.push(event);
        while state.events > WINDOW_EVENTS_MAX || (state.bytes > WINDOW_BYTES_MAX && state.events > 1) {
            let Some(dropped) = self.all.pop() else { break };
            state.events -= 1;
            state.bytes -= dropped.size();
            state.complete_after = dropped.revision;
            state.has_dropped = true;
        }
        state.pushed += 1;
        if state.pushed.is_multiple_of(SWEEP_EVENTS) {
            let complete_after = state.complete_after;
            state.lanes.sweep(complete_after);
        }
    }

    /// Where the window begins, if older events may be put before it.
    pub fn may_extend(&self) -> Option<u64> {
        let state = self.state.lock();
        (!state.has_dropped).then_some(state.complete_after)
    }

    /// Puts older events before the first: those after `revision`, in order, up to where the window begins.
    pub fn extend(&self, revision: u64, events: Vec<Arc<Event>>) {
        let mut state = self.state.lock();
        if state.has_dropped || revision >= state.complete_after {
            return;
        }
        let mut log = self.all.log.lock();
        for event in events.into_iter().rev() {
            state.events += 1;
            state.bytes += event.size();
            log.first -= 1;
            log.events.push_front(event);
        }
        state.complete_after = revision;
    }

    /// How many see every event. Those with a narrower interest cost their own events only.
    pub fn watchers(&self) -> usize {
        self.all.bell.receiver_count()
    }

    /// Nothing will follow: every cursor falls out.
    pub fn close(&self) {
        let mut state = self.state.lock();
        let lanes = state.lanes.maps().flat_map(|map| map.values()).filter_map(Weak::upgrade);
        for lane in lanes.chain([self.all.clone()]) {
            *lane.log.lock() = Log { events: VecDeque::new(), first: u64::MAX };
            lane.bell.send_replace(u64::MAX);
        }
    }

    /// A cursor before the first event after `revision` that concerns `interest`.
    pub fn after(&self, revision: u64, interest: Interest) -> Result<Cursor, TooOld> {
        let mut state = self.state.lock();
        if revision < state.complete_after {
            return Err(TooOld { asked: revision, oldest: state.complete_after });
        }
        let log = self.all.log.lock();
        let at = log.events.partition_point(|event| event.revision <= revision);
        if interest == Interest::All {
            let next = log.first + at as u64;
            let bell = self.all.bell.subscribe();
            return Ok(Cursor { lane: self.all.clone(), backlog: VecDeque::new(), next, bell });
        }
        let backlog = log.events.range(at..).filter(|event| event.concerns(&interest)).cloned().collect();
        drop(log);
        let lane = state.lanes.join(interest);
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
        let mut bytes = 0;
        let fitting = log.events.range(at..).take(READ_EVENTS_MAX).take_while(|event| {
            let fits = bytes < READ_BYTES_MAX;
            bytes += event.item.stored().len();
            fits
        });
        let events: Vec<_> = fitting.cloned().collect();
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

    /// A slow watcher delays nobody, and holds nothing back that the window has let go.
    #[test]
    fn states_that_have_passed_are_bounded_for_all_watchers_together() {
        let window = Window::new(0);
        let mut slow = window.after(0, Interest::Object("ns/a".into())).unwrap();
        let mut quick = window.after(0, Interest::All).unwrap();
        let text = "x".repeat(1 << 16);
        let rounds = 4 * SWEEP_EVENTS;
        for revision in 1..=rounds {
            window.push(event(revision, "ns/a", &text, Some(&text)));
            assert_eq!(revisions(&mut quick), [revision]);
        }
        let state = window.state.lock();
        assert!(state.bytes <= WINDOW_BYTES_MAX && state.complete_after > 0);
        let (lane, all) = (slow.lane.log.lock().events.len(), window.all.log.lock().events.len());
        assert!(lane <= all + SWEEP_EVENTS as usize, "{lane} {all}");
        drop(state);
        assert_eq!(slow.read().unwrap_err(), Fallen);
    }

    #[test]
    fn a_watcher_is_given_no_more_than_it_can_send_at_once() {
        let window = Window::new(0);
        let mut cursor = window.after(0, Interest::All).unwrap();
        let text = "x".repeat(READ_BYTES_MAX / 2);
        for revision in 1..=5 {
            window.push(event(revision, "ns/a", &text, None));
        }
        assert_eq!(
            [revisions(&mut cursor), revisions(&mut cursor), revisions(&mut cursor)].map(|read| read.len()),
            [2, 2, 1]
        );
    }

    #[test]
    fn lanes_go_with_their_last_watcher() {
        let window = Window::new(0);
        for node in 0..100 {
            window.after(0, Interest::Field("node".into(), node.to_string())).unwrap();
        }
        for revision in 1..=SWEEP_EVENTS {
            window.push(event(revision, "ns/a", "", None));
        }
        assert!(window.state.lock().lanes.by_field.is_empty());
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
