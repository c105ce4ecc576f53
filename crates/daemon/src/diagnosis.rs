//! Why a daemon did or did not act, and what it saw: a bounded ledger that deciders'
//! reasons go into, served as gRPC `coxswain.diagnosis.v1`.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use api_types::{Key, Object, Resource, jiff::Timestamp};
use diagnosis::{
    ExplainRequest, ExplainResponse, JourneyRequest, JourneyResponse, ObjectReference,
    diagnosis_server::{Diagnosis, DiagnosisServer},
};
use parking_lot::Mutex;
use tonic::{Request, Response, Status};

/// Objects of which reasons are kept; the one explained longest ago makes room.
const EXPLAINED_MAX: usize = 10_000;
/// Sightings kept, of all objects together.
const SIGHTINGS_MAX: usize = 20_000;
/// Reasons kept of one object.
const REASONS_MAX: usize = 32;

/// Names an object of the API.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectRef {
    pub group: String,
    pub resource: String,
    pub key: Key,
}

impl ObjectRef {
    pub fn new(resource: &Resource, key: &Key) -> Self {
        Self { group: resource.group.to_string(), resource: resource.plural.to_string(), key: key.clone() }
    }
    pub fn of<K: Object>(object: &K) -> Self {
        Self::new(K::RESOURCE, &object.key())
    }
}

/// One reason, in the decider's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// CamelCase, such as `Unschedulable`.
    pub code: String,
    /// One sentence for a person.
    pub message: String,
}

impl Reason {
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }
}

/// What is remembered. Clones share it.
#[derive(Clone)]
pub struct Ledger {
    component: &'static str,
    pages: Arc<Mutex<Pages>>,
}

#[derive(Default)]
struct Pages {
    /// With a number that tells an entry of `order` from one that was replaced since.
    reasons: HashMap<ObjectRef, (u64, Timestamp, Vec<Reason>)>,
    order: VecDeque<(u64, ObjectRef)>,
    next: u64,
    sightings: VecDeque<Sighting>,
}

struct Sighting {
    object: ObjectRef,
    event: &'static str,
    resource_version: String,
    at: Timestamp,
}

impl Ledger {
    /// `component` is the daemon's name, such as `kube-scheduler`.
    pub fn new(component: &'static str) -> Self {
        Self { component, pages: Arc::default() }
    }

    /// Replaces what was said of `object`; no reasons means there is nothing more to say.
    pub fn explain(&self, object: ObjectRef, mut reasons: Vec<Reason>) {
        reasons.truncate(REASONS_MAX);
        self.pages.lock().explain(object, reasons, Timestamp::now());
    }

    /// Notes that `event` (such as `Added`, `Bound`) happened to `object`.
    pub fn saw(&self, object: ObjectRef, event: &'static str, resource_version: &str, at: Timestamp) {
        let sighting = Sighting { object, event, resource_version: resource_version.to_owned(), at };
        self.pages.lock().saw(sighting);
    }

    pub(crate) fn server(&self) -> DiagnosisServer<Self> {
        DiagnosisServer::new(self.clone())
    }
}

impl Pages {
    fn explain(&mut self, object: ObjectRef, reasons: Vec<Reason>, now: Timestamp) {
        if reasons.is_empty() {
            self.reasons.remove(&object);
            return;
        }
        self.next += 1;
        self.order.push_back((self.next, object.clone()));
        self.reasons.insert(object, (self.next, now, reasons));
        // The order may hold replaced and removed entries too: bound it, not only the map.
        while self.reasons.len() > EXPLAINED_MAX || self.order.len() > 2 * EXPLAINED_MAX {
            let Some((number, oldest)) = self.order.pop_front() else { return };
            if self.reasons.get(&oldest).is_some_and(|(current, ..)| *current == number) {
                self.reasons.remove(&oldest);
            }
        }
    }

    fn saw(&mut self, sighting: Sighting) {
        if self.sightings.len() >= SIGHTINGS_MAX {
            self.sightings.pop_front();
        }
        self.sightings.push_back(sighting);
    }
}

fn object(reference: Option<ObjectReference>) -> Result<ObjectRef, Status> {
    let reference = reference.ok_or_else(|| Status::invalid_argument("object is required"))?;
    if reference.resource.is_empty() || reference.name.is_empty() {
        return Err(Status::invalid_argument("object.resource and object.name are required"));
    }
    let key = Key::new(reference.namespace, reference.name);
    Ok(ObjectRef { group: reference.group, resource: reference.resource, key })
}

/// RFC 3339 with microseconds.
fn time(at: Timestamp) -> String {
    format!("{at:.6}")
}

#[tonic::async_trait]
impl Diagnosis for Ledger {
    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        let object = object(request.into_inner().object)?;
        let pages = self.pages.lock();
        let reasons = pages.reasons.get(&object).map(|(_, at, reasons)| {
            let reason = |reason: &Reason| diagnosis::Reason {
                code: reason.code.clone(),
                message: reason.message.clone(),
                decided_at: time(*at),
            };
            reasons.iter().map(reason).collect()
        });
        let reasons = reasons.unwrap_or_default();
        Ok(Response::new(ExplainResponse { component: self.component.to_owned(), reasons }))
    }

    async fn journey(&self, request: Request<JourneyRequest>) -> Result<Response<JourneyResponse>, Status> {
        let object = object(request.into_inner().object)?;
        let pages = self.pages.lock();
        let sightings = pages.sightings.iter().filter(|sighting| sighting.object == object);
        let sightings = sightings.map(|sighting| diagnosis::Sighting {
            event: sighting.event.to_owned(),
            resource_version: sighting.resource_version.clone(),
            time: time(sighting.at),
        });
        Ok(Response::new(JourneyResponse { component: self.component.to_owned(), sightings: sightings.collect() }))
    }
}

#[cfg(test)]
mod tests {
    use api_types::resources::POD;

    use super::*;

    fn pod(name: &str) -> ObjectRef {
        ObjectRef::new(&POD, &Key::new("ns", name))
    }
    fn reference(name: &str) -> Option<ObjectReference> {
        Some(ObjectReference {
            group: String::new(),
            resource: "pods".to_owned(),
            namespace: "ns".to_owned(),
            name: name.to_owned(),
        })
    }
    async fn explained(ledger: &Ledger, name: &str) -> Vec<String> {
        let request = Request::new(ExplainRequest { object: reference(name) });
        let answer = Diagnosis::explain(ledger, request).await.unwrap().into_inner();
        answer.reasons.into_iter().map(|reason| format!("{}: {}", reason.code, reason.message)).collect()
    }

    #[tokio::test]
    async fn the_last_word_counts_and_none_means_silence() {
        let ledger = Ledger::new("test");
        ledger.explain(pod("a"), vec![Reason::new("Old", "one")]);
        ledger.explain(pod("a"), vec![Reason::new("New", "two")]);
        assert_eq!(explained(&ledger, "a").await, ["New: two"]);
        ledger.explain(pod("a"), Vec::new());
        assert!(explained(&ledger, "a").await.is_empty());
    }

    #[tokio::test]
    async fn a_journey_is_of_one_object_oldest_first() {
        let ledger = Ledger::new("test");
        let at = Timestamp::from_second(1).unwrap();
        for (name, event, version) in [("a", "Added", "1"), ("b", "Added", "2"), ("a", "Bound", "3")] {
            ledger.saw(pod(name), event, version, at);
        }
        let request = Request::new(JourneyRequest { object: reference("a") });
        let answer = Diagnosis::journey(&ledger, request).await.unwrap().into_inner();
        let seen: Vec<String> =
            answer.sightings.iter().map(|one| format!("{}@{}", one.event, one.resource_version)).collect();
        assert_eq!(seen, ["Added@1", "Bound@3"]);
        assert_eq!(answer.sightings[0].time, "1970-01-01T00:00:01.000000Z");
    }

    #[test]
    fn memory_is_bounded() {
        let ledger = Ledger::new("test");
        let at = Timestamp::from_second(1).unwrap();
        for number in 0..EXPLAINED_MAX * 3 {
            ledger.explain(pod(&(number % (EXPLAINED_MAX + 5)).to_string()), vec![Reason::new("A", "b")]);
            ledger.saw(pod("a"), "Added", "1", at);
        }
        let pages = ledger.pages.lock();
        assert!(pages.reasons.len() <= EXPLAINED_MAX && pages.order.len() <= 2 * EXPLAINED_MAX);
        assert_eq!(pages.sightings.len(), SIGHTINGS_MAX);
    }

    #[tokio::test]
    async fn a_question_without_an_object_is_refused() {
        let answer = Diagnosis::explain(&Ledger::new("test"), Request::new(ExplainRequest { object: None })).await;
        assert_eq!(answer.unwrap_err().code(), tonic::Code::InvalidArgument);
    }
}
