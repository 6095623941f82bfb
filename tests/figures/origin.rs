//! Where requests end up: a server that reads strictly, byte by byte, counts, and answers as WeChat does where weigate
//! needs it (the token call).

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::probes::floods::HELD;

/// Where requests wait until [`Origin::release`].
pub(crate) const SLOW: &str = "/wxa/slow";

/// A long reply.
pub(crate) const LONG: &str = "/cgi-bin/media/get";
const LONG_BYTES: usize = 16 << 20;

/// A running one; ends when dropped.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

/// How it differs from a plain one.
#[derive(Default)]
pub(crate) struct Ways {
    /// It closes connections that are idle for this long after a reply.
    pub(crate) idle: Option<Duration>,
    /// Where it listens; port 0 of 127.0.0.1 otherwise.
    pub(crate) listen: Option<SocketAddr>,
    /// It speaks TLS, as the acceptor of this moment says.
    pub(crate) tls: Option<watch::Receiver<TlsAcceptor>>,
}

/// A request as it came, complete.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) line: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// What a strict reader may not accept.
    pub(crate) fault: Option<&'static str>,
}

#[derive(Debug)]
struct State {
    idle: Option<Duration>,
    /// The last requests, token calls left out.
    got: Mutex<Vec<Got>>,
    /// How often each `id=` of a query came.
    ids: Mutex<HashMap<String, u32>>,
    connections: AtomicU64,
    requests: AtomicU64,
    body_bytes: AtomicU64,
    /// Of requests, after the handshake where there is TLS.
    bytes: AtomicU64,
    waiting: AtomicUsize,
    released: watch::Sender<bool>,
}

// === impl Origin ===

impl Origin {
    pub(crate) async fn start() -> Self {
        Self::with(Ways::default()).await
    }

    pub(crate) async fn with(ways: Ways) -> Self {
        let listen = ways.listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let listener = TcpListener::bind(listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            idle: ways.idle,
            got: Mutex::default(),
            ids: Mutex::default(),
            connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            body_bytes: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            released: watch::Sender::new(false),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&state), ways.tls));
        Self { address, state, task }
    }

    /// The requests since the last call.
    pub(crate) fn take(&self) -> Vec<Got> {
        std::mem::take(&mut *self.state.got.lock().unwrap())
    }

    /// How many ids came, and how many of them more than once.
    pub(crate) fn ids(&self) -> HashMap<String, u32> {
        self.state.ids.lock().unwrap().clone()
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> u64 {
        self.state.connections.load(Relaxed)
    }

    /// Requests so far, token calls left out.
    pub(crate) fn requests(&self) -> u64 {
        self.state.requests.load(Relaxed)
    }

    /// Bytes of bodies so far.
    pub(crate) fn body_bytes(&self) -> u64 {
        self.state.body_bytes.load(Relaxed)
    }

    /// Bytes so far, inside TLS.
    pub(crate) fn bytes(&self) -> u64 {
        self.state.bytes.load(Relaxed)
    }

    /// Requests that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.state.waiting.load(Relaxed)
    }

    /// Lets those that wait go, and those that come later pass.
    pub(crate) fn release(&self) {
        self.state.released.send_replace(true);
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>, tls: Option<watch::Receiver<TlsAcceptor>>) {
    // Connections end with the origin.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                state.connections.fetch_add(1, Relaxed);
                drop(stream.set_nodelay(true));
                let (state, tls) = (Arc::clone(&state), tls.clone());
                connections.spawn(async move {
                    // What the other side breaks is its own affair.
                    let Some(mut tls) = tls else { return drop(serve(stream, state).await) };
                    drop(over_tls(stream, state, &mut tls).await);
                });
            }
        }
    }
}

/// A new acceptor ends the connections of the old one.
async fn over_tls(
    stream: TcpStream,
    state: Arc<State>,
    tls: &mut watch::Receiver<TlsAcceptor>,
) -> io::Result<()> {
    let acceptor = tls.borrow_and_update().clone();
    let serving = async { serve(acceptor.accept(stream).await?, state).await };
    tokio::select! {
        ended = serving => ended,
        _changed = tls.changed() => Ok(()),
    }
}

/// One connection.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, state: Arc<State>) -> io::Result<()> {
    let mut ahead = Vec::new();
    let mut is_first = true;
    loop {
        let reading = read_request(&mut stream, &mut ahead, &state);
        let got = match state.idle {
            // An idle limit is about connections that have served; a new one has time.
            Some(idle) if !is_first => match timeout(idle, reading).await {
                Ok(got) => got?,
                Err(_) => return Ok(()),
            },
            _ => reading.await?,
        };
        is_first = false;
        let path = got.line.split([' ', '?']).nth(1).unwrap_or_default().to_owned();
        if path == "/cgi-bin/stable_token" {
            let body = r#"{"access_token":"token-of-the-origin-0123456789","expires_in":7200}"#;
            stream.write_all(reply(body).as_bytes()).await?;
            continue;
        }
        note(&state, &got);
        let is_head = got.line.starts_with("HEAD ");
        let is_broken = got.fault.is_some();
        if path == SLOW || path == HELD {
            let mut released = state.released.subscribe();
            state.waiting.fetch_add(1, Relaxed);
            let waited = released.wait_for(|released| *released).await.is_ok();
            state.waiting.fetch_sub(1, Relaxed);
            if !waited {
                return Ok(());
            }
        }
        if path == LONG {
            stream
                .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {LONG_BYTES}\r\n\r\n").as_bytes())
                .await?;
            for _piece in 0..LONG_BYTES / PIECE.len() {
                stream.write_all(&PIECE).await?;
            }
            continue;
        }
        let whole = reply(r#"{"errcode":0,"errmsg":"ok"}"#);
        let end = if is_head { whole.find("\r\n\r\n").unwrap() + 4 } else { whole.len() };
        stream.write_all(&whole.as_bytes()[..end]).await?;
        if is_broken {
            return Ok(());
        }
    }
}

static PIECE: [u8; 1 << 16] = [b'x'; 1 << 16];

fn reply(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn note(state: &State, got: &Got) {
    state.requests.fetch_add(1, Relaxed);
    let query = got.line.split([' ', '?']).nth(2).unwrap_or_default();
    if let Some(id) = query.split('&').find_map(|pair| pair.strip_prefix("id=")) {
        *state.ids.lock().unwrap().entry(id.to_owned()).or_default() += 1;
    }
    let mut kept = state.got.lock().unwrap();
    if kept.len() < 100 {
        kept.push(got.clone());
    }
}

/// The next request, complete; what is not HTTP/1.1 to the letter is noted in it.
async fn read_request<S: AsyncRead + Unpin>(
    stream: &mut S,
    ahead: &mut Vec<u8>,
    state: &State,
) -> io::Result<Got> {
    let end = loop {
        if let Some(at) = memchr::memmem::find(ahead, b"\r\n\r\n") {
            break at + 4;
        }
        more(stream, ahead, state).await?;
    };
    let head: Vec<u8> = ahead.drain(..end).collect();
    let mut got = read_head(&head);
    let all = |name: &str| -> Vec<String> {
        got.fields.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    };
    let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
    let framed = match (&*lengths, &*codings) {
        ([], []) => Ok(Some(0)),
        ([length], []) if !length.is_empty() && length.bytes().all(|digit| digit.is_ascii_digit()) => {
            length.parse().map(Some).map_err(|_| "Content-Length")
        }
        ([], [coding]) if coding == "chunked" => Ok(None),
        _ => Err("framing that can be read in two ways"),
    };
    match framed {
        Ok(Some(length)) => got.body = take(stream, ahead, state, length).await?,
        Ok(None) => match chunks(stream, ahead, state).await? {
            Ok(body) => got.body = body,
            Err(fault) => got.fault = Some(fault),
        },
        Err(fault) => got.fault = Some(fault),
    }
    Ok(got)
}

fn read_head(head: &[u8]) -> Got {
    let mut fault = None;
    let text = String::from_utf8_lossy(head).into_owned();
    if text.replace("\r\n", "").contains(['\r', '\n', '\0']) {
        fault = Some("CR, LF or NUL in the head");
    }
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let line = lines.next().unwrap_or_default().to_owned();
    let mut words = line.split(' ');
    let is_line = matches!(
        (words.next(), words.next(), words.next(), words.next()),
        (Some(method), Some(target), Some("HTTP/1.1" | "HTTP/1.0"), None)
            if is_token(method) && target.bytes().all(|byte| byte.is_ascii_graphic() || byte >= 0x80)
    );
    if !is_line {
        fault = Some("request line");
    }
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        if !is_token(name) {
            fault = Some("field name");
        }
        fields.push((name.to_lowercase(), value.trim_matches([' ', '\t']).to_owned()));
    }
    Got { line, fields, body: Vec::new(), fault }
}

fn is_token(text: &str) -> bool {
    let is_mark = |byte: u8| b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || is_mark(byte))
}

/// Chunks to the letter, without extensions. Trailers may be passed on (RFC 9110 §6.5.1), and are not looked at.
async fn chunks<S: AsyncRead + Unpin>(
    stream: &mut S,
    ahead: &mut Vec<u8>,
    state: &State,
) -> io::Result<Result<Vec<u8>, &'static str>> {
    let mut body = Vec::new();
    loop {
        let line = line(stream, ahead, state).await?;
        let is_number = !line.is_empty() && line.len() < 16 && line.iter().all(u8::is_ascii_hexdigit);
        if !is_number {
            return Ok(Err("chunk size"));
        }
        let length = u64::from_str_radix(std::str::from_utf8(&line).unwrap(), 16).unwrap();
        body.extend(take(stream, ahead, state, length).await?);
        if length == 0 {
            while !self::line(stream, ahead, state).await?.is_empty() {}
            return Ok(Ok(body));
        }
        if !self::line(stream, ahead, state).await?.is_empty() {
            return Ok(Err("more in a chunk than its size"));
        }
    }
}

async fn line<S: AsyncRead + Unpin>(
    stream: &mut S,
    ahead: &mut Vec<u8>,
    state: &State,
) -> io::Result<Vec<u8>> {
    loop {
        if let Some(at) = memchr::memmem::find(ahead, b"\r\n") {
            let line = ahead.drain(..at + 2).collect::<Vec<_>>();
            return Ok(line[..at].to_vec());
        }
        more(stream, ahead, state).await?;
    }
}

/// The first bytes of a body of `length` bytes; all of it is read.
async fn take<S: AsyncRead + Unpin>(
    stream: &mut S,
    ahead: &mut Vec<u8>,
    state: &State,
    length: u64,
) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    let mut left = length;
    loop {
        let here = usize::try_from(left).map_or(ahead.len(), |left| left.min(ahead.len()));
        let room = here.min(KEPT_MAX.saturating_sub(body.len()));
        body.extend_from_slice(&ahead[..room]);
        ahead.drain(..here);
        left -= here as u64;
        state.body_bytes.fetch_add(here as u64, Relaxed);
        if left == 0 {
            return Ok(body);
        }
        more(stream, ahead, state).await?;
    }
}

const KEPT_MAX: usize = 64;

async fn more<S: AsyncRead + Unpin>(stream: &mut S, ahead: &mut Vec<u8>, state: &State) -> io::Result<()> {
    ahead.reserve(128 * 1024);
    match stream.read_buf(ahead).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => {
            state.bytes.fetch_add(count as u64, Relaxed);
            Ok(())
        }
    }
}
