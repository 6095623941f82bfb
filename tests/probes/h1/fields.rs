//! Fields: their form, `Host`, and those of one hop.

use super::Want::{Either, Once, Refused};
use super::{Probe, get_head, head, probe};
use crate::probes::CLIENT_KEY;

pub(super) fn fields(to: &mut Vec<Probe>) {
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
        "X-A: 1\u{0}2",
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
    let first = get_head("").replacen("\r\n", "\r\n X: 1\r\n", 1);
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

pub(super) fn hosts(to: &mut Vec<Probe>) {
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

pub(super) fn hop_by_hop(to: &mut Vec<Probe>) {
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
