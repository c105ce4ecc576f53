//! The in-process view of stored objects, for code that decides from the cluster's
//! state while it serves a request: admission, authorisation, allocation.

use std::sync::Arc;

use api_types::{Key, Resource};
use serde_json::Value;

/// Told of each change: the object's key, and its new state (`None`: deleted).
pub type OnChange = Box<dyn Fn(&Key, Option<&Value>) + Send + Sync>;

/// Reads decoded objects out of the watch cache. A write that this server has acknowledged is already visible.
pub trait Reader: Send + Sync {
    fn get(&self, resource: &Resource, key: &Key) -> Option<Arc<Value>>;
    /// In key order; an empty namespace means all of them.
    fn list(&self, resource: &Resource, namespace: &str) -> Vec<Arc<Value>>;
}

/// Pushes changes of a resource as the watch cache applies them, in revision order.
pub trait Changes: Send + Sync {
    /// Calls back first for every object that exists now, then for each change, never concurrently. The callback
    /// must be short: it stands in the path of every event.
    fn subscribe(&self, resource: &Resource, on_change: OnChange);
}
