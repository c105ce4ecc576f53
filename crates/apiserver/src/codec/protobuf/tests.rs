use std::{fs, path::PathBuf};

use api_types::schema;
use serde_json::json;

use super::*;

/// A length-delimited field with a number below 16.
fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
    field.extend_from_slice(content);
    field
}

fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let of = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), bytes(1, &of), bytes(2, raw)].concat()
}

#[test]
fn an_object_is_what_its_json_would_be() {
    let metadata = [bytes(1, b"a"), bytes(8, &[]), bytes(11, &[bytes(1, b"k"), bytes(2, b"v")].concat())].concat();
    let raw = [bytes(1, &metadata), bytes(2, &[bytes(1, b"x"), bytes(2, b"y")].concat())].concat();
    let object = decode(&body("v1", "ConfigMap", &raw), ("", "v1", "ConfigMap")).unwrap();
    assert_eq!(
        object,
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": {"k": "v"}},
            "data": {"x": "y"}})
    );
}

#[test]
fn embedded_structs_have_no_name() {
    let volume = [bytes(1, b"v"), bytes(2, &bytes(2, &bytes(1, b"")))].concat();
    let spec = bytes(1, &volume);
    let object = decode(&body("v1", "Pod", &bytes(2, &spec)), ("", "v1", "Pod")).unwrap();
    assert_eq!(object["spec"]["volumes"], json!([{"name": "v", "emptyDir": {"medium": ""}}]));
}

#[test]
fn bad_bodies_are_refused() {
    for bad in [&b""[..], b"k8s", b"{}", b"k8s\0\x0a\xff", b"k8s\0\x12\x02\x0a\x09", b"k8s\0\x12\x01\x80"] {
        assert!(decode(bad, ("", "v1", "Pod")).is_err(), "{bad:?}");
    }
    assert!(decode(b"k8s\0", ("", "v1", "None")).is_err());
}

/// Upstream writes every field that is no pointer, set or not.
#[test]
fn unset_fields_are_written_as_upstream_writes_them() {
    let raw = raw("v1", "ConfigMap", br#"{"metadata":{"name":"a"},"immutable":false}"#).unwrap();
    let metadata = b"\x0a\x01a\x12\0\x1a\0\x22\0\x2a\0\x32\0\x38\0\x42\0";
    assert_eq!(raw, [&[0x0a, u8::try_from(metadata.len()).unwrap()], &metadata[..], b"\x20\0"].concat());
}

#[test]
fn an_event_of_a_watch_is_framed() {
    let mut chunk = vec![9];
    put_frame(&mut chunk, "ADDED", b"body");
    assert_eq!(chunk, [&[9, 0, 0, 0, 15, 0x0a, 5][..], b"ADDED", &[0x12, 6, 0x0a, 4], b"body"].concat());
}

#[test]
fn items_are_as_long_as_announced() {
    for length in [0, 1, 127, 128, 16_383, 16_384] {
        let mut list = Vec::new();
        put_item(&mut list, &vec![0; length]);
        assert_eq!(list.len(), item_bytes(&vec![0; length]));
    }
}

#[test]
fn values_of_a_wrong_type_are_errors() {
    for (kind, json) in [
        ("Pod", r#"{"spec":{"containers":"x"}}"#),
        ("Pod", r#"{"spec":{"priority":"x"}}"#),
        ("Pod", r#"{"spec":7}"#),
        ("Pod", r#"{"metadata":{"creationTimestamp":"yesterday"}}"#),
        ("Secret", r#"{"data":{"a":"*"}}"#),
        ("Pod", "{"),
        ("Nope", "{}"),
    ] {
        assert!(raw("v1", kind, json.as_bytes()).is_err(), "{json}");
    }
}

/// Every field of every kind, by its shape. Protobuf cannot tell an empty list or map from none, so there are none.
#[test]
fn every_kind_survives_the_way_there_and_back() {
    let mut kinds = 0;
    for resource in api_types::resources::BUILT_IN {
        let type_ = schema::of_resource(resource).unwrap();
        for holes in 0..4 {
            let mut object = filled(type_, Sampling { holes, turn: holes, within: &[] });
            object["apiVersion"] = resource.api_version().into();
            object["kind"] = resource.kind.to_string().into();
            let canonical = schema::decode(type_, object).unwrap().value;
            let bytes = encode(&canonical).unwrap();
            let back = schema::decode(type_, decode_any(&bytes).unwrap()).unwrap().value;
            // Upstream writes out empty what is required, so an object with holes comes back without them.
            assert!(holes > 0 || back == canonical, "{back} is not {canonical}");
            assert_eq!(encode(&back).unwrap(), bytes, "{} {holes}", resource.kind);
        }
        kinds += 1;
    }
    assert!(kinds > 60);
}

/// Which fields are left out (none if 0), which of a shape's values is taken, and the types around it.
#[derive(Clone, Copy)]
struct Sampling<'a> {
    holes: usize,
    turn: usize,
    within: &'a [&'a str],
}

/// A value with some of the type's fields. A type that contains itself does so no further.
fn filled(type_: &schema::Type, by: Sampling) -> Value {
    let depth = by.within.len();
    let within: Vec<&str> = by.within.iter().copied().chain([type_.name.as_ref()]).collect();
    let fields = type_.fields.iter().enumerate().filter(|(at, field)| {
        let inner = field.shape.innermost().as_struct();
        let is_shallow = inner.is_none_or(|inner| !within.contains(&inner.name.as_ref()));
        // A claim inside a StatefulSet loses them on the way; upstream's defaults bring them back.
        let is_type = matches!(field.name.as_ref(), "apiVersion" | "kind") && !type_.kinds.is_empty();
        is_shallow && !is_type && (by.holes == 0 || !(at * 7 + depth * 3 + by.holes).is_multiple_of(3))
    });
    let fields = fields.map(|(at, field)| {
        let by = Sampling { turn: by.turn + at, within: &within, ..by };
        (field.name.to_string(), sample(&field.shape, by))
    });
    Value::Object(fields.collect())
}

fn sample(shape: &schema::Shape, by: Sampling) -> Value {
    use schema::Shape;
    let next = |at| Sampling { turn: by.turn + at, ..by };
    let turn = by.turn;
    match shape {
        Shape::String => format!("text {turn} ä").into(),
        Shape::Int32 => [json!(turn), json!(-7), json!(i32::MAX)][turn % 3].clone(),
        Shape::Int64 => [json!(turn), json!(i64::MIN), json!(i64::MAX)][turn % 3].clone(),
        Shape::Double => [json!(0.25), json!(3), json!(-1e300)][turn % 3].clone(),
        Shape::Bool => turn.is_multiple_of(2).into(),
        Shape::Bytes => ["AAA=", "AA==", "/+8="][turn % 3].into(),
        Shape::Quantity => ["0", "100m", "1Gi"][turn % 3].into(),
        Shape::IntOrString => [json!(80), json!("25%"), json!(0)][turn % 3].clone(),
        Shape::Time => ["1970-01-01T00:00:00Z", "1815-06-18T11:35:00Z", "2026-01-02T03:04:05Z"][turn % 3].into(),
        Shape::MicroTime => ["2026-01-02T03:04:05.000006Z", "1969-12-31T23:59:59.999999Z"][turn % 2].into(),
        Shape::Raw => json!({"b": [1, null], "a": {"x": "\"y"}}),
        Shape::Any => json!({"type": "object"}),
        Shape::Struct(of) => filled(of.get(), by),
        Shape::List(inner) => (0..=turn % 2).map(|at| sample(inner, next(at))).collect(),
        Shape::Map(inner) => {
            let entries = (0..=turn % 2).map(|at| (format!("key {}", 9 - at), sample(inner, next(at))));
            Value::Object(entries.collect())
        }
    }
}

/// The files that upstream's own serialisers are held to, for every stable kind: ours writes and reads the same bytes.
#[test]
fn bytes_are_those_of_upstream() {
    let shared = std::env::var_os("COXSWAIN_SHARED").map(PathBuf::from);
    let shared = shared.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared").into());
    let folder = shared.join("golden/protobuf");
    let Ok(files) = fs::read_dir(&folder) else {
        return eprintln!("skipped: no recorded objects in {}", folder.display());
    };
    let mut compared = 0;
    for path in files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "pb")) {
        let object: Value = serde_json::from_slice(&fs::read(path.with_extension("json")).unwrap()).unwrap();
        let recorded = fs::read(&path).unwrap();
        let api_version = object["apiVersion"].as_str().unwrap_or_default();
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        if !has((group, version, object["kind"].as_str().unwrap_or_default())) {
            continue;
        }
        let name = path.file_stem().unwrap().to_string_lossy();
        assert_eq!(decode_any(&recorded).unwrap(), object, "{name}");
        // The text of embedded JSON is free; ours has its names in order.
        let ours = encode(&object).unwrap();
        if ours != recorded {
            assert_eq!(ours.len(), recorded.len(), "{name}");
            assert_eq!(decode_any(&ours).unwrap(), object, "{name}");
        }
        compared += 1;
    }
    assert!(compared > 60, "{compared}");
}
