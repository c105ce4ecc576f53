//! etcd of three members: one of them may be killed, the leader too, and nothing is lost.

use apiserver::store::{Range, Store, StoreError};

use super::{etcd::Server, put, until, value};

/// Whoever is killed, be it the leader or the member that this store asks: reads go on, acknowledged writes
/// stay, a watch misses nothing.
#[tokio::test]
async fn one_of_three_members_may_die() {
    let Some(mut server) = Server::of(3) else { return };
    let store = server.etcd().await;
    let first = put(&store, "pods/n/first", "x", 0).await;
    let mut watch = store.watch(first).await.unwrap();
    let mut acknowledged = vec![first];
    for member in 0..3 {
        server.kill(member);
        for number in 0..10 {
            let key = format!("pods/n/{member}-{number}");
            acknowledged.push(acknowledge(&store, &key).await);
            assert!(store.get(&key).await.unwrap().is_some());
        }
        server.spawn(member);
        // The next one dies only when this one is back: two of three must live.
        super::etcd::connect([server.member(member).client_port].into_iter()).await;
    }
    let page = store.range(Range { prefix: "pods/", ..Range::default() }).await.unwrap();
    let mut stored: Vec<u64> = page.records.iter().map(|record| record.revision).collect();
    stored.sort_unstable();
    assert_eq!(stored, acknowledged, "each write once");
    let seen: Vec<u64> = until(&mut watch, page.revision).await.iter().map(|change| change.revision).collect();
    assert_eq!(seen, acknowledged);
}

/// While the members elect a leader a write may be refused; it is then known, or found out by the next try.
async fn acknowledge(store: &dyn Store, key: &str) -> u64 {
    loop {
        match store.put(key, value("x"), 0, None).await {
            Ok(revision) => return revision,
            Err(StoreError::Unavailable(_)) => {}
            Err(StoreError::Conflict { found, .. }) => return found,
            Err(error) => panic!("{error}"),
        }
    }
}
