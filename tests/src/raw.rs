//! Bytes over TLS, for what a well-behaved client cannot be brought to send.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

use crate::Cluster;

/// No answer within this is none.
const PATIENCE: Duration = Duration::from_secs(100);
/// Types of HTTP/2 frames (RFC 9113, section 6).
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// How a client of a cluster's apiserver connects; made once for many connections.
#[derive(Clone)]
pub struct Dialer {
    config: Arc<ClientConfig>,
    address: String,
}

impl Dialer {
    /// `user` as in [`Cluster::http`]; `protocol` is `h2` or `http/1.1`.
    pub fn new(cluster: &Cluster, user: &str, protocol: &str) -> Self {
        let pki = cluster.dir().join("pki");
        let mut roots = RootCertStore::empty();
        certificates(&pki.join("ca.crt")).into_iter().for_each(|ca| roots.add(ca).expect("a CA"));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("TLS 1.3").with_root_certificates(roots);
        let mut config = match user {
            "" => builder.with_no_client_auth(),
            user => {
                let key = PrivateKeyDer::from_pem_file(pki.join(format!("{user}.key"))).expect("a key");
                let chain = certificates(&pki.join(format!("{user}.crt")));
                builder.with_client_auth_cert(chain, key).expect("a pair")
            }
        };
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        Self { config: Arc::new(config), address: cluster.server().replace("https://", "") }
    }

    pub fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("the apiserver listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    /// After the handshake.
    pub fn dial(&self) -> Raw {
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let connection = ClientConnection::new(self.config.clone(), name).expect("a client");
        let mut stream = StreamOwned::new(connection, self.tcp());
        stream.flush().expect("a handshake");
        Raw(stream)
    }

    /// After HTTP/2's preface, with a window as large as there is: the server may send what it likes.
    pub fn dial_http2(&self) -> Raw {
        let mut raw = self.dial();
        raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        // INITIAL_WINDOW_SIZE
        let largest = 0x7fff_ffff_u32.to_be_bytes();
        raw.frame(SETTINGS, 0, 0, &[&[0, 4], largest.as_slice()].concat());
        raw.frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes());
        raw
    }
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path).expect("a file").collect::<Result<_, _>>().expect("certificates")
}

/// An HTTP/2 frame.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn bytes(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }
}

/// A head in HPACK without compression; every name and value is shorter than 127 bytes.
pub fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [(":method", method), (":scheme", "https"), (":path", path), (":authority", "a")];
    let mut block = Vec::new();
    for (name, value) in pseudo.iter().chain(headers) {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("a short text"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// A connection.
pub struct Raw(StreamOwned<ClientConnection, TcpStream>);

impl Raw {
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("sent");
    }
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)?;
        self.0.flush()
    }
    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.send(&Frame::bytes(kind, flags, stream, payload));
    }

    /// A request of one frame.
    pub fn ask(&mut self, stream: u32, path: &str) {
        self.frame(HEADERS, END_HEADERS | END_STREAM, stream, &head("GET", path, &[]));
    }

    /// Up to the end of the connection, which may be a reset.
    pub fn read_to_end(&mut self) -> String {
        let mut all = Vec::new();
        let _ = self.0.read_to_end(&mut all);
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Until what was read contains `end`, or the connection has ended.
    pub fn read_until(&mut self, end: &str) -> String {
        let mut all = String::new();
        let mut some = [0; 4096];
        while !all.contains(end) {
            match self.0.read(&mut some) {
                Ok(0) | Err(_) => break,
                Ok(length) => all.push_str(&String::from_utf8_lossy(&some[..length])),
            }
        }
        all
    }

    /// The next frame but for settings and pings, which are answered; `None` at the end.
    pub fn next_frame(&mut self) -> Option<Frame> {
        loop {
            let mut header = [0; 9];
            self.0.read_exact(&mut header).ok()?;
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
            let mut payload = vec![0; length];
            self.0.read_exact(&mut payload).ok()?;
            let frame = Frame { kind: header[3], flags: header[4], stream, payload };
            if !matches!(frame.kind, SETTINGS | PING | WINDOW_UPDATE) {
                return Some(frame);
            }
            if frame.kind != WINDOW_UPDATE && frame.flags & ACK == 0 {
                let payload = if frame.kind == PING { frame.payload } else { Vec::new() };
                self.try_send(&Frame::bytes(frame.kind, ACK, 0, &payload)).ok()?;
            }
        }
    }

    /// Frames up to the one that is looked for; panics at the end of the connection.
    #[track_caller]
    pub fn find_frame(&mut self, is_it: impl Fn(&Frame) -> bool) -> Frame {
        loop {
            let frame = self.next_frame().expect("the connection ended before that frame");
            if is_it(&frame) {
                return frame;
            }
        }
    }
}
