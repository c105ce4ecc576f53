//! From a container's specification to what the runtime is asked for: gathers the objects that it refers to, and then
//! computes the rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    time::Duration,
};

use api_types::{
    Key, Object,
    k8s::core::{Container, Pod, PodSpec, ResourceFieldSelector},
};

use super::{
    env::{self, Sources},
    resources::{self, ResourceList},
    security::{self, SECCOMP_DIR, SeccompChoice},
};
use crate::{
    host::Host,
    runtime::{ContainerSpec, DEFAULT_GRACE_S, Image, PidNamespace, PodIdentity, Seccomp, Terminal},
    static_pods,
    volume::{PodDir, downward, mounts, payload, prepare},
};

/// How long a container waits for the first list of services.
const SERVICES_TIMEOUT: Duration = Duration::from_secs(10);
pub const DEFAULT_TERMINATION_PATH: &str = "/dev/termination-log";

/// Which container, in which place.
pub struct Request<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub sandbox_id: &'a str,
    pub attempt: u32,
    pub hash: &'a str,
    /// The running container whose processes an ephemeral one wants to see.
    pub target_id: Option<&'a str>,
    pub ips: &'a [IpAddr],
    pub image: &'a Image,
}

/// The error is the message of the container's `CreateContainerConfigError`.
pub async fn spec(host: &Host, request: &Request<'_>) -> Result<ContainerSpec, String> {
    let Request { pod, container, .. } = request;
    let empty = PodSpec::default();
    let pod_spec = pod.spec.as_ref().unwrap_or(&empty);
    let dir = host.pod_dir(pod.uid());
    let env = environment(host, request, pod_spec, &dir).await?;
    let lookup = |name: &str| env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let expanded = |list: &Option<Vec<String>>| {
        list.as_ref()
            .filter(|list| !list.is_empty())
            .map(|list| list.iter().map(|text| env::expand(text, lookup)).collect::<Vec<_>>())
    };
    let mut mounts = mounts::mounts(pod, &dir, container, &lookup).map_err(|error| error.to_string())?;
    let termination_file = termination_file(&dir, request)?;
    mounts.push(crate::runtime::Mount {
        host_path: termination_file.clone(),
        container_path: container.termination_message_path.clone().unwrap_or(DEFAULT_TERMINATION_PATH.to_owned()),
        read_only: false,
        propagation: crate::runtime::Propagation::Private,
    });
    let (pod_security, own_security) = (pod_spec.security_context.as_ref(), container.security_context.as_ref());
    let seccomp = read_seccomp(host, security::seccomp(pod_security, own_security)?)?;
    let security = security::security(pod_security, own_security, &request.image.user, &container.name, seccomp)?;
    let mut limits = resources::limits(pod, container.resources.as_ref(), host.machine.memory_bytes);
    if limits.oom_score_adj < 0 && !host.machine.may_lower_oom_score {
        limits.oom_score_adj = 0;
    }
    Ok(ContainerSpec {
        pod: identity(pod),
        name: container.name.clone(),
        attempt: request.attempt,
        hash: request.hash.to_owned(),
        sandbox_id: request.sandbox_id.to_owned(),
        image: container.image.clone().unwrap_or_default(),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().filter(|dir| !dir.is_empty()),
        mounts,
        security,
        resources: limits,
        terminal: Terminal {
            tty: container.tty.unwrap_or_default(),
            stdin: container.stdin.unwrap_or_default(),
            stdin_once: container.stdin_once.unwrap_or_default(),
        },
        pid: match (pod_spec.host_pid, pod_spec.share_process_namespace, request.target_id) {
            (Some(true), _, _) => PidNamespace::Host,
            (_, Some(true), _) => PidNamespace::Sandbox,
            (_, _, Some(id)) => PidNamespace::Container(id.to_owned()),
            (_, _, None) => PidNamespace::Own,
        },
        host_ipc: pod_spec.host_ipc.unwrap_or_default(),
        termination_file: Some(termination_file),
        stop_signal: container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone()),
        grace_s: pod_spec.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_S),
        env: env.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
    })
}

pub fn identity(pod: &Pod) -> PodIdentity {
    PodIdentity { uid: pod.uid().to_owned(), namespace: pod.namespace().to_owned(), name: pod.name().to_owned() }
}

/// A fresh file per attempt, so that one container's last words are not taken for another's.
fn termination_file(dir: &PodDir, request: &Request) -> Result<std::path::PathBuf, String> {
    let path = dir.container_file(&request.container.name, &format!("termination-{}", request.attempt));
    let made = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, ""));
    made.map_err(|error| format!("{}: {error}", path.display()))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    fs::set_permissions(&path, mode).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

fn read_seccomp(host: &Host, choice: SeccompChoice) -> Result<Seccomp, String> {
    match choice {
        SeccompChoice::Unconfined => Ok(Seccomp::Unconfined),
        SeccompChoice::RuntimeDefault => Ok(Seccomp::RuntimeDefault),
        SeccompChoice::Localhost(path) => {
            let path = host.settings.root.join(SECCOMP_DIR).join(path);
            let json = fs::read_to_string(&path);
            json.map(Seccomp::Profile)
                .map_err(|error| format!("cannot load seccomp profile {}: {error}", path.display()))
        }
    }
}

async fn environment(
    host: &Host,
    request: &Request<'_>,
    spec: &PodSpec,
    dir: &PodDir,
) -> Result<Vec<(String, String)>, String> {
    let Request { pod, container, ips, .. } = request;
    let loaded = Loaded {
        config_maps: config_maps(host, pod, container).await?,
        secrets: secrets(host, pod, container).await?,
        pod,
        spec,
        container: &container.name,
        dir,
        ips,
        node_ips: &host.settings.node_ips,
        allocatable: &host.machine.allocatable,
    };
    // Static pods start without the API, and thus without variables that only it knows.
    if !static_pods::is_static(pod) && tokio::time::timeout(SERVICES_TIMEOUT, host.services.synced()).await.is_err() {
        return Err("services have not yet been read at least once, cannot construct envvars".to_owned());
    }
    let links = spec.enable_service_links.unwrap_or(true);
    let services = host.services.list();
    let visible = services.iter().filter(|service| {
        let is_api = service.namespace() == "default" && service.name() == "kubernetes";
        is_api || (links && service.namespace() == pod.namespace())
    });
    let services = env::service_variables(visible.map(AsRef::as_ref));
    let from = container.env_from.as_deref().unwrap_or_default();
    let own = container.env.as_deref().unwrap_or_default();
    env::environment(pod.namespace(), services, from, own, &loaded).map_err(|error| error.to_string())
}

type Texts = BTreeMap<String, BTreeMap<String, String>>;

fn texts(data: payload::Data) -> BTreeMap<String, String> {
    data.into_iter().map(|(key, value)| (key, String::from_utf8_lossy(&value).into_owned())).collect()
}

async fn config_maps(host: &Host, pod: &Pod, container: &Container) -> Result<Texts, String> {
    let from = container.env_from.iter().flatten().filter_map(|source| source.config_map_ref.as_ref());
    let single = container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref());
    let single = single.filter_map(|source| source.config_map_key_ref.as_ref());
    let names: BTreeSet<&str> =
        from.map(|source| source.name.as_str()).chain(single.map(|source| source.name.as_str())).collect();
    let mut found = Texts::new();
    for name in names {
        let key = Key::new(pod.namespace(), name);
        let object = host.objects.config_map(pod.uid(), &key).await.map_err(|error| error.to_string())?;
        if let Some(object) = object {
            let text = object.data.clone().unwrap_or_default();
            found.insert(name.to_owned(), text);
        }
    }
    Ok(found)
}

async fn secrets(host: &Host, pod: &Pod, container: &Container) -> Result<Texts, String> {
    let from = container.env_from.iter().flatten().filter_map(|source| source.secret_ref.as_ref());
    let single = container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref());
    let single = single.filter_map(|source| source.secret_key_ref.as_ref());
    let names: BTreeSet<&str> =
        from.map(|source| source.name.as_str()).chain(single.map(|source| source.name.as_str())).collect();
    let mut found = Texts::new();
    for name in names {
        let key = Key::new(pod.namespace(), name);
        let object = host.objects.secret(pod.uid(), &key).await.map_err(|error| error.to_string())?;
        if let Some(object) = object {
            found.insert(name.to_owned(), texts(payload::secret_data(&object)));
        }
    }
    Ok(found)
}

/// Everything that an environment may refer to, in memory.
struct Loaded<'a> {
    config_maps: Texts,
    secrets: Texts,
    pod: &'a Pod,
    spec: &'a PodSpec,
    container: &'a str,
    dir: &'a PodDir,
    ips: &'a [IpAddr],
    node_ips: &'a [IpAddr],
    allocatable: &'a ResourceList,
}

impl Sources for Loaded<'_> {
    fn config_map(&self, name: &str) -> Option<BTreeMap<String, String>> {
        self.config_maps.get(name).cloned()
    }
    fn secret(&self, name: &str) -> Option<BTreeMap<String, String>> {
        self.secrets.get(name).cloned()
    }
    fn field(&self, path: &str) -> Result<String, String> {
        downward::field(self.pod, path, self.ips, self.node_ips)
    }
    fn resource(&self, selector: &ResourceFieldSelector) -> Result<String, String> {
        resources::field(self.spec, self.container, selector, self.allocatable)
    }
    fn file(&self, volume: &str, path: &str, key: &str) -> Result<Option<String>, String> {
        let found = self.spec.volumes.iter().flatten().find(|known| known.name == volume);
        let place = found.and_then(|volume| prepare::place(self.dir, volume));
        let (root, _) = place.ok_or_else(|| format!("volume \"{volume}\" does not exist"))?;
        let file = match crate::volume::subpath::resolve(&root, path, false) {
            Ok(file) => file,
            Err(_) => return Ok(None),
        };
        let content = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(env::env_file_value(&content, key))
    }
}
