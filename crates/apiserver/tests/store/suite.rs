//! Compare-and-swap, ranges at a revision, watches, history, compaction, leases, limits:
//! each test once for each store.

use std::sync::Arc;

use apiserver::store::{Change, Guard, Range, Store, StoreError};
use bytes::Bytes;
use tokio::time::timeout;

use super::{PATIENCE, embedded, etcd, put, until, value};

/// A store of the test's own.
pub trait Fixture {
    async fn store(&self) -> Arc<dyn Store>;
    /// Ends it as a crash would and starts it again, over the same data.
    async fn restart(&mut self);
}

/// Makes two tests of each function.
macro_rules! over_both {
    ($($test:ident),* $(,)?) => {
        mod over_etcd {
            $(#[tokio::test]
            async fn $test() {
                let Some(fixture) = super::etcd::Server::start() else { return };
                super::$test(fixture).await;
            })*
        }
        mod over_embedded {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::embedded::Folder::new().await).await;
            })*
        }
    };
}
over_both!(
    writes_are_compared_and_swapped,
    racing_writers_lose_no_update,
    guarded_writes_happen_one_after_the_other,
    ranges_are_pages_of_one_revision,
    a_reader_under_compaction_reads_one_state_or_is_told,
    history_has_the_states_before,
    a_watch_shows_every_change_from_any_revision,
    keys_with_a_time_vanish,
    sizes_have_etcds_limit,
    what_was_acknowledged_survives,
);

async fn writes_are_compared_and_swapped(fixture: impl Fixture) {
    let store = &*fixture.store().await;
    let first = put(store, "pods/a/x", "1", 0).await;
    let again = store.put("pods/a/x", value("2"), 0, None).await;
    assert!(matches!(again, Err(StoreError::Conflict { found, .. }) if found == first));
    let second = put(store, "pods/a/x", "2", first).await;
    assert_eq!(second, first + 1);
    assert!(matches!(store.put("pods/a/x", value("3"), first, None).await, Err(StoreError::Conflict { .. })));
    assert!(matches!(store.delete("pods/a/x", first).await, Err(StoreError::Conflict { .. })));
    let record = store.get("pods/a/x").await.unwrap().unwrap();
    assert_eq!((record.key.as_str(), record.value.as_ref(), record.revision), ("pods/a/x", &b"2"[..], second));
    let deleted = store.delete("pods/a/x", second).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), deleted);
    assert!(store.get("pods/a/x").await.unwrap().is_none());
    let gone = store.put("pods/a/x", value("3"), second, None).await;
    assert!(matches!(gone, Err(StoreError::Conflict { found: 0, .. })));
}

async fn racing_writers_lose_no_update(fixture: impl Fixture) {
    const WRITERS: u64 = 16;
    const TURNS: u64 = 20;
    let store = fixture.store().await;
    put(&*store, "counters/n/c", "0", 0).await;
    let writers = (0..WRITERS).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut won = Vec::new();
            while won.len() as u64 != TURNS {
                let record = store.get("counters/n/c").await.unwrap().expect("there");
                let count: u64 = std::str::from_utf8(&record.value).unwrap().parse().unwrap();
                match store.put(&record.key, value(&(count + 1).to_string()), record.revision, None).await {
                    Ok(revision) => won.push(revision),
                    Err(StoreError::Conflict { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            won
        })
    });
    let mut won = futures::future::try_join_all(writers).await.unwrap().concat();
    won.sort_unstable();
    won.dedup();
    assert_eq!(won.len() as u64, WRITERS * TURNS, "no revision twice");
    let last = store.get("counters/n/c").await.unwrap().unwrap();
    assert_eq!(last.value, value(&(WRITERS * TURNS).to_string()), "no update lost");
}

async fn guarded_writes_happen_one_after_the_other(fixture: impl Fixture) {
    let store = &*fixture.store().await;
    let guard = |revision| Guard { name: "quota/n", revision };
    assert_eq!(store.guard("quota/n").await.unwrap(), 0);
    let first = store.put_guarded("pods/n/a", value("1"), 0, None, guard(0)).await.unwrap();
    assert_eq!(store.guard("quota/n").await.unwrap(), first);
    let outrun = store.put_guarded("pods/n/b", value("1"), 0, None, guard(0)).await;
    assert!(matches!(outrun, Err(StoreError::Outrun { .. })), "{outrun:?}");
    assert!(store.get("pods/n/b").await.unwrap().is_none());
    let taken = store.put_guarded("pods/n/a", value("1"), 0, None, guard(first)).await;
    assert!(matches!(taken, Err(StoreError::Conflict { .. })), "{taken:?}");
    let second = store.put_guarded("pods/n/b", value("1"), 0, None, guard(first)).await.unwrap();
    assert_eq!((second, store.guard("quota/n").await.unwrap()), (first + 1, second), "one revision for both");
    put(store, "pods/n/c", "1", 0).await;
    assert_eq!(store.guard("quota/n").await.unwrap(), second, "others do not touch it");
}

async fn ranges_are_pages_of_one_revision(fixture: impl Fixture) {
    let store = &*fixture.store().await;
    let mut revisions = Vec::new();
    for name in ["a", "b", "c"] {
        revisions.push(put(store, &format!("pods/n/{name}"), name, 0).await);
    }
    put(store, "podtemplates/n/x", "other", 0).await;
    let range = |start, limit, revision| Range { prefix: "pods/", start, limit, revision };
    let first = store.range(range("", 2, 0)).await.unwrap();
    assert_eq!((first.records.len(), first.remaining), (2, 1));
    // Made, changed, deleted, made again: the second page shows none of it.
    put(store, "pods/n/d", "later", 0).await;
    put(store, "pods/n/c", "later", revisions[2]).await;
    store.delete("pods/n/b", revisions[1]).await.unwrap();
    put(store, "pods/n/b", "again", 0).await;
    let rest = store.range(range("pods/n/b", 9, first.revision)).await.unwrap();
    let found: Vec<_> = rest.records.iter().map(|it| (it.key.as_str(), it.value.clone(), it.revision)).collect();
    assert_eq!(found, [("pods/n/b", value("b"), revisions[1]), ("pods/n/c", value("c"), revisions[2])]);
    assert_eq!((rest.remaining, rest.revision), (0, first.revision));
    let latest = store.range(range("pods/n/b\0", 1, 0)).await.unwrap();
    assert_eq!((latest.records[0].value.clone(), latest.remaining), (value("later"), 1));
    let all = store.range(Range::default()).await.unwrap();
    assert!(all.records.is_sorted_by(|a, b| a.key < b.key) && all.records.len() == 5, "{all:?}");
    assert!(matches!(store.range(range("", 0, all.revision + 99)).await, Err(StoreError::FutureRevision)));
}

async fn a_reader_under_compaction_reads_one_state_or_is_told(fixture: impl Fixture) {
    let store = &*fixture.store().await;
    for number in 0..20 {
        put(store, &format!("pods/n/{number:02}"), "old", 0).await;
    }
    let range = |start, revision| Range { prefix: "pods/", start, limit: 10, revision };
    let first = store.range(range("", 0)).await.unwrap();
    let mut watch = store.watch(first.revision + 1).await.unwrap();
    for record in store.range(Range { prefix: "pods/", ..Range::default() }).await.unwrap().records {
        put(store, &record.key, "new", record.revision).await;
    }
    store.compact(first.revision).await.unwrap();
    let second = store.range(range("pods/n/10", first.revision)).await.unwrap();
    assert!(second.records.len() == 10 && second.records.iter().all(|record| record.value == value("old")));
    let head = store.revision().await.unwrap();
    assert_eq!(until(&mut watch, head).await.len(), 20, "who was there before misses nothing");
    store.compact(head).await.unwrap();
    assert!(matches!(store.range(range("pods/n/10", first.revision)).await, Err(StoreError::Compacted { .. })));
    assert!(matches!(store.history(1, first.revision).await, Err(StoreError::Compacted { .. })));
    let mut watch = store.watch(2).await.unwrap();
    let refused = timeout(PATIENCE, watch.recv()).await.unwrap().unwrap();
    assert!(matches!(refused, Err(StoreError::Compacted { .. })));
    let latest = store.range(range("", 0)).await.unwrap();
    assert!(latest.records.len() == 10 && latest.records.iter().all(|record| record.value == value("new")));
    assert!(matches!(store.compact(head).await, Err(StoreError::Compacted { .. })), "twice");
    assert!(matches!(store.compact(head + 99).await, Err(StoreError::FutureRevision)));
}

async fn history_has_the_states_before(fixture: impl Fixture) {
    let store = &*fixture.store().await;
    let created = put(store, "pods/n/a", "1", 0).await;
    let updated = put(store, "pods/n/a", "2", created).await;
    let deleted = store.delete("pods/n/a", updated).await.unwrap();
    let past = store.history(created, deleted).await.unwrap();
    let seen: Vec<_> = past
        .iter()
        .map(|past| (past.change.revision, past.change.value.clone(), past.previous.as_ref().map(|p| p.value.clone())))
        .collect();
    assert_eq!(seen, [(updated, Some(value("2")), Some(value("1"))), (deleted, None, Some(value("2")))]);
}

/// Whatever revision a watch starts at, it is the tail of one and the same history: no gap, no repeat, in order.
async fn a_watch_shows_every_change_from_any_revision(fixture: impl Fixture) {
    let store = &*fixture.store().await;
    let mut early = store.watch(2).await.unwrap();
    let mut expected = Vec::new();
    for turn in 0..30_u64 {
        let key = format!("pods/n/{}", turn % 7);
        let found = store.get(&key).await.unwrap().map_or(0, |record| record.revision);
        let is_deleted = found > 0 && turn % 3 == 0;
        let value = (!is_deleted).then(|| value(&turn.to_string()));
        let revision = match &value {
            Some(value) => store.put(&key, value.clone(), found, None).await.unwrap(),
            None => store.delete(&key, found).await.unwrap(),
        };
        expected.push(Change { key, revision, value, is_create: found == 0 && !is_deleted });
    }
    let head = store.revision().await.unwrap();
    assert_eq!(until(&mut early, head).await, expected);
    for (at, change) in expected.iter().enumerate() {
        let mut watch = store.watch(change.revision).await.unwrap();
        assert_eq!(until(&mut watch, head).await, expected[at..]);
    }
    let mut ahead = store.watch(head + 2).await.unwrap();
    put(store, "pods/n/between", "x", 0).await;
    let later = put(store, "pods/n/later", "x", 0).await;
    let seen = until(&mut ahead, later).await;
    assert_eq!(seen.iter().map(|change| change.revision).collect::<Vec<_>>(), [later], "not before its revision");
}

async fn keys_with_a_time_vanish(fixture: impl Fixture) {
    let store = &*fixture.store().await;
    let mut watch = store.watch(store.revision().await.unwrap() + 1).await.unwrap();
    let kept = store.put("leases/kept", value("1"), 0, Some(1)).await.unwrap();
    let kept = store.put("leases/kept", value("2"), kept, Some(3600)).await.unwrap();
    let freed = store.put("leases/freed", value("1"), 0, Some(1)).await.unwrap();
    put(store, "leases/freed", "2", freed).await;
    store.put("leases/gone", value("1"), 0, Some(1)).await.unwrap();
    let deleted = loop {
        let batch = timeout(PATIENCE, watch.recv()).await.expect("in time").unwrap().unwrap();
        if let Some(deleted) = batch.changes.into_iter().find(|change| change.value.is_none()) {
            break deleted;
        }
    };
    assert_eq!(deleted.key, "leases/gone");
    assert!(store.get("leases/gone").await.unwrap().is_none());
    assert_eq!(store.get("leases/kept").await.unwrap().unwrap().revision, kept);
    assert!(store.get("leases/freed").await.unwrap().is_some());
}

async fn sizes_have_etcds_limit(fixture: impl Fixture) {
    let store = &*fixture.store().await;
    let large = |bytes| Bytes::from(vec![b'x'; bytes]);
    let stored = store.put("pods/a/large", large(1_572_000), 0, None).await.unwrap();
    assert!(matches!(store.put("pods/a/large", large(1_572_865), stored, None).await, Err(StoreError::TooLarge(_))));
    assert_eq!(store.get("pods/a/large").await.unwrap().unwrap().value.len(), 1_572_000);
    for number in 0..4 {
        store.put(&format!("pods/a/{number}"), large(1_500_000), 0, None).await.unwrap();
    }
    let page = store.range(Range { prefix: "pods/", ..Range::default() }).await.unwrap();
    assert_eq!(page.records.len(), 5, "a page may be larger than any message");
}

/// Issue 3: nothing acknowledged is lost, and a watch goes on where it was.
async fn what_was_acknowledged_survives(mut fixture: impl Fixture) {
    let mut expected = Vec::new();
    for round in 0..3 {
        let store = fixture.store().await;
        for number in 0..20 {
            expected.push(put(&*store, &format!("pods/{round}/{number}"), "x", 0).await);
        }
        drop(store);
        fixture.restart().await;
    }
    let store = fixture.store().await;
    let page = store.range(Range { prefix: "pods/", ..Range::default() }).await.unwrap();
    assert_eq!((page.records.len(), page.revision), (expected.len(), *expected.last().unwrap()));
    let mut watch = store.watch(expected[10]).await.unwrap();
    let seen: Vec<u64> = until(&mut watch, page.revision).await.into_iter().map(|change| change.revision).collect();
    assert_eq!(seen, expected[10..]);
}
