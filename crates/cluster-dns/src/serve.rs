//! The DNS server: takes questions by UDP and TCP, answers from the newest snapshot of the
//! zone, and hands on what is not the cluster's.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use hickory_server::{
    Server,
    net::runtime::Time,
    proto::{
        op::{Edns, MessageType, Metadata, OpCode, ResponseCode},
        rr::{DNSClass, Name, Record, RecordType},
    },
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

use crate::{
    answer::{self, Answer},
    forward::Forwarder,
    metrics::Metrics,
    zone::Zone,
};

/// A connection that asks nothing for so long is closed.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);
/// Answers that wait for a slow TCP client.
const TCP_ANSWERS_MAX: usize = 64;
/// Larger UDP answers get lost on the way often enough.
const UDP_BYTES_MAX: u16 = 1232;
/// Aliases followed within the zone: a Service may name another one, a loop must end.
const ALIASES_MAX: usize = 8;

/// The zone as it is now, once it is complete. Clones share it.
#[derive(Clone)]
pub struct Current {
    zone: Arc<ArcSwap<Zone>>,
    complete: Arc<AtomicBool>,
}

impl Current {
    pub fn new(zone: Zone) -> Self {
        Self { zone: Arc::new(ArcSwap::from_pointee(zone)), complete: Arc::default() }
    }
    /// Shows a new zone to all readers.
    pub fn publish(&self, zone: Zone) {
        self.zone.store(Arc::new(zone));
        self.complete.store(true, Ordering::Release);
    }
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }
}

/// One address, by both transports.
pub type Sockets = (UdpSocket, TcpListener);

/// Listens; the error names the address.
pub async fn bind(listen: &[SocketAddr]) -> io::Result<Vec<Sockets>> {
    let mut all = Vec::new();
    for address in listen {
        let name = |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
        let listener = TcpListener::bind(address).await.map_err(name)?;
        // The same port for both, also where the system chose it.
        let socket = UdpSocket::bind(listener.local_addr()?).await.map_err(name)?;
        all.push((socket, listener));
    }
    Ok(all)
}

/// Answers until `stop`.
pub async fn serve(sockets: Vec<Sockets>, questions: Questions, stop: CancellationToken) -> io::Result<()> {
    let mut server = Server::new(questions);
    for (socket, listener) in sockets {
        tracing::info!(address = %listener.local_addr()?, "answering");
        server.register_socket(socket);
        server.register_listener(listener, TCP_TIMEOUT, TCP_ANSWERS_MAX);
    }
    stop.cancelled().await;
    server.shutdown_gracefully().await.map_err(io::Error::other)
}

/// Who answers.
pub struct Questions {
    current: Current,
    forwarder: Forwarder,
    metrics: Metrics,
    /// Counts answers, to rotate them.
    turn: AtomicUsize,
}

/// All that goes back.
#[derive(Debug)]
struct Reply {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

impl Reply {
    fn empty(code: ResponseCode) -> Self {
        Self { code, authoritative: false, answers: Vec::new(), authorities: Vec::new(), additionals: Vec::new() }
    }
}

impl Questions {
    pub fn new(current: Current, forwarder: Forwarder, metrics: Metrics) -> Self {
        Self { current, forwarder, metrics, turn: AtomicUsize::new(0) }
    }

    async fn reply(&self, request: &Request) -> Reply {
        if request.metadata.op_code != OpCode::Query || request.metadata.message_type != MessageType::Query {
            return Reply::empty(ResponseCode::NotImp);
        }
        let [query] = request.queries.queries() else { return Reply::empty(ResponseCode::FormErr) };
        if query.query_class() != DNSClass::IN {
            return Reply::empty(ResponseCode::Refused);
        }
        if !self.current.is_complete() {
            // A "no" might be wrong as long as not everything is known.
            return Reply::empty(ResponseCode::ServFail);
        }
        self.resolve(query.original().name().clone(), query.query_type()).await
    }

    /// Follows aliases in the zone, and out of it.
    async fn resolve(&self, name: Name, kind: RecordType) -> Reply {
        let mut reply = Reply { authoritative: true, ..Reply::empty(ResponseCode::NoError) };
        let mut name = name;
        for _ in 0..ALIASES_MAX {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let zone = self.current.zone.load_full();
            match answer::answer(&name, kind, &zone, turn) {
                Answer::Found { answers, additionals } => {
                    reply.answers.extend(answers);
                    reply.additionals = additionals;
                    return reply;
                }
                Answer::Alias { cname, target } => {
                    reply.answers.push(*cname);
                    if matches!(kind, RecordType::CNAME | RecordType::ANY) {
                        return reply;
                    }
                    name = target;
                }
                Answer::NoData => {
                    reply.authorities.push(answer::soa(&zone));
                    return reply;
                }
                Answer::NoSuchName => {
                    reply.code = ResponseCode::NXDomain;
                    reply.authorities.push(answer::soa(&zone));
                    return reply;
                }
                Answer::Elsewhere => {
                    let outside = self.forwarder.ask(name, kind).await;
                    let is_alias = !reply.answers.is_empty();
                    // The alias is ours and true, whatever becomes of its target.
                    reply.code = if is_alias && outside.code == ResponseCode::Refused {
                        ResponseCode::NoError
                    } else {
                        outside.code
                    };
                    reply.authoritative = is_alias;
                    reply.answers.extend(outside.answers);
                    reply.authorities = outside.authorities;
                    return reply;
                }
            }
        }
        Reply::empty(ResponseCode::ServFail)
    }
}

#[async_trait]
impl RequestHandler for Questions {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut handle: R) -> ResponseInfo {
        let reply = self.reply(request).await;
        self.metrics.answered(reply.code);
        let edns = request.edns.as_ref().map(|_| {
            let mut edns = Edns::new();
            edns.set_max_payload(request.max_payload().clamp(512, UDP_BYTES_MAX));
            edns
        });
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        metadata.recursion_available = true;
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let none = std::iter::empty::<&Record>();
        let response = builder.build(metadata, &reply.answers, &reply.authorities, none, &reply.additionals);
        match handle.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "answer not sent");
                // Nobody reads it; the trait wants one.
                let mut metadata = Metadata::response_from_request(&request.metadata);
                metadata.response_code = ResponseCode::ServFail;
                ResponseInfo::from(hickory_server::proto::op::Header { metadata, counts: Default::default() })
            }
        }
    }
}
