//! Replies: objects, lists and refusals in the format and shape that the client wants.
//! What is asked for as it is stored is copied, never decoded.

use std::{io::Write, sync::Arc};

use api_types::{ApiError, jiff::Timestamp, table::IncludeObject};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures::stream;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::{
    accept::{Accepted, Format, Shape},
    body::{self, Body},
    encode, protobuf,
};
use crate::{columns, kinds::Kind, watch_cache::Item};

/// Replies from this size on are compressed if the client can read that; upstream's figure.
const GZIP_BYTES_MIN: usize = 128 << 10;
/// A list is sent in pieces of about this size.
const CHUNK_BYTES: usize = 64 << 10;

/// All warnings of an answer; if they are longer, each is cut. Upstream's figures.
const WARNINGS_CHARS_MAX: usize = 4096;
const WARNING_CHARS_MAX: usize = 256;

/// What an item is longer than its stored form, at most: the revision and a comma.
const SPLICED_BYTES_MAX: usize = 48;

/// A page of a list.
#[derive(Debug)]
pub struct Listing {
    pub items: Vec<Arc<Item>>,
    pub revision: u64,
    pub continue_token: Option<String>,
    pub remaining: Option<u64>,
}

/// How a reply's objects are to look.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub kind: &'a Kind,
    pub accepted: Accepted,
    /// For tables.
    pub include: IncludeObject,
}

impl View<'_> {
    /// The message that is kept beside each stored object is what the client wants.
    pub fn is_stored_protobuf(&self) -> bool {
        let Accepted { format, shape, .. } = self.accepted;
        (format, shape) == (Format::Protobuf, Shape::Object) && self.kind.view.is_none()
    }
}

/// One stored object.
pub fn item(status: StatusCode, view: View<'_>, item: &Item) -> Result<Response<Body>, ApiError> {
    readable(view.kind, item)?;
    if view.accepted.is_plain() && view.kind.view.is_none() {
        let mut bytes = Vec::with_capacity(item.stored().len() + 40);
        encode::splice(&mut bytes, item.split(), item.revision);
        return Ok(self::bytes(status, &view.accepted, bytes));
    }
    if view.is_stored_protobuf() {
        let storage = &view.kind.storage;
        let body = protobuf::enveloped(&storage.api_version, &storage.kind, protobuf_of(view.kind, item)?);
        return Ok(self::bytes(status, &view.accepted, body));
    }
    let mut object = item.decode();
    if let Some(convert) = view.kind.view {
        (convert.from_stored)(&mut object);
    }
    Ok(shaped(status, view, object))
}

/// One object in the version of its row.
pub fn shaped(status: StatusCode, view: View<'_>, object: Value) -> Response<Body> {
    let object = match view.accepted.shape {
        Shape::Object => object,
        Shape::Partial => partial(view, object),
        Shape::Table => {
            let metadata = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
            table(view, metadata, [&object], Timestamp::now())
        }
    };
    value(status, &view.accepted, &object)
}

/// Any value. One that has no protobuf form is an error, in JSON.
pub fn value(status: StatusCode, accepted: &Accepted, value: &Value) -> Response<Body> {
    match rendered(accepted, value) {
        Ok(body) => bytes(status, accepted, body),
        Err(error) => refusal(&error, &Accepted { format: Format::Json, ..*accepted }),
    }
}

pub fn rendered(accepted: &Accepted, value: &Value) -> Result<Vec<u8>, ApiError> {
    let bytes = match accepted.format {
        Format::Json if accepted.is_pretty => serde_json::to_vec_pretty(value),
        Format::Json => serde_json::to_vec(value),
        Format::Yaml => return Ok(serde_saphyr::to_string(value).unwrap_or_default().into_bytes()),
        Format::Protobuf => return Ok(protobuf::encode(value)?),
    };
    Ok(bytes.expect("JSON values always serialise into memory"))
}

/// A refusal, in JSON unless the client reads only YAML.
pub fn refusal(error: &ApiError, accepted: &Accepted) -> Response<Body> {
    let status = status(error);
    let code = StatusCode::from_u16(error.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let accepted = Accepted { shape: Shape::Object, ..*accepted };
    let mut response = value(code, &accepted, &status);
    if let Some(seconds) = error.0.details.as_ref().and_then(|details| details.retry_after_seconds) {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// A refusal as an object.
pub fn status(error: &ApiError) -> Value {
    let mut status = serde_json::to_value(&error.0).expect("a Status serialises");
    status["apiVersion"] = "v1".into();
    status["kind"] = "Status".into();
    if !status["metadata"].is_object() {
        status["metadata"] = json!({});
    }
    status
}

/// Adds `Warning: 299` headers: each text once, long ones cut when all would be too long.
///
/// Source: `recorder` in apiserver/pkg/endpoints/filters/warning.go.
pub fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for text in warning_texts(warnings) {
        let quoted = text.replace('\\', r"\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

fn warning_texts(warnings: &[String]) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for warning in warnings {
        let text: String = warning.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if !text.is_empty() && !texts.contains(&text) {
            texts.push(text);
        }
    }
    let length = |text: &String| text.chars().count();
    if texts.iter().map(length).sum::<usize>() > WARNINGS_CHARS_MAX {
        for text in &mut texts {
            *text = text.chars().take(WARNING_CHARS_MAX).collect();
        }
        let mut total = 0;
        texts.retain(|text| {
            let fits = total + length(text) <= WARNINGS_CHARS_MAX;
            total += if fits { length(text) } else { 0 };
            fits
        });
    }
    texts
}

/// A page of a list, as a stream.
pub fn list(view: View<'_>, listing: Listing) -> Result<Response<Body>, ApiError> {
    for item in &listing.items {
        readable(view.kind, item)?;
    }
    let mut metadata = json!({ "resourceVersion": listing.revision.to_string() });
    if let Some(token) = listing.continue_token {
        metadata["continue"] = token.into();
    }
    if let Some(remaining) = listing.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    let resource = &view.kind.resource;
    if view.accepted.is_plain() && view.kind.view.is_none() {
        let head = format!(
            r#"{{"kind":"{}","apiVersion":"{}","metadata":{metadata},"items":["#,
            resource.list_kind(),
            resource.api_version()
        );
        return Ok(streamed(&view.accepted, head.into_bytes(), listing.items));
    }
    if view.is_stored_protobuf() {
        return protobuf_list(view, &metadata, listing.items);
    }
    let objects = listing.items.iter().map(|item| {
        let mut object = item.decode();
        if let Some(convert) = view.kind.view {
            (convert.from_stored)(&mut object);
        }
        object
    });
    let list = match view.accepted.shape {
        Shape::Table => {
            let objects: Vec<Value> = objects.collect();
            table(view, metadata, &objects, Timestamp::now())
        }
        Shape::Partial => json!({ "kind": "PartialObjectMetadataList", "apiVersion": view.accepted.meta_api_version,
            "metadata": metadata, "items": objects.map(|object| partial(view, object)).collect::<Vec<_>>() }),
        Shape::Object => json!({ "kind": resource.list_kind(), "apiVersion": resource.api_version(),
            "metadata": metadata, "items": objects.map(untyped).collect::<Vec<_>>() }),
    };
    Ok(value(StatusCode::OK, &view.accepted, &list))
}

/// A list's message is its metadata and, one behind the other, those of its items, which are kept beside them.
fn protobuf_list(view: View<'_>, metadata: &Value, items: Vec<Arc<Item>>) -> Result<Response<Body>, ApiError> {
    let (api_version, kind) = (view.kind.resource.api_version(), view.kind.resource.list_kind());
    let list = json!({ "metadata": metadata }).to_string();
    let list = protobuf::raw(&api_version, &kind, list.as_bytes())?;
    let mut size = list.len();
    for item in &items {
        size += protobuf::item_bytes(protobuf_of(view.kind, item)?);
    }
    let mut head = protobuf::envelope(&api_version, &kind, size);
    head.extend_from_slice(&list);
    Ok(streamed(&view.accepted, head, items))
}

/// The message of a stored object.
pub fn protobuf_of<'a>(kind: &Kind, item: &'a Item) -> Result<&'a Bytes, ApiError> {
    let message = item.protobuf(&kind.storage.api_version, &kind.storage.kind);
    message.map_err(|error| unreadable(kind, item, &error))
}

/// Items of a built-in list do not repeat its type.
fn untyped(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    object
}

pub fn partial(view: View<'_>, mut object: Value) -> Value {
    let metadata = object.get_mut("metadata").map(Value::take).unwrap_or_default();
    json!({ "kind": "PartialObjectMetadata", "apiVersion": view.accepted.meta_api_version, "metadata": metadata })
}

/// A table of objects.
pub fn table<'a>(
    view: View<'_>,
    metadata: Value,
    objects: impl IntoIterator<Item = &'a Value>,
    now: Timestamp,
) -> Value {
    let rows: Vec<Value> = objects.into_iter().map(|object| row(view, object, now)).collect();
    json!({ "kind": "Table", "apiVersion": view.accepted.meta_api_version, "metadata": metadata,
        "columnDefinitions": columns::columns(&view.kind.resource), "rows": rows })
}

fn row(view: View<'_>, object: &Value, now: Timestamp) -> Value {
    let mut row = serde_json::to_value(columns::row(&view.kind.resource, object, now)).expect("a row serialises");
    row["object"] = match view.include {
        IncludeObject::None => Value::Null,
        IncludeObject::Metadata => partial(view, json!({ "metadata": object["metadata"] })),
        IncludeObject::Object => object.clone(),
    };
    row
}

fn readable(kind: &Kind, item: &Item) -> Result<(), ApiError> {
    match &item.corrupt {
        None => Ok(()),
        Some(why) => Err(unreadable(kind, item, why)),
    }
}

pub fn unreadable(kind: &Kind, item: &Item, why: &dyn std::fmt::Display) -> ApiError {
    let key = item.key.to_string();
    ApiError::internal(format!("the stored {} {key:?} cannot be read: {why}", kind.resource.plural))
}

pub fn bytes(status: StatusCode, accepted: &Accepted, bytes: Vec<u8>) -> Response<Body> {
    let builder = Response::builder().status(status).header(header::CONTENT_TYPE, accepted.format.media_type());
    let response = if accepted.is_gzip && bytes.len() >= GZIP_BYTES_MIN {
        let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
        encoder.write_all(&bytes).expect("compressing into memory cannot fail");
        let bytes = encoder.finish().expect("compressing into memory cannot fail");
        builder
            .header(header::CONTENT_ENCODING, "gzip")
            .header(header::VARY, "Accept-Encoding")
            .header(header::CONTENT_LENGTH, bytes.len())
            .body(body::full(bytes))
    } else {
        builder.header(header::CONTENT_LENGTH, bytes.len()).body(body::full(bytes))
    };
    response.expect("fixed header names and values")
}

/// What is left of a list to send.
struct Chunks {
    items: std::vec::IntoIter<Arc<Item>>,
    format: Format,
    pending: Vec<u8>,
    is_first: bool,
    gzip: Option<GzEncoder<Vec<u8>>>,
    is_done: bool,
}

impl Chunks {
    /// Fills the next piece; `None` after the last.
    fn next(&mut self) -> Option<Bytes> {
        if self.is_done {
            return None;
        }
        while self.pending.len() < CHUNK_BYTES {
            let Some(item) = self.items.next() else {
                let end = if self.format == Format::Protobuf { protobuf::ENVELOPE_END } else { b"]}" };
                self.pending.extend_from_slice(end);
                self.is_done = true;
                break;
            };
            if self.format == Format::Protobuf {
                protobuf::put_item(&mut self.pending, item.made_protobuf());
                continue;
            }
            if !std::mem::take(&mut self.is_first) {
                self.pending.push(b',');
            }
            encode::splice(&mut self.pending, (br#"{"metadata":{"#, item.split().1), item.revision);
        }
        let plain = std::mem::replace(&mut self.pending, Vec::with_capacity(CHUNK_BYTES + 4096));
        let Some(gzip) = &mut self.gzip else { return Some(plain.into()) };
        gzip.write_all(&plain).expect("compressing into memory cannot fail");
        if self.is_done {
            let gzip = self.gzip.take()?;
            return Some(gzip.finish().expect("compressing into memory cannot fail").into());
        }
        Some(std::mem::take(gzip.get_mut()).into())
    }
}

fn streamed(accepted: &Accepted, head: Vec<u8>, items: Vec<Arc<Item>>) -> Response<Body> {
    let size = head.len() + items.iter().map(|item| item.stored().len() + SPLICED_BYTES_MAX).sum::<usize>();
    let is_gzip = accepted.is_gzip && size >= GZIP_BYTES_MIN;
    let gzip = is_gzip.then(|| GzEncoder::new(Vec::new(), Compression::fast()));
    let format = accepted.format;
    let mut chunks = Chunks { items: items.into_iter(), format, pending: head, is_first: true, gzip, is_done: false };
    let mut response = Response::builder().header(header::CONTENT_TYPE, accepted.format.media_type());
    if is_gzip {
        response = response.header(header::CONTENT_ENCODING, "gzip").header(header::VARY, "Accept-Encoding");
    }
    if size < CHUNK_BYTES {
        let bytes = chunks.next().expect("the first chunk holds at least the head");
        let response = response.header(header::CONTENT_LENGTH, bytes.len()).body(body::full(bytes));
        return response.expect("fixed header names and values");
    }
    let pieces = stream::iter(std::iter::from_fn(move || chunks.next().map(Ok::<_, std::convert::Infallible>)));
    response.body(body::stream(pieces)).expect("fixed header names and values")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_bounded() {
        let check = |warnings: &[&str], expected: &[(&str, usize)]| {
            let warnings: Vec<String> = warnings.iter().map(|text| (*text).to_owned()).collect();
            let texts = warning_texts(&warnings);
            let found: Vec<(&str, usize)> = texts.iter().map(|text| (&text[..1], text.chars().count())).collect();
            assert_eq!(found, expected);
        };
        let (long, longer) = ("é".repeat(3_000), "b".repeat(2_000));
        check(&["a", "a", ""], &[("a", 1)]);
        check(&[&longer, "c\r\nd"], &[("b", 2_000), ("c", 4)]);
        check(&[&longer, &longer, "a"], &[("b", 2_000), ("a", 1)]);
        let many: Vec<String> = (10..40).map(|number| format!("{number}{}", "x".repeat(400))).collect();
        let texts = warning_texts(&many);
        assert_eq!((texts.len(), texts[0].len()), (WARNINGS_CHARS_MAX / WARNING_CHARS_MAX, WARNING_CHARS_MAX));
        assert_eq!(warning_texts(&[long, longer])[0].chars().count(), WARNING_CHARS_MAX);
    }
}
