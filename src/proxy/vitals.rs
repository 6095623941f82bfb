//! How a client's connection is doing: whether it is idle, sending a head, or being served, and since when.
//!
//! A connection has no timers of its own. It keeps a few notes here, the worker looks at all of them twice a second
//! ([`SWEEP_EVERY`]) and ends those that are over a limit. So a request costs no timer, and ten thousand idle
//! connections cost some 50 µs twice a second.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Limits;

/// How often a worker looks at its connections.
pub(super) const SWEEP_EVERY: Duration = Duration::from_millis(500);

/// A client that goes on sending after its last reply is listened to for this long; less when the process stops.
const LINGER_MAX: Duration = Duration::from_secs(2);
const LINGER_AT_STOP: Duration = Duration::from_millis(250);

/// The notes of one connection.
#[derive(Debug)]
pub(crate) struct Vitals {
    state: Cell<State>,
    since: Cell<Instant>,
    write_stalled_since: Cell<Option<Instant>>,
    in_flight: Cell<u32>,
    /// HTTP/2 frames come and go without a request; only HTTP/1 has a head that can be slow.
    is_multiplexed: Cell<bool>,
    /// The client has closed its side.
    is_half_closed: Cell<bool>,
    ending: Cell<Ending>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Handshake,
    Idle,
    Head,
    Busy,
    /// Our side is closed; what the client still sends is dropped.
    Closing,
}

/// Whether, and how, a connection is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It goes on.
    None,
    /// After what is in flight.
    Polite,
    /// At once.
    Cut,
}

/// All connections of one worker.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: RefCell<HashMap<u64, Rc<Vitals>>>,
    next: Cell<u64>,
}

/// A connection that counts as open until this is dropped.
#[derive(Debug)]
pub(super) struct Open<'a> {
    connections: &'a Connections,
    number: u64,
    pub(super) vitals: Rc<Vitals>,
}

// === impl Vitals ===

impl Vitals {
    fn new() -> Self {
        Self {
            state: Cell::new(State::Handshake),
            since: Cell::new(Instant::now()),
            write_stalled_since: Cell::new(None),
            in_flight: Cell::new(0),
            is_multiplexed: Cell::new(false),
            is_half_closed: Cell::new(false),
            ending: Cell::new(Ending::None),
            waker: RefCell::new(None),
        }
    }

    /// The handshake is over; requests may come.
    pub(super) fn ready(&self, is_multiplexed: bool) {
        self.is_multiplexed.set(is_multiplexed);
        self.enter(State::Idle, Instant::now());
    }

    /// A request has begun.
    pub(super) fn request_begins(&self, now: Instant) {
        self.in_flight.set(self.in_flight.get() + 1);
        self.enter(State::Busy, now);
    }

    /// A request has ended, its reply handed over.
    pub(super) fn request_ends(&self, now: Instant) {
        let left = self.in_flight.get().saturating_sub(1);
        self.in_flight.set(left);
        if left == 0 && self.state.get() == State::Busy {
            self.enter(State::Idle, now);
        }
    }

    /// Bytes came in.
    pub(super) fn received(&self, count: usize) {
        if count == 0 {
            self.is_half_closed.set(true);
        } else if self.state.get() == State::Idle && !self.is_multiplexed.get() {
            self.enter(State::Head, Instant::now());
        }
    }

    /// The client's side of the socket is full, or takes bytes again.
    pub(super) fn write_stalls(&self, is_stalled: bool) {
        match (is_stalled, self.write_stalled_since.get()) {
            (true, None) => self.write_stalled_since.set(Some(Instant::now())),
            (false, Some(_)) => self.write_stalled_since.set(None),
            (true, Some(_)) | (false, None) => {}
        }
    }

    /// Whether the client has closed its side.
    pub(super) fn is_half_closed(&self) -> bool {
        self.is_half_closed.get()
    }

    /// Our side is closed.
    pub(super) fn closes(&self) {
        self.enter(State::Closing, Instant::now());
    }

    /// Whether our side is closed.
    pub(super) fn is_closing(&self) -> bool {
        self.state.get() == State::Closing
    }

    /// What the worker decided. The task that asks is woken when that changes.
    pub(super) fn ending(&self, cx: &Context<'_>) -> Ending {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        self.ending.get()
    }

    fn end(&self, ending: Ending) {
        if self.ending.get() != ending {
            self.ending.set(ending);
            if let Some(waker) = self.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    fn enter(&self, state: State, now: Instant) {
        self.state.set(state);
        self.since.set(now);
    }

    fn is_overdue(&self, limits: &Limits, now: Instant) -> bool {
        let write_stalls = self
            .write_stalled_since
            .get()
            .is_some_and(|since| now.saturating_duration_since(since) >= limits.stall);
        let in_state = now.saturating_duration_since(self.since.get());
        write_stalls
            || match self.state.get() {
                State::Handshake => in_state >= limits.handshake,
                State::Idle => in_state >= limits.idle,
                State::Head => in_state >= limits.header,
                State::Closing => in_state >= LINGER_MAX,
                // Bodies and replies have limits of their own, on progress.
                State::Busy => false,
            }
    }
}

// === impl Connections ===

impl Connections {
    /// One more.
    pub(super) fn open(&self) -> Open<'_> {
        let number = self.next.get();
        self.next.set(number + 1);
        let vitals = Rc::new(Vitals::new());
        self.open.borrow_mut().insert(number, Rc::clone(&vitals));
        Open { connections: self, number, vitals }
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        self.open.borrow().len()
    }

    /// Whether none is open that has anything left to say at `now`.
    pub(super) fn are_drained(&self, now: Instant) -> bool {
        let is_over = |vitals: &Rc<Vitals>| {
            vitals.is_closing() && now.saturating_duration_since(vitals.since.get()) >= LINGER_AT_STOP
        };
        self.open.borrow().values().all(is_over)
    }

    /// Ends those that are over a limit; says how many.
    pub(super) fn sweep(&self, limits: &Limits, now: Instant) -> u64 {
        let mut ended = 0;
        for vitals in self.open.borrow().values() {
            if vitals.is_overdue(limits, now) && vitals.ending.get() != Ending::Cut {
                vitals.end(Ending::Cut);
                ended += 1;
            }
        }
        ended
    }

    /// Tells all to end.
    pub(super) fn end_all(&self, ending: Ending) {
        for vitals in self.open.borrow().values() {
            vitals.end(ending);
        }
    }
}

// === impl Open ===

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.connections.open.borrow_mut().remove(&self.number);
    }
}
