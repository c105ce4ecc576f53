//! The test image's program: HTTP on 8080. `/` answers the hostname, `/echo` the request
//! as it came, `/resolve?NAME` the addresses of a DNS name, `/env` the environment,
//! `/exit?CODE` ends the process, as does SIGTERM. Static, so that an image of this one file
//! runs anywhere.

mod resolve;

use signal_hook::{consts::SIGTERM, iterator::Signals};
use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

const PORT: u16 = 8080;
const BODY_BYTES_MAX: u64 = 1 << 20;

fn main() -> io::Result<()> {
    let listener = TcpListener::bind(("::", PORT)).or_else(|_| TcpListener::bind(("0.0.0.0", PORT)))?;
    println!("{} listens on {PORT}", hostname());
    // The first process of a container has no default action for signals.
    let mut signals = Signals::new([SIGTERM])?;
    thread::spawn(move || {
        signals.forever().next();
        std::process::exit(0);
    });
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || {
            if let Err(error) = serve(stream) {
                eprintln!("{error}");
            }
        });
    }
    Ok(())
}

/// One request, one answer, then the connection closes.
fn serve(stream: TcpStream) -> io::Result<()> {
    let peer = stream.peer_addr()?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    while reader.by_ref().take(BODY_BYTES_MAX).read_line(&mut head)? > 2 {}
    let length: u64 = header(&head, "content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    let mut body = Vec::new();
    reader.take(length.min(BODY_BYTES_MAX)).read_to_end(&mut body)?;

    let path = head.split(' ').nth(1).unwrap_or("/");
    println!("{peer} {path}");
    let (code, answer) = answer(path, &head, &body, &peer.to_string());
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {code}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", answer.len())?;
    stream.write_all(&answer)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn answer(path: &str, head: &str, body: &[u8], peer: &str) -> (&'static str, Vec<u8>) {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    match path {
        "/" => ("200 OK", format!("{}\n", hostname()).into_bytes()),
        "/healthz" => ("200 OK", b"ok".to_vec()),
        "/client" => ("200 OK", format!("{peer}\n").into_bytes()),
        "/echo" => ("200 OK", [head.as_bytes(), body].concat()),
        "/env" => {
            let lines: Vec<String> = std::env::vars().map(|(key, value)| format!("{key}={value}\n")).collect();
            ("200 OK", lines.concat().into_bytes())
        }
        "/resolve" => match resolve::lookup(query) {
            Ok(addresses) => ("200 OK", addresses.iter().map(|a| format!("{a}\n")).collect::<String>().into_bytes()),
            Err(error) => ("502 Bad Gateway", format!("{query}: {error}\n").into_bytes()),
        },
        "/exit" => std::process::exit(query.parse().unwrap_or(0)),
        _ => ("404 Not Found", b"not found\n".to_vec()),
    }
}

fn hostname() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}
