//! The wire byte by byte, for every suite: what libraries cannot be made to send, and what must come of it.

pub(crate) mod floods;
pub(crate) mod frames;
pub(crate) mod h1;
pub(crate) mod h2;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use weigate::sandbox::{Sandbox, SeenRequest};

/// What clients say to weigate.
pub(crate) const CLIENT_KEY: &str = "wgk_canary-client-key-7d1e";

/// Nothing here takes long; what does is a fault.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

pub(crate) const PATH: &str = "/cgi-bin/user/info";

/// Whether the client closes its side once it has sent all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Wait,
    HalfClose,
}

/// A response as a strict reader sees it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

// === impl Answer ===

impl Answer {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Sends `bytes` and reads until the server has closed.
pub(crate) async fn talk(address: SocketAddr, bytes: &[u8], then: Then) -> Vec<u8> {
    let shown = String::from_utf8_lossy(bytes.get(..200).unwrap_or(bytes)).into_owned();
    try_talk(address, bytes, then).await.unwrap_or_else(|| panic!("not closed after {shown:?}"))
}

/// The same; `None` where the server does not close.
pub(crate) async fn try_talk(address: SocketAddr, bytes: &[u8], then: Then) -> Option<Vec<u8>> {
    let talking = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let sending = async {
            // The server may have heard enough before the end.
            let sent = write.write_all(bytes).await;
            if sent.is_ok() && then == Then::HalfClose {
                drop(write.shutdown().await);
            }
            write
        };
        let mut received = Vec::new();
        // A reset ends it too.
        let (_write, _read) = tokio::join!(sending, read.read_to_end(&mut received));
        received
    };
    timeout(PATIENCE, talking).await.ok()
}

/// The responses in `bytes`, 1xx left out; panics at what is not one. `heads`: none has a body.
pub(crate) fn answers(mut bytes: &[u8], heads: bool) -> Vec<Answer> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no head: {:?}", String::from_utf8_lossy(bytes))) + 4;
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        bytes = &bytes[end..];
        assert!(head.starts_with("HTTP/1.1 ") || head.starts_with("HTTP/1.0 "), "{head}");
        let status = head.split(' ').nth(1).unwrap().trim().parse().unwrap();
        let mut answer = Answer { status, head, body: Vec::new() };
        if answer.status < 200 {
            continue;
        }
        if heads || answer.status == 204 || answer.status == 304 {
            // None.
        } else if answer.field("transfer-encoding").is_some() {
            (answer.body, bytes) = dechunked(bytes);
        } else if let Some(length) = answer.field("content-length") {
            let length: usize = length.parse().unwrap();
            assert!(bytes.len() >= length, "cut short: {}", answer.head);
            (answer.body, bytes) = (bytes[..length].to_vec(), &bytes[length..]);
        } else {
            (answer.body, bytes) = (bytes.to_vec(), &[]);
        }
        answers.push(answer);
    }
    answers
}

pub(crate) fn dechunked(mut bytes: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|two| two == b"\r\n").unwrap();
        let length = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        bytes = &bytes[end + 2..];
        body.extend_from_slice(&bytes[..length]);
        assert_eq!(&bytes[length..length + 2], b"\r\n");
        bytes = &bytes[length + 2..];
        if length == 0 {
            return (body, bytes);
        }
    }
}

/// A head with a valid `Host` and the client key; `more` are whole lines.
pub(crate) fn head(line: &str, more: &str) -> String {
    format!("{line}\r\nHost: w\r\nAuthorization: Bearer {CLIENT_KEY}\r\n{more}\r\n")
}

pub(crate) fn get_head(more: &str) -> String {
    head(&format!("GET {PATH}?openid=probe HTTP/1.1"), more)
}

pub(crate) fn post_head(more: &str) -> String {
    head(&format!("POST {PATH}?openid=probe HTTP/1.1"), more)
}

/// What clients' requests brought to WeChat, token calls left out.
pub(crate) fn brought(wechat: &Sandbox) -> Vec<SeenRequest> {
    let mut seen = wechat.control().requests(None, 1000);
    seen.retain(|request| request.path != "/cgi-bin/stable_token");
    seen
}

/// A valid request on a fresh connection is served.
pub(crate) async fn is_well(address: SocketAddr) -> bool {
    let request = head("GET /cgi-bin/user/info?openid=after HTTP/1.1", "Connection: close\r\n");
    let answers = answers(&talk(address, request.as_bytes(), Then::Wait).await, false);
    answers.len() == 1 && answers[0].status == 200
}
