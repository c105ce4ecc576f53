//! The kubelet's own HTTPS port: logs, exec, attach and port-forward for the apiserver,
//! pods and statistics for others. Everybody is known and permitted, or gets health only.
//!
//! Source for paths: pkg/kubelet/server/server.go.

mod carry;
mod find;
mod logs;
mod network;
mod port_forward;
mod route;
mod session;
mod summary;
mod terminal;

use std::{sync::Arc, time::Duration};

use api_types::{Key, Object, k8s::core::Pod};
use bytes::Bytes;
use daemon::{
    access::{Refusal, User, Wish},
    serve::{self, Body, Ops, Peer},
    tls::ReloadingServerConfig,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use serde_json::{Value, json};
use streams::{spdy, websocket};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    network::NetworkOf,
    route::{LogOptions, PodName, Route, Unroutable},
    terminal::Job,
};
use crate::runtime::{Container, Runtime, RuntimeError};

const JSON: &str = "application/json";
/// For `/run`, whose output is the answer.
const RUN_TIMEOUT: Duration = Duration::from_secs(120);

/// The pods of this node, each with its newest status.
pub trait PodSource: Send + Sync + 'static {
    fn all(&self) -> Vec<Arc<Pod>>;
    fn get(&self, key: &Key) -> Option<Arc<Pod>>;
}

impl PodSource for crate::pods::Pods {
    fn all(&self) -> Vec<Arc<Pod>> {
        self.list()
    }
    fn get(&self, key: &Key) -> Option<Arc<Pod>> {
        self.find(key)
    }
}

/// What the port is made of.
pub struct Server {
    /// Name of the node, for authorisation.
    pub node: String,
    pub pods: Arc<dyn PodSource>,
    pub runtime: Arc<dyn Runtime>,
    /// Health, metrics, diagnosis, and who may what.
    pub ops: Ops,
    /// Shown by `/configz`.
    pub config: Value,
}

impl Server {
    /// Serves until `shutdown`; conversations that run then are cut.
    pub async fn serve(self, listener: TcpListener, tls: ReloadingServerConfig, shutdown: CancellationToken) {
        let port = Arc::new(Port { server: self, tasks: TaskTracker::new(), shutdown: shutdown.clone() });
        let tasks = port.tasks.clone();
        serve::listen(listener, tls, shutdown, move |peer, request| {
            let port = Arc::clone(&port);
            async move { port.answer(peer, request).await }
        })
        .await;
        tasks.close();
        tasks.wait().await;
    }
}

struct Port {
    server: Server,
    /// Conversations over upgraded connections.
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// An answer that is not what was asked for.
struct Refused(StatusCode, String);

impl From<RuntimeError> for Refused {
    fn from(error: RuntimeError) -> Self {
        Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl Port {
    async fn answer(&self, peer: Peer, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        if is_common(path) {
            return self.server.ops.answer(&peer, request).await;
        }
        if let Err(refusal) = self.admit(&peer, &request).await {
            return serve::refuse(refusal);
        }
        if path == "/metrics" {
            let text = self.server.ops.metrics.text();
            return serve::reply(StatusCode::OK, daemon::metrics::CONTENT_TYPE, text);
        }
        match route::route(path, request.uri().query().unwrap_or_default()) {
            Err(Unroutable::Unknown) => serve::text(StatusCode::NOT_FOUND, "404 page not found\n"),
            Err(Unroutable::Invalid(why)) => serve::text(StatusCode::BAD_REQUEST, why),
            Ok(route) => {
                self.dispatch(route, request).await.unwrap_or_else(|Refused(code, why)| serve::text(code, why))
            }
        }
    }

    /// Either what upstream asks for all paths, the node's proxy, or the finer permission of some paths.
    async fn admit(&self, peer: &Peer, request: &Request<Incoming>) -> Result<User, Refusal> {
        let (verb, path) = (verb(request.method()), request.uri().path());
        let wish = |subresource| Wish::Node { verb, node: self.server.node.clone(), subresource };
        let ask = async |wish: Wish| self.server.ops.access.admit(&peer.certificates, request.headers(), &wish).await;
        match fine_subresource(path) {
            Some(subresource) => match ask(wish(subresource)).await {
                Err(Refusal::Forbidden(_)) => ask(wish("proxy")).await,
                answer => answer,
            },
            None => ask(wish("proxy")).await,
        }
    }

    async fn dispatch(&self, route: Route, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
        let runtime = Arc::clone(&self.server.runtime);
        match route {
            Route::Pods => Ok(pod_list(&self.server.pods.all())),
            Route::RunningPods => {
                let containers = runtime.list(None).await?;
                let runs = |pod: &Arc<Pod>| containers.iter().any(|one| one.is_running() && one.pod.uid == pod.uid());
                let pods: Vec<Arc<Pod>> = self.server.pods.all().into_iter().filter(runs).collect();
                Ok(pod_list(&pods))
            }
            Route::Configz => Ok(json_reply(&json!({ "kubeletconfig": self.server.config }))),
            Route::Summary => {
                let containers = runtime.list(None).await?;
                Ok(json_reply(&summary::summary(&self.server.node, &containers)))
            }
            Route::Logs { pod, container, options } => self.logs(&pod, &container, &options).await,
            Route::Run { pod, container, command } => {
                let container = self.running(&pod, &container).await?;
                let (_, output) = crate::runtime::run(&*runtime, &container.id, &command, RUN_TIMEOUT).await?;
                Ok(serve::text(StatusCode::OK, output))
            }
            Route::Exec { pod, container, command, streams } => {
                let container = self.running(&pod, &container).await?.id;
                let job = Job::Exec { container, command };
                Ok(terminal::answer(request, job, streams, runtime, &self.talks()))
            }
            Route::Attach { pod, container, streams } => {
                let container = self.running(&pod, &container).await?.id;
                Ok(terminal::answer(request, Job::Attach { container }, streams, runtime, &self.talks()))
            }
            Route::PortForward { pod, ports } => {
                let containers = self.containers(&pod).await?;
                let sandbox = find::sandbox(&containers);
                let sandbox =
                    sandbox.ok_or(Refused(StatusCode::NOT_FOUND, "the pod's sandbox does not run".to_owned()))?;
                Ok(self.port_forward(request, NetworkOf { pid: sandbox.pid }, ports))
            }
        }
    }

    async fn logs(&self, pod: &Key, container: &str, options: &LogOptions) -> Result<Response<Body>, Refused> {
        let pod = self.pod(&PodName { key: pod.clone(), uid: None })?;
        let containers = self.server.runtime.list(Some(pod.uid())).await?;
        let found = find::logged(&containers, &pod, container, options.previous);
        let found = found.map_err(|why| Refused(StatusCode::BAD_REQUEST, why))?;
        Ok(logs::answer(&*self.server.runtime, &found.id, options).await)
    }

    fn port_forward(&self, request: Request<Incoming>, network: NetworkOf, ports: Vec<u16>) -> Response<Body> {
        let talks = self.talks();
        if !websocket::is_asked_for(request.headers()) {
            return match spdy::agree(request.headers(), &[port_forward::SPDY_PROTOCOL]) {
                Err(why) => serve::text(StatusCode::BAD_REQUEST, why),
                Ok(protocol) => {
                    talks.upgrade(request, move |io| forward_spdy(io, network));
                    terminal::switching(spdy::switching(protocol))
                }
            };
        }
        let agreement = match websocket::agree(request.headers(), &[websocket::PORT_FORWARD, websocket::V4]) {
            Ok(agreement) => agreement,
            Err(why) => return serve::text(StatusCode::BAD_REQUEST, why),
        };
        let response = terminal::switching(agreement.response::<Empty<Bytes>>());
        talks.upgrade(request, move |io| async move {
            let socket = websocket::open(io).await;
            if agreement.protocol == websocket::PORT_FORWARD {
                forward_spdy(websocket::Tunnel::new(socket), network).await;
            } else {
                port_forward::serve_channels(socket, &ports, network).await;
            }
        });
        response
    }

    fn talks(&self) -> terminal::Talks {
        terminal::Talks { tasks: self.tasks.clone(), shutdown: self.shutdown.clone() }
    }

    fn pod(&self, name: &PodName) -> Result<Arc<Pod>, Refused> {
        let pod = self.server.pods.get(&name.key);
        let pod = pod.filter(|pod| name.uid.as_ref().is_none_or(|uid| uid == pod.uid()));
        pod.ok_or_else(|| Refused(StatusCode::NOT_FOUND, "pod does not exist".to_owned()))
    }

    async fn containers(&self, pod: &PodName) -> Result<Vec<Container>, Refused> {
        Ok(self.server.runtime.list(Some(self.pod(pod)?.uid())).await?)
    }

    async fn running(&self, pod: &PodName, container: &str) -> Result<Container, Refused> {
        let containers = self.containers(pod).await?;
        let found = find::running(&containers, container).cloned();
        found.map_err(|why| Refused(StatusCode::INTERNAL_SERVER_ERROR, why))
    }
}

async fn forward_spdy<T>(io: T, network: NetworkOf)
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + 'static,
{
    /// Streams that wait for their pair to be looked at.
    const OPENED: usize = 16;
    let (streams, opened) = mpsc::channel(OPENED);
    let (served, ()) = futures::join!(spdy::serve(io, streams), port_forward::serve(opened, network));
    if let Err(error) = served {
        tracing::debug!(%error, "port-forward ended");
    }
}

/// What every daemon answers in the same way.
fn is_common(path: &str) -> bool {
    const HEALTH: [&str; 3] = ["/healthz", "/livez", "/readyz"];
    HEALTH.iter().any(|health| path.strip_prefix(health).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
        || path.starts_with("/coxswain.")
}

/// RBAC's word for a method.
fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        // Upstream has no word for others; nobody is granted this one.
        _ => "",
    }
}

/// The subresource of nodes that alone permits this path.
///
/// Source: pkg/kubelet/server/auth.go.
fn fine_subresource(path: &str) -> Option<&'static str> {
    match path.split('/').nth(1)? {
        "stats" => Some("stats"),
        "metrics" => Some("metrics"),
        "pods" | "runningpods" => Some("pods"),
        "configz" => Some("configz"),
        _ => None,
    }
}

fn pod_list(pods: &[Arc<Pod>]) -> Response<Body> {
    let items: Vec<&Pod> = pods.iter().map(|pod| &**pod).collect();
    json_reply(&json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items }))
}

fn json_reply(value: &Value) -> Response<Body> {
    serve::reply(StatusCode::OK, JSON, value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_and_diagnosis_are_common() {
        for (path, expected) in [
            ("/healthz", true),
            ("/healthz/ping", true),
            ("/readyz", true),
            ("/coxswain.diagnosis.v1.Diagnosis/Explain", true),
            ("/healthzz", false),
            ("/pods", false),
            ("/metrics", false),
        ] {
            assert_eq!(is_common(path), expected, "{path}");
        }
    }

    #[test]
    fn some_paths_have_a_permission_of_their_own() {
        assert_eq!(fine_subresource("/stats/summary"), Some("stats"));
        assert_eq!(fine_subresource("/metrics"), Some("metrics"));
        assert_eq!(fine_subresource("/exec/ns/p/c"), None);
        assert_eq!(fine_subresource(""), None);
        assert_eq!((verb(&Method::POST), verb(&Method::GET), verb(&Method::TRACE)), ("create", "get", ""));
    }
}
