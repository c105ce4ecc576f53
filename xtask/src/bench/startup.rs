//! From `up` to the first pod, and what each daemon costs when nothing happens.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    build,
    cluster::{self, Cluster, Shape, Storage, process, wait},
    install,
};

/// Measured from its creation to Running.
const FIRST_POD: &str = include_str!("../../../benches/first-pod.json");
const DIR: &str = ".cluster-bench";
const PATIENCE: Duration = Duration::from_secs(60);

pub fn run(idle: Duration) -> anyhow::Result<()> {
    install::ensure(install::for_cluster(Shape::Nodes(1), Storage::Etcd))?;
    build::release()?;
    cluster::down(Path::new(DIR))?;
    let measured = startup(idle);
    cluster::down(Path::new(DIR))?;
    measured
}

fn startup(idle: Duration) -> anyhow::Result<()> {
    let times = cluster::up(Path::new(DIR), Shape::Nodes(1), None)?;
    let cluster = Cluster::load(Path::new(DIR))?.expect("it was just started");
    let begun = Instant::now();
    wait::create(&cluster, "/api/v1/namespaces/default/pods", &serde_json::from_str(FIRST_POD)?)?;
    wait::until("the pod runs", PATIENCE, || {
        let pod = wait::get_json(&cluster, "/api/v1/namespaces/default/pods/first")?;
        (pod["status"]["phase"] == "Running").then_some(())
    })?;
    let running = begun.elapsed();

    println!("\n| from `up`, binaries built | s |\n|---|---|");
    for (what, at) in &times.0 {
        println!("| {what} | {:.2} |", at.as_secs_f32());
    }
    println!("| pod created to Running | {:.2} |", running.as_secs_f32());

    println!("\n| daemon | RSS MB | idle CPU % of a core |\n|---|---|---|");
    let before: Vec<_> = daemons(&cluster);
    #[allow(clippy::disallowed_methods)] // idleness is what is measured
    std::thread::sleep(idle);
    for (name, process, used) in before {
        let Some(now) = process::usage(process) else { continue };
        let cpu = (now.cpu - used.cpu).as_secs_f64() / idle.as_secs_f64() * 100.0;
        println!("| {name} | {:.1} | {cpu:.2} |", now.resident_bytes as f64 / 1e6);
    }
    Ok(())
}

fn daemons(cluster: &Cluster) -> Vec<(String, process::Process, process::Usage)> {
    let names = cluster::component_names(cluster);
    let running = names.into_iter().filter_map(|name| {
        let process = process::Process::from_file(&cluster.pid_file(&name))?;
        Some((name, process, process::usage(process)?))
    });
    running.collect()
}
