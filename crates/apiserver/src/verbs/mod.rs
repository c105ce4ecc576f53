//! One verb, all kinds. No kind's name appears here: what a kind does differently it
//! says in `rules`, and what is no plain object comes in through a hook.

use std::sync::Arc;

use api_types::{
    ApiError, Key, Verb,
    options::{GetOptions, ListOptions},
    table::{IncludeObject, refuse_include_object},
};
use http::{HeaderMap, Response, StatusCode, header};
use hyper::body::Incoming;

use crate::{
    audit,
    authn::User,
    codec::{
        accept::{self, Accepted, Formats, Shape, Shapes},
        body::{self, Body},
        decode, reply,
    },
    kinds::Kind,
    request::{Request, Target},
    rules::{self, Rules},
    server::Server,
    subresource,
};

mod admit;
pub mod create;
mod delete;
pub mod hook;
mod meta;
mod owners;
mod patch;
mod read;
mod scale;
mod update;
mod watch;

pub use create::Written;
pub use delete::Deleted;
use hook::{Call, Hook};
pub use read::continues;
pub(crate) use read::store_refusal;
pub use update::{Change, Changed};

/// A request for objects of one kind, on its way through a verb.
pub struct Ask {
    pub server: Arc<Server>,
    pub kind: Arc<Kind>,
    pub rules: Rules,
    pub user: User,
    pub key: Key,
    pub subresource: String,
    pub query: api_types::options::Query,
    pub headers: HeaderMap,
    /// Who is recorded as the owner of what is written; `None`: nobody, as the server itself sees to something.
    pub manager: Option<String>,
}

/// Reads, writes or watches what an authorised request names.
pub async fn dispatch(
    server: Arc<Server>,
    request: Request,
    user: User,
    http: http::Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let (kind, target, verb) = match asked(&server, &request) {
        Ok(Some(asked)) => asked,
        not_served => {
            decode::drain(http.into_body());
            return not_served.map(|_| page_not_found());
        }
    };
    let hook = subresource::hook(&kind.resource, &target.subresource);
    if let Some(hook @ (Hook::Post(_) | Hook::Connect(_))) = hook {
        return call(hook, Call { server, request, kind, user }, http).await;
    }
    let (parts, incoming) = http.into_parts();
    let ask = Ask {
        manager: Some(owners::manager(request.query.text("fieldManager"), &parts.headers)),
        rules: rules::rules(&kind.resource),
        key: key(&kind, &target),
        subresource: target.subresource,
        server,
        kind,
        user,
        query: request.query,
        headers: parts.headers,
    };
    let body = decode::body(incoming).await?;
    if ask.subresource == "scale" {
        return scale::answer(&ask, verb, body).await;
    }
    let mut response = match verb {
        Verb::Get => ask.get().await,
        Verb::List => ask.list().await,
        Verb::Watch => ask.watch().await,
        Verb::Create => ask.create(body).await,
        Verb::Update => ask.put(body).await,
        Verb::Patch => ask.patch(body).await,
        Verb::Delete => ask.delete(body).await,
        Verb::DeleteCollection => ask.delete_collection(body).await,
    }?;
    if !ask.rules.deprecation.is_empty() {
        reply::warn(&mut response, &[ask.rules.deprecation.to_owned()]);
    }
    Ok(response)
}

/// The row, target and verb of a request; `Ok(None)` for a path that names nothing.
fn asked(server: &Server, request: &Request) -> Result<Option<(Arc<Kind>, Target, Verb)>, ApiError> {
    let Some(target) = &request.target else { return Ok(None) };
    let Some(kind) = server.kinds.find(&target.group, &target.version, &target.resource) else {
        let is_served = server.kinds.table().has_group_version(&target.group, &target.version);
        return if is_served { Err(ApiError::unknown_resource()) } else { Ok(None) };
    };
    let verb = allowed(&kind, target, request.verb)?;
    Ok(verb.map(|verb| (kind, target.clone(), verb)))
}

/// The verb, if the row has it; `Ok(None)` for a path that names nothing.
fn allowed(kind: &Kind, target: &Target, verb: &str) -> Result<Option<Verb>, ApiError> {
    let resource = &kind.resource;
    let is_collection = target.key.name.is_empty();
    let has_namespace = !target.key.namespace.is_empty();
    // It was authorised by what somebody may do in that namespace (CVE-2019-11247).
    if target.is_in_namespace && !resource.is_namespaced() {
        return Ok(None);
    }
    if resource.is_namespaced() && !has_namespace && !is_collection {
        return Ok(None);
    }
    let verb = Verb::EVERY.into_iter().find(|candidate| candidate.name() == verb);
    if !target.subresource.is_empty() {
        let sub = resource.subresource(&target.subresource).ok_or_else(ApiError::unknown_resource)?;
        let verb = verb.filter(|verb| sub.verbs.contains(*verb)).ok_or_else(ApiError::method_not_allowed)?;
        return Ok(Some(verb));
    }
    let is_placed = match verb {
        Some(Verb::Create) => is_collection && (has_namespace || !resource.is_namespaced()),
        Some(Verb::DeleteCollection) => has_namespace || !resource.is_namespaced(),
        Some(Verb::Update | Verb::Patch) => !is_collection,
        Some(Verb::Get | Verb::List | Verb::Watch | Verb::Delete) | None => true,
    };
    let verb = verb.filter(|verb| is_placed && resource.verbs.contains(*verb));
    verb.map(Some).ok_or_else(ApiError::method_not_allowed)
}

/// A cluster-scoped object that is a namespace has been read as lying in itself.
fn key(kind: &Kind, target: &Target) -> Key {
    if kind.resource.is_namespaced() { target.key.clone() } else { Key::cluster(target.key.name.clone()) }
}

async fn call(hook: Hook, call: Call, http: http::Request<Incoming>) -> Result<Response<Body>, ApiError> {
    match hook {
        Hook::Connect(connect) => connect(call, http).await,
        Hook::Post(post) => {
            let (parts, incoming) = http.into_parts();
            let body = decode::body(incoming).await?;
            let accepted = accept::negotiate(&parts.headers, &call.request.query, Shapes::ObjectOnly, Formats::All)?;
            let validation = api_types::options::WriteOptions::for_create(&call.request.query)?.field_validation;
            let format = decode::format(&parts.headers)?;
            let target = call.request.target.clone().unwrap_or_default();
            let decoded = match call.kind.resource.subresource(&target.subresource) {
                Some(sub) => {
                    let or = |own: &str, parent: &str| if own.is_empty() { parent.to_owned() } else { own.to_owned() };
                    let resource = &call.kind.resource;
                    let version = or(&sub.version, &resource.version);
                    let group = if sub.version.is_empty() { resource.group.to_string() } else { sub.group.to_string() };
                    decode::typed(&body, format, (&group, &version, &sub.kind), validation)?
                }
                None => decode::object(&body, format, &call.kind, validation)?,
            };
            audit::note(|notes| notes.sent(&decoded.object));
            let mut object = decoded.object;
            if target.subresource.is_empty() {
                owners::own_transient(&call, &parts.headers, &mut object);
            }
            let answer = post(call, object).await?;
            let mut response = reply::value(answer.status, &accepted, &answer.object);
            let warnings = [decoded.warnings, answer.warnings].concat();
            reply::warn(&mut response, &warnings);
            Ok(response)
        }
        Hook::Update(_) => Err(ApiError::method_not_allowed()),
    }
}

/// What a mux answers for a path that nobody registered.
pub fn page_not_found() -> Response<Body> {
    Response::builder()
        .status(StatusCode::NOT_FOUND)
        .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
        .header("X-Content-Type-Options", "nosniff")
        .body(body::full("404 page not found\n"))
        .expect("fixed header names and values")
}

impl Ask {
    fn accepted(&self, shapes: Shapes) -> Result<Accepted, ApiError> {
        let resource = &self.kind.resource;
        let formats = Formats::of((&resource.group, &resource.version, &resource.kind));
        accept::negotiate(&self.headers, &self.query, shapes, formats)
    }

    /// How the reply's objects are to look.
    fn view(&self, shapes: Shapes) -> Result<reply::View<'_>, ApiError> {
        let accepted = self.accepted(shapes)?;
        let text = self.query.text("includeObject");
        let include = match accepted.shape {
            Shape::Table => {
                IncludeObject::parse(text).ok_or_else(|| ApiError::bad_request(refuse_include_object(text)))?
            }
            Shape::Object | Shape::Partial => IncludeObject::default(),
        };
        Ok(reply::View { kind: &self.kind, accepted, include })
    }

    async fn get(&self) -> Result<Response<Body>, ApiError> {
        let view = self.view(Shapes::All)?;
        let item = self.read(&GetOptions::from_query(&self.query)).await?;
        reply::item(StatusCode::OK, view, &item)
    }

    async fn list(&self) -> Result<Response<Body>, ApiError> {
        let view = self.view(Shapes::All)?;
        let listing = self.page(&self.list_options()?).await?;
        reply::list(view, listing)
    }

    /// The options of list, watch and deletecollection. A name in the path of a watch selects by name.
    fn list_options(&self) -> Result<ListOptions, ApiError> {
        let mut options = ListOptions::from_query(&self.query)?;
        if !self.key.name.is_empty() {
            options.field_selector = api_types::fields::FieldSelector::equals("metadata.name", self.key.name.clone());
        }
        self.check_fields(&options)?;
        Ok(options)
    }
}
