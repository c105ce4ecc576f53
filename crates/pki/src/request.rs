//! Certificate signing requests: what they ask for, and the certificates that are made of them.

use std::{net::IpAddr, time::Duration};

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

use crate::{BACKDATED, Ca, PkiError};

/// A request whose own signature is good. What it says is what is signed, and nothing else of it.
pub struct Request {
    params: CertificateSigningRequestParams,
}

/// A request to be signed by others, and the key that stays here. Both PEM.
pub struct Asked {
    pub request_pem: String,
    pub key_pem: String,
}

/// Asks, with a new key, for a certificate with these names.
pub fn ask(
    common_name: &str,
    organization: &str,
    dns_names: &[String],
    addresses: &[IpAddr],
) -> Result<Asked, PkiError> {
    let wrap = |source| PkiError::Certificate { subject: common_name.to_owned(), source };
    let key = KeyPair::generate().map_err(wrap)?;
    let mut params = CertificateParams::new(dns_names).map_err(wrap)?;
    params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.distinguished_name.push(DnType::CommonName, common_name);
    let request_pem = params.serialize_request(&key).and_then(|request| request.pem()).map_err(wrap)?;
    Ok(Asked { request_pem, key_pem: key.serialize_pem() })
}

/// A usage that the API's name says; `None` for one that is not known.
fn purpose(name: &str) -> Option<Purpose> {
    use ExtendedKeyUsagePurpose as Extended;
    use KeyUsagePurpose as Plain;
    Some(match name {
        "digital signature" | "signing" => Purpose::Plain(Plain::DigitalSignature),
        "content commitment" => Purpose::Plain(Plain::ContentCommitment),
        "key encipherment" => Purpose::Plain(Plain::KeyEncipherment),
        "key agreement" => Purpose::Plain(Plain::KeyAgreement),
        "data encipherment" => Purpose::Plain(Plain::DataEncipherment),
        "server auth" => Purpose::Extended(Extended::ServerAuth),
        "client auth" => Purpose::Extended(Extended::ClientAuth),
        "code signing" => Purpose::Extended(Extended::CodeSigning),
        "email protection" => Purpose::Extended(Extended::EmailProtection),
        "timestamping" => Purpose::Extended(Extended::TimeStamping),
        "ocsp signing" => Purpose::Extended(Extended::OcspSigning),
        _ => return None,
    })
}

enum Purpose {
    Plain(KeyUsagePurpose),
    Extended(ExtendedKeyUsagePurpose),
}

impl Request {
    pub fn parse(pem: &str) -> Result<Self, PkiError> {
        let params = CertificateSigningRequestParams::from_pem(pem)
            .map_err(|source| PkiError::Certificate { subject: "the request".to_owned(), source })?;
        Ok(Self { params })
    }

    pub fn common_name(&self) -> String {
        part(&self.params.params.distinguished_name, DnType::CommonName)
    }

    /// Empty if there is none. Of several, the last: only that is signed.
    pub fn organization(&self) -> String {
        part(&self.params.params.distinguished_name, DnType::OrganizationName)
    }

    /// DNS names and IP addresses.
    pub fn hosts(&self) -> usize {
        let is_host = |name: &&SanType| matches!(name, SanType::DnsName(_) | SanType::IpAddress(_));
        self.params.params.subject_alt_names.iter().filter(is_host).count()
    }

    /// Alternative names of any kind.
    pub fn alternative_names(&self) -> usize {
        self.params.params.subject_alt_names.len()
    }
}

fn part(name: &DistinguishedName, kind: DnType) -> String {
    match name.get(&kind) {
        Some(DnValue::Utf8String(text)) => text.clone(),
        Some(DnValue::PrintableString(text)) => text.as_str().to_owned(),
        Some(DnValue::Ia5String(text)) => text.as_str().to_owned(),
        // Spellings of names that nobody uses here are no name.
        Some(_) | None => String::new(),
    }
}

impl Ca {
    /// A leaf certificate (PEM) with the request's subject, alternative names and key, good for `usages`
    /// (the API's names; unknown ones are left out).
    pub fn sign(&self, mut request: Request, usages: &[String], lifetime: Duration) -> Result<String, PkiError> {
        let subject = request.common_name();
        let params = &mut request.params.params;
        let now = OffsetDateTime::now_utc();
        params.not_before = now - BACKDATED;
        params.not_after = now + lifetime;
        params.is_ca = IsCa::NoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages.clear();
        params.extended_key_usages.clear();
        for usage in usages.iter().filter_map(|name| purpose(name)) {
            match usage {
                Purpose::Plain(usage) => params.key_usages.push(usage),
                Purpose::Extended(usage) => params.extended_key_usages.push(usage),
            }
        }
        let certificate = request.params.signed_by(&self.issuer);
        certificate.map(|made| made.pem()).map_err(|source| PkiError::Certificate { subject, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_signed_for_what_it_says() {
        let (ca, _) = Ca::create("test").unwrap();
        let asked = ask("system:node:n1", "system:nodes", &["n1".to_owned()], &[]).unwrap();
        let request = Request::parse(&asked.request_pem).unwrap();
        assert_eq!(
            (request.common_name().as_str(), request.organization().as_str()),
            ("system:node:n1", "system:nodes")
        );
        assert_eq!((request.hosts(), request.alternative_names()), (1, 1));
        let usages = ["digital signature".to_owned(), "server auth".to_owned(), "nonsense".to_owned()];
        let pem = ca.sign(request, &usages, Duration::from_secs(3600)).unwrap();
        let (_, der) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let certificate = der.parse_x509().unwrap();
        assert!(certificate.subject().to_string().contains("system:node:n1"));
        assert!(certificate.extended_key_usage().unwrap().unwrap().value.server_auth);
        assert!(!certificate.is_ca());
    }

    #[test]
    fn rubbish_is_refused() {
        assert!(Request::parse("no PEM").is_err());
    }
}
