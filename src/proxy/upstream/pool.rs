//! One host's connections: the idle ones, a bound on all of them, and the queue of requests that wait.
//!
//! # Why
//!
//! * Idle connections are used last in, first out: the freshest is the one most surely alive, and those that are
//!   not needed grow old and are closed.
//! * Requests beyond the bounds wait in the order they came. What they wait for is whichever comes first: a
//!   connection that another request has done with, or a turn to make one. Turns are bounded too, since a
//!   handshake costs ten times a request and ten thousand at once would leave no time for any of them to end.
//! * A connection is handed to the first in the queue directly, so that no newcomer can be quicker for ever.
//!
//! A connection that speaks HTTP/2 is in here too, but in no stack: requests share it (`mux`). What differs is decided
//! in this file: who shares and who does not, and how many may dial.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::connection::{Connection, Slot, Stage, Way};
use super::dial::Dialler;
use super::health::{Health, Trust};
use super::mux::{Greeted, Lease, Muxes, greet};
use super::socket::{Probe, Socket};
use super::{ConnectError, Stats};

/// One host of the worker's.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) me: Weak<Self>,
    pub(super) authority: String,
    pub(super) health: Health,
    pub(super) trust: Trust,
    dialler: Dialler,
    pub(super) bounds: Bounds,
    pub(super) stats: Arc<Stats>,
    /// Those that speak HTTP/2.
    pub(super) muxes: Muxes,
    idle: RefCell<VecDeque<Idle>>,
    pub(super) waiting: RefCell<VecDeque<Waiter>>,
    /// Connections that are open or being made.
    pub(super) open: Cell<usize>,
    /// Connections that are being made.
    pub(super) dialling: Cell<usize>,
}

/// How many connections a worker has to one host.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) idle: Duration,
    pub(super) idle_connections_max: usize,
    pub(super) connections_max: usize,
    /// For the first words of HTTP/2.
    pub(super) connect: Duration,
    /// Whether HTTP/2 is offered to this host.
    pub(super) http2: bool,
}

/// Which connections will do for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// Any that is alive: the request may be sent again.
    Any,
    /// One that was used a moment ago, or a new one: the request must not be sent twice.
    Trusted,
    /// A new one, since the request was sent before; or an HTTP/2 connection younger than this (`Mux::serial`).
    New { after: u64 },
}

#[derive(Debug)]
pub(super) struct Idle {
    connection: Connection,
    since: Instant,
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) choice: Choice,
    pub(super) hand: oneshot::Sender<Handed>,
}

/// A GET takes a connection that was used less than this ago without asking the kernel about it. TLS and tokio are asked;
/// tokio has heard of whatever came before the last turn of its reactor, and for what came since the kernel's answer would
/// often be too early as well. The system call is 2 % of what a request costs, and a GET whose connection has died is sent
/// again.
const FRESH_MAX: Duration = Duration::from_millis(20);

/// A new connection, ready for requests.
enum Dialled {
    Alone(Socket),
    Shared(Greeted),
}

/// What ends a wait.
#[derive(Debug)]
pub(super) enum Handed {
    Connection(Idle),
    Stream(Lease),
    Turn(Slot),
    Unreachable(ConnectError),
}

// === impl Host ===

impl Host {
    pub(super) fn new(authority: String, dialler: Dialler, bounds: Bounds, stats: Arc<Stats>) -> Rc<Self> {
        Rc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            authority,
            health: Health::default(),
            trust: Trust::new(),
            dialler,
            bounds,
            stats,
            muxes: Muxes::default(),
            idle: RefCell::default(),
            waiting: RefCell::default(),
            open: Cell::new(0),
            dialling: Cell::new(0),
        })
    }

    /// A connection for one request, shared, taken from the idle ones or made.
    pub(super) async fn acquire(&self, choice: Choice) -> Result<Way, ConnectError> {
        if let Some(lease) = self.take_stream(choice) {
            self.stats.reused.add(1);
            return Ok(Way::Shared(lease));
        }
        if let Some(connection) = self.take_idle(choice) {
            self.stats.reused.add(1);
            return Ok(Way::Alone(connection));
        }
        let slot = match self.turn() {
            Some(slot) => slot,
            None => match self.wait(choice).await? {
                Handed::Turn(slot) => slot,
                Handed::Unreachable(cause) => return Err(cause),
                Handed::Connection(idle) => match self.take_over(idle, choice) {
                    Ok(connection) => return Ok(Way::Alone(connection)),
                    Err(slot) => slot,
                },
                Handed::Stream(lease) => {
                    self.stats.reused.add(1);
                    return Ok(Way::Shared(lease));
                }
            },
        };
        // Boxed: a handshake's state is large, and most requests have none.
        Box::pin(self.make(slot)).await
    }

    /// A connection that was handed over a moment ago; where it will not do, its place, for a new one.
    fn take_over(&self, idle: Idle, choice: Choice) -> Result<Connection, Slot> {
        let Idle { mut connection, since } = idle;
        let age = since.elapsed();
        let is_trusted = choice == Choice::Any || age <= self.trust.span().max(HANDED_MAX);
        if is_trusted && self.is_alive(&mut connection, age) {
            self.stats.reused.add(1);
            connection.was_idle = Some(age);
            return Ok(connection);
        }
        Err(connection.into_slot())
    }

    /// The freshest idle connection, if it will do and is alive.
    fn take_idle(&self, choice: Choice) -> Option<Connection> {
        if matches!(choice, Choice::New { .. }) {
            return None;
        }
        let now = Instant::now();
        loop {
            let mut idle = self.idle.borrow_mut();
            let since = idle.back()?.since;
            let age = now.saturating_duration_since(since);
            if choice == Choice::Trusted && age > self.trust.span() {
                drop(idle);
                self.learn(now).then_some(())?;
                continue;
            }
            let mut connection = idle.pop_back()?.connection;
            // A connection that is dropped wakes others.
            drop(idle);
            let is_fresh = choice == Choice::Any && age < FRESH_MAX && !connection.socket.has_news();
            if is_fresh || (age < self.bounds.idle && self.is_alive(&mut connection, age)) {
                connection.was_idle = Some(age);
                connection.slot.enter(Stage::InUse);
                return Some(connection);
            }
        }
    }

    /// Looks at the oldest idle connection, if that can tell something new. Whether it was so, and good news.
    fn learn(&self, now: Instant) -> bool {
        loop {
            let mut idle = self.idle.borrow_mut();
            let Some(oldest) = idle.front() else { return false };
            let age = now.saturating_duration_since(oldest.since);
            if !self.trust.would_learn(age) {
                return false;
            }
            let Some(mut oldest) = idle.pop_front() else { return false };
            drop(idle);
            if self.is_alive(&mut oldest.connection, age) {
                self.trust.seen_alive(age);
                self.idle.borrow_mut().push_front(oldest);
                return true;
            }
        }
    }

    /// Asks the connection, and remembers what that says about the host.
    fn is_alive(&self, connection: &mut Connection, age: Duration) -> bool {
        match connection.socket.probe() {
            Probe::Alive => return true,
            Probe::Closed => {
                self.stats.idle_closed.add(1);
                self.trust.seen_closed(age);
            }
            Probe::Unsolicited => self.stats.unsolicited.add(1),
        }
        false
    }

    /// A turn to make a connection, unless a bound is reached or others wait already.
    fn turn(&self) -> Option<Slot> {
        if !self.waiting.borrow().is_empty() {
            return None;
        }
        if self.open.get() >= self.bounds.connections_max {
            // One that this request cannot use makes room for one that it can.
            let spare = spare_one(&mut self.idle.borrow_mut());
            drop(spare);
        }
        self.free_turn()
    }

    pub(super) fn free_turn(&self) -> Option<Slot> {
        let is_free =
            self.open.get() < self.bounds.connections_max && self.dialling.get() < self.dialling_max();
        is_free.then(|| {
            self.open.set(self.open.get() + 1);
            self.dialling.set(self.dialling.get() + 1);
            Slot::dialling(Weak::clone(&self.me), Arc::clone(&self.stats))
        })
    }

    pub(super) async fn make(&self, mut slot: Slot) -> Result<Way, ConnectError> {
        match self.dial().await {
            Ok(Dialled::Shared(greeted)) => {
                self.health.reached();
                self.stats.opened.add(1);
                self.share(greeted, slot).map(Way::Shared).ok_or(ConnectError::Other)
            }
            Ok(Dialled::Alone(socket)) => {
                self.health.reached();
                self.stats.opened.add(1);
                self.muxes.none_here();
                slot.enter(Stage::InUse);
                Ok(Way::Alone(Connection::new(socket, slot)))
            }
            Err(cause) => {
                self.health.failed(Instant::now(), cause);
                self.stats.connect_failed(cause);
                if self.open.get() == 1 {
                    // This was the last try, and nothing is open that could be freed for those who wait.
                    self.turn_away(cause);
                }
                Err(cause)
            }
        }
    }

    /// Dials, and dials again where the other side has closed the new connection before it could be used, as one
    /// with a very short idle limit does. Nothing was sent, so any request may have the next.
    async fn dial(&self) -> Result<Dialled, ConnectError> {
        for _dial in 0..DIALS_MAX {
            let mut socket = self.dialler.dial().await?;
            if socket.speaks_http2() {
                return greet(socket, self.bounds.connect).await.map(Dialled::Shared);
            }
            if socket.probe() == Probe::Alive {
                return Ok(Dialled::Alone(socket));
            }
        }
        Err(ConnectError::Closed)
    }

    async fn wait(&self, choice: Choice) -> Result<Handed, ConnectError> {
        self.stats.waits.add(1);
        let (hand, handed) = oneshot::channel();
        self.waiting.borrow_mut().push_back(Waiter { choice, hand });
        if self.bounds.http2 {
            // The crowd may have grown beyond what is being dialled for.
            self.call_next();
        }
        // The sender is in the queue of a host that is borrowed here, so it cannot be gone.
        handed.await.map_err(|_| ConnectError::Other)
    }

    fn turn_away(&self, cause: ConnectError) {
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        for waiter in waiting {
            // It may have given up; then nobody needs to hear.
            let _gave_up = waiter.hand.send(Handed::Unreachable(cause));
        }
    }

    /// To the first in the queue that can use it, or to the idle ones.
    pub(super) fn give(&self, connection: Connection) {
        let mut idle = Idle { connection, since: Instant::now() };
        loop {
            let next = {
                let mut waiting = self.waiting.borrow_mut();
                let place = waiting.iter().position(|waiter| !matches!(waiter.choice, Choice::New { .. }));
                place.and_then(|place| waiting.remove(place))
            };
            let Some(waiter) = next else { break };
            match waiter.hand.send(Handed::Connection(idle)) {
                Err(Handed::Connection(back)) => idle = back,
                Ok(()) | Err(Handed::Stream(_) | Handed::Turn(_) | Handed::Unreachable(_)) => return,
            }
        }
        // Whoever waits still wants a new one, and can have this one's place.
        if self.waiting.borrow().is_empty() {
            self.keep(idle);
        }
    }

    fn keep(&self, mut one: Idle) {
        if self.bounds.idle_connections_max == 0 {
            return;
        }
        one.connection.slot.enter(Stage::Idle);
        let mut idle = self.idle.borrow_mut();
        let is_full = idle.len() >= self.bounds.idle_connections_max;
        let spare = if is_full { spare_one(&mut idle) } else { None };
        idle.push_back(one);
        drop(idle);
        drop(spare);
    }

    /// Gives free turns to those who wait. While the host seems down, to one at a time: all may learn from it.
    pub(super) fn call_next(&self) {
        loop {
            let is_doubtful = self.health.cause().is_some() && self.dialling.get() > 0;
            if is_doubtful || self.waiting.borrow().is_empty() {
                return;
            }
            let Some(turn) = self.free_turn() else { return };
            let next = self.waiting.borrow_mut().pop_front();
            let handed = match next {
                Some(waiter) => waiter.hand.send(Handed::Turn(turn)),
                None => Err(Handed::Turn(turn)),
            };
            if let Err(Handed::Turn(mut turn)) = handed {
                turn.give_up();
            }
        }
    }

    /// Closes idle connections that are too old or were closed by the other side, and learns from the others.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        self.sweep_muxes(now);
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        let mut kept = VecDeque::with_capacity(idle.len());
        for mut one in idle {
            let age = now.saturating_duration_since(one.since);
            if age >= self.bounds.idle {
                self.stats.idle_closed.add(1);
            } else if self.is_alive(&mut one.connection, age) {
                self.trust.seen_alive(age);
                kept.push_back(one);
            }
        }
        // Dropping the others may have woken requests, but none of them has run yet.
        *self.idle.borrow_mut() = kept;
    }
}

/// The oldest but one: the oldest is the one to learn from (`health`).
fn spare_one(idle: &mut VecDeque<Idle>) -> Option<Idle> {
    idle.remove(1).or_else(|| idle.pop_front())
}

/// A connection that was handed over longer ago than this counts as idle since.
const HANDED_MAX: Duration = Duration::from_micros(500);

/// Of connections that are closed at once.
const DIALS_MAX: usize = 4;

/// Handshakes of one worker with one host at one time. 64 take about 20 ms of one core.
pub(super) const DIALLING_MAX: usize = 64;
