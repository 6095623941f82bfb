//! Daily and minute quotas, per account and API.
//!
//! `developers.weixin.qq.com/doc/service/Message_Management/API_Call_Limits.html` (newly registered official account);
//! `stable_token`: `/doc/service/api/base/api_getstableaccesstoken.html`; `img_sec_check`: its own page. Read 2026-11-22.
//! An API that stands in no table has no limit here.

use std::collections::HashMap;

use serde::Serialize;

use super::Quotas;
use super::clock::{self, Ms};

/// One API's quota, as control and `openapi/quota/get` show it.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct QuotaView {
    /// The API.
    pub path: String,
    /// Calls a day; `None`: no limit.
    pub daily_limit: Option<u64>,
    /// Calls counted today.
    pub used: u64,
}

/// What an account has used.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    used: HashMap<String, Used>,
    limits: HashMap<String, u64>,
    clears: (u64, u64),
}

#[derive(Debug, Default, Clone, Copy)]
struct Used {
    day: u64,
    today: u64,
    minute: u64,
    this_minute: u64,
}

// === impl Ledger ===

impl Ledger {
    /// Counts a call, or says with which errcode it is turned away.
    pub(super) fn take(&mut self, path: &str, now: Ms, quotas: Quotas) -> Result<(), i64> {
        let limit = self.limit(path, quotas);
        let minute_limit = if quotas == Quotas::Unlimited { None } else { look_up(MINUTE, path) };
        let Some(used) = self.used_mut(path) else { return Ok(()) };
        used.turn(now);
        if limit.is_some_and(|limit| used.today >= limit) {
            return Err(45009);
        }
        if minute_limit.is_some_and(|limit| used.this_minute >= limit) {
            return Err(45011);
        }
        used.today += 1;
        used.this_minute += 1;
        Ok(())
    }

    /// One API's quota today.
    pub(super) fn view(&self, path: &str, now: Ms, quotas: Quotas) -> QuotaView {
        let used =
            self.used.get(path).copied().filter(|used| used.day == clock::day(now)).unwrap_or_default();
        QuotaView { path: path.to_owned(), daily_limit: self.limit(path, quotas), used: used.today }
    }

    /// Every API that was called or has a limit of its own.
    pub(super) fn views(&self, now: Ms, quotas: Quotas) -> Vec<QuotaView> {
        let mut paths: Vec<&String> = self.used.keys().chain(self.limits.keys()).collect();
        paths.sort();
        paths.dedup();
        paths.into_iter().map(|path| self.view(path, now, quotas)).collect()
    }

    /// Sets a limit for one API; `None` goes back to the table's.
    pub(super) fn set_limit(&mut self, path: &str, limit: Option<u64>) {
        match limit {
            Some(limit) if self.limits.len() < PATHS_MAX => drop(self.limits.insert(path.to_owned(), limit)),
            Some(_) => {}
            None => drop(self.limits.remove(path)),
        }
    }

    /// Sets what counts as used today.
    pub(super) fn set_used(&mut self, path: &str, count: u64, now: Ms) {
        if let Some(used) = self.used_mut(path) {
            used.turn(now);
            used.today = count;
        }
    }

    /// Clears every count: 10 times a month, 48006 beyond.
    pub(super) fn clear(&mut self, now: Ms) -> Result<(), i64> {
        let month = clock::month(now);
        let (of, count) = self.clears;
        let count = if of == month { count } else { 0 };
        if count >= CLEARS_PER_MONTH {
            return Err(48006);
        }
        self.clears = (month, count + 1);
        self.used.clear();
        Ok(())
    }

    fn limit(&self, path: &str, quotas: Quotas) -> Option<u64> {
        let documented = if quotas == Quotas::Unlimited { None } else { look_up(DAILY, path) };
        self.limits.get(path).copied().or(documented)
    }

    fn used_mut(&mut self, path: &str) -> Option<&mut Used> {
        if !self.used.contains_key(path) {
            if self.used.len() >= PATHS_MAX {
                return None;
            }
            self.used.insert(path.to_owned(), Used::default());
        }
        self.used.get_mut(path)
    }
}

// === impl Used ===

impl Used {
    fn turn(&mut self, now: Ms) {
        if self.day != clock::day(now) {
            self.day = clock::day(now);
            self.today = 0;
        }
        if self.minute != now / 60_000 {
            self.minute = now / 60_000;
            self.this_minute = 0;
        }
    }
}

fn look_up(table: &[(&str, u64)], path: &str) -> Option<u64> {
    table.iter().find(|(known, _)| *known == path).map(|(_, limit)| *limit)
}

const DAILY: &[(&str, u64)] = &[
    ("/cgi-bin/token", 2000),
    ("/cgi-bin/stable_token", 500_000),
    ("/cgi-bin/menu/create", 1000),
    ("/cgi-bin/menu/get", 10_000),
    ("/cgi-bin/menu/delete", 1000),
    ("/cgi-bin/groups/create", 1000),
    ("/cgi-bin/groups/get", 1000),
    ("/cgi-bin/groups/update", 1000),
    ("/cgi-bin/groups/members/update", 100_000),
    ("/cgi-bin/user/info", 5_000_000),
    ("/cgi-bin/user/info/updateremark", 10_000),
    ("/cgi-bin/user/get", 500),
    ("/cgi-bin/qrcode/create", 100_000),
    ("/cgi-bin/media/upload", 100_000),
    ("/cgi-bin/media/get", 200_000),
    ("/cgi-bin/media/uploadnews", 10),
    ("/cgi-bin/message/custom/send", 500_000),
    ("/cgi-bin/message/mass/send", 100),
    ("/cgi-bin/message/mass/sendall", 100),
    ("/cgi-bin/message/mass/delete", 10),
    ("/cgi-bin/draft/add", 1000),
    ("/cgi-bin/draft/get", 500),
    ("/cgi-bin/draft/delete", 1000),
    ("/cgi-bin/draft/update", 1000),
    ("/cgi-bin/draft/count", 1000),
    ("/cgi-bin/draft/batchget", 1000),
    ("/cgi-bin/freepublish/submit", 100),
    ("/cgi-bin/freepublish/get", 100),
    ("/cgi-bin/freepublish/getarticle", 100),
    ("/cgi-bin/freepublish/batchget", 100),
    ("/cgi-bin/freepublish/delete", 10),
    ("/cgi-bin/ticket/getticket", 10_000), // one report (§5), not published
    ("/wxa/img_sec_check", 200_000),
];

const MINUTE: &[(&str, u64)] = &[
    ("/cgi-bin/stable_token", 10_000),
    ("/cgi-bin/gettoken", 10_000),
    ("/wxa/img_sec_check", 2000),
    ("/wxa/getwxacodeunlimit", 5000), // from memory, unverified (§8)
];

const CLEARS_PER_MONTH: u64 = 10;
/// APIs counted for each account.
const PATHS_MAX: usize = 1024;
