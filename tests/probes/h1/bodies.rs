//! How long a body is, and in which form it comes.

use super::Want::{Once, OnceThenClosed, Refused, RefusedAtEnd};
use super::{Probe, SMUGGLED, post_head, probe};

pub(super) fn lengths(to: &mut Vec<Probe>) {
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

pub(super) fn codings(to: &mut Vec<Probe>) {
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

pub(super) fn chunks(to: &mut Vec<Probe>) {
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

pub(super) fn trailers(to: &mut Vec<Probe>) {
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
