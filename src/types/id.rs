//! Identifiers: what names an account, a client, a request, a token's turn.

use std::fmt;
use std::sync::Arc;

/// Why a text cannot name an account or a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a name has 1 to 64 characters, letters, digits, `-`, `_` and `.`, and starts with a letter or a digit"
)]
pub struct NameError;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes a name of 1 to 64 characters: letters, digits, `-`, `_`, `.`; the first a letter or a digit.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
                let starts_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
                if starts_well && text.len() <= 64 && text.bytes().all(plain) {
                    Ok(Self(text.into()))
                } else {
                    Err(NameError)
                }
            }

            /// The name's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// The name of an account, as the operator chose it.
    AccountName
}

name! {
    /// The name of a client, as the operator chose it.
    ClientName
}

/// The AppID of a WeChat application (or a WeCom corpid). Not a secret.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppId(Arc<str>);

/// The serial number of an account's token, counted up by its keeper from 1.
///
/// "Renew, if you still hold generation 7" can be asked any number of times; "renew" cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// Names one request in logs, in refusals (`rid`) and in the header `x-weigate-request-id`: 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(pub u64);

// === impl AppId ===

impl AppId {
    /// Takes an AppID of 1 to 64 letters, digits, `-` and `_`.
    ///
    /// WeChat's start with `wx`, WeCom's with `ww` or `wp`; that is not checked, since neither promises it.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (!text.is_empty() && text.len() <= 64 && text.bytes().all(plain)).then(|| Self(text.into()))
    }

    /// The AppID's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Generation ===

impl Generation {
    /// The generation before the first token.
    pub const NONE: Self = Self(0);

    /// The one that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl RequestId ===

impl RequestId {
    /// The 16 digits, without an allocation.
    pub fn digits(self) -> [u8; 16] {
        let mut digits = [0; 16];
        let mut rest = self.0;
        for digit in digits.iter_mut().rev() {
            let nibble = u8::try_from(rest & 0xf).unwrap_or(0);
            *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
            rest >>= 4;
        }
        digits
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
