//! The bytes below HTTP/2, and the sign that some came.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::greeting::Signs;
use crate::proxy::upstream::socket::Socket;
use crate::proxy::upstream::tls_stream::TlsStream;

/// A TLS connection that notes when bytes came.
pub(super) struct Wire {
    tls: Box<TlsStream>,
    signs: Rc<Signs>,
}

// === impl Wire ===

impl Wire {
    /// `None` for a connection without TLS: HTTP/2 is agreed on nowhere else.
    pub(super) fn new(socket: Socket, signs: Rc<Signs>) -> Option<Self> {
        match socket {
            Socket::Plain(_) => None,
            Socket::Tls(tls) => Some(Self { tls, signs }),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buffer.remaining();
        if ready!(self.tls.poll_read_into(cx, buffer, room))? > 0 {
            self.signs.bytes_came();
        }
        Poll::Ready(Ok(()))
    }
}

/// Not several slices at once: h2 then copies bodies below 1 KiB to where the heads are, in place of a write, a flush and a
/// record for each from 256 bytes on.
impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.tls.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tls.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tls.poll_shutdown(cx)
    }
}
