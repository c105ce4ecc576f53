//! kube-apiserver: read the flags, build, serve until a signal, drain.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use apiserver::{assemble::assemble, connections, flags::Flags, serve::Front};
use tokio_util::task::TaskTracker;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> Result<()> {
    let flags: Flags = daemon::flags::parse();
    daemon::start("kube-apiserver", &flags.log);
    // What is free goes back to the system also while nothing is asked of this server.
    if let Err(error) = tikv_jemalloc_ctl::background_thread::write(true) {
        tracing::info!(%error, "free memory is given back late");
    }
    let terminating = daemon::shutdown();
    let proxy_ca = flags.authentication.proxy.requestheader_client_ca_file.as_deref();
    let tls = flags.serving.tls_also_for("kube-apiserver", proxy_ca).context("TLS of the API's port")?;
    let address = SocketAddr::new(flags.serving.bind_address, flags.port());
    let listener =
        tokio::net::TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    tracing::info!(%address, "serving");
    let tasks = TaskTracker::new();
    let server = assemble(flags, terminating, &tasks).await?;
    connections::serve(Arc::new(Front::new(server.clone())), listener, tls).await;
    server.dialer.drain().await;
    server.drained.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(())
}
