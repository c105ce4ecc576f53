//! How etcd is reached: one connection to each member, made anew when the certificates change.

use std::{path::PathBuf, sync::Arc, time::Duration};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, KvClient, TlsOptions, WatchClient};
use futures::FutureExt;

use super::{StoreError, refused};

/// How to reach etcd.
#[derive(Clone, Debug)]
pub struct Config {
    /// `https://host:port`.
    pub endpoints: Vec<String>,
    /// Without it the connection is not encrypted (a loopback etcd in a test).
    pub tls: Option<Tls>,
    /// Before every key: `/registry`.
    pub prefix: String,
}

/// PEM files. When they change, new connections are made; a watch that runs goes on over its own.
#[derive(Clone, Debug)]
pub struct Tls {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// A half-dead peer is found out within the sum of both.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection of its own, so that a dead member is left alone as soon as it is found out.
pub(super) struct Member {
    pub(super) client: Client,
    pub(super) kv: KvClient,
    pub(super) watch: WatchClient,
}

/// Connections that are made when they are first used.
pub(super) fn members(config: &Config) -> Result<Vec<Arc<Member>>, StoreError> {
    let mut options = ConnectOptions::new()
        .with_keep_alive(KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT)
        .with_keep_alive_while_idle(true)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_require_leader(true);
    if let Some(tls) = &config.tls {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|error| StoreError::Failed(format!("{}: {error}", path.display())))
        };
        options = options.with_tls(
            TlsOptions::new()
                .ca_certificate(Certificate::from_pem(read(&tls.authority)?))
                .identity(Identity::from_pem(read(&tls.certificate)?, read(&tls.key)?)),
        );
    }
    let member = |endpoint: &String| {
        let connected = Client::connect([endpoint], Some(options.clone())).now_or_never();
        let client = connected.expect("there is no password to be checked, so nothing is waited for");
        let client = client.map_err(|error| refused(&error))?;
        let kv = client.kv_client().max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX);
        let watch = client.watch_client().max_decoding_message_size(usize::MAX);
        Ok(Arc::new(Member { client, kv, watch }))
    };
    config.endpoints.iter().map(member).collect()
}

impl From<notify::Error> for StoreError {
    fn from(error: notify::Error) -> Self {
        StoreError::Failed(format!("the certificates for etcd cannot be watched: {error}"))
    }
}
