//! The harness: real clusters from the release binaries, and stock clients as witnesses.
//! Tests wait for conditions, never for time to pass.

mod batch;
mod cluster;
mod http;
pub mod raw;
mod second;

pub use batch::Batch;
pub use cluster::{Cluster, Component, Daemon, binaries};
pub use http::Reply;
pub use second::Second;

use std::time::{Duration, Instant};

/// How long anything may take before a test calls it broken. Generous: CI has two busy cores.
pub const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);

/// Calls `probe` until it yields; panics with `what` after [`PATIENCE`].
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {} s", PATIENCE.as_secs());
        std::thread::park_timeout(POLL);
    }
}

/// Starts a control plane, or returns from the test where there are no binaries to start. `"--storage=etcd"`: over
/// etcd whatever the suite runs over, for a test that kills it, writes to it, or puts another apiserver on it.
#[macro_export]
macro_rules! control_plane {
    () => {
        $crate::control_plane!(@ $crate::Cluster::control_plane())
    };
    ($flag:literal) => {
        $crate::control_plane!(@ $crate::Cluster::control_plane_with(&[$flag]))
    };
    (@ $cluster:expr) => {
        match $cluster {
            Some(cluster) => cluster,
            None => {
                eprintln!("skipped: no release binaries; run `cargo xtask test`");
                return;
            }
        }
    };
}

/// Starts a cluster with so many nodes, or returns from the test where there are no binaries.
#[macro_export]
macro_rules! cluster {
    ($nodes:literal) => {
        match $crate::Cluster::with_nodes($nodes) {
            Some(cluster) => cluster,
            None => {
                eprintln!("skipped: no release binaries; run `cargo xtask test`");
                return;
            }
        }
    };
}
