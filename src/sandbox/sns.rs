//! `/sns/`: users' codes and users' tokens, a sub-system of its own with error texts of its own (§3.3, §4).
//!
//! *Our choice*: a code that begins with `good` works, once; every other is invalid. Who the user is follows from
//! the code, so that two codes are two users.

use std::collections::{HashMap, HashSet, VecDeque};

use http::Method;
use serde_json::json;

use super::clock::Ms;
use super::reply::Reply;
use super::request::Call;
use super::state::State;
use super::{AccountKind, forge, token_calls};

/// Users' codes and tokens.
#[derive(Debug, Default)]
pub(super) struct Users {
    used_codes: HashSet<String>,
    code_order: VecDeque<String>,
    tokens: HashMap<String, UserToken>,
    token_order: VecDeque<String>,
}

#[derive(Debug, Clone)]
struct UserToken {
    openid: String,
    app_id: String,
    kind: Kind,
    expires_at: Ms,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Access,
    Refresh,
}

/// Answers a path below `/sns/`; `None` for one that is not there.
pub(super) fn answer(state: &mut State, call: &Call, now: Ms) -> Option<Reply> {
    let reply = match call.path.as_str() {
        "/sns/jscode2session" => jscode2session(state, call),
        "/sns/oauth2/access_token" => access_token(state, call, now),
        "/sns/oauth2/refresh_token" => refresh_token(state, call, now),
        "/sns/userinfo" => userinfo(state, call, now),
        "/sns/auth" => auth(state, call, now),
        _ => return None,
    };
    Some(reply.unwrap_or_else(|errcode| match errcode {
        40164 => token_calls::refusal(errcode, call, now),
        errcode => Reply::sns_error(errcode, now),
    }))
}

// === impl Users ===

impl Users {
    /// Uses up a code: 40029 for one that never worked, 40163 for one that was used.
    pub(super) fn use_code(&mut self, app_id: &str, code: &str) -> Result<(), i64> {
        if !code.starts_with("good") || code.len() > 256 {
            return Err(40029);
        }
        let code = format!("{app_id} {code}");
        if !self.used_codes.insert(code.clone()) {
            return Err(40163);
        }
        self.code_order.push_back(code);
        if self.code_order.len() > REMEMBERED_MAX {
            let oldest = self.code_order.pop_front().unwrap_or_default();
            self.used_codes.remove(&oldest);
        }
        Ok(())
    }

    fn issue(&mut self, token: UserToken) -> String {
        let text = forge::token();
        self.tokens.insert(text.clone(), token);
        self.token_order.push_back(text.clone());
        if self.token_order.len() > REMEMBERED_MAX {
            let oldest = self.token_order.pop_front().unwrap_or_default();
            self.tokens.remove(&oldest);
        }
        text
    }

    fn check(&self, token: Option<&str>, now: Ms) -> Result<&UserToken, i64> {
        let token = token.filter(|token| !token.is_empty()).ok_or(41001)?;
        let known = self.tokens.get(token).filter(|known| known.kind == Kind::Access).ok_or(40001)?;
        if now >= known.expires_at { Err(42001) } else { Ok(known) }
    }
}

/// GET with the query; a POST's parameters are not seen, so that it meets 41002 (§4).
fn jscode2session(state: &mut State, call: &Call) -> Result<Reply, i64> {
    if call.method == Method::POST {
        return Err(41002);
    }
    let (app_id, code) = check_app(state, call, "js_code")?;
    state.users.use_code(&app_id, &code)?;
    // 24 characters that decode to 16 bytes: 21 free, one with its last four bits zero, two of padding.
    let session_key = format!("{}A==", forge::text(21).replace('-', "+").replace('_', "/"));
    let openid = forge::openid(&app_id, &code);
    Ok(Reply::json(&json!({ "openid": openid, "session_key": session_key })))
}

fn access_token(state: &mut State, call: &Call, now: Ms) -> Result<Reply, i64> {
    let (app_id, code) = check_app(state, call, "code")?;
    state.users.use_code(&app_id, &code)?;
    let openid = forge::openid(&app_id, &code);
    Ok(user_tokens(&mut state.users, &app_id, &openid, now))
}

fn refresh_token(state: &mut State, call: &Call, now: Ms) -> Result<Reply, i64> {
    let app_id = call.query_or_form("appid").filter(|id| !id.is_empty()).ok_or(41002)?;
    state.accounts.find(app_id).ok_or(40013)?;
    let token = call.query_or_form("refresh_token").unwrap_or("");
    let known = state.users.tokens.get(token).cloned();
    let known = known.filter(|known| known.kind == Kind::Refresh && known.app_id == app_id).ok_or(40030)?;
    if now >= known.expires_at {
        return Err(42002);
    }
    Ok(user_tokens(&mut state.users, app_id, &known.openid, now))
}

fn userinfo(state: &mut State, call: &Call, now: Ms) -> Result<Reply, i64> {
    let user = state.users.check(call.query_or_form("access_token"), now)?;
    if call.query_or_form("openid") != Some(user.openid.as_str()) {
        return Err(40003);
    }
    Ok(Reply::json(&json!({
        "openid": user.openid, "nickname": "sandbox", "sex": 0, "province": "", "city": "", "country": "",
        "headimgurl": "https://thirdwx.qlogo.cn/mmopen/sandbox/46", "privilege": [],
        "unionid": forge::openid("unionid", &user.openid),
    })))
}

fn auth(state: &mut State, call: &Call, now: Ms) -> Result<Reply, i64> {
    let user = state.users.check(call.query_or_form("access_token"), now)?;
    let is_theirs = call.query_or_form("openid") == Some(user.openid.as_str());
    if is_theirs { Ok(Reply::ok()) } else { Err(40003) }
}

/// AppID, secret, code, in this order.
fn check_app(state: &State, call: &Call, code_name: &str) -> Result<(String, String), i64> {
    let app_id = call.query_or_form("appid").filter(|id| !id.is_empty()).ok_or(41002)?;
    let account = state.accounts.find(app_id).and_then(|index| state.accounts.at(index)).ok_or(40013)?;
    let secret = call.query_or_form("secret").filter(|secret| !secret.is_empty()).ok_or(41004)?;
    if secret != account.app_secret {
        return Err(40125);
    }
    if call.query_or_form("grant_type").is_some_and(|grant_type| grant_type != "authorization_code") {
        return Err(40002);
    }
    // An official account's list covers every call; a mini program's only token calls (§7.4).
    if account.kind == AccountKind::OfficialAccount && account.turns_away(call.peer) {
        return Err(40164);
    }
    let code = call.query_or_form(code_name).filter(|code| !code.is_empty()).ok_or(41008)?;
    Ok((app_id.to_owned(), code.to_owned()))
}

fn user_tokens(users: &mut Users, app_id: &str, openid: &str, now: Ms) -> Reply {
    let token = |kind, lives_ms: Ms| UserToken {
        openid: openid.to_owned(),
        app_id: app_id.to_owned(),
        kind,
        expires_at: now.saturating_add(lives_ms),
    };
    let access = users.issue(token(Kind::Access, USER_TOKEN_MS));
    let refresh = users.issue(token(Kind::Refresh, 30 * 24 * 3_600_000));
    Reply::json(&json!({
        "access_token": access, "expires_in": USER_TOKEN_MS / 1000, "refresh_token": refresh,
        "openid": openid, "scope": "snsapi_userinfo", "unionid": forge::openid("unionid", openid),
    }))
}

const USER_TOKEN_MS: Ms = 7_200_000;
/// Codes, and tokens.
const REMEMBERED_MAX: usize = 100_000;
