//! Exec and attach: an upgraded connection, WebSocket or SPDY, joined to a process.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use daemon::serve::{self, Body};
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use streams::{
    spdy::{self, Sink, Stream, headers},
    websocket,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    carry::carry,
    route::Wanted,
    session::{self, PIECES, Piece, Session, Size},
};
use crate::runtime::Runtime;

/// For a SPDY client to open all the streams that it asked for.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);
/// For a SPDY client to hang up after the end.
const LINGER: Duration = Duration::from_secs(5);
/// A terminal size in JSON is shorter.
const SIZE_MAX_BYTES: usize = 256;

/// What to join the client to.
pub enum Job {
    Exec { container: String, command: Vec<String> },
    Attach { container: String },
}

impl Job {
    async fn run(self, runtime: &dyn Runtime, wanted: Wanted, session: Session) {
        match self {
            Job::Exec { container, command } => session::exec(runtime, &container, command, wanted, session).await,
            Job::Attach { container } => session::attach(runtime, &container, wanted, session).await,
        }
    }
}

/// Switches protocols and runs `job` in a task of `talks`.
pub fn answer(
    request: Request<Incoming>,
    job: Job,
    wanted: Wanted,
    runtime: Arc<dyn Runtime>,
    talks: &Talks,
) -> Response<Body> {
    if websocket::is_asked_for(request.headers()) {
        let agreement = match websocket::agree(request.headers(), &[websocket::V5, websocket::V4]) {
            Ok(agreement) => agreement,
            Err(why) => return serve::text(StatusCode::BAD_REQUEST, why),
        };
        let response = switching(agreement.response::<Empty<Bytes>>());
        talks.upgrade(request, move |io| async move {
            let (session, far) = session::pair();
            let carried = async { carry(websocket::open(io).await, agreement.protocol, wanted, far).await };
            let ((), carried) = futures::join!(job.run(&*runtime, wanted, session), carried);
            if let Err(error) = carried {
                tracing::debug!(%error, "client gone");
            }
        });
        return response;
    }
    match spdy::agree(request.headers(), &[websocket::V4]) {
        Err(why) => serve::text(StatusCode::BAD_REQUEST, why),
        Ok(protocol) => {
            talks.upgrade(request, move |io| async move {
                let (streams, opened) = mpsc::channel(PIECES);
                let served = async {
                    let _ = spdy::serve(io, streams).await;
                };
                let ran = async {
                    if let Some(streams) = collect(opened, wanted).await {
                        run_over_streams(job, wanted, &*runtime, streams).await;
                    }
                };
                beside(served, ran).await;
            });
            switching(spdy::switching(protocol))
        }
    }
}

/// Until the client has gone, or a little longer than `ran` takes.
async fn beside(served: impl Future<Output = ()>, ran: impl Future<Output = ()>) {
    let mut served = std::pin::pin!(served);
    tokio::select! {
        () = &mut served => return,
        () = ran => {}
    }
    // What is on its way to the client has to get there; then it hangs up.
    let _ = tokio::time::timeout(LINGER, served).await;
}

/// Conversations over connections that switched protocols.
pub struct Talks {
    pub tasks: TaskTracker,
    /// Cuts them.
    pub shutdown: CancellationToken,
}

impl Talks {
    /// Runs `talk` over the connection once it has switched protocols.
    pub fn upgrade<F, Fut>(&self, request: Request<Incoming>, talk: F)
    where
        F: FnOnce(TokioIo<hyper::upgrade::Upgraded>) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send,
    {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            match hyper::upgrade::on(request).await {
                Ok(io) => drop(shutdown.run_until_cancelled(talk(TokioIo::new(io))).await),
                Err(error) => tracing::debug!(%error, "protocols not switched"),
            }
        });
    }
}

pub fn switching(response: Response<Empty<Bytes>>) -> Response<Body> {
    response.map(serve::boxed)
}

/// The streams that a SPDY client opens for one process.
struct Streams {
    stdin: Option<Stream>,
    resize: Option<Stream>,
    stdout: Option<Sink>,
    stderr: Option<Sink>,
    error: Sink,
}

/// Waits for all that were asked for; `None` if they do not come.
async fn collect(mut opened: mpsc::Receiver<Stream>, wanted: Wanted) -> Option<Streams> {
    let deadline = Instant::now() + STREAMS_TIMEOUT;
    let (mut stdin, mut stdout, mut stderr, mut error, mut resize) = (None, None, None, None, None);
    while (stdin.is_none() && wanted.stdin)
        || (stdout.is_none() && wanted.stdout)
        || (stderr.is_none() && wanted.stderr)
        || (resize.is_none() && wanted.tty)
        || error.is_none()
    {
        let stream: Stream = timeout_at(deadline, opened.recv()).await.ok().flatten()?;
        match headers::find(&stream.headers, "streamtype") {
            Some("stdin") => stdin = Some(stream),
            Some("stdout") => stdout = Some(stream.outgoing),
            Some("stderr") => stderr = Some(stream.outgoing),
            Some("error") => error = Some(stream.outgoing),
            Some("resize") => resize = Some(stream),
            other => tracing::debug!(?other, "stream of unknown type"),
        }
    }
    Some(Streams { stdin, resize, stdout, stderr, error: error? })
}

async fn run_over_streams(job: Job, wanted: Wanted, runtime: &dyn Runtime, streams: Streams) {
    let (output, mut pieces) = mpsc::channel(PIECES);
    let (sizes, resizes) = mpsc::channel(PIECES);
    let no_stdin = || mpsc::channel(1).1;
    let session = Session { stdin: streams.stdin.map_or_else(no_stdin, |stream| stream.incoming), resizes, output };
    let resizing = async {
        if let Some(stream) = streams.resize {
            read_sizes(stream.incoming, sizes).await;
        }
        // The session ends by its output, not by this.
        std::future::pending::<()>().await;
    };
    let speak = async {
        while let Some(piece) = pieces.recv().await {
            let (sink, bytes) = match piece {
                Piece::Stdout(bytes) => (streams.stdout.as_ref(), bytes),
                Piece::Stderr(bytes) => (streams.stderr.as_ref(), bytes),
                Piece::End(status) => {
                    let text = serde_json::to_vec(&status).expect("a Status has a JSON form");
                    (Some(&streams.error), Bytes::from(text))
                }
            };
            if let Some(sink) = sink
                && sink.send(bytes).await.is_err()
            {
                return;
            }
        }
        for sink in [streams.stdout.as_ref(), streams.stderr.as_ref(), Some(&streams.error)].into_iter().flatten() {
            let _ = sink.close().await;
        }
    };
    tokio::select! {
        () = resizing => {}
        _ = async { futures::join!(job.run(runtime, wanted, session), speak) } => {}
    }
}

/// Sizes are JSON objects one after another.
async fn read_sizes(mut pieces: mpsc::Receiver<Bytes>, sizes: mpsc::Sender<Size>) {
    let mut buffer = Vec::new();
    while let Some(piece) = pieces.recv().await {
        buffer.extend_from_slice(&piece);
        let (found, used) = take_sizes(&buffer);
        for size in found {
            // One that does not fit in waits for the next.
            let _ = sizes.try_send(size);
        }
        buffer.drain(..used);
        if buffer.len() > SIZE_MAX_BYTES {
            return;
        }
    }
}

/// Pure: the whole sizes at the start, and how many bytes they take.
fn take_sizes(bytes: &[u8]) -> (Vec<Size>, usize) {
    let mut objects = serde_json::Deserializer::from_slice(bytes).into_iter::<Size>();
    let mut sizes = Vec::new();
    let mut used = 0;
    while let Some(Ok(size)) = objects.next() {
        sizes.push(size);
        used = objects.byte_offset();
    }
    (sizes, used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_in_any_pieces() {
        let text = b"{\"Width\":80,\"Height\":24}\n{\"Width\":81,\"Height\":25}\n{\"Wid";
        let (sizes, used) = take_sizes(text);
        assert_eq!(sizes, [Size { width: 80, height: 24 }, Size { width: 81, height: 25 }]);
        assert_eq!(take_sizes(&text[used..]).0, []);
        assert_eq!(take_sizes(b"nonsense"), (vec![], 0));
    }
}
