//! An SDK's own token call, answered here.
//!
//! Every SDK asks `/cgi-bin/token` or `/cgi-bin/stable_token` before its first call. Here `appid` names the account
//! and `secret` carries the client key (or, where a certificate names the client, anything); the answer is a placeholder that lives 7200 s, as SDKs expect (some subtract
//! 1500 s and would choke on less, peers.md finding 4). A no comes in WeChat's own shape, with status 200, since the
//! SDK is the one to read it: 40013 for an account that is not the client's, 40125 for a key that is not known. No
//! SDK retries on either.
//!
//! `WeCom`'s `/cgi-bin/gettoken` is the same with `corpid` and `corpsecret`, and with 40001 for the key, which means
//! "wrong secret" there. Several accounts may have one corpid; where a client may use more than one of them, the path
//! says which: `/@NAME/cgi-bin/gettoken`.
//!
//! Parameters come in the query, as a form or as JSON: SDKs differ, and so do WeChat's own pages (wechat.md §1).

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::body::{self, Limits, ReplyBody};
use super::refusal::Refusal;
use super::respond;
use super::route::{self, Target};
use super::snapshot::Snapshot;
use crate::clients::Client;
use crate::token::TokenHandle;
use crate::types::{AppId, Platform, RequestId, UnixSeconds};
use crate::wechat::paths::TokenCall;
use crate::wechat::query;

/// What SDKs are told; the placeholder itself lives a little longer.
const EXPIRES_IN_S: u32 = 7200;

/// The body of a token call is a hundred bytes or two.
const BODY_BYTES_MAX: u64 = 16 * 1024;

#[derive(Default, Deserialize)]
struct Asked {
    #[serde(alias = "corpid")]
    appid: Option<String>,
    #[serde(alias = "corpsecret", alias = "appsecret")]
    secret: Option<Zeroizing<String>>,
    grant_type: Option<String>,
}

/// A no: its errcode, and how the platform words it.
type Answer = (i32, &'static str);

/// How a platform says no to a token call.
struct Words {
    platform: Platform,
    no_id: Answer,
    unknown_id: Answer,
    no_secret: Answer,
    unknown_secret: Answer,
}

const WEIXIN: Words = Words {
    platform: Platform::Weixin,
    no_id: (41002, "appid missing"),
    unknown_id: (40013, "invalid appid"),
    no_secret: (41004, "appsecret missing"),
    unknown_secret: (40125, "invalid appsecret"),
};

const WECOM: Words = Words {
    platform: Platform::Wecom,
    no_id: (41002, "corpid missing"),
    unknown_id: (40013, "invalid corpid"),
    no_secret: (41004, "corpsecret missing"),
    unknown_secret: (40001, "invalid credential"),
};

/// weigate's own no, hence its code: nothing that `WeCom` says means this.
const AMBIGUOUS: Answer = (
    -99400,
    "weigate: several accounts of this client have this corpid, say which by the path: /@NAME/cgi-bin/gettoken",
);

/// Answers a token call.
pub(super) async fn token_call(
    call: TokenCall,
    snapshot: &Snapshot,
    shown: Option<Arc<Client>>,
    target: Target<'_>,
    head: &Parts,
    incoming: Option<Box<hyper::body::Incoming>>,
    id: RequestId,
) -> Result<Response<ReplyBody>, Refusal> {
    if call == TokenCall::StableToken && head.method != Method::POST {
        return Ok(wechat_error((43002, "require POST method"), id));
    }
    let limits =
        Limits { body_bytes_max: BODY_BYTES_MAX, memory_bytes_max: BODY_BYTES_MAX, ..Limits::of(snapshot) };
    let body = match incoming {
        Some(incoming) => body::in_memory(*incoming, limits).await?,
        None => bytes::Bytes::new(),
    };
    let asked = Asked::read(target.query.unwrap_or_default(), &body);
    Ok(answer(call, snapshot, shown.as_ref(), &target, &asked, id))
}

fn answer(
    call: TokenCall,
    snapshot: &Snapshot,
    shown: Option<&Arc<Client>>,
    target: &Target<'_>,
    asked: &Asked,
    id: RequestId,
) -> Response<ReplyBody> {
    let words = if call == TokenCall::GetToken { &WECOM } else { &WEIXIN };
    // WeChat looks at the AppID first, then at grant_type, then at the secret (wechat.md §1).
    let Some(app_id) = asked.appid.as_deref().filter(|app_id| !app_id.is_empty()) else {
        return wechat_error(words.no_id, id);
    };
    let tokens = AppId::parse(app_id).into_iter().flat_map(|app_id| snapshot.tokens_of(&app_id));
    let mut accounts = tokens
        .filter(|token| route::on(token, words.platform))
        .map(TokenHandle::account)
        .filter(|account| target.account_prefix.is_none_or(|prefix| prefix == account.name.as_str()))
        .peekable();
    if accounts.peek().is_none() {
        return wechat_error(words.unknown_id, id);
    }
    if call != TokenCall::GetToken && asked.grant_type.as_deref() != Some("client_credential") {
        return wechat_error((40002, "invalid grant_type"), id);
    }
    let clients = &snapshot.clients;
    let by_key = asked.secret.as_ref().and_then(|key| clients.by_key(key));
    let client = match (shown.or(clients.anonymous()), by_key) {
        // Whom the certificate names need not know a secret, but must not use another's.
        (Some(known), Some(other)) if !Arc::ptr_eq(known, other) => {
            return wechat_error(words.unknown_secret, id);
        }
        (Some(known), _) => known,
        (None, Some(client)) => client,
        (None, None) if asked.secret.is_none() => return wechat_error(words.no_secret, id),
        (None, None) => return wechat_error(words.unknown_secret, id),
    };
    let mut theirs = accounts.filter(|account| client.may_use(&account.name));
    let account = match (theirs.next(), theirs.next()) {
        (Some(account), None) => account,
        (None, _) => return wechat_error(words.unknown_id, id),
        (Some(_), Some(_)) => return wechat_error(AMBIGUOUS, id),
    };
    let placeholder = clients.placeholder(client, &account.name, UnixSeconds::now());
    let ok = if call == TokenCall::GetToken { r#""errcode":0,"errmsg":"ok","# } else { "" };
    respond::json(format!(r#"{{{ok}"access_token":"{placeholder}","expires_in":{EXPIRES_IN_S}}}"#))
}

fn wechat_error((code, message): Answer, id: RequestId) -> Response<ReplyBody> {
    respond::json(format!(r#"{{"errcode":{code},"errmsg":"{message}, rid: {id}"}}"#))
}

// === impl Asked ===

impl Asked {
    fn read(query: &str, body: &Bytes) -> Self {
        let mut asked = Self::from_form(query);
        if body.is_empty() {
            return asked;
        }
        let in_body = match serde_json::from_slice(body) {
            Ok(json) => json,
            Err(_) => Self::from_form(std::str::from_utf8(body).unwrap_or_default()),
        };
        asked.appid = in_body.appid.or(asked.appid);
        asked.secret = in_body.secret.or(asked.secret);
        asked.grant_type = in_body.grant_type.or(asked.grant_type);
        asked
    }

    fn from_form(form: &str) -> Self {
        let mut asked = Self::default();
        for (name, value) in form.split('&').filter_map(|pair| pair.split_once('=')) {
            match name {
                "appid" | "corpid" => asked.appid = query::decode(value),
                "secret" | "appsecret" | "corpsecret" => {
                    asked.secret = query::decode(value).map(Zeroizing::new);
                }
                "grant_type" => asked.grant_type = query::decode(value),
                _ => (),
            }
        }
        asked
    }
}
