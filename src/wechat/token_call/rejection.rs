//! What WeChat's no to a token call means, how soon to ask again, and what a person can do about it.
//!
//! # Why a table of its own
//!
//! An errcode means different things on different calls: 40001 is "token invalid" on an API call, which a renewal
//! cures, and "wrong AppSecret" on a token call, which nobody but the operator cures. Codes and texts:
//! `developers.weixin.qq.com/doc/service/api/base/api_getstableaccesstoken.html` and `WxJava`'s `WxOpenErrorMsgEnum`,
//! read 2026-11-22. `WeCom` has numbers of its own (`developer.work.weixin.qq.com/document/path/90313`, and `WxJava`'s
//! `WxCpErrorMsgEnum`; the same day).

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::types::{AppSecret, Platform};
use crate::wechat::ErrCode;

/// A no from WeChat, fit to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRejection {
    /// WeChat's number for it.
    pub code: ErrCode,
    /// What the number means on a token call.
    pub kind: RejectionKind,
    /// Whose number it is.
    pub platform: Platform,
    /// The address WeChat saw the call come from, where it names one.
    pub ip: Option<IpText>,
    /// WeChat's errmsg (its `rid` included): at most 256 bytes, control characters escaped, the AppSecret struck.
    pub said: Box<str>,
}

/// An IP address that WeChat named; an IPv4 address in IPv6 clothes is shown as IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpText(IpAddr);

/// What a code means on a token call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectionKind {
    /// -1 (`WeCom` also 45033): the system is busy.
    Busy,
    /// 40001, 40125 (`WeCom`: 40001, 40091): the AppSecret is wrong or another account's.
    WrongSecret,
    /// 40013: the AppID or corpid is unknown.
    WrongAppId,
    /// 61024: the AppID is a third-party platform's; its token comes from another call.
    WrongPlatform,
    /// 40002, 41002, 41004, 43002: the call itself is wrong.
    BadCall,
    /// 40243: the AppSecret is frozen; unfreezing acts after some ten minutes.
    SecretFrozen,
    /// 50004, 50007 (`WeCom`: 50003): the account is punished or frozen, the application disabled.
    AccountPunished,
    /// 40164 (`WeCom`: 60020): the address is not on the account's allow-list.
    IpNotAllowed,
    /// 89501 to 89505: an administrator has to confirm the address first.
    AwaitingConfirmation,
    /// 89507: an administrator refused the address; it is blocked for an hour.
    IpBlockedHour,
    /// 89506: an administrator refused the address twice; it is blocked for a day.
    IpBlockedDay,
    /// 45011 (`WeCom`: 45009): too many calls this minute.
    MinuteQuota,
    /// 45009: too many calls today.
    DailyQuota,
    /// Any other code.
    Unknown,
}

/// How soon a call that was rejected may be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// It may pass by itself: soon, then less and less often.
    Backoff,
    /// Not before this long.
    After(Duration),
}

/// A person has to act; five minutes notice the cure soon enough and cost 12 calls an hour.
const SLOW: Pace = Pace::After(Duration::from_mins(5));

/// An errmsg is cut here; the house's bound for a value in a log.
const SAID_BYTES_MAX: usize = 256;

// === impl TokenRejection ===

impl TokenRejection {
    /// Of a code and what was said with it, unclean.
    pub(super) fn new(platform: Platform, code: ErrCode, errmsg: &str, secret: &AppSecret) -> Self {
        let kind = RejectionKind::of(platform, code);
        Self { code, kind, platform, ip: IpText::find(errmsg), said: clean(errmsg, secret) }
    }

    /// What a person can do about it, in a sentence or two.
    pub fn advice(&self) -> Cow<'static, str> {
        match (self.kind, self.ip) {
            (RejectionKind::IpNotAllowed, Some(ip)) if self.platform == Platform::Wecom => {
                Cow::Owned(format!(
                    "add {ip} to the application's trusted IPs (企业可信IP): work.weixin.qq.com, 应用管理, the \
                     application, 开发者接口"
                ))
            }
            (RejectionKind::IpNotAllowed, Some(ip)) => Cow::Owned(format!(
                "add {ip} to the account's IP allow-list (IP白名单): developer platform \
                 developers.weixin.qq.com/platform or mp.weixin.qq.com, development settings; it takes some minutes to act"
            )),
            (RejectionKind::AwaitingConfirmation, Some(ip)) => Cow::Owned(format!(
                "the account's administrator has to confirm {ip} in the message WeChat sent them"
            )),
            (kind, _) => Cow::Borrowed(kind.advice(self.platform)),
        }
    }
}

impl fmt::Display for TokenRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "errcode {} ({}): {}", self.code, self.kind.word(), self.said)
    }
}

// === impl RejectionKind ===

impl RejectionKind {
    /// Every kind, in the order of the table; for those who count by kind.
    pub const ALL: [Self; 14] = [
        Self::Busy,
        Self::WrongSecret,
        Self::WrongAppId,
        Self::WrongPlatform,
        Self::BadCall,
        Self::SecretFrozen,
        Self::AccountPunished,
        Self::IpNotAllowed,
        Self::AwaitingConfirmation,
        Self::IpBlockedHour,
        Self::IpBlockedDay,
        Self::MinuteQuota,
        Self::DailyQuota,
        Self::Unknown,
    ];

    /// The kind of a code that came with a token call's reply.
    pub fn of(platform: Platform, code: ErrCode) -> Self {
        match platform {
            Platform::Weixin => Self::of_weixin(code),
            Platform::Wecom => Self::of_wecom(code),
        }
    }

    /// 45009 stands for limits of a minute, an hour and a day there, and does not say which
    /// (`developer.work.weixin.qq.com/document/path/90454`): the shortest is tried first, a call a minute, far below the
    /// 2000 errors an hour that block by themselves.
    fn of_wecom(code: ErrCode) -> Self {
        match code.0 {
            -1 | 45033 => Self::Busy,
            40001 | 40091 => Self::WrongSecret,
            40013 => Self::WrongAppId,
            41002 | 41004 => Self::BadCall,
            50003 => Self::AccountPunished,
            60020 => Self::IpNotAllowed,
            45009 => Self::MinuteQuota,
            _ => Self::Unknown,
        }
    }

    fn of_weixin(code: ErrCode) -> Self {
        match code.0 {
            -1 => Self::Busy,
            40001 | 40125 => Self::WrongSecret,
            40013 => Self::WrongAppId,
            61024 => Self::WrongPlatform,
            40002 | 41002 | 41004 | 43002 => Self::BadCall,
            40243 => Self::SecretFrozen,
            50004 | 50007 => Self::AccountPunished,
            40164 => Self::IpNotAllowed,
            89501..=89505 => Self::AwaitingConfirmation,
            89506 => Self::IpBlockedDay,
            89507 => Self::IpBlockedHour,
            45011 => Self::MinuteQuota,
            45009 => Self::DailyQuota,
            _ => Self::Unknown,
        }
    }

    /// The word for it in metrics, logs and refusals.
    pub fn word(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::WrongSecret => "wrong_secret",
            Self::WrongAppId => "wrong_app_id",
            Self::WrongPlatform => "wrong_platform",
            Self::BadCall => "bad_call",
            Self::SecretFrozen => "secret_frozen",
            Self::AccountPunished => "account_punished",
            Self::IpNotAllowed => "ip_not_allowed",
            Self::AwaitingConfirmation => "awaiting_confirmation",
            Self::IpBlockedHour => "ip_blocked_hour",
            Self::IpBlockedDay => "ip_blocked_day",
            Self::MinuteQuota => "minute_quota",
            Self::DailyQuota => "daily_quota",
            Self::Unknown => "unknown_errcode",
        }
    }

    /// How soon to ask again. Hammering makes the address codes worse, and the quota codes are made by it.
    pub fn pace(self) -> Pace {
        match self {
            Self::Busy | Self::Unknown => Pace::Backoff,
            Self::WrongSecret
            | Self::WrongAppId
            | Self::WrongPlatform
            | Self::BadCall
            | Self::SecretFrozen
            | Self::AccountPunished
            | Self::IpNotAllowed
            | Self::AwaitingConfirmation => SLOW,
            Self::IpBlockedHour => Pace::After(Duration::from_hours(1)),
            Self::IpBlockedDay => Pace::After(Duration::from_hours(24)),
            Self::MinuteQuota => Pace::After(Duration::from_mins(1)),
            Self::DailyQuota => Pace::After(Duration::from_mins(30)),
        }
    }

    /// What a person can do about it.
    pub fn advice(self, platform: Platform) -> &'static str {
        match platform {
            Platform::Weixin => self.advice_for_weixin(),
            Platform::Wecom => self.advice_for_wecom(),
        }
    }

    fn advice_for_wecom(self) -> &'static str {
        match self {
            Self::Busy => "nothing to do: WeCom is busy, weigate asks again",
            Self::WrongSecret => {
                "the secret is not one of this corpid's: compare it with the Secret on the application's page \
                 (work.weixin.qq.com, 应用管理); if it was reset, give weigate the new one"
            }
            Self::WrongAppId => {
                "WeCom does not know this corpid: compare `app_id` with 企业ID at the end of 我的企业 on work.weixin.qq.com"
            }
            Self::AccountPunished => "the application is disabled: enable it at work.weixin.qq.com, 应用管理",
            Self::IpNotAllowed => {
                "add this machine's public IP to the application's trusted IPs (企业可信IP): work.weixin.qq.com, \
                 应用管理, the application, 开发者接口"
            }
            Self::BadCall => {
                "WeCom did not understand the call: see that upstream.wecom_hosts is qyapi.weixin.qq.com and nothing \
                 in between changes requests; otherwise please report it as a fault of weigate"
            }
            Self::MinuteQuota | Self::DailyQuota => {
                "too many calls of gettoken, or too many errors: find the program that fetches this corp's tokens in \
                 a loop; WeCom blocks for a minute, an hour or the rest of the day"
            }
            Self::WrongPlatform
            | Self::SecretFrozen
            | Self::AwaitingConfirmation
            | Self::IpBlockedHour
            | Self::IpBlockedDay
            | Self::Unknown => {
                "look the code up at open.work.weixin.qq.com/devtool/query, with the hint; weigate asks again"
            }
        }
    }

    fn advice_for_weixin(self) -> &'static str {
        match self {
            Self::Busy => "nothing to do: WeChat is busy, weigate asks again",
            Self::WrongSecret => {
                "the AppSecret is not this AppID's: compare it with the one on the account's development settings \
                 page (developers.weixin.qq.com/platform or mp.weixin.qq.com); if it was reset, give weigate the new one"
            }
            Self::WrongAppId => {
                "WeChat does not know this AppID: compare `app_id` with the account's settings page"
            }
            Self::WrongPlatform => {
                "this AppID is a third-party platform's (开放平台): its token comes from another call; use the \
                 AppID of the account itself"
            }
            Self::BadCall => {
                "WeChat did not understand the call: see that the upstream is api.weixin.qq.com and nothing in \
                 between changes requests; otherwise please report it as a fault of weigate"
            }
            Self::SecretFrozen => {
                "the AppSecret is frozen: unfreeze it on the account's development settings page \
                 (developers.weixin.qq.com/platform or mp.weixin.qq.com); it takes some ten minutes to act"
            }
            Self::AccountPunished => {
                "WeChat has taken the API from this account: see its notices (mp.weixin.qq.com) and appeal there"
            }
            Self::IpNotAllowed => {
                "add this machine's public IP to the account's IP allow-list (IP白名单): development settings on \
                 developers.weixin.qq.com/platform or mp.weixin.qq.com"
            }
            Self::AwaitingConfirmation => {
                "the account's administrator has to confirm this machine's IP in the message WeChat sent them"
            }
            Self::IpBlockedHour => {
                "the administrator refused this IP: WeChat blocks it for an hour; then they have to confirm it"
            }
            Self::IpBlockedDay => {
                "the administrator refused this IP twice: WeChat blocks it for 24 hours; then they have to confirm it"
            }
            Self::MinuteQuota => "another program fetches this account's token too often: stop it",
            Self::DailyQuota => {
                "the account's calls for today are used up: find the program that fetches its token in a loop; \
                 an administrator may reset the count with clear_quota (10 times a month)"
            }
            Self::Unknown => "look the code up on developers.weixin.qq.com, with the rid; weigate asks again",
        }
    }
}

// === impl IpText ===

impl IpText {
    /// The first word of an errmsg that is an IP address; IPv4 where it names both, as in
    /// `invalid ip 218.58.124.130 ipv6 ::ffff:218.58.124.130, not in whitelist rid: …`.
    fn find(errmsg: &str) -> Option<Self> {
        let mut found = errmsg
            .split([' ', ',', ';', '\t', '"', '[', ']'])
            .filter_map(|word| word.trim_end_matches(['.', ':']).parse::<IpAddr>().ok())
            .map(|ip| Self(ip.to_canonical()));
        let first = found.next()?;
        let second = found.next().filter(|ip| ip.0.is_ipv4() && first.0.is_ipv6());
        Some(second.unwrap_or(first))
    }

    /// The address.
    pub fn addr(self) -> IpAddr {
        self.0
    }
}

impl fmt::Display for IpText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An errmsg fit for logs and pages.
fn clean(errmsg: &str, secret: &AppSecret) -> Box<str> {
    let mut clean = String::new();
    for character in strike(errmsg, secret).chars() {
        let before = clean.len();
        if may_confuse(character) {
            clean.extend(character.escape_unicode());
        } else {
            clean.push(character);
        }
        if clean.len() > SAID_BYTES_MAX - '…'.len_utf8() {
            clean.truncate(before);
            clean.push('…');
            break;
        }
    }
    clean.into()
}

/// The text without the secret. WeChat has never been seen to echo it; a broken gateway might.
fn strike<'a>(text: &'a str, secret: &AppSecret) -> Cow<'a, str> {
    let secret = secret.expose();
    if secret.is_empty() || !text.contains(secret) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace(secret, "[secret]"))
}

/// Characters that move the cursor, end a line or turn the direction of writing.
fn may_confuse(character: char) -> bool {
    let turns =
        matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    character.is_control() || turns || character == '\u{feff}'
}
