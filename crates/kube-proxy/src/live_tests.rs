//! The rendered text in a real kernel, in a network namespace of its own: it loads, the
//! differences lead to the same table as the whole, and connections are spread.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use api_types::Key;
use serde_json::{Value, json};

use crate::{
    layout::{
        Layout, Table, Touched,
        tests::{layout, part, udp_part},
    },
    render,
};

/// A network namespace with loopback up; commands run in it.
struct Namespace(String);

impl Namespace {
    /// `None`, with a message, where the test cannot run.
    fn new(test: &str) -> Option<Self> {
        let name = format!("coxswain-{test}-{}", std::process::id());
        let made = run("ip", &["netns", "add", &name], "").and_then(|_| {
            run("ip", &["-n", &name, "link", "set", "lo", "up"], "")?;
            run("ip", &["netns", "exec", &name, "nft", "list", "ruleset"], "")
        });
        let namespace = Self(name);
        match made {
            Ok(_) => Some(namespace),
            Err(why) => {
                println!("skipped: needs root, iproute2 and nftables: {why}");
                None
            }
        }
    }

    fn run(&self, words: &[&str], input: &str) -> String {
        let mut all = vec!["netns", "exec", &self.0];
        all.extend(words);
        run("ip", &all, input).unwrap_or_else(|why| panic!("{words:?}: {why}\n{input}"))
    }

    fn load(&self, text: &str) {
        self.run(&["nft", "-f", "-"], text);
    }

    /// The table as the kernel has it. Elements come in no order.
    fn listing(&self) -> Vec<String> {
        let text = self.run(&["nft", "-j", "list", "table", "ip", "kube-proxy"], "");
        let json: Value = serde_json::from_str(&text).unwrap();
        let mut lines: Vec<String> = json["nftables"].as_array().unwrap().iter().map(normal).collect();
        lines.sort();
        lines
    }

    /// Runs `work` on a thread that lives in the namespace.
    fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let path = format!("/run/netns/{}", self.0);
        thread::spawn(move || {
            let file = std::fs::File::open(path).unwrap();
            rustix::thread::move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&file),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )
            .unwrap();
            work()
        })
        .join()
        .unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = run("ip", &["netns", "del", &self.0], "");
    }
}

/// Without handles, which count on, and with elements sorted.
fn normal(object: &Value) -> String {
    let mut object = object.clone();
    for (_, body) in object.as_object_mut().unwrap() {
        let body = body.as_object_mut().unwrap();
        body.remove("handle");
        if let Some(Value::Array(elements)) = body.get_mut("elem") {
            elements.sort_by_key(ToString::to_string);
        }
    }
    object.to_string()
}

/// Lines that only one of both has.
fn differing(some: &[String], others: &[String]) -> Vec<String> {
    some.iter().filter(|line| !others.contains(line)).cloned().collect()
}

fn run(program: &str, words: &[&str], input: &str) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
    child.stdin.take().unwrap().write_all(input.as_bytes()).map_err(|error| error.to_string())?;
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// States of one Service that follow each other; every kind of frontend is among them.
fn history() -> Vec<(Value, &'static str)> {
    let external = |policy: &str| {
        json!({"type": "NodePort", "externalTrafficPolicy": policy, "externalIPs": ["1.2.3.4"],
            "ports": [{"port": 80, "nodePort": 30080}]})
    };
    let sticky = || json!({"sessionAffinity": "ClientIP"});
    vec![
        (json!({}), "10.244.0.1"),
        (json!({}), "10.244.0.1@n 10.244.0.2"),
        (json!({}), "10.244.0.2 10.244.0.3"),
        (json!({}), ""),
        (external("Cluster"), "10.244.0.1@n 10.244.0.2"),
        (external("Local"), "10.244.0.1@n 10.244.0.2"),
        (external("Local"), "10.244.0.2"),
        (sticky(), "10.244.0.1 10.244.0.2"),
        (sticky(), "10.244.0.2 10.244.0.3 10.244.0.4"),
        (json!({"internalTrafficPolicy": "Local"}), "10.244.0.2"),
        (json!({}), "10.244.0.1"),
    ]
}

#[test]
fn differences_lead_where_the_whole_leads() {
    let (Some(stepwise), Some(afresh)) = (Namespace::new("steps"), Namespace::new("whole")) else { return };
    let layout = layout();
    let (web, other) = (Key::new("ns", "web"), Key::new("ns", "other"));
    let mut table = Table::default();
    let beside = part(json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"]}), "10.244.0.8 10.244.0.9");
    table.set(&other, beside, &mut Touched::new());
    stepwise.load(&render::whole(&layout, &table));
    for (spec, endpoints) in history() {
        let mut touched = Touched::new();
        table.set(&web, part(spec.clone(), endpoints), &mut touched);
        let text = render::difference(&layout, &table, &touched);
        stepwise.load(&text);
        afresh.load(&render::whole(&layout, &table));
        let (found, expected) = (stepwise.listing(), afresh.listing());
        let differing = (differing(&found, &expected), differing(&expected, &found));
        assert_eq!(differing, (vec![], vec![]), "{spec} {endpoints}\n{text}");
    }
}

#[test]
fn the_other_family_loads_too() {
    let Some(namespace) = Namespace::new("six") else { return };
    let layout = Layout { family: crate::ruleset::Family::V6, ..layout() };
    namespace.load(&render::whole(&layout, &Table::default()));
    namespace.load(&render::nothing(&layout));
}

/// Servers by TCP and UDP that answer with their own address.
fn serve(address: SocketAddr) {
    let packets = UdpSocket::bind(address).unwrap();
    thread::spawn(move || {
        while let Ok((_, client)) = packets.recv_from(&mut [0; 16]) {
            let _ = packets.send_to(address.ip().to_string().as_bytes(), client);
        }
    });
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            let _ = socket.write_all(address.ip().to_string().as_bytes());
        }
    });
}

fn ask(address: &str) -> Result<String, std::io::ErrorKind> {
    let address: SocketAddr = address.parse().unwrap();
    let mut socket = TcpStream::connect_timeout(&address, Duration::from_secs(2)).map_err(|error| error.kind())?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).map_err(|error| error.kind())?;
    Ok(answer)
}

/// The same by UDP, from a new port each time.
fn ask_by_udp(address: &str) -> Result<String, std::io::ErrorKind> {
    let ask = || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.send_to(b"?", address)?;
        let mut answer = [0; 64];
        let (length, _) = socket.recv_from(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    };
    ask().map_err(|error: std::io::Error| error.kind())
}

#[test]
fn connections_are_spread_and_refused() {
    let Some(namespace) = Namespace::new("flow") else { return };
    // Addresses of the "pods" and a way to the Service, all on a link to nowhere.
    namespace.run(&["ip", "link", "add", "pods", "type", "veth"], "");
    namespace.run(&["ip", "addr", "add", "10.244.0.1/24", "dev", "pods"], "");
    namespace.run(&["ip", "addr", "add", "10.244.0.2/24", "dev", "pods"], "");
    namespace.run(&["ip", "link", "set", "pods", "up"], "");
    namespace.run(&["ip", "route", "add", "10.96.0.0/16", "dev", "pods"], "");
    let layout = layout();
    let mut table = Table::default();
    let service = |spec: Value| part(spec, "10.244.0.1@n 10.244.0.2@n");
    let key = Key::new("ns", "web");
    let node_port = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    table.set(&key, service(node_port), &mut Touched::new());
    let single = part(json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"]}), "10.244.0.2");
    table.set(&Key::new("ns", "single"), single, &mut Touched::new());
    let by_udp = udp_part("10.96.0.8", "10.244.0.1 10.244.0.2");
    table.set(&Key::new("ns", "udp"), by_udp, &mut Touched::new());
    let empty = part(json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"]}), "");
    table.set(&Key::new("ns", "empty"), empty, &mut Touched::new());
    namespace.load(&render::whole(&layout, &table));
    let seen = namespace.inside(|| {
        for ip in ["10.244.0.1", "10.244.0.2"] {
            serve(format!("{ip}:8080").parse().unwrap());
        }
        let mut counts = std::collections::BTreeMap::new();
        for address in ["10.96.0.5:80", "10.244.0.1:30080"] {
            for _ in 0..60 {
                *counts.entry((address, ask(address))).or_insert(0) += 1;
            }
        }
        for _ in 0..60 {
            let address = "10.96.0.8:80";
            *counts.entry((address, ask_by_udp(address))).or_insert(0) += 1;
        }
        assert_eq!(ask("10.96.0.7:80"), Ok("10.244.0.2".to_owned()));
        let refused = ["10.96.0.9:80", "10.96.0.5:81", "127.0.0.1:30080"].map(ask);
        (counts, refused)
    });
    let (counts, refused) = seen;
    for address in ["10.96.0.5:80", "10.244.0.1:30080", "10.96.0.8:80"] {
        for ip in ["10.244.0.1", "10.244.0.2"] {
            let count = counts.get(&(address, Ok(ip.to_owned()))).copied().unwrap_or_default();
            assert!((10..=50).contains(&count), "{address} to {ip}: {count} of 60: {counts:?}");
        }
    }
    assert_eq!(refused, [const { Err(std::io::ErrorKind::ConnectionRefused) }; 3]);
    // The same client stays with its endpoint.
    let mut touched = Touched::new();
    table.set(&key, service(json!({"sessionAffinity": "ClientIP"})), &mut touched);
    namespace.load(&render::difference(&layout, &table, &touched));
    let answers = namespace.inside(|| (0..20).map(|_| ask("10.96.0.5:80")).collect::<std::collections::BTreeSet<_>>());
    assert_eq!(answers.len(), 1, "{answers:?}");
}
