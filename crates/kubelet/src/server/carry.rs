//! A session of exec or attach, carried over a WebSocket.

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use streams::websocket::{ERROR, Error, Message, STDERR, STDOUT, Said, WebSocketStream, goodbye, on_channel, said};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    route::Wanted,
    session::{Far, Piece, Size},
};

/// For a client to answer our close.
const LINGER: Duration = Duration::from_secs(2);

/// Pure: the message that carries a piece.
fn message(piece: &Piece) -> Bytes {
    match piece {
        Piece::Stdout(bytes) => on_channel(STDOUT, bytes),
        Piece::Stderr(bytes) => on_channel(STDERR, bytes),
        Piece::End(status) => {
            let text = serde_json::to_vec(status).expect("a Status has a JSON form");
            on_channel(ERROR, &text)
        }
    }
}

/// Carries a session's streams over a WebSocket, to the session's end or the client's.
pub async fn carry<T>(socket: WebSocketStream<T>, protocol: &str, wanted: Wanted, far: Far) -> Result<(), Error>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, source) = socket.split();
    // An empty message tells the client that it is connected.
    let first = if wanted.stdout {
        STDOUT
    } else if wanted.stderr {
        STDERR
    } else {
        ERROR
    };
    sink.send(Message::Binary(on_channel(first, b""))).await?;
    let Far { stdin, resizes, mut output } = far;
    let mut stdin = wanted.stdin.then_some(stdin);
    let listen = async {
        let mut source = source;
        while let Some(message) = source.next().await {
            let Message::Binary(message) = message? else { continue };
            match said(protocol, &message) {
                Said::Stdin(bytes) => {
                    // A process that no longer reads is no reason to hang up.
                    if let Some(open) = &stdin
                        && open.send(bytes).await.is_err()
                    {
                        stdin = None;
                    }
                }
                Said::StdinClosed => stdin = None,
                Said::Resize(json) => {
                    if let Ok(size) = serde_json::from_slice::<Size>(&json) {
                        // A size that does not fit in waits for the next.
                        let _ = resizes.try_send(size);
                    }
                }
                Said::Nothing => {}
            }
        }
        Ok(())
    };
    let speak = async {
        while let Some(piece) = output.recv().await {
            sink.send(Message::Binary(message(&piece))).await?;
        }
        sink.send(goodbye()).await
    };
    let mut listen = std::pin::pin!(listen);
    tokio::select! {
        heard = &mut listen => return heard,
        spoken = speak => spoken?,
    }
    // The client answers our close; hanging up before that could cost it the last message.
    tokio::time::timeout(LINGER, listen).await.unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests {
    use streams::websocket::{CloseCode, V5, open};
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;
    use crate::server::session;

    #[tokio::test]
    async fn a_session_is_carried_both_ways() {
        let (client, server) = tokio::io::duplex(1 << 16);
        let (mut session, far) = session::pair();
        let wanted = Wanted { stdin: true, stdout: true, ..Wanted::default() };
        let carried = tokio::spawn(async move { carry(open(server).await, V5, wanted, far).await });
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        assert_eq!(client.next().await.unwrap().unwrap().into_data(), "\x01");
        client.send(Message::Binary(Bytes::from("\0hello"))).await.unwrap();
        assert_eq!(session.stdin.recv().await.unwrap(), "hello");
        client.send(Message::Binary(Bytes::from_static(b"\xff\0"))).await.unwrap();
        assert_eq!(session.stdin.recv().await, None);
        session.output.send(Piece::Stdout(Bytes::from("out"))).await.unwrap();
        session.output.send(Piece::End(Box::default())).await.unwrap();
        drop(session);
        assert_eq!(client.next().await.unwrap().unwrap().into_data(), "\x01out");
        assert_eq!(client.next().await.unwrap().unwrap().into_data()[0], ERROR);
        let Some(Ok(Message::Close(Some(frame)))) = client.next().await else { panic!("closed without a code") };
        assert_eq!(frame.code, CloseCode::Normal);
        assert!(client.next().await.is_none());
        carried.await.unwrap().unwrap();
    }
}
