//! The floors of the tree as a check: what may name what, and how long a thing may get.
//! A rule that is broken is named with its place.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::bail;

use crate::build::workspace;

const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 600;
const MAIN_LINES_MAX: usize = 80;
/// A line with this comment, with the reason behind it, allows a longer function (above it)
/// or file (in its first lines).
const LONG: &str = "// long: ";
const DAEMONS: &[&str] =
    &["apiserver", "controller-manager", "scheduler", "kubelet", "kube-proxy", "cluster-dns", "cox"];
/// What a crate of floor 0 may not use: it does no I/O.
const FLOOR_0: &[&str] = &["api-types", "merge"];
/// The apiserver opens it; the others make or look at its certificates and flags.
const MAY_NAME_ETCD: &[&str] =
    &["crates/apiserver/", "crates/pki/src/", "crates/cox/src/commands/doctor/", "crates/cox/src/commands/certs.rs"];
const NO_IO: &[&str] = &["tokio", "hyper", "client", "daemon", "etcd-client", "bollard"];

pub fn run() -> anyhow::Result<()> {
    let broken = check(workspace())?;
    if broken.is_empty() {
        eprintln!("tidy");
        return Ok(());
    }
    bail!("{} rules of the tree are broken:\n{}", broken.len(), broken.join("\n"));
}

/// Deciders: their files use no clock, no randomness and no I/O; tests in them may.
const PURE: &[&str] = &[
    "crates/api-types/src/",
    "crates/merge/src/",
    "crates/apiserver/src/request.rs",
    "crates/apiserver/src/rules/",
    "crates/apiserver/src/columns/",
    "crates/apiserver/src/authz/rule.rs",
    "crates/controller-manager/src/cron_job/",
    "crates/controller-manager/src/daemon_set/",
    "crates/controller-manager/src/deployment/",
    "crates/controller-manager/src/endpoint_slice/",
    "crates/controller-manager/src/garbage/plan.rs",
    "crates/controller-manager/src/job/",
    "crates/controller-manager/src/namespace/plan.rs",
    "crates/controller-manager/src/replica_set/",
    "crates/controller-manager/src/stateful_set/",
    "crates/scheduler/src/plugins/",
    "crates/scheduler/src/cycle.rs",
    "crates/scheduler/src/preempt.rs",
    "crates/scheduler/src/snapshot.rs",
    "crates/kubelet/src/pod/steps.rs",
    "crates/kubelet/src/pod/status.rs",
    "crates/kube-proxy/src/layout.rs",
    "crates/kube-proxy/src/render.rs",
    "crates/kube-proxy/src/ruleset.rs",
    "crates/cluster-dns/src/answer.rs",
    "crates/cluster-dns/src/zone.rs",
];
const IMPURE: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "Timestamp::now",
    "Zoned::now",
    "rand::",
    "tokio::",
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::process",
];

/// One line for each breach.
fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut broken = Vec::new();
    for manifest in files(&root.join("crates"), "toml")? {
        let text = fs::read_to_string(&manifest)?;
        broken.extend(dependencies(&crate_name(&manifest), &text));
    }
    let kinds = kinds(&fs::read_to_string(root.join("crates/api-types/src/resources.rs"))?);
    for folder in ["crates", "xtask", "tests"] {
        for file in files(&root.join(folder), "rs")? {
            let text = fs::read_to_string(&file)?;
            let place = file.strip_prefix(root).unwrap_or(&file).display().to_string();
            broken.extend(source(&place, &text, &kinds));
        }
    }
    broken.sort();
    Ok(broken)
}

fn files(folder: &Path, extension: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path, extension)?);
        } else if path.extension().is_some_and(|it| it == extension) {
            found.push(path);
        }
    }
    Ok(found)
}

/// A crate's fuzz targets belong to it.
fn crate_name(manifest: &Path) -> String {
    let folder = manifest
        .parent()
        .map(|folder| if folder.ends_with("fuzz") { folder.with_file_name("") } else { folder.to_owned() });
    let folder = folder.as_deref().and_then(Path::file_name);
    folder.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Floors: a daemon names no other daemon, floor 0 does no I/O, only the apiserver may name etcd.
fn dependencies(name: &str, manifest: &str) -> Vec<String> {
    let named = manifest.lines().filter_map(|line| line.split(['.', ' ', '=']).next()).filter(|word| !word.is_empty());
    let mut broken = Vec::new();
    for dependency in named {
        // A fuzz crate lies inside the crate that it feeds.
        if DAEMONS.contains(&dependency) && dependency != name && name != "fuzz" {
            broken.push(format!("{name}: names the daemon {dependency}"));
        }
        if FLOOR_0.contains(&name) && NO_IO.contains(&dependency) {
            broken.push(format!("{name}: is on floor 0 and may not use {dependency}"));
        }
        if dependency == "etcd-client" && name != "apiserver" {
            broken.push(format!("{name}: only the apiserver may name etcd"));
        }
    }
    broken
}

/// Kinds and plurals of the table, quoted as they would stand in code.
fn kinds(table: &str) -> Vec<String> {
    let rows = table.lines().map(str::trim).filter(|line| line.ends_with("];") && line.contains("::"));
    rows.flat_map(|row| {
        let mut quoted = row.split('"').skip(1).step_by(2).skip(2); // behind group and version
        let (kind, plural) = (quoted.next().unwrap_or_default(), quoted.next().unwrap_or_default());
        let konst = row.split_whitespace().next().unwrap_or_default();
        [format!("\"{kind}\""), format!("\"{plural}\""), format!("resources::{konst}")]
    })
    .collect()
}

fn source(place: &str, text: &str, kinds: &[String]) -> Vec<String> {
    let mut broken = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    let limit = if place.ends_with("/main.rs") { MAIN_LINES_MAX } else { FILE_LINES_MAX };
    let excused = lines.iter().take(20).any(|line| line.starts_with(LONG));
    if lines.len() > limit && !excused && !place.starts_with("xtask/src/main.rs") {
        broken.push(format!("{place}: {} lines, at most {limit} (or `{LONG}why`)", lines.len()));
    }
    broken.extend(functions(&lines).into_iter().filter(|function| function.lines > FUNCTION_LINES_MAX).map(
        |function| {
            format!(
                "{place}:{}: {} has {} lines, at most {FUNCTION_LINES_MAX}",
                function.line, function.name, function.lines
            )
        },
    ));
    let pure = PURE.iter().any(|path| place.starts_with(path))
        && !["tests", "recorded"].iter().any(|test| place.contains(test));
    let decisions = if pure { lines.iter().take_while(|line| **line != "#[cfg(test)]").count() } else { 0 };
    for (number, line) in (1..).zip(&lines) {
        if number <= decisions
            && let Some(word) = IMPURE.iter().find(|word| line.contains(*word))
        {
            broken.push(format!("{place}:{number}: a decider is handed its world, but this uses {word}"));
        }
        if place.starts_with("crates/") && !MAY_NAME_ETCD.iter().any(|path| place.starts_with(path)) && names_etcd(line)
        {
            broken.push(format!("{place}:{number}: only the apiserver may name etcd"));
        }
        if place.contains("/src/verbs/")
            && let Some(kind) = kinds.iter().find(|kind| line.contains(kind.as_str()))
        {
            broken.push(format!("{place}:{number}: verbs serve all kinds, but this names {kind}"));
        }
    }
    let stem = Path::new(place).file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let folder = Path::new(place).parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    for name in [Some(stem), folder].into_iter().flatten() {
        if ["utils", "util", "common", "helpers", "helper", "misc"].contains(&name.as_str()) {
            broken.push(format!("{place}: a module is named for what it knows, not {name}"));
        }
    }
    broken
}

fn names_etcd(line: &str) -> bool {
    line.to_ascii_lowercase().contains("etcd")
}

struct Function {
    name: String,
    line: usize,
    lines: usize,
}

/// Functions by rustfmt's layout: from the line with `fn` to the brace at its indentation.
/// One that is excused by a `// long: why` above it is left out.
fn functions(lines: &[&str]) -> Vec<Function> {
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let indentation = line.len() - line.trim_start().len();
        let Some(name) = function_name(line) else { continue };
        let end_mark = format!("{}}}", &line[..indentation]);
        let Some(length) = lines[start..].iter().position(|line| *line == end_mark) else { continue };
        let above = lines[..start].iter().rev().take_while(|line| is_preamble(line));
        if above.into_iter().any(|line| line.trim_start().starts_with(LONG)) {
            continue;
        }
        found.push(Function { name: name.to_owned(), line: start + 1, lines: length + 1 });
    }
    found
}

fn is_preamble(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("//") || line.starts_with("#[")
}

fn function_name(line: &str) -> Option<&str> {
    let words = line.trim_start();
    let (before, after) = words.split_once("fn ")?;
    let qualifiers = ["", "pub ", "async ", "const ", "pub async ", "pub const ", "pub(crate) ", "pub(super) "];
    let known = qualifiers.contains(&before) || before.starts_with("pub(");
    (known && !words.ends_with(';')).then(|| after.split(['(', '<']).next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_tidy() {
        let broken = check(workspace()).expect("the tree can be read");
        assert!(broken.is_empty(), "{}", broken.join("\n"));
    }

    #[test]
    fn a_daemon_names_no_other() {
        assert_eq!(dependencies("kubelet", "scheduler.workspace = true\nclient.workspace = true").len(), 1);
        assert_eq!(dependencies("merge", "tokio.workspace = true").len(), 1);
        assert_eq!(dependencies("kubelet", "etcd-client.workspace = true").len(), 1);
        assert!(dependencies("apiserver", "etcd-client.workspace = true").is_empty());
    }

    #[test]
    fn a_kind_may_not_be_named_in_verbs() {
        let kinds = kinds("    POD core::Pod, \"\" \"v1\" \"Pod\" \"pods\" \"pod\" [] [] Namespaced ALL [];");
        assert_eq!(kinds, ["\"Pod\"", "\"pods\"", "resources::POD"]);
        assert_eq!(source("crates/apiserver/src/verbs/get.rs", "if plural == \"pods\" {", &kinds).len(), 1);
        assert!(source("crates/apiserver/src/rules/mod.rs", "(\"\", \"pods\") => X", &kinds).is_empty());
    }

    #[test]
    fn a_decider_has_no_clock() {
        let text = "let now = Timestamp::now();\n#[cfg(test)]\nuse std::fs;\n";
        assert_eq!(source("crates/kubelet/src/pod/steps.rs", text, &[]).len(), 1);
        assert!(source("crates/kubelet/src/pod/act.rs", text, &[]).is_empty());
    }

    #[test]
    fn long_things_are_found_and_can_be_excused() {
        let body = "    x();\n".repeat(80);
        let long = format!("fn f() {{\n{body}}}\n");
        assert_eq!(source("crates/a/src/b.rs", &long, &[]).len(), 1);
        assert!(source("crates/a/src/b.rs", &format!("// long: a table\n{long}"), &[]).is_empty());
        assert_eq!(source("crates/a/src/b.rs", &"\n".repeat(700), &[]).len(), 1);
        assert_eq!(source("crates/a/src/utils.rs", "", &[]).len(), 1);
        assert_eq!(source("crates/kubelet/src/a.rs", "let x = etcd();", &[]).len(), 1);
    }
}
