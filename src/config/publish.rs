//! Under which keys tokens are published, as checked values: the keys of other SDKs, byte for byte.
//!
//! | format | whose key, and where that stands in its source |
//! |---|---|
//! | `wxjava-mp` | `weixin-java-mp/…/config/impl/WxMpRedisConfigImpl.java`, with its default prefix `wx` |
//! | `wxjava-miniapp` | `weixin-java-miniapp/…/config/impl/WxMaRedisBetterConfigImpl.java`, default prefix `wa` |
//! | `silenceper…` | github.com/silenceper/wechat `credential/default_access_token.go` |
//! | `powerwechat` | github.com/ArtisanCloud/PowerWeChat `src/kernel/accessToken.go`, `src/*/auth/accessToken.go` |
//! | `wechatpy` | github.com/wechatpy/wechatpy `wechatpy/session/redisstorage.py`, `client/base.py`, default prefix |
//!
//! All of them read 2026-11-23. What is written there, and how long it lives, is `token/publish/format.rs`'s.

use crate::types::{AccountName, AppId, Platform};

/// Whose key, and so what stands under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishFormat {
    /// `WxJava` for 公众号 (Jedis, `RedisTemplate`).
    WxjavaMp,
    /// `WxJava` for 小程序 (Jedis, `RedisTemplate`).
    WxjavaMiniapp,
    /// silenceper/wechat v2 for 公众号: the key of its plain tokens and that of its stable ones.
    Silenceper,
    /// silenceper/wechat v2 for 小程序: both keys.
    SilenceperMiniprogram,
    /// silenceper/wechat v2 for 企业微信, without an agent in the key.
    SilenceperWork,
    /// `PowerWeChat` for 公众号 and 小程序; v3 for 企业微信 too.
    Powerwechat,
    /// wechatpy's `RedisStorage`.
    Wechatpy,
    /// A key of the operator's own, with the plain token.
    Template(KeyTemplate),
}

/// A key with `{app_id}`, `{name}` or both in it: 1 to 200 printable characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyTemplate(String);

const APP_ID: &str = "{app_id}";
const NAME: &str = "{name}";

/// Long enough for every key that was ever seen.
const TEMPLATE_BYTES_MAX: usize = 200;

// === impl PublishFormat ===

impl PublishFormat {
    /// Those that have a word, in the order in which messages name them.
    pub const WORDS: [(&'static str, Self); 7] = [
        ("wxjava-mp", Self::WxjavaMp),
        ("wxjava-miniapp", Self::WxjavaMiniapp),
        ("silenceper", Self::Silenceper),
        ("silenceper-miniprogram", Self::SilenceperMiniprogram),
        ("silenceper-work", Self::SilenceperWork),
        ("powerwechat", Self::Powerwechat),
        ("wechatpy", Self::Wechatpy),
    ];

    /// What `publish` in `proxy.toml` calls it; the template itself, where it is one.
    pub fn word(&self) -> &str {
        if let Self::Template(KeyTemplate(text)) = self {
            return text;
        }
        Self::WORDS.iter().find(|(_, format)| format == self).map_or("", |(word, _)| word)
    }

    /// The platform whose tokens its readers use; `None`: any.
    pub fn platform(&self) -> Option<Platform> {
        match self {
            Self::WxjavaMp
            | Self::WxjavaMiniapp
            | Self::Silenceper
            | Self::SilenceperMiniprogram
            | Self::Wechatpy => Some(Platform::Weixin),
            Self::SilenceperWork => Some(Platform::Wecom),
            Self::Powerwechat | Self::Template(_) => None,
        }
    }

    /// The keys of one account, for people to read: `PowerWeChat`'s is made from the AppSecret, and what stands here
    /// instead says so. Two that are the same here are the same key.
    pub fn shown_keys(&self, name: &AccountName, app_id: &AppId) -> Vec<String> {
        match self {
            Self::WxjavaMp => vec![format!("wx:access_token:{app_id}")],
            Self::WxjavaMiniapp => vec![format!("wa:access_token:{app_id}")],
            Self::Silenceper => vec![
                format!("gowechat_officialaccount__access_token_{app_id}"),
                format!("gowechat_officialaccount__stable_access_token_{app_id}"),
            ],
            Self::SilenceperMiniprogram => vec![
                format!("gowechat_miniprogram__access_token_{app_id}"),
                format!("gowechat_miniprogram__stable_access_token_{app_id}"),
            ],
            Self::SilenceperWork => vec![format!("gowechat_work__access_token_{app_id}")],
            Self::Powerwechat => {
                vec![format!("powerwechat.access_token.MD5({app_id} and the secret of {name})")]
            }
            Self::Wechatpy => vec![format!("wechatpy:{app_id}_access_token")],
            Self::Template(KeyTemplate(text)) => {
                vec![text.replace(APP_ID, app_id.as_str()).replace(NAME, name.as_str())]
            }
        }
    }
}

// === impl KeyTemplate ===

impl KeyTemplate {
    /// Takes a template; what is wrong with it is said without a byte of it.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let rest = text.replace(APP_ID, "").replace(NAME, "");
        if rest.contains(['{', '}']) {
            return Err("has something in braces that is neither {app_id} nor {name}");
        }
        if rest.len() == text.len() {
            return Err("has neither {app_id} nor {name} in it, which tell accounts apart");
        }
        if text.len() > TEMPLATE_BYTES_MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("is longer than 200 characters, or has blanks or letters that are not ASCII");
        }
        Ok(Self(text.to_owned()))
    }
}
