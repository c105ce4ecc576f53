//! Where a stranger's bytes are read, each as a plain function that may neither panic nor
//! grow without bound, and that refuses by a Status. A test feeds them the
//! corpus in `fuzz/` and mutations of it; the same functions are targets of cargo-fuzz.

use api_types::{
    ApiError, Key,
    fields::FieldSelector,
    labels::Selector,
    options::{FieldValidation, GetOptions, ListOptions, Query},
    quantity::Quantity,
    schema,
};
use bytes::{Bytes, BytesMut};
use http::{Method, Uri};
use merge::apply::{self, Node, Ownable, Owners, Set, Subject, Writer};
use serde_json::{Value, json};
use streams::{
    spdy::{frame::Frame, headers::Reader},
    websocket,
};

use crate::{
    authz::Attributes,
    codec::decode::{self, BodyFormat},
    request,
    verbs::continues,
};

const POD: (&str, &str, &str) = ("", "v1", "Pod");

/// Named as its folder in `fuzz/corpus`.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 15] = [
    ("path", path),
    ("query", query),
    ("label_selector", label_selector),
    ("field_selector", field_selector),
    ("quantity", quantity),
    ("json", json),
    ("yaml", yaml),
    ("protobuf", protobuf),
    ("json_patch", json_patch),
    ("merge_patch", merge_patch),
    ("strategic_patch", strategic_patch),
    ("apply_patch", apply_patch),
    ("continue_token", continue_token),
    ("spdy", spdy),
    ("websocket", websocket),
];

/// Feeds one target; for cargo-fuzz.
pub fn run(target: &str, bytes: &[u8]) {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    found.expect("the fuzzer is named as a target").1(bytes);
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// A refusal is a Status; upstream answers 500 to patches that contradict themselves.
fn refused(error: &ApiError) {
    assert!((400..=500).contains(&error.code()), "{} {}", error.code(), error.message());
    assert!(serde_json::to_vec(&error.0).is_ok());
}

/// What is authorised is what is asked for: the same names, and none that holds another's place.
fn path(bytes: &[u8]) {
    let (method, uri) = text(bytes).split_once(' ').unwrap_or(("GET", text(bytes)));
    let (Ok(method), Ok(uri)) = (Method::from_bytes(method.as_bytes()), uri.parse::<Uri>()) else { return };
    let request = request::read(&method, &uri);
    let attributes = Attributes::of(&request);
    assert_eq!(attributes.verb, request.verb);
    if let Some(target) = &request.target {
        assert!(!target.is_in_namespace || uri.path().contains("namespaces"));
    }
}

fn query(bytes: &[u8]) {
    let query = Query::parse(text(bytes));
    GetOptions::from_query(&query);
    if let Err(error) = ListOptions::from_query(&query) {
        refused(&error);
    }
    if let Err(error) = request::deadline(&query, std::time::Duration::from_secs(60)) {
        refused(&error);
    }
}

/// What is printed reads as what was read.
fn label_selector(bytes: &[u8]) {
    if let Ok(selector) = Selector::parse(text(bytes)) {
        let printed = selector.to_string();
        let again = Selector::parse(&printed).unwrap_or_else(|error| panic!("{printed:?}: {error}"));
        assert_eq!(again.to_string(), printed);
    }
}

fn field_selector(bytes: &[u8]) {
    if let Ok(selector) = FieldSelector::parse(text(bytes)) {
        let printed = selector.to_string();
        let again = FieldSelector::parse(&printed).unwrap_or_else(|error| panic!("{printed:?}: {error}"));
        assert_eq!(again.to_string(), printed);
    }
}

fn quantity(bytes: &[u8]) {
    if let Ok(quantity) = Quantity::parse(text(bytes)) {
        let printed = quantity.to_string();
        assert_eq!(Quantity::parse(&printed).ok(), Some(quantity), "{printed:?}");
    }
}

fn body(bytes: &[u8], format: BodyFormat) {
    for validation in [FieldValidation::Strict, FieldValidation::Warn] {
        if let Err(error) = decode::typed(bytes, format, POD, validation) {
            refused(&error);
        }
    }
}
fn json(bytes: &[u8]) {
    body(bytes, BodyFormat::Json);
}
fn yaml(bytes: &[u8]) {
    body(bytes, BodyFormat::Yaml);
}
fn protobuf(bytes: &[u8]) {
    body(bytes, BodyFormat::Protobuf);
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}, "finalizers": ["x/y", "z/w"]},
        "spec": {
            "containers": [
                {"name": "a", "image": "i", "env": [{"name": "E", "value": "v"}],
                    "ports": [{"containerPort": 80, "protocol": "TCP"}]},
                {"name": "b", "image": "i"},
            ],
            "tolerations": [{"key": "k", "operator": "Exists"}],
            "volumes": [{"name": "v", "emptyDir": {}}],
        },
    })
}

/// As a patch's result is taken: it has to fit its kind.
fn patched(result: Result<Value, ApiError>) {
    let checked =
        result.and_then(|object| decode::checked(object, Vec::new(), POD, FieldValidation::Strict).map(|_| ()));
    if let Err(error) = checked {
        refused(&error);
    }
}

fn json_patch(bytes: &[u8]) {
    patched(merge::json_patch(pod(), bytes).map_err(ApiError::from));
}

fn merge_patch(bytes: &[u8]) {
    if let Ok(patch) = serde_json::from_slice::<Value>(bytes) {
        patched(merge::merge_patch(pod(), &patch).map_err(ApiError::from));
    }
}

fn strategic_patch(bytes: &[u8]) {
    let fields = schema::of(POD.0, POD.1, POD.2).expect("pods are built in");
    if let Ok(patch) = serde_json::from_slice::<Value>(bytes) {
        patched(merge::strategic_merge(fields, pod(), patch).map_err(ApiError::from));
    }
}

fn apply_patch(bytes: &[u8]) {
    let Ok(config) = decode::yaml(bytes) else { return };
    let subject = Subject {
        api_version: POD.1,
        kind: POD.2,
        root: Node::root(schema::of(POD.0, POD.1, POD.2)),
        ownable: &Ownable::Except(Set::default()),
        convert: &|_, _| None,
    };
    let writer = Writer { manager: "fuzz", subresource: "", now: "2026-01-01T00:00:00Z" };
    let owners = Owners::stored(config["metadata"]["managedFields"].clone());
    match apply::apply(&subject, writer, &json!({}), &pod(), &config, owners, bytes.len().is_multiple_of(2)) {
        Ok(applied) => patched(Ok(applied.object.unwrap_or_else(pod))),
        Err(error) => refused(&ApiError::from(error)),
    }
}

fn continue_token(bytes: &[u8]) {
    match continues(text(bytes), &Key::new("ns", "")) {
        Ok(start) => assert!(start.starts_with("ns/") && !start.split('/').any(|part| part == ".."), "{start:?}"),
        Err(error) => refused(&error),
    }
}

/// Frames and, in their order, their header blocks.
fn spdy(bytes: &[u8]) {
    let mut buffer = BytesMut::from(bytes);
    let mut reader = Reader::default();
    while let Ok(Some(frame)) = Frame::take(&mut buffer) {
        if let Frame::SynStream { block, .. } | Frame::SynReply { block, .. } | Frame::Headers { block, .. } = frame
            && reader.read(&block).is_err()
        {
            return;
        }
    }
}

/// A client's messages, as they are and as frames on the wire.
fn websocket(bytes: &[u8]) {
    let message = Bytes::copy_from_slice(bytes);
    for protocol in [websocket::V4, websocket::V5] {
        websocket::said(protocol, &message);
    }
    websocket::read_all(bytes);
}
