//! How fast a client must send a body: so many bytes per second, after a grace, and never a long pause.
//!
//! A drip of a byte now and then would never stall, and would hold a connection and what belongs to it for as long as
//! the client likes. No timer is needed that was not there: the limit on a pause grows shorter as the body falls
//! behind. Bodies are judged one by one, so that on HTTP/2 a fast one does not cover for slow ones beside it.
//!
//! Cost: one look at the clock for each piece.

use std::time::Duration;

use tokio::time::Instant;

/// What a body owes.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) struct Pace {
    /// The longest pause.
    pub(in crate::proxy) stall: Duration,
    /// Until it has had this long, a body owes nothing.
    pub(in crate::proxy) grace: Duration,
    /// What it owes from then on; 0: nothing.
    pub(in crate::proxy) bytes_per_s_min: u64,
}

/// The time a body has taken of its client, what we took for ourselves left out.
#[derive(Debug)]
pub(super) struct Waited {
    pace: Pace,
    received: u64,
    before: Duration,
    since: Option<Instant>,
}

// === impl Pace ===

impl Pace {
    /// How long the next piece may take, for a body that has brought `received` bytes in `taken`.
    pub(super) fn patience(&self, received: u64, taken: Duration) -> Duration {
        let Some(paid_ms) = received.saturating_mul(1000).checked_div(self.bytes_per_s_min) else {
            return self.stall;
        };
        let due = self.grace.saturating_add(Duration::from_millis(paid_ms));
        due.saturating_sub(taken).min(self.stall)
    }
}

// === impl Waited ===

impl Waited {
    pub(super) fn new(pace: Pace) -> Self {
        Self { pace, received: 0, before: Duration::ZERO, since: None }
    }

    /// The client has nothing for us yet.
    pub(super) fn waits(&mut self) {
        if self.since.is_none() {
            self.since = Some(Instant::now());
        }
    }

    /// The client has brought `count` bytes; says whether it is still fast enough.
    pub(super) fn brings(&mut self, count: u64) -> bool {
        if let Some(since) = self.since.take() {
            self.before += since.elapsed();
        }
        self.received = self.received.saturating_add(count);
        !self.pace.patience(self.received, self.before).is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace =
        Pace { stall: Duration::from_secs(30), grace: Duration::from_secs(10), bytes_per_s_min: 1024 };

    #[test]
    fn a_body_has_its_grace_and_then_owes_its_rate() {
        let s = Duration::from_secs;
        assert_eq!(PACE.patience(0, s(0)), s(10));
        assert_eq!(PACE.patience(1, s(9)), s(1));
        assert_eq!(PACE.patience(0, s(10)), s(0));
        assert_eq!(PACE.patience(5 * 1024, s(12)), s(3));
        assert_eq!(PACE.patience(5 * 1024, s(15)), s(0));
    }

    #[test]
    fn a_pause_is_never_longer_than_a_stall() {
        assert_eq!(PACE.patience(1 << 30, Duration::from_secs(1)), PACE.stall);
        assert_eq!(PACE.patience(u64::MAX, Duration::ZERO), PACE.stall);
    }

    #[test]
    fn at_no_rate_only_pauses_count() {
        let pace = Pace { bytes_per_s_min: 0, ..PACE };
        assert_eq!(pace.patience(0, Duration::from_secs(10_000)), pace.stall);
    }

    #[tokio::test(start_paused = true)]
    async fn only_waiting_for_the_client_counts() {
        let mut waited = Waited::new(PACE);
        assert!(waited.brings(1));
        // Ours: nothing was asked for.
        tokio::time::advance(Duration::from_mins(1)).await;
        assert!(waited.brings(1));
        waited.waits();
        tokio::time::advance(Duration::from_secs(9)).await;
        waited.waits();
        assert!(waited.brings(1));
        waited.waits();
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!waited.brings(1));
    }
}
