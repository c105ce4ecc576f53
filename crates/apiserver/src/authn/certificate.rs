//! A verified client certificate becomes a user: the common name is the user's name, every
//! organisation a group.
//!
//! Source: `CommonNameUserConversion` in apiserver/pkg/authentication/request/x509.

use std::{collections::BTreeMap, ops::RangeInclusive};

use api_types::jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::User;

/// Upstream's attribute for the user's uid inside the subject.
const UID_OID: &str = "1.3.6.1.4.1.57683.2";
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

#[derive(Clone, Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("the client certificate does not parse")]
    Malformed,
    #[error("the client certificate is not valid at {0}")]
    OutOfTime(Timestamp),
    #[error("the client certificate's subject has no common name")]
    NoCommonName,
    #[error("the certificate is a proxy's, and the request names no user")]
    NoClient,
}

/// A certificate, read once for all requests of its connection.
#[derive(Clone, Debug)]
pub struct Certified {
    user: User,
    /// Seconds since the epoch.
    valid_s: RangeInclusive<i64>,
}

impl Certified {
    pub fn read(leaf: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| CertificateError::Malformed)?;
        let validity = certificate.validity();
        let subject = certificate.subject();
        let texts =
            |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().ok().map(str::to_owned);
        let name = subject.iter_common_name().filter_map(texts).last().unwrap_or_default();
        if name.is_empty() {
            return Err(CertificateError::NoCommonName);
        }
        let uid = subject.iter_attributes().filter(|attribute| attribute.attr_type().to_id_string() == UID_OID);
        let fingerprint: String = Sha256::digest(leaf.as_ref()).iter().map(|byte| format!("{byte:02x}")).collect();
        let user = User {
            name,
            uid: uid.filter_map(texts).next().unwrap_or_default(),
            groups: subject.iter_organization().filter_map(texts).collect(),
            extra: BTreeMap::from([(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={fingerprint}")])]),
        };
        Ok(Self { user, valid_s: validity.not_before.timestamp()..=validity.not_after.timestamp() })
    }

    pub fn common_name(&self) -> &str {
        &self.user.name
    }

    /// `now` counts for every request: a connection may outlive the certificate that opened it.
    pub fn user(&self, now: Timestamp) -> Result<User, CertificateError> {
        if self.valid_s.contains(&now.as_second()) {
            Ok(self.user.clone())
        } else {
            Err(CertificateError::OutOfTime(now))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn user(leaf: &CertificateDer<'_>, now: Timestamp) -> Result<User, CertificateError> {
        Certified::read(leaf)?.user(now)
    }

    fn certificate(common_name: Option<&str>, organization: Option<&str>) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        if let Some(name) = organization {
            params.distinguished_name.push(DnType::OrganizationName, name);
        }
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().clone()
    }

    #[test]
    fn subject_becomes_user() {
        let leaf = certificate(Some("system:node:n1"), Some("system:nodes"));
        let user = user(&leaf, Timestamp::now()).expect("a user");
        assert_eq!((user.name.as_str(), user.groups.as_slice()), ("system:node:n1", &["system:nodes".to_owned()][..]));
        assert!(user.extra[CREDENTIAL_ID][0].starts_with("X509SHA256="));
    }

    #[test]
    fn nameless_expired_and_malformed_are_refused() {
        let nameless = certificate(None, Some("system:masters"));
        assert!(matches!(user(&nameless, Timestamp::now()), Err(CertificateError::NoCommonName)));
        let leaf = certificate(Some("bob"), None);
        assert!(matches!(user(&leaf, Timestamp::MAX), Err(CertificateError::OutOfTime(_))));
        assert!(matches!(
            user(&CertificateDer::from(vec![1, 2, 3]), Timestamp::now()),
            Err(CertificateError::Malformed)
        ));
    }
}
