//! An answer's body on its way out: whole or generated, and broken on purpose where a fault says so.

use std::future::Future;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::reply::Content;
use super::state::InFlight;

/// The body. It counts its request as in flight until it is dropped.
#[derive(Debug)]
pub(super) struct ReplyBody {
    content: Content,
    sent: u64,
    length: Length,
    cut_after: Option<u64>,
    drip: Option<Drip>,
    pause: Option<Pin<Box<Sleep>>>,
    _in_flight: Option<InFlight>,
}

/// How the body's end is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    /// By `Content-Length`, as WeChat does.
    Told,
    /// By chunks.
    Chunked,
}

/// So many bytes, then a pause.
#[derive(Debug, Clone, Copy)]
pub(super) struct Drip {
    pub(super) bytes: usize,
    pub(super) every: Duration,
}

/// The body was cut on purpose.
#[derive(Debug, thiserror::Error)]
#[error("the body was cut, as a fault asked")]
pub(super) struct Cut;

// === impl ReplyBody ===

impl ReplyBody {
    pub(super) fn new(content: Content, in_flight: Option<InFlight>) -> Self {
        Self {
            content,
            sent: 0,
            length: Length::Told,
            cut_after: None,
            drip: None,
            pause: None,
            _in_flight: in_flight,
        }
    }

    pub(super) fn chunked(mut self) -> Self {
        self.length = Length::Chunked;
        self
    }

    pub(super) fn cut_after(mut self, bytes: u64) -> Self {
        self.cut_after = Some(bytes);
        self
    }

    pub(super) fn dripping(mut self, drip: Drip) -> Self {
        self.drip = Some(drip);
        self
    }

    /// The next piece of at most `most` bytes.
    fn piece(&mut self, most: usize) -> Bytes {
        match &mut self.content {
            Content::Bytes(rest) => rest.split_to(rest.len().min(most)),
            Content::Pattern(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(most).min(PIECE_BYTES_MAX);
                let start = usize::try_from(self.sent % PERIOD).unwrap_or(0);
                *left = left.saturating_sub(u64::try_from(length).unwrap_or(0));
                PATTERN.slice(start..start + length)
            }
        }
    }

    fn poll_pause(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        Poll::Ready(())
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let body = &mut *self;
        std::task::ready!(body.poll_pause(context));
        let mut most = body.drip.map_or(BYTES_AT_ONCE_MAX, |drip| drip.bytes.max(1));
        if let Some(cut_after) = body.cut_after {
            let left = cut_after.saturating_sub(body.sent);
            if left == 0 || body.content.len() == 0 {
                return Poll::Ready(Some(Err(Cut)));
            }
            most = most.min(usize::try_from(left).unwrap_or(usize::MAX));
        }
        let piece = body.piece(most);
        if piece.is_empty() {
            return Poll::Ready(None);
        }
        body.sent = body.sent.saturating_add(u64::try_from(piece.len()).unwrap_or(0));
        // What was handed over is flushed while the body pauses, so that a cut loses nothing before it.
        let pause =
            if body.cut_after.is_some() { Some(BEFORE_CUT) } else { body.drip.map(|drip| drip.every) };
        body.pause = pause.map(|pause| Box::pin(sleep(pause)));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.cut_after.is_none() && self.content.len() == 0
    }

    fn size_hint(&self) -> SizeHint {
        match self.length {
            Length::Told => SizeHint::with_exact(self.content.len()),
            Length::Chunked => SizeHint::default(),
        }
    }
}

const BEFORE_CUT: Duration = Duration::from_millis(20);

/// What a generated body is cut from: byte n of such a body is n modulo 251.
static PATTERN: LazyLock<Bytes> =
    LazyLock::new(|| (0..65_536 + PERIOD).map(|n| u8::try_from(n % PERIOD).unwrap_or(0)).collect());
const PERIOD: u64 = 251;
const BYTES_AT_ONCE_MAX: usize = 1 << 20;
const PIECE_BYTES_MAX: usize = 65_536;
