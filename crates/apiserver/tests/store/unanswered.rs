//! Issue 3: a write that etcd did not answer is resolved by reading, never by guessing.
//! A proxy passes the request on and cuts the connection instead of the answer.

use apiserver::store::{Store, StoreError, etcd::Etcd};

use super::{
    Changes,
    etcd::{Server, connect},
    proxy::{Mode, Proxy},
    put, until, value,
};

/// etcd, the store under test behind a proxy, and a look at etcd from beside.
struct Bench {
    _server: Server,
    proxy: Proxy,
    store: Etcd,
    beside: Etcd,
}

impl Bench {
    async fn new() -> Option<Self> {
        let server = Server::start()?;
        let beside = server.etcd().await;
        let proxy = Proxy::before(server.member(0).client_port).await;
        let store = connect([proxy.port].into_iter()).await;
        Some(Self { _server: server, proxy, store, beside })
    }

    async fn changes(&self) -> (Changes, u64) {
        let next = self.beside.revision().await.unwrap() + 1;
        (self.beside.watch(next).await.unwrap(), next)
    }

    /// Runs a write whose request arrives and whose answer does not. Meanwhile, `others` do something.
    async fn unanswered(
        &self,
        write: impl Future<Output = Result<u64, StoreError>>,
        others: impl AsyncFnOnce(&Etcd, u64),
    ) -> Result<u64, StoreError> {
        let (mut changes, next) = self.changes().await;
        self.proxy.set(Mode::Requests);
        let meanwhile = async {
            until(&mut changes, next).await;
            others(&self.beside, next).await;
            self.proxy.set(Mode::Cut);
        };
        tokio::join!(write, meanwhile).0
    }

    /// Every change of the key since the beginning.
    async fn count(&self, key: &str) -> usize {
        let past = self.beside.history(1, self.beside.revision().await.unwrap()).await.unwrap();
        past.iter().filter(|past| past.change.key == key).count()
    }
}

#[tokio::test]
async fn what_happened_is_found_to_have_happened() {
    let Some(bench) = Bench::new().await else { return };
    let store = bench.store.clone();
    let created = bench.unanswered(store.put("pods/n/a", value("1"), 0, None), async |_, _| {}).await.unwrap();
    let updated = bench.unanswered(store.put("pods/n/a", value("2"), created, None), async |_, _| {}).await.unwrap();
    assert_eq!(bench.beside.get("pods/n/a").await.unwrap().unwrap().revision, updated);
    let deleted = bench.unanswered(store.delete("pods/n/a", updated), async |_, _| {}).await.unwrap();
    assert_eq!(bench.beside.revision().await.unwrap(), deleted);
    assert_eq!(bench.count("pods/n/a").await, 3, "nothing was done twice");
}

/// Another writer was quick: to call that a lost race would be a guess, and a wrong one.
#[tokio::test]
async fn what_happened_and_was_overwritten_has_happened() {
    let Some(bench) = Bench::new().await else { return };
    let store = bench.store.clone();
    let write = store.put("pods/n/a", value("ours"), 0, None);
    let overwrite = async |beside: &Etcd, at| {
        put(beside, "pods/n/a", "theirs", at).await;
    };
    let created = bench.unanswered(write, overwrite).await.unwrap();
    let theirs = bench.beside.get("pods/n/a").await.unwrap().unwrap();
    assert_eq!((theirs.value, theirs.revision), (value("theirs"), created + 1));
}

/// A second try would succeed, and bring back what somebody has deleted.
#[tokio::test]
async fn what_was_made_and_deleted_is_not_made_again() {
    let Some(bench) = Bench::new().await else { return };
    let store = bench.store.clone();
    let write = store.put("pods/n/a", value("ours"), 0, None);
    let delete = async |beside: &Etcd, at| {
        beside.delete("pods/n/a", at).await.unwrap();
    };
    let created = bench.unanswered(write, delete).await.unwrap();
    assert_eq!(bench.beside.revision().await.unwrap(), created + 1);
    assert!(bench.beside.get("pods/n/a").await.unwrap().is_none());
}

#[tokio::test]
async fn what_did_not_happen_is_done_or_has_lost() {
    let Some(bench) = Bench::new().await else { return };
    let store = bench.store.clone();
    // The request is lost on its way; the other change is there to know when to cut.
    let (mut changes, next) = bench.changes().await;
    bench.proxy.set(Mode::Nothing);
    let meanwhile = async {
        put(&bench.beside, "pods/n/other", "x", 0).await;
        until(&mut changes, next).await;
        bench.proxy.set(Mode::Cut);
    };
    let written = tokio::join!(store.put("pods/n/a", value("1"), 0, None), meanwhile).0.unwrap();
    assert_eq!(bench.beside.get("pods/n/a").await.unwrap().unwrap().revision, written);

    bench.proxy.set(Mode::Nothing);
    let meanwhile = async {
        put(&bench.beside, "pods/n/b", "theirs", 0).await;
        bench.proxy.set(Mode::Cut);
    };
    let lost = tokio::join!(store.put("pods/n/b", value("ours"), 0, None), meanwhile).0;
    assert!(matches!(lost, Err(StoreError::Conflict { .. })), "{lost:?}");
    assert_eq!(bench.count("pods/n/b").await, 1);
}
