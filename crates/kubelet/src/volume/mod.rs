//! A pod's volumes: directories below the kubelet's root that containers mount. Contents that come from the API are
//! computed purely ([`payload`]) and swapped in atomically ([`atomic`]).

pub mod atomic;
pub mod downward;
pub mod mounts;
pub mod payload;
pub mod prepare;
pub mod subpath;

use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// In the words of the FailedMount event, without the volume's name.
    #[error("{0}")]
    Unavailable(String),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("cannot mount a tmpfs at {}: {source}", path.display())]
    Mount { path: PathBuf, source: rustix::io::Errno },
}

impl VolumeError {
    fn file(path: &Path, source: impl Into<std::io::Error>) -> Self {
        VolumeError::File { path: path.to_owned(), source: source.into() }
    }
}

/// The files of one pod below the kubelet's root; upstream's layout.
#[derive(Clone, Debug)]
pub struct PodDir(PathBuf);

impl PodDir {
    pub fn new(root: &Path, pod_uid: &str) -> Self {
        Self(root.join("pods").join(pod_uid))
    }
    pub fn path(&self) -> &Path {
        &self.0
    }
    /// `kind` is upstream's plugin name with `~` for `/`, such as `kubernetes.io~configmap`.
    pub fn volume(&self, kind: &str, name: &str) -> PathBuf {
        self.0.join("volumes").join(kind).join(name)
    }
    pub fn etc_hosts(&self) -> PathBuf {
        self.0.join("etc-hosts")
    }
    pub fn resolv_conf(&self) -> PathBuf {
        self.0.join("resolv.conf")
    }
    /// A file that belongs to one container, such as its termination message.
    pub fn container_file(&self, container: &str, file: &str) -> PathBuf {
        self.0.join("containers").join(container).join(file)
    }
    /// Where subPath mounts of a container are bound.
    pub fn subpaths(&self) -> PathBuf {
        self.0.join("volume-subpaths")
    }
}
