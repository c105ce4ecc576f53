//! What lies on disk: every change under its revision, and for each living key the revision
//! of its last change. Functions over one transaction; none waits or asks the clock.

use std::collections::BTreeMap;

use bytes::Bytes;
use redb::{AccessGuard, Database, ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction};

use crate::store::{Change, Page, Past, Range, Record, StoreError};

/// Key, revision of the key's change before this one (0: it did not exist), value (none: deleted).
type Entry = (&'static str, u64, Option<&'static [u8]>);
const LOG: TableDefinition<u64, Entry> = TableDefinition::new("log");
const CURRENT: TableDefinition<&str, u64> = TableDefinition::new("current");
/// By the time at which it vanishes, in milliseconds of Unix: the revision of a change. The key stays if it has
/// been changed since.
const EXPIRY: TableDefinition<(u64, u64), ()> = TableDefinition::new("expiry");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// By the name of a guard: the revision of the last write under it.
const GUARDS: TableDefinition<&str, u64> = TableDefinition::new("guards");
/// History before this revision is not to be had.
const COMPACTED: &str = "compacted";
/// History before this revision takes no place any more.
const CLEANED: &str = "cleaned";

/// As in etcd: a store that holds nothing is at revision 1.
const FIRST_REVISION: u64 = 1;
/// Changes forgotten, and keys that vanish, in one transaction: writers wait for no more than this.
const CLEAN_MAX: u64 = 1_000;
const EXPIRE_MAX: usize = 1_000;
/// A batch of a watch ends with the change that exceeds one of these.
const BATCH_CHANGES_MAX: usize = 1_000;
const BATCH_BYTES_MAX: usize = 1 << 20;

macro_rules! failures {
    ($($error:ty),*) => {$(
        impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                StoreError::Failed(error.to_string())
            }
        }
    )*};
}
failures!(redb::StorageError, redb::TableError, redb::TransactionError);

/// A compare-and-swap.
#[derive(Clone, Debug)]
pub struct Write {
    pub key: String,
    /// `None`: delete.
    pub value: Option<Bytes>,
    pub expected: u64,
    /// In milliseconds of Unix.
    pub expires_ms: Option<u64>,
    /// Name and revision.
    pub guard: Option<(String, u64)>,
}

/// Makes the tables of a new store. Returns the revision at which the store is.
pub fn create(database: &Database) -> Result<u64, StoreError> {
    let transaction = database.begin_write()?;
    let head = Writer::open(&transaction)?.head;
    transaction.commit().map_err(|error| StoreError::Failed(error.to_string()))?;
    Ok(head)
}

/// All tables, to be changed.
pub struct Writer<'t> {
    log: Table<'t, u64, Entry>,
    current: Table<'t, &'static str, u64>,
    expiry: Table<'t, (u64, u64), ()>,
    meta: Table<'t, &'static str, u64>,
    guards: Table<'t, &'static str, u64>,
    /// The revision of the last change.
    pub head: u64,
}

impl<'t> Writer<'t> {
    pub fn open(transaction: &'t WriteTransaction) -> Result<Self, StoreError> {
        let log = transaction.open_table(LOG)?;
        let head = log.last()?.map_or(FIRST_REVISION, |(revision, _)| revision.value());
        Ok(Self {
            log,
            current: transaction.open_table(CURRENT)?,
            expiry: transaction.open_table(EXPIRY)?,
            meta: transaction.open_table(META)?,
            guards: transaction.open_table(GUARDS)?,
            head,
        })
    }

    /// Returns the revision of the change.
    pub fn swap(&mut self, write: &Write) -> Result<u64, StoreError> {
        let found = self.current.get(write.key.as_str())?.map_or(0, |revision| revision.value());
        if found != write.expected {
            return Err(StoreError::Conflict { key: write.key.clone(), expected: write.expected, found });
        }
        if found == 0 && write.value.is_none() {
            return Ok(self.head);
        }
        if let Some((guard, revision)) = &write.guard {
            if self.guards.get(guard.as_str())?.map_or(0, |last| last.value()) != *revision {
                return Err(StoreError::Outrun { guard: guard.clone() });
            }
            self.guards.insert(guard.as_str(), self.head + 1)?;
        }
        self.head += 1;
        self.log.insert(self.head, (write.key.as_str(), found, write.value.as_deref()))?;
        if write.value.is_some() {
            self.current.insert(write.key.as_str(), self.head)?;
        } else {
            self.current.remove(write.key.as_str())?;
        }
        if let Some(at) = write.expires_ms {
            self.expiry.insert((at, self.head), ())?;
        }
        Ok(self.head)
    }

    /// Deletes what has to vanish by now. Returns when to come again, if ever.
    pub fn expire(&mut self, now_ms: u64) -> Result<Option<u64>, StoreError> {
        let mut due = Vec::new();
        for entry in self.expiry.range(..=(now_ms, u64::MAX))?.take(EXPIRE_MAX) {
            due.push(entry?.0.value());
        }
        for (at, revision) in due {
            self.expiry.remove((at, revision))?;
            let Some(key) = self.log.get(revision)?.map(|entry| entry.value().0.to_owned()) else { continue };
            match self.swap(&Write { key, value: None, expected: revision, expires_ms: None, guard: None }) {
                // Changed or deleted since.
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.expiry.first()?.map(|(key, _)| key.value().0))
    }

    /// From now on the history before `revision` is not to be had; [`clean`](Self::clean) makes room.
    pub fn compact(&mut self, revision: u64) -> Result<(), StoreError> {
        let oldest = self.meta.get(COMPACTED)?.map_or(0, |value| value.value());
        if revision > self.head {
            return Err(StoreError::FutureRevision);
        }
        if revision <= oldest {
            return Err(StoreError::Compacted { oldest });
        }
        self.meta.insert(COMPACTED, revision)?;
        Ok(())
    }

    /// Forgets a part of what was compacted: changes that were superseded, and deletions. True if there is more.
    pub fn clean(&mut self) -> Result<bool, StoreError> {
        let meta = |name| Ok::<_, StoreError>(self.meta.get(name)?.map_or(0, |value| value.value()));
        let (cleaned, compacted) = (meta(CLEANED)?, meta(COMPACTED)?);
        if cleaned >= compacted {
            return Ok(false);
        }
        // Revisions have no gaps but where something was forgotten.
        let from = self.log.range(cleaned..)?.next().transpose()?.map_or(compacted, |(revision, _)| revision.value());
        let upto = compacted.min(from + CLEAN_MAX);
        let mut forgotten = Vec::new();
        for entry in self.log.range(from..=upto)? {
            let (revision, entry) = entry?;
            let (_, previous, value) = entry.value();
            forgotten.push(previous);
            if value.is_none() && revision.value() < upto {
                forgotten.push(revision.value());
            }
        }
        for revision in forgotten {
            self.log.remove(revision)?;
        }
        self.meta.insert(CLEANED, upto)?;
        Ok(upto < compacted)
    }
}

/// Whether the state at `revision` is to be had; 0 is the latest. Returns the revision meant.
fn at(transaction: &ReadTransaction, revision: u64) -> Result<u64, StoreError> {
    let head = transaction.open_table(LOG)?.last()?.map_or(FIRST_REVISION, |(revision, _)| revision.value());
    if revision == 0 {
        return Ok(head);
    }
    let oldest = transaction.open_table(META)?.get(COMPACTED)?.map_or(0, |value| value.value());
    if revision > head {
        return Err(StoreError::FutureRevision);
    }
    if revision < oldest { Err(StoreError::Compacted { oldest }) } else { Ok(revision) }
}

pub fn get(transaction: &ReadTransaction, key: &str) -> Result<Option<Record>, StoreError> {
    let Some(revision) = transaction.open_table(CURRENT)?.get(key)? else { return Ok(None) };
    record(&transaction.open_table(LOG)?, revision.value())
}

pub fn guard(transaction: &ReadTransaction, name: &str) -> Result<u64, StoreError> {
    Ok(transaction.open_table(GUARDS)?.get(name)?.map_or(0, |revision| revision.value()))
}

/// `None`: a deletion, or forgotten.
fn record(log: &impl ReadableTable<u64, Entry>, revision: u64) -> Result<Option<Record>, StoreError> {
    let Some(entry) = log.get(revision)? else { return Ok(None) };
    let (key, _, value) = entry.value();
    let record = |value| Record { key: key.to_owned(), value: Bytes::copy_from_slice(value), revision };
    Ok(value.map(record))
}

/// Keys of today's state, but for those that were changed after the wanted revision: these as they were.
pub fn range(transaction: &ReadTransaction, range: &Range<'_>) -> Result<Page, StoreError> {
    let revision = at(transaction, range.revision)?;
    let log = transaction.open_table(LOG)?;
    let from = range.start.max(range.prefix);
    let mut since: BTreeMap<String, u64> = BTreeMap::new();
    if range.revision > 0 {
        for entry in log.range(revision + 1..)? {
            let (_, entry) = entry?;
            let (key, previous, _) = entry.value();
            // The first change after the revision knows the state at it.
            if key >= from && key.starts_with(range.prefix) && !since.contains_key(key) {
                since.insert(key.to_owned(), previous);
            }
        }
    }
    let mut page = Page { records: Vec::new(), revision, remaining: 0 };
    let mut take = |revision: u64| {
        if range.limit > 0 && page.records.len() as u64 >= range.limit {
            page.remaining += 1;
        } else {
            page.records.extend(record(&log, revision)?);
        }
        Ok::<_, StoreError>(())
    };
    let mut before = since.iter().filter(|(_, revision)| **revision > 0).peekable();
    for entry in transaction.open_table(CURRENT)?.range(from..)? {
        let (key, revision) = entry?;
        let key = key.value();
        if !key.starts_with(range.prefix) {
            break;
        }
        while let Some((_, revision)) = before.next_if(|(old, _)| old.as_str() <= key) {
            take(*revision)?;
        }
        if !since.contains_key(key) {
            take(revision.value())?;
        }
    }
    for (_, revision) in before {
        take(*revision)?;
    }
    Ok(page)
}

fn change(revision: u64, entry: &AccessGuard<'_, Entry>) -> Change {
    let (key, previous, value) = entry.value();
    Change { key: key.to_owned(), revision, value: value.map(Bytes::copy_from_slice), is_create: previous == 0 }
}

/// Changes from `revision` on, as many as fit a batch.
pub fn changes(transaction: &ReadTransaction, revision: u64) -> Result<Vec<Change>, StoreError> {
    at(transaction, revision)?;
    let (mut changes, mut bytes) = (Vec::new(), 0);
    for entry in transaction.open_table(LOG)?.range(revision..)? {
        let (revision, entry) = entry?;
        let change = change(revision.value(), &entry);
        bytes += change.value.as_ref().map_or(0, Bytes::len);
        changes.push(change);
        if changes.len() >= BATCH_CHANGES_MAX || bytes >= BATCH_BYTES_MAX {
            break;
        }
    }
    Ok(changes)
}

/// The changes after revision `after` up to `upto`, each with the state before it.
pub fn past(transaction: &ReadTransaction, after: u64, upto: u64) -> Result<Vec<Past>, StoreError> {
    at(transaction, after.max(FIRST_REVISION))?;
    let log = transaction.open_table(LOG)?;
    let mut past = Vec::new();
    for entry in log.range(after + 1..=upto)? {
        let (revision, entry) = entry?;
        let change = change(revision.value(), &entry);
        past.push(Past { change, previous: record(&log, entry.value().1)? });
    }
    Ok(past)
}
