//! A second apiserver over a cluster's etcd, with flags of its own: what a test wants to know of one that is configured
//! otherwise.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::{
    cluster::{Cluster, Component, Daemon},
    eventually,
    http::{Reply, send},
};

/// Stopped when dropped.
pub struct Second {
    pub process: Daemon,
    pki: PathBuf,
    pub server: String,
}

impl Cluster {
    /// Starts another apiserver like the first, with `flags` added, and waits until it is ready.
    pub fn second_apiserver(&self, flags: &[&str]) -> Second {
        let first = self.pid(Component::Apiserver).expect("the first apiserver runs");
        let command = fs::read(format!("/proc/{first}/cmdline")).expect("a process has a command line");
        let words: Vec<String> = command.split(|byte| *byte == 0).map(crate::cluster::text).collect();
        let (program, arguments) = words.split_first().expect("a program");
        // A flag that is given takes the place of the first one's.
        let is_kept = |word: &&String| {
            let name = word.split('=').next().unwrap_or_default();
            let is_given = flags.iter().any(|flag| flag.split('=').next() == Some(name));
            !(word.is_empty() || is_given || word.starts_with("--secure-port=") || word.starts_with("--audit-"))
        };
        let port = free_port();
        let log = fs::File::create(self.dir().join("log/second-apiserver.log")).expect("a log");
        let process = Command::new(program)
            .args(arguments.iter().filter(is_kept))
            .arg(format!("--secure-port={port}"))
            .args(flags)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the apiserver starts");
        let second = Second {
            process: Daemon(process),
            pki: self.dir().join("pki"),
            server: format!("https://127.0.0.1:{port}"),
        };
        eventually("the second apiserver is ready", || second.is_ready().then_some(()));
        second
    }
}

impl Second {
    fn is_ready(&self) -> bool {
        std::net::TcpStream::connect(self.server.trim_start_matches("https://")).is_ok()
            && self.http("admin", "GET", "/readyz", &[], b"").code == 200
    }

    /// As [`Cluster::http`].
    pub fn http(&self, user: &str, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Reply {
        send(&self.pki, &self.server, user, method, path, headers, body)
    }
}

/// Free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("bound").port()
}
