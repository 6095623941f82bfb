//! The cell that requests read: the token in force, and whether it is still alive.
//!
//! It promises that [`Cell::current`] takes no lock and never waits, and that a token is on offer only while both
//! clocks say that it lives: the monotonic one, which nobody can set, and the wall clock, which goes on while the
//! machine is suspended. One task writes it (`keeper.rs`).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::clock::WallClock;
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

/// A token that was alive when it was read. Derefs to [`Token`]. For a short stay: `Arc::clone(&guard)` is better
/// across an await, since a thread has some eight guards before reads get slower.
pub type Guard = arc_swap::Guard<Arc<Token>>;

/// The newest token of one account.
#[derive(Debug)]
pub(crate) struct Cell {
    token: OnceLock<ArcSwap<Token>>,
    clock: WallClock,
    /// The wall clock's seconds when it was last read, and when that was: so many milliseconds before the end of the
    /// token that was there.
    wall_s: AtomicU64,
    read_before_ms: AtomicU64,
    /// Where the token is published too, who hears of each new one.
    cord: OnceLock<Box<Cord>>,
}

/// Reading the wall clock costs 39 ns here, more than the whole of a read without it (28 ns; *measured*). A request can so be
/// handed a token that died in a suspension up to this long, by the monotonic clock, after the last read; WeChat
/// says 42001 to it and it goes once more.
const WALL_READ_EVERY: Duration = Duration::from_millis(20);

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
    pub(crate) fn new(clock: WallClock) -> Self {
        Self {
            token: OnceLock::new(),
            clock,
            wall_s: AtomicU64::new(0),
            read_before_ms: AtomicU64::new(0),
            cord: OnceLock::new(),
        }
    }

    /// The clock that it goes by.
    pub(crate) fn clock(&self) -> &WallClock {
        &self.clock
    }

    /// The newest token, if it is alive.
    pub(crate) fn current(&self, now: Instant) -> Option<Guard> {
        let token = self.token.get()?.load();
        token.is_alive(now, self.wall(now, token.good_until)).then_some(token)
    }

    /// As `current`, with a fresh look at the wall clock.
    pub(crate) fn alive(&self) -> Option<Arc<Token>> {
        self.newest().filter(|token| token.is_alive(Instant::now(), self.clock.read()))
    }

    /// The newest token, alive or not.
    pub(crate) fn newest(&self) -> Option<Arc<Token>> {
        self.token.get().map(ArcSwap::load_full)
    }

    /// Its generation.
    pub(crate) fn generation(&self) -> Generation {
        self.token.get().map_or(Generation::NONE, |token| token.load().generation)
    }

    /// Puts a token in force. The keeper alone calls this.
    pub(crate) fn publish(&self, token: Token) {
        let token = Arc::new(token);
        self.wall_s.store(self.clock.read().0, Relaxed);
        self.token.get_or_init(|| ArcSwap::new(Arc::clone(&token))).store(token);
        if let Some(cord) = self.cord.get() {
            cord.pull();
        }
    }

    /// Has a cord pulled at each [`Self::publish`] from now on. The first stays.
    pub(super) fn tie(&self, cord: Cord) {
        self.cord.get_or_init(|| Box::new(cord));
    }

    /// The wall clock, by a reading that is not older than [`WALL_READ_EVERY`].
    fn wall(&self, now: Instant, end: Instant) -> UnixSeconds {
        let before_ms = millis(end.saturating_duration_since(now));
        // Wrapped around where the end is further away than it was: a newer token's.
        if self.read_before_ms.load(Relaxed).wrapping_sub(before_ms) >= millis(WALL_READ_EVERY) {
            self.wall_s.store(self.clock.read().0, Relaxed);
            self.read_before_ms.store(before_ms, Relaxed);
        }
        UnixSeconds(self.wall_s.load(Relaxed))
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
