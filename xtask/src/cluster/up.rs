//! Brings a cluster up, step by step, and says how to use it. Each step makes only what
//! is missing, so that a second run mends what has ended.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::Value;

use super::{Cluster, Shape, Storage, absolute, certs, components, host, images, network, process, slot, wait};

const PATIENCE: Duration = Duration::from_secs(90);

/// When each step was done, counted from the start.
pub struct Times(pub Vec<(String, Duration)>);

/// `storage`: as it is, or etcd in a new cluster, if nothing is said.
pub fn up(dir: &Path, shape: Shape, storage: Option<Storage>) -> anyhow::Result<Times> {
    let mut progress = Progress { begun: Instant::now(), times: Vec::new() };
    let cluster = prepare(dir, shape, storage)?;
    progress.step("certificates made");
    if shape != Shape::ControlPlane {
        host::ensure_docker()?;
        progress.step("container engine runs");
        images::ensure()?;
        progress.step("images imported");
        network::create(&cluster)?;
        progress.step("network made");
    }
    for component in components::all(&cluster) {
        start(&cluster, &component)?;
    }
    progress.step("daemons started");
    wait::until("the apiserver is ready", PATIENCE, || wait::get(&cluster, "/readyz"))
        .with_context(|| format!("see {}", cluster.log("kube-apiserver").display()))?;
    progress.step("apiserver ready");
    if shape != Shape::ControlPlane {
        nodes_ready(&cluster, &mut progress)?;
        dns(&cluster)?;
        progress.step("DNS answers");
    }
    println!("{}", usage(&cluster));
    Ok(Times(progress.times))
}

/// Takes a slot for the cluster and issues its certificates. Nothing runs yet.
pub fn prepare(dir: &Path, shape: Shape, storage: Option<Storage>) -> anyhow::Result<Cluster> {
    let dir = absolute(dir);
    let cluster = match Cluster::load(&dir)? {
        Some(found) => Cluster { shape: widest(found.shape, shape), ..found },
        None => Cluster { slot: slot::take(&dir)?, dir, shape, storage: storage.unwrap_or_default() },
    };
    anyhow::ensure!(
        storage.is_none_or(|storage| storage == cluster.storage),
        "the cluster in {} has another storage, and objects do not move: take it down first",
        cluster.dir.display()
    );
    cluster.save()?;
    certs::issue(&cluster)?;
    Ok(cluster)
}

fn start(cluster: &Cluster, component: &components::Component) -> anyhow::Result<bool> {
    process::start(&component.command, &cluster.log(&component.name), &cluster.pid_file(&component.name))
}

/// Starts etcd alone and waits until it serves.
pub fn start_store(cluster: &Cluster) -> anyhow::Result<()> {
    start(cluster, &components::etcd(cluster))?;
    wait::until("etcd serves", PATIENCE, || wait::store_is_healthy(cluster).then_some(()))
}

/// Starts the apiserver alone and does not wait.
pub fn start_apiserver(cluster: &Cluster) -> anyhow::Result<process::Process> {
    let component = components::apiserver(cluster);
    start(cluster, &component)?;
    process::Process::from_file(&cluster.pid_file(&component.name)).context("the apiserver ended at once")
}

/// A cluster only grows.
fn widest(found: Shape, asked: Shape) -> Shape {
    let nodes = |shape| match shape {
        Shape::ControlPlane => 0,
        Shape::Nodes(nodes) => nodes,
    };
    if nodes(asked) > nodes(found) { asked } else { found }
}

struct Progress {
    begun: Instant,
    times: Vec<(String, Duration)>,
}

impl Progress {
    fn step(&mut self, what: &str) {
        let elapsed = self.begun.elapsed();
        eprintln!("[{:6.2} s] {what}", elapsed.as_secs_f32());
        self.times.push((what.to_owned(), elapsed));
    }
}

fn nodes_ready(cluster: &Cluster, progress: &mut Progress) -> anyhow::Result<()> {
    let names: Vec<String> = (1..=cluster.node_count()).map(|node| cluster.node_name(node)).collect();
    let node = |name: &String| wait::get_json(cluster, &format!("/api/v1/nodes/{name}"));
    let pod_networks = wait::until("every node has a pod network", PATIENCE, || {
        names.iter().map(|name| node(name)?["spec"]["podCIDR"].as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
    })
    .with_context(|| format!("see {}", cluster.log("kube-controller-manager").display()))?;
    network::route(cluster, &pod_networks)?;
    wait::until("every node is Ready", PATIENCE, || {
        names.iter().all(|name| node(name).is_some_and(|node| is_ready(&node))).then_some(())
    })
    .with_context(|| format!("see {}", cluster.log("kubelet-1").display()))?;
    progress.step(&format!("{} of {} nodes Ready", names.len(), names.len()));
    Ok(())
}

fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
}

/// Deploys cluster DNS as pods and waits until it answers on its Service address.
fn dns(cluster: &Cluster) -> anyhow::Result<()> {
    let file = crate::build::workspace().join("deploy/manifests/cluster-dns.yaml");
    let text = fs::read_to_string(&file)
        .with_context(|| file.display().to_string())?
        .replace("10.96.0.10", &cluster.dns_address().to_string());
    let manifest = cluster.dir.join("cluster-dns.yaml");
    fs::write(&manifest, text)?;
    crate::install::run(
        std::process::Command::new(crate::build::binary("cox"))
            .arg("--kubeconfig")
            .arg(cluster.kubeconfig("admin"))
            .args(["apply", "-f"])
            .arg(&manifest),
    )?;
    wait::until("cluster DNS answers", PATIENCE, || {
        wait::dns_answers(cluster.dns_address(), "kubernetes.default.svc.cluster.local")
    })
    .with_context(|| format!("see the logs in {}", cluster.dir.join("log").display()))?;
    Ok(())
}

fn usage(cluster: &Cluster) -> String {
    let kubeconfig = cluster.kubeconfig("admin");
    let cox = crate::build::binary("cox");
    format!(
        "\nThe cluster is up.\n\n  export KUBECONFIG={}\n  kubectl get nodes                  # or: {} get nodes\n  \
         kubectl create deployment web --image={} --replicas=3\n\n  logs      {}\n  stop      cargo xtask down --dir {}\n",
        kubeconfig.display(),
        cox.display(),
        images::TESTBOX,
        cluster.dir.join("log").display(),
        cluster.dir.display(),
    )
}
