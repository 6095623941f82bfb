//! The sandbox's clock: tokio's, plus what control has added. In milliseconds since 1970.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

use crate::types::UnixSeconds;

/// Milliseconds since 1970 by the sandbox's clock.
pub(super) type Ms = u64;

/// The clock. It never goes back, except by a reset.
#[derive(Debug)]
pub(super) struct Clock {
    started_at: Ms,
    started: Instant,
    ahead_ms: AtomicU64,
}

impl Clock {
    /// A clock that shows the wall's time.
    pub(super) fn new() -> Self {
        Self {
            started_at: UnixSeconds::now().0.saturating_mul(1000),
            started: Instant::now(),
            ahead_ms: AtomicU64::new(0),
        }
    }

    /// The time.
    pub(super) fn now(&self) -> Ms {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.started_at.saturating_add(elapsed).saturating_add(self.ahead_ms.load(Ordering::Relaxed))
    }

    /// Puts the clock forward.
    pub(super) fn advance(&self, by_ms: Ms) {
        // Added in two steps that each saturate: concurrent calls may lose nothing but what exceeds the bound.
        let before = self.ahead_ms.fetch_add(by_ms.min(AHEAD_MS_MAX), Ordering::Relaxed);
        if before > AHEAD_MS_MAX {
            self.ahead_ms.store(AHEAD_MS_MAX, Ordering::Relaxed);
        }
    }

    /// Takes back what was added.
    pub(super) fn reset(&self) {
        self.ahead_ms.store(0, Ordering::Relaxed);
    }
}

/// The day by Beijing's calendar, where quotas begin anew at midnight (from memory, unverified; §6).
pub(super) fn day(now: Ms) -> u64 {
    (now / 1000).saturating_add(BEIJING_AHEAD_S) / DAY_S
}

/// The month by Beijing's calendar, counted from year 0.
pub(super) fn month(now: Ms) -> u64 {
    // Days to civil date, after Howard Hinnant's chrono-compatible algorithm; years begin in March there.
    let days = day(now).saturating_add(719_468);
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    (days / 146_097 * 400 + year_of_era) * 12 + month_from_march
}

const BEIJING_AHEAD_S: u64 = 8 * 3600;
const DAY_S: u64 = 24 * 3600;
/// A thousand years: far enough for anyone, and nothing overflows.
const AHEAD_MS_MAX: Ms = 1000 * 366 * DAY_S * 1000;
