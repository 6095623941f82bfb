//! The head of a reply: from bytes to a checked status line, fields and framing, apart from any I/O.
//!
//! # Why so strict
//!
//! Replies come from one known host, and what it sends is well-formed; so whatever two readers could read in two
//! ways (RFC 9112 §11.1, response splitting and smuggling) is refused instead of repaired: both framing fields or
//! one of them twice, a transfer coding other than `chunked`, folded lines, a bare CR or LF, a space before the
//! colon. The price is a 502 where another proxy might have guessed well.

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderName, HeaderValue, SERVER,
    TRANSFER_ENCODING,
};
use http::{HeaderMap, StatusCode, Version};

use super::Malformed;

/// A reply's head, checked.
#[derive(Debug, Clone)]
pub struct ReplyHead {
    /// 100 to 999.
    pub status: StatusCode,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// All fields as they came, in their order, but `Transfer-Encoding`, which says nothing about the decoded
    /// body, and a `Connection` that has no word but `close` and `keep-alive`, which are about this connection. One that
    /// names fields is still there, and so are they: they are the caller's to take out.
    pub fields: HeaderMap,
    /// Whether the other side will take another request on this connection (RFC 9112 §9.3).
    pub persistent: bool,
    declared: Framing,
}

/// Where a reply's body ends (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// After this many bytes; none for HEAD, 1xx, 204 and 304, whatever the fields say.
    Length(u64),
    /// Where the chunked coding says.
    Chunked,
    /// Where the connection ends.
    UntilClose,
}

/// Looks for the end of a head in a buffer that grows, reading each byte once.
#[derive(Debug, Clone, Default)]
pub(super) struct HeadScan {
    /// Up to here there are whole lines, none of them empty.
    line_start: usize,
    /// Up to here there is no line feed that was not looked at.
    looked_at: usize,
}

/// Reads a head at the start of `input`: the head and its length in bytes, or `None` where more input is needed.
///
/// Bounds: 64 KiB, 100 fields. RFC 9112 §4, §5, §6.
pub fn parse_head(input: &[u8]) -> Result<Option<(ReplyHead, usize)>, Malformed> {
    let Some(length) = HeadScan::default().end_of_head(input)? else { return Ok(None) };
    let head = input.get(..length).unwrap_or_default();
    Ok(Some((parse_whole_head(head)?, length)))
}

/// Reads a head whose end [`HeadScan`] has found.
pub(super) fn parse_whole_head(head: &[u8]) -> Result<ReplyHead, Malformed> {
    let mut room = [const { std::mem::MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let length = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut parsed, head, &mut room)
        .map_err(|fault| Malformed(rule_broken(fault)))?;
    if length != httparse::Status::Complete(head.len()) {
        return Err(Malformed("malformed head"));
    }
    let (Some(version), Some(code)) = (parsed.version, parsed.code) else {
        return Err(Malformed("malformed status line"));
    };
    let status = StatusCode::from_u16(code).map_err(|_| Malformed("invalid status code"))?;
    let version = if version == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    // One copy of the whole head, so that the values share it and the read buffer goes back at once.
    let shared = Bytes::copy_from_slice(head);
    let mut fields = HeaderMap::with_capacity(parsed.headers.len());
    let mut declared = Declared { framing: None, options: Options::default() };
    for field in parsed.headers.iter() {
        let name = field_name(field.name.as_bytes())?;
        if declared.note(&name, field.value)? == Goes::On {
            fields.append(name, value_within(&shared, head, field.value)?);
        }
    }
    if declared.framing == Some(Framing::Chunked) && version == Version::HTTP_10 {
        return Err(Malformed("Transfer-Encoding in HTTP/1.0"));
    }
    let Options { close, keep_alive } = declared.options;
    let persistent = !close && (version == Version::HTTP_11 || keep_alive);
    let declared = declared.framing.unwrap_or(Framing::UntilClose);
    Ok(ReplyHead { status, version, fields, persistent, declared })
}

/// A field's name; those of nearly every reply are known by their usual spelling, at a tenth of the price.
fn field_name(name: &[u8]) -> Result<HeaderName, Malformed> {
    Ok(match name {
        b"Content-Type" => CONTENT_TYPE,
        b"Content-Length" => CONTENT_LENGTH,
        b"Date" => DATE,
        b"Connection" => CONNECTION,
        b"Server" => SERVER,
        b"Cache-Control" => CACHE_CONTROL,
        _ => HeaderName::from_bytes(name).map_err(|_| Malformed("invalid field name"))?,
    })
}

/// A field's value as a part of the shared copy of the head.
fn value_within(shared: &Bytes, head: &[u8], value: &[u8]) -> Result<HeaderValue, Malformed> {
    // httparse gives empty values a place of its own.
    let bytes = if value.is_empty() {
        Bytes::new()
    } else {
        let from = value.as_ptr().addr().wrapping_sub(head.as_ptr().addr());
        match from.checked_add(value.len()) {
            Some(to) if to <= shared.len() => shared.slice(from..to),
            _ => Bytes::copy_from_slice(value),
        }
    };
    HeaderValue::from_maybe_shared(bytes).map_err(|_| Malformed("invalid field value"))
}

fn rule_broken(fault: httparse::Error) -> &'static str {
    match fault {
        httparse::Error::HeaderName => "invalid field name",
        httparse::Error::HeaderValue => "invalid field value",
        httparse::Error::NewLine => "CR without LF in the head",
        httparse::Error::Status => "malformed status line",
        httparse::Error::Token => "malformed field",
        httparse::Error::TooManyHeaders => "more than 100 fields",
        httparse::Error::Version => "not HTTP/1.0 or HTTP/1.1",
    }
}

// === impl ReplyHead ===

impl ReplyHead {
    /// Where the body ends, given whether the request was a HEAD (RFC 9112 §6.3, points 1 to 8).
    pub fn framing(&self, request_was_head: bool) -> Framing {
        let bodiless = request_was_head
            || self.status.is_informational()
            || self.status == StatusCode::NO_CONTENT
            || self.status == StatusCode::NOT_MODIFIED;
        if bodiless { Framing::Length(0) } else { self.declared }
    }
}

// === impl HeadScan ===

impl HeadScan {
    /// The length of the head at the start of `input`, once all of it is there. `input` is what it was at the last
    /// call, with more behind it.
    pub(super) fn end_of_head(&mut self, input: &[u8]) -> Result<Option<usize>, Malformed> {
        let first = self.looked_at;
        for found in memchr::memchr_iter(b'\n', input.get(first..).unwrap_or_default()) {
            let at = first + found;
            let Some(b'\r') = at.checked_sub(1).and_then(|before| input.get(before)) else {
                return Err(Malformed("LF without CR in the head"));
            };
            if at == self.line_start + 1 {
                return match self.line_start {
                    0 => Err(Malformed("empty line before the status line")),
                    _ if at >= HEAD_BYTES_MAX => Err(Malformed("head is longer than 64 KiB")),
                    _ => Ok(Some(at + 1)),
                };
            }
            self.line_start = at + 1;
        }
        self.looked_at = input.len();
        if input.len() >= HEAD_BYTES_MAX { Err(Malformed("head is longer than 64 KiB")) } else { Ok(None) }
    }
}

/// What the fields say about framing, collected.
struct Declared {
    framing: Option<Framing>,
    options: Options,
}

/// Whether a field means anything to anyone but the reader of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goes {
    On,
    Nowhere,
}

/// What `Connection` says about the connection.
#[derive(Default)]
struct Options {
    close: bool,
    keep_alive: bool,
}

// === impl Options ===

impl Options {
    fn note(&mut self, value: &[u8]) -> Goes {
        let mut goes = Goes::Nowhere;
        for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if !option.is_empty() {
                goes = Goes::On;
            }
        }
        goes
    }
}

// === impl Declared ===

impl Declared {
    fn note(&mut self, name: &HeaderName, value: &[u8]) -> Result<Goes, Malformed> {
        if *name == CONTENT_LENGTH {
            self.frame(Framing::Length(content_length(value)?))?;
        } else if *name == TRANSFER_ENCODING {
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed("Transfer-Encoding other than chunked"));
            }
            self.frame(Framing::Chunked)?;
            return Ok(Goes::Nowhere);
        } else if *name == CONNECTION {
            return Ok(self.options.note(value));
        }
        Ok(Goes::On)
    }

    /// RFC 9112 §6.3 lets equal repeated lengths pass; a list or a repetition is refused here in any case.
    fn frame(&mut self, framing: Framing) -> Result<(), Malformed> {
        match (self.framing.replace(framing), framing) {
            (None, _) => Ok(()),
            (Some(Framing::Length(_)), Framing::Length(_)) => Err(Malformed("Content-Length twice")),
            (Some(Framing::Chunked), Framing::Chunked) => Err(Malformed("Transfer-Encoding twice")),
            (Some(_), _) => Err(Malformed("both Content-Length and Transfer-Encoding")),
        }
    }
}

/// Digits and nothing else (RFC 9110 §8.6), and no more than fit.
pub(super) fn content_length(value: &[u8]) -> Result<u64, Malformed> {
    let fault = Malformed("invalid Content-Length");
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(fault);
    }
    value.iter().try_fold(0_u64, |sum, digit| {
        sum.checked_mul(10).and_then(|sum| sum.checked_add(u64::from(digit - b'0'))).ok_or(fault)
    })
}

/// nginx stops at 8 KiB a line by default and browsers at 256 KiB; WeChat sends less than 1 KiB.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;

/// In one head.
pub(super) const FIELDS_MAX: usize = 100;

#[cfg(test)]
mod tests;
