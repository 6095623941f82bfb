//! What a keeper does with its time. It rests until the bell rings, and is awake while there is something to do: an
//! attempt that is due or asked for, news from the store, a token to be stored, a leaked one to be ended.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::task::Poll;

use futures_util::future::join;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::Keeper;
use crate::token::bell::{Ring, Sleeper};
use crate::token::saver::save_all;
use crate::token::source::TokenSource;
use crate::token::store::{Listener, TokenStore};
use crate::token::turns::Permit;
use crate::token::watch::Watched;
use crate::token::{PATIENCE, Shared, leak};
use crate::types::Generation;
use crate::wechat::token_call::Mode;

/// Who of those that make up a keeper's task has nothing to do.
#[derive(Debug, Default)]
struct AtRest {
    keeper: AtomicBool,
    saver: AtomicBool,
    leak: AtomicBool,
}

impl<S: TokenSource, T: TokenStore> Sleeper for Keeper<S, T> {
    fn is_in_line(&self) -> bool {
        self.is_in_line
    }

    fn wake(self: Box<Self>, turn: Permit) -> Option<JoinHandle<()>> {
        let runtime = self.shared.clock().runtime()?;
        Some(runtime.spawn(live(self, turn)))
    }
}

/// A keeper's task: works until it may rest, or is told to stop. `turn`: it rested in line, and was called.
async fn live<S: TokenSource, T: TokenStore>(mut keeper: Box<Keeper<S, T>>, turn: Permit) {
    let shared = Arc::clone(&keeper.shared);
    let mut turn = turn;
    while keeper.work(&shared, turn.take()).await {
        let turns = keeper.is_in_line.then(|| keeper.shared.common().turns.clone());
        if turns.is_none() {
            shared.clock().set_alarm(keeper.next_at, &shared);
        }
        let Some(rung_for) = shared.bell.rest(keeper) else {
            // Not before it rests: whoever is awake is not called.
            if let Some(turns) = turns {
                turns.line_up(&shared);
            }
            return;
        };
        keeper = rung_for;
    }
}

impl<S: TokenSource, T: TokenStore> Keeper<S, T> {
    /// Works until there is nothing to do; says whether it was that, or being told to stop. Then the last token is stored.
    async fn work(&mut self, shared: &Shared, turn: Permit) -> bool {
        self.shared.clock().cancel_alarm(self.next_at, &self.shared);
        let (store, app_id) = (self.store.clone(), self.app_id.clone());
        let ledger = self.shared.common().ledger.clone();
        let saves = Arc::new(Watched::new(None));
        self.saves = Some(Arc::clone(&saves));
        let at_rest = AtRest::default();
        let keeping = async {
            tokio::select! {
                biased;
                () = self.run(shared, turn, &at_rest.keeper) => {}
                () = leak::attend(&store, &app_id, shared, &ledger, &at_rest.leak) => {}
            }
            self.close();
        };
        let saving = save_all(&store, &app_id, shared, saves.reader(), &at_rest.saver);
        // Looked at after the others, so that what one has left to another shows.
        let nothing_to_do = poll_fn(|_| {
            if at_rest.is_whole() && saves.look(Option::is_none) { Poll::Ready(()) } else { Poll::Pending }
        });
        let may_rest = tokio::select! {
            biased;
            _ = join(keeping, saving) => false,
            () = nothing_to_do => true,
        };
        self.saves = None;
        may_rest
    }

    /// Attempts when it is time. Ends when it is told to stop. May be dropped while it says `is_at_rest`.
    async fn run(&mut self, shared: &Shared, turn: Permit, is_at_rest: &AtomicBool) {
        let mut turn = turn;
        self.is_in_line = false;
        if !self.is_booted {
            tokio::select! {
                biased;
                () = shared.bell.heard(Ring::Stop) => return,
                () = self.boot(turn.take()) => {}
            }
            self.is_booted = true;
            let listener = Listener::of(&self.shared);
            self.news = self.store.news(&self.shared.account.name, &self.app_id, listener);
        }
        loop {
            let mut mode = Mode::Normal;
            // What is due within the timer's millisecond is waited for here.
            is_at_rest.store(Instant::now() < self.next_at, SeqCst);
            tokio::select! {
                biased;
                () = shared.bell.heard(Ring::Stop) => return,
                () = shared.bell.heard(Ring::Forced) => mode = Mode::Force,
                () = shared.bell.heard(Ring::Look) => {
                    // The clock's watcher rings too, and asks for nothing.
                    if let Some(asked) = shared.asked.swap(0, SeqCst).checked_sub(1) {
                        self.heed(Generation(asked));
                    }
                }
                () = shared.bell.heard(Ring::News) => {
                    if let Some(ending) = self.news.take().and_then(|record| self.hear(&record)) {
                        self.note(ending);
                    }
                }
                () = sleep_until(self.next_at) => {}
            }
            is_at_rest.store(false, SeqCst);
            if self.clock_has_jumped() {
                self.hasten();
            }
            let called = turn.take();
            if mode == Mode::Normal && Instant::now() < self.next_at {
                continue;
            }
            let turn = if mode == Mode::Force {
                None
            } else if called.is_some() {
                Some(called)
            } else {
                self.is_in_line = true;
                let turn = tokio::select! {
                    biased;
                    () = shared.bell.heard(Ring::Stop) => return,
                    turn = self.turn_at_rest(is_at_rest) => turn,
                };
                self.is_in_line = false;
                Some(turn)
            };
            tokio::select! {
                biased;
                () = shared.bell.heard(Ring::Stop) => return,
                () = self.attempt(mode, turn) => {}
            }
        }
    }

    /// Waits for a turn; says meanwhile that it may rest in line, unless somebody waits for the token.
    async fn turn_at_rest(&self, is_at_rest: &AtomicBool) -> Permit {
        let mut turn = pin!(self.turn());
        let turn = poll_fn(|context| {
            let polled = turn.as_mut().poll(context);
            let is_unwanted = !self.shared.cell.is_waited_at();
            is_at_rest.store(polled.is_pending() && is_unwanted, SeqCst);
            polled
        });
        turn.await
    }

    /// An ask for a newer token than `generation`.
    fn heed(&mut self, generation: Generation) {
        if generation < self.shared.cell.generation() {
            return;
        }
        if generation > Generation::NONE {
            self.shared.record.notes().counts().asked += 1;
        }
        // Those who ask see `not_before` too, and don't wait for what is further away.
        if self.not_before() <= Instant::now() + PATIENCE {
            self.asked = true;
            self.hasten();
        }
    }

    fn not_before(&self) -> Instant {
        self.shared.progress.look(|progress| progress.next.not_before)
    }

    /// The next attempt comes as soon as it may.
    fn hasten(&mut self) {
        self.next_at = self.next_at.min(self.not_before().max(Instant::now()));
    }

    /// Whether the wall clock has gone another way than the monotonic one.
    fn clock_has_jumped(&mut self) -> bool {
        let Some(ahead_s) = self.shared.clock().jump_since(self.anchor) else { return false };
        self.anchor = self.shared.clock().anchor();
        self.shared.record.notes().counts().clock_jumps += 1;
        warn!(
            account = %self.shared.account.name, ahead_s, "the wall clock has jumped: asking WeChat what is left"
        );
        true
    }
}

// === impl AtRest ===

impl AtRest {
    fn is_whole(&self) -> bool {
        [&self.keeper, &self.saver, &self.leak].into_iter().all(|part| part.load(SeqCst))
    }
}
