//! Which certificates, keys and kubeconfigs a cluster has, each with the least that its holder needs.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use crate::{Ca, Leaf, PkiError, Usage, ensure_token_keys, write_kubeconfig};

const LEAF_DAYS: i64 = 365;

/// A client of the apiserver that runs beside it: file name, user, group.
const CLIENTS: &[(&str, &str, Option<&str>)] = &[
    ("admin", "kubernetes-admin", Some("system:masters")),
    ("controller-manager", "system:kube-controller-manager", None),
    ("scheduler", "system:kube-scheduler", None),
    ("proxy", "system:kube-proxy", None),
];

/// Where a cluster's apiserver is reached, and by whom.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Addresses and DNS names of the apiserver, beside this machine's own and those inside the cluster.
    pub addresses: Vec<IpAddr>,
    pub dns_names: Vec<String>,
    /// First address of the service network.
    pub service_address: IpAddr,
    /// `cluster.local`
    pub domain: String,
    /// `https://host:port` for what runs beside the apiserver, and for nodes.
    pub server: String,
    pub node_server: String,
    pub nodes: Vec<NodeNames>,
    /// Where the administrator's kubeconfig goes.
    pub admin_kubeconfig: PathBuf,
}

/// A node whose certificates are made here; others ask for theirs (`--bootstrap-kubeconfig`).
#[derive(Clone, Debug)]
pub struct NodeNames {
    pub name: String,
    pub addresses: Vec<IpAddr>,
}

impl Layout {
    /// One machine, with upstream's networks and no node.
    pub fn local(server: &str, folder: &Path) -> Self {
        Self {
            addresses: Vec::new(),
            dns_names: Vec::new(),
            service_address: IpAddr::from([10, 96, 0, 1]),
            domain: "cluster.local".to_owned(),
            server: server.to_owned(),
            node_server: server.to_owned(),
            nodes: Vec::new(),
            admin_kubeconfig: folder.join("admin.kubeconfig"),
        }
    }

    /// Makes in `folder` what is not there yet. Existing keys and certificates are kept; kubeconfigs are
    /// written anew.
    pub fn ensure(&self, folder: &Path) -> Result<(), PkiError> {
        let ca = Ca::ensure(folder, "ca", "kubernetes-ca")?;
        let etcd = Ca::ensure(folder, "etcd-ca", "etcd-ca")?;
        let front_proxy = Ca::ensure(folder, "front-proxy-ca", "front-proxy-ca")?;
        ensure_token_keys(folder, "sa")?;

        let local = [IpAddr::from([127, 0, 0, 1]), "::1".parse().expect("an address")];
        leaf(&etcd, folder, "etcd", Leaf { addresses: local.to_vec(), ..server("etcd") })?;
        leaf(&etcd, folder, "apiserver-etcd-client", client("kube-apiserver-etcd-client", None))?;
        leaf(&front_proxy, folder, "front-proxy-client", client("front-proxy-client", None))?;

        let mut reachable = local.to_vec();
        reachable.extend(&self.addresses);
        let addresses = reachable.iter().copied().chain([self.service_address]).collect();
        let usage = Usage::Server;
        leaf(
            &ca,
            folder,
            "apiserver",
            Leaf { addresses, dns_names: self.server_names(), usage, ..client("kube-apiserver", None) },
        )?;
        leaf(&ca, folder, "apiserver-kubelet-client", client("kube-apiserver-kubelet-client", Some("system:masters")))?;

        for (file, user, group) in CLIENTS {
            // The daemons among them show the same certificate on their own ports.
            let usage = if *file == "admin" { Usage::Client } else { Usage::Both };
            let addresses = if *file == "admin" { Vec::new() } else { reachable.clone() };
            leaf(&ca, folder, file, Leaf { addresses, usage, ..client(user, *group) })?;
            // kube-proxy runs on every node.
            let server = if *file == "proxy" { &self.node_server } else { &self.server };
            let kubeconfig = match *file {
                "admin" => self.admin_kubeconfig.clone(),
                daemon => folder.join(format!("{daemon}.kubeconfig")),
            };
            write(folder, file, server, &kubeconfig)?;
        }
        for node in &self.nodes {
            let user = format!("system:node:{}", node.name);
            let addresses = node.addresses.iter().copied().chain([local[0]]).collect();
            let dns_names = vec![node.name.clone()];
            let certificate = Leaf { dns_names, addresses, usage: Usage::Both, ..client(&user, Some("system:nodes")) };
            leaf(&ca, folder, &node.name, certificate)?;
            write(folder, &node.name, &self.node_server, &folder.join(format!("{}.kubeconfig", node.name)))?;
        }
        Ok(())
    }

    fn server_names(&self) -> Vec<String> {
        let inside = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned);
        let full = format!("kubernetes.default.svc.{}", self.domain);
        inside.into_iter().chain([full, "localhost".to_owned()]).chain(self.dns_names.iter().cloned()).collect()
    }
}

fn client<'a>(user: &'a str, group: Option<&'a str>) -> Leaf<'a> {
    Leaf {
        common_name: user,
        organization: group,
        dns_names: Vec::new(),
        addresses: Vec::new(),
        usage: Usage::Client,
        days: LEAF_DAYS,
    }
}

fn server(name: &str) -> Leaf<'_> {
    Leaf { dns_names: vec!["localhost".to_owned()], usage: Usage::Both, ..client(name, None) }
}

fn leaf(ca: &Ca, folder: &Path, file: &str, leaf: Leaf<'_>) -> Result<(), PkiError> {
    if folder.join(format!("{file}.crt")).exists() { Ok(()) } else { ca.issue(&leaf)?.write(folder, file) }
}

fn write(folder: &Path, user: &str, server: &str, kubeconfig: &Path) -> Result<(), PkiError> {
    let (certificate, key) = (folder.join(format!("{user}.crt")), folder.join(format!("{user}.key")));
    write_kubeconfig(kubeconfig, server, &folder.join("ca.crt"), &certificate, &key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Facts, State, inventory};

    #[test]
    fn everybody_has_the_least_they_need() {
        let folder = tempfile::tempdir().unwrap();
        Layout::local("https://127.0.0.1:6443", folder.path()).ensure(folder.path()).unwrap();
        let entries = inventory(folder.path()).unwrap();
        let facts = |name: &str| -> &Facts { &entries.iter().find(|entry| entry.name == name).expect(name).facts };
        let of = |name: &str| (facts(name).organization.as_deref(), facts(name).usage, facts(name).issuer.as_str());
        assert_eq!(of("admin"), (Some("system:masters"), Usage::Client, "kubernetes-ca"));
        assert_eq!(of("controller-manager"), (None, Usage::Both, "kubernetes-ca"));
        assert_eq!(of("apiserver-etcd-client"), (None, Usage::Client, "etcd-ca"));
        assert_eq!(of("front-proxy-client"), (None, Usage::Client, "front-proxy-ca"));
        assert!(facts("apiserver").addresses.contains(&IpAddr::from([10, 96, 0, 1])));
        let now = facts("admin").not_before_s + 1;
        assert!(entries.iter().all(|entry| entry.has_key && entry.facts.state(now) == State::Good));
    }
}
