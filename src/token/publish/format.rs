//! What stands under whose key, byte for byte.
//!
//! ```text
//! wxjava-mp, wxjava-miniapp   TOKEN                          read after a TTL, which must be there and 2 s or more
//! silenceper…                 TOKEN
//! powerwechat                 {"access_token":"TOKEN","expires_in":7200}
//! wechatpy                    "TOKEN"                        and no KEY_expires_at beside it
//! a template                  TOKEN
//! ```
//!
//! The keys are in `config/publish.rs`, with where they stand in the sources of these SDKs; values and readers:
//! `WxJava`'s `isAccessTokenExpired` is `ttl < 2` (`WxMpRedisConfigImpl.java`, `JedisWxRedisOps.java`,
//! `RedisTemplateWxRedisOps.java`); silenceper's `cache/redis.go` is a plain GET since v2.1; `PowerWeChat` reads JSON
//! (`PowerLibs` `cache/redis.go`) and looks at `access_token` and `expires_in`, a number (`src/kernel/accessToken.go`);
//! wechatpy reads JSON (`wechatpy/session/redisstorage.py`) and uses a token as it is where it knows of no end
//! (`wechatpy/client/base.py`), which newer ones keep under a key of its own. All read 2026-11-23.
//!
//! # Why `expires_in` stands still
//!
//! `PowerWeChat` reads it and does nothing with it. One that counted down would make every look at the key a write.

use md5::{Digest as _, Md5};
use zeroize::Zeroizing;

use crate::config::{Account, PublishFormat};
use crate::types::{AccessToken, AppId, AppSecret};

/// One key, and what becomes of it.
pub(super) struct Target {
    /// Not for logs: one kind holds a digest of the AppSecret.
    pub(super) key: Zeroizing<String>,
    /// The key as people may read it.
    pub(super) shown: String,
    /// A key that must not be there beside it.
    pub(super) unwanted: Option<String>,
    encoding: Encoding,
}

#[derive(Debug, Clone, Copy)]
enum Encoding {
    Plain,
    JsonText,
    JsonObject,
}

// === impl Target ===

impl Target {
    /// The keys of one account, in the order of its list.
    pub(super) fn all_of(account: &Account) -> Vec<Self> {
        let of = |format: &PublishFormat| {
            let shown = format.shown_keys(&account.name, &account.app_id);
            let format = format.clone();
            shown.into_iter().map(move |shown| Self::new(&format, shown, account)).collect::<Vec<_>>()
        };
        account.publish.iter().flat_map(of).collect()
    }

    fn new(format: &PublishFormat, shown: String, account: &Account) -> Self {
        let (encoding, key, unwanted) = match format {
            PublishFormat::Powerwechat => {
                (Encoding::JsonObject, powerwechat_key(&account.app_id, &account.app_secret), None)
            }
            PublishFormat::Wechatpy => {
                (Encoding::JsonText, Zeroizing::new(shown.clone()), Some(format!("{shown}_expires_at")))
            }
            PublishFormat::WxjavaMp
            | PublishFormat::WxjavaMiniapp
            | PublishFormat::Silenceper
            | PublishFormat::SilenceperMiniprogram
            | PublishFormat::SilenceperWork
            | PublishFormat::Template(_) => (Encoding::Plain, Zeroizing::new(shown.clone()), None),
        };
        Self { key, shown, unwanted, encoding }
    }

    /// What is to stand there. A token needs no escaping, in JSON neither.
    pub(super) fn value(&self, token: &AccessToken) -> Zeroizing<String> {
        let token = token.expose();
        Zeroizing::new(match self.encoding {
            Encoding::Plain => token.to_owned(),
            Encoding::JsonText => format!("\"{token}\""),
            Encoding::JsonObject => format!("{{\"access_token\":\"{token}\",\"expires_in\":7200}}"),
        })
    }

    /// A pattern of Lua's for values that some token could have made; everything else is damage.
    pub(super) fn pattern(&self) -> &'static str {
        match self.encoding {
            Encoding::Plain => "^[%w._~-]+$",
            Encoding::JsonText => "^\"[%w._~-]+\"$",
            Encoding::JsonObject => "^{.*\"access_token\": *\"[%w._~-]+\".*}$",
        }
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Target({})", self.shown)
    }
}

/// Whoever reads that key, or its name in a log, can try AppSecrets against it.
fn powerwechat_key(app_id: &AppId, secret: &AppSecret) -> Zeroizing<String> {
    let digest = Md5::new().chain_update(app_id.as_str()).chain_update(secret.expose()).finalize();
    let digits = digest.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    let digits = digits.filter_map(|digit| char::from_digit(digit.into(), 16));
    Zeroizing::new("powerwechat.access_token.".chars().chain(digits).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example in `PowerWeChat`'s own remark on `GetCacheKey` is that of `echo`, with a line end which the code below
    /// it does not hash.
    #[test]
    fn powerwechats_key_is_the_one_of_its_own_code() {
        let key = |secret: &str| {
            powerwechat_key(&AppId::parse("testappid").unwrap(), &AppSecret::new(secret.to_owned()))
        };
        assert_eq!(*key("testsecret\n"), "powerwechat.access_token.edc5f6181730baffc0b88cf96658aeff");
        assert_eq!(*key("testsecret"), "powerwechat.access_token.4ed6a2e3bfccdf98beb48489b94cf486");
    }
}
