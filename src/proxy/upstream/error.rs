//! What can go wrong between us and WeChat, by what the caller will do about it.
//!
//! No error here holds bytes of a request or a reply, so that none of them can print a token. Every one has a
//! `word()`: a constant for metrics and logs.

use thiserror::Error;

/// Why a request has no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SendError {
    /// No host could be connected to. Not a byte of the request was sent.
    #[error("no upstream host can be reached ({})", .0.word())]
    Unreachable(#[source] ConnectError),
    /// The connection ended after the request was begun and before a byte of a reply: whether WeChat acted on it
    /// is not known.
    #[error("the upstream closed the connection before it replied")]
    ClosedBeforeReply,
    /// The upstream gave this request up (`RST_STREAM`) before it replied: whether it acted on it is not known.
    #[error("the upstream gave the request up before it replied")]
    Reset,
    /// The upstream said that it has not looked at the request (`REFUSED_STREAM`, or above the last stream of a
    /// `GOAWAY`; RFC 9113 §8.7), each time that it was sent.
    #[error("the upstream turned the request away unread")]
    Unprocessed,
    /// The deadline passed: while waiting for a connection, sending, or waiting for the head of the reply.
    #[error("the deadline passed before the upstream replied")]
    Timeout,
    /// The upstream took no byte of the body for the whole of `Outgoing::stall`.
    #[error("the upstream stopped reading the request")]
    Stalled,
    /// The reply breaks HTTP; the text is a constant that says which rule.
    #[error("the upstream sent a malformed reply: {0}")]
    MalformedReply(&'static str),
    /// The client's own body could not be read to its end, so the request was cut off.
    #[error("the request's body could not be sent: {}", .0.word())]
    RequestBody(RequestBodyFault),
}

/// What was wrong with a streamed request body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestBodyFault {
    /// Reading it failed.
    Failed,
    /// No byte came for the whole of `Outgoing::stall`.
    Stalled,
    /// It ended before `length`.
    Short,
    /// It goes on beyond `length`.
    Long,
}

/// Why one host could not be connected to; of several addresses, what the last one said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ConnectError {
    /// The name has no usable address, and none is known from before.
    #[error("the name does not resolve")]
    Dns,
    /// The port is closed.
    #[error("the connection was refused")]
    Refused,
    /// TCP and TLS together took longer than the `connect` setting.
    #[error("connecting took too long")]
    Timeout,
    /// The certificate is for another name, by an unknown authority, expired or broken.
    #[error("the certificate is not acceptable")]
    Certificate,
    /// The TLS handshake ended otherwise.
    #[error("the TLS handshake did not complete")]
    Tls,
    /// Every new connection was closed, or spoke, before anything was sent on it.
    #[error("new connections are closed at once")]
    Closed,
    /// No route, no file descriptors left, and the like.
    #[error("the connection could not be made")]
    Other,
}

/// Why a reply's body ends early. After one of these nothing more comes, and it is never a clean end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BodyError {
    /// The connection ended before the body did.
    #[error("the upstream closed the connection within the body")]
    Truncated,
    /// No byte came for the whole of `Outgoing::stall`.
    #[error("the upstream stopped sending")]
    Stalled,
    /// The chunked coding is broken; the text is a constant that says how.
    #[error("the upstream sent a malformed body: {0}")]
    Malformed(&'static str),
    /// The deadline given to `peek` passed. The body itself can still be read on.
    #[error("the deadline passed before the body was there")]
    Timeout,
}

/// A rule of HTTP that a reply breaks, as a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

// === impl SendError ===

impl SendError {
    /// A constant for metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unreachable(cause) => cause.word(),
            Self::ClosedBeforeReply => "closed_before_reply",
            Self::Reset => "reset",
            Self::Unprocessed => "unprocessed",
            Self::Timeout => "timeout",
            Self::Stalled => "stalled",
            Self::MalformedReply(_) => "malformed_reply",
            Self::RequestBody(fault) => fault.word(),
        }
    }
}

impl From<Malformed> for SendError {
    fn from(fault: Malformed) -> Self {
        Self::MalformedReply(fault.0)
    }
}

// === impl RequestBodyFault ===

impl RequestBodyFault {
    /// A constant for metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Failed => "request_body_failed",
            Self::Stalled => "request_body_stalled",
            Self::Short => "request_body_short",
            Self::Long => "request_body_long",
        }
    }
}

// === impl ConnectError ===

impl ConnectError {
    /// All of them, in the order of [`super::Stats::connect_failures`].
    pub const ALL: [Self; 7] =
        [Self::Dns, Self::Refused, Self::Timeout, Self::Certificate, Self::Tls, Self::Closed, Self::Other];

    /// A constant for metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Refused => "refused",
            Self::Timeout => "connect_timeout",
            Self::Certificate => "certificate",
            Self::Tls => "tls",
            Self::Closed => "closed_at_once",
            Self::Other => "unreachable",
        }
    }
}

// === impl BodyError ===

impl BodyError {
    /// A constant for metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Stalled => "reply_stalled",
            Self::Malformed(_) => "malformed_body",
            Self::Timeout => "timeout",
        }
    }
}

impl From<Malformed> for BodyError {
    fn from(fault: Malformed) -> Self {
        Self::Malformed(fault.0)
    }
}
