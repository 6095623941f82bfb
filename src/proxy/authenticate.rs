//! From a request's head to the client that sent it.
//!
//! A credential is looked for in one place after another, and the first one present decides:
//!
//! 1. `Authorization: Bearer KEY`, or `Basic` with the key as password (what `http://name:KEY@host` becomes);
//! 2. `access_token=` in the query: a placeholder or the key itself. Not on `/sns/…`, where it is the user's;
//! 3. `secret=` in the query, on the calls where SDKs send the AppSecret, which for them is the client key.
//!
//! Where no clients are configured, every caller is `anonymous` and a credential is only read for the account that a
//! placeholder names.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::refusal::Refusal;
use super::route::Target;
use crate::clients::{Client, Clients, Placeholder, PlaceholderError};
use crate::types::{AccountName, UnixSeconds};
use crate::wechat::paths::Need;
use crate::wechat::query;

/// Who sent a request.
#[derive(Debug)]
pub(super) struct Caller<'a> {
    pub(super) client: &'a Arc<Client>,
    /// The account, where the credential was a placeholder.
    pub(super) account: Option<AccountName>,
    /// Whether the credential came as `access_token`, which then never leaves.
    pub(super) is_by_access_token: bool,
}

/// Finds the client.
pub(super) fn authenticate<'a>(
    clients: &'a Clients,
    headers: &HeaderMap,
    target: &Target<'_>,
) -> Result<Caller<'a>, Refusal> {
    let token = match target.judged.need {
        // There, `access_token` belongs to the user or to another application.
        Need::UserToken | Need::Untouched => None,
        Need::Token | Need::TokenCall(_) | Need::Secret | Need::AppId | Need::AppSecret => {
            target.parameters.access_token
        }
    };
    if let Some(client) = clients.anonymous() {
        // A placeholder that is not good any more is no credential, only a hint that went stale.
        let account = token.and_then(|token| clients.by_placeholder(token, UnixSeconds::now()).ok());
        let is_by_access_token = false;
        return Ok(Caller { client, account: account.map(|(_, account)| account), is_by_access_token });
    }
    if let Some(header) = headers.get(AUTHORIZATION) {
        let client = header.to_str().ok().and_then(|text| by_authorization(clients, text));
        let client = client.ok_or(Refusal::Unauthenticated("the key in Authorization is not known"))?;
        let account = token.and_then(|token| account_of_same(clients, client, token));
        return Ok(Caller { client, account, is_by_access_token: false });
    }
    if let Some(token) = token {
        return by_access_token(clients, token);
    }
    if target.judged.need == Need::Secret
        && let Some(client) =
            target.parameters.secret.and_then(query::decode).and_then(|key| by_key(clients, &key))
    {
        return Ok(Caller { client, account: None, is_by_access_token: false });
    }
    Err(Refusal::Unauthenticated(
        "no client key: send Authorization: Bearer KEY, or access_token= with a key or a placeholder",
    ))
}

fn by_key<'a>(clients: &'a Clients, key: &str) -> Option<&'a Arc<Client>> {
    clients.by_key(key)
}

/// `Bearer KEY`, `Basic base64(any:KEY)`; the scheme in any case (RFC 9110 §11.1).
fn by_authorization<'a>(clients: &'a Clients, text: &str) -> Option<&'a Arc<Client>> {
    let (scheme, rest) = text.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        // A placeholder is a credential wherever an SDK puts it.
        if Placeholder::is_one(rest) {
            return clients.by_placeholder(rest, UnixSeconds::now()).ok().map(|(client, _)| client);
        }
        return clients.by_key(rest);
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let decoded = zeroize::Zeroizing::new(STANDARD.decode(rest).ok()?);
        let (_, key) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        return clients.by_key(key);
    }
    None
}

fn by_access_token<'a>(clients: &'a Clients, token: &str) -> Result<Caller<'a>, Refusal> {
    if Placeholder::is_one(token) {
        let found = clients.by_placeholder(token, UnixSeconds::now());
        let (client, account) = found.map_err(|error| Refusal::Unauthenticated(placeholder_line(error)))?;
        return Ok(Caller { client, account: Some(account), is_by_access_token: true });
    }
    let client = clients.by_key(token).or_else(|| query::decode(token).and_then(|key| by_key(clients, &key)));
    let client = client.ok_or(Refusal::Unauthenticated("access_token= is not a known key or placeholder"))?;
    Ok(Caller { client, account: None, is_by_access_token: true })
}

/// The account of a placeholder that came beside a key, if it is the same client's.
fn account_of_same(clients: &Clients, client: &Arc<Client>, token: &str) -> Option<AccountName> {
    let (found, account) = clients.by_placeholder(token, UnixSeconds::now()).ok()?;
    Arc::ptr_eq(found, client).then_some(account)
}

fn placeholder_line(error: PlaceholderError) -> &'static str {
    match error {
        PlaceholderError::Expired => "the placeholder has expired: let the SDK ask for its token again",
        PlaceholderError::NotOne | PlaceholderError::Forged => {
            "the placeholder is not one of ours, or its client or key is gone"
        }
    }
}
