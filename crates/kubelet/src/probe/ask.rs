//! Asks a container something: by a command, HTTP, TCP or gRPC. Probes and lifecycle hooks share it.

use std::{sync::Arc, time::Duration};

use api_types::k8s::{
    IntOrString,
    core::{Container, ExecAction, GRPCAction, HTTPGetAction, Probe, TCPSocketAction},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::Answer;
use crate::runtime::{self, Runtime, RuntimeError};

/// Upstream reads no more of an answer.
const BODY_BYTES_MAX: usize = 10 * 1024;
const REDIRECTS_MAX: usize = 10;
const USER_AGENT: &str = "kube-probe/1.36";

/// The container that is asked.
pub struct Target<'a> {
    pub runtime: &'a dyn Runtime,
    pub container: &'a Container,
    pub container_id: &'a str,
    /// The pod's address.
    pub ip: &'a str,
}

pub async fn probe(target: &Target<'_>, probe: &Probe, timeout: Duration) -> Answer {
    let asked = async {
        if let Some(action) = &probe.exec {
            exec(target, action, timeout).await
        } else if let Some(action) = &probe.http_get {
            http_get(target, action).await
        } else if let Some(action) = &probe.tcp_socket {
            tcp(target, action).await.map(|()| Answer::Good)
        } else if let Some(action) = &probe.grpc {
            grpc(target, action).await
        } else {
            Err("missing probe handler".to_owned())
        }
    };
    match tokio::time::timeout(timeout, asked).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(message)) => Answer::Bad(message),
        Err(_) => Answer::Bad(format!("timed out after {}s: context deadline exceeded", timeout.as_secs())),
    }
}

async fn exec(target: &Target<'_>, action: &ExecAction, timeout: Duration) -> Result<Answer, String> {
    let command = action.command.clone().unwrap_or_default();
    match runtime::run(target.runtime, target.container_id, &command, timeout).await {
        Ok((0, _)) => Ok(Answer::Good),
        Ok((_, output)) => Ok(Answer::Bad(output)),
        Err(RuntimeError::Timeout(after)) => {
            Ok(Answer::Bad(format!("command timed out: {command:?} timed out after {}s", after.as_secs())))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// A number, or the number of the container's port of that name.
pub fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|port| port.name.as_deref() == Some(name)).map(|port| port.container_port);
            named.or_else(|| name.parse().ok())
        }
    };
    number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0).ok_or_else(|| match port {
        IntOrString::Int(number) => format!("invalid port number: {number}"),
        IntOrString::String(name) => format!("couldn't find port: \"{name}\" in container {}", container.name),
    })
}

/// Good if somebody accepts the connection.
pub async fn tcp(target: &Target<'_>, action: &TCPSocketAction) -> Result<(), String> {
    let port = port(target.container, &action.port)?;
    let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(target.ip);
    dial(host, port).await.map(drop)
}

async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    TcpStream::connect((host, port)).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::ConnectionRefused => format!("dial tcp {address}: connect: connection refused"),
        std::io::ErrorKind::HostUnreachable => format!("dial tcp {address}: connect: no route to host"),
        _ => format!("dial tcp {address}: {error}"),
    })
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Url {
    https: bool,
    host: String,
    port: u16,
    path: String,
}

impl Url {
    fn text(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{scheme}://{host}:{}{}", self.port, self.path)
    }

    /// Where a redirect leads; `None` if to another host.
    fn follow(&self, location: &str) -> Option<Url> {
        if let Some(path) = location.strip_prefix('/').filter(|rest| !rest.starts_with('/')) {
            return Some(Url { path: format!("/{path}"), ..self.clone() });
        }
        let uri: http::Uri = location.parse().ok()?;
        let https = uri.scheme_str()? == "https";
        let host = uri.host()?.trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/".to_owned(), ToString::to_string);
        (host == self.host).then(|| Url { https, host: host.to_owned(), port, path })
    }
}

/// Good for any status from 200 to 399. Redirects on the same host are followed.
pub async fn http_get(target: &Target<'_>, action: &HTTPGetAction) -> Result<Answer, String> {
    let path = action.path.as_deref().unwrap_or("/");
    let mut url = Url {
        https: action.scheme.as_deref() == Some("HTTPS"),
        host: action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(target.ip).to_owned(),
        port: port(target.container, &action.port)?,
        path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
    };
    let first = url.text();
    for _ in 0..REDIRECTS_MAX {
        let answer = request(&url, action).await.map_err(|error| format!("Get \"{first}\": {error}"))?;
        let status = answer.status();
        if status.is_redirection()
            && let Some(location) = answer.headers().get(http::header::LOCATION).and_then(|value| value.to_str().ok())
        {
            match url.follow(location) {
                Some(next) => url = next,
                None => {
                    return Ok(Answer::Warning(format!("Probe terminated redirects, Response body: {location}")));
                }
            }
            continue;
        }
        // The body is read so that the server does not see a broken connection.
        let _body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await;
        if status.is_success() || status.is_redirection() {
            return Ok(Answer::Good);
        }
        return Ok(Answer::Bad(format!("HTTP probe failed with statuscode: {}", status.as_u16())));
    }
    Err(format!("Get \"{first}\": stopped after {REDIRECTS_MAX} redirects"))
}

trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

async fn request(url: &Url, action: &HTTPGetAction) -> Result<http::Response<hyper::body::Incoming>, String> {
    let stream = dial(&url.host, url.port).await?;
    let stream: Box<dyn Connection> =
        if url.https { Box::new(encrypt(stream, &url.host).await?) } else { Box::new(stream) };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let mut request = http::Request::get(&url.path);
    let mut named = vec![];
    for header in action.http_headers.iter().flatten() {
        named.push(header.name.to_lowercase());
        request = request.header(&header.name, &header.value);
    }
    let defaults = [
        ("host", format!("{}:{}", url.host, url.port)),
        ("user-agent", USER_AGENT.to_owned()),
        ("accept", "*/*".to_owned()),
    ];
    for (name, value) in defaults {
        if !named.iter().any(|known| known == name) {
            request = request.header(name, value);
        }
    }
    let request =
        request.header("connection", "close").body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    // Ends with the answer's body, as the request closes the connection.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|error| error.to_string())
}

async fn encrypt(stream: TcpStream, host: &str) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| error.to_string())
}

/// Probes do not check certificates: it is the answer that counts, and pods have no names to check.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// `grpc.health.v1`: the two messages of its one call.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
const SERVING: i32 = 1;

async fn grpc(target: &Target<'_>, action: &GRPCAction) -> Result<Answer, String> {
    let host = if target.ip.contains(':') { format!("[{}]", target.ip) } else { target.ip.to_owned() };
    let address = format!("{host}:{}", action.port);
    let cannot = |error: &dyn std::fmt::Display| format!("failed to connect service \"{address}\": {error}");
    let endpoint =
        tonic::transport::Endpoint::from_shared(format!("http://{address}")).map_err(|error| cannot(&error))?;
    let channel = endpoint.connect().await.map_err(|error| cannot(&error))?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| cannot(&error))?;
    let request = HealthCheckRequest { service: action.service.clone().unwrap_or_default() };
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let path = http::uri::PathAndQuery::from_static(HEALTH_CHECK);
    let answer = client.unary(tonic::Request::new(request), path, codec).await;
    let status = match answer {
        Ok(answer) => answer.into_inner().status,
        Err(status) if status.code() == tonic::Code::Unimplemented => {
            return Err("this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned());
        }
        Err(status) => return Err(format!("health rpc failed: {}", status.message())),
    };
    if status == SERVING {
        return Ok(Answer::Good);
    }
    let name = match status {
        0 => "UNKNOWN",
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "unknown status",
    };
    Ok(Answer::Bad(format!("service unhealthy (responded with \"{name}\")")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_numbers_or_names() {
        let container: Container =
            serde_json::from_value(serde_json::json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}))
                .unwrap();
        let check = |wanted: IntOrString, expected: Result<u16, &str>| {
            assert_eq!(port(&container, &wanted), expected.map_err(str::to_owned));
        };
        check(IntOrString::Int(80), Ok(80));
        check(IntOrString::String("web".to_owned()), Ok(8080));
        check(IntOrString::String("81".to_owned()), Ok(81));
        check(IntOrString::String("no".to_owned()), Err("couldn't find port: \"no\" in container c"));
        check(IntOrString::Int(0), Err("invalid port number: 0"));
    }

    #[test]
    fn redirects_stay_on_the_host() {
        let url = Url { https: false, host: "10.0.0.1".to_owned(), port: 8080, path: "/".to_owned() };
        assert_eq!(url.follow("/x?y").unwrap().text(), "http://10.0.0.1:8080/x?y");
        assert_eq!(url.follow("https://10.0.0.1/z").unwrap().text(), "https://10.0.0.1:443/z");
        assert_eq!(url.follow("http://10.0.0.2/"), None);
        assert_eq!(url.follow("//10.0.0.2/"), None);
    }
}
