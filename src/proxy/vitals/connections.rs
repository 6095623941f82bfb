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

/// So many connections keep their buffers while they are idle; one that becomes idle beyond them gives its up at once.
/// A crowd that was answered within a second would else keep 8 KiB each until it is over.
const IDLERS_MAX: usize = 512;

/// All connections of one worker.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Connections {
    open: RefCell<HashMap<u64, Rc<Vitals>>>,
    next: Cell<u64>,
    /// Those that are idle and have not given up their buffers.
    idlers: Cell<usize>,
}

/// A connection that may be idle.
#[derive(Debug)]
pub(in crate::proxy) struct Idler<'a> {
    idlers: &'a Cell<usize>,
    is_idle: bool,
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

    /// One that is not idle yet.
    pub(in crate::proxy) fn idler(&self) -> Idler<'_> {
        Idler { idlers: &self.idlers, is_idle: false }
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

// === impl Idler ===

impl Idler<'_> {
    /// Notes whether it is idle; says whether more are than should be.
    pub(in crate::proxy) fn is_idle(&mut self, is_idle: bool) -> bool {
        if std::mem::replace(&mut self.is_idle, is_idle) != is_idle {
            let others = self.idlers.get();
            self.idlers.set(if is_idle { others + 1 } else { others.saturating_sub(1) });
        }
        is_idle && self.idlers.get() > IDLERS_MAX
    }
}

impl Drop for Idler<'_> {
    fn drop(&mut self) {
        self.is_idle(false);
    }
}

// === impl Open ===

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.connections.open.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_becomes_idle_beyond_so_many_is_one_too_many() {
        let connections = Connections::default();
        let mut idlers: Vec<_> = (0..IDLERS_MAX).map(|_| connections.idler()).collect();
        assert!(idlers.iter_mut().all(|idler| !idler.is_idle(true)));
        let mut last = connections.idler();
        assert!(!last.is_idle(false));
        assert!(last.is_idle(true));
        // Said twice, it counts once.
        assert!(last.is_idle(true));
        idlers.pop();
        assert!(!last.is_idle(true), "another one has gone");
        let mut other = connections.idler();
        assert!(other.is_idle(true));
        idlers[0].is_idle(false);
        assert!(!other.is_idle(true), "another one is asked for something");
    }
}
