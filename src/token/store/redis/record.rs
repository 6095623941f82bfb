//! What stands in Redis, byte for byte, and under which keys.
//!
//! ```text
//! PREFIX:{wx:APPID}:ACCOUNT:token   weigate-token 1 FENCE sealed( JSON )    until the token's end
//! PREFIX:{wx:APPID}:ACCOUNT:lock    FENCE                                   15 s at most
//! PREFIX:blob:NAME                  weigate-blob 1 sealed( bytes )
//! PREFIX:marker                     1; gone when everything is
//! PREFIX:news                       the channel: "APPID ACCOUNT" when something has changed there
//! ```
//!
//! An account's keys share a hash tag, so a cluster keeps them on one node and a script may touch both. All times are
//! Redis's own: weigates whose clocks differ by minutes agree on a token's end.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::super::seal::Seal;
use super::super::{StoreError, Stored};
use crate::types::{AccessToken, AccountName, AppId, UnixSeconds};

/// The names of one prefix.
#[derive(Debug, Clone)]
pub(super) struct Names(String);

/// A moment by both clocks: Redis's in milliseconds, and ours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) redis_ms: u64,
    pub(super) ours: UnixSeconds,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload<'a> {
    access_token: &'a str,
    obtained_ms: u64,
    expires_ms: u64,
}

pub(super) const TOKEN_HEAD: &str = "weigate-token 1 ";
const BLOB_HEAD: &str = "weigate-blob 1 ";

/// A fence further ahead of Redis's clock than this was not made by us; the scripts say the same.
const FENCE_AHEAD_MAX_US: u64 = 86_400_000_000;

// === impl Names ===

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Self(prefix.to_owned())
    }

    pub(super) fn token(&self, account: &AccountName, app_id: &AppId) -> String {
        format!("{}:{{wx:{app_id}}}:{account}:token", self.0)
    }

    pub(super) fn lock(&self, account: &AccountName, app_id: &AppId) -> String {
        format!("{}:{{wx:{app_id}}}:{account}:lock", self.0)
    }

    pub(super) fn blob(&self, name: &str) -> String {
        format!("{}:blob:{name}", self.0)
    }

    pub(super) fn marker(&self) -> String {
        format!("{}:marker", self.0)
    }

    pub(super) fn channel(&self) -> String {
        format!("{}:news", self.0)
    }
}

/// Whether a fence can have been made by us.
pub(super) fn is_plausible(fence: u64, now: Moment) -> bool {
    fence <= now.redis_ms.saturating_mul(1000).saturating_add(FENCE_AHEAD_MAX_US)
}

/// The fence that a claim would have had when this token was fetched.
pub(super) fn fence_by_time(stored: &Stored, now: Moment) -> u64 {
    let age = now.ours.since(stored.obtained_at).as_secs();
    now.redis_ms.saturating_sub(age.saturating_mul(1000)).saturating_mul(1000)
}

/// What is said on the channel about one account.
pub(super) fn message(account: &AccountName, app_id: &AppId) -> String {
    format!("{app_id} {account}")
}

/// Whom a message is about.
pub(super) fn read_message(text: &[u8]) -> Option<(AccountName, &str)> {
    let (app_id, account) = std::str::from_utf8(text).ok()?.split_once(' ')?;
    Some((AccountName::parse(account).ok()?, app_id))
}

/// A token's value, and its end in Redis's milliseconds.
pub(super) fn write_token(
    seal: &Seal,
    account: &AccountName,
    app_id: &AppId,
    stored: &Stored,
    now: Moment,
) -> Result<(Vec<u8>, u64), StoreError> {
    let left_ms = stored.expires_at.since(now.ours).as_secs() * 1000;
    let age_ms = now.ours.since(stored.obtained_at).as_secs() * 1000;
    let payload = Payload {
        access_token: stored.access_token.expose(),
        obtained_ms: now.redis_ms.saturating_sub(age_ms),
        expires_ms: now.redis_ms + left_ms,
    };
    let json = Zeroizing::new(serde_json::to_vec(&payload).map_err(|_| StoreError::Blob)?);
    let sealed = seal.seal(&purpose(account, app_id, stored.fence), &json).ok_or(StoreError::Random)?;
    let mut value = format!("{TOKEN_HEAD}{} ", stored.fence).into_bytes();
    value.extend_from_slice(&sealed);
    Ok((value, payload.expires_ms))
}

/// What stands in a token's value; `None` for what we have not written so, whole, for this account.
pub(super) fn read_token(
    seal: &Seal,
    account: &AccountName,
    app_id: &AppId,
    value: &[u8],
    now: Moment,
) -> Option<Stored> {
    let (fence, sealed) = split_fence(value)?;
    if fence == 0 || fence > now.redis_ms.saturating_mul(1000).saturating_add(FENCE_AHEAD_MAX_US) {
        return None;
    }
    let json = seal.open(&purpose(account, app_id, fence), sealed)?;
    let payload: Payload<'_> = serde_json::from_slice(&json).ok()?;
    let span =
        |from_ms: u64, to_ms: u64| std::time::Duration::from_secs(to_ms.saturating_sub(from_ms) / 1000);
    Some(Stored {
        access_token: AccessToken::parse(payload.access_token).ok()?,
        obtained_at: UnixSeconds(
            now.ours.0.saturating_sub(span(payload.obtained_ms, now.redis_ms).as_secs()),
        ),
        expires_at: now.ours.plus(span(now.redis_ms, payload.expires_ms)),
        fence,
    })
}

/// The fence that a value claims to have; 0 where it is not one of ours.
pub(super) fn fence_of(value: &[u8]) -> u64 {
    split_fence(value).map_or(0, |(fence, _)| fence)
}

fn split_fence(value: &[u8]) -> Option<(u64, &[u8])> {
    let rest = value.strip_prefix(TOKEN_HEAD.as_bytes())?;
    let end = rest.iter().position(|byte| *byte == b' ')?;
    let (digits, sealed) = rest.split_at_checked(end)?;
    let fence = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some((fence, sealed.get(1..)?))
}

/// What a sealed token is bound to.
fn purpose(account: &AccountName, app_id: &AppId, fence: u64) -> String {
    format!("weigate token {account} {app_id} {fence}")
}

/// A blob's value.
pub(super) fn write_blob(seal: &Seal, name: &str, bytes: &[u8]) -> Result<Vec<u8>, StoreError> {
    let sealed = seal.seal(&format!("weigate blob {name}"), bytes).ok_or(StoreError::Random)?;
    Ok([BLOB_HEAD.as_bytes(), &sealed].concat())
}

/// What stands in a blob's value, if we have written it.
pub(super) fn read_blob(seal: &Seal, name: &str, value: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    seal.open(&format!("weigate blob {name}"), value.strip_prefix(BLOB_HEAD.as_bytes())?)
}
