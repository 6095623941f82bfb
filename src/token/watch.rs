//! A value that one side replaces and others wait for: what `tokio::sync::watch` does, at a fifth of its size.
//!
//! It promises that whoever waits sees the newest value, perhaps not each one, and is told when the value is closed: none
//! comes after.
//!
//! # Why not tokio's
//!
//! Each of its channels is an allocation with nine queues of waiters, so that many threads can wait without meeting: some
//! 370 bytes. This one is part of what it belongs to and has a queue only while someone waits. A process may have a
//! hundred thousand of them, and next to nobody ever waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The value.
#[derive(Debug)]
pub(super) struct Watched<T>(Mutex<State<T>>);

/// A side that reads.
#[derive(Debug)]
pub(super) struct Reader<'a, T> {
    watched: &'a Watched<T>,
    seen: u32,
}

/// The value is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Closed;

#[derive(Debug)]
struct State<T> {
    value: T,
    /// Those who wait for the next change.
    waiting: Option<Arc<Notify>>,
    /// Counts changes up, round and round.
    version: u32,
    is_closed: bool,
}

// === impl Watched ===

impl<T> Watched<T> {
    pub(super) fn new(value: T) -> Self {
        Self(Mutex::new(State { value, waiting: None, version: 0, is_closed: false }))
    }

    /// Changes the value and wakes all who wait.
    pub(super) fn send_modify(&self, change: impl FnOnce(&mut T)) {
        let mut state = self.state();
        change(&mut state.value);
        state.version = state.version.wrapping_add(1);
        let waiting = state.waiting.take();
        drop(state);
        if let Some(waiting) = waiting {
            waiting.notify_waiters();
        }
    }

    /// There will be no other value.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        let waiting = state.waiting.take();
        drop(state);
        if let Some(waiting) = waiting {
            waiting.notify_waiters();
        }
    }

    /// Looks at the value.
    pub(super) fn look<R>(&self, at: impl FnOnce(&T) -> R) -> R {
        at(&self.state().value)
    }

    /// A reader who counts what stands there as seen.
    pub(super) fn reader(&self) -> Reader<'_, T> {
        Reader { watched: self, seen: self.state().version }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Reader ===

impl<T> Reader<'_, Option<T>> {
    /// Takes the value out, which is no change.
    pub(super) fn take(&self) -> Option<T> {
        self.watched.state().value.take()
    }
}

impl<T> Reader<'_, T> {
    /// A copy of the value, which counts as seen from here on.
    pub(super) fn take_in(&mut self) -> T
    where
        T: Clone,
    {
        let state = self.watched.state();
        self.seen = state.version;
        state.value.clone()
    }

    /// Waits for a value that has not been seen, and counts it as seen. A last one is told before [`Closed`].
    pub(super) async fn changed(&mut self) -> Result<(), Closed> {
        loop {
            let waiting = match self.news() {
                Ok(news) => return news,
                Err(waiting) => waiting,
            };
            let changed = waiting.notified();
            // From its making on it hears of every change; one before that shows here.
            if self.watched.state().version == self.seen && !self.watched.state().is_closed {
                changed.await;
            }
        }
    }

    /// What `changed` answers now; where that is to wait, for what.
    fn news(&mut self) -> Result<Result<(), Closed>, Arc<Notify>> {
        let mut state = self.watched.state();
        if self.seen != state.version {
            self.seen = state.version;
            return Ok(Ok(()));
        }
        if state.is_closed {
            return Ok(Err(Closed));
        }
        Err(Arc::clone(state.waiting.get_or_insert_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn wait_for_the_last(watched: Arc<Watched<u32>>) {
        let mut reader = watched.reader();
        while reader.take_in() < 1000 {
            reader.changed().await.unwrap();
        }
    }

    async fn wait_for_one(watched: Arc<Watched<u32>>) -> Result<(), Closed> {
        watched.reader().changed().await
    }

    #[tokio::test]
    async fn the_newest_value_is_seen_and_a_last_one_before_the_end() {
        let watched = Watched::new(0);
        let mut reader = watched.reader();
        watched.send_modify(|value| *value = 1);
        watched.send_modify(|value| *value = 2);
        assert_eq!(reader.changed().await, Ok(()));
        assert_eq!(reader.take_in(), 2);
        watched.send_modify(|value| *value = 3);
        watched.close();
        assert_eq!(reader.changed().await, Ok(()));
        assert_eq!(reader.take_in(), 3);
        assert_eq!(reader.changed().await, Err(Closed));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_change_is_missed_by_many_who_wait() {
        let watched = Arc::new(Watched::new(0_u32));
        let waiting: Vec<_> =
            (0..64).map(|_| tokio::spawn(wait_for_the_last(Arc::clone(&watched)))).collect();
        for _ in 0..1000 {
            watched.send_modify(|value| *value += 1);
            tokio::task::yield_now().await;
        }
        for waiter in waiting {
            waiter.await.unwrap();
        }
    }

    #[tokio::test]
    async fn those_who_wait_are_woken_by_the_end_and_nobody_is_waited_on_after() {
        let watched = Arc::new(Watched::new(0_u32));
        let waiter = tokio::spawn(wait_for_one(Arc::clone(&watched)));
        while watched.state().waiting.is_none() {
            tokio::task::yield_now().await;
        }
        watched.close();
        assert_eq!(waiter.await.unwrap(), Err(Closed));
        assert!(watched.state().waiting.is_none(), "no queue is left behind");
    }
}
