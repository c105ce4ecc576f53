//! Cron's language: five fields, or `@hourly` and its like, or `@every` with a duration.
//!
//! What is accepted is what upstream accepts (its library is robfig/cron).

use std::time::Duration;

use api_types::jiff::{Timestamp, ToSpan, civil::DateTime, tz::TimeZone};

/// Farther ahead nothing is looked for: then a time such as 30 February never comes.
const YEARS_AHEAD: i16 = 5;

/// When something is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    Every(Duration),
    Fields(Box<Fields>),
}

/// Each a set of bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// A field that says anything leaves the choice to the other.
    any_day: bool,
    any_weekday: bool,
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(duration) = text.strip_prefix("@every ") {
            let duration = daemon::flags::duration(duration)?;
            return Ok(Self::Every(Duration::from_secs(duration.as_secs().max(1))));
        }
        let text = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            text if text.starts_with('@') => return Err(format!("unrecognized descriptor: {text}")),
            text => text,
        };
        let parts: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = parts[..] else {
            return Err(format!("expected exactly 5 fields, found {}: {parts:?}", parts.len()));
        };
        let is_any = |text: &str| text.split(',').any(|part| part.starts_with(['*', '?']));
        Ok(Self::Fields(Box::new(Fields {
            minutes: field(minutes, 0, 59, &[])?,
            hours: field(hours, 0, 23, &[])?,
            days: field(days, 1, 31, &[])?,
            months: field(months, 1, 12, &MONTHS)?,
            weekdays: field(weekdays, 0, 6, &WEEKDAYS)?,
            any_day: is_any(days),
            any_weekday: is_any(weekdays),
        })))
    }

    /// The first time after `after`.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Schedule::Every(pause) => Timestamp::from_second(after.as_second()).ok()?.checked_add(*pause).ok(),
            Schedule::Fields(fields) => {
                let mut from = after;
                loop {
                    let found = fields.next(zone.to_datetime(from))?;
                    let at = zone.to_timestamp(found).ok()?;
                    if at > after {
                        return Some(at);
                    }
                    // The hour that an autumn repeats.
                    from = from.checked_add(Duration::from_secs(3600)).ok()?;
                }
            }
        }
    }

    /// The last time after `after` and not after `now`.
    pub fn latest(&self, after: Timestamp, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        // From ever farther back, so that a long pause costs little.
        let mut back = Duration::from_secs(60);
        let mut at = loop {
            let from = now.checked_sub(back).map_or(after, |from| from.max(after));
            match self.next(from, zone).filter(|at| *at <= now) {
                Some(at) => break at,
                None if from <= after => return None,
                None => back *= 4,
            }
        };
        while let Some(later) = self.next(at, zone).filter(|later| *later <= now) {
            at = later;
        }
        Some(at)
    }

    /// How many times there are after `after` and not after `now`, counted to `max`.
    pub fn count(&self, mut after: Timestamp, now: Timestamp, zone: &TimeZone, max: usize) -> usize {
        let mut count = 0;
        while count < max {
            match self.next(after, zone).filter(|at| *at <= now) {
                Some(at) => (after, count) = (at, count + 1),
                None => break,
            }
        }
        count
    }
}

impl Fields {
    /// The first minute after `after` that all fields allow.
    fn next(&self, after: DateTime) -> Option<DateTime> {
        let end = after.year() + YEARS_AHEAD;
        let mut at = after.with().second(0).subsec_nanosecond(0).build().ok()?.checked_add(1.minute()).ok()?;
        while at.year() <= end {
            let midnight = || at.with().hour(0).minute(0).build().ok();
            if !has(self.months, at.month()) {
                at = midnight()?.with().day(1).build().ok()?.checked_add(1.month()).ok()?;
            } else if !self.has_day(at) {
                at = midnight()?.checked_add(1.day()).ok()?;
            } else if !has(self.hours, at.hour()) {
                at = at.with().minute(0).build().ok()?.checked_add(1.hour()).ok()?;
            } else if !has(self.minutes, at.minute()) {
                at = at.checked_add(1.minute()).ok()?;
            } else {
                return Some(at);
            }
        }
        None
    }

    /// If both fields say something, either is enough.
    fn has_day(&self, at: DateTime) -> bool {
        let day = has(self.days, at.day());
        let weekday = has(self.weekdays, at.weekday().to_sunday_zero_offset());
        if self.any_day || self.any_weekday { day && weekday } else { day || weekday }
    }
}

fn has(bits: u64, number: i8) -> bool {
    bits & (1 << number) != 0
}

fn field(text: &str, min: u32, max: u32, names: &[&str]) -> Result<u64, String> {
    text.split(',').try_fold(0, |bits, part| Ok(bits | range(part, min, max, names)?))
}

/// `*`, `a`, `a-b`, each with `/step`.
fn range(text: &str, min: u32, max: u32, names: &[&str]) -> Result<u64, String> {
    let wrong = |why: &str| format!("{why}: {text}");
    let (span, step) = text.split_once('/').map_or((text, None), |(span, step)| (span, Some(step)));
    let (first, last) = match span {
        "*" | "?" => (min, max),
        _ => {
            let (first, last) = span.split_once('-').map_or((span, None), |(first, last)| (first, Some(last)));
            let first = number(first, min, names).ok_or_else(|| wrong("failed to parse int from"))?;
            let last = match (last, step) {
                (Some(last), _) => number(last, min, names).ok_or_else(|| wrong("failed to parse int from"))?,
                // `5/15` goes on to the end.
                (None, Some(_)) => max,
                (None, None) => first,
            };
            (first, last)
        }
    };
    let step = match step {
        None => 1,
        Some(step) => step
            .parse::<u32>()
            .ok()
            .filter(|step| *step > 0)
            .ok_or_else(|| wrong("step of range should be a positive number"))?,
    };
    if first < min || last > max {
        return Err(wrong("out of range"));
    }
    if first > last {
        return Err(wrong("beginning of range beyond end of range"));
    }
    Ok((first..=last).step_by(step as usize).fold(0, |bits, number| bits | 1 << number))
}

fn number(text: &str, min: u32, names: &[&str]) -> Option<u32> {
    let named = names.iter().zip(min..).find(|(name, _)| text.eq_ignore_ascii_case(name));
    named.map(|(_, number)| number).or_else(|| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The next three times after Thursday, 1 January 2026, 00:00.
    fn check(text: &str, expected: &str) {
        let schedule = Schedule::parse(text).unwrap();
        let mut at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut times = Vec::new();
        for _ in 0..3 {
            let Some(next) = schedule.next(at, &TimeZone::UTC) else { break };
            times.push(next.strftime("%m-%dT%H:%M").to_string());
            at = next;
        }
        assert_eq!(times.join(" "), expected, "{text}");
    }

    #[test]
    fn times() {
        check("*/20 * * * *", "01-01T00:20 01-01T00:40 01-01T01:00");
        check("5/30 2 * * *", "01-01T02:05 01-01T02:35 01-02T02:05");
        check("0 9-17/4 * * mon-fri", "01-01T09:00 01-01T13:00 01-01T17:00");
        check("0 0 31 * *", "01-31T00:00 03-31T00:00 05-31T00:00");
        check("0 0 30 feb *", "");
        check("@monthly", "02-01T00:00 03-01T00:00 04-01T00:00");
        check("@every 90s", "01-01T00:01 01-01T00:03 01-01T00:04");
    }
    #[test]
    fn day_and_weekday_are_alternatives() {
        check("0 0 10 * fri", "01-02T00:00 01-09T00:00 01-10T00:00");
        check("0 0 * * fri", "01-02T00:00 01-09T00:00 01-16T00:00");
    }
    #[test]
    fn nonsense_is_refused() {
        for text in ["", "* * * *", "60 * * * *", "* * 0 * *", "5-1 * * * *", "*/0 * * * *", "x * * * *", "@never"] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
    }
    #[test]
    fn the_latest_is_found_over_long_pauses() {
        let schedule = Schedule::parse("* * * * *").unwrap();
        let (long_ago, now) = ("2020-01-01T00:00:00Z".parse().unwrap(), "2026-01-01T00:00:30Z".parse().unwrap());
        let latest = schedule.latest(long_ago, now, &TimeZone::UTC).unwrap();
        assert_eq!(latest.to_string(), "2026-01-01T00:00:00Z");
        assert_eq!(schedule.count(long_ago, now, &TimeZone::UTC, 101), 101);
    }
}
