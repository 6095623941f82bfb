//! The APIs that take an account's token: who may come in, and what each answers.
//!
//! The gateway's order is *our choice* where no source tells: the path (404), the token, the IP allow-list, the
//! method, the quota, the body, and only then the API itself. A call that is turned away has no effect.

mod files;
mod manage;
mod messages;
mod users;
mod wecom;
mod wxa;

use http::{Method, StatusCode};
use serde_json::Value;

use super::accounts::{Account, Worth};
use super::clock::Ms;
use super::media::MediaShelf;
use super::reply::Reply;
use super::request::{Call, Json};
use super::seen::Seen;
use super::sns::Users;
use super::state::State;
use super::{AccountKind, Quotas, token_calls};

pub(super) use manage::Shelf;

/// An API that answers more than "ok".
struct Api {
    path: &'static str,
    method: Allowed,
    needs: Needs,
    answer: fn(&mut Desk<'_>) -> Answer,
}

/// An answer, or the errcode of one.
type Answer = Result<Reply, i64>;

/// Which methods an API takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Allowed {
    Get,
    Post,
    Any,
}

/// What body an API needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    Json,
    File,
}

/// What an API works with.
struct Desk<'a> {
    call: &'a Call,
    now: Ms,
    quotas: Quotas,
    index: usize,
    account: &'a mut Account,
    media: &'a mut MediaShelf,
    users: &'a mut Users,
    seen: &'a Seen,
}

/// What came of a call, with what the log of requests wants to know.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) reply: Reply,
    pub(super) account: Option<usize>,
    pub(super) token: TokenSeen,
}

/// Why a call's token is not good, and whose it was.
struct TurnedAway {
    errcode: i64,
    account: Option<usize>,
}

/// Whether the call's token was good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenSeen {
    Good,
    Bad,
}

/// Answers a call with a token; `None` where there is no such path.
pub(super) fn answer(state: &mut State, call: &Call, now: Ms, quotas: Quotas) -> Option<Outcome> {
    if find(&call.path).is_none() && !PREFIXES.iter().any(|prefix| call.path.starts_with(prefix)) {
        return None;
    }
    let outcome = match holder(state, call, now) {
        Ok(index) => {
            let kind = state.accounts.at(index).map_or(AccountKind::default(), |account| account.kind);
            let reply = if kind == AccountKind::WeCom {
                let reply = serve(state, call, index, wecom::find(&call.path), now, quotas);
                reply.unwrap_or_else(|errcode| token_calls::wecom_error(errcode, call, now))
            } else {
                let reply = serve(state, call, index, find(&call.path), now, quotas);
                reply.unwrap_or_else(|errcode| token_calls::refusal(errcode, call, now))
            };
            Outcome { reply, account: Some(index), token: TokenSeen::Good }
        }
        Err(away) => {
            let reply = turn_away(state, call, &away, now);
            Outcome { reply, account: away.account, token: TokenSeen::Bad }
        }
    };
    let says_no_as_text = call.path.starts_with("/cgi-bin/media/get") && outcome.reply.errcode.is_some();
    Some(if says_no_as_text { Outcome { reply: outcome.reply.into_text(), ..outcome } } else { outcome })
}

/// Whose token the call carries. Only the query is read: a token in the body is 41001 (§3.4).
///
/// Which of two tokens wins is not documented; here two are 40001, *our choice*, since any proxy that sends two
/// must be caught.
fn holder(state: &State, call: &Call, now: Ms) -> Result<usize, TurnedAway> {
    let mut tokens =
        call.query.iter().filter(|(name, _)| name == "access_token").map(|(_, value)| value.as_str());
    let (token, second) = (tokens.next().unwrap_or(""), tokens.next());
    if second.is_some() {
        return Err(TurnedAway { errcode: 40001, account: None });
    }
    if token.is_empty() {
        // Third-party platforms and cloud run are not played here: their tokens are nobody's.
        let other = call.query("component_access_token").or(call.query("cloudbase_access_token"));
        return Err(TurnedAway { errcode: if other.is_some() { 40001 } else { 41001 }, account: None });
    }
    match state.accounts.judge(token, now) {
        Worth::Good(index) => Ok(index),
        Worth::Dead(account) => Err(TurnedAway { errcode: 40001, account }),
        Worth::Expired(index) => Err(TurnedAway { errcode: 42001, account: Some(index) }),
        Worth::Malformed => Err(TurnedAway { errcode: 40014, account: None }),
    }
}

/// How a bad token is answered; `WeCom` knows no 40001 here, and words things its own way (§9).
fn turn_away(state: &State, call: &Call, away: &TurnedAway, now: Ms) -> Reply {
    let account = away.account.and_then(|index| state.accounts.at(index));
    let wecom = account.map_or(call.wecom_host, |account| account.kind == AccountKind::WeCom);
    match (wecom, away.errcode) {
        (true, 41001 | 42001) => token_calls::wecom_error(away.errcode, call, now),
        (true, _) => token_calls::wecom_error(40014, call, now),
        (false, errcode) => Reply::error(errcode, now),
    }
}

fn serve(state: &mut State, call: &Call, index: usize, api: Option<&Api>, now: Ms, quotas: Quotas) -> Answer {
    let State { accounts, media, users, seen, .. } = state;
    let account = accounts.at_mut(index).ok_or(40001)?;
    match account.kind {
        AccountKind::OfficialAccount if account.turns_away(call.peer) => return Err(40164),
        AccountKind::WeCom if account.turns_away(call.peer) => return Err(60020),
        AccountKind::OfficialAccount | AccountKind::MiniProgram | AccountKind::WeCom => {}
    }
    match api.map_or(Allowed::Any, |api| api.method) {
        Allowed::Post if call.method != Method::POST => return Err(43002),
        Allowed::Get if call.method != Method::GET => return Err(43001),
        Allowed::Get | Allowed::Post | Allowed::Any => {}
    }
    // The limits in the table are those of the other platform.
    let quotas = if account.kind == AccountKind::WeCom { Quotas::Unlimited } else { quotas };
    account.ledger.take(&call.path, now, quotas)?;
    let Some(api) = api else { return Ok(Reply::ok()) };
    if api.needs != Needs::Nothing && call.length == 0 {
        return Err(if api.needs == Needs::File { 41005 } else { 44002 });
    }
    if api.needs == Needs::Json && matches!(call.json, Json::Malformed) {
        return Err(47001);
    }
    (api.answer)(&mut Desk { call, now, quotas, index, account, media, users, seen })
}

/// The answer to a path that is not there.
pub(super) fn no_such_path() -> Reply {
    Reply::empty(StatusCode::NOT_FOUND)
}

fn find(path: &str) -> Option<&'static Api> {
    let tables = [users::APIS, messages::APIS, files::APIS, wxa::APIS, manage::APIS];
    let exact = tables.into_iter().flatten().find(|api| api.path == path);
    exact.or_else(|| path.starts_with("/datacube/").then_some(&users::DATACUBE))
}

// === impl Desk ===

impl Desk<'_> {
    /// The JSON body's value.
    fn value(&self) -> &Value {
        self.call.value()
    }

    /// A text in the JSON body, or the errcode for its absence.
    fn text(&self, name: &str, absent: i64) -> Result<String, i64> {
        self.call.text(name).map(str::to_owned).ok_or(absent)
    }

    /// The time in seconds, as WeChat's answers have it.
    fn seconds(&self) -> u64 {
        self.now / 1000
    }
}

const fn get(path: &'static str, answer: fn(&mut Desk<'_>) -> Answer) -> Api {
    Api { path, method: Allowed::Get, needs: Needs::Nothing, answer }
}

const fn post(path: &'static str, answer: fn(&mut Desk<'_>) -> Answer) -> Api {
    Api { path, method: Allowed::Post, needs: Needs::Json, answer }
}

const fn upload(path: &'static str, answer: fn(&mut Desk<'_>) -> Answer) -> Api {
    Api { path, method: Allowed::Post, needs: Needs::File, answer }
}

/// Where every path answers "ok" to a good token (§4).
const PREFIXES: &[&str] = &[
    "/cgi-bin/",
    "/wxa/",
    "/wxaapi/",
    "/datacube/",
    "/customservice/",
    "/card/",
    "/channels/",
    "/shop/",
    "/product/",
    "/tcb/",
    "/xpay/",
    "/semantic/",
    "/merchant/",
    "/device/",
    "/publisher/",
    "/scan/",
    "/bizwifi/",
];
