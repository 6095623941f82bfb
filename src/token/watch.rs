//! A value that one side replaces and others wait for: what `tokio::sync::watch` does, at a third of its size.
//!
//! It promises that whoever waits sees the newest value, perhaps not each one, and is told when the sender is gone.
//!
//! # Why not tokio's
//!
//! Each of its channels has nine queues of waiters, so that many threads can wait without meeting: some 370 bytes.
//! A keeper has two channels, a process may have a hundred thousand keepers, and next to nobody ever waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The side that writes. Dropping it ends the channel.
#[derive(Debug)]
pub(super) struct Sender<T>(Arc<Channel<T>>);

/// A side that reads.
#[derive(Debug)]
pub(super) struct Receiver<T> {
    channel: Arc<Channel<T>>,
    seen: u32,
}

/// The sender is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

#[derive(Debug)]
struct Channel<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

#[derive(Debug)]
struct State<T> {
    value: T,
    /// Counts changes up, round and round.
    version: u32,
    is_gone: bool,
}

/// A channel that holds `value`, which its receiver counts as seen.
pub(super) fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let state = Mutex::new(State { value, version: 0, is_gone: false });
    let channel = Arc::new(Channel { state, changed: Notify::new() });
    (Sender(Arc::clone(&channel)), Receiver { channel, seen: 0 })
}

// === impl Channel ===

impl<T> Channel<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Sender ===

impl<T> Sender<T> {
    /// Changes the value and wakes all who wait.
    pub(super) fn send_modify(&self, change: impl FnOnce(&mut T)) {
        let mut state = self.0.state();
        change(&mut state.value);
        state.version = state.version.wrapping_add(1);
        drop(state);
        self.0.changed.notify_waiters();
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.state().is_gone = true;
        self.0.changed.notify_waiters();
    }
}

// === impl Receiver ===

impl<T> Receiver<T> {
    /// Looks at the value.
    pub(super) fn look<R>(&self, at: impl FnOnce(&T) -> R) -> R {
        at(&self.channel.state().value)
    }

    /// A copy of the value, which counts as seen from here on.
    pub(super) fn take_in(&mut self) -> T
    where
        T: Clone,
    {
        let state = self.channel.state();
        self.seen = state.version;
        state.value.clone()
    }

    /// Waits for a value that has not been seen, and counts it as seen. A last one is told before [`Gone`].
    pub(super) async fn changed(&mut self) -> Result<(), Gone> {
        loop {
            // From its making on it hears of every change, so none can fall between look and wait.
            let changed = self.channel.changed.notified();
            if let Some(news) = Self::news(&self.channel, &mut self.seen) {
                return news;
            }
            changed.await;
        }
    }

    /// What `changed` answers now; `None` where that is to wait.
    fn news(channel: &Channel<T>, seen: &mut u32) -> Option<Result<(), Gone>> {
        let state = channel.state();
        if *seen == state.version {
            return state.is_gone.then_some(Err(Gone));
        }
        *seen = state.version;
        Some(Ok(()))
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { channel: Arc::clone(&self.channel), seen: self.seen }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn wait_for_the_last(mut receiver: Receiver<u32>) {
        while receiver.take_in() < 1000 {
            receiver.changed().await.unwrap();
        }
    }

    #[tokio::test]
    async fn the_newest_value_is_seen_and_a_last_one_before_the_end() {
        let (sender, mut receiver) = channel(0);
        sender.send_modify(|value| *value = 1);
        sender.send_modify(|value| *value = 2);
        assert_eq!(receiver.changed().await, Ok(()));
        assert_eq!(receiver.take_in(), 2);
        sender.send_modify(|value| *value = 3);
        drop(sender);
        assert_eq!(receiver.changed().await, Ok(()));
        assert_eq!(receiver.take_in(), 3);
        assert_eq!(receiver.changed().await, Err(Gone));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_change_is_missed_by_many_who_wait() {
        let (sender, receiver) = channel(0_u32);
        let waiting: Vec<_> = (0..64).map(|_| tokio::spawn(wait_for_the_last(receiver.clone()))).collect();
        for _ in 0..1000 {
            sender.send_modify(|value| *value += 1);
            tokio::task::yield_now().await;
        }
        for waiter in waiting {
            waiter.await.unwrap();
        }
    }
}
