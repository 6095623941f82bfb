//! What a keeper does with its time: it waits, and tries when it is due or asked.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::Keeper;
use crate::token::PATIENCE;
use crate::token::clock::JUMP;
use crate::token::source::TokenSource;
use crate::token::store::TokenStore;
use crate::types::Generation;
use crate::wechat::token_call::Mode;

impl<S: TokenSource> Keeper<S> {
    pub(super) async fn run<T: TokenStore>(
        mut self: Box<Self>,
        store: &T,
        mut stopped: oneshot::Receiver<()>,
    ) {
        // What is done for a moment only lies on the heap meanwhile: most of the time a keeper waits.
        tokio::select! {
            biased;
            _ = &mut stopped => return,
            () = Box::pin(self.boot(store)) => {}
        }
        let shared = Arc::clone(&self.shared);
        let mut news = store.news(&self.life.account, &self.life.app_id);
        loop {
            let mut mode = Mode::Normal;
            tokio::select! {
                biased;
                _ = &mut stopped => return,
                () = shared.leak.wanted() => mode = Mode::Force,
                () = shared.bell.notified() => {
                    // The clock's watcher rings too, and asks for nothing.
                    if let Some(asked) = shared.asked.swap(0, Ordering::SeqCst).checked_sub(1) {
                        self.heed(Generation(asked));
                    }
                }
                heard = news.next() => {
                    if let Some(ending) = self.hear(&heard) {
                        self.note(ending);
                    }
                }
                () = sleep_until(self.next.at) => {}
            }
            if self.clock_has_jumped() {
                self.hasten();
            }
            if mode == Mode::Normal && Instant::now() < self.next.at {
                continue;
            }
            tokio::select! {
                biased;
                _ = &mut stopped => return,
                () = Box::pin(self.attempt(store, &mut news, mode)) => {}
            }
        }
    }

    /// An ask for a newer token than `generation`.
    fn heed(&mut self, generation: Generation) {
        if generation < self.shared.cell.generation() {
            return;
        }
        if generation > Generation::NONE {
            self.shared.record.notes().counts.asked += 1;
        }
        // Those who ask see `not_before` too, and don't wait for what is further away.
        if self.next.not_before <= Instant::now() + PATIENCE {
            self.asked = true;
            self.hasten();
        }
    }

    /// The next attempt comes as soon as it may.
    fn hasten(&mut self) {
        self.next.at = self.next.at.min(self.next.not_before.max(Instant::now()));
    }

    /// Whether the wall clock has gone another way than the monotonic one.
    fn clock_has_jumped(&mut self) -> bool {
        let (now, wall) = (Instant::now(), self.life.clock.read());
        let (anchor, anchor_wall) = self.anchor;
        let expected = anchor_wall.plus(now.saturating_duration_since(anchor));
        if wall.since(expected).max(expected.since(wall)) <= JUMP {
            return false;
        }
        self.anchor = (now, wall);
        self.shared.record.notes().counts.clock_jumps += 1;
        warn!(
            account = %self.life.account, ahead_s = wall.since(expected).as_secs(),
            behind_s = expected.since(wall).as_secs(), "the wall clock has jumped: asking WeChat what is left"
        );
        true
    }
}
