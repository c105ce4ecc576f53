//! Puts the kubelet together and runs it: what is built in which order, and who waits for whom at the end.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use anyhow::Context;
use api_types::k8s::core::{Node, Pod, Service};
use client::{Cache, Client, Config, Recorder};
use daemon::{
    access::Access,
    diagnosis::Ledger,
    metrics::Registry,
    serve::{self, Checks, Ops},
    tls,
};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    certificate::{self, Certificate, Purpose},
    flags::Flags,
    host::{Host, Machine, Settings},
    network::{Dirs, Network},
    node::{
        lease, machine,
        register::{Creates, Registration},
        status::{self, Identity},
    },
    objects::Objects,
    pod::files::Resolver,
    pods::{self, Pods},
    runtime::{Runtime, docker::Engine, labels::Owner},
    server::Server,
    static_pods,
};

/// Runs until `shutdown`. Containers go on without their kubelet.
pub async fn run(flags: Flags, shutdown: CancellationToken) -> anyhow::Result<()> {
    let facts = machine::facts();
    let node = flags.hostname_override.clone().unwrap_or_else(|| facts.hostname.clone());
    let api = certificate::client(&flags, &node, &shutdown).await?;
    fs::create_dir_all(&flags.root_dir).with_context(|| format!("--root-dir {}", flags.root_dir.display()))?;
    let owner = Owner { node: node.clone(), cluster: cluster_id(&flags)? };
    let engine =
        Engine::connect(&flags.container_runtime_endpoint, owner, flags.host_network_container.as_deref()).await;
    let runtime: Arc<dyn Runtime> = Arc::new(engine.context("--container-runtime-endpoint")?);
    let identity = identity(&flags, node, facts, runtime.version());
    let pods = Arc::new(Pods::new(shutdown.clone()));
    let host = Arc::new(host(&flags, &identity, api.clone(), runtime, &pods, &shutdown)?);

    let tasks = TaskTracker::new();
    let changed = Arc::new(Notify::new());
    let mirrors_changed = Arc::new(Notify::new());
    let api_pods = watch_pods(&host, &pods, &mirrors_changed, &shutdown);
    let registration = Registration {
        host: host.clone(),
        nodes: Arc::new(watch_node(&host, &changed, &shutdown)),
        identity,
        creates: if flags.register_node { Creates::Yes } else { Creates::No },
        changed,
    };
    tasks.spawn(registration.run(shutdown.clone()));
    tasks.spawn(lease::renew(api.clone(), host.settings.node.clone(), shutdown.clone()));
    if flags.rotate_certificates {
        let certificate = certificate::client_certificate(&flags, &host.settings.node);
        tasks.spawn(certificate.renew(api, shutdown.clone()));
    }
    if flags.port != 0 {
        listen(&flags, &host, &pods, &tasks, &shutdown).await?;
    }
    tasks.spawn(pods::follow_runtime(host.clone(), pods.clone(), shutdown.clone()));
    if let Some(dir) = flags.pod_manifest_path.clone() {
        let follow = static_pods::follow(
            dir,
            host.clone(),
            pods.clone(),
            api_pods.clone(),
            mirrors_changed.clone(),
            shutdown.clone(),
        );
        tasks.spawn(async move {
            if let Err(error) = follow.await {
                tracing::error!(%error, "static pods are not run");
            }
        });
    }
    tasks.spawn({
        let (host, pods, known, shutdown) = (host.clone(), pods.clone(), mirrors_changed.clone(), shutdown.clone());
        async move {
            tokio::select! {
                () = api_pods.synced() => {}
                () = shutdown.cancelled() => return,
            }
            // Now static pods get their mirrors, and who is not known is nobody's.
            known.notify_one();
            pods::tidy(host, pods, shutdown).await;
        }
    });

    shutdown.cancelled().await;
    tasks.close();
    tasks.wait().await;
    pods.wait().await;
    Ok(())
}

/// Opens the kubelet's own port.
async fn listen(
    flags: &Flags,
    host: &Arc<Host>,
    pods: &Arc<Pods>,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let listener = serve::bind((flags.address, flags.port).into()).await?;
    let own = serving_certificate(flags, &host.settings)?;
    let tls = tls(flags, &host.settings.node, own.as_ref())?;
    tasks.spawn(server(flags, host, pods).serve(listener, tls, shutdown.clone()));
    if let Some(own) = own {
        tasks.spawn(own.renew(host.api.clone(), shutdown.clone()));
    }
    Ok(())
}

fn server(flags: &Flags, host: &Arc<Host>, pods: &Arc<Pods>) -> Server {
    let ops = Ops {
        metrics: Registry::default(),
        checks: Checks::default(),
        diagnosis: Some(host.ledger.clone()),
        access: Access::delegated(host.api.clone()),
    };
    Server {
        node: host.settings.node.clone(),
        pods: pods.clone(),
        runtime: host.runtime.clone(),
        ops,
        config: flags.configuration(),
    }
}

/// The certificate that the kubelet asks for itself, if it is to; until it is signed, one that nobody trusts.
fn serving_certificate(flags: &Flags, settings: &Settings) -> anyhow::Result<Option<Certificate>> {
    if !flags.rotate_server_certificates {
        return Ok(None);
    }
    let own = Certificate {
        purpose: Purpose::Server,
        node: settings.node.clone(),
        addresses: settings.node_ips.clone(),
        folder: flags.cert_dir.clone(),
    };
    if !own.current().exists() {
        let pair = tls::self_signed_pair(&settings.node)?;
        own.store(&pair.certificate_pem, &pair.key_pem)?;
    }
    Ok(Some(own))
}

/// By the kubelet's own certificate, the files named, or those of --cert-dir, or one in memory that nobody trusts.
fn tls(flags: &Flags, node: &str, own: Option<&Certificate>) -> anyhow::Result<tls::ReloadingServerConfig> {
    let named = own.map(|own| (own.current(), own.current()));
    let named = named.or_else(|| flags.tls_cert_file.clone().zip(flags.tls_private_key_file.clone()));
    let own = (flags.cert_dir.join("kubelet.crt"), flags.cert_dir.join("kubelet.key"));
    let client_cas: Vec<PathBuf> = flags.client_ca_file.iter().cloned().collect();
    match named.or_else(|| own.0.exists().then_some(own)) {
        Some((certificate, key)) => Ok(tls::server_config(&certificate, &key, &client_cas, tls::ClientAuth::Optional)?),
        None => Ok(tls::self_signed(node, &client_cas)?),
    }
}

fn identity(flags: &Flags, name: String, facts: machine::Facts, runtime_version: String) -> Identity {
    let mut ips = flags.node_ip.clone();
    if ips.is_empty() {
        ips.extend(machine::default_address());
    }
    Identity {
        name,
        ips,
        port: flags.port,
        max_pods: flags.max_pods,
        labels: flags.node_labels.clone().unwrap_or_default().0,
        taints: flags.register_with_taints.clone(),
        facts,
        runtime_version,
    }
}

/// A digest of the cluster's authority, unless a flag says otherwise.
fn cluster_id(flags: &Flags) -> anyhow::Result<String> {
    if let Some(id) = &flags.cluster_id {
        return Ok(id.clone());
    }
    let config = Config::load(flags.client.kubeconfig.as_deref())?;
    let mut authority = Sha256::new();
    config.authority()?.iter().for_each(|certificate| authority.update(certificate));
    Ok(authority.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect())
}

fn host(
    flags: &Flags,
    identity: &Identity,
    api: Client,
    runtime: Arc<dyn Runtime>,
    pods: &Arc<Pods>,
    shutdown: &CancellationToken,
) -> anyhow::Result<Host> {
    let dirs = Dirs {
        bin: flags.cni_bin_dir.clone(),
        conf: flags.cni_conf_dir.clone(),
        state: flags.root_dir.join("network"),
    };
    let wake = pods.clone();
    let objects = Objects::new(api.clone(), Arc::new(move |uid| wake.wake_objects_changed(uid)), shutdown.clone());
    let usage = machine::usage(&flags.root_dir);
    Ok(Host {
        settings: Settings {
            node: identity.name.clone(),
            node_ips: identity.ips.clone(),
            root: absolute(&flags.root_dir)?,
            cluster_dns: flags.cluster_dns.iter().map(ToString::to_string).collect(),
            cluster_domain: flags.cluster_domain.clone(),
            resolver: Resolver::parse(&fs::read_to_string(&flags.resolv_conf).unwrap_or_default()),
        },
        machine: Machine {
            memory_bytes: identity.facts.memory_bytes,
            allocatable: status::allocatable(identity, &usage),
            may_lower_oom_score: identity.facts.may_lower_oom_score,
        },
        runtime,
        network: Network::new(dirs, &flags.cni_bridge)?,
        recorder: Recorder::new(api.clone(), "kubelet", &identity.name),
        ledger: Ledger::new("kubelet"),
        objects,
        tokens: Default::default(),
        services: Cache::<Service>::builder(api.clone()).start(shutdown.clone()),
        api,
    })
}

/// The engine has to find the same files.
fn absolute(path: &PathBuf) -> anyhow::Result<PathBuf> {
    fs::canonicalize(path).with_context(|| format!("--root-dir {}", path.display()))
}

fn watch_pods(
    host: &Arc<Host>,
    pods: &Arc<Pods>,
    mirrors_changed: &Arc<Notify>,
    shutdown: &CancellationToken,
) -> Arc<Cache<Pod>> {
    let (heard, told, mirrors) = (host.clone(), pods.clone(), mirrors_changed.clone());
    let cache = Cache::<Pod>::builder(host.api.clone())
        .fields(&format!("spec.nodeName={}", host.settings.node))
        .on_change(move |change| {
            told.heard(&heard, change);
            if static_pods::is_mirror(change.object()) {
                mirrors.notify_one();
            }
        })
        .start(shutdown.clone());
    Arc::new(cache)
}

fn watch_node(host: &Arc<Host>, changed: &Arc<Notify>, shutdown: &CancellationToken) -> Cache<Node> {
    let changed = changed.clone();
    // The CIDR as far as the network has been told of it.
    let known: OnceLock<String> = OnceLock::new();
    Cache::<Node>::builder(host.api.clone())
        .fields(&format!("metadata.name={}", host.settings.node))
        .on_change(move |change| {
            let cidr = change.object().spec.as_ref().and_then(|spec| spec.pod_cidr.clone());
            // Only this may make the node ready; its own heartbeats are no news.
            if let Some(cidr) = cidr.filter(|_| known.get().is_none()) {
                let _first = known.set(cidr);
                changed.notify_one();
            }
        })
        .start(shutdown.clone())
}
