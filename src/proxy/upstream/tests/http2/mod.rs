//! HTTP/2 against origins that speak in frames of their own making.

mod bodies;
mod goodbyes;
mod replies;
mod sharing;

use std::future::Future;

use tokio::task::LocalSet;

use super::origin::{Origin, Peer};
use super::tls::Authority;
use super::*;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;

const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;

/// `:status: 200`, indexed (RFC 7541, appendix A).
const STATUS_200: u8 = 0x88;

/// A connection's tasks are local ones.
async fn locally<F: Future>(test: F) -> F::Output {
    LocalSet::new().run_until(Box::pin(test)).await
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// An origin's side of an HTTP/2 connection.
struct Frames {
    peer: Peer,
}

/// A request as an origin sees it.
#[derive(Debug)]
struct Asked {
    stream: u32,
}

/// Serves each HTTP/2 connection as `script` says, after our first words with these settings.
async fn origin<S, F>(authority: &Authority, settings: &'static [(u16, u32)], script: S) -> Origin
where
    S: Fn(Frames) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let script = Arc::new(script);
    Origin::start_tls(Some(authority.agreeing_on(&["h2"])), move |peer| {
        let script = Arc::clone(&script);
        async move {
            if let Some(frames) = Frames::greet(peer, settings).await {
                script(frames).await;
            }
        }
    })
    .await
}

/// A client that offers HTTP/2 and knows `origins` by the name `upstream.test`, in this order.
fn client(
    authority: &Authority,
    origins: &[&Origin],
    change: impl FnOnce(&mut config::Upstream),
) -> Upstream {
    let hosts = origins.iter().map(|origin| UpstreamHost {
        tls: true,
        host: "upstream.test".to_owned(),
        port: origin.address.port(),
    });
    let mut settings = settings(hosts.collect());
    settings.http2 = true;
    change(&mut settings);
    let resolve: dial::Resolve =
        Rc::new(|_, port| Box::pin(async move { Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]) }));
    let tls = tls_config(Some(authority.pem().as_bytes())).unwrap();
    Upstream::with_resolver(&settings, Arc::new(tls), resolve)
}

fn upstream(authority: &Authority, origin: &Origin) -> Upstream {
    client(authority, &[origin], |_| {})
}

// === impl Frames ===

impl Frames {
    async fn greet(mut peer: Peer, settings: &[(u16, u32)]) -> Option<Self> {
        let preface = peer.bytes(24).await;
        (preface == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").then_some(())?;
        let mut frames = Self { peer };
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend_from_slice(&name.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        frames.write(SETTINGS, 0, 0, &payload).await;
        Some(frames)
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend_from_slice(&[kind, flags]);
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        self.peer.say(frame).await;
    }

    /// The next frame, whatever it is.
    async fn read(&mut self) -> Option<Frame> {
        let head = self.peer.bytes(9).await;
        let head: [u8; 9] = head.try_into().ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let payload = self.peer.bytes(usize::try_from(length).unwrap()).await;
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame that is about a request or a goodbye; settings and pings are answered, windows passed over.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = self.read().await?;
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => self.write(SETTINGS, ACK, 0, &[]).await,
                PING if frame.flags & ACK == 0 => self.write(PING, ACK, 0, &frame.payload).await,
                SETTINGS | PING | WINDOW_UPDATE => {}
                _ => return Some(frame),
            }
        }
    }

    /// The next request whose end has come. What comes of others meanwhile is lost, so they have to be whole too.
    async fn request(&mut self) -> Option<Asked> {
        loop {
            let frame = self.next().await?;
            if frame.flags & END_STREAM != 0 && matches!(frame.kind, DATA | HEADERS) {
                self.peer.note(frame.payload);
                return Some(Asked { stream: frame.stream });
            }
        }
    }

    /// Answers `ok`.
    async fn ok(&mut self, stream: u32) {
        self.head(stream, 0, &[("content-length", "2")]).await;
        self.write(DATA, END_STREAM, stream, b"ok").await;
    }

    /// A head with status 200 and these fields, as literals without Huffman coding.
    async fn head(&mut self, stream: u32, flags: u8, fields: &[(&str, &str)]) {
        self.write(HEADERS, END_HEADERS | flags, stream, &block(STATUS_200, fields)).await;
    }

    async fn reset(&mut self, stream: u32, reason: u32) {
        self.write(RST_STREAM, 0, stream, &reason.to_be_bytes()).await;
    }

    async fn goodbye(&mut self, last: u32, reason: u32) {
        let payload = [last.to_be_bytes(), reason.to_be_bytes()].concat();
        self.write(GOAWAY, 0, 0, &payload).await;
    }

    /// Answers everything.
    async fn serve(mut self) {
        while let Some(asked) = self.request().await {
            self.ok(asked.stream).await;
        }
    }
}

/// A header block: a status from the static table, literals after it.
fn block(status: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![status];
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            // A string's length has a prefix of 7 bits (RFC 7541 §5.1).
            let mut rest = text.len();
            if rest < 127 {
                block.push(u8::try_from(rest).unwrap());
            } else {
                block.push(127);
                rest -= 127;
                while rest >= 128 {
                    block.push(u8::try_from(rest % 128).unwrap() | 128);
                    rest /= 128;
                }
                block.push(u8::try_from(rest).unwrap());
            }
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}
