//! Clients that mean harm, or are merely broken: whatever they do, others are served
//! meanwhile and the server's memory stays bounded (issue 3, "Shown by"; attack table rows 9, 11 and 12).

use serde_json::json;
use tests::{
    Cluster, Component, Daemon, control_plane,
    raw::{self, Dialer, Frame, Raw},
};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MIB: u64 = 1 << 20;

/// Somebody else asks, over a connection of their own.
#[track_caller]
fn others_are_served(cluster: &Cluster, pid: Option<u32>) {
    assert_eq!(cluster.get("/readyz").code, 200);
    cluster.get(CONFIG_MAPS).expect(200);
    assert!(pid.is_none_or(|pid| cluster.pid(Component::Apiserver) == Some(pid)), "nothing died");
}

#[track_caller]
fn is_bounded(server: &Daemon, mib: u64) {
    let resident = server.resident_bytes() / MIB;
    assert!(resident < mib, "{resident} MiB are resident");
}

/// 10,000 idle connections, heads and bodies that come byte by byte.
#[test]
fn those_who_keep_connections_waiting() {
    let cluster = control_plane!();
    let server = cluster.restart_apiserver(&["--request-timeout=10s"]);
    let strangers = Dialer::new(&cluster, "", "http/1.1");
    let half_open: Vec<_> = (0..2_000).map(|_| strangers.tcp()).collect();
    let idle: Vec<Vec<Raw>> = std::thread::scope(|scope| {
        let dial = |_| {
            let strangers = strangers.clone();
            scope.spawn(move || (0..2_000).map(|_| strangers.dial()).collect())
        };
        let threads: Vec<_> = (0..5).map(dial).collect();
        threads.into_iter().map(|thread| thread.join().expect("connected")).collect()
    });
    others_are_served(&cluster, None);
    is_bounded(&server, 1_000);
    let friend = Dialer::new(&cluster, "admin", "http/1.1");
    let mut slow: Vec<Raw> = (0..200).map(|_| friend.dial()).collect();
    for (index, raw) in slow.iter_mut().enumerate() {
        raw.send(match index % 2 {
            0 => b"GET /api/v1/pods HTTP/1.1\r\nHost: a\r\nX".as_slice(),
            _ => b"POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{",
        });
    }
    others_are_served(&cluster, None);
    is_bounded(&server, 1_000);
    let begun = slow.first_mut().expect("one of them").read_to_end();
    assert!(begun.is_empty() || begun.starts_with("HTTP/1.1 408 "), "a head that does not come ends: {begun}");
    let body = slow.get_mut(1).expect("another").read_until("\"Failure\"}");
    assert!(body.starts_with("HTTP/1.1 504 "), "a body that does not come ends: {body}");
    drop((half_open, idle));
}

/// Nobody waits for them, and what they do not read is not kept for them.
#[test]
fn watches_that_never_read() {
    let cluster = control_plane!();
    let server = cluster.restart_apiserver(&[]);
    let dialer = Dialer::new(&cluster, "admin", "h2");
    let watch = format!("{CONFIG_MAPS}?watch=1&resourceVersion=0");
    let mut deaf: Vec<Raw> = (0..5).map(|_| dialer.dial_http2()).collect();
    for raw in &mut deaf {
        for number in 0..1_000 {
            raw.ask(number * 2 + 1, &watch);
        }
    }
    let mut reader = dialer.dial_http2();
    reader.ask(1, &watch);
    let text = "x".repeat(100 << 10);
    for number in 0..200 {
        let map = json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":format!("big{number}")},
            "data":{"text":text}});
        cluster.post(CONFIG_MAPS, &map).expect(201);
    }
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("\"name\":\"big199\"") {
        let frame = reader.next_frame().expect("the watch goes on");
        // The end of what was seen is enough to find a name that two frames share.
        let keep = seen.len().min(100);
        seen.drain(..seen.len() - keep);
        seen.extend(frame.payload);
    }
    others_are_served(&cluster, None);
    // Half a MiB for each; the design allows one.
    is_bounded(&server, 2_500);
}

/// CVE-2023-44487 and its kin: the connection is ended, or costs no more than one.
#[test]
fn floods_of_frames() {
    let cluster = control_plane!();
    let server = cluster.restart_apiserver(&[]);
    let head = raw::head("GET", "/api/v1/pods", &[]);
    let continuation = vec![0; 16 << 10];
    let reset_code = 8_u32.to_be_bytes();
    type Flood<'a> = (&'a str, Box<dyn Fn(u32) -> Vec<u8> + 'a>);
    let floods: [Flood; 4] = [
        (
            "rapid reset",
            Box::new(|number| {
                let stream = number * 2 + 1;
                let asked = Frame::bytes(raw::HEADERS, raw::END_HEADERS | raw::END_STREAM, stream, &head);
                [asked, Frame::bytes(raw::RST_STREAM, 0, stream, &reset_code)].concat()
            }),
        ),
        (
            "continuation",
            Box::new(|number| match number {
                0 => Frame::bytes(raw::HEADERS, raw::END_STREAM, 1, &head),
                _ => Frame::bytes(raw::CONTINUATION, 0, 1, &continuation),
            }),
        ),
        ("ping", Box::new(|_| Frame::bytes(raw::PING, 0, 0, &[0; 8]))),
        ("settings", Box::new(|_| Frame::bytes(raw::SETTINGS, 0, 0, &[]))),
    ];
    for (what, frames) in floods {
        for user in ["", "admin"] {
            let mut raw = Dialer::new(&cluster, user, "h2").dial_http2();
            let sent = (0..20_000).take_while(|number| raw.try_send(&frames(*number)).is_ok()).count();
            if what == "continuation" || (what == "rapid reset" && user.is_empty()) {
                assert!(sent < 20_000, "{what} by {user:?} goes on");
            }
            others_are_served(&cluster, None);
            is_bounded(&server, 500);
        }
    }
}

/// A stranger gets one answer on a connection, then has to make another.
#[test]
fn strangers_are_sent_away() {
    let cluster = control_plane!();
    let mut raw = Dialer::new(&cluster, "", "h2").dial_http2();
    raw.ask(1, "/api/v1/pods");
    raw.find_frame(|frame| frame.kind == raw::GOAWAY);
    while raw.next_frame().is_some() {}
    let mut known = Dialer::new(&cluster, "admin", "h2").dial_http2();
    for stream in [1, 3] {
        known.ask(stream, "/api/v1/namespaces/default");
        known.find_frame(|frame| frame.stream == stream && frame.flags & raw::END_STREAM != 0);
    }
}

/// What is wrong with a message's head or length is answered with a 4xx and the end of the connection.
#[test]
fn heads_that_lie_or_have_no_end() {
    let cluster = control_plane!();
    let pid = cluster.pid(Component::Apiserver);
    let dialer = Dialer::new(&cluster, "admin", "http/1.1");
    let post = |headers: &str, body: &str| {
        format!("POST {CONFIG_MAPS} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{headers}\r\n{body}")
    };
    let map = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"smuggled"}}"#;
    let chunked = format!("{:x}\r\n{map}\r\n0\r\n\r\n", map.len());
    let smuggled = format!("0\r\n\r\n{}", post(&format!("Content-Length: {}\r\n", map.len()), map));
    let get = |path: &str, headers: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
    let many: String = (0..10_000).map(|number| format!("x{number}: y\r\n")).collect();
    for (what, request, expected) in [
        ("a head of 1 MiB", get("/api", &format!("X: {}\r\n", "y".repeat(1 << 20))), "431"),
        ("a token of 1 MiB", get("/api", &format!("Authorization: Bearer {}\r\n", "y".repeat(1 << 20))), "431"),
        ("10,000 headers", get("/api", &many), "431"),
        ("a path of 64 KiB", get(&format!("/{}", "a".repeat(64 << 10)), ""), "414"),
        ("length and chunks", post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", &smuggled), "400"),
        ("two lengths", post("Content-Length: 4\r\nContent-Length: 5\r\n", map), "400"),
        ("no number", post("Content-Length: -1\r\n", map), "400"),
        ("chunks that are none", post("Transfer-Encoding: chunked\r\n", "zz\r\n"), "400"),
        ("another encoding", post("Transfer-Encoding: gzip\r\n", &chunked), "400"),
        ("no HTTP", "\0\0\0\0\r\n\r\n".to_owned(), "400"),
    ] {
        let mut raw = dialer.dial();
        // It may answer and hang up before it has read all.
        let _ = raw.try_send(request.as_bytes());
        let answer = raw.read_until("\r\n\r\n");
        // What was sent after the refusal may cut the connection before the answer is read.
        let is_cut = answer.is_empty() && expected == "431";
        assert!(is_cut || answer.starts_with(&format!("HTTP/1.1 {expected} ")), "{what}: {answer:?}");
    }
    // A path that fits is none of ours.
    let mut raw = dialer.dial();
    raw.send(get(&format!("/{}", "a".repeat(60 << 10)), "").as_bytes());
    assert!(raw.read_until("\r\n\r\n").starts_with("HTTP/1.1 404 "));
    // Less than was promised: nothing is stored.
    let mut raw = dialer.dial();
    raw.send(post(&format!("Content-Length: {}\r\n", map.len() + 1), map).as_bytes());
    drop(raw);
    assert_eq!(cluster.get(&format!("{CONFIG_MAPS}/smuggled")).code, 404);
    others_are_served(&cluster, pid);
}

/// Bodies are not decompressed, so that none is larger than it looks.
#[test]
fn compressed_bodies_stay_as_they_are() {
    let cluster = control_plane!();
    let server = cluster.restart_apiserver(&[]);
    // The gzip of 1 GiB of blanks, cut; that it is gzip is all that counts.
    let bomb = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3], vec![0xec; 1 << 20].as_slice()].concat();
    for kind in ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"] {
        let headers = [format!("Content-Type: {kind}"), "Content-Encoding: gzip".to_owned()];
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let reply = cluster.http("admin", "POST", CONFIG_MAPS, &headers, &bomb);
        let (code, reason, _) = reply.refusal();
        assert!(matches!(code, 400 | 415), "{kind}: {code} {reason}");
    }
    others_are_served(&cluster, None);
    is_bounded(&server, 300);
}
