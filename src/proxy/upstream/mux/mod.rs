//! HTTP/2 towards WeChat: connections that the requests of a worker share.
//!
//! ```text
//! mod.rs      Mux, one shared connection; Lease, one request's place on it
//! host.rs     a host's shared connections: which takes the next request, which are done with
//! greeting.rs the first words of both sides
//! exchange.rs the request out, the head of the reply in     upload.rs  the request's body out
//! body.rs     the body of the reply in                      wire.rs    the bytes below, and whether any came
//! ```
//!
//! # Promises
//!
//! Those of the whole room, and:
//!
//! * A request is sent again, whatever its method, only when the other side says that it has not looked at it:
//!   `REFUSED_STREAM`, or above the last stream of a `GOAWAY` (RFC 9113 §8.7). At most twice, and only if its body is
//!   in memory.
//! * No more requests are on one connection than the other side allows, nor more than [`STREAMS_MAX`]. Beyond, another
//!   connection is made within the bounds of the pool; beyond those, requests wait in the pool's queue.
//! * A connection on which nothing came for 5 s though a request is on its way is asked (`PING`), and given up when
//!   nothing came for 10 s: its requests end, 11 s after the last byte at most. (RFC 9113 §9.2.2 leaves it to us.)
//! * What a reader does not take is not asked for: a stream has [`STREAM_WINDOW_BYTES`] of credit, which come back only
//!   as the body is read. The connection has credit for all its streams together, so that slow readers never hold up
//!   the others.
//! * Whoever drops a request or its reply resets its stream; the connection stays.
//!
//! # Why
//!
//! * The crate `h2`, not hyper's client: that has a task and a channel beside each connection, and what is wanted of it
//!   (how many streams are allowed, what an error says about the request) is h2's to tell.
//! * One connection for as many requests as it takes, since what costs is the system calls: the connection's task was
//!   woken by the requests that were written since it last ran, and is behind them in the worker's queue, so when it
//!   runs, the frames of all of them leave in one write, one TLS record; and the replies that came meanwhile are read
//!   at once.
//! * A server that ends connections after so many requests (nginx: `keepalive_requests`, 1000 by default) would let
//!   everything wait for a handshake each time. So how many it took is remembered, and the next connection is made when
//!   three quarters of them are used up.
//! * An idle connection is trusted with a POST as one of HTTP/1.1 is (`health`), since a server may close it without a
//!   `GOAWAY`; one that carries other requests at this moment is trusted anyway.

mod body;
mod exchange;
mod greeting;
mod host;
mod upload;
mod wire;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong};
use http::uri::Authority;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::connection::{Slot, Stage};
use super::health::Trust;
use super::pool::{Choice, Host};
use greeting::Signs;

pub(super) use body::Incoming;
pub(super) use exchange::exchange;
pub(super) use greeting::{Greeted, greet};
pub(super) use host::Muxes;

/// One connection, and the requests on it.
pub(super) struct Mux {
    host: Weak<Host>,
    authority: Authority,
    /// Counts up with each connection to the host.
    pub(super) serial: u64,
    handle: RefCell<SendRequest<Bytes>>,
    /// Requests on their way.
    streams: Cell<usize>,
    /// Requests since it was made.
    carried: Cell<u64>,
    idle_since: Cell<Instant>,
    slot: RefCell<Slot>,
    ping: RefCell<Option<PingPong>>,
    signs: Rc<Signs>,
    /// Looks since anything came.
    silent_looks: Cell<u32>,
    task: AbortHandle,
}

/// A request's place on a shared connection; given back when dropped.
#[derive(Debug)]
pub(super) struct Lease {
    /// `None` once it was given back.
    mux: Option<Rc<Mux>>,
    /// How long the connection was idle before; `None`: it was not, or it is new.
    was_idle: Option<Duration>,
}

// === impl Mux ===

impl Mux {
    /// A connection that is ready. Its place is still one of those that are being made.
    fn new(greeted: Greeted, slot: Slot, host: &Host, serial: u64) -> Option<Rc<Self>> {
        let Greeted { handle, ping, signs, task } = greeted;
        let mux = Rc::new(Self {
            host: Weak::clone(&host.me),
            authority: host.authority.parse().ok()?,
            serial,
            handle: RefCell::new(handle),
            streams: Cell::new(0),
            carried: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            slot: RefCell::new(slot),
            ping: RefCell::new(ping),
            signs,
            silent_looks: Cell::new(0),
            task,
        });
        *mux.signs.owner.borrow_mut() = Rc::downgrade(&mux);
        Some(mux)
    }

    /// Whether it takes new requests: it has not ended, and the other side has not said that it will.
    fn is_open(&self) -> bool {
        let mut handle = self.handle.borrow_mut();
        match handle.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(opened) => opened.is_ok(),
            // A stream waits for a reset one to be gone. It is no matter of the next.
            Poll::Pending => {
                let fresh = handle.clone();
                *handle = fresh;
                true
            }
        }
    }

    /// Requests that may be on their way at one time.
    fn streams_max(&self) -> usize {
        self.handle.borrow().current_max_send_streams().min(STREAMS_MAX)
    }

    fn idle_for(&self, now: Instant) -> Option<Duration> {
        (self.streams.get() == 0).then(|| now.saturating_duration_since(self.idle_since.get()))
    }

    /// Whether a request that makes this choice may go here.
    fn suits(&self, choice: Choice, trust: &Trust) -> bool {
        match choice {
            Choice::Any => true,
            Choice::New { after } => self.serial > after,
            Choice::Trusted => {
                self.carried.get() == 0
                    || self.idle_for(Instant::now()).is_none_or(|idle| idle <= trust.span())
            }
        }
    }

    fn lease(self: &Rc<Self>) -> Lease {
        let mut was_idle = None;
        if self.streams.get() == 0 && self.carried.get() > 0 {
            was_idle = Some(self.idle_since.get().elapsed());
            self.slot.borrow_mut().enter(Stage::InUse);
        }
        self.streams.set(self.streams.get() + 1);
        self.carried.set(self.carried.get() + 1);
        Lease { mux: Some(Rc::clone(self)), was_idle }
    }

    fn end_stream(&self) {
        let streams = self.streams.get().saturating_sub(1);
        self.streams.set(streams);
        if streams == 0 {
            self.idle_since.set(Instant::now());
            self.slot.borrow_mut().enter(Stage::Idle);
        }
    }

    /// Once a second: asks a connection that is silent for too long, and gives it up in the end.
    fn take_pulse(&self) {
        if self.signs.heard.take() || self.streams.get() == 0 {
            self.silent_looks.set(0);
            return;
        }
        let looks = self.silent_looks.get() + 1;
        self.silent_looks.set(looks);
        if looks == PING_AFTER_LOOKS
            && let Some(ping) = &mut *self.ping.borrow_mut()
        {
            // The answer to the last one, if any, makes room for the next.
            drop(ping.poll_pong(&mut Context::from_waker(Waker::noop())));
            drop(ping.send_ping(Ping::opaque()));
        }
        if looks >= GIVE_UP_AFTER_LOOKS {
            self.task.abort();
        }
    }

    /// The connection is gone.
    fn ended(self: &Rc<Self>) {
        let Some(host) = self.host.upgrade() else { return };
        if let Some(idle) = self.idle_for(Instant::now()) {
            host.stats.idle_closed.add(1);
            host.trust.seen_closed(idle);
        }
        host.retire(self);
    }
}

impl std::fmt::Debug for Mux {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mux")
            .field("serial", &self.serial)
            .field("streams", &self.streams)
            .finish_non_exhaustive()
    }
}

// === impl Lease ===

impl Lease {
    pub(super) fn serial(&self) -> u64 {
        self.mux.as_ref().map_or(0, |mux| mux.serial)
    }

    pub(super) fn suits(&self, choice: Choice, trust: &Trust) -> bool {
        self.mux.as_ref().is_some_and(|mux| mux.suits(choice, trust))
    }

    /// The connection died without a byte of a reply.
    pub(super) fn note_died(&self) {
        if let (Some(mux), Some(idle)) = (&self.mux, self.was_idle)
            && let Some(host) = mux.host.upgrade()
        {
            host.trust.seen_closed(idle);
        }
    }

    /// Back, without a thought of who waits: the caller is having it.
    fn give_back(mut self) {
        if let Some(mux) = self.mux.take() {
            mux.end_stream();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mux) = self.mux.take() else { return };
        mux.end_stream();
        if let Some(host) = mux.host.upgrade() {
            host.stream_ended(&mux);
        }
    }
}

/// Requests on one connection at one time, whatever the other side allows: nginx's 128 and more, and few enough for
/// what they may have us hold.
const STREAMS_MAX: usize = 256;

/// What a stream's reader may be behind by: 8 MB/s at 30 ms.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;

/// That of all streams together.
const CONNECTION_WINDOW_BYTES: u32 = 64 * 1024 * 1024;

/// What is taken from a request's body before the connection has room for it.
const UPLOAD_AHEAD_BYTES: usize = 64 * 1024;

const RESET_MEMORY: Duration = Duration::from_secs(5);

/// Looks are a second apart (`maintain`).
const PING_AFTER_LOOKS: u32 = 5;
const GIVE_UP_AFTER_LOOKS: u32 = 10;
