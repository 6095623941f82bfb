//! Both ends of the wire as bytes: a client that shows what clients hide, and a WeChat that says what the sandbox,
//! a decent HTTP server, does not say.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::harness::{CLIENT_KEY, PATIENCE};

/// A connection to weigate.
pub(crate) struct Raw<S = TcpStream> {
    stream: S,
    /// Read, and not yet taken.
    ahead: Vec<u8>,
}

/// A reply, whole.
pub(crate) struct RawReply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

/// WeChat on plain HTTP/1.1: it hands out `bare-token-1`, `bare-token-2` … and answers the rest as the test says.
pub(crate) struct Bare {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<BareRequest>>>,
    task: JoinHandle<()>,
}

/// What came.
#[derive(Clone)]
pub(crate) struct BareRequest {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

type Answer = dyn Fn(&BareRequest) -> Vec<u8> + Send + Sync;

/// A GET with the client key, on a connection that stays open.
pub(crate) fn get_head(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: weigate\r\nauthorization: Bearer {CLIENT_KEY}\r\n\r\n")
}

/// A reply of WeChat's with this body.
pub(crate) fn reply_with(status: &str, fields: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{fields}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

// === impl Raw ===

impl Raw {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, ahead: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.unwrap();
    }

    /// The other side may have had enough.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await?;
        self.stream.flush().await
    }

    /// Sends a GET with the client key and waits for its reply.
    pub(crate) async fn get(&mut self, target: &str) -> RawReply {
        self.send(get_head(target)).await;
        self.reply().await
    }

    /// The next reply, to anything but a HEAD.
    pub(crate) async fn reply(&mut self) -> RawReply {
        let mut reply = self.head().await;
        reply.body = match reply.field("content-length") {
            Some(length) => self.take(length.parse().unwrap()).await,
            None if reply.field("transfer-encoding").is_some() => self.chunks().await,
            None => Vec::new(),
        };
        reply
    }

    /// The head of the next reply.
    pub(crate) async fn head(&mut self) -> RawReply {
        let head = self.until(b"\r\n\r\n").await;
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        RawReply { status, head, body: Vec::new() }
    }

    /// The next `count` bytes.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<u8> {
        while self.ahead.len() < count {
            assert!(
                self.more().await > 0,
                "the connection ended after {} bytes of {count}",
                self.ahead.len()
            );
        }
        self.ahead.drain(..count).collect()
    }

    /// Everything up to the end of the connection.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.more().await > 0 {}
        std::mem::take(&mut self.ahead)
    }

    async fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = String::from_utf8(self.until(b"\r\n").await).unwrap();
            let length = usize::from_str_radix(line.trim_end(), 16).unwrap();
            body.extend(self.take(length).await);
            self.until(b"\r\n").await;
            if length == 0 {
                return body;
            }
        }
    }

    async fn until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.ahead.windows(end.len()).position(|window| window == end) {
                return self.ahead.drain(..at + end.len()).collect();
            }
            let so_far = String::from_utf8_lossy(&self.ahead).into_owned();
            assert!(self.more().await > 0, "the connection ended after {so_far:?}");
        }
    }

    async fn more(&mut self) -> usize {
        // A hundred uploads on a busy machine take their time.
        self.ahead.reserve(64 * 1024);
        let read = timeout(PATIENCE * 4, self.stream.read_buf(&mut self.ahead)).await;
        read.unwrap_or_else(|_| panic!("nothing came")).unwrap_or(0)
    }
}

// === impl RawReply ===

impl RawReply {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.head.lines().skip(1).filter_map(|line| line.split_once(": "))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl fmt::Debug for RawReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.head, self.text())
    }
}

// === impl Bare ===

impl Bare {
    pub(crate) async fn start(answer: impl Fn(&BareRequest) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(serve(listener, Arc::new(answer), Arc::clone(&seen)));
        Self { address, seen, task }
    }

    pub(crate) fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests that came, token calls left out.
    pub(crate) fn seen(&self) -> Vec<BareRequest> {
        self.seen.lock().unwrap().clone()
    }

    /// The same, and they are forgotten.
    pub(crate) fn take_seen(&self) -> Vec<BareRequest> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl BareRequest ===

impl BareRequest {
    /// The second word of the request line.
    pub(crate) fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }
}

async fn serve(listener: TcpListener, answer: Arc<Answer>, seen: Arc<Mutex<Vec<BareRequest>>>) {
    let mut connections = tokio::task::JoinSet::new();
    let tokens = Arc::new(Mutex::new(0_u32));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(converse(
            Raw::over(stream),
            Arc::clone(&answer),
            Arc::clone(&seen),
            Arc::clone(&tokens),
        ));
    }
}

async fn converse(
    mut connection: Raw,
    answer: Arc<Answer>,
    seen: Arc<Mutex<Vec<BareRequest>>>,
    tokens: Arc<Mutex<u32>>,
) {
    loop {
        while !connection.ahead.windows(4).any(|window| window == b"\r\n\r\n") {
            // A client may keep a connection for as long as it likes.
            let read = connection.stream.read_buf(&mut connection.ahead).await;
            if read.unwrap_or(0) == 0 {
                return;
            }
        }
        let head = String::from_utf8(connection.until(b"\r\n\r\n").await).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let body = connection.take(length.map_or(0, |length| length.parse().unwrap())).await;
        let request = BareRequest { head, body };
        let reply = if request.target() == "/cgi-bin/stable_token" {
            let mut tokens = tokens.lock().unwrap();
            *tokens += 1;
            let body = format!(r#"{{"access_token":"bare-token-{tokens}","expires_in":7200}}"#);
            reply_with("200 OK", "content-type: application/json\r\n", &body)
        } else {
            let reply = answer(&request);
            seen.lock().unwrap().push(request);
            reply
        };
        if connection.try_send(reply).await.is_err() {
            return;
        }
    }
}
