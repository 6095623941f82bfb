//! One request out, the head of its reply in, on one connection.
//!
//! # Why
//!
//! * Head and body leave in one write where they are small: one system call, one segment, one TLS record.
//! * A server may answer before it has read the request (RFC 9112 §9.3, RFC 9110 §10.1.1): 413, or 401. So
//!   whenever a body is being sent, the reply is looked for too; once its head is here nothing more is sent, and
//!   the connection is not used again. The same when sending fails: what the server said before it closed is read.
//! * While the reply is waited for no buffer is held; ten thousand waiting requests are a normal thing.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::future::poll_fn;
use http::{Method, Response, StatusCode};

use super::body::Reading;
use super::buffers::{BUFFER_BYTES, Buffer, Buffers};
use super::connection::Connection;
use super::head::{HeadScan, ReplyHead, parse_whole_head};
use super::socket::Socket;
use super::stall::Stall;
use super::{BoxError, Outgoing, Payload, RequestBodyFault, SendError, Stats, UpstreamBody};

/// Sends `request` on `connection` and waits for the head of the final reply, and for its body as far as it came with
/// it. (An `async fn` would keep room for the connection twice.)
pub(super) fn exchange(
    mut connection: Connection,
    request: &mut Outgoing<'_>,
    authority: &str,
    buffers: &Buffers,
    stats: &Stats,
) -> impl Future<Output = Result<Response<UpstreamBody>, SendError>> {
    let is_head = *request.method == Method::HEAD;
    async move {
        let arrived = arrival(&mut connection.socket, request, authority, buffers).await;
        if arrived.as_ref().is_err_and(|fault| *fault == SendError::ClosedBeforeReply) {
            connection.note_died();
        }
        let Arrived { head, buffer, is_early } = arrived?;
        if is_early {
            stats.early_replies.add(1);
        }
        let framing = head.framing(is_head);
        let is_reusable = head.persistent && !is_early;
        let reading = Reading::new(connection, is_reusable, buffers.clone(), buffer, framing, request.stall);
        let mut response = Response::new(UpstreamBody::begin(reading));
        *response.status_mut() = head.status;
        *response.version_mut() = head.version;
        *response.headers_mut() = head.fields;
        Ok(response)
    }
}

/// A reply's head has come.
struct Arrived {
    head: ReplyHead,
    /// What came behind the head.
    buffer: Buffer,
    /// Not all of the request was sent, so nothing more may be sent on this connection.
    is_early: bool,
}

async fn arrival(
    socket: &mut Socket,
    request: &mut Outgoing<'_>,
    authority: &str,
    buffers: &Buffers,
) -> Result<Arrived, SendError> {
    let mut arriving = Arriving::new(buffers.clone());
    let sent = send(socket, request, authority, buffers, &mut arriving).await?;
    let is_early = !matches!(sent, Sent::Whole);
    let head = match sent {
        Sent::Whole | Sent::Broken => poll_fn(|cx| arriving.poll(cx, socket)).await?,
        Sent::Answered(head) => *head,
    };
    let buffer = arriving.buffer.unwrap_or_else(|| buffers.take());
    Ok(Arrived { head, buffer, is_early })
}

/// How sending ended.
enum Sent {
    Whole,
    /// The other side takes no more.
    Broken,
    /// The reply came first.
    Answered(Box<ReplyHead>),
}

fn send<'a>(
    socket: &'a mut Socket,
    request: &'a mut Outgoing<'_>,
    authority: &str,
    buffers: &Buffers,
    arriving: &'a mut Arriving,
) -> impl Future<Output = Result<Sent, SendError>> + use<'a> {
    let mut stall = Stall::new(request.stall);
    let mut first = buffers.take();
    request.head.write(&mut first, authority);
    let mut sending = Sending::new(first, &mut request.payload);
    poll_fn(move |cx| {
        loop {
            let step = match sending.poll_step(cx, socket) {
                Poll::Ready(Ok(Step::Done)) => return Poll::Ready(Ok(Sent::Whole)),
                Poll::Ready(Err(StepFault::Broken)) => return Poll::Ready(Ok(Sent::Broken)),
                Poll::Ready(Err(StepFault::Body(fault))) => {
                    return Poll::Ready(Err(SendError::RequestBody(fault)));
                }
                Poll::Ready(Ok(Step::More)) => Poll::Ready(()),
                Poll::Pending => Poll::Pending,
            };
            if let Poll::Ready(head) = arriving.poll(cx, socket) {
                return Poll::Ready(head.map(|head| Sent::Answered(Box::new(head))));
            }
            if std::mem::take(&mut sending.has_moved) {
                stall.progress();
            }
            if step.is_pending() {
                ready!(stall.poll(cx));
                return Poll::Ready(Err(sending.stalled()));
            }
        }
    })
}

/// A request on its way out.
struct Sending<'a> {
    /// The head, and as much of the body as fits beside it.
    first: Buffer,
    rest: Rest<'a>,
    has_begun: bool,
    has_moved: bool,
    is_waiting_for_client: bool,
}

enum Rest<'a> {
    Slice(&'a [u8]),
    Frames {
        left: u64,
        frames: Pin<&'a mut dyn http_body::Body<Data = Bytes, Error = BoxError>>,
        frame: Bytes,
    },
}

enum Step {
    More,
    Done,
}

enum StepFault {
    Broken,
    Body(RequestBodyFault),
}

// === impl Sending ===

impl<'a> Sending<'a> {
    fn new(mut first: Buffer, payload: &'a mut Payload<'_>) -> Self {
        let rest = match payload {
            Payload::Whole(content) => {
                let (beside, rest) = content.split_at_checked(FIRST_WRITE_BYTES).unwrap_or((content, &[]));
                first.extend_from_slice(beside);
                Rest::Slice(rest)
            }
            Payload::Streamed { length, frames } => {
                Rest::Frames { left: *length, frames: frames.as_mut(), frame: Bytes::new() }
            }
        };
        Self { first, rest, has_begun: false, has_moved: false, is_waiting_for_client: false }
    }

    /// Sends what can be sent in one go.
    fn poll_step(&mut self, cx: &mut Context<'_>, socket: &mut Socket) -> Poll<Result<Step, StepFault>> {
        self.is_waiting_for_client = false;
        if !std::mem::replace(&mut self.has_begun, true) {
            self.join_first_frame(cx).map_err(StepFault::Body)?;
        }
        while !self.first.is_empty() {
            let count = ready!(write(socket, cx, &self.first))?;
            self.first.advance(count);
            self.has_moved = true;
        }
        let is_over = match &mut self.rest {
            Rest::Slice([]) => true,
            Rest::Slice(rest) => {
                let count = ready!(write(socket, cx, rest))?;
                *rest = rest.get(count..).unwrap_or_default();
                false
            }
            Rest::Frames { left: 0, frame, .. } if frame.is_empty() => true,
            Rest::Frames { left, frames, frame } if frame.is_empty() => {
                let Poll::Ready(next) = poll_data(cx, frames, left) else {
                    self.is_waiting_for_client = true;
                    ready!(flush(socket, cx))?;
                    return Poll::Pending;
                };
                *frame = next.map_err(StepFault::Body)?;
                false
            }
            Rest::Frames { frame, .. } => {
                let count = ready!(write(socket, cx, frame))?;
                frame.advance(count);
                false
            }
        };
        if is_over {
            return flush(socket, cx).map_ok(|()| Step::Done);
        }
        self.has_moved = true;
        Poll::Ready(Ok(Step::More))
    }

    /// Where the client's body has begun already, its beginning leaves together with the head.
    fn join_first_frame(&mut self, cx: &mut Context<'_>) -> Result<(), RequestBodyFault> {
        if let Rest::Frames { left, frames, frame } = &mut self.rest
            && *left > 0
            && let Poll::Ready(next) = poll_data(cx, frames, left)
        {
            let next = next?;
            if next.len() <= FIRST_WRITE_BYTES {
                self.first.extend_from_slice(&next);
            } else {
                *frame = next;
            }
        }
        Ok(())
    }

    fn stalled(&self) -> SendError {
        if self.is_waiting_for_client {
            SendError::RequestBody(RequestBodyFault::Stalled)
        } else {
            SendError::Stalled
        }
    }
}

/// Any error of writing is the same: the other side takes no more.
fn write(socket: &mut Socket, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, StepFault>> {
    match ready!(socket.poll_write(cx, bytes)) {
        Ok(count) if count > 0 => Poll::Ready(Ok(count)),
        Ok(_) | Err(_) => Poll::Ready(Err(StepFault::Broken)),
    }
}

fn flush(socket: &mut Socket, cx: &mut Context<'_>) -> Poll<Result<(), StepFault>> {
    socket.poll_flush(cx).map_err(|_| StepFault::Broken)
}

/// The next content of the client's body, at least one byte and no more than is `left`.
pub(super) fn poll_data(
    cx: &mut Context<'_>,
    frames: &mut Pin<&mut dyn http_body::Body<Data = Bytes, Error = BoxError>>,
    left: &mut u64,
) -> Poll<Result<Bytes, RequestBodyFault>> {
    loop {
        let frame = match ready!(frames.as_mut().poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(_)) => return Poll::Ready(Err(RequestBodyFault::Failed)),
            None => return Poll::Ready(Err(RequestBodyFault::Short)),
        };
        // Trailers have no place in a body of known length.
        let data = frame.into_data().unwrap_or_default();
        match left.checked_sub(data.len() as u64) {
            None => return Poll::Ready(Err(RequestBodyFault::Long)),
            Some(_) if data.is_empty() => {}
            Some(less) => {
                *left = less;
                return Poll::Ready(Ok(data));
            }
        }
    }
}

/// A reply's head on its way in.
#[derive(Debug)]
struct Arriving {
    buffers: Buffers,
    buffer: Option<Buffer>,
    scan: HeadScan,
    interim_replies: usize,
}

// === impl Arriving ===

impl Arriving {
    fn new(buffers: Buffers) -> Self {
        Self { buffers, buffer: None, scan: HeadScan::default(), interim_replies: 0 }
    }

    /// Reads until the head of a final reply is here; interim ones (RFC 9110 §15.2) are dropped.
    fn poll(&mut self, cx: &mut Context<'_>, socket: &mut Socket) -> Poll<Result<ReplyHead, SendError>> {
        loop {
            if let Some(head) = self.final_head()? {
                return Poll::Ready(Ok(head));
            }
            match ready!(self.poll_read(cx, socket)) {
                Ok(count) if count > 0 => {}
                Ok(_) | Err(_) if self.has_nothing() => {
                    return Poll::Ready(Err(SendError::ClosedBeforeReply));
                }
                Ok(_) | Err(_) => {
                    return Poll::Ready(Err(SendError::MalformedReply("connection closed within the head")));
                }
            }
        }
    }

    fn final_head(&mut self) -> Result<Option<ReplyHead>, SendError> {
        while let Some(head) = self.next_head()? {
            if !head.status.is_informational() {
                return Ok(Some(head));
            }
            self.interim_replies += 1;
            if head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Err(SendError::MalformedReply("101 without an Upgrade"));
            }
            if self.interim_replies > INTERIM_REPLIES_MAX {
                return Err(SendError::MalformedReply("more than 8 interim replies"));
            }
        }
        Ok(None)
    }

    fn next_head(&mut self) -> Result<Option<ReplyHead>, SendError> {
        let Some(buffer) = self.buffer.as_mut() else { return Ok(None) };
        let Some(length) = self.scan.end_of_head(buffer)? else { return Ok(None) };
        let head = parse_whole_head(buffer.get(..length).unwrap_or_default())?;
        buffer.advance(length);
        self.scan = HeadScan::default();
        Ok(Some(head))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, socket: &mut Socket) -> Poll<std::io::Result<usize>> {
        if self.buffer.is_none() {
            ready!(socket.poll_readable(cx))?;
        }
        let buffer = self.buffer.get_or_insert_with(|| self.buffers.take());
        if buffer.len() == buffer.capacity() {
            let more = BUFFER_BYTES.max(buffer.len());
            buffer.reserve(more);
        }
        let room = buffer.capacity() - buffer.len();
        let read = socket.poll_read(cx, buffer, room);
        if read.is_pending() && buffer.is_empty() {
            self.buffer = None;
        }
        read
    }

    fn has_nothing(&self) -> bool {
        self.interim_replies == 0 && self.buffer.as_ref().is_none_or(|buffer| buffer.is_empty())
    }
}

/// Up to here, content is copied beside the head, so that both leave in one write and one TLS record.
const FIRST_WRITE_BYTES: usize = 15 * 1024;

/// WeChat sends none that we know of.
pub(super) const INTERIM_REPLIES_MAX: usize = 8;
