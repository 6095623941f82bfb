//! `POST /accounts/NAME/leaked`: an operator says that a token has leaked.
//!
//! ```text
//! 202   begun; what will happen, and when
//! 404   no such account
//! 403, 415   from a page of another site, or not JSON
//! 409   it is being done already
//! 422   there is no call for it (企业微信); what to do instead
//! 429   the day's calls are used up; when that ends
//! 503   weigate has just started
//! ```
//!
//! # Why JSON, and what `Origin` has to do with it
//!
//! A page on another site can make an operator's browser send a form here, but not JSON without asking first, which
//! nothing here answers. And a name that its owner lets point to this machine makes a page there one of our own, for the
//! browser: so what a browser sends (it has an `Origin`) must come from a page that was itself opened by an address.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, ORIGIN, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

use super::{Seen, text};
use crate::token::{CALLS_PER_DAY, LeakRefusal, LeakStatus, TokenHandle};
use crate::types::UnixSeconds;

/// What the operator says, for the log.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    by: Option<String>,
    why: Option<String>,
}

/// Where it has come to, as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    state: &'static str,
    calls_left: u8,
    next_call_in_s: Option<u64>,
    last: Option<&'static str>,
    used: usize,
    used_max: usize,
    resets_at: Option<u64>,
}

#[derive(Serialize)]
struct Answer<'a> {
    account: &'a str,
    message: String,
    leaked: Shown,
}

const BODY_BYTES_MAX: usize = 4096;

/// A word in the log is cut here: a name or a reason fits, most secrets do not.
const WORD_CHARS_MAX: usize = 24;
const SAID_CHARS_MAX: usize = 200;

/// The account's name, if a path is this one.
pub(super) fn account_in(path: &str) -> Option<&str> {
    path.strip_prefix("/accounts/")?.strip_suffix("/leaked").filter(|name| !name.contains('/'))
}

/// Answers a press of the button.
pub(super) async fn answer(request: Request<Incoming>, seen: &Seen) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    if !is_from_here(&head.headers) {
        return text(StatusCode::FORBIDDEN, "not from a page of another site or name\n".to_owned());
    }
    if !is_json(&head.headers) {
        let message =
            "send JSON, content-type: application/json, such as {\"by\":\"ann\",\"why\":\"key in a log\"}\n";
        return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, message.to_owned());
    }
    let read = Limited::new(body, BODY_BYTES_MAX).collect().await.ok();
    let said = read.and_then(|body| serde_json::from_slice::<Said>(&body.to_bytes()).ok());
    let Some(said) = said else {
        return text(StatusCode::BAD_REQUEST, "the body takes \"by\" and \"why\", both texts\n".to_owned());
    };
    let name = account_in(head.uri.path()).unwrap_or_default();
    let tokens = seen.tokens.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(token) = tokens.iter().find(|token| token.account().name.as_str() == name).cloned() else {
        return text(StatusCode::NOT_FOUND, "no such account\n".to_owned());
    };
    drop(tokens);
    press(&token, &said)
}

fn press(token: &TokenHandle, said: &Said) -> Response<Full<Bytes>> {
    let pressed = token.leaked();
    let (by, why) = (loggable(said.by.as_deref()), loggable(said.why.as_deref()));
    let outcome = match &pressed {
        Ok(_) => "begun".to_owned(),
        Err(refusal) => refusal.to_string(),
    };
    tracing::warn!(target: "audit", account = %token.account().name, by, why, outcome, "told that the token leaked");
    let status = token.status().leak;
    let (code, message) = match pressed {
        Ok(_) => (StatusCode::ACCEPTED, plan(&status)),
        Err(refusal) => (code_of(refusal), outcome),
    };
    let answer = Answer { account: token.account().name.as_str(), message, leaked: Shown::of(&status) };
    // Texts and numbers always serialise.
    let mut response = text(code, serde_json::to_string_pretty(&answer).unwrap_or_default());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if code == StatusCode::TOO_MANY_REQUESTS {
        let wait = status.resets_at.map_or(0, |at| at.since(UnixSeconds::now()).as_secs().saturating_add(1));
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait));
    }
    response
}

fn plan(status: &LeakStatus) -> String {
    let first = status.next_call_in.map_or(0, |wait| wait.as_secs());
    format!(
        "two new tokens are fetched, the first in {first} s, the second some 31 s after it: then the leaked one is dead; \
         until then some requests may meet 40001 and go once more"
    )
}

fn code_of(refusal: LeakRefusal) -> StatusCode {
    match refusal {
        LeakRefusal::Impossible => StatusCode::UNPROCESSABLE_ENTITY,
        LeakRefusal::Running => StatusCode::CONFLICT,
        LeakRefusal::Exhausted => StatusCode::TOO_MANY_REQUESTS,
        LeakRefusal::Starting => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Not a browser; or a page of ours, opened by an address or as `localhost`, which no owner of a name can fake.
fn is_from_here(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let (Ok(origin), Some(Ok(host))) = (origin.to_str(), headers.get(HOST).map(HeaderValue::to_str)) else {
        return false;
    };
    let Some((_, authority)) = origin.split_once("://") else { return false };
    let name = authority.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
    let name = name.map_or(authority, |(name, _)| name).trim_matches(['[', ']']);
    authority == host && (name == "localhost" || name.parse::<IpAddr>().is_ok())
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// What an operator wrote, fit for the log: one line, and no word so long that it may be the leaked token itself.
fn loggable(said: Option<&str>) -> String {
    let words = said.unwrap_or("not said").split(|c: char| c.is_whitespace() || c.is_control());
    let words = words.map(|word| if word.chars().count() > WORD_CHARS_MAX { "…" } else { word });
    words.collect::<Vec<_>>().join(" ").chars().take(SAID_CHARS_MAX).collect()
}

// === impl Shown ===

impl Shown {
    pub(super) fn of(status: &LeakStatus) -> Self {
        Self {
            state: status.state,
            calls_left: status.calls_left,
            next_call_in_s: status.next_call_in.map(|wait| wait.as_secs()),
            last: status.last,
            used: status.used,
            used_max: CALLS_PER_DAY,
            resets_at: status.resets_at.map(|at| at.0),
        }
    }
}
