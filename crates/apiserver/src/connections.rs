//! Connections: accept, TLS, HTTP/1.1 or HTTP/2 as agreed in the handshake, what one of
//! them may cost while nobody knows who is there, and its orderly end. What is asked over
//! them is for the layers in `serve`.

use std::{
    convert::Infallible,
    net::IpAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use daemon::tls::ReloadingServerConfig;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::{
    codec::body::{Body, BodyError},
    metrics::Ending,
    serve::{Front, Peer},
};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// For a request's head, also the first after the handshake; upstream's figure.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(32);
/// An HTTP/2 connection on which nothing is under way is closed after this; upstream's figure.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// The head of a request. Upstream allows 1 MiB; this is what a stranger may make us hold, once per
/// connection, and bearer tokens are a hundredth of it.
const HEAD_BYTES_MAX: u32 = 256 << 10;
/// client-go multiplexes all its watches on one connection; upstream's figure.
const STREAMS_MAX: u32 = 1000;
/// Streams that the client resets before they were looked at; then the connection ends (CVE-2023-44487).
const RESETS_PENDING_MAX: usize = 20;
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = STREAM_WINDOW_BYTES * 25;
/// What a slow reader may hold back per stream, besides the piece that comes next: as much as the pieces of a list.
const SEND_BUFFER_BYTES: usize = 64 << 10;
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(15);
/// After a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const ALPN_HTTP2: &[u8] = b"h2";

/// Serves until the server's shutdown, then drains: no new connections, those that stand are told to go
/// away, and what is under way gets as long as a request may take.
pub async fn serve(front: Arc<Front>, listener: TcpListener, tls: ReloadingServerConfig) {
    let connections = TaskTracker::new();
    let shutdown = front.server().shutdown.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, address)) => {
                let acceptor = TlsAcceptor::from(tls.current());
                connections.spawn(secured(front.clone(), stream, address.ip(), acceptor));
            }
            // Out of file descriptors: the next one may have better luck.
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if timeout(front.server().flags.request_timeout, connections.wait()).await.is_err() {
        tracing::warn!("requests were still under way at the end");
    }
}

async fn secured(front: Arc<Front>, stream: TcpStream, address: IpAddr, acceptor: TlsAcceptor) {
    // Small frames of watches must not wait for acknowledgements; a socket without the option works too.
    let _ = stream.set_nodelay(true);
    let shutdown = &front.server().shutdown;
    let handshake = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream));
    let stream = match shutdown.run_until_cancelled(handshake).await {
        Some(Ok(Ok(stream))) => stream,
        Some(Ok(Err(error))) => {
            front.server().metrics.handshake_failed();
            return tracing::debug!(%error, "TLS handshake failed");
        }
        Some(Err(_)) => {
            front.server().metrics.handshake_failed();
            return tracing::debug!("TLS handshake timed out");
        }
        None => return,
    };
    let session = stream.get_ref().1;
    let chain = session.peer_certificates().unwrap_or_default();
    let certificate = front.server().authenticator.peer(chain).map(Arc::new);
    let peer = Peer { address, certificate };
    // The builder would otherwise wait for ever for the bytes that tell the version.
    let is_http2 = session.alpn_protocol() == Some(ALPN_HTTP2);
    let turns = Arc::new(Turns::default());
    let service = service_fn(|http| {
        let (front, peer, turn) = (front.clone(), peer.clone(), Turn::begin(&turns));
        async move { Ok::<_, Infallible>(front.answer(http, peer, turn).await) }
    });
    let builder = builder(is_http2);
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    // First it is served, then it is ended.
    let mut is_ending = false;
    let mut idle_at = Instant::now() + HEADER_READ_TIMEOUT;
    loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended");
                }
                return;
            }
            () = shutdown.cancelled(), if !is_ending => is_ending = true,
            () = turns.unwelcome.notified(), if !is_ending => is_ending = true,
            () = sleep_until(idle_at), if !is_ending => {
                let now = Instant::now();
                idle_at = turns.idle_at(now);
                is_ending = idle_at <= now;
            }
        }
        if is_ending {
            connection.as_mut().graceful_shutdown();
        }
    }
}

fn builder(is_http2: bool) -> auto::Builder<TokioExecutor> {
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut builder = if is_http2 { builder.http2_only() } else { builder.http1_only() };
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .max_header_list_size(HEAD_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    builder
}

/// What is under way on one connection.
#[derive(Debug, Default)]
struct Turns {
    open: AtomicUsize,
    /// When the last one ended.
    ended: Mutex<Option<Instant>>,
    /// The connection is to end after what is under way.
    unwelcome: Notify,
}

impl Turns {
    /// When the connection will have been idle for too long, as far as is known now.
    fn idle_at(&self, now: Instant) -> Instant {
        match *self.ended.lock() {
            Some(ended) if self.open.load(Ordering::Acquire) == 0 => ended + IDLE_TIMEOUT,
            None if self.open.load(Ordering::Acquire) == 0 => now,
            _ => now + IDLE_TIMEOUT,
        }
    }
}

/// One request, from its head to the end of its answer.
#[derive(Debug)]
pub struct Turn(Arc<Turns>);

impl Turn {
    fn begin(turns: &Arc<Turns>) -> Self {
        turns.open.fetch_add(1, Ordering::AcqRel);
        Self(turns.clone())
    }

    /// A client that nobody knows gets no second request on this connection.
    ///
    /// Source: the feature UnauthenticatedHTTP2DOSMitigation.
    pub fn is_last(&self) {
        self.0.unwelcome.notify_one();
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.0.ended.lock() = Some(Instant::now());
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// An answer's body: it is under way, and measured, until it has been sent or given up.
#[derive(Debug)]
pub struct Sent {
    body: Body,
    ending: Ending,
    _turn: Turn,
}

impl Sent {
    pub fn new(body: Body, ending: Ending, turn: Turn) -> Self {
        Self { body, ending, _turn: turn }
    }
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            self.ending.add(frame.data_ref().map_or(0, Bytes::len));
        }
        Poll::Ready(frame)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_after_its_last_turn() {
        let turns = Arc::new(Turns::default());
        let begun = Instant::now();
        assert_eq!(turns.idle_at(begun), begun, "nothing was ever asked");
        let (first, second) = (Turn::begin(&turns), Turn::begin(&turns));
        drop(first);
        tokio::time::advance(IDLE_TIMEOUT * 3).await;
        assert!(turns.idle_at(Instant::now()) > Instant::now(), "one is under way");
        drop(second);
        let ended = Instant::now();
        tokio::time::advance(IDLE_TIMEOUT).await;
        assert_eq!(turns.idle_at(Instant::now()), ended + IDLE_TIMEOUT);
    }
}
