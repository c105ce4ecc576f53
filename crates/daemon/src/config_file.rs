//! A `--config` file (KubeletConfiguration and its like) read as flags: each field gives
//! the flag of its name, so that a daemon has one place where its settings stand.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use serde_json::Value;

/// The file that the command line names.
pub fn path(args: &[OsString]) -> Option<PathBuf> {
    let mut args = args.iter();
    while let Some(argument) = args.next() {
        if argument == OsStr::new("--config") {
            return args.next().map(PathBuf::from);
        }
        if let Some(path) = argument.to_str().and_then(|text| text.strip_prefix("--config=")) {
            return Some(PathBuf::from(path));
        }
    }
    None
}

/// The file's fields as `--flag=value`. A field that no flag knows is refused, as upstream does.
pub fn arguments(path: &Path, fields: &[(&str, &str)], command: &clap::Command) -> Result<Vec<OsString>, String> {
    let say = |why: String| format!("{}: {why}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| say(error.to_string()))?;
    let file: Value = serde_saphyr::from_str(&text).map_err(|error| say(error.to_string()))?;
    let Value::Object(file) = file else { return Err(say("not a mapping".to_owned())) };
    let known = |flag: &str| command.get_arguments().any(|argument| argument.get_long() == Some(flag));
    let mut arguments = Vec::new();
    for (name, value) in file.iter().filter(|(name, _)| !matches!(name.as_str(), "apiVersion" | "kind")) {
        flatten(name, value, &mut |field, value| {
            let flag = flag_of(field, fields);
            if !known(&flag) {
                return Err(say(format!("field {field:?} is not known")));
            }
            arguments.push(OsString::from(format!("--{flag}={value}")));
            Ok(())
        })?;
    }
    Ok(arguments)
}

/// Visits the leaves: scalars, lists of scalars (joined by commas); other maps field by field.
fn flatten(
    path: &str,
    value: &Value,
    visit: &mut impl FnMut(&str, String) -> Result<(), String>,
) -> Result<(), String> {
    match value {
        Value::Null => Ok(()),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => visit(path, scalar(value)),
        Value::Array(items) => visit(path, items.iter().map(scalar).collect::<Vec<_>>().join(",")),
        Value::Object(map) => map.iter().try_for_each(|(name, value)| flatten(&format!("{path}.{name}"), value, visit)),
    }
}

fn scalar(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `clusterDNS` is `cluster-dns`; of a nested field the last part counts.
fn flag_of(field: &str, fields: &[(&str, &str)]) -> String {
    if let Some((_, flag)) = fields.iter().find(|(name, _)| *name == field) {
        return (*flag).to_owned();
    }
    let name = field.rsplit('.').next().unwrap_or(field);
    let mut flag = String::new();
    let mut after_lower = false;
    for c in name.chars() {
        if c.is_ascii_uppercase() && after_lower {
            flag.push('-');
        }
        after_lower = !c.is_ascii_uppercase();
        flag.push(c.to_ascii_lowercase());
    }
    flag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_name_flags() {
        let check = |field: &str, expected: &str| assert_eq!(flag_of(field, &[("a.b", "special")]), expected);
        check("clusterDNS", "cluster-dns");
        check("maxPods", "max-pods");
        check("leaderElection.leaderElect", "leader-elect");
        check("a.b", "special");
    }

    #[test]
    fn the_file_is_found_in_both_forms() {
        let find = |args: &[&str]| path(&args.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(find(&["x", "--config", "a"]), Some("a".into()));
        assert_eq!(find(&["x", "--config=b"]), Some("b".into()));
        assert_eq!(find(&["x", "--configure=b"]), None);
    }
}
