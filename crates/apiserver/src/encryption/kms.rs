//! KMS v2: a plugin behind a Unix socket keeps the key; here is only a seed that it has encrypted, from which a
//! key is derived for each value.
//!
//! Source: apiserver/pkg/storage/value/encrypt/envelope/kmsv2, kms/apis/v2/api.proto.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::{net::UnixStream, sync::Mutex};
use tonic::{
    Request, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint, Uri},
};
use tonic_prost::ProstCodec;

use super::ciphers::{Cipher, SEED_LEN, Undecryptable, random};

/// After this the plugin is asked whether its key is still the same.
const STATUS_EVERY: Duration = Duration::from_secs(60);
/// A seed is used without news of the plugin for so long, no longer.
const USED_UNSEEN_FOR: Duration = Duration::from_secs(180);
/// Opened seeds that are remembered: one for each key and each start of a server, usually.
const SEEDS_MAX: usize = 1024;
const VERSIONS: [&str; 2] = ["v2", "v2beta1"];

#[derive(Debug, thiserror::Error)]
pub enum KmsError {
    #[error("KMS plugin {name}: {why}")]
    Plugin { name: String, why: String },
    #[error("the value is no envelope of KMS plugin {0}")]
    Envelope(String),
    #[error(transparent)]
    Undecryptable(#[from] Undecryptable),
}

/// One configured plugin.
pub struct Kms {
    name: String,
    timeout: Duration,
    channel: Channel,
    writing: Mutex<Option<Seed>>,
    opened: Mutex<HashMap<Vec<u8>, Arc<Cipher>>>,
}

/// What new values are encrypted with.
struct Seed {
    cipher: Arc<Cipher>,
    /// As the plugin encrypted it; `encrypted_data` is empty.
    envelope: Envelope,
    seen: Instant,
}

impl Kms {
    /// `endpoint`: `unix:///path`. Dials when first used; to be called within the runtime.
    pub fn new(name: &str, endpoint: &str, timeout: Duration) -> Result<Self, String> {
        let path = endpoint.strip_prefix("unix://").filter(|path| !path.is_empty());
        let path = PathBuf::from(path.ok_or_else(|| format!("endpoint {endpoint:?} is not unix:///path"))?);
        // The address is not used: every connection goes to the socket.
        let channel = Endpoint::from_static("http://kms").timeout(timeout).connect_with_connector_lazy(
            tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            }),
        );
        Ok(Self { name: name.to_owned(), timeout, channel, writing: Mutex::default(), opened: Mutex::default() })
    }

    /// Which key of the plugin new values depend on; `None` before the first one.
    pub fn key_id(&self) -> Option<String> {
        let writing = self.writing.try_lock().ok()?;
        writing.as_ref().map(|seed| seed.envelope.key_id.clone())
    }

    pub async fn seal(&self, path: &str, plain: &[u8]) -> Result<Vec<u8>, KmsError> {
        let mut writing = self.writing.lock().await;
        self.refresh(&mut writing).await?;
        let seed = writing.as_ref().expect("refreshed");
        let sealed = seed.cipher.seal(path, plain);
        Ok(Envelope { encrypted_data: sealed, ..seed.envelope.clone() }.encode_to_vec())
    }

    /// The plain text, and the plugin's key that it depends on.
    pub async fn open(&self, path: &str, sealed: &[u8]) -> Result<(Vec<u8>, String), KmsError> {
        let envelope = Envelope::decode(sealed).map_err(|_| KmsError::Envelope(self.name.clone()))?;
        let cipher = self.opener(&envelope).await?;
        Ok((cipher.open(path, &envelope.encrypted_data)?, envelope.key_id))
    }

    async fn opener(&self, envelope: &Envelope) -> Result<Arc<Cipher>, KmsError> {
        let known = Envelope { encrypted_data: Vec::new(), ..envelope.clone() }.encode_to_vec();
        if let Some(cipher) = self.opened.lock().await.get(&known) {
            return Ok(cipher.clone());
        }
        let request = DecryptRequest {
            ciphertext: envelope.encrypted_source.clone(),
            uid: uuid::Uuid::new_v4().to_string(),
            key_id: envelope.key_id.clone(),
            annotations: envelope.annotations.clone(),
        };
        let answer: DecryptResponse = self.call("Decrypt", request).await?;
        let cipher = match envelope.encrypted_source_type() {
            SourceType::Seed => Cipher::seed(&answer.plaintext),
            SourceType::Key => Cipher::gcm(&answer.plaintext).map_err(|why| self.failed(&why))?,
        };
        let cipher = Arc::new(cipher);
        self.remember(known, cipher.clone()).await;
        Ok(cipher)
    }

    async fn remember(&self, known: Vec<u8>, cipher: Arc<Cipher>) {
        let mut opened = self.opened.lock().await;
        if opened.len() >= SEEDS_MAX {
            opened.clear();
        }
        opened.insert(known, cipher);
    }

    /// Sees to it that `writing` holds a seed of the plugin's present key.
    async fn refresh(&self, writing: &mut Option<Seed>) -> Result<(), KmsError> {
        if let Some(seed) = writing.as_mut() {
            let age = seed.seen.elapsed();
            if age < STATUS_EVERY {
                return Ok(());
            }
            match self.status().await {
                Ok(key_id) if key_id == seed.envelope.key_id => {
                    seed.seen = Instant::now();
                    return Ok(());
                }
                Ok(_) => {}
                Err(error) if age < USED_UNSEEN_FOR => {
                    tracing::warn!(%error, "the seed is used on");
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        let seed: [u8; SEED_LEN] = random();
        let request = EncryptRequest { plaintext: seed.to_vec(), uid: uuid::Uuid::new_v4().to_string() };
        let answer: EncryptResponse = self.call("Encrypt", request).await?;
        let cipher = Arc::new(Cipher::seed(&seed));
        let envelope = Envelope {
            encrypted_data: Vec::new(),
            key_id: answer.key_id,
            encrypted_source: answer.ciphertext,
            annotations: answer.annotations,
            encrypted_source_type: SourceType::Seed.into(),
        };
        self.remember(envelope.encode_to_vec(), cipher.clone()).await;
        *writing = Some(Seed { cipher, envelope, seen: Instant::now() });
        Ok(())
    }

    /// The plugin's present key, if it is well.
    pub async fn status(&self) -> Result<String, KmsError> {
        let status: StatusResponse = self.call("Status", StatusRequest {}).await?;
        if status.healthz != "ok" {
            return Err(self.failed(&format!("it says of itself: {}", status.healthz)));
        }
        if !VERSIONS.contains(&status.version.as_str()) {
            return Err(self.failed(&format!("it speaks version {:?}, not v2", status.version)));
        }
        Ok(status.key_id)
    }

    async fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A, KmsError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = Grpc::new(self.channel.clone());
        let answer = async {
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let path = PathAndQuery::from_maybe_shared(format!("/v2.KeyManagementService/{method}"));
            let path = path.map_err(|error| Status::internal(error.to_string()))?;
            grpc.unary(Request::new(request), path, ProstCodec::<Q, A>::default()).await
        };
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.failed(&format!("{method}: {}", status.message()))),
            Err(_) => Err(self.failed(&format!("{method}: no answer in {} s", self.timeout.as_secs_f32()))),
        }
    }

    fn failed(&self, why: &str) -> KmsError {
        KmsError::Plugin { name: self.name.clone(), why: why.to_owned() }
    }
}

/// How a value lies in the store.
#[derive(Clone, PartialEq, Message)]
pub struct Envelope {
    #[prost(bytes = "vec", tag = "1")]
    pub encrypted_data: Vec<u8>,
    #[prost(string, tag = "2")]
    pub key_id: String,
    #[prost(bytes = "vec", tag = "3")]
    pub encrypted_source: Vec<u8>,
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub annotations: BTreeMap<String, Vec<u8>>,
    #[prost(enumeration = "SourceType", tag = "5")]
    pub encrypted_source_type: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum SourceType {
    Key = 0,
    Seed = 1,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
pub struct StatusResponse {
    #[prost(string, tag = "1")]
    pub version: String,
    #[prost(string, tag = "2")]
    pub healthz: String,
    #[prost(string, tag = "3")]
    pub key_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct DecryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub uid: String,
    #[prost(string, tag = "3")]
    pub key_id: String,
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub annotations: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct DecryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub plaintext: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct EncryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub plaintext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub uid: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct EncryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub key_id: String,
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub annotations: BTreeMap<String, Vec<u8>>,
}

#[cfg(test)]
#[path = "kms_tests.rs"]
mod tests;
