//! What is shown of each account's token: as JSON for tools, as metrics for Prometheus.

use serde::Serialize;

use crate::telemetry::metrics::Exposition;
use crate::token::Status;
use crate::types::UnixSeconds;

#[derive(Serialize)]
struct Page<'a> {
    now: u64,
    version: &'static str,
    accounts: Vec<Account<'a>>,
}

#[derive(Serialize)]
struct Account<'a> {
    name: &'a str,
    alive: bool,
    generation: u64,
    fingerprint: Option<String>,
    obtained_at: Option<u64>,
    expires_at: Option<u64>,
    in_flight: bool,
    failures: u32,
    next_try_in_s: u64,
    last: Option<Last<'a>>,
    token_calls: &'a std::collections::BTreeMap<&'static str, u64>,
    asked: u64,
    invalid_early: u64,
    clock_jumps: u64,
    saves_failed: u64,
}

#[derive(Serialize)]
struct Last<'a> {
    result: &'a str,
    at: u64,
    advice: Option<&'a str>,
    said: Option<&'a str>,
    ip: Option<String>,
}

/// Name, help, value.
type Gauge = (&'static str, &'static str, fn(&Status, UnixSeconds) -> u64);
type Counter = (&'static str, &'static str, fn(&Status) -> u64);

/// All accounts as one JSON object.
pub(super) fn json(statuses: &[Status]) -> String {
    let page = Page {
        now: UnixSeconds::now().0,
        version: env!("CARGO_PKG_VERSION"),
        accounts: statuses.iter().map(Account::of).collect(),
    };
    // Strings and numbers always serialise.
    serde_json::to_string_pretty(&page).unwrap_or_default()
}

/// The metrics of every account's token.
pub(super) fn write_metrics(statuses: &[Status], to: &mut Exposition) {
    let now = UnixSeconds::now();
    let gauges: [Gauge; 4] = [
        ("weigate_token_alive", "1 when the account has a live token", |s, _| u64::from(s.alive)),
        ("weigate_token_generation", "serial number of the account's token", |s, _| s.generation.0),
        ("weigate_token_expires_in_seconds", "what is left of the token's life", |s, now| {
            s.expires_at.map_or(0, |at| at.since(now).as_secs())
        }),
        ("weigate_token_age_seconds", "since WeChat last handed out or confirmed the token", |s, now| {
            s.obtained_at.map_or(0, |at| now.since(at).as_secs())
        }),
    ];
    for (name, help, value) in gauges {
        to.family(name, "gauge", help);
        for status in statuses {
            to.sample(name, &[("account", status.account.as_str())], value(status, now));
        }
    }
    to.family("weigate_token_calls_total", "counter", "token calls, by result");
    for status in statuses {
        for (word, count) in &status.counts.fetches {
            to.sample(
                "weigate_token_calls_total",
                &[("account", status.account.as_str()), ("result", word)],
                count,
            );
        }
    }
    let counters: [Counter; 4] = [
        ("weigate_token_asks_total", "times requests asked for another token", |s| s.counts.asked),
        (
            "weigate_token_invalid_early_total",
            "tokens that died before their time: someone else renews them too",
            |s| s.counts.invalid_early,
        ),
        ("weigate_clock_jumps_total", "times the wall clock jumped", |s| s.counts.clock_jumps),
        ("weigate_store_saves_failed_total", "tokens that could not be stored", |s| s.counts.saves_failed),
    ];
    for (name, help, value) in counters {
        to.family(name, "counter", help);
        for status in statuses {
            to.sample(name, &[("account", status.account.as_str())], value(status));
        }
    }
}

// === impl Account ===

impl<'a> Account<'a> {
    fn of(status: &'a Status) -> Self {
        Self {
            name: status.account.as_str(),
            alive: status.alive,
            generation: status.generation.0,
            fingerprint: status.fingerprint.map(|fingerprint| fingerprint.to_string()),
            obtained_at: status.obtained_at.map(|at| at.0),
            expires_at: status.expires_at.map(|at| at.0),
            in_flight: status.in_flight,
            failures: status.failures,
            next_try_in_s: status.next_try_in.as_secs(),
            last: status.last.as_ref().map(|last| Last {
                result: last.word,
                at: last.at.0,
                advice: last.advice.as_deref(),
                said: last.said.as_deref(),
                ip: last.ip.as_ref().map(ToString::to_string),
            }),
            token_calls: &status.counts.fetches,
            asked: status.counts.asked,
            invalid_early: status.counts.invalid_early,
            clock_jumps: status.counts.clock_jumps,
            saves_failed: status.counts.saves_failed,
        }
    }
}
