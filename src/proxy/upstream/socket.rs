//! One TCP or TLS connection, and the question whether it is still good.

use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{BufMut, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncBufRead, AsyncReadExt, AsyncWrite};
use tokio_rustls::client::TlsStream;

use crate::proxy::tcp::Tcp;

/// A connection's two kinds.
#[derive(Debug)]
pub(super) enum Socket {
    Plain(Tcp),
    Tls(Box<TlsStream<Tcp>>),
}

/// What an idle connection is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    /// Nothing speaks against it.
    Alive,
    /// The other side closed it, or it broke.
    Closed,
    /// Bytes came that no request asked for. Taken as a reply they would be the wrong one.
    Unsolicited,
}

// === impl Socket ===

impl Socket {
    /// Whether that was agreed on (ALPN, RFC 7301).
    pub(super) fn speaks_http2(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls) => tls.get_ref().1.alpn_protocol() == Some(b"h2".as_slice()),
        }
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    /// Sends what TLS still holds, and what the outbox could not.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    /// Waits until there is something to read (or the end), so that no buffer need be held meanwhile.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(tcp) => tcp.with(|tcp| tcp.poll_read_ready(cx)),
            Self::Tls(tls) => {
                let _plaintext = ready!(Pin::new(tls).poll_fill_buf(cx))?;
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Reads `room` bytes or less behind what is in `buffer`; 0 is the end.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        let mut buffer = buffer.limit(room);
        // The future holds no state of its own, so polling a new one each time loses nothing.
        match self {
            Self::Plain(tcp) => pin!(tcp.read_buf(&mut buffer)).poll(cx),
            Self::Tls(tls) => pin!(tls.read_buf(&mut buffer)).poll(cx),
        }
    }

    /// Whether tokio has heard of bytes, or of an end, that nobody asked for. No system call; see [`Self::probe`] for
    /// what it may have missed.
    pub(super) fn has_news(&self) -> bool {
        let tcp = match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        };
        tcp.with(|tcp| tcp.poll_read_ready(&mut Context::from_waker(Waker::noop())).is_ready())
    }

    /// Asks the kernel itself, not tokio: what tokio knows of readiness is as old as the last turn of the reactor,
    /// and a FIN that came since would go unseen. One `recv(MSG_PEEK)`.
    pub(super) fn probe(&mut self) -> Probe {
        match self {
            Self::Plain(tcp) => match peek(tcp, &mut [MaybeUninit::uninit()]) {
                Peeked::Nothing => Probe::Alive,
                Peeked::Bytes => Probe::Unsolicited,
                Peeked::End => Probe::Closed,
            },
            Self::Tls(tls) => probe_tls(tls),
        }
    }
}

/// TLS sends bytes of its own between replies (session tickets, key updates, an end), so waiting bytes are given to
/// rustls, and what counts is what it makes of them.
fn probe_tls(tls: &mut TlsStream<Tcp>) -> Probe {
    let (tcp, session) = tls.get_mut();
    match peek(tcp, &mut [MaybeUninit::uninit()]) {
        Peeked::Nothing => {}
        Peeked::End => return Probe::Closed,
        Peeked::Bytes => match read_records(tcp, session) {
            Probe::Alive => {}
            bad @ (Probe::Closed | Probe::Unsolicited) => return bad,
        },
    }
    match session.reader().read(&mut [0]) {
        Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => Probe::Alive,
        Ok(count) if count > 0 => Probe::Unsolicited,
        Ok(_) | Err(_) => Probe::Closed,
    }
}

/// Feeds waiting records to rustls. Whole ones only: the rest of a part of one might be a reply nobody asked for.
fn read_records(tcp: &Tcp, session: &mut rustls::ClientConnection) -> Probe {
    let mut records = [0_u8; PROBE_BYTES];
    let length = match tcp.with(|tcp| (&*SockRef::from(tcp)).read(&mut records)) {
        Ok(0) | Err(_) => return Probe::Closed,
        Ok(length) => length,
    };
    let mut records = records.get(..length).unwrap_or_default();
    if length == PROBE_BYTES || !is_whole_records(records) {
        return Probe::Unsolicited;
    }
    while !records.is_empty() {
        match session.read_tls(&mut records) {
            Ok(0) | Err(_) => return Probe::Closed,
            Ok(_) => {}
        }
        match session.process_new_packets() {
            Err(_) => return Probe::Closed,
            Ok(state) if state.peer_has_closed() => return Probe::Closed,
            Ok(state) if state.plaintext_bytes_to_read() > 0 => return Probe::Unsolicited,
            Ok(_) => {}
        }
    }
    Probe::Alive
}

/// Type, version, length, content (RFC 8446 §5.1).
fn is_whole_records(mut bytes: &[u8]) -> bool {
    while let [_kind, _major, _minor, high, low, rest @ ..] = bytes {
        match rest.get(usize::from(u16::from_be_bytes([*high, *low]))..) {
            Some(next) => bytes = next,
            None => return false,
        }
    }
    bytes.is_empty()
}

enum Peeked {
    Nothing,
    Bytes,
    End,
}

fn peek(tcp: &Tcp, room: &mut [MaybeUninit<u8>]) -> Peeked {
    match tcp.with(|tcp| SockRef::from(tcp).peek(room)) {
        Ok(0) => Peeked::End,
        Ok(_) => Peeked::Bytes,
        Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => Peeked::Nothing,
        Err(_) => Peeked::End,
    }
}

/// A few session tickets are below 2 KiB.
const PROBE_BYTES: usize = 4 * 1024;
