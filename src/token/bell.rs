//! The bell of one account: whoever wants something of its keeper rings it, from any thread.
//!
//! It promises that no ring is lost: what was rung for is remembered until it is heard, and a keeper that is at rest is
//! woken. Rung twice is rung once.
//!
//! # Why a keeper at rest has no task
//!
//! It waits for hours between two calls. A task of tokio's, with a timer and with room for all that a fetch, a save and a
//! leaked token may need, took 1,152 bytes of each account meanwhile; a hundred thousand of them more than all the rest.
//! So a keeper with nothing to do hangs here, as a value, and whoever rings starts its task.

use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

use super::turns::Permit;

/// What is rung for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Ring {
    /// Look at the time, and at what was asked.
    Look = 1,
    /// Someone pressed the leaked button.
    Pressed = 2,
    /// Make a forced attempt.
    Forced = 4,
    /// Take in the store's news.
    News = 8,
    /// End. Said once, it holds.
    Stop = 16,
}

/// A keeper at rest.
pub(super) trait Sleeper: Send {
    /// Whether it waits for its turn to fetch.
    fn is_in_line(&self) -> bool;

    /// Starts its task, perhaps with its turn; `None` where there is no runtime for it any more.
    fn wake(self: Box<Self>, turn: Permit) -> Option<JoinHandle<()>>;
}

/// See the module.
pub(super) struct Bell {
    whereabouts: Mutex<Whereabouts>,
    /// What was rung for and is not heard yet, a bit for each [`Ring`].
    rung: AtomicU8,
}

/// Where the keeper is.
enum Whereabouts {
    AtRest(Box<dyn Sleeper>),
    /// `None`: not there yet, or no more. Two variants need no room for a mark.
    Awake(Option<Box<Awake>>),
}

/// A keeper whose task runs, or has ended by itself.
struct Awake {
    /// `None` once someone waits for its end.
    task: Option<JoinHandle<()>>,
    /// Wakes the task, if it waits for the bell.
    waker: Option<Waker>,
}

const GONE: Whereabouts = Whereabouts::Awake(None);

// === impl Bell ===

impl Bell {
    /// A bell of a keeper that is to come.
    pub(super) fn new() -> Self {
        Self { whereabouts: Mutex::new(GONE), rung: AtomicU8::new(0) }
    }

    /// Has the keeper wake up, and hear it. Never waits.
    pub(super) fn ring(&self, ring: Ring) {
        self.rung.fetch_or(ring as u8, Ordering::SeqCst);
        let mut whereabouts = self.whereabouts();
        match std::mem::replace(&mut *whereabouts, GONE) {
            Whereabouts::Awake(None) => {}
            Whereabouts::AtRest(sleeper) => *whereabouts = Whereabouts::awake(sleeper, None),
            Whereabouts::Awake(Some(mut awake)) => {
                let waker = awake.waker.take();
                *whereabouts = Whereabouts::Awake(Some(awake));
                drop(whereabouts);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
        }
    }

    /// Waits for such a ring, and takes it. One task may wait, with as many of its futures as it likes. May be dropped at
    /// any await.
    pub(super) async fn heard(&self, ring: Ring) {
        poll_fn(|context| self.poll_heard(ring, context)).await;
    }

    /// A keeper is there, at rest.
    pub(super) fn begin(&self, sleeper: Box<dyn Sleeper>) {
        *self.whereabouts() = Whereabouts::AtRest(sleeper);
    }

    /// Has a keeper that rests in line wake up with its turn. One that does not, has no use for it.
    pub(super) fn call(&self, turn: OwnedSemaphorePermit) {
        let mut whereabouts = self.whereabouts();
        match std::mem::replace(&mut *whereabouts, GONE) {
            Whereabouts::AtRest(sleeper) if sleeper.is_in_line() => {
                *whereabouts = Whereabouts::awake(sleeper, Some(turn));
            }
            other @ (Whereabouts::AtRest(_) | Whereabouts::Awake(_)) => {
                *whereabouts = other;
            }
        }
    }

    /// Ready while the condition holds, which is looked at whenever something was rung for.
    pub(super) async fn until(&self, holds: impl Fn() -> bool) {
        poll_fn(|context| {
            self.listen(context);
            if holds() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// The keeper goes to rest, and its task is to end. Not where something has been rung for: then it is handed back.
    pub(super) fn rest<S: Sleeper + 'static>(&self, sleeper: Box<S>) -> Option<Box<S>> {
        let mut whereabouts = self.whereabouts();
        if self.rung.load(Ordering::SeqCst) != 0 {
            return Some(sleeper);
        }
        *whereabouts = Whereabouts::AtRest(sleeper);
        None
    }

    /// Ends the keeper: one at rest is gone with this call, one that is awake when the task has ended that is handed out
    /// (to the first who asks).
    pub(super) fn stop(&self) -> Option<JoinHandle<()>> {
        self.rung.fetch_or(Ring::Stop as u8, Ordering::SeqCst);
        let mut whereabouts = self.whereabouts();
        let (task, waker, sleeper) = match std::mem::replace(&mut *whereabouts, GONE) {
            Whereabouts::Awake(None) => (None, None, None),
            Whereabouts::AtRest(sleeper) => (None, None, Some(sleeper)),
            Whereabouts::Awake(Some(mut awake)) => {
                let (task, waker) = (awake.task.take(), awake.waker.take());
                *whereabouts = Whereabouts::Awake(Some(awake));
                (task, waker, None)
            }
        };
        drop(whereabouts);
        drop(sleeper);
        if let Some(waker) = waker {
            waker.wake();
        }

        task
    }

    /// Whether the keeper has ended, be it by a fault.
    pub(super) fn has_ended(&self) -> bool {
        match &*self.whereabouts() {
            Whereabouts::Awake(None) => true,
            Whereabouts::AtRest(_) => false,
            Whereabouts::Awake(Some(awake)) => awake.task.as_ref().is_none_or(JoinHandle::is_finished),
        }
    }

    fn poll_heard(&self, ring: Ring, context: &Context<'_>) -> Poll<()> {
        if self.take(ring) {
            return Poll::Ready(());
        }
        self.listen(context);
        // Rung in between, it would have found no one to wake.
        if self.take(ring) { Poll::Ready(()) } else { Poll::Pending }
    }

    fn listen(&self, context: &Context<'_>) {
        if let Whereabouts::Awake(Some(awake)) = &mut *self.whereabouts() {
            match &mut awake.waker {
                Some(waker) => waker.clone_from(context.waker()),
                waker @ None => *waker = Some(context.waker().clone()),
            }
        }
    }

    fn take(&self, ring: Ring) -> bool {
        let bit = ring as u8;
        let bits = if ring == Ring::Stop {
            self.rung.load(Ordering::SeqCst)
        } else {
            self.rung.fetch_and(!bit, Ordering::SeqCst)
        };
        bits & bit != 0
    }

    fn whereabouts(&self) -> MutexGuard<'_, Whereabouts> {
        self.whereabouts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bell")
            .field("rung", &self.rung)
            .field("has_ended", &self.has_ended())
            .finish_non_exhaustive()
    }
}

// === impl Whereabouts ===

impl Whereabouts {
    fn awake(sleeper: Box<dyn Sleeper>, turn: Permit) -> Self {
        let Some(task) = sleeper.wake(turn) else { return GONE };
        Self::Awake(Some(Box::new(Awake { task: Some(task), waker: None })))
    }
}
