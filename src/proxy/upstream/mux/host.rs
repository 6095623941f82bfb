//! A host's shared connections: which takes the next request, and when one is made or done with.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use tokio::time::Instant;

use super::{Greeted, Lease, Mux, STREAMS_MAX};
use crate::proxy::upstream::connection::{Slot, Stage};
use crate::proxy::upstream::pool::{Choice, DIALLING_MAX, Handed, Host};

/// Those of one host.
#[derive(Debug, Default)]
pub(in crate::proxy::upstream) struct Muxes {
    /// Take requests; the youngest first.
    open: RefCell<Vec<Rc<Mux>>>,
    /// Take none any more; here for as long as requests are on them.
    leaving: RefCell<Vec<Weak<Mux>>>,
    spoken: Cell<Spoken>,
    serial: Cell<u64>,
    /// How many requests a connection carried before the other side said goodbye; 0: not known.
    requests_each: Cell<u64>,
}

/// What a host agreed on when it was connected to last.
#[derive(Debug, Clone, Copy, Default)]
enum Spoken {
    #[default]
    Unknown,
    Http1,
    /// Requests on one connection at one time.
    Http2 {
        streams: usize,
    },
}

// === impl Muxes ===

impl Muxes {
    /// The host speaks HTTP/1.1.
    pub(in crate::proxy::upstream) fn none_here(&self) {
        self.spoken.set(Spoken::Http1);
    }

    /// The serial of the youngest.
    pub(in crate::proxy::upstream) fn youngest(&self) -> u64 {
        self.serial.get()
    }

    /// How many requests fill one connection; `None` where each has its own.
    fn crowd(&self) -> Option<usize> {
        match self.spoken.get() {
            Spoken::Http1 => None,
            Spoken::Unknown => Some(usize::MAX),
            Spoken::Http2 { streams } => Some(streams.max(1)),
        }
    }

    fn contains(&self, mux: &Rc<Mux>) -> bool {
        self.open.borrow().iter().any(|one| Rc::ptr_eq(one, mux))
    }

    /// Takes it off the list; whether it was there.
    fn remove(&self, mux: &Rc<Mux>) -> bool {
        let mut open = self.open.borrow_mut();
        let place = open.iter().position(|one| Rc::ptr_eq(one, mux));
        let removed = place.map(|place| open.remove(place));
        drop(open);
        removed.is_some()
    }
}

// === impl Host ===

impl Host {
    /// How many may dial at one time. Where connections are shared, or may turn out to be, one for each crowd that
    /// would fill it.
    pub(in crate::proxy::upstream) fn dialling_max(&self) -> usize {
        match self.muxes.crowd().filter(|_| self.bounds.http2) {
            None => DIALLING_MAX,
            Some(crowd) => (self.waiting.borrow().len() / crowd).clamp(1, DIALLING_MAX),
        }
    }

    /// A place on a connection that others may be using.
    pub(in crate::proxy::upstream) fn take_stream(&self, choice: Choice) -> Option<Lease> {
        if self.muxes.open.borrow().is_empty() {
            return None;
        }
        if choice == Choice::Trusted {
            self.learn_from_muxes();
        }
        loop {
            let has_place =
                |mux: &&Rc<Mux>| mux.suits(choice, &self.trust) && mux.streams.get() < mux.streams_max();
            let found = self.muxes.open.borrow().iter().find(has_place).map(Rc::clone)?;
            if found.is_open() {
                return Some(self.lease_of(&found));
            }
            self.retire(&found);
        }
    }

    fn lease_of(&self, mux: &Rc<Mux>) -> Lease {
        let lease = mux.lease();
        if mux.carried.get().saturating_mul(4) == self.muxes.requests_each.get().saturating_mul(3) {
            self.make_another();
        }
        lease
    }

    /// As with connections of HTTP/1.1: an idle one that is alive says how long they live.
    fn learn_from_muxes(&self) {
        let now = Instant::now();
        for mux in &*self.muxes.open.borrow() {
            if let Some(idle) = mux.idle_for(now)
                && self.trust.would_learn(idle)
                && mux.is_open()
            {
                self.trust.seen_alive(idle);
            }
        }
    }

    /// Makes a new connection one to share, with a place on it for the caller.
    pub(in crate::proxy::upstream) fn share(&self, greeted: Greeted, slot: Slot) -> Option<Lease> {
        let serial = self.muxes.serial.get() + 1;
        self.muxes.serial.set(serial);
        let streams = greeted.handle.current_max_send_streams().min(STREAMS_MAX);
        self.muxes.spoken.set(Spoken::Http2 { streams });
        let mux = Mux::new(greeted, slot, self, serial)?;
        self.stats.opened_http2.add(1);
        let lease = mux.lease();
        self.muxes.open.borrow_mut().insert(0, Rc::clone(&mux));
        // First the crowd that has waited for it; whoever is left may have a turn to make the next.
        self.stream_ended(&mux);
        mux.slot.borrow_mut().enter(Stage::InUse);
        Some(lease)
    }

    /// A place is free: to whoever waits.
    pub(super) fn stream_ended(&self, mux: &Rc<Mux>) {
        while !self.waiting.borrow().is_empty() {
            if !self.muxes.contains(mux) || !mux.is_open() {
                return self.call_next();
            }
            if mux.streams.get() >= mux.streams_max() {
                return;
            }
            if let Some(left) = self.hand_stream(mux.lease()) {
                // A lease that nobody had is no request.
                mux.carried.set(mux.carried.get() - 1);
                return left.give_back();
            }
        }
    }

    /// To the first in the queue whom it suits; back where there is none.
    fn hand_stream(&self, mut lease: Lease) -> Option<Lease> {
        loop {
            let next = {
                let mut waiting = self.waiting.borrow_mut();
                let place = waiting.iter().position(|waiter| lease.suits(waiter.choice, &self.trust));
                place.and_then(|place| waiting.remove(place))
            };
            let Some(waiter) = next else { return Some(lease) };
            match waiter.hand.send(Handed::Stream(lease)) {
                Err(Handed::Stream(back)) => lease = back,
                Ok(()) | Err(Handed::Connection(_) | Handed::Turn(_) | Handed::Unreachable(_)) => {
                    return None;
                }
            }
        }
    }

    /// No more requests on this one: it ended, or the other side said that it will.
    pub(super) fn retire(&self, mux: &Rc<Mux>) {
        if !self.muxes.remove(mux) {
            return;
        }
        if mux.streams.get() > 0 && mux.carried.get() >= REQUESTS_EACH_MIN {
            self.muxes.requests_each.set(mux.carried.get());
        }
        self.muxes.leaving.borrow_mut().push(Rc::downgrade(mux));
        self.call_next();
    }

    /// Makes a connection ahead of time.
    fn make_another(&self) {
        let (Some(slot), Some(host)) = (self.free_turn(), self.me.upgrade()) else { return };
        tokio::task::spawn_local(async move {
            // Where that fails, the next request tries again, and is told why.
            drop(host.make(slot).await);
        });
    }

    /// Once a second: closes those that are idle for too long, and takes the pulse of the others.
    pub(in crate::proxy::upstream) fn sweep_muxes(&self, now: Instant) {
        let open: Vec<_> = self.muxes.open.borrow().iter().map(Rc::clone).collect();
        let mut idle_ones = 0;
        for mux in open {
            if !mux.is_open() {
                self.retire(&mux);
                continue;
            }
            self.muxes.spoken.set(Spoken::Http2 { streams: mux.streams_max() });
            mux.take_pulse();
            let Some(idle) = mux.idle_for(now) else { continue };
            idle_ones += 1;
            if idle >= self.bounds.idle || idle_ones > self.bounds.idle_connections_max {
                self.stats.idle_closed.add(1);
                self.muxes.remove(&mux);
            } else {
                self.trust.seen_alive(idle);
            }
        }
        self.muxes.leaving.borrow_mut().retain(|mux| {
            mux.upgrade().is_some_and(|mux| {
                mux.take_pulse();
                true
            })
        });
    }
}

/// A goodbye after fewer requests has another reason than their number.
const REQUESTS_EACH_MIN: u64 = 50;
