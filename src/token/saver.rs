//! The saver: stores each new token beside the keeper's loop, so that a slow or broken disk delays no fetch.
//!
//! # Why best effort
//!
//! The store is for the next process, not for this request. What could not be stored is logged, counted and tried
//! again; the token stays in use all the same.

use std::time::Duration;

use tokio::time::timeout;
use tracing::{info, warn};

use super::keeper::STORE_MAX;
use super::store::{Saved, Stored, TokenStore};
use super::{Shared, watch};
use crate::types::AppId;

/// A token that could not be stored is tried again after this long.
const SAVE_AGAIN: Duration = Duration::from_mins(1);

/// Stores what comes, the newest token only. Ends with the keeper, after the last token was stored.
pub(super) async fn save_all<T: TokenStore>(
    store: &T,
    app_id: &AppId,
    shared: &Shared,
    mut saves: watch::Receiver<Option<Stored>>,
) {
    let mut again = false;
    loop {
        let changed = if again {
            Box::pin(timeout(SAVE_AGAIN, saves.changed())).await.unwrap_or(Ok(()))
        } else {
            saves.changed().await
        };
        if changed.is_err() {
            return;
        }
        let Some(stored) = saves.take_in() else { continue };
        // On the heap while it lasts: between two saves there is nothing to keep.
        let saving = Box::pin(timeout(STORE_MAX, store.save(&shared.account, app_id, &stored)));
        let failed = match saving.await {
            Ok(Ok(Saved::Kept)) => None,
            Ok(Ok(Saved::FencedOff)) => {
                shared.record.notes().counts.fenced_off += 1;
                info!(account = %shared.account, "the store has a newer token than the one that was to be stored");
                None
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the store took too long".to_owned()),
        };
        again = failed.is_some();
        if let Some(error) = failed {
            shared.record.notes().counts.saves_failed += 1;
            warn!(account = %shared.account, error, "could not store the token; it stays in use");
        }
    }
}
