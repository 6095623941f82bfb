//! The body of a reply, as it comes on a stream.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream};

use super::Lease;
use crate::proxy::upstream::BodyError;
use crate::proxy::upstream::body::Content;
use crate::proxy::upstream::stall::Stall;

/// A body that is still on its way. Dropped before its end, it resets the stream.
pub(in crate::proxy::upstream) struct Incoming {
    content: RecvStream,
    /// Of a request that was answered before all of it was sent; nothing more is sent, and when this is dropped the
    /// other side hears so.
    _unsent: Option<SendStream<Bytes>>,
    _lease: Lease,
    /// What the head promised and has not come.
    left: Option<u64>,
    /// All that was promised has come, and the end has not.
    held: Bytes,
    stall: Stall,
}

// === impl Incoming ===

impl Incoming {
    /// `length` is what the head says, if it does.
    pub(super) fn new(
        content: RecvStream,
        unsent: Option<SendStream<Bytes>>,
        lease: Lease,
        length: Option<u64>,
        stall: Duration,
    ) -> Self {
        let stall = Stall::new(stall);
        Self { content, _unsent: unsent, _lease: lease, left: length, held: Bytes::new(), stall }
    }

    /// What is left, where that is known.
    pub(in crate::proxy::upstream) fn left(&self) -> Option<u64> {
        self.left.and_then(|left| left.checked_add(self.held.len() as u64))
    }

    /// The next content. The last of it waits for the end of the stream, so that no stream is reset whose end was
    /// about to come.
    pub(in crate::proxy::upstream) fn poll_content(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Content, BodyError>> {
        loop {
            let data = match self.content.poll_data(cx) {
                Poll::Pending => return self.stall.poll(cx).map(|()| Err(BodyError::Stalled)),
                Poll::Ready(None) => return Poll::Ready(self.last(Bytes::new())),
                Poll::Ready(Some(Err(fault))) => return Poll::Ready(Err(fault_of(&fault))),
                Poll::Ready(Some(Ok(data))) => data,
            };
            if data.is_empty() {
                continue;
            }
            self.stall.progress();
            // Whoever polls takes it now, so as much more may come. It was lent, so giving it back cannot fail.
            drop(self.content.flow_control().release_capacity(data.len()));
            self.count(data.len())?;
            if self.content.is_end_stream() {
                return Poll::Ready(self.last(data));
            }
            if self.left == Some(0) {
                self.held = data;
            } else {
                return Poll::Ready(Ok(Content::More(data)));
            }
        }
    }

    fn count(&mut self, length: usize) -> Result<(), BodyError> {
        let Some(left) = &mut self.left else { return Ok(()) };
        let fault = BodyError::Malformed("more content than Content-Length says");
        *left = left.checked_sub(length as u64).ok_or(fault)?;
        Ok(())
    }

    fn last(&mut self, data: Bytes) -> Result<Content, BodyError> {
        match self.left {
            None | Some(0) if self.held.is_empty() => Ok(Content::Last(data)),
            None | Some(0) => Ok(Content::Last(std::mem::take(&mut self.held))),
            Some(_) => Err(BodyError::Truncated),
        }
    }
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").field("left", &self.left).finish_non_exhaustive()
    }
}

/// h2 finds it malformed where the content is not as long as the head says, and where a frame has no place.
fn fault_of(fault: &h2::Error) -> BodyError {
    if fault.is_library() { BodyError::Malformed("breaks HTTP/2") } else { BodyError::Truncated }
}
