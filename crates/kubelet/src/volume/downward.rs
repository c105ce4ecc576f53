//! Fields of a pod that its containers may read: as variables and as files. Pure.
//!
//! Source: pkg/fieldpath.

use std::{collections::BTreeMap, net::IpAddr};

use api_types::{Object, k8s::core::Pod};

/// The value of a field path, or why there is none. `ips` and `node_ips` are those known at this moment.
pub fn field(pod: &Pod, path: &str, ips: &[IpAddr], node_ips: &[IpAddr]) -> Result<String, String> {
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let map = match map {
            "metadata.labels" => &pod.meta().labels,
            "metadata.annotations" => &pod.meta().annotations,
            _ => return Err(format!("fieldPath \"{path}\" does not support subscript")),
        };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let spec = pod.spec.as_ref();
    let joined = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    let first = |ips: &[IpAddr]| ips.first().map(IpAddr::to_string).unwrap_or_default();
    Ok(match path {
        "metadata.name" => pod.name().to_owned(),
        "metadata.namespace" => pod.namespace().to_owned(),
        "metadata.uid" => pod.uid().to_owned(),
        "metadata.labels" => lines(pod.meta().labels.as_ref()),
        "metadata.annotations" => lines(pod.meta().annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" => first(node_ips),
        "status.hostIPs" => joined(node_ips),
        "status.podIP" => first(ips),
        "status.podIPs" => joined(ips),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// `key="value"` a line, in the order of the keys, values quoted as Go quotes them.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quoted(value))).collect();
    lines.join("\n")
}

fn quoted(value: &str) -> String {
    let mut text = String::from('"');
    for character in value.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            control if control.is_control() && (control as u32) < 0x80 => {
                text.push_str(&format!("\\x{:02x}", control as u32));
            }
            other => text.push(other),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": {"b": "2", "a": "x\"y\n"}, "annotations": {"k/v": "1"}},
            "spec": {"containers": [], "nodeName": "n", "serviceAccountName": "sa"},
        }))
        .unwrap();
        let ips = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let node_ips = ["192.0.2.1".parse().unwrap()];
        let check = |path: &str, value: &str| assert_eq!(field(&pod, path, &ips, &node_ips).unwrap(), value, "{path}");
        check("metadata.name", "p");
        check("metadata.labels", "a=\"x\\\"y\\n\"\nb=\"2\"");
        check("metadata.labels['b']", "2");
        check("metadata.annotations['k/v']", "1");
        check("metadata.annotations['none']", "");
        check("status.podIP", "10.0.0.1");
        check("status.podIPs", "10.0.0.1,fd00::1");
        check("status.hostIP", "192.0.2.1");
        check("spec.nodeName", "n");
        assert!(field(&pod, "spec.containers", &ips, &node_ips).is_err());
    }
}
