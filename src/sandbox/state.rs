//! What the sandbox knows: one state behind one lock that is never held across an await.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore, watch};

use super::accounts::{Accounts, Terms};
use super::clock::Clock;
use super::counters::{Counters, Gauges};
use super::faults::{Mischief, When};
use super::media::MediaShelf;
use super::seen::Seen;
use super::server::Closing;
use super::sns::Users;
use super::{Quotas, SandboxAccount, SandboxOptions};

/// What every task of a sandbox shares.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) clock: Clock,
    pub(super) gauges: Gauges,
    /// Memory for bodies of requests that are not answered yet, in KiB.
    pub(super) body_budget_kib: Arc<Semaphore>,
    /// Tells connections to close.
    pub(super) closing: watch::Sender<Closing>,
    pub(super) quotas: Quotas,
    state: Mutex<State>,
    changed: Notify,
    accounts: Vec<SandboxAccount>,
    terms: Terms,
}

/// What changes.
#[derive(Debug)]
pub(super) struct State {
    pub(super) accounts: Accounts,
    pub(super) media: MediaShelf,
    pub(super) users: Users,
    pub(super) mischief: Mischief,
    pub(super) counters: Counters,
    pub(super) seen: Seen,
}

/// Counts a request as in flight while it lives.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Shared>);

/// Counts a request as held while it lives.
#[derive(Debug)]
struct Held<'a>(&'a Shared);

/// Counts a connection as open while it lives.
#[derive(Debug)]
pub(super) struct Open(Arc<Shared>);

// === impl Shared ===

impl Shared {
    pub(super) fn new(options: &SandboxOptions) -> Self {
        let lives_ms = options.token_lives_s.saturating_mul(1000);
        let overlap_ms = options.overlap_s.saturating_mul(1000).min(lives_ms / 2);
        let terms = Terms { lives_ms, overlap_ms };
        Self {
            clock: Clock::new(),
            gauges: Gauges::default(),
            body_budget_kib: Arc::new(Semaphore::new(BODY_BUDGET_KIB)),
            closing: watch::Sender::new(Closing::Gentle),
            quotas: options.quotas,
            state: Mutex::new(State::new(&options.accounts, terms)),
            changed: Notify::new(),
            accounts: options.accounts.clone(),
            terms,
        }
    }

    /// The state. A panic elsewhere leaves counts that may be off by one, so poison is no reason to stop.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that a counter changed.
    pub(super) fn note_change(&self) {
        self.changed.notify_waiters();
    }

    /// Waits until `is_so` holds of the counters.
    pub(super) async fn wait_until(&self, mut is_so: impl FnMut(&Counters) -> bool) -> Counters {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let counters = self.counters();
            if is_so(&counters) {
                return counters;
            }
            changed.await;
        }
    }

    /// The counters, gauges included.
    pub(super) fn counters(&self) -> Counters {
        let mut counters = self.state().counters.clone();
        counters.connections_accepted = self.gauges.accepted.load(std::sync::atomic::Ordering::SeqCst);
        counters.connections_open = self.gauges.open.now();
        counters.connections_open_max = self.gauges.open.max();
        counters.in_flight = self.gauges.in_flight.now();
        counters.in_flight_max = self.gauges.in_flight.max();
        counters.held = self.gauges.held.now();
        counters
    }

    /// Waits while a hold keeps this path back.
    pub(super) async fn pass_gate(&self, path: &str, when: When) {
        let gate = self.state().mischief.gate(path, when);
        let Some(mut gate) = gate else { return };
        let held = Held::new(self);
        // Nothing is ever sent: this ends when the hold is released, which drops the sender.
        while gate.changed().await.is_ok() {}
        drop(held);
    }

    /// As it was at the start; connections stay.
    pub(super) fn reset(&self) {
        let fresh = State::new(&self.accounts, self.terms);
        let old = std::mem::replace(&mut *self.state(), fresh);
        self.clock.reset();
        self.gauges.accepted.store(0, std::sync::atomic::Ordering::SeqCst);
        self.gauges.open.reset_max();
        self.gauges.in_flight.reset_max();
        drop(old);
        self.note_change();
    }
}

// === impl State ===

impl State {
    fn new(accounts: &[SandboxAccount], terms: Terms) -> Self {
        Self {
            accounts: Accounts::new(accounts, terms),
            media: MediaShelf::default(),
            users: Users::default(),
            mischief: Mischief::default(),
            counters: Counters::default(),
            seen: Seen::default(),
        }
    }
}

// === impl InFlight ===

impl InFlight {
    pub(super) fn enter(shared: &Arc<Shared>) -> Self {
        shared.gauges.in_flight.up();
        shared.note_change();
        Self(Arc::clone(shared))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.gauges.in_flight.down();
        self.0.note_change();
    }
}

// === impl Held ===

impl<'a> Held<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.gauges.held.up();
        shared.note_change();
        Self(shared)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.gauges.held.down();
        self.0.note_change();
    }
}

// === impl Open ===

impl Open {
    pub(super) fn enter(shared: &Arc<Shared>) -> Self {
        shared.gauges.accepted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        shared.gauges.open.up();
        shared.note_change();
        Self(Arc::clone(shared))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.gauges.open.down();
        self.0.note_change();
    }
}

/// Half a GiB: 32 of the longest bodies that are kept, or any number of the usual small ones.
const BODY_BUDGET_KIB: usize = 512 << 10;
