//! JSON text -> protobuf, in one pass over the text and without a value in between: each
//! field is encoded where it is met, then the message's fields are put into order, with
//! upstream's bytes for those that nobody set. What upstream's encoder writes, byte for byte.

use std::{fmt, ops::Range};

use api_types::jiff::Timestamp;
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{
    Deserialize,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    ProtobufError,
    table::{Field, Place, Repeated, Special, Step, TABLE, Type},
    wire::{put_length, put_tag, put_varint},
};

/// The message of an object, from its JSON. Fields that the message does not have are left out.
pub fn message(message: usize, json: &[u8]) -> Result<Vec<u8>, ProtobufError> {
    let mut encoder = Encoder { bytes: Vec::with_capacity(json.len()), ..Encoder::default() };
    let mut text = serde_json::Deserializer::from_slice(json);
    let whole = Seed { encoder: &mut encoder, number: 0, type_: Type::Message(message), repeated: Repeated::No };
    whole.content().deserialize(&mut text)?;
    text.end()?;
    Ok(encoder.bytes)
}

#[derive(Default)]
struct Encoder {
    bytes: Vec<u8>,
    /// For putting a message into order.
    spare: Vec<u8>,
    /// For each slot of the messages under way where in `bytes` it was encoded; empty: nowhere.
    slots: Vec<Range<usize>>,
}

impl Encoder {
    /// Puts the fields behind `start` into order.
    fn assemble(&mut self, steps: &[Step], start: usize, first_slot: usize) {
        self.spare.clear();
        write(steps, &self.bytes, &self.slots[first_slot..], &mut self.spare);
        self.bytes.truncate(start);
        self.bytes.extend_from_slice(&self.spare);
        self.slots.truncate(first_slot);
    }
}

fn write(steps: &[Step], encoded: &[u8], slots: &[Range<usize>], into: &mut Vec<u8>) {
    for step in steps {
        match step {
            Step::Field { slot, unset } => match slots[*slot].clone() {
                range if range.is_empty() => into.extend_from_slice(unset),
                range => into.extend_from_slice(&encoded[range]),
            },
            Step::Inline { number, steps } => {
                put_tag(into, *number, Type::Message(0));
                let at = into.len();
                write(steps, encoded, slots, into);
                put_length(into, at);
            }
        }
    }
}

/// Encodes one JSON value as a field, or (`Content`) as what stands behind a field's tag.
struct Seed<'e> {
    encoder: &'e mut Encoder,
    number: u32,
    type_: Type,
    repeated: Repeated,
}

impl<'e> Seed<'e> {
    fn of(encoder: &'e mut Encoder, Place { number, field: Field { type_, repeated, .. }, .. }: Place) -> Self {
        Self { encoder, number, type_, repeated }
    }

    fn content(self) -> Content<'e> {
        Content { encoder: self.encoder, type_: self.type_ }
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, text: D) -> Result<(), D::Error> {
        match self.repeated {
            Repeated::No => text.deserialize_option(self),
            Repeated::List | Repeated::Map => text.deserialize_any(self),
        }
    }
}

/// Null is absent; lists and maps are several fields of one number.
impl<'de> Visitor<'de> for Seed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.repeated {
            Repeated::No => write!(f, "a value"),
            Repeated::List => write!(f, "a list"),
            Repeated::Map => write!(f, "an object"),
        }
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: de::Deserializer<'de>>(self, text: D) -> Result<(), D::Error> {
        put_tag(&mut self.encoder.bytes, self.number, self.type_);
        self.content().deserialize(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        loop {
            let before = self.encoder.bytes.len();
            put_tag(&mut self.encoder.bytes, self.number, self.type_);
            let item = Content { encoder: &mut *self.encoder, type_: self.type_ };
            if items.next_element_seed(item)?.is_none() {
                self.encoder.bytes.truncate(before);
                return Ok(());
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let start = self.encoder.bytes.len();
        let mut written: Vec<(String, Range<usize>)> = Vec::new();
        while let Some(key) = entries.next_key::<String>()? {
            let entry = self.encoder.bytes.len();
            put_tag(&mut self.encoder.bytes, self.number, Type::Message(0));
            let at = self.encoder.bytes.len();
            put_tag(&mut self.encoder.bytes, 1, Type::String);
            put_varint(&mut self.encoder.bytes, key.len() as u64);
            self.encoder.bytes.extend_from_slice(key.as_bytes());
            put_tag(&mut self.encoder.bytes, 2, self.type_);
            entries.next_value_seed(Content { encoder: &mut *self.encoder, type_: self.type_ })?;
            put_length(&mut self.encoder.bytes, at);
            written.push((key, entry..self.encoder.bytes.len()));
        }
        if !written.is_sorted_by(|(a, _), (b, _)| a <= b) {
            written.sort_by(|(a, _), (b, _)| a.cmp(b));
            let encoder = self.encoder;
            encoder.spare.clear();
            for (_, range) in written {
                encoder.spare.extend_from_slice(&encoder.bytes[range]);
            }
            encoder.bytes.truncate(start);
            encoder.bytes.extend_from_slice(&encoder.spare);
        }
        Ok(())
    }
}

/// What stands behind a tag, with its length where it has one.
struct Content<'e> {
    encoder: &'e mut Encoder,
    type_: Type,
}

impl<'de> DeserializeSeed<'de> for Content<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, text: D) -> Result<(), D::Error> {
        if let Type::Message(message) = self.type_ {
            let is_whole = self.encoder.bytes.is_empty();
            let at = self.encoder.bytes.len();
            match TABLE.messages[message].special {
                Some(Special::Raw) => {
                    let raw = <&RawValue>::deserialize(text)?.get();
                    if raw != "null" {
                        put_text(&mut self.encoder.bytes, 1, raw.as_bytes());
                    }
                }
                Some(special) => text.deserialize_any(Spelled { encoder: &mut *self.encoder, message, special })?,
                None => text.deserialize_any(Fields { encoder: &mut *self.encoder, message })?,
            }
            // The outermost message stands alone.
            if !is_whole {
                put_length(&mut self.encoder.bytes, at);
            }
            return Ok(());
        }
        text.deserialize_any(self)
    }
}

/// A scalar.
impl Visitor<'_> for Content<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.type_ {
            Type::String => write!(f, "a string"),
            Type::Bytes => write!(f, "a string in base64"),
            Type::Bool => write!(f, "a boolean"),
            Type::Integer => write!(f, "an integer"),
            Type::Double => write!(f, "a number"),
            Type::Message(_) => write!(f, "an object"),
        }
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        match self.type_ {
            Type::Bool => self.encoder.bytes.push(value.into()),
            _ => return Err(E::invalid_type(de::Unexpected::Bool(value), &self)),
        }
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        match self.type_ {
            Type::Integer => put_varint(&mut self.encoder.bytes, value.cast_unsigned()),
            Type::Double => self.encoder.bytes.extend_from_slice(&(value as f64).to_le_bytes()),
            _ => return Err(E::invalid_type(de::Unexpected::Signed(value), &self)),
        }
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => Err(E::invalid_value(de::Unexpected::Unsigned(value), &self)),
        }
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        match self.type_ {
            Type::Double => self.encoder.bytes.extend_from_slice(&value.to_le_bytes()),
            _ => return Err(E::invalid_type(de::Unexpected::Float(value), &self)),
        }
        Ok(())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        let bytes = &mut self.encoder.bytes;
        let at = bytes.len();
        match self.type_ {
            Type::String => bytes.extend_from_slice(text.as_bytes()),
            Type::Bytes => BASE64_STANDARD.decode_vec(text, bytes).map_err(E::custom)?,
            _ => return Err(E::invalid_type(de::Unexpected::Str(text), &self)),
        }
        put_length(bytes, at);
        Ok(())
    }

    /// In a list or map, null is the empty value.
    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        let size = if self.type_ == Type::Double { 8 } else { 1 };
        self.encoder.bytes.extend_from_slice(&[0; 8][..size]);
        Ok(())
    }
}

/// A message from the object of its fields.
struct Fields<'e> {
    encoder: &'e mut Encoder,
    message: usize,
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object ({})", TABLE.messages[self.message].name)
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let Self { encoder, message } = self;
        let message = &TABLE.messages[message];
        let (start, first_slot) = (encoder.bytes.len(), encoder.slots.len());
        encoder.slots.resize(first_slot + message.slots, 0..0);
        while let Some(place) = fields.next_key_seed(Name(message))? {
            let Some(place) = place else {
                fields.next_value::<IgnoredAny>()?;
                continue;
            };
            let at = encoder.bytes.len();
            fields.next_value_seed(Seed::of(encoder, place))?;
            encoder.slots[first_slot + place.slot] = at..encoder.bytes.len();
        }
        encoder.assemble(&message.steps, start, first_slot);
        Ok(())
    }
}

/// Looks up a field without copying its name.
struct Name(&'static super::table::Message);

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Option<Place>;

    fn deserialize<D: de::Deserializer<'de>>(self, text: D) -> Result<Self::Value, D::Error> {
        text.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Option<Place>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the name of a field")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.places.get(name).copied())
    }
}

/// A message whose JSON is not an object of its fields.
struct Spelled<'e> {
    encoder: &'e mut Encoder,
    message: usize,
    special: Special,
}

impl Spelled<'_> {
    /// A field of the message, by number.
    fn field(&mut self, number: u32) -> Seed<'_> {
        let Field { type_, repeated, .. } = TABLE.messages[self.message].fields[&number];
        Seed { encoder: self.encoder, number, type_, repeated }
    }
}

impl<'de> Visitor<'de> for Spelled<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value of {}", TABLE.messages[self.message].name)
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        let bytes = &mut self.encoder.bytes;
        match self.special {
            Special::Quantity => put_text(bytes, 1, text.as_bytes()),
            Special::IntOrString => {
                put_number(bytes, 1, 1);
                put_number(bytes, 2, 0);
                put_text(bytes, 3, text.as_bytes());
            }
            Special::Time | Special::MicroTime => {
                let at: Timestamp = text.parse().map_err(E::custom)?;
                let nanos = at.as_nanosecond().rem_euclid(1_000_000_000) as i64;
                put_number(bytes, 1, at.as_nanosecond().div_euclid(1_000_000_000) as i64);
                put_number(bytes, 2, if self.special == Special::Time { 0 } else { nanos / 1000 * 1000 });
            }
            Special::Duration => {
                let duration: api_types::jiff::SignedDuration = text.parse().map_err(E::custom)?;
                put_number(bytes, 1, i64::try_from(duration.as_nanos()).map_err(E::custom)?);
            }
            _ => return Err(E::invalid_type(de::Unexpected::Str(text), &self)),
        }
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        let bytes = &mut self.encoder.bytes;
        match self.special {
            Special::IntOrString => {
                put_number(bytes, 1, 0);
                put_number(bytes, 2, value);
                put_text(bytes, 3, b"");
            }
            Special::Quantity => put_text(bytes, 1, value.to_string().as_bytes()),
            _ => return Err(E::invalid_type(de::Unexpected::Signed(value), &self)),
        }
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => Err(E::invalid_value(de::Unexpected::Unsigned(value), &self)),
        }
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        match self.special {
            Special::SchemaOrBool => put_number(&mut self.encoder.bytes, 1, value.into()),
            _ => return Err(E::invalid_type(de::Unexpected::Bool(value), &self)),
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, items: A) -> Result<(), A::Error> {
        match self.special {
            Special::Items => self.field(1).visit_seq(items),
            Special::SchemaOrArray | Special::SchemaOrTexts => self.field(2).visit_seq(items),
            _ => Err(de::Error::invalid_type(de::Unexpected::Seq, &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, fields: A) -> Result<(), A::Error> {
        let number = match self.special {
            Special::SchemaOrArray | Special::SchemaOrTexts => 1,
            Special::SchemaOrBool => {
                put_number(&mut self.encoder.bytes, 1, 1);
                2
            }
            _ => return Err(de::Error::invalid_type(de::Unexpected::Map, &self)),
        };
        let schema = self.field(number);
        let Type::Message(message) = schema.type_ else {
            return Err(de::Error::invalid_type(de::Unexpected::Map, &"a message"));
        };
        put_tag(&mut schema.encoder.bytes, number, schema.type_);
        let at = schema.encoder.bytes.len();
        Fields { encoder: &mut *schema.encoder, message }.visit_map(fields)?;
        put_length(&mut schema.encoder.bytes, at);
        Ok(())
    }
}

fn put_number(bytes: &mut Vec<u8>, number: u32, value: i64) {
    put_tag(bytes, number, Type::Integer);
    put_varint(bytes, value.cast_unsigned());
}

fn put_text(bytes: &mut Vec<u8>, number: u32, text: &[u8]) {
    put_tag(bytes, number, Type::Bytes);
    put_varint(bytes, text.len() as u64);
    bytes.extend_from_slice(text);
}
