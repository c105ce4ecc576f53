//! The work queue: at most one worker per key, and a change during work means once more.
//!
//! Source for the semantics: client-go/util/workqueue.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use crate::metrics::{self, QueueMetrics};

/// First pause after a failure; doubles with each further one.
const RETRY_MIN: Duration = Duration::from_millis(5);
const RETRY_MAX: Duration = Duration::from_secs(1000);

/// Keys to work on. Clones share the queue.
pub struct Queue<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// Told of every key that becomes ready and of every earlier deadline.
    news: Notify,
}

struct State<T> {
    /// Ready, oldest first. Each is also in `dirty` and none is in `processing`.
    ready: VecDeque<T>,
    /// What has to be worked on, with the time since when.
    dirty: HashMap<T, Instant>,
    processing: HashMap<T, Instant>,
    delayed: Delayed<T>,
    failures: HashMap<T, u32>,
    shutting_down: bool,
    metrics: QueueMetrics,
}

/// Keys that become ready later, each once, by the earliest time asked for.
struct Delayed<T> {
    /// The number tells keys of one instant apart.
    by_time: BTreeMap<(Instant, u64), T>,
    by_key: HashMap<T, (Instant, u64)>,
    next: u64,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T: Clone + Eq + Hash> Default for Queue<T> {
    fn default() -> Self {
        Self::new("")
    }
}

impl<T: Clone + Eq + Hash> Queue<T> {
    /// `name` is that of its metrics.
    pub fn new(name: &str) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashMap::new(),
            processing: HashMap::new(),
            delayed: Delayed { by_time: BTreeMap::new(), by_key: HashMap::new(), next: 0 },
            failures: HashMap::new(),
            shutting_down: false,
            metrics: metrics::queue(name),
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), news: Notify::new() }) }
    }

    /// Has `key` worked on; once, however often it is added before its turn.
    pub fn add(&self, key: T) {
        if self.shared.state.lock().add(key) {
            self.shared.news.notify_one();
        }
    }

    pub fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.shared.state.lock();
        if !state.shutting_down && state.delayed.put(key, Instant::now() + delay) {
            self.shared.news.notify_one();
        }
    }

    /// Adds after a pause that doubles with each call until [`Queue::forget`].
    pub fn add_rate_limited(&self, key: T) {
        let failures = {
            let mut state = self.shared.state.lock();
            state.metrics.retries.inc();
            let failures = state.failures.entry(key.clone()).or_default();
            *failures += 1;
            *failures
        };
        self.add_after(key, retry_pause(failures));
    }

    /// Ends the growth of pauses for `key`.
    pub fn forget(&self, key: &T) {
        self.shared.state.lock().failures.remove(key);
    }

    /// How often `key` was added rate limited since it was forgotten.
    pub fn retries(&self, key: &T) -> u32 {
        self.shared.state.lock().failures.get(key).copied().unwrap_or_default()
    }

    /// Keys that are ready.
    pub fn len(&self) -> usize {
        self.shared.state.lock().ready.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next key, which is the caller's until [`Queue::done`]. `None` after shutdown, when all is taken.
    pub async fn next(&self) -> Option<T> {
        loop {
            let news = self.shared.news.notified();
            let deadline = {
                let mut state = self.shared.state.lock();
                state.promote(Instant::now());
                if let Some(key) = state.take() {
                    if !state.ready.is_empty() {
                        self.shared.news.notify_one();
                    }
                    return Some(key);
                }
                if state.shutting_down {
                    return None;
                }
                state.delayed.first()
            };
            match deadline {
                Some(deadline) => {
                    let _ = tokio::time::timeout_at(deadline, news).await;
                }
                None => news.await,
            }
        }
    }

    /// Gives `key` back; it is ready again at once if it was added meanwhile.
    pub fn done(&self, key: &T) {
        if self.shared.state.lock().done(key) {
            self.shared.news.notify_one();
        }
    }

    /// Takes no more keys; those that are ready are still given out, delayed ones are not.
    pub fn shut_down(&self) {
        self.shared.state.lock().shutting_down = true;
        self.shared.news.notify_waiters();
        // For one that looked before the line above and waits only now.
        self.shared.news.notify_one();
    }
}

impl<T: Clone + Eq + Hash> State<T> {
    /// Whether a key became ready.
    fn add(&mut self, key: T) -> bool {
        if self.shutting_down || self.dirty.contains_key(&key) {
            return false;
        }
        self.metrics.adds.inc();
        self.dirty.insert(key.clone(), Instant::now());
        if self.processing.contains_key(&key) {
            return false;
        }
        self.ready.push_back(key);
        self.metrics.depth.set(self.ready.len() as i64);
        true
    }

    fn take(&mut self) -> Option<T> {
        let key = self.ready.pop_front()?;
        self.metrics.depth.set(self.ready.len() as i64);
        let now = Instant::now();
        if let Some(since) = self.dirty.remove(&key) {
            self.metrics.waited.observe((now - since).as_secs_f64());
        }
        self.processing.insert(key.clone(), now);
        Some(key)
    }

    /// Whether the key is ready again.
    fn done(&mut self, key: &T) -> bool {
        let Some(since) = self.processing.remove(key) else { return false };
        self.metrics.worked.observe(since.elapsed().as_secs_f64());
        if !self.dirty.contains_key(key) {
            return false;
        }
        self.ready.push_back(key.clone());
        self.metrics.depth.set(self.ready.len() as i64);
        true
    }

    /// Makes ready what is due.
    fn promote(&mut self, now: Instant) {
        while let Some(key) = self.delayed.pop_due(now) {
            self.add(key);
        }
    }
}

impl<T: Clone + Eq + Hash> Delayed<T> {
    /// Whether it is now the first in time. An earlier time than the one noted replaces it, a later one is ignored.
    fn put(&mut self, key: T, at: Instant) -> bool {
        if let Some(slot) = self.by_key.get(&key).copied() {
            if slot.0 <= at {
                return false;
            }
            self.by_time.remove(&slot);
        }
        let slot = (at, self.next);
        self.next += 1;
        self.by_key.insert(key.clone(), slot);
        self.by_time.insert(slot, key);
        self.first() == Some(at)
    }

    fn first(&self) -> Option<Instant> {
        self.by_time.first_key_value().map(|((at, _), _)| *at)
    }

    fn pop_due(&mut self, now: Instant) -> Option<T> {
        let slot = self.by_time.first_entry().filter(|slot| slot.key().0 <= now)?;
        let key = slot.remove();
        self.by_key.remove(&key);
        Some(key)
    }
}

/// 5 ms, doubling, at most 1000 s.
fn retry_pause(failures: u32) -> Duration {
    RETRY_MIN.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(RETRY_MAX)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    /// What `next` gives at this instant, if anything.
    fn now_or_never(queue: &Queue<&'static str>) -> Option<&'static str> {
        queue.next().now_or_never().flatten()
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_is_worked_on_once() {
        let queue = Queue::default();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, Some("a"));
        assert_eq!(queue.next().await, Some("b"));
        assert_eq!(now_or_never(&queue), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_during_work_means_once_more_and_not_at_once() {
        let queue = Queue::default();
        queue.add("a");
        let key = queue.next().await.unwrap();
        queue.add("a");
        queue.add("a");
        assert_eq!(now_or_never(&queue), None, "one worker per key");
        queue.done(&key);
        assert_eq!(queue.next().await, Some("a"));
        queue.done(&"a");
        assert_eq!(now_or_never(&queue), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_of_two_delays_counts() {
        let queue = Queue::default();
        let begun = Instant::now();
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(2));
        queue.add_after("a", Duration::from_secs(5));
        assert_eq!(queue.next().await, Some("a"));
        assert_eq!(begun.elapsed().as_secs(), 2);
        queue.done(&"a");
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(now_or_never(&queue), None, "once only");
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_worker_hears_of_an_earlier_deadline() {
        let queue = Queue::default();
        queue.add_after("late", Duration::from_secs(60));
        let worker = tokio::spawn({
            let queue = queue.clone();
            async move { queue.next().await }
        });
        tokio::task::yield_now().await;
        let begun = Instant::now();
        queue.add_after("soon", Duration::from_secs(1));
        assert_eq!(worker.await.unwrap(), Some("soon"));
        assert_eq!(begun.elapsed().as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_double_until_forgotten() {
        let queue = Queue::default();
        let mut pauses = Vec::new();
        for _ in 0..4 {
            let begun = Instant::now();
            queue.add_rate_limited("a");
            queue.next().await;
            queue.done(&"a");
            pauses.push(begun.elapsed().as_millis());
        }
        assert_eq!(pauses, [5, 10, 20, 40]);
        assert_eq!(queue.retries(&"a"), 4);
        queue.forget(&"a");
        assert_eq!(queue.retries(&"a"), 0);
    }

    #[test]
    fn pauses_are_bounded() {
        assert_eq!(retry_pause(60), RETRY_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_gives_out_what_is_ready_and_ends_all_workers() {
        let queue = Queue::default();
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move {
                    let mut seen = Vec::new();
                    while let Some(key) = queue.next().await {
                        queue.done(&key);
                        seen.push(key);
                    }
                    seen
                })
            })
            .collect();
        tokio::task::yield_now().await;
        queue.add("a");
        queue.add_after("late", Duration::from_secs(60));
        queue.shut_down();
        queue.add("b");
        let mut seen = Vec::new();
        for worker in workers {
            seen.extend(worker.await.unwrap());
        }
        assert_eq!(seen, ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn every_waiting_worker_gets_a_key() {
        let queue: Queue<u32> = Queue::default();
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.next().await })
            })
            .collect();
        tokio::task::yield_now().await;
        (0..4).for_each(|key| queue.add(key));
        let mut seen = Vec::new();
        for worker in workers {
            seen.extend(worker.await.unwrap());
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3]);
    }
}
