//! How a client's connection is doing: whether it is idle, sending a head, or being served, and since when.
//!
//! A connection has no timers of its own. It keeps a few notes here, the worker looks at all of them twice a second
//! ([`SWEEP_EVERY`]) and ends those that are over a limit. So a request costs no timer, and ten thousand idle
//! connections cost some 50 µs twice a second.

mod connections;
mod stream;
mod writing;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Limits;

pub(super) use connections::{Connections, Idler};
pub(super) use stream::StreamVitals;
use writing::Writing;

/// How often a worker looks at its connections.
pub(in crate::proxy) const SWEEP_EVERY: Duration = Duration::from_millis(500);

/// A client that goes on sending after its last reply is listened to for this long, and a silent one for less (both
/// as in nginx, `lingering_time` and `lingering_timeout`).
const LINGER_MAX: Duration = Duration::from_secs(30);
const LINGER_SILENT_MAX: Duration = Duration::from_secs(5);

/// An idle connection keeps its buffers for this long, if not too many others do ([`Idler`]).
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

/// When connections run out, one whose first request may be on its way has some time for it.
const ROOM_AFTER: Duration = Duration::from_millis(250);

/// The notes of one connection.
#[derive(Debug)]
pub(crate) struct Vitals {
    state: Cell<State>,
    since: Cell<Instant>,
    /// When the last byte of a head came.
    head_came_at: Cell<Instant>,
    writing: Writing,
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
    /// When the ending was decided.
    told_at: Cell<Option<Instant>>,
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
pub(in crate::proxy) enum Ending {
    /// It goes on.
    None,
    /// After what is in flight.
    Polite,
    /// At once.
    Cut,
}

// === impl Vitals ===

impl Vitals {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            state: Cell::new(State::Handshake),
            since: Cell::new(now),
            head_came_at: Cell::new(now),
            writing: Writing::default(),
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
            told_at: Cell::new(None),
            waker: RefCell::new(None),
        }
    }

    /// The client may speak, which on a connection without TLS it may do at once, or long after: nothing it sends is
    /// known to be a request yet, but its silence is as good as between two requests.
    pub(in crate::proxy) fn listens(&self) {
        self.enter(State::Idle, Instant::now());
    }

    /// The handshake is over, and the protocol known; `requests_max` requests may come.
    pub(in crate::proxy) fn ready(&self, is_multiplexed: bool, requests_max: u64) {
        self.is_multiplexed.set(is_multiplexed);
        self.requests_max.set(requests_max);
        self.enter(State::Idle, Instant::now());
    }

    /// A request has begun, and says when: where its head is known to have come a moment ago, then, since that spares a
    /// look at the clock.
    pub(in crate::proxy) fn request_begins(&self) -> Instant {
        let now = if self.state.get() == State::Head { self.head_came_at.get() } else { Instant::now() };
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
        now
    }

    /// The client has dropped a request that began at `begun`, before its reply was handed over. To be noted before
    /// the request's end.
    pub(in crate::proxy) fn request_is_dropped(&self, begun: Instant, now: Instant) {
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
    pub(in crate::proxy) fn is_hasty(&self) -> bool {
        self.hasty_from.get().is_some()
    }

    /// The client sends more than anyone needs to; the connection is to fail.
    pub(in crate::proxy) fn floods(&self) {
        if !self.is_flooding.replace(true) {
            self.wake();
        }
    }

    /// Whether [`Self::floods`] was said.
    pub(in crate::proxy) fn is_flooding(&self) -> bool {
        self.is_flooding.get()
    }

    /// After this request's reply an HTTP/1 connection is to close, since what follows on it may not be what the client
    /// meant (RFC 9112 §9.6). HTTP/2's streams do not touch each other.
    pub(in crate::proxy) fn distrust(&self) {
        if !self.is_multiplexed.get() {
            self.end(Ending::Polite);
        }
    }

    /// Whether no request should follow.
    pub(in crate::proxy) fn is_ending(&self) -> bool {
        self.ending.get() != Ending::None
    }

    /// A request has ended, its reply handed over.
    pub(in crate::proxy) fn request_ends(&self, now: Instant) {
        let left = self.in_flight.get().saturating_sub(1);
        self.in_flight.set(left);
        if left == 0 && self.state.get() == State::Busy {
            self.enter(State::Idle, now);
        }
    }

    /// Bytes came in.
    pub(in crate::proxy) fn received(&self, count: usize) {
        if count == 0 {
            self.is_half_closed.set(true);
            return;
        }
        match self.state.get() {
            State::Idle if !self.is_multiplexed.get() => {
                let now = Instant::now();
                self.head_came_at.set(now);
                self.enter(State::Head, now);
            }
            State::Head => self.head_came_at.set(Instant::now()),
            State::Closing => self.since.set(Instant::now()),
            State::Handshake | State::Idle | State::Busy => {}
        }
    }

    /// The socket is full.
    pub(in crate::proxy) fn write_stalls(&self) {
        self.writing.stalls();
    }

    /// The socket took some bytes; 0: all there were.
    pub(in crate::proxy) fn writes(&self, bytes: usize) {
        self.writing.goes_on(bytes);
    }

    /// A stream begins.
    pub(in crate::proxy) fn stream(&self) -> Rc<StreamVitals> {
        let stream = Rc::new(StreamVitals::new());
        self.streams.borrow_mut().push(Rc::downgrade(&stream));
        stream
    }

    fn sweep_streams(&self, limits: &Limits, now: Instant) {
        self.streams.borrow_mut().retain(|stream| {
            let Some(stream) = stream.upgrade() else { return false };
            if stream.sleeps_since(now) >= limits.request + limits.stall {
                stream.cut();
            }
            true
        });
    }

    /// Whether the client has closed its side.
    pub(in crate::proxy) fn is_half_closed(&self) -> bool {
        self.is_half_closed.get()
    }

    /// Our side is closed.
    pub(in crate::proxy) fn closes(&self) {
        let now = Instant::now();
        self.closed_at.set(Some(now));
        self.enter(State::Closing, now);
    }

    /// Whether our side is closed.
    pub(in crate::proxy) fn is_closing(&self) -> bool {
        self.state.get() == State::Closing
    }

    /// What the worker decided. The task that asks is woken when that changes.
    pub(in crate::proxy) fn ending(&self, cx: &Context<'_>) -> Ending {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        self.ending.get()
    }

    fn end(&self, ending: Ending) {
        if self.ending.get() < ending {
            self.ending.set(ending);
            self.told_at.set(Some(Instant::now()));
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

    /// Nothing is being asked, and the client has taken what it was answered. (The end of a reply may be in hyper's
    /// buffer for as long as the client does not read.)
    pub(in crate::proxy) fn is_idle(&self) -> bool {
        self.state.get() == State::Idle && !self.writing.is_full()
    }

    /// Whether the connection has been idle for long enough to be kept without its buffers.
    pub(super) fn may_rest(&self) -> bool {
        self.may_rest.get() && self.is_idle()
    }

    /// Wakes the connection's task to give up its buffers, if it has been idle for long enough.
    fn rest(&self, now: Instant) {
        let has_idled = self.is_idle()
            && !self.is_multiplexed.get()
            && now.saturating_duration_since(self.since.get()) >= REST_AFTER;
        if has_idled && !self.may_rest.replace(true) {
            self.wake();
        }
    }

    /// How it is to end by now.
    fn due(&self, limits: &Limits, now: Instant) -> Ending {
        let reads_slowly = self.writing.is_too_slow(limits.stall, limits.body_bytes_per_s_min, now);
        let in_state = now.saturating_duration_since(self.since.get());
        let is_over = match self.state.get() {
            State::Handshake => in_state >= limits.handshake,
            State::Idle => self.ignores_ending_for(now) >= POLITE_MAX,
            State::Head => in_state >= limits.header,
            State::Closing => in_state >= LINGER_SILENT_MAX || self.closed_for(now) >= LINGER_MAX,
            // Bodies and replies have limits of their own, on progress.
            State::Busy => false,
        };
        // One that floods should have failed by itself, unless it does not read what we say.
        if is_over || reads_slowly || self.is_flooding.get() {
            Ending::Cut
        } else if self.state.get() == State::Idle && in_state >= limits.idle {
            Ending::Polite
        } else {
            Ending::None
        }
    }

    /// Since when it has nothing to do, and does not close although it was told to.
    fn ignores_ending_for(&self, now: Instant) -> Duration {
        let told_for = self.told_at.get().map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let idle_for = now.saturating_duration_since(self.since.get());
        if self.is_idle() { told_for.min(idle_for) } else { Duration::ZERO }
    }

    /// Whether others may have its place: it waits for a client that has nothing to say, or no more.
    fn can_make_room(&self, now: Instant) -> bool {
        let is_old = now.saturating_duration_since(self.since.get()) >= ROOM_AFTER;
        self.ending.get() != Ending::Cut
            && match self.state.get() {
                State::Idle => self.is_idle() && (is_old || self.requests.get() > 0),
                State::Handshake | State::Closing => is_old,
                State::Head | State::Busy => false,
            }
    }

    fn closed_for(&self, now: Instant) -> Duration {
        self.closed_at.get().map_or(Duration::ZERO, |at| now.saturating_duration_since(at))
    }
}
