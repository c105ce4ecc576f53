//! One multiplexed HTTP/2 connection to the apiserver, dialled when first needed and
//! again, with growing pauses, when it broke. Calls have a deadline, watches have none:
//! pings find a dead peer under them.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT},
};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{
    config::{Config, ConfigError},
    error::{Error, refusal},
    metrics,
};

/// The whole of one call, tries and pauses included.
const CALL_TIMEOUT: Duration = Duration::from_secs(32);
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that answers no ping for this long is gone. client-go: 30 s and 15 s.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
const REDIAL_MIN: Duration = Duration::from_millis(20);
const REDIAL_MAX: Duration = Duration::from_secs(2);
/// How often it is asked whether certificates on disk have changed.
const FILES_CHECKED_EVERY: Duration = Duration::from_secs(10);
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Tries of one call, as client-go has it for answers with Retry-After.
const TRIES_MAX: u32 = 10;
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
/// An answer larger than this is refused; lists are paged.
const BODY_MAX_BYTES: usize = 512 << 20;

pub(crate) const JSON: &str = "application/json";

/// A way to an apiserver. Clones share the connection.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    user_agent: HeaderValue,
    link: tokio::sync::Mutex<Link>,
}

type Sender = http2::SendRequest<Full<Bytes>>;

#[derive(Default)]
struct Link {
    sender: Option<Sender>,
    files: Files,
    failures: u32,
    failure: Option<Failure>,
}

/// The certificates of the last dial, by the times of their files.
struct Files {
    written: Vec<Option<SystemTime>>,
    checked: Instant,
}

impl Default for Files {
    fn default() -> Self {
        Self { written: Vec::new(), checked: Instant::now() }
    }
}

impl Files {
    /// Have they changed since? Looks now and then only.
    fn are_old(&mut self, config: &Config) -> bool {
        if self.checked.elapsed() < FILES_CHECKED_EVERY {
            return false;
        }
        self.checked = Instant::now();
        self.written != config.written()
    }
}

/// The last dial's.
struct Failure {
    at: Instant,
    why: String,
}

/// One call, by path.
pub(crate) struct Call<'a> {
    pub method: Method,
    pub path: &'a str,
    pub content_type: &'a str,
    pub accept: &'a str,
    pub body: Bytes,
}

impl Client {
    /// Checks the configuration; dials only when first used.
    pub fn new(config: Config, user_agent: &str) -> Result<Self, ConfigError> {
        config.tls()?;
        let user_agent = HeaderValue::from_str(user_agent)
            .map_err(|error| ConfigError::Tls { what: "user agent", why: error.to_string() })?;
        Ok(Self { shared: Arc::new(Shared { config, user_agent, link: tokio::sync::Mutex::default() }) })
    }

    /// The namespace of the configuration.
    pub fn namespace(&self) -> &str {
        &self.shared.config.namespace
    }

    /// The apiserver's `host:port`.
    pub fn authority(&self) -> &str {
        self.shared.config.server.authority().map_or("", http::uri::Authority::as_str)
    }

    /// Any call, by path. A refusal is an [`Error::Api`].
    pub async fn request(
        &self,
        method: Method,
        path_and_query: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Bytes, Error> {
        self.call(Call { method, path: path_and_query, content_type, accept: JSON, body }).await
    }

    /// One call within [`CALL_TIMEOUT`]; asks again where the server says when (Retry-After)
    /// and where a request can be repeated safely.
    pub(crate) async fn call(&self, call: Call<'_>) -> Result<Bytes, Error> {
        tokio::time::timeout(CALL_TIMEOUT, self.call_until_answered(&call))
            .await
            .unwrap_or_else(|_| Err(Error::timed_out(&what(&call), CALL_TIMEOUT)))
    }

    async fn call_until_answered(&self, call: &Call<'_>) -> Result<Bytes, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            let (code, headers, body) = match self.exchange(call).await {
                Ok(answer) => answer,
                // A read changes nothing, so a broken connection is no reason to give up.
                Err(Error::Transport { .. }) if call.method == Method::GET && tries < 2 => continue,
                Err(error) => return Err(error),
            };
            if code.is_success() {
                return Ok(body);
            }
            match retry_after(code, &headers) {
                Some(pause) if tries < TRIES_MAX => tokio::time::sleep(pause).await,
                _ => return Err(Error::Api(refusal(code, &body))),
            }
        }
    }

    async fn exchange(&self, call: &Call<'_>) -> Result<(StatusCode, HeaderMap, Bytes), Error> {
        let (parts, body) = self.send(call).await?.into_parts();
        let body = http_body_util::Limited::new(body, BODY_MAX_BYTES)
            .collect()
            .await
            .map_err(|error| Error::transport(what(call), error))?;
        Ok((parts.status, parts.headers, body.to_bytes()))
    }

    /// Opens an answer without end, or a large one. The caller reads its body.
    pub async fn stream(&self, path: &str, accept: &str) -> Result<Incoming, Error> {
        let call = Call { method: Method::GET, path, content_type: JSON, accept, body: Bytes::new() };
        let opened = tokio::time::timeout(CALL_TIMEOUT, self.send(&call)).await;
        let response = opened.unwrap_or_else(|_| Err(Error::timed_out(&what(&call), CALL_TIMEOUT)))?;
        let code = response.status();
        if code.is_success() {
            return Ok(response.into_body());
        }
        let body = response.into_body().collect().await.map_err(|error| Error::transport(what(&call), error))?;
        Err(Error::Api(refusal(code, &body.to_bytes())))
    }

    /// Sends once; once more over a new connection if the old one broke before the request left.
    async fn send(&self, call: &Call<'_>) -> Result<Response<Incoming>, Error> {
        let mut request = self.build(call)?;
        for last in [false, true] {
            let mut sender = self.sender().await?;
            match sender.try_send_request(request).await {
                Ok(response) => {
                    metrics::answered(&call.method, response.status());
                    return Ok(response);
                }
                Err(mut refused) => match refused.take_message() {
                    Some(unsent) if !last => request = unsent,
                    _ => {
                        metrics::failed(&call.method);
                        return Err(Error::transport(what(call), refused.into_error()));
                    }
                },
            }
        }
        unreachable!("the second round always returns")
    }

    fn build(&self, call: &Call<'_>) -> Result<Request<Full<Bytes>>, Error> {
        let uri = format!("https://{}{}", self.authority(), call.path);
        let mut request = Request::builder()
            .method(&call.method)
            .uri(uri)
            .header(ACCEPT, call.accept)
            .header(USER_AGENT, &self.shared.user_agent);
        if !call.body.is_empty() {
            request = request.header(CONTENT_TYPE, call.content_type);
        }
        if let Some(token) = self.shared.config.token()? {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        request.body(Full::new(call.body.clone())).map_err(|error| Error::transport(what(call), error))
    }

    /// The living connection; dials if there is none. Those who wait for a dial share its outcome.
    async fn sender(&self) -> Result<Sender, Error> {
        let begun = Instant::now();
        let mut link = self.shared.link.lock().await;
        // What streams over the old connection ends in its own time; new calls show the new certificate.
        let files_are_old = link.files.are_old(&self.shared.config);
        if let Some(sender) = link.sender.as_ref().filter(|sender| !sender.is_closed() && !files_are_old) {
            return Ok(sender.clone());
        }
        link.sender = None;
        let files = Files { written: self.shared.config.written(), checked: Instant::now() };
        if let Some(failure) = &link.failure {
            if failure.at > begun {
                return Err(Error::Transport { what: failure.why.clone(), source: None });
            }
            tokio::time::sleep(redial_pause(link.failures).saturating_sub(failure.at.elapsed())).await;
        }
        match self.dial().await {
            Ok(sender) => {
                *link = Link { sender: Some(sender.clone()), files, failures: 0, failure: None };
                Ok(sender)
            }
            Err(error) => {
                link.failures += 1;
                link.failure = Some(Failure { at: Instant::now(), why: crate::controller::chain(&error) });
                Err(error)
            }
        }
    }

    async fn dial(&self) -> Result<Sender, Error> {
        let config = &self.shared.config;
        let address = self.authority();
        let connector = TlsConnector::from(Arc::new(config.tls()?));
        tokio::time::timeout(DIAL_TIMEOUT, connect(address, config.server_name(), connector))
            .await
            .unwrap_or_else(|_| Err(Error::timed_out(&format!("dialling {address}"), DIAL_TIMEOUT)))
    }
}

async fn connect(address: &str, name: ServerName<'static>, connector: TlsConnector) -> Result<Sender, Error> {
    let failed =
        |error: Box<dyn std::error::Error + Send + Sync>| Error::transport(format!("dialling {address}"), error);
    let target = if address.rsplit(']').next().is_some_and(|end| end.contains(':')) {
        address.to_owned()
    } else {
        format!("{address}:443")
    };
    let socket = TcpStream::connect(target).await.map_err(|error| failed(error.into()))?;
    socket.set_nodelay(true).map_err(|error| failed(error.into()))?;
    let stream = connector.connect(name, socket).await.map_err(|error| failed(error.into()))?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(failed("the server does not speak HTTP/2".into()));
    }
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(error.into()))?;
    let address = address.to_owned();
    // Ends by itself when the last sender is dropped or the peer goes.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(address, %error, "connection ended");
        }
    });
    Ok(sender)
}

fn what(call: &Call<'_>) -> String {
    format!("{} {}", call.method, call.path)
}

/// 20 ms, doubling, at most 2 s.
fn redial_pause(failures: u32) -> Duration {
    REDIAL_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(REDIAL_MAX)
}

/// How long the server asks us to wait, for the codes that mean "later".
fn retry_after(code: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    if code != StatusCode::TOO_MANY_REQUESTS && !code.is_server_error() {
        return None;
    }
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_certificate_is_noticed_now_and_then() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("client.pem");
        let kubeconfig = folder.path().join("config");
        std::fs::write(&file, "a").unwrap();
        std::fs::write(
            &kubeconfig,
            "current-context: c\ncontexts: [{name: c, context: {cluster: k, user: u}}]\nusers: []\n\
             clusters: [{name: k, cluster: {server: 'https://x', certificate-authority-data: eA==}}]\n",
        )
        .unwrap();
        let config = Config::from_kubeconfig(&kubeconfig).unwrap().with_certificate_file(file.clone());
        let long_ago = Instant::now().checked_sub(FILES_CHECKED_EVERY).expect("the machine runs for a while");
        let mut files = Files { written: config.written(), checked: long_ago };
        assert!(!files.are_old(&config));
        let later = SystemTime::now() + Duration::from_secs(60);
        std::fs::File::open(&file).unwrap().set_modified(later).unwrap();
        assert!(!files.are_old(&config), "just looked");
        files.checked = long_ago;
        assert!(files.are_old(&config));
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        let ms: Vec<u128> = [1, 2, 3, 8, 60].iter().map(|n| redial_pause(*n).as_millis()).collect();
        assert_eq!(ms, [20, 40, 80, 2000, 2000]);
    }

    #[test]
    fn only_later_is_asked_again() {
        let check = |code: u16, header: Option<&'static str>, expected_s: Option<u64>| {
            let mut headers = HeaderMap::new();
            if let Some(header) = header {
                headers.insert(RETRY_AFTER, HeaderValue::from_static(header));
            }
            let code = StatusCode::from_u16(code).unwrap();
            assert_eq!(retry_after(code, &headers), expected_s.map(Duration::from_secs), "{code} {header:?}");
        };
        check(429, Some("1"), Some(1));
        check(503, Some("3600"), Some(10));
        check(429, None, None);
        check(429, Some("soon"), None);
        check(409, Some("1"), None);
    }
}
