//! A request that is on its way: its head, and what is noted about it for log and metrics.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use tokio::time::Instant;

use super::body::{self, ReplyBody};
use super::handle::Connection;
use super::refusal::Refusal;
use super::upstream::{BodyError, SendError, UpstreamBody};
use super::worker::RouteEntry;
use super::{headers, inspect, respond};
use crate::clients::InFlight;
use crate::telemetry::log::{ACCESS, Cut};
use crate::types::{Platform, RequestId};
use crate::wechat::{ErrCode, envelope};

/// How a request ends whose client has dropped it.
const CLIENT_GONE: &str = "client_gone";

/// Sending a body may be as slow as this.
const SENT_BYTES_PER_S_MIN: u64 = 64 * 1024;

/// A request's head, and what is noted about it; logged and counted when the request ends, by whatever end.
pub(crate) struct Exchange {
    pub(super) head: Parts,
    pub(super) notes: Notes,
}

/// What is noted about a request while it is on its way.
pub(super) struct Notes {
    pub(super) id: RequestId,
    pub(super) started_at: Instant,
    /// When its body was whole, or its streaming began.
    forwarded_at: Instant,
    pub(super) status: StatusCode,
    attempts: u8,
    errcode: Option<ErrCode>,
    sent_bytes: u64,
    upstream_time: Option<Duration>,
    /// Word and cause; boxed, since it is rare.
    refusal: Option<Box<(&'static str, Option<String>)>>,
    ending: &'static str,
    pub(super) route: Option<Rc<RouteEntry>>,
    pub(super) permit: Option<InFlight>,
    connection: Rc<Connection>,
}

// === impl Exchange ===

impl Exchange {
    /// A request begins.
    pub(super) fn begin(connection: Rc<Connection>, head: Parts) -> Self {
        let started_at = connection.vitals.request_begins();
        let worker = &connection.worker;
        worker.counts.requests_begun.one();
        let notes = Notes {
            id: worker.name_request(),
            started_at,
            forwarded_at: started_at,
            status: StatusCode::OK,
            attempts: 1,
            errcode: None,
            sent_bytes: 0,
            upstream_time: None,
            refusal: None,
            // What is dropped before it ended was dropped because the client had gone.
            ending: CLIENT_GONE,
            route: None,
            permit: None,
            connection,
        };
        Self { head, notes }
    }

    /// Bytes of the reply's body went to the client.
    pub(super) fn sent(&mut self, count: usize) {
        self.notes.sent_bytes += u64::try_from(count).unwrap_or(u64::MAX);
    }

    /// The reply's body has come to its end.
    pub(super) fn ended(mut self: Box<Self>, ending: Result<(), BodyError>) {
        self.notes.ending = match ending {
            Ok(()) => "done",
            Err(error) => error.word(),
        };
    }

    fn log(&self) {
        let Self { head, notes } = self;
        let elapsed_ms = notes.started_at.elapsed().as_secs_f64() * 1e3;
        let upstream_ms = notes.upstream_time.map(|time| time.as_secs_f64() * 1e3);
        let client = notes.route.as_ref().map(|route| route.client.as_str());
        let account = notes.route.as_ref().map(|route| route.tokens.account().name.as_str());
        let path = Cut(head.uri.path());
        // A method is any word of the client's choice.
        let method = Cut(head.method.as_str());
        let errcode = notes.errcode.map(|code| code.0);
        if let Some((word, cause)) = notes.refusal.as_deref() {
            tracing::info!(
                target: ACCESS, request_id = %notes.id, client, account, %method, %path,
                status = notes.status.as_u16(), reason = word, cause = cause.as_deref(), elapsed_ms, "refused"
            );
        } else {
            tracing::debug!(
                target: ACCESS, request_id = %notes.id, client, account, %method, %path,
                status = notes.status.as_u16(), errcode, attempts = notes.attempts, ending = notes.ending,
                sent_bytes = notes.sent_bytes, upstream_ms, elapsed_ms, "request"
            );
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let notes = &self.notes;
        let Connection { worker, vitals, .. } = &*notes.connection;
        let now = Instant::now();
        worker.counts.requests_ended.one();
        worker.counts.request_time.observe(now.saturating_duration_since(notes.started_at));
        if notes.ending == CLIENT_GONE {
            vitals.request_is_dropped(notes.started_at, now);
        }
        vitals.request_ends(now);
        let is_loggable = match &notes.refusal {
            Some(_) => worker.may_log_refusal(notes.started_at),
            None => tracing::enabled!(target: ACCESS, tracing::Level::DEBUG),
        };
        if is_loggable {
            self.log();
        }
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("id", &self.notes.id).finish_non_exhaustive()
    }
}

// === impl Notes ===

impl Notes {
    /// The body is here, or streams: by when the head of the reply must be here. A body that had to come first does not
    /// use up the time, nor does the sending of a long one: that goes on at a rate that comes to an end.
    pub(super) fn is_forwarded(&mut self, body: &body::RequestBody, span: Duration) -> Instant {
        if body.length() > 0 {
            self.forwarded_at = Instant::now();
        }
        self.forwarded_at + span + Duration::from_secs(body.length() / SENT_BYTES_PER_S_MIN)
    }

    /// Notes what code a reply carries; says whether it is about the token.
    pub(super) async fn looks_at(
        &mut self,
        reply: &mut Response<UpstreamBody>,
        platform: Platform,
        deadline: Instant,
    ) -> Result<bool, Refusal> {
        self.errcode = inspect::errcode(reply, deadline).await.map_err(broken)?;
        Ok(self.errcode.is_some_and(|code| envelope::is_token_invalid(platform, code)))
    }

    /// It is sent a second time.
    pub(super) fn goes_once_more(&mut self) {
        self.attempts = 2;
        if let Some(route) = &self.route {
            route.counts.second_tries.one();
        }
    }

    /// It ends with a no of our own.
    pub(super) fn refused(&mut self, refusal: &Refusal) {
        self.connection.worker.counts.refused(refusal.word());
        if let Some(route) = &self.route {
            route.counts.refused.one();
        }
        self.refusal = Some(Box::new((refusal.word(), refusal.cause())));
    }

    /// It ends with WeChat's answer, without what is not the client's to see.
    pub(super) fn pass_on(&mut self, reply: Response<UpstreamBody>) -> Response<ReplyBody> {
        let upstream_time = self.forwarded_at.elapsed();
        self.connection.worker.counts.upstream_time.observe(upstream_time);
        self.upstream_time = Some(upstream_time);
        if let Some(route) = &self.route {
            route.counts.passed.one();
            if self.errcode.is_some_and(|code| envelope::is_token_invalid(route.platform, code)) {
                route.counts.token_invalid.one();
            }
            if let Some(ErrCode(45009 | 45011)) = self.errcode {
                route.counts.quota.one();
            }
        }
        let mut reply = reply.map(ReplyBody::upstream);
        headers::scrub_reply(reply.headers_mut());
        if self.attempts > 1 {
            reply.headers_mut().insert(respond::ATTEMPTS, HeaderValue::from_static("2"));
        }
        reply
    }
}

fn broken(error: BodyError) -> Refusal {
    Refusal::Upstream(match error {
        BodyError::Timeout | BodyError::Stalled => SendError::Timeout,
        BodyError::Truncated => SendError::ClosedBeforeReply,
        BodyError::Malformed(rule) => SendError::MalformedReply(rule),
    })
}
