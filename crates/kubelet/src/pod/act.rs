//! Does the steps: talks to the runtime, the network and the API, and tells events. It decides nothing; what fails is
//! answered as data for the next decision.

use std::{fs, net::IpAddr, sync::Arc, time::Duration};

use api_types::{
    Object,
    jiff::Timestamp,
    k8s::{
        core::{Container, Pod, PodSpec},
        meta::{DeleteOptions, Preconditions},
    },
};
use client::EventKind;

use super::{container, files, hook};
use crate::{
    host::Host,
    image, network,
    runtime::{DEFAULT_GRACE_S, PodIdentity, SandboxSpec},
    volume::prepare,
};

/// Nobody is killed without this much time, whatever grace was left.
const GRACE_MIN: Duration = Duration::from_secs(2);
/// Pauses between tries to tell the API that a pod is gone.
const FORGET_RETRY_MIN: Duration = Duration::from_millis(500);
const FORGET_RETRY_MAX: Duration = Duration::from_secs(30);

/// Why something could not be done, in the API's words.
#[derive(Debug)]
pub struct Refusal {
    pub reason: String,
    pub message: String,
}

impl Refusal {
    fn new(reason: &str, message: impl std::fmt::Display) -> Self {
        Self { reason: reason.to_owned(), message: message.to_string() }
    }
}

/// Where a container is started, and as what.
#[derive(Clone, Debug)]
pub struct Place {
    pub sandbox_id: String,
    pub attempt: u32,
    pub hash: String,
    /// The running container whose processes an ephemeral one wants to see.
    pub target_id: Option<String>,
}

/// One pod on its host.
#[derive(Clone)]
pub struct Scene {
    pub host: Arc<Host>,
    pub pod: Arc<Pod>,
    pub ips: Vec<IpAddr>,
}

impl Scene {
    fn spec(&self) -> PodSpec {
        self.pod.spec.clone().unwrap_or_default()
    }

    pub async fn prepare_volumes(&self) -> Result<Option<Timestamp>, Refusal> {
        let Scene { host, pod, ips } = self;
        let context = prepare::Context {
            pod,
            dir: &host.pod_dir(pod.uid()),
            objects: &host.objects,
            tokens: &host.tokens,
            allocatable: &host.machine.allocatable,
            ips,
            node_ips: &host.settings.node_ips,
            now: Timestamp::now(),
        };
        prepare::prepare(&context).await.map_err(|error| {
            host.event(pod, "", EventKind::Warning, "FailedMount", error.to_string());
            Refusal::new("FailedMount", error.source)
        })
    }

    pub async fn create_sandbox(&self, attempt: u32) -> Result<(), Refusal> {
        let made = self.make_sandbox(attempt).await;
        made.map_err(|message| {
            let message = format!("Failed to create pod sandbox: {message}");
            self.host.event(&self.pod, "", EventKind::Warning, "FailedCreatePodSandBox", message.clone());
            Refusal::new("FailedCreatePodSandBox", message)
        })
    }

    async fn make_sandbox(&self, attempt: u32) -> Result<(), String> {
        let Scene { host, pod, .. } = self;
        let spec = self.spec();
        let host_network = spec.host_network.unwrap_or_default();
        let domain = &host.settings.cluster_domain;
        let (hostname, pod_domain) = files::hostname(&spec, pod.name(), pod.namespace(), domain);
        let sysctls = spec.security_context.as_ref().and_then(|context| context.sysctls.clone()).unwrap_or_default();
        let sandbox = SandboxSpec {
            pod: container::identity(pod),
            attempt,
            hostname: hostname.clone(),
            host_network,
            host_pid: spec.host_pid.unwrap_or_default(),
            host_ipc: spec.host_ipc.unwrap_or_default(),
            sysctls: sysctls.into_iter().map(|sysctl| (sysctl.name, sysctl.value)).collect(),
            grace_s: spec.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_S),
        };
        let id = host.runtime.create_sandbox(&sandbox).await.map_err(|error| error.to_string())?;
        let ips = if host_network {
            host.settings.node_ips.clone()
        } else {
            match self.connect(&id, &sandbox.pod).await {
                Ok(ips) => ips,
                Err(message) => {
                    remove_sandbox(host, &id).await?;
                    return Err(message);
                }
            }
        };
        self.write_files(&spec, &ips, &hostname, pod_domain.as_deref()).map_err(|error| error.to_string())
    }

    async fn connect(&self, id: &str, identity: &PodIdentity) -> Result<Vec<IpAddr>, String> {
        let Scene { host, pod, .. } = self;
        let pid = host.runtime.pid(id).await.map_err(|error| error.to_string())?;
        let ports = network::port_mappings(pod);
        host.network.connect(id, pid, identity, ports).await.map_err(|error| {
            format!("failed to setup network for pod \"{}_{}\" network: {error}", pod.name(), pod.namespace())
        })
    }

    fn write_files(
        &self,
        spec: &PodSpec,
        ips: &[IpAddr],
        hostname: &str,
        domain: Option<&str>,
    ) -> Result<(), std::io::Error> {
        let Scene { host, pod, .. } = self;
        let dir = host.pod_dir(pod.uid());
        let settings = &host.settings;
        let aliases = spec.host_aliases.as_deref().unwrap_or_default();
        let hosts = if spec.host_network.unwrap_or_default() {
            files::hosts_of_node(&fs::read_to_string("/etc/hosts")?, aliases)
        } else {
            files::hosts(ips, hostname, domain, aliases)
        };
        let resolver =
            files::resolver(spec, pod.namespace(), &settings.cluster_dns, &settings.cluster_domain, &settings.resolver);
        fs::create_dir_all(dir.path())?;
        fs::write(dir.etc_hosts(), hosts)?;
        fs::write(dir.resolv_conf(), resolver.render())
    }

    /// Pull, create, start, postStart hook.
    pub async fn start(&self, container: &Container, place: &Place) -> Result<(), Refusal> {
        let Scene { host, pod, ips } = self;
        let fail = |reason: &str, message: String| {
            self.host.event(pod, &container.name, EventKind::Warning, "Failed", format!("Error: {message}"));
            Refusal::new(reason, message)
        };
        let image = image::ensure(host, pod, container).await.map_err(|error| {
            self.host.event(pod, &container.name, EventKind::Warning, "Failed", format!("Error: {}", error.reason));
            Refusal::new(error.reason, error)
        })?;
        let request = container::Request {
            pod,
            container,
            sandbox_id: &place.sandbox_id,
            attempt: place.attempt,
            hash: &place.hash,
            target_id: place.target_id.as_deref(),
            ips,
            image: &image,
        };
        let spec =
            container::spec(host, &request).await.map_err(|message| fail("CreateContainerConfigError", message))?;
        let created = host.runtime.create_container(&spec).await;
        let id = created.map_err(|error| fail("CreateContainerError", error.to_string()))?;
        host.event(pod, &container.name, EventKind::Normal, "Created", "Container created");
        host.runtime.start(&id).await.map_err(|error| fail("RunContainerError", error.to_string()))?;
        host.event(pod, &container.name, EventKind::Normal, "Started", "Container started");
        let Some(handler) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref()) else {
            return Ok(());
        };
        let Err(message) = hook::run(self, container, &id, handler).await else { return Ok(()) };
        let message = format!("PostStartHook failed: {message}");
        host.event(pod, &container.name, EventKind::Warning, "FailedPostStartHook", message.clone());
        self.kill(container, &id, spec.grace_s, "FailedPostStartHook")
            .await
            .map_err(|refusal| Refusal::new("PostStartHookError", refusal.message))?;
        Err(Refusal::new("PostStartHookError", message))
    }

    /// preStop hook, stop signal, and the kill when the grace is over.
    pub async fn kill(&self, container: &Container, id: &str, grace_s: i64, message: &str) -> Result<(), Refusal> {
        let Scene { host, pod, .. } = self;
        host.event(pod, &container.name, EventKind::Normal, "Killing", message);
        let grace = Duration::from_secs(u64::try_from(grace_s).unwrap_or_default());
        let began = tokio::time::Instant::now();
        if let Some(handler) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref()) {
            let ran = tokio::time::timeout(grace, hook::run(self, container, id, handler)).await;
            if let Ok(Err(message)) = ran {
                let message = format!("PreStopHook failed: {message}");
                host.event(pod, &container.name, EventKind::Warning, "FailedPreStopHook", message);
            }
        }
        let left = if grace_s == 0 { Duration::ZERO } else { grace.saturating_sub(began.elapsed()).max(GRACE_MIN) };
        host.runtime.stop(id, left).await.map_err(|error| Refusal::new("FailedKillPod", error))
    }

    /// Takes the pod's files away and, if the API waits for it, the pod's object. Tries until it succeeds.
    pub async fn forget(&self) {
        let Scene { host, pod, .. } = self;
        let mut pause = FORGET_RETRY_MIN;
        while let Err(error) = self.try_to_forget().await {
            tracing::warn!(pod = %pod.key(), error, "cannot clean up after the pod; trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(FORGET_RETRY_MAX);
        }
        host.objects.release(pod.uid());
        host.tokens.release(pod.uid());
    }

    async fn try_to_forget(&self) -> Result<(), String> {
        let Scene { host, pod, .. } = self;
        prepare::remove(&host.pod_dir(pod.uid())).map_err(|error| error.to_string())?;
        if !pod.is_terminating() {
            return Ok(());
        }
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(pod.uid().to_owned()), resource_version: None }),
            ..DeleteOptions::default()
        };
        match host.api.delete::<Pod>(&pod.key(), &options).await {
            Ok(()) => Ok(()),
            // Gone already, or another pod bears the name now.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The network first, so that no address is lost; then the sandbox.
pub async fn remove_sandbox(host: &Host, id: &str) -> Result<(), String> {
    host.network.disconnect(id).await.map_err(|error| error.to_string())?;
    host.runtime.remove(id).await.map_err(|error| error.to_string())
}
