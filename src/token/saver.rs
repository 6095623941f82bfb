//! The saver: stores each new token beside the keeper's loop, so that a slow or broken disk delays no fetch.
//!
//! # Why best effort
//!
//! The store is for the next process, not for this request. What could not be stored is logged, counted and tried
//! again; the token stays in use all the same.

use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;

use super::cell::Token;
use super::keeper::STORE_MAX;
use super::store::{Stored, TokenStore};
use super::{Shared, watch};
use crate::types::AppId;

/// A token that could not be stored is tried again after this long.
const SAVE_AGAIN: Duration = Duration::from_mins(1);

/// A known end moves by less than this from call to call, by rounding and travel time; not worth a write.
const END_MOVES: Duration = Duration::from_secs(10);

/// Whether `saved` says as much as `token`.
pub(super) fn is_saved(saved: &Stored, token: &Token) -> bool {
    let moved = saved.expires_at.since(token.expires_at).max(token.expires_at.since(saved.expires_at));
    saved.access_token.is_same(&token.access_token) && moved <= END_MOVES
}

/// A token as it is stored.
pub(super) fn to_store(token: &Token) -> Stored {
    Stored {
        access_token: token.access_token.clone(),
        obtained_at: token.obtained_at,
        expires_at: token.expires_at,
        fence: 0,
    }
}

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
            Ok(Ok(())) => None,
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
