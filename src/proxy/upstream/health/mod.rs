//! What is remembered of a host: whether it can be reached, and for how long its idle connections can be trusted.
//!
//! # Why trust
//!
//! An idle connection can be closed by the other side at the very moment a request is written to it. A GET can be
//! sent again; a POST may not be (RFC 9110 §9.2.2), so for it the choice of the connection must be careful. The
//! probe before each reuse sees a close that has arrived; what remains is one that is on its way, and that happens
//! only near the idle time at which the other side closes. So:
//!
//! * A POST goes out on a connection only if that was idle for less than *half* the longest idle time at which a
//!   connection of that host was seen alive. Half, since the two sides' clocks do not start at the same moment.
//! * What was seen at less than half a second does not count: on a busy machine either side can be late, so that an
//!   origin which closes after 2 ms can be seen alive after 3, or after 60. So trust is nothing at the start. Measured
//!   with such an origin, 16 callers, 2,000 POSTs, two cores with a dozen other processes: where 50 ms were enough,
//!   109 POSTs failed; an idle machine shows none either way.
//! * A request that was lost on a trusted connection is proof that the evidence was wrong (or that the origin was
//!   restarted): for half a minute nothing is trusted, and then trust starts from nothing.
//! * Each idle connection is looked at once a second; and when a POST finds only ones it may not use, the oldest is
//!   looked at there and then. So a busy pool learns within a second, at the price of some extra connections; and
//!   where the pool is full, the oldest is not the one that is given up, since it is the one to learn from.
//! * Where a connection is seen closed after an idle time t, all that was seen beyond t is forgotten, and trust is
//!   t/2 or less. If it was no idle timer that closed it (a restart, say), later looks build trust up again.
//! * A connection that goes from one request straight to another that waited for it was not idle at all.
//! * The setting `idle` bounds all of it, since older connections are closed by us.
//!
//! A request that may not use an idle connection makes a new one, which costs time and never correctness.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use super::ConnectError;

/// How long an idle connection of one host can be trusted with a request that must not be sent twice.
#[derive(Debug)]
pub(super) struct Trust {
    alive_longest: Cell<Duration>,
    /// Until then nothing counts as evidence.
    doubted_until: Cell<Option<Instant>>,
}

/// Whether a host can be reached, as far as is known.
///
/// After a failure it is left alone for a second; then one request tries it again while the others still go
/// elsewhere, and so on, each pause double the last, up to 30 s.
#[derive(Debug, Default)]
pub(super) struct Health {
    down: Cell<Option<Down>>,
}

#[derive(Debug, Clone, Copy)]
struct Down {
    until: Instant,
    pause: Duration,
    cause: ConnectError,
}

// === impl Trust ===

impl Trust {
    pub(super) fn new() -> Self {
        Self { alive_longest: Cell::new(Duration::ZERO), doubted_until: Cell::new(None) }
    }

    /// Idle times up to here are trusted.
    pub(super) fn span(&self) -> Duration {
        self.alive_longest.get() / 2
    }

    /// A connection was alive after it was idle for `idle`.
    pub(super) fn seen_alive(&self, idle: Duration) {
        if idle >= EVIDENCE_MIN && !self.is_in_doubt() {
            self.alive_longest.set(self.alive_longest.get().max(idle));
        }
    }

    /// Whether it would be news that a connection is alive after it was idle for `idle`.
    pub(super) fn would_learn(&self, idle: Duration) -> bool {
        idle >= EVIDENCE_MIN && idle > self.alive_longest.get() && !self.is_in_doubt()
    }

    /// A connection was found closed after it was idle for `idle`, and may have been closed earlier.
    pub(super) fn seen_closed(&self, idle: Duration) {
        self.alive_longest.set(self.alive_longest.get().min(idle));
    }

    /// A request was lost on a connection that had been idle for `idle`.
    pub(super) fn lost_after(&self, idle: Duration) {
        if idle <= self.span() {
            self.doubted_until.set(Some(Instant::now() + DOUBT));
            self.alive_longest.set(Duration::ZERO);
        } else {
            self.seen_closed(idle);
        }
    }

    fn is_in_doubt(&self) -> bool {
        self.doubted_until.get().is_some_and(|until| Instant::now() < until)
    }
}

// === impl Health ===

impl Health {
    /// Whether a request should try this host before it tries others. Says yes once after each pause.
    pub(super) fn may_try(&self, now: Instant) -> bool {
        let Some(down) = self.down.get() else { return true };
        if now < down.until {
            return false;
        }
        let pause = (down.pause * 2).min(DOWN_MAX);
        self.down.set(Some(Down { until: now + pause, pause, ..down }));
        true
    }

    pub(super) fn reached(&self) {
        self.down.set(None);
    }

    pub(super) fn failed(&self, now: Instant, cause: ConnectError) {
        let down = match self.down.get() {
            // Many requests fail at once; they count as one. Nor is the pause counted twice that `may_try` set.
            Some(down) if now < down.until => Down { cause, ..down },
            Some(down) => {
                let pause = (down.pause * 2).min(DOWN_MAX);
                Down { until: now + pause, pause, cause }
            }
            None => Down { until: now + DOWN_MIN, pause: DOWN_MIN, cause },
        };
        self.down.set(Some(down));
    }

    /// Why it could not be reached, if it could not.
    pub(super) fn cause(&self) -> Option<ConnectError> {
        self.down.get().map(|down| down.cause)
    }
}

/// More than either side is late by.
const EVIDENCE_MIN: Duration = Duration::from_millis(500);

/// How long it takes to trust a host again.
const DOUBT: Duration = Duration::from_secs(30);

const DOWN_MIN: Duration = Duration::from_secs(1);
const DOWN_MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
