//! What operators see of a token's life. No type here can hold a token or a secret.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::TokenHandle;
use super::leak::LeakStatus;
use super::source::SourceError;
use crate::types::{AccountName, Fingerprint, Generation, UnixSeconds};
use crate::wechat::token_call::{IpText, RejectionKind, TokenCallError};

/// How an attempt ended.
#[derive(Debug, Clone)]
pub enum Ending {
    /// It brought a different token.
    Renewed,
    /// It brought the token in hand.
    Same,
    /// It brought none.
    Failed(Arc<SourceError>),
}

/// One account's token at one moment.
#[derive(Debug, Clone)]
pub struct Status {
    /// The account.
    pub account: AccountName,
    /// Whether requests can be served.
    pub alive: bool,
    /// The newest token's serial number; 0 before the first.
    pub generation: Generation,
    /// The newest token's fingerprint.
    pub fingerprint: Option<Fingerprint>,
    /// When the call that last brought it was sent.
    pub obtained_at: Option<UnixSeconds>,
    /// Its end.
    pub expires_at: Option<UnixSeconds>,
    /// How the last attempt ended; `None` before the first.
    pub last: Option<LastEnding>,
    /// Failures in a row.
    pub failures: u32,
    /// Whether an attempt is going on.
    pub in_flight: bool,
    /// Until the next attempt; zero when it is due.
    pub next_try_in: Duration,
    /// Where a press of the leaked button has come to.
    pub leak: LeakStatus,
    /// What happened since the start.
    pub counts: Counts,
}

/// How the last attempt ended, in words.
#[derive(Debug, Clone)]
pub struct LastEnding {
    /// `renewed`, `same` or what went wrong; one of [`Ending::words`].
    pub word: &'static str,
    /// When it ended.
    pub at: UnixSeconds,
    /// What a person can do about a failure.
    pub advice: Option<String>,
    /// WeChat's own words about a failure, cleaned: at most 256 bytes.
    pub said: Option<Box<str>>,
    /// The address WeChat saw the call come from, where a failure names one.
    pub ip: Option<IpText>,
}

/// What happened since the start; each only grows.
#[derive(Debug, Clone)]
pub struct Counts {
    /// Attempts by the word of their ending. Every word is there from the start.
    pub fetches: BTreeMap<&'static str, u64>,
    /// Asks for another token than the one in hand that reached the keeper (many callers make one).
    pub asked: u64,
    /// Renewals whose predecessor should have lived on for longer than WeChat's window: someone else renews this
    /// account's token, or a secret was reset.
    pub invalid_early: u64,
    /// Times the wall clock was found to have jumped by more than a minute.
    pub clock_jumps: u64,
    /// Tokens that could not be stored.
    pub saves_failed: u64,
    /// Times a shared store gave no answer to a claim.
    pub claims_failed: u64,
    /// Times another process was waited for, since it was fetching.
    pub claim_waits: u64,
    /// Tokens that another process fetched and this one took.
    pub adopted: u64,
    /// Tokens that a shared store did not take, since it had a newer one.
    pub fenced_off: u64,
}

/// All accounts together.
#[derive(Debug, Clone)]
pub struct Totals {
    /// How many there are.
    pub accounts: u64,
    /// How many have a live token.
    pub alive: u64,
    /// Of how many the last attempt failed.
    pub failing: u64,
    /// The highest serial number of a token.
    pub generation_max: Generation,
    /// What is left of the live token that ends first, in seconds; 0 where none is alive.
    pub expires_in_s_min: u64,
    /// Since a live token was last handed out or confirmed, of the one where that is longest ago, in seconds.
    pub age_s_max: u64,
    /// What happened since the start, over the accounts that are there now.
    pub counts: Counts,
}

/// What the keeper notes for those who look.
#[derive(Debug, Default)]
pub(crate) struct Record(Mutex<Notes>);

#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// When the last attempt ended, and how.
    ended_at: UnixSeconds,
    ended: Ended,
    pub(crate) failures: u32,
    /// Attempts that ended in good health; 68 years of one each second.
    renewed: u32,
    same: u32,
    /// What happens to few accounts.
    rare: Option<Box<Rare>>,
}

/// [`Ending`], as small as it can be.
#[derive(Debug, Default, Clone, Copy)]
enum Ended {
    #[default]
    Never,
    Renewed,
    Same,
    Failed,
}

/// The rest of [`Counts`], and what there is to say of the last failure.
#[derive(Debug, Default)]
pub(crate) struct Rare {
    failure: Option<LastEnding>,
    /// The words that have occurred, but those two.
    fetches: Vec<(&'static str, u64)>,
    pub(crate) asked: u64,
    pub(crate) invalid_early: u64,
    pub(crate) clock_jumps: u64,
    pub(crate) saves_failed: u64,
    pub(crate) claims_failed: u64,
    pub(crate) claim_waits: u64,
    pub(crate) adopted: u64,
    pub(crate) fenced_off: u64,
}

// === impl Ending ===

impl Ending {
    /// The word for it in metrics and logs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Renewed => "renewed",
            Self::Same => "same",
            Self::Failed(error) => error.word(),
        }
    }

    /// Every word there is: a closed set.
    pub fn words() -> impl Iterator<Item = &'static str> {
        let kinds = RejectionKind::ALL.into_iter().map(RejectionKind::word);
        ["renewed", "same"].into_iter().chain(SourceError::OTHER_WORDS).chain(kinds)
    }

    /// The ending as it is shown.
    pub(crate) fn shown(&self, at: UnixSeconds) -> LastEnding {
        let mut shown = LastEnding { word: self.word(), at, advice: None, said: None, ip: None };
        let Self::Failed(error) = self else { return shown };
        shown.advice = Some(error.advice());
        match error.as_ref() {
            SourceError::Call(TokenCallError::Rejected(rejection)) => {
                shown.said = Some(rejection.said.clone());
                shown.ip = rejection.ip;
            }
            SourceError::Call(TokenCallError::Malformed(_))
            | SourceError::Unreachable(_)
            | SourceError::TimedOut
            | SourceError::Panicked
            | SourceError::NoClaim => shown.said = Some(error.told().into()),
        }
        shown
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

// === impl Counts ===

impl Counts {
    /// Attempts that brought a different token.
    pub fn renewals(&self) -> u64 {
        self.fetches.get("renewed").copied().unwrap_or(0)
    }

    /// Attempts that brought the token in hand.
    pub fn same(&self) -> u64 {
        self.fetches.get("same").copied().unwrap_or(0)
    }

    /// Attempts.
    pub fn attempts(&self) -> u64 {
        self.fetches.values().sum()
    }
}

impl Counts {
    fn zero() -> Self {
        Self {
            fetches: Ending::words().map(|word| (word, 0)).collect(),
            asked: 0,
            invalid_early: 0,
            clock_jumps: 0,
            saves_failed: 0,
            claims_failed: 0,
            claim_waits: 0,
            adopted: 0,
            fenced_off: 0,
        }
    }

    /// What was tallied.
    pub(crate) fn of(notes: &Notes) -> Self {
        let mut counts = Self::zero();
        counts.add(notes);
        counts
    }

    fn add(&mut self, notes: &Notes) {
        for (word, count) in [("renewed", notes.renewed), ("same", notes.same)] {
            *self.fetches.entry(word).or_default() += u64::from(count);
        }
        let Some(rare) = &notes.rare else { return };
        for (word, count) in &rare.fetches {
            *self.fetches.entry(word).or_default() += count;
        }
        self.asked += rare.asked;
        self.invalid_early += rare.invalid_early;
        self.clock_jumps += rare.clock_jumps;
        self.saves_failed += rare.saves_failed;
        self.claims_failed += rare.claims_failed;
        self.claim_waits += rare.claim_waits;
        self.adopted += rare.adopted;
        self.fenced_off += rare.fenced_off;
    }
}

// === impl Totals ===

impl Totals {
    /// The sums over `tokens` at `now`. Cost: some 100 ns for each.
    pub fn of(tokens: &[TokenHandle], now: UnixSeconds) -> Self {
        let mut totals = Self {
            accounts: u64::try_from(tokens.len()).unwrap_or(u64::MAX),
            alive: 0,
            failing: 0,
            generation_max: Generation::NONE,
            expires_in_s_min: u64::MAX,
            age_s_max: 0,
            counts: Counts::zero(),
        };
        for TokenHandle(shared) in tokens {
            if let Some(token) = shared.cell.alive() {
                totals.alive += 1;
                totals.expires_in_s_min = totals.expires_in_s_min.min(token.expires_at.since(now).as_secs());
                totals.age_s_max = totals.age_s_max.max(now.since(token.obtained_at).as_secs());
            }
            totals.generation_max = totals.generation_max.max(shared.cell.generation());
            let notes = shared.record.notes();
            totals.failing += u64::from(notes.failures > 0);
            totals.counts.add(&notes);
        }
        if totals.alive == 0 {
            totals.expires_in_s_min = 0;
        }
        totals
    }
}

// === impl Notes ===

impl Notes {
    /// Counts one attempt by the word of its ending.
    pub(crate) fn fetched(&mut self, ending: &Ending) {
        match ending {
            Ending::Renewed => self.renewed = self.renewed.saturating_add(1),
            Ending::Same => self.same = self.same.saturating_add(1),
            Ending::Failed(error) => {
                let (word, fetches) = (error.word(), &mut self.counts().fetches);
                if let Some((_, count)) = fetches.iter_mut().find(|(known, _)| *known == word) {
                    *count += 1;
                } else {
                    fetches.push((word, 1));
                }
            }
        }
    }

    /// What is counted of the rest.
    pub(crate) fn counts(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Notes how an attempt ended.
    pub(crate) fn note(&mut self, ending: &Ending, at: UnixSeconds) {
        self.ended_at = at;
        self.ended = match ending {
            Ending::Renewed => Ended::Renewed,
            Ending::Same => Ended::Same,
            Ending::Failed(_) => {
                self.counts().failure = Some(ending.shown(at));
                Ended::Failed
            }
        };
    }

    /// How the last attempt ended.
    pub(crate) fn last(&self) -> Option<LastEnding> {
        match self.ended {
            Ended::Never => None,
            Ended::Renewed => Some(Ending::Renewed.shown(self.ended_at)),
            Ended::Same => Some(Ending::Same.shown(self.ended_at)),
            Ended::Failed => self.rare.as_ref()?.failure.clone(),
        }
    }
}

// === impl Record ===

impl Record {
    pub(crate) fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
