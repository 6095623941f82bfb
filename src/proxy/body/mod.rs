//! Bodies: a request's, held or streaming, and a reply's.
//!
//! Whether a request can go twice is a type. A held body is whole before anything is sent: in memory up to a bound,
//! in an unlinked temporary file beyond it. That also gives it a length, and WeChat answers 412 to a body without
//! one (wechat.md §7.3): what makes the second try possible makes the first one right. A body longer than may be held
//! streams, where the client is allowed to and its length is known, and goes once.

mod pace;
mod reply;
mod spool;

use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use pace::{Pace, Waited};
pub(super) use reply::ReplyBody;
pub(super) use spool::Spool;

use super::refusal::Refusal;
use super::snapshot::Snapshot;

/// A request's body.
#[derive(Debug)]
pub(super) enum RequestBody {
    /// It can go any number of times.
    Held(Held),
    /// It goes once.
    Streaming {
        /// `Content-Length`, in bytes.
        length: u64,
        /// Where it comes from.
        incoming: Box<Paced>,
    },
}

/// A whole body.
#[derive(Debug)]
pub(super) enum Held {
    Memory(Bytes),
    /// Boxed, as a stream is: it is rare, and every request has room for one.
    File(Box<Spool>),
}

/// A client's body, and what it owes.
#[derive(Debug)]
pub(super) struct Paced {
    incoming: Incoming,
    waited: Waited,
}

/// What a request's body may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits<'a> {
    pub(super) memory_bytes_max: u64,
    pub(super) body_bytes_max: u64,
    pub(super) streamed_body_bytes_max: Option<u64>,
    pub(super) pace: Pace,
    pub(super) spool_dir: &'a Path,
}

// === impl Limits ===

impl<'a> Limits<'a> {
    pub(super) fn of(snapshot: &'a Snapshot) -> Self {
        Self {
            memory_bytes_max: snapshot.limits.held_memory_bytes_max,
            body_bytes_max: snapshot.limits.body_bytes_max,
            streamed_body_bytes_max: None,
            pace: Pace {
                stall: snapshot.limits.stall,
                grace: snapshot.limits.header,
                bytes_per_s_min: snapshot.limits.body_bytes_per_s_min,
            },
            spool_dir: &snapshot.spool_dir,
        }
    }
}

// === impl RequestBody ===

impl RequestBody {
    /// A body of no bytes.
    pub(super) const EMPTY: Self = Self::Held(Held::Memory(Bytes::new()));

    /// Its length, in bytes.
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Held(Held::Memory(bytes)) => length_of(bytes),
            Self::Held(Held::File(spool)) => spool.length(),
            Self::Streaming { length, .. } => *length,
        }
    }

    /// Whether it can go once more.
    pub(super) fn is_held(&self) -> bool {
        matches!(self, Self::Held(_))
    }
}

/// Receives a body: whole where it may be held, else as a stream of known length, else not at all.
pub(super) async fn receive(incoming: Incoming, limits: Limits<'_>) -> Result<RequestBody, Refusal> {
    let length = incoming.size_hint().exact();
    if let Some(length) = length.filter(|length| *length > limits.body_bytes_max) {
        let may_stream = limits.streamed_body_bytes_max.is_some_and(|most| length <= most);
        return if may_stream {
            let incoming = Box::new(Paced { incoming, waited: Waited::new(limits.pace) });
            Ok(RequestBody::Streaming { length, incoming })
        } else {
            Err(Refusal::BodyTooLarge)
        };
    }
    hold(incoming, length, limits).await.map(RequestBody::Held)
}

/// Receives a body that must fit in memory.
pub(super) async fn in_memory(incoming: Incoming, limits: Limits<'_>) -> Result<Bytes, Refusal> {
    if incoming.size_hint().lower() > limits.body_bytes_max {
        return Err(Refusal::BodyTooLarge);
    }
    match hold(incoming, None, limits).await? {
        Held::Memory(bytes) => Ok(bytes),
        Held::File(_) => Err(Refusal::BodyTooLarge),
    }
}

async fn hold(mut incoming: Incoming, length: Option<u64>, limits: Limits<'_>) -> Result<Held, Refusal> {
    let begun = Instant::now();
    let mut gathered = Gathered::Nothing;
    let mut received = 0;
    while let Some(data) = next_data(&mut incoming, limits.pace, received, begun).await? {
        received += length_of(&data);
        if received > limits.body_bytes_max {
            return Err(Refusal::BodyTooLarge);
        }
        if received > limits.memory_bytes_max {
            return spool(gathered, data, incoming, begun, limits)
                .await
                .map(|spool| Held::File(Box::new(spool)));
        }
        gathered = gathered.and(data);
    }
    // hyper ends a cut body with an error; this is the belt to its braces.
    if length.is_some_and(|length| length != received) {
        return Err(Refusal::BodyIncomplete);
    }
    Ok(Held::Memory(gathered.into_bytes()))
}

async fn spool(
    gathered: Gathered,
    data: Bytes,
    mut incoming: Incoming,
    begun: Instant,
    limits: Limits<'_>,
) -> Result<Spool, Refusal> {
    let mut spool = Spool::create(limits.spool_dir).await.map_err(Refusal::BodyNotHeld)?;
    spool.append(gathered.into_bytes()).await.map_err(Refusal::BodyNotHeld)?;
    spool.append(data).await.map_err(Refusal::BodyNotHeld)?;
    while let Some(data) = next_data(&mut incoming, limits.pace, spool.length(), begun).await? {
        if spool.length() + length_of(&data) > limits.body_bytes_max {
            return Err(Refusal::BodyTooLarge);
        }
        spool.append(data).await.map_err(Refusal::BodyNotHeld)?;
    }
    spool.flush().await.map_err(Refusal::BodyNotHeld)?;
    Ok(spool)
}

/// The next piece of data; trailers are dropped (RFC 9110 §6.5.1 allows that).
async fn next_data(
    incoming: &mut Incoming,
    pace: Pace,
    received: u64,
    begun: Instant,
) -> Result<Option<Bytes>, Refusal> {
    loop {
        let now = Instant::now();
        let until = now + pace.patience(received, now.saturating_duration_since(begun));
        let Ok(frame) = tokio::time::timeout_at(until, incoming.frame()).await else {
            return Err(Refusal::BodyIncomplete);
        };
        match frame {
            None => return Ok(None),
            Some(Err(_)) => return Err(Refusal::BodyIncomplete),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// What has come so far: most bodies come in one piece, which is kept as it is.
enum Gathered {
    Nothing,
    One(Bytes),
    Many(BytesMut),
}

// === impl Gathered ===

impl Gathered {
    fn and(self, data: Bytes) -> Self {
        match self {
            Self::Nothing => Self::One(data),
            Self::One(first) => {
                let mut many = BytesMut::with_capacity((first.len() + data.len()).next_power_of_two());
                many.extend_from_slice(&first);
                many.extend_from_slice(&data);
                Self::Many(many)
            }
            Self::Many(mut many) => {
                many.extend_from_slice(&data);
                Self::Many(many)
            }
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::One(data) => data,
            Self::Many(many) => many.freeze(),
        }
    }
}

fn length_of(data: &[u8]) -> u64 {
    u64::try_from(data.len()).unwrap_or(u64::MAX)
}

pin_project_lite::pin_project! {
    /// A client's body as the upstream side takes one: data only.
    pub(super) struct ClientBody<'a> {
        #[pin]
        incoming: &'a mut Incoming,
        waited: &'a mut Waited,
    }
}

// === impl ClientBody ===

impl<'a> ClientBody<'a> {
    pub(super) fn new(paced: &'a mut Paced) -> Self {
        Self { incoming: &mut paced.incoming, waited: &mut paced.waited }
    }
}

impl Body for ClientBody<'_> {
    type Data = Bytes;
    type Error = super::upstream::BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.project();
        let frame = this.incoming.poll_frame(cx);
        let count = match &frame {
            Poll::Pending => {
                this.waited.waits();
                return Poll::Pending;
            }
            Poll::Ready(Some(Ok(frame))) => frame.data_ref().map_or(0, |data| length_of(data)),
            Poll::Ready(Some(Err(_)) | None) => return frame.map_err(Into::into),
        };
        if !this.waited.brings(count) {
            return Poll::Ready(Some(Err("the body comes too slowly".into())));
        }
        frame.map_err(Into::into)
    }
}
