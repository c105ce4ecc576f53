//! What a request to the kubelet asks for: path and query to data. Pure.
//!
//! Source for paths and parameters: pkg/kubelet/server/server.go, and remotecommand/options.go.

use api_types::{Key, jiff::Timestamp};

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Route {
    /// All pods of this node, as the kubelet knows them.
    Pods,
    /// The same with those only that run.
    RunningPods,
    Logs {
        pod: Key,
        container: String,
        options: LogOptions,
    },
    Exec {
        pod: PodName,
        container: String,
        command: Vec<String>,
        streams: Wanted,
    },
    Attach {
        pod: PodName,
        container: String,
        streams: Wanted,
    },
    /// `ports` only from clients that speak without SPDY.
    PortForward {
        pod: PodName,
        ports: Vec<u16>,
    },
    /// A command whose output is the answer.
    Run {
        pod: PodName,
        container: String,
        command: Vec<String>,
    },
    Summary,
    Configz,
}

/// A pod by name, and by uid where the caller gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName {
    pub key: Key,
    pub uid: Option<String>,
}

/// Which of a process's streams the client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogOptions {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub tail_lines: Option<i64>,
    pub limit_bytes: Option<u64>,
    pub since: Since,
    pub stream: LogStream,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Since {
    #[default]
    Beginning,
    SecondsAgo(i64),
    Time(Timestamp),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogStream {
    #[default]
    All,
    Stdout,
    Stderr,
}

/// Why a request is none of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unroutable {
    /// No such path.
    Unknown,
    /// A parameter is wrong; says which.
    Invalid(String),
}

/// Reads path and query.
pub fn route(path: &str, query: &str) -> Result<Route, Unroutable> {
    let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(decode).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let query = Query::parse(query);
    let pod = |namespace: &str, name: &str, uid: Option<&str>| PodName {
        key: Key::new(namespace, name),
        uid: uid.map(str::to_owned),
    };
    let (pod, container) = match *parts.as_slice() {
        ["pods"] => return Ok(Route::Pods),
        ["runningpods"] => return Ok(Route::RunningPods),
        ["stats", "summary"] => return Ok(Route::Summary),
        ["configz"] => return Ok(Route::Configz),
        ["containerLogs", namespace, name, container] => {
            let options = log_options(&query)?;
            return Ok(Route::Logs { pod: Key::new(namespace, name), container: container.to_owned(), options });
        }
        ["portForward", namespace, name] => return port_forward(pod(namespace, name, None), &query),
        ["portForward", namespace, name, uid] => return port_forward(pod(namespace, name, Some(uid)), &query),
        ["exec" | "attach" | "run", namespace, name, container] => (pod(namespace, name, None), container.to_owned()),
        ["exec" | "attach" | "run", namespace, name, uid, container] => {
            (pod(namespace, name, Some(uid)), container.to_owned())
        }
        _ => return Err(Unroutable::Unknown),
    };
    match parts[0] {
        "exec" => {
            let (command, streams) = (query.all("command"), wanted(&query)?);
            if command.is_empty() {
                return Err(Unroutable::Invalid("you must specify at least one command".to_owned()));
            }
            Ok(Route::Exec { pod, container, command, streams })
        }
        "attach" => Ok(Route::Attach { pod, container, streams: wanted(&query)? }),
        _ => {
            let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
            Ok(Route::Run { pod, container, command: query.get("cmd").map(words).unwrap_or_default() })
        }
    }
}

fn port_forward(pod: PodName, query: &Query) -> Result<Route, Unroutable> {
    let read = |text: String| {
        let port = text.parse().ok().filter(|port| *port != 0);
        port.ok_or_else(|| Unroutable::Invalid(format!("invalid port {text:?}")))
    };
    let lists = query.all("port").into_iter().chain(query.all("ports"));
    let texts: Vec<String> = lists.flat_map(|list| list.split(',').map(str::to_owned).collect::<Vec<_>>()).collect();
    Ok(Route::PortForward { pod, ports: texts.into_iter().map(read).collect::<Result<_, _>>()? })
}

/// The apiserver says input, output and error where its own clients say stdin, stdout and stderr.
fn wanted(query: &Query) -> Result<Wanted, Unroutable> {
    let either = |one: &str, other: &str| query.flag(one) || query.flag(other);
    let tty = query.flag("tty");
    let stderr = either("error", "stderr");
    let wanted = Wanted {
        stdin: either("input", "stdin"),
        stdout: either("output", "stdout"),
        // A terminal has one output.
        stderr: stderr && !tty,
        tty,
    };
    if !(wanted.stdin || wanted.stdout || wanted.stderr) {
        return Err(Unroutable::Invalid("you must specify at least 1 of stdin, stdout, stderr".to_owned()));
    }
    Ok(wanted)
}

fn log_options(query: &Query) -> Result<LogOptions, Unroutable> {
    let invalid = |name: &str, why: &str| Unroutable::Invalid(format!("{name}: {why}"));
    let number = |name: &str, least: i64, why: &str| match query.get(name) {
        None => Ok(None),
        Some(text) => text.parse().ok().filter(|number| *number >= least).map(Some).ok_or_else(|| invalid(name, why)),
    };
    let seconds = number("sinceSeconds", 1, "must be greater than 0")?;
    let time = match query.get("sinceTime") {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| invalid("sinceTime", "must be an RFC 3339 time"))?),
    };
    let since = match (seconds, time) {
        (None, None) => Since::Beginning,
        (Some(seconds), None) => Since::SecondsAgo(seconds),
        (None, Some(time)) => Since::Time(time),
        (Some(_), Some(_)) => {
            return Err(invalid("sinceSeconds", "at most one of sinceTime or sinceSeconds may be specified"));
        }
    };
    let stream = match query.get("stream") {
        None | Some("" | "All") => LogStream::All,
        Some("Stdout") => LogStream::Stdout,
        Some("Stderr") => LogStream::Stderr,
        Some(_) => return Err(invalid("stream", "supported values: \"All\", \"Stdout\", \"Stderr\"")),
    };
    let limit_bytes = number("limitBytes", 1, "must be greater than 0")?;
    Ok(LogOptions {
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        timestamps: query.flag("timestamps"),
        tail_lines: number("tailLines", 0, "must be greater than or equal to 0")?,
        limit_bytes: limit_bytes.map(i64::unsigned_abs),
        since,
        stream,
    })
}

struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Self {
        let pair = |part: &str| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(&name.replace('+', " ")), decode(&value.replace('+', " ")))
        };
        Self(text.split('&').filter(|part| !part.is_empty()).map(pair).collect())
    }
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
    fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }
    /// As Go's conversion has it: anything but empty, 0 and false is true.
    fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !matches!(value, "" | "0" | "false" | "False"))
    }
}

/// Percent-decodes; a wrong escape stays as it is.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match escape.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                plain.push(byte);
                at += 3;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(uri: &str, expected: &str) {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let shown = match route(path, query) {
            Ok(Route::Logs { pod, container, options }) => format!("logs {pod} {container} {options:?}"),
            Ok(Route::Exec { pod, container, command, streams }) => {
                format!("exec {} {:?} {container} {command:?} {}", pod.key, pod.uid, show(streams))
            }
            Ok(Route::Attach { pod, container, streams }) => {
                format!("attach {} {container} {}", pod.key, show(streams))
            }
            Ok(Route::PortForward { pod, ports }) => format!("forward {} {ports:?}", pod.key),
            Ok(Route::Run { pod, container, command }) => format!("run {} {container} {command:?}", pod.key),
            Ok(other) => format!("{other:?}"),
            Err(Unroutable::Unknown) => "unknown".to_owned(),
            Err(Unroutable::Invalid(why)) => why,
        };
        assert_eq!(shown, expected, "{uri}");
    }

    fn show(wanted: Wanted) -> String {
        let letters = [(wanted.stdin, 'i'), (wanted.stdout, 'o'), (wanted.stderr, 'e'), (wanted.tty, 't')];
        letters.into_iter().filter(|(set, _)| *set).map(|(_, letter)| letter).collect()
    }

    #[test]
    fn paths() {
        check("/pods", "Pods");
        check("/pods/", "Pods");
        check("/stats/summary", "Summary");
        check("/nothing", "unknown");
        check("/exec/ns", "unknown");
        check("/run/ns/p/c?cmd=ls%20-l", "run ns/p c [\"ls\", \"-l\"]");
    }

    #[test]
    fn exec_and_attach() {
        check(
            "/exec/ns/p/c?command=sh&command=-c&command=a+b%26&output=1&error=1",
            r#"exec ns/p None c ["sh", "-c", "a b&"] oe"#,
        );
        check("/exec/ns/p/u1/c?command=sh&input=1&output=1&error=1&tty=1", r#"exec ns/p Some("u1") c ["sh"] iot"#);
        check("/attach/ns/p/c?stdin=true&stdout=true&tty=false", "attach ns/p c io");
        check("/exec/ns/p/c?output=1", "you must specify at least one command");
        check("/attach/ns/p/c", "you must specify at least 1 of stdin, stdout, stderr");
    }

    #[test]
    fn port_forwards() {
        check("/portForward/ns/p", "forward ns/p []");
        check("/portForward/ns/p?port=80&port=81,82", "forward ns/p [80, 81, 82]");
        check("/portForward/ns/p?port=0", "invalid port \"0\"");
        check("/portForward/ns/p?port=x", "invalid port \"x\"");
    }

    #[test]
    fn logs() {
        let options = |query: &str| match route("/containerLogs/ns/p/c", query) {
            Ok(Route::Logs { options, .. }) => options,
            other => panic!("{other:?}"),
        };
        assert_eq!(options(""), LogOptions::default());
        let some = options("follow=true&tailLines=0&limitBytes=7&sinceSeconds=5&timestamps=true&previous=false");
        assert_eq!((some.follow, some.timestamps, some.previous), (true, true, false));
        assert_eq!((some.tail_lines, some.limit_bytes, some.since), (Some(0), Some(7), Since::SecondsAgo(5)));
        assert!(matches!(options("sinceTime=2026-01-01T00:00:00Z").since, Since::Time(_)));
        let base = "/containerLogs/ns/p/c";
        check(&format!("{base}?tailLines=-1"), "tailLines: must be greater than or equal to 0");
        check(&format!("{base}?limitBytes=0"), "limitBytes: must be greater than 0");
        check(&format!("{base}?sinceTime=now"), "sinceTime: must be an RFC 3339 time");
        check(
            &format!("{base}?sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z"),
            "sinceSeconds: at most one of sinceTime or sinceSeconds may be specified",
        );
    }

    #[test]
    fn escapes() {
        assert_eq!(decode("a%2Fb%"), "a/b%");
        assert_eq!(decode("%zz%e9"), "%zz\u{fffd}");
        assert_eq!(decode("é%2"), "é%2");
    }
}
