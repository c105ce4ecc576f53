//! What every pod of this node shares: the runtime, the network, the API, and the node's own facts.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use api_types::k8s::core::{Pod, Service};
use client::{Cache, Client, EventKind, Recorder, events};
use daemon::diagnosis::Ledger;

use crate::{
    network::Network,
    objects::Objects,
    pod::{files::Resolver, resources::ResourceList},
    runtime::Runtime,
    volume::{PodDir, prepare::Tokens},
};

/// The node as its pods see it. Not a place for logic: each function takes what it needs.
pub struct Host {
    pub settings: Settings,
    pub machine: Machine,
    pub runtime: Arc<dyn Runtime>,
    pub network: Network,
    pub api: Client,
    pub recorder: Recorder,
    pub ledger: Ledger,
    pub objects: Objects,
    pub tokens: Tokens,
    pub services: Cache<Service>,
}

/// What the kubelet was told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    pub node: String,
    pub node_ips: Vec<IpAddr>,
    pub root: PathBuf,
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
    /// The node's own resolv.conf.
    pub resolver: Resolver,
}

/// What was found out about the machine.
#[derive(Clone, Debug)]
pub struct Machine {
    pub memory_bytes: i64,
    pub allocatable: ResourceList,
    /// The kernel lets us protect processes from being killed first.
    pub may_lower_oom_score: bool,
}

impl Host {
    pub fn pod_dir(&self, uid: &str) -> PodDir {
        PodDir::new(Path::new(&self.settings.root), uid)
    }

    /// Tells of a pod, or of one of its containers unless `container` is empty.
    pub fn event(&self, pod: &Pod, container: &str, kind: EventKind, reason: &str, message: impl Into<String>) {
        let mut about = events::reference(pod);
        about.field_path = field_path(pod, container);
        self.recorder.event(&about, kind, reason, message);
    }
}

fn field_path(pod: &Pod, container: &str) -> Option<String> {
    let spec = pod.spec.as_ref().filter(|_| !container.is_empty())?;
    let list = if spec.init_containers.iter().flatten().any(|known| known.name == container) {
        "initContainers"
    } else if spec.ephemeral_containers.iter().flatten().any(|known| known.name == container) {
        "ephemeralContainers"
    } else {
        "containers"
    };
    Some(format!("spec.{list}{{{container}}}"))
}
