//! Registers the node and keeps its status true: looked at every 10 seconds and whenever something changed, told only if
//! it is news.

use std::{sync::Arc, time::Duration};

use api_types::{
    Key, Object,
    jiff::Timestamp,
    k8s::core::{Node, NodeStatus},
};
use client::{Cache, EventKind, events};
use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    machine,
    status::{self, Identity, Vitals},
};
use crate::host::Host;

/// Upstream's nodeStatusUpdateFrequency.
const LOOK_PERIOD: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);
/// How long the runtime may take to answer before it counts as down.
const RUNTIME_TIMEOUT: Duration = Duration::from_secs(5);

/// Keeps the node's object. `changed` asks for a look at once.
pub struct Registration {
    pub host: Arc<Host>,
    pub identity: Identity,
    /// `--register-node`: the kubelet creates its node.
    pub creates: Creates,
    pub nodes: Arc<Cache<Node>>,
    pub changed: Arc<Notify>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creates {
    Yes,
    No,
}

impl Registration {
    /// Works until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        tokio::select! {
            () = self.keep() => {}
            () = shutdown.cancelled() => {}
        }
    }

    async fn keep(&self) {
        let mut newest: Option<Node> = None;
        let mut told_at = None;
        loop {
            let pause = match self.turn(&mut newest, &mut told_at).await {
                Ok(()) => LOOK_PERIOD,
                Err(error) => {
                    tracing::warn!(%error, "cannot tell the API the node's status; trying again");
                    newest = None;
                    RETRY
                }
            };
            // Whoever is first; the next look is the same.
            let _woken = timeout(pause, self.changed.notified()).await;
        }
    }

    async fn turn(&self, newest: &mut Option<Node>, told_at: &mut Option<Timestamp>) -> Result<(), client::Error> {
        let vitals = self.vitals().await;
        let node = match newest.take() {
            Some(node) => self.newer(node),
            None => self.register(&vitals).await?,
        };
        if let Some(cidr) = node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_deref()) {
            self.host.network.set_pod_cidr(cidr);
        }
        let vitals = Vitals { unready: self.unready(&vitals), ..vitals };
        let now = Timestamp::now();
        let empty = NodeStatus::default();
        let old = node.status.as_ref().unwrap_or(&empty);
        let new = status::status(old, &self.identity, &vitals, now);
        if !status::is_due(old, &new, *told_at, now) {
            *newest = Some(node);
            return Ok(());
        }
        let was_ready = status::is_ready(old);
        let is_ready = status::is_ready(&new);
        let written = self.host.api.update_status(&Node { status: Some(new), ..node }).await;
        match written {
            Ok(node) => {
                *told_at = Some(now);
                if was_ready != is_ready {
                    let reason = if is_ready { "NodeReady" } else { "NodeNotReady" };
                    let message = format!("Node {} status is now: {reason}", self.identity.name);
                    self.host.recorder.event(&events::reference(&node), EventKind::Normal, reason, message);
                    tracing::info!(ready = is_ready, "the node's readiness changed");
                }
                *newest = Some(node);
                Ok(())
            }
            // Somebody else changed the node: read and look again.
            Err(error) if error.is_conflict() => {
                self.changed.notify_one();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn vitals(&self) -> Vitals {
        let usage = machine::usage(&self.host.settings.root);
        match timeout(RUNTIME_TIMEOUT, self.host.runtime.images()).await {
            Ok(Ok(images)) => Vitals { usage, images, unready: vec![] },
            Ok(Err(error)) => {
                Vitals { usage, unready: vec![format!("container runtime is down: {error}")], ..Vitals::default() }
            }
            Err(_) => Vitals { usage, unready: vec!["container runtime is down".to_owned()], ..Vitals::default() },
        }
    }

    fn unready(&self, vitals: &Vitals) -> Vec<String> {
        let network = self.host.network.unready_reason().map(|reason| {
            format!(
                "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:docker: {reason}"
            )
        });
        vitals.unready.iter().cloned().chain(network).collect()
    }

    /// What the watch has, if it is newer.
    fn newer(&self, node: Node) -> Node {
        let revision = |node: &Node| node.resource_version().parse::<u64>().unwrap_or_default();
        match self.nodes.get(&Key::cluster(self.identity.name.as_str())) {
            Some(cached) if revision(&cached) > revision(&node) => cached.as_ref().clone(),
            Some(_) | None => node,
        }
    }

    /// Creates the node, or brings the labels of the one that is there in line.
    async fn register(&self, vitals: &Vitals) -> Result<Node, client::Error> {
        let key = Key::cluster(self.identity.name.as_str());
        let wanted = status::node(&self.identity);
        match self.host.api.get::<Node>(&key).await {
            Ok(mut node) => {
                let labels = node.metadata.labels.get_or_insert_default();
                let wanted = wanted.metadata.labels.unwrap_or_default();
                if wanted.iter().all(|(key, value)| labels.get(key) == Some(value)) {
                    return Ok(node);
                }
                labels.extend(wanted);
                self.host.api.update(&node).await
            }
            Err(error) if error.is_not_found() && self.creates == Creates::Yes => {
                let unready = self.unready(vitals);
                let vitals = Vitals { unready, ..vitals.clone() };
                let new = status::status(&NodeStatus::default(), &self.identity, &vitals, Timestamp::now());
                let node = self.host.api.create(&Node { status: Some(new), ..wanted }).await?;
                tracing::info!(node = node.name(), "registered the node");
                let message = "Starting kubelet.";
                self.host.recorder.event(&events::reference(&node), EventKind::Normal, "Starting", message);
                Ok(node)
            }
            Err(error) => Err(error),
        }
    }
}
