//! What stands in a token's file: a first line with a checksum, then JSON. Pure: bytes in, meaning out.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::token::store::Stored;
use crate::types::{AccessToken, AccountName, AppId, UnixSeconds};

/// A token's file, after its first line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload<'a> {
    account: &'a str,
    app_id: &'a str,
    access_token: &'a str,
    obtained_at: u64,
    expires_at: u64,
    fence: u64,
}

/// What a file turned out to be.
pub(super) enum Found {
    Token(Stored),
    /// Whole, but of another AppID: the account was given a new one.
    OtherApp,
    Bad(&'static str),
}

pub(super) const TOKEN_HEAD: &str = "weigate-token 1 ";
pub(super) const BLOB_HEAD: &str = "weigate-blob 1 ";
pub(super) const SEALED_HEAD: &str = "weigate-sealed 1 ";

/// A token's file, whole.
pub fn encode_token(
    account: &AccountName,
    app_id: &AppId,
    stored: &Stored,
) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
    let payload = payload_of(account, app_id, stored)?;
    let mut file = Zeroizing::new(head_of(TOKEN_HEAD, &payload).into_bytes());
    file.extend_from_slice(&payload);
    Ok(file)
}

/// The token in a file that [`encode_token`] made for this account and this AppID; `None` for anything else.
pub fn decode_token(file: &[u8], account: &AccountName, app_id: &AppId) -> Option<Stored> {
    match read_token(unsealed(file, TOKEN_HEAD)?, account, app_id) {
        Found::Token(stored) => Some(stored),
        Found::OtherApp | Found::Bad(_) => None,
    }
}

pub(super) fn payload_of(
    account: &AccountName,
    app_id: &AppId,
    stored: &Stored,
) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
    let payload = Payload {
        account: account.as_str(),
        app_id: app_id.as_str(),
        access_token: stored.access_token.expose(),
        obtained_at: stored.obtained_at.0,
        expires_at: stored.expires_at.0,
        fence: stored.fence,
    };
    serde_json::to_vec(&payload).map(Zeroizing::new)
}

pub(super) fn read_token(bytes: &[u8], account: &AccountName, app_id: &AppId) -> Found {
    let Ok(payload) = serde_json::from_slice::<Payload<'_>>(bytes) else {
        return Found::Bad("it is not of this version");
    };
    if payload.account != account.as_str() {
        return Found::Bad("it is another account's");
    }
    if payload.app_id != app_id.as_str() {
        return Found::OtherApp;
    }
    let Ok(access_token) = AccessToken::parse(payload.access_token) else {
        return Found::Bad("its token is not one");
    };
    Found::Token(Stored {
        access_token,
        obtained_at: UnixSeconds(payload.obtained_at),
        expires_at: UnixSeconds(payload.expires_at),
        fence: payload.fence,
    })
}

/// A file's first line.
pub(super) fn head_of(head: &str, payload: &[u8]) -> String {
    let digest = Sha256::digest(payload);
    let digits = digest.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    let mut line = head.to_owned();
    line.extend(digits.filter_map(|digit| char::from_digit(digit.into(), 16)));
    line.push('\n');
    line
}

/// What follows the first line, if that line is right for it.
pub(super) fn unsealed<'a>(bytes: &'a [u8], head: &str) -> Option<&'a [u8]> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (line, payload) = bytes.split_at_checked(end + 1)?;
    (line == head_of(head, payload).as_bytes()).then_some(payload)
}
