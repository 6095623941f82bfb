//! A request's body on its way out, as fast as the other side's windows allow.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;

use super::UPLOAD_AHEAD_BYTES;
use crate::proxy::upstream::exchange::poll_data;
use crate::proxy::upstream::{BoxError, Payload, RequestBodyFault, SendError};

/// A body, or what is left of it.
pub(super) struct Upload<'a> {
    source: Source<'a>,
    /// Taken from the source and not sent.
    piece: Bytes,
    has_moved: bool,
    is_waiting_for_client: bool,
    is_broken: bool,
}

enum Source<'a> {
    Slice(&'a [u8]),
    Frames { left: u64, frames: Pin<&'a mut dyn http_body::Body<Data = Bytes, Error = BoxError>> },
}

// === impl Upload ===

impl<'a> Upload<'a> {
    pub(super) fn new(payload: &'a mut Payload<'_>) -> Self {
        let source = match payload {
            Payload::Whole(content) => Source::Slice(content),
            Payload::Streamed { length, frames } => Source::Frames { left: *length, frames: frames.as_mut() },
        };
        Self { source, piece: Bytes::new(), has_moved: false, is_waiting_for_client: false, is_broken: false }
    }

    pub(super) fn is_done(&self) -> bool {
        self.piece.is_empty() && matches!(self.source, Source::Slice([]) | Source::Frames { left: 0, .. })
    }

    /// The other side takes no more.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Whether anything was sent since this was last asked.
    pub(super) fn has_moved(&mut self) -> bool {
        std::mem::take(&mut self.has_moved)
    }

    pub(super) fn stalled(&self) -> SendError {
        if self.is_waiting_for_client {
            SendError::RequestBody(RequestBodyFault::Stalled)
        } else {
            SendError::Stalled
        }
    }

    /// Sends what can be sent. Ready when all is, or when the other side takes no more: what it says instead comes as
    /// the reply.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut SendStream<Bytes>,
    ) -> Poll<Result<(), RequestBodyFault>> {
        self.is_waiting_for_client = false;
        while !self.is_done() {
            if self.piece.is_empty() {
                self.piece = ready!(self.poll_piece(cx))?;
            }
            stream.reserve_capacity(self.piece.len());
            let room = ready!(poll_room(cx, stream)).min(self.piece.len());
            let part = self.piece.split_to(room);
            if room == 0 || stream.send_data(part, self.is_done()).is_err() {
                self.is_broken = true;
                break;
            }
            self.has_moved = true;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, RequestBodyFault>> {
        match &mut self.source {
            Source::Slice(rest) => {
                let (piece, left) = rest.split_at_checked(UPLOAD_AHEAD_BYTES).unwrap_or((rest, &[]));
                *rest = left;
                Poll::Ready(Ok(Bytes::copy_from_slice(piece)))
            }
            Source::Frames { left, frames } => {
                let piece = poll_data(cx, frames, left);
                self.is_waiting_for_client = piece.is_pending();
                piece
            }
        }
    }
}

/// How much the windows take now; 0: nothing any more.
fn poll_room(cx: &mut Context<'_>, stream: &mut SendStream<Bytes>) -> Poll<usize> {
    while stream.capacity() == 0 {
        if !matches!(ready!(stream.poll_capacity(cx)), Some(Ok(_))) {
            return Poll::Ready(0);
        }
    }
    Poll::Ready(stream.capacity())
}
