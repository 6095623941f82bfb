//! Builds the upstream request, puts in what the path needs, and sends it.
//!
//! The head is written straight into the connection's buffer: no header map is cloned, no URL is built as a value
//! that could be printed. This is one of the few places that read a secret's text.

use std::pin::pin;

use bytes::{BufMut as _, BytesMut};
use http::request::Parts;
use http::{Method, Response};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::body::{ClientBody, Held, RequestBody};
use super::headers;
use super::refusal::Refusal;
use super::route::Target;
use super::snapshot::Account;
use super::upstream::{Outgoing, Payload, SendError, Upstream, UpstreamBody};
use crate::types::AccessToken;
use crate::wechat::paths::Need;
use crate::wechat::query::{self, Drop};

/// What of a request stays the same from one try to the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Forward<'a> {
    pub(super) head: &'a Parts,
    pub(super) target: &'a Target<'a>,
    pub(super) account: &'a Account,
    pub(super) need: Need,
    pub(super) drop: Drop,
    /// This process's name in `Via`.
    pub(super) pseudonym: &'a str,
    pub(super) stall: std::time::Duration,
}

// === impl Forward ===

impl Forward<'_> {
    /// Sends the request once; `token` goes in where the path needs it.
    pub(super) async fn send(
        &self,
        upstream: &Upstream,
        body: &mut RequestBody,
        token: Option<&AccessToken>,
        deadline: Instant,
    ) -> Result<Response<UpstreamBody>, Refusal> {
        let length = body.length();
        let write_head = |to: &mut BytesMut, authority: &str| self.write_head(authority, length, token, to);
        let send = |payload| {
            let outgoing =
                Outgoing { method: &self.head.method, write_head: &write_head, payload, stall: self.stall };
            upstream.send(outgoing, deadline)
        };
        let reply: Result<_, SendError> = match body {
            RequestBody::Held(Held::Memory(bytes)) => send(Payload::Whole(bytes)).await,
            RequestBody::Held(Held::File(spool)) => {
                let mut frames = pin!(spool.read().await.map_err(Refusal::BodyNotHeld)?);
                send(Payload::Streamed { length, frames: frames.as_mut() }).await
            }
            RequestBody::Streaming { incoming, .. } => {
                let mut frames = pin!(ClientBody::new(incoming));
                send(Payload::Streamed { length, frames: frames.as_mut() }).await
            }
        };
        reply.map_err(Refusal::Upstream)
    }

    fn write_head(&self, authority: &str, length: u64, token: Option<&AccessToken>, to: &mut BytesMut) {
        to.put_slice(self.head.method.as_str().as_bytes());
        to.put_u8(b' ');
        to.put_slice(self.target.path.as_bytes());
        self.write_query(token, to);
        to.put_slice(b" HTTP/1.1\r\n");
        headers::write_line("host", authority.as_bytes(), to);
        headers::write_request(&self.head.headers, to);
        // The reply's first bytes must be readable.
        headers::write_line("accept-encoding", b"identity", to);
        to.put_slice(b"via: 1.1 ");
        to.put_slice(self.pseudonym.as_bytes());
        to.put_slice(b"\r\n");
        // A method that usually has a body says so when it has none (RFC 9110 §8.6).
        if length > 0 || self.method_has_body() {
            headers::write_line("content-length", itoa::Buffer::new().format(length).as_bytes(), to);
        }
        to.put_slice(b"\r\n");
    }

    fn write_query(&self, token: Option<&AccessToken>, to: &mut BytesMut) {
        let app_id = self.account.app_id.as_str();
        let query = self.target.query;
        // A secret may be any text; it is only ever sent on a path that is called a few times a minute.
        let secret = match self.need {
            Need::Secret | Need::AppSecret => Zeroizing::new(
                utf8_percent_encode(self.account.app_secret.expose(), NON_ALPHANUMERIC).to_string(),
            ),
            Need::Token | Need::TokenCall(_) | Need::AppId | Need::UserToken | Need::Untouched => {
                Zeroizing::default()
            }
        };
        let add: [(&str, &str); 2];
        let add = match (self.need, token) {
            (Need::Token, Some(token)) => {
                add = [("access_token", token.expose()), ("", "")];
                add.get(..1)
            }
            (Need::Secret, _) => {
                add = [("appid", app_id), ("secret", &secret)];
                add.get(..)
            }
            (Need::AppSecret, _) => {
                add = [("appid", app_id), ("appsecret", &secret)];
                add.get(..)
            }
            (Need::AppId, _) => {
                add = [("appid", app_id), ("", "")];
                add.get(..1)
            }
            (Need::Token | Need::TokenCall(_) | Need::UserToken | Need::Untouched, _) => None,
        };
        query::rewrite(query, self.drop, add.unwrap_or_default(), to);
    }

    fn method_has_body(&self) -> bool {
        [Method::POST, Method::PUT, Method::PATCH].contains(&self.head.method)
    }
}
