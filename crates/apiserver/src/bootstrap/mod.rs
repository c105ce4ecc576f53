//! The objects that stand in every cluster: upstream's roles and bindings, flow control,
//! priority classes, namespaces and the `kubernetes` Service. Made and mended at start; the few
//! that the cluster cannot be without are put back whenever they change.

mod endpoints;
pub mod objects;
pub mod reconcile;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use api_types::{ApiError, Key, jiff::Timestamp, options::WriteOptions, resources};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    allocate::{
        claims::{self, Claims},
        repair::{self, Repair},
    },
    flags::Flags,
    reader::{Changes, Reader},
    server::Server,
    verbs::{Changed, create::now},
};
use objects::{Settings, Wanted};
use reconcile::Step;

/// Objects written at the same time.
const CONCURRENCY: usize = 32;
/// Between tries while the store does not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Writes what is missing, says so to health, and keeps what must be kept until `shutdown`.
pub async fn run(server: Arc<Server>, shutdown: CancellationToken) {
    let (settings, own) = (settings(&server.flags), own_address(&server.flags));
    let work = async {
        if let Err(why) = server.cache.catch_up().await {
            tracing::warn!(%why, "bootstrap waits for the store");
            while server.cache.catch_up().await.is_err() {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
        until_written(&server, objects::namespaces()).await;
        until_written(&server, objects::objects(&settings)).await;
        endpoints::start(&server, own).await;
        server.health.is_bootstrapped.store(true, Ordering::Release);
        tracing::info!("bootstrapped");
        repair_claims(&server).await;
        tokio::join!(keep(&server, &settings), endpoints::keep(&server, own));
    };
    tokio::select! {
        () = shutdown.cancelled() => endpoints::leave(&server, own).await,
        () = work => {}
    }
}

/// Where the cluster reaches this server.
pub fn own_address(flags: &Flags) -> SocketAddr {
    let bind = flags.serving.bind_address;
    let advertised = flags.advertise_address.or((!bind.is_unspecified()).then_some(bind));
    SocketAddr::new(advertised.unwrap_or_else(outward_address), flags.port())
}

fn settings(flags: &Flags) -> Settings {
    Settings {
        secure_port: flags.port(),
        service_ranges: flags.services.service_cluster_ip_range.clone(),
        authentication: authentication(flags),
        day: Timestamp::now().strftime("%Y-%m-%d").to_string(),
    }
}

/// Lists are published as JSON in a text, as upstream does.
fn authentication(flags: &Flags) -> BTreeMap<String, String> {
    let proxy = &flags.authentication.proxy;
    let mut published = BTreeMap::new();
    for (key, path) in [
        ("client-ca-file", &flags.serving.client_ca_file),
        ("requestheader-client-ca-file", &proxy.requestheader_client_ca_file),
    ] {
        let Some(path) = path else { continue };
        match std::fs::read_to_string(path) {
            Ok(pem) => published.insert(key.to_owned(), pem),
            Err(why) => {
                tracing::warn!(path = %path.display(), %why, "an authority is not published");
                continue;
            }
        };
    }
    if proxy.requestheader_client_ca_file.is_some() {
        for (key, names) in [
            ("requestheader-allowed-names", &proxy.requestheader_allowed_names),
            ("requestheader-username-headers", &proxy.requestheader_username_headers),
            ("requestheader-uid-headers", &proxy.requestheader_uid_headers),
            ("requestheader-group-headers", &proxy.requestheader_group_headers),
            ("requestheader-extra-headers-prefix", &proxy.requestheader_extra_headers_prefix),
        ] {
            published.insert(key.to_owned(), json!(names).to_string());
        }
    }
    published
}

/// The address from which this machine reaches others. Connecting a datagram socket sends nothing.
fn outward_address() -> IpAddr {
    let probe = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect(("192.0.2.1", 9))?;
        socket.local_addr()
    });
    probe.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |local| local.ip())
}

async fn until_written(server: &Arc<Server>, mut left: Vec<Wanted>) {
    loop {
        let written = left.into_iter().map(|wanted| ensure_one(server.clone(), wanted));
        let failed: Vec<Option<Wanted>> = stream::iter(written).buffer_unordered(CONCURRENCY).collect().await;
        left = failed.into_iter().flatten().collect();
        if left.is_empty() {
            return;
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Returns what is worth another try. What the rules refuse today they refuse tomorrow: it is
/// reported, and nothing waits for it.
async fn ensure_one(server: Arc<Server>, wanted: Wanted) -> Option<Wanted> {
    let why = ensure(&server, &wanted).await.err()?;
    let (kind, name) = (&wanted.resource.kind, &wanted.object["metadata"]["name"]);
    if matches!(why.code(), 400 | 403 | 422) {
        tracing::error!(%kind, %name, %why, "bootstrap object refused");
        return None;
    }
    tracing::warn!(%kind, %name, %why, "bootstrap object not written; trying again");
    Some(wanted)
}

async fn ensure(server: &Arc<Server>, wanted: &Wanted) -> Result<(), ApiError> {
    let key = key(wanted);
    let existing = server.cache.get(wanted.resource, &key);
    let written = match reconcile::step(wanted, existing.as_deref()) {
        Step::Keep => return ensure_condition(server, wanted).await,
        Step::Create(object) => server.create_own(wanted.resource, object).await.map(|_| ()),
        Step::Recreate(object) => {
            server.delete_own(wanted.resource, key, &Default::default()).await?;
            server.create_own(wanted.resource, object).await.map(|_| ())
        }
        Step::Update(_) => {
            let change = |object: &mut Value| {
                if let Step::Update(mended) = reconcile::step(wanted, Some(object)) {
                    *object = mended;
                }
                Ok(())
            };
            server.update_own(wanted.resource, key, change).await.map(|_| ())
        }
    };
    match written {
        // Another apiserver was first.
        Err(refusal) if refusal.is_already_exists() => {}
        result => result?,
    }
    ensure_condition(server, wanted).await
}

fn key(wanted: &Wanted) -> Key {
    let text = |field: &str| wanted.object["metadata"][field].as_str().unwrap_or_default();
    Key::new(text("namespace"), text("name"))
}

/// Writes the condition that an object has from the start. Another that stands there is somebody's.
async fn ensure_condition(server: &Arc<Server>, wanted: &Wanted) -> Result<(), ApiError> {
    let Some(condition) = &wanted.condition else { return Ok(()) };
    let has_any = |object: &Value| object["status"]["conditions"].as_array().is_some_and(|list| !list.is_empty());
    if server.cache.get(wanted.resource, &key(wanted)).is_some_and(|object| has_any(&object)) {
        return Ok(());
    }
    let change = |old: &Value| {
        let mut object = old.clone();
        if !has_any(old) {
            let mut condition = condition.clone();
            condition["lastTransitionTime"] = json!(now());
            object["status"]["conditions"] = json!([condition]);
        }
        Ok(Changed::new(object))
    };
    let mut ask = server.own(wanted.resource, key(wanted))?;
    ask.subresource = "status".to_owned();
    ask.update(&change, &WriteOptions::default()).await.map(|_| ())
}

/// After a crash between the writes of a Service and of its claims.
async fn repair_claims(server: &Arc<Server>) {
    let services = server.cache.list(&resources::SERVICE, "");
    let addresses = server.cache.list(&resources::IP_ADDRESS, "");
    let (services, addresses) = (services.iter().map(|object| &**object), addresses.iter().map(|object| &**object));
    let mut steps = repair::plan(services.clone(), addresses, Timestamp::now());
    match claims::ports(server).await {
        Ok(claims) => steps.extend(repair::ports(services, &claims, Timestamp::now())),
        Err(why) => tracing::warn!(%why, "the claims of node ports were not repaired"),
    }
    for step in steps {
        let done = match step {
            Repair::Create(object) => server.create(object).await.map(|_| ()),
            Repair::Delete { name, uid } => server.delete(name, uid).await,
            // Taken by another apiserver's repair, if not by this one's.
            Repair::Claim(port, claim) => server.claim_port(port, claim).await.map(|_| ()),
            Repair::Free { port, uid } => server.free_port(port, uid, u64::MAX).await,
        };
        if let Err(why) = done.or_else(|why| if why.is_already_exists() { Ok(()) } else { Err(why) }) {
            tracing::warn!(%why, "a claim was not repaired");
        }
    }
}

/// Puts namespaces, the `kubernetes` Service and flow control back when somebody takes them away.
async fn keep(server: &Arc<Server>, settings: &Settings) {
    let service = objects::kubernetes_service(settings);
    let kept: Vec<Wanted> = objects::namespaces().into_iter().chain([service]).chain(objects::flow()).collect();
    let changed = Arc::new(Notify::new());
    for wanted in &kept {
        let (key, changed) = (key(wanted), changed.clone());
        server.cache.subscribe(
            wanted.resource,
            Box::new(move |touched, _| {
                if *touched == key {
                    changed.notify_one();
                }
            }),
        );
    }
    loop {
        changed.notified().await;
        until_written(server, kept.clone()).await;
    }
}
