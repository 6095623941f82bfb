//! One request's way: body, hold, judgement, hold, fault, answer.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::CONNECTION;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use serde_json::json;

use super::apis::{self, TokenSeen};
use super::body::{Drip, ReplyBody};
use super::clock::Ms;
use super::faults::{FaultDoes, When};
use super::reply::{Content, Persists, Reply};
use super::request::{Call, Received, Unread};
use super::seen::Record;
use super::state::{InFlight, Shared, State};
use super::wire::Injection;
use super::{Quotas, sns, token_calls};

/// The connection a request came on.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) peer: IpAddr,
    pub(super) number: u64,
    pub(super) injection: Arc<Injection>,
}

/// There is no answer, and the connection is to be closed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Gone {
    #[error("the client broke off")]
    ByClient,
    #[error("a fault closes the connection")]
    ByFault,
}

/// Answers a request.
pub(super) async fn answer(
    shared: Arc<Shared>,
    line: Arc<Line>,
    request: Request<Incoming>,
) -> Result<Response<ReplyBody>, Gone> {
    let in_flight = InFlight::enter(&shared);
    let (head, body) = request.into_parts();
    let persists = persists(head.version, &head.headers);
    let mut record = Record::new(&head, line.number);
    let received = match Received::read(&head, body, &shared).await {
        Ok(received) => received,
        Err(Unread::BrokenOff) => return Err(Gone::ByClient),
        Err(Unread::Refused(status)) => {
            let reply = Reply::empty(status);
            write_down(&mut shared.state(), record, head.uri.path(), &reply, shared.clock.now());
            shared.note_change();
            return Ok(plain(reply, persists, in_flight));
        }
    };
    record.note_body(&received);
    let call = Call::parse(&head, received, line.peer).await;
    drop(head);

    shared.pass_gate(&call.path, When::BeforeJudging).await;
    let (reply, fault) = judge(&shared, &call, record);
    shared.note_change();
    shared.pass_gate(&call.path, When::AfterJudging).await;
    deliver(reply, fault, persists, in_flight, &line).await
}

/// Decides on a call, under the lock, and writes it down.
fn judge(shared: &Shared, call: &Call, mut record: Record) -> (Reply, Option<FaultDoes>) {
    let now = shared.clock.now();
    let mut guard = shared.state();
    let state = &mut *guard;
    if let Some(app_id) = token_calls::app_id_of(call) {
        state.counters.count_token_call(&call.path, app_id);
        state.counters.forced += u64::from(token_calls::is_forced(call));
    }
    let fault = state.mischief.meet(call.method.as_str(), &call.path);
    let reply = fault.as_ref().and_then(|fault| instead(fault, now));
    let reply = reply.unwrap_or_else(|| act(state, call, &mut record, now, shared.quotas));
    write_down(state, record, &call.path, &reply, now);
    (reply, fault)
}

/// The answer of a fault that keeps the request from having an effect.
fn instead(fault: &FaultDoes, now: Ms) -> Option<Reply> {
    let status = |status: u16| StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match fault {
        FaultDoes::Hang | FaultDoes::Close | FaultDoes::Garbage => Some(nothing()),
        FaultDoes::Status(code) => Some(Reply::empty(status(*code))),
        FaultDoes::Errcode(errcode) => Some(Reply::error(*errcode, now)),
        FaultDoes::Empty => Some(Reply::file("text/html; charset=gbk", None, Content::Bytes(Bytes::new()))),
        FaultDoes::Oversize(length) => {
            let token = "A".repeat((*length).min(OVERSIZE_MAX));
            Some(Reply::json(&json!({ "access_token": token, "expires_in": 7200 })))
        }
        FaultDoes::Reply(arranged) => {
            let content = Content::Bytes(arranged.body.clone().into());
            let reply = Reply::file(&arranged.content_type, None, content);
            Some(reply.with_status(status(arranged.status)))
        }
        FaultDoes::ActThenClose
        | FaultDoes::CutBody(_)
        | FaultDoes::Slow(_)
        | FaultDoes::ExtraBytes(_)
        | FaultDoes::Chunked => None,
    }
}

/// What WeChat would do.
fn act(state: &mut State, call: &Call, record: &mut Record, now: Ms, quotas: Quotas) -> Reply {
    match call.path.as_str() {
        "/cgi-bin/token" => return token_calls::token(state, call, now, quotas),
        "/cgi-bin/stable_token" => return token_calls::stable_token(state, call, now, quotas),
        "/cgi-bin/gettoken" => return token_calls::gettoken(state, call, now, quotas),
        "/cgi-bin/clear_quota/v2" => return token_calls::clear_quota_v2(state, call, now),
        _ => {}
    }
    if let Some(reply) = sns::answer(state, call, now) {
        return reply;
    }
    let Some(outcome) = apis::answer(state, call, now, quotas) else { return apis::no_such_path() };
    record.account = outcome.account;
    state.counters.bad_token_calls += u64::from(outcome.token == TokenSeen::Bad);
    outcome.reply
}

fn write_down(state: &mut State, mut record: Record, path: &str, reply: &Reply, now: Ms) {
    record.at = now;
    record.status = reply.status.as_u16();
    if record.status == NO_STATUS {
        record.status = 0;
    }
    record.errcode = reply.errcode;
    record.rid.clone_from(&reply.rid);
    state.counters.count_path(path);
    state.counters.count_answer(record.status, reply.errcode);
    state.seen.push(record);
}

/// Sends the answer, as far as the fault lets it.
async fn deliver(
    reply: Reply,
    fault: Option<FaultDoes>,
    persists: Persists,
    in_flight: InFlight,
    line: &Line,
) -> Result<Response<ReplyBody>, Gone> {
    match fault {
        Some(FaultDoes::Hang) => {
            // Until the client hangs up, or the sandbox stops: both drop this.
            std::future::pending::<()>().await;
            Err(Gone::ByFault)
        }
        Some(FaultDoes::Close | FaultDoes::ActThenClose) => Err(Gone::ByFault),
        Some(FaultDoes::CutBody(bytes)) => {
            Ok(plain(reply, persists, in_flight).map(|body| body.cut_after(bytes)))
        }
        Some(FaultDoes::Slow(slowness)) => {
            tokio::time::sleep(slowness.head()).await;
            let every = std::time::Duration::from_millis(slowness.drip_ms);
            let response = plain(reply, persists, in_flight);
            let drip = Drip { bytes: slowness.drip_bytes, every };
            Ok(if slowness.drip_bytes > 0 { response.map(|body| body.dripping(drip)) } else { response })
        }
        Some(FaultDoes::Chunked) => Ok(plain(reply, persists, in_flight).map(ReplyBody::chunked)),
        Some(FaultDoes::Garbage) => {
            line.injection.put(Bytes::from_static(GARBAGE));
            Ok(plain(Reply::empty(StatusCode::OK), Persists::No, in_flight))
        }
        Some(FaultDoes::ExtraBytes(extra)) => {
            line.injection.put(raw(&reply, extra.min(OVERSIZE_MAX)));
            Ok(plain(Reply::empty(StatusCode::OK), Persists::Yes, in_flight))
        }
        Some(
            FaultDoes::Status(_)
            | FaultDoes::Errcode(_)
            | FaultDoes::Empty
            | FaultDoes::Oversize(_)
            | FaultDoes::Reply(_),
        )
        | None => Ok(plain(reply, persists, in_flight)),
    }
}

fn plain(reply: Reply, persists: Persists, in_flight: InFlight) -> Response<ReplyBody> {
    let headers = reply.headers(persists);
    let mut response = Response::new(ReplyBody::new(reply.content, Some(in_flight)));
    *response.status_mut() = reply.status;
    *response.headers_mut() = headers;
    response
}

/// An answer as bytes, with more bytes after it than its length says.
fn raw(reply: &Reply, extra: usize) -> Bytes {
    let body = match &reply.content {
        Content::Bytes(bytes) => bytes.clone(),
        Content::Pattern(_) => Bytes::new(),
    };
    let mut bytes = BytesMut::new();
    bytes.put_slice(format!("HTTP/1.1 {}\r\ncontent-length: {}\r\n", reply.status, body.len()).as_bytes());
    for (name, value) in &reply.headers(Persists::Yes) {
        bytes.put_slice(name.as_str().as_bytes());
        bytes.put_slice(b": ");
        bytes.put_slice(value.as_bytes());
        bytes.put_slice(b"\r\n");
    }
    bytes.put_slice(b"\r\n");
    bytes.put_slice(&body);
    bytes.put_bytes(b'x', extra);
    bytes.freeze()
}

/// Marks in the log that there was no answer.
fn nothing() -> Reply {
    let none = StatusCode::from_u16(NO_STATUS).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Reply::empty(none)
}

fn persists(version: Version, headers: &HeaderMap) -> Persists {
    let asked = headers.get(CONNECTION).and_then(|value| value.to_str().ok()).unwrap_or("");
    let closes = asked.split(',').any(|word| word.trim().eq_ignore_ascii_case("close"));
    if closes || version == Version::HTTP_10 { Persists::No } else { Persists::Yes }
}

const GARBAGE: &[u8] = b"\x16\x03\x01this is not HTTP\r\n\r\n\0\0\0";
const OVERSIZE_MAX: usize = 64 << 20;
/// A status that no answer has.
const NO_STATUS: u16 = 999;
