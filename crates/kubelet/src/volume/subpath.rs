//! Finds what a subPath means inside a volume without ever leaving the volume, whatever links a container has planted:
//! each element is opened relative to the one before it, and links are not followed.

use std::{
    os::fd::AsRawFd,
    path::{Component, Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::VolumeError;

/// The real path of `sub_path` below `volume`; `create` makes missing directories.
pub fn resolve(volume: &Path, sub_path: &str, create: bool) -> Result<PathBuf, VolumeError> {
    let relative = Path::new(sub_path);
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain {
        return Err(VolumeError::Unavailable(format!("subPath \"{sub_path}\" must be relative and without '..'")));
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let fail = |error: rustix::io::Errno| VolumeError::file(&volume.join(sub_path), error);
    let root = rustix::fs::open(volume, flags | OFlags::DIRECTORY, Mode::empty()).map_err(fail)?;
    if create {
        let mut at = root.try_clone().map_err(|error| VolumeError::file(volume, error))?;
        for part in relative.components() {
            match rustix::fs::mkdirat(&at, part.as_os_str(), Mode::from_raw_mode(0o750)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(fail(error)),
            }
            match rustix::fs::openat2(&at, part.as_os_str(), flags | OFlags::DIRECTORY, Mode::empty(), beneath) {
                Ok(next) => at = next,
                // A file, or a link that leads on: the lookup below decides.
                Err(_) => break,
            }
        }
    }
    // Links inside a volume are legal (ConfigMaps are made of them); leaving the volume is not.
    let place = rustix::fs::openat2(&root, relative, flags, Mode::empty(), beneath).map_err(fail)?;
    std::fs::read_link(format!("/proc/self/fd/{}", place.as_raw_fd()))
        .map_err(|error| VolumeError::file(&volume.join(sub_path), error))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_sub_path_stays_in_its_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        fs::create_dir_all(volume.join("real")).unwrap();
        fs::write(dir.path().join("secret"), "x").unwrap();
        symlink("../secret", volume.join("out")).unwrap();
        symlink("/etc", volume.join("etc")).unwrap();
        symlink("real", volume.join("in")).unwrap();
        let real = fs::canonicalize(&volume).unwrap();
        assert_eq!(resolve(&volume, "real", false).unwrap(), real.join("real"));
        assert_eq!(resolve(&volume, "in", false).unwrap(), real.join("real"));
        assert_eq!(resolve(&volume, "new/deep", true).unwrap(), real.join("new/deep"));
        for bad in ["out", "etc", "etc/passwd", "../secret", "/etc", "absent"] {
            assert!(resolve(&volume, bad, false).is_err(), "{bad}");
        }
        assert!(resolve(&volume, "etc/x", true).is_err());
    }
}
