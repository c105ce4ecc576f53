//! Plain HTTP for probes and local scrapers: health and metrics of daemons whose callers
//! have no certificate (a load balancer, a kubelet's probe). Only GET, nothing secret.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{Method, Response, StatusCode};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::serve::{Body, text};

const CONNECTIONS_MAX: usize = 128;
const HEADERS_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers GET requests by their path until `shutdown`; open connections are then cut.
pub async fn serve(
    listener: TcpListener,
    shutdown: CancellationToken,
    answer: impl Fn(&str) -> Response<Body> + Send + Sync + 'static,
) {
    let answer = Arc::new(answer);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        let socket = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        while connections.try_join_next().is_some() {}
        let answer = Arc::clone(&answer);
        connections.spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let response = match *request.method() {
                    Method::GET | Method::HEAD => answer(request.uri().path()),
                    _ => text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"),
                };
                async move { Ok::<_, Infallible>(response) }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEADERS_TIMEOUT);
            if let Err(error) = server.serve_connection(TokioIo::new(socket), service).await {
                tracing::debug!(%error, "connection ended");
            }
            drop(place);
        });
    }
}
