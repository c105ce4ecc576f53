//! cluster-dns: answers for the names of Services and pods, and hands on the rest.

mod answer;
mod flags;
mod follow;
mod forward;
mod metrics;
mod serve;
#[cfg(test)]
mod wire_tests;
mod zone;

use anyhow::Context;
use daemon::{
    metrics::{CONTENT_TYPE, Registry},
    plain,
    serve::{bind, reply, text},
};
use http::StatusCode;

const NAME: &str = "cluster-dns";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags: flags::Flags = daemon::flags::parse_with_config(&[]);
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
    let sockets = serve::bind(&flags.listen).await?;
    serve::serve(sockets, serve::Questions::new(current, forwarder, metrics), shutdown).await?;
    for task in plain.into_iter().chain([follow]) {
        task.await.context("a task ended badly")?;
    }
    Ok(())
}
