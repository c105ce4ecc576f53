//! What new clients say over WebSockets, said to the kubelet over SPDY: every kubelet
//! speaks that, whatever its version. Exec and attach are translated stream by stream;
//! a port-forward's WebSocket holds SPDY already and is unwrapped.
//!
//! Source: KEP-4006, and apiserver/pkg/util/proxy/{streamtranslator,streamtunnel}.go.

use std::{io, time::Duration};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, Response};
use serde_json::json;
use streams::{
    spdy::{self, Sink},
    websocket::{self, Agreement, Message, Said, Tunnel, V5, WebSocketStream},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional},
    sync::mpsc,
};

/// Pieces of output that wait for the client, then the kubelet waits.
const PIECES: usize = 32;
/// The last word of a kubelet is a Status; more than this of it is not kept.
const STATUS_BYTES_MAX: usize = 64 << 10;
/// For a client to answer our close.
const LINGER: Duration = Duration::from_secs(2);
const PORT_FORWARD: &str = "portforward.k8s.io";

/// How a client's streams are to reach the kubelet.
pub struct Translation {
    agreement: Agreement,
    /// What the SPDY streams are for, in the handshake's words.
    pub protocol: &'static str,
}

/// Which of a process's streams the client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Translation {
    /// `None`: what the client asks for goes to the kubelet as it is.
    pub fn of(headers: &HeaderMap, verb: &str) -> Option<Self> {
        if !websocket::is_asked_for(headers) {
            return None;
        }
        let (ours, protocol) = match verb {
            "portforward" => (websocket::PORT_FORWARD, PORT_FORWARD),
            _ => (V5, websocket::V4),
        };
        let agreement = websocket::agree(headers, &[ours]).ok()?;
        Some(Self { agreement, protocol })
    }

    /// The answer to the client once the kubelet has agreed.
    pub fn response<B: Default>(&self) -> Response<B> {
        self.agreement.response()
    }

    /// Carries both sides' streams until either has gone.
    pub async fn carry<C, K>(&self, client: C, kubelet: K, wanted: Wanted) -> io::Result<()>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        K: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let socket = websocket::open(client).await;
        if self.protocol == PORT_FORWARD {
            let mut kubelet = kubelet;
            return copy_bidirectional(&mut Tunnel::new(socket), &mut kubelet).await.map(|_| ());
        }
        let (client, running) = spdy::connect(kubelet);
        let mut talking = std::pin::pin!(talk(socket, client, wanted));
        tokio::select! {
            talked = &mut talking => return talked,
            // Its streams have ended with it; what they brought is still to be told.
            ran = running => ran.or_else(is_end)?,
        }
        talking.await
    }
}

/// A kubelet hangs up when it is done, and need not be gentle about it.
fn is_end(error: io::Error) -> io::Result<()> {
    tracing::debug!(%error, "the kubelet's connection broke");
    Ok(())
}

async fn talk<C>(socket: WebSocketStream<C>, mut kubelet: spdy::Client, wanted: Wanted) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let mut error = kubelet.open(&[("streamtype", "error")]).await?;
    // Nothing is said to the kubelet on that one.
    error.outgoing.close().await?;
    let stdin = if wanted.stdin { Some(kubelet.open(&[("streamtype", "stdin")]).await?) } else { None };
    let stdout = if wanted.stdout { Some(kubelet.open(&[("streamtype", "stdout")]).await?) } else { None };
    let stderr = match wanted.stderr && !wanted.tty {
        true => Some(kubelet.open(&[("streamtype", "stderr")]).await?),
        false => None,
    };
    let resize = if wanted.tty { Some(kubelet.open(&[("streamtype", "resize")]).await?) } else { None };
    // As long as the client may still open streams, the connection stays.
    let _kubelet = kubelet;
    let (mut sink, mut source) = socket.split();
    let (pieces, mut output) = mpsc::channel::<Bytes>(PIECES);
    let outputs = [(websocket::STDOUT, stdout), (websocket::STDERR, stderr)];
    // Each until its end, then the last word; the channel closes when nobody sends any more.
    let gather = async {
        let [stdout, stderr] = outputs.map(|(channel, stream)| forward(channel, stream, pieces.clone()));
        let ((), (), status) = futures::join!(stdout, stderr, last_word(&mut error.incoming));
        let _ = pieces.send(websocket::on_channel(websocket::ERROR, &status)).await;
        drop(pieces);
    };
    let speak = async {
        while let Some(message) = output.recv().await {
            sink.send(Message::Binary(message)).await.map_err(io::Error::other)?;
        }
        sink.send(websocket::goodbye()).await.map_err(io::Error::other)
    };
    let listen = async {
        let (stdin, resize) = (stdin.map(|stream| stream.outgoing), resize.map(|stream| stream.outgoing));
        while let Some(message) = source.next().await {
            if let Message::Binary(message) = message.map_err(io::Error::other)? {
                tell(websocket::said(V5, &message), stdin.as_ref(), resize.as_ref()).await;
            }
        }
        Ok(())
    };
    let mut listen = std::pin::pin!(listen);
    let told = async { futures::join!(gather, speak).1 };
    tokio::select! {
        heard = &mut listen => return heard,
        told = told => told?,
    }
    // The client answers our close; hanging up before that could cost it the last message.
    tokio::time::timeout(LINGER, listen).await.unwrap_or(Ok(()))
}

/// A process that no longer reads is no reason to hang up, so what cannot be told is dropped.
async fn tell(said: Said, stdin: Option<&Sink>, resize: Option<&Sink>) {
    let _ = match (said, stdin, resize) {
        (Said::Stdin(bytes), Some(stdin), _) => stdin.send(bytes).await,
        (Said::StdinClosed, Some(stdin), _) => stdin.close().await,
        (Said::Resize(size), _, Some(resize)) => resize.send(size).await,
        (Said::Stdin(_) | Said::StdinClosed | Said::Resize(_) | Said::Nothing, _, _) => Ok(()),
    };
}

async fn forward(channel: u8, stream: Option<spdy::Stream>, to: mpsc::Sender<Bytes>) {
    let Some(mut stream) = stream else { return };
    // An empty message tells the client that it is connected.
    let _ = to.send(websocket::on_channel(channel, b"")).await;
    while let Some(piece) = stream.incoming.recv().await {
        if to.send(websocket::on_channel(channel, &piece)).await.is_err() {
            return;
        }
    }
}

/// How it ended; a kubelet that says nothing has nothing to complain of.
async fn last_word(error: &mut mpsc::Receiver<Bytes>) -> Vec<u8> {
    let mut status = Vec::new();
    while let Some(piece) = error.recv().await {
        if status.len() + piece.len() <= STATUS_BYTES_MAX {
            status.extend_from_slice(&piece);
        }
    }
    if status.is_empty() {
        status = json!({ "metadata": {}, "status": "Success" }).to_string().into_bytes();
    }
    status
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, sync::Arc};

    use http::HeaderValue;
    use hyper_util::rt::TokioIo;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
        net::{TcpListener, TcpStream},
    };
    use tokio_tungstenite::tungstenite::protocol::Role;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::subresource::tunnel::{Dialer, KubeletFiles, Trust};

    fn asked(protocols: &'static str) -> HeaderMap {
        let pairs = [
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", protocols),
        ];
        pairs.iter().map(|(name, value)| (name.parse().expect("a name"), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn what_is_translated() {
        let check = |verb: &str, protocols: &'static str, expected: Option<&str>| {
            let found = Translation::of(&asked(protocols), verb).map(|translation| translation.protocol);
            assert_eq!(found, expected, "{verb} {protocols}");
        };
        check("exec", "v5.channel.k8s.io", Some("v4.channel.k8s.io"));
        check("attach", "v4.channel.k8s.io, v5.channel.k8s.io", Some("v4.channel.k8s.io"));
        check("exec", "v4.channel.k8s.io", None);
        check("exec", "SPDY/3.1+portforward.k8s.io", None);
        check("portforward", "SPDY/3.1+portforward.k8s.io", Some("portforward.k8s.io"));
        check("portforward", "v4.channel.k8s.io", None);
        assert!(Translation::of(&HeaderMap::new(), "exec").is_none());
    }

    const ALL: Wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: false };

    /// A client, the streams that a kubelet without WebSockets is opened, in their order, and the translation's end.
    async fn between(
        verb: &str,
        protocols: &'static str,
        wanted: Wanted,
    ) -> (WebSocketStream<DuplexStream>, mpsc::Receiver<spdy::Stream>, tokio::task::JoinHandle<io::Result<()>>) {
        let (client, ours) = tokio::io::duplex(1 << 16);
        let (theirs, kubelet) = tokio::io::duplex(1 << 16);
        let translation = Translation::of(&asked(protocols), verb).expect("to be translated");
        let (streams, opened) = mpsc::channel(8);
        tokio::spawn(spdy::serve(kubelet, streams));
        let carried = tokio::spawn(async move { translation.carry(ours, theirs, wanted).await });
        (WebSocketStream::from_raw_socket(client, Role::Client, None).await, opened, carried)
    }

    async fn opened(streams: &mut mpsc::Receiver<spdy::Stream>, kind: &str) -> spdy::Stream {
        let stream = streams.recv().await.expect("a stream");
        assert_eq!(spdy::headers::find(&stream.headers, "streamtype"), Some(kind));
        stream
    }

    async fn heard(client: &mut WebSocketStream<DuplexStream>) -> Message {
        client.next().await.expect("not ended").expect("a message")
    }

    #[tokio::test]
    async fn an_exec_is_carried_both_ways_to_its_exit_code() {
        let (mut client, mut streams, carried) = between("exec", V5, ALL).await;
        let error = opened(&mut streams, "error").await;
        let mut stdin = opened(&mut streams, "stdin").await;
        let stdout = opened(&mut streams, "stdout").await;
        let stderr = opened(&mut streams, "stderr").await;
        client.send(Message::Binary(Bytes::from("\0in"))).await.expect("sent");
        client.send(Message::Binary(Bytes::from_static(b"\xff\0"))).await.expect("sent");
        assert_eq!(stdin.incoming.recv().await.expect("input"), "in");
        assert_eq!(stdin.incoming.recv().await, None, "half closed");
        for connected in ["\x01", "\x02"] {
            assert_eq!(heard(&mut client).await.into_data(), connected);
        }
        stdout.outgoing.send(Bytes::from("out")).await.expect("sent");
        assert_eq!(heard(&mut client).await.into_data(), "\x01out");
        stderr.outgoing.send(Bytes::from("err")).await.expect("sent");
        assert_eq!(heard(&mut client).await.into_data(), "\x02err");
        // The status comes before the end of the output, and is told after it.
        error.outgoing.send(Bytes::from(r#"{"status":"Failure","#)).await.expect("sent");
        error.outgoing.send(Bytes::from(r#""reason":"NonZeroExitCode"}"#)).await.expect("sent");
        error.outgoing.close().await.expect("sent");
        stdout.outgoing.send(Bytes::from("last")).await.expect("sent");
        stdout.outgoing.close().await.expect("sent");
        stderr.outgoing.close().await.expect("sent");
        assert_eq!(heard(&mut client).await.into_data(), "\x01last");
        let status = heard(&mut client).await.into_data();
        assert_eq!(status, "\x03{\"status\":\"Failure\",\"reason\":\"NonZeroExitCode\"}");
        let Message::Close(Some(frame)) = heard(&mut client).await else { panic!("closed without a code") };
        assert_eq!(frame.code, websocket::CloseCode::Normal);
        assert!(client.next().await.is_none());
        carried.await.expect("no panic").expect("carried");
    }

    #[tokio::test]
    async fn a_terminal_has_sizes_and_no_standard_error() {
        let wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: true };
        let (mut client, mut streams, _carried) = between("attach", V5, wanted).await;
        opened(&mut streams, "error").await;
        opened(&mut streams, "stdin").await;
        opened(&mut streams, "stdout").await;
        let mut resize = opened(&mut streams, "resize").await;
        client.send(Message::Binary(Bytes::from("\x04{\"Width\":80,\"Height\":24}"))).await.expect("sent");
        assert_eq!(resize.incoming.recv().await.expect("a size"), "{\"Width\":80,\"Height\":24}");
    }

    #[tokio::test]
    async fn a_kubelet_that_hangs_up_without_a_word_ends_the_session() {
        let (mut client, mut streams, carried) =
            between("exec", V5, Wanted { stdout: true, ..Wanted::default() }).await;
        opened(&mut streams, "error").await;
        opened(&mut streams, "stdout").await;
        // Nobody takes streams any more: the connection ends with the next.
        drop(streams);
        client.close(None).await.expect("sent");
        carried.await.expect("no panic").expect("carried");
    }

    #[tokio::test]
    async fn a_port_forward_is_unwrapped() {
        let (client, mut streams, _carried) = between("portforward", websocket::PORT_FORWARD, Wanted::default()).await;
        let (mut spdy, running) = spdy::connect(Tunnel::new(client));
        tokio::spawn(running);
        let mut data = spdy.open(&[("streamtype", "data"), ("port", "80")]).await.expect("opened");
        let mut far = opened(&mut streams, "data").await;
        data.outgoing.send(Bytes::from("ping")).await.expect("sent");
        assert_eq!(far.incoming.recv().await.expect("data"), "ping");
        far.outgoing.send(Bytes::from("pong")).await.expect("sent");
        far.outgoing.close().await.expect("sent");
        assert_eq!(data.incoming.recv().await.expect("data"), "pong");
        assert_eq!(data.incoming.recv().await, None);
    }

    /// A kubelet that knows SPDY alone (upstream's, for what is new), behind the server's own handshake.
    #[tokio::test]
    async fn both_handshakes() {
        let kubelet = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let to = kubelet.local_addr().expect("bound");
        let (streams, mut opened_streams) = mpsc::channel(8);
        let served = tokio::spawn(async move {
            let (mut stream, _) = kubelet.accept().await.expect("the apiserver");
            let head = head(&mut stream).await.to_ascii_lowercase();
            assert!(head.starts_with("post /exec/ns/p/c?output=1 "), "{head}");
            for line in ["connection: upgrade", "upgrade: spdy/3.1", "x-stream-protocol-version: v4.channel.k8s.io"] {
                assert!(head.contains(&format!("{line}\r\n")), "{head}");
            }
            assert!(!head.contains("websocket") && !head.contains("authorization"), "{head}");
            let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";
            stream.write_all(switched.as_bytes()).await.expect("written");
            spdy::serve(stream, streams).await
        });
        let (mut client, _server) = ask(to).await;
        let answer = head(&mut client).await.to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 101 ") && answer.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let error = opened(&mut opened_streams, "error").await;
        let stdout = opened(&mut opened_streams, "stdout").await;
        stdout.outgoing.close().await.expect("sent");
        error.outgoing.close().await.expect("sent");
        let connected = client.next().await.expect("not ended").expect("a message");
        assert_eq!(connected.into_data(), "\x01");
        let status = client.next().await.expect("not ended").expect("a message").into_data();
        assert!(status.starts_with(b"\x03") && status.ends_with(br#""status":"Success"}"#), "{status:?}");
        drop(client);
        let _ = served.await.expect("no panic"); // how a connection ends that is cut is of no interest
    }

    /// CVE-2018-1002105, CVE-2020-8559: a kubelet that does not switch protocols gets no byte of the client's, and
    /// its redirect is an answer like any other.
    #[tokio::test]
    async fn a_kubelet_that_refuses_gets_nothing_more() {
        for answer in ["400 Bad Request", "302 Found\r\nLocation: http://192.0.2.9/", "200 OK"] {
            let kubelet = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let to = kubelet.local_addr().expect("bound");
            let served = tokio::spawn(async move {
                let (mut stream, _) = kubelet.accept().await.expect("the apiserver");
                head(&mut stream).await;
                let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: 2\r\n\r\nno");
                stream.write_all(answer.as_bytes()).await.expect("written");
                let mut rest = String::new();
                // A reset is as good an end as a close.
                let _ = stream.read_to_string(&mut rest).await;
                rest
            });
            let (mut client, _server) = ask(to).await;
            client.write_all(b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n").await.expect("sent");
            let got = head(&mut client).await;
            assert!(got.starts_with(&format!("HTTP/1.1 {}", &answer[..3])), "{got}");
            drop(client);
            assert_eq!(served.await.expect("ended"), "");
        }
    }

    async fn head(stream: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a head"));
        }
        String::from_utf8(head).expect("text")
    }

    /// A client that has sent its handshake to a server that translates for the kubelet at `to`.
    async fn ask(to: SocketAddr) -> (TcpStream, tokio::task::JoinHandle<()>) {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let own = "192.0.2.1:6443".parse().expect("an address");
        let dialer = Arc::new(Dialer::new(&KubeletFiles::default(), own, CancellationToken::new()).expect("a dialer"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("a server");
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a client");
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let dialer = dialer.clone();
                async move {
                    let translation = Translation::of(request.headers(), "exec").expect("to be translated");
                    let wanted = Wanted { stdout: true, ..Wanted::default() };
                    let path = "/exec/ns/p/c?output=1";
                    dialer.translate(to, Trust::Plain, path, request, translation, wanted).await
                }
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // The test's client goes without a farewell.
            let _ = connection.with_upgrades().await;
        });
        let mut request = "GET /exec HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer secret\r\n".to_owned();
        for (name, value) in &asked(V5) {
            request.push_str(&format!("{name}: {}\r\n", value.to_str().expect("text")));
        }
        client.write_all(format!("{request}\r\n").as_bytes()).await.expect("sent");
        (client, server)
    }
}
