//! namespace: what is in a namespace goes with it, pods first, and then the namespace itself.
//!
//! Source: kubernetes/pkg/controller/namespace/deletion.

mod plan;

use std::sync::Arc;

use api_types::{
    Key, Object, Resource, Verb,
    jiff::Timestamp,
    k8s::core::{self, Namespace},
    resources,
};
use bytes::Bytes;
use client::{Cache, Change, Client, Error, PartialObject, Queue, Recorder};
use futures::future::try_join_all;
use http::Method;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::{
    caches::Subscriptions,
    everything::{Everything, Known},
    execute::{Executor, Trace},
    journal::Journal,
    reconcile::reasons,
};
use plan::{Contents, View};

pub const NAME: &str = "namespace-controller";
pub const ACCOUNT: &str = "namespace-controller";
const WORKERS: usize = 10;
/// Read in a last look: one of a kind is enough to go on waiting.
const LAST_LOOK: &str = "?limit=1";

/// Wakes namespaces that are going.
pub fn watch(to: &mut Subscriptions, queue: &Queue<Key>) {
    let wake = queue.clone();
    to.namespaces.push(Box::new(move |_, change| {
        if change.object().is_terminating() && !matches!(change, Change::Deleted(_)) {
            wake.add(change.object().key());
        }
    }));
}

/// Wakes a namespace when something in it went.
pub fn watch_contents(
    queue: &Queue<Key>,
) -> impl Fn(&Everything, &Known, &Change<PartialObject>) + Send + Sync + 'static {
    let queue = queue.clone();
    move |_, known, change| {
        // Others than those that are going find nothing to do at once.
        if !known.object.namespace().is_empty() && matches!(change, Change::Deleted(_) | Change::Updated { .. }) {
            queue.add(Key::cluster(known.object.namespace()));
        }
    }
}

/// What the controller runs with.
pub struct Means {
    pub client: Client,
    pub namespaces: Cache<core::Namespace>,
    pub everything: Arc<Everything>,
    pub queue: Queue<Key>,
    pub journal: Arc<Journal>,
}

/// Runs until `shutdown`.
pub async fn run(means: Means, shutdown: CancellationToken) {
    let executor =
        Executor::new(means.client.clone(), means.client.clone(), Recorder::new(means.client.clone(), NAME, ""));
    let queue = means.queue.clone();
    let turns = Arc::new(Turns { means, executor });
    client::controller::run(NAME, queue, WORKERS, shutdown, move |key: Key| {
        let turns = Arc::clone(&turns);
        async move { turns.turn(&key).await }
    })
    .await;
}

struct Turns {
    means: Means,
    executor: Executor,
}

#[derive(Deserialize)]
struct Listing {
    #[serde(default)]
    items: Option<Vec<PartialObject>>,
}

impl Turns {
    async fn turn(&self, key: &Key) -> Result<(), Error> {
        let Some(namespace) = self.means.namespaces.get(key).filter(|it| it.is_terminating()) else { return Ok(()) };
        let mut found = self.means.everything.in_namespace(&key.name);
        if found.is_empty() {
            // What was admitted just before the end may not show in the caches yet.
            found = self.last_look(&namespace).await?;
        }
        let view = View { namespace, contents: Contents::of(&found), unlisted: self.unlisted(), now: Timestamp::now() };
        let plan = plan::plan(&view);
        self.means.journal.explain(NAME, &resources::NAMESPACE, key, reasons(NAME, &plan));
        let report = self.executor.execute(&plan.actions).await;
        for written in &report.written {
            if let Trace::Version(version) = &written.trace {
                self.means.namespaces.seen(version).await;
            }
        }
        report.failure.map_or(Ok(()), |(_, error)| Err(error))
    }

    async fn last_look(&self, namespace: &Namespace) -> Result<Vec<Known>, Error> {
        let rows = self.means.everything.rows().into_iter();
        let listable = rows.filter(|row| row.is_namespaced() && row.verbs.contains(Verb::List) && !is_event(row));
        let looks = listable.map(|resource| async move {
            let path = format!("{}{LAST_LOOK}", resource.path(namespace.name()));
            let body = match self.means.client.request(Method::GET, &path, "application/json", Bytes::new()).await {
                // The kind has gone with its CRD.
                Err(error) if error.is_not_found() => return Ok(Vec::new()),
                body => body?,
            };
            let list: Listing =
                serde_json::from_slice(&body).map_err(|error| Error::Decode { what: path, why: error.to_string() })?;
            let known = |object| Known { resource: Arc::clone(&resource), object: Arc::new(object) };
            Ok::<_, Error>(list.items.unwrap_or_default().into_iter().map(known).collect())
        });
        Ok(try_join_all(looks).await?.into_iter().flatten().collect())
    }

    /// Kinds that no cache follows.
    fn unlisted(&self) -> Vec<Arc<Resource>> {
        let rows = self.means.everything.rows().into_iter();
        let unwatched =
            |row: &Arc<Resource>| row.is_namespaced() && row.verbs.contains(Verb::DeleteCollection) && is_event(row);
        rows.filter(unwatched).collect()
    }
}

/// Events come without end and hold nothing up.
fn is_event(resource: &Resource) -> bool {
    resource.plural == "events" && resource.group.is_empty() || resource.group == "events.k8s.io"
}
