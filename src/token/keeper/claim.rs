//! One attempt: claim, then fetch, adopt or wait.
//!
//! ```text
//! claim ── go ──────────> fetch ──> take (hand.rs)
//!       ├─ adopt ────────────────> take what another process fetched; the same token again ends an attempt that
//!       │                          nobody asked for, else claim again
//!       ├─ wait ── news ─────────> take it, if it is newer; else claim again
//!       │       └─ time is up ───> claim again
//!       └─ the store fails ──────> fetch without a claim, where that is allowed
//! ```
//!
//! # Why the claim may fail
//!
//! In normal mode two fetches at one time bring the same token, so the claim saves calls and guards nothing: a store
//! that does not work costs each process a call of its own, and no request. Where a fetch kills the token before it
//! ([`Alone::Never`]), no claim means no fetch as long as there is a token to kill.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, info};

use super::{Alone, CLAIM_MAX, FETCH_MAX, Keeper};
use crate::token::bell::Ring;
use crate::token::source::{SourceError, TokenSource, fetch_caught};
use crate::token::status::Ending;
use crate::token::store::{Claim, Record, TokenStore};
use crate::token::turns::Permit;
use crate::wechat::token_call::Mode;

/// What an attempt is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    /// Someone has had the token in hand refused.
    pub(super) asked: bool,
    /// With [`Mode::Force`] only a call of its own will do, whatever others have fetched.
    pub(super) mode: Mode,
}

/// How an attempt went.
pub(super) struct Attempted {
    pub(super) ending: Ending,
    /// WeChat was asked.
    pub(super) called: bool,
    /// A claim that brought nothing to save.
    pub(super) unused: Option<u64>,
}

/// Others' claims are waited for this long altogether, two of them with some room; then something is wrong with the
/// claims themselves, and the fetch goes on without one.
const WAITS_MAX: Duration = Duration::from_secs(32);

/// Those who waited for the same claim don't come back at one time.
const WAIT_JITTER: Duration = Duration::from_millis(500);

impl<S: TokenSource, T: TokenStore> Keeper<S, T> {
    /// One attempt at another token than the one in hand. `permit` is given up while another process fetches.
    pub(super) async fn renew(&mut self, wish: Wish, permit: Permit) -> Attempted {
        let Wish { asked, mode } = wish;
        let mut permit = permit;
        let mut waiting_since: Option<Instant> = None;
        loop {
            let ending = match self.claim().await {
                Some(Claim::Go(fence)) => return self.fetch(fence, mode).await,
                // Those who ask have had this token refused; a fetch of their own has to say it again.
                Some(Claim::Adopt(stored)) if stored.confirms(self.in_hand().as_ref()) => {
                    self.confirm(&stored).filter(|_| !asked && mode == Mode::Normal)
                }
                Some(Claim::Adopt(stored)) => Some(self.adopt(&stored)).filter(|_| mode == Mode::Normal),
                Some(Claim::Wait(_)) if self.is_tired(waiting_since) => {
                    return self.fetch(0, mode).await;
                }
                Some(Claim::Wait(most)) => {
                    let is_first = waiting_since.is_none();
                    waiting_since.get_or_insert_with(Instant::now);
                    drop(permit.take());
                    let heard = self.wait(most, asked && is_first).await;
                    let heard = heard.filter(|_| mode == Mode::Normal);
                    permit = self.turn().await;
                    heard
                }
                None if mode == Mode::Force || self.may_go_alone() => {
                    return self.fetch(0, mode).await;
                }
                None => Some(Ending::Failed(Arc::new(SourceError::NoClaim))),
            };
            if let Some(ending) = ending {
                return Attempted { ending, called: false, unused: None };
            }
        }
    }

    /// Whether a fetch without a claim can do no harm.
    fn may_go_alone(&self) -> bool {
        self.alone == Alone::Allowed || self.shared.cell.alive().is_none()
    }

    /// Whether others have claimed for so long that something must be wrong with the claims.
    fn is_tired(&self, waiting_since: Option<Instant>) -> bool {
        let is_tired =
            waiting_since.is_some_and(|since| since.elapsed() >= WAITS_MAX) && self.alone == Alone::Allowed;
        if is_tired {
            info!(account = %self.shared.account.name, "others claim to fetch the token and don't: fetching it");
        }
        is_tired
    }

    /// Asks the store; `None` where it does not answer, or not in time.
    async fn claim(&mut self) -> Option<Claim> {
        let hand = self.in_hand();
        let claiming = self.store.claim(&self.shared.account.name, &self.app_id, hand.as_ref());
        let error = match timeout(CLAIM_MAX, claiming).await {
            Ok(Ok(claim)) => return Some(claim),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the store took too long".to_owned(),
        };
        self.shared.record.notes().counts().claims_failed += 1;
        debug!(account = %self.shared.account.name, error, "no claim");
        None
    }

    /// Waits for what another process fetches. An ask is not content with the token in hand the first time: that
    /// fetch may have begun before the token was refused.
    async fn wait(&mut self, most: Duration, wants_newer: bool) -> Option<Ending> {
        self.shared.record.notes().counts().claim_waits += 1;
        let until = Instant::now() + most + WAIT_JITTER.mul_f64(self.jitter.f64());
        let heard = timeout_at(until, self.next_news()).await.ok()?;
        let ending = self.hear(&heard)?;
        (!wants_newer || matches!(ending, Ending::Renewed)).then_some(ending)
    }

    /// Waits for ever where there are none.
    async fn next_news(&self) -> Record {
        loop {
            if let Some(record) = self.news.take() {
                return record;
            }
            self.shared.bell.heard(Ring::News).await;
        }
    }

    /// One call.
    async fn fetch(&mut self, fence: u64, mode: Mode) -> Attempted {
        let clock = self.shared.clock();
        let begun = (Instant::now(), clock.read());
        self.anchor = clock.anchor();
        let reply = timeout(FETCH_MAX, fetch_caught(&self.source, mode)).await;
        let unused = (fence > 0).then_some(fence);
        let grant = match reply.unwrap_or(Err(SourceError::TimedOut)) {
            Ok(grant) => grant,
            Err(error) => {
                return Attempted { ending: Ending::Failed(Arc::new(error)), called: true, unused };
            }
        };
        // Whoever was stopped in the middle may come back with what is long replaced.
        if let Some(Record::Found(stored)) = self.news.take()
            && fence > 0
            && stored.fence > fence
            && self.is_worth_adopting(&stored)
        {
            return Attempted { ending: self.adopt(&stored), called: true, unused };
        }
        let (ending, is_saved) = self.take(grant, fence, mode, begun);
        Attempted { ending, called: true, unused: unused.filter(|_| !is_saved) }
    }
}
