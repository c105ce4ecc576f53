//! What others have answered, kept for a while: decisions and identities that cost a question.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

const ANSWERS_MAX: usize = 4096;

/// Answers that hold for a while, of bounded number.
pub struct Answers<K, V> {
    known: HashMap<K, (Instant, V)>,
}

impl<K, V> Default for Answers<K, V> {
    fn default() -> Self {
        Self { known: HashMap::new() }
    }
}

impl<K: Eq + Hash, V: Clone> Answers<K, V> {
    /// What was answered, while it holds.
    pub fn find(&mut self, question: &K, now: Instant) -> Option<V> {
        let (until, answer) = self.known.get(question)?;
        (now < *until).then(|| answer.clone())
    }
    pub fn keep(&mut self, question: K, answer: V, keep_for: Duration, now: Instant) {
        if self.known.len() >= ANSWERS_MAX {
            self.known.retain(|_, (until, _)| now < *until);
        }
        // All fresh: forget all rather than grow; each costs one question more.
        if self.known.len() >= ANSWERS_MAX {
            self.known.clear();
        }
        self.known.insert(question, (now + keep_for, answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLDS: Duration = Duration::from_secs(300);

    #[test]
    fn answers_age_and_are_bounded() {
        let mut answers = Answers::default();
        let now = Instant::now();
        answers.keep(0, true, HOLDS, now);
        assert_eq!(answers.find(&0, now + HOLDS / 2), Some(true));
        assert_eq!(answers.find(&0, now + HOLDS), None);
        (0..ANSWERS_MAX * 3).for_each(|number| answers.keep(number, true, HOLDS, now));
        assert!(answers.known.len() <= ANSWERS_MAX);
    }
}
