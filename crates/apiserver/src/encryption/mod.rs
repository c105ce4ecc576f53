//! Encryption at rest, by upstream's EncryptionConfiguration: which resources are encrypted, with which
//! providers. The first provider writes; each reads what it wrote. An apiserver of upstream reads what this one
//! wrote, and the other way round.
//!
//! Source: apiserver/pkg/server/options/encryptionconfig.

pub mod ciphers;
pub mod kms;
pub mod store;

use std::{sync::Arc, time::Duration};

use api_types::Resource;
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;

use self::{
    ciphers::{Cipher, Undecryptable},
    kms::{Kms, KmsError},
};

/// Every encrypted value begins with it.
const MARK: &[u8] = b"k8s:enc:";
const KMS_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    #[error("it was encrypted with a provider or key that is not configured")]
    UnknownProvider,
    #[error(transparent)]
    Undecryptable(#[from] Undecryptable),
    #[error(transparent)]
    Kms(#[from] KmsError),
}

impl EncryptionError {
    /// It may go well another time.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Kms(KmsError::Plugin { .. }))
    }
}

/// The configuration in use.
#[derive(Default)]
pub struct Encryption {
    entries: Vec<Entry>,
}

/// Some resources, and what they are encrypted with.
pub struct Entry {
    /// `secrets`, `deployments.apps`, `*.apps`, `*.` (the core group) or `*.*`.
    resources: Vec<String>,
    providers: Vec<Provider>,
}

struct Provider {
    /// What its values begin with; empty: they are not encrypted.
    prefix: String,
    keeper: Keeper,
}

enum Keeper {
    Identity,
    Key(Cipher),
    Kms(Arc<Kms>),
}

/// Who wrote a value: the prefix and, of a KMS, its key.
pub type Writer = String;

impl Encryption {
    /// Reads an EncryptionConfiguration; `Err` says what is wrong with it. To be called within the runtime.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        if file.kind != "EncryptionConfiguration" || !file.api_version.starts_with("apiserver.config.k8s.io/") {
            return Err(format!(
                "{} {} is no apiserver.config.k8s.io EncryptionConfiguration",
                file.api_version, file.kind
            ));
        }
        let entries = file.resources.into_iter().map(Entry::new).collect::<Result<Vec<_>, _>>()?;
        if entries.is_empty() {
            return Err("resources: at least one entry is needed".to_owned());
        }
        Ok(Self { entries })
    }

    /// The first entry that names the resource.
    pub fn of(&self, resource: &Resource) -> Option<&Entry> {
        let (group, plural) = (resource.group.as_ref(), resource.plural.as_ref());
        self.entries.iter().find(|entry| entry.resources.iter().any(|wanted| names(wanted, group, plural)))
    }
}

fn names(wanted: &str, group: &str, plural: &str) -> bool {
    let (wanted_plural, wanted_group) = wanted.split_once('.').unwrap_or((wanted, ""));
    let is_everything = wanted == "*.*";
    is_everything || (wanted_group == group && (wanted_plural == "*" || wanted_plural == plural))
}

impl Entry {
    fn new(file: FileEntry) -> Result<Self, String> {
        let mut providers = Vec::new();
        for provider in file.providers {
            providers.extend(provider.providers()?);
        }
        if file.resources.is_empty() || providers.is_empty() {
            return Err("resources[]: resources and providers are needed".to_owned());
        }
        Ok(Self { resources: file.resources, providers })
    }

    /// Whom a value written now would be of.
    pub fn writer(&self) -> Writer {
        let first = &self.providers[0];
        match &first.keeper {
            Keeper::Kms(kms) => format!("{}{}", first.prefix, kms.key_id().unwrap_or_default()),
            Keeper::Identity | Keeper::Key(_) => first.prefix.clone(),
        }
    }

    /// `path`: the value's key in the store, which the ciphers bind it to.
    pub async fn seal(&self, path: &str, plain: &[u8]) -> Result<Vec<u8>, EncryptionError> {
        let Provider { prefix, keeper } = &self.providers[0];
        let sealed = match keeper {
            Keeper::Identity => plain.to_vec(),
            Keeper::Key(cipher) => cipher.seal(path, plain),
            Keeper::Kms(kms) => kms.seal(path, plain).await?,
        };
        Ok([prefix.as_bytes(), &sealed].concat())
    }

    /// The plain value, and who wrote it.
    pub async fn open(&self, path: &str, stored: &[u8]) -> Result<(Vec<u8>, Writer), EncryptionError> {
        let mut failure = EncryptionError::UnknownProvider;
        // Several keys may have one name.
        for Provider { prefix, keeper } in &self.providers {
            let opened = match keeper {
                Keeper::Identity if !stored.starts_with(MARK) => Ok((stored.to_vec(), String::new())),
                Keeper::Identity => continue,
                Keeper::Key(cipher) => match stored.strip_prefix(prefix.as_bytes()) {
                    Some(sealed) => cipher.open(path, sealed).map(|plain| (plain, prefix.clone())).map_err(Into::into),
                    None => continue,
                },
                Keeper::Kms(kms) => match stored.strip_prefix(prefix.as_bytes()) {
                    Some(sealed) => {
                        let opened = kms.open(path, sealed).await;
                        opened.map(|(plain, key_id)| (plain, format!("{prefix}{key_id}"))).map_err(Into::into)
                    }
                    None => continue,
                },
            };
            match opened {
                Ok(opened) => return Ok(opened),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    resources: Vec<FileEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEntry {
    resources: Vec<String>,
    providers: Vec<FileProvider>,
}

/// Exactly one field is given.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct FileProvider {
    aesgcm: Option<FileKeys>,
    aescbc: Option<FileKeys>,
    secretbox: Option<FileKeys>,
    identity: Option<FileIdentity>,
    kms: Option<FileKms>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileIdentity {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileKeys {
    keys: Vec<FileKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileKey {
    name: String,
    /// Base64.
    secret: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileKms {
    api_version: String,
    name: String,
    endpoint: String,
    timeout: Option<String>,
    /// Of v1; v2 keeps a seed per key.
    #[serde(rename = "cachesize")]
    _cache_size: Option<i64>,
}

impl FileProvider {
    /// One for each key: what any of them wrote can be read.
    fn providers(self) -> Result<Vec<Provider>, String> {
        let identity = self.identity.map(|_| vec![Provider { prefix: String::new(), keeper: Keeper::Identity }]);
        let found = [
            self.aesgcm.map(|keys| keys.providers("aesgcm", Cipher::gcm)).transpose()?,
            self.aescbc.map(|keys| keys.providers("aescbc", Cipher::cbc)).transpose()?,
            self.secretbox.map(|keys| keys.providers("secretbox", Cipher::secretbox)).transpose()?,
            identity,
            self.kms.map(FileKms::providers).transpose()?,
        ];
        let mut found = found.into_iter().flatten();
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            _ => Err("providers[]: exactly one of aesgcm, aescbc, secretbox, kms, identity is needed".to_owned()),
        }
    }
}

impl FileKeys {
    fn providers(self, kind: &str, cipher: fn(&[u8]) -> Result<Cipher, String>) -> Result<Vec<Provider>, String> {
        if self.keys.is_empty() {
            return Err(format!("{kind}: at least one key is needed"));
        }
        let provider = |key: FileKey| {
            // Neither the secret nor what base64 says of it: it would show bytes of it.
            let secret = BASE64_STANDARD
                .decode(key.secret.trim())
                .map_err(|_| format!("{kind} key {:?}: secret is no base64", key.name))?;
            let cipher = cipher(&secret).map_err(|why| format!("{kind} key {:?}: {why}", key.name))?;
            Ok(Provider { prefix: format!("k8s:enc:{kind}:v1:{}:", key.name), keeper: Keeper::Key(cipher) })
        };
        self.keys.into_iter().map(provider).collect()
    }
}

impl FileKms {
    fn providers(self) -> Result<Vec<Provider>, String> {
        if self.api_version != "v2" {
            return Err(format!("kms {:?}: apiVersion {:?} is not supported, only v2", self.name, self.api_version));
        }
        let timeout = self.timeout.as_deref().map(daemon::flags::duration).transpose();
        let timeout = timeout.map_err(|why| format!("kms {:?}: timeout: {why}", self.name))?.unwrap_or(KMS_TIMEOUT);
        let kms = Kms::new(&self.name, &self.endpoint, timeout).map_err(|why| format!("kms {:?}: {why}", self.name))?;
        Ok(vec![Provider { prefix: format!("k8s:enc:kms:v2:{}:", self.name), keeper: Keeper::Kms(Arc::new(kms)) }])
    }
}

#[cfg(test)]
mod tests {
    use api_types::resources;

    use super::*;

    fn file(providers: &str) -> String {
        format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n\
             resources: [{{resources: [secrets, '*.apps'], providers: {providers}}}]\n"
        )
    }
    const A: &str = "{name: a, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}";
    const B: &str = "{name: b, secret: ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=}";

    fn secrets(providers: &str) -> Encryption {
        Encryption::parse(&file(providers)).unwrap()
    }

    #[test]
    fn resources_are_named_with_their_groups() {
        let encryption = secrets("[identity: {}]");
        assert!(encryption.of(&resources::SECRET).is_some());
        assert!(encryption.of(&resources::DEPLOYMENT).is_some());
        assert!(encryption.of(&resources::CONFIG_MAP).is_none());
        assert!(names("*.*", "apps", "x") && names("*.", "", "pods") && !names("*.", "apps", "x"));
    }

    /// Keys are rotated: the new one writes, the old one still reads.
    #[tokio::test]
    async fn the_first_key_writes_and_each_reads_its_own() {
        let old = secrets(&format!("[{{aesgcm: {{keys: [{A}]}}}}, identity: {{}}]"));
        let new = secrets(&format!("[{{secretbox: {{keys: [{B}]}}}}, {{aesgcm: {{keys: [{A}]}}}}]"));
        let (old, new) = (old.of(&resources::SECRET).unwrap(), new.of(&resources::SECRET).unwrap());
        let written = old.seal("/registry/secrets/a/b", b"hush").await.unwrap();
        assert!(written.starts_with(b"k8s:enc:aesgcm:v1:a:"));
        let (plain, writer) = new.open("/registry/secrets/a/b", &written).await.unwrap();
        assert_eq!((plain.as_slice(), writer.as_str()), (b"hush".as_slice(), "k8s:enc:aesgcm:v1:a:"));
        assert_ne!(writer, new.writer(), "to be written anew");
        let again = new.seal("/registry/secrets/a/b", &plain).await.unwrap();
        assert!(again.starts_with(b"k8s:enc:secretbox:v1:b:"));
        assert!(matches!(old.open("/registry/secrets/a/b", &again).await, Err(EncryptionError::UnknownProvider)));
        // Written before there was encryption.
        assert_eq!(old.open("/x", b"{}").await.unwrap(), (b"{}".to_vec(), String::new()));
        assert!(new.open("/x", b"{}").await.is_err(), "identity is not among the providers");
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        let check = |providers: &str, expected: &str| {
            let why = Encryption::parse(&file(providers)).err().expect(expected);
            assert!(why.contains(expected) && !why.contains("c2hvcnQ"), "{why}");
        };
        check("[{aesgcm: {keys: [{name: a, secret: c2hvcnQ=}]}}]", "got 5, expected one of [16 24 32]");
        check("[{aesgcm: {keys: [{name: a, secret: 'c2hvcnQ%'}]}}]", "no base64");
        check("[{kms: {apiVersion: v1, name: k, endpoint: unix:///x}}]", "only v2");
        check("[{}]", "exactly one of");
        check("[]", "providers are needed");
        check("[{aesctr: {}}]", "aesctr");
    }
}
