//! TLS for a daemon's port. Certificate, key and client authority are read again when
//! their files change; connections that stand keep what they began with.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};

use crate::reload::Reloading;

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

/// A server's TLS as its files stand now, to be asked for each connection.
pub type ReloadingServerConfig = Reloading<ServerConfig>;

/// TLS 1.2 and 1.3 with ALPN h2 and http/1.1. Without `client_cas` no client certificate is asked for.
pub fn server_config(
    certificate: &Path,
    key: &Path,
    client_cas: &[PathBuf],
    client_auth: ClientAuth,
) -> Result<ReloadingServerConfig, TlsError> {
    let (certificate, key, client_cas) = (certificate.to_owned(), key.to_owned(), client_cas.to_vec());
    let files: Vec<PathBuf> = [&certificate, &key].into_iter().chain(&client_cas).cloned().collect();
    Reloading::watch(&files, move || {
        let key = PrivateKeyDer::from_pem_slice(&read(&key)?)
            .map_err(|error| TlsError::Content { path: key.clone(), why: error.to_string() })?;
        build(certificates(&read(&certificate)?, &certificate)?, key, roots(&client_cas)?, client_auth)
    })
}

/// A certificate for `name` made in memory: enough for what need not be trusted, such as health.
pub fn self_signed(name: &str, client_cas: &[PathBuf]) -> Result<ReloadingServerConfig, TlsError> {
    let pair = self_signed_pair(name)?;
    let here = || PathBuf::from("the certificate made in memory");
    let config = build(
        certificates(pair.certificate_pem.as_bytes(), &here())?,
        PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes())
            .map_err(|error| TlsError::Content { path: here(), why: error.to_string() })?,
        roots(client_cas)?,
        ClientAuth::Optional,
    )?;
    Ok(Reloading::fixed(config))
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

/// What judges a client's certificate by the authorities in these files; `None` without files.
pub fn client_verifier(
    client_cas: &[PathBuf],
    client_auth: ClientAuth,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    roots(client_cas)?.map(|roots| verifier(roots, client_auth)).transpose()
}

fn verifier(roots: RootCertStore, client_auth: ClientAuth) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots));
    let verifier = match client_auth {
        ClientAuth::Optional => verifier.allow_unauthenticated(),
        ClientAuth::Required => verifier,
    };
    verifier.build().map_err(|error| TlsError::Mismatch(rustls::Error::General(error.to_string())))
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
        Some(roots) => builder.with_client_cert_verifier(verifier(roots, client_auth)?),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(TlsError::Mismatch)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The authorities of all files; `None` without files.
fn roots(paths: &[PathBuf]) -> Result<Option<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for path in paths {
        for certificate in certificates(&read(path)?, path)? {
            roots.add(certificate).map_err(|error| TlsError::Content { path: path.clone(), why: error.to_string() })?;
        }
    }
    Ok((!paths.is_empty()).then_some(roots))
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
            let error = server_config(certificate, key, &[], ClientAuth::Optional).err().expect(expected).to_string();
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
        let config = server_config(&certificate, &key, &[], ClientAuth::Optional).unwrap();
        let first = config.current();
        files(folder.path(), "b");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while Arc::ptr_eq(&first, &config.current()) {
            assert!(std::time::Instant::now() < deadline, "not read again");
            std::thread::yield_now();
        }
    }
}
