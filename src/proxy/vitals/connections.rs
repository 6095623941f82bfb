//! All connections of one worker: opened, swept, told to end.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use tokio::time::Instant;

use super::{Ending, LINGER_AT_STOP, REST_AFTER, State, Vitals};
use crate::config::Limits;

/// All connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: RefCell<HashMap<u64, Rc<Vitals>>>,
    next: Cell<u64>,
}

/// A connection that counts as open until this is dropped.
#[derive(Debug)]
pub(crate) struct Open<'a> {
    connections: &'a Connections,
    number: u64,
    pub(crate) vitals: Rc<Vitals>,
}

// === impl Connections ===

/// The oldest idle connections that make room at once: one, and this part of those that are idle.
const ROOM_PART: usize = 16;

impl Connections {
    /// One more.
    pub(crate) fn open(&self) -> Open<'_> {
        let number = self.next.get();
        self.next.set(number + 1);
        let vitals = Rc::new(Vitals::new());
        self.open.borrow_mut().insert(number, Rc::clone(&vitals));
        Open { connections: self, number, vitals }
    }

    /// How many are open.
    pub(crate) fn count(&self) -> usize {
        self.open.borrow().len()
    }

    /// Whether none is open that has anything left to say at `now`.
    pub(crate) fn are_drained(&self, now: Instant) -> bool {
        let is_over = |vitals: &Rc<Vitals>| vitals.is_closing() && vitals.closed_for(now) >= LINGER_AT_STOP;
        self.open.borrow().values().all(is_over)
    }

    /// Ends those that are over a limit; says how many.
    pub(crate) fn sweep(&self, limits: &Limits, now: Instant) -> u64 {
        let mut ended = 0;
        for vitals in self.open.borrow().values() {
            vitals.sweep_streams(limits, now);
            let due = vitals.due(limits, now);
            if due == Ending::None && vitals.has_been_idle_for(REST_AFTER, now) {
                vitals.rest();
            }
            ended += u64::from(due != Ending::None && !vitals.is_ending());
            vitals.end(due);
        }
        ended
    }

    /// Ends those that have been idle longest, as nginx does when its connections run out: a client that only sits
    /// there must not keep others out. Says how many.
    pub(crate) fn make_room(&self) -> u64 {
        let open = self.open.borrow();
        let is_idle = |vitals: &&Rc<Vitals>| {
            matches!(vitals.state.get(), State::Idle | State::Handshake) && !vitals.is_ending()
        };
        let mut idle: Vec<&Rc<Vitals>> = open.values().filter(is_idle).collect();
        idle.sort_unstable_by_key(|vitals| vitals.since.get());
        let count = idle.len().div_ceil(ROOM_PART);
        for vitals in idle.iter().take(count) {
            // A handshake knows no manners.
            vitals.end(if vitals.state.get() == State::Idle { Ending::Polite } else { Ending::Cut });
        }
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    /// Tells all to end.
    pub(crate) fn end_all(&self, ending: Ending) {
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
