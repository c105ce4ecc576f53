//! When nodes were last heard of and when they went, by our own clock: what a node's clock says does
//! not count, as it may be wrong.

use std::collections::HashMap;

use api_types::jiff::Timestamp;
use parking_lot::Mutex;

/// Nodes that went are forgotten beyond this many.
const GONE_MAX: usize = 5000;

pub struct Heard {
    started: Timestamp,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    alive: HashMap<String, Timestamp>,
    gone: HashMap<String, Timestamp>,
}

impl Heard {
    /// `now`: nothing is known from before.
    pub fn new(now: Timestamp) -> Self {
        Self { started: now, notes: Mutex::default() }
    }
    pub fn sign_of_life(&self, node: &str, now: Timestamp) {
        let mut notes = self.notes.lock();
        notes.gone.remove(node);
        notes.alive.insert(node.to_owned(), now);
    }
    pub fn gone(&self, node: &str, now: Timestamp) {
        let mut notes = self.notes.lock();
        notes.alive.remove(node);
        if notes.gone.len() < GONE_MAX {
            notes.gone.insert(node.to_owned(), now);
        }
    }
    pub fn last(&self, node: &str) -> Timestamp {
        self.notes.lock().alive.get(node).copied().unwrap_or(self.started)
    }
    /// Since when a node that is not there has not been there.
    pub fn gone_since(&self, node: &str) -> Timestamp {
        self.notes.lock().gone.get(node).copied().unwrap_or(self.started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_counts_from_the_start() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let heard = Heard::new(at(1));
        assert_eq!((heard.last("n"), heard.gone_since("n")), (at(1), at(1)));
        heard.sign_of_life("n", at(5));
        assert_eq!(heard.last("n"), at(5));
        heard.gone("n", at(9));
        assert_eq!((heard.last("n"), heard.gone_since("n")), (at(1), at(9)));
    }
}
