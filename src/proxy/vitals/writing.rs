//! Whether a client takes what is written to it, and fast enough.
//!
//! A client that takes a few bytes now and then never stands still, and would hold its connection, and what stands
//! behind it, for as long as it likes. So what counts is what it took while the socket was full.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// The notes on a socket's sending side. Cost: none but two looks, unless the socket is full.
#[derive(Debug, Default)]
pub(super) struct Writing {
    /// The last write found the socket full.
    is_full: Cell<bool>,
    /// Since when it has been full at every look.
    full_since: Cell<Option<Instant>>,
    /// What it took since then.
    taken_bytes: Cell<u64>,
}

// === impl Writing ===

impl Writing {
    /// The socket is full.
    pub(super) fn stalls(&self) {
        self.is_full.set(true);
        if self.full_since.get().is_none() {
            self.full_since.set(Some(Instant::now()));
            self.taken_bytes.set(0);
        }
    }

    /// Whether the client has not taken what there was to write when it was last tried.
    pub(super) fn is_full(&self) -> bool {
        self.is_full.get()
    }

    /// The socket took some bytes.
    pub(super) fn goes_on(&self, bytes: usize) {
        self.is_full.set(false);
        if self.full_since.get().is_some() {
            self.taken_bytes.set(self.taken_bytes.get() + bytes as u64);
        }
    }

    /// A look now and then: whether the socket has been full at every look for `stall`, and took less than
    /// `bytes_per_s_min` in that time, or nothing at all.
    pub(super) fn is_too_slow(&self, stall: Duration, bytes_per_s_min: u64, now: Instant) -> bool {
        let Some(since) = self.full_since.get() else { return false };
        if !self.is_full.get() {
            self.full_since.set(None);
            return false;
        }
        let full_for = now.saturating_duration_since(since);
        if full_for < stall {
            return false;
        }
        if self.taken_bytes.get() < full_for.as_secs().saturating_mul(bytes_per_s_min).max(1) {
            return true;
        }
        // What it took then does not excuse it for what comes.
        self.full_since.set(Some(now));
        self.taken_bytes.set(0);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Duration = Duration::from_secs(30);

    /// Looks twice a second, for a minute, at a client that takes `bytes` whenever it takes some; how it ends.
    async fn cut_after(bytes: usize, every: Duration, bytes_per_s_min: u64) -> Option<Duration> {
        let (writing, begun) = (Writing::default(), Instant::now());
        writing.stalls();
        let mut next = begun + every;
        while begun.elapsed() < 4 * STALL {
            tokio::time::advance(Duration::from_millis(500)).await;
            if Instant::now() >= next {
                next += every;
                writing.goes_on(bytes);
                writing.stalls();
            }
            if writing.is_too_slow(STALL, bytes_per_s_min, Instant::now()) {
                return Some(begun.elapsed());
            }
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_a_little_now_and_then_is_too_slow_after_the_same_time_as_who_takes_nothing() {
        let second = Duration::from_secs(1);
        assert_eq!(cut_after(0, 1000 * second, 1024).await, Some(STALL));
        assert_eq!(cut_after(32, second, 1024).await, Some(STALL));
        assert_eq!(cut_after(1000, second, 1024).await, Some(STALL));
        assert_eq!(cut_after(1100, second, 1024).await, None);
        // A rate of 0 is any pace, but nothing at all is none.
        assert_eq!(cut_after(1, 20 * second, 0).await, None);
        assert_eq!(cut_after(0, 1000 * second, 0).await, Some(STALL));
    }

    #[tokio::test(start_paused = true)]
    async fn a_quick_start_excuses_nobody_and_a_free_socket_begins_anew() {
        let writing = Writing::default();
        writing.stalls();
        writing.goes_on(1 << 20);
        writing.stalls();
        tokio::time::advance(STALL).await;
        assert!(!writing.is_too_slow(STALL, 1024, Instant::now()));
        tokio::time::advance(STALL).await;
        assert!(writing.is_too_slow(STALL, 1024, Instant::now()));

        writing.goes_on(1);
        assert!(!writing.is_too_slow(STALL, 1024, Instant::now()));
        tokio::time::advance(STALL).await;
        writing.stalls();
        assert!(!writing.is_too_slow(STALL, 1024, Instant::now()));
    }
}
