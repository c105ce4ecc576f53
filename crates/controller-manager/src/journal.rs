//! What all controllers say of one object, together: each replaces only its own words.

use std::collections::{BTreeMap, HashMap};

use api_types::{Key, Object, Resource, jiff::Timestamp};
use client::Change;
use daemon::diagnosis::{Ledger, ObjectRef, Reason};
use parking_lot::Mutex;

/// Objects of which words are kept; beyond it, those of any one are forgotten.
const OBJECTS_MAX: usize = 10_000;

/// Shared by all controllers.
pub struct Journal {
    ledger: Ledger,
    said: Mutex<HashMap<ObjectRef, BTreeMap<&'static str, Vec<Reason>>>>,
}

impl Journal {
    pub fn new(ledger: Ledger) -> Self {
        Self { ledger, said: Mutex::default() }
    }

    /// What `controller` has to say of an object now; nothing takes back what it said.
    pub fn explain(&self, controller: &'static str, resource: &Resource, key: &Key, reasons: Vec<Reason>) {
        let object = ObjectRef::new(resource, key);
        let mut said = self.said.lock();
        if reasons.is_empty() && !said.contains_key(&object) {
            return;
        }
        if said.len() >= OBJECTS_MAX
            && !said.contains_key(&object)
            && let Some(other) = said.keys().next().cloned()
        {
            said.remove(&other);
        }
        let words = said.entry(object.clone()).or_default();
        match reasons.is_empty() {
            true => words.remove(controller),
            false => words.insert(controller, reasons),
        };
        let all: Vec<Reason> = words.values().flatten().cloned().collect();
        if words.is_empty() {
            said.remove(&object);
        }
        drop(said);
        self.ledger.explain(object, all);
    }

    /// A change as it came from the server.
    pub fn saw<K: Object>(&self, change: &Change<K>) {
        let object = change.object();
        let event = match change {
            Change::Added(_) => "Added",
            Change::Updated { .. } => "Modified",
            Change::Deleted(_) => "Deleted",
        };
        self.ledger.saw(ObjectRef::of(&**object), event, object.resource_version(), Timestamp::now());
    }
}
