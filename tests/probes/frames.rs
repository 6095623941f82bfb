//! Just enough HTTP/2 to write it wrong: frames, and HPACK literals without any compression (RFC 7541 §6.2.2).

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{CLIENT_KEY, PATIENCE};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A frame that came.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A connection on which anything can be said.
pub(crate) struct Raw {
    stream: TcpStream,
    unread: Vec<u8>,
}

// === impl Frame ===

impl Frame {
    /// The status in a response's first HEADERS: `:status` comes first, and 200 has a byte of its own (RFC 7541 A).
    pub(crate) fn is_ok(&self) -> bool {
        let first = self.payload.iter().find(|byte| **byte & 0xe0 != 0x20);
        self.kind == HEADERS && first == Some(&0x88)
    }

    /// Whether it is the last of its stream.
    pub(crate) fn ends(&self, stream: u32) -> bool {
        let is_end = matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0;
        self.stream == stream && (self.kind == RST_STREAM || is_end)
    }

    /// GOAWAY's error code.
    pub(crate) fn goaway(&self) -> Option<u32> {
        (self.kind == GOAWAY).then(|| u32::from_be_bytes(self.payload[4..8].try_into().unwrap()))
    }
}

// === impl Raw ===

impl Raw {
    /// A connection with the preface and `settings` sent.
    pub(crate) async fn open(address: SocketAddr, settings: &[u8]) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        // A small frame behind another would wait for the other side's delayed acknowledgement, 40 ms each time.
        stream.set_nodelay(true).unwrap();
        let mut raw = Self { stream, unread: Vec::new() };
        raw.send(&[PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()).await;
        raw
    }

    /// Sends, unless the server has had enough.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// The next frame; `None` when the server has closed.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let reading = self.read();
        timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("the server says nothing"))
    }

    async fn read(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, length)) = first_of(&self.unread) {
                self.unread.drain(..length);
                return Some(frame);
            }
            if self.stream.read_buf(&mut self.unread).await.ok()? == 0 {
                return None;
            }
        }
    }

    /// Frames up to one that `is_it`, or all until the server closes.
    pub(crate) async fn until(&mut self, is_it: impl Fn(&Frame) -> bool) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            frames.push(frame.clone());
            if is_it(&frame) {
                break;
            }
        }
        frames
    }

    /// Waits until the server has read what was sent; `false` when it has closed.
    pub(crate) async fn ping(&mut self) -> bool {
        self.send(&frame(PING, 0, 0, b"are you?")).await
            && self
                .until(|frame| frame.kind == PING && frame.payload == b"are you?")
                .await
                .last()
                .is_some_and(|frame| frame.kind == PING && frame.flags & ACK != 0)
    }
}

/// The first frame in `bytes`, and its length.
pub(crate) fn first_of(bytes: &[u8]) -> Option<(Frame, usize)> {
    let head = bytes.get(..9)?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let payload = bytes.get(9..9 + length)?.to_vec();
    let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
    Some((Frame { kind: head[3], flags: head[4], stream, payload }, 9 + length))
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// HPACK, every name and value literally.
pub(crate) fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        string(name.as_ref(), &mut block);
        string(value.as_ref(), &mut block);
    }
    block
}

/// A length in 7 bits and more (RFC 7541 §5.1), then the bytes.
fn string(text: &[u8], to: &mut Vec<u8>) {
    if text.len() < 127 {
        to.push(u8::try_from(text.len()).unwrap());
    } else {
        to.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            to.push(u8::try_from(rest % 128).unwrap() | 128);
            rest /= 128;
        }
        to.push(u8::try_from(rest).unwrap());
    }
    to.extend_from_slice(text);
}

/// A request's fields.
pub(crate) fn fields(method: &str, path: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    [
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", "w"),
        ("authorization", &format!("Bearer {CLIENT_KEY}")),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .into()
}

/// A request without a body.
pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&fields("GET", path)))
}

/// CANCEL.
pub(crate) fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])
}
