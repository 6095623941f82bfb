//! A connection on which an answer can be replaced by raw bytes: for the faults that no HTTP library will write.
//!
//! The service leaves the bytes in the [`Injection`] and returns an answer without a body. hyper writes that in one
//! piece; the wire swallows the piece and writes the bytes instead.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Where the service leaves raw bytes for its connection.
#[derive(Debug, Default)]
pub(super) struct Injection {
    waits: AtomicBool,
    bytes: Mutex<Bytes>,
}

/// The connection.
#[derive(Debug)]
pub(super) struct Wire<S> {
    inner: S,
    injection: Arc<Injection>,
    pending: Bytes,
}

// === impl Injection ===

impl Injection {
    /// The next piece that hyper writes is replaced by `bytes`.
    pub(super) fn put(&self, bytes: Bytes) {
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
        self.waits.store(true, Ordering::Release);
    }

    fn take(&self) -> Option<Bytes> {
        self.waits
            .swap(false, Ordering::AcqRel)
            .then(|| std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

// === impl Wire ===

impl<S: AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(inner: S, injection: Arc<Injection>) -> Self {
        Self { inner, injection, pending: Bytes::new() }
    }

    fn poll_pending(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(context, &self.pending))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.pending.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_pending(context))?;
        if let Some(instead) = self.injection.take() {
            self.pending = instead;
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(context))?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
