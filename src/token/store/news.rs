//! What a keeper hears from a store that other processes write to.
//!
//! A state, not a stream: whoever was busy hears how things stand now, and nothing queues up. It takes room only until it
//! is heard; a keeper at rest is woken for it.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::Stored;
use crate::token::Shared;
use crate::token::bell::Ring;

/// How things stand with one account in the store.
#[derive(Debug, Clone)]
pub enum Record {
    /// This token.
    Found(Stored),
    /// Nothing that can be used, though the store works.
    Gone,
}

/// Who is to be told an account's news.
#[derive(Debug)]
pub struct Listener(Weak<Shared>);

/// One account's news, as its keeper has them.
#[derive(Debug)]
pub struct News(Option<Arc<Slot>>);

/// The store's side of one account's news.
#[derive(Debug)]
pub struct Teller(Weak<Slot>);

#[derive(Debug)]
struct Slot {
    unheard: Mutex<Option<Box<Record>>>,
    listener: Listener,
}

// === impl Listener ===

impl Listener {
    pub(in crate::token) fn of(keeper: &Arc<Shared>) -> Self {
        Self(Arc::downgrade(keeper))
    }
}

// === impl News ===

impl News {
    /// There never are any.
    pub fn none() -> Self {
        Self(None)
    }

    /// What the teller tells.
    pub fn to(listener: Listener) -> (Teller, Self) {
        let slot = Arc::new(Slot { unheard: Mutex::default(), listener });
        (Teller(Arc::downgrade(&slot)), Self(Some(slot)))
    }

    /// What has been told since the last time, if anything has.
    pub(in crate::token) fn take(&self) -> Option<Record> {
        let unheard = &self.0.as_ref()?.unheard;
        let record = unheard.lock().unwrap_or_else(PoisonError::into_inner).take();
        record.map(|record| *record)
    }
}

// === impl Teller ===

impl Teller {
    /// Tells the keeper, which may have heard the same before: a claim has ended then without anything new. Never waits.
    pub fn tell(&self, record: Record) {
        let Some(slot) = self.0.upgrade() else { return };
        *slot.unheard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(record));
        if let Some(keeper) = slot.listener.0.upgrade() {
            keeper.bell.ring(Ring::News);
        }
    }

    /// Whether the keeper is still there.
    pub fn is_heard(&self) -> bool {
        self.0.strong_count() > 0
    }
}
