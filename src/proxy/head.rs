//! Whether a request's head is one that can be served: what hyper, a library for clients and origins alike, leaves
//! to the proxy above it.

use std::net::Ipv6Addr;

use http::header::{HOST, VIA};
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
    check_host(head)?;
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
    if host.is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes())) {
        return Err(Refusal::MalformedRequest("Host and request target differ"));
    }
    if head.uri.scheme_str().is_some_and(|scheme| scheme != "http" && scheme != "https") {
        return Err(Refusal::MalformedRequest("the request target has a strange scheme"));
    }
    Ok(())
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
