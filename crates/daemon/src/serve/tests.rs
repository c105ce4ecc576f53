//! The port as clients see it: real TLS on loopback.

use std::path::{Path, PathBuf};

use diagnosis::{ExplainRequest, ObjectReference, diagnosis_client::DiagnosisClient};
use http_body_util::Empty;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::{
    diagnosis::{ObjectRef, Reason},
    tls,
};

struct Port {
    folder: tempfile::TempDir,
    ca: pki::Ca,
    address: SocketAddr,
    shutdown: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

impl Port {
    async fn open(ops: Ops) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let ca = pki::Ca::ensure(folder.path(), "ca", "test").unwrap();
        let port = pki::Leaf {
            common_name: "port",
            organization: None,
            dns_names: vec!["localhost".to_owned()],
            addresses: Vec::new(),
            usage: pki::Usage::Server,
            days: 1,
        };
        ca.issue(&port).unwrap().write(folder.path(), "tls").unwrap();
        let file = |name: &str| -> PathBuf { folder.path().join(name) };
        let authority = [file("ca.crt")];
        let tls = tls::server_config(&file("tls.crt"), &file("tls.key"), &authority, tls::ClientAuth::Optional);
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(ops.serve(listener, tls.unwrap(), shutdown.clone()));
        Self { folder, ca, address, shutdown, served }
    }

    async fn connect(&self, group: Option<&str>, protocol: &[u8]) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        let authority: &Path = &self.folder.path().join("ca.crt");
        roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let mut config = match group {
            None => builder.with_no_client_auth(),
            Some(group) => {
                let me = pki::Leaf {
                    common_name: "me",
                    organization: Some(group),
                    dns_names: Vec::new(),
                    addresses: Vec::new(),
                    usage: pki::Usage::Client,
                    days: 1,
                };
                let pair = self.ca.issue(&me).unwrap();
                let certificate = CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![certificate], key).unwrap()
            }
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        let socket = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap()
    }

    async fn get(&self, group: Option<&str>, path: &str) -> (u16, String) {
        let stream = self.connect(group, b"http/1.1").await;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get(path).header("host", "localhost").body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }
}

fn ops(checks: Checks) -> Ops {
    let ledger = Ledger::new("test");
    let object = ObjectRef::new(&api_types::resources::POD, &api_types::Key::new("ns", "a"));
    ledger.explain(object, vec![Reason::new("Unschedulable", "0/1 nodes are available")]);
    Ops { metrics: Registry::default(), checks, diagnosis: Some(ledger), access: Access::local() }
}

#[tokio::test]
async fn health_is_for_everybody_and_metrics_are_not() {
    let checks = Checks::default().live("alive", || Ok(())).ready("informers", || Err("secret".to_owned()));
    let port = Port::open(ops(checks)).await;
    assert_eq!(port.get(None, "/livez").await, (200, "ok".to_owned()));
    assert_eq!(port.get(None, "/healthz/alive").await, (200, "ok".to_owned()));
    let (code, body) = port.get(None, "/readyz").await;
    assert_eq!(code, 500);
    assert_eq!(body, "[+]ping ok\n[+]alive ok\n[-]informers failed: reason withheld\nreadyz check failed\n");
    assert_eq!(port.get(None, "/healthz/other").await.0, 404);
    assert_eq!(port.get(None, "/metrics").await.0, 401);
    assert_eq!(port.get(Some("system:nodes"), "/metrics").await.0, 403);
    let (code, body) = port.get(Some("system:masters"), "/metrics").await;
    assert_eq!(code, 200);
    assert!(body.contains("process_resident_memory_bytes"), "{body}");
    port.shutdown.cancel();
    port.served.await.unwrap();
}

#[tokio::test]
async fn diagnosis_is_answered_on_the_same_port() {
    let port = Port::open(ops(Checks::default())).await;
    let ask = async |group: Option<&str>| {
        let stream = port.connect(group, b"h2").await;
        let mut stream = Some(TokioIo::new(stream));
        let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
        let connector = tower::service_fn(move |_| {
            let stream = stream.take().ok_or_else(|| io::Error::other("connected already"));
            async move { stream }
        });
        let channel = endpoint.connect_with_connector(connector).await.unwrap();
        let object = ObjectReference {
            group: String::new(),
            resource: "pods".to_owned(),
            namespace: "ns".to_owned(),
            name: "a".to_owned(),
        };
        DiagnosisClient::new(channel).explain(ExplainRequest { object: Some(object) }).await
    };
    let answer = ask(Some("system:masters")).await.unwrap().into_inner();
    assert_eq!((answer.component.as_str(), answer.reasons[0].code.as_str()), ("test", "Unschedulable"));
    assert_eq!(ask(None).await.unwrap_err().code(), tonic::Code::Unauthenticated);
    assert_eq!(ask(Some("system:nodes")).await.unwrap_err().code(), tonic::Code::PermissionDenied);
}
