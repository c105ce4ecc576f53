//! A test moves the clock past a year (issue 4, PKI): certificates are renewed in time, tokens too, and a node that
//! joins then gets its first certificate. The daemons' clock is that of libfaketime; the store is the embedded one,
//! as etcd's clock cannot be moved.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use tests::{Cluster, Component, binaries, eventually};

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
/// Past two thirds of a year's certificate, and past its end.
const DUE_DAYS: u32 = 250;
const OVER_DAYS: u32 = 400;

/// The clock of every process that is started with its environment.
struct Clock(PathBuf);

impl Clock {
    fn set_days(&self, days: u32) {
        fs::write(&self.0, format!("+{days}d")).expect("the clock's file");
    }

    fn environment(&self) -> Vec<(&str, String)> {
        vec![
            ("LD_PRELOAD", LIBRARY.to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", self.0.display().to_string()),
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            // Timers count what passes; only the clock on the wall is moved.
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(binaries().expect("binaries, or the test were skipped").join(program));
        command.envs(self.environment());
        command
    }
}

/// Ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn cox(clock: &Clock, kubeconfig: &Path, arguments: &[&str]) -> Output {
    clock.command("cox").args(arguments).env("KUBECONFIG", kubeconfig).output().expect("cox runs")
}

fn controllers(cluster: &Cluster, clock: &Clock) -> Running {
    let pki = cluster.dir().join("pki");
    let file = |name: &str| pki.join(name).display().to_string();
    let log = fs::File::create(cluster.dir().join("log/kube-controller-manager.log")).expect("a log");
    let child = clock
        .command("kube-controller-manager")
        .args(["--leader-elect=false", "--secure-port=0"])
        .arg(format!("--kubeconfig={}", file("controller-manager.kubeconfig")))
        .arg(format!("--cluster-signing-cert-file={}", file("ca.crt")))
        .arg(format!("--cluster-signing-key-file={}", file("ca.key")))
        .stderr(log)
        .spawn();
    Running(child.expect("kube-controller-manager runs"))
}

/// What a new node needs: a bootstrap token, and leave to ask for certificates.
const JOINING: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: bootstrap-token-abcdef, namespace: kube-system}
type: bootstrap.kubernetes.io/token
stringData:
  token-id: abcdef
  token-secret: 0123456789abcdef
  usage-bootstrap-authentication: "true"
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: nodes-may-ask}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:node-bootstrapper"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:bootstrappers"}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: nodes-are-approved}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:certificates.k8s.io:certificatesigningrequests:nodeclient"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:bootstrappers"}]
"#;

/// A kubelet that has no engine: it asks for its certificate, writes its kubeconfig, and gives up.
fn join(cluster: &Cluster, clock: &Clock, node: &str) -> PathBuf {
    let dir = cluster.dir();
    let (bootstrap, kubeconfig) = (dir.join("bootstrap.kubeconfig"), dir.join("joined.kubeconfig"));
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: '{}', certificate-authority: '{}'}}}}]\n\
         users: [{{name: u, user: {{token: abcdef.0123456789abcdef}}}}]\n",
        cluster.server(),
        dir.join("pki/ca.crt").display(),
    );
    fs::write(&bootstrap, text).expect("a kubeconfig");
    let child = clock
        .command("kubelet")
        .arg(format!("--bootstrap-kubeconfig={}", bootstrap.display()))
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .arg(format!("--cert-dir={}", dir.join("joined").display()))
        .arg(format!("--root-dir={}", dir.join("joined-root").display()))
        .arg(format!("--hostname-override={node}"))
        .args(["--rotate-certificates", "--port=0", "--container-runtime-endpoint=unix:///nonexistent"])
        .stderr(Stdio::null())
        .spawn();
    let _kubelet = Running(child.expect("kubelet runs"));
    eventually("the node has a kubeconfig", || kubeconfig.exists().then_some(()));
    kubeconfig
}

/// The administrator makes a namespace, and a controller its account.
fn acts(clock: &Clock, admin: &Path, namespace: &str) {
    eventually("the administrator is known", || {
        cox(clock, admin, &["create", "namespace", namespace]).status.success().then_some(())
    });
    eventually("a controller acts", || {
        let account = cox(clock, admin, &["get", "serviceaccount/default", "--namespace", namespace]);
        account.status.success().then_some(())
    });
}

#[test]
fn a_cluster_lives_past_the_year_of_its_certificates() {
    if !Path::new(LIBRARY).exists() {
        return println!("skipped: libfaketime is not installed");
    }
    if std::env::var("COXSWAIN_STORAGE").is_ok_and(|storage| storage == "etcd") {
        return println!("skipped: it runs with the suite of the embedded store");
    }
    let Some(cluster) = Cluster::control_plane_with(&["--storage=embedded"]) else {
        return println!("skipped: no release binaries; run `cargo xtask test`");
    };
    let (pki, admin) = (cluster.dir().join("pki"), cluster.kubeconfig("admin"));
    let clock = Clock(cluster.dir().join("clock"));
    clock.set_days(0);
    cluster.kill(Component::Apiserver);
    cluster.up_with(&clock.environment());
    let _controllers = controllers(&cluster, &clock);
    acts(&clock, &admin, "sooner");

    clock.set_days(DUE_DAYS);
    let certs = |command: &str| cox(&clock, &admin, &["certs", command, "--dir", pki.to_str().expect("a path")]);
    let renewed = String::from_utf8_lossy(&certs("renew").stdout).into_owned();
    for name in ["admin", "apiserver", "controller-manager"] {
        assert!(renewed.lines().any(|line| line == format!("{name} renewed")), "{renewed}");
    }
    clock.set_days(OVER_DAYS);
    assert!(certs("check").status.success(), "nothing has expired");

    // Server and client follow; controllers get new tokens.
    acts(&clock, &admin, "later");
    let manifest = cluster.dir().join("joining.yaml");
    fs::write(&manifest, JOINING).expect("a manifest");
    let applied = cox(&clock, &admin, &["apply", "-f", manifest.to_str().expect("a path")]);
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    let joined = join(&cluster, &clock, "late");
    // Known as the node it is: its own Node may be read, and is not there yet.
    let answer = cox(&clock, &joined, &["get", "node/late"]);
    let answer = String::from_utf8_lossy(&answer.stderr).into_owned();
    assert!(answer.contains("not found"), "{answer}");
    let answer = cox(&clock, &joined, &["get", "secrets", "--namespace=kube-system"]);
    assert!(String::from_utf8_lossy(&answer.stderr).contains("system:node:late"), "a node, and no more than that");
}
