//! How a resource or subresource that is not plain create-read-update-delete plugs into
//! the generic path. The table of hooks is `subresource::hook`; no kind is named here.

use std::sync::Arc;

use api_types::{ApiError, FieldError};
use futures::future::BoxFuture;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use serde_json::Value;

use crate::{authn::User, codec::body::Body, kinds::Kind, request::Request, server::Server};

/// What `subresource::hook(resource, subresource)` may return; for a resource that is never stored (a review)
/// the subresource is `""`.
#[derive(Clone, Copy)]
pub enum Hook {
    /// PUT and PATCH write the parent object through the generic update, with these in place of the kind's
    /// rules; GET reads the parent.
    Update(UpdateRules),
    /// POST of one decoded object, answered with one object.
    Post(fn(Call, Value) -> Answering<Answer>),
    /// The hook owns the whole exchange: logs, exec, proxies. Any method that the subresource's row allows.
    /// Upgrades: take `hyper::upgrade::on(&mut request)`, answer 101, then await it in a task.
    Connect(fn(Call, http::Request<Incoming>) -> Answering<Response<Body>>),
}

/// What a hook is about to answer.
pub type Answering<T> = BoxFuture<'static, Result<T, ApiError>>;

/// Pure functions over (new, old).
#[derive(Clone, Copy)]
pub struct UpdateRules {
    pub prepare: fn(&mut Value, &Value),
    pub validate: fn(&Value, &Value) -> Vec<FieldError>,
}

/// An authenticated and authorised request on its way into a hook.
pub struct Call {
    pub server: Arc<Server>,
    pub request: Request,
    /// The parent's row.
    pub kind: Arc<Kind>,
    pub user: User,
}

/// A reply to [`Hook::Post`]: `object` is sent in the format that the client accepts.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub object: Value,
    /// Sent as `Warning: 299` headers.
    pub warnings: Vec<String>,
}

impl Answer {
    pub fn created(object: Value) -> Self {
        Self { status: StatusCode::CREATED, object, warnings: Vec::new() }
    }
}
