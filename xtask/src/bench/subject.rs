//! The apiserver that is measured: one that is started here, or the one that a kubeconfig names.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context;
use client::{Client, Config};
use tokio::time::sleep;

use crate::cluster::{self, Cluster, Shape, process};

/// In memory, so that a disk's moods are not measured.
const DIR: &str = "/dev/shm/coxswain-bench";
const USER_AGENT: &str = "coxswain-bench";
const READY_PATIENCE: Duration = Duration::from_secs(60);
const READY_POLL: Duration = Duration::from_millis(5);
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// See the module's text.
pub struct Subject {
    config: Config,
    meter: Meter,
    own: Option<Cluster>,
}

/// How its consumption is read.
enum Meter {
    /// It runs here: the kernel's figures.
    Process(process::Process),
    /// It runs elsewhere: its own.
    Metrics,
}

/// What a start took, until readyz.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    pub took: Duration,
    pub used: process::Usage,
}

impl Subject {
    /// A running apiserver. `pid`: its process, if it runs on this machine.
    pub fn given(kubeconfig: &Path, pid: Option<i32>) -> anyhow::Result<Self> {
        let meter = match pid {
            Some(pid) => Meter::Process(process::Process::of(pid).with_context(|| format!("no process {pid}"))?),
            None => Meter::Metrics,
        };
        Ok(Self { config: Config::from_kubeconfig(kubeconfig)?, meter, own: None })
    }

    /// Our own on an empty etcd, from the built binaries.
    pub async fn start() -> anyhow::Result<(Self, Start)> {
        cluster::down(Path::new(DIR))?;
        let cluster = cluster::prepare(Path::new(DIR), Shape::ControlPlane, None)?;
        cluster::start_store(&cluster)?;
        let (process, start, config) = started(&cluster).await?;
        Ok((Self { config, meter: Meter::Process(process), own: Some(cluster) }, start))
    }

    /// Stops our own apiserver and starts it again; `None` if it is not ours.
    pub async fn restart(&mut self) -> anyhow::Result<Option<Start>> {
        let (Some(cluster), Meter::Process(process)) = (&self.own, &self.meter) else { return Ok(None) };
        process.stop(STOP_PATIENCE);
        let (process, start, _) = started(cluster).await?;
        self.meter = Meter::Process(process);
        Ok(Some(start))
    }

    /// Takes away what [`Subject::start`] made.
    pub fn stop(self) -> anyhow::Result<()> {
        if self.own.is_some() { cluster::down(Path::new(DIR)) } else { Ok(()) }
    }

    /// A connection of its own.
    pub fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::new(self.config.clone(), USER_AGENT)?)
    }

    /// What the apiserver has used since it began.
    pub async fn used(&self) -> anyhow::Result<process::Usage> {
        match self.meter {
            Meter::Process(process) => process::usage(process).context("the apiserver has ended"),
            Meter::Metrics => {
                let text = self.client()?.request(http::Method::GET, "/metrics", "", Default::default()).await?;
                let text = std::str::from_utf8(&text)?;
                let value = |name: &str| -> anyhow::Result<f64> {
                    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
                    Ok(line.and_then(|line| line.rsplit(' ').next()).with_context(|| format!("no {name}"))?.parse()?)
                };
                Ok(process::Usage {
                    cpu: Duration::from_secs_f64(value("process_cpu_seconds_total")?),
                    resident_bytes: value("process_resident_memory_bytes")? as u64,
                })
            }
        }
    }
}

/// Starts the apiserver and waits until it is ready.
async fn started(cluster: &Cluster) -> anyhow::Result<(process::Process, Start, Config)> {
    let kubeconfig: PathBuf = cluster.kubeconfig("admin");
    let config = Config::from_kubeconfig(&kubeconfig)?;
    let begun = Instant::now();
    let process = cluster::start_apiserver(cluster)?;
    let mut client = Client::new(config.clone(), USER_AGENT)?;
    loop {
        match client.request(http::Method::GET, "/readyz", "", Default::default()).await {
            Ok(_) => break,
            // A refusal comes over a connection that stands; one that failed makes its client wait before the next.
            Err(error) if error.api().is_none() => client = Client::new(config.clone(), USER_AGENT)?,
            Err(_) => {}
        }
        anyhow::ensure!(
            begun.elapsed() < READY_PATIENCE,
            "the apiserver does not get ready; see {}",
            cluster.dir.display()
        );
        sleep(READY_POLL).await;
    }
    let took = begun.elapsed();
    let used = process::usage(process).context("the apiserver has ended")?;
    Ok((process, Start { took, used }, config))
}
