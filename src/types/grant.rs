//! How an account gets its tokens, and which platform it lives on.

/// How an account gets its tokens: what `grant` says in its section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum GrantKind {
    /// `POST /cgi-bin/stable_token`: the same token until its last five minutes.
    #[default]
    StableToken,
    /// `GET /cgi-bin/token`: every call brings a new token and ends the one before.
    Token,
    /// 企业微信: `GET /cgi-bin/gettoken`, the same token as long as it lives.
    Wecom,
}

/// Whose servers an account's requests go to; the two share path names and little else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Platform {
    /// 公众号, 小程序, 小游戏, 视频号小店: `api.weixin.qq.com`.
    Weixin,
    /// 企业微信: `qyapi.weixin.qq.com`.
    Wecom,
}

// === impl GrantKind ===

impl GrantKind {
    /// Every kind, in the order in which messages name them.
    pub const ALL: [Self; 3] = [Self::StableToken, Self::Token, Self::Wecom];

    /// The word for it in `proxy.toml`.
    pub fn word(self) -> &'static str {
        match self {
            Self::StableToken => "stable_token",
            Self::Token => "token",
            Self::Wecom => "wecom",
        }
    }

    /// Whether every call ends the token in use, be it needed or not.
    pub fn rotates(self) -> bool {
        match self {
            Self::Token => true,
            Self::StableToken | Self::Wecom => false,
        }
    }

    /// The platform whose tokens it brings.
    pub fn platform(self) -> Platform {
        match self {
            Self::StableToken | Self::Token => Platform::Weixin,
            Self::Wecom => Platform::Wecom,
        }
    }
}
