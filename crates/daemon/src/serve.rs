//! The HTTPS port: an accept loop that any daemon can use, and what they all answer
//! there: `/healthz`, `/livez`, `/readyz`, `/metrics` and gRPC diagnosis.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use rustls::pki_types::CertificateDer;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::codegen::Service;

use crate::{
    access::{Access, Refusal, Wish},
    diagnosis::Ledger,
    metrics::{self, Registry},
    tls::ReloadingServerConfig,
};

const CONNECTIONS_MAX: usize = 1024;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADERS_TIMEOUT: Duration = Duration::from_secs(10);
/// After shutdown, for what is still being answered.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const GRPC_PREFIX: &str = "/coxswain.diagnosis.v1.Diagnosis/";

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    /// Verified against the client authority; empty where none was shown.
    pub certificates: Arc<Vec<CertificateDer<'static>>>,
}

/// Listens; the error names the address.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
}

/// Answers HTTPS requests with `answer` until `shutdown`, then lets running ones end for a while.
/// Upgrades (WebSocket, SPDY) are possible.
pub async fn listen<F, Fut>(listener: TcpListener, tls: ReloadingServerConfig, shutdown: CancellationToken, answer: F)
where
    F: Fn(Peer, Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let (socket, address, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (config, watcher, answer) = (tls.current(), graceful.watcher(), answer.clone());
        // Owned by `graceful`, which waits for it.
        tokio::spawn(async move {
            if let Err(error) = converse(socket, address, config, watcher, answer).await {
                tracing::debug!(%address, %error, "connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    if timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::info!("connections that did not end are closed");
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
    let (socket, address) = listener.accept().await?;
    socket.set_nodelay(true)?;
    Ok((socket, address, place))
}

async fn converse<F, Fut>(
    socket: TcpStream,
    address: SocketAddr,
    config: Arc<rustls::ServerConfig>,
    watcher: hyper_util::server::graceful::Watcher,
    answer: F,
) -> Result<(), BoxError>
where
    F: Fn(Peer, Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    let stream = timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(socket)).await??;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certificates = certificates.iter().map(|one| one.clone().into_owned()).collect();
    let peer = Peer { address, certificates: Arc::new(certificates) };
    let service = service_fn(move |request| {
        let answer = answer(peer.clone(), request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_TIMEOUT);
    server.http2().timer(TokioTimer::new()).max_concurrent_streams(1000);
    let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
    watcher.watch(connection).await
}

/// A whole answer.
pub fn reply(code: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(boxed(Full::new(body.into())));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A whole answer in words.
pub fn text(code: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    reply(code, "text/plain; charset=utf-8", body)
}

/// Any body as ours.
pub fn boxed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// The answer to a caller that may not.
pub fn refuse(refusal: Refusal) -> Response<Body> {
    match refusal {
        Refusal::Unauthorized => text(StatusCode::UNAUTHORIZED, "Unauthorized\n"),
        Refusal::Forbidden(why) => text(StatusCode::FORBIDDEN, format!("{why}\n")),
        Refusal::Unavailable(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What has to be true of a healthy daemon. A check must be quick: it only looks.
#[derive(Default)]
pub struct Checks {
    live: Vec<(&'static str, Check)>,
    ready: Vec<(&'static str, Check)>,
}

impl Checks {
    /// False means that only a restart helps.
    pub fn live(mut self, name: &'static str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.live.push((name, Box::new(check)));
        self
    }
    /// False means: not yet, or not now.
    pub fn ready(mut self, name: &'static str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.ready.push((name, Box::new(check)));
        self
    }
}

/// What every daemon answers.
pub struct Ops {
    pub metrics: Registry,
    pub checks: Checks,
    pub diagnosis: Option<Ledger>,
    pub access: Access,
}

impl Ops {
    /// Serves nothing but this until `shutdown`.
    pub async fn serve(self, listener: TcpListener, tls: ReloadingServerConfig, shutdown: CancellationToken) {
        let ops = Arc::new(self);
        listen(listener, tls, shutdown, move |peer, request| {
            let ops = Arc::clone(&ops);
            async move { ops.answer(&peer, request).await }
        })
        .await;
    }

    /// One answer; 404 for what is not ours.
    pub async fn answer(&self, peer: &Peer, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        if request.method() == Method::GET
            && let Some(health) = self.health(path, request.uri().query().unwrap_or_default())
        {
            return health;
        }
        if path.starts_with(GRPC_PREFIX) {
            return self.diagnose(peer, request).await;
        }
        if path != "/metrics" || request.method() != Method::GET {
            return text(StatusCode::NOT_FOUND, "404 page not found\n");
        }
        let wish = Wish::Path { verb: "get", path: path.to_owned() };
        match self.access.admit(&peer.certificates, request.headers(), &wish).await {
            Ok(_) => reply(StatusCode::OK, metrics::CONTENT_TYPE, self.metrics.text()),
            Err(refusal) => refuse(refusal),
        }
    }

    async fn diagnose(&self, peer: &Peer, request: Request<Incoming>) -> Response<Body> {
        let Some(ledger) = &self.diagnosis else {
            return tonic::Status::unimplemented("this daemon keeps no diagnosis")
                .into_http::<tonic::body::Body>()
                .map(boxed);
        };
        // A path of our own that RBAC can grant, as for /metrics.
        let wish = Wish::Path { verb: "get", path: "/diagnosis".to_owned() };
        if let Err(refusal) = self.access.admit(&peer.certificates, request.headers(), &wish).await {
            let status = match refusal {
                Refusal::Unauthorized => tonic::Status::unauthenticated("a client certificate or token is required"),
                Refusal::Forbidden(why) => tonic::Status::permission_denied(why),
                Refusal::Unavailable(why) => tonic::Status::unavailable(why),
            };
            return status.into_http::<tonic::body::Body>().map(boxed);
        }
        match ledger.server().call(request).await {
            Ok(response) => response.map(boxed),
            Err(never) => match never {},
        }
    }

    /// `/healthz`, `/livez`, `/readyz`, each alone or with the name of one check behind it.
    fn health(&self, path: &str, query: &str) -> Option<Response<Body>> {
        let (kind, only) = path.strip_prefix('/')?.split_once('/').unwrap_or((path.strip_prefix('/')?, ""));
        let live = self.checks.live.iter();
        let checks: Vec<&(&str, Check)> = match kind {
            "healthz" | "livez" => live.collect(),
            "readyz" => live.chain(&self.checks.ready).collect(),
            _ => return None,
        };
        if !only.is_empty() && only != "ping" && !checks.iter().any(|(name, _)| *name == only) {
            return None;
        }
        let chosen = checks.into_iter().filter(|(name, _)| only.is_empty() || *name == only);
        let results: Vec<(&str, Result<(), String>)> = chosen.map(|(name, check)| (*name, check())).collect();
        for (name, result) in &results {
            if let Err(why) = result {
                tracing::debug!(kind, check = name, why, "not healthy");
            }
        }
        let verbose = query.split('&').any(|part| part == "verbose" || part.starts_with("verbose="));
        let (healthy, body) = health_text(kind, &results, verbose);
        Some(text(if healthy { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR }, body))
    }
}

/// Upstream's words. Anybody may read them, so they do not say why.
fn health_text(kind: &str, results: &[(&str, Result<(), String>)], verbose: bool) -> (bool, String) {
    let healthy = results.iter().all(|(_, result)| result.is_ok());
    if healthy && !verbose {
        return (true, "ok".to_owned());
    }
    let mut body = "[+]ping ok\n".to_owned();
    for (name, result) in results {
        body.push_str(&match result {
            Ok(()) => format!("[+]{name} ok\n"),
            Err(_) => format!("[-]{name} failed: reason withheld\n"),
        });
    }
    body.push_str(&format!("{kind} check {}\n", if healthy { "passed" } else { "failed" }));
    (healthy, body)
}

#[cfg(test)]
mod tests;
