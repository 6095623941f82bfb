//! The keeper: one for each account, the only one that fetches its token and the only writer of its cell. It has a task
//! while there is something to do.
//!
//! It promises what `mod.rs` says, to stop when told to (or when its [`KeeperTask`] is dropped), and to leave nothing
//! behind that runs. It knows no HTTP and no files.
//!
//! # Why it is small
//!
//! Nearly all accounts are at rest nearly all the time. One costs less than half a kilobyte here and in [`Shared`];
//! `tests/memory` holds the sum, with the token and all tables, below one, as allocated and as resident. What few of them
//! need is boxed ([`Trouble`]), what all need is shared ([`Common`], [`Account`]).
//!
//! # Why it watches the wall clock
//!
//! A token's end is stored as wall time and waited for by the monotonic clock. After a suspension or a clock set by
//! hand the two disagree, and only WeChat knows what is left: one call in normal mode says it.
//!
//! `awake.rs` has the task and its loop; `claim.rs` one attempt, from the claim to the fetch; `hand.rs` what becomes of a token that
//! came, whoever fetched it.

mod awake;
mod claim;
mod hand;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::error;

use self::claim::{Attempted, Wish};
use self::hand::Repairs;
use super::bell::Bell;
use super::cell::Cell;
use super::clock::Anchor;
use super::complaint::Complaint;
use super::hush::Hushed;
use super::leak::Desk;
use super::saver::Save;
use super::schedule::{self, Next, Situation, Turn};
use super::source::TokenSource;
use super::status::{Ending, Record};
use super::store::{News, TokenStore};
use super::turns::Permit;
use super::watch::Watched;
use super::{Common, Progress, Shared, TokenHandle};
use crate::config::Account;
use crate::types::{AppId, Generation, TokenDigest, UnixSeconds};
use crate::wechat::token_call::Mode;

/// What a keeper needs to know besides its source and its store.
#[derive(Debug)]
pub struct Life {
    /// The account.
    pub account: Arc<Account>,
    /// What its token is stored under: a stored token of another one is not this account's.
    pub app_id: AppId,
    /// Whether a token may be fetched without a claim where the store does not work.
    pub alone: Alone,
    /// Where the random share of every wait comes from, and the account's place among others.
    pub jitter: fastrand::Rng,
    /// Shared by all keepers.
    pub common: Arc<Common>,
}

/// Whether a token may be fetched without a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alone {
    /// It may: two processes that fetch at one time get the same token (`stable_token` in normal mode).
    Allowed,
    /// Not while a live token is in hand: each fetch ends the life of the token before (`/cgi-bin/token`). A shared
    /// store that does not work then means that no renewal happens.
    Never,
}

/// The running keeper. Dropping it stops it too, without waiting for the end.
#[derive(Debug)]
pub struct KeeperTask(TokenHandle);

struct Keeper<S, T> {
    /// What of a [`Life`] the account does not have besides.
    app_id: AppId,
    alone: Alone,
    jitter: fastrand::Rng,
    source: S,
    store: T,
    shared: Arc<Shared>,
    /// Of the store, once there may be any.
    news: News,
    /// Where the saver listens, while the keeper is awake.
    saves: Option<Arc<Watched<Option<Save>>>>,
    is_booted: bool,
    /// Whether it waits for its turn.
    is_in_line: bool,
    /// What the store has, as far as we know.
    saved: Known,
    /// The fence of the token in hand; 0 where it was fetched without a claim and is in no shared store yet.
    fence: u64,
    trouble: Option<Box<Trouble>>,
    /// When the next attempt starts, if nobody asks. Not before what [`Progress`] says, if somebody does.
    next_at: Instant,
    /// The token before the newest: a server of WeChat that lags behind may hand it out once more.
    previous: Option<TokenDigest>,
    failures: u32,
    sames: u32,
    /// [`Situation::place`].
    place: f64,
    /// Whether an ask hastened the next attempt.
    asked: bool,
    anchor: Anchor,
}

/// A token of ours in the store: which (none, with [`Generation::NONE`]), its end and its fence.
#[derive(Debug, Clone, Copy)]
struct Known {
    generation: Generation,
    expires_at: UnixSeconds,
    fence: u64,
}

/// What most accounts never need.
#[derive(Debug, Default)]
struct Trouble {
    repairs: Repairs,
    warned_at: Option<Instant>,
    /// When there was a new token, or the keeper began; known where each renewal ends a token.
    renewed_at: Option<Instant>,
}

/// The store gets this long for one claim; then it is as if it had failed, and the renewal goes on.
const CLAIM_MAX: Duration = Duration::from_secs(1);

/// A fetch that takes longer has failed, whatever the source does.
const FETCH_MAX: Duration = Duration::from_secs(10);

/// The store gets this long for one load or save; then it is as if it had failed.
pub(super) const STORE_MAX: Duration = Duration::from_secs(10);

/// Starts the keeper of one account on the current runtime.
pub fn start<S: TokenSource, T: TokenStore>(
    mut life: Life,
    source: S,
    store: T,
) -> (TokenHandle, KeeperTask) {
    let now = Instant::now();
    let place = life.jitter.f64();
    let next = Next { at: now, not_before: now };
    let progress = Progress { started: 0, ended: 0, forced: 0, ending: None, next };
    let shared = Arc::new(Shared {
        cell: Cell::new(Arc::clone(&life.common)),
        leak: Desk::new(life.account.grant),
        account: life.account,
        record: Record::default(),
        hushed: Hushed::default(),
        asked: AtomicU64::new(0),
        bell: Bell::new(),
        progress: Watched::new(progress),
    });
    life.common.clock.follow(&shared);
    let handle = TokenHandle(Arc::clone(&shared));
    let trouble =
        shared.account.grant.rotates().then(|| Trouble { renewed_at: Some(now), ..Trouble::default() });
    let keeper = Box::new(Keeper {
        app_id: life.app_id,
        alone: life.alone,
        jitter: life.jitter,
        source,
        store,
        shared: Arc::clone(&shared),
        news: News::none(),
        saves: None,
        is_booted: false,
        is_in_line: true,
        saved: Known { generation: Generation::NONE, expires_at: UnixSeconds::default(), fence: 0 },
        fence: 0,
        trouble: trouble.map(Box::new),
        next_at: now,
        previous: None,
        failures: 0,
        sames: 0,
        place,
        asked: false,
        anchor: life.common.clock.anchor(),
    });
    // However many keepers start together, the store has a few of them at a time.
    shared.bell.begin(keeper);
    life.common.turns.line_up(&shared);
    (handle.clone(), KeeperTask(handle))
}

// === impl KeeperTask ===

impl KeeperTask {
    /// Its account's token.
    pub fn token(&self) -> &TokenHandle {
        &self.0
    }

    /// Tells the keeper to stop and waits for its end: a fetch is dropped, a save that has begun is finished, for
    /// 10 s at most. Those who wait for a token are told.
    pub async fn stop(self) {
        if let Some(task) = self.0.0.bell.stop()
            && let Err(panicked) = task.await
        {
            error!(error = %panicked, "a keeper ended by itself");
        }
    }

    /// Whether the keeper has ended, be it by a fault.
    pub fn is_finished(&self) -> bool {
        self.0.0.bell.has_ended()
    }
}

impl Drop for KeeperTask {
    fn drop(&mut self) {
        // Nobody waits for its end.
        drop(self.0.0.bell.stop());
    }
}

// === impl Keeper ===

impl<S, T> Drop for Keeper<S, T> {
    fn drop(&mut self) {
        self.shared.clock().cancel_alarm(self.next_at, &self.shared);
        self.close();
    }
}

impl<S, T> Keeper<S, T> {
    /// Those who wait for a token, and the saver, are told that no other comes.
    fn close(&mut self) {
        self.shared.progress.close();
        if let Some(saves) = self.saves.take() {
            saves.close();
        }
    }
}

impl<S: TokenSource, T: TokenStore> Keeper<S, T> {
    /// One attempt, from its claim to everyone's knowing of its end; `turn` is there unless it is forced. Dropped only
    /// when the keeper stops.
    async fn attempt(&mut self, mode: Mode, turn: Option<Permit>) {
        let permit = if let Some(turn) = turn {
            turn
        } else {
            // Whatever pace the last attempt asked for, a leak does not wait for more than this.
            sleep(schedule::FLOOR).await;
            self.turn().await
        };
        let asked = std::mem::take(&mut self.asked);
        self.shared.progress.send_modify(|progress| progress.started += 1);
        let wish = Wish { asked, mode };
        let Attempted { ending, called, unused } = self.renew(wish, permit).await;

        self.count(&ending, asked, called);
        let next = self.plan(turn_of(&ending));
        self.tell(&ending);
        self.shared.progress.send_modify(|progress| {
            progress.ended += 1;
            progress.forced += u32::from(mode == Mode::Force);
            progress.ending = Some(ending);
            progress.next = next;
        });
        if let Some(fence) = unused {
            self.store.release(&self.shared.account.name, &self.app_id, fence).await;
        }
    }

    /// Waits for a turn to fetch; not in line behind accounts that nobody waits for, if somebody waits for this one.
    async fn turn(&self) -> Permit {
        let shared = &self.shared;
        let is_wanted = shared.bell.until(|| shared.cell.is_waited_at());
        self.shared.common().turns.next_or_sooner(is_wanted).await
    }

    /// What the news changed, without an attempt of our own.
    fn note(&mut self, ending: Ending) {
        self.count(&ending, false, false);
        let next = self.plan(turn_of(&ending));
        self.shared.progress.send_modify(|progress| {
            progress.ending = Some(ending);
            progress.next = next;
        });
    }

    /// `called`: WeChat was asked, and not only the store.
    fn count(&mut self, ending: &Ending, asked: bool, called: bool) {
        match ending {
            Ending::Renewed => {
                self.failures = 0;
                let renewed_at = self.trouble.as_mut().and_then(|trouble| trouble.renewed_at.as_mut());
                let lasted = renewed_at.map(|at| std::mem::replace(at, Instant::now()).elapsed());
                self.sames =
                    lasted.filter(|_| asked).map_or(0, |lasted| schedule::paid_in_a_row(self.sames, lasted));
            }
            Ending::Same => {
                self.failures = 0;
                self.sames = self.sames.saturating_add(u32::from(asked));
            }
            Ending::Failed(_) => self.failures = self.failures.saturating_add(1),
        }
        let at = self.shared.clock().read();
        let mut notes = self.shared.record.notes();
        if called {
            notes.fetched(ending);
        }
        notes.failures = self.failures;
        notes.note(ending, at);
    }

    /// Whoever plans tells the others what is returned.
    fn plan(&mut self, turn: Turn) -> Next {
        let next = schedule::next_try(&Situation {
            kind: self.shared.account.grant,
            now: Instant::now(),
            good_until: self.shared.cell.alive().map(|token| token.good_until),
            turn,
            failures: self.failures,
            sames: self.sames,
            jitter: self.jitter.f64(),
            place: self.place,
        });
        self.next_at = next.at;
        next
    }

    /// A line in the log for what a person may have to know.
    fn tell(&mut self, ending: &Ending) {
        let Ending::Failed(failure) = ending else {
            if let Some(trouble) = &mut self.trouble {
                trouble.warned_at = None;
            }
            return;
        };
        let now = Instant::now();
        let complaint = Complaint {
            account: &self.shared.account.name,
            failure,
            failures: self.failures,
            next_try_s: self.next_at.saturating_duration_since(now).as_secs(),
        };
        let trouble = self.trouble.get_or_insert_default();
        trouble.warned_at = complaint.log(trouble.warned_at, now);
    }
}

fn turn_of(ending: &Ending) -> Turn {
    match ending {
        Ending::Renewed => Turn::Renewed,
        Ending::Same => Turn::Same,
        Ending::Failed(error) => Turn::Failed(error.pace()),
    }
}
