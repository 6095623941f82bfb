//! Wall time, in whole seconds: the only call of `SystemTime::now` in the crate.
//!
//! Wall time is for storing and for showing; waiting is done on tokio's clock.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since 1970-01-01 00:00 UTC.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixSeconds(pub u64);

impl UnixSeconds {
    /// The wall clock's time. A clock set before 1970 reads as 1970.
    pub fn now() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the one place where wall time comes in")]
        let now = SystemTime::now();
        Self(now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }

    /// The time `span` later, in whole seconds.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span.as_secs()))
    }

    /// How long from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for UnixSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
