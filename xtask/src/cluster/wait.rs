//! Asking the cluster how it is, until it is as wanted.

use std::{
    net::{Ipv4Addr, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde_json::Value;

use super::Cluster;

const POLL: Duration = Duration::from_millis(50);

/// Calls `probe` until it yields, or `patience` ends.
pub fn until<T>(what: &str, patience: Duration, mut probe: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = probe() {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {} s", patience.as_secs());
        }
        #[allow(clippy::disallowed_methods)] // a command line asks again; no runtime is here to starve
        std::thread::sleep(POLL);
    }
}

/// A GET as the administrator. None while the apiserver does not answer with 2xx.
pub fn get(cluster: &Cluster, path: &str) -> Option<Vec<u8>> {
    let output = curl(cluster, path, &["--fail"]).ok()?;
    output.status.success().then_some(output.stdout)
}

pub fn get_json(cluster: &Cluster, path: &str) -> Option<Value> {
    serde_json::from_slice(&get(cluster, path)?).ok()
}

/// etcd answers, which it does once it has a leader.
pub fn store_is_healthy(cluster: &Cluster) -> bool {
    let pki = cluster.pki();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--fail", "--max-time", "5", "--cacert"]).arg(pki.join("etcd-ca.crt"));
    curl.arg("--cert").arg(pki.join("apiserver-etcd-client.crt"));
    curl.arg("--key").arg(pki.join("apiserver-etcd-client.key"));
    let output = curl.arg(format!("https://127.0.0.1:{}/health", cluster.port(2379))).output();
    output.is_ok_and(|output| output.status.success())
}

/// Posts an object to its collection.
pub fn create(cluster: &Cluster, collection: &str, object: &Value) -> anyhow::Result<()> {
    let body = serde_json::to_string(object)?;
    let output = curl(cluster, collection, &["-H", "Content-Type: application/json", "--data-binary", &body])?;
    let reply: Value = serde_json::from_slice(&output.stdout).context("the apiserver's reply is not JSON")?;
    if reply["kind"] == "Status" {
        bail!("{collection}: {}", reply["message"].as_str().unwrap_or_default());
    }
    Ok(())
}

fn curl(cluster: &Cluster, path: &str, more: &[&str]) -> anyhow::Result<std::process::Output> {
    let pki = cluster.pki();
    let output = Command::new("curl")
        .args(["--silent", "--max-time", "5", "--cacert"])
        .arg(pki.join("ca.crt"))
        .arg("--cert")
        .arg(pki.join("admin.crt"))
        .arg("--key")
        .arg(pki.join("admin.key"))
        .args(more)
        .arg(format!("https://127.0.0.1:{}{path}", cluster.apiserver_port()))
        .output()?;
    Ok(output)
}

/// The server answers a query for `name` with an address.
pub fn dns_answers(server: Ipv4Addr, name: &str) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.set_read_timeout(Some(Duration::from_millis(300))).ok()?;
    socket.send_to(&query(name), (server, 53)).ok()?;
    let mut reply = [0_u8; 512];
    let (length, _) = socket.recv_from(&mut reply).ok()?;
    let answers = u16::from_be_bytes([reply[6], reply[7]]);
    let address: [u8; 4] = reply[..length].last_chunk::<4>().copied()?;
    (reply[3] & 0x0f == 0 && answers > 0).then(|| address.into())
}

/// One question, type A, class IN.
fn query(name: &str) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).expect("a DNS label has at most 63 bytes"));
        packet.extend(label.as_bytes());
    }
    packet.extend([0, 0, 1, 0, 1]);
    packet
}
