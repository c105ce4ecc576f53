//! The runtime against the real engine, with an image made of this machine's static busybox. Skipped, with a message,
//! where there is no engine.

use std::{fs, path::Path};

use bollard::query_parameters::{CreateImageOptionsBuilder, RemoveImageOptionsBuilder};
use bytes::Bytes;
use futures::TryStreamExt;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::runtime::{Mount, PodIdentity, Propagation, Resources, Role, Seccomp, Security, State, run};

const ENDPOINT: &str = "unix:///var/run/docker.sock";
const BUSYBOX: &str = "/bin/busybox";

/// An engine of its own: labels and image are this test's alone.
struct Bench {
    engine: Engine,
    image: String,
    pod: PodIdentity,
}

impl Bench {
    async fn new(name: &str) -> Option<Self> {
        if !Path::new("/var/run/docker.sock").exists() || !Path::new(BUSYBOX).exists() {
            println!("skipped: needs a Docker engine at {ENDPOINT} and a static {BUSYBOX}");
            return None;
        }
        let owner = Owner { node: format!("test-{name}"), cluster: format!("test-{}", std::process::id()) };
        let engine = match Engine::connect(ENDPOINT, owner, None).await {
            Ok(engine) => engine,
            Err(error) => {
                println!("skipped: {error}");
                return None;
            }
        };
        let repository = format!("coxswain-test/{name}-{}", std::process::id());
        let options = CreateImageOptionsBuilder::default().from_src("-").repo(&repository).tag("1").build();
        let archive = bollard::body_full(Bytes::from(image::tar_of("busybox", &fs::read(BUSYBOX).unwrap())));
        engine.docker.create_image(Some(options), Some(archive), None).try_collect::<Vec<_>>().await.unwrap();
        let pod = PodIdentity { uid: format!("uid-{name}"), namespace: "ns".to_owned(), name: name.to_owned() };
        Some(Self { engine, image: format!("{repository}:1"), pod })
    }

    async fn sandbox(&self) -> String {
        let spec = SandboxSpec { pod: self.pod.clone(), hostname: "box".to_owned(), ..SandboxSpec::default() };
        self.engine.create_sandbox(&spec).await.unwrap()
    }

    fn spec(&self, sandbox_id: &str, name: &str, script: &str) -> ContainerSpec {
        ContainerSpec {
            pod: self.pod.clone(),
            name: name.to_owned(),
            sandbox_id: sandbox_id.to_owned(),
            image: self.image.clone(),
            command: Some(["/busybox", "sh", "-c", script].map(str::to_owned).into()),
            ..ContainerSpec::default()
        }
    }

    async fn start(&self, spec: &ContainerSpec) -> String {
        let id = self.engine.create_container(spec).await.unwrap();
        self.engine.start(&id).await.unwrap();
        id
    }

    async fn find(&self, id: &str) -> Container {
        self.engine.list(Some(&self.pod.uid)).await.unwrap().into_iter().find(|one| one.id == id).unwrap()
    }

    /// Waits for the engine to say that the container ended.
    async fn exit_code(&self, id: &str) -> i32 {
        let mut changes = self.engine.changes().await.unwrap();
        loop {
            if let State::Exited(exit) = self.find(id).await.state {
                return exit.code;
            }
            changes.next().await.unwrap();
        }
    }

    async fn log(&self, id: &str) -> String {
        let pieces: Vec<Output> =
            self.engine.logs(id, &LogRequest::default()).await.unwrap().try_collect().await.unwrap();
        pieces.iter().map(|piece| String::from_utf8_lossy(piece.bytes()).into_owned()).collect()
    }

    async fn clean(self) {
        for container in self.engine.list(None).await.unwrap() {
            self.engine.remove(&container.id).await.unwrap();
        }
        let options = RemoveImageOptionsBuilder::default().force(true).build();
        self.engine.docker.remove_image(&self.image, Some(options), None).await.unwrap();
    }
}

#[tokio::test]
async fn a_container_lives_and_dies_in_its_sandbox() {
    let Some(bench) = Bench::new("life").await else { return };
    let sandbox = bench.sandbox().await;
    assert!(bench.engine.pid(&sandbox).await.unwrap() > 1);
    let found = bench.find(&sandbox).await;
    assert_eq!((found.role.clone(), found.is_running()), (Role::Sandbox, true));

    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "mounted").unwrap();
    let script = "trap 'echo bye; exit 7' TERM; echo \"$A $(/busybox hostname) $(/busybox cat /m/f)\"; while :; do /busybox sleep 0.1; done";
    let mut spec = bench.spec(&sandbox, "main", script);
    spec.attempt = 3;
    spec.hash = "h".to_owned();
    spec.env = vec!["A=one two".to_owned()];
    let mounted = |host_path: &Path, container_path: &str| Mount {
        host_path: host_path.to_owned(),
        container_path: container_path.to_owned(),
        read_only: true,
        propagation: Propagation::Private,
    };
    // `/` holds the engine's own root directory, as in the pods of `kubectl debug node/…`.
    spec.mounts = vec![mounted(dir.path(), "/m"), mounted(Path::new("/"), "/host")];
    let id = bench.start(&spec).await;
    let found = bench.find(&id).await;
    let role = Role::App { name: "main".to_owned(), sandbox_id: sandbox.clone() };
    assert_eq!((found.role.clone(), found.attempt, found.hash.as_str()), (role, 3, "h"));
    assert!(found.is_running());

    let (code, output) =
        run(&bench.engine, &id, &["/busybox".into(), "cat".into(), "/m/f".into()], LONG_CALL_TIMEOUT).await.unwrap();
    assert_eq!((code, output.as_str()), (0, "mounted"));
    let (code, _) = run(&bench.engine, &id, &["/busybox".into(), "false".into()], LONG_CALL_TIMEOUT).await.unwrap();
    assert_eq!(code, 1);

    bench.engine.stop(&id, Duration::from_secs(20)).await.unwrap();
    assert_eq!(bench.exit_code(&id).await, 7);
    assert_eq!(bench.log(&id).await, "one two box mounted\nbye\n");
    bench.clean().await;
}

#[tokio::test]
async fn security_and_limits_reach_the_process() {
    let Some(bench) = Bench::new("limits").await else { return };
    let sandbox = bench.sandbox().await;
    let script = "exec 2>&1; /busybox id -u; /busybox id -g; /busybox grep CapEff /proc/self/status; /busybox touch /x";
    let mut spec = bench.spec(&sandbox, "main", script);
    spec.security = Security {
        user: Some("1000:2000".to_owned()),
        read_only_root: true,
        capabilities_drop: vec!["ALL".to_owned()],
        seccomp: Seccomp::RuntimeDefault,
        no_new_privileges: true,
        ..Security::default()
    };
    spec.resources = Resources {
        cpu_shares: 512,
        cpu_quota_us: 50_000,
        cpu_period_us: 100_000,
        memory_bytes: 64 << 20,
        oom_score_adj: 500,
    };
    let id = bench.start(&spec).await;
    assert_eq!(bench.exit_code(&id).await, 1);
    let log = bench.log(&id).await;
    assert!(log.contains("1000\n2000\nCapEff:\t0000000000000000\n"), "{log}");
    assert!(log.contains("Read-only file system"), "{log}");
    bench.clean().await;
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_a_failed_start() {
    let Some(bench) = Bench::new("nocmd").await else { return };
    let sandbox = bench.sandbox().await;
    let mut spec = bench.spec(&sandbox, "main", "");
    spec.command = Some(vec!["/nothing".to_owned()]);
    let id = bench.engine.create_container(&spec).await.unwrap();
    assert!(bench.engine.start(&id).await.unwrap_err().to_string().contains("/nothing"));
    assert!(matches!(bench.find(&id).await.state, State::Exited(exit) if exit.started_at.is_none()));
    bench.clean().await;
}

#[tokio::test]
async fn attached_input_reaches_the_process() {
    let Some(bench) = Bench::new("attach").await else { return };
    let sandbox = bench.sandbox().await;
    let mut spec = bench.spec(&sandbox, "main", "read line; echo \"got $line\"");
    spec.terminal.stdin = true;
    let id = bench.start(&spec).await;
    let mut streams = bench.engine.attach(&id, true).await.unwrap();
    streams.input.write_all(b"hello\n").await.unwrap();
    let first = streams.output.next().await.unwrap().unwrap();
    assert_eq!(first, Output::Stdout(Bytes::from_static(b"got hello\n")));
    bench.clean().await;
}

#[tokio::test]
async fn images_are_found_by_name_and_missing_ones_are_none() {
    let Some(bench) = Bench::new("images").await else { return };
    let found = bench.engine.image(&bench.image).await.unwrap().unwrap();
    assert!(found.id.starts_with("sha256:") && found.size_bytes > 0);
    assert_eq!(bench.engine.image("coxswain-test/none:1").await.unwrap(), None);
    assert!(bench.engine.images().await.unwrap().iter().any(|image| image.names.contains(&bench.image)));
    bench.clean().await;
}
