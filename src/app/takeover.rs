//! What a process that takes over does until the one before it has ended.
//!
//! It gets its tokens before it listens; from then on the kernel gives connections to both. It reads the store and
//! leaves writing to the other, and takes the store and the admin address as soon as they are free.

use std::time::Duration;

use tokio::time::Instant;

use super::accounts::Tokens;
use super::listen;
use crate::admin;
use crate::config::Admin;
use crate::token::ConfiguredStore;

/// An account that gets no token in this time gets none from waiting: the one before cannot have had one either.
const READY_MAX: Duration = Duration::from_secs(10);

/// How often is looked whether the one before has ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Waits until every account has a live token.
pub(super) async fn until_ready(tokens: &Tokens) {
    let limit = Instant::now() + READY_MAX;
    let handles = tokens.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    for token in handles.iter() {
        // Who has none yet tells its own requests so.
        let _token = token.wait(limit).await;
    }
}

/// Serves operators as soon as their address is free.
pub(super) async fn serve_admin(settings: Admin, seen: admin::Seen) {
    let bound = loop {
        match listen::bind_admin(&settings) {
            Ok((bound, _)) if listen::listen(&bound).is_ok() => break bound,
            Ok(_) | Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    };
    match super::serve_admin(bound, seen) {
        Ok(serving) => {
            tracing::info!(address = %settings.listen, "the admin address has been taken over");
            serving.await;
        }
        Err(error) => tracing::error!(%error, "the admin address could not be taken over"),
    }
}

/// Makes the store this process's own as soon as it is free.
pub(super) async fn own_store(store: ConfiguredStore) {
    while !tokio::task::block_in_place(|| store.is_own().unwrap_or(false)) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    tracing::info!("the store has been taken over");
}
