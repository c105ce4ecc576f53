//! The layers that every request passes, in order. What a request asks for is decided in
//! `request`, what it gets in `verbs` and `paths`; how it comes and goes, in `connections`.

use std::{
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
};

use api_types::ApiError;
use futures::FutureExt;
use http::{HeaderMap, HeaderValue, Method, Response, Version, header, request::Parts};
use hyper::body::Incoming;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};
use tracing::Instrument;

use crate::{
    audit,
    authn::{self, User, impersonation},
    authz::Attributes,
    codec::{
        accept::{self, Accepted, Formats, Shapes},
        body::Body,
        decode, reply,
    },
    connections::{Sent, Turn},
    fairness::{
        self, Flow,
        seat::{self, Permit, Until},
    },
    paths,
    request::{self, Request},
    server::Server,
    verbs,
};

const RETRY_AFTER_S: i32 = 1;

/// Who is at the other end of a connection.
#[derive(Clone)]
pub struct Peer {
    pub address: IpAddr,
    pub certificate: Option<Arc<authn::Peer>>,
}

/// The server and the places for requests in flight.
pub struct Front {
    server: Arc<Server>,
    reading: Arc<Semaphore>,
    writing: Arc<Semaphore>,
}

impl Front {
    pub fn new(server: Arc<Server>) -> Self {
        let reading = Arc::new(Semaphore::new(server.flags.max_requests_inflight));
        let writing = Arc::new(Semaphore::new(server.flags.max_mutating_requests_inflight));
        Self { server, reading, writing }
    }

    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The layers, outermost first.
    pub async fn answer(&self, http: http::Request<Incoming>, peer: Peer, turn: Turn) -> Response<Sent> {
        let started = Instant::now();
        let request = request::read(http.method(), http.uri());
        // Audit-Id: the client may bring its own, so that it can be followed through aggregated servers.
        let audit_id = audit_id(&http);
        let method = http.method().clone();
        let is_http2 = http.version() == Version::HTTP_2;
        // Errors are worded in the client's format, if that is one of ours.
        let format = accept::negotiate(http.headers(), &request.query, Shapes::ObjectOnly, Formats::All);
        let format = format.unwrap_or(Accepted::JSON);
        // Trace: what happens meanwhile is told with the request that it happened for.
        let span = tracing::debug_span!("request", %method, path = request.path, audit_id = ?audit_id);
        // Panic: it ends the request, not the server.
        let audit = self.server.audit.as_ref();
        let record =
            audit.map(|audit| audit.arrived(&http, &request, peer.address, audit_id.to_str().unwrap_or_default()));
        let flow = OnceLock::new();
        let answering = Box::pin(self.limited(&request, http, peer, &flow).instrument(span.clone()));
        let answered = AssertUnwindSafe(audit::recorded(record.clone(), answering)).catch_unwind().await;
        let has_panicked = answered.is_err();
        let answered = answered.unwrap_or_else(|_| Err(ApiError::internal("the server panicked; see its log")));
        let mut response = answered.unwrap_or_else(|refusal| {
            if let Some(record) = &record {
                record.refused(&refusal);
            }
            reply::refusal(&refusal, &format)
        });
        // Audit: what came of it is recorded before the client sees it.
        if let Some(record) = record {
            response = record.answered(response, has_panicked).await;
        }
        let headers = response.headers_mut();
        headers.insert("Audit-Id", audit_id);
        if let Some(flow) = flow.get() {
            flow.label(headers);
        }
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
        let (took, code) = (started.elapsed(), response.status().as_u16());
        tracing::debug!(parent: &span, code, took_us = took.as_micros() as u64, "answered");
        // Metrics: upstream's.
        let ending = self.server.metrics.answered(&request, &self.server.kinds, code, started);
        if is_http2 && code == 401 {
            turn.is_last();
        }
        response.map(|body| Sent::new(body, ending, turn))
    }

    /// Places in flight and time; what runs long (watches, streams) is not limited by either.
    async fn limited(
        &self,
        request: &Request,
        http: http::Request<Incoming>,
        peer: Peer,
        flow: &OnceLock<Arc<Flow>>,
    ) -> Result<Response<Body>, ApiError> {
        if is_ambiguous(http.headers()) {
            return Err(ApiError::bad_request("Content-Length and Transfer-Encoding do not go together"));
        }
        if request.is_long_running() {
            audit::note(|notes| notes.is_long_running = true);
            return self.authorized(request, http, peer, flow).await;
        }
        let deadline = match request::deadline(&request.query, self.server.flags.request_timeout) {
            Ok(deadline) => deadline,
            Err(refusal) => return Err(drained(refusal, http)),
        };
        let is_reading = matches!(*http.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        // With fairness on, the places are its seats.
        let _place = match self.server.fairness.is_none().then(|| self.place(is_reading)).transpose() {
            Ok(place) => place,
            Err(refusal) => return Err(drained(refusal, http)),
        };
        let _counted = self.server.metrics.in_flight(is_reading);
        match timeout(deadline, Box::pin(self.authorized(request, http, peer, flow))).await {
            Ok(result) => result,
            Err(_) => {
                let why = "Timeout: request did not complete within the allotted timeout";
                Err(ApiError::new(504, "Timeout", why))
            }
        }
    }

    fn place(&self, is_reading: bool) -> Result<OwnedSemaphorePermit, ApiError> {
        let places = if is_reading { &self.reading } else { &self.writing };
        places
            .clone()
            .try_acquire_owned()
            .map_err(|_| ApiError::too_many_requests("Too many requests, please try again later.", RETRY_AFTER_S))
    }

    /// Who asks, as whom, is it their turn, and may they? Then the request goes where it belongs.
    async fn authorized(
        &self,
        request: &Request,
        http: http::Request<Incoming>,
        peer: Peer,
        flow: &OnceLock<Arc<Flow>>,
    ) -> Result<Response<Body>, ApiError> {
        let (parts, incoming) = http.into_parts();
        let identified = self.identified(request, &parts, peer).await;
        let http = http::Request::from_parts(parts, incoming);
        let admitted = match identified {
            Ok(user) => self.admitted(request, &user, flow).await.map(|permit| (user, permit)),
            Err(refusal) => Err(refusal),
        };
        let (user, permit) = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => return Err(drained(refusal, http)),
        };
        let response = if request.target.is_some() {
            verbs::dispatch(self.server.clone(), request.clone(), user, http).await?
        } else {
            let answered = paths::answer(&self.server, request, &http).await;
            decode::drain(http.into_body());
            answered?
        };
        let until = if request.verb == "watch" { Until::FirstPause } else { Until::End };
        Ok(match permit {
            Some(permit) => seat::keep(permit, response, until, self.server.flags.request_timeout),
            None => response,
        })
    }

    /// Fairness, then authorisation. Streams between a client and a pod take no seats.
    async fn admitted(
        &self,
        request: &Request,
        user: &User,
        place: &OnceLock<Arc<Flow>>,
    ) -> Result<Option<Permit>, ApiError> {
        let server = &self.server;
        let attributes = Attributes::of(request);
        let permit = match &server.fairness {
            Some(fairness) if request.verb == "watch" || !request.is_long_running() => {
                let flow = place.get_or_init(|| fairness.classify(user, &attributes));
                let work = fairness::work(&server.cache, &server.kinds, request, flow);
                Some(fairness.admit(flow, user, &attributes, work).await?)
            }
            Some(_) | None => None,
        };
        server.authorizer.check(user, &attributes).await?;
        Ok(permit)
    }

    async fn identified(&self, request: &Request, parts: &Parts, peer: Peer) -> Result<User, ApiError> {
        let server = &self.server;
        let authenticated =
            server.authenticator.authenticate(&parts.headers, &request.path, peer.certificate.as_deref()).await;
        let user = authenticated.inspect_err(|_| audit::unauthenticated())?;
        audit::authenticated(&user).await?;
        let asked = Attributes::of(request);
        let other = impersonation::impersonate(&parts.headers, &user, &server.authorizer, &asked).await?;
        let Some(other) = other else { return Ok(user) };
        audit::note(|notes| notes.impersonated = Some(other.clone()));
        Ok(other)
    }
}

/// A refusal of a request whose body nobody has read.
fn drained(refusal: ApiError, http: http::Request<Incoming>) -> ApiError {
    decode::drain(http.into_body());
    refusal
}

fn audit_id(http: &http::Request<Incoming>) -> HeaderValue {
    const LENGTH_MAX: usize = 64;
    let sent = http.headers().get("Audit-Id").filter(|id| !id.is_empty() && id.len() <= LENGTH_MAX);
    sent.cloned()
        .unwrap_or_else(|| HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).expect("a uuid is a header value"))
}

/// A body whose length is told in two ways may be read in two ways by two servers.
fn is_ambiguous(headers: &HeaderMap) -> bool {
    headers.contains_key(header::CONTENT_LENGTH) && headers.contains_key(header::TRANSFER_ENCODING)
}
