//! What was measured, as rows: their statistics, the table that is printed, the JSON that is kept. Pure.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

/// Upstream v1.36.2 under the same workloads on two such cores, by workload: microseconds of CPU per operation.
const REFERENCE: &str = include_str!("../../../benches/api-reference.json");

/// One workload's outcome.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Row {
    pub workload: String,
    pub operations: u64,
    pub per_second: f64,
    /// What a client waits.
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// CPU time of the apiserver for each operation.
    pub cpu_us: f64,
    /// Resident memory of the apiserver afterwards.
    pub rss_mb: f64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl Row {
    /// `latencies` are sorted here.
    pub fn new(workload: &str, mut latencies: Vec<Duration>, took: Duration, cpu: Duration, resident: u64) -> Self {
        latencies.sort_unstable();
        let operations = latencies.len().max(1);
        Self {
            workload: workload.to_owned(),
            operations: operations as u64,
            per_second: operations as f64 / took.as_secs_f64(),
            p50_ms: milliseconds(percentile(&latencies, 50)),
            p99_ms: milliseconds(percentile(&latencies, 99)),
            cpu_us: cpu.as_secs_f64() * 1e6 / operations as f64,
            rss_mb: megabytes(resident),
            note: String::new(),
        }
    }

    pub fn noted(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }
}

pub fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Of sorted values, by rank; zero of none.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(rank).copied().unwrap_or_default()
}

/// The rows as a table in Markdown, with upstream's cost beside each.
pub fn table(rows: &[Row]) -> String {
    let reference: BTreeMap<String, f64> = serde_json::from_str(REFERENCE).expect("a file of the tree");
    let mut text = "| workload | operations | per s | p50 ms | p99 ms | CPU µs each | upstream | ratio | RSS MB | |\n\
                    |---|---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for row in rows {
        let (upstream, ratio) = match reference.get(&row.workload) {
            Some(upstream) if row.cpu_us > 0.0 => (format!("{upstream:.0}"), format!("{:.1}", upstream / row.cpu_us)),
            _ => (String::new(), String::new()),
        };
        let Row { workload, operations, per_second, p50_ms, p99_ms, cpu_us, rss_mb, note } = row;
        text.push_str(&format!(
            "| {workload} | {operations} | {per_second:.0} | {p50_ms:.2} | {p99_ms:.2} | {cpu_us:.1} | {upstream} | {ratio} \
             | {rss_mb:.1} | {note} |\n"
        ));
    }
    text
}

/// What is kept of a run.
#[derive(Debug, Serialize)]
pub struct Run {
    pub server: serde_json::Value,
    pub cpu: String,
    pub cores: usize,
    pub rows: Vec<Row>,
}

/// The exponent `b` of `y = a·x^b` that fits the points best.
fn exponent(points: &[(f64, f64)]) -> f64 {
    let logs: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.max(f64::MIN_POSITIVE).ln())).collect();
    slope(&logs)
}

/// The slope of the line that fits the points best.
fn slope(points: &[(f64, f64)]) -> f64 {
    let mean = |pick: fn(&(f64, f64)) -> f64| points.iter().map(pick).sum::<f64>() / points.len() as f64;
    let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
    let covariance: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    covariance / variance
}

/// What is bounded in a law.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    /// Of the power that fits.
    Exponent(f64),
    /// Of the line that fits, in units of cost for each of the size.
    Slope(f64),
}

/// A cost measured at several sizes, and how it may grow.
#[derive(Debug)]
pub struct Law {
    pub name: &'static str,
    bound: Bound,
    points: Vec<(f64, f64)>,
}

impl Law {
    pub fn new(name: &'static str, exponent_max: f64) -> Self {
        Self { name, bound: Bound::Exponent(exponent_max), points: Vec::new() }
    }

    pub fn slope(name: &'static str, slope_max: f64) -> Self {
        Self { name, bound: Bound::Slope(slope_max), points: Vec::new() }
    }

    pub fn add(&mut self, size: usize, cost: f64) {
        self.points.push((size as f64, cost));
    }

    /// What was found, and the most that it may be.
    fn found(&self) -> (f64, f64) {
        match self.bound {
            Bound::Exponent(max) => (exponent(&self.points), max),
            Bound::Slope(max) => (slope(&self.points), max),
        }
    }

    pub fn holds(&self) -> bool {
        let (found, max) = self.found();
        found <= max
    }
}

/// The laws as a table in Markdown.
pub fn laws_table(laws: &[Law]) -> String {
    let mut text = "| law | size: cost | found | at most | |\n|---|---|---|---|---|\n".to_owned();
    for law in laws {
        let points: Vec<String> = law.points.iter().map(|(size, cost)| format!("{size}: {cost:.1}")).collect();
        let (found, max) = law.found();
        let what = if matches!(law.bound, Bound::Slope(_)) { "slope" } else { "exponent" };
        let verdict = if law.holds() { "holds" } else { "BROKEN" };
        text.push_str(&format!(
            "| {} | {} | {what} {found:.2} | {max:.2} | {verdict} |\n",
            law.name,
            points.join(", ")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_rank() {
        let ms = |values: &[u64]| values.iter().map(|ms| Duration::from_millis(*ms)).collect::<Vec<_>>();
        for (values, percent, expected) in
            [(ms(&[]), 50, 0), (ms(&[7]), 99, 7), (ms(&[1, 2, 3, 4]), 50, 2), (ms(&[1, 2, 3, 4]), 99, 4)]
        {
            assert_eq!(percentile(&values, percent), Duration::from_millis(expected));
        }
    }

    #[test]
    fn exponents_of_powers_are_found() {
        for power in [0.0, 0.5, 1.0, 2.0] {
            let points: Vec<(f64, f64)> = [1.0, 10.0, 100.0, 1000.0].map(|x: f64| (x, 3.0 * x.powf(power))).to_vec();
            assert!((exponent(&points) - power).abs() < 1e-9, "{power}");
        }
    }

    #[test]
    fn a_law_holds_within_its_bound() {
        for (bound, costs, expected) in [
            (Bound::Exponent(1.05), [1.0, 2.0, 4.0], true),
            (Bound::Exponent(0.1), [1.0, 1.01, 1.02], true),
            (Bound::Exponent(0.1), [1.0, 2.0, 4.0], false),
            (Bound::Slope(1.0), [101.0, 102.0, 104.0], true),
            (Bound::Slope(0.5), [101.0, 102.0, 104.0], false),
        ] {
            let points = [1.0, 2.0, 4.0].into_iter().zip(costs).collect();
            assert_eq!(Law { name: "", bound, points }.holds(), expected, "{bound:?} {costs:?}");
        }
    }

    #[test]
    fn a_row_says_how_it_compares() {
        let row =
            Row::new("get", vec![Duration::from_millis(1); 1000], Duration::from_secs(1), Duration::from_millis(75), 0);
        assert!(table(&[row]).contains("| get | 1000 | 1000 | 1.00 | 1.00 | 75.0 | 750 | 10.0 |"));
    }
}
