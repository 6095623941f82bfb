//! Secrets: masked when printed, never serialised, wiped when dropped.
//!
//! The one way to the text is `expose()`; a test counts the places that call it. `Debug` prints the type's name
//! and a [`Fingerprint`], so that a log can say "the same token" without saying which.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// Six hexadecimal digits of a secret's SHA-256: enough to tell two secrets apart in a log, useless to anyone else.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 3]);

/// The secret of a WeChat application (AppSecret, or a WeCom corpsecret).
#[derive(Clone)]
pub struct AppSecret(Zeroizing<Box<str>>);

/// WeChat's `access_token`: 1 to [`AccessToken::LENGTH_MAX`] characters that need no escaping in a query.
///
/// A clone is a copy, which is wiped like the first: whoever reads the text finds it one step away, and whoever shares a
/// token shares what it is part of.
#[derive(Clone)]
pub struct AccessToken(Zeroizing<Box<str>>);

/// Half of the SHA-256 of an access token: tells whether another one is the same, and cannot be used as one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenDigest([u8; 16]);

/// A client's key to weigate, as made by `weigate key`.
#[derive(Clone)]
pub struct ClientKey(Zeroizing<String>);

/// Why a text is not an access token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenTextError {
    /// The text is empty.
    #[error("the token is empty")]
    Empty,
    /// The text is longer than [`AccessToken::LENGTH_MAX`].
    #[error("the token is longer than {} characters", AccessToken::LENGTH_MAX)]
    TooLong,
    /// A character other than letters, digits, `-`, `_`, `.` and `~`.
    #[error("the token holds a character that has no place in one")]
    Character,
}

/// Takes as long whatever the texts are, if their lengths are the same.
fn is_same(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

// === impl Fingerprint ===

impl Fingerprint {
    /// The fingerprint of `secret`.
    pub fn of(secret: &str) -> Self {
        let digest = Sha256::digest(secret.as_bytes());
        let mut first = [0; 3];
        first.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        Self(first)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c] = self.0;
        write!(f, "#{a:02x}{b:02x}{c:02x}")
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl AppSecret ===

impl AppSecret {
    /// Takes the text of a secret, as read from a file or from the environment.
    pub fn new(text: String) -> Self {
        let text = Zeroizing::new(text);
        Self(Zeroizing::new(text.as_str().into()))
    }

    /// The text. Only what sends it to WeChat may call this.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether both are the same secret.
    pub fn is_same(&self, other: &Self) -> bool {
        is_same(&self.0, &other.0)
    }

    /// The fingerprint of the secret.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.0)
    }
}

impl fmt::Debug for AppSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AppSecret({})", self.fingerprint())
    }
}

// === impl AccessToken ===

impl AccessToken {
    /// WeChat asks for room for "at least 512 characters" (wechat AccessToken.html, read 2026-11-22); we leave twice that.
    pub const LENGTH_MAX: usize = 1024;

    /// Takes a token as WeChat sent it, if it could be one.
    pub fn parse(text: &str) -> Result<Self, TokenTextError> {
        if text.is_empty() {
            return Err(TokenTextError::Empty);
        }
        if text.len() > Self::LENGTH_MAX {
            return Err(TokenTextError::TooLong);
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
        if !text.bytes().all(plain) {
            return Err(TokenTextError::Character);
        }
        Ok(Self(Zeroizing::new(text.into())))
    }

    /// The text. Only what puts it into a request or a store may call this.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The digest of the token.
    pub fn digest(&self) -> TokenDigest {
        let mut half = [0; 16];
        half.iter_mut().zip(Sha256::digest(self.0.as_bytes())).for_each(|(to, from)| *to = from);
        TokenDigest(half)
    }

    /// The fingerprint of the token.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.0)
    }

    /// Whether both are the same token.
    pub fn is_same(&self, other: &Self) -> bool {
        is_same(&self.0, &other.0)
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessToken({})", self.fingerprint())
    }
}

// === impl TokenDigest ===

impl TokenDigest {
    /// The fingerprint of the token.
    pub fn fingerprint(&self) -> Fingerprint {
        let [a, b, c, ..] = self.0;
        Fingerprint([a, b, c])
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenDigest({})", self.fingerprint())
    }
}

// === impl ClientKey ===

impl ClientKey {
    /// Takes the text of a key.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text, for showing it once to the person who asked for it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientKey({})", Fingerprint::of(&self.0))
    }
}
