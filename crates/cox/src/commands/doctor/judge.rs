//! Judges one item by what runs and what files there are: pure.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    Etcd,
    Apiserver,
    ControllerManager,
    Scheduler,
    Kubelet,
    Proxy,
}

impl Component {
    pub const ALL: [Self; 6] =
        [Self::Etcd, Self::Apiserver, Self::ControllerManager, Self::Scheduler, Self::Kubelet, Self::Proxy];

    /// The name of its program.
    pub fn program(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Apiserver => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Kubelet => "kubelet",
            Self::Proxy => "kube-proxy",
        }
    }
}

/// One item of the benchmark.
pub struct Check {
    pub id: &'static str,
    pub component: Component,
    pub what: &'static str,
    pub rule: Rule,
    /// Why it does not apply where it fails.
    pub excuse: Option<&'static str>,
}

/// What an item asks. Flags are named without their dashes.
pub enum Rule {
    /// All of these are given.
    Set(&'static [&'static str]),
    Unset(&'static str),
    Equals(&'static str, &'static str),
    /// The flag's list has, or has not, this element.
    Has(&'static str, &'static str),
    Lacks(&'static str, &'static str),
    AtLeast(&'static str, u64),
    /// The file that the flag names, if it is given, has no more permission bits than these.
    Mode(&'static str, u32),
    /// Files with this extension (empty: all) in the folder that the flag names, or that its file is in.
    Folder(&'static str, &'static str, u32),
    /// What the flag names belongs to the process's user.
    Owner(&'static str),
    ByDesign(&'static str),
    NotApplicable(&'static str),
}

/// A process of a component.
#[derive(Clone, Debug, Default)]
pub struct Process {
    pub uid: u32,
    /// The last value of each flag.
    pub flags: BTreeMap<String, String>,
}

/// A file, as far as it matters here.
#[derive(Clone, Debug)]
pub struct File {
    pub path: PathBuf,
    pub mode: u32,
    pub uid: u32,
}

/// Reads the file system for the rules.
pub trait Files {
    fn file(&self, path: &Path) -> Option<File>;
    /// What is in a folder; of a file's path: what is beside it.
    fn folder(&self, path: &Path) -> Vec<File>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// It holds whatever is configured, or has no object here.
    Holds(String),
    Fail(String),
    Excused(String),
}

impl Check {
    /// For one process of its component.
    pub fn judge(&self, process: &Process, files: &dyn Files) -> Verdict {
        let why = match self.rule {
            Rule::ByDesign(why) | Rule::NotApplicable(why) => return Verdict::Holds(why.to_owned()),
            _ => self.rule.broken(process, files),
        };
        match (why, self.excuse) {
            (None, _) => Verdict::Pass,
            (Some(_), Some(excuse)) => Verdict::Excused(excuse.to_owned()),
            (Some(why), None) => Verdict::Fail(why),
        }
    }
}

impl Rule {
    /// What is wrong, if anything is.
    fn broken(&self, process: &Process, files: &dyn Files) -> Option<String> {
        let flag = |name: &str| process.flags.get(name).map(String::as_str);
        let has =
            |name: &str, wanted: &str| flag(name).is_some_and(|list| list.split([',', ':']).any(|it| it == wanted));
        match self {
            Rule::Set(names) => {
                names.iter().find(|name| flag(name).is_none()).map(|name| format!("--{name} is not given"))
            }
            Rule::Unset(name) => flag(name).map(|_| format!("--{name} is given")),
            Rule::Equals(name, wanted) => (flag(name) != Some(wanted)).then(|| format!("--{name} is not {wanted}")),
            Rule::Has(name, wanted) => (!has(name, wanted)).then(|| format!("--{name} has no {wanted}")),
            Rule::Lacks(name, unwanted) => has(name, unwanted).then(|| format!("--{name} has {unwanted}")),
            Rule::AtLeast(name, least) => {
                let number = flag(name).and_then(|value| value.parse::<u64>().ok());
                number.is_none_or(|number| number < *least).then(|| format!("--{name} is not {least} or more"))
            }
            Rule::Mode(name, most) => files.file(Path::new(flag(name)?)).and_then(|file| too_open(&file, *most)),
            Rule::Folder(name, extension, most) => {
                let folder = files.folder(Path::new(flag(name)?));
                let is_meant =
                    |file: &&File| extension.is_empty() || file.path.extension().is_some_and(|it| it == *extension);
                folder.iter().filter(is_meant).find_map(|file| too_open(file, *most))
            }
            Rule::Owner(name) => {
                let file = files.file(Path::new(flag(name)?))?;
                (file.uid != process.uid).then(|| format!("{} belongs to user {}", file.path.display(), file.uid))
            }
            Rule::ByDesign(_) | Rule::NotApplicable(_) => None,
        }
    }
}

fn too_open(file: &File, most: u32) -> Option<String> {
    let mode = file.mode & 0o777;
    (mode & !most != 0).then(|| format!("{} is {mode:04o}: chmod {most:04o}", file.path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(u32);
    impl Files for Fixed {
        fn file(&self, path: &Path) -> Option<File> {
            Some(File { path: path.to_owned(), mode: self.0, uid: 7 })
        }
        fn folder(&self, path: &Path) -> Vec<File> {
            self.file(&path.join("ca.key")).into_iter().collect()
        }
    }

    fn check(rule: Rule, flags: &[(&str, &str)], expected: Option<&str>) {
        let flags = flags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let found = rule.broken(&Process { uid: 7, flags }, &Fixed(0o644));
        assert_eq!(found.as_deref(), expected);
    }

    #[test]
    fn rules_find_what_is_wrong() {
        check(Rule::Set(&["a", "b"]), &[("a", "1")], Some("--b is not given"));
        check(Rule::Set(&["a"]), &[("a", "1")], None);
        check(Rule::Unset("a"), &[("a", "1")], Some("--a is given"));
        check(Rule::Equals("a", "false"), &[], Some("--a is not false"));
        check(Rule::Has("modes", "RBAC"), &[("modes", "Node,RBAC")], None);
        check(Rule::Has("modes", "RBAC"), &[("modes", "Node,XRBAC")], Some("--modes has no RBAC"));
        check(Rule::Lacks("modes", "AlwaysAllow"), &[("modes", "Node,AlwaysAllow")], Some("--modes has AlwaysAllow"));
        check(Rule::AtLeast("age", 30), &[("age", "29")], Some("--age is not 30 or more"));
        check(Rule::AtLeast("age", 30), &[("age", "30")], None);
        check(Rule::Mode("file", 0o600), &[("file", "/f")], Some("/f is 0644: chmod 0600"));
        check(Rule::Mode("file", 0o644), &[("file", "/f")], None);
        check(Rule::Mode("file", 0o600), &[], None);
        check(Rule::Folder("file", "key", 0o600), &[("file", "/p")], Some("/p/ca.key is 0644: chmod 0600"));
        check(Rule::Folder("file", "crt", 0o600), &[("file", "/p")], None);
        check(Rule::Owner("file"), &[("file", "/f")], None);
    }

    #[test]
    fn an_excuse_is_told_only_where_it_is_needed() {
        let check = Check {
            id: "1",
            component: Component::Scheduler,
            what: "",
            rule: Rule::Equals("bind-address", "127.0.0.1"),
            excuse: Some("reason"),
        };
        assert_eq!(check.judge(&Process::default(), &Fixed(0)), Verdict::Excused("reason".to_owned()));
        let flags = BTreeMap::from([("bind-address".to_owned(), "127.0.0.1".to_owned())]);
        assert_eq!(check.judge(&Process { uid: 0, flags }, &Fixed(0)), Verdict::Pass);
    }
}
