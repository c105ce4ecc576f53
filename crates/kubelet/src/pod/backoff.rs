//! Delays that double: between restarts of a crashing container, and between pulls of an image.
//!
//! Source: `Backoff` in client-go/util/flowcontrol.

use api_types::jiff::{SignedDuration, Timestamp};

pub const INITIAL: SignedDuration = SignedDuration::from_secs(10);
pub const MAX: SignedDuration = SignedDuration::from_secs(300);
/// A success of this length forgets all earlier failures.
const RESET_AFTER: SignedDuration = SignedDuration::from_secs(600);

/// One failing thing's delay and when it was last set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub delay: SignedDuration,
    pub updated_at: Timestamp,
}

impl Backoff {
    /// When the next attempt may begin, if `failed_at` is the last failure and that time has not come yet.
    pub fn blocked_until(entry: Option<&Self>, failed_at: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let entry = entry.filter(|entry| !entry.has_expired(failed_at))?;
        let until = failed_at.saturating_add(entry.delay).unwrap_or(Timestamp::MAX);
        (now < until).then_some(until)
    }

    /// The entry after an attempt that begins `now`, the last failure having been at `failed_at`.
    pub fn next(entry: Option<&Self>, failed_at: Timestamp, now: Timestamp) -> Self {
        let delay = match entry.filter(|entry| !entry.has_expired(failed_at)) {
            Some(entry) => (entry.delay * 2).min(MAX),
            None => INITIAL,
        };
        Self { delay, updated_at: now }
    }

    fn has_expired(&self, failed_at: Timestamp) -> bool {
        failed_at.duration_since(self.updated_at) > RESET_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(s).unwrap()
    }

    #[test]
    fn the_first_failure_waits_for_nothing_and_the_rest_double() {
        assert_eq!(Backoff::blocked_until(None, at(0), at(0)), None);
        let mut entry = Backoff::next(None, at(0), at(0));
        let mut delays = vec![];
        for _ in 0..7 {
            delays.push(entry.delay.as_secs());
            entry = Backoff::next(Some(&entry), at(1), at(1));
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn the_delay_counts_from_the_failure() {
        let entry = Backoff { delay: INITIAL, updated_at: at(0) };
        assert_eq!(Backoff::blocked_until(Some(&entry), at(5), at(14)), Some(at(15)));
        assert_eq!(Backoff::blocked_until(Some(&entry), at(5), at(15)), None);
    }

    #[test]
    fn ten_good_minutes_reset_it() {
        let entry = Backoff { delay: MAX, updated_at: at(0) };
        assert_eq!(Backoff::blocked_until(Some(&entry), at(601), at(602)), None);
        assert_eq!(Backoff::next(Some(&entry), at(601), at(602)).delay, INITIAL);
        assert_eq!(Backoff::next(Some(&entry), at(600), at(602)).delay, MAX);
    }
}
