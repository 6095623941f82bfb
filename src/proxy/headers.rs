//! Which fields travel: hop-by-hop fields, credentials and what describes the client's network stay here.
//!
//! RFC 9110 §7.6.1: an intermediary removes `Connection`, every field it names, and the fields that older software
//! uses without naming them.

use bytes::BufMut;
use http::header::{CONNECTION, HeaderMap, MAX_FORWARDS};
use http::{HeaderName, HeaderValue};

/// The fields that `Connection` names, if it names any beyond `close` and `keep-alive`.
#[derive(Debug, Default)]
pub(super) struct Nominated(Vec<String>);

// === impl Nominated ===

impl Nominated {
    /// Reads every `Connection` field. Nearly always nothing is allocated.
    pub(super) fn by(headers: &HeaderMap) -> Self {
        let mut names = Vec::new();
        for value in headers.get_all(CONNECTION) {
            if is_usual(value.as_bytes()) {
                continue;
            }
            let listed = value.to_str().unwrap_or_default().split(',').map(str::trim);
            names.extend(listed.filter(|name| !is_usual(name.as_bytes())).map(str::to_ascii_lowercase));
        }
        Self(names)
    }

    fn names(&self, name: &HeaderName) -> bool {
        self.0.iter().any(|nominated| nominated == name.as_str())
    }
}

fn is_usual(name: &[u8]) -> bool {
    name.is_empty() || name.eq_ignore_ascii_case(b"keep-alive") || name.eq_ignore_ascii_case(b"close")
}

/// Appends the fields of a request that travel on, as `name: value` lines.
///
/// `Host`, `Content-Length`, `Accept-Encoding` and `Via` are the forwarder's to write.
pub(super) fn write_request(headers: &HeaderMap, to: &mut impl BufMut) {
    let nominated = Nominated::by(headers);
    for (name, value) in headers {
        if stays_here(name) || nominated.names(name) {
            continue;
        }
        if name == MAX_FORWARDS {
            write_one_less(value, to);
            continue;
        }
        write_line(name.as_str(), value.as_bytes(), to);
    }
}

/// `Max-Forwards` counts down from hop to hop (RFC 9110 §7.6.2); what is no number is not passed on.
fn write_one_less(value: &HeaderValue, to: &mut impl BufMut) {
    let left = value.to_str().ok().and_then(|text| text.parse::<u32>().ok());
    if let Some(left) = left.and_then(|left| left.checked_sub(1)) {
        write_line(MAX_FORWARDS.as_str(), itoa::Buffer::new().format(left).as_bytes(), to);
    }
}

/// Appends one field.
pub(super) fn write_line(name: &str, value: &[u8], to: &mut impl BufMut) {
    to.put_slice(name.as_bytes());
    to.put_slice(b": ");
    to.put_slice(value);
    to.put_slice(b"\r\n");
}

/// Takes out of a reply what was between WeChat and us, and what only weigate may say.
pub(super) fn scrub_reply(headers: &mut HeaderMap<HeaderValue>) {
    let nominated = Nominated::by(headers);
    let goes = |name: &&HeaderName| ends_here(name) || nominated.names(name);
    // One look at the names is cheaper than a look-up for each name that could be there.
    let gone: Vec<HeaderName> = headers.keys().filter(goes).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
}

/// Whether a reply's field never reaches the client.
fn ends_here(name: &HeaderName) -> bool {
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
/// stays where its twin does.
fn stays_here(name: &HeaderName) -> bool {
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
        let mut to = Vec::new();
        write_request(&headers, &mut to);
        String::from_utf8(to).unwrap()
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
