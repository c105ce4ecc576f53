//! A cluster made by `xtask up`, gone when the test ends.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::{eventually, http::Reply};

/// Where the binaries are. None if nobody said: the tests are then skipped.
pub fn binaries() -> Option<PathBuf> {
    let folder = std::env::var_os("COXSWAIN_BIN").map(PathBuf::from)?;
    assert!(folder.join("kube-apiserver").exists(), "no binaries in COXSWAIN_BIN={}", folder.display());
    Some(folder)
}

/// A running cluster. Dropped: stopped and removed, unless `COXSWAIN_KEEP` is set.
pub struct Cluster {
    folder: tempfile::TempDir,
    binaries: PathBuf,
    arguments: Vec<String>,
}

/// The daemons, by the names of their pid files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    Etcd,
    Apiserver,
    ControllerManager,
    Scheduler,
    Kubelet,
    Proxy,
}

impl Component {
    pub fn name(self) -> &'static str {
        match self {
            Component::Etcd => "etcd",
            Component::Apiserver => "kube-apiserver",
            Component::ControllerManager => "kube-controller-manager",
            Component::Scheduler => "kube-scheduler",
            Component::Kubelet => "kubelet-1",
            Component::Proxy => "kube-proxy-1",
        }
    }
}

impl Cluster {
    /// etcd and the apiserver alone, with the account that pods of the default namespace need: no
    /// controller is there to make it.
    pub fn control_plane() -> Option<Self> {
        let storage = std::env::var("COXSWAIN_STORAGE").map(|storage| format!("--storage={storage}"));
        Self::control_plane_with(&storage.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// With these flags of `xtask up`.
    pub fn control_plane_with(flags: &[&str]) -> Option<Self> {
        let flags = ["--control-plane-only"].iter().chain(flags).map(|flag| (*flag).to_owned());
        let cluster = Self::start(flags.collect())?;
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        cluster.post("/api/v1/namespaces/default/serviceaccounts", &account).expect(201);
        Some(cluster)
    }

    pub fn with_nodes(nodes: u8) -> Option<Self> {
        Self::start(vec![format!("--nodes={nodes}")])
    }

    fn start(arguments: Vec<String>) -> Option<Self> {
        let binaries = binaries()?;
        let folder = tempfile::Builder::new().prefix("coxswain-").tempdir().expect("a temporary folder");
        let cluster = Self { folder, binaries, arguments };
        cluster.up();
        Some(cluster)
    }

    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("cluster")
    }

    /// Starts whatever of the cluster does not run.
    pub fn up(&self) {
        self.up_with(&[]);
    }

    /// The same; what is started gets these variables too.
    pub fn up_with(&self, environment: &[(&str, String)]) {
        let mut up = self.xtask("up");
        up.arg("--no-build").args(&self.arguments).envs(environment.iter().map(|(name, value)| (name, value)));
        let output = up.output().expect("xtask runs");
        assert!(output.status.success(), "xtask up: {}\n{}", text(&output.stderr), self.log_tails());
    }

    fn xtask(&self, command: &str) -> Command {
        let mut xtask = Command::new(self.binaries.join("xtask"));
        xtask.arg(command).arg("--dir").arg(self.dir());
        xtask
    }

    /// The end of every daemon's log, for a failure's report.
    pub fn log_tails(&self) -> String {
        let logs = fs::read_dir(self.dir().join("log")).into_iter().flatten().flatten();
        let tails = logs.map(|log| {
            let text = fs::read_to_string(log.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(15).collect();
            format!("--- {}\n{}\n", log.path().display(), lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
        });
        tails.collect()
    }

    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        match user {
            "admin" => self.dir().join("admin.kubeconfig"),
            user => self.dir().join("pki").join(format!("{user}.kubeconfig")),
        }
    }

    /// Stock kubectl as the administrator.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut kubectl = Command::new(std::env::var_os("COXSWAIN_KUBECTL").unwrap_or_else(|| "kubectl".into()));
        kubectl.args(arguments).env("KUBECONFIG", self.kubeconfig("admin")).env("HOME", self.folder.path());
        kubectl
    }

    pub fn kubectl_output(&self, arguments: &[&str]) -> Output {
        self.kubectl_command(arguments).stdin(Stdio::null()).output().expect("kubectl runs")
    }

    /// What kubectl prints; panics if it fails.
    #[track_caller]
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let output = self.kubectl_output(arguments);
        assert!(
            output.status.success(),
            "kubectl {}: {}{}\n{}",
            arguments.join(" "),
            text(&output.stdout),
            text(&output.stderr),
            self.log_tails()
        );
        text(&output.stdout)
    }

    /// `kubectl apply -f -` and the like.
    #[track_caller]
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> String {
        let mut child = self
            .kubectl_command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl runs");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("kubectl reads");
        let output = child.wait_with_output().expect("kubectl ends");
        assert!(output.status.success(), "kubectl {}: {}", arguments.join(" "), text(&output.stderr));
        text(&output.stdout)
    }

    /// A kubectl that goes on, such as `port-forward` or `get -w`; its output is piped.
    pub fn kubectl_spawn(&self, arguments: &[&str]) -> Child {
        let mut command = self.kubectl_command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("kubectl runs")
    }

    /// Our own CLI as the administrator.
    pub fn cox(&self, arguments: &[&str]) -> Output {
        let mut cox = Command::new(self.binaries.join("cox"));
        cox.args(arguments).env("KUBECONFIG", self.kubeconfig("admin"));
        cox.output().expect("cox runs")
    }

    /// A request over raw HTTP with the certificate of `user` (a name in the cluster's PKI), or none for `""`.
    pub fn http(&self, user: &str, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Reply {
        crate::http::send(&self.dir().join("pki"), &self.server(), user, method, path, headers, body)
    }

    /// The same, where the server may be gone; `Err` is what curl says.
    pub fn try_http(
        &self,
        user: &str,
        method: &str,
        path: &str,
        headers: &[&str],
        body: &[u8],
    ) -> Result<Reply, String> {
        crate::http::try_send(&self.dir().join("pki"), &self.server(), user, method, path, headers, body)
    }

    /// As the administrator to one of several servers.
    pub fn http_to(&self, server: &str, method: &str, path: &str, body: &[u8]) -> Reply {
        let headers = ["Content-Type: application/json"];
        crate::http::send(&self.dir().join("pki"), server, "admin", method, path, &headers, body)
    }

    /// A GET whose answer goes on; its body is the output of the process.
    pub fn http_stream(&self, path: &str) -> Child {
        self.http_stream_from(&self.server(), path)
    }
    pub fn http_stream_from(&self, server: &str, path: &str) -> Child {
        crate::http::stream(&self.dir().join("pki"), "ca", "admin", &format!("{server}{path}"), "")
    }

    /// A request to etcd's JSON gateway whose answer goes on, as with [`http_stream`](Self::http_stream).
    pub fn etcd_stream(&self, path: &str, request: &Value) -> Child {
        let url = format!("{}{path}", self.etcd());
        crate::http::stream(&self.dir().join("pki"), "etcd-ca", "apiserver-etcd-client", &url, &request.to_string())
    }

    /// `https://127.0.0.1:port`, from the apiserver's command line.
    fn etcd(&self) -> String {
        let pid = self.pid(Component::Apiserver).expect("the apiserver runs");
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("a command line");
        let servers = command.split('\0').find_map(|word| word.strip_prefix("--etcd-servers="));
        servers.expect("an apiserver over etcd").to_owned()
    }

    pub fn get(&self, path: &str) -> Reply {
        self.http("admin", "GET", path, &[], b"")
    }
    pub fn post(&self, path: &str, object: &Value) -> Reply {
        self.http("admin", "POST", path, &["Content-Type: application/json"], object.to_string().as_bytes())
    }
    pub fn put(&self, path: &str, object: &Value) -> Reply {
        self.http("admin", "PUT", path, &["Content-Type: application/json"], object.to_string().as_bytes())
    }
    pub fn patch(&self, path: &str, kind: &str, patch: &Value) -> Reply {
        let content = format!("Content-Type: application/{kind}");
        self.http("admin", "PATCH", path, &[&content], patch.to_string().as_bytes())
    }
    pub fn delete(&self, path: &str) -> Reply {
        self.http("admin", "DELETE", path, &[], b"")
    }

    /// `https://127.0.0.1:port`, from the administrator's kubeconfig.
    pub fn server(&self) -> String {
        let config = fs::read_to_string(self.kubeconfig("admin")).expect("the administrator's kubeconfig");
        let line = config.lines().find_map(|line| line.trim().strip_prefix("server:"));
        line.expect("a server in the kubeconfig").trim().trim_matches('"').to_owned()
    }

    /// The pid of a daemon, if its process runs.
    pub fn pid(&self, component: Component) -> Option<u32> {
        let file = self.dir().join("run").join(format!("{}.pid", component.name()));
        let pid: u32 = fs::read_to_string(file).ok()?.split(' ').next()?.parse().ok()?;
        Path::new(&format!("/proc/{pid}")).exists().then_some(pid)
    }

    /// `kill -9`, and waits until the process is gone.
    pub fn kill(&self, component: Component) {
        let pid = self.pid(component).unwrap_or_else(|| panic!("{} does not run", component.name()));
        let killed = Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill runs");
        assert!(killed.success());
        eventually("the process ends", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // The first thread may be gone while others still hold the process's sockets.
            let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
            (stat.is_empty() || (stat.contains(") Z ") && threads <= 1)).then_some(())
        });
    }

    /// The apiserver again, with more flags, as a process of this test.
    pub fn restart_apiserver(&self, flags: &[&str]) -> Daemon {
        let pid = self.pid(Component::Apiserver).expect("the apiserver runs");
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("a command line");
        let mut words = command.split_terminator('\0').map(str::to_owned);
        let log = self.dir().join("log").join("kube-apiserver.log");
        let log = fs::File::options().append(true).open(log).expect("the apiserver's log");
        self.kill(Component::Apiserver);
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words).args(flags).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let daemon = Daemon(command.spawn().expect("the apiserver starts"));
        eventually("the apiserver is ready", || (self.try_get("/readyz")? == 200).then_some(()));
        daemon
    }

    /// The code of an answer, if there is one.
    pub fn try_get(&self, path: &str) -> Option<u16> {
        let pki = self.dir().join("pki");
        crate::http::try_send(&pki, &self.server(), "admin", "GET", path, &[], b"").ok().map(|reply| reply.code)
    }
}

/// A process of a test's own; it ends with the test.
pub struct Daemon(pub(crate) Child);

impl Daemon {
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("resident memory");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib << 10
    }

    /// Tells it to end.
    pub fn terminate(&self) {
        let told = Command::new("kill").arg(self.pid().to_string()).status().expect("kill runs");
        assert!(told.success());
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        self.0.wait().expect("a child can be waited for")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended
        let _ = self.0.wait();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tails());
        }
        if std::env::var_os("COXSWAIN_KEEP").is_none() {
            let _ = self.xtask("down").output();
        }
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
