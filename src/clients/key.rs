//! Client keys: 256 random bits, shown once, stored as their SHA-256.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::types::ClientKey;

/// What every key starts with, so that secret scanners and people know one when they see it.
pub const KEY_PREFIX: &str = "wgk_";

/// A new key: [`KEY_PREFIX`] and 43 URL-safe characters.
pub fn generate() -> Result<ClientKey, getrandom::Error> {
    let mut random = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(random.as_mut_slice())?;
    Ok(ClientKey::new(format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(random.as_slice()))))
}

/// [`digest`] in hexadecimal: what `key_sha256` in the configuration holds.
pub fn digest_text(key: &str) -> String {
    digest(key).iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _written = write!(text, "{byte:02x}");
        text
    })
}

/// SHA-256 of a key's text.
///
/// A plain hash is enough: the key is 256 random bits, which no one guesses at any speed.
pub fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}
