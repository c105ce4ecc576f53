//! HTTPS: accept, TLS, and the layers that every request passes, in order. What a request
//! asks for is decided in `request`, what it gets in `verbs` and `paths`.

use std::{convert::Infallible, net::IpAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use api_types::ApiError;
use daemon::tls::ReloadingServerConfig;
use futures::FutureExt;
use http::{HeaderValue, Method, Response, header, request::Parts};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use rustls::pki_types::CertificateDer;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    audit,
    authn::{self, User, impersonation},
    authz::Attributes,
    codec::{
        accept::{self, Accepted, Shapes},
        body::Body,
        decode, reply,
    },
    paths,
    request::{self, Request},
    server::Server,
    verbs,
};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(32);
/// client-go multiplexes all its watches on one connection; upstream's figure.
const STREAMS_MAX: u32 = 1000;
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = STREAM_WINDOW_BYTES * 25;
/// What a slow reader may hold back per stream.
const SEND_BUFFER_BYTES: usize = 256 << 10;
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(15);
/// After a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Requests that are under way when the server stops get this long.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_AFTER_S: i32 = 1;

/// Who is at the other end of a connection.
#[derive(Clone)]
struct Peer {
    address: IpAddr,
    /// The verified certificate chain.
    chain: Option<Arc<Vec<CertificateDer<'static>>>>,
}

/// The server and the places for requests in flight.
pub struct Front {
    server: Arc<Server>,
    reading: Arc<Semaphore>,
    writing: Arc<Semaphore>,
}

impl Front {
    pub fn new(server: Arc<Server>) -> Self {
        let reading = Arc::new(Semaphore::new(server.flags.max_requests_inflight));
        let writing = Arc::new(Semaphore::new(server.flags.max_mutating_requests_inflight));
        Self { server, reading, writing }
    }

    /// Serves until the server's shutdown, then drains: readyz fails, watches end, connections are told to go away.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, tls: ReloadingServerConfig) {
        let graceful = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.server.shutdown.cancelled() => break,
            };
            match accepted {
                Ok((stream, address)) => {
                    let acceptor = TlsAcceptor::from(tls.current());
                    // Ends with its connection, which the graceful shutdown closes.
                    tokio::spawn(self.clone().connection(stream, address.ip(), acceptor, graceful.watcher()));
                }
                // Out of file descriptors: the next one may have better luck.
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        if timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
            tracing::warn!("requests were still under way at the end");
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, address: IpAddr, acceptor: TlsAcceptor, watcher: Watcher) {
        // Small frames of watches must not wait for acknowledgements; a socket without the option works too.
        let _ = stream.set_nodelay(true);
        let stream = match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                self.server.metrics.handshake_failed();
                return tracing::debug!(%error, "TLS handshake failed");
            }
            Err(_) => {
                self.server.metrics.handshake_failed();
                return tracing::debug!("TLS handshake timed out");
            }
        };
        let chain = stream.get_ref().1.peer_certificates().map(|chain| Arc::new(chain.to_vec()));
        let peer = Peer { address, chain };
        let front = self.clone();
        let service = service_fn(move |http| {
            let (front, peer) = (front.clone(), peer.clone());
            async move { Ok::<_, Infallible>(front.answer(http, peer).await) }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ_TIMEOUT);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let watched = watcher.watch(connection);
        if let Err(error) = watched.await {
            tracing::debug!(%error, "a connection ended");
        }
    }

    /// The layers, outermost first.
    async fn answer(&self, http: http::Request<Incoming>, peer: Peer) -> Response<Body> {
        let started = Instant::now();
        let request = request::read(http.method(), http.uri());
        // Audit-Id: the client may bring its own, so that it can be followed through aggregated servers.
        let audit_id = audit_id(&http);
        let method = http.method().clone();
        // Errors are worded in the client's format, if that is one of ours.
        let format = accept::negotiate(http.headers(), &request.query, Shapes::ObjectOnly).unwrap_or(Accepted::JSON);
        // Panic: it ends the request, not the server.
        let audit = self.server.audit.as_ref();
        let record =
            audit.map(|audit| audit.arrived(&http, &request, peer.address, audit_id.to_str().unwrap_or_default()));
        let answering = Box::pin(self.limited(&request, http, peer));
        let answered = AssertUnwindSafe(audit::recorded(record.clone(), answering)).catch_unwind().await;
        let has_panicked = answered.is_err();
        let answered = answered.unwrap_or_else(|_| Err(ApiError::internal("the server panicked; see its log")));
        let mut response = answered.unwrap_or_else(|refusal| {
            if let Some(record) = &record {
                record.refused(&refusal);
            }
            reply::refusal(&refusal, &format)
        });
        // Audit: what came of it is recorded before the client sees it.
        if let Some(record) = record {
            response = record.answered(response, has_panicked).await;
        }
        let headers = response.headers_mut();
        headers.insert("Audit-Id", audit_id);
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
        // Trace: one line per request, and upstream's metrics.
        let (took, code) = (started.elapsed(), response.status().as_u16());
        tracing::debug!(%method, path = request.path, code, took_us = took.as_micros() as u64, "answered");
        self.server.metrics.answered(&request, &self.server.kinds, code, took);
        response
    }

    /// Places in flight and time; what runs long (watches, streams) is not limited by either.
    async fn limited(
        &self,
        request: &Request,
        http: http::Request<Incoming>,
        peer: Peer,
    ) -> Result<Response<Body>, ApiError> {
        if is_long_running(request) {
            audit::note(|notes| notes.is_long_running = true);
            return self.authorized(request, http, peer).await;
        }
        let is_reading = matches!(*http.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        let _place = match self.place(is_reading) {
            Ok(place) => place,
            Err(refusal) => return Err(drained(refusal, http)),
        };
        let _counted = self.server.metrics.in_flight(is_reading);
        match timeout(self.server.flags.request_timeout, Box::pin(self.authorized(request, http, peer))).await {
            Ok(result) => result,
            Err(_) => {
                let why = "Timeout: request did not complete within the allotted timeout";
                Err(ApiError::timeout(why, RETRY_AFTER_S))
            }
        }
    }

    fn place(&self, is_reading: bool) -> Result<OwnedSemaphorePermit, ApiError> {
        let places = if is_reading { &self.reading } else { &self.writing };
        places
            .clone()
            .try_acquire_owned()
            .map_err(|_| ApiError::too_many_requests("Too many requests, please try again later.", RETRY_AFTER_S))
    }

    /// Who asks, as whom, and may they? Then the request goes where it belongs.
    async fn authorized(
        &self,
        request: &Request,
        http: http::Request<Incoming>,
        peer: Peer,
    ) -> Result<Response<Body>, ApiError> {
        let (parts, incoming) = http.into_parts();
        let identified = self.identified(request, &parts, peer).await;
        let http = http::Request::from_parts(parts, incoming);
        let user = match identified {
            Ok(user) => user,
            Err(refusal) => return Err(drained(refusal, http)),
        };
        if request.target.is_some() {
            return verbs::dispatch(self.server.clone(), request.clone(), user, http).await;
        }
        let answered = paths::answer(&self.server, request, &http).await;
        decode::drain(http.into_body());
        answered
    }

    async fn identified(&self, request: &Request, parts: &Parts, peer: Peer) -> Result<User, ApiError> {
        let server = &self.server;
        let chain = peer.chain.as_ref().map(|chain| chain.as_slice());
        let authenticated = match server.authenticator.authenticate(parts, chain) {
            Ok(None) if server.flags.access.anonymous_auth => authn::anonymous(&request.path),
            Ok(None) => Err(ApiError::unauthorized()),
            Ok(Some(user)) => Ok(user),
            Err(refusal) => Err(refusal),
        };
        let user = authenticated.inspect_err(|_| audit::unauthenticated())?;
        audit::authenticated(&user).await?;
        let user = match impersonation::impersonate(&parts.headers, &user, &server.authorizer)? {
            Some(other) => {
                audit::note(|notes| notes.impersonated = Some(other.clone()));
                other
            }
            None => user,
        };
        server.authorizer.check(&user, &Attributes::of(request))?;
        Ok(user)
    }
}

/// A refusal of a request whose body nobody has read.
fn drained(refusal: ApiError, http: http::Request<Incoming>) -> ApiError {
    decode::drain(http.into_body());
    refusal
}

fn audit_id(http: &http::Request<Incoming>) -> HeaderValue {
    const LENGTH_MAX: usize = 64;
    let sent = http.headers().get("Audit-Id").filter(|id| !id.is_empty() && id.len() <= LENGTH_MAX);
    sent.cloned()
        .unwrap_or_else(|| HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).expect("a uuid is a header value"))
}

/// Source: `BasicLongRunningRequestCheck` and its use in the control plane.
fn is_long_running(request: &Request) -> bool {
    const SUBRESOURCES: [&str; 5] = ["attach", "exec", "proxy", "log", "portforward"];
    let Some(target) = &request.target else { return false };
    request.verb == "watch" || SUBRESOURCES.contains(&target.subresource.as_str())
}
