//! One request, from its head to the end of its reply.
//!
//! [`handle`] always answers and logs once; [`Way::carry`] is the whole way in one screen and says `?`.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::FutureExt as _;
use http::header::CONNECTION;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::authenticate::{Remembered, authenticate};
use super::body::{self, ReplyBody};
use super::certificate::Shown;
use super::exchange::{Exchange, Notes};
use super::forward::Forward;
use super::refusal::Refusal;
use super::route::{Route, Target, path_hash};
use super::vitals::Vitals;
use super::worker::{View, Worker};
use super::{head, inspect, local, respond};
use crate::token::{Renewal, Token, TokenHandle};
use crate::types::Generation;
use crate::wechat::paths::Need;

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

/// `OPTIONS *` asks what the server can do (RFC 9110 §9.3.7); the server is us.
fn options() -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::whole(bytes::Bytes::new()));
    let allow = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    response.headers_mut().insert(http::header::ALLOW, allow);
    response
}
