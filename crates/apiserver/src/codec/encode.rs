//! Objects as JSON bytes. Stored objects begin with a fixed head, so that the revision is
//! spliced in by copying, not by decoding.

use bytes::Bytes;
use serde_json::{Map, Value};

const METADATA: &[u8] = br#""metadata":{"#;

/// The stored form of an object, without resourceVersion, and where its metadata begins.
pub fn stored(object: &Value) -> (Bytes, usize) {
    let mut bytes = Vec::with_capacity(1024);
    let nothing = Map::new();
    let fields = object.as_object().unwrap_or(&nothing);
    let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
    bytes.extend_from_slice(br#"{"apiVersion":"#);
    write(&mut bytes, text("apiVersion"));
    bytes.extend_from_slice(br#","kind":"#);
    write(&mut bytes, text("kind"));
    bytes.push(b',');
    bytes.extend_from_slice(METADATA);
    let at = bytes.len();
    let mut is_first = true;
    for (name, value) in fields.get("metadata").and_then(Value::as_object).unwrap_or(&nothing) {
        if name != "resourceVersion" && !value.is_null() {
            member(&mut bytes, name, value, &mut is_first);
        }
    }
    bytes.push(b'}');
    is_first = false;
    for (name, value) in fields {
        if !matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            member(&mut bytes, name, value, &mut is_first);
        }
    }
    bytes.push(b'}');
    (bytes.into(), at)
}

fn member(bytes: &mut Vec<u8>, name: &str, value: &Value, is_first: &mut bool) {
    if !std::mem::take(is_first) {
        bytes.push(b',');
    }
    write(bytes, name);
    bytes.push(b':');
    write(bytes, value);
}

fn write(bytes: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) {
    serde_json::to_writer(bytes, value).expect("JSON values always serialise into memory");
}

/// Where the metadata of stored bytes begins, if they have our head.
pub fn metadata_at(bytes: &[u8]) -> Option<usize> {
    let rest = bytes.strip_prefix(br#"{"apiVersion":""#)?;
    let rest = &rest[memchr::memchr(b'"', rest)? + 1..];
    let rest = rest.strip_prefix(br#","kind":""#)?;
    let rest = &rest[memchr::memchr(b'"', rest)? + 1..];
    let rest = rest.strip_prefix(b",")?.strip_prefix(METADATA)?;
    // Every object has a name, so a comma may follow the revision.
    rest.starts_with(b"\"").then(|| bytes.len() - rest.len())
}

/// The bytes of an object with its revision, from the two parts of its stored form. Revision 0 is that
/// of an object that was not stored (a dry run), and is not shown.
pub fn splice(into: &mut Vec<u8>, (head, tail): (&[u8], &[u8]), revision: u64) {
    into.extend_from_slice(head);
    if revision > 0 {
        into.extend_from_slice(br#""resourceVersion":""#);
        into.extend_from_slice(revision.to_string().as_bytes());
        into.extend_from_slice(br#"","#);
    }
    into.extend_from_slice(tail);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_spliced_object_decodes_to_what_was_stored() {
        for object in [
            json!({"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","resourceVersion":"3"},"spec":{}}),
            json!({"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1","addressType":"IPv4",
                "metadata":{"annotations":{"\"metadata\":{":"\"}"},"name":"a"}}),
        ] {
            let (bytes, at) = stored(&object);
            assert_eq!(metadata_at(&bytes), Some(at));
            let mut spliced = Vec::new();
            splice(&mut spliced, bytes.split_at(at), 42);
            let mut expected = object;
            expected["metadata"]["resourceVersion"] = "42".into();
            assert_eq!(serde_json::from_slice::<Value>(&spliced).unwrap(), expected);
        }
    }

    #[test]
    fn other_heads_are_not_ours() {
        for bytes in [
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}"#,
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{}}"#,
            r#"{"apiVersion":"v1"}"#,
            "",
        ] {
            assert_eq!(metadata_at(bytes.as_bytes()), None);
        }
    }
}
