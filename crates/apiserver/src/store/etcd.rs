//! The store on etcd, over mutual TLS: the one file that knows etcd's API. A write whose
//! outcome is unknown is tried again; a compare-and-swap can happen only once, so what
//! the second try finds tells how the first one ended.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, Error, Event, EventType, GetOptions, Identity, KvClient,
    PutOptions, TlsOptions, Txn, TxnOp, TxnOpResponse, WatchClient, WatchOptions, WatchResponse,
};
use tokio::sync::{Mutex, mpsc};

use super::{Batch, Change, Page, Past, Range, Record, Store, StoreError};

/// How to reach etcd.
#[derive(Clone, Debug)]
pub struct Config {
    /// `https://host:port`.
    pub endpoints: Vec<String>,
    /// PEM texts; without them the connection is not encrypted (a loopback etcd in a test).
    pub tls: Option<Tls>,
    /// Before every key: `/registry`.
    pub prefix: String,
}

#[derive(Clone, Debug)]
pub struct Tls {
    pub ca_pem: Vec<u8>,
    pub cert_pem: Vec<u8>,
    pub key_pem: Vec<u8>,
}

/// A half-dead peer is found out within the sum of both.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longer than an election of etcd's leader.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// A write is tried this often before its outcome is reported as unknown.
const WRITE_TRIES: u32 = 3;
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// Batches that may wait for the watch cache.
const WATCH_BUFFER: usize = 256;
/// One lease serves all keys of about the same end; upstream's figures.
const LEASE_REUSE: Duration = Duration::from_secs(60);
const LEASE_KEYS_MAX: u32 = 1000;
/// Older versions may reorder or lose watch events (etcd's CHANGELOG-3.5).
const VERSION_MIN: (u32, u32, u32) = (3, 5, 13);

#[derive(Clone)]
pub struct Etcd {
    client: Client,
    kv: KvClient,
    watch: WatchClient,
    prefix: String,
    lease: Arc<Mutex<Option<SharedLease>>>,
}

struct SharedLease {
    id: i64,
    ttl_s: i64,
    granted: Instant,
    keys: u32,
}

impl Etcd {
    /// Does not wait for etcd: the connection is made by the first call, and again after each loss.
    pub async fn connect(config: Config) -> Result<Self, StoreError> {
        let mut options = ConnectOptions::new()
            .with_keep_alive(KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT)
            .with_keep_alive_while_idle(true)
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_require_leader(true);
        if let Some(tls) = config.tls {
            options = options.with_tls(
                TlsOptions::new()
                    .ca_certificate(Certificate::from_pem(tls.ca_pem))
                    .identity(Identity::from_pem(tls.cert_pem, tls.key_pem)),
            );
        }
        let client = Client::connect(&config.endpoints, Some(options)).await.map_err(|error| refused(&error))?;
        let prefix = format!("/{}/", config.prefix.trim_matches('/'));
        let kv = client.kv_client().max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX);
        let watch = client.watch_client().max_decoding_message_size(usize::MAX);
        Ok(Self { client, kv, watch, prefix, lease: Arc::default() })
    }

    /// Says so in the log if this etcd is known to be unsafe.
    pub async fn check_version(&self) -> Result<(), StoreError> {
        let status = call(self.client.maintenance_client().status()).await?;
        let is_old = version(status.version()).is_some_and(|version| version < VERSION_MIN);
        if is_old {
            let (major, minor, patch) = VERSION_MIN;
            tracing::warn!(
                version = status.version(),
                "etcd before {major}.{minor}.{patch} can lose or reorder watch events: upgrade it"
            );
        }
        Ok(())
    }

    fn full_key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// A lease that ends in `ttl_s` or up to [`LEASE_REUSE`] later.
    async fn lease(&self, ttl_s: i64) -> Result<i64, StoreError> {
        let mut slot = self.lease.lock().await;
        if let Some(lease) = slot.as_mut()
            && lease.ttl_s == ttl_s
            && lease.granted.elapsed() < LEASE_REUSE
            && lease.keys < LEASE_KEYS_MAX
        {
            lease.keys += 1;
            return Ok(lease.id);
        }
        let reuse_s = i64::try_from(LEASE_REUSE.as_secs()).expect("a minute fits");
        let granted = call(self.client.lease_client().grant(ttl_s + reuse_s, None)).await?;
        *slot = Some(SharedLease { id: granted.id(), ttl_s, granted: Instant::now(), keys: 1 });
        Ok(granted.id())
    }

    /// One compare-and-swap. `Err(Conflict)` comes with what was found, if anything.
    async fn swap(&self, key: &str, expected: u64, then: TxnOp) -> Result<Swap, StoreError> {
        let full = self.full_key(key);
        let txn = Txn::new()
            .when([Compare::mod_revision(full.clone(), CompareOp::Equal, signed(expected))])
            .and_then([then])
            .or_else([TxnOp::get(full, None)]);
        let response = call(self.kv.clone().txn(txn)).await?;
        let revision = unsigned(response.header().map_or(0, |header| header.revision()));
        if response.succeeded() {
            return Ok(Swap::Done { revision });
        }
        let found = match response.op_responses().into_iter().next() {
            Some(TxnOpResponse::Get(mut get)) => get.take_kvs().pop().map(|kv| self.record(kv)),
            _ => None,
        };
        Ok(Swap::Lost { found: found.flatten(), revision })
    }

    /// `None`: not a key of ours.
    fn record(&self, kv: etcd_client::KeyValue) -> Option<Record> {
        let revision = unsigned(kv.mod_revision());
        let (key, value) = kv.into_key_value();
        let key = String::from_utf8(key).ok()?.strip_prefix(&self.prefix)?.to_owned();
        Some(Record { key, value: value.into(), revision })
    }

    /// Tries a swap until its outcome is known. `is_ours` recognises an earlier try's success in what was found.
    async fn write(
        &self,
        key: &str,
        expected: u64,
        then: TxnOp,
        is_ours: impl Fn(Option<&Record>) -> bool,
    ) -> Result<u64, StoreError> {
        let mut pause = RETRY_MIN;
        for attempt in 1.. {
            match self.swap(key, expected, then.clone()).await {
                Ok(Swap::Done { revision }) => return Ok(revision),
                Ok(Swap::Lost { found, revision }) if attempt > 1 && is_ours(found.as_ref()) => {
                    return Ok(found.map_or(revision, |record| record.revision));
                }
                Ok(Swap::Lost { found, .. }) => {
                    let found = found.map_or(0, |record| record.revision);
                    return Err(StoreError::Conflict { key: key.to_owned(), expected, found });
                }
                Err(StoreError::Unavailable(_)) if attempt < WRITE_TRIES => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last attempt returns")
    }
}

enum Swap {
    Done { revision: u64 },
    Lost { found: Option<Record>, revision: u64 },
}

#[async_trait]
impl Store for Etcd {
    async fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        let mut response = call(self.kv.clone().get(self.full_key(key), None)).await?;
        Ok(response.take_kvs().pop().and_then(|kv| self.record(kv)))
    }

    async fn range(&self, range: Range<'_>) -> Result<Page, StoreError> {
        let prefix = self.full_key(range.prefix);
        let start = if range.start.is_empty() { prefix.clone() } else { self.full_key(range.start) };
        let options = GetOptions::new()
            .with_range(end_of(&prefix))
            .with_limit(signed(range.limit))
            .with_revision(signed(range.revision));
        let mut response = call(self.kv.clone().get(start, Some(options))).await?;
        let revision = unsigned(response.header().map_or(0, |header| header.revision()));
        let count = unsigned(response.count());
        let kvs = response.take_kvs();
        let remaining = count.saturating_sub(kvs.len() as u64);
        let records = kvs.into_iter().filter_map(|kv| self.record(kv)).collect();
        Ok(Page { records, revision: if range.revision == 0 { revision } else { range.revision }, remaining })
    }

    async fn put(&self, key: &str, value: Bytes, expected: u64, ttl_s: Option<i64>) -> Result<u64, StoreError> {
        let full_key = self.full_key(key);
        let is_ours = |found: Option<&Record>| found.is_some_and(|record| record.value == value);
        let put = |options| TxnOp::put(full_key.clone(), value.to_vec(), options);
        let Some(ttl_s) = ttl_s else { return self.write(key, expected, put(None), is_ours).await };
        let lease = self.lease(ttl_s).await?;
        match self.write(key, expected, put(Some(PutOptions::new().with_lease(lease))), is_ours).await {
            // etcd was restored from a backup that does not know it.
            Err(StoreError::Failed(why)) if why.contains("requested lease not found") => {
                self.lease.lock().await.take_if(|shared| shared.id == lease);
                let options = PutOptions::new().with_lease(self.lease(ttl_s).await?);
                self.write(key, expected, put(Some(options)), is_ours).await
            }
            result => result,
        }
    }

    async fn delete(&self, key: &str, expected: u64) -> Result<u64, StoreError> {
        let delete = TxnOp::delete(self.full_key(key), None);
        self.write(key, expected, delete, |found| found.is_none()).await
    }

    async fn revision(&self) -> Result<u64, StoreError> {
        let options = GetOptions::new().with_count_only();
        let response = call(self.kv.clone().get(self.prefix.as_str(), Some(options))).await?;
        Ok(unsigned(response.header().map_or(0, |header| header.revision())))
    }

    async fn watch(&self, revision: u64) -> Result<mpsc::Receiver<Result<Batch, StoreError>>, StoreError> {
        let (sender, receiver) = mpsc::channel(WATCH_BUFFER);
        tokio::spawn(self.clone().follow(revision, sender));
        Ok(receiver)
    }

    async fn history(&self, after: u64, upto: u64) -> Result<Vec<Past>, StoreError> {
        call_store(self.past(after, upto)).await
    }

    async fn compact(&self, revision: u64) -> Result<(), StoreError> {
        call(self.kv.clone().compact(signed(revision), None)).await.map(|_| ())
    }
}

impl Etcd {
    /// Ends when the receiver is dropped or the watch cannot go on. All keys are watched, not only ours: then the
    /// watch is at etcd's revision whoever writes.
    async fn follow(mut self, mut next: u64, sender: mpsc::Sender<Result<Batch, StoreError>>) {
        let mut pause = RETRY_MIN;
        while !sender.is_closed() {
            let options = WatchOptions::new().with_all_keys().with_start_revision(signed(next));
            match self.watch.watch("\0", Some(options)).await {
                Ok(mut stream) => loop {
                    match tokio::select! { message = stream.message() => message, () = sender.closed() => return } {
                        Ok(Some(message)) if message.canceled() => {
                            if message.compact_revision() > 0 {
                                let oldest = unsigned(message.compact_revision());
                                let _ = sender.send(Err(StoreError::Compacted { oldest })).await;
                                return;
                            }
                            tracing::warn!(reason = message.cancel_reason(), "etcd cancelled the watch");
                            break;
                        }
                        Ok(Some(message)) => {
                            pause = RETRY_MIN;
                            let Some(batch) = self.batch(&message) else { continue };
                            next = batch.revision + 1;
                            if sender.send(Ok(batch)).await.is_err() {
                                return;
                            }
                        }
                        Ok(None) => break,
                        Err(error) => {
                            tracing::warn!(%error, revision = next, "the watch on etcd broke off");
                            break;
                        }
                    }
                },
                Err(error) => tracing::warn!(%error, revision = next, "cannot watch etcd"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// `None`: the message holds no event.
    fn batch(&self, message: &WatchResponse) -> Option<Batch> {
        let revision = newest(message)?;
        Some(Batch { changes: message.events().iter().filter_map(|event| self.change(event)).collect(), revision })
    }

    fn change(&self, event: &Event) -> Option<Change> {
        let kv = event.kv()?;
        Some(Change {
            key: kv.key_str().ok()?.strip_prefix(&self.prefix)?.to_owned(),
            revision: unsigned(kv.mod_revision()),
            value: (event.event_type() == EventType::Put).then(|| Bytes::copy_from_slice(kv.value())),
            is_create: kv.version() == 1,
        })
    }

    async fn past(&self, after: u64, upto: u64) -> Result<Vec<Past>, StoreError> {
        let options = WatchOptions::new().with_all_keys().with_start_revision(signed(after + 1)).with_prev_key();
        let mut watch = self.watch.clone();
        let mut stream = watch.watch("\0", Some(options)).await.map_err(|error| refused(&error))?;
        let mut past = Vec::new();
        while let Some(message) = stream.message().await.map_err(|error| refused(&error))? {
            if message.canceled() {
                return Err(StoreError::Compacted { oldest: unsigned(message.compact_revision()) });
            }
            for event in message.events() {
                let Some(change) = self.change(event).filter(|change| change.revision <= upto) else { continue };
                past.push(Past { change, previous: event.prev_kv().and_then(|kv| self.record(kv.clone())) });
            }
            // Every revision has an event, as all keys are watched.
            if newest(&message).is_some_and(|revision| revision >= upto) {
                return Ok(past);
            }
        }
        Err(StoreError::Unavailable("the watch ended".to_owned()))
    }
}

fn newest(message: &WatchResponse) -> Option<u64> {
    message.events().iter().filter_map(|event| event.kv()).map(|kv| unsigned(kv.mod_revision())).max()
}

async fn call<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, StoreError> {
    call_store(async { call.await.map_err(|error| refused(&error)) }).await
}

async fn call_store<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(result) => result,
        Err(_) => Err(StoreError::Unavailable(format!("no answer from etcd within {} s", CALL_TIMEOUT.as_secs()))),
    }
}

/// etcd's codes do not tell apart what its messages do.
fn refused(error: &Error) -> StoreError {
    match error {
        Error::GRpcStatus(status) => refusal(&format!("{:?}", status.code()), status.message()),
        Error::TransportError(_) | Error::IoError(_) => StoreError::Unavailable(error.to_string()),
        other => StoreError::Failed(other.to_string()),
    }
}

fn refusal(code: &str, message: &str) -> StoreError {
    match code {
        _ if message.contains("required revision has been compacted") => StoreError::Compacted { oldest: 0 },
        _ if message.contains("required revision is a future revision") => StoreError::FutureRevision,
        _ if message.contains("request is too large") || message.contains("larger than max") => {
            StoreError::TooLarge(message.to_owned())
        }
        "Unavailable" | "DeadlineExceeded" | "Cancelled" | "Unknown" | "Aborted" | "Internal" => {
            StoreError::Unavailable(message.to_owned())
        }
        _ => StoreError::Failed(message.to_owned()),
    }
}

/// The first key behind all that start with `prefix`.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

fn version(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.split(['.', '-']).map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

/// etcd's revisions are never negative.
fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or_default()
}

/// One beyond etcd's range is as far in the future as the last one in it.
fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_end_behind_their_prefix() {
        for (prefix, end) in [("a", vec![b'b']), ("a/", vec![b'a', b'0']), ("", vec![0])] {
            assert_eq!(end_of(prefix), end);
        }
    }

    #[test]
    fn versions_compare() {
        assert_eq!(version("3.5.16"), Some((3, 5, 16)));
        assert_eq!(version("3.6.0-rc.1"), Some((3, 6, 0)));
        assert_eq!(version("new"), None);
        assert!(version("3.4.31") < Some(VERSION_MIN) && version("3.5.13") >= Some(VERSION_MIN));
    }

    #[test]
    fn messages_tell_refusals_apart() {
        let code = "OutOfRange";
        assert!(matches!(
            refusal(code, "etcdserver: mvcc: required revision has been compacted"),
            StoreError::Compacted { .. }
        ));
        assert!(matches!(
            refusal(code, "etcdserver: mvcc: required revision is a future revision"),
            StoreError::FutureRevision
        ));
        assert!(matches!(refusal(code, "decoded message length too large"), StoreError::Failed(_)));
        assert!(matches!(refusal("InvalidArgument", "etcdserver: request is too large"), StoreError::TooLarge(_)));
        assert!(matches!(refusal("Unavailable", "etcdserver: leader changed"), StoreError::Unavailable(_)));
    }
}
