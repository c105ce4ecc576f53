//! An object and the time, read by JSON pointer: what the cells are made from.

use api_types::{jiff::Timestamp, k8s::meta::LabelSelector, labels::Selector};
use serde_json::{Map, Value};

use super::duration;

/// Items of a list that are shown before "+ n more...".
const LISTED_MAX: usize = 3;

pub struct View<'a> {
    pub object: &'a Value,
    pub now: Timestamp,
}

impl<'a> View<'a> {
    pub fn get(&self, pointer: &str) -> Option<&'a Value> {
        self.object.pointer(pointer).filter(|value| !value.is_null())
    }
    pub fn has(&self, pointer: &str) -> bool {
        self.get(pointer).is_some()
    }
    /// Empty if absent.
    pub fn text(&self, pointer: &str) -> &'a str {
        self.get(pointer).and_then(Value::as_str).unwrap_or_default()
    }
    pub fn text_or(&self, pointer: &str, absent: &'a str) -> &'a str {
        match self.text(pointer) {
            "" => absent,
            text => text,
        }
    }
    /// 0 if absent.
    pub fn int(&self, pointer: &str) -> i64 {
        self.get(pointer).and_then(Value::as_i64).unwrap_or_default()
    }
    pub fn flag(&self, pointer: &str) -> bool {
        self.get(pointer).and_then(Value::as_bool).unwrap_or_default()
    }
    pub fn list(&self, pointer: &str) -> &'a [Value] {
        self.get(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }
    /// The same list as objects of their own.
    pub fn items(&self, pointer: &str) -> impl DoubleEndedIterator<Item = View<'a>> + ExactSizeIterator {
        let now = self.now;
        self.list(pointer).iter().map(move |object| View { object, now })
    }
    pub fn map(&self, pointer: &str) -> Option<&'a Map<String, Value>> {
        self.get(pointer).and_then(Value::as_object)
    }
    /// How many entries a list or map has.
    pub fn count(&self, pointer: &str) -> i64 {
        match self.get(pointer) {
            Some(Value::Array(items)) => items.len() as i64,
            Some(Value::Object(entries)) => entries.len() as i64,
            _ => 0,
        }
    }
    /// Texts of a list.
    pub fn texts(&self, pointer: &str) -> Vec<&'a str> {
        self.list(pointer).iter().filter_map(Value::as_str).collect()
    }

    pub fn name(&self) -> Value {
        self.text("/metadata/name").into()
    }
    pub fn is_terminating(&self) -> bool {
        self.has("/metadata/deletionTimestamp")
    }
    pub fn age(&self) -> Value {
        self.since("/metadata/creationTimestamp").into()
    }
    pub fn time(&self, pointer: &str) -> Option<Timestamp> {
        self.text(pointer).parse().ok()
    }
    /// How long ago, or `<unknown>` if there is no time.
    pub fn since(&self, pointer: &str) -> String {
        self.time(pointer).map_or_else(|| "<unknown>".to_owned(), |time| self.ago(time))
    }
    pub fn ago(&self, time: Timestamp) -> String {
        duration::human(self.now.as_second() - time.as_second())
    }

    /// `a=b,c=d`, or `<none>`.
    pub fn labels(&self, pointer: &str) -> String {
        let pair = |(key, value): (&String, &Value)| format!("{key}={}", value.as_str().unwrap_or_default());
        let pairs: Vec<String> = self.map(pointer).into_iter().flatten().map(pair).collect();
        if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
    }
    /// A label selector's text, or `empty` if it has none.
    pub fn selector(&self, pointer: &str, empty: &str) -> String {
        let selector = self.get(pointer).and_then(|value| serde_json::from_value::<LabelSelector>(value.clone()).ok());
        match Selector::from(selector.as_ref()).to_string() {
            text if text.is_empty() => empty.to_owned(),
            text => text,
        }
    }
    /// Names and images of a pod template's containers.
    pub fn containers(&self, pointer: &str) -> (String, String) {
        let all = |field: &str| {
            let values: Vec<&str> = self.items(pointer).map(|container| container.text(field)).collect();
            values.join(",")
        };
        (all("/name"), all("/image"))
    }
    /// The status of a condition, or empty if there is no such condition.
    pub fn condition(&self, of_type: &str) -> &'a str {
        let mut conditions = self.items("/status/conditions");
        conditions
            .find(|condition| condition.text("/type") == of_type)
            .map_or("", |condition| condition.text("/status"))
    }
}

/// The first few, and how many there are beyond; `empty` if there are none.
pub fn first_few(items: Vec<String>, empty: &str) -> String {
    let more = items.len().saturating_sub(LISTED_MAX);
    let shown = items[..items.len() - more].join(",");
    match (more, shown.is_empty()) {
        (0, true) => empty.to_owned(),
        (0, false) => shown,
        _ => format!("{shown} + {more} more..."),
    }
}
