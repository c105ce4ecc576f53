//! The cluster's certificates and kubeconfigs, each with the least that its holder needs.
//! What exists is kept, so that a second `up` changes nothing.

use std::{net::IpAddr, path::Path};

use pki::{Ca, Leaf, Usage, write_kubeconfig};

use super::Cluster;

const LEAF_DAYS: i64 = 365;

/// A client of the apiserver: file name, user, group.
const CLIENTS: &[(&str, &str, Option<&str>)] = &[
    ("admin", "kubernetes-admin", Some("system:masters")),
    ("controller-manager", "system:kube-controller-manager", None),
    ("scheduler", "system:kube-scheduler", None),
    ("proxy", "system:kube-proxy", None),
];

pub fn issue(cluster: &Cluster) -> anyhow::Result<()> {
    let folder = cluster.pki();
    let ca = Ca::ensure(&folder, "ca", "kubernetes-ca")?;
    let etcd = Ca::ensure(&folder, "etcd-ca", "etcd-ca")?;
    pki::ensure_token_keys(&folder, "sa")?;

    let local: Vec<IpAddr> = vec!["127.0.0.1".parse()?, "::1".parse()?];
    leaf(&etcd, &folder, "etcd", Leaf { addresses: local.clone(), ..server("etcd") })?;
    leaf(&etcd, &folder, "apiserver-etcd-client", client("kube-apiserver-etcd-client", None))?;

    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
    let mut reachable = local;
    reachable.push(cluster.node_address(1).into());
    let mut addresses = reachable.clone();
    addresses.push(cluster.service_address(1).into());
    let dns_names = names.iter().chain(&["localhost"]).map(|name| (*name).to_owned()).collect();
    leaf(&ca, &folder, "apiserver", Leaf { addresses, dns_names, usage: Usage::Server, ..server("kube-apiserver") })?;
    leaf(&ca, &folder, "apiserver-kubelet-client", client("kube-apiserver-kubelet-client", Some("system:masters")))?;

    for (file, user, group) in CLIENTS {
        let certificate = Leaf { addresses: reachable.clone(), usage: Usage::Both, ..client(user, *group) };
        leaf(&ca, &folder, file, certificate)?;
        kubeconfig(cluster, file, "127.0.0.1".parse()?)?;
    }
    for node in 1..=cluster.node_count() {
        let name = cluster.node_name(node);
        let user = format!("system:node:{name}");
        let certificate = Leaf {
            dns_names: vec![name.clone()],
            addresses: vec![cluster.node_address(node).into(), "127.0.0.1".parse()?],
            usage: Usage::Both,
            ..client(&user, Some("system:nodes"))
        };
        leaf(&ca, &folder, &name, certificate)?;
        kubeconfig(cluster, &name, cluster.node_address(1).into())?;
    }
    // kube-proxy runs on every node, so it reaches the apiserver by the link between them.
    kubeconfig(cluster, "proxy", cluster.node_address(1).into())
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

fn leaf(ca: &Ca, folder: &Path, file: &str, leaf: Leaf<'_>) -> anyhow::Result<()> {
    if !folder.join(format!("{file}.crt")).exists() {
        ca.issue(&leaf)?.write(folder, file)?;
    }
    Ok(())
}

fn kubeconfig(cluster: &Cluster, user: &str, server: IpAddr) -> anyhow::Result<()> {
    let pki = cluster.pki();
    let server = format!("https://{server}:{}", cluster.apiserver_port());
    let (certificate, key) = (pki.join(format!("{user}.crt")), pki.join(format!("{user}.key")));
    write_kubeconfig(&cluster.kubeconfig(user), &server, &pki.join("ca.crt"), &certificate, &key)?;
    Ok(())
}
