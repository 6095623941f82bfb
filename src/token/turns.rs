//! Whose turn it is to fetch: a bound on the fetches of all accounts at one time.
//!
//! It promises that an account which requests wait for does not stand in line behind those that nobody waits for, that
//! both together stay within the bound and a quarter of it, and that keepers can rest while they stand in line.
//!
//! # Why
//!
//! A hundred thousand accounts without a token (a first start, an empty store) take minutes, and a request is turned
//! away after ten seconds.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Shared;

/// Shared by all keepers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Turns(Arc<Lines>);

#[derive(Debug)]
struct Lines {
    all: Arc<Semaphore>,
    /// Beside the line, for those who are waited for.
    wanted: Arc<Semaphore>,
    resting: Mutex<Resting>,
}

/// Keepers that rest while they stand in line. All of them have one place among those that are awake.
#[derive(Debug, Default)]
struct Resting {
    line: VecDeque<Weak<Shared>>,
    is_called: bool,
}

/// A turn, until it is dropped. `None`: nothing bounds it.
pub(super) type Permit = Option<OwnedSemaphorePermit>;

// === impl Turns ===

impl Turns {
    /// `most` fetches at one time, and a quarter more where requests wait; 64 is plenty.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Lines {
            all: Arc::new(Semaphore::new(most)),
            wanted: Arc::new(Semaphore::new(most.div_ceil(4))),
            resting: Mutex::default(),
        }))
    }

    /// A turn in the order of coming; a closed semaphore bounds nothing.
    pub(super) async fn next(&self) -> Permit {
        Arc::clone(&self.0.all).acquire_owned().await.ok()
    }

    /// The same, or sooner once `is_wanted` has ended.
    pub(super) async fn next_or_sooner(&self, is_wanted: impl Future<Output = ()>) -> Permit {
        let sooner = async {
            is_wanted.await;
            Arc::clone(&self.0.wanted).acquire_owned().await.ok()
        };
        tokio::select! {
            biased;
            turn = self.next() => turn,
            turn = sooner => turn,
        }
    }

    /// Wakes the keeper of `shared`, which is at rest, when its turn has come, and hands it that. Said twice, it stands in
    /// line twice; it is given no turn while it does not want one. Must be called on the runtime of the keepers.
    pub(super) fn line_up(&self, shared: &Arc<Shared>) {
        let mut resting = self.0.resting();
        resting.line.push_back(Arc::downgrade(shared));
        if !std::mem::replace(&mut resting.is_called, true) {
            tokio::spawn(Caller(Arc::clone(&self.0)).call());
        }
    }
}

// === impl Lines ===

impl Lines {
    fn resting(&self) -> MutexGuard<'_, Resting> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls those who rest in line, until there are none.
struct Caller(Arc<Lines>);

impl Caller {
    async fn call(self) {
        while let Ok(turn) = Arc::clone(&self.0.all).acquire_owned().await {
            let Some(next) = self.next() else { return };
            if let Some(shared) = next.upgrade() {
                shared.bell.call(turn);
            }
        }
    }

    fn next(&self) -> Option<Weak<Shared>> {
        let mut resting = self.0.resting();
        let next = resting.line.pop_front();
        if next.is_none() {
            *resting = Resting::default();
        }
        next
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        // With its runtime, perhaps. Where another one calls already, there may be a third: they do not disturb each other.
        self.0.resting().is_called = false;
    }
}
