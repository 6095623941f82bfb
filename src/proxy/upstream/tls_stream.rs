//! TLS over a socket, without a byte of buffer while there is nothing to keep.
//!
//! # Why
//!
//! rustls's own buffered connection keeps 4 KiB from its first record on, and there is a connection for each request that
//! waits: *measured* with 9,500 of them, 39 MiB of 197. Its unbuffered interface works in memory that is lent to it, and a
//! worker needs that once for each host: what stays with a connection is half a record, where half a record came.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, Read as _};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BufMut, BytesMut};
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, ReadTraffic, UnbufferedStatus,
};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::buffers::Scratch;
use super::socket::Probe;
use crate::proxy::tcp::Tcp;

/// A TLS connection, the handshake done.
pub(super) struct TlsStream {
    tcp: Tcp,
    session: UnbufferedClientConnection,
    scratch: Rc<Scratch>,
    /// What came and is not whole yet: a part of a record, or of a message of the handshake's kind.
    incoming: Vec<u8>,
    /// What was decrypted and not read.
    ahead: BytesMut,
    /// Records that the socket has not taken.
    outgoing: BytesMut,
    end: End,
    has_said_end: bool,
}

/// How much the other side will say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// There may be more.
    Open,
    /// It has said that this was all (`close_notify`, RFC 8446 §6.1).
    Said,
    /// It broke the protocol: nothing that comes can be believed.
    Broken,
}

// === impl TlsStream ===

impl TlsStream {
    /// Shakes hands. An error of kind `InvalidData` holds a `rustls::Error`; the other side has been told.
    pub(super) async fn connect(
        config: Arc<rustls::ClientConfig>,
        name: ServerName<'static>,
        tcp: Tcp,
        scratch: Rc<Scratch>,
    ) -> io::Result<Self> {
        let session = UnbufferedClientConnection::new(config, name).map_err(invalid)?;
        let mut stream = Self {
            tcp,
            session,
            scratch,
            incoming: Vec::new(),
            ahead: BytesMut::new(),
            outgoing: BytesMut::new(),
            end: End::Open,
            has_said_end: false,
        };
        // Nothing has come, but there is something to say.
        stream.digest(&mut [], &mut |_| {})?;
        poll_fn(|cx| stream.poll_handshake(cx)).await?;
        Ok(stream)
    }

    /// The protocol that was agreed on (ALPN, RFC 7301).
    pub(super) fn alpn_protocol(&self) -> Option<&[u8]> {
        self.session.alpn_protocol()
    }

    /// Room that is its own.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.incoming.capacity() + self.ahead.capacity() + self.outgoing.capacity()
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_sent(cx))?;
            if !self.session.is_handshaking() {
                return Pin::new(&mut self.tcp).poll_flush(cx);
            }
            if self.end == End::Said {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            // A server may speak in the same breath as it ends the handshake.
            let mut ahead = std::mem::take(&mut self.ahead);
            let received =
                self.poll_receive(cx, RECEIVE_BYTES_MIN, &mut |content| ahead.extend_from_slice(content));
            self.ahead = ahead;
            ready!(received)?;
        }
    }

    /// Ready when there may be something to read, or an end.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() || self.end != End::Open {
            return Poll::Ready(Ok(()));
        }
        self.tcp.with(|tcp| tcp.poll_read_ready(cx))
    }

    /// Whether anything came that nobody has read, a part of a record too, or an end. No system call.
    pub(super) fn has_news(&self) -> bool {
        !self.incoming.is_empty() || self.poll_readable(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Reads `room` bytes or less; 0 is the end, where the other side has said so. Without a word it is an error.
    pub(super) fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut impl BufMut,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        let mut count = self.ahead.len().min(room);
        if count > 0 {
            to.put_slice(&self.ahead.split_to(count));
            if self.ahead.is_empty() {
                self.ahead = BytesMut::new();
            }
            return Poll::Ready(Ok(count));
        }
        loop {
            match self.end {
                End::Open if room > 0 => {}
                End::Open | End::Said => return Poll::Ready(Ok(0)),
                End::Broken => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            }
            let mut ahead = BytesMut::new();
            let received = self.poll_receive(cx, room, &mut |content| {
                let (now, later) = content.split_at(content.len().min(room - count));
                to.put_slice(now);
                count += now.len();
                ahead.extend_from_slice(later);
            });
            self.ahead = ahead;
            if count > 0 {
                // Where more went wrong, the next read says so.
                return Poll::Ready(Ok(count));
            }
            ready!(received)?;
        }
    }

    /// Encrypts as much of `bytes` as goes at one time, and sends it; the rest of what the socket does not take is kept.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_sent(cx))?;
        if self.end == End::Broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let bytes = bytes.get(..SEND_BYTES_MAX).unwrap_or(bytes);
        self.poll_say(cx, Some(bytes)).map_ok(|()| bytes.len())
    }

    /// Sends what is kept, and what the outbox could not.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_sent(cx))?;
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    /// Says that this was all, and closes this side of the socket.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_sent(cx))?;
        if self.end != End::Broken && !std::mem::replace(&mut self.has_said_end, true) {
            ready!(self.poll_say(cx, None))?;
            ready!(self.poll_sent(cx))?;
        }
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    /// What waiting bytes make of an idle connection. TLS sends some of its own between replies (session tickets, key
    /// updates, an end), so they are given to rustls, and what counts is what it makes of them. Whole records only: the
    /// rest of a part of one might be a reply nobody asked for. Asks the kernel itself, see [`super::socket`].
    pub(super) fn probe(&mut self) -> Probe {
        if !self.ahead.is_empty() || !self.incoming.is_empty() {
            return Probe::Unsolicited;
        }
        if self.end != End::Open {
            return Probe::Closed;
        }
        let mut ahead = BytesMut::new();
        let received = self.receive(
            RECEIVE_BYTES_MIN,
            |tcp, room| match tcp.with(|tcp| (&*SockRef::from(tcp)).read(room.initialize_unfilled())) {
                Ok(count) => {
                    room.advance(count);
                    Poll::Ready(Ok(()))
                }
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                Err(fault) => Poll::Ready(Err(fault)),
            },
            &mut |content| ahead.extend_from_slice(content),
        );
        self.ahead = ahead;
        match received {
            Poll::Pending => Probe::Alive,
            _ if !self.ahead.is_empty() => Probe::Unsolicited,
            Poll::Ready(Err(_)) => Probe::Closed,
            Poll::Ready(Ok(_)) if self.end != End::Open => Probe::Closed,
            // There may be more behind it.
            Poll::Ready(Ok(count)) if count == RECEIVE_BYTES_MIN || !self.incoming.is_empty() => {
                Probe::Unsolicited
            }
            Poll::Ready(Ok(_)) => Probe::Alive,
        }
    }

    /// Receives once, `room` bytes at most within bounds, and gives `take` what they say.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        room: usize,
        take: &mut dyn FnMut(&[u8]),
    ) -> Poll<io::Result<usize>> {
        let room = room.clamp(RECEIVE_BYTES_MIN, RECEIVE_BYTES_MAX);
        self.receive(room, |tcp, room| Pin::new(tcp).poll_read(cx, room), take)
    }

    /// How many bytes `read` has got. The socket's end is an error.
    fn receive(
        &mut self,
        room: usize,
        read: impl FnOnce(&mut Tcp, &mut ReadBuf<'_>) -> Poll<io::Result<()>>,
        take: &mut dyn FnMut(&[u8]),
    ) -> Poll<io::Result<usize>> {
        let scratch = Rc::clone(&self.scratch);
        let records = &mut *scratch.incoming.borrow_mut();
        let kept = self.incoming.len();
        if records.len() < kept + room {
            records.resize(kept + room, 0);
        }
        let (before, records_room) = records.split_at_mut(kept);
        let mut received = ReadBuf::new(records_room.get_mut(..room).unwrap_or_default());
        ready!(read(&mut self.tcp, &mut received))?;
        let count = received.filled().len();
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        before.copy_from_slice(&self.incoming);
        self.incoming.clear();
        let (records, _) = records.split_at_mut(kept + count);
        let done = self.digest(records, take)?;
        match records.get(done..).unwrap_or_default() {
            [] => self.incoming = Vec::new(),
            rest => self.incoming.extend_from_slice(rest),
        }
        Poll::Ready(Ok(count))
    }

    /// Lets rustls read `records`, and gives `take` what they say; how many bytes are done with. What rustls has to say
    /// to that is in `outgoing` then.
    fn digest(&mut self, records: &mut [u8], take: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        let mut done = 0;
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.session.process_tls_records(records.get_mut(done..).unwrap_or_default());
            let mut is_over = false;
            match state {
                Ok(ConnectionState::ReadTraffic(traffic)) => discard += read_all(traffic, take)?,
                Ok(ConnectionState::EncodeTlsData(mut message)) => {
                    encode(&mut message, &mut self.outgoing);
                }
                // It is on its way when the next is.
                Ok(ConnectionState::TransmitTlsData(message)) => message.done(),
                Ok(ConnectionState::PeerClosed) => self.end = End::Said,
                Ok(_) => is_over = true,
                Err(fault) => {
                    self.end = End::Broken;
                    self.tell_why(records.get_mut(done + discard..).unwrap_or_default());
                    return Err(invalid(fault));
                }
            }
            done += discard;
            if is_over {
                return Ok(done);
            }
        }
    }

    /// The other side broke the protocol and is told how (RFC 8446 §6.2), if it cares. (`rest` must be what rustls has not
    /// done with: it counts on it.)
    fn tell_why(&mut self, rest: &mut [u8]) {
        if let Ok(ConnectionState::EncodeTlsData(mut alert)) = self.session.process_tls_records(rest).state {
            encode(&mut alert, &mut self.outgoing);
        }
        let _told = self.poll_sent(&mut Context::from_waker(Waker::noop()));
    }

    /// Encrypts and sends `content`; `None`: that this was all.
    fn poll_say(&mut self, cx: &mut Context<'_>, content: Option<&[u8]>) -> Poll<io::Result<()>> {
        let scratch = Rc::clone(&self.scratch);
        let records = &mut *scratch.outgoing.borrow_mut();
        // All that came has been digested, so this is all it can be.
        let Ok(ConnectionState::WriteTraffic(mut traffic)) =
            self.session.process_tls_records(&mut self.incoming).state
        else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let length = loop {
            let encrypted = match content {
                Some(content) => traffic.encrypt(content, records),
                None => traffic.queue_close_notify(records),
            };
            match encrypted {
                Ok(length) => break length,
                Err(EncryptError::InsufficientSize(more)) => records.resize(more.required_size, 0),
                Err(EncryptError::EncryptExhausted) => {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
            }
        };
        let records = records.get(..length).unwrap_or_default();
        let sent = match Pin::new(&mut self.tcp).poll_write(cx, records) {
            Poll::Ready(sent) => sent?,
            Poll::Pending => 0,
        };
        self.outgoing.extend_from_slice(records.get(sent..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }

    /// Gives the socket what it has not taken.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            match ready!(Pin::new(&mut self.tcp).poll_write(cx, &self.outgoing))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.outgoing.advance(count),
            }
            if self.outgoing.is_empty() {
                self.outgoing = BytesMut::new();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for TlsStream {
    /// Without the bytes, whatever they are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("incoming_bytes", &self.incoming.len())
            .field("ahead_bytes", &self.ahead.len())
            .field("outgoing_bytes", &self.outgoing.len())
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

/// Gives `take` all content that is there; how many bytes more are done with.
fn read_all(
    mut traffic: ReadTraffic<'_, '_, ClientConnectionData>,
    take: &mut dyn FnMut(&[u8]),
) -> io::Result<usize> {
    let mut discard = 0;
    while let Some(record) = traffic.next_record() {
        let record = record.map_err(invalid)?;
        discard += record.discard;
        take(record.payload);
    }
    Ok(discard)
}

/// Appends a message, which says how much room it wants when it is given none.
fn encode(message: &mut EncodeTlsData<'_, ClientConnectionData>, outgoing: &mut BytesMut) {
    if let Err(EncodeError::InsufficientSize(room)) = message.encode(&mut []) {
        let before = outgoing.len();
        outgoing.resize(before + room.required_size, 0);
        let _whole = message.encode(outgoing.get_mut(before..).unwrap_or_default());
    }
}

fn invalid(fault: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, fault)
}

/// Most replies are below 2 KiB, and so are a few session tickets.
const RECEIVE_BYTES_MIN: usize = 4 * 1024;

/// Two records of the longest kind, nearly (RFC 8446 §5.1).
const RECEIVE_BYTES_MAX: usize = 32 * 1024;

/// Two records.
const SEND_BYTES_MAX: usize = 32 * 1024;
