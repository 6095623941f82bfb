//! One request out, the head of its reply in, on a stream of a shared connection.
//!
//! # Why
//!
//! * What h2 says of an error decides whether the request may be sent again, so it is read here and nowhere else: only
//!   `REFUSED_STREAM` and a `GOAWAY` *from the other side* mean that the request was not looked at. (h2 gives the error
//!   of a `GOAWAY` to the streams above its last one only.)
//! * h2 itself turns away what RFC 9113 §8.1.1 and §8.2 call malformed; what is stricter here is stricter for HTTP/1.1
//!   too (`head`).

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_util::future::poll_fn;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};

use super::body::Incoming;
use super::upload::Upload;
use super::{Lease, Mux};
use crate::proxy::upstream::exchange::INTERIM_REPLIES_MAX;
use crate::proxy::upstream::head::{FIELDS_MAX, content_length};
use crate::proxy::upstream::stall::Stall;
use crate::proxy::upstream::{Malformed, Outgoing, SendError, Stats, UpstreamBody};

/// Sends `request` and waits for the head of the final reply, and for its body as far as it came with it.
pub(in crate::proxy::upstream) fn exchange(
    lease: Lease,
    request: &mut Outgoing<'_>,
    stats: &Stats,
) -> impl Future<Output = Result<Response<UpstreamBody>, SendError>> {
    let (is_head, stall) = (*request.method == Method::HEAD, request.stall);
    let begun = Arriving::begin(&lease, request);
    async move {
        let mut arriving = begun?;
        let arrived = poll_fn(|cx| arriving.poll(cx)).await;
        if arrived.as_ref().is_err_and(|fault| *fault == SendError::ClosedBeforeReply) {
            lease.note_died();
        }
        let (head, content) = arrived?.into_parts();
        if arriving.stream.is_some() || arriving.upload.is_broken() {
            stats.early_replies.add(1);
        }
        let length = length_of(head.status, &head.headers, is_head)?;
        let incoming = Incoming::new(content, arriving.stream, lease, length, stall);
        let mut response = Response::new(UpstreamBody::begin_shared(incoming));
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        Ok(response)
    }
}

/// The head as HTTP/2 has it. What the client's own request could not have held cannot be in it, so errors are for
/// completeness.
fn head_of(mux: &Mux, request: &Outgoing<'_>) -> Result<Request<()>, SendError> {
    let mut target = BytesMut::with_capacity(TARGET_BYTES);
    let mut fields = HeaderMap::with_capacity(FIELDS);
    request.head.list(&mut target, &mut fields);
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTPS);
    parts.authority = Some(mux.authority.clone());
    let target = PathAndQuery::from_maybe_shared(target.freeze()).map_err(|_| SendError::Unprocessed)?;
    parts.path_and_query = Some(target);
    let mut head = Request::new(());
    *head.method_mut() = request.method.clone();
    *head.uri_mut() = Uri::from_parts(parts).map_err(|_| SendError::Unprocessed)?;
    *head.headers_mut() = fields;
    Ok(head)
}

/// A request on its way, and its reply's head.
struct Arriving<'a> {
    response: ResponseFuture,
    interim_replies: usize,
    upload: Upload<'a>,
    /// Until all of the request is sent.
    stream: Option<SendStream<Bytes>>,
    stall: Stall,
}

// === impl Arriving ===

impl<'a> Arriving<'a> {
    /// Sends the head, which h2 keeps until the connection takes it.
    fn begin(lease: &Lease, request: &'a mut Outgoing<'_>) -> Result<Self, SendError> {
        let Some(mux) = &lease.mux else { return Err(SendError::Unprocessed) };
        let head = head_of(mux, request)?;
        let upload = Upload::new(&mut request.payload);
        let sent = mux.handle.borrow_mut().send_request(head, upload.is_done());
        // An error here is a connection that takes no more: nothing of the request left.
        let (response, stream) = sent.map_err(|_| SendError::Unprocessed)?;
        let stream = (!upload.is_done()).then_some(stream);
        Ok(Self { response, interim_replies: 0, upload, stream, stall: Stall::new(request.stall) })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<RecvStream>, SendError>> {
        if let Poll::Ready(reply) = self.poll_reply(cx) {
            return Poll::Ready(reply);
        }
        let Some(stream) = &mut self.stream else { return Poll::Pending };
        match self.upload.poll(cx, stream) {
            Poll::Ready(Ok(())) => {
                self.stream = None;
                Poll::Pending
            }
            Poll::Ready(Err(fault)) => Poll::Ready(Err(SendError::RequestBody(fault))),
            Poll::Pending => {
                if self.upload.has_moved() {
                    self.stall.progress();
                }
                self.stall.poll(cx).map(|()| Err(self.upload.stalled()))
            }
        }
    }

    /// Interim replies are dropped, as in HTTP/1.1.
    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<RecvStream>, SendError>> {
        while let Some(interim) = ready!(self.response.poll_informational(cx)) {
            let interim = interim.map_err(|fault| fault_of(&fault))?;
            self.interim_replies += 1;
            if interim.status() == StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Err(SendError::MalformedReply("101 in HTTP/2")));
            }
            if self.interim_replies > INTERIM_REPLIES_MAX {
                return Poll::Ready(Err(SendError::MalformedReply("more than 8 interim replies")));
            }
        }
        Pin::new(&mut self.response).poll(cx).map_err(|fault| fault_of(&fault))
    }
}

/// What an error before the reply says about the request.
fn fault_of(fault: &h2::Error) -> SendError {
    let is_refusal = fault.is_go_away() || fault.reason() == Some(Reason::REFUSED_STREAM);
    if fault.is_remote() && is_refusal {
        SendError::Unprocessed
    } else if fault.is_remote() {
        SendError::Reset
    } else if fault.is_library() {
        SendError::MalformedReply("breaks HTTP/2")
    } else {
        SendError::ClosedBeforeReply
    }
}

/// Checks the head, and says how long the body is, where the head does.
fn length_of(
    status: StatusCode,
    fields: &HeaderMap,
    request_was_head: bool,
) -> Result<Option<u64>, Malformed> {
    if fields.len() > FIELDS_MAX {
        return Err(Malformed("more than 100 fields"));
    }
    let is_padded = |value: &[u8]| value.trim_ascii().len() != value.len();
    if fields.values().any(|value| is_padded(value.as_bytes())) {
        return Err(Malformed("space around a field's value"));
    }
    let mut lengths = fields.get_all(CONTENT_LENGTH).iter();
    let declared = lengths.next().map(|value| content_length(value.as_bytes())).transpose()?;
    if lengths.next().is_some() {
        return Err(Malformed("Content-Length twice"));
    }
    let is_bodiless =
        request_was_head || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    Ok(if is_bodiless { Some(0) } else { declared })
}

/// Path, query and a token, most of the time.
const TARGET_BYTES: usize = 384;

/// Of most requests.
const FIELDS: usize = 10;
