//! One stored object as the cache keeps it: its bytes, and what is asked of them again
//! and again. Parsed once, when it arrives.

use std::sync::{Arc, OnceLock};

use api_types::{Key, labels::Labels, schema};
use bytes::Bytes;
use serde_json::Value;

use crate::codec::{
    encode,
    protobuf::{self, ProtobufError},
};

/// Reads an object's selectable fields, but for `metadata.name` and `metadata.namespace`.
pub type Selectable = fn(&Value) -> Vec<(&'static str, String)>;

/// Names with values, in one piece of memory. Names and values with a NUL are left out: no selector has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs(Box<str>);

/// Behind each name and each value.
const END: char = '\0';

impl Pairs {
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut text = String::new();
        for (name, value) in pairs.into_iter().filter(|(name, value)| !name.contains(END) && !value.contains(END)) {
            text.extend([name, "\0", value, "\0"]);
        }
        Self(text.into())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut parts = self.0.split_terminator(END);
        std::iter::from_fn(move || Some((parts.next()?, parts.next()?)))
    }
}

impl Labels for Pairs {
    fn label(&self, key: &str) -> Option<&str> {
        self.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }
}

/// An immutable object at one revision.
#[derive(Debug)]
pub struct Item {
    pub key: Key,
    pub revision: u64,
    /// As stored: without resourceVersion, and with the head that [`encode::stored`] writes.
    bytes: Bytes,
    /// Where the head ends and the revision goes.
    metadata_at: usize,
    pub labels: Pairs,
    /// Those that are not empty, besides name and namespace.
    fields: Pairs,
    value: OnceLock<Arc<Value>>,
    /// The message, with resourceVersion, once somebody has asked for protobuf.
    protobuf: OnceLock<Bytes>,
    /// Why the stored bytes are no object. Reading it is an error that names the key.
    pub corrupt: Option<Box<str>>,
}

impl Item {
    /// `rest` is the part of the key behind the resource's prefix: `namespace/name`, or `name`.
    pub fn new(rest: &str, revision: u64, bytes: Bytes, selectable: Selectable) -> Self {
        let parsed = Self::parse(&bytes);
        Self::of(rest, revision, bytes, parsed.as_ref().map_err(String::as_str), selectable)
    }

    /// What stored bytes say, if they are an object.
    pub fn parse(bytes: &[u8]) -> Result<Value, String> {
        let value = parsed(bytes)?;
        let is_object = value["metadata"].is_object() && value["kind"].is_string() && value["apiVersion"].is_string();
        if is_object { Ok(value) } else { Err("no apiVersion, kind or metadata".to_owned()) }
    }

    /// As [`Item::new`], for who has parsed the bytes already.
    pub fn of(rest: &str, revision: u64, bytes: Bytes, parsed: Result<&Value, &str>, selectable: Selectable) -> Self {
        let (namespace, name) = rest.split_once('/').unwrap_or(("", rest));
        let item = Self {
            key: Key::new(namespace, name),
            revision,
            bytes,
            metadata_at: 0,
            labels: Pairs::default(),
            fields: Pairs::default(),
            value: OnceLock::new(),
            protobuf: OnceLock::new(),
            corrupt: None,
        };
        let value = match parsed {
            Ok(value) => value,
            Err(why) => return Self { corrupt: Some(why.into()), ..item },
        };
        let (bytes, metadata_at) = match encode::metadata_at(&item.bytes) {
            Some(at) => (item.bytes, at),
            None => encode::stored(value),
        };
        let labels = value["metadata"]["labels"].as_object().into_iter().flatten();
        let labels = Pairs::new(labels.filter_map(|(name, value)| Some((name.as_str(), value.as_str()?))));
        let fields = selectable(value);
        let fields = fields.iter().map(|(name, value)| (*name, value.as_str())).filter(|(_, value)| !value.is_empty());
        Self { bytes, metadata_at, labels, fields: Pairs::new(fields), ..item }
    }

    /// This state under the revision at which it ended: what a watcher is told of a deletion.
    pub fn ended_at(&self, revision: u64) -> Self {
        Self {
            key: self.key.clone(),
            revision,
            bytes: self.bytes.clone(),
            metadata_at: self.metadata_at,
            labels: self.labels.clone(),
            fields: self.fields.clone(),
            value: OnceLock::new(),
            protobuf: OnceLock::new(),
            corrupt: self.corrupt.clone(),
        }
    }

    /// The value of a selectable field; empty if it has none.
    pub fn field(&self, name: &str) -> &str {
        match name {
            "metadata.name" => &self.key.name,
            "metadata.namespace" => &self.key.namespace,
            name => self.fields.label(name).unwrap_or_default(),
        }
    }

    /// As stored, without resourceVersion.
    pub fn stored(&self) -> &Bytes {
        &self.bytes
    }

    /// What stands before and behind the place of `"resourceVersion":"…",`.
    pub fn split(&self) -> (&[u8], &[u8]) {
        self.bytes.split_at(self.metadata_at)
    }

    /// As a protobuf message of its stored type, with resourceVersion; kept for the next reader.
    pub fn protobuf(&self, api_version: &str, kind: &str) -> Result<&Bytes, ProtobufError> {
        if let Some(message) = self.protobuf.get() {
            return Ok(message);
        }
        let mut json = Vec::with_capacity(self.bytes.len() + 40);
        encode::splice(&mut json, self.split(), self.revision);
        let mut message = protobuf::raw(api_version, kind, &json)?;
        message.shrink_to_fit();
        Ok(self.protobuf.get_or_init(|| message.into()))
    }

    /// The message, if [`Item::protobuf`] has made it; else nothing.
    pub fn made_protobuf(&self) -> &[u8] {
        self.protobuf.get().map(Bytes::as_ref).unwrap_or_default()
    }

    /// Decoded, with resourceVersion; kept for the next reader.
    pub fn value(&self) -> Arc<Value> {
        self.value.get_or_init(|| Arc::new(self.decode())).clone()
    }

    /// Decoded, with resourceVersion, for a caller who will change it.
    pub fn decode(&self) -> Value {
        if let Some(value) = self.value.get() {
            return Value::clone(value);
        }
        self.with_revision(serde_json::from_slice(&self.bytes).unwrap_or_default())
    }

    /// What was parsed out of the stored bytes, with resourceVersion.
    pub fn with_revision(&self, mut value: Value) -> Value {
        let metadata = value.get_mut("metadata").and_then(Value::as_object_mut).filter(|_| self.revision > 0);
        if let Some(metadata) = metadata {
            metadata.insert("resourceVersion".to_owned(), self.revision.to_string().into());
        }
        value
    }

    /// Roughly what it occupies.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.bytes.len() + self.labels.0.len() + self.fields.0.len()
    }
}

/// A stored value, which is JSON, or protobuf where a stock cluster wrote it.
fn parsed(bytes: &[u8]) -> Result<Value, String> {
    if !bytes.starts_with(protobuf::MAGIC) {
        return serde_json::from_slice(bytes).map_err(|error| error.to_string());
    }
    let value = protobuf::decode_any(bytes).map_err(|error| error.to_string())?;
    let text = |name: &str| value[name].as_str().unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let of = schema::of(group, version, kind).ok_or_else(|| format!("{api_version} {kind} is not known"))?;
    Ok(schema::decode(of, value).map_err(|error| error.to_string())?.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(_: &Value) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    #[test]
    fn foreign_bytes_get_our_head() {
        let bytes = Bytes::from_static(
            br#"{"spec":{"a":1}, "metadata": {"labels":{"x":"y"},"name":"n"},"kind":"K","apiVersion":"g/v1"}"#,
        );
        let item = Item::new("ns/n", 7, bytes, plain);
        let (head, tail) = item.split();
        assert_eq!(head, br#"{"apiVersion":"g/v1","kind":"K","metadata":{"#);
        assert_eq!(tail, br#""labels":{"x":"y"},"name":"n"},"spec":{"a":1}}"#);
        assert_eq!(item.value()["metadata"]["resourceVersion"], "7");
        assert_eq!(item.labels.label("x"), Some("y"));
        assert_eq!((item.field("metadata.namespace"), item.field("spec.x")), ("ns", ""));
    }

    #[test]
    fn pairs_are_found_by_name() {
        let pairs = Pairs::new([("a", "1"), ("b", ""), ("c", "x\0y"), ("d", "4")]);
        for (name, expected) in
            [("a", Some("1")), ("b", Some("")), ("c", None), ("d", Some("4")), ("1", None), ("", None)]
        {
            assert_eq!(pairs.label(name), expected, "{name:?}");
        }
        assert_eq!(Pairs::default().iter().count(), 0);
    }

    #[test]
    fn protobuf_of_a_stock_cluster_is_read() {
        let object = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a",
            "labels": {"x": "y"}}, "data": {"k": "v"}});
        let item = Item::new("ns/a", 7, protobuf::encode(&object).unwrap().into(), plain);
        assert_eq!(item.corrupt, None);
        let (head, tail) = item.split();
        assert_eq!(head, br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"#);
        assert_eq!(tail, br#""labels":{"x":"y"},"name":"a"},"data":{"k":"v"}}"#);
        assert_eq!(item.labels.label("x"), Some("y"));
        let message = item.protobuf("v1", "ConfigMap").unwrap().clone();
        let read = protobuf::decode_any(&protobuf::enveloped("v1", "ConfigMap", &message)).unwrap();
        assert_eq!(read["metadata"]["resourceVersion"], "7");
        assert_eq!(item.made_protobuf(), message);
    }

    #[test]
    fn broken_bytes_are_kept_and_named() {
        for bytes in ["", "{", "[]", "k8s\0", "k8s\0\x0a\x01", r#"{"kind":"K"}"#] {
            let item = Item::new("n", 7, Bytes::from_static(bytes.as_bytes()), plain);
            assert!(item.corrupt.is_some(), "{bytes}");
        }
    }
}
