//! How many seats a request takes: a list by the bytes that it holds in memory, a write by the watchers that its event
//! wakes. Pure.
//!
//! Source: apiserver/pkg/util/flowcontrol/request, with the size-based estimate of lists.

use std::time::Duration;

use super::queues::Work;

const BYTES_PER_SEAT: u64 = 100_000;
/// A list from memory is sent in pieces: it never holds more than this at once.
const STREAMED_BYTES_MAX: u64 = 1_000_000;
const LIST_SEATS_MAX: u32 = 100;
const WRITE_SEATS_MAX: u32 = 10;
const WATCHERS_PER_SEAT: u32 = 10;
/// How long an event keeps [`WATCHERS_PER_SEAT`] watchers busy.
const EVENT_DURATION: Duration = Duration::from_millis(5);

/// What is known of a resource when it is listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    pub objects: u64,
    pub average_bytes: u64,
}

/// Of the level, in seats: no request is taken to be wider.
pub fn seats_max(nominal: u32, hand_size: Option<usize>) -> u32 {
    let share = (f64::from(nominal) * 0.15).ceil() as u32;
    let hand = hand_size.map_or(share, |hand| nominal / u32::try_from(hand.max(1)).unwrap_or(u32::MAX));
    share.min(hand).max(1)
}

/// A list, or a watch that begins with one; `limit` is the page's, 0 for none.
pub fn list(stored: Stored, limit: u64, is_single: bool, seats_max: u32) -> Work {
    let objects = match () {
        () if is_single => 1,
        () if limit > 0 => limit.min(stored.objects),
        () => stored.objects,
    };
    let bytes = objects.saturating_mul(stored.average_bytes).min(STREAMED_BYTES_MAX);
    let seats = u32::try_from(bytes.div_ceil(BYTES_PER_SEAT)).unwrap_or(u32::MAX);
    Work { seats: seats.clamp(1, seats_max.min(LIST_SEATS_MAX)), ..Work::ONE_SEAT }
}

/// A write whose event `watchers` see. A few cost nothing worth counting.
pub fn write(watchers: u32, seats_max: u32) -> Work {
    if watchers < WATCHERS_PER_SEAT {
        return Work::ONE_SEAT;
    }
    let seats = watchers.div_ceil(WATCHERS_PER_SEAT);
    let final_seats = seats.min(seats_max.min(WRITE_SEATS_MAX));
    // Fewer seats have the same work for longer.
    Work { seats: 1, final_seats, extra: EVENT_DURATION.mul_f64(f64::from(seats) / f64::from(final_seats)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_pay_for_what_they_hold() {
        for (objects, average_bytes, limit, is_single, seats_max, expected) in [
            (0, 0, 0, false, 10, 1),
            (10, 2_000, 0, false, 10, 1),
            (150, 2_000, 0, false, 10, 3),
            (10_000, 2_000, 0, false, 100, 10),
            (10_000, 2_000, 0, false, 4, 4),
            (10_000, 2_000, 100, false, 10, 2),
            (10_000, 2_000, 0, true, 10, 1),
        ] {
            let work = list(Stored { objects, average_bytes }, limit, is_single, seats_max);
            assert_eq!(work, Work { seats: expected, ..Work::ONE_SEAT });
        }
    }

    #[test]
    fn writes_pay_for_who_watches() {
        let work = |watchers, seats_max| {
            let work = write(watchers, seats_max);
            (work.seats, work.final_seats, work.extra.as_millis())
        };
        assert_eq!(work(9, 10), (1, 0, 0));
        assert_eq!(work(10, 10), (1, 1, 5));
        assert_eq!(work(95, 10), (1, 10, 5));
        assert_eq!(work(200, 10), (1, 10, 10));
        assert_eq!(work(40, 2), (1, 2, 10));
    }

    #[test]
    fn no_request_takes_a_whole_level() {
        assert_eq!([seats_max(245, Some(6)), seats_max(13, None), seats_max(2, Some(8))], [37, 2, 1]);
    }
}
