//! HTTP/1.1 requests that two servers might read in different ways (RFC 9110, RFC 9112; reliability.md §4).

mod bodies;
mod fields;
mod heads;
mod judge;

pub(crate) use judge::judge;

use super::{get_head, head, post_head};

/// What may come of a probe. In every case the server closes, and a request after it on a connection of its own works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// 4xx or 5xx or nothing, and nothing at WeChat.
    Refused,
    /// The same, once the client has closed its side: the server may wait for the rest.
    RefusedAtEnd,
    /// Answered with 200, and nothing at WeChat.
    Here,
    /// One request at WeChat, with this body.
    Once(&'static str),
    /// One request at WeChat with this body, and the server closes by itself: nothing after it is served.
    OnceThenClosed(&'static str),
    /// Two requests, answered in order.
    Twice,
    /// `Refused` or `Once("")`: RFC 9112 leaves the choice.
    Either,
}

pub(crate) struct Probe {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) want: Want,
}

use Want::{Once, OnceThenClosed, Refused, Twice};

/// What must never be served.
const SMUGGLED: &str =
    "GET /cgi-bin/smuggled HTTP/1.1\r\nHost: w\r\nAuthorization: Bearer wgk_canary-client-key-7d1e\r\n\r\n";

pub(crate) fn all() -> Vec<Probe> {
    let mut probes = Vec::new();
    heads::request_lines(&mut probes);
    heads::targets(&mut probes);
    fields::fields(&mut probes);
    fields::hosts(&mut probes);
    bodies::lengths(&mut probes);
    bodies::codings(&mut probes);
    bodies::chunks(&mut probes);
    bodies::trailers(&mut probes);
    fields::hop_by_hop(&mut probes);
    sequences(&mut probes);
    sizes(&mut probes);
    probes
}

fn probe(to: &mut Vec<Probe>, name: impl Into<String>, bytes: impl Into<Vec<u8>>, want: Want) {
    to.push(Probe { name: name.into(), bytes: bytes.into(), want });
}

fn sequences(to: &mut Vec<Probe>) {
    let good = get_head("");
    probe(to, "two good ones", format!("{good}{good}"), Twice);
    probe(to, "a body, then a good one", format!("{}hello{good}", post_head("Content-Length: 5\r\n")), Twice);
    probe(
        to,
        "chunks, then a good one",
        format!("{}0\r\n\r\n{good}", post_head("Transfer-Encoding: chunked\r\n")),
        Twice,
    );
    for (name, bad) in [
        ("a bad line", "GET / HTTP/9\r\n\r\n"),
        ("a bad field", "GET / HTTP/1.1\r\nHost: w\r\nX : 1\r\n\r\n"),
        ("no Host", "GET /cgi-bin/user/info HTTP/1.1\r\n\r\n"),
        ("two Hosts", "GET /cgi-bin/user/info HTTP/1.1\r\nHost: w\r\nHost: w\r\n\r\n"),
        ("garbage", "\0\0\0\0"),
        ("a preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ] {
        probe(to, format!("a good one, then {name}"), format!("{good}{bad}{SMUGGLED}"), OnceThenClosed(""));
    }
    let refused = format!("{}{SMUGGLED}", "GET /cgi-bin/user/info HTTP/1.1\r\nHost: w\r\nHost: v\r\n\r\n");
    probe(to, "nothing is served after a head that is not understood", refused, Refused);
    probe(
        to,
        "nor after a close",
        format!("{}{SMUGGLED}", get_head("Connection: close\r\n")),
        OnceThenClosed(""),
    );
    let old = head("GET /cgi-bin/user/info?openid=probe HTTP/1.0", "");
    probe(to, "nor after HTTP/1.0", format!("{old}{SMUGGLED}"), OnceThenClosed(""));
}

fn sizes(to: &mut Vec<Probe>) {
    let long = "x".repeat(1 << 20);
    probe(to, "a line of 1 MB", format!("GET /{long} HTTP/1.1\r\nHost: w\r\n\r\n"), Refused);
    probe(to, "a query of 20 kB", head(&format!("GET /x?{} HTTP/1.1", "x".repeat(20_000)), ""), Refused);
    probe(to, "a value of 1 MB", get_head(&format!("X: {long}\r\n")), Refused);
    probe(to, "a name of 1 MB", get_head(&format!("{long}: 1\r\n")), Refused);
    probe(to, "a method of 1 MB", format!("{long} / HTTP/1.1\r\nHost: w\r\n\r\n"), Refused);
    probe(to, "20,000 fields", get_head(&"X: 1\r\n".repeat(20_000)), Refused);
    probe(to, "101 fields", get_head(&"X: 1\r\n".repeat(99)), Refused);
    probe(to, "98 fields", get_head(&"X: 1\r\n".repeat(96)), Once(""));
    probe(to, "a fold of 1 MB", get_head(&format!("X: 1\r\n {long}\r\n")), Refused);
}
