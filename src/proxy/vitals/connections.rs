//! All connections of a worker: what it sweeps, makes room among and waits for when it stops.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Ending, Vitals};
use crate::config::Limits;

/// When the process stops, a client is listened to after its last reply, and waited for when it does not close, for
/// this long.
const LINGER_AT_STOP: Duration = Duration::from_millis(250);
const POLITE_AT_STOP_MAX: Duration = Duration::from_secs(1);

/// When connections run out, this part of those that are idle makes room, the longest idle first.
const ROOM_PART: usize = 16;

/// All connections of one worker.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Connections {
    open: RefCell<HashMap<u64, Rc<Vitals>>>,
    next: Cell<u64>,
}

/// A connection that counts as open until this is dropped.
#[derive(Debug)]
pub(in crate::proxy) struct Open<'a> {
    connections: &'a Connections,
    number: u64,
    pub(in crate::proxy) vitals: Rc<Vitals>,
}

// === impl Connections ===

impl Connections {
    /// One more.
    pub(in crate::proxy) fn open(&self) -> Open<'_> {
        let number = self.next.get();
        self.next.set(number + 1);
        let vitals = Rc::new(Vitals::new());
        self.open.borrow_mut().insert(number, Rc::clone(&vitals));
        Open { connections: self, number, vitals }
    }

    /// How many are open.
    pub(in crate::proxy) fn count(&self) -> usize {
        self.open.borrow().len()
    }

    /// Whether none is open that has anything left to say at `now`.
    pub(in crate::proxy) fn are_drained(&self, now: Instant) -> bool {
        let is_over = |vitals: &Rc<Vitals>| {
            vitals.closed_for(now) >= LINGER_AT_STOP || vitals.ignores_ending_for(now) >= POLITE_AT_STOP_MAX
        };
        self.open.borrow().values().all(is_over)
    }

    /// Ends those that are over a limit; says how many.
    pub(in crate::proxy) fn sweep(&self, limits: &Limits, now: Instant) -> u64 {
        let mut ended = 0;
        for vitals in self.open.borrow().values() {
            vitals.sweep_streams(limits, now);
            let due = vitals.due(limits, now);
            ended += u64::from(due != Ending::None && !vitals.is_ending());
            vitals.end(due);
            vitals.rest(now);
        }
        ended
    }

    /// Cuts those that have been idle longest, as nginx does when its connections run out: a client that only sits
    /// there must not keep others out. Says how many.
    pub(in crate::proxy) fn make_room(&self, now: Instant) -> u64 {
        let open = self.open.borrow();
        let mut idle: Vec<&Rc<Vitals>> = open.values().filter(|vitals| vitals.can_make_room(now)).collect();
        idle.sort_unstable_by_key(|vitals| vitals.since.get());
        let count = idle.len().div_ceil(ROOM_PART);
        idle.iter().take(count).for_each(|vitals| vitals.end(Ending::Cut));
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    /// Tells all to end.
    pub(in crate::proxy) fn end_all(&self, ending: Ending) {
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
