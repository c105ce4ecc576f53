//! Watch: the objects that are there, then every change that concerns the watcher, in
//! revision order, none lost and none twice. Each watcher reads the shared window by its
//! own cursor; what it is sent is a pure function of the event and its selectors.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use api_types::{
    ApiError, fields::Operator, jiff::Timestamp, labels::Selector, options::ListOptions, table::IncludeObject,
};
use bytes::Bytes;
use futures::stream;
use http::{Response, header};
use prometheus_client::metrics::counter::Counter;
use serde_json::{Value, json};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{
    Ask,
    read::{cache_refusal, revision},
};
use crate::{
    codec::{
        accept::{Accepted, Format, Formats, Shape, Shapes, not_acceptable},
        body::{self, Body},
        encode, protobuf, reply,
    },
    kinds::Kind,
    watch_cache::{
        Cache, Item, Mark, Shelf,
        window::{ChangeKind, Cursor, Event, Interest, TooOld},
    },
};

const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// Upstream's `--min-request-timeout`: a watch that names no timeout gets one between this and twice this.
const TIMEOUT_MIN: Duration = Duration::from_secs(1800);
/// Initial objects are encoded in portions of about this size, so that none waits for all.
const INITIAL_BYTES: usize = 64 << 10;
/// Marks the bookmark that ends the initial events (KEP-3157).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Where a watch begins.
enum Start {
    /// With an Added event for each object.
    Objects,
    /// With what happens from now on.
    Now,
    After(u64),
}

impl Ask {
    pub(super) async fn watch(&self) -> Result<Response<Body>, ApiError> {
        let view = self.view(Shapes::All)?;
        let media_type = match view.accepted.format {
            Format::Json => Format::Json.media_type(),
            Format::Protobuf => protobuf::STREAM_MEDIA_TYPE,
            Format::Yaml => return Err(not_acceptable(Formats::Text)),
        };
        let mut options = self.list_options()?;
        options.watch = true;
        let start = self.start(&options).await?;
        let (sight, marks) = (self.sight(&options), self.marks(&options));
        let shelf = self.server.cache.shelf(&self.kind.storage);
        if let Start::After(revision) = start
            && shelf.watch(revision, sight.interest()).is_err()
        {
            self.server.cache.reach_back(&self.kind.storage, revision).await;
        }
        // Read before the shelf: what is applied by now is in its snapshot.
        let applied = self.server.cache.revision();
        let deadline = Instant::now() + timeout(options.timeout_s);
        let mut watcher = Watcher {
            sent: self.server.metrics.watched(&self.kind.resource),
            kind: self.kind.clone(),
            cache: self.server.cache.clone(),
            accepted: view.accepted,
            include: view.include,
            allows_bookmarks: options.allow_watch_bookmarks,
            initial: VecDeque::new(),
            ends_initial: false,
            position: 0,
            has_sent_columns: false,
            deadline,
            alarm: Box::pin(sleep_until(alarm(Instant::now(), deadline, options.allow_watch_bookmarks))),
            stopping: Box::pin(self.server.shutdown.clone().cancelled_owned()),
            place: Place::Ended,
            sight,
        };
        match begin(&start, shelf, applied, &watcher.sight, &marks) {
            Ok((items, revision, cursor)) => {
                watcher.initial = items;
                watcher.ends_initial = options.send_initial_events == Some(true);
                watcher.position = revision;
                watcher.place = Place::At(cursor);
            }
            Err(TooOld { asked, oldest }) => {
                let refusal = ApiError::gone(format!("too old resource version: {asked} ({oldest})"));
                watcher.place = Place::Refused(refusal);
            }
        }
        let frames = stream::unfold(watcher, |mut watcher| async {
            let chunk = watcher.next().await?;
            Some((Ok::<_, std::convert::Infallible>(chunk), watcher))
        });
        let response = Response::builder().header(header::CONTENT_TYPE, media_type);
        Ok(response.body(body::stream(frames)).expect("fixed header names and values"))
    }

    /// Waits until the cache can answer from where the watch wants to begin.
    async fn start(&self, options: &ListOptions) -> Result<Start, ApiError> {
        let revision = revision(&options.resource_version)?;
        match revision {
            None => self.catch_up().await?,
            Some(revision) if options.send_initial_events.is_some() => {
                self.server.cache.wait_for(revision).await.map_err(cache_refusal)?;
            }
            Some(_) if !self.server.cache.is_loaded() => self.catch_up().await?,
            Some(_) => {}
        }
        Ok(match (options.send_initial_events, revision) {
            (Some(true), _) | (None, None | Some(0)) => Start::Objects,
            (Some(false), None | Some(0)) => Start::Now,
            (Some(false) | None, Some(revision)) => Start::After(revision),
        })
    }

    fn sight(&self, options: &ListOptions) -> Sight {
        let fields = options.field_selector.terms().iter().map(|term| FieldTerm {
            field: self.stored_field(&term.field),
            value: term.value.clone(),
            is_equal: term.operator == Operator::Equals,
        });
        Sight {
            namespace: self.key.namespace.clone(),
            is_namespaced: self.kind.resource.is_namespaced(),
            labels: options.label_selector.clone(),
            fields: fields.collect(),
        }
    }
}

fn timeout(seconds: Option<i64>) -> Duration {
    match seconds.and_then(|seconds| u64::try_from(seconds).ok()) {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds),
        _ => TIMEOUT_MIN.mul_f64(1.0 + rand::random::<f64>()),
    }
}

/// When a watcher wakes without an event: for a bookmark every so often and once shortly before the end, and at the end.
fn alarm(now: Instant, deadline: Instant, allows_bookmarks: bool) -> Instant {
    let last = deadline.checked_sub(BOOKMARK_BEFORE_END).unwrap_or(now);
    if allows_bookmarks && now < last { last.min(now + BOOKMARK_INTERVAL) } else { deadline }
}

type Begun = (VecDeque<Arc<Item>>, u64, Cursor);

fn begin(start: &Start, shelf: &Shelf, applied: u64, sight: &Sight, marks: &[Mark]) -> Result<Begun, TooOld> {
    match start {
        Start::After(revision) => Ok((VecDeque::new(), *revision, shelf.watch(*revision, sight.interest())?)),
        Start::Objects | Start::Now => {
            let (snapshot, cursor) = shelf.snapshot_and_watch(sight.interest());
            let items = match start {
                Start::Objects => {
                    snapshot.range(&sight.namespace, "", marks).filter(|item| sight.has(item)).cloned().collect()
                }
                _ => VecDeque::new(),
            };
            Ok((items, snapshot.revision.max(applied), cursor))
        }
    }
}

/// Which objects a watcher sees.
#[derive(Debug)]
struct Sight {
    namespace: String,
    is_namespaced: bool,
    labels: Selector,
    fields: Vec<FieldTerm>,
}

#[derive(Debug)]
struct FieldTerm {
    field: String,
    value: String,
    is_equal: bool,
}

/// What an event is to one watcher.
#[derive(Debug)]
struct Told {
    kind: ChangeKind,
    item: Arc<Item>,
}

impl Sight {
    fn has(&self, item: &Item) -> bool {
        (self.namespace.is_empty() || self.namespace == item.key.namespace)
            && self.labels.matches(&item.labels)
            && self.fields.iter().all(|term| (item.field(&term.field) == term.value) == term.is_equal)
    }

    fn interest(&self) -> Interest {
        let exact =
            |wanted: &dyn Fn(&str) -> bool| self.fields.iter().find(|term| term.is_equal && wanted(&term.field));
        if let Some(name) = exact(&|field| field == "metadata.name") {
            match (self.is_namespaced, self.namespace.as_str()) {
                (true, "") => {}
                (true, namespace) => return Interest::Object(format!("{namespace}/{}", name.value)),
                (false, _) => return Interest::Object(name.value.clone()),
            }
        }
        if let Some(term) = exact(&|field| !field.starts_with("metadata.")) {
            return Interest::Field(term.field.clone(), term.value.clone());
        }
        match self.namespace.as_str() {
            "" => Interest::All,
            namespace => Interest::Namespace(namespace.to_owned()),
        }
    }

    /// An object that comes into sight is added, one that leaves it is deleted, as it was last seen.
    fn tell(&self, event: &Event) -> Option<Told> {
        let saw = event.previous.as_ref().is_some_and(|previous| self.has(previous));
        let sees = event.kind != ChangeKind::Deleted && self.has(&event.item);
        let kind = match (saw, sees) {
            (false, false) => return None,
            (false, true) => ChangeKind::Added,
            (true, true) => ChangeKind::Modified,
            (true, false) => ChangeKind::Deleted,
        };
        let item = match (&event.previous, kind) {
            (Some(previous), ChangeKind::Deleted) if event.kind != kind => Arc::new(previous.ended_at(event.revision)),
            _ => event.item.clone(),
        };
        Some(Told { kind, item })
    }
}

const fn word(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Added => "ADDED",
        ChangeKind::Modified => "MODIFIED",
        ChangeKind::Deleted => "DELETED",
    }
}

enum Place {
    At(Cursor),
    /// One Error event, then the end.
    Refused(ApiError),
    Ended,
}

/// One client's watch.
struct Watcher {
    /// Counts events.
    sent: Counter,
    kind: Arc<Kind>,
    cache: Arc<Cache>,
    accepted: Accepted,
    include: IncludeObject,
    sight: Sight,
    allows_bookmarks: bool,
    /// Objects that are still to be sent as Added.
    initial: VecDeque<Arc<Item>>,
    /// A bookmark is owed that says that the initial objects were all.
    ends_initial: bool,
    /// Everything up to this revision has been sent.
    position: u64,
    has_sent_columns: bool,
    deadline: Instant,
    /// Rings at the deadline, or for a bookmark before it. Kept while events come and go.
    alarm: Pin<Box<Sleep>>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    place: Place,
}

impl Watcher {
    /// The next piece of the stream; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.initial.is_empty() {
                return Some(self.initial_chunk());
            }
            if std::mem::take(&mut self.ends_initial) {
                return Some(self.bookmark(true));
            }
            // Read before the cursor: what is applied by now is in the window already.
            let applied = self.cache.revision();
            let events = match &mut self.place {
                Place::At(cursor) => cursor.read(),
                Place::Ended => return None,
                Place::Refused(refusal) => {
                    let mut chunk = Vec::new();
                    put_frame(&mut chunk, &self.accepted, "ERROR", &reply::status(refusal));
                    self.place = Place::Ended;
                    return Some(chunk.into());
                }
            };
            let Ok(events) = events else {
                tracing::info!(resource = %self.kind.resource.plural, "a watcher fell behind and is closed");
                return None;
            };
            if let Some(last) = events.last() {
                let mut chunk = Vec::new();
                let position = self.position;
                for event in events.iter().filter(|event| event.revision > position) {
                    if let Some(told) = self.sight.tell(event) {
                        self.append(&mut chunk, &told);
                    }
                }
                self.position = self.position.max(last.revision);
                if !chunk.is_empty() {
                    return Some(chunk.into());
                }
                continue;
            }
            self.position = self.position.max(applied);
            if let Some(turn) = self.wait().await {
                match turn {
                    Turn::Bookmark => return Some(self.bookmark(false)),
                    Turn::End => return None,
                    Turn::LastBookmark => {
                        self.place = Place::Ended;
                        return self.allows_bookmarks.then(|| self.bookmark(false));
                    }
                }
            }
        }
    }

    /// Until there may be an event (`None`), or it is time for something else.
    async fn wait(&mut self) -> Option<Turn> {
        let Place::At(cursor) = &mut self.place else { return None };
        tokio::select! {
            biased;
            () = cursor.ready() => None,
            () = &mut self.stopping => Some(Turn::LastBookmark),
            () = &mut self.alarm => Some(if Instant::now() < self.deadline { Turn::Bookmark } else { Turn::End }),
        }
    }

    fn initial_chunk(&mut self) -> Bytes {
        let mut chunk = Vec::new();
        while chunk.len() < INITIAL_BYTES {
            let Some(item) = self.initial.pop_front() else { break };
            self.append(&mut chunk, &Told { kind: ChangeKind::Added, item });
        }
        chunk.into()
    }

    fn append(&mut self, chunk: &mut Vec<u8>, told: &Told) {
        self.sent.inc();
        if let Some(why) = &told.item.corrupt {
            let error = reply::status(&reply::unreadable(&self.kind, &told.item, why));
            return put_frame(chunk, &self.accepted, "ERROR", &error);
        }
        if self.view().is_stored_protobuf() {
            let storage = &self.kind.storage;
            return match reply::protobuf_of(&self.kind, &told.item) {
                Ok(message) => {
                    let body = protobuf::enveloped(&storage.api_version, &storage.kind, message);
                    protobuf::put_frame(chunk, word(told.kind), &body);
                }
                Err(error) => put_frame(chunk, &self.accepted, "ERROR", &reply::status(&error)),
            };
        }
        if self.accepted.is_plain() && self.kind.view.is_none() {
            return put_plain_frame(chunk, told);
        }
        let mut object = told.item.decode();
        if let Some(view) = self.kind.view {
            (view.from_stored)(&mut object);
        }
        let object = self.shaped(object);
        put_frame(chunk, &self.accepted, word(told.kind), &object);
    }

    fn view(&self) -> reply::View<'_> {
        reply::View { kind: &self.kind, accepted: self.accepted, include: self.include }
    }

    fn shaped(&mut self, object: Value) -> Value {
        match self.accepted.shape {
            Shape::Object => object,
            Shape::Partial => reply::partial(self.view(), object),
            Shape::Table => {
                let metadata = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
                let has_sent_columns = std::mem::replace(&mut self.has_sent_columns, true);
                table(self.view(), metadata, Some(&object), has_sent_columns)
            }
        }
    }

    fn bookmark(&mut self, is_end_of_initial: bool) -> Bytes {
        self.alarm.as_mut().reset(alarm(Instant::now(), self.deadline, self.allows_bookmarks));
        let mut metadata = json!({ "resourceVersion": self.position.to_string() });
        if is_end_of_initial {
            metadata["annotations"] = json!({ INITIAL_EVENTS_END: "true" });
        }
        let resource = &self.kind.resource;
        let object = match self.accepted.shape {
            Shape::Object => {
                json!({ "kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata })
            }
            Shape::Partial => reply::partial(self.view(), json!({ "metadata": metadata })),
            Shape::Table => {
                let has_sent_columns = std::mem::replace(&mut self.has_sent_columns, true);
                table(self.view(), metadata, None, has_sent_columns)
            }
        };
        let mut chunk = Vec::new();
        put_frame(&mut chunk, &self.accepted, "BOOKMARK", &object);
        chunk.into()
    }
}

enum Turn {
    Bookmark,
    /// The server stops: the client shall go on from here.
    LastBookmark,
    End,
}

/// Only the first table of a watch names its columns.
fn table(view: reply::View<'_>, metadata: Value, object: Option<&Value>, has_sent_columns: bool) -> Value {
    let mut table = reply::table(view, metadata, object, Timestamp::now());
    if has_sent_columns {
        table["columnDefinitions"] = Value::Null;
    }
    table
}

/// The object's bytes are shared by all who send it; only what stands around them is written here.
fn put_plain_frame(chunk: &mut Vec<u8>, told: &Told) {
    chunk.reserve(told.item.stored().len() + FRAME_BYTES);
    begin_frame(chunk, word(told.kind));
    encode::splice(chunk, told.item.split(), told.item.revision);
    chunk.extend_from_slice(FRAME_END);
}

/// Appends an event in the client's format.
fn put_frame(chunk: &mut Vec<u8>, accepted: &Accepted, word: &str, object: &Value) {
    match reply::rendered(&Accepted { is_pretty: false, ..*accepted }, object) {
        Ok(body) if accepted.format == Format::Protobuf => protobuf::put_frame(chunk, word, &body),
        Ok(body) => {
            begin_frame(chunk, word);
            chunk.extend_from_slice(&body);
            chunk.extend_from_slice(FRAME_END);
        }
        // A Status always has a form.
        Err(error) => put_frame(chunk, accepted, "ERROR", &reply::status(&error)),
    }
}

/// The type stands before the object, as upstream writes it: clients that read by hand rely on it.
fn begin_frame(frame: &mut Vec<u8>, word: &str) {
    frame.extend_from_slice(br#"{"type":""#);
    frame.extend_from_slice(word.as_bytes());
    frame.extend_from_slice(br#"","object":"#);
}

const FRAME_END: &[u8] = b"}\n";
/// What a frame has besides the object, at most.
const FRAME_BYTES: usize = 96;

#[cfg(test)]
mod tests {
    use api_types::labels::Labels;

    use super::*;

    fn item(labels: &str, revision: u64) -> Arc<Item> {
        let bytes = format!(
            r#"{{"apiVersion":"v1","kind":"K","metadata":{{"labels":{{"x":"{labels}"}},"name":"a","namespace":"n"}}}}"#
        );
        Arc::new(Item::new("n/a", revision, bytes.into(), |_| Vec::new()))
    }

    fn sight(namespace: &str) -> Sight {
        Sight {
            namespace: namespace.to_owned(),
            is_namespaced: true,
            labels: Selector::parse("x=in").unwrap(),
            fields: Vec::new(),
        }
    }

    /// What a watcher of `x=in` is told of a change from one label to another.
    fn check(before: Option<&str>, after: Option<&str>, expected: Option<(&str, u64)>) {
        let previous = before.map(|labels| item(labels, 5));
        let (kind, current) = match (&previous, after) {
            (None, Some(labels)) => (ChangeKind::Added, item(labels, 6)),
            (Some(_), Some(labels)) => (ChangeKind::Modified, item(labels, 6)),
            (Some(previous), None) => (ChangeKind::Deleted, Arc::new(previous.ended_at(6))),
            (None, None) => return,
        };
        let event = Event { revision: 6, kind, item: current, previous };
        let told = sight("n").tell(&event);
        assert_eq!(told.as_ref().map(|told| (word(told.kind), told.item.revision)), expected, "{before:?} {after:?}");
        if let Some(told) = told {
            assert_eq!(told.item.labels.label("x"), Some("in"));
            let mut frame = Vec::new();
            put_plain_frame(&mut frame, &told);
            let frame: Value = serde_json::from_slice(&frame).unwrap();
            assert_eq!(frame["object"]["metadata"]["resourceVersion"], "6");
        }
        assert!(sight("other").tell(&event).is_none());
    }

    #[test]
    fn objects_come_into_sight_and_leave_it() {
        check(None, Some("in"), Some(("ADDED", 6)));
        check(None, Some("out"), None);
        check(Some("in"), Some("in"), Some(("MODIFIED", 6)));
        check(Some("out"), Some("in"), Some(("ADDED", 6)));
        check(Some("in"), Some("out"), Some(("DELETED", 6)));
        check(Some("out"), Some("out"), None);
        check(Some("in"), None, Some(("DELETED", 6)));
        check(Some("out"), None, None);
    }

    #[test]
    fn the_type_stands_first() {
        let mut frame = Vec::new();
        put_frame(&mut frame, &Accepted::JSON, "ERROR", &reply::status(&ApiError::gone("old")));
        assert!(frame.starts_with(br#"{"type":"ERROR","object":{"apiVersion":"#), "{frame:?}");
        assert!(frame.ends_with(b"}}\n"), "{frame:?}");
    }

    #[test]
    fn bookmarks_come_every_minute_and_before_the_end() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        for (now, deadline, allowed, expected) in
            [(0, 300, true, 60), (60, 90, true, 88), (88, 90, true, 90), (0, 1, true, 1), (0, 300, false, 300)]
        {
            assert_eq!(alarm(after(now), after(deadline), allowed), after(expected), "{now} {deadline} {allowed}");
        }
    }

    #[test]
    fn a_watcher_hangs_on_the_narrowest_index() {
        let term = |field: &str, is_equal| FieldTerm { field: field.to_owned(), value: "v".to_owned(), is_equal };
        for (namespace, fields, expected) in [
            ("", vec![], Interest::All),
            ("n", vec![], Interest::Namespace("n".into())),
            ("n", vec![term("metadata.name", true)], Interest::Object("n/v".into())),
            ("", vec![term("metadata.name", true)], Interest::All),
            ("n", vec![term("spec.x", true)], Interest::Field("spec.x".into(), "v".into())),
            ("n", vec![term("spec.x", false)], Interest::Namespace("n".into())),
        ] {
            assert_eq!(Sight { fields, ..sight(namespace) }.interest(), expected);
        }
    }
}
