//! URI and method -> what is asked of which object. Pure; the same reading serves
//! authorisation, dispatch, metrics and audit, so they cannot disagree.

use std::time::Duration;

use api_types::{ApiError, Key, options::Query};
use http::{Method, Uri};

/// A request line, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// In RBAC's words (`get`, `list`, `deletecollection`, …); the lower-case method for a non-resource path.
    pub verb: &'static str,
    /// Decoded, as sent.
    pub path: String,
    pub query: Query,
    /// `None`: a non-resource path such as `/healthz` or `/apis`.
    pub target: Option<Target>,
}

/// The object or collection that a path names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    pub group: String,
    pub version: String,
    /// The plural name.
    pub resource: String,
    /// Empty for the object itself.
    pub subresource: String,
    /// The name is empty for a collection, the namespace for all of them or a cluster-scoped resource.
    pub key: Key,
    /// The path leads through a namespace to what lies in it.
    pub is_in_namespace: bool,
    /// What follows the subresource, with its leading slash, undecoded: the path to proxy.
    pub subpath: String,
    /// For authorisation: the name, or the one that a field selector `metadata.name=x` narrows a collection to.
    pub authorized_name: String,
}

impl Request {
    /// A watch or a stream.
    ///
    /// Source: `BasicLongRunningRequestCheck` and its use in the control plane.
    pub fn is_long_running(&self) -> bool {
        const SUBRESOURCES: [&str; 5] = ["attach", "exec", "proxy", "log", "portforward"];
        let Some(target) = &self.target else { return false };
        self.verb == "watch" || SUBRESOURCES.contains(&target.subresource.as_str())
    }
}

const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

/// Reads a request line.
///
/// Source: `NewRequestInfo` in apiserver/pkg/endpoints/request/requestinfo.go.
pub fn read(method: &Method, uri: &Uri) -> Request {
    let query = Query::parse(uri.query().unwrap_or_default());
    let path = percent_decoded(uri.path());
    match target(uri.path()) {
        Some((target, is_watch_path)) => {
            let (verb, target) = resource_verb(method, target, is_watch_path, &query);
            Request { verb, path, query, target: Some(target) }
        }
        None => Request { verb: path_verb(method), path, query, target: None },
    }
}

/// How long the request may take: what it says itself in `timeout`, at most the server's `max`.
///
/// Source: `WithRequestDeadline` in apiserver/pkg/endpoints/filters/request_deadline.go.
pub fn deadline(query: &Query, max: Duration) -> Result<Duration, ApiError> {
    let wished = match query.text("timeout") {
        "" => return Ok(max),
        // A time that has passed already is no wish.
        text => match text.strip_prefix('-') {
            Some(negative) => daemon::flags::duration(negative).map(|_| Duration::ZERO),
            None => daemon::flags::duration(text),
        },
    };
    let wished =
        wished.map_err(|why| ApiError::bad_request(format!("invalid timeout specified in the request URL - {why}")))?;
    Ok(if wished.is_zero() { max } else { wished.min(max) })
}

fn path_verb(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "get",
        "HEAD" => "head",
        "POST" => "post",
        "PUT" => "put",
        "PATCH" => "patch",
        "DELETE" => "delete",
        "OPTIONS" => "options",
        "CONNECT" => "connect",
        _ => "",
    }
}

/// The target, and whether the deprecated `/watch/` stood before it.
fn target(path: &str) -> Option<(Target, bool)> {
    let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let mut target = Target::default();
    let mut next = 1;
    match parts.first().copied() {
        Some("api") if parts.len() >= 3 => {}
        Some("apis") if parts.len() >= 4 => {
            target.group = percent_decoded(parts[1]);
            next = 2;
        }
        _ => return None,
    }
    target.version = percent_decoded(parts[next]);
    next += 1;
    let is_watch_path = parts[next] == "watch" && parts.len() > next + 1;
    next += usize::from(is_watch_path);
    parts.drain(..next);
    if parts[0] == "namespaces" && parts.len() > 1 {
        target.key.namespace = percent_decoded(parts[1]);
        if parts.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&parts[2]) {
            parts.drain(..2);
            target.is_in_namespace = true;
        }
    }
    target.resource = percent_decoded(parts[0]);
    target.key.name = parts.get(1).map(|name| percent_decoded(name)).unwrap_or_default();
    target.subresource = parts.get(2).map(|name| percent_decoded(name)).unwrap_or_default();
    if parts.len() > 3 {
        target.subpath = format!("/{}", parts[3..].join("/"));
        if path.ends_with('/') && !target.subpath.ends_with('/') {
            target.subpath.push('/');
        }
    } else if parts.len() == 3 && path.ends_with('/') {
        target.subpath = "/".to_owned();
    }
    Some((target, is_watch_path))
}

fn resource_verb(method: &Method, mut target: Target, is_watch_path: bool, query: &Query) -> (&'static str, Target) {
    let has_name = !target.key.name.is_empty();
    let verb = match method.as_str() {
        _ if is_watch_path => "watch",
        "POST" => "create",
        "GET" | "HEAD" if has_name => "get",
        "GET" | "HEAD" if query.flag("watch") == Some(true) => "watch",
        "GET" | "HEAD" => "list",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" if has_name => "delete",
        "DELETE" => "deletecollection",
        _ => "",
    };
    target.authorized_name = target.key.name.clone();
    if !has_name && matches!(verb, "list" | "watch" | "deletecollection") {
        target.authorized_name = name_selected(query.text("fieldSelector")).unwrap_or_default();
    }
    (verb, target)
}

/// `x` of a field selector that requires `metadata.name=x`.
fn name_selected(selector: &str) -> Option<String> {
    let name = selector.split(',').find_map(|term| {
        let rest = term.trim().strip_prefix("metadata.name=")?;
        Some(rest.strip_prefix('=').unwrap_or(rest))
    })?;
    let is_path_segment = !name.is_empty() && !matches!(name, "." | "..") && !name.contains(['/', '%']);
    is_path_segment.then(|| name.to_owned())
}

/// Percent signs that introduce no byte stand for themselves.
fn percent_decoded(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let byte = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `expected`: verb group/version resource[/subresource] namespace/name subpath, or verb and path.
    fn check(method: &str, uri: &str, expected: &str) {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let request = read(&method, &uri.parse().unwrap());
        let got = match &request.target {
            None => format!("{} {}", request.verb, request.path),
            Some(t) => {
                let slash = if t.subresource.is_empty() { "" } else { "/" };
                let text = format!(
                    "{} {}/{} {}{slash}{} {} {}",
                    request.verb, t.group, t.version, t.resource, t.subresource, t.key, t.subpath
                );
                text.trim_end().to_owned()
            }
        };
        assert_eq!(got, expected, "{uri}");
    }

    #[test]
    fn non_resource_paths() {
        check("GET", "/", "get /");
        check("GET", "/healthz/etcd", "get /healthz/etcd");
        check("GET", "/api", "get /api");
        check("GET", "/api/v1", "get /api/v1");
        check("GET", "/apis/apps", "get /apis/apps");
        check("GET", "/apis/apps/v1", "get /apis/apps/v1");
        check("GET", "/apis/apps/v1/", "get /apis/apps/v1/");
        check("HEAD", "/version", "head /version");
    }

    #[test]
    fn resources() {
        check("GET", "/api/v1/nodes", "list /v1 nodes");
        check("GET", "/api/v1/nodes?watch=1", "watch /v1 nodes");
        check("GET", "/api/v1/nodes?watch=false", "list /v1 nodes");
        check("GET", "/api/v1/nodes/n%2F1", "get /v1 nodes n/1");
        check("GET", "/api/v1/watch/nodes", "watch /v1 nodes");
        check("GET", "/api/v1/watch/namespaces/a/pods/p", "watch /v1 pods a/p");
        check("POST", "/api/v1/namespaces", "create /v1 namespaces");
        check("GET", "/api/v1/namespaces/a", "get /v1 namespaces a/a");
        check("PUT", "/api/v1/namespaces/a/finalize", "update /v1 namespaces/finalize a/a");
        check("PATCH", "/apis/apps/v1/namespaces/a/deployments/d/scale", "patch apps/v1 deployments/scale a/d");
        check("DELETE", "/apis/apps/v1/namespaces/a/deployments", "deletecollection apps/v1 deployments a/");
        check("DELETE", "/apis/apps/v1/namespaces/a/deployments/d", "delete apps/v1 deployments a/d");
        check("GET", "/api/v1/namespaces/a/services/s:80/proxy/x/y", "get /v1 services/proxy a/s:80 /x/y");
        check("GET", "/api/v1/namespaces/a/services/s:80/proxy/", "get /v1 services/proxy a/s:80 /");
    }

    #[test]
    fn a_client_may_be_less_patient_than_the_server() {
        let max = Duration::from_secs(60);
        for (query, expected) in [
            ("", Ok(60)),
            ("timeout=5s", Ok(5)),
            ("timeout=1m30s", Ok(60)),
            ("timeout=0", Ok(60)),
            ("timeout=-1s", Ok(60)),
            ("timeout=", Ok(60)),
            ("timeout=foo", Err(400)),
            ("timeout=5", Err(400)),
        ] {
            let deadline = deadline(&Query::parse(query), max);
            let deadline = deadline.map(|deadline| deadline.as_secs()).map_err(|refusal| refusal.code());
            assert_eq!(deadline, expected, "{query}");
        }
    }

    #[test]
    fn a_selector_by_name_narrows_what_is_authorized() {
        for (uri, expected) in [
            ("/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Dx", "x"),
            ("/api/v1/namespaces/a/pods?fieldSelector=a%3Db,metadata.name%3D%3Dx", "x"),
            ("/api/v1/namespaces/a/pods?fieldSelector=metadata.name!%3Dx", ""),
            ("/api/v1/namespaces/a/pods/p?fieldSelector=metadata.name%3Dx", "p"),
        ] {
            let target = read(&Method::GET, &uri.parse().unwrap()).target.unwrap();
            assert_eq!(target.authorized_name, expected);
        }
    }
}
