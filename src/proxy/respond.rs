//! From a refusal, or from what weigate answers itself, to a response.
//!
//! A refusal looks like WeChat's own errors, so that SDKs can read it, but has a real HTTP status and a negative code
//! of its own (`-99` and the status), which no SDK takes for a token error and retries on.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use super::body::ReplyBody;
use super::refusal::Refusal;
use crate::types::RequestId;

/// Every response has it: the request's name in our log.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-weigate-request-id");
/// Only refusals have it: one word that says why.
pub(super) const ERROR: HeaderName = HeaderName::from_static("x-weigate-error");
/// Only replies that needed the second try have it.
pub(super) const ATTEMPTS: HeaderName = HeaderName::from_static("x-weigate-attempts");

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// The response that says no.
pub(super) fn refuse(refusal: &Refusal, id: RequestId) -> Response<ReplyBody> {
    let status = refusal.status();
    let body =
        format!(r#"{{"errcode":-99{},"errmsg":"weigate: {}, rid: {id}"}}"#, status.as_u16(), refusal.line());
    let mut response = json(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(ERROR, HeaderValue::from_static(refusal.word()));
    if let Some(span) = refusal.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(span.as_secs().max(1)));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(
            http::header::ALLOW,
            HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        );
    }
    response
}

/// A 200 with a JSON body.
pub(super) fn json(body: String) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::whole(Bytes::from(body)));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// Marks a response with its request's name.
pub(super) fn sign(response: &mut Response<ReplyBody>, id: RequestId) {
    if let Ok(value) = HeaderValue::from_bytes(&id.digits()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
}
