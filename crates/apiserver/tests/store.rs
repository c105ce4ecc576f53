//! The store against a real etcd: what compare-and-swap, ranges, watches and history
//! promise, also across etcd's death. Skipped, and said so, where there is no etcd.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use apiserver::store::{
    Range, Store, StoreError,
    etcd::{Config, Etcd},
};
use bytes::Bytes;
use tempfile::TempDir;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

/// An etcd of our own, that can be killed and started again.
struct Server {
    dir: TempDir,
    client_port: u16,
    peer_port: u16,
    child: Option<Child>,
}

impl Server {
    fn start() -> Option<Self> {
        if Command::new("etcd").arg("--version").stdout(Stdio::null()).status().is_err() {
            println!("skipped: there is no etcd on this machine");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut server = Self { dir, client_port: free_port(), peer_port: free_port(), child: None };
        server.spawn();
        Some(server)
    }

    fn spawn(&mut self) {
        let client = format!("http://127.0.0.1:{}", self.client_port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.dir.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--log-level", "error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    async fn store(&self) -> Etcd {
        let endpoints = vec![format!("http://127.0.0.1:{}", self.client_port)];
        let store = Etcd::connect(Config { endpoints, tls: None, prefix: "/registry".to_owned() }).await.unwrap();
        // The first answer: etcd has started.
        timeout(PATIENCE, async { while store.revision().await.is_err() {} }).await.unwrap();
        store
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn put(store: &Etcd, key: &str, text: &str, expected: u64) -> u64 {
    store.put(key, value(text), expected, None).await.unwrap()
}

#[tokio::test]
async fn writes_are_compared_and_swapped() {
    let Some(server) = Server::start() else { return };
    let store = server.store().await;
    let first = put(&store, "pods/a/x", "1", 0).await;
    let again = store.put("pods/a/x", value("2"), 0, None).await;
    assert!(matches!(again, Err(StoreError::Conflict { found, .. }) if found == first));
    let second = put(&store, "pods/a/x", "2", first).await;
    assert!(second > first);
    assert!(matches!(store.put("pods/a/x", value("3"), first, None).await, Err(StoreError::Conflict { .. })));
    assert!(matches!(store.delete("pods/a/x", first).await, Err(StoreError::Conflict { .. })));
    let record = store.get("pods/a/x").await.unwrap().unwrap();
    assert_eq!((record.key.as_str(), record.value.as_ref(), record.revision), ("pods/a/x", &b"2"[..], second));
    let deleted = store.delete("pods/a/x", second).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), deleted);
    assert!(store.get("pods/a/x").await.unwrap().is_none());
    let gone = store.put("pods/a/x", value("3"), second, None).await;
    assert!(matches!(gone, Err(StoreError::Conflict { found: 0, .. })));
    let large = Bytes::from(vec![b'x'; 2 << 20]);
    assert!(matches!(store.put("pods/a/large", large, 0, None).await, Err(StoreError::TooLarge(_))));
}

#[tokio::test]
async fn ranges_are_pages_of_one_revision() {
    let Some(server) = Server::start() else { return };
    let store = server.store().await;
    for name in ["a", "b", "c"] {
        put(&store, &format!("pods/n/{name}"), name, 0).await;
    }
    put(&store, "podtemplates/n/x", "other", 0).await;
    let range = |start, limit, revision| Range { prefix: "pods/", start, limit, revision };
    let first = store.range(range("", 2, 0)).await.unwrap();
    assert_eq!((first.records.len(), first.remaining), (2, 1));
    put(&store, "pods/n/d", "later", 0).await;
    let rest = store.range(range("pods/n/b\0", 2, first.revision)).await.unwrap();
    let keys: Vec<&str> = rest.records.iter().map(|record| record.key.as_str()).collect();
    assert_eq!((keys, rest.remaining, rest.revision), (vec!["pods/n/c"], 0, first.revision));
    assert!(matches!(store.range(range("", 0, first.revision + 99)).await, Err(StoreError::FutureRevision)));
    store.compact(store.revision().await.unwrap()).await.unwrap();
    assert!(matches!(store.range(range("", 0, first.revision)).await, Err(StoreError::Compacted { .. })));
    assert!(matches!(store.history(1, first.revision).await, Err(StoreError::Compacted { .. })));
    let mut watch = store.watch(2).await.unwrap();
    let refused = timeout(PATIENCE, watch.recv()).await.unwrap().unwrap();
    assert!(matches!(refused, Err(StoreError::Compacted { .. })));
}

#[tokio::test]
async fn history_has_the_states_before() {
    let Some(server) = Server::start() else { return };
    let store = server.store().await;
    let created = put(&store, "pods/n/a", "1", 0).await;
    let updated = put(&store, "pods/n/a", "2", created).await;
    let deleted = store.delete("pods/n/a", updated).await.unwrap();
    let past = store.history(created, deleted).await.unwrap();
    let seen: Vec<_> = past
        .iter()
        .map(|past| (past.change.revision, past.change.value.clone(), past.previous.as_ref().map(|p| p.value.clone())))
        .collect();
    assert_eq!(seen, [(updated, Some(value("2")), Some(value("1"))), (deleted, None, Some(value("2")))]);
}

/// Nothing is lost, repeated or reordered while etcd is killed under a watch and comes back.
#[tokio::test]
async fn a_watch_survives_the_death_of_etcd() {
    let Some(mut server) = Server::start() else { return };
    let store = server.store().await;
    let mut expected = vec![put(&store, "pods/n/0", "x", 0).await];
    let mut watch = store.watch(expected[0]).await.unwrap();
    let mut seen = Vec::new();
    for round in 1..4 {
        for number in 0..20 {
            expected.push(put(&store, &format!("pods/n/{round}-{number}"), "x", 0).await);
        }
        server.kill();
        let failed = store.put("pods/n/lost", value("x"), 0, None).await;
        assert!(matches!(failed, Err(StoreError::Unavailable(_))), "{failed:?}");
        server.spawn();
        server.store().await;
        expected.push(put(&store, &format!("pods/n/{round}-after"), "x", 0).await);
        while seen.last() != expected.last() {
            let batch = timeout(PATIENCE, watch.recv()).await.unwrap().unwrap().unwrap();
            seen.extend(batch.changes.iter().map(|change| change.revision));
        }
    }
    assert_eq!(seen, expected);
}
