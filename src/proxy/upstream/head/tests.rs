use http::StatusCode;

use super::*;

/// What one reader makes of a whole head.
fn framing(head: &str) -> Result<Framing, &'static str> {
    match parse_head(head.as_bytes()) {
        Ok(Some((parsed, length))) => {
            assert_eq!(length, head.len(), "all of {head:?} is the head");
            Ok(parsed.framing(false))
        }
        Ok(None) => Err("incomplete"),
        Err(fault) => Err(fault.0),
    }
}

#[test]
fn good_heads_say_where_the_body_ends() {
    let long = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(100));
    let cases: &[(&str, Framing)] = &[
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Framing::Length(5)),
        ("HTTP/1.1 200 OK\r\ncontent-LENGTH:5\r\n\r\n", Framing::Length(5)),
        ("HTTP/1.1 200 OK\r\nContent-Length: \t 5 \t\r\n\r\n", Framing::Length(5)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0005\r\n\r\n", Framing::Length(5)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Framing::Length(0)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n", Framing::Length(u64::MAX)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Framing::Chunked),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: CHUNKED\r\n\r\n", Framing::Chunked),
        ("HTTP/1.1 200 OK\r\n\r\n", Framing::UntilClose),
        ("HTTP/1.1 200\r\n\r\n", Framing::UntilClose),
        ("HTTP/1.1 200 \r\n\r\n", Framing::UntilClose),
        ("HTTP/1.0 200 OK\r\n\r\n", Framing::UntilClose),
        ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", Framing::Length(5)),
        ("HTTP/1.1 204 No Content\r\n\r\n", Framing::Length(0)),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", Framing::Length(0)),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Framing::Length(0)),
        ("HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", Framing::Length(0)),
        ("HTTP/1.1 100 Continue\r\n\r\n", Framing::Length(0)),
        ("HTTP/1.1 200 OK\r\nEmpty:\r\nX: \u{e9}\r\n\r\n", Framing::UntilClose),
        (&long, Framing::UntilClose),
    ];
    for (head, expected) in cases {
        assert_eq!(framing(head), Ok(*expected), "{head:?}");
    }
}

#[test]
fn heads_that_could_be_read_in_two_ways_are_refused() {
    let fields = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101));
    let large = fields(&format!("X: {}", "y".repeat(HEAD_BYTES_MAX)));
    let cases: &[&str] = &[
        &fields("Content-Length: 5\r\nTransfer-Encoding: chunked"),
        &fields("Transfer-Encoding: chunked\r\nContent-Length: 5"),
        &fields("Content-Length: 5\r\nContent-Length: 6"),
        &fields("Content-Length: 5\r\nContent-Length: 5"),
        &fields("Content-Length: 5, 5"),
        &fields("Content-Length: 5, 6"),
        &fields("Content-Length: +5"),
        &fields("Content-Length: -5"),
        &fields("Content-Length: 0x5"),
        &fields("Content-Length: 5 5"),
        &fields("Content-Length: 5;"),
        &fields("Content-Length: \u{665}"),
        &fields("Content-Length:"),
        &fields("Content-Length: 18446744073709551616"),
        &fields("Content-Length: 99999999999999999999999"),
        &fields("Content-Length : 5"),
        &fields("Content-Length\t: 5"),
        &fields(" Content-Length: 5"),
        &fields("Transfer-Encoding: gzip"),
        &fields("Transfer-Encoding: gzip, chunked"),
        &fields("Transfer-Encoding: chunked, chunked"),
        &fields("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        &fields("Transfer-Encoding: identity"),
        &fields("Transfer-Encoding: xchunked"),
        &fields("Transfer-Encoding: \"chunked\""),
        &fields("Transfer-Encoding: chunked;a=b"),
        &fields("Transfer-Encoding:"),
        &fields("Transfer-Encoding : chunked"),
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        &fields("X: a\r\n b"),
        &fields("X: a\r\n\tb"),
        &fields("X: a\rb"),
        &fields("X: a\r\r"),
        &fields("X: a\0b"),
        &fields("X: a\u{7f}b"),
        &fields("X\0: a"),
        &fields("X y: a"),
        &fields("X"),
        &fields(": a"),
        &fields("X: a\nContent-Length: 5"),
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 200 OK\r\n\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.2 200 OK\r\n\r\n",
        "HTTP/0.9 200 OK\r\n\r\n",
        "http/1.1 200 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 200 O\rK\r\n\r\n",
        "HTTP/1.1 200 O\0K\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        &many,
        &large,
    ];
    for head in cases {
        let outcome = framing(head);
        assert!(outcome.is_err_and(|fault| fault != "incomplete"), "{head:.200?} gives {outcome:?}");
    }
}

#[test]
fn a_head_is_found_once_its_last_byte_is_there_and_not_before() {
    let head = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n";
    for length in 0..head.len() {
        assert!(parse_head(&head[..length]).unwrap().is_none(), "after {length} bytes");
    }
    let (parsed, length) = parse_head(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody\r\n\r\n").unwrap().unwrap();
    assert_eq!((parsed.status, length), (StatusCode::OK, head.len()));
}

#[test]
fn fields_keep_their_order_and_their_bytes() {
    let head =
        b"HTTP/1.1 200 OK\r\nX: 1\r\nTransfer-Encoding: chunked\r\nY: \xe5\xbe\xae\r\nX: 2\r\nZ:\r\n\r\n";
    let (parsed, _) = parse_head(head).unwrap().unwrap();
    let fields: Vec<_> =
        parsed.fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    assert_eq!(fields, [("x", &b"1"[..]), ("x", b"2"), ("y", b"\xe5\xbe\xae"), ("z", b"")]);
}

#[test]
fn a_connection_persists_where_version_and_fields_say_so() {
    let cases = [
        ("HTTP/1.1 200 OK\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nConnection: keep-alive, Close\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nConnection: a\r\nConnection: close\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nConnection: closer\r\n\r\n", true),
        ("HTTP/1.0 200 OK\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n\r\n", true),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive, close\r\n\r\n", false),
    ];
    for (head, expected) in cases {
        let (parsed, _) = parse_head(head.as_bytes()).unwrap().unwrap();
        assert_eq!(parsed.persistent, expected, "{head:?}");
    }
}

#[test]
fn a_head_without_an_end_is_refused_at_64_kib() {
    let mut scan = HeadScan::default();
    let mut head = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
    head.resize(HEAD_BYTES_MAX - 1, b'y');
    assert_eq!(scan.end_of_head(&head), Ok(None));
    head.push(b'y');
    assert!(scan.end_of_head(&head).is_err());
}

proptest::proptest! {
    #[test]
    fn no_input_makes_the_parser_panic(input: Vec<u8>) {
        drop(parse_head(&input));
        let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
        head.extend_from_slice(&input);
        head.extend_from_slice(b"\r\n\r\n");
        drop(parse_head(&head));
    }
}
