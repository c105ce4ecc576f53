//! What `deploy/compose` needs beside its file: images, certificates, and the daemons' flags
//! as variables, so that there is one description of a daemon's command line.

use std::{fs, path::Path};

use super::{Cluster, Shape, Storage, certs, components, host, images, network, slot};
use crate::build::workspace;

const DIR: &str = "deploy/compose";
const STATE: &str = ".cluster-compose";

/// Makes images and certificates, prepares the node's network, and writes `.env`.
pub fn prepare() -> anyhow::Result<()> {
    let dir = workspace().join(STATE);
    let cluster = match Cluster::load(&dir)? {
        Some(found) => found,
        None => Cluster { slot: slot::take(&dir)?, dir, shape: Shape::Nodes(1), storage: Storage::Etcd },
    };
    cluster.save()?;
    host::ensure_docker()?;
    images::build_all()?;
    certs::issue(&cluster)?;
    network::create(&cluster)?;
    fs::create_dir_all(cluster.dir.join("etcd"))?;
    fs::create_dir_all(cluster.dir.join("nodes"))?;
    let file = workspace().join(DIR).join(".env");
    fs::write(&file, environment(&cluster))?;
    println!(
        "docker-compose -f {DIR}/docker-compose.yml --env-file {DIR}/.env up -d\nexport KUBECONFIG={}\n\
         kubectl apply -f deploy/manifests/cluster-dns.yaml\nstop: docker-compose -f {DIR}/docker-compose.yml --env-file {DIR}/.env down && cargo xtask down --dir {STATE}",
        cluster.kubeconfig("admin").display()
    );
    Ok(())
}

/// `COXSWAIN_KUBELET_1=--flag=value …` and so on. The programs themselves are the images' entry points.
fn environment(cluster: &Cluster) -> String {
    let state = format!("COXSWAIN_STATE={}\n", cluster.dir.display());
    let flags = components::all(cluster).into_iter().map(|component| {
        let name = component.name.to_uppercase().replace('-', "_");
        format!("COXSWAIN_{name}={}\n", component.command[1..].join(" "))
    });
    std::iter::once(state).chain(flags).collect()
}

/// Compose reads the file of this name beside its own.
pub fn remove(cluster: &Cluster) {
    if cluster.dir == workspace().join(STATE) {
        let _ = fs::remove_file(Path::new(workspace()).join(DIR).join(".env"));
    }
}
