//! What is counted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Everything the sandbox counts, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Connections accepted, handshakes that failed included.
    pub connections_accepted: u64,
    /// Connections open now.
    pub connections_open: u64,
    /// The most that were open at once.
    pub connections_open_max: u64,
    /// Requests whose answer has not been sent to its end.
    pub in_flight: u64,
    /// The most that were in flight at once.
    pub in_flight_max: u64,
    /// Requests that wait at a hold.
    pub held: u64,
    /// Requests answered.
    pub requests: u64,
    /// API calls with a token that was dead, expired or malformed, or with none.
    pub bad_token_calls: u64,
    /// Token calls, failed ones included: endpoint, then AppID as sent, then count.
    pub token_calls: BTreeMap<String, BTreeMap<String, u64>>,
    /// Calls of `stable_token` with `force_refresh`, refused ones included.
    pub forced: u64,
    /// Requests answered, by path.
    pub paths: BTreeMap<String, u64>,
    /// Answers, by errcode.
    pub errcodes: BTreeMap<i64, u64>,
    /// Answers, by status; 0 for those that a fault kept from having one.
    pub statuses: BTreeMap<u16, u64>,
}

/// Those that change outside the state's lock.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    pub(super) accepted: AtomicU64,
    pub(super) open: Gauge,
    pub(super) in_flight: Gauge,
    pub(super) held: Gauge,
}

/// A count that goes up and down, and the highest it was.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    now: AtomicU64,
    max: AtomicU64,
}

// === impl Counters ===

impl Counters {
    /// The token calls of all accounts at one endpoint, for example `/cgi-bin/stable_token`.
    pub fn token_calls_at(&self, endpoint: &str) -> u64 {
        self.token_calls.get(endpoint).map_or(0, |by_account| by_account.values().sum())
    }

    /// The requests on one path.
    pub fn requests_at(&self, path: &str) -> u64 {
        self.paths.get(path).copied().unwrap_or(0)
    }

    pub(super) fn count_path(&mut self, path: &str) {
        count(&mut self.paths, path);
    }

    pub(super) fn count_token_call(&mut self, endpoint: &str, app_id: &str) {
        count(self.token_calls.entry(endpoint.to_owned()).or_default(), app_id);
    }

    pub(super) fn count_answer(&mut self, status: u16, errcode: Option<i64>) {
        self.requests += 1;
        *self.statuses.entry(status).or_default() += 1;
        if let Some(errcode) = errcode {
            *self.errcodes.entry(errcode).or_default() += 1;
        }
    }
}

// === impl Gauge ===

impl Gauge {
    pub(super) fn up(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.max.fetch_max(now, Ordering::SeqCst);
    }

    pub(super) fn down(&self) {
        self.now.fetch_sub(1, Ordering::SeqCst);
    }

    pub(super) fn now(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    pub(super) fn max(&self) -> u64 {
        self.max.load(Ordering::SeqCst)
    }

    pub(super) fn reset_max(&self) {
        self.max.store(self.now(), Ordering::SeqCst);
    }
}

/// Counts under a name, or under `(others)` once there are too many names.
fn count(counts: &mut BTreeMap<String, u64>, name: &str) {
    if let Some(count) = counts.get_mut(name) {
        *count += 1;
    } else {
        let name = if counts.len() < NAMES_MAX { name } else { "(others)" };
        *counts.entry(name.to_owned()).or_default() += 1;
    }
}

const NAMES_MAX: usize = 4096;
