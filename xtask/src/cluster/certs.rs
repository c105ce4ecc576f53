//! The certificates and kubeconfigs of a cluster on this machine.

use std::{fs::File, io::Read};

use anyhow::Context;
use base64::{Engine, prelude::BASE64_STANDARD};
use pki::{Layout, NodeNames};

use super::{Cluster, components::ENCRYPTION};

/// secretbox takes no other.
const KEY_BYTES: usize = 32;

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
    layout.ensure(&cluster.pki())?;
    let encryption = cluster.pki().join(ENCRYPTION);
    if !encryption.exists() {
        pki::write_secret(&encryption, &encryption_configuration()?)?;
    }
    Ok(())
}

/// Secrets are encrypted with a key that is made here; what was written before, or without, is read too.
fn encryption_configuration() -> anyhow::Result<String> {
    let mut key = [0; KEY_BYTES];
    File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut key)).context("/dev/urandom")?;
    Ok(format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n\
         - resources: [secrets]\n  providers:\n  - secretbox: {{keys: [{{name: key1, secret: {}}}]}}\n  - identity: {{}}\n",
        BASE64_STANDARD.encode(key)
    ))
}
