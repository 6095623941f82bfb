//! A request as the sandbox takes it in: query decoded, body hashed and, within bounds, kept and parsed.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;

use super::state::Shared;

/// A request, whole.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: Vec<(String, String)>,
    pub(super) json: Json,
    pub(super) form: Vec<(String, String)>,
    pub(super) files: Files,
    pub(super) length: u64,
    pub(super) peer: IpAddr,
    /// Whether the request was addressed to `qyapi…`.
    pub(super) wecom_host: bool,
    _memory: Option<OwnedSemaphorePermit>,
}

/// A JSON body.
#[derive(Debug)]
pub(super) enum Json {
    Empty,
    Malformed,
    Value(Value),
}

/// A multipart body.
#[derive(Debug)]
pub(super) enum Files {
    /// It was none, or could not be read.
    None,
    /// Its parts.
    Parts(Vec<Part>),
    /// Longer than anything WeChat takes; not kept.
    TooLong,
}

/// A part of a multipart body.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) file_name: Option<String>,
    pub(super) content_type: Option<String>,
    pub(super) bytes: Bytes,
}

/// A body that was read to its end.
#[derive(Debug, Default)]
pub(super) struct Received {
    /// The first [`KEPT_BYTES_MAX`] bytes.
    pub(super) kept: Bytes,
    pub(super) length: u64,
    /// `None` for an empty body.
    pub(super) sha256: Option<[u8; 32]>,
    /// What the body may take up, given back when its request is answered. What outlives that (media, drafts) has
    /// bounds of its own.
    memory: Option<OwnedSemaphorePermit>,
}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unread {
    #[error("answered without reading the body")]
    Refused(StatusCode),
    #[error("the client broke off")]
    BrokenOff,
}

// === impl Received ===

impl Received {
    /// Reads a body.
    ///
    /// WeChat answers a chunked body with 412 and nothing else, on every path (§7.3, many reports). What it makes of
    /// a POST with neither chunks nor a length nobody reported; hyper and curl send an empty body so, and it is
    /// taken for one: *our choice*. [`super::SeenRequest::has_content_length`] tells who did.
    pub(super) async fn read(head: &Parts, body: Incoming, shared: &Shared) -> Result<Self, Unread> {
        let told = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        if head.headers.contains_key(TRANSFER_ENCODING) {
            return Err(Unread::Refused(StatusCode::PRECONDITION_FAILED));
        }
        let length = told.and_then(|told| told.trim().parse::<u64>().ok()).unwrap_or(0);
        if length > BODY_BYTES_MAX {
            return Err(Unread::Refused(StatusCode::PAYLOAD_TOO_LARGE));
        }
        if length == 0 {
            return Ok(Self::default());
        }
        let kib = u32::try_from(length.min(KEPT_BYTES_MAX) / 1024).unwrap_or(0);
        let budget = Arc::clone(&shared.body_budget_kib);
        let memory = budget.acquire_many_owned(kib).await.map_err(|_| Unread::BrokenOff)?;
        Self::collect(body, length, memory).await
    }

    async fn collect(mut body: Incoming, length: u64, memory: OwnedSemaphorePermit) -> Result<Self, Unread> {
        let mut hash = Sha256::new();
        let kept_max = usize::try_from(length.min(KEPT_BYTES_MAX)).unwrap_or(usize::MAX);
        let mut kept = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| Unread::BrokenOff)?.into_data() else { continue };
            hash.update(&data);
            let room = kept_max.saturating_sub(kept.len());
            kept.extend_from_slice(&data.slice(..data.len().min(room)));
        }
        Ok(Self { kept: kept.freeze(), length, sha256: Some(hash.finalize().into()), memory: Some(memory) })
    }
}

// === impl Call ===

impl Call {
    /// Parses what can be parsed.
    pub(super) async fn parse(head: &Parts, body: Received, peer: IpAddr) -> Self {
        let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        let multipart = content_type.starts_with("multipart/");
        let is_form = content_type.starts_with("application/x-www-form-urlencoded");
        let host = head.headers.get(HOST).and_then(|value| value.to_str().ok()).unwrap_or("");
        Self {
            method: head.method.clone(),
            path: head.uri.path().to_owned(),
            query: pairs(head.uri.query().unwrap_or("")),
            json: if multipart { Json::Malformed } else { Json::parse(&body) },
            form: if is_form { pairs(&String::from_utf8_lossy(&body.kept)) } else { Vec::new() },
            files: if multipart { Files::parse(content_type, &body).await } else { Files::None },
            length: body.length,
            peer,
            wecom_host: host.starts_with("qyapi"),
            _memory: body.memory,
        }
    }

    /// The first value of a name in the query.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        first(&self.query, name)
    }

    /// The first value of a name in the query or in a form body.
    pub(super) fn query_or_form(&self, name: &str) -> Option<&str> {
        self.query(name).or_else(|| first(&self.form, name))
    }

    /// The JSON body's value, null where there is none.
    pub(super) fn value(&self) -> &Value {
        match &self.json {
            Json::Value(value) => value,
            Json::Empty | Json::Malformed => &Value::Null,
        }
    }

    /// A text at the top level of the JSON body, if it is there and not empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.value().get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    /// The multipart part that carries a file under this name.
    pub(super) fn file(&self, name: &str) -> Option<&Part> {
        match &self.files {
            Files::Parts(parts) => parts.iter().find(|part| part.name == name && part.file_name.is_some()),
            Files::None | Files::TooLong => None,
        }
    }
}

// === impl Json ===

impl Json {
    /// Leniently: an object or an array, however it is called.
    fn parse(body: &Received) -> Self {
        if body.length == 0 {
            return Self::Empty;
        }
        match serde_json::from_slice::<Value>(&body.kept) {
            Ok(value) if value.is_object() || value.is_array() => Self::Value(value),
            _ => Self::Malformed,
        }
    }
}

// === impl Files ===

impl Files {
    async fn parse(content_type: &str, body: &Received) -> Self {
        if body.length > KEPT_BYTES_MAX {
            return Self::TooLong;
        }
        let Ok(boundary) = multer::parse_boundary(content_type) else { return Self::None };
        let bytes = body.kept.clone();
        let whole = futures_util::stream::once(async move { Ok::<_, std::convert::Infallible>(bytes) });
        let mut multipart = multer::Multipart::new(whole, boundary);
        let mut parts = Vec::new();
        loop {
            let field = match multipart.next_field().await {
                Ok(Some(field)) if parts.len() < PARTS_MAX => field,
                Ok(None) => return Self::Parts(parts),
                Ok(Some(_)) | Err(_) => return Self::None,
            };
            let name = field.name().unwrap_or("").to_owned();
            let file_name = field.file_name().map(str::to_owned);
            let content_type = field.content_type().map(ToString::to_string);
            let Ok(bytes) = field.bytes().await else { return Self::None };
            parts.push(Part { name, file_name, content_type, bytes });
        }
    }
}

/// The names and values of a query or a form, decoded.
pub(super) fn pairs(text: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| {
        let text = if text.contains('+') { Cow::Owned(text.replace('+', " ")) } else { Cow::Borrowed(text) };
        percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned()
    };
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
        .collect()
}

fn first<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// 413 beyond.
const BODY_BYTES_MAX: u64 = 64 << 20;
/// What is kept of a body while it is answered: more than any upload that WeChat takes (10 MB, §8).
const KEPT_BYTES_MAX: u64 = 16 << 20;
const PARTS_MAX: usize = 32;
