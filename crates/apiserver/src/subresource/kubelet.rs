//! Where on which kubelet a request for a pod's logs or streams leads. Pure.
//!
//! Source: `LogLocation` and its neighbours in kubernetes/pkg/registry/core/pod/strategy.go.

use std::net::IpAddr;

use api_types::{ApiError, FieldError, options::Query};
use serde_json::Value;

/// Upstream's kubelet port, for a node that does not report one.
const KUBELET_PORT: u16 = 10250;
/// What the kubelet calls the streams of an exec or attach.
const STREAMS: [(&str, &str); 4] = [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];

/// A kubelet's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubelet {
    pub ip: IpAddr,
    pub port: u16,
}

/// The node's first address of the preferred types. Names are passed over: what a name stands for
/// could change between the check of an address and its use.
pub fn of_node(node: &Value, preferred: &[String]) -> Result<Kubelet, ApiError> {
    let addresses = node["status"]["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = preferred.iter().find_map(|wanted| {
        let mut typed = addresses.iter().filter(|address| address["type"] == wanted.as_str());
        typed.find_map(|address| address["address"].as_str()?.parse().ok())
    });
    let name = node["metadata"]["name"].as_str().unwrap_or_default();
    let ip = found.ok_or_else(|| {
        ApiError::internal(format!(
            "no preferred addresses found; node {name:?} reports no IP of the types {preferred:?}"
        ))
    })?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0).unwrap_or(KUBELET_PORT);
    Ok(Kubelet { ip, port })
}

/// The node that a pod is on; streams need one.
pub fn node_of(pod: &Value) -> Result<&str, ApiError> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty());
    node.ok_or_else(|| ApiError::bad_request(format!("pod {name} does not have a host assigned")))
}

/// `/containerLogs/...?...`
pub fn log_path(pod: &Value, query: &Query) -> Result<String, ApiError> {
    let errors = log_errors(query);
    if !errors.is_empty() {
        return Err(ApiError::invalid("", "PodLogOptions", name(pod), &errors));
    }
    let container = container(pod, query.text("container"))?;
    let flags = ["follow", "previous", "timestamps"].iter().filter(|flag| query.flag(flag) == Some(true));
    let mut parameters: Vec<(&str, &str)> = flags.map(|flag| (*flag, "true")).collect();
    for parameter in ["sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream"] {
        if let Some(value) = query.get(parameter).filter(|value| !value.is_empty()) {
            parameters.push((parameter, value));
        }
    }
    Ok(path(&["containerLogs", namespace(pod), name(pod), container], &parameters))
}

/// Source: `ValidatePodLogOptions` in kubernetes/pkg/apis/core/validation.
fn log_errors(query: &Query) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (field, min, why) in [
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than 0"),
        ("sinceSeconds", 1, "must be greater than 0"),
    ] {
        let Some(text) = query.get(field) else { continue };
        match text.parse::<i64>() {
            Ok(number) if number >= min => {}
            Ok(number) => errors.push(FieldError::invalid(field, number, why)),
            Err(_) => errors.push(FieldError::invalid(field, text, "must be a number")),
        }
    }
    if query.get("sinceSeconds").is_some() && query.get("sinceTime").is_some() {
        errors.push(FieldError::forbidden("", "at most one of `sinceTime` or `sinceSeconds` may be specified"));
    }
    errors
}

/// `/exec/...` or `/attach/...`
pub fn stream_path(verb: &str, pod: &Value, query: &Query) -> Result<String, ApiError> {
    let container = container(pod, query.text("container"))?;
    if !STREAMS[..3].iter().any(|(ours, _)| query.flag(ours) == Some(true)) {
        return Err(ApiError::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    let open = STREAMS.iter().filter(|(ours, _)| query.flag(ours) == Some(true));
    let mut parameters: Vec<(&str, &str)> = open.map(|(_, theirs)| (*theirs, "1")).collect();
    if verb == "exec" {
        parameters.extend(query.all("command").map(|word| ("command", word)));
        if query.text("command").is_empty() {
            return Err(ApiError::bad_request("you must specify at least one command"));
        }
    }
    Ok(path(&[verb, namespace(pod), name(pod), container], &parameters))
}

/// `/portForward/...`
pub fn forward_path(pod: &Value, query: &Query) -> String {
    let ports: Vec<&str> = query.all("ports").flat_map(|ports| ports.split(',')).collect();
    let joined = ports.join(",");
    let parameters: &[(&str, &str)] = if ports.is_empty() { &[] } else { &[("port", &joined)] };
    path(&["portForward", namespace(pod), name(pod)], parameters)
}

/// The only container, or the named one if the pod has it.
fn container<'a>(pod: &'a Value, wanted: &'a str) -> Result<&'a str, ApiError> {
    let names_in = |list: &str| -> Vec<&'a str> {
        let containers = pod["spec"][list].as_array().map(Vec::as_slice).unwrap_or_default();
        containers.iter().filter_map(|container| container["name"].as_str()).collect()
    };
    let every: Vec<&str> =
        ["initContainers", "containers", "ephemeralContainers"].iter().flat_map(|list| names_in(list)).collect();
    if !wanted.is_empty() {
        let why = || ApiError::bad_request(format!("container {wanted} is not valid for pod {}", name(pod)));
        return every.contains(&wanted).then_some(wanted).ok_or_else(why);
    }
    match names_in("containers").as_slice() {
        [only] => Ok(only),
        [] => Err(ApiError::bad_request(format!("a container name must be specified for pod {}", name(pod)))),
        _ => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {}, choose one of: [{}]",
            name(pod),
            every.join(" ")
        ))),
    }
}

fn name(pod: &Value) -> &str {
    pod["metadata"]["name"].as_str().unwrap_or_default()
}
fn namespace(pod: &Value) -> &str {
    pod["metadata"]["namespace"].as_str().unwrap_or_default()
}

fn path(segments: &[&str], parameters: &[(&str, &str)]) -> String {
    let mut path = String::new();
    for segment in segments {
        path.push('/');
        path.push_str(&escaped(segment));
    }
    for (at, (key, value)) in parameters.iter().enumerate() {
        path.push(if at == 0 { '?' } else { '&' });
        path.push_str(key);
        path.push('=');
        path.push_str(&escaped(value));
    }
    path
}

/// Everything but unreserved characters as `%XX`.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(containers: &[&str]) -> Value {
        let containers: Vec<Value> = containers.iter().map(|name| json!({"name": name})).collect();
        json!({
            "metadata": {"namespace": "ns", "name": "p"},
            "spec": {"containers": containers, "initContainers": [{"name": "init"}]},
        })
    }

    fn check(got: Result<String, ApiError>, expected: &str) {
        assert_eq!(got.unwrap_or_else(|refusal| refusal.message().to_owned()), expected);
    }

    #[test]
    fn logs() {
        let one = pod(&["c"]);
        check(log_path(&one, &Query::parse("")), "/containerLogs/ns/p/c");
        check(
            log_path(&one, &Query::parse("follow=true&tailLines=5&previous=false&timestamps=1&container=init")),
            "/containerLogs/ns/p/init?follow=true&timestamps=true&tailLines=5",
        );
        check(
            log_path(&one, &Query::parse("sinceTime=2026-01-01T00:00:00Z")),
            "/containerLogs/ns/p/c?sinceTime=2026-01-01T00%3A00%3A00Z",
        );
        check(log_path(&one, &Query::parse("container=x")), "container x is not valid for pod p");
        check(
            log_path(&pod(&["a", "b"]), &Query::parse("")),
            "a container name must be specified for pod p, choose one of: [init a b]",
        );
        check(
            log_path(&one, &Query::parse("tailLines=-1")),
            "PodLogOptions \"p\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0",
        );
    }

    #[test]
    fn streams() {
        let one = pod(&["c"]);
        check(
            stream_path(
                "exec",
                &one,
                &Query::parse("stdin=true&stdout=true&tty=true&command=sh&command=-c&command=a%26b"),
            ),
            "/exec/ns/p/c?input=1&output=1&tty=1&command=sh&command=-c&command=a%26b",
        );
        check(stream_path("attach", &one, &Query::parse("stderr=1")), "/attach/ns/p/c?error=1");
        check(stream_path("exec", &one, &Query::parse("stdout=1")), "you must specify at least one command");
        check(
            stream_path("exec", &one, &Query::parse("command=ls")),
            "you must specify at least 1 of stdin, stdout, stderr",
        );
        check(Ok(forward_path(&one, &Query::parse("ports=80&ports=443"))), "/portForward/ns/p?port=80%2C443");
        check(Ok(forward_path(&one, &Query::parse(""))), "/portForward/ns/p");
    }

    #[test]
    fn kubelets() {
        let types = ["Hostname", "InternalIP"].map(str::to_owned);
        let node = json!({"metadata": {"name": "n"}, "status": {
            "addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.1.0.4"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10251}},
        }});
        assert_eq!(
            of_node(&node, &types).expect("found"),
            Kubelet { ip: "10.1.0.4".parse().expect("ip"), port: 10251 }
        );
        assert_eq!(of_node(&json!({"metadata": {"name": "n"}}), &types).expect_err("none").code(), 500);
        assert_eq!(node_of(&pod(&["c"])).expect_err("unbound").message(), "pod p does not have a host assigned");
    }
}
