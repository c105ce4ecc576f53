//! TLS for a daemon's port. Certificate, key and client authority are read again when
//! their files change; connections that stand keep what they began with.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use notify::{RecursiveMode, Watcher};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

const SELF_SIGNED_DAYS: i64 = 365;

/// Whether a client has to show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// It is asked for; one that is shown must be good.
    Optional,
    Required,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{}: cannot be read", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: {why}", path.display())]
    Content { path: PathBuf, why: String },
    #[error("certificate and key do not fit: {0}")]
    Mismatch(rustls::Error),
    #[error("the files cannot be watched")]
    Watch(#[from] notify::Error),
    #[error("no certificate can be made")]
    Make(#[from] pki::PkiError),
}

/// A server's TLS as its files stand now. Clones share it.
#[derive(Clone)]
pub struct ReloadingServerConfig {
    current: Arc<ArcSwap<ServerConfig>>,
    /// Ends the watching when dropped.
    _watcher: Option<Arc<notify::RecommendedWatcher>>,
}

impl ReloadingServerConfig {
    /// To be asked for each connection.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }
}

/// TLS 1.2 and 1.3 with ALPN h2 and http/1.1. Without `client_ca` no client certificate is asked for.
pub fn server_config(
    certificate: &Path,
    key: &Path,
    client_ca: Option<&Path>,
    client_auth: ClientAuth,
) -> Result<ReloadingServerConfig, TlsError> {
    let files = Files {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        client_ca: client_ca.map(Path::to_owned),
        client_auth,
    };
    let current = Arc::new(ArcSwap::from_pointee(files.read()?));
    let watcher = watch(files, Arc::clone(&current))?;
    Ok(ReloadingServerConfig { current, _watcher: Some(Arc::new(watcher)) })
}

/// A certificate for `name` made in memory: enough for what need not be trusted, such as health.
pub fn self_signed(name: &str, client_ca: Option<&Path>) -> Result<ReloadingServerConfig, TlsError> {
    let pair = self_signed_pair(name)?;
    let here = || PathBuf::from("the certificate made in memory");
    let config = build(
        certificates(pair.certificate_pem.as_bytes(), &here())?,
        PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes())
            .map_err(|error| TlsError::Content { path: here(), why: error.to_string() })?,
        client_ca.map(roots).transpose()?,
        ClientAuth::Optional,
    )?;
    Ok(ReloadingServerConfig { current: Arc::new(ArcSwap::from_pointee(config)), _watcher: None })
}

/// What [`self_signed`] serves with, for who wants it in a file.
pub fn self_signed_pair(name: &str) -> Result<pki::Pair, pki::PkiError> {
    let (ca, _) = pki::Ca::create(name)?;
    ca.issue(&pki::Leaf {
        common_name: name,
        organization: None,
        dns_names: vec!["localhost".to_owned()],
        addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
        usage: pki::Usage::Server,
        days: SELF_SIGNED_DAYS,
    })
}

struct Files {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    client_auth: ClientAuth,
}

impl Files {
    fn read(&self) -> Result<ServerConfig, TlsError> {
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(|error| TlsError::Content { path: self.key.clone(), why: error.to_string() })?;
        let roots = self.client_ca.as_deref().map(roots).transpose()?;
        build(certificates(&read(&self.certificate)?, &self.certificate)?, key, roots, self.client_auth)
    }

    /// Folders, not files: a mounted volume changes by swapping a link beside them.
    fn folders(&self) -> BTreeSet<&Path> {
        let files = [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()];
        files
            .into_iter()
            .flatten()
            .map(|path| path.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new(".")))
            .collect()
    }
}

fn watch(files: Files, current: Arc<ArcSwap<ServerConfig>>) -> Result<notify::RecommendedWatcher, TlsError> {
    let folders: Vec<PathBuf> = files.folders().into_iter().map(Path::to_owned).collect();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if !event.is_ok_and(|event| event.kind.is_create() || event.kind.is_modify() || event.kind.is_remove()) {
            return;
        }
        match files.read() {
            Ok(config) => {
                current.store(Arc::new(config));
                tracing::debug!(certificate = %files.certificate.display(), "certificates read again");
            }
            // Half-written files are everyday here: the next event tells of their end.
            Err(error) => tracing::debug!(%error, "certificates kept as they were"),
        }
    })?;
    for folder in folders {
        watcher.watch(&folder, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

fn build(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Option<RootCertStore>,
    client_auth: ClientAuth,
) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder();
    let builder = match roots {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots));
            let verifier = match client_auth {
                ClientAuth::Optional => verifier.allow_unauthenticated(),
                ClientAuth::Required => verifier,
            };
            let verifier =
                verifier.build().map_err(|error| TlsError::Mismatch(rustls::Error::General(error.to_string())))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(TlsError::Mismatch)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&read(path)?, path)? {
        roots.add(certificate).map_err(|error| TlsError::Content { path: path.to_owned(), why: error.to_string() })?;
    }
    Ok(roots)
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |why: String| TlsError::Content { path: path.to_owned(), why };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| wrong(error.to_string()))?;
    if found.is_empty() { Err(wrong("holds no certificate".to_owned())) } else { Ok(found) }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (ca, pair) = pki::Ca::create(name).unwrap();
        pair.write(folder, "ca").unwrap();
        let leaf = pki::Leaf {
            common_name: name,
            organization: None,
            dns_names: vec!["localhost".to_owned()],
            addresses: Vec::new(),
            usage: pki::Usage::Server,
            days: 1,
        };
        ca.issue(&leaf).unwrap().write(folder, "tls").unwrap();
        (folder.join("tls.crt"), folder.join("tls.key"))
    }

    fn provider() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }

    #[test]
    fn what_is_wrong_is_said() {
        provider();
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = files(folder.path(), "a");
        let check = |certificate: &Path, key: &Path, expected: &str| {
            let error = server_config(certificate, key, None, ClientAuth::Optional).err().expect(expected).to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(Path::new("/absent"), &key, "/absent: cannot be read");
        check(&key, &key, "holds no certificate");
        check(&certificate, &folder.path().join("ca.key"), "do not fit");
    }

    #[test]
    fn a_changed_file_is_read_again() {
        provider();
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = files(folder.path(), "a");
        let config = server_config(&certificate, &key, None, ClientAuth::Optional).unwrap();
        let first = config.current();
        files(folder.path(), "b");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while Arc::ptr_eq(&first, &config.current()) {
            assert!(std::time::Instant::now() < deadline, "not read again");
            std::thread::yield_now();
        }
    }
}
