//! The cell that requests read, and wait at: the token in force, and whether it is still alive.
//!
//! It promises that [`Cell::current`] takes no lock and never waits, and that a token is on offer only while both
//! clocks say that it lives: the monotonic one, which nobody can set, and the wall clock, which goes on while the
//! machine is suspended. One task writes it (`keeper.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use super::Common;
use super::publish::Cord;
use super::store::Stored;
use crate::types::{AccessToken, Generation, UnixSeconds};

/// An account's token, as long as it is the newest.
#[derive(Debug, Clone)]
pub struct Token {
    /// What goes into requests.
    pub access_token: AccessToken,
    /// Its serial number.
    pub generation: Generation,
    /// When the call that last brought it was sent.
    pub obtained_at: UnixSeconds,
    /// Its end by the wall clock.
    pub expires_at: UnixSeconds,
    /// Its end by the monotonic clock.
    pub good_until: Instant,
}

/// The newest token of one account.
#[derive(Debug)]
pub(crate) struct Cell {
    token: ArcSwapOption<Token>,
    /// Counts up with each token that is put in force, round and round.
    edition: AtomicU32,
    waiting: AtomicU32,
    common: Arc<Common>,
    /// Where the token is published too, who hears of each new one.
    cord: ArcSwapOption<Cord>,
}

/// A place among those who wait; given up by `Drop`, since a caller may hang up at any await.
pub(super) struct Place<'a>(&'a AtomicU32);

/// What slewing (500 ppm at most) makes of a token's life.
const SLEW: Duration = Duration::from_secs(5);

// === impl Token ===

impl Token {
    /// Whether the token lives by both clocks.
    pub fn is_alive(&self, now: Instant, wall: UnixSeconds) -> bool {
        now < self.good_until && wall < self.expires_at
    }

    /// What a store is to know of it at this moment. Where the wall clock has been set back since it came, its times by
    /// that clock are ones that nobody told: then the other clock says how old it is and what is left.
    pub(super) fn stored(&self, fence: u64, now: Instant, wall: UnixSeconds) -> Stored {
        let end = wall.plus(self.good_until.saturating_duration_since(now));
        let set_back = self.expires_at.since(end.plus(SLEW));
        let set_back = if set_back.is_zero() { set_back } else { self.expires_at.since(end) };
        Stored {
            access_token: self.access_token.clone(),
            obtained_at: UnixSeconds(self.obtained_at.0.saturating_sub(set_back.as_secs())),
            expires_at: UnixSeconds(self.expires_at.0.saturating_sub(set_back.as_secs())),
            fence,
        }
    }

    /// What is left of its life, by the clock that leaves less.
    pub fn left(&self, now: Instant, wall: UnixSeconds) -> Duration {
        self.good_until.saturating_duration_since(now).min(self.expires_at.since(wall))
    }
}

// === impl Cell ===

impl Cell {
    pub(crate) fn new(common: Arc<Common>) -> Self {
        Self {
            token: ArcSwapOption::empty(),
            edition: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            common,
            cord: ArcSwapOption::empty(),
        }
    }

    /// What all accounts share.
    pub(crate) fn common(&self) -> &Common {
        &self.common
    }

    /// The newest token, if it is alive.
    pub(crate) fn current(&self, now: Instant, wall: UnixSeconds) -> Option<Arc<Token>> {
        self.newest().filter(|token| token.is_alive(now, wall))
    }

    /// See [`super::TokenHandle::edition`].
    pub(crate) fn edition(&self) -> u32 {
        self.edition.load(Ordering::Acquire)
    }

    /// As `current`, with a fresh look at both clocks.
    pub(crate) fn alive(&self) -> Option<Arc<Token>> {
        self.current(Instant::now(), self.common.clock.read())
    }

    /// The newest token, alive or not.
    pub(crate) fn newest(&self) -> Option<Arc<Token>> {
        self.token.load_full()
    }

    /// Its generation.
    pub(crate) fn generation(&self) -> Generation {
        self.token.load().as_ref().map_or(Generation::NONE, |token| token.generation)
    }

    /// Puts a token in force. The keeper alone calls this.
    pub(crate) fn publish(&self, token: Token) {
        self.token.store(Some(Arc::new(token)));
        // After the token: whoever sees this number sees it too, or a newer one.
        self.edition.fetch_add(1, Ordering::Release);
        if let Some(cord) = &*self.cord.load() {
            cord.pull();
        }
    }

    /// Has a cord pulled at each [`Self::publish`] from now on. The first stays.
    pub(super) fn tie(&self, cord: Cord) {
        self.cord.compare_and_swap(&None::<Arc<Cord>>, Some(Arc::new(cord)));
    }

    /// A place to wait, unless too many wait already.
    pub(super) fn take_place(&self) -> Option<Place<'_>> {
        let waiters_max = self.common.waiters_max.load(Ordering::Relaxed);
        let has_room = |waiting| usize::try_from(waiting).is_ok_and(|waiting| waiting < waiters_max);
        let taken = |waiting| has_room(waiting).then_some(waiting + 1);
        self.waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, taken).ok()?;
        Some(Place(&self.waiting))
    }

    /// Whether anyone waits.
    pub(super) fn is_waited_at(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }
}

// === impl Place ===

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
