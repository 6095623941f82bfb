//! A TCP socket that sends small pieces as one.
//!
//! # Why
//!
//! A reply's head and body are two pieces, and rustls hands over its records as a list, mostly of one. `writev` costs the
//! kernel more than `send`, by more than it costs to put a few kilobytes side by side: of what a request costs as a whole,
//! 3 % for its two writes (*measured* with perf: 58.4 % below `vfs_writev`, 54.7 % of that below `tcp_sendmsg`).

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A `TcpStream` but for how it writes several slices.
#[derive(Debug)]
pub(crate) struct Tcp(pub(crate) TcpStream);

/// Pieces that are longer in all go to the kernel as they are.
const JOINED_BYTES_MAX: usize = 4 * 1024;

// === impl Tcp ===

impl Deref for Tcp {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.0
    }
}

impl AsyncRead for Tcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, to)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let tcp = Pin::new(&mut self.0);
        if let [only] = pieces {
            return tcp.poll_write(cx, only);
        }
        if pieces.iter().map(|piece| piece.len()).sum::<usize>() > JOINED_BYTES_MAX {
            return tcp.poll_write_vectored(cx, pieces);
        }
        let mut room = [MaybeUninit::uninit(); JOINED_BYTES_MAX];
        let mut joined = ReadBuf::uninit(&mut room);
        for piece in pieces {
            joined.put_slice(piece);
        }
        tcp.poll_write(cx, joined.filled())
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
