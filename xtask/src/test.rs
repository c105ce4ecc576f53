//! Runs every suite: the pure functions' tables, then the real binaries from outside.

use std::process::Command;

use anyhow::bail;
use clap::Args;

use crate::{
    build,
    cluster::{host, slot},
    install,
};

#[derive(Args)]
pub struct Flags {
    /// Only tests whose name contains this (nextest's filter).
    filter: Vec<String>,
}

pub fn run(flags: &Flags) -> anyhow::Result<()> {
    install::ensure(install::for_tests())?;
    build::release()?;
    let witnesses = install::witnesses()?;
    ensure_nextest()?;
    // One engine for all suites: starting it for each cluster takes longer than the cluster.
    let _hold = slot::Hold::take("test")?;
    host::ensure_docker()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let suites: [(&[&str], &str); 2] = [
        (&["--workspace"], "etcd"),
        // Once more what asks the API from outside: the embedded store is to make no difference.
        (&["-p", "tests", "--test", "blackbox"], "embedded"),
    ];
    let mut failed = Vec::new();
    for (suite, storage) in suites {
        let status = Command::new(&cargo)
            .args(["nextest", "run", "--no-fail-fast", "--no-tests=pass"])
            .args(suite)
            .args(&flags.filter)
            .current_dir(build::workspace())
            .env("COXSWAIN_BIN", build::target_dir().join("release"))
            .env("COXSWAIN_KUBECTL", &witnesses.kubectl)
            .env("COXSWAIN_PYTHON", &witnesses.python)
            .env("COXSWAIN_STORAGE", storage)
            .status()?;
        if !status.success() {
            failed.push(storage);
        }
    }
    if !failed.is_empty() {
        bail!("tests failed over {}", failed.join(" and "));
    }
    Ok(())
}

fn ensure_nextest() -> anyhow::Result<()> {
    if Command::new("cargo").args(["nextest", "--version"]).output().is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    eprintln!("cargo-nextest is missing: it runs the tests; installing it from crates.io");
    build::cargo(&["install", "--locked", "cargo-nextest"])
}
