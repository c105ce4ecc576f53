//! kube-scheduler: assigns pods to nodes, or says why it cannot.

mod affinity;
mod bind;
mod caches;
mod cycle;
mod facts;
mod flags;
mod mailbox;
mod metrics;
mod plugins;
mod preempt;
mod queue;
mod report;
mod resources;
mod scheduler;
mod snapshot;
mod spread;

use anyhow::{Context, bail};
use client::lease::{self, End};
use daemon::{
    access::Access,
    diagnosis::Ledger,
    metrics::Registry,
    serve::{self, Checks, Ops},
};

const NAME: &str = "kube-scheduler";
const PORT: u16 = 10259;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags: flags::Flags = daemon::flags::parse_with_config(flags::CONFIG_FIELDS);
    daemon::start(NAME, &flags.log);
    let shutdown = daemon::shutdown();
    let settings = flags.settings()?;
    let client = flags.client.client(NAME).context("cannot reach the cluster: give a valid --kubeconfig")?;
    let ledger = Ledger::new(NAME);
    let registry = Registry::default();
    let metrics = metrics::Metrics::register(&registry);
    let address = flags.serving.address(PORT);

    let mut ops = None;
    if let Some(address) = address {
        let served = Ops {
            metrics: registry,
            checks: Checks::default(),
            diagnosis: Some(ledger.clone()),
            access: Access::delegated(client.clone()),
        };
        let listener = serve::bind(address).await?;
        ops = Some(tokio::spawn(served.serve(listener, flags.serving.tls(NAME)?, shutdown.clone())));
    }

    let work = |stop| scheduler::run(client.clone(), settings, ledger, metrics, stop);
    let end = if flags.election.leader_elect {
        Box::pin(lease::lead(client.clone(), flags.election.lease(NAME, address), shutdown, work)).await
    } else {
        work(shutdown).await;
        End::ShutDown
    };
    if end == End::Lost {
        bail!("leadership was lost; another replica goes on");
    }
    if let Some(ops) = ops {
        ops.await.context("the ops port ended badly")?;
    }
    Ok(())
}
