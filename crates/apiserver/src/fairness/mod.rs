//! Priority and fairness: each request belongs to a flow of a priority level; a level has seats of its own, lends
//! what it does not use, and lets its flows take turns. Who floods waits behind itself.
//!
//! Source: KEP-1040. Classification reads an immutable table that is made anew whenever a schema or level changes.

pub mod estimate;
pub mod metrics;
pub mod queues;
pub mod schema;
pub mod seat;
pub mod shares;
mod status;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api_types::{
    ApiError, Object,
    k8s::flowcontrol::{FlowSchema, PriorityLevelConfiguration},
};
use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Notify;

use crate::{
    authn::User, authz::Attributes, bootstrap::objects, kinds::Kinds, reader::Changes, request::Request,
    watch_cache::Cache,
};
use estimate::Stored;
use metrics::{Meters, Metrics};
use queues::{Discipline, Refusal, Work};
use schema::{LevelSpec, Schema};
use seat::{Level, Permit};
pub use status::run;

/// Between two adjustments of what levels lend and borrow.
const ADJUSTMENT_PERIOD: Duration = Duration::from_secs(10);
/// A request waits in a queue for this part of the time that it may take.
const WAIT_FRACTION: u32 = 4;
const RETRY_AFTER_S: i32 = 1;
/// Objects that are measured to know the size of a resource's objects.
const SAMPLE: usize = 8;

/// One schema and the level that its requests go to.
pub struct Flow {
    schema: Schema,
    pub level: Arc<Level>,
    pub meters: Meters,
    schema_uid: HeaderValue,
    level_uid: HeaderValue,
    seats_max: u32,
}

impl Flow {
    /// Tells the client where it was put.
    pub fn label(&self, headers: &mut HeaderMap) {
        headers.insert("X-Kubernetes-PF-FlowSchema-UID", self.schema_uid.clone());
        headers.insert("X-Kubernetes-PF-PriorityLevel-UID", self.level_uid.clone());
    }
}

/// What the objects in the cluster make of the server's seats.
#[derive(Default)]
struct Table {
    /// In the order in which they are tried; the last takes everything.
    flows: Vec<Arc<Flow>>,
}

/// The objects as they are now.
#[derive(Default)]
struct Objects {
    schemas: BTreeMap<String, (Schema, status::Dangling)>,
    levels: BTreeMap<String, LevelSpec>,
    /// Levels at work, by name.
    working: BTreeMap<String, Arc<Level>>,
}

/// See the module's text.
pub struct Fairness {
    seats: u32,
    wait_max: Duration,
    table: ArcSwap<Table>,
    objects: Mutex<Objects>,
    metrics: Metrics,
    /// A schema or level has changed.
    changed: Notify,
}

impl Fairness {
    /// Follows the cluster's schemas and levels through `changes`.
    pub fn new(
        seats: usize,
        request_timeout: Duration,
        changes: &dyn Changes,
        registry: &daemon::metrics::Registry,
    ) -> Arc<Self> {
        let fairness = Arc::new(Self {
            seats: u32::try_from(seats).unwrap_or(u32::MAX),
            wait_max: request_timeout / WAIT_FRACTION,
            table: ArcSwap::default(),
            objects: Mutex::default(),
            metrics: Metrics::new(registry),
            changed: Notify::new(),
        });
        fairness.rebuild(&mut fairness.objects.lock());
        let follower = fairness.clone();
        changes.subscribe(
            PriorityLevelConfiguration::RESOURCE,
            Box::new(move |key, object| {
                let mut objects = follower.objects.lock();
                objects.levels.remove(&key.name);
                if let Some(level) = object.and_then(read::<PriorityLevelConfiguration>) {
                    objects.levels.insert(key.name.clone(), LevelSpec::read(&level));
                }
                follower.rebuild(&mut objects);
            }),
        );
        let follower = fairness.clone();
        changes.subscribe(
            FlowSchema::RESOURCE,
            Box::new(move |key, object| {
                let mut objects = follower.objects.lock();
                objects.schemas.remove(&key.name);
                if let Some(schema) = object.and_then(read::<FlowSchema>) {
                    let entry = (Schema::read(&schema), status::Dangling::read(&schema));
                    objects.schemas.insert(key.name.clone(), entry);
                }
                follower.rebuild(&mut objects);
            }),
        );
        fairness
    }

    /// Makes the table anew. Levels that are gone work on until their last request has ended.
    fn rebuild(&self, objects: &mut Objects) {
        let mut levels: Vec<LevelSpec> = objects.levels.values().cloned().collect();
        let mut schemas: Vec<Schema> = objects.schemas.values().map(|(schema, _)| schema.clone()).collect();
        mandatory(&mut levels, &mut schemas);
        objects.working.retain(|name, _| levels.iter().any(|level| level.name == *name));
        for level in &levels {
            let fresh = || Arc::new(Level::new(level.name.clone(), level.discipline));
            objects.working.entry(level.name.clone()).or_insert_with(fresh);
        }
        let limits = self.adjust_levels(&levels, &objects.working);
        let uid = |uid: &str| HeaderValue::from_str(uid).unwrap_or(HeaderValue::from_static(""));
        let flows = schemas.into_iter().filter_map(|schema| {
            let at = levels.iter().position(|level| level.name == schema.level)?;
            let hand_size = match levels[at].discipline {
                Discipline::Queue(queuing) => Some(queuing.hand_size),
                Discipline::Exempt | Discipline::Reject => None,
            };
            Some(Arc::new(Flow {
                level: objects.working[&schema.level].clone(),
                meters: self.metrics.flow(&schema.level, &schema.name),
                schema_uid: uid(&schema.uid),
                level_uid: uid(&levels[at].uid),
                seats_max: match levels[at].discipline {
                    Discipline::Exempt => u32::MAX,
                    Discipline::Reject | Discipline::Queue(_) => estimate::seats_max(limits[at].nominal, hand_size),
                },
                schema,
            }))
        });
        self.table.store(Arc::new(Table { flows: flows.collect() }));
        self.changed.notify_one();
    }

    /// Lets levels lend and borrow by what they asked for since the last time.
    pub fn adjust(&self) {
        let objects = self.objects.lock();
        let mut levels: Vec<LevelSpec> = objects.levels.values().cloned().collect();
        mandatory(&mut levels, &mut Vec::new());
        self.adjust_levels(&levels, &objects.working);
    }

    fn adjust_levels(&self, levels: &[LevelSpec], working: &BTreeMap<String, Arc<Level>>) -> Vec<shares::Bounds> {
        let all: Vec<shares::Share> = levels.iter().map(|level| level.share).collect();
        let bounds = shares::bounds(self.seats, &all);
        let demands = levels.iter().map(|level| working[&level.name].take_demand());
        let items: Vec<_> = all.iter().zip(&bounds).zip(demands).map(|((s, b), d)| (*s, *b, d)).collect();
        let (grants, fair) = shares::adjust(&items);
        for ((level, (_, bounds, demand)), grant) in levels.iter().zip(&items).zip(&grants) {
            let progress = working[&level.name].configure(level.discipline, grant.seats);
            self.metrics.adjusted(&level.name, bounds, demand, grant, progress);
        }
        self.metrics.fair_fraction(fair);
        bounds
    }

    /// The flow that a request belongs to.
    pub fn classify(&self, user: &User, request: &Attributes<'_>) -> Arc<Flow> {
        let table = self.table.load();
        let found = table.flows.iter().find(|flow| flow.schema.matches(user, request));
        // An identity without any group is in no schema: the last is for whom nothing else is.
        found.or(table.flows.last()).expect("the catch-all schema is always there").clone()
    }

    /// Waits for the request's turn.
    pub async fn admit(
        &self,
        flow: &Arc<Flow>,
        user: &User,
        request: &Attributes<'_>,
        work: Work,
    ) -> Result<Permit, ApiError> {
        let hash = flow.schema.flow(user, request);
        seat::take(flow, hash, work, self.wait_max).await.map_err(|refusal| match refusal {
            Refusal::ConcurrencyLimit | Refusal::QueueFull | Refusal::TimeOut => {
                ApiError::too_many_requests("Too many requests, please try again later.", RETRY_AFTER_S)
            }
        })
    }
}

/// What is there although somebody has taken it away, in its place.
fn mandatory(levels: &mut Vec<LevelSpec>, schemas: &mut Vec<Schema>) {
    for object in objects::flow_objects() {
        if !objects::MANDATORY_FLOW.iter().any(|name| object["metadata"]["name"] == *name) {
            continue;
        }
        if object["kind"] == "FlowSchema" {
            let schema = read::<FlowSchema>(&object).map(|schema| Schema::read(&schema));
            schemas.extend(schema.filter(|schema| !schemas.iter().any(|found| found.name == schema.name)));
        } else {
            let level = read::<PriorityLevelConfiguration>(&object).map(|level| LevelSpec::read(&level));
            levels.extend(level.filter(|level| !levels.iter().any(|found| found.name == level.name)));
        }
    }
    schemas.sort_by(|a, b| a.order().cmp(&b.order()));
}

fn read<T: DeserializeOwned>(object: &Value) -> Option<T> {
    T::deserialize(object)
        .inspect_err(
            |error| tracing::warn!(name = %object["metadata"]["name"], %error, "flow control ignores an object"),
        )
        .ok()
}

/// What a request takes of its level.
pub fn work(cache: &Cache, kinds: &Kinds, request: &Request, flow: &Flow) -> Work {
    let Some(target) = &request.target else { return Work::ONE_SEAT };
    let begins_with_a_list = || request.query.flag("sendInitialEvents") == Some(true);
    let is_list = request.verb == "list" || (request.verb == "watch" && begins_with_a_list());
    let is_write = matches!(request.verb, "create" | "update" | "patch" | "delete");
    if !is_list && !is_write {
        return Work::ONE_SEAT;
    }
    let Some(kind) = kinds.find(&target.group, &target.version, &target.resource) else { return Work::ONE_SEAT };
    let shelf = cache.shelf(&kind.storage);
    if is_write {
        return estimate::write(u32::try_from(shelf.watchers()).unwrap_or(u32::MAX), flow.seats_max);
    }
    let snapshot = shelf.snapshot();
    let sizes: Vec<u64> = snapshot.range("", "", &[]).take(SAMPLE).map(|item| item.stored().len() as u64).collect();
    let average_bytes = sizes.iter().sum::<u64>() / (sizes.len() as u64).max(1);
    let stored = Stored { objects: snapshot.len() as u64, average_bytes };
    let limit = request.query.text("limit").parse().unwrap_or(0);
    estimate::list(stored, limit, !target.authorized_name.is_empty(), flow.seats_max)
}
