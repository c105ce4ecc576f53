//! SPDY/3.1 as kubectl and client-go speak it: streams that the client opens over one
//! connection, each with a few headers. Flow control is not used by either side.

pub mod frame;
pub mod headers;

use std::{collections::HashMap, io};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};

use frame::{Frame, FrameError, PROTOCOL_ERROR, REFUSED_STREAM};
use headers::{Headers, Reader, Writer};

/// Streams open at a time; port-forward uses two a connection.
const STREAMS_MAX: usize = 1024;
/// Data frames that wait for a stream's reader, then the whole connection waits.
const STREAM_FRAMES: usize = 32;
/// Frames that wait to be written, then their writers wait.
const OUTGOING_FRAMES: usize = 32;
const READ_BYTES: usize = 64 * 1024;
/// Data is sent in frames of at most this size.
const DATA_BYTES: usize = 32 * 1024;

/// A stream that the client opened.
pub struct Stream {
    pub id: u32,
    pub headers: Headers,
    /// What the client sends; ends when it has closed its half.
    pub incoming: mpsc::Receiver<Bytes>,
    pub outgoing: Sink,
}

/// Our half of a stream. It is closed by [`Sink::close`], not by dropping.
#[derive(Clone)]
pub struct Sink {
    id: u32,
    frames: mpsc::Sender<Frame>,
}

impl Sink {
    /// Errs when the connection is gone.
    pub async fn send(&self, mut data: Bytes) -> io::Result<()> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(DATA_BYTES));
            self.frame(Frame::Data { id: self.id, fin: false, data: piece }).await?;
        }
        Ok(())
    }

    /// Says that there is no more.
    pub async fn close(&self) -> io::Result<()> {
        self.frame(Frame::Data { id: self.id, fin: true, data: Bytes::new() }).await
    }

    async fn frame(&self, frame: Frame) -> io::Result<()> {
        self.frames.send(frame).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Serves the connection; new streams go to `streams`. Returns when the client has gone or `streams` is closed.
pub async fn serve<T>(io: T, streams: mpsc::Sender<Stream>) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut reader, writer) = tokio::io::split(io);
    let (frames, outgoing) = mpsc::channel(OUTGOING_FRAMES);
    let mut connection = Connection { headers: Reader::default(), open: HashMap::new(), last_id: 0, frames, streams };
    let read = async {
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        loop {
            while let Some(frame) = Frame::take(&mut buffer).map_err(io::Error::other)? {
                if !connection.take(frame).await? {
                    return Ok(());
                }
            }
            if reader.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    };
    tokio::select! {
        outcome = read => outcome,
        outcome = write(writer, outgoing) => outcome,
    }
}

async fn write(mut to: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Frame>) -> io::Result<()> {
    let mut headers = Writer::default();
    let mut buffer = BytesMut::new();
    while let Some(frame) = frames.recv().await {
        // Compressed here, as blocks must be sent in the order in which they were compressed.
        let frame = match frame {
            Frame::SynReply { id, fin, .. } => {
                let block = headers.write(&Headers::new()).map_err(io::Error::other)?;
                Frame::SynReply { id, fin, block: block.into() }
            }
            other => other,
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
    /// Those whose client half is open.
    open: HashMap<u32, mpsc::Sender<Bytes>>,
    last_id: u32,
    frames: mpsc::Sender<Frame>,
    streams: mpsc::Sender<Stream>,
}

impl Connection {
    /// False means that the conversation is over.
    async fn take(&mut self, frame: Frame) -> io::Result<bool> {
        match frame {
            Frame::SynStream { id, fin, block } => return self.open(id, fin, &block).await,
            Frame::Data { id, fin, data } => {
                if let Some(stream) = self.open.get(&id)
                    && !data.is_empty()
                    && stream.send(data).await.is_err()
                {
                    // Its reader has had enough: what still comes is dropped.
                    self.open.remove(&id);
                }
                if fin {
                    self.open.remove(&id);
                }
            }
            Frame::Headers { id, fin, block } => {
                // Nobody sends meaningful ones, but the compression depends on every block.
                self.headers.read(&block).map_err(io::Error::other)?;
                if fin {
                    self.open.remove(&id);
                }
            }
            Frame::SynReply { block, .. } => {
                self.headers.read(&block).map_err(io::Error::other)?;
            }
            Frame::RstStream { id, .. } => {
                self.open.remove(&id);
            }
            // The client's pings have odd numbers and want to come back.
            Frame::Ping { id } if !id.is_multiple_of(2) => self.send(Frame::Ping { id }).await?,
            Frame::Ping { .. } | Frame::Other => {}
            Frame::GoAway => return Ok(false),
        }
        Ok(true)
    }

    async fn open(&mut self, id: u32, fin: bool, block: &[u8]) -> io::Result<bool> {
        let headers = self.headers.read(block).map_err(|error: FrameError| io::Error::other(error))?;
        if id.is_multiple_of(2) || id <= self.last_id {
            self.send(Frame::RstStream { id, status: PROTOCOL_ERROR }).await?;
            return Ok(true);
        }
        self.last_id = id;
        if self.open.len() >= STREAMS_MAX {
            self.send(Frame::RstStream { id, status: REFUSED_STREAM }).await?;
            return Ok(true);
        }
        let (sender, incoming) = mpsc::channel(STREAM_FRAMES);
        if !fin {
            self.open.insert(id, sender);
        }
        // First the reply: clients drop data of a stream that was not replied to.
        self.send(Frame::SynReply { id, fin: false, block: Bytes::new() }).await?;
        let outgoing = Sink { id, frames: self.frames.clone() };
        Ok(self.streams.send(Stream { id, headers, incoming, outgoing }).await.is_ok())
    }

    async fn send(&self, frame: Frame) -> io::Result<()> {
        self.frames.send(frame).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A client for tests.
    pub struct TestClient<T> {
        io: T,
        writer: Writer,
        reader: Reader,
        buffer: BytesMut,
    }

    impl<T: AsyncRead + AsyncWrite + Unpin> TestClient<T> {
        pub fn new(io: T) -> Self {
            Self { io, writer: Writer::default(), reader: Reader::default(), buffer: BytesMut::new() }
        }
        pub async fn open(&mut self, id: u32, headers: &[(&str, &str)]) {
            let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let block = self.writer.write(&headers).unwrap().into();
            self.send(Frame::SynStream { id, fin: false, block }).await;
        }
        pub async fn send(&mut self, frame: Frame) {
            let mut buffer = BytesMut::new();
            frame.put(&mut buffer);
            self.io.write_all(&buffer).await.unwrap();
            self.io.flush().await.unwrap();
        }
        pub async fn data(&mut self, id: u32, data: &'static str, fin: bool) {
            self.send(Frame::Data { id, fin, data: Bytes::from_static(data.as_bytes()) }).await;
        }
        /// The next frame; `None` when the server hung up.
        pub async fn next(&mut self) -> Option<Frame> {
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
        pub async fn expect_reply(&mut self, expected: u32) {
            match self.next().await {
                Some(Frame::SynReply { id, .. }) => assert_eq!(id, expected),
                other => panic!("{other:?}"),
            }
        }
        /// The data of stream `id` up to its end; pings and other streams' ends are passed over.
        pub async fn read_to_end(&mut self, id: u32) -> Vec<u8> {
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
}
