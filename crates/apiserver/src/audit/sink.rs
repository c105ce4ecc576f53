//! From an event to a backend: a bounded queue, whose reader delivers what has come together. A request
//! waits for its event to be stored, or does not, as the mode says; what is lost is counted.
//!
//! Source: apiserver/plugin/pkg/audit/buffered and apiserver/pkg/server/options/audit.go.

use std::{collections::VecDeque, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;

/// What a request does about its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Hands them over and goes on; if the queue is full, they are lost.
    Batch,
    /// Waits until they are stored, or cannot be.
    Blocking,
    /// The same, and is refused if its first event cannot be stored.
    BlockingStrict,
}

/// How events come together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Batching {
    /// Events that wait.
    pub buffer: usize,
    pub size_max: usize,
    /// From the first event of a batch until it is delivered although it is not full.
    pub wait_max: Duration,
    pub throttle: Option<Throttle>,
}

/// A bucket of tokens; a batch costs one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throttle {
    pub per_second: f32,
    pub burst: u32,
}

/// Events that a request waits for are stored together with all that wait by then, up to this many.
const BLOCKING_BATCH_MAX: usize = 256;
/// How long each batch that is left may take once the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Where events go. An Err is a loss of the whole batch; a destination that tries again does so itself.
#[async_trait]
pub trait Destination: Send + 'static {
    async fn deliver(&mut self, batch: Vec<Bytes>) -> Result<(), String>;
}

struct Entry {
    event: Bytes,
    stored: Option<oneshot::Sender<bool>>,
}

/// The near end of the queue.
pub struct Sink {
    name: &'static str,
    mode: Mode,
    sender: mpsc::Sender<Entry>,
    metrics: Metrics,
}

/// The far end.
pub struct Reader<D> {
    name: &'static str,
    batching: Batching,
    entries: mpsc::Receiver<Entry>,
    destination: D,
    metrics: Metrics,
}

/// `name` is what the metrics call the backend.
pub fn queue<D: Destination>(
    name: &'static str,
    mode: Mode,
    batching: Batching,
    destination: D,
    metrics: Metrics,
) -> (Sink, Reader<D>) {
    let (sender, entries) = mpsc::channel(batching.buffer.max(1));
    let batching = match mode {
        Mode::Batch => batching,
        Mode::Blocking | Mode::BlockingStrict => {
            Batching { size_max: BLOCKING_BATCH_MAX, wait_max: Duration::ZERO, throttle: None, ..batching }
        }
    };
    let sink = Sink { name, mode, sender, metrics: metrics.clone() };
    (sink, Reader { name, batching, entries, destination, metrics })
}

impl Sink {
    /// Whether the request may go on.
    pub async fn store(&self, event: Bytes) -> bool {
        if self.mode == Mode::Batch {
            self.hand_over(event);
            return true;
        }
        let (stored, outcome) = oneshot::channel();
        if self.sender.send(Entry { event, stored: Some(stored) }).await.is_err() {
            self.metrics.lost(self.name, 1);
            return self.mode != Mode::BlockingStrict;
        }
        outcome.await.unwrap_or(false) || self.mode != Mode::BlockingStrict
    }

    /// For who cannot wait.
    pub fn hand_over(&self, event: Bytes) {
        if self.sender.try_send(Entry { event, stored: None }).is_err() {
            self.metrics.lost("buffered", 1);
        }
    }
}

impl<D: Destination> Reader<D> {
    /// Delivers until `done`, and then what is left.
    pub async fn run(mut self, done: CancellationToken) {
        let mut allowance = self.batching.throttle.map(|throttle| Allowance::full(throttle, Instant::now()));
        let mut batch = Vec::new();
        loop {
            let first = tokio::select! {
                biased;
                entry = self.entries.recv() => entry,
                () = done.cancelled() => None,
            };
            let Some(first) = first else { return };
            batch.push(first);
            self.fill(&mut batch, &done).await;
            if let Some(allowance) = &mut allowance {
                sleep(allowance.take(Instant::now())).await;
            }
            self.deliver(std::mem::take(&mut batch), &done).await;
        }
    }

    async fn fill(&mut self, batch: &mut Vec<Entry>, done: &CancellationToken) {
        let deadline = Instant::now() + self.batching.wait_max;
        while batch.len() < self.batching.size_max {
            if let Ok(entry) = self.entries.try_recv() {
                batch.push(entry);
                continue;
            }
            if self.batching.wait_max.is_zero() {
                return;
            }
            let entry = tokio::select! {
                entry = self.entries.recv() => entry,
                () = sleep_until(deadline) => None,
                () = done.cancelled() => None,
            };
            let Some(entry) = entry else { return };
            batch.push(entry);
        }
    }

    async fn deliver(&mut self, batch: Vec<Entry>, done: &CancellationToken) {
        let (events, waiting): (Vec<Bytes>, VecDeque<_>) =
            batch.into_iter().map(|entry| (entry.event, entry.stored)).unzip();
        let count = events.len();
        let outcome = tokio::select! {
            outcome = self.destination.deliver(events) => outcome,
            () = too_late(done) => Err("the server had to stop before they were delivered".to_owned()),
        };
        if let Err(why) = &outcome {
            self.metrics.lost(self.name, count as u64);
            tracing::error!(backend = self.name, count, %why, "audit events are lost");
        }
        for stored in waiting.into_iter().flatten() {
            // An Err is a request that has ended meanwhile.
            let _ = stored.send(outcome.is_ok());
        }
    }
}

async fn too_late(done: &CancellationToken) {
    done.cancelled().await;
    sleep(DRAIN_TIMEOUT).await;
}

/// A bucket of tokens that fills with time.
#[derive(Debug)]
struct Allowance {
    throttle: Throttle,
    tokens: f32,
    since: Instant,
}

impl Allowance {
    fn full(throttle: Throttle, now: Instant) -> Self {
        Self { throttle, tokens: throttle.burst as f32, since: now }
    }

    /// Takes a token, and says how long to wait until it is there.
    fn take(&mut self, now: Instant) -> Duration {
        let filled = now.saturating_duration_since(self.since).as_secs_f32() * self.throttle.per_second;
        self.tokens = (self.tokens + filled).min(self.throttle.burst as f32) - 1.0;
        self.since = now;
        Duration::from_secs_f32((-self.tokens).max(0.0) / self.throttle.per_second.max(f32::EPSILON))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    /// Passes batches on; refuses those that hold the event `bad`.
    struct Seen(mpsc::UnboundedSender<Vec<Bytes>>);

    #[async_trait]
    impl Destination for Seen {
        async fn deliver(&mut self, batch: Vec<Bytes>) -> Result<(), String> {
            if batch.contains(&Bytes::from("bad")) {
                return Err("no".to_owned());
            }
            self.0.send(batch).map_err(|error| error.to_string())
        }
    }

    fn batching(buffer: usize, size_max: usize, wait_s: u64) -> Batching {
        Batching { buffer, size_max, wait_max: Duration::from_secs(wait_s), throttle: None }
    }

    #[tokio::test(start_paused = true)]
    async fn batches_are_full_or_old() {
        let (seen, mut batches) = mpsc::unbounded_channel();
        let (sink, reader) = queue("log", Mode::Batch, batching(10, 2, 30), Seen(seen), Metrics::default());
        let done = CancellationToken::new();
        let running = tokio::spawn(reader.run(done.clone()));
        for event in ["a", "b", "c"] {
            assert!(sink.store(event.into()).await);
        }
        assert_eq!(batches.recv().await.unwrap(), ["a", "b"]);
        assert!(batches.recv().now_or_never().is_none());
        let began = Instant::now();
        assert_eq!(batches.recv().await.unwrap(), ["c"]);
        assert_eq!(began.elapsed().as_secs(), 30);
        sink.hand_over("d".into());
        done.cancel();
        running.await.unwrap();
        assert_eq!(batches.recv().await.unwrap(), ["d"]);
    }

    #[tokio::test]
    async fn a_full_queue_loses_and_counts() {
        let (seen, _batches) = mpsc::unbounded_channel();
        let metrics = Metrics::default();
        let (sink, _reader) = queue("webhook", Mode::Batch, batching(1, 1, 0), Seen(seen), metrics.clone());
        assert!(sink.store("a".into()).await && sink.store("b".into()).await);
        assert_eq!(metrics.lost_by("buffered"), 1);
    }

    #[tokio::test]
    async fn only_the_strict_mode_stops_a_request() {
        for (mode, event, goes_on) in [
            (Mode::Blocking, "good", true),
            (Mode::Blocking, "bad", true),
            (Mode::BlockingStrict, "good", true),
            (Mode::BlockingStrict, "bad", false),
        ] {
            let (seen, _batches) = mpsc::unbounded_channel();
            let metrics = Metrics::default();
            let (sink, reader) = queue("log", mode, batching(1, 1, 0), Seen(seen), metrics.clone());
            let running = tokio::spawn(reader.run(CancellationToken::new()));
            assert_eq!(sink.store(event.into()).await, goes_on, "{mode:?} {event}");
            assert_eq!(metrics.lost_by("log"), u64::from(event == "bad"));
            drop(sink);
            running.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_come_back_with_time() {
        let now = Instant::now();
        let mut allowance = Allowance::full(Throttle { per_second: 10.0, burst: 2 }, now);
        let waits: Vec<u128> = (0..4).map(|_| allowance.take(now).as_millis()).collect();
        assert_eq!(waits, [0, 0, 100, 200]);
        assert_eq!(allowance.take(now + Duration::from_secs(9)), Duration::ZERO);
    }
}
