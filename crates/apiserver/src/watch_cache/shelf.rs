//! All objects of one resource: an immutable snapshot behind an atomic pointer, and the
//! window of events that led to it.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use api_types::Key;
use arc_swap::ArcSwap;
use bytes::Bytes;
use imbl::{OrdMap, OrdSet};
use parking_lot::Mutex;
use serde_json::Value;

use super::{
    item::{Item, Selectable},
    window::{ChangeKind, Cursor, Event, Interest, TooOld, Window},
};
use crate::{
    reader::OnChange,
    store::{Past, Record},
};

/// What an object is found by besides its key: a hash of a label, or of a selectable field that is indexed. Different
/// marks may be equal, so what is found is still looked at.
pub type Mark = u64;

pub fn label_mark(name: &str, value: &str) -> Mark {
    mark("label", name, value)
}

fn mark(what: &str, name: &str, value: &str) -> Mark {
    let mut hasher = DefaultHasher::new();
    (what, name, value).hash(&mut hasher);
    hasher.finish()
}

/// The objects at one revision, by `namespace/name` or `name`.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Of the last change of this resource; see [`super::Cache::snapshot`] for the one to serve.
    pub revision: u64,
    items: OrdMap<Arc<str>, Arc<Item>>,
    /// The keys that have a mark, in order.
    marked: OrdSet<(Mark, Arc<str>)>,
}

impl Snapshot {
    /// `indexed`: the selectable field that is indexed; empty if none is.
    pub fn new(revision: u64, items: impl IntoIterator<Item = Arc<Item>>, indexed: &'static str) -> Self {
        let mut snapshot = Self { revision, ..Self::default() };
        for item in items {
            let rest = item.key.to_string();
            snapshot.put(&rest, item, indexed);
        }
        snapshot
    }

    fn put(&mut self, rest: &str, item: Arc<Item>, indexed: &'static str) -> Option<Arc<Item>> {
        let existing = self.items.get_key_value(rest).map(|(rest, item)| (rest.clone(), item.clone()));
        let (rest, previous) = existing.map_or_else(|| (Arc::from(rest), None), |(rest, item)| (rest, Some(item)));
        let has_same_marks = previous
            .as_ref()
            .is_some_and(|previous| previous.labels == item.labels && previous.field(indexed) == item.field(indexed));
        if !has_same_marks {
            for mark in previous.iter().flat_map(|previous| marks(previous, indexed)) {
                self.marked.remove(&(mark, rest.clone()));
            }
            for mark in marks(&item, indexed) {
                self.marked.insert((mark, rest.clone()));
            }
        }
        self.items.insert(rest, item);
        previous
    }

    fn remove(&mut self, rest: &str, indexed: &'static str) -> Option<Arc<Item>> {
        let (rest, item) = self.items.remove_with_key(rest)?;
        for mark in marks(&item, indexed) {
            self.marked.remove(&(mark, rest.clone()));
        }
        Some(item)
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

    /// In key order, from `start` on; an empty namespace means all. With marks, only objects that have them, and
    /// perhaps others.
    pub fn range<'a>(
        &'a self,
        namespace: &str,
        start: &str,
        marks: &[Mark],
    ) -> Box<dyn Iterator<Item = &'a Arc<Item>> + Send + 'a> {
        let (from, to) = match namespace {
            "" => (start.to_owned(), None),
            // '0' follows '/'
            namespace => (format!("{namespace}/").max(start.to_owned()), Some(format!("{namespace}0"))),
        };
        if to.as_ref().is_some_and(|to| *to <= from) {
            return Box::new(std::iter::empty());
        }
        if let Some(mark) = self.rarest(marks) {
            let from = (mark, Arc::from(from));
            let keys = self.marked.range(from..).take_while(move |(other, _)| *other == mark).map(|(_, key)| key);
            let keys = keys.take_while(move |key| to.as_ref().is_none_or(|to| ***key < **to));
            return Box::new(keys.filter_map(|key| self.items.get(key)));
        }
        let to = to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        Box::new(self.items.range::<_, str>((Bound::Included(from.as_str()), to)).map(|(_, item)| item))
    }

    /// The mark that the fewest objects have, counted together until the first one ends.
    fn rarest(&self, marks: &[Mark]) -> Option<Mark> {
        let having =
            |mark: Mark| self.marked.range((mark, Arc::from(""))..).take_while(move |(other, _)| *other == mark);
        if let [only] = marks {
            return Some(*only);
        }
        let mut runs: Vec<_> = marks.iter().map(|mark| (*mark, having(*mark))).collect();
        while !runs.is_empty() {
            for (mark, run) in &mut runs {
                if run.next().is_none() {
                    return Some(*mark);
                }
            }
        }
        None
    }
}

fn marks(item: &Item, indexed: &'static str) -> impl Iterator<Item = Mark> {
    let field = item.field(indexed);
    let labels = item.labels.iter().map(|(name, value)| label_mark(name, value));
    labels.chain((!field.is_empty()).then(|| mark("field", indexed, field)))
}

/// See the module's text.
pub struct Shelf {
    selectable: Selectable,
    /// The selectable field that is indexed.
    indexed: &'static str,
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
    pub fn new(selectable: Selectable, indexed: &'static str) -> Self {
        Self {
            selectable,
            indexed,
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
        let parsed = Item::parse(&bytes);
        self.parsed_item(rest, revision, bytes, parsed.as_ref().map_err(String::as_str))
    }

    fn parsed_item(&self, rest: &str, revision: u64, bytes: Bytes, parsed: Result<&Value, &str>) -> Item {
        let item = Item::of(rest, revision, bytes, parsed, self.selectable);
        if let Some(why) = &item.corrupt {
            tracing::error!(key = rest, revision, why, "a stored object cannot be read");
        }
        item
    }

    /// The mark of a field that has this value, if it is indexed.
    pub fn field_mark(&self, name: &str, value: &str) -> Option<Mark> {
        (name == self.indexed && !value.is_empty()).then(|| mark("field", name, value))
    }

    /// Out of items that were read by [`Shelf::item`].
    pub fn snapshot_of(&self, revision: u64, items: Vec<Arc<Item>>) -> Snapshot {
        Snapshot::new(revision, items, self.indexed)
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Replaces everything, after a start or a gap. Watchers of the old window have to start again.
    pub fn load(&self, items: Vec<Arc<Item>>, revision: u64) {
        let subscribers = self.turn.lock();
        let new = self.snapshot_of(revision, items);
        let old = self.snapshot.load_full();
        for on_change in subscribers.iter() {
            for item in old.range("", "", &[]).filter(|item| new.get(&item.key).is_none()) {
                on_change(&item.key, None);
            }
            for item in new.range("", "", &[]) {
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
        let mut new = None;
        let (kind, item, previous) = match value {
            Some(bytes) => {
                let parsed = Item::parse(&bytes);
                let item = self.parsed_item(rest, revision, bytes, parsed.as_ref().map_err(String::as_str));
                let item = Arc::new(item);
                let previous = snapshot.put(rest, item.clone(), self.indexed);
                new = parsed.ok().filter(|_| !subscribers.is_empty());
                (if previous.is_some() { ChangeKind::Modified } else { ChangeKind::Added }, item, previous)
            }
            None => {
                let Some(previous) = snapshot.remove(rest, self.indexed) else { return };
                (ChangeKind::Deleted, Arc::new(previous.ended_at(revision)), Some(previous))
            }
        };
        self.received.fetch_add(1, Ordering::Relaxed);
        self.snapshot.store(Arc::new(snapshot));
        if !subscribers.is_empty() {
            let new = new.map(|value| item.with_revision(value));
            for on_change in subscribers.iter() {
                on_change(&item.key, new.as_ref());
            }
        }
        let event = Event { revision, kind, item, previous };
        self.window.load().push(Arc::new(event));
    }

    /// Events after `revision`.
    pub fn watch(&self, revision: u64, interest: Interest) -> Result<Cursor, TooOld> {
        let _turn = self.turn.lock();
        self.window.load().after(revision, interest)
    }

    /// See [`Window::watchers`].
    pub fn watchers(&self) -> usize {
        self.window.load().watchers()
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
            Some(Arc::new(Event { revision, kind, item, previous }))
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
        for item in self.snapshot.load().range("", "", &[]) {
            on_change(&item.key, Some(&item.decode()));
        }
        subscribers.push(on_change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shelf() -> Shelf {
        let shelf = Shelf::new(|value| vec![("node", value["node"].as_str().unwrap_or_default().to_owned())], "node");
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
            let keys: Vec<String> = snapshot.range(namespace, start, &[]).map(|item| item.key.to_string()).collect();
            assert_eq!(keys.join(" "), expected, "{namespace:?} from {start:?}");
        }
    }

    /// What is found by marks, after changes of labels and of the indexed field.
    #[test]
    fn objects_are_found_by_labels_and_the_indexed_field() {
        let shelf = shelf();
        let labelled = |app: &str, node: &str| -> Bytes {
            let labels = format!(r#"{{"app":"{app}","all":"yes"}}"#);
            format!(r#"{{"apiVersion":"v1","kind":"K","metadata":{{"labels":{labels},"name":"n"}},"node":"{node}"}}"#)
                .into()
        };
        let changes =
            [("a/2", "web", "n1"), ("a/3", "web", "n2"), ("b/1", "db", "n1"), ("a/3", "db", "n1"), ("a/4", "web", "")];
        for ((rest, app, node), revision) in changes.into_iter().zip(10..) {
            shelf.apply(rest, revision, Some(labelled(app, node)));
        }
        shelf.apply("b/1", 20, None);
        let snapshot = shelf.snapshot();
        let (web, db, all) = (label_mark("app", "web"), label_mark("app", "db"), label_mark("all", "yes"));
        let n1 = shelf.field_mark("node", "n1").unwrap();
        for (namespace, start, marks, expected) in [
            ("", "", &[web][..], "a/2 a/4"),
            ("", "a/3", &[web], "a/4"),
            ("a", "", &[db], "a/3"),
            ("b", "", &[all], ""),
            ("", "", &[all], "a/2 a/3 a/4"),
            ("", "", &[all, db], "a/3"),
            ("", "", &[n1], "a/2 a/3"),
            ("", "", &[label_mark("app", "none"), all], ""),
        ] {
            let keys: Vec<String> = snapshot.range(namespace, start, marks).map(|item| item.key.to_string()).collect();
            assert_eq!(keys.join(" "), expected, "{namespace:?} from {start:?} by {marks:?}");
        }
        assert_eq!((shelf.field_mark("node", ""), shelf.field_mark("other", "n1")), (None, None));
        for rest in ["a/1", "a/2", "a/3", "a/4", "c"] {
            shelf.apply(rest, shelf.snapshot().revision + 1, None);
        }
        assert!(shelf.snapshot().marked.is_empty());
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
