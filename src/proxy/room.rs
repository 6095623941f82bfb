//! Room for clients' connections: one bound for all workers.
//!
//! Where there is none left, whoever accepts one more says so, and every worker cuts some of its idle ones. Costs an atomic
//! for each connection, nothing for a request.
//!
//! # Why every worker
//!
//! The kernel deals connections out by a hash. All that are open may be another worker's, and it alone can end them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Shared by all workers.
#[derive(Debug)]
pub struct Room {
    places: Arc<Semaphore>,
    wanted: Notify,
}

/// What becomes idle later makes room later: it is asked for this often.
const ASK_EVERY: Duration = Duration::from_millis(50);

// === impl Room ===

impl Room {
    /// For so many connections at one time.
    pub fn for_connections(most: usize) -> Arc<Self> {
        Arc::new(Self { places: Arc::new(Semaphore::new(most)), wanted: Notify::new() })
    }

    /// A place for one more connection, until it is dropped. Where there is none, idle connections make room; meanwhile
    /// this one waits, and the backlog behind it. `None`: the workers end.
    pub(super) async fn take(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Some(place);
        }
        let mut waiting = std::pin::pin!(Arc::clone(&self.places).acquire_owned());
        loop {
            self.wanted.notify_waiters();
            if let Ok(place) = timeout(ASK_EVERY, waiting.as_mut()).await {
                return place.ok();
            }
        }
    }

    /// Ends when room is wanted. A worker that was not here at that moment is asked again.
    pub(super) async fn is_wanted(&self) {
        self.wanted.notified().await;
    }
}
