//! Probes: how often, how many in a row, and what follows from the results. The counting is pure; each probe of a running
//! container has a task that asks and reports.

pub mod ask;
pub mod watch;

use std::time::Duration;

use api_types::k8s::core::Probe;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    /// As events begin: `Liveness probe failed: …`.
    pub fn title(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }
    pub fn word(self) -> &'static str {
        match self {
            Kind::Startup => "startup",
            Kind::Liveness => "liveness",
            Kind::Readiness => "readiness",
        }
    }
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Good,
    /// Counts as good, but a person should know.
    Warning(String),
    Bad(String),
}

/// Times and thresholds of a probe, with the API's defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    pub initial_delay: Duration,
    pub period: Duration,
    pub timeout: Duration,
    pub failure_threshold: u32,
    pub success_threshold: u32,
}

impl Pace {
    pub fn of(probe: &Probe) -> Self {
        let seconds = |value: Option<i32>, default: u64| {
            Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default))
        };
        let count = |value: Option<i32>, default: u32| {
            value.and_then(|value| u32::try_from(value).ok()).unwrap_or(default).max(1)
        };
        Self {
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10).max(Duration::from_secs(1)),
            timeout: seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1)),
            failure_threshold: count(probe.failure_threshold, 3),
            success_threshold: count(probe.success_threshold, 1),
        }
    }
}

/// Answers in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streak {
    good: bool,
    length: u32,
}

impl Streak {
    /// Counts one answer; answers the verdict once there are enough of its kind in a row.
    pub fn count(&mut self, good: bool, pace: &Pace) -> Option<bool> {
        if good == self.good {
            self.length = self.length.saturating_add(1);
        } else {
            *self = Self { good, length: 1 };
        }
        let enough = if good { pace.success_threshold } else { pace.failure_threshold };
        (self.length >= enough).then_some(good)
    }
}

/// What a probe found out about a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub container: String,
    pub container_id: String,
    pub kind: Kind,
    pub good: bool,
    pub grace_s: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` good, `-` bad; the verdicts as `+`, `-` and `.` for none.
    fn check(failures: u32, successes: u32, answers: &str, verdicts: &str) {
        let pace = Pace { failure_threshold: failures, success_threshold: successes, ..Pace::of(&Probe::default()) };
        let mut streak = Streak::default();
        let got: String = answers
            .chars()
            .map(|answer| match streak.count(answer == '+', &pace) {
                Some(true) => '+',
                Some(false) => '-',
                None => '.',
            })
            .collect();
        assert_eq!(got, verdicts, "{answers}");
    }

    #[test]
    fn thresholds_count_in_a_row() {
        check(3, 1, "--+---", "..+..-");
        check(3, 2, "++-+++", ".+..++");
        check(1, 1, "-+-", "-+-");
    }

    #[test]
    fn defaults_are_the_apis() {
        let pace = Pace::of(&Probe::default());
        assert_eq!((pace.period.as_secs(), pace.timeout.as_secs()), (10, 1));
        assert_eq!((pace.failure_threshold, pace.success_threshold), (3, 1));
    }
}
