//! SPDY/3.1 as kubectl, client-go and kubelets speak it: streams that the client opens over one
//! connection, each with a few headers. Flow control is not used by either side.

pub mod frame;
pub mod headers;

use std::{collections::HashMap, io, sync::Arc};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};

use crate::names;
use frame::{Frame, FrameError, PROTOCOL_ERROR, REFUSED_STREAM};
use headers::{Headers, Reader, Writer};

/// In the header `Upgrade`.
pub const UPGRADE: &str = "SPDY/3.1";
/// The header that names what the streams are for.
pub const STREAM_PROTOCOL: &str = "x-stream-protocol-version";

/// Streams open at a time; port-forward uses two a connection.
const STREAMS_MAX: usize = 1024;
/// Data frames that wait for a stream's reader, then the whole connection waits.
const STREAM_FRAMES: usize = 32;
/// Frames that wait to be written, then their writers wait.
const OUTGOING_FRAMES: usize = 32;
const READ_BYTES: usize = 64 * 1024;
/// Data is sent in frames of at most this size.
const DATA_BYTES: usize = 32 * 1024;

/// Pure: agrees on the first of `ours` that the client knows too.
pub fn agree(headers: &HeaderMap, ours: &[&'static str]) -> Result<&'static str, String> {
    let upgrades = names(headers, header::UPGRADE.as_str());
    if !upgrades.into_iter().any(|name| name.eq_ignore_ascii_case(UPGRADE)) {
        return Err("unable to upgrade: neither WebSocket nor SPDY/3.1 is asked for".to_owned());
    }
    let theirs: Vec<&str> = names(headers, STREAM_PROTOCOL).collect();
    let protocol = ours.iter().find(|name| theirs.contains(name)).copied();
    protocol.ok_or_else(|| {
        format!("unable to upgrade: unable to negotiate protocol: client supports {theirs:?}, server accepts {ours:?}")
    })
}

/// The answer that switches protocols.
pub fn switching<B: Default>(protocol: &'static str) -> Response<B> {
    let mut response = Response::new(B::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static(UPGRADE));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
    response
}

/// A stream that the client opened.
pub struct Stream {
    pub id: u32,
    pub headers: Headers,
    /// What the other side sends; ends when it has closed its half, or the connection has ended.
    pub incoming: mpsc::Receiver<Bytes>,
    pub outgoing: Sink,
}

/// Our half of a stream. It is closed by [`Sink::close`], not by dropping.
#[derive(Clone)]
pub struct Sink {
    id: u32,
    frames: mpsc::Sender<Outgoing>,
}

impl Sink {
    /// Errs when the connection is gone.
    pub async fn send(&self, mut data: Bytes) -> io::Result<()> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(DATA_BYTES));
            send(&self.frames, Frame::Data { id: self.id, fin: false, data: piece }).await?;
        }
        Ok(())
    }

    /// Says that there is no more.
    pub async fn close(&self) -> io::Result<()> {
        send(&self.frames, Frame::Data { id: self.id, fin: true, data: Bytes::new() }).await
    }
}

/// What is on its way out. Header blocks are compressed when they are written: that must happen in the order
/// in which they are sent.
enum Outgoing {
    Frame(Frame),
    Open { id: u32, headers: Headers },
    Reply { id: u32 },
}

impl From<Frame> for Outgoing {
    fn from(frame: Frame) -> Self {
        Outgoing::Frame(frame)
    }
}

async fn send(frames: &mpsc::Sender<Outgoing>, what: impl Into<Outgoing>) -> io::Result<()> {
    frames.send(what.into()).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
}

/// Where the data of streams goes whose other half is open.
type Open = Arc<Mutex<HashMap<u32, mpsc::Sender<Bytes>>>>;

/// Serves the connection; new streams go to `streams`. Returns when the client has gone or `streams` is closed.
pub async fn serve<T>(io: T, streams: mpsc::Sender<Stream>) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (frames, outgoing) = mpsc::channel(OUTGOING_FRAMES);
    let connection =
        Connection { headers: Reader::default(), open: Open::default(), last_id: 0, frames, streams: Some(streams) };
    connection.run(io, outgoing).await
}

/// The client's side of a connection: opens streams.
pub struct Client {
    frames: mpsc::Sender<Outgoing>,
    open: Open,
    next_id: u32,
}

/// The client's side, and what moves its frames: to be awaited beside all else, until either side has gone.
pub fn connect<T>(io: T) -> (Client, impl Future<Output = io::Result<()>> + Send)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (frames, outgoing) = mpsc::channel(OUTGOING_FRAMES);
    let open = Open::default();
    let client = Client { frames: frames.clone(), open: open.clone(), next_id: 1 };
    let connection = Connection { headers: Reader::default(), open, last_id: 0, frames, streams: None };
    (client, connection.run(io, outgoing))
}

impl Client {
    /// Opens a stream without waiting for the other side's consent. Errs when the connection is gone.
    pub async fn open(&mut self, headers: &[(&str, &str)]) -> io::Result<Stream> {
        let id = self.next_id;
        self.next_id += 2;
        let headers: Headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (sender, incoming) = mpsc::channel(STREAM_FRAMES);
        self.open.lock().insert(id, sender);
        send(&self.frames, Outgoing::Open { id, headers: headers.clone() }).await?;
        Ok(Stream { id, headers, incoming, outgoing: Sink { id, frames: self.frames.clone() } })
    }
}

async fn write(mut to: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Outgoing>) -> io::Result<()> {
    let mut writer = Writer::default();
    let mut block = |headers: &Headers| writer.write(headers).map(Bytes::from).map_err(io::Error::other);
    let mut buffer = BytesMut::new();
    while let Some(outgoing) = frames.recv().await {
        let frame = match outgoing {
            Outgoing::Frame(frame) => frame,
            Outgoing::Open { id, headers } => Frame::SynStream { id, fin: false, block: block(&headers)? },
            Outgoing::Reply { id } => Frame::SynReply { id, fin: false, block: block(&Headers::new())? },
        };
        frame.put(&mut buffer);
        if frames.is_empty() || buffer.len() >= READ_BYTES {
            to.write_all_buf(&mut buffer).await?;
            to.flush().await?;
        }
    }
    Ok(())
}

struct Connection {
    headers: Reader,
    open: Open,
    last_id: u32,
    frames: mpsc::Sender<Outgoing>,
    /// `None` on the client's side: the other one opens no streams.
    streams: Option<mpsc::Sender<Stream>>,
}

impl Connection {
    async fn run<T>(mut self, io: T, outgoing: mpsc::Receiver<Outgoing>) -> io::Result<()>
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (mut reader, writer) = tokio::io::split(io);
        let open = self.open.clone();
        let read = async {
            let mut buffer = BytesMut::with_capacity(READ_BYTES);
            loop {
                while let Some(frame) = Frame::take(&mut buffer).map_err(io::Error::other)? {
                    if !self.take(frame).await? {
                        return Ok(());
                    }
                }
                if reader.read_buf(&mut buffer).await? == 0 {
                    return Ok(());
                }
            }
        };
        let outcome = tokio::select! {
            outcome = read => outcome,
            outcome = write(writer, outgoing) => outcome,
        };
        // Whoever reads a stream learns that nothing more comes.
        open.lock().clear();
        outcome
    }

    /// False means that the conversation is over.
    async fn take(&mut self, frame: Frame) -> io::Result<bool> {
        match frame {
            Frame::SynStream { id, fin, block } => return self.open(id, fin, &block).await,
            Frame::Data { id, fin, data } => {
                let stream = self.open.lock().get(&id).cloned();
                if let Some(stream) = stream
                    && !data.is_empty()
                    && stream.send(data).await.is_err()
                {
                    // Its reader has had enough: what still comes is dropped.
                    self.close(id);
                }
                if fin {
                    self.close(id);
                }
            }
            Frame::Headers { id, fin, block } | Frame::SynReply { id, fin, block } => {
                // Nobody sends meaningful ones, but the compression depends on every block.
                self.headers.read(&block).map_err(io::Error::other)?;
                if fin {
                    self.close(id);
                }
            }
            Frame::RstStream { id, .. } => self.close(id),
            // The other side's pings want to come back; a client's have odd numbers.
            Frame::Ping { id } if id.is_multiple_of(2) == self.streams.is_none() => {
                send(&self.frames, Frame::Ping { id }).await?;
            }
            Frame::Ping { .. } | Frame::Other => {}
            Frame::GoAway => return Ok(false),
        }
        Ok(true)
    }

    fn close(&self, id: u32) {
        self.open.lock().remove(&id);
    }

    async fn open(&mut self, id: u32, fin: bool, block: &[u8]) -> io::Result<bool> {
        let headers = self.headers.read(block).map_err(|error: FrameError| io::Error::other(error))?;
        let is_out_of_order = id.is_multiple_of(2) || id <= self.last_id;
        let streams = match self.streams.clone() {
            Some(streams) if !is_out_of_order => streams,
            _ => {
                send(&self.frames, Frame::RstStream { id, status: PROTOCOL_ERROR }).await?;
                return Ok(true);
            }
        };
        self.last_id = id;
        if self.open.lock().len() >= STREAMS_MAX {
            send(&self.frames, Frame::RstStream { id, status: REFUSED_STREAM }).await?;
            return Ok(true);
        }
        let (sender, incoming) = mpsc::channel(STREAM_FRAMES);
        if !fin {
            self.open.lock().insert(id, sender);
        }
        // First the reply: clients drop data of a stream that was not replied to.
        send(&self.frames, Outgoing::Reply { id }).await?;
        let outgoing = Sink { id, frames: self.frames.clone() };
        Ok(streams.send(Stream { id, headers, incoming, outgoing }).await.is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client for tests.
    struct TestClient<T> {
        io: T,
        writer: Writer,
        reader: Reader,
        buffer: BytesMut,
    }

    impl<T: AsyncRead + AsyncWrite + Unpin> TestClient<T> {
        fn new(io: T) -> Self {
            Self { io, writer: Writer::default(), reader: Reader::default(), buffer: BytesMut::new() }
        }
        async fn open(&mut self, id: u32, headers: &[(&str, &str)]) {
            let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let block = self.writer.write(&headers).unwrap().into();
            self.send(Frame::SynStream { id, fin: false, block }).await;
        }
        async fn send(&mut self, frame: Frame) {
            let mut buffer = BytesMut::new();
            frame.put(&mut buffer);
            self.io.write_all(&buffer).await.unwrap();
            self.io.flush().await.unwrap();
        }
        async fn data(&mut self, id: u32, data: &'static str, fin: bool) {
            self.send(Frame::Data { id, fin, data: Bytes::from_static(data.as_bytes()) }).await;
        }
        /// The next frame; `None` when the server hung up.
        async fn next(&mut self) -> Option<Frame> {
            loop {
                if let Some(frame) = Frame::take(&mut self.buffer).unwrap() {
                    if let Frame::SynReply { block, .. } = &frame {
                        self.reader.read(block).unwrap();
                    }
                    return Some(frame);
                }
                if self.io.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
        }
        async fn expect_reply(&mut self, expected: u32) {
            match self.next().await {
                Some(Frame::SynReply { id, .. }) => assert_eq!(id, expected),
                other => panic!("{other:?}"),
            }
        }
        /// The data of stream `id` up to its end; pings and other streams' ends are passed over.
        async fn read_to_end(&mut self, id: u32) -> Vec<u8> {
            let mut all = Vec::new();
            while let Some(frame) = self.next().await {
                if let Frame::Data { id: from, fin, data } = frame
                    && from == id
                {
                    all.extend_from_slice(&data);
                    if fin {
                        return all;
                    }
                }
            }
            panic!("stream {id} did not end, after {:?}", String::from_utf8_lossy(&all));
        }
    }

    #[tokio::test]
    async fn streams_carry_data_both_ways() {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (streams, mut opened) = mpsc::channel(4);
        let served = tokio::spawn(serve(theirs, streams));
        let mut client = TestClient::new(ours);
        client.open(1, &[("streamtype", "data")]).await;
        client.expect_reply(1).await;
        client.data(1, "hello", false).await;
        client.data(1, "", true).await;
        let mut stream = opened.recv().await.unwrap();
        assert_eq!(headers::find(&stream.headers, "streamtype"), Some("data"));
        assert_eq!(stream.incoming.recv().await.unwrap(), "hello");
        assert_eq!(stream.incoming.recv().await, None);
        stream.outgoing.send(Bytes::from(vec![b'x'; DATA_BYTES + 1])).await.unwrap();
        stream.outgoing.close().await.unwrap();
        assert_eq!(client.read_to_end(1).await.len(), DATA_BYTES + 1);
        client.send(Frame::GoAway).await;
        served.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn pings_come_back_and_wrong_numbers_are_reset() {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (streams, _opened) = mpsc::channel(4);
        tokio::spawn(serve(theirs, streams));
        let mut client = TestClient::new(ours);
        client.send(Frame::Ping { id: 9 }).await;
        assert_eq!(client.next().await, Some(Frame::Ping { id: 9 }));
        client.open(2, &[]).await;
        assert_eq!(client.next().await, Some(Frame::RstStream { id: 2, status: PROTOCOL_ERROR }));
        client.open(3, &[]).await;
        client.expect_reply(3).await;
        client.open(3, &[]).await;
        assert_eq!(client.next().await, Some(Frame::RstStream { id: 3, status: PROTOCOL_ERROR }));
        client.data(77, "for nobody", true).await;
        client.send(Frame::Ping { id: 11 }).await;
        assert_eq!(client.next().await, Some(Frame::Ping { id: 11 }));
    }

    #[tokio::test]
    async fn what_is_no_spdy_ends_the_connection() {
        let (mut ours, theirs) = tokio::io::duplex(1 << 16);
        let (streams, _opened) = mpsc::channel(4);
        let served = tokio::spawn(serve(theirs, streams));
        ours.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(served.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_client_opens_streams_and_sees_their_ends() {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (streams, mut opened) = mpsc::channel(4);
        let served = tokio::spawn(serve(theirs, streams));
        let (mut client, running) = connect(ours);
        let running = tokio::spawn(running);
        let mut one = client.open(&[("streamtype", "error")]).await.unwrap();
        let mut two = client.open(&[("streamtype", "stdin")]).await.unwrap();
        let far_one = opened.recv().await.unwrap();
        let mut far_two = opened.recv().await.unwrap();
        assert_eq!(headers::find(&far_two.headers, "streamtype"), Some("stdin"));
        two.outgoing.send(Bytes::from("in")).await.unwrap();
        two.outgoing.close().await.unwrap();
        assert_eq!(far_two.incoming.recv().await.unwrap(), "in");
        assert_eq!(far_two.incoming.recv().await, None);
        far_one.outgoing.send(Bytes::from("out")).await.unwrap();
        far_one.outgoing.close().await.unwrap();
        assert_eq!(one.incoming.recv().await.unwrap(), "out");
        assert_eq!(one.incoming.recv().await, None);
        served.abort();
        assert_eq!(two.incoming.recv().await, None, "the connection has ended");
        assert!(running.await.is_ok());
    }

    #[test]
    fn spdy_is_agreed_on_by_headers() {
        const V4: &str = crate::websocket::V4;
        let check = |upgrade: &'static str, protocols: &'static str, expected: Result<&str, &str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::UPGRADE, HeaderValue::from_static(upgrade));
            headers.append(STREAM_PROTOCOL, HeaderValue::from_static("v9"));
            headers.append(STREAM_PROTOCOL, HeaderValue::from_static(protocols));
            match (agree(&headers, &[V4]), expected) {
                (Ok(protocol), Ok(expected)) => assert_eq!(protocol, expected),
                (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
                (other, _) => panic!("{other:?}"),
            }
        };
        check("SPDY/3.1", V4, Ok(V4));
        check("spdy/3.1", V4, Ok(V4));
        check("SPDY/3.1", "v3.channel.k8s.io", Err("unable to negotiate protocol"));
        check("h2c", V4, Err("neither WebSocket nor SPDY/3.1"));
    }
}
