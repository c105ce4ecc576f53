//! The one place that does what decisions want. It has no choice left: it writes, tells people,
//! and remembers what it wrote, so that no decision is taken on a cache that has not seen it.

use std::{sync::Arc, time::Duration};

use api_types::{
    Key, Object, Resource,
    k8s::{authorization::SubjectAccessReview, certificates::CertificateSigningRequest},
};
use client::{Client, Error, Patch, Recorder, api};
use futures::{StreamExt, stream};
use http::Method;
use pki::Request;
use serde_json::Value;

use crate::{
    action::{Action, Guard, Outcome, Write},
    plan::{Failure, FailureKind},
    settings::Signers,
};

/// Creations begin one at a time and double while they succeed, so that what is refused is refused
/// once and not five hundred times.
const FIRST_BATCH: usize = 1;
/// Deletions under way at a time, per key.
const DELETIONS_AT_ONCE: usize = 32;

/// Does actions. Clones share the connection.
#[derive(Clone)]
pub struct Executor {
    client: Client,
    /// Reads past the caches: may list everything, which what a controller acts as may not.
    reader: Client,
    recorder: Recorder,
    signers: Arc<Signers>,
}

/// What the server said to the actions of a turn.
#[derive(Debug, Default)]
pub struct Report {
    pub written: Vec<Written>,
    /// The refusal that ended the turn.
    pub failure: Option<(Failure, Error)>,
}

/// A write that was confirmed.
#[derive(Debug)]
pub struct Written {
    pub resource: Resource,
    pub key: Key,
    pub trace: Trace,
}

/// How to recognise in a cache that a write has arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Trace {
    Version(String),
    /// The object of this uid is gone or on its way out.
    Gone {
        uid: String,
    },
}

impl Executor {
    pub fn new(client: Client, reader: Client, recorder: Recorder) -> Self {
        Self { client, reader, recorder, signers: Arc::default() }
    }
    /// Lets it sign certificates.
    pub fn with_signers(self, signers: Arc<Signers>) -> Self {
        Self { signers, ..self }
    }

    /// Does `actions` in their order; see [`crate::plan::Plan`].
    pub async fn execute(&self, actions: &[Action]) -> Report {
        let mut report = Report::default();
        for run in actions.chunk_by(|a, b| run_kind(a) == run_kind(b) && run_kind(a) != RunKind::Single) {
            let answers = match run_kind(&run[0]) {
                RunKind::Creations => self.create_slowly(run).await,
                RunKind::Deletions => self.side_by_side(run, DELETIONS_AT_ONCE).await,
                RunKind::Single => vec![self.perform(&run[0]).await],
            };
            report.take(run, answers);
            if report.failure.is_some() {
                break;
            }
        }
        report
    }

    async fn create_slowly(&self, run: &[Action]) -> Vec<Result<Option<Trace>, Error>> {
        let (mut answers, mut batch) = (Vec::with_capacity(run.len()), FIRST_BATCH);
        while answers.len() < run.len() {
            let next = &run[answers.len()..run.len().min(answers.len() + batch)];
            let batch_answers = self.side_by_side(next, next.len()).await;
            let refused = batch_answers.iter().any(Result::is_err);
            answers.extend(batch_answers);
            if refused {
                break;
            }
            batch *= 2;
        }
        answers
    }

    async fn side_by_side(&self, run: &[Action], at_once: usize) -> Vec<Result<Option<Trace>, Error>> {
        let all: Vec<_> = run.iter().map(|action| self.perform(action)).collect();
        stream::iter(all).buffered(at_once.max(1)).collect().await
    }

    /// Does one action. `Ok(None)`: there was nothing left to do.
    pub async fn perform(&self, action: &Action) -> Result<Option<Trace>, Error> {
        if let Some(guard) = &action.guard
            && !self.holds(guard).await?
        {
            tracing::debug!(?guard, why = action.why, "not done, as the caches were behind");
            return Ok(None);
        }
        let answer = self.write(action).await;
        match answer {
            Ok(object) => {
                let name = object["metadata"]["name"].as_str().unwrap_or(&action.key.name);
                tracing::debug!(
                    resource = %action.resource.plural, namespace = action.key.namespace, name, why = action.why, "done"
                );
                self.tell(action, Outcome::Done, name, "");
                Ok(trace(action, &object))
            }
            Err(error) if is_settled(&action.write, &error) => Ok(None),
            Err(error) => {
                self.tell(action, Outcome::Refused, &action.key.name, &error.to_string());
                Err(error)
            }
        }
    }

    async fn write(&self, action: &Action) -> Result<Value, Error> {
        let (resource, key) = (&action.resource, &action.key);
        let (method, path, content_type, body) = match &action.write {
            Write::Create(object) => (Method::POST, resource.path(&key.namespace), "application/json", object.clone()),
            Write::Update { object, subresource } => {
                (Method::PUT, api::path(resource, key, subresource), "application/json", object.clone())
            }
            Write::Patch { patch, subresource } => {
                let (content_type, body) = match patch {
                    Patch::Json(body) => ("application/json-patch+json", body),
                    Patch::Merge(body) => ("application/merge-patch+json", body),
                    Patch::Strategic(body) => ("application/strategic-merge-patch+json", body),
                };
                (Method::PATCH, api::path(resource, key, subresource), content_type, body.clone())
            }
            Write::Certify { request, lifetime } => {
                let body = self.certify(request, *lifetime)?;
                (Method::PUT, api::path(resource, key, "status"), "application/json", body)
            }
            Write::DeleteAll(options) => {
                let body = serde_json::to_value(options).unwrap_or_default();
                (Method::DELETE, resource.path(&key.namespace), "application/json", body)
            }
            Write::Delete(options) => {
                let body = serde_json::to_value(options).unwrap_or_default();
                (Method::DELETE, api::path(resource, key, ""), "application/json", body)
            }
        };
        let answer = self.client.request(method, &path, content_type, body.to_string().into()).await?;
        serde_json::from_slice(&answer).map_err(|error| Error::Decode { what: path, why: error.to_string() })
    }

    /// The request with its certificate.
    fn certify(&self, csr: &CertificateSigningRequest, lifetime: Duration) -> Result<Value, Error> {
        let undone = |why: String| Error::Decode { what: format!("certificate for {}", csr.name()), why };
        let signer = self.signers.of(&csr.spec.signer_name).ok_or_else(|| undone("there is no signer".to_owned()))?;
        let signer = signer.load().map_err(|error| undone(error.to_string()))?;
        let request = Request::parse(&String::from_utf8_lossy(&csr.spec.request.0));
        let usages = csr.spec.usages.as_deref().unwrap_or_default();
        let pem = request.and_then(|request| signer.sign(request, usages, lifetime));
        let mut next = csr.clone();
        let pem = pem.map_err(|error| undone(error.to_string()))?;
        let mut certificate = csr.spec.request.clone();
        certificate.0 = pem.into_bytes();
        next.status.get_or_insert_default().certificate = Some(certificate);
        serde_json::to_value(&next).map_err(|error| undone(error.to_string()))
    }

    /// By a read past all caches.
    async fn holds(&self, guard: &Guard) -> Result<bool, Error> {
        match guard {
            Guard::Alive(owner) => {
                let meta = self.live_metadata(owner.resource, &owner.key).await?;
                Ok(meta.is_some_and(|meta| meta["uid"] == *owner.uid && meta["deletionTimestamp"].is_null()))
            }
            Guard::Unchanged { resource, key, version } => {
                let meta = self.live_metadata(resource, key).await?;
                let found = meta.as_ref().and_then(|meta| meta["resourceVersion"].as_str());
                Ok(found == version.as_deref())
            }
            Guard::Permitted(spec) => {
                let review = SubjectAccessReview { spec: (**spec).clone(), ..SubjectAccessReview::default() };
                let answer = self.client.create(&review).await?;
                Ok(answer.status.is_some_and(|status| status.allowed))
            }
        }
    }

    async fn live_metadata(&self, resource: &Resource, key: &Key) -> Result<Option<Value>, Error> {
        let path = format!("{}?fieldSelector=metadata.name%3D{}", resource.path(&key.namespace), key.name);
        let body = self.reader.request(Method::GET, &path, "application/json", bytes::Bytes::new()).await?;
        let list: Value =
            serde_json::from_slice(&body).map_err(|error| Error::Decode { what: path, why: error.to_string() })?;
        Ok(list["items"].get(0).map(|object| object["metadata"].clone()))
    }

    fn tell(&self, action: &Action, outcome: Outcome, name: &str, error: &str) {
        for event in action.events.iter().filter(|event| event.on == outcome) {
            let message = event.message.replace("{name}", name).replace("{error}", error);
            self.recorder.event(&event.about, event.kind, event.reason, message);
        }
    }
}

impl Report {
    fn take(&mut self, run: &[Action], answers: Vec<Result<Option<Trace>, Error>>) {
        for (action, answer) in run.iter().zip(answers) {
            match answer {
                Ok(None) => {}
                Ok(Some(trace)) => {
                    let (resource, key) = (action.resource.clone(), action.key.clone());
                    self.written.push(Written { resource, key, trace });
                }
                Err(error) if self.failure.is_none() => {
                    let failure = Failure { kind: failure_kind(&action.write), message: error.to_string() };
                    self.failure = Some((failure, error));
                }
                Err(_) => {}
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RunKind {
    Creations,
    Deletions,
    Single,
}

fn run_kind(action: &Action) -> RunKind {
    match action.write {
        Write::Create(_) => RunKind::Creations,
        Write::Delete(_) => RunKind::Deletions,
        Write::Update { .. } | Write::Patch { .. } | Write::DeleteAll(_) | Write::Certify { .. } => RunKind::Single,
    }
}

fn failure_kind(write: &Write) -> FailureKind {
    match write {
        Write::Create(_) => FailureKind::Create,
        Write::Delete(_) | Write::DeleteAll(_) => FailureKind::Delete,
        Write::Update { .. } | Write::Patch { .. } | Write::Certify { .. } => FailureKind::Other,
    }
}

/// Refusals that say that nothing is left to do.
fn is_settled(write: &Write, error: &Error) -> bool {
    match write {
        // Nothing can be created in a namespace that is going, and need not be.
        Write::Create(_) => error.is_namespace_terminating(),
        // Gone, or another of that name has come: that one was not meant.
        Write::Delete(_) => error.is_not_found() || error.is_conflict(),
        Write::Patch { .. } | Write::DeleteAll(_) => error.is_not_found(),
        Write::Update { .. } | Write::Certify { .. } => false,
    }
}

/// A deletion may be answered with the object that lingers, or with a Status if it is gone.
fn trace(action: &Action, answer: &Value) -> Option<Trace> {
    if let Write::Delete(options) = &action.write {
        let uid = options.preconditions.as_ref().and_then(|only| only.uid.clone())?;
        return Some(Trace::Gone { uid });
    }
    if matches!(action.write, Write::DeleteAll(_)) {
        return None;
    }
    answer["metadata"]["resourceVersion"].as_str().map(|version| Trace::Version(version.to_owned()))
}

#[cfg(test)]
mod tests {
    use api_types::{
        ApiError,
        k8s::{core::Pod, meta::ObjectMeta},
        resources,
    };
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        let metadata = ObjectMeta { name: Some("p".into()), uid: Some("u".into()), ..ObjectMeta::default() };
        Pod { metadata, ..Pod::default() }
    }

    #[test]
    fn what_is_gone_needs_no_deletion() {
        let gone = || Error::Api(ApiError::not_found(&resources::POD, "p"));
        assert!(is_settled(&Action::delete(&pod(), "").write, &gone()));
        assert!(is_settled(&Action::patch(&pod(), json!({}), "").write, &gone()));
        assert!(!is_settled(&Action::update(&pod(), "").write, &gone()));
        assert!(!is_settled(&Action::create(&pod(), "").write, &gone()));
    }

    #[test]
    fn writes_leave_a_version_and_deletions_a_uid() {
        let answer = json!({"metadata": {"resourceVersion": "7"}});
        assert_eq!(trace(&Action::update(&pod(), ""), &answer), Some(Trace::Version("7".into())));
        assert_eq!(trace(&Action::delete(&pod(), ""), &answer), Some(Trace::Gone { uid: "u".into() }));
    }

    #[test]
    fn runs_of_one_kind_go_together() {
        let actions = [
            Action::create(&pod(), ""),
            Action::create(&pod(), ""),
            Action::update(&pod(), ""),
            Action::update(&pod(), ""),
            Action::delete(&pod(), ""),
        ];
        let runs = actions.chunk_by(|a, b| run_kind(a) == run_kind(b) && run_kind(a) != RunKind::Single);
        assert_eq!(runs.map(<[Action]>::len).collect::<Vec<_>>(), [2, 1, 1, 1]);
        assert_eq!(pod().name(), "p");
    }
}
