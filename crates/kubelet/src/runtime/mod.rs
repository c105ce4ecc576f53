//! What the kubelet asks of a container runtime, in the runtime's own nouns: containers, sandboxes, images.
//! Everything that the kubelet has to remember about a container is in the container's labels, so that a restarted
//! kubelet observes and goes on.

pub mod docker;
pub mod labels;

use std::{collections::BTreeMap, path::PathBuf, pin::Pin, time::Duration};

use api_types::jiff::Timestamp;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use tokio::io::AsyncWrite;

/// A pod as far as a runtime knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodIdentity {
    pub uid: String,
    pub namespace: String,
    pub name: String,
}

/// A container that exists, running or not.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    pub id: String,
    pub pod: PodIdentity,
    pub role: Role,
    /// Counts the containers of this name in this pod, from 0; the API's restartCount.
    pub attempt: u32,
    /// Hash of the container's specification when it was created; empty for a sandbox.
    pub hash: String,
    /// As the specification names it.
    pub image: String,
    pub image_id: String,
    pub state: State,
    /// Process id on the machine; 0 unless running.
    pub pid: u32,
    /// The file behind the termination message path, if the container has one.
    pub termination_file: Option<PathBuf>,
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Holds the pod's namespaces.
    Sandbox,
    /// Runs one of the pod's containers inside the sandbox with this id.
    App { name: String, sandbox_id: String },
}

impl Container {
    /// The container's name in the pod's specification; empty for a sandbox.
    pub fn name(&self) -> &str {
        match &self.role {
            Role::Sandbox => "",
            Role::App { name, .. } => name,
        }
    }
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }
    /// The grace that the pod gave when the container was made; used when the pod is no longer known.
    pub fn grace_s(&self) -> i64 {
        self.labels.get(labels::GRACE_S).and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_GRACE_S)
    }
}

/// `terminationGracePeriodSeconds` where a pod does not say.
pub const DEFAULT_GRACE_S: i64 = 30;

#[derive(Clone, Debug, PartialEq)]
pub enum State {
    Created,
    Running { started_at: Timestamp },
    Exited(Exit),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Exit {
    pub code: i32,
    pub oom_killed: bool,
    /// What the runtime says of a container that could not run.
    pub error: String,
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
}

/// Everything needed to create a sandbox.
#[derive(Clone, Debug, Default)]
pub struct SandboxSpec {
    pub pod: PodIdentity,
    pub attempt: u32,
    pub hostname: String,
    /// The node's own network; otherwise a fresh, empty network namespace.
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    pub sysctls: BTreeMap<String, String>,
    pub grace_s: i64,
}

/// Everything needed to create a container.
#[derive(Clone, Debug, Default)]
pub struct ContainerSpec {
    pub pod: PodIdentity,
    pub name: String,
    pub attempt: u32,
    pub hash: String,
    pub sandbox_id: String,
    pub image: String,
    /// `None`: the image's own.
    pub command: Option<Vec<String>>,
    /// `None`: the image's own.
    pub args: Option<Vec<String>>,
    /// `NAME=value`
    pub env: Vec<String>,
    pub working_dir: Option<String>,
    pub mounts: Vec<Mount>,
    pub security: Security,
    pub resources: Resources,
    pub terminal: Terminal,
    pub pid: PidNamespace,
    pub host_ipc: bool,
    pub termination_file: Option<PathBuf>,
    pub stop_signal: Option<String>,
    pub grace_s: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub host_path: PathBuf,
    pub container_path: String,
    pub read_only: bool,
    pub propagation: Propagation,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// `uid`, or `uid:gid`
    pub user: Option<String>,
    pub groups: Vec<String>,
    pub capabilities_add: Vec<String>,
    pub capabilities_drop: Vec<String>,
    pub privileged: bool,
    pub read_only_root: bool,
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    #[default]
    Unconfined,
    RuntimeDefault,
    /// The profile itself, JSON.
    Profile(String),
}

/// cgroup limits; 0 means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub cpu_shares: i64,
    pub cpu_quota_us: i64,
    pub cpu_period_us: i64,
    pub memory_bytes: i64,
    pub oom_score_adj: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terminal {
    pub tty: bool,
    pub stdin: bool,
    pub stdin_once: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PidNamespace {
    #[default]
    Own,
    Sandbox,
    Host,
    /// That of another container, by its id: a debugger sees its target's processes.
    Container(String),
}

/// An image that is on the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    pub id: String,
    /// Tags and digests.
    pub names: Vec<String>,
    /// Name or number, perhaps with `:group`; empty means root.
    pub user: String,
    pub size_bytes: i64,
}

/// Credentials for one registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: String,
    pub registry: String,
}

/// Never the password.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.username, self.registry)
    }
}

/// Something happened to a container of this pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub pod_uid: String,
}

/// What a process wrote, in pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Also all output of a process with a terminal.
    Stdout(Bytes),
    Stderr(Bytes),
}

impl Output {
    pub fn bytes(&self) -> &Bytes {
        match self {
            Output::Stdout(bytes) | Output::Stderr(bytes) => bytes,
        }
    }
}

/// A process's standard streams. Dropping `input` closes its standard input.
pub struct Streams {
    pub output: BoxStream<'static, Result<Output, RuntimeError>>,
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
}

/// A command that runs in a container, with its streams.
pub struct Exec {
    pub id: String,
    pub streams: Streams,
}

#[derive(Clone, Debug, Default)]
pub struct ExecRequest {
    pub command: Vec<String>,
    pub tty: bool,
    pub stdin: bool,
}

/// Which part of a container's log is wanted.
#[derive(Clone, Debug, Default)]
pub struct LogRequest {
    pub follow: bool,
    /// `None`: all lines.
    pub tail_lines: Option<i64>,
    pub since: Option<Timestamp>,
    /// Each line begins with its time, RFC 3339 with nanoseconds.
    pub timestamps: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("{what} is not there")]
    NotFound { what: String },
    /// The runtime's own words.
    #[error("{message}")]
    Refused { message: String },
    #[error("the container runtime does not answer: {0}")]
    Unavailable(String),
    #[error("command did not end within {0:?}")]
    Timeout(Duration),
}

/// A container runtime. Implementations are cheap to share and safe to call at the same time; every call may be
/// repeated after a failure.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Name and version, such as `docker://20.10.24`.
    fn version(&self) -> String;
    /// Containers and sandboxes that this kubelet made, of one pod or of all.
    async fn list(&self, pod_uid: Option<&str>) -> Result<Vec<Container>, RuntimeError>;
    /// Changes from now on; ends when the runtime goes away.
    async fn changes(&self) -> Result<BoxStream<'static, Change>, RuntimeError>;

    /// Creates and starts a sandbox without network; answers its id.
    async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<String, RuntimeError>;
    async fn create_container(&self, spec: &ContainerSpec) -> Result<String, RuntimeError>;
    async fn start(&self, id: &str) -> Result<(), RuntimeError>;
    /// The stop signal, and after `grace` the kill. Done when the container has ended.
    async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError>;
    /// Also kills. A container that is not there is a success.
    async fn remove(&self, id: &str) -> Result<(), RuntimeError>;
    /// The process id of a running container.
    async fn pid(&self, id: &str) -> Result<u32, RuntimeError>;

    async fn image(&self, name: &str) -> Result<Option<Image>, RuntimeError>;
    async fn images(&self) -> Result<Vec<Image>, RuntimeError>;
    async fn pull(&self, name: &str, credentials: Option<&Credentials>) -> Result<(), RuntimeError>;

    async fn exec(&self, id: &str, request: &ExecRequest) -> Result<Exec, RuntimeError>;
    /// Meaningful once the exec's output has ended.
    async fn exec_exit_code(&self, exec_id: &str) -> Result<i32, RuntimeError>;
    async fn resize_exec(&self, exec_id: &str, width: u16, height: u16) -> Result<(), RuntimeError>;
    async fn attach(&self, id: &str, stdin: bool) -> Result<Streams, RuntimeError>;
    async fn resize(&self, id: &str, width: u16, height: u16) -> Result<(), RuntimeError>;
    async fn logs(
        &self,
        id: &str,
        request: &LogRequest,
    ) -> Result<BoxStream<'static, Result<Output, RuntimeError>>, RuntimeError>;
}

/// Bytes kept of what a probe or hook writes; upstream's limit for probes.
pub const EXEC_OUTPUT_BYTES_MAX: usize = 10 * 1024;

/// Runs a command to its end: exit code and the head of what it wrote.
pub async fn run(
    runtime: &dyn Runtime,
    id: &str,
    command: &[String],
    timeout: Duration,
) -> Result<(i32, String), RuntimeError> {
    let request = ExecRequest { command: command.to_vec(), tty: false, stdin: false };
    let whole = async {
        let mut exec = runtime.exec(id, &request).await?;
        let mut text = Vec::new();
        while let Some(piece) = exec.streams.output.next().await {
            let piece = piece?;
            let room = EXEC_OUTPUT_BYTES_MAX.saturating_sub(text.len());
            text.extend_from_slice(&piece.bytes()[..piece.bytes().len().min(room)]);
        }
        let code = runtime.exec_exit_code(&exec.id).await?;
        Ok((code, String::from_utf8_lossy(&text).into_owned()))
    };
    tokio::time::timeout(timeout, whole).await.unwrap_or(Err(RuntimeError::Timeout(timeout)))
}
