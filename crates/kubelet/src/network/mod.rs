//! The pods' network: CNI plugins, run as programs, connect a sandbox's network namespace. What a plugin answered is
//! kept in a file per sandbox, so that addresses survive the kubelet and every ADD gets its DEL.

pub mod config;

use std::{
    collections::BTreeSet,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, process::Command};

use crate::runtime::PodIdentity;
use config::PortMapping;

/// Name of the interface inside the pod.
const INTERFACE: &str = "eth0";
/// How long one plugin may take.
const PLUGIN_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The node has no network configuration yet.
    #[error("network plugin is not ready: cni config uninitialized")]
    NotReady,
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}: not a CNI configuration: {source}", path.display())]
    Config { path: PathBuf, source: serde_json::Error },
    #[error("CNI plugin {plugin} is in none of {searched:?}; install containernetworking-plugins or set --cni-bin-dir")]
    NoPlugin { plugin: String, searched: Vec<PathBuf> },
    #[error("plugin type=\"{plugin}\" failed ({command}): {message}")]
    Plugin { plugin: String, command: &'static str, message: String },
}

/// Where things are.
#[derive(Clone, Debug)]
pub struct Dirs {
    /// Searched in this order for plugins.
    pub bin: Vec<PathBuf>,
    /// Whoever provides the network puts a configuration here; it wins over the kubelet's own.
    pub conf: PathBuf,
    /// The kubelet's own state: results and address reservations.
    pub state: PathBuf,
}

/// The node's network as the kubelet drives it.
pub struct Network {
    dirs: Dirs,
    bridge: String,
    pod_cidr: RwLock<Option<String>>,
}

/// What is kept of a connected sandbox.
#[derive(Debug, Serialize, Deserialize)]
struct Connection {
    namespace: String,
    name: String,
    uid: String,
    netns: String,
    port_mappings: Vec<PortMapping>,
    /// What connected it also disconnects it, whatever the configuration is by then.
    list: Option<config::List>,
    /// Absent while the ADD is under way.
    result: Option<Value>,
}

/// One operation on one interface of one sandbox.
#[derive(Clone, Copy)]
struct Call<'a> {
    command: &'static str,
    sandbox_id: &'a str,
    interface: &'static str,
    connection: &'a Connection,
}

impl Network {
    pub fn new(dirs: Dirs, bridge: &str) -> Result<Self, NetworkError> {
        let results = dirs.state.join("results");
        fs::create_dir_all(&results).map_err(|source| NetworkError::File { path: results, source })?;
        Ok(Self { dirs, bridge: bridge.to_owned(), pod_cidr: RwLock::default() })
    }

    /// The node's share of the cluster's addresses, once the API says so.
    pub fn set_pod_cidr(&self, cidr: &str) {
        if !cidr.is_empty() {
            *self.pod_cidr.write() = Some(cidr.to_owned());
        }
    }

    /// Why pods cannot be connected; `None` if they can.
    pub fn unready_reason(&self) -> Option<String> {
        self.configuration().err().map(|error| error.to_string())
    }

    fn configuration(&self) -> Result<config::List, NetworkError> {
        if let Some(list) = config::first_in(&self.dirs.conf)? {
            return Ok(list);
        }
        let cidr = self.pod_cidr.read().clone().ok_or(NetworkError::NotReady)?;
        Ok(config::bridge(&self.bridge, &cidr, &self.dirs.state.join("addresses")))
    }

    /// Connects a sandbox; answers the pod's addresses.
    pub async fn connect(
        &self,
        sandbox_id: &str,
        pid: u32,
        pod: &PodIdentity,
        port_mappings: Vec<PortMapping>,
    ) -> Result<Vec<IpAddr>, NetworkError> {
        let list = self.configuration()?;
        let mut connection = Connection {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            netns: format!("/proc/{pid}/ns/net"),
            port_mappings,
            list: Some(list.clone()),
            result: None,
        };
        // Before the first plugin runs: whatever happens, the DEL knows what to undo.
        self.write(sandbox_id, &connection)?;
        let call = Call { command: "ADD", sandbox_id, interface: "lo", connection: &connection };
        self.run(&call, &config::loopback(), 0, None).await?;
        let call = Call { interface: INTERFACE, ..call };
        let mut result = None;
        for index in 0..list.plugins.len() {
            result = self.run(&call, &list, index, result).await?;
        }
        let result = result.unwrap_or(Value::Null);
        let ips = config::ips(&result);
        connection.result = Some(result);
        self.write(sandbox_id, &connection)?;
        Ok(ips)
    }

    /// Undoes [`Network::connect`], also a half one. A sandbox that was never connected is a success.
    pub async fn disconnect(&self, sandbox_id: &str) -> Result<(), NetworkError> {
        let Some(mut connection) = self.read(sandbox_id)? else { return Ok(()) };
        if !Path::new(&connection.netns).exists() {
            connection.netns.clear();
        }
        let list = match connection.list.clone() {
            Some(list) => list,
            None => self.configuration()?,
        };
        let call = Call { command: "DEL", sandbox_id, interface: INTERFACE, connection: &connection };
        for index in (0..list.plugins.len()).rev() {
            let previous = connection.result.clone();
            self.run(&call, &list, index, previous).await?;
        }
        let path = self.path(sandbox_id);
        fs::remove_file(&path).map_err(|source| NetworkError::File { path, source })
    }

    /// The addresses of a sandbox; `None` if it is not connected.
    pub fn ips(&self, sandbox_id: &str) -> Option<Vec<IpAddr>> {
        let connection = self.read(sandbox_id).ok()??;
        connection.result.map(|result| config::ips(&result))
    }

    /// Sandboxes that were connected and are no longer there.
    pub fn leftovers(&self, live: &BTreeSet<String>) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.dirs.state.join("results")) else { return vec![] };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).filter(|id| !live.contains(id)).collect()
    }

    fn path(&self, sandbox_id: &str) -> PathBuf {
        self.dirs.state.join("results").join(format!("{sandbox_id}.json"))
    }

    fn read(&self, sandbox_id: &str) -> Result<Option<Connection>, NetworkError> {
        let path = self.path(sandbox_id);
        match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map(Some).map_err(|source| NetworkError::Config { path, source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(NetworkError::File { path, source }),
        }
    }

    fn write(&self, sandbox_id: &str, connection: &Connection) -> Result<(), NetworkError> {
        let path = self.path(sandbox_id);
        let new = path.with_extension("new");
        let bytes = serde_json::to_vec(connection).expect("strings and JSON values always encode");
        // A reader sees the old file or the new one, never half of it.
        fs::write(&new, bytes)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|source| NetworkError::File { path, source })
    }

    /// Runs one plugin of a list and answers its result.
    async fn run(
        &self,
        call: &Call<'_>,
        list: &config::List,
        index: usize,
        previous: Option<Value>,
    ) -> Result<Option<Value>, NetworkError> {
        let Call { command, sandbox_id, interface, connection } = *call;
        let input = list.plugin_input(index, &connection.port_mappings, previous);
        let plugin = input["type"].as_str().unwrap_or_default().to_owned();
        let found = self.dirs.bin.iter().map(|dir| dir.join(&plugin)).find(|path| path.is_file());
        let program =
            found.ok_or_else(|| NetworkError::NoPlugin { plugin: plugin.clone(), searched: self.dirs.bin.clone() })?;
        let fail = |message: String| NetworkError::Plugin { plugin: plugin.clone(), command, message };
        let search_path: Vec<String> = self.dirs.bin.iter().map(|dir| dir.display().to_string()).collect();
        let mut child = Command::new(program)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", sandbox_id)
            .env("CNI_NETNS", &connection.netns)
            .env("CNI_IFNAME", interface)
            .env("CNI_PATH", search_path.join(":"))
            .env("CNI_ARGS", cni_args(sandbox_id, connection))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| fail(error.to_string()))?;
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let bytes = serde_json::to_vec(&input).expect("JSON values always encode");
        stdin.write_all(&bytes).await.map_err(|error| fail(error.to_string()))?;
        drop(stdin);
        let output = tokio::time::timeout(PLUGIN_TIMEOUT, child.wait_with_output())
            .await
            .map_err(|_| fail(format!("no answer within {PLUGIN_TIMEOUT:?}")))?
            .map_err(|error| fail(error.to_string()))?;
        if !output.status.success() {
            return Err(fail(config::error_message(&output.stdout, &output.stderr)));
        }
        Ok(serde_json::from_slice(&output.stdout).ok())
    }
}

fn cni_args(sandbox_id: &str, connection: &Connection) -> String {
    let Connection { namespace, name, uid, .. } = connection;
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={sandbox_id};K8S_POD_UID={uid}"
    )
}

/// The host ports that a pod's containers ask for.
pub fn port_mappings(pod: &api_types::k8s::core::Pod) -> Vec<PortMapping> {
    let Some(spec) = &pod.spec else { return vec![] };
    if spec.host_network.unwrap_or_default() {
        return vec![];
    }
    let sidecars = spec.init_containers.iter().flatten().filter(|container| container.restart_policy.is_some());
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let host_port = port.host_port.filter(|port| *port != 0)?;
            Some(PortMapping {
                host_port,
                container_port: port.container_port,
                protocol: port.protocol.as_deref().unwrap_or("TCP").to_lowercase(),
                host_ip: port.host_ip.clone().unwrap_or_default(),
            })
        })
        .collect()
}

impl PortMapping {
    fn to_json(&self) -> Value {
        json!({"hostPort": self.host_port, "containerPort": self.container_port, "protocol": self.protocol, "hostIP": self.host_ip})
    }
}

#[cfg(test)]
mod tests;
