//! What is shown of each account's token: as JSON for tools, as metrics for Prometheus.

use serde::Serialize;

use super::leaked::Shown;
use crate::telemetry::metrics::Exposition;
use crate::token::{Counts, Status, TokenHandle, Totals, publish};
use crate::types::UnixSeconds;

#[derive(Serialize)]
struct Page<'a> {
    now: u64,
    version: &'static str,
    /// All there are, on this page or not.
    total: usize,
    accounts: Vec<Account<'a>>,
    /// Where the next page begins; `null` on the last.
    next_after: Option<&'a str>,
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
    leaked: Shown,
    token_calls: &'a std::collections::BTreeMap<&'static str, u64>,
    asked: u64,
    invalid_early: u64,
    clock_jumps: u64,
    saves_failed: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    published: Vec<Key>,
}

/// A key that the token is published under, and what stood there at the last look.
#[derive(Serialize)]
struct Key {
    key: String,
    standing: &'static str,
}

#[derive(Serialize)]
struct Last<'a> {
    result: &'a str,
    at: u64,
    advice: Option<&'a str>,
    said: Option<&'a str>,
    ip: Option<String>,
}

/// Name, help, value of one account, value of all together.
type Gauge = (&'static str, &'static str, fn(&Status, UnixSeconds) -> u64, fn(&Totals) -> u64);
type Counter = (&'static str, &'static str, fn(&Counts) -> u64);

/// Accounts on one page: some 600 KB.
const PAGE_ACCOUNTS_MAX: usize = 1000;

/// The label of all accounts together; no account can have this name.
const ALL: &str = "*";

/// Accounts as one JSON object, a page of them; `tokens` stand in the order of names.
pub(super) fn json(tokens: &[TokenHandle], published: &publish::Figures, query: Option<&str>) -> String {
    let asked = |name: &str| {
        query.into_iter().flat_map(|query| query.split('&')).find_map(|pair| pair.strip_prefix(name))
    };
    let begin = asked("after=")
        .map_or(0, |after| tokens.partition_point(|token| token.account().name.as_str() <= after));
    let is_wanted =
        |token: &&TokenHandle| asked("only=") != Some("failing") || token.is_failing() || !token.is_alive();
    let mut wanted = tokens.iter().skip(begin).filter(is_wanted);
    let statuses: Vec<Status> = wanted.by_ref().take(PAGE_ACCOUNTS_MAX).map(TokenHandle::status).collect();
    let has_more = wanted.next().is_some();
    let page = Page {
        now: UnixSeconds::now().0,
        version: env!("CARGO_PKG_VERSION"),
        total: tokens.len(),
        accounts: statuses.iter().map(|status| Account::of(status, published)).collect(),
        next_after: statuses.last().filter(|_| has_more).map(|last| last.account.as_str()),
    };
    // Strings and numbers always serialise.
    serde_json::to_string_pretty(&page).unwrap_or_default()
}

/// The metrics of every account's token; of more than `each_max` accounts, their sums.
pub(super) fn write_metrics(tokens: &[TokenHandle], each_max: usize, to: &mut Exposition) {
    let now = UnixSeconds::now();
    let totals = Totals::of(tokens, now);
    let statuses: Option<Vec<Status>> =
        (tokens.len() <= each_max).then(|| tokens.iter().map(TokenHandle::status).collect());
    let simple = [
        ("weigate_accounts", "accounts configured", totals.accounts),
        ("weigate_accounts_alive", "accounts with a live token", totals.alive),
        ("weigate_accounts_failing", "accounts whose last token call failed", totals.failing),
    ];
    for (name, help, value) in simple {
        to.family(name, "gauge", help);
        to.sample(name, &[], value);
    }
    let gauges: [Gauge; 4] = [
        (
            "weigate_token_alive",
            "1 when the account has a live token; of all together, how many have",
            |s, _| u64::from(s.alive),
            |all| all.alive,
        ),
        (
            "weigate_token_generation",
            "serial number of the account's token; of all together, the greatest",
            |s, _| s.generation.0,
            |all| all.generation_max.0,
        ),
        (
            "weigate_token_expires_in_seconds",
            "what is left of the token's life; of all together, the least of a live one",
            |s, now| s.expires_at.map_or(0, |at| at.since(now).as_secs()),
            |all| all.expires_in_s_min,
        ),
        (
            "weigate_token_age_seconds",
            "since WeChat last handed out or confirmed the token; of all together, the greatest",
            |s, now| s.obtained_at.map_or(0, |at| now.since(at).as_secs()),
            |all| all.age_s_max,
        ),
    ];
    for (name, help, of_one, of_all) in gauges {
        to.family(name, "gauge", help);
        let Some(statuses) = &statuses else {
            to.sample(name, &[("account", ALL)], of_all(&totals));
            continue;
        };
        for status in statuses {
            to.sample(name, &[("account", status.account.as_str())], of_one(status, now));
        }
    }
    let each = statuses.iter().flatten().map(|status| (status.account.as_str(), &status.counts));
    let counts: Vec<(&str, &Counts)> =
        if statuses.is_some() { each.collect() } else { vec![(ALL, &totals.counts)] };
    write_counts(&counts, to);
}

/// What happened since the start, by account.
fn write_counts(counts: &[(&str, &Counts)], to: &mut Exposition) {
    to.family("weigate_token_calls_total", "counter", "token calls, by result");
    for (account, counts) in counts {
        for (word, count) in &counts.fetches {
            to.sample("weigate_token_calls_total", &[("account", account), ("result", word)], count);
        }
    }
    let counters: [Counter; 8] = [
        ("weigate_token_asks_total", "times requests asked for another token", |c| c.asked),
        (
            "weigate_token_invalid_early_total",
            "tokens that died before their time: someone else renews them too",
            |c| c.invalid_early,
        ),
        ("weigate_clock_jumps_total", "times the wall clock jumped", |c| c.clock_jumps),
        ("weigate_store_saves_failed_total", "tokens that could not be stored", |c| c.saves_failed),
        ("weigate_store_claims_failed_total", "times the store gave no answer to a claim", |c| {
            c.claims_failed
        }),
        ("weigate_store_claim_waits_total", "times another weigate was waited for while it fetched", |c| {
            c.claim_waits
        }),
        ("weigate_tokens_adopted_total", "tokens that another weigate fetched", |c| c.adopted),
        ("weigate_store_fenced_off_total", "tokens not stored, since the store had a newer one", |c| {
            c.fenced_off
        }),
    ];
    for (name, help, value) in counters {
        to.family(name, "counter", help);
        for (account, counts) in counts {
            to.sample(name, &[("account", account)], value(counts));
        }
    }
}

// === impl Account ===

impl<'a> Account<'a> {
    fn of(status: &'a Status, published: &publish::Figures) -> Self {
        let keys = published.keys(&status.account).into_iter();
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
            leaked: Shown::of(&status.leak),
            token_calls: &status.counts.fetches,
            asked: status.counts.asked,
            invalid_early: status.counts.invalid_early,
            clock_jumps: status.counts.clock_jumps,
            saves_failed: status.counts.saves_failed,
            published: keys.map(|(key, standing)| Key { key, standing }).collect(),
        }
    }
}
