//! The saver: stores each new token beside the keeper's loop, so that a slow or broken disk delays no fetch.
//!
//! # Why best effort
//!
//! The store is for the next process, not for this request. What could not be stored is logged, counted and tried
//! again; the token stays in use all the same.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::Shared;
use super::cell::Token;
use super::keeper::STORE_MAX;
use super::store::{Saved, TokenStore};
use super::watch::Reader;
use crate::types::AppId;

/// A token that could not be stored is tried again after this long.
const SAVE_AGAIN: Duration = Duration::from_mins(1);

/// A token to be stored.
#[derive(Debug)]
pub(super) struct Save {
    pub(super) token: Token,
    pub(super) fence: u64,
}

/// Stores what comes after `saves` was made, the newest token only. Ends when its value is closed, after the last token
/// was stored. Says in `has_saved` whether nothing is left to be done.
pub(super) async fn save_all<T: TokenStore>(
    store: &T,
    app_id: &AppId,
    shared: &Shared,
    mut saves: Reader<'_, Option<Save>>,
    has_saved: &AtomicBool,
) {
    let mut unsaved = None;
    loop {
        has_saved.store(unsaved.is_none(), SeqCst);
        let changed = if unsaved.is_some() {
            Box::pin(timeout(SAVE_AGAIN, saves.changed())).await.unwrap_or(Ok(()))
        } else {
            saves.changed().await
        };
        if changed.is_err() {
            return;
        }
        has_saved.store(false, SeqCst);
        let Some(save) = saves.take().or(unsaved.take()) else { continue };
        // By the clocks of this moment: it may be the tenth try.
        let stored = save.token.stored(save.fence, Instant::now(), shared.clock().read());
        let saving = timeout(STORE_MAX, store.save(&shared.account.name, app_id, &stored));
        let failed = match saving.await {
            Ok(Ok(Saved::Kept)) => None,
            Ok(Ok(Saved::FencedOff)) => {
                shared.record.notes().counts().fenced_off += 1;
                info!(account = %shared.account.name, "the store has a newer token than the one that was to be stored");
                None
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the store took too long".to_owned()),
        };
        if let Some(error) = failed {
            unsaved = Some(save);
            shared.record.notes().counts().saves_failed += 1;
            warn!(account = %shared.account.name, error, "could not store the token; it stays in use");
        }
    }
}
