//! A token's life: one keeper for each account fetches its token before the old one dies, and requests read it.
//!
//! ```text
//! boot    store.load ── alive ──> cell (generation 1) ──> schedule
//!                    └─ otherwise ──> try at once
//!
//! loop    wait for   the time schedule gave · an ask "generation g was refused" · a wall clock that jumped
//!                    · news from a store that other processes share
//!         claim      may this process fetch? go | adopt what another has fetched | wait for the one that fetches;
//!                    a store of one process always says go, a store that fails for 1 s is done without
//!         fetch      one at a time, because one keeper does it; 10 s at most
//!         publish    requests see it from here on
//!         announce   those who wait wake: renewed | same | failed
//!         save       beside the loop, best effort: a failure is logged and counted, the token stays in use
//!         schedule   when to try next; until then the keeper rests, without a task (`bell.rs`)
//! ```
//!
//! Promises: [`TokenHandle::current`] takes no lock and never waits. Two fetches for one account never overlap and
//! are at least 2 s apart, whoever asks. Generations only go up. A caller that hangs up stops nothing. No token is on
//! offer that either clock says is dead. One sick account never touches another.
//!
//! Not here: what a 40001 on an API call means (`proxy/inspect.rs`), and who may have the token (`clients/`).
//!
//! # Why one keeper, and not a lock
//!
//! Single flight by ownership needs no rule for a leader that dies: callers never fetch, they read the cell or ask.
//! Asks name a generation, since "renew, if you still hold generation 7" can be said any number of times.
//!
//! # Why a claim, then
//!
//! Between processes there is no owner. The claim saves calls, and guards nothing: in normal mode WeChat hands two
//! callers the same token, so a store that fails costs one call for each process and no request. What orders the
//! writes is the fence that each claim carries.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::config::Account;
use crate::types::{Generation, UnixSeconds};

pub mod schedule;

mod bell;
mod cell;
mod clock;
mod complaint;
mod hush;
mod keeper;
mod leak;
pub mod publish;
mod saver;
pub mod source;
mod status;
pub mod store;
mod turns;
mod watch;

pub use cell::Token;
pub use clock::WallClock;
pub use keeper::{Alone, KeeperTask, Life, start};
pub use leak::{CALLS_PER_DAY, LeakRefusal, LeakStatus, Ledger};
pub use source::{Endpoint, HttpTokenSource, SourceError, TokenSource, http_client};
pub use status::{Counts, Ending, LastEnding, Status, Totals};
pub use store::{ConfiguredStore, StoreError, TokenStore, try_redis};
pub use turns::Turns;

use bell::{Bell, Ring};
use cell::Cell;
use hush::Hushed;
use leak::Desk;
use status::Record;
use watch::Watched;

/// One account and its token, as requests see them. Cheap to clone; made to be read from threads with runtimes of their own.
#[derive(Debug, Clone)]
pub struct TokenHandle(Arc<Shared>);

/// What all keepers have in common.
#[derive(Debug)]
pub struct Common {
    /// What is known of forced refreshes. One for each store.
    pub ledger: Ledger,
    /// Bounds the fetches of all accounts at one time, and at the start their loads.
    pub turns: Turns,
    /// Where wall time comes from.
    pub clock: WallClock,
    /// Requests that may wait for one account's token at one time; more are turned away at once. A reload changes it.
    pub waiters_max: AtomicUsize,
}

/// What became of a wish for a newer token.
#[derive(Debug, Clone)]
pub enum Renewal {
    /// There is one.
    Newer(Arc<Token>),
    /// WeChat handed out the same token again: it is not the token that is wrong.
    Same,
    /// None could be had, or none in time.
    Failed,
}

/// There is no live token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no live token: {why}")]
pub struct NoToken {
    /// When it is worth asking again; 1 s or more, whole seconds.
    pub retry_after: Duration,
    /// Why: a word of [`Ending::words`], or `waiting` (none came in time), `crowded` (too many wait already),
    /// `stopping`.
    pub why: &'static str,
}

/// What the keeper and the handles share.
#[derive(Debug)]
pub(crate) struct Shared {
    account: Arc<Account>,
    cell: Cell,
    leak: Desk,
    record: Record,
    hushed: Hushed,
    /// One more than the highest generation that was asked about, 0 for none, and the bell beside it: together a
    /// queue of length one.
    asked: AtomicU64,
    bell: Bell,
    progress: Watched<Progress>,
}

/// Where the keeper is: "attempt n ended so".
#[derive(Debug, Clone)]
struct Progress {
    /// Attempts; 68 years of one each second.
    started: u32,
    ended: u32,
    /// Forced attempts that have ended.
    forced: u32,
    ending: Option<Ending>,
    next: schedule::Next,
}

/// Nobody waits longer for a first token; what comes later is another request's luck.
pub const WAIT_MAX: Duration = Duration::from_secs(10);

/// An attempt further away than this is not waited for: those who ask get the last ending at once.
const PATIENCE: Duration = Duration::from_secs(2);

// === impl TokenHandle ===

impl TokenHandle {
    /// The token, if one is alive: by the monotonic clock at `now`, by the wall clock at this moment.
    ///
    /// No lock, no allocation, no wait.
    pub fn current(&self, now: Instant) -> Option<Arc<Token>> {
        self.0.cell.current(now, self.wall())
    }

    /// Another number whenever a token was put in force, also where it is the same one with another end. Whoever keeps a
    /// copy of [`Self::current`], read after this number, need not read it again while the number stays and the copy lives.
    ///
    /// For every request: one load of a number that changes a few times a day.
    pub fn edition(&self) -> u32 {
        self.0.cell.edition()
    }

    /// The wall clock that tokens go by. Reading it costs more than all the rest of [`Self::current`].
    pub fn wall(&self) -> UnixSeconds {
        self.0.clock().read()
    }

    /// The token, waiting for the first (or the next, where the last one has died) until `deadline`, 10 s at most.
    ///
    /// Answers at once where the last attempt failed and none is going on, and where too many wait already.
    /// May be dropped at any await.
    pub async fn wait(&self, deadline: Instant) -> Result<Arc<Token>, NoToken> {
        if let Some(token) = self.0.cell.alive() {
            return Ok(token);
        }
        let Some(_place) = self.0.cell.take_place() else { return Err(self.0.no_token("crowded")) };
        let limit = deadline.min(Instant::now() + WAIT_MAX);
        timeout_at(limit, self.next_alive()).await.unwrap_or_else(|_| Err(self.0.no_token("waiting")))
    }

    /// A newer token than `generation`, which WeChat has refused. Asks for a renewal if there is none yet.
    ///
    /// Waits until `deadline` for an attempt that started after the ask; where none may start within 2 s, answers
    /// `Failed` at once. May be dropped at any await: a renewal that has begun goes on.
    pub async fn newer_than(&self, generation: Generation, deadline: Instant) -> Renewal {
        if let Some(token) = self.newer(generation) {
            return Renewal::Newer(token);
        }
        let Some(_place) = self.0.cell.take_place() else { return Renewal::Failed };
        timeout_at(deadline, self.renewed(generation)).await.unwrap_or(Renewal::Failed)
    }

    /// Whether a path (by its hash) is not worth a second try at `now`, since the last one brought the same token.
    pub fn quiet(&self, path_hash: u64, now: Instant) -> bool {
        self.0.hushed.is_quiet(path_hash, now)
    }

    /// Notes that a path is not worth a second try for a minute. Remembers 1024 paths.
    pub fn hush(&self, path_hash: u64, now: Instant) {
        self.0.hushed.hush(path_hash, now);
    }

    /// Notes that a newer token was refused on this path too. Where every renewal ends a token, the path is quiet then:
    /// one that says 40001 whatever the token (wechat.md, trap 5) would cost a renewal a request.
    pub fn refused_again(&self, path_hash: u64, now: Instant) {
        if self.0.account.grant.rotates() {
            self.hush(path_hash, now);
        }
    }

    /// The token has leaked: begins the two forced refreshes that end it. Answers at once; [`Status::leak`] says how
    /// far it has come.
    pub fn leaked(&self) -> Result<LeakStatus, LeakRefusal> {
        let now = self.0.clock().read();
        self.0.leak.press(self.0.account.grant, now)?;
        self.0.bell.ring(Ring::Pressed);
        Ok(self.0.leak.status(self.0.account.grant, now))
    }

    /// What operators see.
    pub fn status(&self) -> Status {
        let progress = self.0.progress.look(Progress::clone);
        let token = self.0.cell.newest();
        let notes = self.0.record.notes();
        Status {
            account: self.0.account.name.clone(),
            alive: self.0.cell.alive().is_some(),
            generation: self.0.cell.generation(),
            fingerprint: token.as_ref().map(|token| token.access_token.fingerprint()),
            obtained_at: token.as_ref().map(|token| token.obtained_at),
            expires_at: token.as_ref().map(|token| token.expires_at),
            last: notes.last(),
            failures: notes.failures,
            in_flight: progress.in_flight(),
            next_try_in: progress.next.at.saturating_duration_since(Instant::now()),
            leak: self.0.leak.status(self.0.account.grant, self.0.clock().read()),
            counts: Counts::of(&notes),
        }
    }

    /// Whether a token is alive: what [`Self::status`] says too, at a hundredth of its price.
    pub fn is_alive(&self) -> bool {
        self.0.cell.alive().is_some()
    }

    /// Whether the last attempt failed.
    pub fn is_failing(&self) -> bool {
        self.0.record.notes().failures > 0
    }

    /// Whose it is, as it was when its keeper began: what it publishes may have changed since.
    pub fn account(&self) -> &Arc<Account> {
        &self.0.account
    }

    async fn next_alive(&self) -> Result<Arc<Token>, NoToken> {
        let mut progress = self.0.progress.reader();
        loop {
            let seen = progress.take_in();
            if let Some(token) = self.0.cell.alive() {
                return Ok(token);
            }
            match seen.ending {
                _ if seen.in_flight() => {}
                Some(Ending::Failed(error)) => return Err(self.0.no_token(error.word())),
                Some(Ending::Renewed | Ending::Same) | None => self.0.ask(self.0.cell.generation()),
            }
            if progress.changed().await.is_err() {
                return Err(self.0.no_token("stopping"));
            }
        }
    }

    async fn renewed(&self, generation: Generation) -> Renewal {
        let mut progress = self.0.progress.reader();
        let started_before = progress.take_in().started;
        loop {
            let seen = progress.take_in();
            if let Some(token) = self.newer(generation) {
                return Renewal::Newer(token);
            }
            let far_away = seen.next.not_before > Instant::now() + PATIENCE;
            if !seen.in_flight() && seen.ended > started_before {
                return seen.without_a_newer_token();
            }
            // Nobody has looked since this token was refused, so nobody knows that it is the same.
            if !seen.in_flight() && far_away {
                return Renewal::Failed;
            }
            if !seen.in_flight() {
                self.0.ask(generation);
            }
            if progress.changed().await.is_err() {
                return Renewal::Failed;
            }
        }
    }

    fn newer(&self, generation: Generation) -> Option<Arc<Token>> {
        self.0.cell.alive().filter(|token| token.generation > generation)
    }
}

// === impl Shared ===

impl Shared {
    fn clock(&self) -> &WallClock {
        &self.common().clock
    }

    fn common(&self) -> &Common {
        self.cell.common()
    }

    /// Asks the keeper; never waits. Asked twice is asked once.
    fn ask(&self, generation: Generation) {
        self.asked.fetch_max(generation.0.saturating_add(1), Ordering::SeqCst);
        self.bell.ring(Ring::Look);
    }

    fn no_token(&self, why: &'static str) -> NoToken {
        let wait = self.progress.look(|progress| progress.next.at).saturating_duration_since(Instant::now());
        NoToken { retry_after: Duration::from_secs(wait.as_secs().saturating_add(1)), why }
    }
}

// === impl Progress ===

impl Progress {
    fn in_flight(&self) -> bool {
        self.started > self.ended
    }

    /// What the last ending means to one who wished for a newer token and finds none.
    fn without_a_newer_token(&self) -> Renewal {
        match self.ending {
            Some(Ending::Renewed | Ending::Same) => Renewal::Same,
            Some(Ending::Failed(_)) | None => Renewal::Failed,
        }
    }
}
