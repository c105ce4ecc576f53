//! Swaps the content of a volume as a whole: files live in a timestamped directory, `..data` points to it, and the
//! visible names are links through `..data`. A reader sees the old content or the new one, never a mixture.
//!
//! Source: pkg/volume/util/atomic_writer.go.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, symlink},
    path::{Component, Path},
};

use super::VolumeError;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub data: Vec<u8>,
    pub mode: u32,
    /// The user who may read a token although it is private.
    pub owner: Option<u32>,
}

/// By path within the volume.
pub type Payload = BTreeMap<String, File>;

/// Writes `payload` to `dir`. `stamp` names the new content and has to be new. Answers whether anything changed.
pub fn write(dir: &Path, payload: &Payload, group: Option<u32>, stamp: &str) -> Result<bool, VolumeError> {
    for path in payload.keys() {
        check_path(path)?;
    }
    let old = fs::read_link(dir.join(DATA)).ok();
    if old.as_ref().is_some_and(|old| is_same(&dir.join(old), payload)) {
        return Ok(false);
    }
    let fresh = format!("..{stamp}");
    let fresh_dir = dir.join(&fresh);
    create_dir(&fresh_dir, group)?;
    for (path, file) in payload {
        write_file(&fresh_dir, Path::new(path), file, group)?;
    }
    let link = dir.join(DATA_NEW);
    let _leftover = fs::remove_file(&link);
    symlink(&fresh, &link).map_err(|error| VolumeError::file(&link, error))?;
    fs::rename(&link, dir.join(DATA)).map_err(|error| VolumeError::file(&link, error))?;
    link_names(dir, payload)?;
    if let Some(old) = old {
        let old = dir.join(old);
        fs::remove_dir_all(&old).map_err(|error| VolumeError::file(&old, error))?;
    }
    Ok(true)
}

/// Only plain relative paths; a name may not begin with `..`, which is ours.
fn check_path(path: &str) -> Result<(), VolumeError> {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || !plain || path.starts_with("..") {
        return Err(VolumeError::Unavailable(format!("invalid path \"{path}\": must be relative and without '..'")));
    }
    Ok(())
}

fn is_same(dir: &Path, payload: &Payload) -> bool {
    let matches = payload.iter().all(|(path, file)| {
        let path = dir.join(path);
        let mode = fs::metadata(&path).map(|meta| meta.permissions().mode() & 0o777).ok();
        mode == Some(file.mode & 0o777) && fs::read(&path).is_ok_and(|data| data == file.data)
    });
    matches && count_files(dir) == payload.len()
}

fn count_files(dir: &Path) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries.flatten().map(|entry| if entry.path().is_dir() { count_files(&entry.path()) } else { 1 }).sum()
}

fn create_dir(path: &Path, group: Option<u32>) -> Result<(), VolumeError> {
    let fail = |error| VolumeError::file(path, error);
    fs::create_dir_all(path).map_err(fail)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(fail)?;
    if group.is_some() {
        chown(path, None, group).map_err(fail)?;
    }
    Ok(())
}

fn write_file(dir: &Path, path: &Path, file: &File, group: Option<u32>) -> Result<(), VolumeError> {
    let mut parent = dir.to_owned();
    for part in path.parent().into_iter().flat_map(Path::components) {
        parent.push(part);
        create_dir(&parent, group)?;
    }
    let path = dir.join(path);
    let fail = |error| VolumeError::file(&path, error);
    let mut handle = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(fail)?;
    handle.write_all(&file.data).map_err(fail)?;
    // After the write and past the umask.
    handle.set_permissions(fs::Permissions::from_mode(file.mode & 0o777)).map_err(fail)?;
    if file.owner.is_some() || group.is_some() {
        chown(&path, file.owner, group).map_err(fail)?;
    }
    Ok(())
}

/// Makes a link for each first path element, and takes away those that are no longer wanted.
fn link_names(dir: &Path, payload: &Payload) -> Result<(), VolumeError> {
    let wanted: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link).map_err(|error| VolumeError::file(&link, error))?;
        }
    }
    let entries = fs::read_dir(dir).map_err(|error| VolumeError::file(dir, error))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with("..") && !wanted.contains(name) {
            fs::remove_file(entry.path()).map_err(|error| VolumeError::file(&entry.path(), error))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |data: &str| File { data: data.as_bytes().to_vec(), mode: 0o640, owner: None };
        files.iter().map(|(path, data)| ((*path).to_owned(), file(data))).collect()
    }
    fn tree(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn content_is_swapped_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert!(write(dir, &payload(&[("a", "1"), ("d/x", "2")]), None, "t1").unwrap());
        assert_eq!(tree(dir), ["..data", "..t1", "a", "d"]);
        assert_eq!(fs::read_to_string(dir.join("d/x")).unwrap(), "2");
        assert_eq!(fs::metadata(dir.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(!write(dir, &payload(&[("a", "1"), ("d/x", "2")]), None, "t2").unwrap());
        assert!(write(dir, &payload(&[("a", "9"), ("e", "3")]), None, "t3").unwrap());
        assert_eq!(tree(dir), ["..data", "..t3", "a", "e"]);
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "9");
    }

    #[test]
    fn paths_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "..x", "a/../../x", ""] {
            assert!(write(dir.path(), &payload(&[(path, "1")]), None, "t").is_err(), "{path}");
        }
        assert!(tree(dir.path()).is_empty());
    }
}
