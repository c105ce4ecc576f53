//! The webhook backend: batches of events, sent to a server as an `EventList`.
//!
//! Source: apiserver/plugin/pkg/audit/webhook; tries and pauses as in apiserver/pkg/util/webhook.

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use super::sink::Destination;
use crate::outbound::{self, OutboundError};

/// Of a batch; between them pauses that grow by [`BACKOFF_FACTOR`].
const TRIES_MAX: u32 = 5;
const BACKOFF_FACTOR: f64 = 1.5;
/// Of one try.
const TIMEOUT: Duration = Duration::from_secs(30);

pub struct Webhook {
    server: outbound::Webhook,
    backoff: Duration,
}

impl Webhook {
    /// `kubeconfig` names the server and who it is trusted by; `backoff` is the first pause.
    pub fn new(kubeconfig: &Path, backoff: Duration) -> Result<Self, OutboundError> {
        Ok(Self { server: outbound::Webhook::from_kubeconfig(kubeconfig, TIMEOUT)?, backoff })
    }
}

#[async_trait]
impl Destination for Webhook {
    async fn deliver(&mut self, batch: Vec<Bytes>) -> Result<(), String> {
        let body = Bytes::from(event_list(&batch));
        let mut pause = self.backoff;
        let mut tries = 1;
        loop {
            match self.server.post(body.clone()).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_passing() && tries < TRIES_MAX => {
                    tracing::info!(%error, tries, "audit events are sent again");
                    tokio::time::sleep(pause).await;
                    pause = pause.mul_f64(BACKOFF_FACTOR);
                    tries += 1;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

fn event_list(batch: &[Bytes]) -> Vec<u8> {
    let head = br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#;
    [head, batch.join(&b',').as_slice(), b"]}"].concat()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn events_make_a_list() {
        let list: Value = serde_json::from_slice(&event_list(&[Bytes::from("{}"), Bytes::from(r#"{"a":1}"#)])).unwrap();
        let expected =
            json!({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": [{}, {"a": 1}]});
        assert_eq!(list, expected);
    }
}
