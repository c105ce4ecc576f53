//! Slots: small numbers that keep the clusters of one machine apart. A slot is a file
//! that names its cluster's folder. Slots are given out under a lock, so that two clusters
//! that start at the same time do not take the same.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
};

use anyhow::bail;

use super::{Cluster, Shape, Storage};

const DIR: &str = "/run/coxswain/slots";
const LOCK: &str = "/run/coxswain/slots.lock";
/// Bounded by the address ranges of [`Cluster`].
const SLOTS_MAX: u8 = 20;

/// Takes the lowest free slot for the cluster in `dir`.
pub fn take(dir: &Path) -> anyhow::Result<u8> {
    fs::create_dir_all(DIR)?;
    let lock = fs::File::create(LOCK)?;
    lock.lock()?; // until it is dropped
    for slot in 0..SLOTS_MAX {
        let file = Path::new(DIR).join(slot.to_string());
        if let Ok(owner) = fs::read_to_string(&file) {
            if Path::new(owner.trim()).exists() {
                continue;
            }
            fs::remove_file(&file)?; // its folder was removed by hand
        }
        if ports_free(&Cluster { dir: dir.to_owned(), slot, shape: Shape::ControlPlane, storage: Storage::Etcd }) {
            fs::create_dir_all(dir)?;
            fs::write(&file, format!("{}\n", dir.display()))?;
            return Ok(slot);
        }
    }
    bail!("{SLOTS_MAX} clusters run on this machine; stop one with `cargo xtask down --dir …` (see {DIR})")
}

/// Nobody else, such as another Kubernetes, sits on the slot's ports.
fn ports_free(cluster: &Cluster) -> bool {
    let ports = [cluster.apiserver_port(), cluster.port(2379), cluster.port(2380)];
    ports.into_iter().all(|port| TcpListener::bind(("0.0.0.0", port)).is_ok())
}

pub fn release(slot: u8) {
    let _ = fs::remove_file(Path::new(DIR).join(slot.to_string()));
}

/// Keeps the machine's container engine running although no cluster is there; until dropped.
pub struct Hold(PathBuf);

impl Hold {
    pub fn take(who: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(DIR)?;
        let file = Path::new(DIR).join(who);
        fs::write(&file, "")?;
        Ok(Self(file))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        super::host::release();
    }
}

/// No cluster is left on this machine.
pub fn all_free() -> bool {
    fs::read_dir(DIR).map_or(true, |mut entries| entries.next().is_none())
}
