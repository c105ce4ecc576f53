//! The command line, in upstream's words, and the fields of a KubeletConfiguration that mean the same.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use api_types::k8s::core::Taint;
use clap::{ArgAction, Parser};
use serde_json::{Value, json};

use daemon::{ClientFlags, LogFlags, flags::Pairs};

use crate::node::status::parse_taint;

/// Fields whose flags do not follow from their names.
pub const CONFIG_FIELDS: &[(&str, &str)] = &[
    ("staticPodPath", "pod-manifest-path"),
    ("authentication.x509.clientCAFile", "client-ca-file"),
    ("resolvConf", "resolv-conf"),
    ("serverTLSBootstrap", "rotate-server-certificates"),
];

#[derive(Debug, Parser)]
#[command(name = "kubelet", about = "Runs the pods that are bound to its node.", version)]
pub struct Flags {
    #[command(flatten)]
    pub client: ClientFlags,
    #[command(flatten)]
    pub log: LogFlags,
    /// A KubeletConfiguration; flags override it.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// The node's name; the host's name by default.
    #[arg(long)]
    pub hostname_override: Option<String>,
    /// The node's addresses, the first one first.
    #[arg(long, value_delimiter = ',')]
    pub node_ip: Vec<IpAddr>,
    /// Where the kubelet keeps volumes and state.
    #[arg(long, default_value = "/var/lib/kubelet")]
    pub root_dir: PathBuf,
    #[arg(long, value_delimiter = ',')]
    pub cluster_dns: Vec<IpAddr>,
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// The node's resolv.conf; empty for none.
    #[arg(long, default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
    /// A directory of static pods.
    #[arg(long)]
    pub pod_manifest_path: Option<PathBuf>,
    /// The Docker engine's socket.
    #[arg(long, default_value = "unix:///var/run/docker.sock")]
    pub container_runtime_endpoint: String,
    /// Whose network namespace pods with hostNetwork join, where the engine's is not the node's: a container's name.
    #[arg(long)]
    pub host_network_container: Option<String>,
    /// Tells this cluster's containers from another's on the same engine; the cluster authority's digest by default.
    #[arg(long)]
    pub cluster_id: Option<String>,
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub register_node: bool,
    /// `key=value,…`
    #[arg(long)]
    pub node_labels: Option<Pairs>,
    /// `key=value:Effect,…`
    #[arg(long, value_delimiter = ',', value_parser = parse_taint)]
    pub register_with_taints: Vec<Taint>,
    #[arg(long, default_value_t = 110)]
    pub max_pods: u32,
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    pub address: IpAddr,
    #[arg(long, default_value_t = 10250)]
    pub port: u16,
    /// Without it a certificate is made in memory that nobody trusts.
    #[arg(long, requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    #[arg(long, requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// Clients with a certificate of this authority are known by its subject.
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// Used to ask for a client certificate while the file of --kubeconfig does not exist, which is then written.
    #[arg(long, requires = "kubeconfig")]
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// Ask for a new client certificate when two thirds of the present one's life are over.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub rotate_certificates: bool,
    /// Ask for the serving certificate too; somebody has to approve each request.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set, conflicts_with = "tls_cert_file")]
    pub rotate_server_certificates: bool,
    /// Where the certificates that the kubelet asked for lie; `kubelet.crt` and `kubelet.key` there are what it serves
    /// with if nothing else is given.
    #[arg(long, default_value = "/var/lib/kubelet/pki")]
    pub cert_dir: PathBuf,
    /// Directories of CNI plugins, searched in this order.
    #[arg(long, value_delimiter = ',', default_value = "/opt/cni/bin,/usr/lib/cni")]
    pub cni_bin_dir: Vec<PathBuf>,
    /// Where a network's configuration is looked for; without one the kubelet makes a bridge of its own.
    #[arg(long, default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// Name of the bridge that the kubelet makes.
    #[arg(long, default_value = "cni0")]
    pub cni_bridge: String,
}

impl Flags {
    /// What `/configz` shows, as a KubeletConfiguration.
    pub fn configuration(&self) -> Value {
        json!({
            "address": self.address,
            "port": self.port,
            "clusterDNS": self.cluster_dns,
            "clusterDomain": self.cluster_domain,
            "containerRuntimeEndpoint": self.container_runtime_endpoint,
            "maxPods": self.max_pods,
            "registerNode": self.register_node,
            "resolvConf": self.resolv_conf,
            "staticPodPath": self.pod_manifest_path,
            "tlsCertFile": self.tls_cert_file,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_have_upstreams_names() {
        let flags = Flags::try_parse_from([
            "kubelet",
            "--kubeconfig=/k",
            "--node-ip=192.0.2.1,2001:db8::1",
            "--register-node=false",
            "--node-labels=a=b,c=d",
            "--register-with-taints=x=y:NoSchedule,z:NoExecute",
            "--cni-bin-dir=/x",
        ])
        .unwrap();
        assert_eq!((flags.node_ip.len(), flags.register_with_taints.len()), (2, 2));
        assert!(!flags.register_node);
        assert_eq!(flags.cni_bin_dir, [PathBuf::from("/x")]);
        assert_eq!(flags.port, 10250);
    }
}
