//! All objects of one resource: an immutable snapshot behind an atomic pointer, and the
//! window of events that led to it.

use std::{
    collections::VecDeque,
    ops::Bound,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use api_types::Key;
use arc_swap::ArcSwap;
use bytes::Bytes;
use imbl::OrdMap;
use parking_lot::Mutex;

use super::{
    item::{Item, Selectable},
    window::{ChangeKind, Cursor, Event, Interest, TooOld, Window},
};
use crate::{
    reader::OnChange,
    store::{Past, Record},
};

/// The objects at one revision, by `namespace/name` or `name`.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Of the last change of this resource; see [`super::Cache::snapshot`] for the one to serve.
    pub revision: u64,
    items: OrdMap<Arc<str>, Arc<Item>>,
}

impl Snapshot {
    pub fn new(revision: u64, items: impl IntoIterator<Item = Arc<Item>>) -> Self {
        let items = items.into_iter().map(|item| (Arc::from(item.key.to_string()), item)).collect();
        Self { revision, items }
    }
    pub fn get(&self, key: &Key) -> Option<&Arc<Item>> {
        self.items.get(key.to_string().as_str())
    }
    pub fn len(&self) -> usize {
        self.items.len()
    }
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
    /// In key order, from `start` on; an empty namespace means all.
    pub fn range<'a>(&'a self, namespace: &str, start: &str) -> impl Iterator<Item = &'a Arc<Item>> + use<'a> {
        let (mut from, mut to) = (start.to_owned(), Bound::Unbounded);
        if !namespace.is_empty() {
            from = from.max(format!("{namespace}/"));
            to = Bound::Excluded(format!("{namespace}0")); // '0' follows '/'
        }
        let is_empty = matches!(&to, Bound::Excluded(to) if *to <= from);
        if is_empty {
            (from, to) = (String::new(), Bound::Excluded("\0".to_owned()));
        }
        let to = match &to {
            Bound::Excluded(to) => Bound::Excluded(to.as_str()),
            _ => Bound::Unbounded,
        };
        self.items.range::<_, str>((Bound::Included(from.as_str()), to)).map(|(_, item)| item)
    }
}

/// See the module's text.
pub struct Shelf {
    selectable: Selectable,
    snapshot: ArcSwap<Snapshot>,
    window: ArcSwap<Window>,
    /// Held while a change is applied, and by who joins between two changes.
    turn: Mutex<Vec<OnChange>>,
    /// Snapshots that lists go on reading page by page, oldest first.
    past: Mutex<VecDeque<(u64, Arc<Snapshot>)>>,
    /// Changes applied since the start.
    received: AtomicU64,
}

/// Lists by pages that can be under way at different revisions; older ones are read from the store.
const PAST_MAX: usize = 32;

impl Shelf {
    pub fn new(selectable: Selectable) -> Self {
        Self {
            selectable,
            snapshot: ArcSwap::default(),
            window: ArcSwap::from_pointee(Window::new(0)),
            turn: Mutex::default(),
            past: Mutex::default(),
            received: AtomicU64::new(0),
        }
    }

    /// Remembers a snapshot for the following pages of a list.
    pub fn keep(&self, revision: u64, snapshot: &Arc<Snapshot>) {
        let mut past = self.past.lock();
        if past.iter().all(|(kept, _)| *kept != revision) {
            past.push_back((revision, snapshot.clone()));
            if past.len() > PAST_MAX {
                past.pop_front();
            }
        }
    }

    pub fn past(&self, revision: u64) -> Option<Arc<Snapshot>> {
        self.past.lock().iter().find(|(kept, _)| *kept == revision).map(|(_, snapshot)| snapshot.clone())
    }

    /// Changes applied since the start.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub fn item(&self, rest: &str, revision: u64, bytes: Bytes) -> Item {
        let item = Item::new(rest, revision, bytes, self.selectable);
        if let Some(why) = &item.corrupt {
            tracing::error!(key = rest, revision, why, "a stored object cannot be read");
        }
        item
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Replaces everything, after a start or a gap. Watchers of the old window have to start again.
    pub fn load(&self, items: Vec<Arc<Item>>, revision: u64) {
        let subscribers = self.turn.lock();
        let new = Snapshot::new(revision, items);
        let old = self.snapshot.load_full();
        for on_change in subscribers.iter() {
            for item in old.range("", "").filter(|item| new.get(&item.key).is_none()) {
                on_change(&item.key, None);
            }
            for item in new.range("", "") {
                if old.get(&item.key).is_none_or(|old| old.revision != item.revision) {
                    on_change(&item.key, Some(&item.decode()));
                }
            }
        }
        self.snapshot.store(Arc::new(new));
        self.window.swap(Arc::new(Window::new(revision))).close();
    }

    /// Applies one change. Deletions of what is not there are not changes.
    pub fn apply(&self, rest: &str, revision: u64, value: Option<Bytes>) {
        let subscribers = self.turn.lock();
        let mut snapshot = Snapshot::clone(&self.snapshot.load());
        if revision <= snapshot.revision {
            return;
        }
        snapshot.revision = revision;
        let previous = snapshot.items.get(rest).cloned();
        let (kind, item) = match (value, &previous) {
            (Some(bytes), previous) => {
                let item = Arc::new(self.item(rest, revision, bytes));
                snapshot.items.insert(Arc::from(rest), item.clone());
                (if previous.is_some() { ChangeKind::Modified } else { ChangeKind::Added }, item)
            }
            (None, Some(previous)) => {
                snapshot.items.remove(rest);
                (ChangeKind::Deleted, Arc::new(previous.ended_at(revision)))
            }
            (None, None) => return,
        };
        self.received.fetch_add(1, Ordering::Relaxed);
        self.snapshot.store(Arc::new(snapshot));
        if !subscribers.is_empty() {
            let value = (kind != ChangeKind::Deleted).then(|| item.decode());
            for on_change in subscribers.iter() {
                on_change(&item.key, value.as_ref());
            }
        }
        let event = Event { revision, kind, item, previous, frame: OnceLock::new() };
        self.window.load().push(Arc::new(event));
    }

    /// Events after `revision`.
    pub fn watch(&self, revision: u64, interest: Interest) -> Result<Cursor, TooOld> {
        let _turn = self.turn.lock();
        self.window.load().after(revision, interest)
    }

    /// See [`Window::may_extend`].
    pub fn may_extend(&self) -> Option<u64> {
        self.window.load().may_extend()
    }

    /// Puts the history after `revision` before the window; `past` are changes by the key's rest.
    pub fn extend(&self, revision: u64, past: Vec<(&str, &Past)>) {
        let events = past.into_iter().filter_map(|(rest, past)| {
            let item = |record: &Record| Arc::new(self.item(rest, record.revision, record.value.clone()));
            let revision = past.change.revision;
            let previous = past.previous.as_ref().map(item);
            let (kind, item) = match (&past.change.value, &previous) {
                (Some(value), _) => {
                    let kind = if past.change.is_create { ChangeKind::Added } else { ChangeKind::Modified };
                    (kind, Arc::new(self.item(rest, revision, value.clone())))
                }
                (None, Some(previous)) => (ChangeKind::Deleted, Arc::new(previous.ended_at(revision))),
                (None, None) => return None,
            };
            Some(Arc::new(Event { revision, kind, item, previous, frame: OnceLock::new() }))
        });
        let events = events.collect();
        let _turn = self.turn.lock();
        self.window.load().extend(revision, events);
    }

    /// The objects as they are, and the events from then on.
    pub fn snapshot_and_watch(&self, interest: Interest) -> (Arc<Snapshot>, Cursor) {
        let _turn = self.turn.lock();
        let snapshot = self.snapshot.load_full();
        let window = self.window.load();
        let cursor = window.after(snapshot.revision, interest).expect("the window reaches to its snapshot");
        (snapshot, cursor)
    }

    pub fn subscribe(&self, on_change: OnChange) {
        let mut subscribers = self.turn.lock();
        for item in self.snapshot.load().range("", "") {
            on_change(&item.key, Some(&item.decode()));
        }
        subscribers.push(on_change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shelf() -> Shelf {
        let shelf = Shelf::new(|_| Vec::new());
        let items = ["a/1", "a/2", "b/1", "c"].map(|rest| Arc::new(shelf.item(rest, 5, bytes(rest))));
        shelf.load(items.to_vec(), 5);
        shelf
    }

    fn bytes(rest: &str) -> Bytes {
        format!(r#"{{"apiVersion":"v1","kind":"K","metadata":{{"name":"{rest}"}}}}"#).into()
    }

    #[test]
    fn ranges_are_by_namespace_and_start() {
        let snapshot = shelf().snapshot();
        for (namespace, start, expected) in [
            ("", "", "a/1 a/2 b/1 c"),
            ("a", "", "a/1 a/2"),
            ("a", "a/1\0", "a/2"),
            ("a", "b/1", ""),
            ("b", "a/1", "b/1"),
            ("x", "", ""),
            ("", "a/2\0", "b/1 c"),
        ] {
            let keys: Vec<String> = snapshot.range(namespace, start).map(|item| item.key.to_string()).collect();
            assert_eq!(keys.join(" "), expected, "{namespace:?} from {start:?}");
        }
    }

    #[test]
    fn a_snapshot_does_not_change_and_the_watch_goes_on_from_it() {
        let shelf = shelf();
        let (before, mut cursor) = shelf.snapshot_and_watch(Interest::All);
        shelf.apply("a/1", 6, None);
        shelf.apply("a/1", 7, Some(bytes("a/1")));
        shelf.apply("a/1", 7, Some(bytes("again")));
        shelf.apply("gone", 8, None);
        assert_eq!(before.get(&Key::new("a", "1")).unwrap().revision, 5);
        assert_eq!(shelf.snapshot().get(&Key::new("a", "1")).unwrap().revision, 7);
        let events = cursor.read().unwrap();
        let seen: Vec<_> = events.iter().map(|event| (event.kind, event.revision, event.item.revision)).collect();
        assert_eq!(seen, [(ChangeKind::Deleted, 6, 6), (ChangeKind::Added, 7, 7)]);
    }

    #[test]
    fn a_reload_closes_watchers_and_tells_subscribers_the_difference() {
        let shelf = shelf();
        let told = Arc::new(Mutex::new(Vec::new()));
        let log = told.clone();
        shelf.subscribe(Box::new(move |key, value| log.lock().push(format!("{key}{}", value.map_or("-", |_| "")))));
        let (_, mut cursor) = shelf.snapshot_and_watch(Interest::All);
        told.lock().clear();
        let items = [("a/1", 5), ("a/2", 9), ("d", 8)].map(|(rest, at)| Arc::new(shelf.item(rest, at, bytes(rest))));
        shelf.load(items.to_vec(), 10);
        assert_eq!(*told.lock(), ["b/1-", "c-", "a/2", "d"]);
        assert!(cursor.read().is_err());
    }
}
