//! The ConfigMaps and Secrets that pods of this node refer to: each one is watched by itself, as the Node authoriser
//! allows nothing more, from its first use until the last pod that uses it is gone.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use api_types::{
    Key, Object,
    k8s::{
        authentication::{BoundObjectReference, TokenRequest, TokenRequestSpec},
        core::{ConfigMap, Pod, Secret, ServiceAccount},
    },
};
use client::{Cache, Client};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// How long a pod waits for an object that it uses for the first time.
const SYNC_TIMEOUT: Duration = Duration::from_secs(10);

/// Told the uid of each pod that uses an object which changed.
pub type Wake = Arc<dyn Fn(&str) + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    #[error("failed to sync {kind} cache: timed out waiting for the condition")]
    NotSynced { kind: &'static str },
    #[error("cannot get a token for service account {account}: {source}")]
    Token { account: Key, source: client::Error },
}

/// Objects that pods refer to.
pub struct Objects {
    client: Client,
    config_maps: Watched<ConfigMap>,
    secrets: Watched<Secret>,
}

impl Objects {
    pub fn new(client: Client, wake: Wake, shutdown: CancellationToken) -> Self {
        let config_maps = Watched::new("configmap", client.clone(), wake.clone(), shutdown.clone());
        let secrets = Watched::new("secret", client.clone(), wake, shutdown);
        Self { client, config_maps, secrets }
    }

    /// `None` if the object does not exist. From now on its changes wake the pod.
    pub async fn config_map(&self, pod_uid: &str, key: &Key) -> Result<Option<Arc<ConfigMap>>, ObjectError> {
        self.config_maps.get(pod_uid, key).await
    }
    /// `None` if the object does not exist. From now on its changes wake the pod.
    pub async fn secret(&self, pod_uid: &str, key: &Key) -> Result<Option<Arc<Secret>>, ObjectError> {
        self.secrets.get(pod_uid, key).await
    }
    /// The pod is gone; what only it used is no longer watched.
    pub fn release(&self, pod_uid: &str) {
        self.config_maps.release(pod_uid);
        self.secrets.release(pod_uid);
    }

    /// A token of the pod's service account that is bound to the pod.
    pub async fn token(
        &self,
        pod: &Pod,
        audience: Option<&str>,
        expiration_s: i64,
    ) -> Result<TokenRequest, ObjectError> {
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
        let account = Key::new(pod.namespace(), account);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: audience.filter(|audience| !audience.is_empty()).map(|audience| vec![audience.to_owned()]),
                expiration_seconds: Some(expiration_s),
                bound_object_ref: Some(BoundObjectReference {
                    kind: Some("Pod".to_owned()),
                    api_version: Some("v1".to_owned()),
                    name: Some(pod.name().to_owned()),
                    uid: Some(pod.uid().to_owned()),
                }),
            }),
            ..TokenRequest::default()
        };
        let answer = self.client.post_subresource::<ServiceAccount, _, _>(&account, "token", &request).await;
        answer.map_err(|source| ObjectError::Token { account, source })
    }
}

/// Objects of one kind, each with its own watch.
struct Watched<K> {
    kind: &'static str,
    client: Client,
    wake: Wake,
    shutdown: CancellationToken,
    entries: Mutex<HashMap<Key, Entry<K>>>,
}

struct Entry<K> {
    cache: Arc<Cache<K>>,
    /// Pods by uid; shared with the watch's callback.
    users: Arc<Mutex<HashSet<String>>>,
    stop: CancellationToken,
}

impl<K: Object> Watched<K> {
    fn new(kind: &'static str, client: Client, wake: Wake, shutdown: CancellationToken) -> Self {
        Self { kind, client, wake, shutdown, entries: Mutex::default() }
    }

    async fn get(&self, pod_uid: &str, key: &Key) -> Result<Option<Arc<K>>, ObjectError> {
        let cache = self.cache(pod_uid, key);
        match tokio::time::timeout(SYNC_TIMEOUT, cache.synced()).await {
            Ok(()) => Ok(cache.get(key)),
            Err(_) => Err(ObjectError::NotSynced { kind: self.kind }),
        }
    }

    fn cache(&self, pod_uid: &str, key: &Key) -> Arc<Cache<K>> {
        let mut entries = self.entries.lock();
        let entry = entries.entry(key.clone()).or_insert_with(|| self.watch(key));
        entry.users.lock().insert(pod_uid.to_owned());
        entry.cache.clone()
    }

    fn watch(&self, key: &Key) -> Entry<K> {
        let users: Arc<Mutex<HashSet<String>>> = Arc::default();
        let stop = self.shutdown.child_token();
        let (wake, woken) = (self.wake.clone(), users.clone());
        let cache = Cache::builder(self.client.clone())
            .namespace(&key.namespace)
            .fields(&format!("metadata.name={}", key.name))
            .on_change(move |_| {
                let users: Vec<String> = woken.lock().iter().cloned().collect();
                users.iter().for_each(|uid| wake(uid));
            })
            .start(stop.clone());
        Entry { cache: Arc::new(cache), users, stop }
    }

    fn release(&self, pod_uid: &str) {
        self.entries.lock().retain(|_, entry| {
            let mut users = entry.users.lock();
            users.remove(pod_uid);
            if users.is_empty() {
                entry.stop.cancel();
            }
            !users.is_empty()
        });
    }
}
