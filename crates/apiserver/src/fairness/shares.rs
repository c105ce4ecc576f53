//! How many seats each priority level has: its nominal share, the bounds of what it lends and borrows, and the
//! limit that follows from what all levels asked for lately. Pure.
//!
//! Source: KEP-1040 and apiserver/pkg/util/flowcontrol/{apf_controller,conc_alloc}.go.

use std::time::Duration;

/// What smoothed demand keeps of itself from one adjustment to the next: it halves in five minutes.
const SMOOTHING: f64 = 0.977;
/// Below this, a level's wish is taken to be this, so that every level gets something.
const TARGET_MIN: f64 = 0.001;
/// Halvings of the interval in which the fair fraction lies; a double has no more digits.
const BISECTIONS: u32 = 64;

/// What a level's specification says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub is_exempt: bool,
    pub nominal_shares: u32,
    pub lendable_percent: u32,
    /// `None`: no bound.
    pub borrowing_limit_percent: Option<u32>,
}

/// Seats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    pub nominal: u32,
    pub lower: u32,
    pub upper: u32,
}

/// Divides the server's seats.
pub fn bounds(server_seats: u32, shares: &[Share]) -> Vec<Bounds> {
    let sum: f64 = shares.iter().map(|share| f64::from(share.nominal_shares)).sum();
    let of = |share: &Share| {
        let fraction = if sum > 0.0 { f64::from(share.nominal_shares) / sum } else { 0.0 };
        let nominal = (f64::from(server_seats) * fraction).ceil() as u32;
        let percent = |percent: u32| (f64::from(nominal) * f64::from(percent) / 100.0).round() as u32;
        let borrowing = share.borrowing_limit_percent.map_or(server_seats, percent);
        Bounds { nominal, lower: nominal - percent(share.lendable_percent).min(nominal), upper: nominal + borrowing }
    };
    shares.iter().map(of).collect()
}

/// What a level asked for since the last adjustment, and smoothed over time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Demand {
    pub high_watermark: u32,
    pub average: f64,
    pub deviation: f64,
    pub smoothed: f64,
}

/// Watches a level's demand over time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Integrator {
    since: Duration,
    last: Duration,
    seats: u32,
    high_watermark: u32,
    integral: f64,
    integral_of_squares: f64,
}

impl Integrator {
    /// From `now` on the demand is `seats`.
    pub fn set(&mut self, now: Duration, seats: u32) {
        self.pass(now);
        self.seats = seats;
        self.high_watermark = self.high_watermark.max(seats);
    }

    fn pass(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.last).as_secs_f64();
        self.last = self.last.max(now);
        self.integral += elapsed * f64::from(self.seats);
        self.integral_of_squares += elapsed * f64::from(self.seats) * f64::from(self.seats);
    }

    /// The demand since the last call, and what `before` becomes by it.
    pub fn take(&mut self, now: Duration, before: &Demand) -> Demand {
        self.pass(now);
        let elapsed = now.saturating_sub(self.since).as_secs_f64();
        let (average, square) = match elapsed {
            0.0 => (f64::from(self.seats), f64::from(self.seats) * f64::from(self.seats)),
            elapsed => (self.integral / elapsed, self.integral_of_squares / elapsed),
        };
        let deviation = (square - average * average).max(0.0).sqrt();
        let envelope = average + deviation;
        let decayed = SMOOTHING * before.smoothed + (1.0 - SMOOTHING) * envelope;
        let high_watermark = self.high_watermark;
        *self = Self { since: now, last: now, seats: self.seats, high_watermark: self.seats, ..Self::default() };
        Demand { high_watermark, average, deviation, smoothed: envelope.max(decayed) }
    }
}

/// What a level gets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grant {
    pub target: f64,
    pub seats: u32,
}

/// Distributes the seats anew; also says which fraction of its wish each level gets that no bound holds back.
pub fn adjust(levels: &[(Share, Bounds, Demand)]) -> (Vec<Grant>, f64) {
    let nominal_sum: u32 = levels.iter().map(|(_, bounds, _)| bounds.nominal).sum();
    let lower = |(share, bounds, demand): &(Share, Bounds, Demand)| {
        let wanted = if share.is_exempt { demand.high_watermark } else { demand.high_watermark.min(bounds.nominal) };
        bounds.lower.max(wanted)
    };
    let exempt: u32 = levels.iter().filter(|level| level.0.is_exempt).map(lower).sum();
    let limited = || levels.iter().filter(|level| !level.0.is_exempt);
    let remaining = f64::from(nominal_sum) - f64::from(exempt);
    let floor_sum = f64::from(limited().map(|level| level.1.lower).sum::<u32>());
    let lower_sum = f64::from(limited().map(lower).sum::<u32>());
    let target = |level: &(Share, Bounds, Demand)| level.2.smoothed.max(f64::from(lower(level)));
    let items = || limited().map(|level| (target(level), f64::from(lower(level)), f64::from(level.1.upper)));
    let fair = if remaining > lower_sum { fair_fraction(remaining, items) } else { 0.0 };
    let seats = |level: &(Share, Bounds, Demand)| {
        let floor = f64::from(level.1.lower);
        let low = f64::from(lower(level));
        match () {
            () if level.0.is_exempt => low,
            () if remaining <= floor_sum => floor,
            // Not even what is in use can be kept: all shrink alike towards what they need not lend.
            () if remaining <= lower_sum => floor + (low - floor) * (remaining - floor_sum) / (lower_sum - floor_sum),
            () => (fair * target(level).max(TARGET_MIN)).clamp(low, f64::from(level.1.upper).max(low)),
        }
        .round() as u32
    };
    (levels.iter().map(|level| Grant { target: target(level), seats: seats(level) }).collect(), fair)
}

/// The fraction `f` for which `f * target`, kept within each item's bounds, sums up to `sum`.
fn fair_fraction<I: Iterator<Item = (f64, f64, f64)>>(sum: f64, items: impl Fn() -> I) -> f64 {
    let given = |fraction: f64| -> f64 {
        items().map(|(target, low, high)| (fraction * target.max(TARGET_MIN)).clamp(low, high.max(low))).sum()
    };
    let mut low = 0.0;
    let mut high = items().map(|(target, _, high)| high / target.max(TARGET_MIN)).fold(0.0, f64::max);
    for _ in 0..BISECTIONS {
        let middle = f64::midpoint(low, high);
        if given(middle) < sum {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(nominal_shares: u32, lendable_percent: u32) -> Share {
        Share { is_exempt: false, nominal_shares, lendable_percent, borrowing_limit_percent: None }
    }
    const EXEMPT: Share =
        Share { is_exempt: true, nominal_shares: 0, lendable_percent: 0, borrowing_limit_percent: None };

    /// The bootstrap levels over 600 seats, as upstream's metrics show them.
    #[test]
    fn nominal_limits_are_upstreams() {
        let shares = [
            limited(5, 0),
            EXEMPT,
            limited(20, 50),
            limited(10, 0),
            limited(40, 25),
            limited(30, 33),
            limited(40, 50),
            limited(100, 90),
        ];
        let all = bounds(600, &shares);
        let seats: Vec<(u32, u32, u32)> = all.iter().map(|b| (b.nominal, b.lower, b.upper)).collect();
        assert_eq!(
            seats,
            [
                (13, 13, 613),
                (0, 0, 600),
                (49, 24, 649),
                (25, 25, 625),
                (98, 73, 698),
                (74, 50, 674),
                (98, 49, 698),
                (245, 24, 845)
            ]
        );
    }

    #[test]
    fn borrowing_has_a_bound_if_it_is_given_one() {
        let share = Share { borrowing_limit_percent: Some(50), ..limited(1, 0) };
        assert_eq!(bounds(100, &[share])[0].upper, 150);
    }

    /// `levels`: (nominal, lower, upper, high watermark, smoothed demand).
    fn check(levels: &[(u32, u32, u32, u32, f64)], expected: &[u32]) {
        let levels: Vec<(Share, Bounds, Demand)> = levels
            .iter()
            .map(|(nominal, lower, upper, high_watermark, smoothed)| {
                let demand = Demand { high_watermark: *high_watermark, smoothed: *smoothed, ..Demand::default() };
                (limited(1, 0), Bounds { nominal: *nominal, lower: *lower, upper: *upper }, demand)
            })
            .collect();
        let seats: Vec<u32> = adjust(&levels).0.iter().map(|grant| grant.seats).collect();
        assert_eq!(seats, expected);
    }

    #[test]
    fn seats_go_to_who_asks_and_come_back() {
        // Nobody asks: in proportion to what each keeps anyway.
        check(&[(50, 25, 200, 0, 0.0), (50, 25, 200, 0, 0.0)], &[50, 50]);
        // One asks for much: the other lends what it may.
        check(&[(50, 25, 200, 100, 100.0), (50, 25, 200, 0, 0.0)], &[75, 25]);
        // What the other uses itself, up to its own share, is not taken away.
        check(&[(50, 25, 200, 100, 100.0), (50, 25, 200, 40, 10.0)], &[60, 40]);
        // Both ask for more than there is: each has its own.
        check(&[(50, 25, 200, 90, 90.0), (50, 25, 200, 90, 90.0)], &[50, 50]);
        // A bound on borrowing: the rest stays.
        check(&[(50, 25, 60, 100, 100.0), (50, 25, 200, 0, 0.0)], &[60, 40]);
    }

    #[test]
    fn what_is_exempt_comes_first() {
        let level = (limited(1, 50), Bounds { nominal: 100, lower: 50, upper: 200 });
        let demand = |high_watermark| Demand { high_watermark, ..Demand::default() };
        let exempt = |used| (EXEMPT, Bounds::default(), demand(used));
        for (used, expected) in [(0, 100), (30, 70), (70, 50)] {
            let (grants, _) = adjust(&[(level.0, level.1, demand(90)), exempt(used)]);
            assert_eq!((grants[0].seats, grants[1].seats), (expected, used));
        }
    }

    #[test]
    fn demand_is_what_it_was_over_time() {
        let s = Duration::from_secs;
        let mut integrator = Integrator::default();
        integrator.set(s(0), 4);
        integrator.set(s(5), 0);
        let demand = integrator.take(s(10), &Demand::default());
        assert_eq!((demand.high_watermark, demand.average, demand.deviation), (4, 2.0, 2.0));
        assert_eq!(demand.smoothed, 4.0);
        let later = integrator.take(s(20), &demand);
        assert_eq!(later.high_watermark, 0);
        assert!((later.smoothed - 4.0 * SMOOTHING).abs() < 1e-9);
    }
}
