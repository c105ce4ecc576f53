//! `cox doctor security`: how the daemons that run on this machine stand by the CIS Kubernetes Benchmark.

mod checks;
mod judge;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::ensure;

use self::judge::{Check, Component, File, Files, Process, Verdict};

/// Prints a line for each item; fails if an item does.
pub fn security(within: Option<&Path>) -> anyhow::Result<ExitCode> {
    let found: Vec<(Component, Process)> = processes(within)?;
    ensure!(
        !found.is_empty(),
        "no daemon of a cluster runs on this machine{}",
        match within {
            Some(dir) => format!(" with files in {}", dir.display()),
            None => String::new(),
        }
    );
    let mut counts = BTreeMap::new();
    for check in checks::CHECKS {
        for verdict in verdicts(check, &found) {
            let (word, why) = match verdict {
                Verdict::Pass => ("PASS", String::new()),
                Verdict::Holds(why) => ("HOLDS", format!(": {why}")),
                Verdict::Excused(why) => ("N/A", format!(": {why}")),
                Verdict::Fail(why) => ("FAIL", format!(": {why}")),
            };
            *counts.entry(word).or_insert(0) += 1;
            println!("{word:<6} {:<8} {:<24} {}{why}", check.id, check.component.program(), check.what);
        }
    }
    let count = |word| counts.get(word).copied().unwrap_or(0);
    let [passed, held, excused, failed] = ["PASS", "HOLDS", "N/A", "FAIL"].map(count);
    println!("\n{passed} pass, {held} hold by design or have no object here, {excused} do not apply, {failed} fail");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Each verdict once, however many processes there are of a component.
fn verdicts(check: &Check, found: &[(Component, Process)]) -> Vec<Verdict> {
    let of_component = found.iter().filter(|(component, _)| *component == check.component);
    let mut verdicts: Vec<Verdict> = of_component.map(|(_, process)| check.judge(process, &Disk)).collect();
    verdicts.dedup();
    verdicts
}

/// Those whose command line names a file in `within`, or all.
fn processes(within: Option<&Path>) -> anyhow::Result<Vec<(Component, Process)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        // One that has ended meanwhile, or is none, has no command line.
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let Ok(owner) = entry.metadata() else { continue };
        let arguments: Vec<String> =
            line.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect();
        let Some(component) = component(&arguments[0]) else { continue };
        let is_within = |dir: &Path| arguments.iter().any(|argument| argument.contains(&*dir.to_string_lossy()));
        if within.is_none_or(is_within) {
            found.push((component, Process { uid: owner.uid(), flags: flags(&arguments[1..]) }));
        }
    }
    Ok(found)
}

fn component(program: &str) -> Option<Component> {
    let name = Path::new(program).file_name()?.to_str()?;
    Component::ALL.into_iter().find(|component| component.program() == name)
}

/// `--name=value` and `--name value`; a flag alone is true.
fn flags(arguments: &[String]) -> BTreeMap<String, String> {
    let mut flags = BTreeMap::new();
    let mut rest = arguments.iter().peekable();
    while let Some(argument) = rest.next() {
        let Some(argument) = argument.strip_prefix("--") else { continue };
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => match rest.next_if(|next| !next.starts_with("--") && !next.is_empty()) {
                Some(value) => (argument, value.clone()),
                None => (argument, "true".to_owned()),
            },
        };
        flags.insert(name.to_owned(), value);
    }
    flags
}

struct Disk;

impl Files for Disk {
    fn file(&self, path: &Path) -> Option<File> {
        let data = fs::metadata(path).ok()?;
        Some(File { path: path.to_owned(), mode: data.mode(), uid: data.uid() })
    }

    fn folder(&self, path: &Path) -> Vec<File> {
        let folder: PathBuf = if path.is_dir() { path.to_owned() } else { path.parent().unwrap_or(path).to_owned() };
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| self.file(&entry.path())).filter(|file| file.path.is_file()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_become_flags() {
        let arguments = ["--a=1", "--b", "2", "--c", "--d=x=y"].map(str::to_owned);
        let flags = flags(&arguments);
        let of = |name: &str| flags.get(name).map(String::as_str);
        assert_eq!((of("a"), of("b"), of("c"), of("d")), (Some("1"), Some("2"), Some("true"), Some("x=y")));
        assert_eq!(component("/usr/local/bin/kube-apiserver"), Some(Component::Apiserver));
        assert_eq!(component("bash"), None);
    }

    #[test]
    fn every_item_is_there_once() {
        let mut ids: Vec<&str> = checks::CHECKS.iter().map(|check| check.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), checks::CHECKS.len());
    }
}
