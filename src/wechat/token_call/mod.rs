//! The calls that fetch a token: `POST /cgi-bin/stable_token`, `GET /cgi-bin/token`, and `WeCom`'s
//! `GET /cgi-bin/gettoken`. Bytes in, meaning out.
//!
//! It promises that what it calls a [`Grant`] is a token that can stand in a query and a lifetime that WeChat could
//! mean, and that no text it hands out holds the AppSecret. It knows no network, no clock and no schedule.
//!
//! Pages (read 2026-11-22): `developers.weixin.qq.com/doc/service/api/base/api_getstableaccesstoken.html`, and the
//! fuller note at `developers.weixin.qq.com/doc/channels/API/leagueheadsupplier/getStableAccessToken.html`;
//! for the older call `developers.weixin.qq.com/doc/oplatform/developers/dev/AccessToken.html` and `getaccesstoken.html`;
//! for `WeCom` `developer.work.weixin.qq.com/document/path/91039`.
//!
//! # Why so strict
//!
//! Whatever is taken for a token here goes into every request for two hours. WeChat and what stands in front of it
//! have been seen to answer 200 with an empty body, HTML and JSON cut short; keeping the old token and asking again
//! costs nothing, so anything but the documented shape is [`TokenCallError::Malformed`].

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::ErrCode;
use crate::types::{AccessToken, AppId, AppSecret, GrantKind};

mod rejection;
#[cfg(test)]
mod tests;

pub use rejection::{IpText, Pace, RejectionKind, TokenRejection};

/// A token call, as it goes out.
pub struct Call {
    /// Path and query. A secret where the platform wants the secret in the query: no error, log or URL type that
    /// prints itself may hold it.
    pub target: Zeroizing<String>,
    /// The JSON body of a POST; `None`: a GET. Sent with a `Content-Length`, since a chunked one gets HTTP 412
    /// (developers.weixin.qq.com/community/develop/doc/000a08cb9705a05965919300b61800, read 2026-11-22).
    pub body: Option<Zeroizing<Vec<u8>>>,
}

/// A body's content type.
pub const CONTENT_TYPE: &str = "application/json";

/// A reply longer than this is not one: a real one is under 1 KiB.
pub const REPLY_BYTES_MAX: usize = 64 * 1024;

/// The least `expires_in` that is believed. WeChat promises 300 or more (`getStableAccessToken.html`, read
/// 2026-11-22); below a minute a token is not worth having.
pub const LIVES_MIN: Duration = Duration::from_mins(1);

/// The same for `WeCom`, which hands out the same token as long as it lives: the last call before its end brings one
/// that lives for no time at all.
pub const WECOM_LIVES_MIN: Duration = Duration::ZERO;

/// The greatest `expires_in` that is believed: "currently a value within 7200 s" (`getaccesstoken.html`, read
/// 2026-11-22). One that claims more would be kept past its death.
pub const LIVES_MAX: Duration = Duration::from_hours(2);

/// How the token is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Hands out the token in force, a new one in its last 300 s. Can be called any number of times within
    /// 10 000 a minute and 500 000 a day (`api_getstableaccesstoken.html`, read 2026-11-22).
    Normal,
    /// Kills the token in force and makes a new one: for a leak, by an operator's hand, never by itself.
    /// 20 times a day, 30 s apart (same page).
    Force,
}

/// What a source hands over.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The token.
    pub token: AccessToken,
    /// How long it lives, counted from when the call was sent; [`LIVES_MIN`] (on `WeCom`, [`WECOM_LIVES_MIN`]) to
    /// [`LIVES_MAX`].
    pub lives: Duration,
}

/// Why a reply brought no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenCallError {
    /// WeChat said no, with an `errcode`.
    #[error("WeChat rejected the token call: {0}")]
    Rejected(TokenRejection),
    /// The reply is not what WeChat's pages describe; the text says in what.
    #[error("the reply to the token call is malformed: {0}")]
    Malformed(&'static str),
}

/// The fields of a reply that mean something here; others may come and go.
#[derive(Deserialize)]
struct Reply {
    access_token: Option<String>,
    expires_in: Option<i64>,
    errcode: Option<i64>,
    errmsg: Option<String>,
}

/// The call. The buffers that are handed out are wiped when dropped; copies that JSON and HTTP libraries make on the
/// way are not. `mode` matters to `stable_token` only.
pub fn encode(kind: GrantKind, mode: Mode, app_id: &AppId, secret: &AppSecret) -> Call {
    let secret = secret.expose();
    let in_query = || Zeroizing::new(utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string());
    match kind {
        GrantKind::StableToken => {
            let body = serde_json::json!({
                "grant_type": "client_credential",
                "appid": app_id.as_str(),
                "secret": secret,
                "force_refresh": matches!(mode, Mode::Force),
            });
            let body = Zeroizing::new(body.to_string().into_bytes());
            Call { target: Zeroizing::new("/cgi-bin/stable_token".to_owned()), body: Some(body) }
        }
        GrantKind::Token => {
            let path = "/cgi-bin/token?grant_type=client_credential";
            let target = format!("{path}&appid={app_id}&secret={}", in_query().as_str());
            Call { target: Zeroizing::new(target), body: None }
        }
        GrantKind::Wecom => {
            let target = format!("/cgi-bin/gettoken?corpid={app_id}&corpsecret={}", in_query().as_str());
            Call { target: Zeroizing::new(target), body: None }
        }
    }
}

/// What a reply means. `secret` is only used to strike it from texts that are kept.
pub fn decode(
    kind: GrantKind,
    status: u16,
    body: &[u8],
    secret: &AppSecret,
) -> Result<Grant, TokenCallError> {
    use TokenCallError::Malformed;

    if status != 200 {
        return Err(Malformed("its status is not 200"));
    }
    if body.len() > REPLY_BYTES_MAX {
        return Err(Malformed("it is longer than 64 KiB"));
    }
    if body.is_empty() {
        return Err(Malformed("it is empty"));
    }
    // The parser's own message is left out: it can quote what it read.
    let reply: Reply =
        serde_json::from_slice(body).map_err(|_| Malformed("it is not JSON of the documented shape"))?;
    let text = reply.access_token.map(Zeroizing::new);

    if let Some(code) = reply.errcode.filter(|code| *code != 0) {
        let said = reply.errmsg.unwrap_or_default();
        return Err(TokenCallError::Rejected(TokenRejection::new(
            kind.platform(),
            ErrCode(code),
            &said,
            secret,
        )));
    }
    let text = text.ok_or(Malformed("it has neither an access_token nor an errcode"))?;
    let token = AccessToken::parse(&text).map_err(|_| Malformed("its access_token is not one"))?;
    let lives_min = match kind {
        GrantKind::StableToken | GrantKind::Token => LIVES_MIN,
        GrantKind::Wecom => WECOM_LIVES_MIN,
    };
    let lives = reply
        .expires_in
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map(Duration::from_secs)
        .filter(|lives| (lives_min..=LIVES_MAX).contains(lives))
        .ok_or(Malformed("its expires_in is not within the documented bounds"))?;
    Ok(Grant { token, lives })
}

// === impl Call ===

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").field("is_post", &self.body.is_some()).finish_non_exhaustive()
    }
}
