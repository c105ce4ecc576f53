//! Logs, exec, attach and port-forward: through to the kubelet of the pod's node.

use std::{net::SocketAddr, sync::Arc};

use api_types::{ApiError, Key, k8s::core, options::Query};
use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::Value;

use super::{
    current, key, kubelet,
    translate::{Translation, Wanted},
    tunnel::{self, Trust},
};
use crate::{
    authz::Attributes,
    codec::body::{self, Body},
    server::Server,
    verbs::hook::Call,
};

type Exchange = BoxFuture<'static, Result<Response<Body>, ApiError>>;

pub fn log(call: Call, _request: Request<Incoming>) -> Exchange {
    Box::pin(async move {
        let pod = current::<core::Pod>(&call.server, &key(&call)).await?;
        let path = kubelet::log_path(&pod, &call.request.query)?;
        if kubelet::node_of(&pod).is_err() {
            let mut nothing = Response::new(body::empty());
            *nothing.status_mut() = StatusCode::NO_CONTENT;
            return Ok(nothing);
        }
        let to = kubelet_of(&call.server, &pod).await?;
        let response = call.server.dialer.get(to, Trust::Kubelet, &path).await?;
        if !response.status().is_success() {
            return Err(refusal(&pod, response).await);
        }
        let mut reply = tunnel::passed_on(response);
        reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        Ok(reply)
    })
}

pub fn exec(call: Call, request: Request<Incoming>) -> Exchange {
    stream(call, request, "exec", |pod, call| kubelet::stream_path("exec", pod, &call.request.query))
}
pub fn attach(call: Call, request: Request<Incoming>) -> Exchange {
    stream(call, request, "attach", |pod, call| kubelet::stream_path("attach", pod, &call.request.query))
}
pub fn port_forward(call: Call, request: Request<Incoming>) -> Exchange {
    stream(call, request, "portforward", |pod, call| Ok(kubelet::forward_path(pod, &call.request.query)))
}

fn stream(
    call: Call,
    request: Request<Incoming>,
    verb: &'static str,
    path: fn(&Value, &Call) -> Result<String, ApiError>,
) -> Exchange {
    Box::pin(async move {
        check_create(&call, request.method()).await?;
        let pod = current::<core::Pod>(&call.server, &key(&call)).await?;
        let path = path(&pod, &call)?;
        if !tunnel::is_upgrade(request.headers()) {
            return Err(ApiError::bad_request("Upgrade request required"));
        }
        let to = kubelet_of(&call.server, &pod).await?;
        let dialer = &call.server.dialer;
        let response = match Translation::of(request.headers(), verb) {
            Some(translation) => {
                let wanted = wanted(&call.request.query);
                dialer.translate(to, Trust::Kubelet, &path, request, translation, wanted).await?
            }
            None => dialer.relay(to, Trust::Kubelet, &path, request).await?,
        };
        if response.status().is_redirection() {
            return Err(redirected());
        }
        Ok(response)
    })
}

fn wanted(query: &Query) -> Wanted {
    let flag = |name: &str| query.flag(name) == Some(true);
    Wanted { stdin: flag("stdin"), stdout: flag("stdout"), stderr: flag("stderr"), tty: flag("tty") }
}

/// A WebSocket opens with GET, yet what it does is more than reading.
///
/// Source: KEP-5808, feature AuthorizePodWebsocketUpgradeCreatePermission.
async fn check_create(call: &Call, method: &Method) -> Result<(), ApiError> {
    if *method != Method::GET {
        return Ok(());
    }
    let attributes = Attributes { verb: "create", ..Attributes::of(&call.request) };
    call.server.authorizer.check(&call.user, &attributes).await
}

async fn kubelet_of(server: &Arc<Server>, pod: &Value) -> Result<SocketAddr, ApiError> {
    let name = kubelet::node_of(pod)?;
    let node = current::<core::Node>(server, &Key::cluster(name)).await?;
    let kubelet = kubelet::of_node(&node, &server.flags.kubelet.kubelet_preferred_address_types)?;
    Ok(SocketAddr::new(kubelet.ip, kubelet.port))
}

/// A kubelet has no business sending us elsewhere with our credentials.
pub fn redirected() -> ApiError {
    ApiError::new(502, "InternalError", "the kubelet answered with a redirect, which is not followed")
}

/// The kubelet's refusal as ours.
///
/// Source: `GenericHttpResponseChecker` in apiserver/pkg/registry/generic/rest.
async fn refusal(pod: &Value, response: Response<Incoming>) -> ApiError {
    let status = response.status();
    if status.is_redirection() {
        return redirected();
    }
    let text = tunnel::refusal_text(response).await;
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    match status {
        StatusCode::BAD_REQUEST => ApiError::bad_request(text),
        StatusCode::INTERNAL_SERVER_ERROR => ApiError::internal(text),
        StatusCode::NOT_FOUND => {
            let message = format!("the server could not find the requested resource ({text})");
            ApiError::new(404, "NotFound", message).with_object("", "pods/log", name)
        }
        other => ApiError::new(other.as_u16(), "", text).with_object("", "pods/log", name),
    }
}
