//! WebSocket in Kubernetes' manner: binary messages whose first byte names a channel,
//! and the tunnel that carries SPDY.

use std::{
    io::{self, Cursor},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{Sink, Stream};
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{
        CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
pub use tokio_tungstenite::WebSocketStream;
pub use tokio_tungstenite::tungstenite::{
    Error, Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};
use tokio_tungstenite::tungstenite::{
    WebSocket as ProtocolSocket,
    handshake::derive_accept_key,
    protocol::{Role, WebSocketConfig},
};

use crate::names;

/// A longer message ends the connection; clients send at most some tens of kilobytes.
const MESSAGE_MAX_BYTES: usize = 4 << 20;
/// With it standard input can be closed.
pub const V5: &str = "v5.channel.k8s.io";
pub const V4: &str = "v4.channel.k8s.io";
/// SPDY inside binary messages.
pub const PORT_FORWARD: &str = "SPDY/3.1+portforward.k8s.io";

pub const STDIN: u8 = 0;
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
pub const ERROR: u8 = 3;
pub const RESIZE: u8 = 4;
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
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config())).await
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(Some(MESSAGE_MAX_BYTES)).max_frame_size(Some(MESSAGE_MAX_BYTES))
}

/// What a client says in one message.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    Stdin(Bytes),
    StdinClosed,
    /// JSON, as the client wrote it.
    Resize(Bytes),
    /// Nothing that we know.
    Nothing,
}

/// Pure: reads a message.
pub fn said(protocol: &str, message: &Bytes) -> Said {
    let Some((channel, rest)) = message.split_first() else { return Said::Nothing };
    match *channel {
        STDIN if rest.is_empty() => Said::Nothing,
        STDIN => Said::Stdin(message.slice(1..)),
        RESIZE => Said::Resize(message.slice(1..)),
        CLOSE if protocol == V5 && rest == [STDIN] => Said::StdinClosed,
        _ => Said::Nothing,
    }
}

/// Reads what a client sent, which is all there is, to its end or its first mistake; says how many messages
/// there were.
pub fn read_all(bytes: &[u8]) -> usize {
    let mut socket = ProtocolSocket::from_raw_socket(Cursor::new(bytes.to_vec()), Role::Server, Some(config()));
    std::iter::from_fn(|| socket.read().ok()).count()
}

/// Clients take any other ending, also one without a code, for a broken connection.
pub fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// A message on `channel`.
pub fn on_channel(channel: u8, bytes: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(1 + bytes.len());
    message.put_u8(channel);
    message.put_slice(bytes);
    message.freeze()
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
    use futures::{SinkExt, StreamExt};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

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
        check(V5, b"\x04{}", Said::Resize(Bytes::from("{}")));
        check(V5, b"\x01out", Said::Nothing);
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
