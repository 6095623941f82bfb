//! The wall clock, whoever must hear when it jumps, and the alarms of keepers at rest.
//!
//! It promises that keepers on one clock are woken within half a minute of a jump, and one at rest when its time has
//! come. Whether a jump concerns one of them is that keeper's own judgement: its last fetch may be younger than the jump.
//!
//! # Why one watcher
//!
//! A keeper that looked for itself would wake every half minute for the sake of a thing that happens once a year; a
//! hundred thousand of them 3,300 times a second. A timer of tokio's of its own would cost each of them 112 bytes, and a
//! task to be woken by it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::Shared;
use super::bell::Ring;
use crate::types::UnixSeconds;

/// Where wall time comes from: [`UnixSeconds::now`], or a clock that a test sets. Clones are the same clock.
#[derive(Clone)]
pub struct WallClock(Arc<Clock>);

struct Clock {
    read: Option<Box<dyn Fn() -> UnixSeconds + Send + Sync>>,
    followers: Mutex<Followers>,
    made_at: Instant,
    /// There is an alarm before the one that the watcher waits for.
    sooner: Arc<Notify>,
}

#[derive(Default)]
struct Followers {
    keepers: Vec<Weak<Shared>>,
    /// Of keepers at rest, by time; the number tells those of one time apart.
    alarms: BTreeMap<Alarm, Weak<Shared>>,
    /// Where the watcher runs; `None`: nowhere.
    runtime: Option<Handle>,
}

/// When, in nanoseconds since the clock was made, and of whom: the address of what the keeper shares.
type Alarm = (u64, usize);

/// Both clocks, read together: what the wall clock would have said, in Unix seconds, when this clock was made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Anchor(i64);

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
        Self::new(None)
    }

    /// A test's.
    pub fn of(read: impl Fn() -> UnixSeconds + Send + Sync + 'static) -> Self {
        Self::new(Some(Box::new(read)))
    }

    /// The time.
    pub fn read(&self) -> UnixSeconds {
        self.0.read.as_ref().map_or_else(UnixSeconds::now, |read| read())
    }

    /// Reads both clocks together.
    pub(super) fn anchor(&self) -> Anchor {
        let since_made = self.0.made_at.elapsed().as_secs();
        Anchor(self.read().0.cast_signed().saturating_sub(since_made.cast_signed()))
    }

    /// By how many seconds the wall clock has run ahead of the other one since (less than 0: fallen behind it), where that
    /// is more than [`JUMP`].
    pub(super) fn jump_since(&self, anchor: Anchor) -> Option<i64> {
        let ahead_s = self.anchor().0.saturating_sub(anchor.0);
        (ahead_s.unsigned_abs() > JUMP.as_secs()).then_some(ahead_s)
    }

    /// Wakes the keeper of `shared` after a jump, for as long as there is one. Must be called on the runtime where keepers
    /// are to run.
    pub(super) fn follow(&self, shared: &Arc<Shared>) {
        let mut followers = self.0.followers();
        // Places of those that are gone are taken over before there are more places.
        if followers.keepers.len() == followers.keepers.capacity() {
            followers.keepers.retain(|keeper| keeper.strong_count() > 0);
        }
        followers.keepers.push(Arc::downgrade(shared));
        if followers.runtime.is_none() {
            followers.runtime = Some(Handle::current());
            tokio::spawn(watch(Watched(Arc::downgrade(&self.0))));
        }
    }

    /// Where the keepers run; `None` where that runtime has ended.
    pub(super) fn runtime(&self) -> Option<Handle> {
        self.0.followers().runtime.clone()
    }

    /// Rings at `at` for the keeper of `shared`, which has this one alarm at most.
    pub(super) fn set_alarm(&self, at: Instant, shared: &Arc<Shared>) {
        let alarm = self.0.alarm(at, shared);
        let mut followers = self.0.followers();
        let is_first = followers.alarms.first_key_value().is_none_or(|(first, _)| alarm < *first);
        followers.alarms.insert(alarm, Arc::downgrade(shared));
        drop(followers);
        if is_first {
            self.0.sooner.notify_one();
        }
    }

    /// Takes that alarm back, if it has not rung.
    pub(super) fn cancel_alarm(&self, at: Instant, shared: &Arc<Shared>) {
        let alarm = self.0.alarm(at, shared);
        self.0.followers().alarms.remove(&alarm);
    }

    fn new(read: Option<Box<dyn Fn() -> UnixSeconds + Send + Sync>>) -> Self {
        Self(Arc::new(Clock {
            read,
            followers: Mutex::default(),
            made_at: Instant::now(),
            sooner: Arc::default(),
        }))
    }
}

/// A clock that is watched; says so no more when the watcher ends, be it with its runtime.
struct Watched(Weak<Clock>);

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(clock) = self.0.upgrade() {
            clock.followers().runtime = None;
        }
    }
}

/// Wakes the keepers, all after each jump and those whose time has come; ends with the clock.
async fn watch(watched: Watched) {
    let Some(sooner) = watched.0.upgrade().map(|clock| Arc::clone(&clock.sooner)) else { return };
    let (mut anchor, mut check_at) = (None, Instant::now());
    while let Some(clock) = watched.0.upgrade() {
        if Instant::now() >= check_at {
            check(&clock, &mut anchor);
            check_at = Instant::now() + CHECK_EVERY;
        }
        let next = clock.ring_alarms();
        drop(clock);
        // Whichever it is: what is due shows above.
        let _sooner = timeout_at(next.map_or(check_at, |at| at.min(check_at)), sooner.notified()).await;
    }
}

/// Compares the two clocks with what they were when they were last compared.
fn check(clock: &Arc<Clock>, anchored: &mut Option<(Instant, Anchor)>) {
    let (now, wall_clock) = (Instant::now(), WallClock(Arc::clone(clock)));
    let (anchored_at, anchor) = *anchored.get_or_insert_with(|| (now, wall_clock.anchor()));
    let has_jumped = wall_clock.jump_since(anchor).is_some();
    if has_jumped {
        clock.ring_all();
    }
    if has_jumped || now >= anchored_at + ANCHOR_LIVES {
        *anchored = Some((now, wall_clock.anchor()));
    }
}

// === impl Clock ===

impl Clock {
    fn ring_all(&self) {
        let keepers: Vec<_> = self.followers().keepers.iter().filter_map(Weak::upgrade).collect();
        // Not under the lock: a keeper that wakes comes back here.
        for keeper in keepers {
            keeper.bell.ring(Ring::Look);
        }
    }

    /// Rings for those whose time has come; says when the next one's does.
    fn ring_alarms(&self) -> Option<Instant> {
        let now = Instant::now();
        loop {
            let mut followers = self.followers();
            let first = followers.alarms.first_entry()?;
            let at = self.made_at + Duration::from_nanos(first.key().0);
            if at > now {
                return Some(at);
            }
            let keeper = first.remove().upgrade();
            drop(followers);
            if let Some(keeper) = keeper {
                keeper.bell.ring(Ring::Look);
            }
        }
    }

    /// An alarm at a time before the clock was made rings at once.
    fn alarm(&self, at: Instant, shared: &Arc<Shared>) -> Alarm {
        let since_made = at.saturating_duration_since(self.made_at).as_nanos();
        (u64::try_from(since_made).unwrap_or(u64::MAX), Arc::as_ptr(shared).addr())
    }

    fn followers(&self) -> MutexGuard<'_, Followers> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.read.is_some() { "WallClock(a test's)" } else { "WallClock" })
    }
}
