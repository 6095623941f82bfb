//! The calls that issue tokens: `/cgi-bin/token`, `/cgi-bin/stable_token`, and `WeCom`'s `/cgi-bin/gettoken`.
//!
//! Order of checks: the AppID before the grant type, as a probe of 2026-09-17 saw (§1); then the secret, its
//! freeze, the IP allow-list, the quota: *our choice*.

use http::Method;
use serde_json::{Value, json};

use super::accounts::Grant;
use super::clock::Ms;
use super::reply::Reply;
use super::request::{Call, Json};
use super::state::State;
use super::{AccountKind, Quotas, errors};

/// What a caller says of itself.
#[derive(Debug, Clone, Copy)]
struct Credentials<'a> {
    app_id: Option<&'a str>,
    secret: Option<&'a str>,
    grant_type: Option<&'a str>,
}

/// The AppID that a token call names; `None` if the path is no token call's.
pub(super) fn app_id_of(call: &Call) -> Option<&str> {
    match call.path.as_str() {
        "/cgi-bin/token" => Some(call.query_or_form("appid").unwrap_or("")),
        "/cgi-bin/stable_token" => Some(call.text("appid").unwrap_or("")),
        "/cgi-bin/gettoken" => Some(call.query("corpid").unwrap_or("")),
        _ => None,
    }
}

/// Whether a call wants the token in force ended.
pub(super) fn is_forced(call: &Call) -> bool {
    call.path == "/cgi-bin/stable_token"
        && matches!(&call.json, Json::Value(body) if body.get("force_refresh").and_then(Value::as_bool) == Some(true))
}

/// `GET /cgi-bin/token`; POST works too, and only says the same.
pub(super) fn token(state: &mut State, call: &Call, now: Ms, quotas: Quotas) -> Reply {
    let credentials = Credentials {
        app_id: call.query_or_form("appid"),
        secret: call.query_or_form("secret"),
        grant_type: call.query_or_form("grant_type"),
    };
    match admit(state, call, credentials, now, quotas) {
        Ok(index) => granted(state.accounts.fetch(index, now), now),
        Err(errcode) => refusal(errcode, call, now),
    }
}

/// `POST /cgi-bin/stable_token`: JSON only, what stands in the query is not read.
pub(super) fn stable_token(state: &mut State, call: &Call, now: Ms, quotas: Quotas) -> Reply {
    if call.method != Method::POST {
        return Reply::error(43002, now);
    }
    match call.json {
        Json::Empty => return Reply::error(44002, now),
        Json::Malformed => return Reply::error(47001, now),
        Json::Value(_) => {}
    }
    let credentials = Credentials {
        app_id: call.text("appid"),
        secret: call.text("secret"),
        grant_type: call.text("grant_type"),
    };
    let index = match admit(state, call, credentials, now, quotas) {
        Ok(index) => index,
        Err(errcode) => return refusal(errcode, call, now),
    };
    if call.value().get("force_refresh").and_then(Value::as_bool) == Some(true) {
        match state.accounts.force_stable(index, now) {
            Some(grant) => granted(Some(grant), now),
            None => Reply::error(45009, now),
        }
    } else {
        granted(state.accounts.fetch_stable(index, now), now)
    }
}

/// `WeCom`: repeated calls inside a token's life return the same token, and success carries errcode 0 (§9).
///
/// *Our choice*: an address that is not trusted gets 60020 here too, and the limit of a minute (10 000, §9) is counted
/// for an application, not for the corp.
pub(super) fn gettoken(state: &mut State, call: &Call, now: Ms, quotas: Quotas) -> Reply {
    let granted = admit_application(state, call, now, quotas)
        .and_then(|index| state.accounts.fetch_wecom(index, now).ok_or(-1));
    match granted {
        Ok(grant) => Reply::json(&json!({
            "errcode": 0, "errmsg": "ok", "access_token": grant.token, "expires_in": grant.expires_in_s,
        })),
        Err(errcode) => wecom_error(errcode, call, now),
    }
}

fn admit_application(state: &mut State, call: &Call, now: Ms, quotas: Quotas) -> Result<usize, i64> {
    let corpid = call.query("corpid").filter(|text| !text.is_empty()).ok_or(41002)?;
    let secret = call.query("corpsecret").filter(|text| !text.is_empty()).ok_or(41004)?;
    let index = state.accounts.find_application(corpid, secret)?;
    let account = state.accounts.at_mut(index).ok_or(40013)?;
    if account.frozen {
        return Err(50003);
    }
    if account.turns_away(call.peer) {
        return Err(60020);
    }
    account.ledger.take(&call.path, now, quotas).map_err(wecom_quota)?;
    Ok(index)
}

/// `WeCom` has one code for every limit of frequency.
pub(super) fn wecom_quota(errcode: i64) -> i64 {
    if errcode == 45011 { 45009 } else { errcode }
}

/// An error in `WeCom`'s form.
pub(super) fn wecom_error(errcode: i64, call: &Call, now: Ms) -> Reply {
    let text = errors::wecom_text(errcode);
    let hint = format!("{}{:010}", now, fastrand::u32(..));
    Reply::json(&json!({
        "errcode": errcode,
        "errmsg": format!(
            "{text}, hint: [{hint}], from ip: {}, more info at \
             https://open.work.weixin.qq.com/devtool/query?e={errcode}",
            call.peer
        ),
    }))
}

/// An error on the general APIs; 40164 says which address it saw, in its real text (2021, §1.1).
pub(super) fn refusal(errcode: i64, call: &Call, now: Ms) -> Reply {
    if errcode != 40164 {
        return Reply::error(errcode, now);
    }
    let seen = match call.peer.to_canonical() {
        std::net::IpAddr::V4(v4) => format!("{v4} ipv6 ::ffff:{v4}"),
        std::net::IpAddr::V6(v6) => format!("{v6} ipv6 {v6}"),
    };
    Reply::error_saying(40164, &format!("invalid ip {seen}, not in whitelist rid: "), now)
}

/// `POST /cgi-bin/clear_quota/v2`: AppID and secret, no token; the parameters in the query (older page) or in the
/// body (newer page), so both are read. Subject to the IP allow-list (§6).
pub(super) fn clear_quota_v2(state: &mut State, call: &Call, now: Ms) -> Reply {
    if call.method != Method::POST {
        return Reply::error(43002, now);
    }
    let read = |name: &str| call.query_or_form(name).or_else(|| call.text(name));
    let (app_id, secret) = (read("appid").map(str::to_owned), read("appsecret").map(str::to_owned));
    let credentials = Credentials {
        app_id: app_id.as_deref(),
        secret: secret.as_deref(),
        grant_type: Some("client_credential"),
    };
    let cleared = check(state, call, credentials)
        .and_then(|index| state.accounts.at_mut(index).ok_or(40013)?.ledger.clear(now));
    cleared.map_or_else(|errcode| refusal(errcode, call, now), |()| Reply::ok())
}

fn admit(
    state: &mut State,
    call: &Call,
    credentials: Credentials<'_>,
    now: Ms,
    quotas: Quotas,
) -> Result<usize, i64> {
    let index = check(state, call, credentials)?;
    state.accounts.at_mut(index).ok_or(40013)?.ledger.take(&call.path, now, quotas)?;
    Ok(index)
}

fn check(state: &State, call: &Call, credentials: Credentials<'_>) -> Result<usize, i64> {
    let app_id = credentials.app_id.filter(|id| !id.is_empty()).ok_or(41002)?;
    let index = state.accounts.find(app_id).ok_or(40013)?;
    let account = state.accounts.at(index).filter(|account| account.kind != AccountKind::WeCom);
    let account = account.ok_or(40013)?;
    if credentials.grant_type != Some("client_credential") {
        return Err(40002);
    }
    let secret = credentials.secret.filter(|text| !text.is_empty()).ok_or(41004)?;
    if secret != account.app_secret {
        return Err(40125);
    }
    if account.frozen {
        return Err(40243);
    }
    if account.turns_away(call.peer) {
        return Err(40164);
    }
    Ok(index)
}

fn granted(grant: Option<Grant>, now: Ms) -> Reply {
    match grant {
        Some(grant) => Reply::json(&json!({ "access_token": grant.token, "expires_in": grant.expires_in_s })),
        None => Reply::error(-1, now),
    }
}
