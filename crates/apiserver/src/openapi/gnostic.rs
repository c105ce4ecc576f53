//! The v2 document in protobuf, as client-go asks for it: the messages of gnostic's model, from
//! the document's JSON. A table of numbers says which field of which message a JSON field is.
//!
//! Source: openapiv2/OpenAPIv2.proto in google/gnostic-models.

use serde_json::Value;

use crate::codec::protobuf::{put_bytes, put_true};

/// How a JSON value stands in a message.
enum Form {
    Text,
    /// Written if true.
    Flag,
    /// Any value, as YAML, which JSON is.
    Any,
    Message(&'static Message),
    /// Each item of a list in this form.
    Each(&'static Form),
    /// A message with one field of this number and form.
    Within(u32, &'static Form),
    /// A message that has in this field, for every entry of an object, its name and its value in this form.
    Named(u32, &'static Form),
    /// A body, or something in the path or query.
    Parameter,
}

struct Message {
    fields: &'static [(&'static str, u32, Form)],
    /// The field for extensions, `x-…`; 0: there is none.
    extensions: u32,
}

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Form::Text),
        ("info", 2, Form::Message(&INFO)),
        ("paths", 8, Form::Named(2, &Form::Message(&PATH))),
        ("definitions", 9, Form::Named(1, &Form::Message(&SCHEMA))),
        ("security", 12, Form::Each(&Form::Named(1, &Form::Within(1, &Form::Each(&Form::Text))))),
        ("securityDefinitions", 13, Form::Named(1, &Form::Within(2, &Form::Message(&API_KEY)))),
    ],
    extensions: 16,
};

static INFO: Message = Message { fields: &[("title", 1, Form::Text), ("version", 2, Form::Text)], extensions: 7 };

static API_KEY: Message = Message {
    fields: &[("type", 1, Form::Text), ("name", 2, Form::Text), ("in", 3, Form::Text), ("description", 4, Form::Text)],
    extensions: 5,
};

static PATH: Message = Message {
    fields: &[
        ("get", 2, Form::Message(&OPERATION)),
        ("put", 3, Form::Message(&OPERATION)),
        ("post", 4, Form::Message(&OPERATION)),
        ("delete", 5, Form::Message(&OPERATION)),
        ("options", 6, Form::Message(&OPERATION)),
        ("head", 7, Form::Message(&OPERATION)),
        ("patch", 8, Form::Message(&OPERATION)),
    ],
    extensions: 10,
};

static OPERATION: Message = Message {
    fields: &[
        ("description", 3, Form::Text),
        ("operationId", 5, Form::Text),
        ("produces", 6, Form::Each(&Form::Text)),
        ("consumes", 7, Form::Each(&Form::Text)),
        ("parameters", 8, Form::Each(&Form::Within(1, &Form::Parameter))),
        ("responses", 9, Form::Named(1, &Form::Within(1, &Form::Message(&RESPONSE)))),
    ],
    extensions: 13,
};

static RESPONSE: Message = Message {
    fields: &[("description", 1, Form::Text), ("schema", 2, Form::Within(1, &Form::Message(&SCHEMA)))],
    extensions: 5,
};

static BODY: Message = Message {
    fields: &[
        ("description", 1, Form::Text),
        ("name", 2, Form::Text),
        ("in", 3, Form::Text),
        ("required", 4, Form::Flag),
        ("schema", 5, Form::Message(&SCHEMA)),
    ],
    extensions: 6,
};

static QUERY: Message = Message {
    fields: &[
        ("required", 1, Form::Flag),
        ("in", 2, Form::Text),
        ("description", 3, Form::Text),
        ("name", 4, Form::Text),
        ("type", 6, Form::Text),
        ("uniqueItems", 20, Form::Flag),
    ],
    extensions: 23,
};

static IN_PATH: Message = Message {
    fields: &[
        ("required", 1, Form::Flag),
        ("in", 2, Form::Text),
        ("description", 3, Form::Text),
        ("name", 4, Form::Text),
        ("type", 5, Form::Text),
        ("uniqueItems", 19, Form::Flag),
    ],
    extensions: 22,
};

static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Form::Text),
        ("format", 2, Form::Text),
        ("description", 4, Form::Text),
        ("default", 5, Form::Any),
        ("required", 19, Form::Each(&Form::Text)),
        ("additionalProperties", 21, Form::Within(1, &Form::Message(&SCHEMA))),
        ("type", 22, Form::Within(1, &Form::Text)),
        ("items", 23, Form::Within(1, &Form::Message(&SCHEMA))),
        ("properties", 25, Form::Named(1, &Form::Message(&SCHEMA))),
    ],
    extensions: 31,
};

/// The message of a whole document.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    DOCUMENT.put(&mut bytes, document);
    bytes
}

impl Message {
    fn put(&self, into: &mut Vec<u8>, object: &Value) {
        for (name, number, form) in self.fields {
            if let Some(value) = object.get(name) {
                form.put(into, *number, value);
            }
        }
        let fields = object.as_object().into_iter().flatten();
        for (name, value) in fields.filter(|(name, _)| self.extensions > 0 && name.starts_with("x-")) {
            nested(into, self.extensions, |named| {
                put_bytes(named, 1, name.as_bytes());
                Form::Any.put(named, 2, value);
            });
        }
    }
}

impl Form {
    fn put(&self, into: &mut Vec<u8>, number: u32, value: &Value) {
        match self {
            Form::Text => put_bytes(into, number, value.as_str().unwrap_or_default().as_bytes()),
            Form::Flag if value == true => put_true(into, number),
            Form::Flag => {}
            Form::Any => nested(into, number, |any| put_bytes(any, 2, value.to_string().as_bytes())),
            Form::Message(message) => nested(into, number, |inner| message.put(inner, value)),
            Form::Each(form) => value.as_array().into_iter().flatten().for_each(|item| form.put(into, number, item)),
            Form::Within(inner_number, form) => nested(into, number, |inner| form.put(inner, *inner_number, value)),
            Form::Named(inner_number, form) => nested(into, number, |inner| {
                for (name, value) in value.as_object().into_iter().flatten() {
                    nested(inner, *inner_number, |named| {
                        put_bytes(named, 1, name.as_bytes());
                        form.put(named, 2, value);
                    });
                }
            }),
            Form::Parameter => nested(into, number, |inner| match value["in"].as_str() {
                Some("body") => Form::Message(&BODY).put(inner, 1, value),
                Some("path") => nested(inner, 2, |other| Form::Message(&IN_PATH).put(other, 4, value)),
                _ => nested(inner, 2, |other| Form::Message(&QUERY).put(other, 3, value)),
            }),
        }
    }
}

fn nested(into: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    write(&mut inner);
    put_bytes(into, number, &inner);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_has_its_number() {
        let schema = json!({"type": "object", "properties": {"a": {"$ref": "#/x"}}, "x-k": [1]});
        let mut bytes = Vec::new();
        SCHEMA.put(&mut bytes, &schema);
        let parts: [&[u8]; 3] = [
            b"\xb2\x01\x08\x0a\x06object",
            b"\xca\x01\x0c\x0a\x0a\x0a\x01a\x12\x05\x0a\x03#/x",
            b"\xfa\x01\x0c\x0a\x03x-k\x12\x05\x12\x03[1]",
        ];
        assert_eq!(bytes, parts.concat());
    }

    #[test]
    fn parameters_are_told_apart() {
        let encoded = |value: Value| {
            let mut bytes = Vec::new();
            Form::Parameter.put(&mut bytes, 1, &value);
            bytes
        };
        assert_eq!(encoded(json!({"in": "body", "name": "b"})), b"\x0a\x0b\x0a\x09\x12\x01b\x1a\x04body");
        assert_eq!(encoded(json!({"in": "path", "name": "b"})), b"\x0a\x0d\x12\x0b\x22\x09\x12\x04path\x22\x01b");
        assert_eq!(encoded(json!({"in": "query", "name": "b"})), b"\x0a\x0e\x12\x0c\x1a\x0a\x12\x05query\x22\x01b");
    }
}
