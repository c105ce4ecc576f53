//! Port-forward: pairs of streams (data, error) to connections inside a pod's network.
//!
//! Source: kubelet/pkg/cri/streaming/portforward.

use std::{
    collections::HashMap,
    io,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use streams::{
    spdy::{Sink, Stream, headers},
    websocket::on_channel,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    task::JoinSet,
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

/// For the second stream of a pair to come.
const PAIR_TIMEOUT: Duration = Duration::from_secs(30);
const READ_BYTES: usize = 32 * 1024;
/// Channels are numbered by one byte, two to a port.
const CHANNEL_PORTS_MAX: usize = 128;

/// The protocol's name in SPDY's own handshake.
pub const SPDY_PROTOCOL: &str = "portforward.k8s.io";

/// Opens a connection to a port inside a pod.
pub trait Dial: Clone + Send + Sync + 'static {
    type Connection: AsyncRead + AsyncWrite + Unpin + Send;
    fn dial(&self, port: u16) -> impl Future<Output = io::Result<Self::Connection>> + Send;
}

/// Serves the streams of one SPDY connection until it ends.
pub async fn serve(mut streams: mpsc::Receiver<Stream>, dial: impl Dial) {
    let mut pairs = Pairs::default();
    let mut forwards = JoinSet::new();
    while let Some(stream) = streams.recv().await {
        // Those that ended meanwhile.
        while forwards.try_join_next().is_some() {}
        let sink = stream.outgoing.clone();
        match pairs.add(stream, Instant::now()) {
            Ok(None) => {}
            Ok(Some(pair)) => {
                let dial = dial.clone();
                forwards.spawn(async move { forward(pair, &dial).await });
            }
            Err(why) => {
                tracing::debug!(why, "stream refused");
                tell(&sink, &why).await;
            }
        }
    }
}

/// Streams that belong together.
struct Pair {
    port: u16,
    data: Stream,
    error: Stream,
}

/// Pure: finds pairs.
#[derive(Default)]
struct Pairs {
    waiting: HashMap<String, (Instant, Half)>,
}

enum Half {
    Data(Stream),
    Error(Stream),
}

impl Pairs {
    /// The pair, if `stream` completes one. A half that waits for too long is dropped.
    fn add(&mut self, stream: Stream, now: Instant) -> Result<Option<Pair>, String> {
        self.waiting.retain(|_, (since, _)| now < *since + PAIR_TIMEOUT);
        let port = headers::find(&stream.headers, "port").ok_or("\"port\" header is required")?;
        let port: u16 =
            port.parse().ok().filter(|port| *port != 0).ok_or(format!("unable to parse {port:?} as a port"))?;
        let kind = headers::find(&stream.headers, "streamtype").ok_or("\"streamType\" header is required")?.to_owned();
        let half = match kind.as_str() {
            "data" => Half::Data,
            "error" => Half::Error,
            other => return Err(format!("invalid stream type {other:?}")),
        };
        // Old clients give no id; then the data stream is the next after the error stream.
        let id = match headers::find(&stream.headers, "requestid") {
            Some(id) => id.to_owned(),
            None if kind == "data" => stream.id.saturating_sub(2).to_string(),
            None => stream.id.to_string(),
        };
        match (half(stream), self.waiting.remove(&id)) {
            (half, None) => {
                self.waiting.insert(id, (now, half));
                Ok(None)
            }
            (Half::Data(data), Some((_, Half::Error(error)))) | (Half::Error(error), Some((_, Half::Data(data)))) => {
                Ok(Some(Pair { port, data, error }))
            }
            (_, Some(waiting)) => {
                self.waiting.insert(id.clone(), waiting);
                Err(format!("error processing stream for request {id}: {kind} stream already assigned"))
            }
        }
    }
}

async fn tell(sink: &Sink, why: &str) {
    // A client that has gone cannot be told.
    let _ = sink.send(Bytes::from(why.to_owned())).await;
    let _ = sink.close().await;
}

async fn forward(pair: Pair, dial: &impl Dial) {
    let Pair { port, mut data, error } = pair;
    let outcome = match dial.dial(port).await {
        Ok(connection) => copy(connection, &mut data).await,
        Err(error) => Err(error),
    };
    // First the error: a client reads it before it sees the data end.
    match outcome {
        Ok(()) => {
            let _ = error.outgoing.close().await;
        }
        Err(why) => tell(&error.outgoing, &format!("error forwarding port {port}: {why}")).await,
    }
    let _ = data.outgoing.close().await;
}

/// Until the pod's side ends; the client's end is passed on.
async fn copy(connection: impl AsyncRead + AsyncWrite, stream: &mut Stream) -> io::Result<()> {
    let (mut from_pod, mut to_pod) = tokio::io::split(connection);
    let (incoming, outgoing) = (&mut stream.incoming, &stream.outgoing);
    let send = async {
        while let Some(piece) = incoming.recv().await {
            to_pod.write_all(&piece).await?;
        }
        to_pod.shutdown().await
    };
    let receive = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ_BYTES);
            if from_pod.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            outgoing.send(buffer.split().freeze()).await?;
        }
    };
    let (mut send, mut receive) = (std::pin::pin!(send), std::pin::pin!(receive));
    let mut sending = true;
    loop {
        tokio::select! {
            received = &mut receive => return received,
            sent = &mut send, if sending => match sent {
                Ok(()) => sending = false,
                Err(error) => return Err(error),
            },
        }
    }
}

/// The same without SPDY: two channels a port in the order of `ports`, data and error.
pub async fn serve_channels<T>(socket: WebSocketStream<T>, ports: &[u16], dial: impl Dial)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let ports = &ports[..ports.len().min(CHANNEL_PORTS_MAX)];
    let (mut sink, mut source) = socket.split();
    let (sender, mut outgoing) = mpsc::channel::<Bytes>(CHANNEL_PORTS_MAX);
    let mut forwards = JoinSet::new();
    let mut inputs = HashMap::new();
    for (index, port) in (0_u8..).zip(ports) {
        let (input, pieces) = mpsc::channel(READ_BYTES / 1024);
        inputs.insert(index * 2, input);
        let channel = Channel { port: *port, number: index * 2, pieces, outgoing: sender.clone() };
        let dial = dial.clone();
        forwards.spawn(async move { channel.forward(&dial).await });
    }
    drop(sender);
    let listen = async {
        while let Some(Ok(message)) = source.next().await {
            let Message::Binary(message) = message else { continue };
            let Some(input) = message.first().and_then(|channel| inputs.get(channel)) else { continue };
            // A connection that ended drops what still comes.
            let _ = input.send(message.slice(1..)).await;
        }
    };
    let speak = async {
        while let Some(message) = outgoing.recv().await {
            if sink.send(Message::Binary(message)).await.is_err() {
                return;
            }
        }
        let _ = sink.close().await;
    };
    tokio::select! {
        () = listen => {}
        () = speak => {}
    }
}

struct Channel {
    port: u16,
    number: u8,
    pieces: mpsc::Receiver<Bytes>,
    outgoing: mpsc::Sender<Bytes>,
}

impl Channel {
    async fn forward(mut self, dial: &impl Dial) {
        let error = self.number + 1;
        // Each channel begins with its port, so that the client can tell them apart.
        for channel in [self.number, error] {
            let _ = self.outgoing.send(on_channel(channel, &self.port.to_le_bytes())).await;
        }
        let outcome = match dial.dial(self.port).await {
            Ok(connection) => self.copy(connection).await,
            Err(error) => Err(error),
        };
        if let Err(why) = outcome {
            let text = format!("error forwarding port {}: {why}", self.port);
            let _ = self.outgoing.send(on_channel(error, text.as_bytes())).await;
        }
    }

    async fn copy(&mut self, mut connection: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ_BYTES);
            tokio::select! {
                piece = self.pieces.recv() => match piece {
                    Some(piece) => connection.write_all(&piece).await?,
                    None => return connection.shutdown().await,
                },
                length = connection.read_buf(&mut buffer) => {
                    if length? == 0 {
                        return Ok(());
                    }
                    let message = on_channel(self.number, &buffer.split());
                    self.outgoing.send(message).await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use streams::{
        spdy::{self, Client},
        websocket::{self, Tunnel},
    };
    use tokio::io::DuplexStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    /// Echoes on port 7, refuses everything else.
    #[derive(Clone)]
    struct Echo;

    impl Dial for Echo {
        type Connection = DuplexStream;
        async fn dial(&self, port: u16) -> io::Result<DuplexStream> {
            if port != 7 {
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused"));
            }
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(theirs);
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
            Ok(ours)
        }
    }

    async fn client() -> Client {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (streams, opened) = mpsc::channel(4);
        tokio::spawn(async move {
            let tunnel = Tunnel::new(websocket::open(theirs).await);
            let _ = futures::join!(spdy::serve(tunnel, streams), serve(opened, Echo));
        });
        let socket = WebSocketStream::from_raw_socket(ours, Role::Client, None).await;
        let (client, running) = spdy::connect(Tunnel::new(socket));
        tokio::spawn(running);
        client
    }

    async fn read_to_end(mut stream: Stream) -> String {
        let mut all = Vec::new();
        while let Some(piece) = stream.incoming.recv().await {
            all.extend_from_slice(&piece);
        }
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn a_pair_is_a_connection() {
        let mut client = client().await;
        for request in ["0", "1"] {
            let error = [("port", "7"), ("streamtype", "error"), ("requestid", request)];
            let error = client.open(&error).await.unwrap();
            error.outgoing.close().await.unwrap();
            let data = client.open(&[("port", "7"), ("streamtype", "data"), ("requestid", request)]).await.unwrap();
            data.outgoing.send(Bytes::from("hello")).await.unwrap();
            data.outgoing.close().await.unwrap();
            assert_eq!(read_to_end(data).await, "hello");
        }
    }

    #[tokio::test]
    async fn a_refused_connection_is_told_on_the_error_stream() {
        let mut client = client().await;
        let error = client.open(&[("port", "9"), ("streamtype", "error")]).await.unwrap();
        let _data = client.open(&[("port", "9"), ("streamtype", "data")]).await.unwrap();
        assert_eq!(read_to_end(error).await, "error forwarding port 9: connection refused");
    }

    #[tokio::test]
    async fn wrong_streams_are_refused() {
        let mut client = client().await;
        let mut check = async |headers: &[(&str, &str)], expected: &str| {
            let stream = client.open(headers).await.unwrap();
            assert_eq!(read_to_end(stream).await, expected);
        };
        check(&[], "\"port\" header is required").await;
        check(&[("port", "0"), ("streamtype", "data")], "unable to parse \"0\" as a port").await;
        check(&[("port", "7")], "\"streamType\" header is required").await;
        check(&[("port", "7"), ("streamtype", "x")], "invalid stream type \"x\"").await;
    }

    #[tokio::test]
    async fn channels_are_numbered_by_port() {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move { serve_channels(websocket::open(theirs).await, &[7], Echo).await });
        let mut client = WebSocketStream::from_raw_socket(ours, Role::Client, None).await;
        let next = async |client: &mut WebSocketStream<DuplexStream>| client.next().await.unwrap().unwrap().into_data();
        assert_eq!(next(&mut client).await, "\0\x07\0");
        assert_eq!(next(&mut client).await, "\x01\x07\0");
        client.send(Message::Binary(Bytes::from("\0hello"))).await.unwrap();
        assert_eq!(next(&mut client).await, "\0hello");
    }
}
