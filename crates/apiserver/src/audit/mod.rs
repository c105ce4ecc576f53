//! The audit trail: who asked for what, as whom, and what came of it, as the policy says. A request carries its
//! [`Record`] in a task-local, so that a layer or an admission check can add to it without knowing who listens;
//! without a policy there is none, and nothing is done.

pub mod event;
pub mod flags;
pub mod log;
pub mod metrics;
pub mod policy;
pub mod sink;
pub mod webhook;

use std::{
    future::Future,
    io::Read,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context as TaskContext, Poll},
};

use anyhow::{Context, Result};
use api_types::{ApiError, jiff::Timestamp};
use bytes::Bytes;
use flate2::read::GzDecoder;
use http::{HeaderMap, Response, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    authn::User,
    authz::Decision,
    codec::{
        body::{self, Body, BodyError},
        decode, reply,
    },
    request::Request,
};
use event::{Arrival, Notes};
use flags::{AuditFlags, Format};
use log::Log;
use metrics::Metrics;
use policy::{Level, Policy, Stage};
use sink::Sink;

/// Of a reply that may be a `Status`, which is told at every level.
const STATUS_BYTES_MAX: u64 = 64 << 10;

tokio::task_local! {
    /// The record of the request that this task answers.
    static CURRENT: Arc<Record>;
}

/// The policy and where events go.
pub struct Audit {
    policy: Policy,
    backends: Vec<(Format, Sink)>,
    metrics: Metrics,
}

impl Audit {
    /// `None` without a policy and a backend. The backends run on `tasks` until `done`.
    pub fn new(
        flags: &AuditFlags,
        registry: &daemon::metrics::Registry,
        tasks: &TaskTracker,
        done: &CancellationToken,
    ) -> Result<Option<Arc<Self>>> {
        let Some(path) = &flags.audit_policy_file else { return Ok(None) };
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let (policy, unknown) =
            Policy::parse(&bytes).with_context(|| format!("--audit-policy-file {}", path.display()))?;
        if !unknown.is_empty() {
            tracing::warn!(path = %path.display(), ?unknown, "fields of the audit policy that mean nothing");
        }
        let metrics = Metrics::default();
        metrics.register(registry);
        let mut backends = Vec::new();
        if let Some(path) = &flags.audit_log_path {
            let log =
                Log::open(path, flags.retention()).with_context(|| format!("--audit-log-path {}", path.display()))?;
            let (sink, reader) = sink::queue("log", flags.audit_log_mode, flags.log_batching(), log, metrics.clone());
            tasks.spawn(reader.run(done.clone()));
            backends.push((flags.audit_log_format, sink));
        }
        if let Some(path) = &flags.audit_webhook_config_file {
            let webhook = webhook::Webhook::new(path, flags.audit_webhook_initial_backoff)
                .with_context(|| format!("--audit-webhook-config-file {}", path.display()))?;
            let batching = flags.webhook_batching();
            let (sink, reader) = sink::queue("webhook", flags.audit_webhook_mode, batching, webhook, metrics.clone());
            tasks.spawn(reader.run(done.clone()));
            backends.push((Format::Json, sink));
        }
        if backends.is_empty() {
            tracing::warn!("there is an audit policy, but neither --audit-log-path nor --audit-webhook-config-file");
            return Ok(None);
        }
        Ok(Some(Arc::new(Self { policy, backends, metrics })))
    }

    /// The record of a request that has just come.
    pub fn arrived<B>(
        self: &Arc<Self>,
        http: &http::Request<B>,
        request: &Request,
        peer: IpAddr,
        audit_id: &str,
    ) -> Arc<Record> {
        let arrival = Arrival::new(http, request, peer, audit_id, Timestamp::now());
        Arc::new(Record { audit: self.clone(), arrival, notes: Mutex::default(), is_finished: AtomicBool::new(false) })
    }
}

/// Answers a request with its record at hand.
pub async fn recorded<F: Future>(record: Option<Arc<Record>>, answering: F) -> F::Output {
    match record {
        Some(record) => CURRENT.scope(record, answering).await,
        None => answering.await,
    }
}

/// Lets a layer note something of the current request.
pub fn note(write: impl FnOnce(&mut Notes)) {
    let _not_audited = CURRENT.try_with(|record| write(&mut record.notes.lock()));
}

/// Adds an annotation such as `pod-security.kubernetes.io/enforce-policy` to the current request's events.
pub fn annotate(key: &str, value: impl FnOnce() -> String) {
    note(|notes| notes.annotate(key, value()));
}

/// Notes what authorisation said.
pub fn decided(decision: &Decision) {
    let (word, reason) = match decision {
        Decision::Allow { reason } => ("allow", reason),
        Decision::NoOpinion { reason } | Decision::Deny { reason } => ("forbid", reason),
    };
    annotate("authorization.k8s.io/decision", || word.to_owned());
    annotate("authorization.k8s.io/reason", || reason.clone());
}

/// It is known who asks: from here on the request is recorded as the policy says. Errs where an event must be
/// stored before anything is done, and cannot be.
pub async fn authenticated(user: &User) -> Result<(), ApiError> {
    let Ok(record) = CURRENT.try_with(Arc::clone) else { return Ok(()) };
    record.begin(Some(user));
    if record.emit(Stage::RequestReceived).await {
        return Ok(());
    }
    record.audit.metrics.rejected();
    Err(ApiError::internal("failed to store audit event"))
}

/// Credentials did not hold.
pub fn unauthenticated() {
    let _not_audited = CURRENT.try_with(|record| {
        record.begin(None);
        record.notes.lock().is_unauthenticated = true;
    });
}

/// One request on its way.
pub struct Record {
    audit: Arc<Audit>,
    arrival: Arrival,
    notes: Mutex<Notes>,
    /// The last event is out.
    is_finished: AtomicBool,
}

impl Record {
    fn begin(&self, user: Option<&User>) {
        let verdict = self.audit.policy.verdict(&self.arrival.request, user);
        self.audit.metrics.decided(verdict.level);
        let mut notes = self.notes.lock();
        notes.user = user.cloned();
        notes.verdict = Some(verdict);
    }

    /// The event of a stage for each backend, if the policy wants it.
    fn events(&self, stage: Stage) -> Vec<Bytes> {
        let notes = self.notes.lock();
        if !notes.wants(stage) {
            return Vec::new();
        }
        self.audit.metrics.sent();
        let event = |(format, _): &(Format, Sink)| match format {
            Format::Json => event::json(&self.arrival, &notes, stage, Timestamp::now()).into(),
            Format::Legacy => event::legacy(&self.arrival, &notes, stage).into(),
        };
        self.audit.backends.iter().map(event).collect()
    }

    async fn emit(&self, stage: Stage) -> bool {
        let mut is_stored = true;
        for (event, (_, sink)) in self.events(stage).into_iter().zip(&self.audit.backends) {
            is_stored &= sink.store(event).await;
        }
        is_stored
    }

    /// The request is refused with an error.
    pub fn refused(&self, refusal: &ApiError) {
        self.notes.lock().replied(&mut reply::status(refusal));
    }

    /// Records the reply before it is sent; the body of one that runs long tells its end itself.
    pub async fn answered(self: &Arc<Self>, response: Response<Body>, has_panicked: bool) -> Response<Body> {
        let (level, is_unauthenticated, is_long_running) = {
            let notes = self.notes.lock();
            (notes.level(), notes.is_unauthenticated, notes.is_long_running)
        };
        if level == Level::None {
            self.is_finished.store(true, Ordering::Release);
            return response;
        }
        let response = if is_long_running { response } else { self.read(response, level).await };
        self.notes.lock().code(response.status().as_u16());
        if is_long_running && response.status().is_success() {
            self.emit(Stage::ResponseStarted).await;
            let (parts, body) = response.into_parts();
            let lasting = Lasting { body, _record: self.clone() };
            return Response::from_parts(parts, lasting.boxed_unsync());
        }
        if is_long_running || is_unauthenticated {
            self.emit(Stage::ResponseStarted).await;
        }
        self.is_finished.store(true, Ordering::Release);
        if !is_unauthenticated {
            self.emit(if has_panicked { Stage::Panic } else { Stage::ResponseComplete }).await;
        }
        response
    }

    /// Notes a reply's object, where the level wants it or it may be a `Status`.
    async fn read(&self, response: Response<Body>, level: Level) -> Response<Body> {
        let is_refusal = self.notes.lock().response_status.is_some();
        let request = &self.arrival.request;
        let may_be_status = request.verb == "delete"
            || request.target.as_ref().is_some_and(|target| !target.subresource.is_empty() && request.verb == "create");
        let is_small = response.body().size_hint().exact().is_some_and(|size| size <= STATUS_BYTES_MAX);
        let wants = request.target.is_some() && (level == Level::RequestResponse || (may_be_status && is_small));
        if is_refusal || !wants {
            return response;
        }
        let (parts, body) = response.into_parts();
        // A body that breaks off has been noted by nobody, and the client sees an empty one.
        let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        if let Some(mut object) = object(&parts.headers, &bytes) {
            self.notes.lock().replied(&mut object);
        }
        Response::from_parts(parts, body::full(bytes))
    }
}

fn object(headers: &HeaderMap, bytes: &Bytes) -> Option<Value> {
    let is_gzip = headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding == "gzip");
    let mut plain = Vec::new();
    let bytes = if is_gzip {
        GzDecoder::new(bytes.as_ref()).read_to_end(&mut plain).ok()?;
        &plain[..]
    } else {
        &bytes[..]
    };
    match decode::media_type(headers) {
        "application/json" => serde_json::from_slice(bytes).ok(),
        "application/yaml" => decode::yaml(bytes).ok(),
        _ => None,
    }
}

/// Whatever ends a request ends its trail: the last piece of a stream, or a client that has gone.
impl Drop for Record {
    fn drop(&mut self) {
        if self.is_finished.load(Ordering::Acquire) {
            return;
        }
        let closed_early =
            json!({"metadata": {}, "status": "Success", "message": "Connection closed early", "code": 200});
        self.notes.lock().response_status.get_or_insert(closed_early);
        for (event, (_, sink)) in self.events(Stage::ResponseComplete).into_iter().zip(&self.audit.backends) {
            sink.hand_over(event);
        }
    }
}

/// The body of a reply that runs long; with it goes the record.
struct Lasting {
    body: Body,
    _record: Arc<Record>,
}

impl http_body::Body for Lasting {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
