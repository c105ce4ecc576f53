//! THE reconcile loop: keys out of a queue, several workers, failures again after a
//! growing pause, panics caught and counted.

use std::{error::Error as StdError, fmt, hash::Hash, panic::AssertUnwindSafe, sync::Arc, time::Instant};

use futures::FutureExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{metrics, queue::Queue};

/// From this many failures in a row on, a key's failures are logged as warnings.
const WARN_FROM: u32 = 4;

/// Runs `reconcile` for every key of `queue`, at most once at a time per key, until
/// `shutdown`; returns when the workers have ended. An `Err` or a panic means: again
/// after a pause (5 ms, doubling, at most 1000 s).
pub async fn run<T, F, Fut, E>(
    name: &'static str,
    queue: Queue<T>,
    workers: usize,
    shutdown: CancellationToken,
    reconcile: F,
) where
    T: Clone + Eq + Hash + fmt::Debug + Send + Sync + 'static,
    F: Fn(T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<Box<dyn StdError + Send + Sync>> + Send + 'static,
{
    let reconcile = Arc::new(reconcile);
    let mut running = JoinSet::new();
    for _ in 0..workers {
        let (queue, shutdown, reconcile) = (queue.clone(), shutdown.clone(), Arc::clone(&reconcile));
        let span = tracing::info_span!("controller", controller = name);
        running.spawn(async move { work(&queue, &shutdown, &*reconcile).await }.instrument(span));
    }
    tracing::info!(controller = name, workers, "started");
    shutdown.cancelled().await;
    queue.shut_down();
    // A worker catches its reconcile's panics, so a failed join has nothing to tell.
    while running.join_next().await.is_some() {}
}

async fn work<T, F, Fut, E>(queue: &Queue<T>, shutdown: &CancellationToken, reconcile: &F)
where
    T: Clone + Eq + Hash + fmt::Debug,
    F: Fn(T) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    while let Some(key) = queue.next().await {
        if shutdown.is_cancelled() {
            return;
        }
        let begun = Instant::now();
        let outcome = AssertUnwindSafe(async { reconcile(key.clone()).await }).catch_unwind().await;
        match outcome {
            Ok(Ok(())) => {
                tracing::trace!(?key, took_us = begun.elapsed().as_micros() as u64, "reconciled");
                queue.forget(&key);
            }
            Ok(Err(error)) => {
                report(&key, queue.retries(&key), &*error.into());
                queue.add_rate_limited(key.clone());
            }
            Err(panic) => {
                metrics::panicked();
                tracing::error!(?key, panic = panic_text(&*panic), "reconcile panicked");
                queue.add_rate_limited(key.clone());
            }
        }
        queue.done(&key);
    }
}

/// The first failures are everyday (a conflict, a cache that lags), lasting ones are not.
fn report(key: &impl fmt::Debug, retries: u32, error: &(dyn StdError + Send + Sync)) {
    let why = chain(error);
    if retries < WARN_FROM {
        tracing::debug!(?key, retries, why, "reconcile failed");
    } else {
        tracing::warn!(?key, retries, why, "reconcile keeps failing");
    }
}

/// An error with its causes, `a: b: c`.
pub fn chain(error: &(dyn StdError + Send + Sync)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a value that is no text")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use parking_lot::Mutex;

    use super::*;

    /// Runs the loop over `keys`; `reconcile` is told the key and how often it was seen before.
    async fn run_over(keys: &[&'static str], reconcile: fn(&str, usize) -> Result<(), String>) -> Vec<&'static str> {
        let queue = Queue::default();
        keys.iter().for_each(|key| queue.add(*key));
        let seen: Arc<Mutex<Vec<&'static str>>> = Arc::default();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let loop_ = run("test", queue, 2, shutdown, {
            let seen = Arc::clone(&seen);
            move |key: &'static str| {
                let before = {
                    let mut seen = seen.lock();
                    seen.push(key);
                    seen.iter().filter(|one| **one == key).count() - 1
                };
                async move { reconcile(key, before) }
            }
        });
        let end = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            stop.cancel();
        };
        futures::join!(loop_, end);
        let mut seen = seen.lock().clone();
        seen.sort_unstable();
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn failures_come_again() {
        let seen =
            run_over(&["a", "b"], |key, before| if key == "a" && before < 2 { Err("no".into()) } else { Ok(()) });
        assert_eq!(seen.await, ["a", "a", "a", "b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_a_failure_and_ends_nothing() {
        let seen = run_over(&["a", "b"], |key, before| {
            assert!(key != "a" || before > 0, "first time");
            Ok(())
        });
        assert_eq!(seen.await, ["a", "a", "b"]);
    }
}
