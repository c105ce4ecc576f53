//! Ties the server together: store, cache, who may do what, and the tasks behind them.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission,
    allocate::{self, Allocator},
    audit::Audit,
    authn,
    authz::{self, Authorizer},
    bootstrap,
    encryption::store::Encrypted,
    fairness::{self, Fairness},
    flags::{Flags, Storage},
    health::Health,
    kinds::Kinds,
    metrics::Metrics,
    server::Server,
    store::{
        Store,
        embedded::Embedded,
        etcd::{self, Etcd},
        timed::Timed,
    },
    subresource::tunnel::{Dialer, KubeletFiles},
    tasks,
    watch_cache::Cache,
};

/// Builds the server and starts what runs behind it on `tasks`. Does not wait for etcd. Once `terminating` is
/// cancelled the server drains, after a delay.
pub async fn assemble(flags: Flags, terminating: CancellationToken, tasks: &TaskTracker) -> Result<Arc<Server>> {
    let shutdown = CancellationToken::new();
    let kinds = Arc::new(Kinds::built_in());
    let metrics = Metrics::default();
    let mut store = store(&flags, tasks).await?;
    if let Some(file) = &flags.etcd.encryption_provider_config {
        let encrypted = Encrypted::new(store, kinds.clone(), file, &flags.etcd.etcd_prefix);
        store = Arc::new(encrypted.with_context(|| format!("--encryption-provider-config {}", file.display()))?);
    }
    let store: Arc<dyn Store> = Arc::new(Timed::new(store, kinds.clone(), metrics.clone()));
    let cache = Arc::new(Cache::new(store.clone(), kinds.clone()));
    for name in flags.access.enable_admission_plugins.iter().chain(&flags.access.disable_admission_plugins) {
        anyhow::ensure!(admission::is_known(name), "admission plugin {name:?} is not one of this server's");
    }
    let chain = authz::assemble::chain(&flags.authorization)?;
    let authorizer = Authorizer::new(chain, bootstrap::objects::node_rules(), &*cache);
    let services = &flags.services;
    let (allocator, released) =
        Allocator::new(&services.service_cluster_ip_range, services.service_node_port_range, &*cache);
    let dialer = Dialer::new(&kubelet_files(&flags), bootstrap::own_address(&flags), shutdown.clone())
        .context("--kubelet-client-certificate")?;
    let (authenticator, used_legacy) = authn::assemble::authenticator(&flags, cache.clone())?;
    let issuer = authn::assemble::issuer(&flags.tokens)?;
    let drained = CancellationToken::new();
    let audit = Audit::new(&flags.audit, metrics.registry(), tasks, &drained)?;
    let seats = flags.max_requests_inflight + flags.max_mutating_requests_inflight;
    let fairness = flags
        .enable_priority_and_fairness
        .then(|| Fairness::new(seats, flags.request_timeout, &*cache, metrics.registry()));
    let server = Arc::new(Server {
        authenticator,
        authorizer,
        audit,
        fairness,
        issuer,
        kinds,
        store,
        cache: cache.clone(),
        allocator: Arc::new(allocator),
        quotas: Default::default(),
        dialer,
        health: Health::default(),
        metrics,
        terminating,
        shutdown,
        drained,
        flags,
    });
    let drained = server.drained.clone();
    tasks.spawn(async move { cache.run(drained).await });
    tasks.spawn(tasks::drain(server.clone()));
    // The Service `kubernetes` leads elsewhere before this server stops to listen.
    tasks.spawn(bootstrap::run(server.clone(), server.terminating.clone()));
    tasks.spawn(tasks::compact(server.clone()));
    tasks.spawn(tasks::note_used_tokens(server.clone(), used_legacy));
    if let Some(fairness) = server.fairness.clone() {
        tasks.spawn(fairness::run(server.clone(), fairness));
    }
    let release = allocate::release(server.clone(), released);
    let stopped = server.shutdown.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = release => {}
            () = stopped.cancelled() => {}
        }
    });
    Ok(server)
}

fn kubelet_files(flags: &Flags) -> KubeletFiles {
    let kubelet = flags.kubelet.clone();
    KubeletFiles {
        client_certificate: kubelet.kubelet_client_certificate,
        client_key: kubelet.kubelet_client_key,
        certificate_authority: kubelet.kubelet_certificate_authority,
    }
}

async fn store(flags: &Flags, tasks: &TaskTracker) -> Result<Arc<dyn Store>> {
    if flags.storage.storage == Storage::Embedded {
        let folder = flags.storage.data_dir.as_deref().context("--storage=embedded needs --data-dir")?;
        return Ok(Arc::new(Embedded::open(folder).await.context("--data-dir")?));
    }
    anyhow::ensure!(!flags.etcd.etcd_servers.is_empty(), "--etcd-servers says where etcd is");
    let etcd = Etcd::connect(etcd_config(flags)?).context("--etcd-servers")?;
    let checked = etcd.clone();
    tasks.spawn(async move {
        if let Err(error) = checked.check_version().await {
            tracing::warn!(%error, "etcd's version is not known");
        }
    });
    Ok(Arc::new(etcd))
}

fn etcd_config(flags: &Flags) -> Result<etcd::Config> {
    let tls = match (&flags.etcd.etcd_cafile, &flags.etcd.etcd_certfile, &flags.etcd.etcd_keyfile) {
        (Some(ca), Some(cert), Some(key)) => {
            Some(etcd::Tls { authority: ca.clone(), certificate: cert.clone(), key: key.clone() })
        }
        (None, None, None) => None,
        _ => anyhow::bail!("--etcd-cafile, --etcd-certfile and --etcd-keyfile go together"),
    };
    Ok(etcd::Config { endpoints: flags.etcd.etcd_servers.clone(), tls, prefix: flags.etcd.etcd_prefix.clone() })
}
