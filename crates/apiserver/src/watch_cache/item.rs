//! One stored object as the cache keeps it: its bytes, and what is asked of them again
//! and again. Parsed once, when it arrives.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use api_types::{Key, schema};
use bytes::Bytes;
use serde_json::Value;

use crate::codec::{
    encode,
    protobuf::{self, ProtobufError},
};

/// Reads an object's selectable fields, but for `metadata.name` and `metadata.namespace`.
pub type Selectable = fn(&Value) -> Vec<(&'static str, String)>;

/// An immutable object at one revision.
#[derive(Debug)]
pub struct Item {
    pub key: Key,
    pub revision: u64,
    /// As stored: without resourceVersion, and with the head that [`encode::stored`] writes.
    bytes: Bytes,
    /// Where the head ends and the revision goes.
    metadata_at: usize,
    pub labels: BTreeMap<String, String>,
    /// Besides name and namespace.
    pub fields: Vec<(&'static str, String)>,
    value: OnceLock<Arc<Value>>,
    /// The message, with resourceVersion, once somebody has asked for protobuf.
    protobuf: OnceLock<Bytes>,
    /// Why the stored bytes are no object. Reading it is an error that names the key.
    pub corrupt: Option<String>,
}

impl Item {
    /// `rest` is the part of the key behind the resource's prefix: `namespace/name`, or `name`.
    pub fn new(rest: &str, revision: u64, bytes: Bytes, selectable: Selectable) -> Self {
        let (namespace, name) = rest.split_once('/').unwrap_or(("", rest));
        let key = Key::new(namespace, name);
        let parsed = parsed(&bytes).and_then(|value| {
            let is_object =
                value["metadata"].is_object() && value["kind"].is_string() && value["apiVersion"].is_string();
            if is_object { Ok(value) } else { Err("no apiVersion, kind or metadata".to_owned()) }
        });
        let value = match parsed {
            Ok(value) => value,
            Err(why) => {
                return Self {
                    key,
                    revision,
                    bytes,
                    metadata_at: 0,
                    labels: BTreeMap::new(),
                    fields: Vec::new(),
                    value: OnceLock::new(),
                    protobuf: OnceLock::new(),
                    corrupt: Some(why),
                };
            }
        };
        let (bytes, metadata_at) = match encode::metadata_at(&bytes) {
            Some(at) => (bytes, at),
            None => encode::stored(&value),
        };
        let labels = value["metadata"]["labels"].as_object().map(|labels| {
            labels.iter().filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
        });
        Self {
            key,
            revision,
            bytes,
            metadata_at,
            labels: labels.unwrap_or_default(),
            fields: selectable(&value),
            value: OnceLock::new(),
            protobuf: OnceLock::new(),
            corrupt: None,
        }
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

    /// The value of a selectable field.
    pub fn field(&self, name: &str) -> Option<&str> {
        match name {
            "metadata.name" => Some(&self.key.name),
            "metadata.namespace" => Some(&self.key.namespace),
            name => self.fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value.as_str()),
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
        let mut value: Value = serde_json::from_slice(&self.bytes).unwrap_or_default();
        let metadata = value.get_mut("metadata").and_then(Value::as_object_mut).filter(|_| self.revision > 0);
        if let Some(metadata) = metadata {
            metadata.insert("resourceVersion".to_owned(), self.revision.to_string().into());
        }
        value
    }

    /// Roughly what it occupies.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.bytes.len()
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
        assert_eq!(item.labels["x"], "y");
        assert_eq!((item.field("metadata.namespace"), item.field("spec.x")), (Some("ns"), None));
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
        assert_eq!(item.labels["x"], "y");
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
