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

/// What a check stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fact {
    /// This process answers.
    Process,
    /// The store answers.
    Store,
    /// The watch cache shows everything.
    Cache,
    /// The objects of every cluster are there.
    Bootstrap,
    /// The server has not been told to end.
    Serving,
}

/// Which paths ask for a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Everywhere,
    /// By `/livez` and `/healthz`.
    NotByReadyz,
    ByReadyz,
}

/// Upstream's checks in its order, each with what stands for it here. A hook of a part that this server does
/// not have by that name holds when the part that does its work is ready.
const CHECKS: [(&str, Fact, Asked); 38] = {
    use Asked::{ByReadyz, Everywhere, NotByReadyz};
    use Fact::{Bootstrap, Cache, Process, Serving, Store};
    [
        ("ping", Process, Everywhere),
        ("log", Process, Everywhere),
        ("loopback-serving-certificate", Process, NotByReadyz),
        ("etcd", Store, Everywhere),
        ("etcd-readiness", Store, ByReadyz),
        ("informer-sync", Cache, ByReadyz),
        ("poststarthook/start-apiserver-admission-initializer", Process, Everywhere),
        ("poststarthook/generic-apiserver-start-informers", Cache, Everywhere),
        ("poststarthook/priority-and-fairness-config-consumer", Cache, Everywhere),
        ("poststarthook/priority-and-fairness-filter", Process, Everywhere),
        ("poststarthook/storage-object-count-tracker-hook", Cache, Everywhere),
        ("poststarthook/start-apiextensions-informers", Cache, Everywhere),
        ("poststarthook/start-apiextensions-controllers", Cache, Everywhere),
        ("poststarthook/crd-informer-synced", Cache, Everywhere),
        ("poststarthook/start-system-namespaces-controller", Bootstrap, Everywhere),
        ("poststarthook/peer-endpoint-reconciler-controller", Bootstrap, Everywhere),
        ("poststarthook/start-cluster-authentication-info-controller", Bootstrap, Everywhere),
        ("poststarthook/start-kube-apiserver-identity-lease-controller", Bootstrap, Everywhere),
        ("poststarthook/start-kube-apiserver-identity-lease-garbage-collector", Bootstrap, Everywhere),
        ("poststarthook/storage-readiness", Store, Everywhere),
        ("poststarthook/start-legacy-token-tracking-controller", Bootstrap, Everywhere),
        ("poststarthook/start-service-ip-repair-controllers", Bootstrap, Everywhere),
        ("poststarthook/rbac/bootstrap-roles", Bootstrap, Everywhere),
        ("poststarthook/scheduling/bootstrap-system-priority-classes", Bootstrap, Everywhere),
        ("poststarthook/priority-and-fairness-config-producer", Bootstrap, Everywhere),
        ("poststarthook/bootstrap-controller", Bootstrap, Everywhere),
        ("poststarthook/start-kubernetes-service-cidr-controller", Bootstrap, Everywhere),
        ("poststarthook/start-kube-aggregator-informers", Cache, Everywhere),
        ("poststarthook/apiservice-status-local-available-controller", Cache, Everywhere),
        ("poststarthook/apiservice-status-remote-available-controller", Cache, Everywhere),
        ("poststarthook/apiservice-registration-controller", Cache, Everywhere),
        ("poststarthook/apiservice-wait-for-first-sync", Cache, Everywhere),
        ("poststarthook/apiservice-discovery-controller", Cache, Everywhere),
        ("poststarthook/kube-apiserver-autoregistration", Cache, Everywhere),
        ("autoregister-completion", Cache, Everywhere),
        ("poststarthook/apiservice-openapi-controller", Process, Everywhere),
        ("poststarthook/apiservice-openapiv3-controller", Process, Everywhere),
        ("shutdown", Serving, ByReadyz),
    ]
};

/// The checks of one of the three paths. Liveness asks for nothing but the process: to be restarted
/// helps against no other failure.
fn checks(root: &str) -> Option<impl Iterator<Item = (&'static str, Fact)>> {
    let wants: fn(Fact, Asked) -> bool = match root {
        "livez" => |fact, asked| asked != Asked::ByReadyz && fact == Fact::Process,
        "healthz" => |_, asked| asked != Asked::ByReadyz,
        "readyz" => |_, asked| asked != Asked::NotByReadyz,
        _ => return None,
    };
    let wanted = CHECKS.into_iter().filter(move |(_, fact, asked)| wants(*fact, *asked));
    Some(wanted.map(|(name, fact, _)| (name, fact)))
}

/// Answers a health path; `None` for any other.
pub async fn answer(server: &Server, path: &str, query: &Query) -> Option<Response<Body>> {
    let path = path.strip_prefix('/')?;
    let (root, one) = path.split_once('/').map_or((path, None), |(root, one)| (root, Some(one)));
    let mut checks = checks(root)?;
    if let Some(one) = one {
        let (_, fact) = checks.find(|(name, _)| *name == one)?;
        let store = if fact == Fact::Store { store_answers(server).await } else { Ok(()) };
        return Some(match holds(server, fact, &store) {
            Ok(()) => text(StatusCode::OK, "ok".to_owned()),
            Err(why) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {why}\n")),
        });
    }
    let mut excluded: BTreeSet<&str> = query.all("exclude").collect();
    let wanted: Vec<_> = checks.map(|(name, fact)| (name, (!excluded.remove(name)).then_some(fact))).collect();
    let asks_store = wanted.iter().any(|(_, fact)| *fact == Some(Fact::Store));
    let store = if asks_store { store_answers(server).await } else { Ok(()) };
    let verdict = |fact: Fact| if holds(server, fact, &store).is_ok() { Verdict::Holds } else { Verdict::Fails };
    let results: Vec<_> =
        wanted.into_iter().map(|(name, fact)| (name, fact.map_or(Verdict::Excluded, verdict))).collect();
    let (status, report) = report(root, &results, &excluded, query.get("verbose").is_some());
    Some(text(status, report))
}

async fn store_answers(server: &Server) -> Result<(), String> {
    match tokio::time::timeout(STORE_TIMEOUT, server.cache.catch_up()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

fn holds(server: &Server, fact: Fact, store: &Result<(), String>) -> Result<(), String> {
    let require = |holds: bool, why: &str| if holds { Ok(()) } else { Err(why.to_owned()) };
    match fact {
        Fact::Process => Ok(()),
        Fact::Store => store.clone(),
        Fact::Cache => require(server.cache.is_loaded(), "the watch cache is not loaded"),
        Fact::Bootstrap => require(server.health.is_bootstrapped.load(Ordering::Acquire), "not finished"),
        Fact::Serving => require(!server.terminating.is_cancelled(), "process is shutting down"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Holds,
    Fails,
    Excluded,
}

/// `unknown`: what was to be excluded and is no check.
fn report(path: &str, results: &[(&str, Verdict)], unknown: &BTreeSet<&str>, is_verbose: bool) -> (StatusCode, String) {
    let mut lines = String::new();
    for (check, verdict) in results {
        lines.push_str(&match verdict {
            Verdict::Excluded => format!("[+]{check} excluded: ok\n"),
            Verdict::Holds => format!("[+]{check} ok\n"),
            Verdict::Fails => format!("[-]{check} failed: reason withheld\n"),
        });
    }
    if !unknown.is_empty() {
        let quoted: Vec<String> = unknown.iter().map(|check| format!("{check:?}")).collect();
        let names = quoted.join(",");
        lines.push_str(&format!("warn: some health checks cannot be excluded: no matches for {names}\n"));
    }
    match (results.iter().all(|(_, verdict)| *verdict != Verdict::Fails), is_verbose) {
        (true, false) => (StatusCode::OK, "ok".to_owned()),
        (true, true) => (StatusCode::OK, format!("{lines}{path} check passed\n")),
        (false, _) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}{path} check failed\n")),
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

    fn check(etcd: Verdict, unknown: &[&str], is_verbose: bool, code: u16, expected: &str) {
        let results = [("ping", Verdict::Holds), ("etcd", etcd)];
        let (status, text) = report("readyz", &results, &unknown.iter().copied().collect(), is_verbose);
        assert_eq!((status.as_u16(), text.as_str()), (code, expected));
    }

    #[test]
    fn reports_are_worded_as_upstream() {
        let down = Verdict::Fails;
        check(Verdict::Holds, &[], false, 200, "ok");
        check(Verdict::Holds, &[], true, 200, "[+]ping ok\n[+]etcd ok\nreadyz check passed\n");
        check(down, &[], false, 500, "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n");
        check(Verdict::Excluded, &[], true, 200, "[+]ping ok\n[+]etcd excluded: ok\nreadyz check passed\n");
        let unknown = "warn: some health checks cannot be excluded: no matches for \"a\",\"b\"\n";
        let all = format!("[+]ping ok\n[+]etcd ok\n{unknown}readyz check passed\n");
        check(Verdict::Holds, &["b", "a"], true, 200, &all);
    }

    #[test]
    fn liveness_depends_on_nothing_else() {
        let names = |root: &str| checks(root).into_iter().flatten().map(|(name, _)| name).collect::<Vec<_>>();
        assert!(checks("livez").into_iter().flatten().all(|(_, fact)| fact == Fact::Process));
        assert!(!names("livez").contains(&"etcd") && names("readyz").contains(&"etcd"));
        assert!(names("healthz").contains(&"etcd") && !names("healthz").contains(&"shutdown"));
        assert!(checks("metrics").is_none());
    }
}
