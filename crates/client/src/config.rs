//! Where the apiserver is and who we are there: a kubeconfig file, or what a pod is
//! given. Certificates and tokens stay references to their files, so that each new
//! connection uses what stands there then (rotation needs no restart).

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::Uri;
use parking_lot::RwLock;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde::Deserialize;

const SERVICE_ACCOUNT_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How to reach an apiserver, and as whom.
#[derive(Clone, Debug)]
pub struct Config {
    /// Scheme (always https), host and port; a path only where the file is a webhook's.
    pub server: Uri,
    /// Namespace of the context, or `default`.
    pub namespace: String,
    server_name: ServerName<'static>,
    authority: Source,
    identity: Identity,
}

/// Text that is either here or in a file that may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Inline(Vec<u8>),
    File(PathBuf),
}

/// How we show who we are.
#[derive(Clone)]
enum Identity {
    Anonymous,
    Certificate { chain: Source, key: Source },
    Token(Source),
    Live(LiveToken),
}

/// A bearer token that its holder renews; every request shows what it is then. Clones share it.
#[derive(Clone, Default)]
pub struct LiveToken(Arc<RwLock<String>>);

impl LiveToken {
    pub fn set(&self, token: String) {
        *self.0.write() = token;
    }
}

/// The variant's name only: keys and tokens do not belong in logs.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Identity::Anonymous => "Anonymous",
            Identity::Certificate { .. } => "Certificate",
            Identity::Token(_) => "Token",
            Identity::Live(_) => "Live",
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: cannot be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: not a kubeconfig: {why}", path.display())]
    Parse { path: PathBuf, why: String },
    #[error("{}: {what}", path.display())]
    Incomplete { path: PathBuf, what: String },
    #[error("no apiserver known: pass --kubeconfig, set KUBECONFIG, or run in a pod with a ServiceAccount")]
    Nowhere,
    #[error("{what}: {why}")]
    Tls { what: &'static str, why: String },
}

impl Config {
    /// The kubeconfig at `path`, else the pod's own ServiceAccount, else the file that `KUBECONFIG` names.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        if let Some(path) = path {
            return Self::from_kubeconfig(path);
        }
        if env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
            return Self::in_cluster();
        }
        let path = env::var_os("KUBECONFIG").ok_or(ConfigError::Nowhere)?;
        Self::from_kubeconfig(Path::new(&path))
    }

    /// The current context of a kubeconfig file; paths in it are relative to its folder.
    pub fn from_kubeconfig(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// What every pod with a ServiceAccount finds in its environment and file system.
    pub fn in_cluster() -> Result<Self, ConfigError> {
        let host = env::var("KUBERNETES_SERVICE_HOST").map_err(|_| ConfigError::Nowhere)?;
        let port = env::var("KUBERNETES_SERVICE_PORT").unwrap_or_else(|_| "443".to_owned());
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let dir = Path::new(SERVICE_ACCOUNT_DIR);
        let namespace = fs::read_to_string(dir.join("namespace")).unwrap_or_else(|_| "default".to_owned());
        let (server, server_name) = address(&format!("https://{host}:{port}"), None, dir)?;
        Ok(Self {
            server,
            server_name,
            namespace: namespace.trim().to_owned(),
            authority: Source::File(dir.join("ca.crt")),
            identity: Identity::Token(Source::File(dir.join("token"))),
        })
    }

    /// The same apiserver, as whomever the certificate in this file is for; the key lies there too.
    pub fn with_certificate_file(self, file: PathBuf) -> Self {
        let both = Source::File(file);
        Self { identity: Identity::Certificate { chain: both.clone(), key: both }, ..self }
    }

    /// The certificate (chain) and its key as they stand now, PEM; `None` for whoever shows none.
    pub fn certificate(&self) -> Result<Option<[Vec<u8>; 2]>, ConfigError> {
        match &self.identity {
            Identity::Certificate { chain, key } => Ok(Some([chain.read()?, key.read()?])),
            Identity::Anonymous | Identity::Token(_) | Identity::Live(_) => Ok(None),
        }
    }

    /// A kubeconfig for the same apiserver, as whomever the certificate in `file` is for; the key lies there too.
    pub fn kubeconfig(&self, file: &Path) -> Result<String, ConfigError> {
        let authority = BASE64_STANDARD.encode(self.authority.read()?);
        let (server, file) = (&self.server, file.display());
        Ok(format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: default\n\
             clusters:\n- name: default\n  cluster: {{server: '{server}', certificate-authority-data: {authority}}}\n\
             users:\n- name: default\n  user: {{client-certificate: '{file}', client-key: '{file}'}}\n\
             contexts:\n- name: default\n  context: {{cluster: default, user: default}}\n"
        ))
    }

    /// The same apiserver, as whomever `token` stands for.
    pub fn with_token(self, token: LiveToken) -> Self {
        Self { identity: Identity::Live(token), ..self }
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let file: File = serde_saphyr::from_str(text)
            .map_err(|error| ConfigError::Parse { path: path.to_owned(), why: error.to_string() })?;
        let incomplete = |what: String| ConfigError::Incomplete { path: path.to_owned(), what };
        let context = match file.current_context.as_str() {
            "" => return Err(incomplete("current-context is not set".to_owned())),
            name => named(&file.contexts, name).ok_or_else(|| incomplete(format!("no context named {name:?}")))?,
        };
        let context = &context.context;
        let cluster = named(&file.clusters, &context.cluster)
            .ok_or_else(|| incomplete(format!("no cluster named {:?}", context.cluster)))?;
        let cluster = &cluster.cluster;
        if cluster.insecure_skip_tls_verify {
            return Err(incomplete(
                "insecure-skip-tls-verify is not supported: give certificate-authority-data instead".to_owned(),
            ));
        }
        let dir = path.parent().unwrap_or(Path::new("."));
        let authority = source(dir, &cluster.certificate_authority, &cluster.certificate_authority_data)
            .map_err(|why| incomplete(format!("certificate-authority-data: {why}")))?
            .ok_or_else(|| incomplete(format!("cluster {:?} has no certificate-authority", context.cluster)))?;
        let identity = match named(&file.users, &context.user) {
            None => Identity::Anonymous,
            Some(user) => {
                user.user.identity(dir).map_err(|why| incomplete(format!("user {:?}: {why}", context.user)))?
            }
        };
        let (server, server_name) = address(&cluster.server, cluster.tls_server_name.as_deref(), path)?;
        let namespace = context.namespace.clone().unwrap_or_else(|| "default".to_owned());
        Ok(Self { server, namespace, server_name, authority, identity })
    }

    /// Who vouches for the server: what tells one cluster from another.
    pub fn authority(&self) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
        certificates(&self.authority)
    }

    /// When the files behind a connection were last written: if that changes, a new one is due.
    pub(crate) fn written(&self) -> Vec<Option<SystemTime>> {
        let mut sources = vec![&self.authority];
        if let Identity::Certificate { chain, key } = &self.identity {
            sources.extend([chain, key]);
        }
        let written = |source: &&Source| match source {
            Source::File(path) => fs::metadata(path).and_then(|file| file.modified()).ok(),
            Source::Inline(_) => None,
        };
        sources.iter().map(written).collect()
    }

    /// The name that the server's certificate must bear.
    pub fn server_name(&self) -> ServerName<'static> {
        self.server_name.clone()
    }

    /// TLS as the files stand now.
    pub fn tls(&self) -> Result<ClientConfig, ConfigError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.authority)? {
            roots.add(certificate).map_err(tls_error("certificate-authority"))?;
        }
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let mut config = match &self.identity {
            Identity::Certificate { chain, key } => {
                let key = PrivateKeyDer::from_pem_slice(&key.read()?).map_err(tls_error("client-key"))?;
                builder.with_client_auth_cert(certificates(chain)?, key).map_err(tls_error("client-certificate"))?
            }
            Identity::Anonymous | Identity::Token(_) | Identity::Live(_) => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    /// The bearer token as it stands now.
    pub fn token(&self) -> Result<Option<String>, ConfigError> {
        match &self.identity {
            Identity::Token(source) => Ok(Some(String::from_utf8_lossy(&source.read()?).trim().to_owned())),
            Identity::Live(token) => Ok(Some(token.0.read().clone())),
            Identity::Anonymous | Identity::Certificate { .. } => Ok(None),
        }
    }
}

impl Source {
    fn read(&self) -> Result<Vec<u8>, ConfigError> {
        match self {
            Source::Inline(bytes) => Ok(bytes.clone()),
            Source::File(path) => fs::read(path).map_err(|source| ConfigError::Read { path: path.clone(), source }),
        }
    }
}

fn certificates(source: &Source) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let pem = source.read()?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(tls_error("certificate"))?;
    if found.is_empty() {
        return Err(ConfigError::Tls { what: "certificate", why: format!("none in {source:?}") });
    }
    Ok(found)
}

fn tls_error<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> ConfigError {
    move |error| ConfigError::Tls { what, why: error.to_string() }
}

/// Checks a server's URL; gives it and the name that its certificate must bear.
fn address(server: &str, name: Option<&str>, path: &Path) -> Result<(Uri, ServerName<'static>), ConfigError> {
    let incomplete = |what: String| ConfigError::Incomplete { path: path.to_owned(), what };
    let uri: Uri = server.parse().map_err(|error| incomplete(format!("server {server:?}: {error}")))?;
    let Some(host) = uri.host().filter(|_| uri.scheme_str() == Some("https")) else {
        return Err(incomplete(format!("server {server:?} is not an https:// address")));
    };
    let host = name.unwrap_or(host).trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host).map_err(|error| incomplete(format!("server {server:?}: {error}")))?;
    Ok((uri, name))
}

/// Data goes before a file, as in client-go.
fn source(dir: &Path, file: &Option<PathBuf>, data: &Option<String>) -> Result<Option<Source>, String> {
    let filled = |text: &&String| !text.is_empty();
    if let Some(data) = data.as_ref().filter(filled) {
        let text: String = data.split_whitespace().collect();
        let bytes = BASE64_STANDARD.decode(text).map_err(|error| format!("not base64: {error}"))?;
        return Ok(Some(Source::Inline(bytes)));
    }
    Ok(file.as_ref().filter(|path| !path.as_os_str().is_empty()).map(|path| Source::File(dir.join(path))))
}

impl User {
    /// A certificate goes before a token, a token file before a token.
    fn identity(&self, dir: &Path) -> Result<Identity, String> {
        let chain = source(dir, &self.client_certificate, &self.client_certificate_data)
            .map_err(|why| format!("client-certificate-data: {why}"))?;
        let key =
            source(dir, &self.client_key, &self.client_key_data).map_err(|why| format!("client-key-data: {why}"))?;
        match (chain, key) {
            (Some(chain), Some(key)) => return Ok(Identity::Certificate { chain, key }),
            (Some(_), None) => return Err("client-certificate without client-key".to_owned()),
            (None, Some(_)) => return Err("client-key without client-certificate".to_owned()),
            (None, None) => {}
        }
        if let Some(file) = &self.token_file {
            return Ok(Identity::Token(Source::File(dir.join(file))));
        }
        if let Some(token) = &self.token {
            return Ok(Identity::Token(Source::Inline(token.clone().into_bytes())));
        }
        if self.exec.is_some() || self.auth_provider.is_some() {
            return Err("exec and auth-provider are not supported: use a certificate or a token".to_owned());
        }
        Ok(Identity::Anonymous)
    }
}

fn named<'a, T: Named>(list: &'a [T], name: &str) -> Option<&'a T> {
    list.iter().find(|entry| entry.name() == name)
}

trait Named {
    fn name(&self) -> &str;
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[derive(Default)]
struct File {
    current_context: String,
    clusters: Vec<NamedCluster>,
    contexts: Vec<NamedContext>,
    users: Vec<NamedUser>,
}
#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}
#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}
#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}
#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    tls_server_name: Option<String>,
    insecure_skip_tls_verify: bool,
}
#[derive(Deserialize, Default)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
    namespace: Option<String>,
}
#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    exec: Option<serde_json::Value>,
    auth_provider: Option<serde_json::Value>,
}

impl Named for NamedCluster {
    fn name(&self) -> &str {
        &self.name
    }
}
impl Named for NamedContext {
    fn name(&self) -> &str {
        &self.name
    }
}
impl Named for NamedUser {
    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(cluster: &str, user: &str) -> Result<Config, String> {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts:\n- name: c\n  context: {{cluster: k, user: u}}\n\
             clusters:\n- name: k\n  cluster: {{{cluster}}}\nusers:\n- name: u\n  user: {{{user}}}\n"
        );
        Config::parse(&text, Path::new("/etc/kube/config")).map_err(|error| error.to_string())
    }
    const SERVER: &str = "server: 'https://10.0.0.1:6443', certificate-authority: ca.crt";

    #[test]
    fn paths_are_relative_to_the_file() {
        let config = parse(SERVER, "tokenFile: tok").unwrap();
        assert_eq!(config.authority, Source::File("/etc/kube/ca.crt".into()));
        assert!(matches!(config.identity, Identity::Token(Source::File(path)) if path == Path::new("/etc/kube/tok")));
        assert_eq!(config.server.authority().unwrap().as_str(), "10.0.0.1:6443");
    }

    #[test]
    fn data_goes_before_files() {
        let config = parse(&format!("{SERVER}, certificate-authority-data: aGk="), "token: t").unwrap();
        assert_eq!(config.authority, Source::Inline(b"hi".to_vec()));
        assert_eq!(config.token().unwrap().as_deref(), Some("t"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let check = |cluster: &str, user: &str, expected: &str| {
            let error = parse(cluster, user).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        };
        check("server: 'http://x', certificate-authority: a", "", "is not an https:// address");
        check("server: 'https://x'", "", "has no certificate-authority");
        check(&format!("{SERVER}, insecure-skip-tls-verify: true"), "", "insecure-skip-tls-verify is not supported");
        check(SERVER, "client-certificate: a", "client-certificate without client-key");
        check(SERVER, "exec: {command: x}", "exec and auth-provider are not supported");
        check(&format!("{SERVER}, certificate-authority-data: '%'"), "", "not base64");
    }

    #[test]
    fn debug_shows_no_token() {
        assert!(!format!("{:?}", parse(SERVER, "token: hush").unwrap()).contains("hush"));
    }
}
