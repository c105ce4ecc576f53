//! The kubelet's specifications in Docker's words: pure.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount as DockerMount, MountBindOptions,
    MountBindOptionsPropagationEnum, MountType,
};

use super::image::SANDBOX_IMAGE;
use crate::runtime::{
    ContainerSpec, Mount, PidNamespace, Propagation, Resources, SandboxSpec, Seccomp, Security, labels, labels::Owner,
};

/// Upstream's containerLogMaxSize and containerLogMaxFiles.
const LOG_SIZE_MAX: &str = "10m";
const LOG_FILES_MAX: &str = "5";
/// The least CPU weight: what a container without a request gets.
const CPU_SHARES_MIN: i64 = 2;

pub(super) fn sandbox(spec: &SandboxSpec, owner: &Owner, host_network_mode: &str) -> ContainerCreateBody {
    let mut labels = owner.labels(&spec.pod);
    labels.insert(labels::CONTAINER_TYPE.to_owned(), labels::TYPE_SANDBOX.to_owned());
    labels.insert(labels::CONTAINER_NAME.to_owned(), labels::SANDBOX_NAME.to_owned());
    labels.insert(labels::ATTEMPT.to_owned(), spec.attempt.to_string());
    labels.insert(labels::GRACE_S.to_owned(), spec.grace_s.to_string());
    let network_mode = if spec.host_network { host_network_mode } else { "none" };
    let host = HostConfig {
        network_mode: Some(network_mode.to_owned()),
        ipc_mode: Some(if spec.host_ipc { "host" } else { "shareable" }.to_owned()),
        pid_mode: spec.host_pid.then(|| "host".to_owned()),
        // Docker's names for the node's UTS namespace and the pod's own.
        uts_mode: (spec.host_network && network_mode == "host").then(|| "host".to_owned()),
        sysctls: Some(spec.sysctls.clone().into_iter().collect()),
        cpu_shares: Some(CPU_SHARES_MIN),
        log_config: Some(log_config()),
        ..HostConfig::default()
    };
    ContainerCreateBody {
        image: Some(SANDBOX_IMAGE.to_owned()),
        // Docker refuses a hostname in a namespace that is not the container's own.
        hostname: (!spec.host_network).then(|| spec.hostname.clone()),
        labels: Some(hash_map(labels)),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    }
}

pub(super) fn container(spec: &ContainerSpec, owner: &Owner) -> ContainerCreateBody {
    let mut labels = owner.labels(&spec.pod);
    labels.insert(labels::CONTAINER_TYPE.to_owned(), labels::TYPE_CONTAINER.to_owned());
    labels.insert(labels::CONTAINER_NAME.to_owned(), spec.name.clone());
    labels.insert(labels::SANDBOX_ID.to_owned(), spec.sandbox_id.clone());
    labels.insert(labels::ATTEMPT.to_owned(), spec.attempt.to_string());
    labels.insert(labels::HASH.to_owned(), spec.hash.clone());
    labels.insert(labels::GRACE_S.to_owned(), spec.grace_s.to_string());
    if let Some(file) = &spec.termination_file {
        labels.insert(labels::TERMINATION_FILE.to_owned(), file.display().to_string());
    }
    // Docker adds an image's CMD to a given entrypoint; Kubernetes drops it when a command is given.
    let args = spec.args.clone().or_else(|| spec.command.as_ref().map(|_| Vec::new()));
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        entrypoint: spec.command.clone(),
        cmd: args,
        env: Some(spec.env.clone()),
        working_dir: spec.working_dir.clone(),
        user: spec.security.user.clone(),
        labels: Some(hash_map(labels)),
        tty: Some(spec.terminal.tty),
        open_stdin: Some(spec.terminal.stdin),
        stdin_once: Some(spec.terminal.stdin_once),
        stop_signal: spec.stop_signal.clone(),
        host_config: Some(host_config(spec)),
        ..ContainerCreateBody::default()
    }
}

fn host_config(spec: &ContainerSpec) -> HostConfig {
    let sandbox = format!("container:{}", spec.sandbox_id);
    let Security { groups, capabilities_add, capabilities_drop, privileged, read_only_root, .. } = &spec.security;
    let Resources { cpu_shares, cpu_quota_us, cpu_period_us, memory_bytes, oom_score_adj } = spec.resources;
    let set = |value: i64| (value != 0).then_some(value);
    HostConfig {
        network_mode: Some(sandbox.clone()),
        ipc_mode: Some(if spec.host_ipc { "host".to_owned() } else { sandbox.clone() }),
        pid_mode: match &spec.pid {
            PidNamespace::Own => None,
            PidNamespace::Sandbox => Some(sandbox),
            PidNamespace::Container(id) => Some(format!("container:{id}")),
            PidNamespace::Host => Some("host".to_owned()),
        },
        mounts: Some(spec.mounts.iter().map(mount).collect()),
        group_add: Some(groups.clone()),
        cap_add: Some(capabilities_add.clone()),
        cap_drop: Some(capabilities_drop.clone()),
        privileged: Some(*privileged),
        readonly_rootfs: Some(*read_only_root),
        security_opt: Some(security_options(&spec.security)),
        cpu_shares: Some(cpu_shares.max(CPU_SHARES_MIN)),
        cpu_quota: set(cpu_quota_us),
        cpu_period: set(cpu_period_us),
        memory: set(memory_bytes),
        // As much as the memory limit itself means no swap.
        memory_swap: set(memory_bytes),
        oom_score_adj: set(oom_score_adj),
        log_config: Some(log_config()),
        ..HostConfig::default()
    }
}

fn security_options(security: &Security) -> Vec<String> {
    let mut options = Vec::new();
    if security.no_new_privileges {
        options.push("no-new-privileges".to_owned());
    }
    match &security.seccomp {
        Seccomp::RuntimeDefault => {}
        Seccomp::Unconfined => options.push("seccomp=unconfined".to_owned()),
        Seccomp::Profile(json) => options.push(format!("seccomp={json}")),
    }
    options
}

fn mount(mount: &Mount) -> DockerMount {
    let propagation = match mount.propagation {
        // The engine's own default is private too, but it makes an exception of what holds its
        // root directory, such as `/`: that it refuses to mount privately.
        Propagation::Private => None,
        Propagation::HostToContainer => Some(MountBindOptionsPropagationEnum::RSLAVE),
        Propagation::Bidirectional => Some(MountBindOptionsPropagationEnum::RSHARED),
    };
    DockerMount {
        target: Some(mount.container_path.clone()),
        source: Some(mount.host_path.display().to_string()),
        typ: Some(MountType::BIND),
        read_only: Some(mount.read_only),
        bind_options: Some(MountBindOptions { propagation, ..MountBindOptions::default() }),
        ..DockerMount::default()
    }
}

fn log_config() -> HostConfigLogConfig {
    let limits = [("max-size", LOG_SIZE_MAX), ("max-file", LOG_FILES_MAX)];
    HostConfigLogConfig {
        typ: Some("json-file".to_owned()),
        config: Some(limits.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
    }
}

fn hash_map(labels: BTreeMap<String, String>) -> HashMap<String, String> {
    labels.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Owner {
        Owner { node: "n1".to_owned(), cluster: "c1".to_owned() }
    }

    #[test]
    fn a_command_drops_the_images_arguments() {
        let body = |command: Option<&str>, args: Option<&str>| {
            let list = |text: Option<&str>| text.map(|text| vec![text.to_owned()]);
            let spec = ContainerSpec { command: list(command), args: list(args), ..ContainerSpec::default() };
            let body = container(&spec, &owner());
            (body.entrypoint, body.cmd)
        };
        let some = |text: &str| Some(vec![text.to_owned()]);
        assert_eq!(body(None, None), (None, None));
        assert_eq!(body(Some("c"), None), (some("c"), Some(vec![])));
        assert_eq!(body(None, Some("a")), (None, some("a")));
        assert_eq!(body(Some("c"), Some("a")), (some("c"), some("a")));
    }

    #[test]
    fn the_nodes_network_may_be_a_containers() {
        let spec = SandboxSpec { host_network: true, hostname: "h".to_owned(), ..SandboxSpec::default() };
        let body = sandbox(&spec, &owner(), "container:node2");
        assert_eq!(body.hostname, None);
        let host = body.host_config.unwrap();
        assert_eq!((host.network_mode.as_deref(), host.uts_mode), (Some("container:node2"), None));
    }
}
