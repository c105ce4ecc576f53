//! What a certificate says of itself, and whether it is time for its successor.

use std::net::IpAddr;

use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    pem::parse_x509_pem,
    prelude::X509Certificate,
    x509::X509Name,
};

use crate::{Leaf, Usage};

const DAY_S: i64 = 24 * 60 * 60;

/// The part of a certificate that its successor repeats, and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub common_name: String,
    pub organization: Option<String>,
    /// The common name of the authority that signed it.
    pub issuer: String,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub usage: Usage,
    pub is_ca: bool,
    /// Unix seconds.
    pub not_before_s: i64,
    /// Unix seconds.
    pub not_after_s: i64,
    /// The authority's key, if the certificate names it.
    pub(crate) authority_key: Option<Vec<u8>>,
    /// The certificate's own key, if it names it.
    pub(crate) subject_key: Option<Vec<u8>>,
}

/// How a certificate stands at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    NotYetValid,
    Good,
    /// Two thirds of its life are over.
    Due,
    Expired,
}

impl Facts {
    /// Of the first certificate of a PEM text; `Err` says what is wrong with it.
    pub fn parse(pem: &str) -> Result<Self, String> {
        let (_, block) = parse_x509_pem(pem.as_bytes()).map_err(|error| format!("no PEM: {error}"))?;
        let certificate = block.parse_x509().map_err(|error| format!("no certificate: {error}"))?;
        let validity = certificate.validity();
        let (dns_names, addresses) = alternative_names(&certificate);
        let mut facts = Self {
            common_name: common_name(certificate.subject()),
            organization: certificate
                .subject()
                .iter_organization()
                .filter_map(|part| part.as_str().ok())
                .last()
                .map(str::to_owned),
            issuer: common_name(certificate.issuer()),
            dns_names,
            addresses,
            usage: usage(&certificate),
            is_ca: certificate.is_ca(),
            not_before_s: validity.not_before.timestamp(),
            not_after_s: validity.not_after.timestamp(),
            authority_key: None,
            subject_key: None,
        };
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    facts.authority_key = id.key_identifier.as_ref().map(|key| key.0.to_vec());
                }
                ParsedExtension::SubjectKeyIdentifier(id) => facts.subject_key = Some(id.0.to_vec()),
                _ => {}
            }
        }
        Ok(facts)
    }

    /// When two thirds of its life are over; Unix seconds.
    pub fn renew_at_s(&self) -> i64 {
        self.not_before_s + (self.not_after_s - self.not_before_s) / 3 * 2
    }

    pub fn state(&self, now_s: i64) -> State {
        match now_s {
            now if now > self.not_after_s => State::Expired,
            now if now < self.not_before_s => State::NotYetValid,
            now if now >= self.renew_at_s() => State::Due,
            _ => State::Good,
        }
    }

    /// Did this authority sign it? By name, and by key where both name it.
    pub fn is_signed_by(&self, authority: &Self) -> bool {
        let same_key = match (&self.authority_key, &authority.subject_key) {
            (Some(named), Some(key)) => named == key,
            _ => true,
        };
        authority.is_ca && self.issuer == authority.common_name && same_key
    }

    /// Its successor: the same but for key and time.
    pub(crate) fn successor(&self) -> Leaf<'_> {
        Leaf {
            common_name: &self.common_name,
            organization: self.organization.as_deref(),
            dns_names: self.dns_names.clone(),
            addresses: self.addresses.clone(),
            usage: self.usage,
            days: ((self.not_after_s - self.not_before_s) / DAY_S).max(1),
        }
    }
}

fn common_name(name: &X509Name<'_>) -> String {
    name.iter_common_name().filter_map(|part| part.as_str().ok()).last().unwrap_or_default().to_owned()
}

fn usage(certificate: &X509Certificate<'_>) -> Usage {
    let extended = certificate.extended_key_usage().ok().flatten();
    let (server, client) = extended.map_or((false, false), |it| (it.value.server_auth, it.value.client_auth));
    match (server, client) {
        (true, true) => Usage::Both,
        (true, false) => Usage::Server,
        (false, _) => Usage::Client,
    }
}

fn alternative_names(certificate: &X509Certificate<'_>) -> (Vec<String>, Vec<IpAddr>) {
    let (mut names, mut addresses) = (Vec::new(), Vec::new());
    let found = certificate.subject_alternative_name().ok().flatten();
    for name in found.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::DNSName(name) => names.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                addresses.extend(four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)));
            }
            _ => {}
        }
    }
    (names, addresses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ca;

    #[test]
    fn a_successor_repeats_what_the_certificate_says() {
        let (ca, authority) = Ca::create("test-ca").unwrap();
        let leaf = Leaf {
            common_name: "system:node:n1",
            organization: Some("system:nodes"),
            dns_names: vec!["n1".to_owned()],
            addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            usage: Usage::Both,
            days: 30,
        };
        let facts = Facts::parse(&ca.issue(&leaf).unwrap().certificate_pem).unwrap();
        let again = facts.successor();
        assert_eq!((again.common_name, again.organization), (leaf.common_name, leaf.organization));
        assert_eq!((&again.dns_names, &again.addresses), (&leaf.dns_names, &leaf.addresses));
        assert_eq!((again.usage, again.days), (Usage::Both, 30));
        let authority = Facts::parse(&authority.certificate_pem).unwrap();
        assert!(facts.is_signed_by(&authority) && !facts.is_signed_by(&facts));
        let (_, other) = Ca::create("test-ca").unwrap();
        let other = Facts::parse(&other.certificate_pem).unwrap();
        assert!(!facts.is_signed_by(&other), "an authority of the same name is another one");
    }

    #[test]
    fn it_is_due_after_two_thirds_of_its_life() {
        let (_, pair) = Ca::create("x").unwrap();
        let mut facts = Facts::parse(&pair.certificate_pem).unwrap();
        (facts.not_before_s, facts.not_after_s) = (1000, 1300);
        let states = [999, 1000, 1199, 1200, 1300, 1301].map(|now| facts.state(now));
        use State::{Due, Expired, Good, NotYetValid};
        assert_eq!(states, [NotYetValid, Good, Good, Due, Due, Expired]);
    }

    #[test]
    fn rubbish_is_refused() {
        assert!(Facts::parse("rubbish").is_err());
    }
}
