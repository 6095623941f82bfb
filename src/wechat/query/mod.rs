//! The query of a request: what weigate reads in it, and the rewriting that leaves every other byte alone.
//!
//! A gateway must not change a query beyond its purpose (RFC 9110 §7.7), and peers that rebuild it reorder and
//! re-encode what applications have signed. So parameters are cut out and appended; nothing is decoded and encoded
//! again. Names are compared decoded, so that `%61ccess_token` hides nothing, and for `access_token` also without
//! regard to case and without a PHP-style `[]`, so that no reading of the query finds a second one.

use bytes::BufMut;
use percent_encoding::percent_decode_str;

/// The parameters that mean something to weigate; each holds the raw (encoded) value of the first occurrence.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Parameters<'a> {
    /// A client key, a placeholder, or the user's own token (`/sns/*`).
    pub access_token: Option<&'a str>,
    /// Chooses the account, as WeChat Cloud Run has it.
    pub from_appid: Option<&'a str>,
    /// The AppID of a token or login call.
    pub appid: Option<&'a str>,
    /// The secret of a token or login call.
    pub secret: Option<&'a str>,
    /// Another credential, which weigate does not hold: `component_access_token`, `cloudbase_access_token`, and
    /// `WeCom`'s `suite_access_token` and `provider_access_token`.
    pub foreign_token: Option<&'a str>,
    /// Whether there is anything that a [`Drop`] could name; if not, [`rewrite`] need not look again.
    pub has_droppable: bool,
}

/// Which parameters [`rewrite`] takes out.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "a set of four names, spelt out")]
pub struct Drop {
    /// `access_token`, in any spelling.
    pub access_token: bool,
    /// `from_appid`.
    pub from_appid: bool,
    /// `appid`.
    pub appid: bool,
    /// `secret` and `appsecret`.
    pub secret: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    AccessToken,
    /// `ACCESS_TOKEN`, `access_token[]`: taken out with the real one, never read.
    AccessTokenLookalike,
    FromAppid,
    Appid,
    Secret,
    AppSecret,
    ForeignToken,
}

// === impl Drop ===

impl Drop {
    fn takes(self, pair: &str) -> bool {
        match known(name_and_value(pair).0) {
            Some(Known::AccessToken | Known::AccessTokenLookalike) => self.access_token,
            Some(Known::FromAppid) => self.from_appid,
            Some(Known::Appid) => self.appid,
            Some(Known::Secret | Known::AppSecret) => self.secret,
            Some(Known::ForeignToken) | None => false,
        }
    }
}

/// Reads the parameters of `query` (without its `?`).
pub fn parameters(query: &str) -> Parameters<'_> {
    let mut found = Parameters::default();
    for pair in pairs(query) {
        let (name, value) = name_and_value(pair);
        let known = known(name);
        found.has_droppable |= known.is_some_and(|known| known != Known::ForeignToken);
        let slot = match known {
            Some(Known::AccessToken) => &mut found.access_token,
            Some(Known::FromAppid) => &mut found.from_appid,
            Some(Known::Appid) => &mut found.appid,
            Some(Known::Secret) => &mut found.secret,
            Some(Known::ForeignToken) => &mut found.foreign_token,
            Some(Known::AppSecret | Known::AccessTokenLookalike) | None => continue,
        };
        slot.get_or_insert(value);
    }
    found
}

/// Appends `query` to `to` without the parameters that `drop` names, then each of `add` as `name=value`.
///
/// Values of `add` go out as they are: the caller has checked that they need no encoding. Nothing, not even a `?`,
/// is written when nothing is left.
pub fn rewrite(query: Option<&str>, drop: Drop, add: &[(&str, &str)], to: &mut impl BufMut) {
    let mut separator = b'?';
    let mut put = |parts: &[&str]| {
        to.put_u8(std::mem::replace(&mut separator, b'&'));
        for part in parts {
            to.put_slice(part.as_bytes());
        }
    };
    match query.unwrap_or_default() {
        "" => {}
        query if drop == Drop::default() => put(&[query]),
        query => pairs(query).filter(|pair| !drop.takes(pair)).for_each(|pair| put(&[pair])),
    }
    for (name, value) in add {
        put(&[name, "=", value]);
    }
}

/// A raw value with its percent escapes and `+` undone; `None` where that is not UTF-8.
pub fn decode(raw: &str) -> Option<String> {
    let spaced = raw.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

/// The parts between ampersands. (`str::split` takes four times as long over parts this short.)
fn pairs(query: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(query);
    std::iter::from_fn(move || {
        let text = rest?;
        let end = text.bytes().position(|byte| byte == b'&');
        let (pair, after) = match end {
            Some(end) => (text.get(..end)?, text.get(end + 1..)),
            None => (text, None),
        };
        rest = after;
        Some(pair)
    })
}

fn name_and_value(pair: &str) -> (&str, &str) {
    let end = pair.bytes().position(|byte| byte == b'=').unwrap_or(pair.len());
    (pair.get(..end).unwrap_or(pair), pair.get(end + 1..).unwrap_or_default())
}

fn known(name: &str) -> Option<Known> {
    // The shortest known name has five characters, escaped ones more.
    if name.len() < 5 {
        return None;
    }
    if name.bytes().any(|byte| matches!(byte, b'%' | b'+') || !byte.is_ascii_graphic()) {
        let spaced = name.replace('+', " ");
        let decoded = percent_decode_str(&spaced).decode_utf8_lossy();
        return known_decoded(decoded.trim_matches(|c: char| c.is_whitespace() || c == '\0'));
    }
    known_decoded(name)
}

fn known_decoded(name: &str) -> Option<Known> {
    match name {
        "access_token" => Some(Known::AccessToken),
        "from_appid" => Some(Known::FromAppid),
        "appid" => Some(Known::Appid),
        "secret" => Some(Known::Secret),
        "appsecret" => Some(Known::AppSecret),
        "component_access_token"
        | "cloudbase_access_token"
        | "suite_access_token"
        | "provider_access_token" => Some(Known::ForeignToken),
        _ => is_lookalike(name).then_some(Known::AccessTokenLookalike),
    }
}

/// `ACCESS_TOKEN`, `access_token[]`.
fn is_lookalike(name: &str) -> bool {
    const TOKEN: &str = "access_token";
    let stem = name.get(..TOKEN.len()).is_some_and(|stem| stem.eq_ignore_ascii_case(TOKEN));
    stem && matches!(name.as_bytes().get(TOKEN.len()), None | Some(b'['))
}

#[cfg(test)]
mod tests;
