//! cluster-dns: answers for the names of Services and pods, and hands on the rest.

mod answer;
mod follow;
mod forward;
mod metrics;
mod serve;
mod zone;

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context;
use clap::Parser;
use daemon::{
    ClientFlags, LogFlags,
    metrics::{CONTENT_TYPE, Registry},
    plain,
    serve::{bind, reply, text},
};
use http::StatusCode;

const NAME: &str = "cluster-dns";

#[derive(Debug, Parser)]
#[command(name = NAME, version, about = "The cluster's DNS server.")]
struct Flags {
    #[command(flatten)]
    log: LogFlags,
    #[command(flatten)]
    client: ClientFlags,
    /// A file with these flags as fields.
    #[arg(long)]
    config: Option<PathBuf>,
    /// The cluster's domain.
    #[arg(long, default_value = "cluster.local")]
    domain: String,
    /// Where to answer by UDP and TCP.
    #[arg(long, value_delimiter = ',', default_value = "0.0.0.0:53")]
    listen: Vec<SocketAddr>,
    /// Who is asked for other names: addresses, with a port or without, or a file like resolv.conf.
    #[arg(long, value_delimiter = ',', default_value = "/etc/resolv.conf")]
    forward: Vec<String>,
    /// Where `/health` says that the process lives.
    #[arg(long, default_value = "0.0.0.0:8080")]
    health_address: SocketAddr,
    /// Where `/ready` says that the zone is complete.
    #[arg(long, default_value = "0.0.0.0:8181")]
    ready_address: SocketAddr,
    #[arg(long, default_value = "0.0.0.0:9153")]
    metrics_address: SocketAddr,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags: Flags = daemon::flags::parse_with_config(&[]);
    daemon::start(NAME, &flags.log);
    let shutdown = daemon::shutdown();
    let client = flags.client.client(NAME).context("cannot reach the cluster: give a valid --kubeconfig")?;
    let registry = Registry::default();
    let metrics = metrics::Metrics::register(&registry);
    let zone = zone::Zone::new(&flags.domain);
    let current = serve::Current::new(zone.clone());
    let forwarder = forward::Forwarder::new(&flags.forward, &flags.listen)?;

    let ready = current.clone();
    let not_found = || text(StatusCode::NOT_FOUND, "404 page not found\n");
    let plain = [
        tokio::spawn(plain::serve(bind(flags.health_address).await?, shutdown.clone(), move |path| match path {
            "/health" => text(StatusCode::OK, "OK"),
            _ => not_found(),
        })),
        tokio::spawn(plain::serve(bind(flags.ready_address).await?, shutdown.clone(), move |path| match path {
            "/ready" if ready.is_complete() => text(StatusCode::OK, "OK"),
            "/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "kubernetes"),
            _ => not_found(),
        })),
        tokio::spawn(plain::serve(bind(flags.metrics_address).await?, shutdown.clone(), move |path| match path {
            "/metrics" => reply(StatusCode::OK, CONTENT_TYPE, registry.text()),
            _ => not_found(),
        })),
    ];
    let follow = tokio::spawn(follow::follow(client, zone, current.clone(), shutdown.clone()));
    serve::serve(&flags.listen, serve::Questions::new(current, forwarder, metrics), shutdown).await?;
    for task in plain.into_iter().chain([follow]) {
        task.await.context("a task ended badly")?;
    }
    Ok(())
}
