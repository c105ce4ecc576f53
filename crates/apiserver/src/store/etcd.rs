//! The store on etcd, over mutual TLS: the one file that knows etcd's API. Whether a write
//! that was not answered happened is read in the history before it is tried again.

mod members;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use daemon::reload::Reloading;
use etcd_client::{
    Compare, CompareOp, Error, Event, EventType, GetOptions, GetResponse, KvClient, PutOptions, Txn, TxnOp,
    TxnOpResponse, WatchOptions, WatchResponse,
};
use tokio::sync::{Mutex, mpsc};

pub use self::members::{Config, Tls};
use self::members::{Member, members};
use super::{Batch, Change, Guard, Page, Past, Range, Record, Store, StoreError};

/// Longer than an election of etcd's leader.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// A write is tried this often before its outcome is reported as unknown.
const WRITE_TRIES: u32 = 3;
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// Batches that may wait for the watch cache.
const WATCH_BUFFER: usize = 256;
/// One lease serves all keys of about the same end: it runs longer than asked by this part of the time, at most
/// by so many seconds. Upstream's figures.
const LEASE_REUSE_PART: i64 = 20;
const LEASE_REUSE_MAX_S: i64 = 60;
const LEASE_KEYS_MAX: u32 = 1000;
/// Older versions may reorder or lose watch events (etcd's CHANGELOG-3.5).
const VERSION_MIN: (u32, u32, u32) = (3, 5, 13);

#[derive(Clone)]
pub struct Etcd {
    members: Reloading<Vec<Arc<Member>>>,
    /// The member that is asked.
    current: Arc<AtomicUsize>,
    /// The newest revision that an answer has told of: what is asked from now on happens after it.
    seen: Arc<AtomicU64>,
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
    pub fn connect(config: Config) -> Result<Self, StoreError> {
        if config.endpoints.is_empty() {
            return Err(StoreError::Failed("no endpoint of etcd is given".to_owned()));
        }
        let runtime = tokio::runtime::Handle::current();
        let files = config.tls.iter().flat_map(|tls| [&tls.authority, &tls.certificate, &tls.key]).cloned();
        let files: Vec<PathBuf> = files.collect();
        let prefix = config.prefix.clone();
        let members = Reloading::watch(&files, move || {
            // The watcher of files has a thread of its own; connections live in the runtime.
            let _inside = runtime.enter();
            members(&config)
        })?;
        let prefix = format!("/{}/", prefix.trim_matches('/'));
        let (current, seen, lease) = Default::default();
        Ok(Self { members, current, seen, prefix, lease })
    }

    /// Says so in the log if this etcd is known to be unsafe.
    pub async fn check_version(&self) -> Result<(), StoreError> {
        let status = call(self.member().1.client.maintenance_client().status()).await?;
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

    fn member(&self) -> (usize, Arc<Member>) {
        let index = self.current.load(Ordering::Relaxed);
        (index, self.members.current()[index].clone())
    }

    /// The member does not answer: the next one is asked from now on.
    fn gave_up(&self, index: usize) {
        let next = (index + 1) % self.members.current().len();
        // Otherwise somebody else has found it out.
        let _ = self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Asks one member, once.
    async fn once<T, F: Future<Output = Result<T, Error>>>(
        &self,
        ask: impl FnOnce(&Member) -> F,
    ) -> Result<T, StoreError> {
        let (index, member) = self.member();
        let result = call(ask(&member)).await;
        if matches!(result, Err(StoreError::Unavailable(_))) {
            self.gave_up(index);
        }
        result
    }

    /// Asks until one member answers, each once more than there are members.
    async fn read<F: Future<Output = Result<GetResponse, Error>>>(
        &self,
        ask: impl Fn(KvClient) -> F,
    ) -> Result<GetResponse, StoreError> {
        let mut tries = self.members.current().len();
        loop {
            // Boxed: a call's future is large.
            match Box::pin(self.once(|member| ask(member.kv.clone()))).await {
                Err(StoreError::Unavailable(_)) if tries > 0 => {
                    tries -= 1;
                    tokio::time::sleep(RETRY_MIN).await;
                }
                result => {
                    return result.inspect(|response| self.has_seen(response.header().map_or(0, |it| it.revision())));
                }
            }
        }
    }

    fn has_seen(&self, revision: i64) {
        self.seen.fetch_max(unsigned(revision), Ordering::AcqRel);
    }

    fn full_key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// A lease that ends in `ttl_s` or a little later.
    async fn lease(&self, ttl_s: i64) -> Result<i64, StoreError> {
        let reuse_s = (ttl_s / LEASE_REUSE_PART).min(LEASE_REUSE_MAX_S);
        let mut slot = self.lease.lock().await;
        if let Some(lease) = slot.as_mut()
            && lease.ttl_s == ttl_s
            && lease.granted.elapsed().as_secs() < unsigned(reuse_s)
            && lease.keys < LEASE_KEYS_MAX
        {
            lease.keys += 1;
            return Ok(lease.id);
        }
        let granted = self.once(|member| {
            let mut leases = member.client.lease_client();
            async move { leases.grant(ttl_s + reuse_s, None).await }
        });
        let granted = granted.await?;
        *slot = Some(SharedLease { id: granted.id(), ttl_s, granted: Instant::now(), keys: 1 });
        Ok(granted.id())
    }

    /// One compare-and-swap. Returns the revision of the change.
    async fn swap(&self, key: &str, expected: u64, then: TxnOp, guard: Option<Guard<'_>>) -> Result<u64, StoreError> {
        let full = self.full_key(key);
        let mut conditions = vec![Compare::mod_revision(full.clone(), CompareOp::Equal, signed(expected))];
        let mut then = vec![then];
        if let Some(guard) = guard {
            let key = self.full_key(&guard_key(guard.name));
            conditions.push(Compare::mod_revision(key.clone(), CompareOp::Equal, signed(guard.revision)));
            then.push(TxnOp::put(key, "", None));
        }
        let txn = Txn::new()
            .when(conditions)
            .and_then(then)
            .or_else([TxnOp::get(full, Some(GetOptions::new().with_keys_only()))]);
        let asked = self.once(|member| {
            let mut kv = member.kv.clone();
            async move { kv.txn(txn).await }
        });
        let response = asked.await?;
        let revision = response.header().map_or(0, |header| header.revision());
        self.has_seen(revision);
        if response.succeeded() {
            return Ok(unsigned(revision));
        }
        let found = match response.op_responses().into_iter().next() {
            Some(TxnOpResponse::Get(mut get)) => get.take_kvs().pop().map_or(0, |kv| unsigned(kv.mod_revision())),
            _ => 0,
        };
        match guard {
            Some(guard) if found == expected => Err(StoreError::Outrun { guard: guard.name.to_owned() }),
            _ => Err(StoreError::Conflict { key: key.to_owned(), expected, found }),
        }
    }

    /// `None`: not a key of ours.
    fn record(&self, kv: etcd_client::KeyValue) -> Option<Record> {
        let revision = unsigned(kv.mod_revision());
        let (key, value) = kv.into_key_value();
        let key = String::from_utf8(key).ok()?.strip_prefix(&self.prefix)?.to_owned();
        Some(Record { key, value: value.into(), revision })
    }

    /// Tries a swap until its outcome is known. `value`: what it writes; none if it deletes.
    async fn write(
        &self,
        key: &str,
        expected: u64,
        then: TxnOp,
        value: Option<&Bytes>,
        guard: Option<Guard<'_>>,
    ) -> Result<u64, StoreError> {
        let before = self.seen.load(Ordering::Acquire);
        let mut pause = RETRY_MIN;
        let first = self.swap(key, expected, then.clone(), guard).await;
        let Err(StoreError::Unavailable(mut why)) = first else { return first };
        for _ in 1..WRITE_TRIES {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
            // Before it is tried again: what was made and taken away since must not be made once more.
            match self.happened(key, expected, value, before).await {
                Ok(Some(revision)) => return Ok(revision),
                Ok(None) => {}
                Err(error) => {
                    why = error.to_string();
                    continue;
                }
            }
            match self.swap(key, expected, then.clone(), guard).await {
                Err(StoreError::Unavailable(again)) => why = again,
                // By an earlier try that arrived late, perhaps.
                Err(conflict @ (StoreError::Conflict { .. } | StoreError::Outrun { .. })) => {
                    let happened = self.happened(key, expected, value, before).await;
                    return happened.map_err(|error| StoreError::Unavailable(error.to_string()))?.ok_or(conflict);
                }
                known => return known,
            }
        }
        Err(StoreError::Unavailable(why))
    }

    async fn put_leased(
        &self,
        key: &str,
        value: Bytes,
        expected: u64,
        ttl_s: Option<i64>,
        guard: Option<Guard<'_>>,
    ) -> Result<u64, StoreError> {
        let full_key = self.full_key(key);
        let put = |options| TxnOp::put(full_key.clone(), value.to_vec(), options);
        let Some(ttl_s) = ttl_s else { return self.write(key, expected, put(None), Some(&value), guard).await };
        let lease = self.lease(ttl_s).await?;
        match self.write(key, expected, put(Some(PutOptions::new().with_lease(lease))), Some(&value), guard).await {
            // etcd was restored from a backup that does not know it.
            Err(StoreError::Failed(why)) if why.contains("requested lease not found") => {
                self.lease.lock().await.take_if(|shared| shared.id == lease);
                let options = PutOptions::new().with_lease(self.lease(ttl_s).await?);
                self.write(key, expected, put(Some(options)), Some(&value), guard).await
            }
            result => result,
        }
    }

    /// The revision at which the key went from `expected` to `value`, if it did after revision `before`. Two writers
    /// that ask for the very same change are not told apart: it has happened for both.
    async fn happened(
        &self,
        key: &str,
        expected: u64,
        value: Option<&Bytes>,
        before: u64,
    ) -> Result<Option<u64>, StoreError> {
        let now = self.revision().await?;
        // Nothing was ever read: then nothing tells where the history that counts begins.
        if before == 0 {
            return Err(StoreError::Unavailable("etcd has never answered".to_owned()));
        }
        if now <= before {
            return Ok(None);
        }
        let past = self.history(before, now).await?;
        let ours = past.into_iter().find(|past| {
            past.change.key == key
                && past.previous.as_ref().map_or(0, |previous| previous.revision) == expected
                && past.change.value.as_ref() == value
        });
        Ok(ours.map(|past| past.change.revision))
    }
}

#[async_trait]
impl Store for Etcd {
    async fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        let key = self.full_key(key);
        let ask = |mut kv: KvClient| {
            let key = key.clone();
            async move { kv.get(key, None).await }
        };
        Ok(self.read(ask).await?.take_kvs().pop().and_then(|kv| self.record(kv)))
    }

    async fn range(&self, range: Range<'_>) -> Result<Page, StoreError> {
        let prefix = self.full_key(range.prefix);
        let start = if range.start.is_empty() { prefix.clone() } else { self.full_key(range.start) };
        let options = GetOptions::new()
            .with_range(end_of(&prefix))
            .with_limit(signed(range.limit))
            .with_revision(signed(range.revision));
        let ask = |mut kv: KvClient| {
            let (start, options) = (start.clone(), options.clone());
            async move { kv.get(start, Some(options)).await }
        };
        let mut response = self.read(ask).await?;
        let revision = unsigned(response.header().map_or(0, |header| header.revision()));
        let count = unsigned(response.count());
        let kvs = response.take_kvs();
        let remaining = count.saturating_sub(kvs.len() as u64);
        let records = kvs.into_iter().filter_map(|kv| self.record(kv)).collect();
        Ok(Page { records, revision: if range.revision == 0 { revision } else { range.revision }, remaining })
    }

    async fn put(&self, key: &str, value: Bytes, expected: u64, ttl_s: Option<i64>) -> Result<u64, StoreError> {
        self.put_leased(key, value, expected, ttl_s, None).await
    }

    async fn guard(&self, name: &str) -> Result<u64, StoreError> {
        Ok(self.get(&guard_key(name)).await?.map_or(0, |record| record.revision))
    }

    async fn put_guarded(
        &self,
        key: &str,
        value: Bytes,
        expected: u64,
        ttl_s: Option<i64>,
        guard: Guard<'_>,
    ) -> Result<u64, StoreError> {
        self.put_leased(key, value, expected, ttl_s, Some(guard)).await
    }

    async fn delete(&self, key: &str, expected: u64) -> Result<u64, StoreError> {
        self.write(key, expected, TxnOp::delete(self.full_key(key), None), None, None).await
    }

    async fn revision(&self) -> Result<u64, StoreError> {
        // Of one key, which does not exist: to count a range etcd walks all of it.
        let prefix = self.prefix.as_str();
        let response = self.read(|mut kv: KvClient| async move { kv.get(prefix, None).await }).await?;
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
        let compacted = self.once(|member| {
            let mut kv = member.kv.clone();
            async move { kv.compact(signed(revision), None).await }
        });
        compacted.await.map(|_| ())
    }
}

impl Etcd {
    /// Ends when the receiver is dropped or the watch cannot go on. All keys are watched, not only ours: then the
    /// watch is at etcd's revision whoever writes.
    async fn follow(self, mut next: u64, sender: mpsc::Sender<Result<Batch, StoreError>>) {
        let mut pause = RETRY_MIN;
        while !sender.is_closed() {
            let options = WatchOptions::new().with_all_keys().with_start_revision(signed(next));
            let (index, member) = self.member();
            match member.watch.clone().watch("\0", Some(options)).await {
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
                            self.seen.fetch_max(batch.revision, Ordering::AcqRel);
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
            self.gave_up(index);
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
        let mut watch = self.member().1.watch.clone();
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

fn guard_key(name: &str) -> String {
    format!("guards/{name}")
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
