//! The ciphers of upstream's providers, with its layout of bytes: what is random stands before what is encrypted.
//!
//! Source: apiserver/pkg/storage/value/encrypt/{aes,secretbox}.

use aws_lc_rs::{
    aead::{self, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    cipher::{self, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey},
    hkdf::{self, KeyType, Prk},
    iv::FixedLength,
    rand,
};
use crypto_secretbox::{KeyInit, XSalsa20Poly1305, aead::Aead};

const IV_LEN: usize = 16;
const SECRETBOX_NONCE_LEN: usize = 24;
/// What a key is derived from, per object, beside the seed.
const INFO_LEN: usize = 32;
/// Of a seed, and of the keys derived from it.
pub const SEED_LEN: usize = 32;

/// A key and how it is used.
pub enum Cipher {
    /// AES-GCM; the path is authenticated too, so that a value cannot be moved to another key.
    Gcm(LessSafeKey),
    /// AES-CBC with PKCS#7: not authenticated. For values that exist already.
    Cbc(Vec<u8>),
    Secretbox(Box<XSalsa20Poly1305>),
    /// AES-GCM with a key for each value, derived from a seed (KMS v2).
    Seed(Prk),
}

/// Wrong key, wrong path or changed bytes: they cannot be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value cannot be decrypted: wrong key, or it was changed")]
pub struct Undecryptable;

impl Cipher {
    /// 16, 24 or 32 bytes.
    pub fn gcm(key: &[u8]) -> Result<Self, String> {
        let algorithm = match key.len() {
            16 => &aead::AES_128_GCM,
            24 => &aead::AES_192_GCM,
            32 => &aead::AES_256_GCM,
            other => {
                return Err(format!("secret is not of the expected length, got {other}, expected one of [16 24 32]"));
            }
        };
        let key = UnboundKey::new(algorithm, key).map_err(|_| "the key is refused".to_owned())?;
        Ok(Self::Gcm(LessSafeKey::new(key)))
    }

    /// 16, 24 or 32 bytes.
    pub fn cbc(key: &[u8]) -> Result<Self, String> {
        unbound(key).map(|_| Self::Cbc(key.to_vec()))
    }

    /// 32 bytes.
    pub fn secretbox(key: &[u8]) -> Result<Self, String> {
        let key = XSalsa20Poly1305::new_from_slice(key)
            .map_err(|_| format!("secret is not of the expected length, got {}, expected one of [32]", key.len()))?;
        Ok(Self::Secretbox(Box::new(key)))
    }

    pub fn seed(seed: &[u8]) -> Self {
        Self::Seed(Prk::new_less_safe(hkdf::HKDF_SHA256, seed))
    }

    pub fn seal(&self, path: &str, plain: &[u8]) -> Vec<u8> {
        match self {
            Self::Gcm(key) => seal_gcm(key, path, plain, Vec::new()),
            Self::Cbc(key) => {
                let iv: [u8; IV_LEN] = random();
                let key = unbound(key).and_then(|key| PaddedBlockEncryptingKey::cbc_pkcs7(key).map_err(refused));
                let key = key.expect("the length was checked");
                let mut text = plain.to_vec();
                key.less_safe_encrypt(&mut text, EncryptionContext::Iv128(FixedLength::from(iv)))
                    .expect("CBC takes any text");
                [iv.as_slice(), &text].concat()
            }
            Self::Secretbox(key) => {
                let nonce: [u8; SECRETBOX_NONCE_LEN] = random();
                let sealed = key.encrypt(&nonce.into(), plain).expect("the text is far below the cipher's limit");
                [nonce.as_slice(), &sealed].concat()
            }
            Self::Seed(seed) => {
                let info: [u8; INFO_LEN] = random();
                seal_gcm(&derived(seed, &info), path, plain, info.to_vec())
            }
        }
    }

    pub fn open(&self, path: &str, sealed: &[u8]) -> Result<Vec<u8>, Undecryptable> {
        match self {
            Self::Gcm(key) => open_gcm(key, path, sealed),
            Self::Cbc(key) => {
                let (iv, text) = sealed.split_first_chunk::<IV_LEN>().ok_or(Undecryptable)?;
                let key = unbound(key).and_then(|key| PaddedBlockDecryptingKey::cbc_pkcs7(key).map_err(refused));
                let key = key.map_err(|_| Undecryptable)?;
                let mut text = text.to_vec();
                let context = DecryptionContext::Iv128(FixedLength::from(*iv));
                key.decrypt(&mut text, context).map(|plain| plain.to_vec()).map_err(|_| Undecryptable)
            }
            Self::Secretbox(key) => {
                let (nonce, text) = sealed.split_first_chunk::<SECRETBOX_NONCE_LEN>().ok_or(Undecryptable)?;
                key.decrypt(&(*nonce).into(), text).map_err(|_| Undecryptable)
            }
            Self::Seed(seed) => {
                let (info, text) = sealed.split_first_chunk::<INFO_LEN>().ok_or(Undecryptable)?;
                open_gcm(&derived(seed, info), path, text)
            }
        }
    }
}

/// Random bytes, for keys and nonces.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the kernel gives random bytes");
    bytes
}

fn seal_gcm(key: &LessSafeKey, path: &str, plain: &[u8], mut before: Vec<u8>) -> Vec<u8> {
    let nonce: [u8; NONCE_LEN] = random();
    before.extend_from_slice(&nonce);
    let mut text = plain.to_vec();
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(path), &mut text)
        .expect("the text is far below the cipher's limit");
    before.append(&mut text);
    before
}

fn open_gcm(key: &LessSafeKey, path: &str, sealed: &[u8]) -> Result<Vec<u8>, Undecryptable> {
    let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(Undecryptable)?;
    let mut text = text.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let plain = key.open_in_place(nonce, Aad::from(path), &mut text).map_err(|_| Undecryptable)?;
    Ok(plain.to_vec())
}

struct DerivedKey;

impl KeyType for DerivedKey {
    fn len(&self) -> usize {
        SEED_LEN
    }
}

fn derived(seed: &Prk, info: &[u8]) -> LessSafeKey {
    let mut key = [0; SEED_LEN];
    let info = [info];
    let expanded = seed.expand(&info, DerivedKey).and_then(|okm| okm.fill(&mut key));
    expanded.expect("the length is one that HKDF gives");
    LessSafeKey::new(UnboundKey::new(&aead::AES_256_GCM, &key).expect("32 bytes are a key"))
}

fn unbound(key: &[u8]) -> Result<cipher::UnboundCipherKey, String> {
    let algorithm = match key.len() {
        16 => &cipher::AES_128,
        24 => &cipher::AES_192,
        32 => &cipher::AES_256,
        other => return Err(format!("secret is not of the expected length, got {other}, expected one of [16 24 32]")),
    };
    cipher::UnboundCipherKey::new(algorithm, key).map_err(refused)
}

fn refused<E>(_: E) -> String {
    "the key is refused".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Cipher> {
        let key = [7; 32];
        vec![
            Cipher::gcm(&key[..16]).unwrap(),
            Cipher::gcm(&key).unwrap(),
            Cipher::cbc(&key).unwrap(),
            Cipher::secretbox(&key).unwrap(),
            Cipher::seed(&key),
        ]
    }

    #[test]
    fn what_is_sealed_is_opened_and_never_the_same_twice() {
        for cipher in all() {
            let (a, b) = (cipher.seal("/registry/secrets/a/b", b"hush"), cipher.seal("/registry/secrets/a/b", b"hush"));
            assert_ne!(a, b);
            assert!(!a.windows(4).any(|part| part == b"hush"));
            assert_eq!(cipher.open("/registry/secrets/a/b", &a).unwrap(), b"hush");
        }
    }

    #[test]
    fn what_was_changed_or_moved_is_refused() {
        for cipher in all() {
            let mut sealed = cipher.seal("/a", b"a text of some length, more than a block");
            let is_authenticated = !matches!(cipher, Cipher::Cbc(_));
            let knows_its_path = matches!(cipher, Cipher::Gcm(_) | Cipher::Seed(_));
            assert_eq!(cipher.open("/b", &sealed).is_err(), knows_its_path);
            *sealed.last_mut().unwrap() ^= 1;
            assert!(!is_authenticated || cipher.open("/a", &sealed).is_err());
            assert!(cipher.open("/a", &sealed[..5]).is_err());
        }
    }

    /// Nonces and tags are what each adds.
    #[test]
    fn the_layout_is_upstreams() {
        let lengths: Vec<usize> = all().iter().map(|cipher| cipher.seal("/a", &[0; 20]).len()).collect();
        assert_eq!(lengths, [12 + 20 + 16, 12 + 20 + 16, 16 + 32, 24 + 20 + 16, 32 + 12 + 20 + 16]);
    }

    #[test]
    fn keys_have_lengths() {
        assert!(
            Cipher::gcm(&[0; 15]).is_err() && Cipher::cbc(&[0; 33]).is_err() && Cipher::secretbox(&[0; 16]).is_err()
        );
    }
}
