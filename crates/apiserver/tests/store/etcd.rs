//! A real etcd of one or more members that can be killed, and what a watch does meanwhile.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use apiserver::store::{
    Store, StoreError,
    etcd::{Config, Etcd},
};
use tempfile::TempDir;
use tokio::time::timeout;

use super::{PATIENCE, put, suite::Fixture, until, value};

pub struct Server {
    folder: TempDir,
    members: Vec<Member>,
}

pub struct Member {
    pub client_port: u16,
    peer_port: u16,
    child: Option<Child>,
}

impl Server {
    pub fn start() -> Option<Self> {
        Self::of(1)
    }

    pub fn of(members: usize) -> Option<Self> {
        if Command::new("etcd").arg("--version").stdout(Stdio::null()).status().is_err() {
            println!("skipped: there is no etcd on this machine");
            return None;
        }
        let member = || Member { client_port: free_port(), peer_port: free_port(), child: None };
        let members: Vec<Member> = std::iter::repeat_with(member).take(members).collect();
        let mut server = Self { folder: tempfile::tempdir().unwrap(), members };
        for index in 0..server.members.len() {
            server.spawn(index);
        }
        Some(server)
    }

    pub fn spawn(&mut self, index: usize) {
        let name = |index: usize| format!("m{index}");
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let all = self.members.iter().enumerate();
        let cluster: Vec<String> = all.map(|(at, it)| format!("{}={}", name(at), url(it.peer_port))).collect();
        let (client, peer) = (url(self.members[index].client_port), url(self.members[index].peer_port));
        let child = Command::new("etcd")
            .args(["--name", &name(index), "--data-dir"])
            .arg(self.folder.path().join(name(index)))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &cluster.join(","), "--log-level", "error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.members[index].child = Some(child.unwrap());
    }

    /// As `kill -9`.
    pub fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.members[index].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn member(&self, index: usize) -> &Member {
        &self.members[index]
    }

    /// Over all members, once one of them answers.
    pub async fn etcd(&self) -> Etcd {
        connect(self.members.iter().map(|member| member.client_port)).await
    }
}

/// A store that has had its first answer.
pub async fn connect(ports: impl Iterator<Item = u16>) -> Etcd {
    let endpoints = ports.map(|port| format!("http://127.0.0.1:{port}")).collect();
    let store = Etcd::connect(Config { endpoints, tls: None, prefix: "/registry".to_owned() }).unwrap();
    timeout(PATIENCE, async { while store.revision().await.is_err() {} }).await.unwrap();
    store
}

impl Fixture for Server {
    async fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.etcd().await)
    }
    async fn restart(&mut self) {
        self.kill(0);
        self.spawn(0);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for index in 0..self.members.len() {
            self.kill(index);
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Nothing is lost, repeated or reordered while etcd is killed under a watch and comes back.
#[tokio::test]
async fn a_watch_survives_the_death_of_etcd() {
    let Some(mut server) = Server::start() else { return };
    let store = server.etcd().await;
    let mut expected = vec![put(&store, "pods/n/0", "x", 0).await];
    let mut watch = store.watch(expected[0]).await.unwrap();
    let mut seen = Vec::new();
    for round in 1..4 {
        for number in 0..20 {
            expected.push(put(&store, &format!("pods/n/{round}-{number}"), "x", 0).await);
        }
        server.kill(0);
        let failed = store.put("pods/n/lost", value("x"), 0, None).await;
        assert!(matches!(failed, Err(StoreError::Unavailable(_))), "{failed:?}");
        server.spawn(0);
        server.etcd().await;
        expected.push(put(&store, &format!("pods/n/{round}-after"), "x", 0).await);
        let changes = until(&mut watch, *expected.last().unwrap()).await;
        seen.extend(changes.iter().map(|change| change.revision));
    }
    assert_eq!(seen, expected);
}
