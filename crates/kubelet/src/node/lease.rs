//! The node's heartbeat: a Lease in `kube-node-lease` that is renewed every 10 seconds.
//!
//! Source: component-helpers/apimachinery/lease.

use std::time::Duration;

use api_types::{
    Key, Object,
    jiff::Timestamp,
    k8s::{
        coordination::{Lease, LeaseSpec},
        core::Node,
        meta::{MicroTime, ObjectMeta, OwnerReference},
    },
};
use client::Client;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "kube-node-lease";
const LEASE_DURATION_S: i32 = 40;
const RENEW_PERIOD: Duration = Duration::from_secs(10);
/// Tries in one period after which the next period is waited for.
const TRIES_MAX: usize = 5;

/// Renews until `shutdown`.
pub async fn renew(client: Client, node: String, shutdown: CancellationToken) {
    let mut ticks = interval(RENEW_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut held: Option<Lease> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        for _ in 0..TRIES_MAX {
            match try_to_renew(&client, &node, held.take()).await {
                Ok(lease) => {
                    held = Some(lease);
                    break;
                }
                // Read and try again at once: the node's own lease has no rival.
                Err(error) if error.is_conflict() || error.is_not_found() => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot renew the node's lease");
                    break;
                }
            }
        }
    }
}

async fn try_to_renew(client: &Client, node: &str, held: Option<Lease>) -> Result<Lease, client::Error> {
    let key = Key::new(NAMESPACE, node);
    let known = match held {
        Some(lease) => Some(lease),
        None => match client.get::<Lease>(&key).await {
            Ok(lease) => Some(lease),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        },
    };
    match known {
        Some(mut lease) => {
            renewed(&mut lease, node, Timestamp::now());
            client.update(&lease).await
        }
        None => {
            let metadata = ObjectMeta {
                name: Some(node.to_owned()),
                namespace: Some(NAMESPACE.to_owned()),
                owner_references: owner(client, node).await,
                ..ObjectMeta::default()
            };
            let mut lease = Lease { metadata, ..Lease::default() };
            renewed(&mut lease, node, Timestamp::now());
            client.create(&lease).await
        }
    }
}

/// The lease goes with its node.
async fn owner(client: &Client, node: &str) -> Option<Vec<OwnerReference>> {
    let node: Node = client.get(&Key::cluster(node)).await.ok()?;
    Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.name().to_owned(),
        uid: node.uid().to_owned(),
        controller: None,
        block_owner_deletion: None,
    }])
}

fn renewed(lease: &mut Lease, node: &str, now: Timestamp) {
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    spec.holder_identity = Some(node.to_owned());
    spec.lease_duration_seconds = Some(LEASE_DURATION_S);
    spec.renew_time = Some(MicroTime(now));
}
