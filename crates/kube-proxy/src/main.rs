//! kube-proxy: leads connections to Services to their endpoints, by nftables.

mod apply;
mod conntrack;
mod flags;
mod health;
mod layout;
#[cfg(test)]
mod live_tests;
mod metrics;
mod proxy;
mod render;
mod ruleset;

use anyhow::Context;
use api_types::jiff::Timestamp;
use daemon::{
    metrics::{CONTENT_TYPE, Registry},
    plain,
    serve::{self, reply},
};
use http::StatusCode;

const NAME: &str = "kube-proxy";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags: flags::Flags = daemon::flags::parse_with_config(flags::CONFIG_FIELDS);
    daemon::start(NAME, &flags.log);
    let shutdown = daemon::shutdown();
    let settings = flags.settings()?;
    if flags.cleanup {
        let text: String = settings.layouts.iter().map(render::nothing).collect();
        return Ok(apply::apply(&text).await?);
    }
    let client = flags.client.client(NAME).context("cannot reach the cluster: give a valid --kubeconfig")?;
    let registry = Registry::default();
    let metrics = metrics::Metrics::register(&registry);
    let progress = health::Progress::default();

    let healthz = tokio::spawn(plain::serve(serve::bind(settings.healthz).await?, shutdown.clone(), {
        let progress = progress.clone();
        move |path| progress.answer(path, Timestamp::now())
    }));
    let scrape =
        tokio::spawn(plain::serve(serve::bind(settings.metrics).await?, shutdown.clone(), move |path| match path {
            "/metrics" => reply(StatusCode::OK, CONTENT_TYPE, registry.text()),
            "/healthz" | "/livez" => serve::text(StatusCode::OK, "ok"),
            "/proxyMode" => serve::text(StatusCode::OK, "nftables"),
            _ => serve::text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }));

    proxy::run(client, settings, progress, metrics, shutdown).await;
    healthz.await.context("the health port ended badly")?;
    scrape.await.context("the metrics port ended badly")?;
    Ok(())
}
