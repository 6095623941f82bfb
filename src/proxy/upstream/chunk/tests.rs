use super::*;

/// Decodes `input` in pieces of `step` bytes: the content, and what lies beyond the end if there was one.
fn decode(input: &[u8], step: usize) -> Result<(Vec<u8>, Option<usize>), &'static str> {
    let mut decoder = ChunkDecoder::new();
    let mut content = Vec::new();
    for (nth, segment) in input.chunks(step).enumerate() {
        let mut at = 0;
        while at < segment.len() {
            let (done, piece) = decoder.advance(&segment[at..]).map_err(|fault| fault.0)?;
            match piece {
                Piece::More => {}
                Piece::Data(range) => content.extend_from_slice(&segment[at..][range]),
                Piece::End => return Ok((content, Some(input.len() - nth * step - at - done))),
            }
            at += done;
        }
    }
    Ok((content, None))
}

#[test]
fn good_bodies_are_decoded_however_they_are_cut() {
    let cases: &[(&[u8], &[u8], usize)] = &[
        (b"0\r\n\r\n", b"", 0),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello", 0),
        (b"1\r\nh\r\n4\r\nello\r\n0\r\n\r\n", b"hello", 0),
        (b"5;a=b\r\nhello\r\n0;c\r\n\r\n", b"hello", 0),
        (b"005\r\nhello\r\n000\r\n\r\n", b"hello", 0),
        (b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"01234567890123456789", 0),
        (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n", 0),
        (b"5\r\nhello\r\n0\r\nX: y\r\nZ: \r\n\r\n", b"hello", 0),
        (b"5\r\nhello\r\n0\r\n\r\nHTTP/1.1", b"hello", 8),
    ];
    for (input, content, beyond) in cases {
        for step in 1..=input.len() {
            assert_eq!(decode(input, step), Ok((content.to_vec(), Some(*beyond))), "{input:?} by {step}");
        }
    }
}

#[test]
fn bad_bodies_are_refused() {
    let long_extension = [b"5;".as_slice(), &[b'a'; 300], b"\r\nhello\r\n0\r\n\r\n"].concat();
    let long_trailer = [b"0\r\n".as_slice(), &[b'a'; 9000], b"\r\n\r\n"].concat();
    let many_trailers = [b"0\r\n".as_slice(), &b"a: b\r\n".repeat(3000), b"\r\n"].concat();
    let cases: &[&[u8]] = &[
        b"\r\n",
        b"g\r\n",
        b"+5\r\nhello\r\n",
        b"-5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"5\nhello\n0\n\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"5\rhello\r\n",
        b"5;a\nb\r\nhello\r\n",
        b"5;a\rb\r\nhello\r\n",
        b"5;\0\r\nhello\r\n",
        b"1000000000000000\r\n",
        b"ffffffffffffffff1\r\n",
        b"0000000000000000\r\n",
        b"0\r\nX: y\n\r\n",
        b"0\r\nX\0: y\r\n\r\n",
        b"0\r\nX: y\rz\r\n\r\n",
        b"0\r\n\rx",
        &long_extension,
        &long_trailer,
        &many_trailers,
    ];
    for input in cases {
        let outcome = decode(input, input.len());
        assert!(outcome.is_err(), "{:?} gives {outcome:?}", String::from_utf8_lossy(input));
        assert_eq!(decode(input, 1), outcome, "{:?} byte by byte", String::from_utf8_lossy(input));
    }
}

proptest::proptest! {
    #[test]
    fn any_input_gives_the_same_however_it_is_cut(input: Vec<u8>, step in 1..64_usize) {
        proptest::prop_assert_eq!(decode(&input, step), decode(&input, input.len().max(1)));
    }
}
