//! Counts the HTTP/2 frames that make work and carry nothing.
//!
//! Each such frame is legal, so hyper serves any number of them: PING and SETTINGS want answers, empty DATA, PRIORITY
//! and unknown types want to be read (CVE-2019-9511 to 9518; RFC 9113 §10.5). A connection has a budget for them,
//! which requests and time refill, and window updates have one that the bytes we send refill, as in Envoy. A client
//! that overdraws is told so and cut.
//!
//! Only the nine bytes before each payload are looked at (RFC 9113 §4.1). Cost: a few ns a frame, and no look at the
//! clock until a budget is used up.

use std::time::Duration;

use tokio::time::Instant;

/// Where one connection's incoming frames stand.
#[derive(Debug)]
pub(super) struct Frames {
    header: [u8; HEADER_BYTES],
    header_filled: usize,
    /// Of the payload, or of the preface.
    to_skip: usize,
    idle_left: u32,
    updates_left: u32,
    refilled_at: Instant,
    last_stream: u32,
}

// === impl Frames ===

impl Frames {
    /// Those of a connection that begins with the preface.
    pub(super) fn after_preface(preface_bytes: usize) -> Self {
        Self {
            header: [0; HEADER_BYTES],
            header_filled: 0,
            to_skip: preface_bytes,
            idle_left: IDLE_MAX,
            updates_left: UPDATES_MAX,
            refilled_at: Instant::now(),
            last_stream: 0,
        }
    }

    /// Looks at what came in; says whether it may go on.
    pub(super) fn see(&mut self, mut bytes: &[u8]) -> bool {
        loop {
            let skipped = self.to_skip.min(bytes.len());
            self.to_skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let Some((first, rest)) = bytes.split_first() else { return true };
            bytes = rest;
            if let Some(place) = self.header.get_mut(self.header_filled) {
                *place = *first;
            }
            self.header_filled += 1;
            if self.header_filled < HEADER_BYTES {
                continue;
            }
            self.header_filled = 0;
            if !self.judge() {
                return false;
            }
        }
    }

    /// We sent `count` bytes, for which windows may be updated.
    pub(super) fn sent(&mut self, count: usize) {
        let earned = u32::try_from(count / BYTES_PER_UPDATE + 1).unwrap_or(UPDATES_MAX);
        self.updates_left = self.updates_left.saturating_add(earned).min(UPDATES_MAX);
    }

    /// The connection's last frame: GOAWAY, `ENHANCE_YOUR_CALM` (RFC 9113 §6.8, §7).
    pub(super) fn goodbye(&self) -> [u8; 17] {
        let [a, b, c, d] = self.last_stream.to_be_bytes();
        [0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, a, b, c, d, 0, 0, 0, ENHANCE_YOUR_CALM]
    }

    fn judge(&mut self) -> bool {
        let [a, b, c, kind, flags, s0, s1, s2, s3] = self.header;
        let length = u32::from_be_bytes([0, a, b, c]);
        self.to_skip = usize::try_from(length).unwrap_or(usize::MAX);
        match kind {
            DATA if length > 0 || flags & END_STREAM != 0 => true,
            HEADERS => {
                self.last_stream = self.last_stream.max(u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]));
                self.idle_left = (self.idle_left + IDLE_PER_REQUEST).min(IDLE_MAX);
                true
            }
            WINDOW_UPDATE => self.spend(|frames| &mut frames.updates_left),
            _ => self.spend(|frames| &mut frames.idle_left),
        }
    }

    fn spend(&mut self, of: fn(&mut Self) -> &mut u32) -> bool {
        if *of(self) == 0 {
            self.refill(Instant::now());
        }
        let left = of(self);
        let has_some = *left > 0;
        *left = left.saturating_sub(1);
        has_some
    }

    fn refill(&mut self, now: Instant) {
        let ticks = now.saturating_duration_since(self.refilled_at).as_millis() / TICK.as_millis();
        if ticks > 0 {
            self.refilled_at = now;
            let earned = u32::try_from(ticks).unwrap_or(u32::MAX).saturating_mul(IDLE_PER_TICK);
            self.idle_left = self.idle_left.saturating_add(earned).min(IDLE_MAX);
            self.updates_left = self.updates_left.saturating_add(earned).min(UPDATES_MAX);
        }
    }
}

const HEADER_BYTES: usize = 9;

/// RFC 9113 §6, and its `END_STREAM` flag and error code.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ENHANCE_YOUR_CALM: u8 = 0xb;

/// Frames that carry nothing: so many at once, and then as requests and time earn them. A client that measures the
/// way with a PING each 10 ms stays far below.
const IDLE_MAX: u32 = 2_000;
const IDLE_PER_REQUEST: u32 = 4;
const IDLE_PER_TICK: u32 = 50;
const TICK: Duration = Duration::from_millis(100);
/// Go's client updates two windows for each 4 KiB.
const UPDATES_MAX: u32 = 20_000;
const BYTES_PER_UPDATE: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let [_, a, b, c] = u32::try_from(payload).unwrap().to_be_bytes();
        let mut frame = vec![a, b, c, kind, flags, 0, 0, 0, 5];
        frame.resize(9 + payload, b'x');
        frame
    }

    /// How many of a frame go through, of 100,000 at one moment.
    fn gone_through(kind: u8, flags: u8, payload: usize) -> usize {
        let mut frames = Frames::after_preface(24);
        assert!(frames.see(&[0; 24]));
        let one = frame(kind, flags, payload);
        (0..100_000).take_while(|_| frames.see(&one)).count()
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_carry_nothing_are_few() {
        let idle = usize::try_from(IDLE_MAX).unwrap();
        for (kind, payload) in [(DATA, 0), (2, 5), (3, 4), (4, 0), (4, 6), (6, 8), (9, 0), (200, 77)] {
            assert_eq!(gone_through(kind, 0, payload), idle, "{kind}");
        }
        assert_eq!(gone_through(WINDOW_UPDATE, 0, 4), usize::try_from(UPDATES_MAX).unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_carry_something_are_free() {
        assert_eq!(gone_through(DATA, 0, 1), 100_000);
        assert_eq!(gone_through(DATA, END_STREAM, 0), 100_000);
        assert_eq!(gone_through(HEADERS, 4, 20), 100_000);
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_not_matter_how_the_bytes_are_cut_and_time_heals() {
        let mut frames = Frames::after_preface(24);
        let mut bytes = vec![0; 24];
        for _ in 0..IDLE_MAX {
            bytes.extend_from_slice(&frame(6, 0, 8));
        }
        for piece in bytes.chunks(7) {
            assert!(frames.see(piece));
        }
        assert!(!frames.see(&frame(6, 0, 8)));
        // A refused frame's payload was not looked at: here it comes again, the connection would have been cut.
        assert!(frames.see(&[b'x'; 8]));
        tokio::time::advance(TICK).await;
        for _ in 0..IDLE_PER_TICK {
            assert!(frames.see(&frame(6, 0, 8)));
        }
        assert!(!frames.see(&frame(6, 0, 8)));
    }

    #[tokio::test]
    async fn the_last_word_names_the_last_stream() {
        let mut frames = Frames::after_preface(0);
        assert!(frames.see(&frame(HEADERS, 4, 3)));
        assert_eq!(frames.goodbye(), [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0xb]);
    }
}
