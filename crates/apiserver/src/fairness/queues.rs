//! The queues of one priority level: who runs, who waits and who is refused. A pure state machine: time and the
//! flow's hash come in, decisions go out. Flows are spread over the queues by shuffle sharding; among queues, the
//! request goes first that would end first if all queues ran at the same pace (virtual time, in seat-seconds).
//!
//! Source: KEP-1040 and apiserver/pkg/util/flowcontrol/fairqueuing/queueset.

use std::{collections::VecDeque, time::Duration};

/// What a request is taken to last until it is known how long it does.
const ESTIMATED_SERVICE: Duration = Duration::from_millis(3);

/// How a level queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discipline {
    /// Every request runs at once.
    Exempt,
    /// What does not fit is refused.
    Reject,
    Queue(Queuing),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queuing {
    pub queues: usize,
    /// Queues of which a flow may use any; at most `queues`.
    pub hand_size: usize,
    pub queue_length_max: usize,
}

/// What a request takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    pub seats: u32,
    /// Seats that are kept for `extra` after the request has been answered.
    pub final_seats: u32,
    pub extra: Duration,
}

impl Work {
    pub const ONE_SEAT: Self = Self { seats: 1, final_seats: 0, extra: Duration::ZERO };

    /// Occupied from the beginning to the end.
    pub fn seats_max(&self) -> u32 {
        self.seats.max(self.final_seats)
    }

    fn seat_seconds(&self) -> f64 {
        f64::from(self.seats) * ESTIMATED_SERVICE.as_secs_f64() + f64::from(self.final_seats) * self.extra.as_secs_f64()
    }
}

/// A request that runs. Given back to [`QueueSet::answered`] and then, if there is extra work, to [`QueueSet::left`].
#[derive(Debug, PartialEq)]
pub struct Ticket {
    /// `None`: the level had no queues.
    queue: Option<usize>,
    pub work: Work,
    began: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There are no queues, and all seats are taken.
    ConcurrencyLimit,
    QueueFull,
    /// It waited for as long as it may.
    TimeOut,
}

impl Refusal {
    /// As in upstream's metrics.
    pub const fn reason(self) -> &'static str {
        match self {
            Refusal::ConcurrencyLimit => "concurrency-limit",
            Refusal::QueueFull => "queue-full",
            Refusal::TimeOut => "time-out",
        }
    }
}

#[derive(Debug, PartialEq)]
pub enum Arrival {
    Runs(Ticket),
    /// In this queue, which had this many others.
    Waits {
        queue: usize,
        behind: usize,
    },
    Refused(Refusal),
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    work: Work,
    /// The virtual time of its arrival.
    arrived: f64,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Seat-seconds of those who wait.
    work_waiting: f64,
    executing: usize,
    seats_in_use: u32,
    /// The virtual time at which its next request begins.
    next_start: f64,
}

impl Queue {
    fn is_active(&self) -> bool {
        !self.waiting.is_empty() || self.executing > 0
    }

    /// A queue does not save up what it did not use while it was idle.
    fn bound(&mut self) {
        if let Some(oldest) = self.waiting.front() {
            self.next_start = self.next_start.max(oldest.arrived);
        }
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct QueueSet {
    discipline: Discipline,
    /// Seats that the level has now.
    limit: u32,
    /// Never fewer than there were: those beyond the discipline's number are drained, and filled no more.
    queues: Vec<Queue>,
    active: usize,
    /// Virtual time: seat-seconds that each active queue has been given.
    progress: f64,
    last: Duration,
    robin: usize,
    arrivals: usize,
    waiting: usize,
    executing: usize,
    seats_in_use: u32,
    seats_waiting: u32,
}

impl QueueSet {
    pub fn new(discipline: Discipline, limit: u32) -> Self {
        let mut set = Self {
            discipline,
            limit,
            queues: Vec::new(),
            active: 0,
            progress: 0.0,
            last: Duration::ZERO,
            robin: 0,
            arrivals: 0,
            waiting: 0,
            executing: 0,
            seats_in_use: 0,
            seats_waiting: 0,
        };
        set.configure(discipline, limit);
        set
    }

    /// Changes what a level is; those who wait keep their places.
    pub fn configure(&mut self, discipline: Discipline, limit: u32) {
        self.discipline = discipline;
        self.limit = limit;
        if let Discipline::Queue(queuing) = discipline
            && self.queues.len() < queuing.queues
        {
            self.queues.resize_with(queuing.queues, Queue::default);
        }
    }

    /// Virtual time, in seat-seconds.
    pub fn progress(&self) -> f64 {
        self.progress
    }

    /// How many seats the level could use now.
    pub fn demand(&self) -> u32 {
        self.seats_in_use + self.seats_waiting
    }

    fn pass(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.last).as_secs_f64();
        self.last = self.last.max(now);
        if self.active > 0 {
            let seats = self.demand().min(self.limit);
            self.progress += elapsed * f64::from(seats) / self.active as f64;
        }
    }

    fn fits(&self, seats: u32) -> bool {
        if seats > self.limit {
            return self.executing == 0;
        }
        self.seats_in_use + seats <= self.limit
    }

    /// A request of the flow `hash` comes. `id` tells it apart from others while it waits.
    pub fn arrive(&mut self, now: Duration, id: u64, hash: u64, work: Work) -> Arrival {
        self.pass(now);
        match self.discipline {
            Discipline::Exempt => Arrival::Runs(self.begin(now, None, work)),
            Discipline::Reject if self.fits(work.seats_max()) => Arrival::Runs(self.begin(now, None, work)),
            Discipline::Reject => Arrival::Refused(Refusal::ConcurrencyLimit),
            Discipline::Queue(queuing) => {
                let chosen = self.shortest(hash, &queuing);
                let behind = self.queues[chosen].waiting.len();
                if behind >= queuing.queue_length_max && self.seats_in_use >= self.limit {
                    return Arrival::Refused(Refusal::QueueFull);
                }
                if !self.queues[chosen].is_active() {
                    self.active += 1;
                    self.queues[chosen].next_start = self.progress;
                }
                if self.waiting == 0 && self.fits(work.seats_max()) {
                    return Arrival::Runs(self.begin(now, Some(chosen), work));
                }
                let queue = &mut self.queues[chosen];
                queue.waiting.push_back(Waiting { id, work, arrived: self.progress });
                queue.work_waiting += work.seat_seconds();
                queue.bound();
                self.waiting += 1;
                self.seats_waiting += work.seats_max();
                Arrival::Waits { queue: chosen, behind }
            }
        }
    }

    /// The queue of the flow's hand with the least work.
    fn shortest(&mut self, hash: u64, queuing: &Queuing) -> usize {
        let mut hand = [0; HAND_SIZE_MAX];
        let hand = deal(hash, queuing.queues, queuing.hand_size, &mut hand);
        let offset = self.arrivals % hand.len();
        self.arrivals = self.arrivals.wrapping_add(1);
        let (before, from) = hand.split_at(offset);
        let work = |queue: usize| self.queues[queue].work_waiting;
        let turned = from.iter().chain(before).copied();
        turned.min_by(|a, b| work(*a).total_cmp(&work(*b))).expect("a hand has at least one queue")
    }

    fn begin(&mut self, now: Duration, queue: Option<usize>, work: Work) -> Ticket {
        self.executing += 1;
        self.seats_in_use += work.seats_max();
        if let Some(queue) = queue {
            let queue = &mut self.queues[queue];
            queue.executing += 1;
            queue.seats_in_use += work.seats_max();
            queue.next_start += work.seat_seconds();
        }
        Ticket { queue, work, began: now }
    }

    /// The next that may begin, if any: call until there is none, whenever something has ended or the limit has grown.
    pub fn dispatch(&mut self, now: Duration) -> Option<(u64, Ticket)> {
        self.pass(now);
        if self.waiting == 0 || (self.seats_in_use >= self.limit && self.executing > 0) {
            return None;
        }
        let count = self.queues.len();
        let finish = |queue: &Queue| Some(queue.next_start + queue.waiting.front()?.work.seat_seconds());
        let turned = (1..=count).map(|step| (self.robin + step) % count);
        let candidates = turned.filter_map(|index| Some((index, finish(&self.queues[index])?)));
        let (chosen, _) = candidates.min_by(|a, b| a.1.total_cmp(&b.1))?;
        let seats = self.queues[chosen].waiting.front()?.work.seats_max();
        if self.discipline != Discipline::Exempt && !self.fits(seats) {
            return None;
        }
        self.robin = chosen;
        let Waiting { id, work, .. } = self.remove(chosen, 0);
        let ticket = self.begin(now, Some(chosen), work);
        self.queues[chosen].bound();
        Some((id, ticket))
    }

    fn remove(&mut self, queue: usize, index: usize) -> Waiting {
        let queue = &mut self.queues[queue];
        let waiting = queue.waiting.remove(index).expect("the index was just found");
        queue.work_waiting -= waiting.work.seat_seconds();
        if queue.waiting.is_empty() {
            queue.work_waiting = 0.0; // no rounding is carried on
        }
        self.waiting -= 1;
        self.seats_waiting -= waiting.work.seats_max();
        waiting
    }

    /// A request waits no more. False: it has been given its ticket.
    pub fn give_up(&mut self, now: Duration, queue: usize, id: u64) -> bool {
        self.pass(now);
        let Some(index) = self.queues[queue].waiting.iter().position(|waiting| waiting.id == id) else { return false };
        self.remove(queue, index);
        self.queues[queue].bound();
        if !self.queues[queue].is_active() {
            self.active -= 1;
        }
        true
    }

    /// A request has been answered. Its seats are free unless there is extra work; then it [`leaves`](Self::left) later.
    pub fn answered(&mut self, now: Duration, ticket: &Ticket) {
        self.pass(now);
        self.executing -= 1;
        if let Some(index) = ticket.queue {
            let queue = &mut self.queues[index];
            queue.executing -= 1;
            // The queue was charged for the estimate; the truth may be better or worse.
            let actual = now.saturating_sub(ticket.began).as_secs_f64();
            queue.next_start -= f64::from(ticket.work.seats) * (ESTIMATED_SERVICE.as_secs_f64() - actual);
            queue.bound();
            if !queue.is_active() {
                self.active -= 1;
            }
        }
        if ticket.work.extra.is_zero() {
            self.free(ticket);
        }
    }

    /// The extra work of an answered request is done.
    pub fn left(&mut self, now: Duration, ticket: &Ticket) {
        self.pass(now);
        self.free(ticket);
    }

    fn free(&mut self, ticket: &Ticket) {
        self.seats_in_use -= ticket.work.seats_max();
        if let Some(index) = ticket.queue {
            self.queues[index].seats_in_use -= ticket.work.seats_max();
        }
    }
}

/// Beyond it the bits of a hash do not suffice for any number of queues; upstream's validation has it lower still.
pub const HAND_SIZE_MAX: usize = 64;

/// Picks `size` different queues of `queues` by `hash`: the same for the same flow, hardly ever the same for two.
///
/// Source: `DealIntoHand` in apiserver/pkg/util/shufflesharding.
fn deal(mut hash: u64, queues: usize, size: usize, hand: &mut [usize; HAND_SIZE_MAX]) -> &[usize] {
    let size = size.clamp(1, queues.min(HAND_SIZE_MAX));
    for dealt in 0..size {
        let left = (queues - dealt) as u64;
        let mut card = usize::try_from(hash % left).expect("below the number of queues");
        hash /= left;
        // The card is a rank among those not dealt yet; the hand's beginning is kept sorted to find which.
        let mut sorted = [0; HAND_SIZE_MAX];
        sorted[..dealt].copy_from_slice(&hand[..dealt]);
        sorted[..dealt].sort_unstable();
        for taken in &sorted[..dealt] {
            card += usize::from(card >= *taken);
        }
        hand[dealt] = card;
    }
    &hand[..size]
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    const QUEUING: Queuing = Queuing { queues: 8, hand_size: 1, queue_length_max: 3 };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }
    fn seats(seats: u32) -> Work {
        Work { seats, ..Work::ONE_SEAT }
    }
    fn runs(arrival: Arrival) -> Ticket {
        match arrival {
            Arrival::Runs(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_has_no_queue_runs_or_is_refused() {
        let mut exempt = QueueSet::new(Discipline::Exempt, 0);
        let mut reject = QueueSet::new(Discipline::Reject, 2);
        for id in 0..3 {
            runs(exempt.arrive(ms(0), id, 0, seats(10)));
        }
        let first = runs(reject.arrive(ms(0), 0, 0, seats(2)));
        assert_eq!(reject.arrive(ms(0), 1, 0, seats(1)), Arrival::Refused(Refusal::ConcurrencyLimit));
        reject.answered(ms(1), &first);
        runs(reject.arrive(ms(1), 2, 0, seats(1)));
        // What is wider than the whole level runs alone.
        let mut narrow = QueueSet::new(Discipline::Reject, 2);
        runs(narrow.arrive(ms(0), 0, 0, seats(5)));
    }

    #[test]
    fn a_full_queue_refuses_only_while_seats_are_taken() {
        let mut set = QueueSet::new(Discipline::Queue(QUEUING), 1);
        let first = runs(set.arrive(ms(0), 0, 7, seats(1)));
        for id in 1..=3 {
            assert!(matches!(set.arrive(ms(0), id, 7, seats(1)), Arrival::Waits { queue: 7, .. }));
        }
        assert_eq!(set.arrive(ms(0), 4, 7, seats(1)), Arrival::Refused(Refusal::QueueFull));
        // Another flow has a queue of its own.
        assert!(matches!(set.arrive(ms(0), 5, 6, seats(1)), Arrival::Waits { queue: 6, behind: 0 }));
        set.answered(ms(1), &first);
        assert!(set.dispatch(ms(1)).is_some() && set.dispatch(ms(1)).is_none());
    }

    /// One flow has sent many before another sends few: they take turns.
    #[test]
    fn flows_take_turns() {
        let mut set = QueueSet::new(Discipline::Queue(Queuing { queue_length_max: 100, ..QUEUING }), 1);
        let mut running = runs(set.arrive(ms(0), 1000, 0, seats(1)));
        for id in 0..50 {
            set.arrive(ms(0), id, 0, seats(1));
        }
        for id in 100..105 {
            set.arrive(ms(0), id, 1, seats(1));
        }
        let mut order = Vec::new();
        for turn in 1..=12 {
            set.answered(ms(turn * 3), &running);
            let (id, ticket) = set.dispatch(ms(turn * 3)).unwrap();
            order.push(id >= 100);
            running = ticket;
        }
        let polite = order.iter().take(11).filter(|is_second| **is_second).count();
        assert_eq!(polite, 5, "{order:?}");
    }

    #[test]
    fn wide_requests_pay_for_their_seats() {
        let mut set = QueueSet::new(Discipline::Queue(Queuing { queue_length_max: 100, ..QUEUING }), 10);
        let first = runs(set.arrive(ms(0), 1000, 7, seats(10)));
        for id in 0..20 {
            set.arrive(ms(0), id, 0, seats(10));
            set.arrive(ms(0), 100 + id, 1, seats(1));
        }
        set.answered(ms(3), &first);
        let mut order = Vec::new();
        let mut now = 3;
        while order.len() < 22 {
            let mut round = Vec::new();
            while let Some((id, ticket)) = set.dispatch(ms(now)) {
                order.push(id);
                round.push(ticket);
            }
            now += 3;
            round.iter().for_each(|ticket| set.answered(ms(now), ticket));
        }
        let wide = order.iter().filter(|id| **id < 100).count();
        assert!((1..=4).contains(&wide), "{order:?}");
    }

    #[test]
    fn extra_work_keeps_its_seats() {
        let mut set = QueueSet::new(Discipline::Queue(QUEUING), 4);
        let work = Work { seats: 1, final_seats: 3, extra: ms(5) };
        let ticket = runs(set.arrive(ms(0), 0, 0, work));
        assert_eq!(set.seats_in_use, 3);
        set.answered(ms(1), &ticket);
        assert_eq!((set.executing, set.seats_in_use), (0, 3));
        set.left(ms(6), &ticket);
        assert_eq!((set.seats_in_use, set.demand()), (0, 0));
    }

    #[test]
    fn who_gives_up_leaves_no_trace() {
        let mut set = QueueSet::new(Discipline::Queue(QUEUING), 1);
        let first = runs(set.arrive(ms(0), 0, 0, seats(1)));
        set.arrive(ms(0), 1, 1, seats(1));
        assert!(set.give_up(ms(1), 1, 1) && !set.give_up(ms(1), 1, 1));
        set.answered(ms(2), &first);
        assert!(set.dispatch(ms(2)).is_none());
        assert_eq!((set.waiting, set.seats_waiting, set.active), (0, 0, 0));
    }

    #[test]
    fn a_level_may_change_while_requests_wait() {
        let mut set = QueueSet::new(Discipline::Queue(QUEUING), 1);
        let _first = runs(set.arrive(ms(0), 0, 7, seats(1)));
        set.arrive(ms(0), 1, 7, seats(1));
        set.configure(Discipline::Queue(Queuing { queues: 2, ..QUEUING }), 2);
        assert_eq!(set.dispatch(ms(1)).map(|(id, _)| id), Some(1));
        set.configure(Discipline::Exempt, 0);
        runs(set.arrive(ms(1), 2, 7, seats(1)));
    }

    #[test]
    fn a_hand_is_of_different_queues_and_a_flows_own() {
        let hand = |hash: u64| {
            let mut hand = [0; HAND_SIZE_MAX];
            deal(hash, 64, 6, &mut hand).to_vec()
        };
        let mut hands = BTreeSet::new();
        for hash in (0..1000u64).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15)) {
            let dealt = hand(hash);
            let different: BTreeSet<usize> = dealt.iter().copied().collect();
            assert!(different.len() == 6 && different.iter().all(|queue| *queue < 64), "{dealt:?}");
            assert_eq!(dealt, hand(hash));
            hands.insert(different);
        }
        assert!(hands.len() > 990, "{}", hands.len());
    }

    proptest! {
        /// Whatever happens: seats are never oversold but to one that is wider than the level, nobody who may run
        /// waits for ever, and in the end nothing is left over.
        #[test]
        fn seats_are_kept(limit in 1u32..6, steps in proptest::collection::vec((0u8..4, 0u64..5, 1u32..4), 1..200)) {
            let queuing = Queuing { queues: 4, hand_size: 2, queue_length_max: 5 };
            let mut set = QueueSet::new(Discipline::Queue(queuing), limit);
            let (mut running, mut waiting) = (Vec::new(), BTreeMap::new());
            let mut now = ms(0);
            for (id, (what, flow, width)) in steps.into_iter().enumerate() {
                now += ms(1);
                let id = id as u64;
                match what {
                    0 | 1 => match set.arrive(now, id, flow * 1_000_003, seats(width)) {
                        Arrival::Runs(ticket) => running.push(ticket),
                        Arrival::Waits { queue, .. } => { waiting.insert(id, queue); }
                        Arrival::Refused(refusal) => prop_assert_eq!(refusal, Refusal::QueueFull),
                    },
                    2 if !running.is_empty() => set.answered(now, &running.remove(0)),
                    _ => if let Some((id, queue)) = waiting.pop_first() {
                        prop_assert!(set.give_up(now, queue, id));
                    },
                }
                while let Some((id, ticket)) = set.dispatch(now) {
                    prop_assert!(waiting.remove(&id).is_some());
                    running.push(ticket);
                }
                let used: u32 = running.iter().map(|ticket| ticket.work.seats_max()).sum();
                prop_assert_eq!(set.seats_in_use, used);
                prop_assert!(used <= limit || running.len() == 1);
                prop_assert_eq!((set.waiting, set.executing), (waiting.len(), running.len()));
                prop_assert!(waiting.is_empty() || !running.is_empty());
            }
            while !running.is_empty() {
                now += ms(1);
                set.answered(now, &running.remove(0));
                while let Some((id, ticket)) = set.dispatch(now) {
                    waiting.remove(&id);
                    running.push(ticket);
                }
            }
            prop_assert!(waiting.is_empty());
            prop_assert_eq!((set.active, set.demand()), (0, 0));
        }
    }
}
