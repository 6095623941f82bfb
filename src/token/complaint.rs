//! What the log says when no token could be had.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::source::SourceError;
use crate::types::AccountName;
use crate::wechat::token_call::{Pace, TokenCallError};

/// A failed attempt, as a person may have to know it.
#[derive(Debug)]
pub(super) struct Complaint<'a> {
    pub(super) account: &'a AccountName,
    pub(super) failure: &'a SourceError,
    /// In a row, this one included.
    pub(super) failures: u32,
    pub(super) next_try_s: u64,
}

/// Transient faults are told at `warn` once in this time.
const WARN_EVERY: Duration = Duration::from_mins(1);

// === impl Complaint ===

impl Complaint<'_> {
    /// Logs it, loudly where a person must act. `warned_at` is when a transient fault was last told at `warn`; what is
    /// returned takes its place.
    pub(super) fn log(&self, warned_at: Option<Instant>, now: Instant) -> Option<Instant> {
        let Self { account, failure, failures, next_try_s } = self;
        let why = failure.word();
        if let (SourceError::Call(TokenCallError::Rejected(rejection)), Pace::After(_)) =
            (failure, failure.pace())
        {
            error!(
                %account, errcode = %rejection.code, why, said = %rejection.said, advice = %rejection.advice(),
                next_try_s, "WeChat gives no token"
            );
            warned_at
        } else if warned_at.is_none_or(|at| now >= at + WARN_EVERY) {
            let cause = failure.told();
            warn!(%account, why, %cause, failures, next_try_s, "could not fetch the token");
            Some(now)
        } else {
            debug!(%account, why, next_try_s, "could not fetch the token");
            warned_at
        }
    }
}
