//! Dials kubelets, pods and services, and carries one HTTP exchange there and back. An upgrade
//! that the other side accepts becomes a tunnel, byte for byte; whatever else it answers is a
//! plain reply, after which the connection is closed. Redirects are never followed.
//!
//! Source: `UpgradeAwareHandler` in apimachinery/pkg/util/proxy.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use api_types::ApiError;
use bytes::Bytes;
use futures::TryStreamExt;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, BodyStream, Empty, Limited, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, client::conn::http1, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use streams::spdy;
use tokio::{io::copy_bidirectional, net::TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::translate::{Translation, Wanted};
use crate::{
    authn::without_websocket_bearer,
    codec::body::{self, Body, BodyError},
};

/// For the connection, and again for TLS on it.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Of a refusal's text, so much is passed on.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// Headers that belong to one connection, or that say who asked: they go no further.
const NOT_FORWARDED: [HeaderName; 9] = [
    header::AUTHORIZATION,
    header::CONNECTION,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    #[error("{path} cannot be read as PEM")]
    Pem { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("the kubelet client certificate is not usable")]
    Certificate(#[source] rustls::Error),
    #[error("{path} holds no usable CA certificate")]
    Authority { path: PathBuf },
}

/// Certificate and key that this server shows to kubelets, and the CA that vouches for theirs.
#[derive(Clone, Debug, Default)]
pub struct KubeletFiles {
    pub client_certificate: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
    pub certificate_authority: Option<PathBuf>,
}

/// Who is dialled, and with which trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Mutual TLS: we show our certificate, the kubelet's must hold.
    Kubelet,
    /// TLS to a pod or service, whose certificate nobody here can judge; we show none.
    Unverified,
    Plain,
}

/// See the module's text.
pub struct Dialer {
    kubelet: Arc<ClientConfig>,
    unverified: Arc<ClientConfig>,
    /// This server's own address; the credentials for kubelets must not come back to it.
    own: SocketAddr,
    tunnels: TaskTracker,
    shutdown: CancellationToken,
}

impl Dialer {
    /// Without a CA no kubelet is believed.
    pub fn new(files: &KubeletFiles, own: SocketAddr, shutdown: CancellationToken) -> Result<Self, TunnelError> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = &files.certificate_authority {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|_| TunnelError::Authority { path: path.clone() })?;
            }
        }
        let builder = ClientConfig::builder();
        let provider = builder.crypto_provider().clone();
        let builder = match roots.is_empty() {
            true => builder.dangerous().with_custom_certificate_verifier(Arc::new(Nobody(provider.clone()))),
            false => {
                let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone()).build();
                builder.with_webpki_verifier(verifier.expect("there is a root"))
            }
        };
        let kubelet = match (&files.client_certificate, &files.client_key) {
            (Some(certificate), Some(key)) => {
                let pem = |source| TunnelError::Pem { path: key.clone(), source };
                let key = PrivateKeyDer::from_pem_file(key).map_err(pem)?;
                builder.with_client_auth_cert(certificates(certificate)?, key).map_err(TunnelError::Certificate)?
            }
            _ => builder.with_no_client_auth(),
        };
        let unverified = ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth();
        let (kubelet, unverified) = (Arc::new(kubelet), Arc::new(unverified));
        Ok(Self { kubelet, unverified, own, tunnels: TaskTracker::new(), shutdown })
    }

    /// Waits for the open tunnels to end; they do soon after shutdown began.
    pub async fn drain(&self) {
        self.tunnels.close();
        self.tunnels.wait().await;
    }

    /// Sends a request of our own.
    pub async fn get(&self, to: SocketAddr, trust: Trust, path: &str) -> Result<Response<Incoming>, ApiError> {
        let empty = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let request = Request::get(path).header(header::HOST, to.to_string()).body(empty);
        let request = request.map_err(|why| ApiError::bad_request(format!("{path:?} is no path: {why}")))?;
        self.send(to, trust, request).await
    }

    /// Carries a client's request to `path` of the other side. An accepted upgrade becomes a tunnel.
    pub async fn relay(
        &self,
        to: SocketAddr,
        trust: Trust,
        path: &str,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>, ApiError> {
        let upgrade = is_upgrade(request.headers()).then(|| hyper::upgrade::on(&mut request));
        let (parts, incoming) = request.into_parts();
        let mut outgoing = Request::builder().method(parts.method).uri(path).header(header::HOST, to.to_string());
        let headers = outgoing.headers_mut().ok_or_else(|| ApiError::bad_request(format!("{path:?} is no path")))?;
        headers.extend(forwarded(&parts.headers));
        if upgrade.is_some() {
            let protocol = parts.headers.get(header::UPGRADE).cloned();
            headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
            headers.extend(protocol.map(|protocol| (header::UPGRADE, protocol)));
        }
        let body: UnsyncBoxBody<Bytes, BodyError> = incoming.map_err(Into::into).boxed_unsync();
        let outgoing =
            outgoing.body(body).map_err(|why| ApiError::bad_request(format!("{path:?} is no path: {why}")))?;
        let mut response = self.send(to, trust, outgoing).await?;
        match upgrade {
            Some(client) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                let backend = hyper::upgrade::on(&mut response);
                self.tunnels.spawn(tunnel(client, backend, self.shutdown.clone()));
                let (parts, _) = response.into_parts();
                Ok(Response::from_parts(parts, body::empty()))
            }
            _ => Ok(passed_on(response)),
        }
    }

    /// Carries a client's streams over SPDY, whatever they came in. What the other side answers but
    /// by switching protocols is a plain reply.
    pub async fn translate(
        &self,
        to: SocketAddr,
        trust: Trust,
        path: &str,
        mut request: Request<Incoming>,
        translation: Translation,
        wanted: Wanted,
    ) -> Result<Response<Body>, ApiError> {
        let empty = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let outgoing = Request::post(path)
            .header(header::HOST, to.to_string())
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, spdy::UPGRADE)
            .header(spdy::STREAM_PROTOCOL, translation.protocol)
            .body(empty)
            .map_err(|why| ApiError::bad_request(format!("{path:?} is no path: {why}")))?;
        let mut response = self.send(to, trust, outgoing).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(passed_on(response));
        }
        let (client, kubelet) = (hyper::upgrade::on(&mut request), hyper::upgrade::on(&mut response));
        let (reply, shutdown) = (translation.response::<String>(), self.shutdown.clone());
        self.tunnels.spawn(async move {
            let carried = async {
                let (client, kubelet) = tokio::try_join!(client, kubelet).map_err(std::io::Error::other)?;
                translation.carry(TokioIo::new(client), TokioIo::new(kubelet), wanted).await
            };
            if let Some(Err(why)) = shutdown.run_until_cancelled(carried).await {
                tracing::debug!(%why, "a translated session broke");
            }
        });
        Ok(reply.map(body::full))
    }

    async fn send(
        &self,
        to: SocketAddr,
        trust: Trust,
        request: Request<UnsyncBoxBody<Bytes, BodyError>>,
    ) -> Result<Response<Incoming>, ApiError> {
        check_destination(to, trust, self.own).map_err(ApiError::bad_request)?;
        let failed = |what: &str, why: &dyn std::fmt::Display| match trust {
            Trust::Kubelet => ApiError::internal(format!("error {what} backend {to}: {why}")),
            Trust::Unverified | Trust::Plain => {
                ApiError::unavailable(format!("error trying to reach service: {what} {to}: {why}"))
            }
        };
        let stream = within(TcpStream::connect(to)).await.map_err(|why| failed("dialing", &why))?;
        stream.set_nodelay(true).map_err(|why| failed("dialing", &why))?;
        let config = match trust {
            Trust::Kubelet => &self.kubelet,
            Trust::Unverified => &self.unverified,
            Trust::Plain => return self.exchange(stream, request).await.map_err(|why| failed("asking", &why)),
        };
        let name = ServerName::IpAddress(to.ip().into());
        let secured = within(TlsConnector::from(config.clone()).connect(name, stream)).await;
        let stream = secured.map_err(|why| failed("securing the connection to", &why))?;
        self.exchange(stream, request).await.map_err(|why| failed("asking", &why))
    }

    /// One exchange on a fresh connection, which the tracker drives until either side closes it.
    async fn exchange<S>(
        &self,
        stream: S,
        request: Request<UnsyncBoxBody<Bytes, BodyError>>,
    ) -> Result<Response<Incoming>, hyper::Error>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let shutdown = self.shutdown.clone();
        self.tunnels.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                ended = connection.with_upgrades() => if let Err(why) = ended {
                    tracing::debug!(%why, "backend connection broke");
                },
            }
        });
        sender.send_request(request).await
    }
}

/// A step of dialling, which may not take for ever.
async fn within<T>(step: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    match tokio::time::timeout(DIAL_TIMEOUT, step).await {
        Ok(result) => result,
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    }
}

async fn tunnel(client: OnUpgrade, backend: OnUpgrade, shutdown: CancellationToken) {
    let (client, backend) = match tokio::try_join!(client, backend) {
        Ok(both) => both,
        Err(why) => return tracing::debug!(%why, "upgrade was not completed"),
    };
    let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
    tokio::select! {
        () = shutdown.cancelled() => {}
        copied = copy_bidirectional(&mut client, &mut backend) => if let Err(why) = copied {
            tracing::debug!(%why, "tunnel broke");
        },
    }
}

/// A backend's reply as ours.
pub fn passed_on(response: Response<Incoming>) -> Response<Body> {
    let (mut parts, incoming) = response.into_parts();
    parts.headers = forwarded(&parts.headers);
    parts.version = http::Version::default();
    let chunks = BodyStream::new(incoming).try_filter_map(|frame| async move { Ok(frame.into_data().ok()) });
    Response::from_parts(parts, body::stream(chunks))
}

/// The text of a refusal, cut at a limit.
pub async fn refusal_text(response: Response<Incoming>) -> String {
    let body = Limited::new(response.into_body(), REFUSAL_BYTES_MAX).collect().await;
    let bytes = body.map(|body| body.to_bytes()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_end().to_owned()
}

pub fn is_upgrade(headers: &HeaderMap) -> bool {
    let asks =
        |value: &header::HeaderValue| value.to_str().is_ok_and(|text| text.to_ascii_lowercase().contains("upgrade"));
    headers.get_all(header::CONNECTION).iter().any(asks) && headers.contains_key(header::UPGRADE)
}

/// Neither what `Connection` names, nor credentials, nor who is impersonated.
fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let goes_on = |name: &HeaderName| {
        let text = name.as_str();
        !NOT_FORWARDED.contains(name)
            && !named.iter().any(|other| other == text)
            && !["impersonate-", "x-remote-", "keep-alive", "proxy-connection"]
                .iter()
                .any(|prefix| text.starts_with(prefix))
    };
    let mut left: HeaderMap =
        headers.iter().filter(|(name, _)| goes_on(name)).map(|(name, value)| (name.clone(), value.clone())).collect();
    without_websocket_bearer(&mut left);
    left
}

/// Keeps our credentials and our place in the network from being used against the control
/// plane: a node or pod says itself what its address is.
fn check_destination(to: SocketAddr, trust: Trust, own: SocketAddr) -> Result<(), &'static str> {
    let ip = unmapped(to.ip());
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if is_link_local || ip.is_multicast() || ip.is_unspecified() {
        return Err("address not allowed");
    }
    let is_here = ip.is_loopback() || ip == unmapped(own.ip());
    if trust == Trust::Kubelet && is_here && to.port() == own.port() {
        return Err("address not allowed");
    }
    Ok(())
}

/// Whether a proxied request may go to `ip`: unlike logs and streams it carries a path of the client's choice.
pub fn is_proxyable(ip: IpAddr) -> bool {
    !unmapped(ip).is_loopback()
}

fn unmapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(ip) => ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TunnelError> {
    let pem = |source| TunnelError::Pem { path: path.to_owned(), source };
    CertificateDer::pem_file_iter(path).map_err(pem)?.collect::<Result<_, _>>().map_err(pem)
}

/// Accepts any certificate, as upstream does for `https:` pods and services.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

/// Accepts none: no CA was given.
#[derive(Debug)]
struct Nobody(Arc<rustls::crypto::CryptoProvider>);

macro_rules! verifier {
    ($name:ident, $verdict:expr) => {
        impl ServerCertVerifier for $name {
            fn verify_server_cert(
                &self,
                _: &CertificateDer<'_>,
                _: &[CertificateDer<'_>],
                _: &ServerName<'_>,
                _: &[u8],
                _: UnixTime,
            ) -> Result<ServerCertVerified, rustls::Error> {
                $verdict
            }
            fn verify_tls12_signature(
                &self,
                message: &[u8],
                certificate: &CertificateDer<'_>,
                signed: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, rustls::Error> {
                let algorithms = &self.0.signature_verification_algorithms;
                rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
            }
            fn verify_tls13_signature(
                &self,
                message: &[u8],
                certificate: &CertificateDer<'_>,
                signed: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, rustls::Error> {
                let algorithms = &self.0.signature_verification_algorithms;
                rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
            }
            fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
                self.0.signature_verification_algorithms.supported_schemes()
            }
        }
    };
}
verifier!(Anybody, Ok(ServerCertVerified::assertion()));
verifier!(Nobody, Err(rustls::Error::General("no --kubelet-certificate-authority is set".to_owned())));

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn where_not_to_dial() {
        let own = address("192.0.2.1:6443");
        for (to, trust, allowed) in [
            ("192.0.2.7:10250", Trust::Kubelet, true),
            ("127.0.0.1:10250", Trust::Kubelet, true),
            ("127.0.0.1:6443", Trust::Kubelet, false),
            ("192.0.2.1:6443", Trust::Kubelet, false),
            ("192.0.2.1:10250", Trust::Kubelet, true),
            ("192.0.2.1:6443", Trust::Unverified, true),
            ("169.254.169.254:80", Trust::Plain, false),
            ("[::ffff:169.254.169.254]:80", Trust::Plain, false),
            ("[fe80::1]:80", Trust::Plain, false),
            ("224.0.0.1:80", Trust::Plain, false),
            ("0.0.0.0:80", Trust::Plain, false),
        ] {
            assert_eq!(check_destination(address(to), trust, own).is_ok(), allowed, "{to}");
        }
        for (ip, allowed) in [("127.0.0.1", false), ("::1", false), ("::ffff:127.0.0.1", false), ("10.244.0.5", true)] {
            assert_eq!(is_proxyable(ip.parse().expect("ip")), allowed, "{ip}");
        }
    }

    #[test]
    fn what_goes_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer secret"),
            ("connection", "Upgrade, X-Hop"),
            ("upgrade", "websocket"),
            ("x-hop", "1"),
            ("impersonate-user", "bob"),
            ("x-remote-user", "bob"),
            ("sec-websocket-key", "k"),
            ("accept", "*/*"),
        ] {
            headers.insert(HeaderName::from_static(name), header::HeaderValue::from_static(value));
        }
        assert!(is_upgrade(&headers));
        let left = forwarded(&headers);
        let mut names: Vec<&str> = left.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "sec-websocket-key"]);
    }

    fn dialer() -> Dialer {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Dialer::new(&KubeletFiles::default(), address("192.0.2.1:6443"), CancellationToken::new()).expect("a dialer")
    }

    /// A backend that reads one request, answers `answer`, and returns what else it received.
    async fn backend(answer: &'static str) -> (SocketAddr, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("bound");
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("a request"));
            }
            stream.write_all(answer.as_bytes()).await.expect("written");
            let mut rest = String::new();
            // A reset is as good an end as a close.
            let _ = stream.read_to_string(&mut rest).await;
            rest
        });
        (at, task)
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_not_an_order() {
        let (at, task) =
            backend("HTTP/1.1 302 Found\r\nLocation: http://192.0.2.9/\r\nContent-Length: 0\r\n\r\n").await;
        let response = dialer().get(at, Trust::Plain, "/x").await.expect("answered");
        assert_eq!(response.status(), StatusCode::FOUND);
        drop(response);
        assert_eq!(task.await.expect("ended"), "");
    }

    /// Sends `bytes` through a server that relays to `to`, and returns what comes back until silence.
    async fn through_relay(to: SocketAddr, bytes: &[u8], until: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("bound");
        let dialer = Arc::new(dialer());
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a client");
            let service = hyper::service::service_fn(move |request| {
                let dialer = dialer.clone();
                async move { dialer.relay(to, Trust::Plain, "/x", request).await }
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // The test's client goes without a farewell.
            let _ = connection.with_upgrades().await;
        });
        let mut client = TcpStream::connect(at).await.expect("a server");
        client.write_all(bytes).await.expect("sent");
        let mut got = String::new();
        while !got.contains(until) {
            let mut some = [0; 1024];
            let n = client.read(&mut some).await.expect("an answer");
            assert!(n > 0, "closed after {got:?}");
            got.push_str(&String::from_utf8_lossy(&some[..n]));
        }
        drop(client);
        server.await.expect("served");
        got
    }

    const UPGRADE: &str = "GET /exec HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

    /// CVE-2018-1002105: what follows a refused upgrade must not reach the backend.
    #[tokio::test]
    async fn a_refused_upgrade_opens_nothing() {
        let (at, task) = backend("HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\n\r\nnever").await;
        let smuggled = format!("{UPGRADE}GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n");
        let got = through_relay(at, smuggled.as_bytes(), "never").await;
        assert!(got.starts_with("HTTP/1.1 400"), "{got}");
        assert_eq!(task.await.expect("ended"), "");
    }

    #[tokio::test]
    async fn an_accepted_upgrade_is_a_tunnel() {
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello";
        let (at, task) = backend(answer).await;
        let got = through_relay(at, format!("{UPGRADE}over").as_bytes(), "hello").await;
        assert!(got.starts_with("HTTP/1.1 101"), "{got}");
        assert_eq!(task.await.expect("ended"), "over");
    }

    #[tokio::test]
    async fn without_an_authority_no_kubelet_is_believed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("bound");
        let dialer = dialer();
        let (asked, answered) = tokio::join!(dialer.get(at, Trust::Kubelet, "/x"), async {
            let (mut stream, _) = listener.accept().await.expect("a client");
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await
        });
        assert!(asked.is_err() && answered.is_ok());
    }
}
