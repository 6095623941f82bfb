//! Tickets, quotas, request ids, addresses; and the shelf of what an account has stored.

#![expect(clippy::unnecessary_wraps, reason = "the functions of the table have one type")]

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::{Allowed, Answer, Api, Desk, Needs, find, get, post};
use crate::sandbox::clock::Ms;
use crate::sandbox::forge;
use crate::sandbox::reply::Reply;

pub(super) const APIS: &[Api] = &[
    get("/cgi-bin/ticket/getticket", ticket),
    post("/cgi-bin/openapi/quota/get", quota),
    post("/cgi-bin/openapi/rid/get", request_of_rid),
    post("/cgi-bin/clear_quota", clear_quota),
    any("/cgi-bin/getcallbackip", addresses),
    any("/cgi-bin/get_api_domain_ip", addresses),
    post("/cgi-bin/callback/check", check_callback),
];

/// What an account has stored, bounded in number and size.
#[derive(Debug, Default)]
pub(in crate::sandbox) struct Shelf {
    pub(super) menu: Option<String>,
    tags: Vec<String>,
    service_accounts: Vec<(String, String)>,
    drafts: VecDeque<(String, String)>,
    tickets: [Option<(String, Ms)>; 2],
}

// === impl Shelf ===

impl Shelf {
    /// Adds a tag; names are unique, ids begin at 100 (the first 99 are WeChat's).
    pub(super) fn add_tag(&mut self, name: &str) -> Result<usize, i64> {
        if name.is_empty() || name.len() > 90 || self.tags.iter().any(|known| known == name) {
            return Err(45157);
        }
        if self.tags.len() >= TAGS_MAX {
            return Err(45056);
        }
        self.tags.push(name.to_owned());
        Ok(99 + self.tags.len())
    }

    pub(super) fn tags(&self) -> impl Iterator<Item = (usize, &str)> {
        (100..).zip(self.tags.iter().map(String::as_str))
    }

    pub(super) fn add_service_account(&mut self, account: String, nick: String) -> Result<(), i64> {
        if self.service_accounts.iter().any(|(known, _)| *known == account) {
            return Err(65406);
        }
        if self.service_accounts.len() >= TAGS_MAX {
            return Err(65404);
        }
        self.service_accounts.push((account, nick));
        Ok(())
    }

    pub(super) fn service_accounts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.service_accounts.iter().map(|(account, nick)| (account.as_str(), nick.as_str()))
    }

    /// Adds a draft; the oldest goes beyond the bound.
    pub(super) fn add_draft(&mut self, id: String, articles: &Value) -> Result<(), i64> {
        let text = articles.to_string();
        if text.len() > DRAFT_BYTES_MAX {
            return Err(45009);
        }
        self.drafts.push_back((id, text));
        if self.drafts.len() > DRAFTS_MAX {
            self.drafts.pop_front();
        }
        Ok(())
    }

    pub(super) fn draft(&self, id: &str) -> Option<&str> {
        self.drafts.iter().find(|(known, _)| known == id).map(|(_, text)| text.as_str())
    }

    pub(super) fn remove_draft(&mut self, id: &str) {
        self.drafts.retain(|(known, _)| known != id);
    }

    pub(super) fn draft_count(&self) -> usize {
        self.drafts.len()
    }
}

/// Believed (§5): the same ticket with decreasing `expires_in` while it lives; a renewed token leaves it alone.
fn ticket(desk: &mut Desk<'_>) -> Answer {
    match desk.call.query("type") {
        Some("jsapi") => hand_out(desk, 0),
        Some("wx_card") => hand_out(desk, 1),
        _ => Err(40097),
    }
}

/// `WeCom`'s ticket of the corp, and that of an application.
pub(super) fn corp_ticket(desk: &mut Desk<'_>) -> Answer {
    hand_out(desk, 0)
}

pub(super) fn application_ticket(desk: &mut Desk<'_>) -> Answer {
    match desk.call.query("type") {
        Some("agent_config") => hand_out(desk, 1),
        _ => Err(40097),
    }
}

fn hand_out(desk: &mut Desk<'_>, which: usize) -> Answer {
    let kept = desk.account.shelf.tickets.get_mut(which).ok_or(40097)?;
    let (ticket, expires_at) = match kept.take() {
        Some((ticket, expires_at)) if desk.now + 1000 <= expires_at => (ticket, expires_at),
        _ => (forge::text(86), desk.now.saturating_add(TICKET_MS)),
    };
    *kept = Some((ticket.clone(), expires_at));
    let expires_in = expires_at.saturating_sub(desk.now) / 1000;
    Ok(Reply::json(&json!({ "errcode": 0, "errmsg": "ok", "ticket": ticket, "expires_in": expires_in })))
}

fn quota(desk: &mut Desk<'_>) -> Answer {
    let path = desk.text("cgi_path", 76003)?;
    if !path.starts_with('/') || path.contains('?') {
        return Err(76003);
    }
    if path.starts_with("/sns/") {
        return Err(76022);
    }
    let view = desk.account.ledger.view(&path, desk.now, desk.quotas);
    if find(&path).is_none() && view.daily_limit.is_none() && view.used == 0 {
        return Err(76021);
    }
    // What has no limit here gets the figure that stands for plenty.
    let limit = view.daily_limit.unwrap_or(50_000_000);
    Ok(Reply::json(&json!({
        "errcode": 0, "errmsg": "ok",
        "quota": { "daily_limit": limit, "used": view.used, "remain": limit.saturating_sub(view.used) },
    })))
}

fn request_of_rid(desk: &mut Desk<'_>) -> Answer {
    let rid = desk.text("rid", 76001)?;
    let (record, request) = desk.seen.by_rid(&rid).ok_or(76001)?;
    if record.account.is_some_and(|account| account != desk.index) || request.path.starts_with("/sns/") {
        return Err(76022);
    }
    Ok(Reply::json(&json!({
        "errcode": 0, "errmsg": "ok",
        "request": {
            "invoke_time": record.at / 1000, "cost_in_ms": 1, "request_url": request.raw_query,
            "request_body": request.body_head, "client_ip": desk.call.peer.to_string(),
            "response_body": json!({ "errcode": request.errcode, "errmsg": request.rid }).to_string(),
        },
    })))
}

fn clear_quota(desk: &mut Desk<'_>) -> Answer {
    if desk.text("appid", 40013)? != desk.account.app_id {
        return Err(40013);
    }
    desk.account.ledger.clear(desk.now)?;
    Ok(Reply::ok())
}

/// Addresses kept for documentation: nobody can take them for WeChat's.
pub(super) fn addresses(_: &mut Desk<'_>) -> Answer {
    Ok(Reply::json(&json!({ "ip_list": ["192.0.2.1", "192.0.2.2", "198.51.100.0/24"] })))
}

fn check_callback(desk: &mut Desk<'_>) -> Answer {
    let action = desk.text("action", 40097)?;
    let dns = json!([{ "ip": "192.0.2.1", "real_operator": "CAP" }]);
    let ping =
        json!([{ "ip": "192.0.2.1", "from_operator": "CAP", "package_loss": "0%", "time": "23.079ms" }]);
    match action.as_str() {
        "dns" => Ok(Reply::json(&json!({ "dns": dns }))),
        "ping" => Ok(Reply::json(&json!({ "ping": ping }))),
        "all" => Ok(Reply::json(&json!({ "dns": dns, "ping": ping }))),
        _ => Err(40097),
    }
}

const fn any(path: &'static str, answer: fn(&mut Desk<'_>) -> Answer) -> Api {
    Api { path, method: Allowed::Any, needs: Needs::Nothing, answer }
}

const TICKET_MS: Ms = 7_200_000;
const TAGS_MAX: usize = 100;
const DRAFTS_MAX: usize = 200;
const DRAFT_BYTES_MAX: usize = 1 << 20;
