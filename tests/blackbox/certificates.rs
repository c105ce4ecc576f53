//! Certificates that change under running daemons (issue 4, PKI), and what a machine is told about its security.

use std::{fs, process::Command};

use serde_json::json;
use tests::{Component, control_plane, eventually};

/// The certificate that the server shows now, PEM without white space at its ends.
fn shown(server: &str) -> String {
    let script = "import ssl,sys; print(ssl.get_server_certificate((sys.argv[1], int(sys.argv[2]))))";
    let (host, port) = server.trim_start_matches("https://").split_once(':').expect("host:port");
    let python = std::env::var_os("COXSWAIN_PYTHON").unwrap_or_else(|| "python3".into());
    let output = Command::new(python).args(["-c", script, host, port]).output().expect("python runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn a_renewed_certificate_is_served_without_a_restart() {
    let cluster = control_plane!();
    let pki = cluster.dir().join("pki");
    let certificate = || fs::read_to_string(pki.join("apiserver.crt")).expect("a certificate").trim().to_owned();
    let first = certificate();
    assert_eq!(shown(&cluster.server()), first);
    let pid = cluster.pid(Component::Apiserver);

    let folder = pki.to_str().expect("a path");
    let output = cluster.cox(&["certs", "renew", "--dir", folder, "apiserver"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "apiserver renewed\n");
    assert_ne!(certificate(), first);
    eventually("the new certificate is shown", || (shown(&cluster.server()) == certificate()).then_some(()));
    cluster.get("/api/v1/namespaces").expect(200);
    assert_eq!(cluster.pid(Component::Apiserver), pid);
}

/// etcd gets another authority, and certificates of it; the apiserver follows while it runs.
#[test]
fn a_new_authority_for_etcd_needs_no_restart() {
    let cluster = control_plane!("--storage=etcd");
    let pid = cluster.pid(Component::Apiserver);
    for name in ["etcd-ca", "etcd", "apiserver-etcd-client"] {
        for extension in ["crt", "key"] {
            fs::remove_file(cluster.dir().join("pki").join(format!("{name}.{extension}"))).expect("a file of the PKI");
        }
    }
    cluster.kill(Component::Etcd);
    cluster.up();
    let object = json!({"metadata": {"name": "after"}});
    eventually("the apiserver writes again", || {
        (cluster.post("/api/v1/namespaces/default/configmaps", &object).code == 201).then_some(())
    });
    assert_eq!(cluster.pid(Component::Apiserver), pid);
}

#[test]
fn certificates_are_counted_and_nothing_is_due_in_a_new_cluster() {
    let cluster = control_plane!();
    let folder = cluster.dir().join("pki");
    let output = cluster.cox(&["certs", "check", "--dir", folder.to_str().expect("a path")]);
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{table}");
    for name in ["apiserver", "apiserver-etcd-client", "front-proxy-client", "etcd-ca", "controller-manager"] {
        assert!(table.lines().any(|line| line.starts_with(&format!("{name} ")) && line.ends_with("good")), "{table}");
    }
}

/// A default install passes the CIS Benchmark's items, or says why one does not apply.
#[test]
fn the_doctor_finds_nothing_wrong_with_a_default_install() {
    let cluster = control_plane!("--storage=etcd");
    let output = cluster.cox(&["doctor", "security", "--dir", cluster.dir().to_str().expect("a path")]);
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    let failures: Vec<&str> = report.lines().filter(|line| line.starts_with("FAIL")).collect();
    assert!(output.status.success() && failures.is_empty(), "{}", failures.join("\n"));
    assert!(report.lines().filter(|line| line.starts_with("PASS")).count() > 30, "{report}");
}
