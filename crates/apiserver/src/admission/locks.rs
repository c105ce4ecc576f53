//! Locks by name, one for each namespace that has a quota: a write holds its namespace's
//! lock from being counted until it is visible to the next count.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

/// As many entries as there are locks held or waited for.
#[derive(Debug, Default)]
pub struct Locks(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Locks {
    /// Waits for its turn; first come, first served.
    pub async fn lock(&self, name: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock();
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(name.to_owned()).or_default().clone()
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_do_not_wait_for_each_other() {
        let locks = Locks::default();
        let held = locks.lock("a").await;
        let _other = locks.lock("b").await;
        assert!(locks.0.lock()["a"].try_lock().is_err());
        drop(held);
        locks.lock("a").await;
        locks.lock("c").await;
        assert_eq!(locks.0.lock().len(), 2, "only those in use are kept");
    }
}
