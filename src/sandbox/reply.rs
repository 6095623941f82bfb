//! An answer before it is bytes: status, type, content; and the forms WeChat's answers take (§3.3).

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::clock::Ms;
use super::{errors, forge};

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) content: Content,
    /// For the log of requests.
    pub(super) errcode: Option<i64>,
    pub(super) rid: Option<String>,
    content_type: Option<HeaderValue>,
    file_name: Option<String>,
}

/// What an answer carries.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// These bytes.
    Bytes(Bytes),
    /// This many bytes of a pattern, made while they are sent.
    Pattern(u64),
}

// === impl Reply ===

impl Reply {
    /// A JSON answer, 200. WeChat's type says `encoding`, not `charset`.
    pub(super) fn json(value: &Value) -> Self {
        let content = Content::Bytes(value.to_string().into());
        let errcode = value.get("errcode").and_then(Value::as_i64);
        let content_type = Some(HeaderValue::from_static("application/json; encoding=utf-8"));
        Self { status: StatusCode::OK, content, errcode, rid: None, content_type, file_name: None }
    }

    /// `{"errcode":0,"errmsg":"ok"}`.
    pub(super) fn ok() -> Self {
        Self::json(&json!({ "errcode": 0, "errmsg": "ok" }))
    }

    /// An error, with WeChat's text for it.
    pub(super) fn error(errcode: i64, now: Ms) -> Self {
        Self::error_saying(errcode, &format!("{} rid: ", errors::text(errcode)), now)
    }

    /// An error in the form of `/sns/`: a comma before the `rid`.
    pub(super) fn sns_error(errcode: i64, now: Ms) -> Self {
        Self::error_saying(errcode, &format!("{}, rid: ", errors::sns_text(errcode)), now)
    }

    /// An error with a text of its own, to which the `rid` is added.
    pub(super) fn error_saying(errcode: i64, text: &str, now: Ms) -> Self {
        let rid = forge::rid(now);
        let mut reply = Self::json(&json!({ "errcode": errcode, "errmsg": format!("{text}{rid}") }));
        reply.rid = Some(rid);
        reply
    }

    /// A file.
    pub(super) fn file(content_type: &str, file_name: Option<String>, content: Content) -> Self {
        let content_type = HeaderValue::from_str(content_type).ok();
        Self { status: StatusCode::OK, content, errcode: None, rid: None, content_type, file_name }
    }

    /// A status without a body.
    pub(super) fn empty(status: StatusCode) -> Self {
        let content = Content::Bytes(Bytes::new());
        Self { status, content, errcode: None, rid: None, content_type: None, file_name: None }
    }

    /// The same answer as `text/plain`, as `media/get` says no.
    #[must_use]
    pub(super) fn into_text(mut self) -> Self {
        self.content_type = Some(HeaderValue::from_static("text/plain"));
        self
    }

    /// The same answer with another status.
    #[must_use]
    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The header fields, but for `Content-Length` and `Date`.
    pub(super) fn headers(&self, persists: Persists) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(
            CONNECTION,
            match persists {
                Persists::Yes => HeaderValue::from_static("keep-alive"),
                Persists::No => HeaderValue::from_static("close"),
            },
        );
        if let Some(content_type) = &self.content_type {
            headers.insert(CONTENT_TYPE, content_type.clone());
        }
        if let Some(file_name) = &self.file_name {
            // WeChat writes `Content-disposition`; names of fields have no case on the wire that counts.
            if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{file_name}\"")) {
                headers.insert(CONTENT_DISPOSITION, value);
            }
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, must-revalidate"));
        }
        headers
    }
}

/// Whether the connection is to outlive the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Persists {
    Yes,
    No,
}

// === impl Content ===

impl Content {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Self::Pattern(length) => *length,
        }
    }
}
