//! Control: the outside world, as methods. The HTTP control API is these, one route each.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::SandboxAccount;
use super::accounts::{Account, AccountView, Endpoint};
use super::counters::Counters;
use super::faults::{Fault, FaultView, HoldView, When};
use super::media::{Lasts, Media, MediaKind};
use super::quota::QuotaView;
use super::reply::Content;
use super::seen::SeenRequest;
use super::server::Closing;
use super::state::Shared;

/// A handle to a sandbox; clones are cheap and mean the same sandbox.
#[derive(Debug, Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

/// The sandbox knows no account of this AppID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sandbox has no account with this app_id")]
pub struct NoSuchAccount;

impl Control {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The sandbox's time, in milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        self.shared.clock.now()
    }

    /// Puts the sandbox's clock forward: tokens, tickets, media, quotas and the 30 s between forced refreshes see it.
    pub fn advance(&self, by: Duration) {
        self.shared.clock.advance(u64::try_from(by.as_millis()).unwrap_or(u64::MAX));
    }

    /// All accounts, with the tokens that are current.
    pub fn accounts(&self) -> Vec<AccountView> {
        let now = self.now_ms();
        self.shared.state().accounts.views(now)
    }

    /// Adds an account, or gives a known one this secret and kind.
    pub fn add_account(&self, account: &SandboxAccount) {
        self.shared.state().accounts.add(account);
    }

    /// The account's latest token of that family, if it is alive.
    pub fn current_token(&self, app_id: &str, endpoint: Endpoint) -> Result<Option<String>, NoSuchAccount> {
        let now = self.now_ms();
        let state = self.shared.state();
        let index = state.accounts.find(app_id).ok_or(NoSuchAccount)?;
        Ok(state.accounts.current(index, endpoint, now))
    }

    /// Ends every token of the account as time would: calls get 42001.
    pub fn expire_tokens(&self, app_id: &str) -> Result<(), NoSuchAccount> {
        let now = self.now_ms();
        let mut state = self.shared.state();
        let index = state.accounts.find(app_id).ok_or(NoSuchAccount)?;
        state.accounts.expire(index, now);
        Ok(())
    }

    /// Kills every token of the account: calls get 40001, the next normal fetch brings a new one.
    pub fn revoke_tokens(&self, app_id: &str) -> Result<(), NoSuchAccount> {
        let now = self.now_ms();
        let mut state = self.shared.state();
        let index = state.accounts.find(app_id).ok_or(NoSuchAccount)?;
        state.accounts.revoke(index, now);
        Ok(())
    }

    /// Does what another system does: it calls `/cgi-bin/token`, or forces `/cgi-bin/stable_token`. Its new token is
    /// returned; for the stable family, the next normal fetch brings the same.
    pub fn rotate_from_outside(&self, app_id: &str, endpoint: Endpoint) -> Result<String, NoSuchAccount> {
        let now = self.now_ms();
        let mut state = self.shared.state();
        let index = state.accounts.find(app_id).ok_or(NoSuchAccount)?;
        state.accounts.rotate(index, endpoint, now).map(|grant| grant.token).ok_or(NoSuchAccount)
    }

    /// Resets the secret; tokens stay.
    pub fn set_secret(&self, app_id: &str, secret: &str) -> Result<(), NoSuchAccount> {
        self.change(app_id, |account| secret.clone_into(&mut account.app_secret))
    }

    /// Freezes the secret (40243 on token calls).
    pub fn freeze(&self, app_id: &str) -> Result<(), NoSuchAccount> {
        self.change(app_id, |account| account.frozen = true)
    }

    /// Unfreezes the secret.
    pub fn unfreeze(&self, app_id: &str) -> Result<(), NoSuchAccount> {
        self.change(app_id, |account| account.frozen = false)
    }

    /// Sets who may call (40164 for the others); `None` switches the list off, an empty list lets nobody in.
    pub fn set_ip_allow_list(&self, app_id: &str, list: Option<Vec<IpAddr>>) -> Result<(), NoSuchAccount> {
        self.change(app_id, |account| account.ip_allow_list = list)
    }

    /// The quotas of every API that the account has called today, or that has a limit of its own.
    pub fn quotas(&self, app_id: &str) -> Result<Vec<QuotaView>, NoSuchAccount> {
        let (now, quotas) = (self.now_ms(), self.shared.quotas);
        let mut views = Vec::new();
        self.change(app_id, |account| views = account.ledger.views(now, quotas))?;
        Ok(views)
    }

    /// Limits one API's calls a day; `None` goes back to the documented limit.
    pub fn set_daily_limit(&self, app_id: &str, path: &str, limit: Option<u64>) -> Result<(), NoSuchAccount> {
        self.change(app_id, |account| account.ledger.set_limit(path, limit))
    }

    /// Sets how many calls of one API count as made today.
    pub fn set_used(&self, app_id: &str, path: &str, count: u64) -> Result<(), NoSuchAccount> {
        let now = self.now_ms();
        self.change(app_id, |account| account.ledger.set_used(path, count, now))
    }

    /// Puts a generated file of `bytes` bytes (byte n is n modulo 251) under a media id, for every account; it costs
    /// no memory.
    pub fn set_media(&self, media_id: &str, bytes: u64, content_type: &str) {
        let media = Media {
            account: None,
            kind: MediaKind::Image,
            name: media_id.to_owned(),
            content_type: content_type.to_owned(),
            content: Content::Pattern(bytes),
            created_at: self.now_ms(),
            lasts: Lasts::ForEver,
        };
        self.shared.state().media.put(media_id.to_owned(), media);
    }

    /// Adds a fault; the first that matches a request meets it. Returns its id.
    pub fn add_fault(&self, fault: Fault) -> u64 {
        self.shared.state().mischief.add(fault)
    }

    /// Removes a fault; false, if it had gone.
    pub fn remove_fault(&self, id: u64) -> bool {
        self.shared.state().mischief.remove(id)
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.shared.state().mischief.clear_faults();
    }

    /// The faults that are set.
    pub fn faults(&self) -> Vec<FaultView> {
        self.shared.state().mischief.faults()
    }

    /// Keeps back every request on a path (with `*` at the end, on every path that begins so) that arrives from now
    /// on. Returns what releases it.
    pub fn hold(&self, path: &str, when: When) -> u64 {
        self.shared.state().mischief.hold(path, when)
    }

    /// Lets the requests of a hold go; false, if it had been released.
    pub fn release(&self, id: u64) -> bool {
        self.shared.state().mischief.release(id)
    }

    /// Releases all holds.
    pub fn release_all(&self) {
        self.shared.state().mischief.release_all();
    }

    /// The holds that are set.
    pub fn holds(&self) -> Vec<HoldView> {
        self.shared.state().mischief.holds()
    }

    /// Closes the client's connections: what a front end does when it restarts.
    pub fn close_connections(&self, how: Closing) {
        self.shared.closing.send_replace(how);
    }

    /// The counters now.
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }

    /// Waits until `is_so` holds of the counters; the way to wait for "1000 requests are held" without sleeping.
    pub async fn wait_until(&self, is_so: impl FnMut(&Counters) -> bool) -> Counters {
        self.shared.wait_until(is_so).await
    }

    /// The last `most` requests, the oldest first; on a path only, if one is given (`*` at the end as elsewhere).
    pub fn requests(&self, path: Option<&str>, most: usize) -> Vec<SeenRequest> {
        self.shared.state().seen.last(path, most)
    }

    /// Forgets the requests seen.
    pub fn clear_requests(&self) {
        self.shared.state().seen.clear();
    }

    /// Everything as it was at the start: accounts, tokens, quotas, faults, holds, media, counters, clock.
    /// Connections stay open.
    pub fn reset(&self) {
        self.shared.reset();
    }

    fn change(&self, app_id: &str, change: impl FnOnce(&mut Account)) -> Result<(), NoSuchAccount> {
        let mut state = self.shared.state();
        state.accounts.find_mut(app_id).map(change).ok_or(NoSuchAccount)
    }
}
