//! kube-controller-manager: brings what is there to what is asked for.

use anyhow::{Context, bail};
use client::{
    Config,
    lease::{self, End},
};
use controller_manager::{
    controllers::{self, Start},
    flags::Flags,
};
use daemon::{
    access::Access,
    diagnosis::Ledger,
    serve::{self, Checks, Ops},
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const NAME: &str = "kube-controller-manager";
const PORT: u16 = 10257;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags: Flags = daemon::flags::parse();
    daemon::start(NAME, &flags.log);
    let shutdown = daemon::shutdown();
    let settings = flags.settings()?;
    let config = Config::load(flags.client.kubeconfig.as_deref()).context("give a valid --kubeconfig")?;
    let client = flags.client.client(NAME)?;
    let ledger = Ledger::new(NAME);
    if let Some(address) = flags.serving.address(PORT) {
        let ops = Ops {
            metrics: daemon::metrics::Registry::default(),
            checks: Checks::default(),
            diagnosis: Some(ledger.clone()),
            access: Access::delegated(client.clone()),
        };
        let listener = serve::bind(address).await?;
        tokio::spawn(ops.serve(listener, flags.serving.tls(NAME)?, shutdown.clone()));
    }

    let elect = flags.election.leader_elect;
    let lease = flags.election.lease(NAME, flags.serving.address(PORT));
    let start = Start { flags, settings, config, client: client.clone(), ledger };
    // Boxed, as it holds everything that the controllers start with.
    let work = |stop| {
        Box::pin(async {
            if let Err(error) = controllers::run(start, stop).await {
                tracing::error!(%error, "controllers cannot run");
            }
        })
    };
    if !elect {
        work(shutdown).await;
        return Ok(());
    }
    match lease::lead(client, lease, shutdown, work).await {
        End::ShutDown | End::Finished => Ok(()),
        End::Lost => bail!("leadership was lost; another replica goes on"),
    }
}
