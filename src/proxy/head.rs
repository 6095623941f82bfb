//! Whether a request's head is one that can be served: what hyper, a library for clients and origins alike, leaves
//! to the proxy above it.

use std::net::Ipv6Addr;

use http::header::{EXPECT, HOST, MAX_FORWARDS, TRANSFER_ENCODING, VIA};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Version};

use super::refusal::Refusal;

/// Refuses a head that another server might read differently, that asks for a tunnel, or that has been here before.
///
/// `pseudonym` is this process's name in `Via`.
pub(super) fn check(head: &Parts, pseudonym: &str) -> Result<(), Refusal> {
    // CONNECT asks for a tunnel; TRACE would send the token back (RFC 9110 §9.3.6, §9.3.8).
    if head.method == Method::CONNECT || head.method == Method::TRACE {
        return Err(Refusal::Method);
    }
    // `*` asks about the server, and only `OPTIONS` can (RFC 9112 §3.2.4).
    if head.uri.path() == "*" && head.method != Method::OPTIONS {
        return Err(Refusal::MalformedRequest("the request target is not one for this method"));
    }
    check_host(head)?;
    check_framing(head)?;
    if has_passed(&head.headers, pseudonym) {
        return Err(Refusal::Loop);
    }
    Ok(())
}

/// RFC 9112 §3.2: an HTTP/1.1 request has exactly one valid `Host`. RFC 9113 §8.3.1: it does not contradict
/// `:authority`.
fn check_host(head: &Parts) -> Result<(), Refusal> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::MalformedRequest("more than one Host"));
    }
    if host.is_none() && head.version == Version::HTTP_11 {
        return Err(Refusal::MalformedRequest("no Host"));
    }
    if host.is_some_and(|host| !is_authority(host.as_bytes())) {
        return Err(Refusal::MalformedRequest("not a valid Host"));
    }
    let Some(authority) = head.uri.authority() else { return Ok(()) };
    if authority.as_str().contains('@') {
        return Err(Refusal::MalformedRequest("user information in the request target"));
    }
    if !is_authority(authority.as_str().as_bytes()) {
        return Err(Refusal::MalformedRequest("not a valid authority in the request target"));
    }
    if host.is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes())) {
        return Err(Refusal::MalformedRequest("Host and request target differ"));
    }
    if head.uri.scheme_str().is_some_and(|scheme| scheme != "http" && scheme != "https") {
        return Err(Refusal::MalformedRequest("the request target has a strange scheme"));
    }
    Ok(())
}

/// What hyper takes and another server might not (RFC 9112 §6.1), an expectation nobody can meet (RFC 9110 §10.1.1),
/// and what HTTP/2 carries and HTTP/1 does not: a path that is none, spaces around a value (RFC 9113 §8.2.1).
///
/// Cost: two look-ups, and on HTTP/2 a look at each value's ends.
fn check_framing(head: &Parts) -> Result<(), Refusal> {
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => {}
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {}
        (Some(_), _) => return Err(Refusal::TransferCoding),
    }
    let is_usual = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if !head.headers.get_all(EXPECT).iter().all(is_usual) {
        return Err(Refusal::Expectation);
    }
    if head.version == Version::HTTP_2 {
        // RFC 9113 §8.3.1: `:path` is neither empty nor a query alone.
        if !head.uri.path_and_query().is_some_and(|path| path.as_str().starts_with(['/', '*'])) {
            return Err(Refusal::MalformedRequest("`:path` does not begin with a slash"));
        }
        let is_space = |byte: Option<&u8>| byte.is_some_and(|byte| matches!(byte, b' ' | b'\t'));
        let is_padded = |value: &HeaderValue| {
            let bytes = value.as_bytes();
            is_space(bytes.first()) || is_space(bytes.last())
        };
        if head.headers.values().any(is_padded) {
            return Err(Refusal::MalformedRequest("a field's value begins or ends with a space"));
        }
    }
    Ok(())
}

/// Whether the request is for this server and not for one behind it: `OPTIONS *` (RFC 9110 §9.3.7), or an `OPTIONS`
/// that may not be forwarded (§7.6.2).
pub(super) fn is_for_us(head: &Parts) -> bool {
    head.uri.path() == "*"
        || head.method == Method::OPTIONS
            && head.headers.get(MAX_FORWARDS).is_some_and(|left| left.as_bytes() == b"0")
}

/// `host`, `host:port`, `[v6]:port`; empty is allowed (RFC 9112 §3.2: a target without an authority).
fn is_authority(text: &[u8]) -> bool {
    let (host, port) = match text.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            let (address, port) = rest.split_at(end);
            let is_address = std::str::from_utf8(address).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok());
            (if is_address { &b"v6"[..] } else { &b"/"[..] }, port.get(1..).unwrap_or_default())
        }
        None => text.split_at(text.iter().position(|byte| *byte == b':').unwrap_or(text.len())),
    };
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let is_port = match port.split_first() {
        None => true,
        Some((colon, digits)) => *colon == b':' && digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
    };
    is_port && host.iter().all(is_plain) && (!host.is_empty() || text.is_empty())
}

fn has_passed(headers: &HeaderMap, pseudonym: &str) -> bool {
    let names = |value: &HeaderValue| value.to_str().is_ok_and(|text| text.contains(pseudonym));
    headers.get_all(VIA).iter().any(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_head(
        build: impl FnOnce(http::request::Builder) -> http::request::Builder,
    ) -> Result<(), &'static str> {
        let (head, ()) = build(http::Request::builder()).body(()).unwrap().into_parts();
        check(&head, "weigate-00c0ffee").map_err(|refusal| refusal.line())
    }

    #[test]
    fn one_valid_host_is_wanted() {
        assert_eq!(check_head(|r| r.uri("/")), Err("no Host"));
        assert_eq!(
            check_head(|r| r.uri("/").header("host", "a").header("host", "a")),
            Err("more than one Host")
        );
        for bad in
            ["a b", "a/b", "a@b", "a,b", "a:b", "a:1:2", ":80", "[::1", "[x]", "[::1]x", "a:123456", "\u{e9}"]
        {
            assert_eq!(check_head(|r| r.uri("/").header("host", bad)), Err("not a valid Host"), "{bad}");
        }
        for good in ["a", "a:80", "[::1]:80", "127.0.0.1", ""] {
            assert_eq!(check_head(|r| r.uri("/").header("host", good)), Ok(()), "{good}");
        }
        assert_eq!(check_head(|r| r.uri("/").version(Version::HTTP_10)), Ok(()));
    }

    #[test]
    fn an_absolute_target_must_agree_with_host() {
        assert_eq!(check_head(|r| r.uri("http://a/x").header("host", "a")), Ok(()));
        assert!(check_head(|r| r.uri("http://evil/x").header("host", "a")).is_err());
        assert!(check_head(|r| r.uri("http://u@a/x").header("host", "a")).is_err());
        assert!(check_head(|r| r.uri("ftp://a/x").header("host", "a")).is_err());
    }

    #[test]
    fn one_transfer_coding_is_known_and_one_expectation() {
        let with = |fields: &[(&str, &str)]| {
            check_head(|r| fields.iter().fold(r.uri("/").header("host", "a"), |r, (n, v)| r.header(*n, *v)))
        };
        assert_eq!(with(&[("transfer-encoding", "Chunked")]), Ok(()));
        for bad in ["chunked, chunked", "gzip, chunked", "identity", ""] {
            assert!(with(&[("transfer-encoding", bad)]).is_err(), "{bad}");
        }
        assert!(with(&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]).is_err());
        assert_eq!(with(&[("expect", "100-Continue")]), Ok(()));
        assert!(with(&[("expect", "100-continue, x")]).is_err());
        assert!(with(&[("expect", "100-continue"), ("expect", "x")]).is_err());
    }

    #[test]
    fn spaces_around_a_value_are_http_1s_alone() {
        for bad in [" x", "x ", "\tx", "x\t"] {
            let h2 = check_head(|r| r.uri("/").version(Version::HTTP_2).header("x-a", bad));
            assert!(h2.is_err(), "{bad:?}");
        }
        assert_eq!(check_head(|r| r.uri("/").version(Version::HTTP_2).header("x-a", "x y")), Ok(()));
    }

    #[test]
    fn tunnels_traces_and_loops_are_refused() {
        assert!(check_head(|r| r.method("CONNECT").uri("a:443").header("host", "a:443")).is_err());
        assert!(check_head(|r| r.method("TRACE").uri("/").header("host", "a")).is_err());
        assert!(
            check_head(|r| r.uri("/").header("host", "a").header("via", "1.1 x, 1.1 weigate-00c0ffee"))
                .is_err()
        );
        assert!(check_head(|r| r.uri("/").header("host", "a").header("via", "1.1 weigate-other")).is_ok());
    }
}
