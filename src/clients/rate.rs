//! How much a client may use: a token bucket of one second and a count of requests at one time.
//!
//! Both hold over all workers, so both are atomics; a client without a limit has neither.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::Client;

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// More than `requests_per_s`.
    #[error("too many requests a second")]
    PerSecond,
    /// More than `requests_at_once_max`.
    #[error("too many requests at one time")]
    AtOnce,
}

/// A client's limits and where it stands.
///
/// Requests per second are counted by the generic cell rate algorithm: one number, the time at which the bucket will
/// be full again. Up to a second's worth may come at once.
#[derive(Debug)]
pub struct Rate {
    epoch: Instant,
    /// Nanoseconds between two requests at the full rate.
    interval_ns: Option<u64>,
    /// Nanoseconds after `epoch` at which the bucket is full again.
    full_at_ns: AtomicU64,
    at_once_max: Option<u32>,
    at_once: AtomicU32,
}

/// A request that counts as in flight.
#[derive(Debug)]
pub struct InFlight(Option<Arc<Client>>);

// === impl Rate ===

impl Rate {
    /// In a box, since most clients have no limit: what a request in a crowd of clients does not touch is not fetched.
    pub(super) fn of(per_s: Option<u32>, at_once_max: Option<u32>) -> Option<Box<Self>> {
        let is_limited = per_s.is_some() || at_once_max.is_some();
        is_limited.then(|| Box::new(Self::new(per_s, at_once_max)))
    }

    fn new(per_s: Option<u32>, at_once_max: Option<u32>) -> Self {
        Self {
            epoch: Instant::now(),
            interval_ns: per_s.map(|per_s| SECOND_NS / u64::from(per_s.max(1))),
            full_at_ns: AtomicU64::new(0),
            at_once_max,
            at_once: AtomicU32::new(0),
        }
    }

    pub(super) fn admit(&self, client: &Arc<Client>, now: Instant) -> Result<InFlight, RateError> {
        let guard = self.enter(client)?;
        self.take(now)?;
        Ok(guard)
    }

    fn enter(&self, client: &Arc<Client>) -> Result<InFlight, RateError> {
        let Some(most) = self.at_once_max else { return Ok(InFlight(None)) };
        let more = |count: u32| (count < most).then_some(count + 1);
        self.at_once
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .map(|_| InFlight(Some(Arc::clone(client))))
            .map_err(|_| RateError::AtOnce)
    }

    fn take(&self, now: Instant) -> Result<(), RateError> {
        let Some(interval_ns) = self.interval_ns else { return Ok(()) };
        let now_ns = nanoseconds(now.saturating_duration_since(self.epoch));
        let next = |full_at_ns: u64| next_full_at(full_at_ns, now_ns, interval_ns);
        self.full_at_ns
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .map(drop)
            .map_err(|_| RateError::PerSecond)
    }
}

/// The bucket after one more request at `now_ns`; `None` when it is empty.
fn next_full_at(full_at_ns: u64, now_ns: u64, interval_ns: u64) -> Option<u64> {
    let next = full_at_ns.max(now_ns).saturating_add(interval_ns);
    (next - now_ns <= SECOND_NS).then_some(next)
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

const SECOND_NS: u64 = 1_000_000_000;

// === impl InFlight ===

impl InFlight {
    /// Of a client that may have as many as it likes.
    pub(super) const FREE: Self = Self(None);
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(rate) = self.0.as_ref().and_then(|client| client.rate.as_ref()) {
            rate.at_once.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
