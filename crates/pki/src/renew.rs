//! The certificates of a folder: how they stand, and new ones in time. Daemons read changed files
//! again, so nothing has to be restarted.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{Ca, Facts, PkiError, State, read};

/// One certificate file.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Without its extension: `apiserver` for `apiserver.crt` and `apiserver.key`.
    pub name: String,
    pub facts: Facts,
    /// Whether its private key lies beside it.
    pub has_key: bool,
}

/// Every `*.crt` of a folder, by name.
pub fn inventory(folder: &Path) -> Result<Vec<Entry>, PkiError> {
    let wrap = |source| PkiError::File { path: folder.to_owned(), source };
    let mut entries = Vec::new();
    for file in fs::read_dir(folder).map_err(wrap)? {
        let path: PathBuf = file.map_err(wrap)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".crt"))
        else {
            continue;
        };
        let facts = Facts::parse(&read(&path)?).map_err(|why| PkiError::Content { path: path.clone(), why })?;
        entries.push(Entry { name: name.to_owned(), facts, has_key: path.with_extension("key").exists() });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// Issues a successor, with a new key, for each leaf of the folder that `wanted` names; gives the names
/// of those that were renewed. A leaf is left alone if its authority's key is not in the folder, or if
/// its own is not (then somebody else renews it).
pub fn renew(folder: &Path, wanted: impl Fn(&Entry) -> bool) -> Result<Vec<String>, PkiError> {
    let entries = inventory(folder)?;
    let authorities: Vec<&Entry> = entries.iter().filter(|entry| entry.facts.is_ca && entry.has_key).collect();
    let mut renewed = Vec::new();
    for entry in entries.iter().filter(|entry| !entry.facts.is_ca && entry.has_key && wanted(entry)) {
        let Some(authority) = authorities.iter().find(|authority| entry.facts.is_signed_by(&authority.facts)) else {
            continue;
        };
        let file = |extension: &str| folder.join(format!("{}.{extension}", authority.name));
        let ca = Ca::load(&file("crt"), &file("key"))?;
        ca.issue(&entry.facts.successor())?.write(folder, &entry.name)?;
        renewed.push(entry.name.clone());
    }
    Ok(renewed)
}

impl Entry {
    /// Is it time for its successor?
    pub fn is_due(&self, now_s: i64) -> bool {
        matches!(self.facts.state(now_s), State::Due | State::Expired)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Layout, NodeNames};

    #[test]
    fn what_is_due_gets_a_successor_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let node = NodeNames { name: "n1".to_owned(), addresses: vec!["10.0.0.1".parse().unwrap()] };
        let layout = Layout { nodes: vec![node], ..Layout::local("https://127.0.0.1:6443", folder.path()) };
        layout.ensure(folder.path()).unwrap();
        let file = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        let before = (file("ca.crt"), file("apiserver.crt"), file("n1.key"), file("etcd.crt"));

        let year = inventory(folder.path()).unwrap()[0].facts.not_before_s + 250 * 24 * 60 * 60;
        assert!(renew(folder.path(), |entry| entry.is_due(0)).unwrap().is_empty());
        let renewed = renew(folder.path(), |entry| entry.name != "etcd" && entry.is_due(year)).unwrap();
        assert!(renewed.contains(&"apiserver".to_owned()) && renewed.contains(&"n1".to_owned()), "{renewed:?}");
        assert!(!renewed.contains(&"ca".to_owned()));

        let after = (file("ca.crt"), file("apiserver.crt"), file("n1.key"), file("etcd.crt"));
        assert_eq!((&before.0, &before.3), (&after.0, &after.3));
        assert!(before.1 != after.1 && before.2 != after.2);
        let facts = [&before.1, &after.1].map(|pem| Facts::parse(pem).unwrap());
        assert_eq!(facts[0].successor().dns_names, facts[1].successor().dns_names);
    }

    #[test]
    fn without_the_authoritys_key_nothing_is_renewed() {
        let folder = tempfile::tempdir().unwrap();
        Layout::local("https://127.0.0.1:6443", folder.path()).ensure(folder.path()).unwrap();
        for authority in ["ca.key", "etcd-ca.key", "front-proxy-ca.key"] {
            fs::remove_file(folder.path().join(authority)).unwrap();
        }
        assert!(renew(folder.path(), |_| true).unwrap().is_empty());
    }
}
