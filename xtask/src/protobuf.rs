//! Derives the field numbers of the API's protobuf form from a pinned public package,
//! without any prose. The table is committed; this runs again only for a new version of the API.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, path::PathBuf, process::Command};

use anyhow::Context;
use serde_json::Value;

use crate::{build::workspace, install::run as execute};

const PACKAGE: &str = "k8s-rs-pb";
const VERSION: &str = "0.5.0";
/// The newest version of the API in the package.
const PROTOS: &str = "src/v1_35";
const TABLE: &str = "crates/apiserver/src/codec/protobuf/fields.txt";
const HEADER: &str = "# Derived from k8s-rs-pb 0.5.0 (Apache-2.0) by `cargo xtask protobuf`; do not edit.\n";
const SCALARS: [&str; 7] = ["string", "bool", "bytes", "int32", "int64", "uint32", "double"];

pub fn run() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let root = fetched(dir.path())?.join(PROTOS);
    let mut table = BTreeMap::new();
    for file in protos(&root)? {
        messages(&fs::read_to_string(&file)?, &mut table).with_context(|| file.display().to_string())?;
    }
    let mut text = HEADER.to_owned();
    for (message, fields) in &table {
        writeln!(text, "{message}")?;
        for field in fields {
            writeln!(text, " {field}")?;
        }
    }
    fs::write(workspace().join(TABLE), &text)?;
    eprintln!("{TABLE}: {} messages", table.len());
    Ok(())
}

/// Where cargo has unpacked the package.
fn fetched(dir: &Path) -> anyhow::Result<PathBuf> {
    let manifest = format!(
        "[package]\nname = \"fetch\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n[lib]\npath = \"lib.rs\"\n\
         [dependencies]\n{PACKAGE} = {{ version = \"={VERSION}\", default-features = false }}\n"
    );
    fs::write(dir.join("Cargo.toml"), manifest)?;
    fs::write(dir.join("lib.rs"), "")?;
    execute(Command::new("cargo").args(["fetch", "-q"]).current_dir(dir))?;
    let metadata = execute(Command::new("cargo").args(["metadata", "--format-version=1"]).current_dir(dir))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let package = packages.iter().find(|package| package["name"] == PACKAGE).context("the package was not fetched")?;
    let manifest = package["manifest_path"].as_str().context("the package has no manifest")?;
    Ok(Path::new(manifest).parent().context("a manifest lies in a folder")?.to_owned())
}

/// The stable packages, and those that they are made of.
fn protos(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_unstable = name.contains("alpha") || name.contains("beta") || name == "testapigroup";
        if path.is_dir() && !is_unstable {
            found.extend(protos(&path)?);
        } else if name == "generated.proto" {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Adds the messages of one file, by full name, each with its fields as `number name type`; `[]` marks a list,
/// `{}` a map with text keys.
fn messages(proto: &str, table: &mut BTreeMap<String, Vec<String>>) -> anyhow::Result<()> {
    let mut package = String::new();
    let mut message: Option<String> = None;
    for line in proto.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("package ") {
            package = name.trim_end_matches(';').to_owned();
        } else if let Some(name) = line.strip_prefix("message ") {
            let name = format!("{package}.{}", name.trim_end_matches('{').trim());
            table.insert(name.clone(), Vec::new());
            message = Some(name);
        } else if line == "}" {
            message = None;
        } else if let Some(message) = &message
            && let Some(field) = field(line, &package)
        {
            table.get_mut(message).context("a message was begun")?.push(field);
        }
    }
    table.retain(|name, _| !name.ends_with("List"));
    Ok(())
}

fn field(line: &str, package: &str) -> Option<String> {
    let line = line.strip_suffix(';')?;
    let (declaration, number) = line.rsplit_once('=')?;
    let (type_and_label, name) = declaration.trim().rsplit_once(' ')?;
    let (mark, type_) = match type_and_label.trim() {
        text if text.starts_with("map<") => ("{}", text.strip_prefix("map<string, ")?.strip_suffix('>')?),
        text => match text.split_once(' ')? {
            ("repeated", type_) => ("[]", type_),
            ("optional" | "required", type_) => ("", type_),
            _ => return None,
        },
    };
    let type_ = match type_.trim() {
        scalar if SCALARS.contains(&scalar) => scalar.to_owned(),
        full if full.starts_with('.') => full[1..].to_owned(),
        own => format!("{package}.{own}"),
    };
    Some(format!("{} {name} {mark}{type_}", number.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read() {
        for (line, expected) in [
            ("optional string name = 1;", Some("1 name string")),
            ("repeated Volume volumes = 1;", Some("1 volumes []api.core.v1.Volume")),
            ("map<string, bytes> data = 2;", Some("2 data {}bytes")),
            (
                "optional .apimachinery.pkg.apis.meta.v1.ObjectMeta metadata = 1;",
                Some("1 metadata apimachinery.pkg.apis.meta.v1.ObjectMeta"),
            ),
            ("// optional string name = 1;", None),
            ("", None),
        ] {
            assert_eq!(field(line, "api.core.v1").as_deref(), expected, "{line}");
        }
    }
}
