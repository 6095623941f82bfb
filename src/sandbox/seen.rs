//! The requests seen: a ring, bounded in number and in bytes.
//!
//! Names and values are kept, tokens too: it is a sandbox, and a test wants to see them. A record is packed while
//! it is kept and unpacked when someone asks, since most are never looked at.

use std::collections::VecDeque;

use http::request::Parts;
use serde::Serialize;

use super::clock::Ms;
use super::forge::hex;
use super::request::{Received, pairs};

/// A request and how it was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SeenRequest {
    /// Counted from 1.
    pub number: u64,
    /// The connection it came on, counted from 1.
    pub connection: u64,
    /// When it was answered, by the sandbox's clock, in milliseconds since 1970.
    pub at_ms: u64,
    /// The method.
    pub method: String,
    /// The path, as sent.
    pub path: String,
    /// The query, as sent.
    pub raw_query: String,
    /// The query's names and values, decoded.
    pub query: Vec<(String, String)>,
    /// Names, in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// Whether the request had a `Content-Length`.
    pub has_content_length: bool,
    /// The body's length.
    pub body_bytes: u64,
    /// The body's SHA-256 in hexadecimal; `None` for an empty body.
    pub body_sha256: Option<String>,
    /// The body's first 1024 bytes, as text.
    pub body_head: String,
    /// The answer's status; 0, if a fault left none.
    pub status: u16,
    /// The errcode of a JSON answer that has one.
    pub errcode: Option<i64>,
    /// The answer's `rid`, if it had one.
    pub rid: Option<String>,
}

/// The ring.
#[derive(Debug, Default)]
pub(super) struct Seen {
    ring: VecDeque<Record>,
    bytes: usize,
    next: u64,
}

/// A request, packed.
#[derive(Debug)]
pub(super) struct Record {
    number: u64,
    connection: u64,
    pub(super) at: Ms,
    method: http::Method,
    target: Box<str>,
    headers: Box<str>,
    has_content_length: bool,
    body_bytes: u64,
    body_sha256: Option<[u8; 32]>,
    body_head: Box<[u8]>,
    pub(super) status: u16,
    pub(super) errcode: Option<i64>,
    pub(super) rid: Option<String>,
    pub(super) account: Option<usize>,
}

// === impl Seen ===

impl Seen {
    pub(super) fn push(&mut self, mut record: Record) {
        self.next += 1;
        record.number = self.next;
        self.bytes += record.size();
        self.ring.push_back(record);
        while self.ring.len() > REQUESTS_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.ring.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(oldest.size());
        }
    }

    /// The last `most` requests on a path (or on all, for `None`), the oldest first.
    pub(super) fn last(&self, pattern: Option<&str>, most: usize) -> Vec<SeenRequest> {
        let wanted = |record: &&Record| pattern.is_none_or(|pattern| matches(pattern, record.path()));
        let mut found: Vec<_> =
            self.ring.iter().rev().filter(wanted).take(most).map(Record::unpacked).collect();
        found.reverse();
        found
    }

    /// The request whose answer had this `rid`.
    pub(super) fn by_rid(&self, rid: &str) -> Option<(&Record, SeenRequest)> {
        let record = self.ring.iter().rev().find(|record| record.rid.as_deref() == Some(rid))?;
        Some((record, record.unpacked()))
    }

    /// Forgets the requests, not how many there were.
    pub(super) fn clear(&mut self) {
        self.ring.clear();
        self.bytes = 0;
    }
}

// === impl Record ===

impl Record {
    pub(super) fn new(head: &Parts, connection: u64) -> Self {
        let target = head.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
        let mut headers = String::with_capacity(512);
        for (name, value) in &head.headers {
            if headers.len() + value.len() > HEADER_BYTES_MAX {
                break;
            }
            headers.push_str(name.as_str());
            headers.push(':');
            headers.push_str(&String::from_utf8_lossy(value.as_bytes()));
            headers.push('\n');
        }
        Self {
            number: 0,
            connection,
            at: 0,
            method: head.method.clone(),
            target: target.into(),
            headers: headers.into(),
            has_content_length: head.headers.contains_key(http::header::CONTENT_LENGTH),
            body_bytes: 0,
            body_sha256: None,
            body_head: Box::default(),
            status: 0,
            errcode: None,
            rid: None,
            account: None,
        }
    }

    /// Notes what the body was.
    pub(super) fn note_body(&mut self, body: &Received) {
        self.body_bytes = body.length;
        self.body_sha256 = body.sha256;
        self.body_head = body.kept.iter().take(BODY_HEAD_BYTES_MAX).copied().collect();
    }

    fn path(&self) -> &str {
        self.target.split_once('?').map_or(&*self.target, |(path, _)| path)
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.target.len() + self.headers.len() + self.body_head.len()
    }

    fn unpacked(&self) -> SeenRequest {
        let (path, query) = self.target.split_once('?').unwrap_or((&*self.target, ""));
        let header =
            |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.to_owned()));
        SeenRequest {
            number: self.number,
            connection: self.connection,
            at_ms: self.at,
            method: self.method.to_string(),
            path: path.to_owned(),
            raw_query: query.to_owned(),
            query: pairs(query),
            headers: self.headers.lines().filter_map(header).collect(),
            has_content_length: self.has_content_length,
            body_bytes: self.body_bytes,
            body_sha256: self.body_sha256.map(|digest| hex(&digest)),
            body_head: String::from_utf8_lossy(&self.body_head).into_owned(),
            status: self.status,
            errcode: self.errcode,
            rid: self.rid.clone(),
        }
    }
}

/// Whether a path is the pattern, or begins with it where the pattern ends in `*`.
pub(super) fn matches(pattern: &str, path: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == path, |prefix| path.starts_with(prefix))
}

const REQUESTS_MAX: usize = 10_000;
const BYTES_MAX: usize = 64 << 20;
const HEADER_BYTES_MAX: usize = 64 << 10;
const BODY_HEAD_BYTES_MAX: usize = 1024;
