//! One request, from its head to the end of its reply.
//!
//! [`handle`] always answers and logs once; [`Way::carry`] is the whole way in one screen and says `?`.

use std::convert::Infallible;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use http::header::CONNECTION;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::authenticate::{Remembered, authenticate};
use super::body::{self, ReplyBody};
use super::certificate::Shown;
use super::forward::Forward;
use super::refusal::Refusal;
use super::route::{Route, Target, path_hash};
use super::upstream::{BodyError, SendError, UpstreamBody};
use super::vitals::Vitals;
use super::worker::{RouteEntry, View, Worker};
use super::{head, headers, inspect, local, respond};
use crate::clients::InFlight;
use crate::telemetry::log::{ACCESS, Cut};
use crate::token::{Renewal, Token, TokenHandle};
use crate::types::{Generation, Platform, RequestId};
use crate::wechat::paths::Need;
use crate::wechat::{ErrCode, envelope};

/// How a request ends whose client has dropped it.
const CLIENT_GONE: &str = "client_gone";

/// A refused body up to here mostly came with its head, and hyper reads over it; of a longer one the client is told to
/// send no more of it (RFC 9112 §9.6).
const DRAINED_BYTES_MAX: u64 = 8 * 1024;

/// What the requests of one connection share.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) worker: Rc<Worker>,
    pub(super) vitals: Rc<Vitals>,
    pub(super) remembered: Remembered,
    pub(super) shown: Rc<Shown>,
}

/// Answers a request, whatever happens. (An `async fn` would keep room for the request beside what it becomes.)
pub(super) fn handle(
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<ReplyBody>, Infallible>> {
    let (head, incoming) = request.into_parts();
    let is_long = incoming.size_hint().upper().is_none_or(|most| most > DRAINED_BYTES_MAX);
    // Boxed, since most requests have none, and thousands may be waiting.
    let incoming = (!incoming.is_end_stream()).then(|| Box::new(incoming));
    let mut exchange = Box::new(Exchange::begin(Rc::clone(&connection), head));
    async move {
        let view = connection.worker.view();
        let Exchange { head, notes } = &mut *exchange;
        let way = Way { view: &view, head, connection: &connection };
        let mut response = match way.carry(incoming, notes).await {
            Ok(response) => response,
            Err(refusal) => {
                notes.refused(&refusal);
                if refusal.is_about_framing() || is_long && refusal.leaves_body() {
                    connection.vitals.distrust();
                }
                respond::refuse(&refusal, notes.id)
            }
        };
        notes.status = response.status();
        respond::sign(&mut response, notes.id);
        if (connection.worker.is_draining.get() || connection.vitals.is_ending())
            && head.version <= Version::HTTP_11
        {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        // The reply may take long; nobody asks for these any more.
        head.headers = HeaderMap::default();
        response.body_mut().ends(exchange);
        Ok(response)
    }
}

struct Way<'a> {
    view: &'a Rc<View>,
    head: &'a Parts,
    connection: &'a Connection,
}

// === impl Way ===

impl Way<'_> {
    async fn carry(
        &self,
        incoming: Option<Box<Incoming>>,
        notes: &mut Notes,
    ) -> Result<Response<ReplyBody>, Refusal> {
        let snapshot = &*self.view.snapshot;
        let worker = &*self.connection.worker;
        let checked = head::check(self.head, &worker.pseudonym)?;
        if head::is_for_us(self.head) {
            return Ok(options());
        }
        if self.connection.vitals.is_hasty() {
            return Err(Refusal::RateLimited);
        }
        let target = Target::of(&self.head.uri)?;
        if let Need::TokenCall(call) = target.judged.need {
            let shown = self.connection.shown.client(self.view);
            let answer = local::token_call(call, snapshot, shown, target, self.head, incoming, notes.id);
            return Box::pin(answer).await;
        }
        let route = self.route(target, checked.authorization, notes)?;
        let entry = &*route.entry;

        let mut body = match incoming {
            None => body::RequestBody::EMPTY,
            // What only some requests need stands apart, so that the others do not carry its state.
            Some(incoming) => Box::pin(body::receive(*incoming, self.body_limits(&route))).await?,
        };
        let deadline = notes.is_forwarded(&body, snapshot.limits.request);
        let forward = Forward {
            head: self.head,
            nominated: &checked.nominated,
            route: &route,
            pseudonym: &worker.pseudonym,
            limits: &snapshot.limits,
            deadline,
        };
        let upstream = worker.upstreams.of(entry.platform);
        if route.need != Need::Token {
            let reply = forward.send(upstream, &mut body, None).await?;
            return Ok(notes.pass_on(reply));
        }

        let token = entry.token(worker, notes.started_at, deadline).await?;
        let mut reply = forward.send(upstream, &mut body, Some(&token.access_token)).await?;
        if !notes.looks_at(&mut reply, entry.platform, deadline).await? {
            return Ok(notes.pass_on(reply));
        }

        // WeChat turns a bad token away before it acts, so even a POST may go twice. Whatever comes back is passed on.
        // (Not in a box of its own: where the token dies, all in flight come here, and have this box beside the first.)
        let renewal = renewal(&entry.tokens, token.generation, route.path, deadline);
        let newer = if body.is_held() { renewal.await } else { start_without_waiting(renewal) };
        let Some(newer) = newer else { return Ok(notes.pass_on(reply)) };
        reply.into_body().discard(inspect::PEEK_BYTES_MAX, deadline).await;
        notes.goes_once_more();
        let mut reply = forward.send(upstream, &mut body, Some(&newer.access_token)).await?;
        if notes.looks_at(&mut reply, entry.platform, deadline).await? {
            entry.tokens.refused_again(path_hash(route.path), Instant::now());
        }
        Ok(notes.pass_on(reply))
    }

    /// Who it is, whether there is room for it, and where it goes.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "it ends here: what the way keeps, it keeps ten thousand times where a token dies"
    )]
    fn route<'b>(
        &self,
        target: Target<'b>,
        authorization: Option<&HeaderValue>,
        notes: &mut Notes,
    ) -> Result<Route<'b>, Refusal> {
        let caller = authenticate(self.view, authorization, &target, self.connection)?;
        notes.permit = Some(caller.client.admit(notes.started_at).map_err(|_| Refusal::RateLimited)?);
        let route = Route::choose(self.view, &self.connection.worker.counts, &target, &caller)?;
        notes.route = Some(Rc::clone(&route.entry));
        Ok(route)
    }

    fn body_limits(&self, route: &Route<'_>) -> body::Limits<'_> {
        body::Limits {
            streamed_body_bytes_max: route.streamed_body_bytes_max,
            ..body::Limits::of(&self.view.snapshot)
        }
    }
}

/// A newer token than the one that WeChat refused on `path`; `None`: no second try.
async fn renewal(
    tokens: &TokenHandle,
    refused: Generation,
    path: &str,
    deadline: Instant,
) -> Option<Arc<Token>> {
    let (path, now) = (path_hash(path), Instant::now());
    // A quiet path asks for nothing; what others have got is for it too.
    let is_newer = tokens.current(now).is_some_and(|current| current.generation > refused);
    if !is_newer && tokens.quiet(path, now) {
        return None;
    }
    match tokens.newer_than(refused, deadline).await {
        Renewal::Newer(newer) => Some(newer),
        Renewal::Same => {
            tokens.hush(path, Instant::now());
            None
        }
        Renewal::Failed => None,
    }
}

/// A streamed body has gone and cannot go again, but the next request shall find a good token: a renewal is asked for
/// in the future's first step, and goes on without us.
fn start_without_waiting<T>(renewal: impl Future<Output = Option<T>>) -> Option<T> {
    drop(renewal.now_or_never());
    None
}

/// Sending a body may be as slow as this.
const SENT_BYTES_PER_S_MIN: u64 = 64 * 1024;

/// `OPTIONS *` asks what the server can do (RFC 9110 §9.3.7); the server is us.
fn options() -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::whole(bytes::Bytes::new()));
    let allow = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    response.headers_mut().insert(http::header::ALLOW, allow);
    response
}

fn broken(error: BodyError) -> Refusal {
    Refusal::Upstream(match error {
        BodyError::Timeout | BodyError::Stalled => SendError::Timeout,
        BodyError::Truncated => SendError::ClosedBeforeReply,
        BodyError::Malformed(rule) => SendError::MalformedReply(rule),
    })
}

/// A request's head, and what is noted about it; logged and counted when the request ends, by whatever end.
pub(crate) struct Exchange {
    head: Parts,
    notes: Notes,
}

/// What is noted about a request while it is on its way.
struct Notes {
    id: RequestId,
    started_at: Instant,
    /// When its body was whole, or its streaming began.
    forwarded_at: Instant,
    status: StatusCode,
    attempts: u8,
    errcode: Option<ErrCode>,
    sent_bytes: u64,
    upstream_time: Option<Duration>,
    /// Word and cause; boxed, since it is rare.
    refusal: Option<Box<(&'static str, Option<String>)>>,
    ending: &'static str,
    route: Option<Rc<RouteEntry>>,
    permit: Option<InFlight>,
    connection: Rc<Connection>,
}

// === impl Exchange ===

impl Exchange {
    fn begin(connection: Rc<Connection>, head: Parts) -> Self {
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

// === impl Notes ===

impl Notes {
    /// The body is here, or streams: by when the head of the reply must be here. A body that had to come first does not
    /// use up the time, nor does the sending of a long one: that goes on at a rate that comes to an end.
    fn is_forwarded(&mut self, body: &body::RequestBody, span: Duration) -> Instant {
        if body.length() > 0 {
            self.forwarded_at = Instant::now();
        }
        self.forwarded_at + span + Duration::from_secs(body.length() / SENT_BYTES_PER_S_MIN)
    }

    /// Notes what code a reply carries; says whether it is about the token.
    async fn looks_at(
        &mut self,
        reply: &mut Response<UpstreamBody>,
        platform: Platform,
        deadline: Instant,
    ) -> Result<bool, Refusal> {
        self.errcode = inspect::errcode(reply, deadline).await.map_err(broken)?;
        Ok(self.errcode.is_some_and(|code| envelope::is_token_invalid(platform, code)))
    }

    fn goes_once_more(&mut self) {
        self.attempts = 2;
        if let Some(route) = &self.route {
            route.counts.second_tries.one();
        }
    }

    fn refused(&mut self, refusal: &Refusal) {
        self.connection.worker.counts.refused(refusal.word());
        if let Some(route) = &self.route {
            route.counts.refused.one();
        }
        self.refusal = Some(Box::new((refusal.word(), refusal.cause())));
    }

    fn pass_on(&mut self, reply: Response<UpstreamBody>) -> Response<ReplyBody> {
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

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("id", &self.notes.id).finish_non_exhaustive()
    }
}
