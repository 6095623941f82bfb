//! HTTP/2 that would be something else as HTTP/1.1 (RFC 9113 §8.2, §8.3, §10.3), and frames out of order.

use std::net::SocketAddr;

use weigate::sandbox::Sandbox;

use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, HEADERS, Raw, SETTINGS, block, fields, frame, get,
};
use super::{brought, is_well};

const TARGET: &str = "/cgi-bin/user/info?openid=probe";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// `RST_STREAM`, GOAWAY, or a status other than 200; nothing at WeChat.
    Refused,
    /// One request at WeChat, with this body.
    Once(&'static str),
    /// The one or the other.
    Either,
}

use Want::{Either, Once, Refused};

pub(crate) struct Probe {
    pub(crate) name: String,
    pub(crate) frames: Vec<u8>,
    pub(crate) want: Want,
}

pub(crate) fn all() -> Vec<Probe> {
    let mut probes = Vec::new();
    added(&mut probes);
    replaced(&mut probes);
    bodies(&mut probes);
    broken_frames(&mut probes);
    probes
}

/// Sends the probe to weigate in front of the sandbox.
pub(crate) async fn judge(address: SocketAddr, wechat: &Sandbox, probe: &Probe) -> Result<(), String> {
    wechat.control().clear_requests();
    let mut raw = Raw::open(address, &[]).await;
    raw.send(&probe.frames).await;
    let is_end = |frame: &Frame| frame.ends(1) || frame.goaway().is_some_and(|code| code != 0);
    let frames = raw.until(is_end).await;
    let is_ok = frames.iter().any(Frame::is_ok);
    drop(raw);
    if !is_well(address).await {
        return Err("the next client is not served".to_owned());
    }
    let mut seen = brought(wechat);
    seen.retain(|request| !request.raw_query.contains("openid=after"));
    let is_refused = !is_ok && seen.is_empty();
    let is_harmless = |body: &str| {
        let [request] = &*seen else { return false };
        let is_clean = |(name, value): &(String, String)| {
            let is_hop = ["connection", "te", "transfer-encoding", "upgrade", "expect", "trailer"]
                .contains(&name.as_str());
            !is_hop && !value.contains(['\r', '\n', '\0']) && name != "injected"
        };
        is_ok
            && request.path == "/cgi-bin/user/info"
            && request.query.iter().filter(|(name, _)| name != "access_token").count() == 1
            && request.body_head == body
            && request.headers.iter().all(is_clean)
    };
    let is_right = match probe.want {
        Want::Refused => is_refused,
        Want::Once(body) => is_harmless(body),
        Want::Either => is_refused || is_harmless(""),
    };
    if is_right { Ok(()) } else { Err(format!("{frames:?} {seen:?}")) }
}

fn probe(to: &mut Vec<Probe>, name: &str, frames: Vec<u8>, want: Want) {
    to.push(Probe { name: name.to_owned(), frames, want });
}

fn request(fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(fields))
}

/// One field more than a good request has.
fn added(to: &mut Vec<Probe>) {
    let rows: &[(&[u8], &[u8], Want)] = &[
        (b"x-a", b"1\r2", Refused),
        (b"x-a", b"1\n2", Refused),
        (b"x-a", b"1\x002", Refused),
        (b"x-a", b"1\r\ninjected: 1", Refused),
        (b"x-a", b"1\r\n\r\nGET /cgi-bin/smuggled HTTP/1.1\r\nhost: w\r\n\r\n", Refused),
        (b"x-a", b" 1", Refused),
        (b"x-a", b"1 ", Refused),
        (b"x-a", b"\t1", Refused),
        (b"x-a", b"1\t", Refused),
        (b"x-a", b"1\x012", Either),
        (b"x-a", b"1\x7f2", Either),
        (b"x-a", b"\xe9\xff", Once("")),
        (b"x-a", b"", Once("")),
        (b"x-a\r\ninjected: 1\r\nx-b", b"1", Refused),
        (b"x-a\n", b"1", Refused),
        (b"x-a\0", b"1", Refused),
        (b"x a", b"1", Refused),
        (b"x-a ", b"1", Refused),
        (b"x:a", b"1", Refused),
        (b"X-A", b"1", Refused),
        (b"x-A", b"1", Refused),
        (b"", b"1", Refused),
        (b"x\x7fa", b"1", Refused),
        (b"x\xe9a", b"1", Refused),
        (b"x(a", b"1", Refused),
        (b"connection", b"close", Refused),
        (b"connection", b"x-a", Refused),
        (b"keep-alive", b"timeout=5", Refused),
        (b"proxy-connection", b"keep-alive", Refused),
        (b"transfer-encoding", b"chunked", Refused),
        (b"transfer-encoding", b"identity", Refused),
        (b"transfer_encoding", b"chunked", Once("")),
        (b"upgrade", b"h2c", Refused),
        (b"te", b"gzip", Refused),
        (b"te", b"trailers", Once("")),
        (b"host", b"w", Once("")),
        (b"host", b"evil.test", Refused),
        (b"host", b"w\r\ninjected: 1", Refused),
        (b"expect", b"100-continue", Once("")),
        (b"expect", b"a miracle", Refused),
        (b"content-length", b"5", Refused),
        (b"content-length", b"+0", Refused),
        (b"content-length", b"0", Once("")),
        (b":method", b"GET", Refused),
        (b":path", b"/", Refused),
        (b":scheme", b"http", Refused),
        (b":authority", b"w", Refused),
        (b":status", b"200", Refused),
        (b":unknown", b"1", Refused),
        (b":protocol", b"websocket", Refused),
        (b":", b"1", Refused),
    ];
    for (name, value, want) in rows {
        let mut fields = fields("GET", TARGET);
        // Pseudo-headers come first; that others do not is a fault of its own, below.
        let place = if name.starts_with(b":") { 0 } else { fields.len() };
        fields.insert(place, (name.to_vec(), value.to_vec()));
        let name = format!("{}: {}", name.escape_ascii(), value.escape_ascii());
        probe(to, &name, request(&fields), *want);
    }
    misplaced(to);
}

/// Fields in an order, or in a number, that a good request does not have.
fn misplaced(to: &mut Vec<Probe>) {
    let mut late = fields("GET", TARGET);
    late.swap(3, 4);
    probe(to, "a pseudo-header after a field", request(&late), Refused);
    let mut two = fields("GET", TARGET);
    two.extend([(b"host".to_vec(), b"w".to_vec()), (b"host".to_vec(), b"w".to_vec())]);
    probe(to, "two hosts", request(&two), Refused);
    let mut many = fields("GET", TARGET);
    many.extend((0..20_000).map(|_| (b"x".to_vec(), b"1".to_vec())));
    let block = block(&many);
    let mut frames = frame(HEADERS, END_STREAM, 1, &block[..16_000]);
    for piece in block[16_000..].chunks(16_000) {
        frames.extend(frame(CONTINUATION, 0, 1, piece));
    }
    frames.extend(frame(CONTINUATION, END_HEADERS, 1, b""));
    probe(to, "20,000 fields", frames, Refused);
}

/// A pseudo-header other than a good request's; empty with `None` for none.
fn replaced(to: &mut Vec<Probe>) {
    let rows: &[(&str, Option<&[u8]>, Want)] = &[
        (":method", None, Refused),
        (":method", Some(b""), Refused),
        (":method", Some(b"GE T"), Refused),
        (":method", Some(b"GET\r\ninjected: 1"), Refused),
        (":method", Some(b"GET /cgi-bin/smuggled HTTP/1.1"), Refused),
        (":method", Some(b"CONNECT"), Refused),
        (":method", Some(b"TRACE"), Refused),
        (":method", Some(b"get"), Either),
        (":scheme", None, Refused),
        (":scheme", Some(b""), Refused),
        (":scheme", Some(b"ftp"), Refused),
        (":scheme", Some(b"file"), Refused),
        (":scheme", Some(b"http://evil.test/?"), Refused),
        (":scheme", Some(b"http\r\ninjected: 1"), Refused),
        (":scheme", Some(b"https"), Once("")),
        (":authority", None, Either),
        (":authority", Some(b""), Either),
        (":authority", Some(b"u@w"), Refused),
        (":authority", Some(b"u:p@w"), Refused),
        (":authority", Some(b"w/x"), Refused),
        (":authority", Some(b"w?x"), Refused),
        (":authority", Some(b"w x"), Refused),
        (":authority", Some(b"w:x"), Refused),
        (":authority", Some(b"w\r\ninjected: 1"), Refused),
        (":path", None, Refused),
        (":path", Some(b""), Refused),
        (":path", Some(b"*"), Refused),
        (":path", Some(b"cgi-bin/user/info?openid=probe"), Refused),
        (":path", Some(b"?openid=probe"), Refused),
        (":path", Some(b"http://evil.test/cgi-bin/user/info?openid=probe"), Refused),
        (":path", Some(b"evil.test:80"), Refused),
        (":path", Some(b"@evil.test/"), Refused),
        (":path", Some(b":80@evil.test/"), Refused),
        (":path", Some(b"/cgi-bin/user/info?openid=probe#x"), Either),
        (":path", Some(b"/cgi-bin/user/info ?openid=probe"), Refused),
        (":path", Some(b"/cgi-bin/user/info?openid=probe HTTP/1.1\r\ninjected: 1\r\nx:"), Refused),
        (":path", Some(b"/cgi-bin/user/info?openid=probe\r\n"), Refused),
        (":path", Some(b"/cgi-bin/user/info?openid=probe\n"), Refused),
        (":path", Some(b"/cgi-bin/user/info\0"), Refused),
        (":path", Some(b"/cgi-bin/user/\x7f"), Refused),
        (":path", Some(b"/cgi-bin/../cgi-bin/user/info"), Refused),
        (":path", Some(b"/cgi-bin\\user\\info"), Refused),
    ];
    for (name, value, want) in rows {
        let mut fields = fields("GET", TARGET);
        let place = fields.iter().position(|(key, _)| key == name.as_bytes()).unwrap();
        match value {
            Some(value) => fields[place].1 = value.to_vec(),
            None => drop(fields.remove(place)),
        }
        let name = format!("{name} {:?}", value.map(|value| value.escape_ascii().to_string()));
        probe(to, &name, request(&fields), *want);
    }
    let tunnel = [(":method", "CONNECT"), (":authority", "evil.test:443")];
    probe(to, "a tunnel", frame(HEADERS, END_HEADERS, 1, &block(&tunnel)), Refused);
}

fn bodies(to: &mut Vec<Probe>) {
    let post = |more: &[(&str, &str)]| {
        let mut fields = fields("POST", TARGET);
        fields.extend(more.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())));
        frame(HEADERS, END_HEADERS, 1, &block(&fields))
    };
    let data = |flags, text: &str| frame(DATA, flags, 1, text.as_bytes());
    let trailers = |flags, fields: &[(&str, &str)]| frame(HEADERS, flags | END_HEADERS, 1, &block(fields));
    let cases: [(&str, Vec<Vec<u8>>, Want); 15] = [
        (
            "a body of its length",
            vec![post(&[("content-length", "5")]), data(END_STREAM, "hello")],
            Once("hello"),
        ),
        ("a body without a length", vec![post(&[]), data(0, "hel"), data(END_STREAM, "lo")], Once("hello")),
        ("shorter than said", vec![post(&[("content-length", "6")]), data(END_STREAM, "hello")], Refused),
        ("longer than said", vec![post(&[("content-length", "4")]), data(END_STREAM, "hello")], Refused),
        ("nothing, though said", vec![post(&[("content-length", "5")]), data(END_STREAM, "")], Refused),
        (
            "something, though said not",
            vec![post(&[("content-length", "0")]), data(END_STREAM, "hello")],
            Refused,
        ),
        (
            "two lengths",
            vec![post(&[("content-length", "5"), ("content-length", "6")]), data(END_STREAM, "hello")],
            Refused,
        ),
        ("a list of lengths", vec![post(&[("content-length", "5, 5")]), data(END_STREAM, "hello")], Refused),
        ("trailers", vec![post(&[]), data(0, "hello"), trailers(END_STREAM, &[("x-a", "1")])], Once("hello")),
        (
            "trailers that frame",
            vec![post(&[]), data(0, "hello"), trailers(END_STREAM, &[("content-length", "9")])],
            Once("hello"),
        ),
        (
            "pseudo-headers in trailers",
            vec![post(&[]), data(0, "hello"), trailers(END_STREAM, &[(":path", "/x")])],
            // h2 takes them out and says nothing; no trailer goes further than that.
            Once("hello"),
        ),
        (
            "upper case in trailers",
            vec![post(&[]), data(0, "hello"), trailers(END_STREAM, &[("X-A", "1")])],
            Refused,
        ),
        (
            "a hop's field in trailers",
            vec![post(&[]), data(0, "hello"), trailers(END_STREAM, &[("connection", "x")])],
            Refused,
        ),
        (
            "trailers that are not the end",
            vec![post(&[]), data(0, "hello"), trailers(0, &[("x-a", "1")])],
            Refused,
        ),
        (
            "reset before its end",
            vec![post(&[]), data(0, "hello"), super::frames::reset(1), frame(7, 0, 9, &[0; 8])],
            Refused,
        ),
    ];
    for (name, frames, want) in cases {
        probe(to, name, frames.concat(), want);
    }
}

fn broken_frames(to: &mut Vec<Probe>) {
    let good = block(&fields("GET", TARGET));
    let both = END_HEADERS | END_STREAM;
    let whole = get(1, TARGET);
    for (name, frames) in [
        ("HEADERS on stream 0", frame(HEADERS, both, 0, &good)),
        ("HEADERS on an even stream", frame(HEADERS, both, 2, &good)),
        ("DATA on an idle stream", frame(DATA, 0, 1, b"hello")),
        ("DATA on stream 0", frame(DATA, 0, 0, b"hello")),
        ("a lone CONTINUATION", frame(CONTINUATION, END_HEADERS, 1, &good)),
        (
            "a frame between HEADERS and CONTINUATION",
            [frame(HEADERS, END_STREAM, 1, &good), frame(6, 0, 0, &[0; 8])].concat(),
        ),
        ("a frame that is too long", frame(DATA, 0, 1, &vec![0; 20_000])),
        ("padding longer than the frame", frame(HEADERS, both | 8, 1, &[&[255], &good[..]].concat())),
        ("an index that is not there", frame(HEADERS, both, 1, &[0xff, 0xff, 0x7f])),
        ("index 0", frame(HEADERS, both, 1, &[0x80])),
        (
            "a table that is too large",
            frame(HEADERS, both, 1, &[&[0x3f, 0xff, 0xff, 0x7f], &good[..]].concat()),
        ),
        ("HPACK cut short", frame(HEADERS, both, 1, &good[..good.len() - 3])),
        ("PUSH_PROMISE", frame(5, END_HEADERS, 1, &[&[0, 0, 0, 2], &good[..]].concat())),
        ("SETTINGS of 5 bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        ("SETTINGS on a stream", frame(SETTINGS, 0, 1, &[0; 6])),
        ("a window of 2^31", frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0])),
        ("PING of 7 bytes", frame(6, 0, 0, &[0; 7])),
        ("a window update of 0", frame(8, 0, 0, &[0; 4])),
        (
            "windows beyond 2^31",
            [frame(8, 0, 0, &[0x7f, 255, 255, 255]), frame(8, 0, 0, &[0x7f, 255, 255, 255])].concat(),
        ),
    ] {
        probe(to, name, frames, Refused);
    }
    probe(to, "a frame of no known kind, before", [frame(99, 255, 7, b"x"), whole].concat(), Once(""));
}
