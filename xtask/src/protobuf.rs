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
const HEADER: &str =
    "# Derived from k8s-rs-pb 0.5.0 (Apache-2.0) and v1.36's additions by `cargo xtask protobuf`; do not edit.\n";
/// What v1.36 has beside the package's version, in the table's own form: numbers and names out of the `generated.proto`
/// files that upstream published with it.
const ADDED: &str = "\
api.admissionregistration.v1.ApplyConfiguration
 1 expression string
api.admissionregistration.v1.JSONPatch
 1 expression string
api.admissionregistration.v1.MutatingAdmissionPolicy
 1 metadata apimachinery.pkg.apis.meta.v1.ObjectMeta
 2 spec api.admissionregistration.v1.MutatingAdmissionPolicySpec
api.admissionregistration.v1.MutatingAdmissionPolicyBinding
 1 metadata apimachinery.pkg.apis.meta.v1.ObjectMeta
 2 spec api.admissionregistration.v1.MutatingAdmissionPolicyBindingSpec
api.admissionregistration.v1.MutatingAdmissionPolicyBindingList
 1 metadata apimachinery.pkg.apis.meta.v1.ListMeta
 2 items []api.admissionregistration.v1.MutatingAdmissionPolicyBinding
api.admissionregistration.v1.MutatingAdmissionPolicyBindingSpec
 1 policyName string
 2 paramRef api.admissionregistration.v1.ParamRef
 3 matchResources api.admissionregistration.v1.MatchResources
api.admissionregistration.v1.MutatingAdmissionPolicyList
 1 metadata apimachinery.pkg.apis.meta.v1.ListMeta
 2 items []api.admissionregistration.v1.MutatingAdmissionPolicy
api.admissionregistration.v1.MutatingAdmissionPolicySpec
 1 paramKind api.admissionregistration.v1.ParamKind
 2 matchConstraints api.admissionregistration.v1.MatchResources
 3 variables []api.admissionregistration.v1.Variable
 4 mutations []api.admissionregistration.v1.Mutation
 5 failurePolicy string
 6 matchConditions []api.admissionregistration.v1.MatchCondition
 7 reinvocationPolicy string
api.admissionregistration.v1.Mutation
 2 patchType string
 3 applyConfiguration api.admissionregistration.v1.ApplyConfiguration
 4 jsonPatch api.admissionregistration.v1.JSONPatch
api.core.v1.ImageVolumeStatus
 1 imageRef string
api.core.v1.NodeAllocatableResourceClaimStatus
 1 resourceClaimName string
 2 containers []string
 3 resources {}apimachinery.pkg.api.resource.Quantity
api.core.v1.PodSchedulingGroup
 1 podGroupName string
api.core.v1.PodSpec
 43 schedulingGroup api.core.v1.PodSchedulingGroup
api.core.v1.PodStatus
 21 nodeAllocatableResourceClaimStatuses []api.core.v1.NodeAllocatableResourceClaimStatus
api.core.v1.ResourceHealth
 6 message string
api.core.v1.VolumeMountStatus
 5 volumeStatus api.core.v1.VolumeStatus
api.core.v1.VolumeStatus
 1 image api.core.v1.ImageVolumeStatus
api.resource.v1.Device
 13 nodeAllocatableResourceMappings {}api.resource.v1.NodeAllocatableResourceMapping
api.resource.v1.DeviceAttribute
 6 ints []int64
 7 bools []bool
 8 strings []string
 9 versions []string
api.resource.v1.NodeAllocatableResourceMapping
 1 capacityKey string
 2 allocationMultiplier apimachinery.pkg.api.resource.Quantity
api.storage.v1.CSIDriverSpec
 11 preventPodSchedulingIfMissing bool
apimachinery.pkg.apis.meta.v1.ListMeta
 5 shardInfo apimachinery.pkg.apis.meta.v1.ShardInfo
apimachinery.pkg.apis.meta.v1.ListOptions
 15 shardSelector string
apimachinery.pkg.apis.meta.v1.ShardInfo
 1 selector string
";
/// What v1.36 has no more: messages, and fields with their message.
const GONE: [(&str, &str); 2] =
    [("api.core.v1.PodSpec", "42 workloadRef api.core.v1.WorkloadReference"), ("api.core.v1.WorkloadReference", "")];
const SCALARS: [&str; 7] = ["string", "bool", "bytes", "int32", "int64", "uint32", "double"];

pub fn run() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let root = fetched(dir.path())?.join(PROTOS);
    let mut table = BTreeMap::new();
    for file in protos(&root)? {
        messages(&fs::read_to_string(&file)?, &mut table).with_context(|| file.display().to_string())?;
    }
    amend(&mut table)?;
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

/// Brings the package's version of the API up to ours.
fn amend(table: &mut BTreeMap<String, Vec<String>>) -> anyhow::Result<()> {
    let mut message = "";
    for line in ADDED.lines() {
        match line.strip_prefix(' ') {
            Some(field) => table.get_mut(message).context("a message goes before its fields")?.push(field.to_owned()),
            None => {
                message = line;
                table.entry(message.to_owned()).or_default();
            }
        }
    }
    for (message, field) in GONE {
        match field {
            "" => drop(table.remove(message).with_context(|| format!("{message} is gone already"))?),
            field => table.get_mut(message).context("a known message")?.retain(|kept| kept != field),
        }
    }
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
