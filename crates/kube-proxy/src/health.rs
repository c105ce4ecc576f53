//! What load balancers and probes ask: whether the proxy works, and for Services with local
//! traffic policy whether this node has endpoints.
//!
//! Source: pkg/proxy/healthcheck.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
};

use api_types::{Key, jiff::Timestamp};
use daemon::{
    plain,
    serve::{self, Body, reply},
};
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::ruleset::Health;

/// A change that is not in the kernel after so long means that the proxy does not work.
const LATE_AFTER_S: i64 = 60;
const NEVER: i64 = 0;

/// When the proxy last carried out what it should. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    updated_s: AtomicI64,
    /// Since when a change waits.
    waiting_since_s: AtomicI64,
}

impl Progress {
    pub fn waits(&self, now: Timestamp) {
        let since = &self.shared.waiting_since_s;
        // Only the first of several counts.
        let _ = since.compare_exchange(NEVER, now.as_second(), Ordering::Relaxed, Ordering::Relaxed);
    }
    pub fn done(&self, now: Timestamp) {
        self.shared.waiting_since_s.store(NEVER, Ordering::Relaxed);
        self.shared.updated_s.store(now.as_second(), Ordering::Relaxed);
    }
    fn is_healthy(&self, now: Timestamp) -> bool {
        let waiting_since_s = self.shared.waiting_since_s.load(Ordering::Relaxed);
        let has_begun = self.shared.updated_s.load(Ordering::Relaxed) != NEVER;
        has_begun && (waiting_since_s == NEVER || now.as_second() - waiting_since_s < LATE_AFTER_S)
    }

    /// `/healthz` and `/livez`.
    pub fn answer(&self, path: &str, now: Timestamp) -> Response<Body> {
        if !matches!(path, "/healthz" | "/livez") {
            return serve::text(StatusCode::NOT_FOUND, "404 page not found\n");
        }
        let updated = Timestamp::from_second(self.shared.updated_s.load(Ordering::Relaxed)).unwrap_or_default();
        let healthy = self.is_healthy(now);
        let body = json!({"lastUpdated": updated.to_string(), "currentTime": now.to_string(), "nodeEligible": true});
        let code = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        reply(code, "application/json", body.to_string())
    }
}

/// The health check node ports that are open.
#[derive(Debug)]
pub struct NodePorts {
    address: IpAddr,
    stop: CancellationToken,
    open: HashMap<Key, Open>,
}

#[derive(Debug)]
struct Open {
    port: u16,
    local_endpoints: Arc<AtomicUsize>,
    close: CancellationToken,
}

impl NodePorts {
    pub fn new(address: IpAddr, stop: CancellationToken) -> Self {
        Self { address, stop, open: HashMap::new() }
    }

    /// Opens, updates or closes the port of a Service.
    pub async fn set(&mut self, service: &Key, health: Option<Health>) {
        if let (Some(open), Some(health)) = (self.open.get(service), health)
            && open.port == health.port
        {
            open.local_endpoints.store(health.local_endpoints, Ordering::Relaxed);
            return;
        }
        if let Some(open) = self.open.remove(service) {
            open.close.cancel();
        }
        let Some(health) = health else { return };
        let listener = match serve::bind(SocketAddr::new(self.address, health.port)).await {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(service = %service, %error, "health check node port not opened");
                return;
            }
        };
        let local_endpoints = Arc::new(AtomicUsize::new(health.local_endpoints));
        let close = self.stop.child_token();
        let (key, count) = (service.clone(), Arc::clone(&local_endpoints));
        // Ends with `close`.
        tokio::spawn(plain::serve(listener, close.clone(), move |_path| told(&key, count.load(Ordering::Relaxed))));
        self.open.insert(service.clone(), Open { port: health.port, local_endpoints, close });
    }
}

fn told(service: &Key, local_endpoints: usize) -> Response<Body> {
    let service = BTreeMap::from([("namespace", &service.namespace), ("name", &service.name)]);
    let body = json!({"service": service, "localEndpoints": local_endpoints, "serviceProxyHealthy": true});
    let code = if local_endpoints > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = reply(code, "application/json", body.to_string());
    response.headers_mut().insert("x-load-balancing-endpoint-weight", HeaderValue::from(local_endpoints));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn healthy_is_who_keeps_up() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let progress = Progress::default();
        assert!(!progress.is_healthy(at(1)), "nothing done yet");
        progress.done(at(1));
        assert!(progress.is_healthy(at(1000)), "nothing to do");
        progress.waits(at(1000));
        progress.waits(at(1050));
        assert!(progress.is_healthy(at(1059)));
        assert!(!progress.is_healthy(at(1060)));
        progress.done(at(1061));
        assert!(progress.is_healthy(at(1062)));
    }
}
