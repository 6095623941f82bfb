//! Clients: one request at a time, on a connection that is kept.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::probes::CLIENT_KEY;

/// Longer than any of the three should let a request wait.
const ANSWER_MAX: Duration = Duration::from_secs(40);

/// A connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) stream: TcpStream,
    ahead: Vec<u8>,
}

/// A GET with the client key.
pub(crate) fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: w\r\nAuthorization: Bearer {CLIENT_KEY}\r\n\r\n")
}

/// A POST with the client key.
pub(crate) fn post(target: &str, body: &str) -> String {
    format!(
        "POST {target} HTTP/1.1\r\nHost: w\r\nAuthorization: Bearer {CLIENT_KEY}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

// === impl Conn ===

impl Conn {
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, ahead: Vec::new() })
    }

    /// Sends a request and reads its whole reply; its status.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> io::Result<u16> {
        self.stream.write_all(request).await?;
        self.reply().await
    }

    /// Sends a request and reads its whole reply; its body.
    pub(crate) async fn text(&mut self, request: &[u8]) -> io::Result<String> {
        self.stream.write_all(request).await?;
        let (_, body) = timeout(ANSWER_MAX, self.read_reply()).await??;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// The next reply, whole; its status.
    pub(crate) async fn reply(&mut self) -> io::Result<u16> {
        Ok(timeout(ANSWER_MAX, self.read_reply()).await??.0)
    }

    async fn read_reply(&mut self) -> io::Result<(u16, Vec<u8>)> {
        let head = self.until(b"\r\n\r\n").await?;
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let field = |name: &str| {
            head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
        };
        let status = head.split(' ').nth(1).and_then(|status| status.trim().parse().ok());
        let status = status.ok_or_else(|| io::Error::other("no status"))?;
        let body = if let Some(length) = field("content-length") {
            let length = length.parse().map_err(io::Error::other)?;
            self.take(length).await?
        } else if field("transfer-encoding").is_some() {
            self.chunks().await?
        } else {
            Vec::new()
        };
        Ok((status, body))
    }

    async fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.until(b"\r\n").await?;
            let line = String::from_utf8_lossy(&line).trim().to_owned();
            let length = usize::from_str_radix(&line, 16).map_err(io::Error::other)?;
            body.extend(self.take(length).await?);
            self.until(b"\r\n").await?;
            if length == 0 {
                return Ok(body);
            }
        }
    }

    async fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.ahead.len() < count {
            self.more().await?;
        }
        Ok(self.ahead.drain(..count).collect())
    }

    async fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.ahead, end) {
                return Ok(self.ahead.drain(..at + end.len()).collect());
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.ahead).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// One request on a connection of its own; whether it was answered with 200.
pub(crate) async fn is_served(address: SocketAddr) -> bool {
    let Ok(mut conn) = Conn::open(address).await else { return false };
    conn.ask(get("/cgi-bin/user/info?openid=after").as_bytes()).await.is_ok_and(|status| status == 200)
}
