//! A reply's body: WeChat's, streaming, or a short one of our own.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::proxy::exchange::Exchange;
use crate::proxy::upstream::{BodyError, UpstreamBody};

/// What hyper sends to the client.
///
/// It owns the [`Exchange`], which ends, and is logged, when the last byte was handed over or the body is dropped.
#[derive(Debug)]
pub(crate) struct ReplyBody {
    content: Content,
    exchange: Option<Box<Exchange>>,
}

#[derive(Debug)]
enum Content {
    Own(Bytes),
    Upstream(UpstreamBody),
}

// === impl ReplyBody ===

impl ReplyBody {
    /// A body of our own.
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self { content: Content::Own(bytes), exchange: None }
    }

    /// WeChat's.
    pub(crate) fn upstream(body: UpstreamBody) -> Self {
        Self { content: Content::Upstream(body), exchange: None }
    }

    /// The exchange ends with this body.
    pub(crate) fn ends(&mut self, exchange: Box<Exchange>) {
        self.exchange = Some(exchange);
        if self.is_end_stream() {
            self.finish(Ok(()));
        }
    }

    fn finish(&mut self, ending: Result<(), BodyError>) {
        if let Some(exchange) = self.exchange.take() {
            exchange.ended(ending);
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        let frame = match &mut this.content {
            Content::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Content::Upstream(body) => Pin::new(body).poll_frame(cx),
        };
        match &frame {
            Poll::Pending => {}
            Poll::Ready(None) => this.finish(Ok(())),
            Poll::Ready(Some(Err(error))) => this.finish(Err(*error)),
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(exchange), Some(data)) = (&mut this.exchange, frame.data_ref()) {
                    exchange.sent(data.len());
                }
                // hyper does not ask again after the last byte of a known length.
                if this.is_end_stream() {
                    this.finish(Ok(()));
                }
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Own(bytes) => bytes.is_empty(),
            Content::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(bytes) => SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            Content::Upstream(body) => body.size_hint(),
        }
    }
}
