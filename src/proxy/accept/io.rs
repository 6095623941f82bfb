//! A client's socket, plain or TLS, TCP or unix, that keeps its [`Vitals`] up to date.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::frames::Frames;
use crate::proxy::outbox::Outbox;
use crate::proxy::tcp::Tcp;
use crate::proxy::vitals::Vitals;

/// Where clients connect.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A listener on its way out.
#[derive(Debug)]
pub(super) enum Last {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// A client's socket, as accepted.
#[derive(Debug)]
pub(crate) enum Plain {
    Tcp(Tcp),
    Unix(UnixStream),
}

/// A client's socket, as spoken on.
#[derive(Debug)]
enum Stream {
    Plain(Plain),
    Tls(Box<TlsStream<Plain>>),
}

/// A client's socket with its notes, and with what was read of it too early.
#[derive(Debug)]
pub(crate) struct ClientIo {
    stream: Stream,
    again: Vec<u8>,
    /// HTTP/2's, if it is that.
    frames: Option<Frames>,
    vitals: Rc<Vitals>,
}

// === impl Listener ===

impl Listener {
    /// Waits for a connection.
    pub(crate) async fn accept(&self, outbox: &Rc<Outbox>) -> io::Result<Plain> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // A client that is gone already is found out soon enough.
                let _set = stream.set_nodelay(true);
                Ok(Plain::Tcp(Tcp::new(stream, Some(Rc::clone(outbox)))))
            }
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Plain::Unix(stream)),
        }
    }
}

impl Listener {
    /// Stops waiting; what has arrived can still be accepted.
    pub(super) fn into_last(self) -> io::Result<Last> {
        match self {
            Self::Tcp(listener) => listener.into_std().map(Last::Tcp),
            Self::Unix(listener) => listener.into_std().map(Last::Unix),
        }
    }
}

// === impl Last ===

impl Last {
    /// The next connection that has arrived; the listener is to be dropped as soon as there is none.
    pub(super) fn accept(&mut self, outbox: &Rc<Outbox>) -> Option<Plain> {
        loop {
            let accepted = match self {
                Self::Tcp(listener) => listener.accept().and_then(|(stream, _)| {
                    stream.set_nonblocking(true)?;
                    let _set = stream.set_nodelay(true);
                    let stream = TcpStream::from_std(stream)?;
                    Ok(Plain::Tcp(Tcp::new(stream, Some(Rc::clone(outbox)))))
                }),
                Self::Unix(listener) => listener.accept().and_then(|(stream, _)| {
                    stream.set_nonblocking(true)?;
                    UnixStream::from_std(stream).map(Plain::Unix)
                }),
            };
            match accepted {
                Ok(stream) => return Some(stream),
                // It went away while it waited; those behind it have not.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => return None,
            }
        }
    }
}

// === impl ClientIo ===

impl ClientIo {
    pub(super) fn new(plain: Plain, vitals: Rc<Vitals>) -> Self {
        Self { stream: Stream::Plain(plain), again: Vec::new(), frames: None, vitals }
    }

    /// Does the TLS handshake.
    pub(super) async fn handshake(plain: Plain, vitals: Rc<Vitals>, tls: TlsAcceptor) -> io::Result<Self> {
        let stream = tls.accept(plain).await?;
        Ok(Self { stream: Stream::Tls(Box::new(stream)), again: Vec::new(), frames: None, vitals })
    }

    /// Whether ALPN chose HTTP/2.
    pub(super) fn chose_h2(&self) -> bool {
        match &self.stream {
            Stream::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
            Stream::Plain(_) => false,
        }
    }

    /// The certificates that the client showed, its own first.
    pub(super) fn certificates(&self) -> &[CertificateDer<'static>] {
        match &self.stream {
            Stream::Tls(stream) => stream.get_ref().1.peer_certificates().unwrap_or_default(),
            Stream::Plain(_) => &[],
        }
    }

    /// Adds what comes next to `to`, 2 KiB of it at the most, and says how much that was; 0 at the end. Holds no buffer
    /// while it waits.
    pub(super) async fn read_some(&mut self, to: &mut Vec<u8>) -> io::Result<usize> {
        poll_fn(|cx| {
            let mut piece = [0; 2 * 1024];
            let mut piece = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut *self).poll_read(cx, &mut piece))?;
            to.extend_from_slice(piece.filled());
            Poll::Ready(Ok(piece.filled().len()))
        })
        .await
    }

    /// What was read will be read again.
    pub(super) fn put_back(&mut self, bytes: Vec<u8>) {
        self.again = bytes;
    }

    /// Waits until there is something to read, or an end.
    pub(super) async fn news(&self) {
        if !self.again.is_empty() {
            return;
        }
        // An error is news too: the next read tells it.
        let _ready = poll_fn(|cx| match &self.stream {
            Stream::Plain(plain) => plain.poll_read_ready(cx),
            Stream::Tls(stream) => stream.get_ref().0.poll_read_ready(cx),
        })
        .await;
    }

    /// Closes the connection in stages, as `poll_shutdown` says.
    pub(super) async fn close(&mut self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut *self).poll_shutdown(cx)).await
    }

    /// What comes is HTTP/2, from its preface on.
    pub(super) fn watch_frames(&mut self, preface_bytes: usize) {
        self.frames = Some(Frames::after_preface(preface_bytes));
    }

    fn came(&mut self, bytes: &[u8]) {
        self.vitals.received(bytes.len());
        if let Some(frames) = &mut self.frames
            && !frames.see(bytes)
        {
            self.vitals.floods();
        }
    }

    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Pending => self.vitals.write_stalls(),
            Poll::Ready(written) => self.vitals.writes(*written.as_ref().unwrap_or(&0)),
        }
        if let (Some(frames), Poll::Ready(Ok(count))) = (&mut self.frames, written) {
            frames.sent(*count);
        }
    }

    /// Says goodbye to a client that floods us, as far as the socket takes it, and lets the connection fail. What
    /// hyper still had to write is for that client alone.
    fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(frames) = self.frames.take() {
            let _said = Pin::new(&mut *self).poll_write(cx, &frames.goodbye());
            let _sent = Pin::new(self).poll_flush(cx);
        }
        Poll::Ready(Err(io::Error::other("the client floods the connection")))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(plain) => Pin::new(plain).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.vitals.is_flooding() {
            return this.poll_goodbye(cx);
        }
        if !this.again.is_empty() {
            let count = this.again.len().min(to.remaining());
            let rest = this.again.split_off(count);
            let first = std::mem::replace(&mut this.again, rest);
            to.put_slice(&first);
            this.came(&first);
            return Poll::Ready(Ok(()));
        }
        let before = to.filled().len();
        ready!(match &mut this.stream {
            Stream::Plain(plain) => Pin::new(plain).poll_read(cx, to),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, to),
        })?;
        this.came(to.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = match &mut this.stream {
            Stream::Plain(plain) => Pin::new(plain).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        this.wrote(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = match &mut this.stream {
            Stream::Plain(plain) => Pin::new(plain).poll_write_vectored(cx, pieces),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
        };
        this.wrote(&written);
        written
    }

    /// Not for HTTP/2: of a socket that takes several slices h2 makes a write, a flush and with TLS a record for each body
    /// from 256 bytes on; for one that does not, it copies bodies below 1 KiB, as most of WeChat's are, to where the
    /// heads are, and what many streams have to say leaves at once.
    fn is_write_vectored(&self) -> bool {
        self.frames.is_none()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = match &mut this.stream {
            Stream::Plain(plain) => Pin::new(plain).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        };
        match &flushed {
            Poll::Pending => this.vitals.write_stalls(),
            Poll::Ready(_) => this.vitals.writes(0),
        }
        flushed
    }

    /// Closes in stages (RFC 9112 §9.6): our side first; then what the client still sends is read and dropped, so
    /// that the socket is not closed with bytes unread, which would reset the connection and could take the last
    /// reply with it. The worker's sweep ends a client that never stops.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.vitals.is_closing() {
            ready!(this.poll_close(cx))?;
            this.vitals.closes();
        }
        let mut piece = [0; 16 * 1024];
        while !this.vitals.is_half_closed() {
            let mut to = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut *this).poll_read(cx, &mut to))?;
        }
        Poll::Ready(Ok(()))
    }
}

// === impl Plain ===

impl Plain {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.with(|stream| stream.poll_read_ready(cx)),
            Self::Unix(stream) => stream.poll_read_ready(cx),
        }
    }
}

impl AsyncRead for Plain {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, to),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, to),
        }
    }
}

impl AsyncWrite for Plain {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
