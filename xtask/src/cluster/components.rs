//! The command line of every daemon of a cluster: pure, so that it can be read and tested.

use std::path::Path;

use super::{AUDIT_POLICY, Cluster, Shape, Storage};
use crate::build::binary;

/// What Secrets are encrypted with.
pub const ENCRYPTION: &str = "encryption.yaml";

/// A daemon to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// Also the name of its log and pid file.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
}

/// Builds `--name=value` arguments.
struct Flags(Vec<String>);

impl Flags {
    fn of(program: impl AsRef<Path>) -> Self {
        Self(vec![text(program)])
    }
    fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.0.push(format!("--{name}={}", value.to_string()));
        self
    }
    fn file(self, name: &str, path: impl AsRef<Path>) -> Self {
        let value = text(path);
        self.set(name, value)
    }
    fn named(self, name: &str) -> Component {
        Component { name: name.to_owned(), command: self.0 }
    }
    /// Certificate, key and client CA of a daemon's own HTTPS port.
    fn serving(self, cluster: &Cluster, certificate: &str) -> Self {
        let pki = cluster.pki();
        self.file("tls-cert-file", pki.join(format!("{certificate}.crt")))
            .file("tls-private-key-file", pki.join(format!("{certificate}.key")))
            .file("client-ca-file", pki.join("ca.crt"))
    }
}

fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().display().to_string()
}

pub fn etcd(cluster: &Cluster) -> Component {
    let pki = cluster.pki();
    let client = format!("https://127.0.0.1:{}", cluster.port(2379));
    let peer = format!("https://127.0.0.1:{}", cluster.port(2380));
    Flags::of("etcd")
        .set("name", "default")
        .file("data-dir", cluster.dir.join("etcd"))
        .set("listen-client-urls", &client)
        .set("advertise-client-urls", &client)
        .set("listen-peer-urls", &peer)
        .set("initial-advertise-peer-urls", &peer)
        .set("initial-cluster", format!("default={peer}"))
        .file("cert-file", pki.join("etcd.crt"))
        .file("key-file", pki.join("etcd.key"))
        .file("trusted-ca-file", pki.join("etcd-ca.crt"))
        .set("client-cert-auth", true)
        .file("peer-cert-file", pki.join("etcd.crt"))
        .file("peer-key-file", pki.join("etcd.key"))
        .file("peer-trusted-ca-file", pki.join("etcd-ca.crt"))
        .set("peer-client-cert-auth", true)
        .set("log-level", "warn")
        .named("etcd")
}

pub fn apiserver(cluster: &Cluster) -> Component {
    let pki = cluster.pki();
    let flags = Flags::of(binary("kube-apiserver"));
    let stored = match cluster.storage {
        Storage::Etcd => flags
            .set("etcd-servers", format!("https://127.0.0.1:{}", cluster.port(2379)))
            .file("etcd-cafile", pki.join("etcd-ca.crt"))
            .file("etcd-certfile", pki.join("apiserver-etcd-client.crt"))
            .file("etcd-keyfile", pki.join("apiserver-etcd-client.key")),
        Storage::Embedded => flags.set("storage", "embedded").file("data-dir", cluster.dir.join("store")),
    };
    stored
        .set("advertise-address", cluster.node_address(1))
        .set("secure-port", cluster.apiserver_port())
        .serving(cluster, "apiserver")
        .file("kubelet-certificate-authority", pki.join("ca.crt"))
        .file("kubelet-client-certificate", pki.join("apiserver-kubelet-client.crt"))
        .file("kubelet-client-key", pki.join("apiserver-kubelet-client.key"))
        .file("service-account-key-file", pki.join("sa.pub"))
        .file("service-account-signing-key-file", pki.join("sa.key"))
        .set("service-account-issuer", "https://kubernetes.default.svc.cluster.local")
        .set("service-cluster-ip-range", cluster.service_network())
        .set("service-account-extend-token-expiration", false)
        .set("authorization-mode", "Node,RBAC")
        .set("enable-bootstrap-token-auth", true)
        .set("enable-admission-plugins", "DenyServiceExternalIPs")
        .file("encryption-provider-config", pki.join(ENCRYPTION))
        .file("audit-policy-file", cluster.audit().join(AUDIT_POLICY))
        .file("audit-log-path", cluster.audit().join("audit.log"))
        // Nobody waits for the disk. The figures are those of the CIS Benchmark, 1.2.16 to 1.2.19.
        .set("audit-log-mode", "batch")
        .set("audit-log-batch-max-size", 100)
        .set("audit-log-maxage", 30)
        .set("audit-log-maxbackup", 10)
        .set("audit-log-maxsize", 100)
        .named("kube-apiserver")
}

pub fn controller_manager(cluster: &Cluster) -> Component {
    let pki = cluster.pki();
    Flags::of(binary("kube-controller-manager"))
        .file("kubeconfig", cluster.kubeconfig("controller-manager"))
        .set("bind-address", cluster.node_address(1))
        .set("secure-port", cluster.port(10257))
        .serving(cluster, "controller-manager")
        .set("allocate-node-cidrs", true)
        .set("cluster-cidr", cluster.pod_network())
        .set("service-cluster-ip-range", cluster.service_network())
        .file("root-ca-file", pki.join("ca.crt"))
        .file("cluster-signing-cert-file", pki.join("ca.crt"))
        .file("cluster-signing-key-file", pki.join("ca.key"))
        .file("service-account-private-key-file", pki.join("sa.key"))
        .named("kube-controller-manager")
}

pub fn scheduler(cluster: &Cluster) -> Component {
    Flags::of(binary("kube-scheduler"))
        .file("kubeconfig", cluster.kubeconfig("scheduler"))
        .set("bind-address", cluster.node_address(1))
        .set("secure-port", cluster.port(10259))
        .serving(cluster, "scheduler")
        .named("kube-scheduler")
}

pub fn kubelet(cluster: &Cluster, node: u8) -> Component {
    let name = cluster.node_name(node);
    let folder = cluster.dir.join("nodes").join(&name);
    let mut flags = Flags::of(binary("kubelet"))
        .file("kubeconfig", cluster.kubeconfig(&name))
        .set("hostname-override", &name)
        .set("node-ip", cluster.node_address(node))
        .set("port", cluster.port(10250))
        .serving(cluster, &name)
        .file("root-dir", folder.join("kubelet"))
        .file("cert-dir", folder.join("pki"))
        .set("rotate-certificates", true)
        .file("cni-conf-dir", folder.join("cni"))
        .set("cni-bridge", format!("cni{}", cluster.slot))
        .file("pod-manifest-path", folder.join("manifests"))
        .set("cluster-dns", cluster.dns_address())
        .set("cluster-domain", "cluster.local");
    if let Some(namespace) = cluster.namespace(node) {
        flags = flags.set("host-network-container", namespace);
    }
    within(cluster, node, flags.named(&format!("kubelet-{node}")))
}

pub fn proxy(cluster: &Cluster, node: u8) -> Component {
    let flags = Flags::of(binary("kube-proxy"))
        .file("kubeconfig", cluster.kubeconfig("proxy"))
        .set("hostname-override", cluster.node_name(node))
        .set("cluster-cidr", cluster.pod_network())
        .set("nftables-table", proxy_table(cluster))
        .set("healthz-bind-address", format!("127.0.0.1:{}", cluster.port(10256)))
        .set("metrics-bind-address", format!("127.0.0.1:{}", cluster.port(10249)));
    within(cluster, node, flags.named(&format!("kube-proxy-{node}")))
}

/// Upstream's name for the first cluster; node 1 of others shares the machine's own network.
pub fn proxy_table(cluster: &Cluster) -> String {
    match cluster.slot {
        0 => "kube-proxy".to_owned(),
        slot => format!("kube-proxy-{slot}"),
    }
}

/// Enters the node's network, and nothing else: mounts must be seen by Docker.
fn within(cluster: &Cluster, node: u8, mut component: Component) -> Component {
    if let Some(namespace) = cluster.namespace(node) {
        let enter = ["nsenter".to_owned(), format!("--net=/run/netns/{namespace}"), "--".to_owned()];
        component.command.splice(0..0, enter);
    }
    component
}

/// Everything that runs, in the order in which it is started.
pub fn all(cluster: &Cluster) -> Vec<Component> {
    let mut components = match cluster.storage {
        Storage::Etcd => vec![etcd(cluster), apiserver(cluster)],
        Storage::Embedded => vec![apiserver(cluster)],
    };
    if let Shape::Nodes(nodes) = cluster.shape {
        components.extend([controller_manager(cluster), scheduler(cluster)]);
        for node in 1..=nodes {
            components.extend([kubelet(cluster, node), proxy(cluster, node)]);
        }
    }
    components
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(slot: u8, nodes: u8) -> Cluster {
        Cluster { dir: "/c".into(), slot, shape: Shape::Nodes(nodes), storage: Storage::Etcd }
    }

    fn names(cluster: &Cluster) -> Vec<String> {
        all(cluster).into_iter().map(|component| component.name).collect()
    }

    #[test]
    fn the_first_cluster_has_upstreams_ports_and_ranges() {
        let command = apiserver(&cluster(0, 1)).command.join(" ");
        assert!(command.contains("--secure-port=6443"), "{command}");
        assert!(command.contains("--service-cluster-ip-range=10.96.0.0/16"), "{command}");
    }

    #[test]
    fn further_nodes_run_in_their_own_network() {
        let three = cluster(0, 3);
        assert_eq!(names(&three).len(), 4 + 2 * 3);
        assert_ne!(kubelet(&three, 1).command[0], "nsenter");
        assert_eq!(kubelet(&three, 2).command[..2], ["nsenter", "--net=/run/netns/cox0-node-2"]);
    }

    #[test]
    fn clusters_share_no_port() {
        let ports = |slot| {
            all(&cluster(slot, 1)).iter().flat_map(|c| c.command.clone()).filter(|a| a.contains("port=")).collect()
        };
        let (first, second): (Vec<String>, Vec<String>) = (ports(0), ports(1));
        assert!(first.iter().all(|port| !second.contains(port)), "{first:?} {second:?}");
    }

    #[test]
    fn the_embedded_store_needs_no_etcd() {
        let alone = Cluster { storage: Storage::Embedded, ..cluster(0, 1) };
        assert!(!names(&alone).contains(&"etcd".to_owned()));
        let command = apiserver(&alone).command.join(" ");
        assert!(command.contains("--storage=embedded --data-dir=/c/store") && !command.contains("etcd"), "{command}");
    }

    /// Invariant: only the apiserver opens etcd; its client certificate exists nowhere else.
    #[test]
    fn only_the_apiserver_is_given_etcds_client_certificate() {
        let holders: Vec<String> = all(&cluster(0, 2))
            .into_iter()
            .filter(|component| component.command.iter().any(|argument| argument.contains("etcd-client")))
            .map(|component| component.name)
            .collect();
        assert_eq!(holders, ["kube-apiserver"]);
    }
}
