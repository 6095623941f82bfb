//! Every metric of the request's way, its unit and its labels, in one file.
//!
//! Each worker counts for itself, in atomics that only it writes, so counting costs a plain load and store and no
//! cache line travels between cores; a scrape sums the workers. Metrics of a token's life come from the keepers'
//! status and are added by `admin`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::types::{AccountName, ClientName};

/// A count that one thread writes and any thread reads.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

/// How long requests took: counts per bucket and their sum.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Count; BUCKETS_MS.len() + 1],
    sum_us: Count,
}

/// The upper bounds of [`Histogram`]'s buckets, in milliseconds; one more bucket holds what is slower.
pub const BUCKETS_MS: [u64; 12] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 5_000, 30_000];

/// What one client did on one account, as one worker saw it.
#[derive(Debug, Default)]
pub struct RouteCounts {
    /// Requests that got WeChat's answer.
    pub passed: Count,
    /// Of these, answers that say the token is invalid, passed on because nothing helped.
    pub token_invalid: Count,
    /// Requests sent once more.
    pub second_tries: Count,
    /// Of the answers passed on, those with a code of WeChat's quota family (45009, 45011).
    pub quota: Count,
    /// Requests that ended in a refusal after their account was known.
    pub refused: Count,
}

/// One worker's counts.
#[derive(Debug)]
pub struct WorkerCounts {
    /// Client connections accepted.
    pub connections_accepted: Count,
    /// Client connections closed.
    pub connections_closed: Count,
    /// Client connections closed because they were too slow or idle too long.
    pub connections_expired: Count,
    /// Times an idle client connection gave up its buffers: it had been idle for long, or too many others were.
    pub connections_rested: Count,
    /// Failed accepts (out of file descriptors, mostly).
    pub accept_errors: Count,
    /// Requests begun.
    pub requests_begun: Count,
    /// Requests ended, body and all.
    pub requests_ended: Count,
    /// Refusals, by word.
    pub refusals: Vec<(&'static str, Count)>,
    /// From a request's head to the end of its reply.
    pub request_time: Histogram,
    /// From a request's body being whole to the head of WeChat's last reply; a renewal and a second try included.
    pub upstream_time: Histogram,
    routes: Mutex<BTreeMap<(ClientName, AccountName), Arc<RouteCounts>>>,
}

// === impl Count ===

impl Count {
    /// Counts one. Only the owning thread may call this.
    pub fn one(&self) {
        self.add(1);
    }

    /// Counts `more`. Only the owning thread may call this: it is a load and a store, not one step.
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl Histogram ===

impl Histogram {
    /// Counts one span. Only the owning thread may call this.
    pub fn observe(&self, span: Duration) {
        let span_ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_MS.iter().position(|bound| span_ms < *bound).unwrap_or(BUCKETS_MS.len());
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.one();
        }
        self.sum_us.add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX));
    }

    fn add_to(&self, sums: &mut [u64; BUCKETS_MS.len() + 1], sum_us: &mut u64) {
        for (sum, bucket) in sums.iter_mut().zip(&self.buckets) {
            *sum += bucket.get();
        }
        *sum_us += self.sum_us.get();
    }
}

// === impl WorkerCounts ===

impl WorkerCounts {
    /// Counts from zero; `refusal_words` is the closed list of refusals.
    pub fn new(refusal_words: &[&'static str]) -> Self {
        Self {
            connections_accepted: Count::default(),
            connections_closed: Count::default(),
            connections_expired: Count::default(),
            connections_rested: Count::default(),
            accept_errors: Count::default(),
            requests_begun: Count::default(),
            requests_ended: Count::default(),
            refusals: refusal_words.iter().map(|word| (*word, Count::default())).collect(),
            request_time: Histogram::default(),
            upstream_time: Histogram::default(),
            routes: Mutex::default(),
        }
    }

    /// The counts of a client on an account. Takes a lock: ask once and keep the answer.
    pub fn route(&self, client: &ClientName, account: &AccountName) -> Arc<RouteCounts> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(routes.entry((client.clone(), account.clone())).or_default())
    }

    /// Counts one refusal by its word.
    pub fn refused(&self, word: &str) {
        if let Some((_, count)) = self.refusals.iter().find(|(known, _)| *known == word) {
            count.one();
        }
    }
}

/// Name, help, where it is.
type Times = (&'static str, &'static str, fn(&WorkerCounts) -> &Histogram);

/// Writes the sum over `workers` in Prometheus' text format (version 0.0.4). Where clients have used more than
/// `routes_max` accounts between them, those are summed up for each client; where that still makes more, altogether.
pub fn write(workers: &[Arc<WorkerCounts>], routes_max: usize, to: &mut Exposition) {
    write_connections(workers, to);
    write_routes(workers, routes_max, to);
    to.family("weigate_refusals_total", "counter", "requests that weigate refused, by reason");
    let mut refusals = BTreeMap::<&str, u64>::new();
    for (word, count) in workers.iter().flat_map(|worker| &worker.refusals) {
        *refusals.entry(word).or_default() += count.get();
    }
    for (word, count) in refusals {
        to.sample("weigate_refusals_total", &[("reason", word)], count);
    }
    let times: [Times; 2] = [
        ("weigate_request_seconds", "from a request's head to the end of its reply", |w| &w.request_time),
        (
            "weigate_upstream_seconds",
            "from a request's body being whole to the head of WeChat's last reply",
            |w| &w.upstream_time,
        ),
    ];
    for (name, help, of) in times {
        let mut sums = [0; BUCKETS_MS.len() + 1];
        let mut sum_us = 0;
        for worker in workers {
            of(worker).add_to(&mut sums, &mut sum_us);
        }
        to.histogram(name, help, &sums, sum_us);
    }
}

fn write_connections(workers: &[Arc<WorkerCounts>], to: &mut Exposition) {
    let sum = |of: fn(&WorkerCounts) -> &Count| workers.iter().map(|worker| of(worker).get()).sum::<u64>();
    let accepted = sum(|w| &w.connections_accepted);
    let begun = sum(|w| &w.requests_begun);
    let simple = [
        ("weigate_connections_total", "counter", "client connections accepted", accepted),
        (
            "weigate_connections",
            "gauge",
            "client connections open",
            accepted.saturating_sub(sum(|w| &w.connections_closed)),
        ),
        (
            "weigate_connections_expired_total",
            "counter",
            "client connections closed for being slow or idle",
            sum(|w| &w.connections_expired),
        ),
        (
            "weigate_connections_rested_total",
            "counter",
            "times an idle client connection gave up its buffers",
            sum(|w| &w.connections_rested),
        ),
        ("weigate_accept_errors_total", "counter", "accepts that failed", sum(|w| &w.accept_errors)),
        (
            "weigate_requests_in_flight",
            "gauge",
            "requests that have not ended",
            begun.saturating_sub(sum(|w| &w.requests_ended)),
        ),
    ];
    for (name, kind, help, value) in simple {
        to.family(name, kind, help);
        to.sample(name, &[], value);
    }
}

fn write_routes(workers: &[Arc<WorkerCounts>], routes_max: usize, to: &mut Exposition) {
    let mut routes = sums(workers, |client, account| (Some(client.clone()), Some(account.clone())));
    if routes.len() > routes_max {
        routes = sums(workers, |client, _| (Some(client.clone()), None));
    }
    if routes.len() > routes_max {
        routes = sums(workers, |_, _| (None, None));
    }
    let families = [
        ("weigate_requests_passed_total", "requests that got WeChat's answer"),
        ("weigate_requests_token_invalid_total", "answers passed on that call the token invalid"),
        ("weigate_requests_second_tries_total", "requests sent once more with a newer token"),
        ("weigate_requests_quota_total", "answers passed on with 45009 or 45011"),
        ("weigate_requests_refused_total", "requests refused after their account was known"),
    ];
    for (index, (name, help)) in families.into_iter().enumerate() {
        to.family(name, "counter", help);
        for ((client, account), sums) in &routes {
            let value = sums.get(index).copied().unwrap_or(0);
            let client = client.as_ref().map_or(ALL, ClientName::as_str);
            let account = account.as_ref().map_or(ALL, AccountName::as_str);
            to.sample(name, &[("client", client), ("account", account)], value);
        }
    }
}

/// The label of clients, or accounts, that are summed up; none can have this name.
const ALL: &str = "*";

/// A client and an account; `None` for all of them.
type Label = (Option<ClientName>, Option<AccountName>);

fn sums(
    workers: &[Arc<WorkerCounts>],
    label: impl Fn(&ClientName, &AccountName) -> Label,
) -> BTreeMap<Label, [u64; 5]> {
    let mut routes = BTreeMap::<Label, [u64; 5]>::new();
    for worker in workers {
        for ((client, account), counts) in worker.routes.lock().unwrap_or_else(PoisonError::into_inner).iter()
        {
            let sums = routes.entry(label(client, account)).or_default();
            let parts =
                [&counts.passed, &counts.token_invalid, &counts.second_tries, &counts.quota, &counts.refused];
            sums.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part.get());
        }
    }
    routes
}

/// A page of metrics in Prometheus' text format, being written.
///
/// Label values are names of the configuration or words of ours: letters, digits, `-`, `_`, `.`, `*`; none needs
/// escaping.
#[derive(Debug, Default)]
pub struct Exposition(String);

// === impl Exposition ===

impl Exposition {
    /// Begins a family.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// One value of the family begun last.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.line(format_args!("{name}"));
        for (index, (label, text)) in labels.iter().enumerate() {
            let open = if index == 0 { "{" } else { "," };
            self.line(format_args!("{open}{label}=\"{text}\""));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        self.line(format_args!("{close} {value}\n"));
    }

    fn histogram(&mut self, name: &str, help: &str, counts: &[u64], sum_us: u64) {
        self.family(name, "histogram", help);
        let bounds = BUCKETS_MS.iter().map(|ms| seconds(*ms, 1_000)).chain(["+Inf".to_owned()]);
        let mut total = 0;
        for (bound, count) in bounds.zip(counts) {
            total += count;
            self.sample(&format!("{name}_bucket"), &[("le", &bound)], total);
        }
        self.sample(&format!("{name}_sum"), &[], seconds(sum_us, 1_000_000));
        self.sample(&format!("{name}_count"), &[], total);
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _written = std::fmt::Write::write_fmt(&mut self.0, text);
    }

    /// The page.
    pub fn into_text(self) -> String {
        self.0
    }
}

/// `value / parts` as a decimal fraction, exactly.
fn seconds(value: u64, parts: u64) -> String {
    let digits = if parts == 1_000 { 3 } else { 6 };
    let text = format!("{}.{:0digits$}", value / parts, value % parts);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
