//! Looks at what is there of a pod: the runtime's containers, the network's addresses, termination messages.

use std::{
    collections::BTreeMap,
    io::{Read, Seek},
};

use api_types::k8s::core::{ContainerStatus, Pod};
use futures::StreamExt;

use super::{
    desired::container_of,
    observed::{Observed, Sandbox},
};
use crate::{
    host::Host,
    runtime::{Container, LogRequest, PodIdentity, Role, Runtime, RuntimeError, State},
};

/// Upstream's limits on termination messages: from the file, and from the log.
const MESSAGE_BYTES_MAX: usize = 4096;
const LOG_MESSAGE_BYTES_MAX: usize = 2048;
const LOG_MESSAGE_LINES_MAX: i64 = 80;

/// All that the runtime and the network know; the worker adds what it remembers.
pub async fn look(host: &Host, identity: &PodIdentity, pod: &Pod) -> Result<Observed, RuntimeError> {
    let mut containers = host.runtime.list(Some(&identity.uid)).await?;
    containers.sort_by_key(|container| std::cmp::Reverse(container.attempt));
    let host_network = pod.spec.as_ref().is_some_and(|spec| spec.host_network.unwrap_or_default());
    let mut observed = Observed { reported_restarts: reported_restarts(pod), ..Observed::default() };
    let mut sandboxes = vec![];
    for container in containers {
        match &container.role {
            Role::Sandbox => sandboxes.push(container),
            Role::App { name, .. } => observed.containers.entry(name.clone()).or_default().push(container),
        }
    }
    let seen = sandboxes.into_iter().map(|sandbox| {
        let ips = if host_network { Some(host.settings.node_ips.clone()) } else { host.network.ips(&sandbox.id) };
        match ips {
            Some(ips) if sandbox.is_running() => Sandbox::Ready { id: sandbox.id, attempt: sandbox.attempt, ips },
            Some(_) | None => Sandbox::Broken { id: sandbox.id, attempt: sandbox.attempt },
        }
    });
    // One that works, or else the newest.
    observed.sandbox =
        seen.max_by_key(|sandbox| (matches!(sandbox, Sandbox::Ready { .. }), attempt(sandbox))).unwrap_or_default();
    Ok(observed)
}

fn attempt(sandbox: &Sandbox) -> u32 {
    match sandbox {
        Sandbox::Absent => 0,
        Sandbox::Ready { attempt, .. } | Sandbox::Broken { attempt, .. } => *attempt,
    }
}

/// Of containers that existed, as far as the API knows.
fn reported_restarts(pod: &Pod) -> BTreeMap<String, u32> {
    let Some(status) = &pod.status else { return BTreeMap::new() };
    let lists = [&status.init_container_statuses, &status.container_statuses];
    let statuses = lists.into_iter().flatten().flatten();
    let existed = statuses.filter(|status: &&ContainerStatus| status.container_id.is_some());
    existed.map(|status| (status.name.clone(), u32::try_from(status.restart_count).unwrap_or_default())).collect()
}

/// Reads the last words of containers that ended since the last look.
pub async fn read_messages(
    runtime: &dyn Runtime,
    pod: &Pod,
    observed: &Observed,
    messages: &mut BTreeMap<String, String>,
) {
    let present: Vec<&Container> = observed.containers.values().flatten().collect();
    messages.retain(|id, _| present.iter().any(|container| container.id == *id));
    for container in present {
        let State::Exited(exit) = &container.state else { continue };
        if messages.contains_key(&container.id) {
            continue;
        }
        let mut message = container.termination_file.as_deref().map(tail_of_file).unwrap_or_default();
        let policy = container_of(pod, container.name()).and_then(|spec| spec.termination_message_policy);
        if message.is_empty() && exit.code != 0 && policy.as_deref() == Some("FallbackToLogsOnError") {
            message = tail_of_log(runtime, &container.id).await;
        }
        messages.insert(container.id.clone(), message);
    }
}

fn tail_of_file(path: &std::path::Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(std::io::SeekFrom::Start(length.saturating_sub(MESSAGE_BYTES_MAX as u64)))?;
        let mut bytes = vec![];
        file.take(MESSAGE_BYTES_MAX as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    // A pod's files may be gone before its containers are.
    read().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

async fn tail_of_log(runtime: &dyn Runtime, id: &str) -> String {
    let request = LogRequest { tail_lines: Some(LOG_MESSAGE_LINES_MAX), ..LogRequest::default() };
    let Ok(mut log) = runtime.logs(id, &request).await else { return String::new() };
    let mut bytes = vec![];
    while let Some(Ok(piece)) = log.next().await {
        bytes.extend_from_slice(piece.bytes());
    }
    let start = bytes.len().saturating_sub(LOG_MESSAGE_BYTES_MAX);
    String::from_utf8_lossy(&bytes[start..]).into_owned()
}
