//! What `deploy/` ships: the compose file brings up a cluster, systemd accepts the units.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tests::{binaries, eventually};

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a folder of the workspace")
}

/// The cluster of deploy/compose, stopped and removed when dropped.
struct Compose {
    binaries: PathBuf,
}

impl Compose {
    fn compose(&self, arguments: &[&str]) -> Output {
        let files = ["-f", "deploy/compose/docker-compose.yml", "--env-file", "deploy/compose/.env"];
        let mut compose = Command::new("docker-compose");
        compose.args(files).args(arguments).current_dir(workspace()).output().expect("docker-compose runs")
    }
    fn xtask(&self, arguments: &[&str]) -> Output {
        Command::new(self.binaries.join("xtask")).args(arguments).output().expect("xtask runs")
    }
    fn kubectl(&self, arguments: &[&str]) -> Output {
        let kubectl = std::env::var_os("COXSWAIN_KUBECTL").unwrap_or_else(|| "kubectl".into());
        let config = workspace().join(".cluster-compose/admin.kubeconfig");
        Command::new(kubectl).args(arguments).env("KUBECONFIG", config).output().expect("kubectl runs")
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", String::from_utf8_lossy(&self.compose(&["logs", "--tail=20"]).stdout));
        }
        self.compose(&["down"]);
        self.xtask(&["down", "--dir", ".cluster-compose"]);
    }
}

#[test]
fn compose_brings_up_a_cluster() {
    let Some(binaries) = binaries() else {
        eprintln!("skipped: no release binaries; run `cargo xtask test`");
        return;
    };
    let cluster = Compose { binaries };
    let prepared = cluster.xtask(&["images", "--no-build"]);
    assert!(prepared.status.success(), "{}", String::from_utf8_lossy(&prepared.stderr));
    let up = cluster.compose(&["up", "-d"]);
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    eventually("a node is Ready", || {
        let nodes = cluster.kubectl(&["get", "nodes", "--no-headers"]);
        String::from_utf8_lossy(&nodes.stdout).contains(" Ready ").then_some(())
    });
    let created = cluster.kubectl(&["create", "deployment", "web", "--image=coxswain/testbox:1", "--replicas=2"]);
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    let rollout = cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
    assert!(rollout.status.success(), "{}", String::from_utf8_lossy(&rollout.stderr));
}

/// The units name programs in /usr/local/bin; here they are checked with the ones that were built.
#[test]
fn systemd_accepts_the_units() {
    let Some(binaries) = binaries() else {
        eprintln!("skipped: no release binaries; run `cargo xtask test`");
        return;
    };
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("skipped: no systemd-analyze on this machine");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut units = Vec::new();
    for entry in fs::read_dir(workspace().join("deploy/systemd")).expect("the units") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|it| it == "service" || it == "timer") {
            let text = fs::read_to_string(&path).expect("a unit");
            let unit = folder.path().join(path.file_name().expect("a name"));
            fs::write(&unit, text.replace("/usr/local/bin", &binaries.display().to_string())).expect("written");
            units.push(unit);
        }
    }
    assert_eq!(units.len(), 8);
    let output = Command::new("systemd-analyze").arg("verify").args(&units).output().expect("systemd-analyze runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let ours: Vec<&str> = said.lines().filter(|line| line.contains(&folder.path().display().to_string())).collect();
    assert!(ours.is_empty(), "{said}");
}
