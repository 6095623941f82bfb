//! One TCP or TLS connection, and the question whether it is still good.

use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::{BufMut, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::tls_stream::TlsStream;
use crate::proxy::tcp::Tcp;

/// A connection's two kinds.
#[derive(Debug)]
pub(super) enum Socket {
    Plain(Tcp),
    Tls(Box<TlsStream>),
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
            Self::Tls(tls) => tls.alpn_protocol() == Some(b"h2".as_slice()),
        }
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Tls(tls) => tls.poll_write(cx, bytes),
        }
    }

    /// Sends what TLS still holds, and what the outbox could not.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => tls.poll_flush(cx),
        }
    }

    /// Waits until there is something to read (or the end), so that no buffer need be held meanwhile.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(tcp) => tcp.with(|tcp| tcp.poll_read_ready(cx)),
            Self::Tls(tls) => tls.poll_readable(cx),
        }
    }

    /// Reads `room` bytes or less behind what is in `buffer`; 0 is the end.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        match self {
            // The future holds no state of its own, so polling a new one each time loses nothing.
            Self::Plain(tcp) => pin!(tcp.read_buf(&mut buffer.limit(room))).poll(cx),
            Self::Tls(tls) => tls.poll_read_into(cx, buffer, room),
        }
    }

    /// Whether there are bytes, or an end, that nobody asked for, as far as TLS and tokio know. No system call; see [`Self::probe`] for
    /// what it may have missed.
    pub(super) fn has_news(&self) -> bool {
        match self {
            Self::Plain(tcp) => {
                tcp.with(|tcp| tcp.poll_read_ready(&mut Context::from_waker(Waker::noop())).is_ready())
            }
            Self::Tls(tls) => tls.has_news(),
        }
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
            Self::Tls(tls) => tls.probe(),
        }
    }
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
