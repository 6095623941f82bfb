//! The closed list of noes.

use std::time::Duration;

use http::StatusCode;

use super::upstream::SendError;
use crate::token::NoToken;
use crate::wechat::paths::PathError;

/// An answer that weigate makes itself because a request cannot be carried.
///
/// Each has a line for the client, which helps and tells nothing about us ([`Refusal::line`]), and where there is
/// more to know a cause for the log, which holds no secret.
#[derive(Debug)]
pub enum Refusal {
    /// The head breaks HTTP's rules (RFC 9110, 9112) in a way that two servers might read differently.
    MalformedRequest(&'static str),
    /// `Transfer-Encoding` is not `chunked` alone (RFC 9112 §6.1).
    TransferCoding,
    /// `Expect` asks for what nobody can promise (RFC 9110 §10.1.1).
    Expectation,
    /// The method is one that is never forwarded.
    Method,
    /// The request has been here before.
    Loop,
    /// The path cannot be judged safely.
    Path(PathError),
    /// A path of weigate's own that does not exist.
    NotHere,
    /// No known key or placeholder.
    Unauthenticated(&'static str),
    /// More than the client may send.
    RateLimited,
    /// The client has several accounts and the request names none.
    AccountUnknown,
    /// The account does not exist, or the client may not use it.
    AccountForbidden,
    /// The client may not call this path.
    PathForbidden,
    /// The body is longer than the client may send.
    BodyTooLarge,
    /// The body stopped coming, or came broken.
    BodyIncomplete,
    /// The body could not be held (no space for a temporary file).
    BodyNotHeld(std::io::Error),
    /// The account has no token.
    NoToken {
        /// When asking again may help.
        retry_after: Duration,
        /// Why, for the log.
        why: &'static str,
    },
    /// WeChat could not be reached, or broke off.
    Upstream(SendError),
}

// === impl Refusal ===

impl Refusal {
    /// Every word that [`Refusal::word`] can say.
    pub const WORDS: [&'static str; 19] = [
        "malformed_request",
        "transfer_coding",
        "expectation",
        "method",
        "loop",
        "path",
        "not_found",
        "unauthenticated",
        "rate_limited",
        "account_unknown",
        "account_forbidden",
        "path_forbidden",
        "body_too_large",
        "body_incomplete",
        "body_not_held",
        "no_token",
        "upstream_unreachable",
        "upstream_timeout",
        "upstream_broken",
    ];

    /// One word for the header `x-weigate-error`, the log and the metric.
    pub fn word(&self) -> &'static str {
        self.row().1
    }

    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        self.row().0
    }

    /// What the client is told.
    pub fn line(&self) -> &'static str {
        self.row().2
    }

    /// The one table: status, word, line.
    fn row(&self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::MalformedRequest(line) => (S::BAD_REQUEST, "malformed_request", line),
            Self::TransferCoding => {
                (S::NOT_IMPLEMENTED, "transfer_coding", "the only Transfer-Encoding known is one `chunked`")
            }
            Self::Expectation => {
                (S::EXPECTATION_FAILED, "expectation", "the only Expect known is `100-continue`")
            }
            Self::Method => (S::METHOD_NOT_ALLOWED, "method", "this method is not forwarded"),
            Self::Loop => (S::LOOP_DETECTED, "loop", "this request has been through this weigate already"),
            Self::Path(error) => (S::BAD_REQUEST, "path", path_line(*error)),
            Self::NotHere => (S::NOT_FOUND, "not_found", "weigate has no such path of its own"),
            Self::Unauthenticated(line) => (S::UNAUTHORIZED, "unauthenticated", line),
            Self::RateLimited => {
                (S::TOO_MANY_REQUESTS, "rate_limited", "more requests than this client may send")
            }
            Self::AccountUnknown => (
                S::BAD_REQUEST,
                "account_unknown",
                "which account? use a path prefix /@NAME/, from_appid= in the query or a placeholder token",
            ),
            Self::AccountForbidden => {
                (S::FORBIDDEN, "account_forbidden", "no such account, or not one this client may use")
            }
            Self::PathForbidden => (S::FORBIDDEN, "path_forbidden", "this client may not call this path"),
            Self::BodyTooLarge => (S::PAYLOAD_TOO_LARGE, "body_too_large", "the body is too long"),
            Self::BodyIncomplete => (S::REQUEST_TIMEOUT, "body_incomplete", "the body did not arrive whole"),
            Self::BodyNotHeld(_) => (S::INSUFFICIENT_STORAGE, "body_not_held", "the body could not be held"),
            Self::NoToken { .. } => {
                (S::SERVICE_UNAVAILABLE, "no_token", "this account has no access_token right now")
            }
            Self::Upstream(error) => upstream_row(error),
        }
    }

    /// When asking again may help.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited => Some(Duration::from_secs(1)),
            Self::NoToken { retry_after, .. } => Some(*retry_after),
            Self::MalformedRequest(_)
            | Self::TransferCoding
            | Self::Expectation
            | Self::Method
            | Self::Loop
            | Self::Path(_)
            | Self::NotHere
            | Self::Unauthenticated(_)
            | Self::AccountUnknown
            | Self::AccountForbidden
            | Self::PathForbidden
            | Self::BodyTooLarge
            | Self::BodyIncomplete
            | Self::BodyNotHeld(_)
            | Self::Upstream(_) => None,
        }
    }

    /// Whether what follows on the connection may not be what the client meant.
    pub fn is_about_framing(&self) -> bool {
        matches!(self, Self::MalformedRequest(_) | Self::TransferCoding | Self::Expectation | Self::Method)
    }

    /// Whether it comes before the request's body was read.
    pub fn leaves_body(&self) -> bool {
        !matches!(self, Self::NoToken { .. } | Self::Upstream(_))
    }

    /// More than the word says, for the log alone.
    pub fn cause(&self) -> Option<String> {
        match self {
            Self::BodyNotHeld(error) => Some(error.to_string()),
            Self::Upstream(error) => Some(error.to_string()),
            Self::Path(error) => Some(error.to_string()),
            Self::NoToken { why, .. } => Some((*why).to_owned()),
            Self::MalformedRequest(_)
            | Self::TransferCoding
            | Self::Expectation
            | Self::Method
            | Self::Loop
            | Self::NotHere
            | Self::Unauthenticated(_)
            | Self::RateLimited
            | Self::AccountUnknown
            | Self::AccountForbidden
            | Self::PathForbidden
            | Self::BodyTooLarge
            | Self::BodyIncomplete => None,
        }
    }
}

impl From<NoToken> for Refusal {
    fn from(no: NoToken) -> Self {
        Self::NoToken { retry_after: no.retry_after, why: no.why }
    }
}

fn path_line(error: PathError) -> &'static str {
    match error {
        PathError::Ambiguous => "the path holds a character that servers read in different ways",
        PathError::Segment => "the path holds an empty segment or one that ends in a dot or a space",
        PathError::Control => "the path holds a control character",
        PathError::Encoding => "the path is not well encoded",
        PathError::NearMiss => "the path is a variant of one that is guarded",
    }
}

fn upstream_row(error: &SendError) -> (StatusCode, &'static str, &'static str) {
    use StatusCode as S;
    match error {
        SendError::Unreachable(_) => (S::BAD_GATEWAY, "upstream_unreachable", "WeChat cannot be reached"),
        SendError::Timeout | SendError::Stalled => {
            (S::GATEWAY_TIMEOUT, "upstream_timeout", "WeChat did not answer in time")
        }
        SendError::ClosedBeforeReply
        | SendError::Reset
        | SendError::Unprocessed
        | SendError::MalformedReply(_) => {
            (S::BAD_GATEWAY, "upstream_broken", "WeChat broke off, or answered what is not HTTP")
        }
        SendError::RequestBody(_) => (S::REQUEST_TIMEOUT, "body_incomplete", "the body did not arrive whole"),
    }
}
