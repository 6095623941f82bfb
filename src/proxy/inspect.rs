//! Looks at the first bytes of a reply for WeChat's word that the token is invalid.
//!
//! WeChat says so with status 200 and a short JSON object, sent as JSON or as text (wechat.md §3.3). So only such
//! replies are looked at, and of these at most [`PEEK_BYTES_MAX`]; everything else streams through untouched. The
//! bytes stay where they are: nothing is copied, nothing is serialised again.

use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, Response, StatusCode};
use http_body::Body as _;
use tokio::time::Instant;

use super::upstream::{BodyError, UpstreamBody};
use crate::wechat::{ErrCode, envelope};

/// Errors seen in the wild have 40 to 250 bytes.
pub(crate) const PEEK_BYTES_MAX: usize = 1024;

/// The code that a reply carries, if it is a reply that could carry one.
///
/// An error here is an upstream that broke off within its first bytes.
pub(super) async fn errcode(
    reply: &mut Response<UpstreamBody>,
    deadline: Instant,
) -> Result<Option<ErrCode>, BodyError> {
    if !may_carry_code(reply) {
        return Ok(None);
    }
    let head = reply.body_mut().peek(PEEK_BYTES_MAX, deadline).await?;
    Ok(envelope::errcode(head))
}

fn may_carry_code(reply: &Response<UpstreamBody>) -> bool {
    reply.status() == StatusCode::OK
        // A longer body of known length is no error.
        && reply.body().size_hint().exact().is_none_or(is_short)
        && !reply.headers().contains_key(CONTENT_ENCODING)
        && is_json_or_text(reply.headers())
}

fn is_short(length: u64) -> bool {
    usize::try_from(length).is_ok_and(|length| (1..=PEEK_BYTES_MAX).contains(&length))
}

/// No type at all counts as text: what cannot be excluded is looked at.
fn is_json_or_text(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return true };
    let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    [b"application/json".as_slice(), b"text/plain", b"text/json", b"text/html", b"application/x-javascript"]
        .iter()
        .any(|known| essence.eq_ignore_ascii_case(known))
}
