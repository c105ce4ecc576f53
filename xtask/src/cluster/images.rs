//! Images made on this machine: no registry is asked. An image is a tar of a few files,
//! imported through the engine's API; a dynamic binary brings the libraries it names.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

use super::host;
use crate::{build::binary, install::run};

pub const BUSYBOX: &str = "busybox:1.35";
pub const TESTBOX: &str = "coxswain/testbox:1";
/// The same, for a Deployment to roll to.
const TESTBOX_NEXT: &str = "coxswain/testbox:2";
pub const CLUSTER_DNS: &str = "coxswain/cluster-dns:latest";
pub const ALL: &[&str] = &[BUSYBOX, TESTBOX, TESTBOX_NEXT, CLUSTER_DNS, "coxswain/pause:1"];
/// The daemons that compose runs as containers.
const DAEMONS: &[&str] =
    &["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "cluster-dns"];

/// The images that a cluster needs, each made anew when what it holds has changed.
pub fn ensure() -> anyhow::Result<()> {
    busybox()?;
    for image in [TESTBOX, TESTBOX_NEXT] {
        single(image, &binary("testbox"), "testbox")?;
    }
    single(CLUSTER_DNS, &binary("cluster-dns"), "cluster-dns")
}

/// All images, those of the daemons included.
pub fn build_all() -> anyhow::Result<()> {
    ensure()?;
    for daemon in DAEMONS {
        single(&format!("coxswain/{daemon}:latest"), &binary(daemon), daemon)?;
    }
    single("coxswain/etcd:latest", Path::new("/usr/bin/etcd"), "etcd")
}

fn busybox() -> anyhow::Result<()> {
    let program = ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .context("busybox-static is not installed")?;
    build(BUSYBOX, &program, "sh", |root| {
        let bin = root.join("bin");
        fs::create_dir_all(&bin)?;
        fs::copy(&program, bin.join("busybox"))?;
        for applet in run(Command::new(&program).arg("--list"))?.lines().filter(|applet| *applet != "busybox") {
            symlink("busybox", bin.join(applet))?;
        }
        Ok(())
    })
}

/// An image that holds one program at `/name`, and what it links to.
fn single(image: &str, program: &Path, name: &str) -> anyhow::Result<()> {
    build(image, program, &format!("/{name}"), |root| {
        fs::copy(program, root.join(name))?;
        for library in libraries(program)? {
            let to = root.join(library.strip_prefix("/").expect("ldd prints absolute paths"));
            fs::create_dir_all(to.parent().expect("a library lies in a folder"))?;
            fs::copy(&library, to)?;
        }
        Ok(())
    })
}

/// What a dynamic binary loads at start; nothing for a static one.
fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let listing = run(Command::new("ldd").arg(program)).unwrap_or_default();
    Ok(listing.split_whitespace().filter(|word| word.starts_with("/lib")).map(PathBuf::from).collect())
}

/// Lays out a root folder, and imports it as `image` unless that was made from the same program.
fn build(
    image: &str,
    program: &Path,
    entrypoint: &str,
    fill: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let stamp = stamp(program)?;
    let known = host::docker("GET", &format!("/images/{image}/json"), &[]).unwrap_or_default();
    if known.contains(&stamp) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let root = folder.path().join("root");
    for directory in ["etc", "tmp", "proc", "sys", "dev", "root"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    fill(&root)?;
    let tar = folder.path().join("image.tar");
    run(Command::new("tar").args(["--owner=0", "--group=0", "-C"]).arg(&root).arg("-cf").arg(&tar).arg("."))?;
    let (repository, tag) = image.split_once(':').expect("our images are tagged");
    let changes = [
        format!("{}={entrypoint}", if entrypoint == "sh" { "CMD" } else { "ENTRYPOINT" }).replace('=', " [\"") + "\"]",
        "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        format!("LABEL io.coxswain.stamp={stamp}"),
    ];
    let query: String = changes.iter().map(|change| format!("&changes={}", percent(change))).collect();
    let reply = host::docker(
        "POST",
        &format!("/images/create?fromSrc=-&repo={repository}&tag={tag}{query}"),
        &["-H", "Content-Type: application/x-tar", "-H", "Expect:", "-T", &tar.display().to_string()],
    )?;
    anyhow::ensure!(!reply.contains("\"error\""), "{image}: {reply}");
    Ok(())
}

/// Changes when the program does.
fn stamp(program: &Path) -> anyhow::Result<String> {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(fs::read(program).with_context(|| program.display().to_string())?);
    Ok(digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => (byte as char).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}
