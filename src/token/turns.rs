//! Whose turn it is to fetch: a bound on the fetches of all accounts at one time.
//!
//! It promises that an account which requests wait for does not stand in line behind those that nobody waits for, and
//! that both together stay within the bound and a quarter of it.
//!
//! # Why
//!
//! A hundred thousand accounts without a token (a first start, an empty store) take minutes, and a request is turned
//! away after ten seconds.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Shared by all keepers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Turns {
    all: Arc<Semaphore>,
    /// Beside the line, for those who are waited for.
    wanted: Arc<Semaphore>,
}

/// A turn, until it is dropped. `None`: nothing bounds it.
pub(super) type Permit = Option<OwnedSemaphorePermit>;

// === impl Turns ===

impl Turns {
    /// `most` fetches at one time, and a quarter more where requests wait; 64 is plenty.
    pub fn new(most: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(most)), wanted: Arc::new(Semaphore::new(most.div_ceil(4))) }
    }

    /// A turn in the order of coming; a closed semaphore bounds nothing.
    pub(super) async fn next(&self) -> Permit {
        Arc::clone(&self.all).acquire_owned().await.ok()
    }

    /// The same, or sooner once `is_wanted` has ended.
    pub(super) async fn next_or_sooner(&self, is_wanted: impl Future<Output = ()>) -> Permit {
        let sooner = async {
            is_wanted.await;
            Arc::clone(&self.wanted).acquire_owned().await.ok()
        };
        tokio::select! {
            biased;
            turn = self.next() => turn,
            turn = sooner => turn,
        }
    }
}
