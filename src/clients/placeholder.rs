//! The stand-in for an access token that an SDK's own token call gets.
//!
//! It names client, account and expiry and is signed, so any replica can check one and none keeps state:
//!
//! ```text
//! wgt_ base64url( version 1 · expiry, 8 bytes, big endian · length of client · client · account · HMAC, 32 bytes )
//! ```
//!
//! The HMAC (SHA-256) covers all before it and the client's key digest (for a client without a key: a digest of what
//! its certificate must say): removing a client, or changing its key, kills its placeholders. The signing key is weigate's own; who reads `proxy.toml` can forge nothing.
//!
//! # Why this shape
//!
//! SDKs keep a placeholder as they would keep a token, so it must look like one: longer than 32 characters (Senparc
//! takes shorter ones for an AppID, peers.md finding 4), at most 512 (WeChat's own promise), URL-safe. With names of
//! 64 characters each it has 4 + 227 = 231.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::config::PlaceholderKey;
use crate::types::{AccountName, ClientName, UnixSeconds};

/// How long a placeholder is good for: what SDKs are told (7200 s) and the five minutes in which WeChat, too, keeps
/// accepting the token before (wechat.md §1).
pub const PLACEHOLDER_LIVES: Duration = Duration::from_mins(2 * 60 + 5);

const PREFIX: &str = "wgt_";
const VERSION: u8 = 1;
const HMAC_BYTES: usize = 32;

/// Signs placeholders and checks their signatures. Clones are the same signer.
#[derive(Clone)]
pub struct Signer(Arc<ArcSwap<Hmac<Sha256>>>);

/// A text that has the form of a placeholder; nothing in it is to be believed before [`Placeholder::verify`].
#[derive(Debug)]
pub struct Placeholder {
    client: ClientName,
    account: AccountName,
    expires_at: UnixSeconds,
    signed: Vec<u8>,
    signature: [u8; HMAC_BYTES],
}

/// Why a text is no placeholder, or not one that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlaceholderError {
    /// It does not have the form of one.
    #[error("not a placeholder")]
    NotOne,
    /// It was not made by us for a client that is still there with the same key.
    #[error("the placeholder was not made here, or its client or key is gone")]
    Forged,
    /// Its time is over.
    #[error("the placeholder has expired; ask for a new one with the SDK's own token call")]
    Expired,
}

// === impl Signer ===

impl Signer {
    /// A signer with this key.
    pub fn new(key: &PlaceholderKey) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(keyed(key))))
    }

    /// Signs with another key from now on; what was signed with the one before does not count any more.
    pub fn change_key(&self, key: &PlaceholderKey) {
        self.0.store(Arc::new(keyed(key)));
    }

    /// The text of a placeholder.
    pub fn sign(
        &self,
        client: &ClientName,
        account: &AccountName,
        credential: &[u8; 32],
        expires_at: UnixSeconds,
    ) -> String {
        let client = client.as_str().as_bytes();
        let account = account.as_str().as_bytes();
        let mut bytes = Vec::with_capacity(10 + client.len() + account.len() + HMAC_BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(&expires_at.0.to_be_bytes());
        // A name has at most 64 bytes.
        bytes.push(u8::try_from(client.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(client);
        bytes.extend_from_slice(account);
        let signature = self.mac(&bytes, credential).finalize().into_bytes();
        bytes.extend_from_slice(&signature);
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&bytes))
    }

    fn mac(&self, signed: &[u8], credential: &[u8; 32]) -> Hmac<Sha256> {
        let mut mac = Hmac::clone(&self.0.load());
        mac.update(credential);
        mac.update(signed);
        mac
    }
}

fn keyed(key: &PlaceholderKey) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    Hmac::new_from_slice(key.0.as_slice()).expect("any key is long enough")
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

// === impl Placeholder ===

impl Placeholder {
    /// Whether `text` starts as a placeholder does.
    pub fn is_one(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// Takes a placeholder apart.
    pub fn parse(text: &str) -> Result<Self, PlaceholderError> {
        Self::take_apart(text).ok_or(PlaceholderError::NotOne)
    }

    fn take_apart(text: &str) -> Option<Self> {
        let encoded = text.strip_prefix(PREFIX).filter(|encoded| encoded.len() <= 512)?;
        let mut signed = URL_SAFE_NO_PAD.decode(encoded).ok()?;
        let signature = signed.split_off(signed.len().checked_sub(HMAC_BYTES)?);
        let (version, rest) = signed.split_first()?;
        let (expires_at, rest) = rest.split_first_chunk::<8>()?;
        let (client_bytes, rest) = rest.split_first()?;
        let (client, account) = rest.split_at_checked(usize::from(*client_bytes))?;
        if *version != VERSION {
            return None;
        }
        Some(Self {
            client: ClientName::parse(std::str::from_utf8(client).ok()?).ok()?,
            account: AccountName::parse(std::str::from_utf8(account).ok()?).ok()?,
            expires_at: UnixSeconds(u64::from_be_bytes(*expires_at)),
            signature: signature.try_into().ok()?,
            signed,
        })
    }

    /// The client it names.
    pub fn client(&self) -> &ClientName {
        &self.client
    }

    /// The account it names and when it expires, once signature (in constant time) and expiry have been checked.
    pub fn verify(
        self,
        signer: &Signer,
        credential: &[u8; 32],
        now: UnixSeconds,
    ) -> Result<(AccountName, UnixSeconds), PlaceholderError> {
        let mac = signer.mac(&self.signed, credential);
        mac.verify_slice(&self.signature).map_err(|_| PlaceholderError::Forged)?;
        if now >= self.expires_at {
            return Err(PlaceholderError::Expired);
        }
        Ok((self.account, self.expires_at))
    }
}
