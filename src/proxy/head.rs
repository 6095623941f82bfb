//! Whether a request's head is one that can be served: what hyper, a library for clients and origins alike, leaves
//! to the proxy above it.

use std::net::Ipv6Addr;

use http::header::{AUTHORIZATION, CONNECTION, EXPECT, HOST, MAX_FORWARDS, TRANSFER_ENCODING, VIA};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Version};

use super::headers::Nominated;
use super::refusal::Refusal;

/// What the way asks of a head that can be served.
#[derive(Debug)]
pub(super) struct Checked<'a> {
    /// The first `Authorization`.
    pub(super) authorization: Option<&'a HeaderValue>,
    /// What `Connection` names.
    pub(super) nominated: Nominated,
}

/// Refuses a head that another server might read differently, that asks for a tunnel, or that has been here before.
///
/// `pseudonym` is this process's name in `Via`. Cost: one pass over the fields.
pub(super) fn check<'a>(head: &'a Parts, pseudonym: &str) -> Result<Checked<'a>, Refusal> {
    // CONNECT asks for a tunnel; TRACE would send the token back (RFC 9110 §9.3.6, §9.3.8).
    if head.method == Method::CONNECT || head.method == Method::TRACE {
        return Err(Refusal::Method);
    }
    // `*` asks about the server, and only `OPTIONS` can (RFC 9112 §3.2.4).
    if head.uri.path() == "*" && head.method != Method::OPTIONS {
        return Err(Refusal::MalformedRequest("the request target is not one for this method"));
    }
    let seen = Seen::of(&head.headers, pseudonym);
    check_host(head, &seen)?;
    if !seen.is_framed_well {
        return Err(Refusal::TransferCoding);
    }
    if !seen.is_expectation_met {
        return Err(Refusal::Expectation);
    }
    if head.version == Version::HTTP_2 {
        check_h2(head)?;
    }
    if seen.has_been_here {
        return Err(Refusal::Loop);
    }
    Ok(Checked { authorization: seen.authorization, nominated: seen.nominated })
}

/// What one pass over the fields has shown.
struct Seen<'a> {
    host: Option<&'a HeaderValue>,
    hosts: usize,
    authorization: Option<&'a HeaderValue>,
    nominated: Nominated,
    /// At most one transfer coding, `chunked`: what hyper takes and another server might not (RFC 9112 §6.1).
    is_framed_well: bool,
    /// No expectation that nobody can meet (RFC 9110 §10.1.1).
    is_expectation_met: bool,
    has_been_here: bool,
}

// === impl Seen ===

impl<'a> Seen<'a> {
    fn of(headers: &'a HeaderMap, pseudonym: &str) -> Self {
        let mut seen = Self {
            host: None,
            hosts: 0,
            authorization: None,
            nominated: Nominated::default(),
            is_framed_well: true,
            is_expectation_met: true,
            has_been_here: false,
        };
        let mut codings = 0;
        for (name, value) in headers {
            match *name {
                HOST => {
                    seen.host.get_or_insert(value);
                    seen.hosts += 1;
                }
                AUTHORIZATION => {
                    seen.authorization.get_or_insert(value);
                }
                CONNECTION => seen.nominated.note(value),
                TRANSFER_ENCODING => {
                    codings += 1;
                    seen.is_framed_well &= codings == 1 && is(value, b"chunked");
                }
                EXPECT => seen.is_expectation_met &= is(value, b"100-continue"),
                VIA => seen.has_been_here |= value.to_str().is_ok_and(|text| text.contains(pseudonym)),
                _ => {}
            }
        }
        seen
    }
}

fn is(value: &HeaderValue, word: &[u8]) -> bool {
    value.as_bytes().eq_ignore_ascii_case(word)
}

/// RFC 9112 §3.2: an HTTP/1.1 request has exactly one valid `Host`. RFC 9113 §8.3.1: it does not contradict
/// `:authority`.
fn check_host(head: &Parts, seen: &Seen<'_>) -> Result<(), Refusal> {
    if seen.hosts > 1 {
        return Err(Refusal::MalformedRequest("more than one Host"));
    }
    if seen.hosts == 0 && head.version == Version::HTTP_11 {
        return Err(Refusal::MalformedRequest("no Host"));
    }
    if seen.host.is_some_and(|host| !is_authority(host.as_bytes())) {
        return Err(Refusal::MalformedRequest("not a valid Host"));
    }
    let Some(authority) = head.uri.authority() else { return Ok(()) };
    if authority.as_str().contains('@') {
        return Err(Refusal::MalformedRequest("user information in the request target"));
    }
    if !is_authority(authority.as_str().as_bytes()) {
        return Err(Refusal::MalformedRequest("not a valid authority in the request target"));
    }
    if seen.host.is_some_and(|host| !is(host, authority.as_str().as_bytes())) {
        return Err(Refusal::MalformedRequest("Host and request target differ"));
    }
    if head.uri.scheme_str().is_some_and(|scheme| scheme != "http" && scheme != "https") {
        return Err(Refusal::MalformedRequest("the request target has a strange scheme"));
    }
    Ok(())
}

/// What HTTP/2 carries and HTTP/1 does not: a path that is none (RFC 9113 §8.3.1: neither empty nor a query alone), spaces
/// around a value (§8.2.1).
fn check_h2(head: &Parts) -> Result<(), Refusal> {
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
    let is_port = match port.split_first() {
        None => true,
        Some((colon, digits)) => *colon == b':' && digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
    };
    is_port && is_name(host) && (!host.is_empty() || text.is_empty())
}

/// Whether these are the bytes of names and IPv4 addresses: RFC 3986's unreserved. Every request has a `Host`: of 17 bytes
/// all of [`is_authority`] takes 254 instructions (callgrind), and took 237 with a table.
fn is_name(host: &[u8]) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() | matches!(byte, b'-' | b'.' | b'_' | b'~');
    host.iter().fold(true, |all, byte| all & is_plain(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_head(
        build: impl FnOnce(http::request::Builder) -> http::request::Builder,
    ) -> Result<(), &'static str> {
        let (head, ()) = build(http::Request::builder()).body(()).unwrap().into_parts();
        check(&head, "weigate-00c0ffee").map(drop).map_err(|refusal| refusal.line())
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
