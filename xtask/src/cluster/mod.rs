//! A cluster on this machine: what it consists of, and how it comes and goes.

mod certs;
mod components;
pub mod compose;
mod down;
pub mod host;
pub mod images;
mod network;
pub mod process;
pub mod slot;
mod up;
pub mod wait;

pub use down::down;
pub use up::{prepare, start_apiserver, start_store, up};

/// Names of everything that runs in a cluster, as in its log and pid files.
pub fn component_names(cluster: &Cluster) -> Vec<String> {
    components::all(cluster).into_iter().map(|component| component.name).collect()
}

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::build::workspace;

/// How much of a cluster to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shape {
    /// etcd and the apiserver alone.
    ControlPlane,
    /// Everything, with this many nodes.
    Nodes(u8),
}

/// Where the apiserver keeps its objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Storage {
    #[default]
    Etcd,
    /// A file of the apiserver's own; no etcd runs.
    Embedded,
}

/// One cluster: a folder, and a slot that keeps its ports, names and addresses apart
/// from those of other clusters on the machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cluster {
    pub dir: PathBuf,
    /// 0 for the first cluster of the machine: upstream's usual ports and ranges.
    pub slot: u8,
    pub shape: Shape,
    #[serde(default)]
    pub storage: Storage,
}

const STATE_FILE: &str = "cluster.json";
/// In [`Cluster::audit`].
pub const AUDIT_POLICY: &str = "policy.yaml";

impl Cluster {
    /// The cluster that lives in `dir`, if any.
    pub fn load(dir: &Path) -> anyhow::Result<Option<Self>> {
        let file = absolute(dir).join(STATE_FILE);
        match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .with_context(|| format!("{} is not a cluster's state; remove the folder", file.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| file.display().to_string()),
        }
    }

    pub fn save(&self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.dir)?;
        fs::create_dir_all(self.audit())?;
        let policy = workspace().join("deploy/manifests/audit-policy.yaml");
        fs::copy(&policy, self.audit().join(AUDIT_POLICY)).with_context(|| policy.display().to_string())?;
        fs::write(self.dir.join(STATE_FILE), serde_json::to_vec_pretty(self)?)?;
        Ok(())
    }

    /// The audit policy and log.
    pub fn audit(&self) -> PathBuf {
        self.dir.join("audit")
    }

    /// Prefix of every name that the cluster gives to something on the machine.
    pub fn id(&self) -> String {
        format!("cox{}", self.slot)
    }
    pub fn port(&self, base: u16) -> u16 {
        base + 100 * u16::from(self.slot)
    }
    pub fn apiserver_port(&self) -> u16 {
        self.port(6443)
    }
    /// The link between the nodes; the first address is the machine's own and node 1's.
    pub fn node_network(&self) -> String {
        format!("10.90.{}.0/24", self.slot)
    }
    pub fn node_address(&self, node: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 90, self.slot, node)
    }
    pub fn pod_network(&self) -> String {
        format!("10.{}.0.0/16", 244 - self.slot)
    }
    pub fn service_network(&self) -> String {
        format!("10.{}.0.0/16", 96 + self.slot)
    }
    pub fn service_address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 96 + self.slot, 0, last)
    }
    pub fn dns_address(&self) -> Ipv4Addr {
        self.service_address(10)
    }
    pub fn node_count(&self) -> u8 {
        match self.shape {
            Shape::ControlPlane => 0,
            Shape::Nodes(nodes) => nodes,
        }
    }
    pub fn node_name(&self, node: u8) -> String {
        format!("{}-node-{node}", self.id())
    }
    /// The network namespace of a node; none for node 1, which is the machine itself.
    pub fn namespace(&self, node: u8) -> Option<String> {
        (node > 1).then(|| self.node_name(node))
    }

    pub fn pki(&self) -> PathBuf {
        self.dir.join("pki")
    }
    pub fn log(&self, component: &str) -> PathBuf {
        self.dir.join("log").join(format!("{component}.log"))
    }
    pub fn pid_file(&self, component: &str) -> PathBuf {
        self.dir.join("run").join(format!("{component}.pid"))
    }
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        match user {
            "admin" => self.dir.join("admin.kubeconfig"),
            user => self.pki().join(format!("{user}.kubeconfig")),
        }
    }
}

/// Relative to the workspace, as the command line is run from anywhere in it.
pub fn absolute(dir: &Path) -> PathBuf {
    if dir.is_absolute() { dir.to_owned() } else { workspace().join(dir) }
}
