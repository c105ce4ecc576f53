//! Where the tree and its binaries are, and how they are built.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::bail;

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace")
}

pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    }
}

/// Where the programs are: the release profile's folder, unless `COXSWAIN_BIN` names another.
pub fn binaries() -> PathBuf {
    std::env::var_os("COXSWAIN_BIN").map_or_else(|| target_dir().join("release"), PathBuf::from)
}

pub fn binary(name: &str) -> PathBuf {
    binaries().join(name)
}

/// Builds every release binary, with cargo's own progress on the terminal.
pub fn release() -> anyhow::Result<()> {
    cargo(&["build", "--release", "--workspace", "--exclude", "tests", "--exclude", "xtask"])?;
    testbox()
}

/// The test image's only file: static, so that its image needs nothing else.
fn testbox() -> anyhow::Result<()> {
    cargo(&["rustc", "--release", "--package", "testbox", "--", "-C", "target-feature=+crt-static"])
}

pub fn cargo(arguments: &[&str]) -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo).args(arguments).current_dir(workspace()).status()?;
    if !status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    Ok(())
}
