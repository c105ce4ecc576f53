//! The certificates and kubeconfigs of a cluster on this machine.

use pki::{Layout, NodeNames};

use super::Cluster;

/// Makes what is missing; a second `up` changes nothing.
pub fn issue(cluster: &Cluster) -> anyhow::Result<()> {
    let server = |host: String| format!("https://{host}:{}", cluster.apiserver_port());
    let nodes = (1..=cluster.node_count())
        .map(|node| NodeNames { name: cluster.node_name(node), addresses: vec![cluster.node_address(node).into()] });
    let layout = Layout {
        addresses: vec![cluster.node_address(1).into()],
        service_address: cluster.service_address(1).into(),
        // Nodes reach the apiserver by the link between them.
        node_server: server(cluster.node_address(1).to_string()),
        nodes: nodes.collect(),
        admin_kubeconfig: cluster.kubeconfig("admin"),
        ..Layout::local(&server("127.0.0.1".to_owned()), &cluster.pki())
    };
    Ok(layout.ensure(&cluster.pki())?)
}
