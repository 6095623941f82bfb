//! A reply's body, read from the connection as the caller polls for it.
//!
//! # Why
//!
//! No task stands between the connection and the reader: hyper polls this body when its client can take more, so a
//! slow client slows the upstream down and nothing piles up here. A small reply that came whole with its head is
//! taken off the connection before the caller sees it, and then the body is nothing but its bytes.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::poll_fn;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, timeout_at};

use super::BodyError;
use super::buffers::{BUFFER_BYTES, Buffer, Buffers};
use super::chunk::{ChunkDecoder, Piece};
use super::connection::Connection;
use super::head::Framing;
use super::mux::Incoming;
use super::stall::Stall;

/// The body of a reply.
///
/// When its last byte is read the connection goes back to the pool, in the very poll that yields it; dropped
/// earlier, the connection is closed. A connection that ends before the body does gives an error, never a clean
/// end. Trailers are dropped. `Default` is the empty body.
#[derive(Debug, Default)]
pub struct UpstreamBody {
    /// Content that was read and not yet yielded.
    ahead: Bytes,
    rest: Rest,
}

#[derive(Debug, Default)]
enum Rest {
    #[default]
    Nothing,
    Reading(Box<Reading>),
    /// Over HTTP/2.
    Shared(Box<Incoming>),
    Failed(BodyError),
}

/// A body that is still on its way.
#[derive(Debug)]
pub(super) struct Reading {
    /// `None` once it was given back.
    connection: Option<Connection>,
    is_reusable: bool,
    buffers: Buffers,
    /// Bytes read and not decoded; `None` while there are none and none can be read.
    buffer: Option<Buffer>,
    decoder: Decoder,
    stall: Stall,
    /// How much to read at one time.
    read_bytes: usize,
}

#[derive(Debug)]
enum Decoder {
    Length { left: u64 },
    Chunked(ChunkDecoder),
    UntilClose,
}

/// What was read of a body.
pub(super) enum Content {
    /// At least one byte, and there is more to come.
    More(Bytes),
    /// All that was left, perhaps nothing.
    Last(Bytes),
}

// === impl UpstreamBody ===

impl UpstreamBody {
    /// A body to be read. What came with the head is decoded at once: where that was all, the connection is back
    /// in the pool when this returns.
    pub(super) fn begin(mut reading: Reading) -> Self {
        match reading.decode() {
            Ok(Some(Content::Last(ahead))) => Self { ahead, rest: Rest::Nothing },
            Ok(Some(Content::More(ahead))) => Self { ahead, rest: Rest::Reading(Box::new(reading)) },
            Ok(None) => Self { ahead: Bytes::new(), rest: Rest::Reading(Box::new(reading)) },
            Err(fault) => Self { ahead: Bytes::new(), rest: Rest::Failed(fault) },
        }
    }

    /// The same over HTTP/2. Whoever wants what has not come polls for it.
    pub(super) fn begin_shared(mut incoming: Incoming) -> Self {
        match incoming.poll_content(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(Content::Last(ahead))) => Self { ahead, rest: Rest::Nothing },
            Poll::Ready(Ok(Content::More(ahead))) => Self { ahead, rest: Rest::Shared(Box::new(incoming)) },
            Poll::Ready(Err(fault)) => Self { ahead: Bytes::new(), rest: Rest::Failed(fault) },
            Poll::Pending => Self { ahead: Bytes::new(), rest: Rest::Shared(Box::new(incoming)) },
        }
    }

    /// Waits until `max` bytes of the body or its end are here, and shows what is here (`max` bytes or more, or
    /// all). Nothing is consumed: the body still yields these bytes.
    ///
    /// `Timeout` at the deadline; the body can be read on then. Any other error is the body's own and will come
    /// again when the bytes before it were yielded.
    pub async fn peek(&mut self, max: usize, deadline: Instant) -> Result<&[u8], BodyError> {
        if self.ahead.len() < max && !matches!(self.rest, Rest::Nothing) {
            let filled = poll_fn(|cx| self.poll_ahead(cx, max));
            timeout_at(deadline, filled).await.unwrap_or(Err(BodyError::Timeout))?;
        }
        Ok(&self.ahead)
    }

    /// Reads and drops what is left, so that the connection can be used again. Gives up, and closes it, where that
    /// is more than `max` bytes, or more than 20 ms away, or beyond the deadline.
    pub async fn discard(mut self, max: usize, deadline: Instant) {
        if matches!(self.rest, Rest::Reading(_) | Rest::Shared(_))
            && self.known_length().is_none_or(|known| known <= max as u64)
        {
            let patience = deadline.min(Instant::now() + DISCARD_PATIENCE);
            let read = timeout_at(patience, poll_fn(|cx| self.poll_away(cx, max))).await;
            // Whether that worked does not matter: if not, dropping the body closes the connection.
            drop(read);
        }
    }

    fn poll_ahead(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<Result<(), BodyError>> {
        while self.ahead.len() < max {
            let Some(content) = ready!(self.poll_content(cx))? else { break };
            if self.ahead.is_empty() {
                self.ahead = content;
            } else {
                let mut both = BytesMut::with_capacity(self.ahead.len() + content.len());
                both.extend_from_slice(&self.ahead);
                both.extend_from_slice(&content);
                self.ahead = both.freeze();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_away(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<Result<(), BodyError>> {
        let mut left = max;
        while let Some(content) = ready!(self.poll_content(cx))? {
            match left.checked_sub(content.len()) {
                Some(less) => left = less,
                None => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The next content that is not in `ahead`; `None` at the end.
    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyError>> {
        let content = match &mut self.rest {
            Rest::Nothing => return Poll::Ready(Ok(None)),
            Rest::Failed(fault) => return Poll::Ready(Err(*fault)),
            Rest::Reading(reading) => ready!(reading.poll_content(cx)),
            Rest::Shared(incoming) => ready!(incoming.poll_content(cx)),
        };
        Poll::Ready(match content {
            Ok(Content::More(content)) => Ok(Some(content)),
            Ok(Content::Last(content)) => {
                self.rest = Rest::Nothing;
                Ok(Some(content).filter(|content| !content.is_empty()))
            }
            Err(fault) => {
                self.rest = Rest::Failed(fault);
                Err(fault)
            }
        })
    }

    fn known_length(&self) -> Option<u64> {
        let ahead = self.ahead.len() as u64;
        match &self.rest {
            Rest::Nothing => Some(ahead),
            Rest::Failed(_) => None,
            Rest::Reading(reading) => reading.left().and_then(|left| left.checked_add(ahead)),
            Rest::Shared(incoming) => incoming.left().and_then(|left| left.checked_add(ahead)),
        }
    }
}

impl http_body::Body for UpstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let body = self.get_mut();
        if !body.ahead.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut body.ahead)))));
        }
        body.poll_content(cx).map(|content| content.map(|content| content.map(Frame::data)).transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && matches!(self.rest, Rest::Nothing)
    }

    fn size_hint(&self) -> SizeHint {
        match self.known_length() {
            Some(length) => SizeHint::with_exact(length),
            None => SizeHint::default(),
        }
    }
}

// === impl Reading ===

impl Reading {
    /// `buffer` holds what came behind the head.
    pub(super) fn new(
        connection: Connection,
        is_reusable: bool,
        buffers: Buffers,
        buffer: Buffer,
        framing: Framing,
        stall: Duration,
    ) -> Self {
        let decoder = match framing {
            Framing::Length(left) => Decoder::Length { left },
            Framing::Chunked => Decoder::Chunked(ChunkDecoder::new()),
            Framing::UntilClose => Decoder::UntilClose,
        };
        Self {
            connection: Some(connection),
            is_reusable,
            buffers,
            buffer: Some(buffer),
            decoder,
            stall: Stall::new(stall),
            read_bytes: BUFFER_BYTES,
        }
    }

    /// What the body has left, where that is known.
    fn left(&self) -> Option<u64> {
        match self.decoder {
            Decoder::Length { left } => Some(left),
            Decoder::Chunked(_) | Decoder::UntilClose => None,
        }
    }

    /// Decodes what is here; `None`: more must be read.
    fn decode(&mut self) -> Result<Option<Content>, BodyError> {
        let Some(buffer) = self.buffer.as_mut() else { return Ok(None) };
        let content = match &mut self.decoder {
            Decoder::Length { left } => {
                let here = usize::try_from(*left).map_or(buffer.len(), |left| left.min(buffer.len()));
                *left -= here as u64;
                let content = take(buffer, here);
                if *left == 0 { Some(Content::Last(content)) } else { more(content) }
            }
            Decoder::Chunked(decoder) => dechunk(decoder, buffer)?,
            Decoder::UntilClose => {
                let here = buffer.len();
                more(take(buffer, here))
            }
        };
        if matches!(content, Some(Content::Last(_))) {
            self.finish();
        }
        Ok(content)
    }

    /// The last byte was read: the connection goes back, unless bytes follow that belong to nothing.
    fn finish(&mut self) {
        let is_clean = self.buffer.as_ref().is_none_or(|buffer| buffer.is_empty());
        self.buffer = None;
        if let Some(connection) = self.connection.take()
            && self.is_reusable
            && is_clean
        {
            connection.release();
        }
    }

    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Result<Content, BodyError>> {
        loop {
            if let Some(content) = self.decode()? {
                return Poll::Ready(Ok(content));
            }
            let Poll::Ready(count) = self.poll_read(cx) else {
                self.buffer = self.buffer.take().filter(|buffer| !buffer.is_empty());
                return self.stall.poll(cx).map(|()| Err(BodyError::Stalled));
            };
            match (count, &self.decoder) {
                (Ok(0), Decoder::UntilClose) => {
                    self.finish();
                    return Poll::Ready(Ok(Content::Last(Bytes::new())));
                }
                (Ok(0) | Err(_), _) => return Poll::Ready(Err(BodyError::Truncated)),
                (Ok(_), _) => self.stall.progress(),
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        let Some(connection) = self.connection.as_mut() else { return Poll::Ready(Ok(0)) };
        if self.buffer.is_none() {
            ready!(connection.socket.poll_readable(cx))?;
        }
        let buffer = self.buffer.get_or_insert_with(|| self.buffers.take());
        buffer.reserve(self.read_bytes);
        let count = ready!(connection.socket.poll_read(cx, buffer, self.read_bytes))?;
        if count >= self.read_bytes {
            self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
        }
        Poll::Ready(Ok(count))
    }
}

fn more(content: Bytes) -> Option<Content> {
    (!content.is_empty()).then_some(Content::More(content))
}

/// The first `count` bytes. Split off without a copy where they are most of the buffer; copied where they are
/// little, so that a few bytes do not hold a large buffer for as long as someone holds them.
fn take(buffer: &mut BytesMut, count: usize) -> Bytes {
    if count.saturating_mul(2) >= buffer.capacity() && count > BUFFER_BYTES / 2 {
        return buffer.split_to(count).freeze();
    }
    let content = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
    buffer.advance(count);
    content
}

/// All content in the buffer, in one piece: chunks are often small, and frames should not be.
fn dechunk(decoder: &mut ChunkDecoder, buffer: &mut BytesMut) -> Result<Option<Content>, BodyError> {
    let mut content = Bytes::new();
    let mut joined = BytesMut::new();
    let mut is_over = false;
    while !buffer.is_empty() && !is_over {
        let (done, piece) = decoder.advance(buffer)?;
        match piece {
            Piece::More => buffer.advance(done),
            Piece::End => {
                buffer.advance(done);
                is_over = true;
            }
            Piece::Data(range) => {
                buffer.advance(range.start);
                let chunk = take(buffer, range.len());
                if content.is_empty() {
                    content = chunk;
                    continue;
                }
                if joined.is_empty() {
                    joined.extend_from_slice(&content);
                }
                joined.extend_from_slice(&chunk);
            }
        }
    }
    let content = if joined.is_empty() { content } else { joined.freeze() };
    Ok(if is_over { Some(Content::Last(content)) } else { more(content) })
}

/// Frames are at most this long; larger ones cost memory and save little.
const READ_BYTES_MAX: usize = 64 * 1024;

/// A rest that is not here by then is not worth the wait: a new connection costs about as much.
const DISCARD_PATIENCE: Duration = Duration::from_millis(20);
