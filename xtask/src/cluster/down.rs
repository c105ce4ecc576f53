//! Stops a cluster and removes everything that it left on the machine.

use std::{fs, path::Path, time::Duration};

use super::{Cluster, absolute, components, compose, host, network, process::Process, slot};

const PATIENCE: Duration = Duration::from_secs(10);

pub fn down(dir: &Path) -> anyhow::Result<()> {
    let dir = absolute(dir);
    let Some(cluster) = Cluster::load(&dir)? else {
        eprintln!("no cluster in {}", dir.display());
        return Ok(());
    };
    for component in components::all(&cluster).iter().rev() {
        if let Some(process) = Process::from_file(&cluster.pid_file(&component.name)) {
            process.stop(PATIENCE);
        }
    }
    if cluster.node_count() > 0 {
        host::remove(&cluster);
        network::remove(&cluster);
        unmount_below(&dir)?;
    }
    compose::remove(&cluster);
    fs::remove_dir_all(&dir)?;
    slot::release(cluster.slot);
    if cluster.node_count() > 0 {
        host::release();
    }
    eprintln!("{} is down", dir.display());
    Ok(())
}

/// Volumes in memory and sub-path mounts of pods that were running.
fn unmount_below(dir: &Path) -> anyhow::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let targets =
        mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|path| Path::new(path).starts_with(dir));
    for target in targets.collect::<Vec<_>>().into_iter().rev() {
        rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH)?;
    }
    Ok(())
}
