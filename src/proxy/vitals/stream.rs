//! How an HTTP/2 stream is doing.

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::Instant;

/// The notes of one HTTP/2 stream.
///
/// A stream's task wakes for its request's body, for WeChat and for timers; one that sleeps through all the time that
/// these may take waits for a window that the client does not open (CVE-2019-9517).
#[derive(Debug)]
pub(in crate::proxy) struct StreamVitals {
    woke_at: Cell<Instant>,
    is_cut: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

// === impl StreamVitals ===

impl StreamVitals {
    pub(super) fn new() -> Self {
        Self { woke_at: Cell::new(Instant::now()), is_cut: Cell::new(false), waker: RefCell::new(None) }
    }

    pub(super) fn sleeps_since(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.woke_at.get())
    }

    /// Its task is to end.
    pub(super) fn cut(&self) {
        self.is_cut.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// The stream's task was woken; says whether it may go on.
    pub(in crate::proxy) fn wakes(&self, cx: &Context<'_>) -> bool {
        self.woke_at.set(Instant::now());
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        !self.is_cut.get()
    }
}
