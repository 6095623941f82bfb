//! Request lines and request targets.

use super::Want::{Either, Here, Once, Refused, RefusedAtEnd};
use super::{Probe, SMUGGLED, get_head, head, probe};

pub(super) fn request_lines(to: &mut Vec<Probe>) {
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

pub(super) fn targets(to: &mut Vec<Probe>) {
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
