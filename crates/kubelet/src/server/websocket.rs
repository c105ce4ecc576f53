//! WebSocket in Kubernetes' manner: binary messages whose first byte names a channel,
//! and the tunnel that carries SPDY.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{Sink, SinkExt, Stream, StreamExt};
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{
        CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as WsError, Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{
    route::Wanted,
    session::{Far, Piece, Size},
};

/// A longer message ends the connection; clients send at most some tens of kilobytes.
const MESSAGE_MAX_BYTES: usize = 4 << 20;
/// For a client to answer our close.
const LINGER: Duration = Duration::from_secs(2);
/// With it standard input can be closed.
pub const V5: &str = "v5.channel.k8s.io";
pub const V4: &str = "v4.channel.k8s.io";
/// SPDY inside binary messages.
pub const PORT_FORWARD: &str = "SPDY/3.1+portforward.k8s.io";

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Followed by the number of the channel that is closed.
const CLOSE: u8 = 255;

/// An agreed handshake.
#[derive(Debug, PartialEq, Eq)]
pub struct Agreement {
    pub protocol: &'static str,
    accept: String,
}

/// Pure: whether the request asks for a WebSocket.
pub fn is_asked_for(headers: &HeaderMap) -> bool {
    names(headers, UPGRADE.as_str()).any(|name| name.eq_ignore_ascii_case("websocket"))
        && names(headers, CONNECTION.as_str()).any(|name| name.eq_ignore_ascii_case("upgrade"))
}

/// Pure: agrees on the first of `ours` that the client knows too. `Err` says what is wrong.
pub fn agree(headers: &HeaderMap, ours: &[&'static str]) -> Result<Agreement, String> {
    let version = headers.get(SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes);
    if version != Some(b"13") {
        return Err("only WebSocket version 13 is supported".to_owned());
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or("Sec-WebSocket-Key is required")?;
    let theirs: Vec<&str> = names(headers, SEC_WEBSOCKET_PROTOCOL.as_str()).collect();
    let protocol = ours.iter().find(|name| theirs.contains(name));
    let protocol = protocol.ok_or_else(|| format!("client supports {theirs:?}, server accepts {ours:?}"))?;
    Ok(Agreement { protocol, accept: derive_accept_key(key.as_bytes()) })
}

/// Comma-separated names in all headers of a name.
pub fn names<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|name| !name.is_empty())
}

impl Agreement {
    /// The answer that switches protocols.
    pub fn response<B: Default>(&self) -> Response<B> {
        let mut response = Response::new(B::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(self.protocol));
        let accept = HeaderValue::from_str(&self.accept).expect("base64 is a legal header value");
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        response
    }
}

/// The server's side of an upgraded connection.
pub async fn open<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> WebSocketStream<T> {
    let config =
        WebSocketConfig::default().max_message_size(Some(MESSAGE_MAX_BYTES)).max_frame_size(Some(MESSAGE_MAX_BYTES));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// What a client says in one message.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Stdin(Bytes),
    StdinClosed,
    Resize(Size),
    /// Nothing that we know.
    Nothing,
}

/// Pure: reads a message.
fn said(protocol: &str, message: &Bytes) -> Said {
    let Some((channel, rest)) = message.split_first() else { return Said::Nothing };
    match *channel {
        STDIN if rest.is_empty() => Said::Nothing,
        STDIN => Said::Stdin(message.slice(1..)),
        RESIZE => serde_json::from_slice(rest).map_or(Said::Nothing, Said::Resize),
        CLOSE if protocol == V5 && rest == [STDIN] => Said::StdinClosed,
        _ => Said::Nothing,
    }
}

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

/// A message on `channel`.
pub fn on_channel(channel: u8, bytes: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(1 + bytes.len());
    message.put_u8(channel);
    message.put_slice(bytes);
    message.freeze()
}

/// Carries a session's streams over a WebSocket, to the session's end or the client's.
pub async fn carry<T>(socket: WebSocketStream<T>, protocol: &str, wanted: Wanted, far: Far) -> Result<(), WsError>
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
                // A size that does not fit in waits for the next.
                Said::Resize(size) => drop(resizes.try_send(size)),
                Said::Nothing => {}
            }
        }
        Ok(())
    };
    let speak = async {
        while let Some(piece) = output.recv().await {
            sink.send(Message::Binary(message(&piece))).await?;
        }
        // Clients take any other ending, also one without a code, for a broken connection.
        sink.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await
    };
    let mut listen = std::pin::pin!(listen);
    tokio::select! {
        heard = &mut listen => return heard,
        spoken = speak => spoken?,
    }
    // The client answers our close; hanging up before that could cost it the last message.
    tokio::time::timeout(LINGER, listen).await.unwrap_or(Ok(()))
}

/// The bytes inside binary messages, as one stream each way.
pub struct Tunnel<T> {
    socket: WebSocketStream<T>,
    read: Bytes,
}

impl<T> Tunnel<T> {
    pub fn new(socket: WebSocketStream<T>) -> Self {
        Self { socket, read: Bytes::new() }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.read.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                None | Some(Ok(Message::Close(_))) => return Poll::Ready(Ok(())),
                Some(Ok(Message::Binary(bytes))) => self.read = bytes,
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        let length = self.read.len().min(buffer.remaining());
        buffer.put_slice(&self.read[..length]);
        self.read.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(io::Error::other)?;
        let message = Message::Binary(Bytes::copy_from_slice(bytes));
        Pin::new(&mut self.socket).start_send(message).map_err(io::Error::other)?;
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(io::Error::other)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::server::session;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");

    #[test]
    fn handshakes() {
        let check = |protocols: &'static str, expected: Result<&str, &str>| {
            let asked = headers(&[KEY, ("sec-websocket-version", "13"), ("sec-websocket-protocol", protocols)]);
            let agreed = agree(&asked, &[V5, V4]);
            match (&agreed, expected) {
                (Ok(agreed), Ok(expected)) => assert_eq!(agreed.protocol, expected),
                (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
                _ => panic!("{agreed:?}"),
            }
        };
        check("v4.channel.k8s.io, v5.channel.k8s.io", Ok(V5));
        check("v4.channel.k8s.io", Ok(V4));
        check("v1.channel.k8s.io", Err("client supports"));
        assert!(agree(&headers(&[KEY]), &[V5]).is_err());
        // The example of RFC 6455.
        let agreed = Agreement { protocol: V5, accept: derive_accept_key(KEY.1.as_bytes()) };
        assert_eq!(agreed.response::<()>().headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_websocket_is_known_by_its_headers() {
        assert!(is_asked_for(&headers(&[("upgrade", "WebSocket"), ("connection", "keep-alive, Upgrade")])));
        assert!(!is_asked_for(&headers(&[("upgrade", "SPDY/3.1"), ("connection", "Upgrade")])));
        assert!(!is_asked_for(&headers(&[])));
    }

    #[test]
    fn messages() {
        let check = |protocol: &str, message: &'static [u8], expected: Said| {
            assert_eq!(said(protocol, &Bytes::from_static(message)), expected, "{message:?}");
        };
        check(V4, b"\0hi", Said::Stdin(Bytes::from("hi")));
        check(V4, b"\0", Said::Nothing);
        check(V4, b"", Said::Nothing);
        check(V4, b"\xff\0", Said::Nothing);
        check(V5, b"\xff\0", Said::StdinClosed);
        check(V5, b"\xff\x01", Said::Nothing);
        check(V5, b"\x04{\"Width\":80,\"Height\":24}", Said::Resize(Size { width: 80, height: 24 }));
        check(V5, b"\x04{\"Width\":-1}", Said::Nothing);
        check(V5, b"\x01out", Said::Nothing);
    }

    /// Random messages and random bytes on the wire: never a panic.
    #[tokio::test]
    async fn damaged_messages_do_no_harm() {
        let mut seed = 7_u64;
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as u8
        };
        for _ in 0..2_000 {
            let bytes: Vec<u8> = (0..next() % 40).map(|_| next()).collect();
            said(V5, &Bytes::from(bytes.clone()));
            let (mut client, server) = tokio::io::duplex(256);
            client.write_all(&bytes).await.unwrap();
            drop(client);
            let mut socket = open(server).await;
            while let Some(Ok(_)) = socket.next().await {}
        }
    }

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

    #[tokio::test]
    async fn a_tunnel_joins_messages() {
        let (client, server) = tokio::io::duplex(1 << 16);
        let mut tunnel = Tunnel::new(open(server).await);
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        for piece in ["ab", "", "cd"] {
            client.send(Message::Binary(Bytes::from(piece))).await.unwrap();
        }
        let mut read = [0; 4];
        tunnel.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"abcd");
        tunnel.write_all(b"xyz").await.unwrap();
        tunnel.flush().await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap().into_data(), "xyz");
        client.close(None).await.unwrap();
        assert_eq!(tunnel.read(&mut read).await.unwrap(), 0);
    }
}
