//! The Docker engine as a container runtime. A sandbox is a container that runs `pause`; the pod's containers join its
//! network and IPC namespaces.

mod image;
mod observe;
mod spec;
mod stream;

use std::time::Duration;

use async_trait::async_trait;
use bollard::{
    Docker,
    models::ContainerCreateBody,
    query_parameters::{
        CreateContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
        ResizeContainerTTYOptionsBuilder, StopContainerOptionsBuilder,
    },
};
use futures::{StreamExt, future::try_join_all, stream::BoxStream};

use super::{
    Change, Container, ContainerSpec, Credentials, Exec, ExecRequest, Image, LogRequest, Output, Runtime, RuntimeError,
    SandboxSpec, Streams, labels, labels::Owner,
};

/// Calls that wait for a container to end may last as long as the longest grace that anybody gives.
const LONG_CALL_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Seconds that a call to connect may take.
const CONNECT_TIMEOUT_S: u64 = 120;

/// A connection to the engine; clones share it.
#[derive(Clone)]
pub struct Engine {
    docker: Docker,
    /// The same connection for calls that wait.
    patient: Docker,
    owner: Owner,
    /// Docker's network mode for the node's own network: `host`, or `container:<id>`.
    host_network_mode: String,
    version: String,
}

impl Engine {
    /// Connects to `unix:///path` or `/path`, agrees on a version and makes sure that the sandbox image is there.
    pub async fn connect(
        endpoint: &str,
        owner: Owner,
        host_network_container: Option<&str>,
    ) -> Result<Self, RuntimeError> {
        let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
        let docker = Docker::connect_with_unix(path, CONNECT_TIMEOUT_S, bollard::API_DEFAULT_VERSION)
            .map_err(|error| RuntimeError::Unavailable(format!("{endpoint}: {error}")))?
            .negotiate_version()
            .await
            .map_err(refusal)?;
        let version = docker.version().await.map_err(refusal)?.version.unwrap_or_default();
        let patient = docker.clone().with_timeout(LONG_CALL_TIMEOUT);
        let host_network_mode = match host_network_container {
            Some(container) => format!("container:{container}"),
            None => "host".to_owned(),
        };
        let engine = Self { docker, patient, owner, host_network_mode, version: format!("docker://{version}") };
        engine.ensure_sandbox_image().await?;
        Ok(engine)
    }

    async fn create(&self, name: &str, body: ContainerCreateBody) -> Result<String, RuntimeError> {
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        Ok(self.docker.create_container(Some(options), body).await.map_err(refusal)?.id)
    }
}

/// What an error of the client library means to the kubelet.
fn refusal(error: bollard::errors::Error) -> RuntimeError {
    use bollard::errors::Error;
    match error {
        Error::DockerResponseServerError { status_code: 404, message } => RuntimeError::NotFound { what: message },
        Error::DockerResponseServerError { message, .. } => RuntimeError::Refused { message },
        Error::DockerStreamError { error } => RuntimeError::Refused { message: error },
        other => RuntimeError::Unavailable(other.to_string()),
    }
}

/// An answer that says "already so".
fn unless_done(result: Result<(), bollard::errors::Error>) -> Result<(), RuntimeError> {
    match result {
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 304 | 404, .. }) => Ok(()),
        other => other.map_err(refusal),
    }
}

#[async_trait]
impl Runtime for Engine {
    fn version(&self) -> String {
        self.version.clone()
    }

    async fn list(&self, pod_uid: Option<&str>) -> Result<Vec<Container>, RuntimeError> {
        let options = ListContainersOptionsBuilder::default().all(true).filters(&self.owner.filter(pod_uid)).build();
        let summaries = self.docker.list_containers(Some(options)).await.map_err(refusal)?;
        let ids = summaries.into_iter().filter_map(|summary| summary.id);
        let details = try_join_all(ids.map(|id| async move {
            match self.docker.inspect_container(&id, None).await.map_err(refusal) {
                Ok(details) => Ok(observe::container(details)),
                // Removed between the list and the look.
                Err(RuntimeError::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        }))
        .await?;
        Ok(details.into_iter().flatten().collect())
    }

    async fn changes(&self) -> Result<BoxStream<'static, Change>, RuntimeError> {
        Ok(observe::changes(&self.patient, &self.owner))
    }

    async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<String, RuntimeError> {
        let name = labels::container_name(labels::SANDBOX_NAME, &spec.pod, spec.attempt);
        let body = spec::sandbox(spec, &self.owner, &self.host_network_mode);
        let id = match self.create(&name, body.clone()).await {
            // Somebody cleaned up images: ours is at hand.
            Err(RuntimeError::NotFound { .. }) => {
                self.ensure_sandbox_image().await?;
                self.create(&name, body).await?
            }
            other => other?,
        };
        match self.start(&id).await {
            Ok(()) => Ok(id),
            Err(error) => {
                self.remove(&id).await?;
                Err(error)
            }
        }
    }

    async fn create_container(&self, spec: &ContainerSpec) -> Result<String, RuntimeError> {
        let name = labels::container_name(&spec.name, &spec.pod, spec.attempt);
        self.create(&name, spec::container(spec, &self.owner)).await
    }

    async fn start(&self, id: &str) -> Result<(), RuntimeError> {
        match self.docker.start_container(id, None).await {
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 304, .. }) => Ok(()),
            other => other.map_err(refusal),
        }
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let grace_s = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::default().t(grace_s).build();
        unless_done(self.patient.stop_container(id, Some(options)).await)
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        unless_done(self.docker.remove_container(id, Some(options)).await)
    }

    async fn pid(&self, id: &str) -> Result<u32, RuntimeError> {
        let state = self.docker.inspect_container(id, None).await.map_err(refusal)?.state;
        let pid = state.and_then(|state| state.pid).and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default();
        match pid {
            0 => Err(RuntimeError::NotFound { what: format!("a process of container {id}") }),
            pid => Ok(pid),
        }
    }

    async fn image(&self, name: &str) -> Result<Option<Image>, RuntimeError> {
        self.find_image(name).await
    }
    async fn images(&self) -> Result<Vec<Image>, RuntimeError> {
        self.list_images().await
    }
    async fn pull(&self, name: &str, credentials: Option<&Credentials>) -> Result<(), RuntimeError> {
        self.pull_image(name, credentials).await
    }

    async fn exec(&self, id: &str, request: &ExecRequest) -> Result<Exec, RuntimeError> {
        self.start_exec(id, request).await
    }
    async fn exec_exit_code(&self, exec_id: &str) -> Result<i32, RuntimeError> {
        let details = self.docker.inspect_exec(exec_id).await.map_err(refusal)?;
        Ok(details.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(-1))
    }
    async fn resize_exec(&self, exec_id: &str, width: u16, height: u16) -> Result<(), RuntimeError> {
        let size = bollard::exec::ResizeExecOptions { height, width };
        self.docker.resize_exec(exec_id, size).await.map_err(refusal)
    }
    async fn attach(&self, id: &str, stdin: bool) -> Result<Streams, RuntimeError> {
        self.attach_streams(id, stdin).await
    }
    async fn resize(&self, id: &str, width: u16, height: u16) -> Result<(), RuntimeError> {
        let size = ResizeContainerTTYOptionsBuilder::default().w(width.into()).h(height.into()).build();
        self.docker.resize_container_tty(id, size).await.map_err(refusal)
    }
    async fn logs(
        &self,
        id: &str,
        request: &LogRequest,
    ) -> Result<BoxStream<'static, Result<Output, RuntimeError>>, RuntimeError> {
        // A missing container is told at once, not as the first piece of the log.
        self.docker.inspect_container(id, None).await.map_err(refusal)?;
        Ok(stream::logs(&self.patient, id, request).boxed())
    }
}

#[cfg(test)]
mod tests;
