//! The store in a file of this process, for a control plane without etcd. One writer takes
//! all writes that wait and commits them together: as many as came during one fsync share
//! the next. Readers see committed states only and wait for nobody.

use std::{
    fs::{DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use redb::{Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase, backends::FileBackend};
use tokio::sync::{mpsc, oneshot, watch};

use super::{Batch, Guard, Page, Past, Range, Record, Store, StoreError};
use tables::{Write, Writer};

mod tables;

const FILE: &str = "store.redb";
/// Pages of the file kept in memory; the watch cache serves nearly all reads.
const CACHE_BYTES: usize = 16 << 20;
/// etcd's `--max-request-bytes`: whoever outgrows this store finds the same limit there.
const REQUEST_BYTES_MAX: usize = 3 << 19;
/// Writes that may wait for the writer, and that it commits together.
const QUEUE_MAX: usize = 1_024;
const GROUP_MAX: usize = 1_024;
/// Batches that may wait for the watch cache.
const WATCH_BUFFER: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{} is used by another process; stop that one, or give this one another folder", .0.display())]
    InUse(PathBuf),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} cannot be opened: {why}", path.display())]
    Refused { path: PathBuf, why: String },
}

/// See the module's text. Clones share the file.
#[derive(Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
}

struct Shared {
    database: Database,
    /// The revision of the last change on disk.
    head: watch::Sender<u64>,
}

/// What the writer is to do, and whom it tells when that is on disk.
enum Job {
    Write(Write, oneshot::Sender<Result<u64, StoreError>>),
    Compact(u64, oneshot::Sender<Result<u64, StoreError>>),
}

impl Embedded {
    /// Opens the store in `folder`, making what is missing, for this process alone.
    pub async fn open(folder: &Path) -> Result<Self, OpenError> {
        let path = folder.join(FILE);
        let io = |source| OpenError::Io { path: path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io)?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(io)?;
        let refused = |why: String| OpenError::Refused { path: path.clone(), why };
        let opened = tokio::task::spawn_blocking(move || {
            let database = Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(FileBackend::new(file)?)?;
            let head = tables::create(&database).map_err(|error| error.to_string());
            Ok::<_, DatabaseError>((database, head))
        });
        let (database, head) = match opened.await.map_err(|error| refused(error.to_string()))? {
            Ok(opened) => opened,
            Err(DatabaseError::DatabaseAlreadyOpen) => return Err(OpenError::InUse(folder.to_owned())),
            Err(error) => return Err(refused(error.to_string())),
        };
        let shared = Arc::new(Shared { database, head: watch::Sender::new(head.map_err(refused)?) });
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        // Ends when the last clone of the store is dropped.
        tokio::spawn(write(shared.clone(), queue));
        Ok(Self { shared, jobs })
    }

    async fn write(
        &self,
        key: &str,
        value: Bytes,
        expected: u64,
        ttl_s: Option<i64>,
        guard: Option<(String, u64)>,
    ) -> Result<u64, StoreError> {
        let bytes = key.len() + value.len();
        if bytes > REQUEST_BYTES_MAX {
            return Err(StoreError::TooLarge(format!("request is too large: {bytes} bytes of {REQUEST_BYTES_MAX}")));
        }
        let ttl = |s: i64| now_ms().saturating_add(u64::try_from(s).unwrap_or_default().saturating_mul(1_000));
        let write = Write { key: key.to_owned(), value: Some(value), expected, expires_ms: ttl_s.map(ttl), guard };
        self.ask(|sender| Job::Write(write, sender)).await
    }

    async fn ask(&self, job: impl FnOnce(oneshot::Sender<Result<u64, StoreError>>) -> Job) -> Result<u64, StoreError> {
        let gone = || StoreError::Unavailable("the store's writer has ended; see the log".to_owned());
        let (sender, answer) = oneshot::channel();
        self.jobs.send(job(sender)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Shared {
    /// Reads one committed state, off the runtime's threads.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&ReadTransaction) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = self.clone();
        let read = tokio::task::spawn_blocking(move || read(&shared.database.begin_read()?));
        read.await.map_err(|error| StoreError::Failed(error.to_string()))?
    }

    /// Ends when the receiver is dropped, or with an error.
    async fn follow(self: Arc<Self>, mut next: u64, sender: mpsc::Sender<Result<Batch, StoreError>>) {
        let mut head = self.head.subscribe();
        loop {
            let reached = head.wait_for(|head| *head >= next);
            tokio::select! {
                reached = reached => if reached.is_err() { return },
                () = sender.closed() => return,
            }
            let batch = self.read(move |transaction| tables::changes(transaction, next)).await.map(|changes| {
                let revision = changes.last().map_or(next - 1, |change| change.revision);
                Batch { changes, revision }
            });
            let end = batch.as_ref().map(|batch| batch.revision).ok();
            if sender.send(batch).await.is_err() {
                return;
            }
            let Some(revision) = end else { return };
            next = revision + 1;
        }
    }
}

/// The writer's loop: what waits is committed together, then everybody is told.
async fn write(shared: Arc<Shared>, mut queue: mpsc::Receiver<Job>) {
    // At once: what has to vanish may have been due while nobody ran.
    let mut again = Again { is_cleaning: true, expiry_ms: None };
    loop {
        let mut jobs = Vec::new();
        let due = tokio::time::sleep(Duration::from_millis(again.expiry_ms.unwrap_or(0).saturating_sub(now_ms())));
        tokio::select! {
            biased;
            count = queue.recv_many(&mut jobs, GROUP_MAX) => if count == 0 { return },
            () = std::future::ready(()), if again.is_cleaning => {}
            () = due, if again.expiry_ms.is_some() => {}
        }
        let committing = shared.clone();
        let done = tokio::task::spawn_blocking(move || {
            let group = group(&committing.database, &jobs, now_ms());
            (jobs, group)
        });
        let (jobs, group) = match done.await {
            Ok(done) => done,
            Err(error) => return tracing::error!(%error, "the store's writer ended"),
        };
        let answers = match group {
            Ok(group) => {
                again = group.again;
                // Before anybody is told: a revision that is asked for then is not older.
                shared.head.send_replace(group.head);
                group.answers
            }
            Err(error) => {
                tracing::error!(%error, writes = jobs.len(), "not committed");
                again = Again { is_cleaning: false, expiry_ms: None };
                jobs.iter().map(|_| Err(error.clone())).collect()
            }
        };
        for (job, answer) in jobs.into_iter().zip(answers) {
            let (Job::Write(_, sender) | Job::Compact(_, sender)) = job;
            // An Err is a writer that gave up waiting.
            let _ = sender.send(answer);
        }
    }
}

/// When the writer has something to do of its own accord.
struct Again {
    is_cleaning: bool,
    expiry_ms: Option<u64>,
}

struct Group {
    answers: Vec<Result<u64, StoreError>>,
    head: u64,
    again: Again,
}

/// One transaction. `Err`: nothing of it happened, or (`Unavailable`) nobody knows.
fn group(database: &Database, jobs: &[Job], now_ms: u64) -> Result<Group, StoreError> {
    let transaction = database.begin_write()?;
    let mut writer = Writer::open(&transaction)?;
    let mut answers = Vec::with_capacity(jobs.len());
    for job in jobs {
        let answer = match job {
            Job::Write(write, _) => writer.swap(write),
            Job::Compact(revision, _) => writer.compact(*revision).map(|()| *revision),
        };
        if let Err(error @ StoreError::Failed(_)) = answer {
            return Err(error);
        }
        answers.push(answer);
    }
    let again = Again { expiry_ms: writer.expire(now_ms)?, is_cleaning: writer.clean()? };
    let head = writer.head;
    drop(writer);
    transaction
        .commit()
        .map_err(|error| StoreError::Unavailable(format!("{error}; mend the disk and start the apiserver again")))?;
    Ok(Group { answers, head, again })
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[async_trait]
impl Store for Embedded {
    async fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        let key = key.to_owned();
        self.shared.read(move |transaction| tables::get(transaction, &key)).await
    }

    async fn range(&self, range: Range<'_>) -> Result<Page, StoreError> {
        let (prefix, start) = (range.prefix.to_owned(), range.start.to_owned());
        let Range { limit, revision, .. } = range;
        let read = move |transaction: &ReadTransaction| {
            tables::range(transaction, &Range { prefix: &prefix, start: &start, limit, revision })
        };
        self.shared.read(read).await
    }

    async fn put(&self, key: &str, value: Bytes, expected: u64, ttl_s: Option<i64>) -> Result<u64, StoreError> {
        self.write(key, value, expected, ttl_s, None).await
    }

    async fn guard(&self, name: &str) -> Result<u64, StoreError> {
        let name = name.to_owned();
        self.shared.read(move |transaction| tables::guard(transaction, &name)).await
    }

    async fn put_guarded(
        &self,
        key: &str,
        value: Bytes,
        expected: u64,
        ttl_s: Option<i64>,
        guard: Guard<'_>,
    ) -> Result<u64, StoreError> {
        self.write(key, value, expected, ttl_s, Some((guard.name.to_owned(), guard.revision))).await
    }

    async fn delete(&self, key: &str, expected: u64) -> Result<u64, StoreError> {
        let write = Write { key: key.to_owned(), value: None, expected, expires_ms: None, guard: None };
        self.ask(|sender| Job::Write(write, sender)).await
    }

    async fn revision(&self) -> Result<u64, StoreError> {
        Ok(*self.shared.head.borrow())
    }

    async fn watch(&self, revision: u64) -> Result<mpsc::Receiver<Result<Batch, StoreError>>, StoreError> {
        let (sender, receiver) = mpsc::channel(WATCH_BUFFER);
        // Ends when the receiver is dropped.
        tokio::spawn(self.shared.clone().follow(revision, sender));
        Ok(receiver)
    }

    async fn history(&self, after: u64, upto: u64) -> Result<Vec<Past>, StoreError> {
        self.shared.read(move |transaction| tables::past(transaction, after, upto)).await
    }

    async fn compact(&self, revision: u64) -> Result<(), StoreError> {
        self.ask(|sender| Job::Compact(revision, sender)).await.map(|_| ())
    }
}
