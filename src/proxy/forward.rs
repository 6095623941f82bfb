//! Builds the upstream request, puts in what the path needs, and sends it.
//!
//! The head is written straight into the connection's buffer: no header map is cloned, no URL is built as a value
//! that could be printed. (HTTP/2 wants both, from the same source: [`OneTry`].) This is one of the few places that read a secret's text.

use std::pin::Pin;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, HOST, VIA};
use http::request::Parts;
use http::{HeaderMap, Method, Response};
use http_body::Body;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::body::{ClientBody, Held, RequestBody};
use super::headers::{self, Fields, Nominated};
use super::refusal::Refusal;
use super::route::Route;
use super::upstream::{BoxError, Head, Outgoing, Payload, Upstream, UpstreamBody};
use crate::config::Limits;
use crate::types::AccessToken;
use crate::wechat::paths::Need;
use crate::wechat::query;

/// What of a request stays the same from one try to the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Forward<'a> {
    pub(super) head: &'a Parts,
    pub(super) nominated: &'a Nominated,
    pub(super) route: &'a Route<'a>,
    /// This process's name in `Via`.
    pub(super) pseudonym: &'a Arc<str>,
    pub(super) limits: &'a Limits,
    /// By when the head of the reply must be here, of all tries together.
    pub(super) deadline: Instant,
}

/// The head of one try.
struct OneTry<'a> {
    forward: &'a Forward<'a>,
    length: u64,
    token: Option<&'a AccessToken>,
}

// === impl Forward ===

impl Forward<'_> {
    /// Sends the request once; `token` goes in where the path needs it.
    pub(super) async fn send(
        &self,
        upstream: &Upstream,
        body: &mut RequestBody,
        token: Option<&AccessToken>,
    ) -> Result<Response<UpstreamBody>, Refusal> {
        let length = body.length();
        let head = OneTry { forward: self, length, token };
        let mut frames: Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + '_>>;
        let payload = match body {
            RequestBody::Held(Held::Memory(bytes)) => Payload::Whole(bytes),
            RequestBody::Held(Held::File(spool)) => {
                frames = Box::pin(Box::pin(spool.read()).await.map_err(Refusal::BodyNotHeld)?);
                Payload::Streamed { length, frames: frames.as_mut() }
            }
            RequestBody::Streaming { incoming, .. } => {
                frames = Box::pin(ClientBody::new(incoming));
                Payload::Streamed { length, frames: frames.as_mut() }
            }
        };
        let (method, stall) = (&self.head.method, self.limits.stall);
        let mut request = Outgoing { method, head: &head, payload, stall };
        upstream.send(&mut request, self.deadline).await.map_err(Refusal::Upstream)
    }

    fn write_query(&self, token: Option<&AccessToken>, to: &mut BytesMut) {
        let route = self.route;
        let account = route.entry.tokens.account();
        let app_id = || account.app_id.as_str();
        // A secret may be any text; it is only ever sent on a path that is called a few times a minute.
        let secret = match route.need {
            Need::Secret | Need::AppSecret => {
                Zeroizing::new(utf8_percent_encode(account.app_secret.expose(), NON_ALPHANUMERIC).to_string())
            }
            Need::Token | Need::TokenCall(_) | Need::AppId | Need::UserToken | Need::Untouched => {
                Zeroizing::default()
            }
        };
        let add: [(&str, &str); 2];
        let add = match (route.need, token) {
            (Need::Token, Some(token)) => {
                add = [("access_token", token.expose()), ("", "")];
                add.get(..1)
            }
            (Need::Secret, _) => {
                add = [("appid", app_id()), ("secret", &secret)];
                add.get(..)
            }
            (Need::AppSecret, _) => {
                add = [("appid", app_id()), ("appsecret", &secret)];
                add.get(..)
            }
            (Need::AppId, _) => {
                add = [("appid", app_id()), ("", "")];
                add.get(..1)
            }
            (Need::Token | Need::TokenCall(_) | Need::UserToken | Need::Untouched, _) => None,
        };
        query::rewrite(route.query, route.drop, add.unwrap_or_default(), to);
    }

    fn method_has_body(&self) -> bool {
        [Method::POST, Method::PUT, Method::PATCH].contains(&self.head.method)
    }
}

// === impl OneTry ===

impl OneTry<'_> {
    /// All fields but `Host`.
    fn fields(&self, to: &mut impl Fields) {
        headers::copy_request(&self.forward.head.headers, self.forward.nominated, to);
        // The reply's first bytes must be readable.
        to.add(&ACCEPT_ENCODING, &[b"identity"]);
        to.add(&VIA, &[b"1.1 ", self.forward.pseudonym.as_bytes()]);
        // A method that usually has a body says so when it has none (RFC 9110 §8.6).
        if self.length > 0 || self.forward.method_has_body() {
            to.add(&CONTENT_LENGTH, &[itoa::Buffer::new().format(self.length).as_bytes()]);
        }
    }

    fn target(&self, to: &mut BytesMut) {
        to.put_slice(self.forward.route.path.as_bytes());
        self.forward.write_query(self.token, to);
    }
}

impl Head for OneTry<'_> {
    fn write(&self, to: &mut BytesMut, authority: &str) {
        to.put_slice(self.forward.head.method.as_str().as_bytes());
        to.put_u8(b' ');
        self.target(to);
        to.put_slice(b" HTTP/1.1\r\n");
        to.add(&HOST, &[authority.as_bytes()]);
        self.fields(to);
        to.put_slice(b"\r\n");
    }

    fn list(&self, target: &mut BytesMut, fields: &mut HeaderMap) {
        self.target(target);
        self.fields(fields);
    }
}
