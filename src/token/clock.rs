//! The wall clock, and whoever must hear when it jumps.
//!
//! It promises that keepers on one clock are woken within half a minute of a jump. Whether it concerns one of them is
//! that keeper's own judgement: its last fetch may be younger than the jump.
//!
//! # Why one watcher
//!
//! A keeper that looked for itself would wake every half minute for the sake of a thing that happens once a year; a
//! hundred thousand of them 3,300 times a second.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Shared;
use crate::types::UnixSeconds;

/// Where wall time comes from: [`UnixSeconds::now`], or a clock that a test sets. Clones are the same clock.
#[derive(Clone)]
pub struct WallClock(Arc<Clock>);

struct Clock {
    read: Option<Box<dyn Fn() -> UnixSeconds + Send + Sync>>,
    followers: Mutex<Followers>,
}

#[derive(Default)]
struct Followers {
    keepers: Vec<Weak<Shared>>,
    is_watched: bool,
}

/// The two clocks are compared this often.
const CHECK_EVERY: Duration = Duration::from_secs(30);

/// And may differ by so much: slewing stays far below it, a stored end is wrong by at most it.
pub(super) const JUMP: Duration = Duration::from_mins(1);

/// Both clocks are read together anew after this long, or slewing would add up to a jump.
const ANCHOR_LIVES: Duration = Duration::from_hours(1);

// === impl WallClock ===

impl WallClock {
    /// The machine's. One serves all accounts.
    pub fn of_the_machine() -> Self {
        Self(Arc::new(Clock { read: None, followers: Mutex::default() }))
    }

    /// A test's.
    pub fn of(read: impl Fn() -> UnixSeconds + Send + Sync + 'static) -> Self {
        Self(Arc::new(Clock { read: Some(Box::new(read)), followers: Mutex::default() }))
    }

    /// The time.
    pub fn read(&self) -> UnixSeconds {
        self.0.read.as_ref().map_or_else(UnixSeconds::now, |read| read())
    }

    /// Wakes the keeper of `shared` after a jump, for as long as there is one. Must be called on a runtime.
    pub(super) fn follow(&self, shared: &Arc<Shared>) {
        let mut followers = self.0.followers.lock().unwrap_or_else(PoisonError::into_inner);
        // Places of those that are gone are taken over before there are more places.
        if followers.keepers.len() == followers.keepers.capacity() {
            followers.keepers.retain(|keeper| keeper.strong_count() > 0);
        }
        followers.keepers.push(Arc::downgrade(shared));
        if !std::mem::replace(&mut followers.is_watched, true) {
            tokio::spawn(watch(Watched(Arc::downgrade(&self.0))));
        }
    }
}

/// A clock that is watched; says so no more when the watcher ends, be it with its runtime.
struct Watched(Weak<Clock>);

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(clock) = self.0.upgrade() {
            clock.followers.lock().unwrap_or_else(PoisonError::into_inner).is_watched = false;
        }
    }
}

/// Wakes the keepers after each jump; ends with the clock.
async fn watch(watched: Watched) {
    let mut anchor = None;
    while let Some(clock) = watched.0.upgrade() {
        let clock = WallClock(clock);
        let (now, wall) = (Instant::now(), clock.read());
        let (anchor_at, anchor_wall) = *anchor.get_or_insert((now, wall));
        let expected = anchor_wall.plus(now.saturating_duration_since(anchor_at));
        let has_jumped = wall.since(expected).max(expected.since(wall)) > JUMP;
        if has_jumped {
            clock.wake_all();
        }
        if has_jumped || now >= anchor_at + ANCHOR_LIVES {
            anchor = Some((now, wall));
        }
        drop(clock);
        sleep(CHECK_EVERY).await;
    }
}

// === helpers ===

impl WallClock {
    fn wake_all(&self) {
        let followers = self.0.followers.lock().unwrap_or_else(PoisonError::into_inner);
        for keeper in followers.keepers.iter().filter_map(Weak::upgrade) {
            keeper.bell.notify_one();
        }
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.read.is_some() { "WallClock(a test's)" } else { "WallClock" })
    }
}
