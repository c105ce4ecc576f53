//! A KMS plugin of the test's own behind a real socket: it turns bytes round and counts how often it is asked.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    Response,
    body::{Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex as Lock;
use tokio::net::UnixListener;

use super::*;

/// A gRPC message without compression is led by this many bytes.
const GRPC_HEAD: usize = 5;

#[derive(Default)]
struct Plugin {
    key_id: Lock<String>,
    asked: AtomicUsize,
}

impl Plugin {
    fn answer(&self, path: &str, body: &[u8]) -> Vec<u8> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let turned = |bytes: Vec<u8>| bytes.into_iter().map(|byte| byte ^ 0x55).collect();
        let key_id = self.key_id.lock().clone();
        match path.rsplit('/').next().expect("a method") {
            "Status" => StatusResponse { version: "v2".to_owned(), healthz: "ok".to_owned(), key_id }.encode_to_vec(),
            "Encrypt" => {
                let ciphertext = turned(EncryptRequest::decode(body).expect("a request").plaintext);
                EncryptResponse { ciphertext, key_id, annotations: BTreeMap::new() }.encode_to_vec()
            }
            "Decrypt" => {
                let plaintext = turned(DecryptRequest::decode(body).expect("a request").ciphertext);
                DecryptResponse { plaintext }.encode_to_vec()
            }
            other => panic!("{other} is no method of KMS v2"),
        }
    }
}

/// Serves on a socket in `folder`; gives the endpoint.
fn serve(folder: &std::path::Path, plugin: Arc<Plugin>) -> String {
    let socket = folder.join("kms.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let plugin = plugin.clone();
            let service = service_fn(move |request: hyper::Request<Incoming>| {
                let plugin = plugin.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    let body = request.into_body().collect().await.expect("a body").to_bytes();
                    let answer = plugin.answer(&path, &body[GRPC_HEAD..]);
                    let mut message = BytesMut::new();
                    message.put_u8(0);
                    message.put_u32(u32::try_from(answer.len()).expect("a short answer"));
                    message.put_slice(&answer);
                    let trailers = http::HeaderMap::from_iter([(
                        http::HeaderName::from_static("grpc-status"),
                        http::HeaderValue::from_static("0"),
                    )]);
                    let frames: [Result<Frame<Bytes>, Infallible>; 2] =
                        [Ok(Frame::data(message.freeze())), Ok(Frame::trailers(trailers))];
                    let body = StreamBody::new(futures::stream::iter(frames));
                    Response::builder().header("content-type", "application/grpc").body(body)
                }
            });
            tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service));
        }
    });
    format!("unix://{}", socket.display())
}

#[tokio::test]
async fn the_plugin_keeps_the_key_and_is_asked_once() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = Arc::new(Plugin { key_id: Lock::new("k1".to_owned()), ..Plugin::default() });
    let endpoint = serve(folder.path(), plugin.clone());
    let kms = Kms::new("test", &endpoint, Duration::from_secs(10)).unwrap();
    let first = kms.seal("/registry/secrets/a/b", b"hush").await.unwrap();
    let second = kms.seal("/registry/secrets/a/c", b"hush").await.unwrap();
    assert!(!first.windows(4).any(|part| part == b"hush"));
    let (plain, key_id) = kms.open("/registry/secrets/a/b", &first).await.unwrap();
    assert_eq!((plain.as_slice(), key_id.as_str()), (b"hush".as_slice(), "k1"));
    assert!(kms.open("/registry/secrets/a/b", &second).await.is_err(), "a value is bound to its path");
    assert_eq!(plugin.asked.load(Ordering::SeqCst), 1, "one seed for all");

    // Another server, or this one after a restart.
    let other = Kms::new("test", &endpoint, Duration::from_secs(10)).unwrap();
    assert_eq!(other.open("/registry/secrets/a/b", &first).await.unwrap().0, b"hush");
    assert_eq!(other.open("/registry/secrets/a/c", &second).await.unwrap().0, b"hush");
    assert_eq!(plugin.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_new_key_of_the_plugin_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = Arc::new(Plugin { key_id: Lock::new("k1".to_owned()), ..Plugin::default() });
    let kms = Kms::new("test", &serve(folder.path(), plugin.clone()), Duration::from_secs(10)).unwrap();
    let old = kms.seal("/a", b"x").await.unwrap();
    *plugin.key_id.lock() = "k2".to_owned();
    let unseen = Instant::now().checked_sub(STATUS_EVERY).expect("the machine runs for a while");
    kms.writing.lock().await.as_mut().unwrap().seen = unseen;
    let new = kms.seal("/a", b"x").await.unwrap();
    assert_eq!(kms.open("/a", &new).await.unwrap().1, "k2");
    assert_eq!(kms.open("/a", &old).await.unwrap().1, "k1", "what the old key wrote is still read");
}

#[tokio::test]
async fn a_plugin_that_is_not_there_is_named() {
    let kms = Kms::new("vault", "unix:///nonexistent/socket", Duration::from_secs(5)).unwrap();
    let error = kms.seal("/a", b"x").await.unwrap_err().to_string();
    assert!(error.starts_with("KMS plugin vault: Encrypt: "), "{error}");
    assert!(Kms::new("vault", "tcp://x", Duration::from_secs(5)).is_err());
}
