//! Many requests over few connections: curl reads them from a file and sends them side by side on one
//! HTTP/2 connection.

use std::{fmt::Write, fs, path::PathBuf, process::Command};

use crate::{
    cluster::{Cluster, text},
    http::Reply,
};

/// Requests under way at once; below the server's limit of streams and of requests in flight.
const PARALLEL: &str = "64";

/// Requests to be sent together, without a client certificate.
pub struct Batch {
    server: String,
    ca: PathBuf,
    requests: Vec<String>,
}

impl Batch {
    pub fn new(cluster: &Cluster) -> Self {
        Self { server: cluster.server(), ca: cluster.dir().join("pki/ca.crt"), requests: Vec::new() }
    }

    pub fn add(&mut self, method: &str, path: &str, headers: &[&str]) {
        let mut request = format!("url = \"{}{path}\"\nrequest = \"{method}\"\npath-as-is\n", self.server);
        for header in headers {
            writeln!(request, "header = \"{header}\"").expect("text grows");
        }
        self.requests.push(request);
    }

    /// The replies in the order of the requests; headers are left out.
    #[track_caller]
    pub fn send(self) -> Vec<Reply> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let out = |number: usize| folder.path().join(number.to_string());
        let blocks = self.requests.iter().enumerate().map(|(number, request)| {
            let common = format!("silent\nmax-time = 90\ncacert = \"{}\"\n", self.ca.display());
            let answer =
                format!("output = \"{}\"\nwrite-out = \"{number} %{{http_code}}\\n\"\n", out(number).display());
            format!("{request}{common}{answer}")
        });
        let file = folder.path().join("requests");
        fs::write(&file, blocks.collect::<Vec<_>>().join("next\n")).expect("the folder takes files");
        let output = Command::new("curl")
            .args(["--parallel", "--parallel-max", PARALLEL, "--http2", "--config"])
            .arg(&file)
            .output()
            .expect("curl runs");
        let mut codes = vec![0; self.requests.len()];
        for line in text(&output.stdout).lines() {
            let Some((number, code)) = line.split_once(' ') else { continue };
            if let (Ok(number), Ok(code)) = (number.parse::<usize>(), code.parse()) {
                codes[number] = code;
            }
        }
        let body = |number: usize| fs::read(out(number)).unwrap_or_default();
        let replies = codes.iter().enumerate();
        replies.map(|(number, code)| Reply { code: *code, headers: Vec::new(), body: body(number) }).collect()
    }
}
