//! The cluster's certificates: authorities, leaves for servers and clients, the key pair that
//! signs ServiceAccount tokens, and kubeconfigs. Key files are readable by their owner alone.

mod facts;
mod layout;
mod renew;
mod request;

use std::{
    fs,
    io::Write,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use time::{Duration, OffsetDateTime};

pub use facts::{Facts, State};
pub use layout::{Layout, NodeNames};
pub use renew::{Entry, inventory, renew};
pub use request::{Asked, Request, ask};

const CA_DAYS: i64 = 3650;
/// Clocks of a cluster may differ by this much.
const BACKDATED: Duration = Duration::minutes(5);
const SECRET_MODE: u32 = 0o600;
const PUBLIC_MODE: u32 = 0o644;

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("{}: cannot be read or written", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{subject}: the certificate cannot be made")]
    Certificate { subject: String, source: rcgen::Error },
    #[error("{}: {why}", path.display())]
    Content { path: PathBuf, why: String },
}

/// A certificate authority with its key.
pub struct Ca {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// What a leaf certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    Server,
    Client,
    /// Members of a store are both to each other.
    Both,
}

/// A leaf certificate to issue.
#[derive(Clone, Debug)]
pub struct Leaf<'a> {
    /// User name of a client.
    pub common_name: &'a str,
    /// Group of a client; at most one, as the name is a map by type.
    pub organization: Option<&'a str>,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub usage: Usage,
    pub days: i64,
}

/// A certificate and its private key, both PEM.
pub struct Pair {
    pub certificate_pem: String,
    pub key_pem: String,
}

impl Ca {
    /// A new authority, valid for ten years.
    pub fn create(common_name: &str) -> Result<(Self, Pair), PkiError> {
        let wrap = |source| PkiError::Certificate { subject: common_name.to_owned(), source };
        let key = KeyPair::generate().map_err(wrap)?;
        let mut params = valid_for(CA_DAYS);
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate_pem = params.self_signed(&key).map_err(wrap)?.pem();
        let pair = Pair { certificate_pem: certificate_pem.clone(), key_pem: key.serialize_pem() };
        Ok((Self { certificate_pem, issuer: Issuer::new(params, key) }, pair))
    }

    /// The authority in `NAME.crt` and `NAME.key` of a folder; made there if it is absent.
    pub fn ensure(folder: &Path, name: &str, common_name: &str) -> Result<Self, PkiError> {
        let (certificate, key) = (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
        if !certificate.exists() || !key.exists() {
            let (ca, pair) = Self::create(common_name)?;
            pair.write(folder, name)?;
            return Ok(ca);
        }
        Self::load(&certificate, &key)
    }

    pub fn load(certificate: &Path, key: &Path) -> Result<Self, PkiError> {
        let certificate_pem = read(certificate)?;
        let wrap = |source| PkiError::Certificate { subject: certificate.display().to_string(), source };
        let key = KeyPair::from_pem(&read(key)?).map_err(wrap)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key).map_err(wrap)?;
        Ok(Self { certificate_pem, issuer })
    }

    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    pub fn issue(&self, leaf: &Leaf<'_>) -> Result<Pair, PkiError> {
        let wrap = |source| PkiError::Certificate { subject: leaf.common_name.to_owned(), source };
        let key = KeyPair::generate().map_err(wrap)?;
        let mut params = valid_for(leaf.days);
        params.distinguished_name.push(DnType::CommonName, leaf.common_name);
        if let Some(organization) = leaf.organization {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        for name in &leaf.dns_names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into().map_err(wrap)?));
        }
        params.subject_alt_names.extend(leaf.addresses.iter().copied().map(SanType::IpAddress));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = match leaf.usage {
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        let certificate_pem = params.signed_by(&key, &self.issuer).map_err(wrap)?.pem();
        Ok(Pair { certificate_pem, key_pem: key.serialize_pem() })
    }
}

fn valid_for(days: i64) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = now - BACKDATED;
    params.not_after = now + Duration::days(days);
    params
}

impl Pair {
    /// As `NAME.crt` and `NAME.key` (mode 0600).
    pub fn write(&self, folder: &Path, name: &str) -> Result<(), PkiError> {
        write(&folder.join(format!("{name}.key")), &self.key_pem, SECRET_MODE)?;
        write(&folder.join(format!("{name}.crt")), &self.certificate_pem, PUBLIC_MODE)
    }
}

/// The P-256 key pair that signs and verifies ServiceAccount tokens, as `NAME.key` and `NAME.pub`;
/// an existing one is kept.
pub fn ensure_token_keys(folder: &Path, name: &str) -> Result<(), PkiError> {
    let (private, public) = (folder.join(format!("{name}.key")), folder.join(format!("{name}.pub")));
    if private.exists() && public.exists() {
        return Ok(());
    }
    let key = KeyPair::generate()
        .map_err(|source| PkiError::Certificate { subject: "token signing key".to_owned(), source })?;
    write(&private, &key.serialize_pem(), SECRET_MODE)?;
    write(&public, &key.public_key_pem(), PUBLIC_MODE)
}

/// Writes a kubeconfig (mode 0600) that names the certificate files by path.
pub fn write_kubeconfig(file: &Path, server: &str, ca: &Path, certificate: &Path, key: &Path) -> Result<(), PkiError> {
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: coxswain\n\
         clusters:\n- name: coxswain\n  cluster:\n    server: {server}\n    certificate-authority: {}\n\
         users:\n- name: coxswain\n  user:\n    client-certificate: {}\n    client-key: {}\n\
         contexts:\n- name: coxswain\n  context: {{cluster: coxswain, user: coxswain}}\n",
        ca.display(),
        certificate.display(),
        key.display(),
    );
    write(file, &text, SECRET_MODE)
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| PkiError::File { path: path.to_owned(), source })
}

/// A file that only its owner reads.
pub fn write_secret(path: &Path, text: &str) -> Result<(), PkiError> {
    write(path, text, SECRET_MODE)
}

/// Whole or not at all: a reader never sees half a key.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let temporary = path.with_extension("new");
    let attempt = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&temporary, path)
    };
    attempt().map_err(|source| PkiError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_leaf_carries_user_group_and_names() {
        let (ca, _) = Ca::create("test-ca").expect("a CA");
        let leaf = Leaf {
            common_name: "system:node:n1",
            organization: Some("system:nodes"),
            dns_names: vec!["n1".to_owned()],
            addresses: vec!["10.0.0.1".parse().expect("an address")],
            usage: Usage::Both,
            days: 1,
        };
        let pair = ca.issue(&leaf).expect("a leaf");
        let (_, pem) = x509_parser::pem::parse_x509_pem(pair.certificate_pem.as_bytes()).expect("PEM");
        let certificate = pem.parse_x509().expect("X.509");
        assert_eq!(certificate.subject().to_string(), "CN=system:node:n1, O=system:nodes");
        assert_eq!(certificate.issuer().to_string(), "CN=test-ca");
        let usage = certificate.extended_key_usage().expect("well-formed").expect("present").value;
        assert!(usage.client_auth && usage.server_auth);
    }

    #[test]
    fn an_authority_is_made_once_and_its_key_is_secret() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = Ca::ensure(folder.path(), "ca", "test-ca").expect("made");
        let second = Ca::ensure(folder.path(), "ca", "test-ca").expect("loaded");
        assert_eq!(first.certificate_pem(), second.certificate_pem());
        let mode = fs::metadata(folder.path().join("ca.key")).expect("the key").permissions().mode();
        assert_eq!(mode & 0o777, SECRET_MODE);
    }
}
