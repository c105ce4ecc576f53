//! Events: what a daemon tells people about an object. Recording never waits: events go
//! through a bounded buffer to one task, which merges and thins them out first.

use api_types::{
    Key, Object,
    jiff::Timestamp,
    k8s::{
        core::{self, ObjectReference},
        meta::{ObjectMeta, Time},
    },
};
use serde_json::json;
use tokio::sync::mpsc;

use crate::{
    api::Patch,
    controller::chain,
    correlate::{Correlator, Facts, Verdict},
    error::Error,
    http::Client,
    metrics,
};

/// Events that wait to be written; more are dropped. client-go's broadcaster has the same.
const BUFFER_EVENTS: usize = 1000;
/// Longer messages are cut, as the API refuses them.
const MESSAGE_MAX_BYTES: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    Normal,
    Warning,
}

impl EventKind {
    pub const fn name(self) -> &'static str {
        match self {
            EventKind::Normal => "Normal",
            EventKind::Warning => "Warning",
        }
    }
}

/// Records events of one component. Clones share the buffer.
#[derive(Clone)]
pub struct Recorder {
    buffer: mpsc::Sender<Recorded>,
}

struct Recorded {
    facts: Facts,
    at: Timestamp,
}

impl Recorder {
    /// `component` such as `kubelet`; `host` is the node's name, or empty.
    pub fn new(client: Client, component: &str, host: &str) -> Self {
        let (buffer, recorded) = mpsc::channel(BUFFER_EVENTS);
        let writer = Writer {
            client,
            component: component.to_owned(),
            host: host.to_owned(),
            correlator: Correlator::default(),
        };
        // Ends when the last recorder is dropped and the buffer is empty.
        tokio::spawn(writer.run(recorded));
        Self { buffer }
    }

    /// Tells of `about`. Never waits and never fails: an event more or less changes nothing.
    pub fn event(&self, about: &ObjectReference, kind: EventKind, reason: &str, message: impl Into<String>) {
        let facts = Facts { about: about.clone(), kind, reason: reason.to_owned(), message: cut(message.into()) };
        if self.buffer.try_send(Recorded { facts, at: Timestamp::now() }).is_err() {
            metrics::event_dropped();
        }
    }
}

/// Names `object` in an event.
pub fn reference<K: Object>(object: &K) -> ObjectReference {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    ObjectReference {
        api_version: Some(K::RESOURCE.api_version()),
        kind: Some(K::RESOURCE.kind.to_string()),
        namespace: some(object.namespace()),
        name: some(object.name()),
        uid: some(object.uid()),
        resource_version: some(object.resource_version()),
        field_path: None,
    }
}

fn cut(mut message: String) -> String {
    if message.len() > MESSAGE_MAX_BYTES {
        message.truncate(message.floor_char_boundary(MESSAGE_MAX_BYTES));
    }
    message
}

struct Writer {
    client: Client,
    component: String,
    host: String,
    correlator: Correlator,
}

impl Writer {
    async fn run(mut self, mut recorded: mpsc::Receiver<Recorded>) {
        while let Some(Recorded { facts, at }) = recorded.recv().await {
            tracing::debug!(
                kind = facts.about.kind,
                namespace = facts.about.namespace,
                name = facts.about.name,
                reason = facts.reason,
                message = facts.message,
                "event"
            );
            let verdict = self.correlator.judge(facts, at);
            if let Err(error) = self.write(verdict).await {
                tracing::debug!(why = chain(&error), "event not written");
            }
        }
    }

    async fn write(&mut self, verdict: Verdict) -> Result<(), Error> {
        match verdict {
            Verdict::Drop => Ok(()),
            Verdict::Create { facts, at } => self.create(&facts, at, at, 1).await,
            Verdict::Repeat { facts, key, count, first, at } => {
                let patch = json!({ "count": count, "lastTimestamp": Time(at), "message": facts.message });
                match self.client.patch::<core::Event>(&key, &Patch::Strategic(patch)).await {
                    // It has lived its hour, or its first write failed.
                    Err(error) if error.is_not_found() => self.create(&facts, first, at, count).await,
                    patched => patched.map(drop),
                }
            }
        }
    }

    async fn create(&mut self, facts: &Facts, first: Timestamp, at: Timestamp, count: i32) -> Result<(), Error> {
        let event = event(facts, &self.component, &self.host, first, at, count);
        let stored = self.client.create(&event).await?;
        self.correlator.stored(facts, stored.key());
        Ok(())
    }
}

/// Pure: the object to write. Its name is the object's and a time in hexadecimal, as client-go's.
fn event(facts: &Facts, component: &str, host: &str, first: Timestamp, at: Timestamp, count: i32) -> core::Event {
    let key = key(facts, at);
    core::Event {
        metadata: ObjectMeta { name: Some(key.name), namespace: Some(key.namespace), ..ObjectMeta::default() },
        involved_object: facts.about.clone(),
        reason: Some(facts.reason.clone()),
        message: Some(facts.message.clone()),
        type_: Some(facts.kind.name().to_owned()),
        first_timestamp: Some(Time(first)),
        last_timestamp: Some(Time(at)),
        count: Some(count),
        source: Some(core::EventSource {
            component: Some(component.to_owned()),
            host: (!host.is_empty()).then(|| host.to_owned()),
        }),
        reporting_component: Some(component.to_owned()),
        reporting_instance: (!host.is_empty()).then(|| host.to_owned()),
        ..core::Event::default()
    }
}

fn key(facts: &Facts, at: Timestamp) -> Key {
    let namespace = facts.about.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default");
    let name = facts.about.name.as_deref().unwrap_or("unknown");
    Key::new(namespace, format!("{name}.{:x}", at.as_nanosecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_stands_beside_its_object() {
        let about =
            ObjectReference { name: Some("n1".into()), kind: Some("Node".into()), ..ObjectReference::default() };
        let facts = Facts { about, kind: EventKind::Warning, reason: "Bad".into(), message: "it is".into() };
        let at = Timestamp::from_second(1).unwrap();
        let event = event(&facts, "kubelet", "n1", at, at, 1);
        assert_eq!(event.key().to_string(), "default/n1.3b9aca00");
        assert_eq!(event.type_.as_deref(), Some("Warning"));
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let text = cut("é".repeat(MESSAGE_MAX_BYTES));
        assert_eq!(text.len(), MESSAGE_MAX_BYTES);
        let text = cut(format!("a{}", "é".repeat(MESSAGE_MAX_BYTES)));
        assert_eq!(text.len(), MESSAGE_MAX_BYTES - 1);
    }
}
