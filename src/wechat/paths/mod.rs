//! What a path needs, and which paths are refused before anyone asks.
//!
//! A path is decoded once, for judgement only; it is sent byte for byte as it came. Whatever could be read two ways
//! (by us and by the servers behind us) is refused rather than normalised: an allow-list that judges other bytes
//! than it sends is no allow-list (reliability.md S4).
//!
//! The table is that of wechat.md §4, read 2026-11-22. `WeCom` has a table of its own (§9): a path is judged by the
//! larger one first, since the account, and with it the platform, is chosen with its help, and by the platform's then.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::types::Platform;

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// `%2f`, `%5c`, `\`, `%3f`, `#`, `;`, `%25`: read differently by different servers.
    #[error("the path holds a character that servers read in different ways")]
    Ambiguous,
    /// `.` or `..`, encoded or not, nothing between two slashes, or a segment that ends in a dot or a space.
    #[error("the path holds an empty segment or one that ends in a dot or a space")]
    Segment,
    /// A control character, encoded or not.
    #[error("the path holds a control character")]
    Control,
    /// A percent sign without two hexadecimal digits, or bytes that are not UTF-8.
    #[error("the path is not well encoded")]
    Encoding,
    /// Nearly a path that is treated specially: other case, or a slash at the end.
    #[error("the path is a variant of one that is guarded")]
    NearMiss,
}

/// What a path asks of weigate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The account's token in the query: everything that is not named below.
    Token,
    /// Answered by weigate itself, with a placeholder.
    TokenCall(TokenCall),
    /// The account's `appid` and `secret` in the query.
    Secret,
    /// The account's `appid` in the query.
    AppId,
    /// The account's `appid` and `appsecret` in the query, no token.
    AppSecret,
    /// Nothing: `access_token` is the user's own, and an answer of 40001 says nothing about ours.
    UserToken,
    /// Nothing: another credential, which the client holds.
    Untouched,
}

/// Which token call it is; they differ in the names of their parameters and in their answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenCall {
    /// `/cgi-bin/token`.
    Token,
    /// `/cgi-bin/stable_token`.
    StableToken,
    /// `/cgi-bin/gettoken`, WeCom's.
    GetToken,
}

/// A path that was judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged<'a> {
    /// The path, decoded: what allow-lists are matched against.
    pub decoded: Cow<'a, str>,
    /// What it needs on `api.weixin.qq.com`.
    pub need: Need,
    /// Only for clients whose `allow` names it.
    pub guarded: bool,
}

/// A platform's paths that are treated specially: what each needs, and whether it is guarded.
type Table = fn(&str) -> Option<(Need, bool)>;

/// Takes the extra slashes off the front of `path`: WxJava joins a base URL that ends in a slash with a path that
/// starts with one (peers.md, finding 9).
pub fn collapse_leading_slashes(path: &str) -> &str {
    let extra = path.bytes().take_while(|byte| *byte == b'/').count().saturating_sub(1);
    path.get(extra..).unwrap_or(path)
}

/// Judges `path`, which starts with one slash and has no query.
pub fn judge(path: &str) -> Result<Judged<'_>, PathError> {
    let decoded = decode(path)?;
    check_segments(&decoded)?;
    let (need, guarded) = need(&decoded, special)?;
    Ok(Judged { decoded, need, guarded })
}

// === impl Judged ===

impl Judged<'_> {
    /// What the path needs on this platform, and whether it is guarded there.
    pub fn on(&self, platform: Platform) -> Result<(Need, bool), PathError> {
        match platform {
            Platform::Weixin => Ok((self.need, self.guarded)),
            Platform::Wecom => need(&self.decoded, special_on_wecom),
        }
    }
}

fn decode(path: &str) -> Result<Cow<'_, str>, PathError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() | matches!(byte, b'/' | b'_' | b'-' | b'.');
    // All bytes, to the end: 106 instructions fewer for an ordinary path than with an early end (callgrind).
    if path.bytes().fold(true, |all, byte| all & plain(byte)) {
        return Ok(Cow::Borrowed(path));
    }
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => check_escape(rest.next(), rest.next())?,
            b'\\' | b'?' | b'#' | b';' => return Err(PathError::Ambiguous),
            _ => {}
        }
    }
    let decoded = percent_decode_str(path).decode_utf8().map_err(|_| PathError::Encoding)?;
    // C1 controls are control characters too.
    if decoded.chars().any(char::is_control) {
        return Err(PathError::Control);
    }
    Ok(decoded)
}

fn check_escape(high: Option<u8>, low: Option<u8>) -> Result<(), PathError> {
    let digit =
        |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16)).ok_or(PathError::Encoding);
    let byte = u8::try_from(digit(high)? * 16 + digit(low)?).map_err(|_| PathError::Encoding)?;
    match byte {
        b'/' | b'\\' | b'?' | b'#' | b';' | b'%' => Err(PathError::Ambiguous),
        byte if byte.is_ascii_control() => Err(PathError::Control),
        _ => Ok(()),
    }
}

fn check_segments(decoded: &str) -> Result<(), PathError> {
    let inner = decoded.strip_prefix('/').ok_or(PathError::Segment)?;
    // A slash at the end is a path of its own; between two slashes something must stand.
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    if inner.is_empty() {
        return if decoded == "/" { Ok(()) } else { Err(PathError::Segment) };
    }
    // `.` and `..` end in a dot; some servers also trim dots and spaces from the end of any segment.
    let mut before = b'/';
    for byte in inner.bytes().chain([b'/']) {
        if byte == b'/' && matches!(before, b'/' | b'.' | b' ') {
            return Err(PathError::Segment);
        }
        before = byte;
    }
    Ok(())
}

fn need(path: &str, table: Table) -> Result<(Need, bool), PathError> {
    if let Some(special) = table(path) {
        return Ok(special);
    }
    // Other servers may fold case or trim the end, and so see a guarded path where we saw none.
    let is_variant = path.ends_with('/') || path.bytes().any(|byte| byte.is_ascii_uppercase());
    if is_variant && table(&path.trim_end_matches('/').to_ascii_lowercase()).is_some() {
        return Err(PathError::NearMiss);
    }
    Ok((Need::Token, false))
}

fn special(path: &str) -> Option<(Need, bool)> {
    let special = match path {
        "/cgi-bin/token" => (Need::TokenCall(TokenCall::Token), false),
        "/cgi-bin/stable_token" => (Need::TokenCall(TokenCall::StableToken), false),
        "/cgi-bin/gettoken" => (Need::TokenCall(TokenCall::GetToken), false),
        "/sns/jscode2session" | "/sns/oauth2/access_token" => (Need::Secret, false),
        "/sns/oauth2/refresh_token" => (Need::AppId, false),
        "/sns/userinfo" | "/sns/auth" => (Need::UserToken, false),
        "/cgi-bin/clear_quota" | "/cgi-bin/openapi/quota/clear" => (Need::Token, true),
        "/cgi-bin/clear_quota/v2" => (Need::AppSecret, true),
        _ if below(path, "/cgi-bin/component") => (Need::Untouched, true),
        _ if below(path, "/sns/component") || below(path, "/sns/oauth2/component") => (Need::Untouched, true),
        _ if below(path, "/sns") => (Need::UserToken, false),
        _ => return None,
    };
    Some(special)
}

/// `WeCom`'s: `/cgi-bin/service/` is for third-party providers and their tokens (`get_suite_token`,
/// `get_provider_token` …; wechat.md §9). What the other platform has and this one has not gets nothing of ours, least
/// of all a secret.
fn special_on_wecom(path: &str) -> Option<(Need, bool)> {
    let special = match path {
        "/cgi-bin/gettoken" => (Need::TokenCall(TokenCall::GetToken), false),
        "/cgi-bin/token" | "/cgi-bin/stable_token" => (Need::Untouched, true),
        _ if below(path, "/cgi-bin/service") => (Need::Untouched, true),
        _ if below(path, "/cgi-bin/component") || below(path, "/sns") => (Need::Untouched, true),
        _ => return None,
    };
    Some(special)
}

fn below(path: &str, room: &str) -> bool {
    path.strip_prefix(room).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests;
