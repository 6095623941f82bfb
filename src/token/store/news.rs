//! What a keeper hears from a store that other processes write to.
//!
//! A state, not a stream: whoever was busy hears how things stand now, and nothing queues up.

use tokio::sync::watch;

use super::Stored;

/// How things stand with one account in the store.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// What stands under the account.
    pub record: Record,
    /// Counts the times someone ended a claim without saving anything.
    pub released: u64,
}

/// What stands under an account.
#[derive(Debug, Clone, Default)]
pub enum Record {
    /// Nobody has looked yet.
    #[default]
    Unknown,
    /// This token.
    Found(Stored),
    /// Nothing that can be used, though the store works.
    Gone,
}

/// One account's news.
#[derive(Debug)]
pub struct News(Option<watch::Receiver<Heard>>);

// === impl News ===

impl News {
    /// There never are any.
    pub fn none() -> Self {
        Self(None)
    }

    /// What the other end of `from` sends.
    pub fn of(from: watch::Receiver<Heard>) -> Self {
        Self(Some(from))
    }

    /// Whether there can be any.
    pub fn may_come(&self) -> bool {
        self.0.is_some()
    }

    /// Waits for the next news; for ever where there are none. May be dropped at any await.
    pub async fn next(&mut self) -> Heard {
        if let Some(from) = &mut self.0
            && from.changed().await.is_ok()
        {
            return from.borrow_and_update().clone();
        }
        self.0 = None;
        std::future::pending().await
    }

    /// How things stand, be it news or not.
    pub fn now(&mut self) -> Heard {
        self.0.as_mut().map_or_else(Heard::default, |from| from.borrow_and_update().clone())
    }
}
