//! Kubernetes' protobuf form of objects, from and to the same JSON as the other formats: driven
//! by a table of field numbers, so there is no second universe of structs.
//!
//! Source: apimachinery/pkg/runtime/serializer/protobuf and the `Marshal` methods of the special types.

use api_types::ApiError;
use serde_json::Value;

use self::{
    decode::text,
    table::{TABLE, Type},
    wire::{Field as WireField, Fields, WireError, put_length, put_tag, put_varint},
};

mod decode;
mod encode;
mod table;
mod wire;

pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// A watch is a stream of frames of another form.
pub const STREAM_MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";
/// Every body begins with it; a `runtime.Unknown` follows.
pub const MAGIC: &[u8] = b"k8s\0";
/// An envelope ends with the content's encoding and type: none.
pub const ENVELOPE_END: &[u8] = b"\x1a\0\x22\0";
/// The field of a list that holds its items.
const ITEMS: u32 = 2;

/// Group, version and kind.
pub type Kind<'a> = (&'a str, &'a str, &'a str);

#[derive(Debug, thiserror::Error)]
pub enum ProtobufError {
    #[error("the body does not begin with the protobuf prefix of Kubernetes")]
    NoMagic,
    #[error("the body is truncated or no protobuf: {0}")]
    Wire(#[from] WireError),
    #[error("the content encoding {0:?} is not supported")]
    Encoding(String),
    #[error("{0} has no protobuf form here")]
    UnknownType(String),
    #[error("the JSON cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    #[error("messages are nested too deep")]
    Depth,
    #[error("a text is no UTF-8")]
    Text,
}

impl From<ProtobufError> for ApiError {
    fn from(error: ProtobufError) -> Self {
        ApiError::internal(format!("the object cannot be written as protobuf: {error}"))
    }
}

/// Whether objects of this kind have a protobuf form: all built-in ones have.
pub fn has(kind: Kind<'_>) -> bool {
    TABLE.of(kind).is_some()
}

/// Reads a body that holds an object of this kind.
pub fn decode(body: &[u8], (group, version, kind): Kind<'_>) -> Result<Value, ProtobufError> {
    let (of, raw) = opened(body)?;
    let mut object = decode::message(message_of((group, version, kind))?, raw)?;
    // What the client says it is goes before what it should be, so that a difference is refused.
    if let Some(api_version) = of.api_version {
        object["apiVersion"] = text(api_version)?.into();
    }
    if let Some(kind) = of.kind {
        object["kind"] = text(kind)?.into();
    }
    Ok(object)
}

/// Reads an object of whatever kind it says it is.
pub fn decode_any(body: &[u8]) -> Result<Value, ProtobufError> {
    let (of, _) = opened(body)?;
    let (api_version, kind) = (text(of.api_version.unwrap_or_default())?, text(of.kind.unwrap_or_default())?);
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    decode(body, (group, version, &kind))
}

/// An object's JSON as a whole body. Its type is looked for in the JSON itself.
pub fn encode(object: &Value) -> Result<Vec<u8>, ProtobufError> {
    let word = |name: &str| object[name].as_str().filter(|word| !word.is_empty());
    // Discovery's oldest documents do not say of which version they are.
    let (api_version, kind) = (word("apiVersion").unwrap_or("v1"), word("kind").unwrap_or_default());
    let raw = raw(api_version, kind, &serde_json::to_vec(object)?)?;
    Ok(enveloped(api_version, kind, &raw))
}

/// The message of an object, without the envelope, from its JSON.
pub fn raw(api_version: &str, kind: &str, json: &[u8]) -> Result<Vec<u8>, ProtobufError> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    encode::message(message_of((group, version, kind))?, json)
}

pub fn enveloped(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut body = envelope(api_version, kind, raw.len());
    body.extend_from_slice(raw);
    body.extend_from_slice(ENVELOPE_END);
    body
}

/// What stands before a message of so many bytes; [`ENVELOPE_END`] stands behind it.
pub fn envelope(api_version: &str, kind: &str, bytes: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(MAGIC.len() + api_version.len() + kind.len() + 32 + bytes);
    body.extend_from_slice(MAGIC);
    put_tag(&mut body, 1, Type::Message(0));
    let at = body.len();
    put_bytes(&mut body, 1, api_version.as_bytes());
    put_bytes(&mut body, 2, kind.as_bytes());
    put_length(&mut body, at);
    put_tag(&mut body, 2, Type::Bytes);
    put_varint(&mut body, bytes as u64);
    body
}

/// Appends an item of a list's message.
pub fn put_item(list: &mut Vec<u8>, raw: &[u8]) {
    put_bytes(list, ITEMS, raw);
}

/// How many bytes [`put_item`] adds.
pub fn item_bytes(raw: &[u8]) -> usize {
    let length_bits = (u64::BITS - (raw.len() as u64 | 1).leading_zeros()) as usize;
    1 + length_bits.div_ceil(7) + raw.len()
}

/// Appends an event of a watch: its length, and a `WatchEvent` around an enveloped object.
///
/// Source: `LengthDelimitedFramer` and `RawSerializer` in apimachinery/pkg/runtime/serializer/protobuf.
pub fn put_frame(chunk: &mut Vec<u8>, word: &str, body: &[u8]) {
    let start = chunk.len();
    chunk.extend_from_slice(&[0; size_of::<u32>()]);
    put_bytes(chunk, 1, word.as_bytes());
    let mut extension = Vec::with_capacity(body.len() + 8);
    put_bytes(&mut extension, 1, body);
    put_bytes(chunk, 2, &extension);
    let length = u32::try_from(chunk.len() - start - size_of::<u32>()).expect("an object is far smaller than 4 GiB");
    chunk[start..start + size_of::<u32>()].copy_from_slice(&length.to_be_bytes());
}

fn message_of(kind: Kind<'_>) -> Result<usize, ProtobufError> {
    TABLE.of(kind).ok_or_else(|| ProtobufError::UnknownType(kind.2.to_owned()))
}

/// What an envelope says that its content is.
#[derive(Default)]
struct Of<'a> {
    api_version: Option<&'a [u8]>,
    kind: Option<&'a [u8]>,
}

fn opened(body: &[u8]) -> Result<(Of<'_>, &[u8]), ProtobufError> {
    let unknown = body.strip_prefix(MAGIC).ok_or(ProtobufError::NoMagic)?;
    let (mut raw, mut type_meta) = (&[][..], &[][..]);
    for field in Fields::new(unknown) {
        match field? {
            (1, WireField::Bytes(bytes)) => type_meta = bytes,
            (2, WireField::Bytes(bytes)) => raw = bytes,
            (3, WireField::Bytes(encoding)) if !encoding.is_empty() => {
                return Err(ProtobufError::Encoding(text(encoding)?));
            }
            _ => {}
        }
    }
    let mut of = Of::default();
    for field in Fields::new(type_meta) {
        match field? {
            (1, WireField::Bytes(api_version)) => of.api_version = Some(api_version),
            (2, WireField::Bytes(kind)) => of.kind = Some(kind),
            _ => {}
        }
    }
    Ok((of, raw))
}

/// A field that is a flag, set.
pub fn put_true(into: &mut Vec<u8>, number: u32) {
    put_tag(into, number, Type::Bool);
    into.push(1);
}

/// A field of bytes, text or a message.
pub fn put_bytes(into: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_tag(into, number, Type::Bytes);
    put_varint(into, bytes.len() as u64);
    into.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests;
