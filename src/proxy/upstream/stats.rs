//! Counters of one worker's upstream connections, readable from any thread.
//!
//! The worker is the only writer; every access is relaxed, so a scrape sees each number right and not
//! necessarily all of them from the same instant.

use std::sync::atomic::{AtomicU64, Ordering};

use super::ConnectError;

/// One worker's counters. Summed over workers by whoever shows them.
#[derive(Debug, Default)]
pub struct Stats {
    /// Connections made, TLS included, since the start.
    pub opened: Counter,
    /// Requests that were sent on a connection that had carried one before, or over HTTP/2 carries one now.
    pub reused: Counter,
    /// Connections open now, idle ones included.
    pub open: Counter,
    /// Connections idle now.
    pub idle: Counter,
    /// Idle connections found closed by the other side, or given up for age.
    pub idle_closed: Counter,
    /// Idle connections dropped because bytes came that nobody had asked for.
    pub unsolicited: Counter,
    /// GET and HEAD requests sent again because their connection died without a byte of a reply.
    pub stale_retries: Counter,
    /// Requests sent again because the upstream had said that it did not look at them.
    pub unprocessed_retries: Counter,
    /// Of `opened`, those that speak HTTP/2.
    pub opened_http2: Counter,
    /// Requests that are on their way on HTTP/2 connections now.
    pub streams: Counter,
    /// Replies that came before the whole request was sent.
    pub early_replies: Counter,
    /// Requests that had to wait for a connection or for a turn to make one.
    pub waits: Counter,
    /// Hosts that could not be connected to, by [`ConnectError::ALL`].
    pub connect_failures: [Counter; ConnectError::ALL.len()],
}

/// A number that one thread changes and others read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

// === impl Stats ===

impl Stats {
    /// One more host that could not be connected to.
    pub(super) fn connect_failed(&self, cause: ConnectError) {
        let place = ConnectError::ALL.iter().position(|&one| one == cause);
        if let Some(counter) = place.and_then(|place| self.connect_failures.get(place)) {
            counter.add(1);
        }
    }
}

// === impl Counter ===

impl Counter {
    /// What it stands at.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Up. A load and a store: the worker is the only writer, so no atomic read-modify-write is needed.
    pub(super) fn add(&self, count: u64) {
        self.0.store(self.value().wrapping_add(count), Ordering::Relaxed);
    }

    /// Down.
    pub(super) fn sub(&self, count: u64) {
        self.0.store(self.value().wrapping_sub(count), Ordering::Relaxed);
    }
}
