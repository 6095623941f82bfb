//! Which fields travel: hop-by-hop fields, credentials and what describes the client's network stay here.
//!
//! RFC 9110 §7.6.1: an intermediary removes `Connection`, every field it names, and the fields that older software
//! uses without naming them.

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH,
    CONTENT_TYPE, COOKIE, DATE, HOST, HeaderMap, MAX_FORWARDS, SERVER, USER_AGENT,
};
use http::{HeaderName, HeaderValue};

/// The fields that `Connection` names, if it names any beyond `close` and `keep-alive`.
#[derive(Debug, Default)]
pub struct Nominated(Vec<String>);

// === impl Nominated ===

impl Nominated {
    /// Reads every `Connection` field.
    pub fn by(headers: &HeaderMap) -> Self {
        let mut nominated = Self::default();
        headers.get_all(CONNECTION).iter().for_each(|value| nominated.note(value));
        nominated
    }

    /// Reads one of the `Connection` fields. Nearly always nothing is allocated.
    pub(super) fn note(&mut self, value: &HeaderValue) {
        if is_usual(value.as_bytes()) {
            return;
        }
        let listed = value.to_str().unwrap_or_default().split(',').map(str::trim);
        self.0.extend(listed.filter(|name| !is_usual(name.as_bytes())).map(str::to_ascii_lowercase));
    }

    fn names(&self, name: &HeaderName) -> bool {
        self.0.iter().any(|nominated| nominated == name.as_str())
    }
}

fn is_usual(name: &[u8]) -> bool {
    name.is_empty() || name.eq_ignore_ascii_case(b"keep-alive") || name.eq_ignore_ascii_case(b"close")
}

/// Where the fields of a request go: the bytes of an HTTP/1.1 head, or a map for HTTP/2.
pub trait Fields {
    /// Appends a field as it came.
    fn copy(&mut self, name: &HeaderName, value: &HeaderValue);

    /// Appends a field whose value is made of `parts`.
    fn add(&mut self, name: &HeaderName, parts: &[&[u8]]);
}

/// Appends the fields of a request that travel on; `nominated` is what its `Connection` names.
///
/// `Host`, `Content-Length`, `Accept-Encoding` and `Via` are the forwarder's to write.
pub fn copy_request(headers: &HeaderMap, nominated: &Nominated, to: &mut impl Fields) {
    for (name, value) in headers {
        if stays_here(name) || nominated.names(name) {
            continue;
        }
        if name == MAX_FORWARDS {
            add_one_less(value, to);
            continue;
        }
        to.copy(name, value);
    }
}

/// `Max-Forwards` counts down from hop to hop (RFC 9110 §7.6.2); what is no number is not passed on.
fn add_one_less(value: &HeaderValue, to: &mut impl Fields) {
    let left = value.to_str().ok().and_then(|text| text.parse::<u32>().ok());
    if let Some(left) = left.and_then(|left| left.checked_sub(1)) {
        to.add(&MAX_FORWARDS, &[itoa::Buffer::new().format(left).as_bytes()]);
    }
}

/// As `name: value` lines.
impl Fields for BytesMut {
    fn copy(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.add(name, &[value.as_bytes()]);
    }

    fn add(&mut self, name: &HeaderName, parts: &[&[u8]]) {
        self.put_slice(name.as_str().as_bytes());
        self.put_slice(b": ");
        for part in parts {
            self.put_slice(part);
        }
        self.put_slice(b"\r\n");
    }
}

impl Fields for HeaderMap {
    fn copy(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.append(name, value.clone());
    }

    fn add(&mut self, name: &HeaderName, parts: &[&[u8]]) {
        // What is added is text of our own.
        if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(parts.concat())) {
            self.append(name, value);
        }
    }
}

/// Takes out of a reply what was between WeChat and us, and what only weigate may say.
pub fn scrub_reply(headers: &mut HeaderMap<HeaderValue>) {
    // One look at the names is cheaper than a look-up for each name that could be there, and mostly there is none.
    if !headers.keys().any(ends_here) {
        return;
    }
    let nominated = Nominated::by(headers);
    let goes = |name: &&HeaderName| ends_here(name) || nominated.names(name);
    let gone: Vec<HeaderName> = headers.keys().filter(goes).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
}

/// Whether a reply's field never reaches the client. Names that most replies have cost a comparison of numbers.
fn ends_here(name: &HeaderName) -> bool {
    if matches!(*name, CONTENT_TYPE | CONTENT_LENGTH | DATE | SERVER | CACHE_CONTROL) {
        return false;
    }
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "transfer-encoding"
            | "trailer"
            | "upgrade"
            | "proxy-authenticate"
    ) || name.as_str().starts_with("x-weigate-")
}

/// Whether a request's field never leaves: framing and hop-by-hop fields, credentials (weigate's own and others
/// that WeChat has no use for), what the forwarder writes itself, and where the client is (RFC 7239 is not WeChat's
/// business).
///
/// A name with `_` for `-` is another name (RFC 9110 §5.1), but not to every server (CGI makes one of both), so it
/// stays where its twin does. Names that most requests have cost a comparison of numbers.
fn stays_here(name: &HeaderName) -> bool {
    match *name {
        HOST | AUTHORIZATION | CONTENT_LENGTH | ACCEPT_ENCODING | CONNECTION => return true,
        ACCEPT | ACCEPT_LANGUAGE | CACHE_CONTROL | CONTENT_TYPE | COOKIE | USER_AGENT => return false,
        _ => {}
    }
    let name = name.as_str();
    is_held_back(name) || name.contains('_') && is_held_back(&name.replace('_', "-"))
}

fn is_held_back(name: &str) -> bool {
    matches!(
        name,
        "host"
            | "content-length"
            | "connection"
            | "keep-alive"
            | "proxy-connection"
            | "transfer-encoding"
            | "te"
            | "trailer"
            | "upgrade"
            | "http2-settings"
            | "expect"
            | "authorization"
            | "proxy-authorization"
            | "proxy-authenticate"
            | "accept-encoding"
            | "via"
            | "forwarded"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-proto"
            | "x-forwarded-port"
            | "x-real-ip"
    ) || name.starts_with("x-weigate-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(fields: &[(&'static str, &'static str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let nominated = Nominated::by(&headers);
        let mut to = BytesMut::new();
        copy_request(&headers, &nominated, &mut to);
        let mut listed = HeaderMap::new();
        copy_request(&headers, &nominated, &mut listed);
        let same = listed.iter().map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap()));
        let text = String::from_utf8(to.to_vec()).unwrap();
        assert_eq!(same.collect::<String>(), text, "both versions send the same");
        text
    }

    #[test]
    fn ordinary_and_unknown_fields_travel_in_order_with_their_bytes() {
        let fields = [
            ("content-type", "application/json"),
            ("wechatmp-signature", "abc=="),
            ("x-many", "1"),
            ("x-many", "2"),
            ("cookie", "a=b"),
        ];
        let expected = "content-type: application/json\r\nwechatmp-signature: abc==\r\nx-many: 1\r\nx-many: 2\r\ncookie: a=b\r\n";
        assert_eq!(sent(&fields), expected);
    }

    #[test]
    fn hop_by_hop_fields_credentials_and_addresses_stay_here() {
        for name in [
            "host",
            "content-length",
            "connection",
            "keep-alive",
            "proxy-connection",
            "transfer-encoding",
            "te",
            "trailer",
            "upgrade",
            "http2-settings",
            "expect",
            "authorization",
            "proxy-authorization",
            "accept-encoding",
            "via",
            "forwarded",
            "x-forwarded-for",
            "x-real-ip",
            "x-weigate-error",
        ] {
            assert_eq!(sent(&[(name, "x")]), "", "{name}");
        }
    }

    #[test]
    fn a_twin_with_underscores_stays_with_its_original() {
        for name in ["content_length", "transfer_encoding", "x_forwarded_for", "x_weigate_error"] {
            assert_eq!(sent(&[(name, "x")]), "", "{name}");
        }
        assert_eq!(sent(&[("my_field", "x")]), "my_field: x\r\n");
    }

    #[test]
    fn max_forwards_counts_down() {
        assert_eq!(sent(&[("max-forwards", "3")]), "max-forwards: 2\r\n");
        for odd in ["0", "-1", "x", "99999999999"] {
            assert_eq!(sent(&[("max-forwards", odd)]), "", "{odd}");
        }
    }

    #[test]
    fn what_connection_names_stays_here_too() {
        let fields = [
            ("connection", "X-Secret , close"),
            ("connection", "x-other"),
            ("x-secret", "1"),
            ("x-other", "2"),
            ("x-third", "3"),
        ];
        assert_eq!(sent(&fields), "x-third: 3\r\n");
    }

    #[test]
    fn a_reply_loses_what_was_between_wechat_and_us() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("x-weigate-error", "forged"),
            ("transfer-encoding", "chunked"),
            ("content-type", "image/jpeg"),
            ("set-cookie", "a=b"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        scrub_reply(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-type", "set-cookie"]);
    }
}
