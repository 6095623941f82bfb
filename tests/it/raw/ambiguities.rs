//! HTTP/1.1 requests that two servers might read in different ways (RFC 9110, RFC 9112; reliability.md §4).

use super::{get_head, head, post_head};
use crate::harness::CLIENT_KEY;

/// What may come of a probe. In every case the server closes, and a request after it on a connection of its own works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
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

pub(super) struct Probe {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    pub(super) want: Want,
}

use Want::{Either, Here, Once, OnceThenClosed, Refused, RefusedAtEnd, Twice};

/// What must never be served.
const SMUGGLED: &str =
    "GET /cgi-bin/smuggled HTTP/1.1\r\nHost: w\r\nAuthorization: Bearer wgk_canary-client-key-7d1e\r\n\r\n";

pub(super) fn all() -> Vec<Probe> {
    let mut probes = Vec::new();
    request_lines(&mut probes);
    targets(&mut probes);
    fields(&mut probes);
    hosts(&mut probes);
    lengths(&mut probes);
    codings(&mut probes);
    chunks(&mut probes);
    trailers(&mut probes);
    hop_by_hop(&mut probes);
    sequences(&mut probes);
    sizes(&mut probes);
    probes
}

fn probe(to: &mut Vec<Probe>, name: impl Into<String>, bytes: impl Into<Vec<u8>>, want: Want) {
    to.push(Probe { name: name.into(), bytes: bytes.into(), want });
}

fn request_lines(to: &mut Vec<Probe>) {
    let t = "/cgi-bin/user/info?openid=probe";
    for line in [
        format!("GET  {t} HTTP/1.1"),
        format!("GET {t}  HTTP/1.1"),
        format!("GET\t{t}\tHTTP/1.1"),
        format!(" GET {t} HTTP/1.1"),
        format!("GET {t} HTTP/1.1 "),
        format!("GET {t} HTTP/1.1 x"),
        format!("GET {t}"),
        format!("GET {t} "),
        format!("GET {t} HTTP/0.9"),
        format!("GET {t} HTTP/1"),
        format!("GET {t} HTTP/1.2"),
        format!("GET {t} HTTP/1.10"),
        format!("GET {t} HTTP/2.0"),
        format!("GET {t} HTTP/3"),
        format!("GET {t} http/1.1"),
        format!("GET {t} HTTP/01.1"),
        format!("GET {t} HTTPS/1.1"),
        format!("GET {t} HTTP/1,1"),
        format!("GE\0T {t} HTTP/1.1"),
        format!("G\u{7f}T {t} HTTP/1.1"),
        format!("GET/ {t} HTTP/1.1"),
        format!("(GET) {t} HTTP/1.1"),
        format!("{t} HTTP/1.1"),
        format!("GET {t}\rHTTP/1.1"),
        "HTTP/1.1 200 OK".to_owned(),
        "HTTP/1.1 100 Continue".to_owned(),
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2".to_owned(),
        format!("CONNECT {t} HTTP/1.1"),
        "CONNECT evil.test:443 HTTP/1.1".to_owned(),
        "CONNECT w:80 HTTP/1.1".to_owned(),
        format!("TRACE {t} HTTP/1.1"),
    ] {
        probe(to, format!("{line:?}"), head(&line, ""), Refused);
    }
    probe(to, "lower-case method", head(&format!("get {t} HTTP/1.1"), ""), Either);
    probe(to, "an empty line before", format!("\r\n{}", get_head("")), Once(""));
    probe(to, "HTTP/1.0", head(&format!("GET {t} HTTP/1.0"), ""), Once(""));
    probe(to, "bare LF everywhere", get_head("").replace("\r\n", "\n"), Either);
    probe(to, "bare CR everywhere", get_head("").replace("\r\n", "\r"), RefusedAtEnd);
    probe(to, "LF CR everywhere", get_head("").replace("\r\n", "\n\r"), Refused);
    probe(to, "TLS to the plain port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), Refused);
    probe(to, "zeros", vec![0; 64], Refused);
    probe(
        to,
        "HTTP/2's preface, then HTTP/1",
        format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{SMUGGLED}"),
        Refused,
    );
    probe(to, "HTTP/0.9 alone", "GET /cgi-bin/smuggled\r\n", Refused);
    probe(to, "a head without an end", get_head("").trim_end().to_owned(), RefusedAtEnd);
}

fn targets(to: &mut Vec<Probe>) {
    for target in [
        "http://evil.test/cgi-bin/user/info",
        "http://evil.test:80@w/cgi-bin/user/info",
        "http://u@w/cgi-bin/user/info",
        "http://w:81/cgi-bin/user/info",
        "http:///cgi-bin/user/info",
        "http:/cgi-bin/user/info",
        "http://",
        "file:///etc/passwd",
        "file://w/etc/passwd",
        "ftp://w/cgi-bin/user/info",
        "gopher://w/x",
        "unix:/run/x",
        "javascript:x",
        "evil.test:80",
        "evil.test",
        "w",
        "@evil.test/x",
        "/@evil.test/x",
        "//@evil.test/x",
        "/\\evil.test/x",
        "\\cgi-bin\\user\\info",
        "?openid=probe",
        "#",
        "*",
        "*/x",
        "",
        "/cgi-bin/user/info x",
        "/cgi-bin/user/info\0",
        "/cgi-bin/user/\u{7f}info",
        "/cgi-bin/user/\tinfo",
        "/cgi-bin/user/info%00",
        "/cgi-bin/user/info%0d%0aX:1",
        "/cgi-bin/../cgi-bin/user/info",
        "/cgi-bin/%2e%2e/cgi-bin/user/info",
        "/cgi-bin/./user/info",
        "/cgi-bin//user/info",
        "/cgi-bin%2fuser%2finfo",
        "/cgi-bin/user%5cinfo",
        "/cgi-bin/user/info;x=1",
        "/cgi-bin/%c0%ae%c0%ae/x",
        "/cgi-bin/%252e%252e/x",
    ] {
        let line = format!("GET {target} HTTP/1.1");
        // Most of these are framed well: the connection may stay.
        probe(to, format!("target {target:?}"), head(&line, ""), RefusedAtEnd);
    }
    let line = |target: &str| format!("GET {target}?openid=probe HTTP/1.1");
    probe(to, "absolute-form of ours", head(&line("http://w/cgi-bin/user/info"), ""), Once(""));
    // SDKs write two slashes (paths::collapse_leading_slashes); here they never name a host.
    probe(to, "two slashes", head(&line("//cgi-bin/user/info"), ""), Once(""));
    probe(to, "absolute-form, https", head(&line("https://w/cgi-bin/user/info"), ""), Once(""));
    probe(to, "absolute-form, upper case", head(&line("HTTP://W/cgi-bin/user/info"), ""), Either);
    probe(to, "a fragment", head("GET /cgi-bin/user/info?openid=probe#x HTTP/1.1", ""), Either);
    probe(to, "OPTIONS *", head("OPTIONS * HTTP/1.1", ""), Here);
    let options = "OPTIONS /cgi-bin/user/info?openid=probe HTTP/1.1";
    probe(to, "OPTIONS, Max-Forwards: 0", head(options, "Max-Forwards: 0\r\n"), Here);
    probe(to, "OPTIONS, Max-Forwards: 1", head(options, "Max-Forwards: 1\r\n"), Once(""));
    probe(to, "GET, Max-Forwards: 0", get_head("Max-Forwards: 0\r\n"), Once(""));
}

fn fields(to: &mut Vec<Probe>) {
    for line in [
        "X-A: 1\r\n folded",
        "X-A: 1\r\n\tfolded",
        "X-A:\r\n folded",
        "X-A : 1",
        "X-A\t: 1",
        "X-A",
        ": 1",
        " X-A: 1",
        "X A: 1",
        "X\tA: 1",
        "X(A): 1",
        "X\0A: 1",
        "X\u{7f}A: 1",
        "X\u{e9}A: 1",
        "X@A: 1",
        "\"X\": 1",
        "X-A: 1\02",
        "X-A: 1\u{1}2",
        "X-A: 1\u{7f}2",
        "X-A: 1\u{b}2",
        "X-A: 1\r2",
        "X-A: 1\rX-B: 2",
        "\r",
        "Content-Length : 5",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\0: chunked",
        "Transfer-Encoding\r\n : chunked",
        "\u{feff}X-A: 1",
    ] {
        probe(to, format!("field {line:?}"), get_head(&format!("{line}\r\n")), Refused);
    }
    let first = format!("GET /cgi-bin/user/info?openid=probe HTTP/1.1\r\n X: 1\r\n{}", &get_head("")[50..]);
    probe(to, "a fold before the first field", first, Refused);
    for line in [
        "X-A:1",
        "X-A: \t1 \t",
        "X-A:",
        "x-a: 1\t2",
        "X-Many: 1\r\nX-Many: 2",
        "My_Field: 1",
        "X!#$%&'*+.^`|~A: 1",
    ] {
        probe(to, format!("field {line:?}"), get_head(&format!("{line}\r\n")), Once(""));
    }
    let mut latin = get_head("X-A: ").into_bytes();
    latin.truncate(latin.len() - 2);
    latin.extend_from_slice(b"\xe9\xff\r\n\r\n");
    probe(to, "a value beyond ASCII", latin, Once(""));
    probe(to, "lines that end in LF", get_head("X-A: 1\nX-B: 2\r\n"), Either);
    probe(to, "Content_Length", get_head("Content_Length: 5\r\n"), Once(""));
    probe(to, "Transfer_Encoding", get_head("Transfer_Encoding: chunked\r\n"), Once(""));
}

fn hosts(to: &mut Vec<Probe>) {
    let with = |hosts: &str| {
        format!(
            "GET /cgi-bin/user/info?openid=probe HTTP/1.1\r\n{hosts}Authorization: Bearer {CLIENT_KEY}\r\n\r\n"
        )
    };
    for hosts in [
        "",
        "Host: a\r\nHost: b\r\n",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nX: 1\r\nhost: a\r\n",
        "Host: a, b\r\n",
        "Host: a b\r\n",
        "Host: a/b\r\n",
        "Host: a@b\r\n",
        "Host: a?b\r\n",
        "Host: a#b\r\n",
        "Host: a\\b\r\n",
        "Host: http://a\r\n",
        "Host: a:b\r\n",
        "Host: a:123456\r\n",
        "Host: a:80:80\r\n",
        "Host: :80\r\n",
        "Host: [::1\r\n",
        "Host: [x]\r\n",
        "Host: a\u{e9}\r\n",
        "Host : a\r\n",
        " Host: a\r\n",
        "Host: a\r\n\tb\r\n",
    ] {
        probe(to, format!("{hosts:?}"), with(hosts), Refused);
    }
    for hosts in ["Host:\r\n", "Host: a:80\r\n", "Host: [::1]:80\r\n", "host:A.b\r\n"] {
        probe(to, format!("{hosts:?}"), with(hosts), Once(""));
    }
}

fn lengths(to: &mut Vec<Probe>) {
    let with = |fields: &str, body: &str| format!("{}{body}", post_head(fields));
    for value in [
        "+5",
        "-5",
        "0x5",
        "5 5",
        "5,5",
        "5, 5",
        "5,6",
        "",
        "5.0",
        "5;",
        "1e1",
        "5_",
        "\u{b}5",
        "five",
        "\u{665}",
        "99999999999999999999",
        "18446744073709551616",
        "18446744073709551615",
        "340282366920938463463374607431768211461",
    ] {
        probe(
            to,
            format!("Content-Length: {value:?}"),
            with(&format!("Content-Length: {value}\r\n"), "hello"),
            Refused,
        );
    }
    for fields in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 0\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\ncontent-length: +5\r\n",
        "Content-Length: 5\r\nX: 1\r\nCONTENT-LENGTH:\r\n",
    ] {
        probe(to, format!("{fields:?}"), with(fields, "hello"), Refused);
    }
    for fields in [
        "Content-Length:5\r\n",
        "Content-Length:   5 \t\r\n",
        "Content-Length: 05\r\n",
        "Content-Length: 0000000000000005\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
    ] {
        probe(to, format!("{fields:?}"), with(fields, "hello"), Once("hello"));
    }
    probe(to, "shorter than said", with("Content-Length: 6\r\n", "hello"), RefusedAtEnd);
    probe(
        to,
        "longer than said",
        with("Content-Length: 5\r\n", "helloGARBAGE\r\n\r\n"),
        OnceThenClosed("hello"),
    );
    probe(to, "a body nobody announced", with("", "x=1\r\n\r\n"), OnceThenClosed(""));
    probe(to, "above what may be sent", with("Content-Length: 33554433\r\n", ""), Refused);
    probe(
        to,
        "HTTP/1.0 with a body",
        with("Content-Length: 5\r\n", "hello").replace("HTTP/1.1", "HTTP/1.0"),
        Once("hello"),
    );
}

fn codings(to: &mut Vec<Probe>) {
    let with = |fields: &str| format!("{}5\r\nhello\r\n0\r\n\r\n{SMUGGLED}", post_head(fields));
    for value in [
        "chunked, chunked",
        "chunked, identity",
        "identity",
        "identity, chunked",
        "gzip, chunked",
        "gzip",
        "xchunked",
        "chunkedx",
        "chunked;x=1",
        "chunked,",
        ",chunked",
        "",
        "\"chunked\"",
        "'chunked'",
        "\u{b}chunked",
        "chunked\0",
        "cow",
        "chunk ed",
        "chunked chunked",
        "{chunked}",
        "chunke\u{212a}",
        "x: chunked",
    ] {
        let fields = format!("Transfer-Encoding: {value}\r\n");
        probe(to, format!("Transfer-Encoding: {value:?}"), with(&fields), Refused);
    }
    for fields in [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: cow\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\nContent-Length: 5\r\n",
    ] {
        probe(to, format!("{fields:?}"), with(fields), Refused);
    }
    probe(
        to,
        "chunked on HTTP/1.0",
        with("Transfer-Encoding: chunked\r\n").replacen("HTTP/1.1", "HTTP/1.0", 1),
        Refused,
    );
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: +5\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: CHUNKED\r\nContent-Length: 6\r\n",
    ] {
        probe(to, format!("{fields:?}"), with(fields), OnceThenClosed("hello"));
    }
    for value in ["chunked", "Chunked", "CHUNKED", "\tchunked", "chunked ", "chunked\t"] {
        let head = post_head(&format!("Transfer-Encoding: {value}\r\n"));
        probe(
            to,
            format!("Transfer-Encoding: {value:?}"),
            format!("{head}5\r\nhello\r\n0\r\n\r\n"),
            Once("hello"),
        );
    }
}

fn chunks(to: &mut Vec<Probe>) {
    let with = |chunks: &str| format!("{}{chunks}", post_head("Transfer-Encoding: chunked\r\n"));
    let end = format!("\r\nhello\r\n0\r\n\r\n{SMUGGLED}");
    for size in [
        "+5",
        "-5",
        "0x5",
        " 5",
        "g",
        "",
        ";x",
        "5\r",
        "5\0",
        "5x",
        "5,5",
        "10000000000000005",
        "FFFFFFFFFFFFFFFFF",
        "ffffffffffffffff0",
        "5 5",
        "\u{665}",
    ] {
        probe(to, format!("chunk of {size:?}"), with(&format!("{size}{end}")), Refused);
    }
    for (name, chunks) in [
        ("no CRLF after data", "5\r\nhelloX\r\n0\r\n\r\n"),
        ("LF alone after data", "5\r\nhello\n0\r\n\r\n"),
        ("LF alone after size", "5\nhello\r\n0\r\n\r\n"),
        ("LF alone", "5\nhello\n0\n\n"),
        ("CR alone", "5\rhello\r0\r\r"),
        ("LF in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
        ("CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("more data than said", "5\r\nhello!\r\n0\r\n\r\n"),
        ("less data than said", "6\r\nhello\r\n0\r\n\r\n"),
        ("a last chunk that is not one", "5\r\nhello\r\n0\r\nGET / HTTP/1.1\r\n\r\n"),
    ] {
        probe(to, format!("chunks: {name}"), with(chunks), Refused);
    }
    probe(to, "chunks: a huge extension", with(&format!("5;{}{end}", "x".repeat(1 << 20))), Refused);
    probe(
        to,
        "chunks: many extensions",
        with(&format!("{}0\r\n\r\n", "1;xxxxxxxxxxxxxxx\r\na\r\n".repeat(4000))),
        Refused,
    );
    for (name, chunks) in [
        ("no end", "5\r\nhello\r\n"),
        ("no end of the last", "5\r\nhello\r\n0\r\n"),
        ("half a chunk", "5\r\nhel"),
        ("half a size", "5"),
    ] {
        probe(to, format!("chunks: {name}"), with(chunks), RefusedAtEnd);
    }
    for chunks in [
        "5;x\r\nhello\r\n0\r\n\r\n",
        "5;x=\"y\"\r\nhello\r\n0;z\r\n\r\n",
        "00005\r\nhello\r\n000\r\n\r\n",
        "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        "1\r\nh\r\n1\r\ne\r\n1\r\nl\r\n1\r\nl\r\n1\r\no\r\n0\r\n\r\n",
    ] {
        probe(to, format!("chunks: {chunks:?}"), with(chunks), Once("hello"));
    }
}

fn trailers(to: &mut Vec<Probe>) {
    let with = |trailers: &str| {
        format!(
            "{}5\r\nhello\r\n0\r\n{trailers}\r\n",
            post_head("Transfer-Encoding: chunked\r\nTrailer: x-secret\r\n")
        )
    };
    for trailer in [
        "X-Secret: 1",
        "Content-Length: 9",
        "Host: evil.test",
        "Transfer-Encoding: chunked",
        "Authorization: x",
    ] {
        probe(to, format!("trailer {trailer}"), with(&format!("{trailer}\r\n")), Once("hello"));
    }
    for trailer in ["X-Secret : 1", " folded", "X\0: 1", "no colon"] {
        probe(to, format!("trailer {trailer:?}"), with(&format!("{trailer}\r\n")), Refused);
    }
    probe(to, "a huge trailer", with(&format!("X: {}\r\n", "x".repeat(1 << 20))), Refused);
    probe(to, "20,000 trailers", with(&"X: 1\r\n".repeat(20_000)), Refused);
}

fn hop_by_hop(to: &mut Vec<Probe>) {
    for fields in [
        "Connection: x-secret\r\nX-Secret: 1\r\n",
        "Connection: close, X-SECRET\r\nX-Secret: 1\r\n",
        "Connection: x-secret\r\nConnection: close\r\nX-Secret: 1\r\n",
        "Connection: host\r\n",
        "Connection: content-length\r\n",
        "Connection: authorization\r\n",
        "Connection: transfer-encoding\r\n",
        "Connection: via, x-weigate-request-id\r\n",
        "Connection: ,,,\r\n",
        "Connection:\r\n",
        "Connection: \"close\"\r\n",
        "Connection: close\r\n",
        "Connection: keep-alive\r\nKeep-Alive: timeout=9\r\n",
        "Connection: keep-alive, close\r\n",
        "Proxy-Connection: keep-alive\r\n",
        "Proxy-Authorization: Basic eA==\r\n",
        "TE: trailers\r\nConnection: TE\r\n",
        "TE: gzip, trailers;q=0.5\r\n",
        "Trailer: x-secret\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        "Upgrade: TLS/1.0\r\n",
        "Expect: 100-continue\r\n",
        "Forwarded: for=1.2.3.4\r\nX-Forwarded-For: 1.2.3.4\r\n",
        "X-Weigate-Error: forged\r\n",
    ] {
        probe(to, format!("{fields:?}"), get_head(fields), Once(""));
    }
    for fields in [
        "Expect: 200-ok\r\n",
        "Expect: 100-continue\r\nExpect: x\r\n",
        "Expect: 100-continue, x\r\n",
        "Expect:\r\n",
    ] {
        probe(to, format!("{fields:?}"), get_head(fields), Refused);
    }
    let unknown = format!(
        "POST /cgi-bin/user/info HTTP/1.1\r\nHost: w\r\nAuthorization: Bearer wrong\r\n{}",
        "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    );
    probe(to, "refused before the body is invited", unknown, Refused);
    for method in ["GET", "HEAD", "DELETE", "PUT", "PATCH", "OPTIONS", "PURGE"] {
        let line = format!("{method} /cgi-bin/user/info?openid=probe HTTP/1.1");
        probe(
            to,
            format!("{method} with a body"),
            format!("{}hello", head(&line, "Content-Length: 5\r\n")),
            Once("hello"),
        );
    }
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
    probe(to, "a query of 20 kB", head(&format!("GET /x?{} HTTP/1.1", &long[..20_000]), ""), Refused);
    probe(to, "a value of 1 MB", get_head(&format!("X: {long}\r\n")), Refused);
    probe(to, "a name of 1 MB", get_head(&format!("{long}: 1\r\n")), Refused);
    probe(to, "a method of 1 MB", format!("{long} / HTTP/1.1\r\nHost: w\r\n\r\n"), Refused);
    probe(to, "20,000 fields", get_head(&"X: 1\r\n".repeat(20_000)), Refused);
    probe(to, "101 fields", get_head(&"X: 1\r\n".repeat(99)), Refused);
    probe(to, "98 fields", get_head(&"X: 1\r\n".repeat(96)), Once(""));
    probe(to, "a fold of 1 MB", get_head(&format!("X: 1\r\n {long}\r\n")), Refused);
}
