//! A TCP socket that sends small pieces as one, and, where its worker has an [`Outbox`], together with other sockets'.
//!
//! # Why
//!
//! A reply's head and body are two pieces, and rustls hands over its records as a list, mostly of one. `writev` costs the
//! kernel more than `send`, by more than it costs to put a few kilobytes side by side: of what a request costs as a whole,
//! some 2 % for its two writes (*measured* with perf: of all CPU 58.4 % was below `vfs_writev`, 54.7 % below `tcp_sendmsg`,
//! and `send` costs half the difference). It is the system call itself (rustix), without the C library's cancellation points
//! around it, some 30 instructions each (callgrind).

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use rustix::net::SendFlags;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::outbox::Outbox;

/// Pieces that are longer in all go to the kernel as they are, and at once.
const SMALL_BYTES_MAX: usize = 4 * 1024;

/// A `TcpStream` but for when and how it writes.
#[derive(Debug)]
pub(crate) struct Tcp {
    shared: Rc<Shared>,
    outbox: Option<Rc<Outbox>>,
}

/// What a socket shares with the outbox.
#[derive(Debug)]
pub(super) struct Shared {
    stream: RefCell<TcpStream>,
    held: RefCell<Held>,
}

/// What was written and has not been sent.
#[derive(Default)]
struct Held {
    /// Empty, and without room, unless something is held.
    bytes: Vec<u8>,
    /// The kernel takes no more for now, and the outbox waits until it does.
    is_blocked: bool,
    /// Nobody will write any more, or hear of it.
    is_abandoned: bool,
    /// What is being said is long; the end of it is not kept back either, so that whoever says it knows when it is over.
    is_long: bool,
    /// Why sending has failed.
    fault: Option<io::ErrorKind>,
    /// Who waits until all is sent.
    waker: Option<Waker>,
    /// The outbox, where it waits.
    watcher: Option<Waker>,
}

// === impl Held ===

impl fmt::Debug for Held {
    /// Without the bytes: on a plain connection to WeChat there is a token among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held")
            .field("held_bytes", &self.bytes.len())
            .field("is_blocked", &self.is_blocked)
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

// === impl Tcp ===

impl Tcp {
    /// Without an outbox it sends at once.
    pub(crate) fn new(stream: TcpStream, outbox: Option<Rc<Outbox>>) -> Self {
        let shared = Shared { stream: RefCell::new(stream), held: RefCell::default() };
        Self { shared: Rc::new(shared), outbox }
    }

    /// Looks at the socket below.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&TcpStream) -> T) -> T {
        look(&self.shared.stream.borrow())
    }

    /// Sees to it that nothing is held, so that what comes next may go past the outbox.
    fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shared.held.borrow().is_blocked {
            self.shared.send();
        }
        let mut held = self.shared.held.borrow_mut();
        if let Some(fault) = held.fault {
            return Poll::Ready(Err(fault.into()));
        }
        if held.bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        held.waker = Some(cx.waker().clone());
        drop(held);
        if self.shared.blocks()
            && let Some(outbox) = &self.outbox
        {
            outbox.watch(Rc::clone(&self.shared));
        }
        Poll::Pending
    }

    /// Holds `pieces` for the end of the turn, if they may wait.
    fn hold(&self, pieces: &[IoSlice<'_>], length: usize) -> bool {
        let Some(outbox) = &self.outbox else { return false };
        let mut held = self.shared.held.borrow_mut();
        if length == 0
            || held.is_blocked
            || held.is_long
            || held.fault.is_some()
            || held.bytes.len() + length > SMALL_BYTES_MAX
        {
            return false;
        }
        let is_first = held.bytes.is_empty();
        if is_first {
            held.bytes = outbox.spare();
        }
        for piece in pieces {
            held.bytes.extend_from_slice(piece);
        }
        drop(held);
        if is_first {
            outbox.put(Rc::clone(&self.shared));
        }
        true
    }

    /// Sends several pieces as one, where they are small.
    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
        length: usize,
    ) -> Poll<io::Result<usize>> {
        let stream = &mut *self.shared.stream.borrow_mut();
        match pieces {
            [only] => Pin::new(stream).poll_write(cx, only),
            _ if length > SMALL_BYTES_MAX => Pin::new(stream).poll_write_vectored(cx, pieces),
            _ => {
                let mut room = [std::mem::MaybeUninit::uninit(); SMALL_BYTES_MAX];
                let mut joined = ReadBuf::uninit(&mut room);
                for piece in pieces {
                    joined.put_slice(piece);
                }
                Pin::new(stream).poll_write(cx, joined.filled())
            }
        }
    }
}

impl AsyncRead for Tcp {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = to.filled().len();
        ready!(Pin::new(&mut *self.shared.stream.borrow_mut()).poll_read(cx, to))?;
        // The other side has its say, so what comes next is something new.
        if to.filled().len() > before {
            self.shared.held.borrow_mut().is_long = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = pieces.iter().map(|piece| piece.len()).sum();
        if self.hold(pieces, length) {
            return Poll::Ready(Ok(length));
        }
        ready!(self.poll_sent(cx))?;
        self.shared.held.borrow_mut().is_long = true;
        self.poll_send(cx, pieces, length)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What is in the outbox is as good as sent, unless the kernel takes no more.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let held = self.shared.held.borrow();
        if held.is_blocked || held.fault.is_some() {
            drop(held);
            return self.poll_sent(cx);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_sent(cx))?;
        Pin::new(&mut *self.shared.stream.borrow_mut()).poll_shutdown(cx)
    }
}

impl Drop for Tcp {
    /// What the kernel has not taken by now it will not be asked to take for ever.
    fn drop(&mut self) {
        let mut held = self.shared.held.borrow_mut();
        held.is_abandoned = true;
        if let Some(watcher) = held.watcher.take() {
            watcher.wake();
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Sends what is held, as far as the kernel takes it, and tells whoever waits for that. Says whether that was all.
    pub(super) fn send(&self) -> bool {
        let mut held = self.held.borrow_mut();
        let stream = self.stream.borrow();
        while !held.bytes.is_empty() {
            let send = || Ok(rustix::net::send(&*stream, &held.bytes, SendFlags::NOSIGNAL)?);
            match stream.try_io(Interest::WRITABLE, send) {
                Ok(count) => drop(held.bytes.drain(..count)),
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock && !held.is_abandoned => {
                    return false;
                }
                Err(fault) => {
                    held.fault = Some(fault.kind());
                    held.bytes.clear();
                }
            }
        }
        held.is_blocked = false;
        if let Some(waker) = held.waker.take() {
            waker.wake();
        }
        true
    }

    /// The kernel takes no more. Says whether that is news.
    pub(super) fn blocks(&self) -> bool {
        !std::mem::replace(&mut self.held.borrow_mut().is_blocked, true)
    }

    /// Sends what is held, as often as the kernel takes some; ready when that was all.
    pub(super) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.send() {
            let is_ready = self.stream.borrow().poll_write_ready(cx).is_ready();
            if !is_ready {
                self.held.borrow_mut().watcher = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// The room of what was held, for the next.
    pub(super) fn room(&self) -> Vec<u8> {
        std::mem::take(&mut self.held.borrow_mut().bytes)
    }
}
