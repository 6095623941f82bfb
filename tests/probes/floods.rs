//! HTTP/2 clients that make work.

use super::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, SETTINGS, block, fields, frame, get,
    reset,
};

/// Where requests wait; another than the others' requests go to.
pub(crate) const HELD: &str = "/cgi-bin/menu/get";

/// Each flood, as it comes after the preface and the client's SETTINGS.
pub(crate) fn all() -> [(&'static str, Vec<u8>); 16] {
    let open = frame(HEADERS, END_HEADERS, 1, &block(&fields("POST", "/cgi-bin/user/info")));
    let begun = frame(HEADERS, 0, 1, &block(&fields("GET", "/cgi-bin/user/info")));
    // 1: a name and value of 4 KB go into the table; 2: they are named a few thousand times, a byte each.
    let mut bomb = vec![0x40, 1, b'x', 127, 0x81, 0x1f];
    bomb.extend([b'a'; 4096]);
    bomb.resize(bomb.len() + 12_000, 0xbe);
    let many = |frame: Vec<u8>, times: usize| frame.repeat(times);
    let burst: Vec<u8> = (0..2000).flat_map(|n| [get(n * 2 + 1, HELD), reset(n * 2 + 1)].concat()).collect();
    let no_reset: Vec<u8> =
        (0..2000).flat_map(|n| [get(n * 2 + 1, HELD), frame(8, 0, n * 2 + 1, &[0; 4])].concat()).collect();
    [
        ("PING", many(frame(PING, 0, 0, b"flooding"), 100_000)),
        ("PING's answer", many(frame(PING, ACK, 0, b"flooding"), 100_000)),
        ("SETTINGS", many(frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]), 100_000)),
        ("empty SETTINGS", many(frame(SETTINGS, 0, 0, &[]), 100_000)),
        ("PRIORITY", many(frame(2, 0, 3, &[0, 0, 0, 0, 9]), 100_000)),
        ("empty DATA", [open.clone(), many(frame(DATA, 0, 1, b""), 100_000)].concat()),
        ("unknown frames", many(frame(99, 0, 0, b""), 100_000)),
        ("window updates", many(frame(8, 0, 0, &[0, 0, 0, 1]), 100_000)),
        ("window updates of a stream", [open, many(frame(8, 0, 1, &[0, 0, 0, 1]), 100_000)].concat()),
        ("resets of a stream", [get(1, HELD), many(reset(1), 100_000)].concat()),
        ("empty CONTINUATION", [begun.clone(), many(frame(CONTINUATION, 0, 1, b""), 100_000)].concat()),
        (
            "CONTINUATION",
            [begun, many(frame(CONTINUATION, 0, 1, &block(&[("x", [b'a'; 1000])])), 20_000)].concat(),
        ),
        (
            "HPACK bomb",
            (0..2000).flat_map(|n| frame(HEADERS, END_HEADERS | END_STREAM, n * 2 + 1, &bomb)).collect(),
        ),
        ("burst of resets", burst),
        ("resets that we are made to send", no_reset),
        (
            "broken streams",
            (0..5000)
                .flat_map(|n| frame(HEADERS, END_HEADERS | END_STREAM, n * 2 + 1, &block(&[("X", "1")])))
                .collect(),
        ),
    ]
}
