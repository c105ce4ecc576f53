//! What apiservers compete for, in the store: IPAddress objects, and a key for each node
//! port. Who makes it holds the number; it is taken away only by who knows that it stands
//! for a holding that has ended, so that nobody takes away a claim that was made since.

use std::{net::IpAddr, sync::Arc};

use api_types::{
    ApiError, Key,
    k8s::meta::{DeleteOptions, Preconditions},
    resources,
};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{MANAGED_BY, MANAGED_BY_LABEL};
use crate::{
    server::Server,
    store::{Range, StoreError},
    verbs::store_refusal,
};

/// Followed by the port. Beside upstream's `ranges/servicenodeports`, which holds all ports in one value.
pub const PORTS: &str = "ranges/servicenodeports/";

const FAMILY_LABEL: &str = "ipaddress.kubernetes.io/ip-family";

/// Who holds a node port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortClaim {
    /// The Service's.
    pub uid: String,
    /// The Service's revision when the port was claimed; 0 for a new one.
    pub after: u64,
    /// When, in seconds of Unix.
    pub at_s: i64,
}

/// A number whose holder has let it go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Released {
    /// With the uid of the IPAddress object that stood for it.
    Address(IpAddr, String),
    /// By a Service at a revision: claims that it made later stay.
    Port { port: u16, uid: String, before: u64 },
}

/// Writes claims.
pub trait Claims: Send + Sync {
    /// Returns the uid of the IPAddress object. Errs with AlreadyExists if the address is taken.
    fn create(&self, object: Value) -> BoxFuture<'_, Result<String, ApiError>>;
    /// An object that is absent or another one than this is no error.
    fn delete(&self, name: String, uid: String) -> BoxFuture<'_, Result<(), ApiError>>;
    /// False if the port is taken.
    fn claim_port(&self, port: u16, claim: PortClaim) -> BoxFuture<'_, Result<bool, ApiError>>;
    /// Takes away a claim that this Service made before a revision.
    fn free_port(&self, port: u16, uid: String, before: u64) -> BoxFuture<'_, Result<(), ApiError>>;
}

impl Claims for Arc<Server> {
    fn create(&self, object: Value) -> BoxFuture<'_, Result<String, ApiError>> {
        Box::pin(async move {
            let created = self.create_own(&resources::IP_ADDRESS, object).await?;
            Ok(created["metadata"]["uid"].as_str().unwrap_or_default().to_owned())
        })
    }

    fn delete(&self, name: String, uid: String) -> BoxFuture<'_, Result<(), ApiError>> {
        Box::pin(async move {
            let preconditions = Preconditions { uid: Some(uid).filter(|uid| !uid.is_empty()), resource_version: None };
            let options = DeleteOptions { preconditions: Some(preconditions), ..DeleteOptions::default() };
            match self.delete_own(&resources::IP_ADDRESS, Key::cluster(name), &options).await {
                Err(refusal) if !refusal.is_not_found() && refusal.code() != 409 => Err(refusal),
                Ok(()) | Err(_) => Ok(()),
            }
        })
    }

    fn claim_port(&self, port: u16, claim: PortClaim) -> BoxFuture<'_, Result<bool, ApiError>> {
        Box::pin(async move {
            let value = serde_json::to_vec(&claim).expect("a claim is JSON");
            match self.store.put(&format!("{PORTS}{port}"), value.into(), 0, None).await {
                Ok(_) => Ok(true),
                Err(StoreError::Conflict { .. }) => Ok(false),
                Err(error) => Err(store_refusal(&error)),
            }
        })
    }

    fn free_port(&self, port: u16, uid: String, before: u64) -> BoxFuture<'_, Result<(), ApiError>> {
        Box::pin(async move {
            let key = format!("{PORTS}{port}");
            let Some(record) = self.store.get(&key).await.map_err(|error| store_refusal(&error))? else {
                return Ok(());
            };
            let claim: Option<PortClaim> = serde_json::from_slice(&record.value).ok();
            if claim.is_none_or(|claim| claim.uid != uid || claim.after >= before) {
                return Ok(());
            }
            match self.store.delete(&key, record.revision).await {
                // Somebody else was first.
                Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
                Err(error) => Err(store_refusal(&error)),
            }
        })
    }
}

/// All claims of node ports.
pub async fn ports(server: &Server) -> Result<Vec<(u16, PortClaim)>, StoreError> {
    let page = server.store.range(Range { prefix: PORTS, ..Range::default() }).await?;
    let claim = |record: &crate::store::Record| {
        let port = record.key.strip_prefix(PORTS)?.parse().ok()?;
        Some((port, serde_json::from_slice(&record.value).ok()?))
    };
    Ok(page.records.iter().filter_map(claim).collect())
}

/// `metadata` is the Service's.
pub fn address_object(ip: IpAddr, metadata: &Value) -> Value {
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": ip.to_string(),
            "labels": {FAMILY_LABEL: family, MANAGED_BY_LABEL: MANAGED_BY},
        },
        "spec": {"parentRef": {
            "group": "",
            "resource": "services",
            "namespace": metadata["namespace"],
            "name": metadata["name"],
        }},
    })
}
