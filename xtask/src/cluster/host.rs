//! The machine's Docker engine: started if nobody did, stopped if it was us.

use std::{path::Path, process::Command, time::Duration};

use super::{Cluster, process, slot, wait};
use crate::install::run;

const PID_FILE: &str = "/run/coxswain/dockerd.pid";
const LOG_FILE: &str = "/var/log/coxswain-dockerd.log";
const PATIENCE: Duration = Duration::from_secs(60);
pub const SOCKET: &str = "/var/run/docker.sock";

/// An engine answers on the usual socket; one is started where none does.
pub fn ensure_docker() -> anyhow::Result<()> {
    if docker_answers() {
        return Ok(());
    }
    eprintln!("starting dockerd (log: {LOG_FILE})");
    process::start(&["dockerd".to_owned()], Path::new(LOG_FILE), Path::new(PID_FILE))?;
    wait::until("dockerd", PATIENCE, || docker_answers().then_some(()))
}

fn docker_answers() -> bool {
    docker("GET", "/_ping", &[]).is_ok_and(|reply| reply == "OK")
}

/// One call of the engine's HTTP API.
pub fn docker(method: &str, path: &str, more: &[&str]) -> anyhow::Result<String> {
    run(Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--unix-socket", SOCKET, "-X", method])
        .args(more)
        .arg(format!("http://docker{path}")))
}

/// Pid of the container whose network namespace is the node's; started if need be.
pub fn anchor(name: &str) -> anyhow::Result<u32> {
    let inspect = || -> Option<u32> {
        let reply: serde_json::Value =
            serde_json::from_str(&docker("GET", &format!("/containers/{name}/json"), &[]).ok()?).ok()?;
        let pid = reply["State"]["Pid"].as_u64()?;
        u32::try_from(pid).ok().filter(|pid| *pid > 0)
    };
    if let Some(pid) = inspect() {
        return Ok(pid);
    }
    let _ = docker("DELETE", &format!("/containers/{name}?force=true"), &[]);
    let body = serde_json::json!({
        "Image": super::images::BUSYBOX, "Cmd": ["sleep", "2147483647"], "Hostname": name,
        "HostConfig": { "NetworkMode": "none", "RestartPolicy": { "Name": "unless-stopped" } },
    })
    .to_string();
    let json = ["-H", "Content-Type: application/json", "-d", &body];
    docker("POST", &format!("/containers/create?name={name}"), &json)?;
    docker("POST", &format!("/containers/{name}/start"), &[])?;
    wait::until(name, PATIENCE, inspect)
}

/// Removes the cluster's containers; the engine too if we started it and nobody needs it.
pub fn remove(cluster: &Cluster) {
    for node in 1..=cluster.node_count() {
        let name = cluster.node_name(node);
        let filter = format!("%7B%22label%22%3A%5B%22io.coxswain.node%3D{name}%22%5D%7D");
        let listed = docker("GET", &format!("/containers/json?all=true&filters={filter}"), &[]).unwrap_or_default();
        let containers: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap_or_default();
        for container in containers {
            let id = container["Id"].as_str().unwrap_or_default();
            let _ = docker("DELETE", &format!("/containers/{id}?force=true&v=true"), &[]);
        }
        let _ = docker("DELETE", &format!("/containers/{name}?force=true"), &[]);
    }
}

/// After the last cluster: our images go, and the engine if it was ours.
pub fn release() {
    if !slot::all_free() {
        return;
    }
    super::network::remove_plugin_chains();
    for image in super::images::ALL {
        let _ = docker("DELETE", &format!("/images/{image}?force=true"), &[]);
    }
    if let Some(engine) = process::Process::from_file(Path::new(PID_FILE)) {
        engine.stop(PATIENCE);
        let _ = std::fs::remove_file(PID_FILE);
        let _ = std::fs::remove_file(LOG_FILE);
    }
}
