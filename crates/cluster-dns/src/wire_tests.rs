//! Two servers on loopback, one of which asks the other: what goes over the wire by UDP and TCP.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use api_types::Key;
use daemon::metrics::Registry;
use hickory_server::proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};
use tokio_util::sync::CancellationToken;

use crate::{
    forward::Forwarder,
    metrics::Metrics,
    serve::{self, Current, Questions},
    zone::{Entry, Host, Zone, tests::zone},
};

const PATIENCE: Duration = Duration::from_secs(5);

/// Starts a server with `zone`, complete or not, that asks `outside`; gives its address.
async fn start(zone: Zone, complete: bool, outside: &[String], stop: &CancellationToken) -> SocketAddr {
    let current = Current::new(zone.clone());
    if complete {
        current.publish(zone);
    }
    let sockets = serve::bind(&["127.0.0.1:0".parse().unwrap()]).await.unwrap();
    let address = sockets[0].1.local_addr().unwrap();
    let forwarder = Forwarder::new(outside, &[address]).unwrap();
    let questions = Questions::new(current, forwarder, Metrics::register(&Registry::default()));
    tokio::spawn(serve::serve(sockets, questions, stop.clone()));
    address
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.metadata.recursion_desired = true;
    message.to_vec().unwrap()
}

/// Asks by UDP on a thread of its own.
async fn ask(server: SocketAddr, name: &'static str, kind: RecordType) -> Message {
    let ask = move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(&question(name, kind), server).unwrap();
        let mut answer = [0; 4096];
        let (length, _) = socket.recv_from(&mut answer).unwrap();
        Message::from_vec(&answer[..length]).unwrap()
    };
    tokio::task::spawn_blocking(ask).await.unwrap()
}

/// The same by TCP.
async fn ask_by_tcp(server: SocketAddr, name: &'static str, kind: RecordType) -> Message {
    let ask = move || {
        let mut socket = TcpStream::connect(server).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let question = question(name, kind);
        socket.write_all(&u16::try_from(question.len()).unwrap().to_be_bytes()).unwrap();
        socket.write_all(&question).unwrap();
        let mut length = [0; 2];
        socket.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        socket.read_exact(&mut answer).unwrap();
        Message::from_vec(&answer).unwrap()
    };
    tokio::task::spawn_blocking(ask).await.unwrap()
}

/// Code, and the data of the answers.
fn gist(message: &Message) -> (ResponseCode, Vec<String>) {
    (message.metadata.response_code, message.answers.iter().map(|record| record.data.to_string()).collect())
}

/// The zone that stands for the world outside.
fn outside() -> Zone {
    let mut zone = Zone::new("com");
    zone.add_namespace("ns");
    let entry = Entry::Balanced { addresses: vec!["192.0.2.1".parse().unwrap()], ports: vec![] };
    zone.set_service(&Key::new("ns", "www"), Some(entry));
    zone
}

#[tokio::test]
async fn names_of_the_cluster_and_of_the_world() {
    let stop = CancellationToken::new();
    let world = start(outside(), true, &[], &stop).await;
    let server = start(zone(), true, &[world.to_string()], &stop).await;

    let own = ask(server, "web.ns.svc.cluster.local.", RecordType::A).await;
    assert_eq!(gist(&own), (ResponseCode::NoError, vec!["10.96.0.5".to_owned()]));
    assert!(own.metadata.authoritative && own.metadata.recursion_available);

    let none = ask(server, "nope.ns.svc.cluster.local.", RecordType::A).await;
    assert_eq!(gist(&none), (ResponseCode::NXDomain, vec![]));
    assert_eq!(none.authorities[0].record_type(), RecordType::SOA);

    let foreign = ask(server, "www.ns.svc.com.", RecordType::A).await;
    assert_eq!(gist(&foreign), (ResponseCode::NoError, vec!["192.0.2.1".to_owned()]));
    assert!(!foreign.metadata.authoritative);
    let absent = ask(server, "nope.ns.svc.com.", RecordType::A).await;
    assert_eq!(gist(&absent), (ResponseCode::NXDomain, vec![]));

    let refused = ask(world, "elsewhere.org.", RecordType::A).await;
    assert_eq!(gist(&refused), (ResponseCode::Refused, vec![]), "nobody to ask");
    stop.cancel();
}

#[tokio::test]
async fn an_alias_brings_the_addresses_of_its_target() {
    let stop = CancellationToken::new();
    let world = start(outside(), true, &[], &stop).await;
    let mut zone = zone();
    let alias = |target: &str| Some(Entry::External { target: target.to_owned() });
    zone.set_service(&Key::new("ns", "out"), alias("www.ns.svc.com"));
    zone.set_service(&Key::new("ns", "in"), alias("web.ns.svc.cluster.local"));
    zone.set_service(&Key::new("ns", "loop"), alias("loop.ns.svc.cluster.local"));
    let server = start(zone, true, &[world.to_string()], &stop).await;
    let answers = |name| async move { gist(&ask(server, name, RecordType::A).await) };
    let both = |target: &str, address: &str| (ResponseCode::NoError, vec![format!("{target}."), address.to_owned()]);
    assert_eq!(answers("out.ns.svc.cluster.local.").await, both("www.ns.svc.com", "192.0.2.1"));
    assert_eq!(answers("in.ns.svc.cluster.local.").await, both("web.ns.svc.cluster.local", "10.96.0.5"));
    assert_eq!(answers("loop.ns.svc.cluster.local.").await, (ResponseCode::ServFail, vec![]));
    stop.cancel();
}

#[tokio::test]
async fn what_does_not_fit_by_udp_comes_by_tcp() {
    const HOSTS: u8 = 100;
    let stop = CancellationToken::new();
    let mut zone = zone();
    let host = |number: u8| {
        let address = std::net::IpAddr::from([10, 244, 1, number]);
        (format!("host-{number}"), Host { addresses: [address].into(), ports: vec![] })
    };
    let hosts: BTreeMap<String, Host> = (0..HOSTS).map(host).collect();
    zone.set_service(&Key::new("ns", "many"), Some(Entry::Headless { hosts }));
    let server = start(zone, true, &[], &stop).await;
    let cut = ask(server, "many.ns.svc.cluster.local.", RecordType::A).await;
    assert!(cut.metadata.truncation && cut.answers.len() < usize::from(HOSTS));
    let whole = ask_by_tcp(server, "many.ns.svc.cluster.local.", RecordType::A).await;
    assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, usize::from(HOSTS)));
    stop.cancel();
}

#[tokio::test]
async fn nothing_is_denied_before_everything_is_known() {
    let stop = CancellationToken::new();
    let server = start(zone(), false, &[], &stop).await;
    let answer = ask(server, "nope.ns.svc.cluster.local.", RecordType::A).await;
    assert_eq!(gist(&answer), (ResponseCode::ServFail, vec![]));
    stop.cancel();
}
