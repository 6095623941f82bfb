//! A Redis as the scripts of `src/token/store/redis` see it: two keys, their ends by its own clock, one step at a time.
//!
//! `tests/it/redis/model.rs` drives this one and a real redis-server through the same operations.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;
use tokio::time::Instant;

/// What stands under an account's key. Each write is sealed anew, so no two are the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) fence: u64,
    pub(crate) token: String,
    pub(crate) obtained_ms: u64,
    pub(crate) expires_ms: u64,
    pub(crate) nonce: u64,
}

/// What a writer without a claim has seen and judged.
pub(crate) struct Seen(pub(crate) Option<Value>);

/// What `CLAIM` answers.
#[derive(Debug)]
pub(crate) enum Claimed {
    Look(Value),
    Go(u64),
    Wait(u64),
}

/// The server; clones are the same one.
#[derive(Clone)]
pub(crate) struct Server(Arc<Mutex<State>>);

/// What a failover or a restart may bring back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Data {
    pub(crate) token: Option<Value>,
    /// The fence it is held under and its end in ms.
    pub(crate) lock: Option<(u64, u64)>,
}

pub(crate) struct State {
    base: Instant,
    pub(crate) data: Data,
    pub(crate) is_down: bool,
    /// The last time that a lock or a token may have been lost.
    pub(crate) lost_at: Option<Instant>,
    /// One for each who listens: a channel of many wakes them in an order that no seed decides.
    listeners: Vec<watch::Sender<()>>,
    /// How many writes were refused by their fence.
    pub(crate) refused: u64,
    nonce: u64,
    /// Told of each write: what stood there, what comes.
    pub(crate) overwritten: Vec<(Value, Value)>,
}

/// The clock's base: any Unix time will do.
const BASE_US: u64 = 1_800_000_000_000_000;
const CLAIM_LIVES_MS: u64 = 15_000;

impl Server {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            base: Instant::now(),
            data: Data::default(),
            is_down: false,
            lost_at: None,
            listeners: Vec::new(),
            refused: 0,
            nonce: 0,
            overwritten: Vec::new(),
        })))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.lock().unwrap();
        state.expire();
        state
    }
}

impl State {
    fn now_us(&self) -> u64 {
        BASE_US + u64::try_from(self.base.elapsed().as_micros()).unwrap()
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.now_us() / 1000
    }

    fn expire(&mut self) {
        let now_ms = self.now_ms();
        let data = &mut self.data;
        data.token.take_if(|value| value.expires_ms <= now_ms);
        data.lock.take_if(|(_, end_ms)| *end_ms <= now_ms);
    }

    pub(crate) fn nonce(&mut self) -> u64 {
        self.nonce += 1;
        self.nonce
    }

    fn fence(&self) -> u64 {
        self.data.token.as_ref().map_or(0, |value| value.fence)
    }

    fn publish(&mut self) {
        self.listeners.retain(|listener| listener.send(()).is_ok());
    }

    pub(crate) fn subscribe(&mut self) -> watch::Receiver<()> {
        let (listener, heard) = watch::channel(());
        self.listeners.push(listener);
        heard
    }

    pub(crate) fn claim(&mut self, known: u64) -> Claimed {
        if let Some(value) = self.data.token.as_ref().filter(|value| value.fence > known) {
            return Claimed::Look(value.clone());
        }
        if let Some((_, end_ms)) = self.data.lock {
            return Claimed::Wait(end_ms - self.now_ms());
        }
        let fence = self.now_us().max(self.fence() + 1).max(known + 1);
        self.data.lock = Some((fence, self.now_ms() + CLAIM_LIVES_MS));
        Claimed::Go(fence)
    }

    /// `over`: without a claim, in the place of this.
    pub(crate) fn save(&mut self, value: &Value, over: Option<&Seen>) -> bool {
        let is_fine = match over {
            Some(Seen(over)) => *over == self.data.token && value.fence > self.fence(),
            None if value.fence == self.fence() => return self.data.token.as_ref() == Some(value),
            None => value.fence > self.fence(),
        };
        if !is_fine {
            self.refused += 1;
            return false;
        }
        if let Some(old) = self.data.token.replace(value.clone()) {
            self.overwritten.push((old, value.clone()));
        }
        self.data.lock.take_if(|(fence, _)| *fence == value.fence);
        self.publish();
        self.expire();
        true
    }

    pub(crate) fn release(&mut self, fence: u64) {
        if self.data.lock.take_if(|(holder, _)| *holder == fence).is_some() {
            self.publish();
        }
    }

    /// A `FLUSHALL`, a restart without a file, or a failover to a server that was behind.
    pub(crate) fn lose(&mut self, to: Data) {
        self.data = to;
        self.lost_at = Some(Instant::now());
        self.expire();
    }
}
