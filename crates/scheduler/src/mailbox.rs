//! What changed since the scheduler last looked, each object once. Caches put notes in,
//! the scheduler takes them all; the state itself is read from the caches.

use std::collections::HashSet;

use api_types::Key;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::queue::Hint;

/// Something to look at. There are never more notes than objects that changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Note {
    /// The UID tells a pod from one of the same name that was deleted.
    Pod {
        key: Key,
        uid: String,
    },
    Node {
        name: String,
    },
    Namespace {
        name: String,
    },
    Hint(Hint),
}

#[derive(Debug, Default)]
pub struct Mailbox {
    notes: Mutex<Notes>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Notes {
    order: Vec<Note>,
    known: HashSet<Note>,
}

impl Mailbox {
    pub fn put(&self, note: Note) {
        let mut notes = self.notes.lock();
        if notes.known.insert(note.clone()) {
            notes.order.push(note);
            self.news.notify_one();
        }
    }

    /// All notes, in the order in which they came.
    pub fn take(&self) -> Vec<Note> {
        std::mem::take(&mut *self.notes.lock()).order
    }

    /// Returns when there is something to take.
    pub async fn news(&self) {
        self.news.notified().await;
    }
}
