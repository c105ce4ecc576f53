//! Keys that sign and verify ServiceAccount tokens, read from PEM. A key's id is the
//! base64url of the SHA-256 of its SubjectPublicKeyInfo, so every apiserver derives the same.
//!
//! Source: `keyIDFromPublicKey` in kubernetes/pkg/serviceaccount.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::{
    certificate::X509Certificate,
    der_parser::asn1_rs::{FromDer, Oid, ToDer},
    pem::Pem,
    public_key::PublicKey as Parsed,
    x509::SubjectPublicKeyInfo,
};

const OID_EC_PUBLIC_KEY: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const OID_RSA_WITH_NULL: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
const TAG_INTEGER: u8 = 0x02;
const TAG_BIT_STRING: u8 = 0x03;
const TAG_OCTET_STRING: u8 = 0x04;
const TAG_SEQUENCE: u8 = 0x30;

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("no PEM block with a key; expected PUBLIC KEY, PRIVATE KEY, RSA or EC PRIVATE KEY, or CERTIFICATE")]
    Absent,
    #[error("the PEM text is damaged")]
    Pem,
    #[error("PEM block {label:?} holds no key that signs tokens (RSA, ECDSA P-256 or P-384)")]
    Unsupported { label: String },
}

/// Verifies tokens.
#[derive(Clone)]
pub struct PublicKey {
    pub id: String,
    pub algorithm: Algorithm,
    pub decoding: DecodingKey,
    /// As `/openid/v1/jwks` shows it.
    pub jwk: Value,
}

/// Signs tokens.
#[derive(Clone)]
pub struct SigningKey {
    pub encoding: EncodingKey,
    pub public: PublicKey,
}

/// Every key in a file: public keys, certificates, or private keys whose public half is taken.
pub fn public_keys(pem: &[u8]) -> Result<Vec<PublicKey>, KeyError> {
    let keys: Vec<PublicKey> =
        blocks(pem)?.iter().filter_map(|block| public_key(block).transpose()).collect::<Result<_, _>>()?;
    if keys.is_empty() { Err(KeyError::Absent) } else { Ok(keys) }
}

/// The first private key in a file.
pub fn signing_key(pem: &[u8]) -> Result<SigningKey, KeyError> {
    let blocks = blocks(pem)?;
    let block = blocks.iter().find(|block| block.label.ends_with("PRIVATE KEY")).ok_or(KeyError::Absent)?;
    let unsupported = || KeyError::Unsupported { label: block.label.clone() };
    let public = public_key(block)?.ok_or_else(unsupported)?;
    let encoding = match (block.label.as_str(), public.algorithm) {
        (_, Algorithm::RS256) => EncodingKey::from_rsa_pem(pem).map_err(|_| unsupported())?,
        ("EC PRIVATE KEY", _) => EncodingKey::from_ec_der(&pkcs8(&block.contents).ok_or_else(unsupported)?),
        _ => EncodingKey::from_ec_der(&block.contents),
    };
    Ok(SigningKey { encoding, public })
}

fn blocks(pem: &[u8]) -> Result<Vec<Pem>, KeyError> {
    Pem::iter_from_buffer(pem).collect::<Result<_, _>>().map_err(|_| KeyError::Pem)
}

/// `None` for a block that is no key, such as `EC PARAMETERS`.
fn public_key(block: &Pem) -> Result<Option<PublicKey>, KeyError> {
    let unsupported = || KeyError::Unsupported { label: block.label.clone() };
    let contents = block.contents.clone();
    let spki = match block.label.as_str() {
        "PUBLIC KEY" => contents,
        "RSA PUBLIC KEY" => {
            let bits: Vec<u8> = std::iter::once(0).chain(contents).collect();
            der(TAG_SEQUENCE, &[der(TAG_SEQUENCE, OID_RSA_WITH_NULL), der(TAG_BIT_STRING, &bits)].concat())
        }
        "CERTIFICATE" => {
            let (_, certificate) = X509Certificate::from_der(&block.contents).map_err(|_| unsupported())?;
            certificate.public_key().raw.to_vec()
        }
        "PRIVATE KEY" => private_spki(PrivateKeyDer::Pkcs8(contents.into())).ok_or_else(unsupported)?,
        "RSA PRIVATE KEY" => private_spki(PrivateKeyDer::Pkcs1(contents.into())).ok_or_else(unsupported)?,
        "EC PRIVATE KEY" => private_spki(PrivateKeyDer::Sec1(contents.into())).ok_or_else(unsupported)?,
        _ => return Ok(None),
    };
    from_spki(&spki).map(Some).ok_or_else(unsupported)
}

fn private_spki(key: PrivateKeyDer<'static>) -> Option<Vec<u8>> {
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).ok()?;
    Some(key.public_key()?.to_vec())
}

fn from_spki(spki: &[u8]) -> Option<PublicKey> {
    let (_, info) = SubjectPublicKeyInfo::from_der(spki).ok()?;
    let id = URL_SAFE_NO_PAD.encode(Sha256::digest(spki));
    let raw = &info.subject_public_key.data;
    let (algorithm, decoding, shape) = match info.parsed().ok()? {
        Parsed::RSA(key) => {
            let unsigned = |bytes: &[u8]| {
                let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                URL_SAFE_NO_PAD.encode(&bytes[zeros..])
            };
            let shape = json!({"kty": "RSA", "n": unsigned(key.modulus), "e": unsigned(key.exponent)});
            (Algorithm::RS256, DecodingKey::from_rsa_der(raw), shape)
        }
        Parsed::EC(point) => {
            let curve = info.algorithm.parameters.as_ref()?.as_oid().ok()?;
            let (algorithm, name) = curve_of(&curve)?;
            let (x, y) = point.data().get(1..)?.split_at_checked(point.data().len() / 2)?;
            let shape =
                json!({"kty": "EC", "crv": name, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)});
            (algorithm, DecodingKey::from_ec_der(raw), shape)
        }
        _ => return None,
    };
    let mut jwk = json!({"use": "sig", "kid": id, "alg": format!("{algorithm:?}")});
    jwk.as_object_mut()?.extend(shape.as_object()?.clone());
    Some(PublicKey { id, algorithm, decoding, jwk })
}

fn curve_of(oid: &Oid<'_>) -> Option<(Algorithm, &'static str)> {
    match oid.to_id_string().as_str() {
        "1.2.840.10045.3.1.7" => Some((Algorithm::ES256, "P-256")),
        "1.3.132.0.34" => Some((Algorithm::ES384, "P-384")),
        _ => None,
    }
}

/// Wraps a SEC 1 key, as `openssl ecparam` writes it, into the PKCS #8 that the signer takes.
fn pkcs8(sec1: &[u8]) -> Option<Vec<u8>> {
    let spki = private_spki(PrivateKeyDer::Sec1(sec1.to_vec().into()))?;
    let (_, info) = SubjectPublicKeyInfo::from_der(&spki).ok()?;
    let curve = info.algorithm.parameters.as_ref()?.as_oid().ok()?.to_der_vec().ok()?;
    let algorithm = der(TAG_SEQUENCE, &[OID_EC_PUBLIC_KEY, &curve].concat());
    Some(der(TAG_SEQUENCE, &[der(TAG_INTEGER, &[0]), algorithm, der(TAG_OCTET_STRING, sec1)].concat()))
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let significant = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    let mut out = vec![tag];
    match significant {
        [] => out.push(0),
        [short] if *short < 0x80 => out.push(*short),
        long => {
            out.push(0x80 | u8::try_from(long.len()).expect("a usize has at most 8 bytes"));
            out.extend_from_slice(long);
        }
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same key in every form has the same id.
    #[test]
    fn forms_of_one_ec_key() {
        let pair = rcgen::KeyPair::generate().expect("a key");
        let private = signing_key(pair.serialize_pem().as_bytes()).expect("PKCS #8");
        let public = public_keys(pair.public_key_pem().as_bytes()).expect("SPKI");
        assert_eq!(private.public.id, public[0].id);
        assert_eq!(private.public.algorithm, Algorithm::ES256);
        assert_eq!(public[0].jwk["crv"], "P-256");
        assert_eq!(public[0].jwk["kid"], public[0].id.as_str());
    }

    fn pem(label: &str, der: &[u8]) -> String {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    }

    /// The key inside a PKCS #8 wrapping: PKCS #1 or SEC 1.
    fn unwrapped(pkcs8: &[u8]) -> Vec<u8> {
        let (_, outer) = x509_parser::der_parser::parse_der(pkcs8).expect("DER");
        outer.as_sequence().expect("a sequence")[2].as_slice().expect("an octet string").to_vec()
    }

    fn signs_for(signing: &SigningKey, public: &PublicKey) {
        let header = jsonwebtoken::Header::new(signing.public.algorithm);
        let token = jsonwebtoken::encode(&header, &json!({"exp": u32::MAX}), &signing.encoding).expect("signs");
        let validation = jsonwebtoken::Validation::new(public.algorithm);
        jsonwebtoken::decode::<Value>(&token, &public.decoding, &validation).expect("verifies");
        assert_eq!(signing.public.id, public.id);
    }

    #[test]
    fn every_form_signs_and_verifies() {
        for (algorithm, old_label, name) in [
            (&rcgen::PKCS_RSA_SHA256, "RSA PRIVATE KEY", "RS256"),
            (&rcgen::PKCS_ECDSA_P256_SHA256, "EC PRIVATE KEY", "ES256"),
            (&rcgen::PKCS_ECDSA_P384_SHA384, "EC PRIVATE KEY", "ES384"),
        ] {
            let pair = rcgen::KeyPair::generate_for(algorithm).expect("a key");
            let public = public_keys(pair.public_key_pem().as_bytes()).expect("SPKI").remove(0);
            assert_eq!(public.jwk["alg"], name);
            let old = pem(old_label, &unwrapped(pair.serialized_der()));
            for private in [pair.serialize_pem(), old.clone()] {
                signs_for(&signing_key(private.as_bytes()).expect(name), &public);
            }
            assert_eq!(public_keys(old.as_bytes()).expect("from the private key")[0].id, public.id);
            let certificate = rcgen::CertificateParams::default().self_signed(&pair).expect("a certificate");
            assert_eq!(public_keys(certificate.pem().as_bytes()).expect("a certificate")[0].id, public.id);
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert!(matches!(public_keys(b""), Err(KeyError::Absent)));
        assert!(matches!(
            public_keys(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            Err(KeyError::Unsupported { .. })
        ));
        assert!(matches!(
            signing_key(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"),
            Err(KeyError::Absent)
        ));
    }

    #[test]
    fn der_lengths() {
        assert_eq!(der(4, &[]), [4, 0]);
        assert_eq!(der(4, &[7; 3])[..2], [4, 3]);
        assert_eq!(der(4, &[0; 200])[..3], [4, 0x81, 200]);
        assert_eq!(der(4, &[0; 300])[..4], [4, 0x82, 1, 44]);
    }
}
