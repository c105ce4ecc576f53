//! What was verified once and need not be again: a bounded memory by digest. The oldest half is
//! forgotten at once, so that looking up changes nothing.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

/// Entries in each of two generations.
const REMEMBERED_MAX: usize = 4096;

pub type Fingerprint = [u8; 32];

pub fn digest(token: &str) -> Fingerprint {
    Sha256::digest(token).into()
}

/// Values by a token's digest. The token itself is not kept.
pub struct Memory<V> {
    generations: Mutex<[HashMap<Fingerprint, Arc<V>>; 2]>,
}

impl<V> Default for Memory<V> {
    fn default() -> Self {
        Self { generations: Mutex::new([HashMap::new(), HashMap::new()]) }
    }
}

impl<V> Memory<V> {
    pub fn get(&self, digest: &Fingerprint) -> Option<Arc<V>> {
        self.generations.lock().iter().find_map(|generation| generation.get(digest)).cloned()
    }
    pub fn put(&self, digest: Fingerprint, value: Arc<V>) {
        let [new, old] = &mut *self.generations.lock();
        if new.len() >= REMEMBERED_MAX {
            *old = std::mem::take(new);
        }
        new.insert(digest, value);
    }
    /// For when the keys behind it have changed.
    pub fn forget(&self) {
        self.generations.lock().iter_mut().for_each(HashMap::clear);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_keeps_what_is_new() {
        let memory = Memory::default();
        for number in 0..REMEMBERED_MAX * 3 {
            memory.put(digest(&number.to_string()), Arc::new(number));
        }
        assert!(memory.generations.lock().iter().map(HashMap::len).sum::<usize>() <= REMEMBERED_MAX * 2);
        let last = REMEMBERED_MAX * 3 - 1;
        assert_eq!(memory.get(&digest(&last.to_string())).as_deref(), Some(&last));
        assert_eq!(memory.get(&digest("0")), None);
        memory.forget();
        assert_eq!(memory.get(&digest(&last.to_string())), None);
    }
}
