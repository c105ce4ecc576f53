//! A client at a process's standard streams, however they are framed: what exec and
//! attach work with, and WebSocket and SPDY provide.

use std::{pin::Pin, time::Duration};

use api_types::k8s::meta::{Status, StatusCause, StatusDetails};
use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture, stream::BoxStream};
use serde::Deserialize;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};

use super::route::Wanted;
use crate::runtime::{Exec, ExecRequest, Output, Runtime, RuntimeError, Streams};

/// Pieces that wait in each direction, then their source waits.
pub const PIECES: usize = 32;

/// After each refusal of a terminal's size.
const RESIZE_PAUSES: [Duration; 4] =
    [Duration::from_millis(10), Duration::from_millis(40), Duration::from_millis(160), Duration::from_millis(640)];

/// The process's end of a conversation.
pub struct Session {
    /// Ends when the client has closed it, and at once if it was not asked for.
    pub stdin: mpsc::Receiver<Bytes>,
    pub resizes: mpsc::Receiver<Size>,
    /// Closed when the client has gone.
    pub output: mpsc::Sender<Piece>,
}

/// The client's end.
pub struct Far {
    pub stdin: mpsc::Sender<Bytes>,
    pub resizes: mpsc::Sender<Size>,
    pub output: mpsc::Receiver<Piece>,
}

/// What goes to the client.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    Stdout(Bytes),
    Stderr(Bytes),
    /// The last: how it ended.
    End(Box<Status>),
}

/// Of a terminal, in characters; the JSON that clients send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Size {
    pub width: u16,
    pub height: u16,
}

/// Both ends of a new conversation.
pub fn pair() -> (Session, Far) {
    let (stdin_sender, stdin) = mpsc::channel(PIECES);
    let (resizes_sender, resizes) = mpsc::channel(PIECES);
    let (output, output_receiver) = mpsc::channel(PIECES);
    (Session { stdin, resizes, output }, Far { stdin: stdin_sender, resizes: resizes_sender, output: output_receiver })
}

/// Runs a command in a container for a client, to its end or the client's.
pub async fn exec(runtime: &dyn Runtime, id: &str, command: Vec<String>, wanted: Wanted, session: Session) {
    let request = ExecRequest { command, tty: wanted.tty, stdin: wanted.stdin };
    let output = session.output.clone();
    let status = match runtime.exec(id, &request).await {
        Err(error) => failure("error executing command in container", &error),
        Ok(Exec { id, streams }) => {
            let resize = |size: Size| runtime.resize_exec(&id, size.width, size.height);
            match converse(streams, wanted, session, resize).await {
                Ending::ClientGone => return,
                Ending::Failed(error) => failure("error executing command in container", &error),
                Ending::Output => match runtime.exec_exit_code(&id).await {
                    Ok(code) => exited(code),
                    Err(error) => failure("error executing command in container", &error),
                },
            }
        }
    };
    // A client that has gone needs no ending.
    let _ = output.send(Piece::End(Box::new(status))).await;
}

/// Connects a client to a running container's own streams.
pub async fn attach(runtime: &dyn Runtime, id: &str, wanted: Wanted, session: Session) {
    let output = session.output.clone();
    let status = match runtime.attach(id, wanted.stdin).await {
        Err(error) => failure("error attaching to container", &error),
        Ok(streams) => {
            let resize = |size: Size| runtime.resize(id, size.width, size.height);
            match converse(streams, wanted, session, resize).await {
                Ending::ClientGone => return,
                Ending::Failed(error) => failure("error attaching to container", &error),
                Ending::Output => exited(0),
            }
        }
    };
    let _ = output.send(Piece::End(Box::new(status))).await;
}

enum Ending {
    /// The process closed its output.
    Output,
    ClientGone,
    Failed(RuntimeError),
}

async fn converse<'a>(
    streams: Streams,
    wanted: Wanted,
    session: Session,
    resize: impl Fn(Size) -> BoxFuture<'a, Result<(), RuntimeError>>,
) -> Ending {
    // Beside each other: a process that does not read must not keep its output back.
    let mut feeding = std::pin::pin!(feed(streams.input, session.stdin));
    let mut sizing = std::pin::pin!(follow_size(session.resizes, resize));
    let mut draining = std::pin::pin!(drain(streams.output, wanted, &session.output));
    let (mut feeds, mut sizes) = (true, wanted.tty);
    loop {
        tokio::select! {
            ending = &mut draining => return ending,
            () = session.output.closed() => return Ending::ClientGone,
            () = &mut feeding, if feeds => feeds = false,
            () = &mut sizing, if sizes => sizes = false,
        }
    }
}

/// Passes sizes on. The first comes before the process has fully started, so a refused one is tried again.
async fn follow_size<'a>(
    mut sizes: mpsc::Receiver<Size>,
    resize: impl Fn(Size) -> BoxFuture<'a, Result<(), RuntimeError>>,
) {
    while let Some(size) = sizes.recv().await {
        for pause in RESIZE_PAUSES {
            match resize(size).await {
                Ok(()) => break,
                Err(error) => tracing::debug!(%error, "terminal not resized yet"),
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// Passes input on until either side is closed.
async fn feed(mut input: Pin<Box<dyn AsyncWrite + Send>>, mut stdin: mpsc::Receiver<Bytes>) {
    while let Some(piece) = stdin.recv().await {
        if input.write_all(&piece).await.is_err() || input.flush().await.is_err() {
            return;
        }
    }
    // A process that has ended cannot be told.
    let _ = input.shutdown().await;
}

async fn drain(
    mut output: BoxStream<'static, Result<Output, RuntimeError>>,
    wanted: Wanted,
    to: &mpsc::Sender<Piece>,
) -> Ending {
    while let Some(piece) = output.next().await {
        let piece = match piece {
            Ok(Output::Stdout(bytes)) if wanted.stdout => Piece::Stdout(bytes),
            Ok(Output::Stderr(bytes)) if wanted.stderr => Piece::Stderr(bytes),
            Ok(Output::Stdout(_) | Output::Stderr(_)) => continue,
            Err(error) => return Ending::Failed(error),
        };
        if to.send(piece).await.is_err() {
            return Ending::ClientGone;
        }
    }
    Ending::Output
}

/// Pure: what clients read an exit code from.
fn exited(code: i32) -> Status {
    if code == 0 {
        return Status { status: Some("Success".to_owned()), ..Status::default() };
    }
    let cause =
        StatusCause { reason: Some("ExitCode".to_owned()), message: Some(code.to_string()), ..StatusCause::default() };
    Status {
        status: Some("Failure".to_owned()),
        reason: Some("NonZeroExitCode".to_owned()),
        message: Some(format!("command terminated with non-zero exit code: command terminated with exit code {code}")),
        details: Some(StatusDetails { causes: Some(vec![cause]), ..StatusDetails::default() }),
        ..Status::default()
    }
}

fn failure(what: &str, error: &RuntimeError) -> Status {
    *api_types::ApiError::internal(format!("{what}: {error}")).0
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    const ALL: Wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: false };

    fn streams(output: Vec<Output>, input: impl AsyncWrite + Send + 'static) -> Streams {
        Streams { output: stream::iter(output.into_iter().map(Ok)).boxed(), input: Box::pin(input) }
    }

    fn no_resize(_: Size) -> BoxFuture<'static, Result<(), RuntimeError>> {
        Box::pin(async { Ok(()) })
    }

    #[tokio::test]
    async fn output_goes_where_it_is_wanted() {
        let output = || vec![Output::Stdout(Bytes::from("a")), Output::Stderr(Bytes::from("b"))];
        let check = async |wanted: Wanted, expected: &[Piece]| {
            let (session, mut far) = pair();
            converse(streams(output(), tokio::io::sink()), wanted, session, no_resize).await;
            let mut seen = Vec::new();
            while let Ok(piece) = far.output.try_recv() {
                seen.push(piece);
            }
            assert_eq!(seen, expected);
        };
        let (a, b) = (Piece::Stdout(Bytes::from("a")), Piece::Stderr(Bytes::from("b")));
        check(ALL, &[a.clone(), b]).await;
        check(Wanted { stderr: false, ..ALL }, &[a]).await;
    }

    #[tokio::test]
    async fn input_is_passed_on_and_its_end_too() {
        let (ours, mut process) = tokio::io::duplex(64);
        let (session, far) = pair();
        let forever = Streams { output: stream::pending().boxed(), input: Box::pin(ours) };
        let conversation = tokio::spawn(converse(forever, ALL, session, no_resize));
        far.stdin.send(Bytes::from("hello")).await.unwrap();
        drop(far.stdin);
        let mut read = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut process, &mut read).await.unwrap();
        assert_eq!(read, "hello");
        drop(far.output);
        assert!(matches!(conversation.await.unwrap(), Ending::ClientGone));
    }

    #[test]
    fn exit_codes_are_causes() {
        assert_eq!(exited(0).status.as_deref(), Some("Success"));
        let status = exited(3);
        let cause = &status.details.unwrap().causes.unwrap()[0];
        assert_eq!((cause.reason.as_deref(), cause.message.as_deref()), (Some("ExitCode"), Some("3")));
    }
}
