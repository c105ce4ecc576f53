//! `meta.k8s.io/v1` Table: objects as rows of cells, which the server makes for
//! `kubectl get`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::k8s::meta::ListMeta;

pub const API_VERSION: &str = "meta.k8s.io/v1";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    pub kind: String,
    pub api_version: String,
    #[serde(default)]
    pub metadata: ListMeta,
    /// Empty in all but the first event of a watch.
    #[serde(default)]
    pub column_definitions: Vec<Column>,
    #[serde(default)]
    pub rows: Vec<Row>,
}

impl Table {
    pub fn new(metadata: ListMeta, column_definitions: Vec<Column>, rows: Vec<Row>) -> Self {
        let (kind, api_version) = ("Table".to_owned(), API_VERSION.to_owned());
        Self { kind, api_version, metadata, column_definitions, rows }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    /// OpenAPI type: string, integer, number, boolean.
    #[serde(rename = "type")]
    pub type_: String,
    /// `name` marks the object's name.
    pub format: String,
    pub description: String,
    /// 0 is always shown, more only with `-o wide`.
    pub priority: i32,
}

#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Row {
    pub cells: Vec<Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<RowCondition>,
    /// The object, its metadata, or null, as `includeObject` asks.
    #[serde(default)]
    pub object: Value,
}

/// Marks a row, so that clients can print it apart: pods that have ended are `Completed`.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct RowCondition {
    #[serde(rename = "type")]
    pub type_: String,
    pub status: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// How much of the object each row carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

impl IncludeObject {
    /// Reads `includeObject`; `None` if the API has no such value.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "None" => Some(Self::None),
            "" | "Metadata" => Some(Self::Metadata),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// The refusal of a value that [`IncludeObject::parse`] does not know.
pub fn refuse_include_object(text: &str) -> String {
    format!(
        "Unable to convert to Table as requested: includeObject: Invalid value: {text:?}: must be 'Metadata', \
         'Object', 'None', or empty"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_like_upstreams() {
        let column = Column {
            name: "Name".into(),
            type_: "string".into(),
            format: "name".into(),
            description: String::new(),
            priority: 0,
        };
        let row = Row { cells: vec!["a".into(), 1.into()], ..Row::default() };
        let json = serde_json::to_string(&Table::new(ListMeta::default(), vec![column], vec![row])).unwrap();
        assert_eq!(
            json,
            r#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{},"columnDefinitions":[{"name":"Name","type":"string","format":"name","description":"","priority":0}],"rows":[{"cells":["a",1],"object":null}]}"#
        );
        assert_eq!(IncludeObject::parse(""), Some(IncludeObject::Metadata));
        assert_eq!(IncludeObject::parse("Some"), None);
    }
}
