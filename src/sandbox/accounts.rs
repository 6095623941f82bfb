//! Accounts and their tokens: who is known, what was issued, what a token is worth now.
//!
//! `/cgi-bin/token`: each call issues a new token, the last one stays good for the overlap, the one before dies.
//! `/cgi-bin/stable_token`: the same token until its last five minutes, then a new one beside it. The two families
//! know nothing of each other. `WeCom`'s `/cgi-bin/gettoken`: the same token as long as it lives, then a new one (§9:
//! nothing promises one before; `developer.work.weixin.qq.com/document/path/91039`).
//! `developers.weixin.qq.com/doc/oplatform/developers/dev/AccessToken.html`
//! and `/doc/service/api/base/api_getstableaccesstoken.html`, read 2026-11-22.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::apis::Shelf;
use super::clock::{self, Ms};
use super::quota::Ledger;
use super::{AccountKind, SandboxAccount, forge};

/// Which call issues a token; the families are isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// `GET /cgi-bin/token`.
    Token,
    /// `POST /cgi-bin/stable_token`; for a `WeCom` account, `GET /cgi-bin/gettoken`.
    StableToken,
}

/// An account as control shows it.
#[derive(Debug, Clone, Serialize)]
pub struct AccountView {
    /// The AppID.
    pub app_id: String,
    /// Its secret.
    pub app_secret: String,
    /// What it is.
    pub kind: AccountKind,
    /// Whether the secret is frozen.
    pub frozen: bool,
    /// Who may call; `None`: everyone.
    pub ip_allow_list: Option<Vec<IpAddr>>,
    /// The latest token of `/cgi-bin/token`, if it is alive.
    pub token: Option<String>,
    /// The latest token of `/cgi-bin/stable_token`, if it is alive.
    pub stable_token: Option<String>,
}

/// All accounts, and every token that is remembered.
#[derive(Debug)]
pub(super) struct Accounts {
    list: Vec<Account>,
    by_app_id: HashMap<String, usize>,
    issued: HashMap<String, Issued>,
    terms: Terms,
}

/// One account.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) app_id: String,
    pub(super) app_secret: String,
    pub(super) kind: AccountKind,
    pub(super) frozen: bool,
    pub(super) ip_allow_list: Option<Vec<IpAddr>>,
    pub(super) ledger: Ledger,
    pub(super) shelf: Shelf,
    token: Family,
    stable_token: Family,
    forced: Forced,
}

/// What a token on an API call is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Worth {
    /// It is this account's, and alive.
    Good(usize),
    /// Overwritten or revoked; or of the right form, but nobody's: 40001. The account, where it is known.
    Dead(Option<usize>),
    /// Past its time: 42001.
    Expired(usize),
    /// Not of a token's form: 40014.
    Malformed,
}

/// A token and what is left of its life.
#[derive(Debug, Clone)]
pub(super) struct Grant {
    pub(super) token: String,
    pub(super) expires_in_s: u64,
}

/// How long tokens live, in this sandbox.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) lives_ms: Ms,
    pub(super) overlap_ms: Ms,
}

#[derive(Debug, Default)]
struct Family {
    current: Option<String>,
    previous: Option<String>,
    /// Everything remembered, the newest last.
    recent: VecDeque<String>,
}

#[derive(Debug)]
struct Issued {
    account: usize,
    expires_at: Ms,
    /// When it dies by being overwritten or revoked; 40001 from then on.
    dies_at: Option<Ms>,
}

#[derive(Debug, Default)]
struct Forced {
    day: u64,
    today: u64,
    last_at: Option<Ms>,
}

// === impl Accounts ===

impl Accounts {
    pub(super) fn new(accounts: &[SandboxAccount], terms: Terms) -> Self {
        let mut all = Self { list: Vec::new(), by_app_id: HashMap::new(), issued: HashMap::new(), terms };
        for account in accounts {
            all.add(account);
        }
        all
    }

    /// Adds an account, or gives a known one this secret and kind.
    pub(super) fn add(&mut self, account: &SandboxAccount) {
        if let Some(known) = self.find(&account.app_id).and_then(|index| self.list.get_mut(index)) {
            known.app_secret.clone_from(&account.app_secret);
            known.kind = account.kind;
            return;
        }
        self.by_app_id.insert(account.app_id.clone(), self.list.len());
        self.list.push(Account::new(account));
    }

    pub(super) fn find(&self, app_id: &str) -> Option<usize> {
        self.by_app_id.get(app_id).copied()
    }

    /// The `WeCom` application of this corp with this secret; the code of why there is none.
    pub(super) fn find_application(&self, corpid: &str, secret: &str) -> Result<usize, i64> {
        let of_corp = |account: &&Account| account.kind == AccountKind::WeCom && account.corpid() == corpid;
        if !self.list.iter().any(|account| of_corp(&account)) {
            return Err(40013);
        }
        let found = self.list.iter().position(|account| of_corp(&account) && account.app_secret == secret);
        found.ok_or(40001)
    }

    pub(super) fn at(&self, index: usize) -> Option<&Account> {
        self.list.get(index)
    }

    pub(super) fn at_mut(&mut self, index: usize) -> Option<&mut Account> {
        self.list.get_mut(index)
    }

    pub(super) fn find_mut(&mut self, app_id: &str) -> Option<&mut Account> {
        self.find(app_id).and_then(|index| self.list.get_mut(index))
    }

    /// What `token` is worth now.
    ///
    /// 40001 is "overwritten", 42001 "past 7200 s" (fastwego's note, §3.1). Which of the two errors an unknown token
    /// meets is not documented: the form decides here, *our choice*, by its beginning, since stray characters after
    /// a token and two tokens run together are reported as 40001.
    pub(super) fn judge(&self, token: &str, now: Ms) -> Worth {
        let Some(issued) = self.issued.get(token) else {
            return if has_form(token) { Worth::Dead(None) } else { Worth::Malformed };
        };
        if issued.dies_at.is_some_and(|dies_at| now >= dies_at) {
            Worth::Dead(Some(issued.account))
        } else if now >= issued.expires_at {
            Worth::Expired(issued.account)
        } else {
            Worth::Good(issued.account)
        }
    }

    /// A call of `/cgi-bin/token`.
    pub(super) fn fetch(&mut self, index: usize, now: Ms) -> Option<Grant> {
        let overlap = self.terms.overlap_ms;
        let family = self.family(index, Endpoint::Token)?;
        let (current, previous) = (family.current.clone(), family.previous.take());
        self.kill(previous.as_deref(), now);
        self.kill(current.as_deref(), now.saturating_add(overlap));
        self.issue(index, Endpoint::Token, now)
    }

    /// A call of `/cgi-bin/stable_token` in normal mode.
    pub(super) fn fetch_stable(&mut self, index: usize, now: Ms) -> Option<Grant> {
        let current = self.family(index, Endpoint::StableToken)?.current.clone();
        let left = current.as_deref().map_or(0, |token| self.left(token, now));
        match current {
            Some(token) if left > self.terms.overlap_ms => Some(Grant { token, expires_in_s: left / 1000 }),
            _ => self.issue(index, Endpoint::StableToken, now),
        }
    }

    /// A call of `/cgi-bin/gettoken`.
    pub(super) fn fetch_wecom(&mut self, index: usize, now: Ms) -> Option<Grant> {
        let current = self.family(index, Endpoint::StableToken)?.current.clone();
        let left = current.as_deref().map_or(0, |token| self.left(token, now));
        match current {
            Some(token) if left > 0 => Some(Grant { token, expires_in_s: left / 1000 }),
            _ => self.issue(index, Endpoint::StableToken, now),
        }
    }

    /// A call of `/cgi-bin/stable_token` in force mode: 20 a day, 30 s apart, "otherwise it does not refresh".
    /// `None` once the day's 20 are used up (one report says 45009 then, §2).
    pub(super) fn force_stable(&mut self, index: usize, now: Ms) -> Option<Grant> {
        let forced = &mut self.list.get_mut(index)?.forced;
        if forced.last_at.is_some_and(|last| now < last.saturating_add(FORCED_APART_MS)) {
            return self.fetch_stable(index, now);
        }
        if forced.day != clock::day(now) {
            *forced = Forced { day: clock::day(now), ..Forced::default() };
        }
        if forced.today >= FORCED_PER_DAY {
            return None;
        }
        forced.today += 1;
        forced.last_at = Some(now);
        self.overwrite(index, Endpoint::StableToken, now)
    }

    /// What another system's call does: a new token of that family, which the next fetch here may see.
    pub(super) fn rotate(&mut self, index: usize, endpoint: Endpoint, now: Ms) -> Option<Grant> {
        match endpoint {
            Endpoint::Token => self.fetch(index, now),
            Endpoint::StableToken => self.overwrite(index, Endpoint::StableToken, now),
        }
    }

    /// Kills every living token of the account; the next fetch brings a new one.
    pub(super) fn revoke(&mut self, index: usize, now: Ms) {
        self.for_each_issued(index, |issued| issued.dies_at = Some(issued.dies_at.unwrap_or(now).min(now)));
        self.forget_current(index);
    }

    /// Lets every living token of the account reach its end now.
    pub(super) fn expire(&mut self, index: usize, now: Ms) {
        self.for_each_issued(index, |issued| {
            issued.expires_at = issued.expires_at.min(now);
            issued.dies_at = issued.dies_at.filter(|dies_at| *dies_at <= now);
        });
        self.forget_current(index);
    }

    /// Every account as control shows it.
    pub(super) fn views(&self, now: Ms) -> Vec<AccountView> {
        self.list.iter().map(|account| self.view(account, now)).collect()
    }

    /// The latest token of a family, if it is alive.
    pub(super) fn current(&self, index: usize, endpoint: Endpoint, now: Ms) -> Option<String> {
        self.living(self.list.get(index)?.family(endpoint), now)
    }

    fn view(&self, account: &Account, now: Ms) -> AccountView {
        AccountView {
            app_id: account.app_id.clone(),
            app_secret: account.app_secret.clone(),
            kind: account.kind,
            frozen: account.frozen,
            ip_allow_list: account.ip_allow_list.clone(),
            token: self.living(&account.token, now),
            stable_token: self.living(&account.stable_token, now),
        }
    }

    fn living(&self, family: &Family, now: Ms) -> Option<String> {
        family.current.clone().filter(|token| matches!(self.judge(token, now), Worth::Good(_)))
    }

    fn family(&mut self, index: usize, endpoint: Endpoint) -> Option<&mut Family> {
        self.list.get_mut(index).map(|account| account.family_mut(endpoint))
    }

    /// What is left of a token's life; nothing, if it is dead.
    fn left(&self, token: &str, now: Ms) -> Ms {
        match (self.judge(token, now), self.issued.get(token)) {
            (Worth::Good(_), Some(issued)) => issued.expires_at.saturating_sub(now),
            _ => 0,
        }
    }

    fn overwrite(&mut self, index: usize, endpoint: Endpoint, now: Ms) -> Option<Grant> {
        let family = self.family(index, endpoint)?;
        let (current, previous) = (family.current.take(), family.previous.take());
        self.kill(current.as_deref(), now);
        self.kill(previous.as_deref(), now);
        self.issue(index, endpoint, now)
    }

    fn issue(&mut self, index: usize, endpoint: Endpoint, now: Ms) -> Option<Grant> {
        let token = match self.list.get(index)?.kind {
            AccountKind::OfficialAccount | AccountKind::MiniProgram => forge::token(),
            AccountKind::WeCom => forge::wecom_token(),
        };
        let lives = self.terms.lives_ms;
        let family = self.family(index, endpoint)?;
        family.previous = family.current.replace(token.clone());
        family.recent.push_back(token.clone());
        let forgotten = if family.recent.len() > REMEMBERED_MAX { family.recent.pop_front() } else { None };
        if let Some(forgotten) = forgotten {
            self.issued.remove(&forgotten);
        }
        let issued = Issued { account: index, expires_at: now.saturating_add(lives), dies_at: None };
        self.issued.insert(token.clone(), issued);
        Some(Grant { token, expires_in_s: lives / 1000 })
    }

    fn kill(&mut self, token: Option<&str>, at: Ms) {
        if let Some(issued) = token.and_then(|token| self.issued.get_mut(token)) {
            issued.dies_at = Some(issued.dies_at.unwrap_or(at).min(at));
        }
    }

    fn for_each_issued(&mut self, index: usize, change: impl FnMut(&mut Issued)) {
        self.issued.values_mut().filter(|issued| issued.account == index).for_each(change);
    }

    fn forget_current(&mut self, index: usize) {
        for endpoint in [Endpoint::Token, Endpoint::StableToken] {
            if let Some(family) = self.family(index, endpoint) {
                family.current = None;
                family.previous = None;
            }
        }
    }
}

// === impl Account ===

impl Account {
    fn new(account: &SandboxAccount) -> Self {
        Self {
            app_id: account.app_id.clone(),
            app_secret: account.app_secret.clone(),
            kind: account.kind,
            frozen: false,
            ip_allow_list: None,
            ledger: Ledger::default(),
            shelf: Shelf::default(),
            token: Family::default(),
            stable_token: Family::default(),
            forced: Forced::default(),
        }
    }

    /// The part of a `WeCom` account's id that callers send.
    fn corpid(&self) -> &str {
        self.app_id.split_once(':').map_or(&self.app_id, |(corpid, _)| corpid)
    }

    /// Whether this address is outside a list that is switched on.
    pub(super) fn turns_away(&self, peer: IpAddr) -> bool {
        self.ip_allow_list.as_ref().is_some_and(|list| !list.contains(&peer.to_canonical()))
    }

    fn family(&self, endpoint: Endpoint) -> &Family {
        match endpoint {
            Endpoint::Token => &self.token,
            Endpoint::StableToken => &self.stable_token,
        }
    }

    fn family_mut(&mut self, endpoint: Endpoint) -> &mut Family {
        match endpoint {
            Endpoint::Token => &mut self.token,
            Endpoint::StableToken => &mut self.stable_token,
        }
    }
}

/// Whether a text begins as a token does: digits, an underscore, and at least 40 characters of the alphabet.
fn has_form(token: &str) -> bool {
    let Some((number, rest)) = token.split_once('_') else { return false };
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
        && rest.bytes().take_while(plain).count() >= 40
}

const FORCED_APART_MS: Ms = 30_000;
const FORCED_PER_DAY: u64 = 20;
/// Tokens remembered for each account and family, so that 42001 and 40001 can be told apart.
const REMEMBERED_MAX: usize = 256;
