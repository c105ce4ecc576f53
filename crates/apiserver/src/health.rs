//! /livez, /readyz and /healthz: named checks, all of them or one, with upstream's texts.
//! Liveness never depends on the store: an outage there is no reason to be restarted.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use api_types::options::Query;
use http::{Response, StatusCode, header};

use crate::{
    codec::body::{self, Body},
    server::Server,
};

const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// What the checks look at, besides the server's parts.
#[derive(Debug, Default)]
pub struct Health {
    /// The objects that stand in every cluster have been written.
    pub is_bootstrapped: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Ping,
    Log,
    Etcd,
    EtcdReadiness,
    InformerSync,
    BootstrapRoles,
    Shutdown,
}

impl Check {
    const fn name(self) -> &'static str {
        match self {
            Check::Ping => "ping",
            Check::Log => "log",
            Check::Etcd => "etcd",
            Check::EtcdReadiness => "etcd-readiness",
            Check::InformerSync => "informer-sync",
            Check::BootstrapRoles => "poststarthook/rbac/bootstrap-roles",
            Check::Shutdown => "shutdown",
        }
    }
}

/// Which of the three paths, with its checks in the order printed.
fn checks(root: &str) -> Option<(&'static str, &'static [Check])> {
    use Check::{BootstrapRoles, Etcd, EtcdReadiness, InformerSync, Log, Ping, Shutdown};
    Some(match root {
        "livez" => ("livez", &[Ping, Log]),
        "readyz" => ("readyz", &[Ping, Log, Etcd, EtcdReadiness, InformerSync, BootstrapRoles, Shutdown]),
        "healthz" => ("healthz", &[Ping, Log, Etcd, BootstrapRoles]),
        _ => return None,
    })
}

/// Answers a health path; `None` for any other.
pub async fn answer(server: &Server, path: &str, query: &Query) -> Option<Response<Body>> {
    let path = path.trim_matches('/');
    let (root, one) = path.split_once('/').unwrap_or((path, ""));
    let (name, checks) = checks(root)?;
    if !one.is_empty() {
        let check = checks.iter().find(|check| check.name() == one)?;
        return Some(match run(server, *check).await {
            Ok(()) => text(StatusCode::OK, "ok".to_owned()),
            Err(why) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {why}\n")),
        });
    }
    let mut results = Vec::new();
    for check in checks {
        results.push((check.name(), run(server, *check).await));
    }
    let excluded: BTreeSet<&str> = query.all("exclude").collect();
    let (status, report) = report(name, &results, &excluded, query.flag("verbose") == Some(true));
    Some(text(status, report))
}

async fn run(server: &Server, check: Check) -> Result<(), String> {
    let require = |holds: bool, why: &str| if holds { Ok(()) } else { Err(why.to_owned()) };
    match check {
        Check::Ping | Check::Log => Ok(()),
        Check::Etcd | Check::EtcdReadiness => {
            match tokio::time::timeout(STORE_TIMEOUT, server.cache.catch_up()).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("no answer in time".to_owned()),
            }
        }
        Check::InformerSync => require(server.cache.is_loaded(), "the watch cache is not loaded"),
        Check::BootstrapRoles => require(server.health.is_bootstrapped.load(Ordering::Acquire), "not finished"),
        Check::Shutdown => require(!server.shutdown.is_cancelled(), "process is shutting down"),
    }
}

fn report(
    name: &str,
    results: &[(&str, Result<(), String>)],
    excluded: &BTreeSet<&str>,
    is_verbose: bool,
) -> (StatusCode, String) {
    let mut lines = String::new();
    let mut is_healthy = true;
    for (check, result) in results {
        match result {
            _ if excluded.contains(check) => lines.push_str(&format!("[+]{check} excluded: ok\n")),
            Ok(()) => lines.push_str(&format!("[+]{check} ok\n")),
            Err(_) => {
                is_healthy = false;
                lines.push_str(&format!("[-]{check} failed: reason withheld\n"));
            }
        }
    }
    for unknown in excluded.iter().filter(|check| !results.iter().any(|(name, _)| name == *check)) {
        lines.push_str(&format!("warn: some health checks cannot be excluded: no matches for {unknown:?}\n"));
    }
    match (is_healthy, is_verbose) {
        (true, false) => (StatusCode::OK, "ok".to_owned()),
        (true, true) => (StatusCode::OK, format!("{lines}{name} check passed\n")),
        (false, _) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}{name} check failed\n")),
    }
}

fn text(status: StatusCode, text: String) -> Response<Body> {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
        .header("X-Content-Type-Options", "nosniff")
        .body(body::full(text))
        .expect("fixed header names and values")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(etcd: Result<(), String>, excluded: &[&str], is_verbose: bool, code: u16, expected: &str) {
        let results = [("ping", Ok(())), ("etcd", etcd)];
        let (status, text) = report("readyz", &results, &excluded.iter().copied().collect(), is_verbose);
        assert_eq!((status.as_u16(), text.as_str()), (code, expected));
    }

    #[test]
    fn reports_are_worded_as_upstream() {
        let down = || Err("down".to_owned());
        check(Ok(()), &[], false, 200, "ok");
        check(Ok(()), &[], true, 200, "[+]ping ok\n[+]etcd ok\nreadyz check passed\n");
        check(down(), &[], false, 500, "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n");
        check(down(), &["etcd"], true, 200, "[+]ping ok\n[+]etcd excluded: ok\nreadyz check passed\n");
    }
}
