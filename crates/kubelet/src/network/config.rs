//! CNI's files and answers: which configuration is used, what a plugin is given, what its answer means. Pure but for the
//! reading of the configuration directory.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::NetworkError;

/// Spoken by every plugin that Debian 12 ships.
const CNI_VERSION: &str = "0.4.0";
/// The name of the kubelet's own network.
const OWN_NETWORK: &str = "coxswain";

/// A network: plugins that run one after another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct List {
    pub name: String,
    pub version: String,
    pub plugins: Vec<Value>,
}

/// A port of the node that leads to a port of the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    pub host_port: i32,
    pub container_port: i32,
    /// Lower case.
    pub protocol: String,
    pub host_ip: String,
}

impl List {
    /// What plugin `index` reads from its standard input.
    pub fn plugin_input(&self, index: usize, ports: &[PortMapping], previous: Option<Value>) -> Value {
        let mut input = self.plugins[index].clone();
        input["name"] = json!(self.name);
        input["cniVersion"] = json!(self.version);
        if let Some(previous) = previous {
            input["prevResult"] = previous;
        }
        let wants_ports = input["capabilities"]["portMappings"].as_bool().unwrap_or_default();
        if wants_ports && !ports.is_empty() {
            input["runtimeConfig"] =
                json!({"portMappings": ports.iter().map(PortMapping::to_json).collect::<Vec<_>>()});
        }
        input
    }
}

/// The first configuration of a directory in the order of file names; `None` if it has none or does not exist.
pub fn first_in(dir: &Path) -> Result<Option<List>, NetworkError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(NetworkError::File { path: dir.to_owned(), source }),
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| matches!(path.extension().and_then(|text| text.to_str()), Some("conf" | "conflist" | "json")));
    paths.sort();
    let Some(path) = paths.into_iter().next() else { return Ok(None) };
    let bytes = fs::read(&path).map_err(|source| NetworkError::File { path: path.clone(), source })?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|source| NetworkError::Config { path, source })?;
    Ok(Some(parse(value)))
}

/// A list, or a single plugin's configuration as a list of one.
fn parse(value: Value) -> List {
    let text = |key: &str, default: &str| value[key].as_str().unwrap_or(default).to_owned();
    let plugins = match &value["plugins"] {
        Value::Array(plugins) => plugins.clone(),
        _ => vec![value.clone()],
    };
    List { name: text("name", "default"), version: text("cniVersion", CNI_VERSION), plugins }
}

/// The kubelet's own network: a bridge that is the pods' gateway. `firewall` lets the pods through where the forward
/// policy is DROP, as Docker sets it.
pub fn bridge(bridge: &str, pod_cidr: &str, addresses: &Path) -> List {
    let ipam = json!({
        "type": "host-local",
        "ranges": [[{"subnet": pod_cidr}]],
        "dataDir": addresses,
    });
    let plugins = vec![
        json!({"type": "bridge", "bridge": bridge, "isGateway": true, "isDefaultGateway": true, "hairpinMode": true, "ipMasq": false, "ipam": ipam}),
        json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}),
        json!({"type": "firewall", "backend": "iptables"}),
    ];
    List { name: OWN_NETWORK.to_owned(), version: CNI_VERSION.to_owned(), plugins }
}

pub fn loopback() -> List {
    let plugins = vec![json!({"type": "loopback"})];
    List { name: "cni-loopback".to_owned(), version: CNI_VERSION.to_owned(), plugins }
}

/// The addresses in a plugin's result, without their prefix lengths.
pub fn ips(result: &Value) -> Vec<IpAddr> {
    let entries = result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
    let addresses = entries.iter().filter_map(|entry| entry["address"].as_str());
    addresses.filter_map(|address| address.split('/').next()?.parse().ok()).collect()
}

/// A plugin tells its error on standard output, as JSON; a crash leaves only standard error.
pub fn error_message(stdout: &[u8], stderr: &[u8]) -> String {
    let told: Option<Value> = serde_json::from_slice(stdout).ok();
    let part = |key: &str| told.as_ref().and_then(|told| told[key].as_str()).unwrap_or_default().to_owned();
    match (part("msg"), part("details")) {
        (message, details) if !message.is_empty() && !details.is_empty() => format!("{message}; {details}"),
        (message, _) if !message.is_empty() => message,
        _ => String::from_utf8_lossy(stderr).trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_gets_the_previous_result_and_what_it_is_capable_of() {
        let list = bridge("cni0", "10.244.1.0/24", Path::new("/x"));
        let port =
            PortMapping { host_port: 80, container_port: 8080, protocol: "tcp".to_owned(), host_ip: String::new() };
        let input = list.plugin_input(0, std::slice::from_ref(&port), None);
        assert_eq!((input["name"].as_str(), input.get("runtimeConfig")), (Some("coxswain"), None));
        let input = list.plugin_input(1, std::slice::from_ref(&port), Some(json!({"ips": []})));
        assert_eq!(input["runtimeConfig"]["portMappings"][0]["hostPort"], 80);
        assert_eq!(input["prevResult"], json!({"ips": []}));
        assert_eq!(list.plugin_input(1, &[], None).get("runtimeConfig"), None);
    }

    #[test]
    fn addresses_and_errors() {
        let result = json!({"ips": [{"address": "10.244.0.5/24"}, {"address": "fd00::5/64"}]});
        assert_eq!(ips(&result), ["10.244.0.5".parse::<IpAddr>().unwrap(), "fd00::5".parse().unwrap()]);
        assert_eq!(error_message(br#"{"code": 7, "msg": "no", "details": "why"}"#, b""), "no; why");
        assert_eq!(error_message(b"", b"panic\n"), "panic");
    }

    #[test]
    fn the_first_file_by_name_wins_and_may_hold_one_plugin() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(first_in(&dir.path().join("absent")).unwrap(), None);
        fs::write(dir.path().join("20-b.conf"), r#"{"name": "b", "type": "ptp"}"#).unwrap();
        fs::write(dir.path().join("10-a.txt"), "x").unwrap();
        let list = first_in(dir.path()).unwrap().unwrap();
        assert_eq!((list.name.as_str(), list.plugins.len()), ("b", 1));
        fs::write(dir.path().join("10-a.conflist"), r#"{"name": "a", "cniVersion": "1.0.0", "plugins": [{}, {}]}"#)
            .unwrap();
        let list = first_in(dir.path()).unwrap().unwrap();
        assert_eq!((list.name.as_str(), list.version.as_str(), list.plugins.len()), ("a", "1.0.0", 2));
    }
}
