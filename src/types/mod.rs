//! Plain values: no tokio, no files, no sockets.
//!
//! Every identifier and every secret of the crate has a type here, so that an account's name cannot be passed
//! where a client's name belongs and a secret cannot be printed by accident.

mod grant;
mod id;
mod secret;
mod time;

pub use grant::{GrantKind, Platform};
pub use id::{AccountName, AppId, ClientName, Generation, NameError, RequestId};
pub use secret::{AccessToken, AppSecret, ClientKey, Fingerprint, TokenDigest, TokenTextError};
pub use time::UnixSeconds;
