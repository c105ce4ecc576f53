//! How objects and tables look on a terminal.

pub mod describe;
pub mod table;

use api_types::Resource;
use serde_json::Value;

use crate::flags::Format;

/// Whole objects as text. Tables go through [`table`].
pub fn objects(resource: &Resource, objects: &[Value], single: bool, format: Format) -> anyhow::Result<String> {
    let objects: Vec<Value> = objects.iter().cloned().map(without_owners).collect();
    let document = match (objects.as_slice(), single) {
        ([one], true) => one.clone(),
        (many, _) => serde_json::json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": many}),
    };
    Ok(match format {
        Format::Json => serde_json::to_string_pretty(&document)? + "\n",
        Format::Yaml => yaml(&document)?,
        Format::Name | Format::Table | Format::Wide => {
            objects.iter().map(|object| format!("{}\n", reference(resource, name(object)))).collect()
        }
    })
}

/// Who owns which field is much to read and seldom asked for, so it is left out, as kubectl does.
fn without_owners(mut object: Value) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

pub fn yaml(value: &Value) -> anyhow::Result<String> {
    let text = serde_saphyr::to_string(value)?;
    Ok(if text.ends_with('\n') { text } else { text + "\n" })
}

pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// `pod/web` or `deployment.apps/web`, as every message names an object.
pub fn reference(resource: &Resource, name: &str) -> String {
    let kind = resource.kind.to_ascii_lowercase();
    match resource.group.as_ref() {
        "" => format!("{kind}/{name}"),
        group => format!("{kind}.{group}/{name}"),
    }
}
