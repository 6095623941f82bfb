//! How a client's connection is doing: whether it is idle, sending a head, or being served, and since when.
//!
//! A connection has no timers of its own. It keeps a few notes here, the worker looks at all of them twice a second
//! ([`SWEEP_EVERY`]) and ends those that are over a limit. So a request costs no timer, and ten thousand idle
//! connections cost some 50 µs twice a second.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Limits;

mod connections;

pub(super) use connections::Connections;

/// How often a worker looks at its connections.
pub(super) const SWEEP_EVERY: Duration = Duration::from_millis(500);

/// A client that goes on sending after its last reply is listened to for this long, and a silent one for less (both
/// as in nginx, `lingering_time` and `lingering_timeout`); less still when the process stops.
const LINGER_MAX: Duration = Duration::from_secs(30);
const LINGER_SILENT_MAX: Duration = Duration::from_secs(5);
const LINGER_AT_STOP: Duration = Duration::from_millis(250);

/// An idle connection keeps its buffers for this long.
const REST_AFTER: Duration = Duration::from_secs(1);

/// An idle connection that is told to close and does not is cut after this.
const POLITE_MAX: Duration = Duration::from_secs(5);

/// A client that resets a stream this soon after it began it did not want the answer.
const HASTE: Duration = Duration::from_secs(1);

/// So many hasty resets, and more than half of all requests: the connection gets GOAWAY, and requests that still come
/// are refused unforwarded ("rapid reset", CVE-2023-44487). Envoy looks after 500 requests; here each is a connection
/// to WeChat that is lost, so we look sooner. A client that was told has at most as many on their way as it may have
/// open; after those it floods.
const HASTY_RESETS_MAX: u64 = 20;
const AFTER_GOAWAY_MAX: u64 = 100;

/// The notes of one connection.
#[derive(Debug)]
pub(crate) struct Vitals {
    state: Cell<State>,
    since: Cell<Instant>,
    write_stalled_since: Cell<Option<Instant>>,
    in_flight: Cell<u32>,
    /// When our side was closed.
    closed_at: Cell<Option<Instant>>,
    requests: Cell<u64>,
    requests_max: Cell<u64>,
    hasty_resets: Cell<u64>,
    /// The last request before the client was found hasty.
    hasty_from: Cell<Option<u64>>,
    is_flooding: Cell<bool>,
    /// HTTP/2's streams, some of them over.
    streams: RefCell<Vec<Weak<StreamVitals>>>,
    /// HTTP/2 frames come and go without a request; only HTTP/1 has a head that can be slow.
    is_multiplexed: Cell<bool>,
    /// The client has closed its side.
    is_half_closed: Cell<bool>,
    /// It has been idle for long enough to be kept without its buffers.
    may_rest: Cell<bool>,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    /// It goes on.
    None,
    /// After what is in flight.
    Polite,
    /// At once.
    Cut,
}

/// The notes of one HTTP/2 stream.
///
/// A stream's task wakes for its request's body, for WeChat and for timers; one that sleeps through all the time that
/// these may take waits for a window that the client does not open (CVE-2019-9517).
#[derive(Debug)]
pub(super) struct StreamVitals {
    woke_at: Cell<Instant>,
    is_cut: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

// === impl Vitals ===

impl Vitals {
    fn new() -> Self {
        Self {
            state: Cell::new(State::Handshake),
            since: Cell::new(Instant::now()),
            write_stalled_since: Cell::new(None),
            in_flight: Cell::new(0),
            closed_at: Cell::new(None),
            requests: Cell::new(0),
            requests_max: Cell::new(u64::MAX),
            hasty_resets: Cell::new(0),
            hasty_from: Cell::new(None),
            is_flooding: Cell::new(false),
            streams: RefCell::default(),
            is_multiplexed: Cell::new(false),
            is_half_closed: Cell::new(false),
            may_rest: Cell::new(false),
            ending: Cell::new(Ending::None),
            waker: RefCell::new(None),
        }
    }

    /// The handshake is over; `requests_max` requests may come.
    pub(super) fn ready(&self, is_multiplexed: bool, requests_max: u64) {
        self.is_multiplexed.set(is_multiplexed);
        self.requests_max.set(requests_max);
        self.enter(State::Idle, Instant::now());
    }

    /// A request has begun.
    pub(super) fn request_begins(&self, now: Instant) {
        self.in_flight.set(self.in_flight.get() + 1);
        self.enter(State::Busy, now);
        let requests = self.requests.get() + 1;
        self.requests.set(requests);
        if requests >= self.requests_max.get() {
            self.end(Ending::Polite);
        }
        if self.hasty_from.get().is_some_and(|from| requests - from > AFTER_GOAWAY_MAX) {
            self.floods();
        }
    }

    /// The client has dropped a request that began at `begun`, before its reply was handed over. To be noted before
    /// the request's end.
    pub(super) fn request_is_dropped(&self, begun: Instant, now: Instant) {
        if !self.is_multiplexed.get() || now.saturating_duration_since(begun) >= HASTE {
            return;
        }
        let resets = self.hasty_resets.get() + 1;
        self.hasty_resets.set(resets);
        let requests = self.requests.get();
        if resets >= HASTY_RESETS_MAX && resets * 2 > requests && self.hasty_from.get().is_none() {
            self.hasty_from.set(Some(requests));
            self.end(Ending::Polite);
        }
    }

    /// Whether the client resets most of what it begins.
    pub(super) fn is_hasty(&self) -> bool {
        self.hasty_from.get().is_some()
    }

    /// The client sends more than anyone needs to; the connection is to fail.
    pub(super) fn floods(&self) {
        if !self.is_flooding.replace(true) {
            self.wake();
        }
    }

    /// Whether [`Self::floods`] was said.
    pub(super) fn is_flooding(&self) -> bool {
        self.is_flooding.get()
    }

    /// After this request's reply an HTTP/1 connection is to close, since what follows on it may not be what the client
    /// meant (RFC 9112 §9.6). HTTP/2's streams do not touch each other.
    pub(super) fn distrust(&self) {
        if !self.is_multiplexed.get() {
            self.end(Ending::Polite);
        }
    }

    /// Whether no request should follow.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.get() != Ending::None
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
            return;
        }
        match self.state.get() {
            State::Idle if !self.is_multiplexed.get() => self.enter(State::Head, Instant::now()),
            State::Closing => self.since.set(Instant::now()),
            State::Handshake | State::Idle | State::Head | State::Busy => {}
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

    /// A stream begins.
    pub(super) fn stream(&self) -> Rc<StreamVitals> {
        let stream = Rc::new(StreamVitals {
            woke_at: Cell::new(Instant::now()),
            is_cut: Cell::new(false),
            waker: RefCell::new(None),
        });
        self.streams.borrow_mut().push(Rc::downgrade(&stream));
        stream
    }

    fn sweep_streams(&self, limits: &Limits, now: Instant) {
        self.streams.borrow_mut().retain(|stream| {
            let Some(stream) = stream.upgrade() else { return false };
            if now.saturating_duration_since(stream.woke_at.get()) >= limits.request + limits.stall {
                stream.is_cut.set(true);
                stream.waker.borrow_mut().take().into_iter().for_each(Waker::wake);
            }
            true
        });
    }

    /// Whether the client has closed its side.
    pub(super) fn is_half_closed(&self) -> bool {
        self.is_half_closed.get()
    }

    /// Our side is closed.
    pub(super) fn closes(&self) {
        let now = Instant::now();
        self.closed_at.set(Some(now));
        self.enter(State::Closing, now);
    }

    /// Whether our side is closed.
    pub(super) fn is_closing(&self) -> bool {
        self.state.get() == State::Closing
    }

    /// Whether the connection has been idle for long enough to be kept without its buffers.
    pub(super) fn may_rest(&self) -> bool {
        self.may_rest.get() && self.state.get() == State::Idle
    }

    fn has_been_idle_for(&self, span: Duration, now: Instant) -> bool {
        self.state.get() == State::Idle
            && !self.is_multiplexed.get()
            && now.saturating_duration_since(self.since.get()) >= span
    }

    fn rest(&self) {
        if !self.may_rest.replace(true)
            && let Some(waker) = self.waker.borrow_mut().take()
        {
            waker.wake();
        }
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
        if self.ending.get() < ending {
            self.ending.set(ending);
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    fn enter(&self, state: State, now: Instant) {
        if state != State::Idle {
            self.may_rest.set(false);
        }
        self.state.set(state);
        self.since.set(now);
    }

    /// How it is to end by now.
    fn due(&self, limits: &Limits, now: Instant) -> Ending {
        let write_stalls = self
            .write_stalled_since
            .get()
            .is_some_and(|since| now.saturating_duration_since(since) >= limits.stall);
        let in_state = now.saturating_duration_since(self.since.get());
        let is_over = match self.state.get() {
            State::Handshake => in_state >= limits.handshake,
            State::Idle => in_state >= limits.idle + POLITE_MAX,
            State::Head => in_state >= limits.header,
            State::Closing => in_state >= LINGER_SILENT_MAX || self.closed_for(now) >= LINGER_MAX,
            // Bodies and replies have limits of their own, on progress.
            State::Busy => false,
        };
        // One that floods should have failed by itself, unless it does not read what we say.
        if is_over || write_stalls || self.is_flooding.get() {
            Ending::Cut
        } else if self.state.get() == State::Idle && in_state >= limits.idle {
            Ending::Polite
        } else {
            Ending::None
        }
    }

    fn closed_for(&self, now: Instant) -> Duration {
        self.closed_at.get().map_or(Duration::ZERO, |at| now.saturating_duration_since(at))
    }
}

// === impl StreamVitals ===

impl StreamVitals {
    /// The stream's task was woken; says whether it may go on.
    pub(super) fn wakes(&self, cx: &Context<'_>) -> bool {
        self.woke_at.set(Instant::now());
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        !self.is_cut.get()
    }
}
