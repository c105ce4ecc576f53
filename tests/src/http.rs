//! Raw HTTP by curl: an independent client that hides nothing.

use std::{
    io::Write,
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::cluster::text;

/// An answer as it came over the wire.
#[derive(Clone, Debug)]
pub struct Reply {
    pub code: u16,
    /// Lower-case names.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
    pub fn text(&self) -> String {
        text(&self.body)
    }
    /// The body as JSON; panics with the body if it is not.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in: {}", self.text()))
    }
    /// The object, if the code is as expected.
    #[track_caller]
    pub fn expect(&self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.text());
        self.json()
    }
    /// A refusal: the code, the reason of its Status and its message.
    #[track_caller]
    pub fn refusal(&self) -> (u16, String, String) {
        let status = self.json();
        assert_eq!(status["kind"], "Status", "{status}");
        assert_eq!(status["code"], self.code, "{status}");
        let part = |name: &str| status[name].as_str().unwrap_or_default().to_owned();
        (self.code, part("reason"), part("message"))
    }
}

#[track_caller]
pub(crate) fn send(
    pki: &Path,
    server: &str,
    user: &str,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &[u8],
) -> Reply {
    let sent = try_send(pki, server, user, method, path, headers, body);
    sent.unwrap_or_else(|why| panic!("{method} {path}: no HTTP answer: {why}"))
}

/// A request whose answer goes on: the process's output is the body. `ca` and `user` are names in the PKI.
pub(crate) fn stream(pki: &Path, ca: &str, user: &str, url: &str, body: &str) -> Child {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--no-buffer", "--cacert"]).arg(pki.join(format!("{ca}.crt")));
    curl.arg("--cert").arg(pki.join(format!("{user}.crt"))).arg("--key").arg(pki.join(format!("{user}.key")));
    if !body.is_empty() {
        curl.args(["--data-binary", body]);
    }
    curl.arg(url).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    curl.spawn().expect("curl runs")
}

/// `Err`: what curl says.
pub(crate) fn try_send(
    pki: &Path,
    server: &str,
    user: &str,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &[u8],
) -> Result<Reply, String> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--include", "--max-time", "90", "--path-as-is", "--cacert"])
        .arg(pki.join("ca.crt"));
    if !user.is_empty() {
        curl.arg("--cert").arg(pki.join(format!("{user}.crt"))).arg("--key").arg(pki.join(format!("{user}.key")));
    }
    curl.args(["-A", "coxswain-tests", "-X", method, "-H", "Expect:"]);
    for header in headers {
        curl.args(["-H", header]);
    }
    if !body.is_empty() {
        curl.args(["--data-binary", "@-"]);
    }
    curl.arg(format!("{server}{path}")).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = curl.spawn().expect("curl runs");
    let mut stdin = child.stdin.take().expect("piped");
    let body = body.to_vec();
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&body); // a server may refuse before it has read all
    });
    let output = child.wait_with_output().expect("curl ends");
    writer.join().expect("the writer does not panic");
    parse(&output.stdout).ok_or_else(|| text(&output.stderr))
}

/// The last response in `curl --include`'s output (a 100 Continue may come before it).
fn parse(mut raw: &[u8]) -> Option<Reply> {
    loop {
        let end = raw.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = text(&raw[..end]);
        let body = &raw[end + 4..];
        let mut lines = head.lines();
        let code: u16 = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        if code == 100 {
            raw = body;
            continue;
        }
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(key, value)| (key.to_ascii_lowercase(), value.to_owned())).collect();
        return Some(Reply { code, headers, body: body.to_vec() });
    }
}
