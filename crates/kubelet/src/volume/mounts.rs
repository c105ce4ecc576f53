//! What a container mounts: its volumes, and the files that the kubelet keeps for it.

use std::path::Path;

use api_types::k8s::core::{Container, Pod, VolumeMount};

use super::{PodDir, VolumeError, prepare, subpath};
use crate::{
    pod::env::expand,
    runtime::{Mount, Propagation},
};

/// A container's mounts. `variable` gives the values for `subPathExpr`.
pub fn mounts(
    pod: &Pod,
    dir: &PodDir,
    container: &Container,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Mount>, VolumeError> {
    let mut mounts = vec![];
    for mount in container.volume_mounts.iter().flatten() {
        mounts.push(volume_mount(pod, dir, mount, variable)?);
    }
    // A volume that the pod puts there wins.
    for (path, host_path) in [("/etc/hosts", dir.etc_hosts()), ("/etc/resolv.conf", dir.resolv_conf())] {
        if !mounts.iter().any(|mount| mount.container_path == path) {
            mounts.push(Mount {
                host_path,
                container_path: path.to_owned(),
                read_only: false,
                propagation: Propagation::Private,
            });
        }
    }
    Ok(mounts)
}

fn volume_mount(
    pod: &Pod,
    dir: &PodDir,
    mount: &VolumeMount,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Mount, VolumeError> {
    let missing = || VolumeError::Unavailable(format!("volume \"{}\" does not exist", mount.name));
    let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let volume = volumes.find(|volume| volume.name == mount.name).ok_or_else(missing)?;
    let (volume_path, always_read_only) = prepare::place(dir, volume).ok_or_else(missing)?;
    let sub_path = match (mount.sub_path.as_deref(), mount.sub_path_expr.as_deref()) {
        (_, Some(expression)) if !expression.is_empty() => Some(expand_all(expression, variable)?),
        (Some(sub_path), _) if !sub_path.is_empty() => Some(sub_path.to_owned()),
        (_, _) => None,
    };
    let host_path = match sub_path {
        Some(sub_path) => subpath::resolve(&volume_path, &sub_path, !always_read_only)?,
        None => volume_path,
    };
    if !Path::new(&host_path).exists() && volume.host_path.is_some() {
        // As Docker would make it itself for a bind of the old kind.
        std::fs::create_dir_all(&host_path).map_err(|error| VolumeError::file(&host_path, error))?;
    }
    Ok(Mount {
        host_path,
        container_path: mount.mount_path.clone(),
        read_only: always_read_only || mount.read_only.unwrap_or_default(),
        propagation: match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            Some(_) | None => Propagation::Private,
        },
    })
}

/// Unlike in values, an unknown name is an error here.
fn expand_all(expression: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, VolumeError> {
    let missing = std::cell::RefCell::new(None);
    let text = expand(expression, |name| {
        let value = variable(name);
        if value.is_none() {
            *missing.borrow_mut() = Some(name.to_owned());
        }
        value
    });
    match missing.into_inner() {
        Some(name) => Err(VolumeError::Unavailable(format!("missing value for \"{name}\""))),
        None => Ok(text),
    }
}
