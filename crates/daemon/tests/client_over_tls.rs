//! The client crate over real TLS and HTTP/2, against a server that plays a script:
//! what an apiserver does only in bad moments (broken watches, expired revisions).

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use api_types::{Key, Object, k8s::core::ConfigMap};
use bytes::Bytes;
use client::{Cache, Change, Client, Config};
use daemon::{
    serve::{self, Body, Peer, boxed},
    tls,
};
use http::{Request, Response, StatusCode};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

/// One answer of the script.
enum Answer {
    Json(u16, &'static str),
    /// Asks to come again at once.
    Later,
    /// A watch that the test feeds; dropping the sender ends it, an `Err` breaks it.
    Watch(mpsc::Receiver<Result<&'static str, String>>),
}

#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Script {
    fn then(&self, answer: Answer) -> &Self {
        self.answers.lock().unwrap().push_back(answer);
        self
    }
    fn then_watch(&self) -> mpsc::Sender<Result<&'static str, String>> {
        let (sender, receiver) = mpsc::channel(8);
        self.then(Answer::Watch(receiver));
        sender
    }
    fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let path = request.uri().path_and_query().unwrap().as_str();
        self.asked.lock().unwrap().push(format!("{} {path}", request.method()));
        match self.answers.lock().unwrap().pop_front() {
            None => serve::text(StatusCode::SERVICE_UNAVAILABLE, "the script is over"),
            Some(Answer::Json(code, body)) => {
                serve::reply(StatusCode::from_u16(code).unwrap(), "application/json", body)
            }
            Some(Answer::Later) => {
                let mut response = serve::text(StatusCode::TOO_MANY_REQUESTS, "later");
                response.headers_mut().insert("retry-after", "0".parse().unwrap());
                response
            }
            Some(Answer::Watch(lines)) => {
                let lines = futures::stream::unfold(lines, |mut lines| async {
                    let line = lines.recv().await?;
                    Some((line.map(|text| Frame::data(Bytes::from(text))), lines))
                });
                Response::new(boxed(StreamBody::new(lines)))
            }
        }
    }
}

struct Server {
    _folder: tempfile::TempDir,
    client: Client,
    address: SocketAddr,
    tls: tls::ReloadingServerConfig,
}

impl Server {
    async fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let ca = pki::Ca::ensure(folder.path(), "ca", "test").unwrap();
        let leaf = |name: &'static str| pki::Leaf {
            common_name: name,
            organization: None,
            dns_names: Vec::new(),
            addresses: vec!["127.0.0.1".parse().unwrap()],
            usage: pki::Usage::Both,
            days: 1,
        };
        ca.issue(&leaf("server")).unwrap().write(folder.path(), "server").unwrap();
        ca.issue(&leaf("me")).unwrap().write(folder.path(), "me").unwrap();
        let address = serve::bind("127.0.0.1:0".parse().unwrap()).await.unwrap().local_addr().unwrap();
        let kubeconfig = path("kubeconfig");
        pki::write_kubeconfig(
            &kubeconfig,
            &format!("https://{address}"),
            &path("ca.crt"),
            &path("me.crt"),
            &path("me.key"),
        )
        .unwrap();
        let client = Client::new(Config::from_kubeconfig(&kubeconfig).unwrap(), "test").unwrap();
        let authority = [path("ca.crt")];
        let tls =
            tls::server_config(&path("server.crt"), &path("server.key"), &authority, tls::ClientAuth::Required);
        Self { _folder: folder, client, address, tls: tls.unwrap() }
    }

    /// Plays `script` until the token is cancelled.
    async fn play(&self, script: &Script) -> (CancellationToken, tokio::task::JoinHandle<()>) {
        let (stop, script) = (CancellationToken::new(), script.clone());
        let listener = serve::bind(self.address).await.unwrap();
        let served =
            tokio::spawn(serve::listen(listener, self.tls.clone(), stop.clone(), move |peer: Peer, request| {
                assert!(!peer.certificates.is_empty(), "the client shows its certificate");
                let response = script.answer(&request);
                async move { response }
            }));
        (stop, served)
    }
}

/// The changes that a cache tells of, as `+a1` (added a at 1), `~a2`, `-a2`.
fn cache(server: &Server) -> (Cache<ConfigMap>, mpsc::UnboundedReceiver<String>, CancellationToken) {
    let (sink, changes) = mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let cache = Cache::<ConfigMap>::builder(server.client.clone())
        .labels("a=b")
        .on_change(move |change| {
            let sign = match change {
                Change::Added(_) => '+',
                Change::Updated { .. } => '~',
                Change::Deleted(_) => '-',
            };
            let object = change.object();
            let _ = sink.send(format!("{sign}{}{}", object.name(), object.resource_version()));
        })
        .start(stop.clone());
    (cache, changes, stop)
}

async fn expect(changes: &mut mpsc::UnboundedReceiver<String>, expected: &[&str]) {
    for expected in expected {
        let change = tokio::time::timeout(PATIENCE, changes.recv()).await.expect(expected);
        assert_eq!(change.as_deref(), Some(*expected));
    }
}

const TWO: &str = r#"{"metadata":{"resourceVersion":"2"},"items":[
    {"metadata":{"name":"a","resourceVersion":"1"}},{"metadata":{"name":"b","resourceVersion":"2"}}]}"#;
const ONE: &str = r#"{"metadata":{"resourceVersion":"9"},"items":[{"metadata":{"name":"c","resourceVersion":"8"}}]}"#;
const C3: &str = "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"c\",\"resourceVersion\":\"3\"}}}\n";
const GONE: &str = "{\"type\":\"ERROR\",\"object\":{\"status\":\"Failure\",\"code\":410,\"reason\":\"Expired\",\"message\":\"old\"}}\n";

#[tokio::test]
async fn a_cache_lives_through_a_broken_and_an_expired_watch() {
    let (server, script) = (Server::new().await, Script::default());
    script.then(Answer::Json(200, TWO));
    let first = script.then_watch();
    let second = script.then_watch();
    script.then(Answer::Json(200, ONE));
    let _third = script.then_watch();
    let (stop_server, _served) = server.play(&script).await;
    let (cache, mut changes, stop) = cache(&server);

    expect(&mut changes, &["+a1", "+b2"]).await;
    tokio::time::timeout(PATIENCE, cache.synced()).await.expect("synced");
    first.send(Ok(C3)).await.unwrap();
    expect(&mut changes, &["+c3"]).await;
    assert!(cache.has_seen("3") && !cache.has_seen("4"));
    first.send(Err("cut".to_owned())).await.unwrap();
    second.send(Ok(GONE)).await.unwrap();
    expect(&mut changes, &["~c8", "-a1", "-b2"]).await;
    assert_eq!(cache.len(), 1);

    let asked = script.asked.lock().unwrap().clone();
    assert_eq!(asked[0], "GET /api/v1/configmaps?labelSelector=a%3Db&limit=500");
    assert!(asked[1].contains("watch=true") && asked[1].ends_with("resourceVersion=2"), "{asked:?}");
    assert!(asked[2].ends_with("resourceVersion=3"), "{asked:?}");
    stop.cancel();
    stop_server.cancel();
}

#[tokio::test]
async fn a_cache_finds_a_server_that_comes_back() {
    let (server, script) = (Server::new().await, Script::default());
    let (_cache, mut changes, stop) = cache(&server);
    script.then(Answer::Json(200, TWO));
    let first = script.then_watch();
    let (stop_server, served) = server.play(&script).await;
    expect(&mut changes, &["+a1", "+b2"]).await;
    stop_server.cancel();
    drop(first);
    served.await.unwrap();

    let second = script.then_watch();
    let (stop_server, _served) = server.play(&script).await;
    second.send(Ok(C3)).await.unwrap();
    expect(&mut changes, &["+c3"]).await;
    stop.cancel();
    stop_server.cancel();
}

#[tokio::test]
async fn calls_are_answered_refused_and_asked_again() {
    let (server, script) = (Server::new().await, Script::default());
    let (_stop, _served) = server.play(&script).await;
    let key = Key::new("ns", "a");
    script.then(Answer::Later).then(Answer::Json(200, r#"{"metadata":{"name":"a"}}"#));
    assert_eq!(server.client.get::<ConfigMap>(&key).await.unwrap().name(), "a");
    script.then(Answer::Json(
        404,
        r#"{"kind":"Status","apiVersion":"v1","status":"Failure","code":404,"reason":"NotFound","message":"no"}"#,
    ));
    assert!(server.client.get::<ConfigMap>(&key).await.unwrap_err().is_not_found());
    script.then(Answer::Json(200, "{"));
    let error = server.client.get::<ConfigMap>(&key).await.unwrap_err().to_string();
    assert!(error.starts_with("the answer to GET /api/v1/namespaces/ns/configmaps/a cannot be read"), "{error}");
}
