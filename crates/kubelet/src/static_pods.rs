//! Static pods: pods from files on this node. Each has a mirror in the API, so that it can be seen there; the file rules.
//!
//! Source: pkg/kubelet/config/common.go, pkg/kubelet/pod/mirror_client.go.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use api_types::{
    Key, Object,
    k8s::{
        core::{Node, Pod, Toleration},
        meta::{DeleteOptions, OwnerReference, Preconditions},
    },
};
use client::{Cache, Client};
use notify::Watcher;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{host::Host, pods::Pods};

const CONFIG_HASH: &str = "kubernetes.io/config.hash";
const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
const CONFIG_SEEN: &str = "kubernetes.io/config.seen";
const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// Files are read again this long after the last change, as editors write in several steps.
const SETTLE: Duration = Duration::from_millis(200);
/// Mirrors that could not be written are tried again.
const MIRROR_RETRY: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum StaticPodError {
    #[error("{}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: not a pod: {message}", path.display())]
    Decode { path: PathBuf, message: String },
    #[error("cannot watch {}: {source}", path.display())]
    Watch { path: PathBuf, source: notify::Error },
}

pub fn is_static(pod: &Pod) -> bool {
    pod.annotation(CONFIG_SOURCE).is_some_and(|source| source != "api") && pod.annotation(CONFIG_MIRROR).is_none()
}

/// The API's copy of a static pod.
pub fn is_mirror(pod: &Pod) -> bool {
    pod.annotation(CONFIG_MIRROR).is_some()
}

pub fn mirrors(mirror: &Pod, pod: &Pod) -> bool {
    mirror.annotation(CONFIG_MIRROR) == pod.annotation(CONFIG_HASH)
}

/// A pod out of a file's text, as this node runs it. Same text, same uid.
pub fn decode(text: &str, node: &str, seen: &str) -> Result<Pod, String> {
    let mut pod: Pod = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    if pod.name().is_empty() {
        return Err("metadata.name is required".to_owned());
    }
    let spec = pod.spec.as_mut().ok_or("spec is required")?;
    if spec.containers.is_empty() {
        return Err("spec.containers is required".to_owned());
    }
    spec.node_name = Some(node.to_owned());
    // A static pod is not evicted by taints: nobody could start it elsewhere.
    let tolerates_all = Toleration {
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        ..Toleration::default()
    };
    let tolerations = spec.tolerations.get_or_insert_default();
    if !tolerations.contains(&tolerates_all) {
        tolerations.push(tolerates_all);
    }
    let digest = Sha256::digest(format!("{node}\0{text}"));
    let hash: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let meta = &mut pod.metadata;
    meta.name = meta.name.as_ref().map(|name| format!("{name}-{node}"));
    meta.namespace.get_or_insert_with(|| "default".to_owned());
    meta.uid = Some(hash.clone());
    let annotations = meta.annotations.get_or_insert_default();
    for (key, value) in [(CONFIG_HASH, hash.as_str()), (CONFIG_SEEN, seen), (CONFIG_SOURCE, "file")] {
        annotations.insert(key.to_owned(), value.to_owned());
    }
    default(&mut pod);
    Ok(pod)
}

/// The defaults that the API gives and the kubelet relies on.
fn default(pod: &mut Pod) {
    let Some(spec) = &mut pod.spec else { return };
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let latest = container
            .image
            .as_deref()
            .is_some_and(|image| crate::image::reference(image).is_some_and(|full| full.ends_with(":latest")));
        let policy = if latest { "Always" } else { "IfNotPresent" };
        container.image_pull_policy.get_or_insert_with(|| policy.to_owned());
        for port in container.ports.iter_mut().flatten() {
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
    }
}

/// All pods of a directory, by uid; files that are not pods are told of and skipped.
fn read_all(dir: &Path, node: &str, known: &BTreeMap<String, Arc<Pod>>) -> BTreeMap<String, Arc<Pod>> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let is_pod_file = |path: &PathBuf| {
        let hidden = path.file_name().and_then(|name| name.to_str()).is_none_or(|name| name.starts_with('.'));
        path.is_file() && !hidden
    };
    let mut pods = BTreeMap::new();
    for path in entries.map(|entry| entry.path()).filter(is_pod_file) {
        match read(&path, node) {
            Ok(pod) => {
                let uid = pod.uid().to_owned();
                // The time when it was seen first stays.
                let pod = known.get(&uid).cloned().unwrap_or_else(|| Arc::new(pod));
                pods.insert(uid, pod);
            }
            Err(error) => tracing::warn!(%error, "a file of the static pods is ignored"),
        }
    }
    pods
}

fn read(path: &Path, node: &str) -> Result<Pod, StaticPodError> {
    let text = fs::read_to_string(path).map_err(|source| StaticPodError::Read { path: path.to_owned(), source })?;
    let seen = api_types::jiff::Timestamp::now().to_string();
    decode(&text, node, &seen).map_err(|message| StaticPodError::Decode { path: path.to_owned(), message })
}

/// Runs the pods of a directory and mirrors them, for ever.
pub async fn follow(
    dir: PathBuf,
    host: Arc<Host>,
    pods: Arc<Pods>,
    api_pods: Arc<Cache<Pod>>,
    changed: Arc<Notify>,
    shutdown: CancellationToken,
) -> Result<(), StaticPodError> {
    let watch = |source| StaticPodError::Watch { path: dir.clone(), source };
    fs::create_dir_all(&dir).map_err(|source| StaticPodError::Read { path: dir.clone(), source })?;
    let files = changed.clone();
    let mut watcher = notify::recommended_watcher(move |_| files.notify_one()).map_err(watch)?;
    watcher.watch(&dir, notify::RecursiveMode::NonRecursive).map_err(watch)?;
    let mut running: BTreeMap<String, Arc<Pod>> = BTreeMap::new();
    loop {
        let wanted = read_all(&dir, &host.settings.node, &running);
        for (uid, pod) in &wanted {
            if !running.contains_key(uid) {
                tracing::info!(pod = %pod.key(), "running a static pod");
                pods.put(&host, pod.clone());
            }
        }
        running.keys().filter(|uid| !wanted.contains_key(*uid)).for_each(|uid| pods.put_gone(uid));
        running = wanted;
        let mut all_mirrored = true;
        if api_pods.is_synced() {
            all_mirrored = mirror(&host, &running, &api_pods, &pods).await;
        }
        let retry = async {
            match all_mirrored {
                true => std::future::pending().await,
                false => tokio::time::sleep(MIRROR_RETRY).await,
            }
        };
        tokio::select! {
            () = changed.notified() => tokio::time::sleep(SETTLE).await,
            () = retry => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

/// Brings the mirrors in line with the files; answers whether all is well.
async fn mirror(host: &Host, running: &BTreeMap<String, Arc<Pod>>, api_pods: &Cache<Pod>, pods: &Pods) -> bool {
    let mut all = true;
    for mirror in api_pods.list().into_iter().filter(|pod| is_mirror(pod)) {
        let is_wanted = running.values().any(|pod| pod.key() == mirror.key() && mirrors(&mirror, pod));
        if !is_wanted || mirror.is_terminating() {
            all &= told("delete", &mirror.key(), delete(&host.api, &mirror).await);
        }
    }
    for pod in running.values() {
        if api_pods.get(&pod.key()).is_none() {
            all &= told("create", &pod.key(), create(&host.api, pod, &host.settings.node).await);
            pods.wake_untold(pod.uid());
        }
    }
    all
}

fn told(verb: &str, key: &Key, result: Result<(), client::Error>) -> bool {
    if let Err(error) = &result {
        tracing::warn!(pod = %key, verb, %error, "cannot mirror a static pod");
    }
    result.is_ok()
}

async fn create(api: &Client, pod: &Pod, node: &str) -> Result<(), client::Error> {
    let node: Node = api.get(&Key::cluster(node)).await?;
    let mut mirror = pod.clone();
    let hash = pod.annotation(CONFIG_HASH).unwrap_or_default().to_owned();
    mirror.metadata.annotations.get_or_insert_default().insert(CONFIG_MIRROR.to_owned(), hash);
    mirror.metadata.uid = None;
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.name().to_owned(),
        uid: node.uid().to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    match api.create(&mirror).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_already_exists() => Ok(()),
        Err(error) => Err(error),
    }
}

async fn delete(api: &Client, mirror: &Pod) -> Result<(), client::Error> {
    let options = DeleteOptions {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: Some(mirror.uid().to_owned()), resource_version: None }),
        ..DeleteOptions::default()
    };
    match api.delete::<Pod>(&mirror.key(), &options).await {
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - {name: a, image: busybox}\n";

    #[test]
    fn a_file_becomes_a_pod_of_this_node() {
        let pod = decode(FILE, "n1", "2026-01-01T00:00:00Z").unwrap();
        assert_eq!(pod.key().to_string(), "default/web-n1");
        assert!(is_static(&pod) && !is_mirror(&pod));
        assert_eq!(pod.spec.as_ref().unwrap().containers[0].image_pull_policy.as_deref(), Some("Always"));
        assert_eq!(pod.uid(), decode(FILE, "n1", "later").unwrap().uid());
        assert_ne!(pod.uid(), decode(FILE, "n2", "later").unwrap().uid());
    }

    #[test]
    fn what_is_not_a_pod_is_refused() {
        for text in [
            "",
            "kind: Service\napiVersion: v1",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: []}",
        ] {
            assert!(decode(text, "n", "").is_err(), "{text}");
        }
    }
}
