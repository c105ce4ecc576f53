//! How a request gets its seats, waits for them and gives them back: the one place where the queues of a level are
//! held under a lock, for well under a microsecond at a time.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    task::AbortHandle,
    time::{Instant, timeout},
};

use super::{
    Flow,
    queues::{Arrival, Discipline, QueueSet, Refusal, Ticket, Work},
    shares::{Demand, Integrator},
};
use crate::codec::body::{Body, BodyError};

/// A priority level at work.
pub struct Level {
    pub name: String,
    /// All times are counted from here.
    began: Instant,
    state: Mutex<State>,
}

struct State {
    set: QueueSet,
    /// Who waits, by the number under which the queues know it.
    waiters: HashMap<u64, oneshot::Sender<Ticket>>,
    next_id: u64,
    integrator: Integrator,
    demand: Demand,
}

impl State {
    /// Lets begin who may.
    fn pump(&mut self, now: Duration) {
        while let Some((id, ticket)) = self.set.dispatch(now) {
            let waiter = self.waiters.remove(&id).expect("who waits in a queue has a waiter");
            if let Err(ticket) = waiter.send(ticket) {
                self.give_back(now, &ticket);
            }
        }
        self.integrator.set(now, self.set.demand());
    }

    /// Of a request that did nothing.
    fn give_back(&mut self, now: Duration, ticket: &Ticket) {
        self.set.answered(now, ticket);
        if !ticket.work.extra.is_zero() {
            self.set.left(now, ticket);
        }
    }
}

impl Level {
    pub fn new(name: String, discipline: Discipline) -> Self {
        let state = State {
            set: QueueSet::new(discipline, 0),
            waiters: HashMap::new(),
            next_id: 0,
            integrator: Integrator::default(),
            demand: Demand::default(),
        };
        Self { name, began: Instant::now(), state: Mutex::new(state) }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// What it asked for since the last call.
    pub fn take_demand(&self) -> Demand {
        let (now, mut state) = (self.now(), self.state.lock());
        let before = state.demand;
        state.demand = state.integrator.take(now, &before);
        state.demand
    }

    /// Returns the virtual time.
    pub fn configure(&self, discipline: Discipline, limit: u32) -> f64 {
        let (now, mut state) = (self.now(), self.state.lock());
        state.set.configure(discipline, limit);
        state.pump(now);
        state.set.progress()
    }
}

/// Waits for seats, at most for `wait_max`.
pub async fn take(flow: &Arc<Flow>, hash: u64, work: Work, wait_max: Duration) -> Result<Permit, Refusal> {
    flow.meters.estimated.observe(f64::from(work.seats_max()));
    let arrival = {
        let level = &flow.level;
        let now = level.now();
        let mut state = level.state.lock();
        let id = state.next_id;
        state.next_id += 1;
        match state.set.arrive(now, id, hash, work) {
            Arrival::Runs(ticket) => {
                let demand = state.set.demand();
                state.integrator.set(now, demand);
                Ok(ticket)
            }
            Arrival::Refused(refusal) => {
                flow.meters.refused(refusal);
                return Err(refusal);
            }
            Arrival::Waits { queue, behind } => {
                let (sender, receiver) = oneshot::channel();
                state.waiters.insert(id, sender);
                state.pump(now);
                flow.meters.queue_length.observe(behind as f64 + 1.0);
                Err(Waiter::new(flow.clone(), queue, id, work, receiver))
            }
        }
    };
    match arrival {
        Ok(ticket) => Ok(Permit::new(flow.clone(), ticket)),
        Err(waiter) => waiter.wait(wait_max).await,
    }
}

/// A request in a queue. Dropped, it leaves the queue, or gives back what it was just given.
struct Waiter {
    flow: Arc<Flow>,
    queue: usize,
    id: u64,
    seats: i64,
    since: Instant,
    receiver: oneshot::Receiver<Ticket>,
}

impl Waiter {
    fn new(flow: Arc<Flow>, queue: usize, id: u64, work: Work, receiver: oneshot::Receiver<Ticket>) -> Self {
        let seats = i64::from(work.seats_max());
        flow.meters.waiting_requests.inc();
        flow.meters.waiting_seats.inc_by(seats);
        Self { flow, queue, id, seats, since: Instant::now(), receiver }
    }

    async fn wait(mut self, wait_max: Duration) -> Result<Permit, Refusal> {
        // An Err is the time limit: a sender goes away only with its waiter.
        let ticket = match timeout(wait_max, &mut self.receiver).await {
            Ok(Ok(ticket)) => Some(ticket),
            Ok(Err(_)) | Err(_) => self.leave(),
        };
        let waited = self.since.elapsed().as_secs_f64();
        let meters = &self.flow.meters;
        let Some(ticket) = ticket else {
            meters.waited_in_vain.observe(waited);
            meters.refused(Refusal::TimeOut);
            return Err(Refusal::TimeOut);
        };
        meters.waited_and_ran.observe(waited);
        Ok(Permit::new(self.flow.clone(), ticket))
    }

    /// Out of the queue; `Some` if it was given its ticket at the same moment.
    fn leave(&mut self) -> Option<Ticket> {
        let level = &self.flow.level;
        let (now, mut state) = (level.now(), level.state.lock());
        if state.set.give_up(now, self.queue, self.id) {
            state.waiters.remove(&self.id);
            state.pump(now);
            return None;
        }
        self.receiver.try_recv().ok()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.flow.meters.waiting_requests.dec();
        self.flow.meters.waiting_seats.dec_by(self.seats);
        if let Some(ticket) = self.leave() {
            let level = &self.flow.level;
            let (now, mut state) = (level.now(), level.state.lock());
            state.give_back(now, &ticket);
            state.pump(now);
        }
    }
}

/// Seats taken. Dropped, it gives them back, and the next may begin.
pub struct Permit {
    flow: Arc<Flow>,
    ticket: Option<Ticket>,
    since: Instant,
    is_watch: bool,
}

impl Permit {
    fn new(flow: Arc<Flow>, ticket: Ticket) -> Self {
        let meters = &flow.meters;
        meters.dispatched.inc();
        meters.executing_requests.inc();
        meters.executing_seats.inc_by(i64::from(ticket.work.seats_max()));
        Self { flow, ticket: Some(ticket), since: Instant::now(), is_watch: false }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        let Flow { level, meters, .. } = &*self.flow;
        let took = self.since.elapsed().as_secs_f64();
        if self.is_watch { &meters.watch_execution } else { &meters.execution }.observe(took);
        meters.executing_requests.dec();
        {
            let (now, mut state) = (level.now(), level.state.lock());
            state.set.answered(now, &ticket);
            state.pump(now);
        }
        if ticket.work.extra.is_zero() {
            meters.executing_seats.dec_by(i64::from(ticket.work.seats_max()));
            return;
        }
        let flow = self.flow.clone();
        // Ends by itself within milliseconds.
        tokio::spawn(async move {
            tokio::time::sleep(ticket.work.extra).await;
            flow.meters.executing_seats.dec_by(i64::from(ticket.work.seats_max()));
            let (now, mut state) = (flow.level.now(), flow.level.state.lock());
            state.set.left(now, &ticket);
            state.pump(now);
        });
    }
}

/// When a reply whose body is still being made gives its seats back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The body's end.
    End,
    /// A watch: it has sent what was there, and waits for events.
    FirstPause,
}

/// Lets a reply keep its seats while its body is made, but no longer than `limit`, however slow its reader is.
pub fn keep(mut permit: Permit, response: Response<Body>, until: Until, limit: Duration) -> Response<Body> {
    permit.is_watch = until == Until::FirstPause;
    if response.body().size_hint().exact().is_some() || !response.status().is_success() {
        return response;
    }
    let permit = Arc::new(Mutex::new(Some(permit)));
    let held = permit.clone();
    let timer = tokio::spawn(async move {
        tokio::time::sleep(limit).await;
        held.lock().take();
    });
    let (parts, body) = response.into_parts();
    let seated = Seated { body, permit, until, timer: timer.abort_handle() };
    Response::from_parts(parts, seated.boxed_unsync())
}

/// A body and its seats.
struct Seated {
    body: Body,
    permit: Arc<Mutex<Option<Permit>>>,
    until: Until,
    timer: AbortHandle,
}

impl Seated {
    fn stand_up(&self) {
        self.timer.abort();
        self.permit.lock().take();
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.stand_up();
    }
}

impl http_body::Body for Seated {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_pending() && self.until == Until::FirstPause {
            self.stand_up();
        }
        polled
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
