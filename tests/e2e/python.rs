//! The Python client (PyPI `kubernetes`), a client of other people's making.

use std::process::Command;

use tests::cluster;

/// Issue 2, "Shown by" 2.
#[test]
fn the_python_client_creates_lists_watches_and_deletes() {
    let cluster = cluster!(1);
    let Some(python) = std::env::var_os("COXSWAIN_PYTHON") else {
        eprintln!("skipped: no Python client; run `cargo xtask test`");
        return;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/client.py");
    let output =
        Command::new(python).arg(script).env("KUBECONFIG", cluster.kubeconfig("admin")).output().expect("python runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.ends_with("all done\n"), "{said}");
}
