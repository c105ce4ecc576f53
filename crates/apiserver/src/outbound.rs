//! HTTPS to servers that an administrator names: webhooks that are asked about identity and
//! access, and issuers whose keys verify tokens.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http::{
    Method, Request, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{ConfigBuilderExt, FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::Value;

const JSON: &str = "application/json";
/// Reviews and key sets are small; more is not read.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Between the tries of one review.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
const TRIES_MAX: u32 = 3;

#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    #[error("the certificate authority does not parse: {0}")]
    Authority(String),
    #[error("{0}")]
    Configuration(#[from] client::ConfigError),
    #[error("{uri} did not answer within {timeout:?}")]
    TimedOut { uri: Uri, timeout: Duration },
    #[error("{uri} cannot be reached")]
    Unreachable { uri: Uri, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{uri} answered {status}")]
    Refused { uri: Uri, status: StatusCode },
    #[error("{uri} answered what is no JSON: {source}")]
    Malformed { uri: Uri, source: serde_json::Error },
}

impl OutboundError {
    /// Whether the next try may have better luck.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            Self::Authority(_) | Self::Configuration(_) | Self::TimedOut { .. } | Self::Malformed { .. } => false,
        }
    }
}

/// A client that speaks HTTP/1.1 or HTTP/2 over TLS and follows no redirect. Connections are kept.
#[derive(Clone)]
pub struct Outbound {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Outbound {
    /// `name` is what the server's certificate must bear, if that is not the URL's host.
    fn new(mut tls: ClientConfig, name: Option<ServerName<'static>>) -> Self {
        tls.alpn_protocols.clear(); // the connector offers its own
        let mut builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_only();
        if let Some(name) = name {
            builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
        }
        Self { client: Client::builder(TokioExecutor::new()).build(builder.enable_all_versions().build()) }
    }

    /// Trusts the authorities in `pem`, or those of the machine if there are none.
    pub fn trusting(pem: Option<&str>) -> Result<Self, OutboundError> {
        let wrong = |why: &dyn std::fmt::Display| OutboundError::Authority(why.to_string());
        let Some(pem) = pem else {
            let builder = ClientConfig::builder().with_native_roots().map_err(|why| wrong(&why))?;
            return Ok(Self::new(builder.with_no_client_auth(), None));
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(certificate.map_err(|why| wrong(&why))?).map_err(|why| wrong(&why))?;
        }
        if roots.is_empty() {
            return Err(wrong(&"it holds no certificate"));
        }
        Ok(Self::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth(), None))
    }

    /// A JSON document.
    pub async fn get(&self, uri: &Uri, timeout: Duration) -> Result<Value, OutboundError> {
        let request = Request::builder().method(Method::GET).uri(uri).header(ACCEPT, JSON).body(Full::default());
        let body = self.exchange(request.expect("a parsed URI makes a request"), timeout).await?;
        json(uri, &body)
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, timeout: Duration) -> Result<Bytes, OutboundError> {
        let uri = request.uri().clone();
        let unreachable =
            |source: Box<dyn std::error::Error + Send + Sync>| OutboundError::Unreachable { uri: uri.clone(), source };
        let answer = async {
            let response = self.client.request(request).await.map_err(|error| unreachable(error.into()))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await.map_err(unreachable)?;
            if !status.is_success() {
                return Err(OutboundError::Refused { uri: uri.clone(), status });
            }
            Ok(body.to_bytes())
        };
        match tokio::time::timeout(timeout, answer).await {
            Ok(answered) => answered,
            Err(_) => Err(OutboundError::TimedOut { uri, timeout }),
        }
    }
}

fn json(uri: &Uri, body: &[u8]) -> Result<Value, OutboundError> {
    serde_json::from_slice(body).map_err(|source| OutboundError::Malformed { uri: uri.clone(), source })
}

/// A webhook, described as upstream does: by a kubeconfig whose server is its whole URL.
pub struct Webhook {
    outbound: Outbound,
    config: client::Config,
    timeout: Duration,
}

impl Webhook {
    /// `timeout` is for one try.
    pub fn from_kubeconfig(path: &Path, timeout: Duration) -> Result<Self, OutboundError> {
        let config = client::Config::from_kubeconfig(path)?;
        Ok(Self { outbound: Outbound::new(config.tls()?, Some(config.server_name())), config, timeout })
    }

    /// Posts a review and returns it as it came back, with a status.
    pub async fn review(&self, review: &Value) -> Result<Value, OutboundError> {
        let body = Bytes::from(review.to_string());
        let mut tries = 1;
        loop {
            match self.post(body.clone()).await {
                Err(error) if error.is_passing() && tries < TRIES_MAX => {
                    tracing::debug!(%error, "a webhook is asked again");
                    tries += 1;
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                answered => return json(&self.config.server, &answered?),
            }
        }
    }

    /// Posts a JSON document, once.
    pub async fn post(&self, body: Bytes) -> Result<Bytes, OutboundError> {
        let uri = &self.config.server;
        let mut request =
            Request::builder().method(Method::POST).uri(uri).header(ACCEPT, JSON).header(CONTENT_TYPE, JSON);
        if let Some(token) = self.config.token()? {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body));
        let unreachable = |source: http::Error| OutboundError::Unreachable { uri: uri.clone(), source: source.into() };
        self.outbound.exchange(request.map_err(unreachable)?, self.timeout).await
    }
}
