//! The control API over HTTP: JSON, one route for each of [`Control`]'s methods. `GET /` explains itself.

use std::convert::Infallible;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::accounts::Endpoint;
use super::control::{Control, NoSuchAccount};
use super::faults::{Fault, When};
use super::request::pairs;
use super::server::{Closing, accept};
use super::{SandboxAccount, counters::Counters};

/// Why a control call was not done.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("there is no such route; GET / lists them")]
    NoRoute,
    #[error("{0}")]
    NoAccount(#[from] NoSuchAccount),
    #[error("there is none with this id")]
    NoId,
    #[error("it did not come to that in time")]
    TooLate,
    /// The parser's words help, and there are no secrets here.
    #[error("the body does not fit: {0}")]
    Body(#[from] serde_json::Error),
    #[error("the body is longer than 1 MiB, or was broken off")]
    Unread,
}

/// A field that can be absent, null or there.
#[derive(Debug, Default)]
enum Change<T> {
    #[default]
    None,
    To(Option<T>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountChange {
    app_secret: Option<String>,
    frozen: Option<bool>,
    /// Null: off.
    #[serde(default)]
    ip_allow_list: Change<Vec<IpAddr>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct QuotaChange {
    path: String,
    /// Null: as documented.
    #[serde(default)]
    daily_limit: Change<u64>,
    used: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotation {
    endpoint: Endpoint,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    advance_s: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewHold {
    path: String,
    #[serde(default)]
    when: When,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewMedia {
    media_id: String,
    bytes: u64,
    content_type: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Close {
    how: Closing,
}

/// Serves until `stop` is dropped.
pub(super) async fn serve(listener: TcpListener, control: Control, stop: watch::Receiver<()>) {
    accept(listener, stop, |stream, _| {
        let control = control.clone();
        let service = service_fn(move |request| {
            let control = control.clone();
            async move { Ok::<_, Infallible>(answer(&control, request).await) }
        });
        async move {
            // However it ended, it ended.
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        }
    })
    .await;
}

async fn answer(control: &Control, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() == Method::GET && request.uri().path() == "/" {
        return response(StatusCode::OK, "text/plain; charset=utf-8", Bytes::from_static(HELP.as_bytes()));
    }
    let (status, value) = match route(control, request).await {
        Ok(value) => (StatusCode::OK, value),
        Err(refused) => (refused.status(), json!({ "error": refused.to_string() })),
    };
    response(status, "application/json", value.to_string().into())
}

async fn route(control: &Control, request: Request<Incoming>) -> Result<Value, Refused> {
    let (head, body) = request.into_parts();
    let query = pairs(head.uri.query().unwrap_or(""));
    let path: Vec<&str> = head.uri.path().split('/').skip(1).collect();
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|_| Refused::Unread)?.to_bytes();
    match (head.method.as_str(), path.as_slice()) {
        ("GET", ["wait"]) => wait(control, &query).await,
        (method, ["accounts", rest @ ..]) => accounts(control, method, rest, &body),
        (method, rest @ ["faults" | "holds", ..]) => mischief(control, method, rest, &body),
        (method, rest) => world(control, method, rest, &query, &body),
    }
}

fn accounts(control: &Control, method: &str, path: &[&str], body: &Bytes) -> Result<Value, Refused> {
    match (method, path) {
        ("GET", []) => return shown(&control.accounts()),
        ("POST", []) => control.add_account(&read::<SandboxAccount>(body)?),
        ("POST", [app_id]) => {
            let change: AccountChange = read(body)?;
            if let Some(secret) = change.app_secret {
                control.set_secret(app_id, &secret)?;
            }
            match change.frozen {
                Some(true) => control.freeze(app_id)?,
                Some(false) => control.unfreeze(app_id)?,
                None => {}
            }
            if let Change::To(list) = change.ip_allow_list {
                control.set_ip_allow_list(app_id, list)?;
            }
        }
        ("POST", [app_id, "expire"]) => control.expire_tokens(app_id)?,
        ("POST", [app_id, "revoke"]) => control.revoke_tokens(app_id)?,
        ("POST", [app_id, "rotate"]) => {
            let token = control.rotate_from_outside(app_id, read::<Rotation>(body)?.endpoint)?;
            return Ok(json!({ "access_token": token }));
        }
        ("GET", [app_id, "quota"]) => return shown(&control.quotas(app_id)?),
        ("POST", [app_id, "quota"]) => {
            let change: QuotaChange = read(body)?;
            if let Change::To(limit) = change.daily_limit {
                control.set_daily_limit(app_id, &change.path, limit)?;
            }
            if let Some(used) = change.used {
                control.set_used(app_id, &change.path, used)?;
            }
        }
        _ => return Err(Refused::NoRoute),
    }
    Ok(done())
}

fn mischief(control: &Control, method: &str, path: &[&str], body: &Bytes) -> Result<Value, Refused> {
    let found = |found: bool| if found { Ok(done()) } else { Err(Refused::NoId) };
    match (method, path) {
        ("GET", ["faults"]) => shown(&control.faults()),
        ("POST", ["faults"]) => Ok(json!({ "id": control.add_fault(read::<Fault>(body)?) })),
        ("DELETE", ["faults"]) => {
            control.clear_faults();
            Ok(done())
        }
        ("DELETE", ["faults", id]) => found(control.remove_fault(number(id)?)),
        ("GET", ["holds"]) => shown(&control.holds()),
        ("POST", ["holds"]) => {
            let hold: NewHold = read(body)?;
            Ok(json!({ "id": control.hold(&hold.path, hold.when) }))
        }
        ("DELETE", ["holds"]) => {
            control.release_all();
            Ok(done())
        }
        ("DELETE", ["holds", id]) => found(control.release(number(id)?)),
        _ => Err(Refused::NoRoute),
    }
}

fn world(
    control: &Control,
    method: &str,
    path: &[&str],
    query: &[(String, String)],
    body: &Bytes,
) -> Result<Value, Refused> {
    match (method, path) {
        ("GET", ["counters"]) => return shown(&control.counters()),
        ("GET", ["requests"]) => {
            let most = query.iter().find(|(name, _)| name == "last");
            let most = most.and_then(|(_, most)| most.parse().ok()).unwrap_or(100);
            let path = query.iter().find(|(name, _)| name == "path").map(|(_, path)| path.as_str());
            return shown(&control.requests(path, most));
        }
        ("DELETE", ["requests"]) => control.clear_requests(),
        ("GET", ["clock"]) => {}
        ("POST", ["clock"]) => control.advance(Duration::from_secs(read::<Advance>(body)?.advance_s)),
        ("POST", ["media"]) => {
            let media: NewMedia = read(body)?;
            let content_type = media.content_type.as_deref().unwrap_or("image/jpeg");
            control.set_media(&media.media_id, media.bytes, content_type);
        }
        ("POST", ["connections", "close"]) => control.close_connections(read::<Close>(body)?.how),
        ("POST", ["reset"]) => control.reset(),
        _ => return Err(Refused::NoRoute),
    }
    Ok(json!({ "ok": true, "now_ms": control.now_ms() }))
}

/// Waits until every counter named in the query has at least its value.
async fn wait(control: &Control, query: &[(String, String)]) -> Result<Value, Refused> {
    let timeout = query.iter().find(|(name, _)| name == "timeout_ms");
    let timeout_ms = timeout.and_then(|(_, ms)| ms.parse().ok()).unwrap_or(10_000).min(600_000);
    let reached = |counters: &Counters| {
        query.iter().all(|(name, least)| {
            let least: u64 = least.parse().unwrap_or(u64::MAX);
            match name.as_str() {
                "held" => counters.held >= least,
                "in_flight" => counters.in_flight >= least,
                "connections_open" => counters.connections_open >= least,
                "requests" => counters.requests >= least,
                "bad_token_calls" => counters.bad_token_calls >= least,
                _ => name == "timeout_ms",
            }
        })
    };
    let waiting = tokio::time::timeout(Duration::from_millis(timeout_ms), control.wait_until(reached));
    shown(&waiting.await.map_err(|_| Refused::TooLate)?)
}

// === impl Change ===

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Change<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Option::deserialize(from).map(Self::To)
    }
}

// === impl Refused ===

impl Refused {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoRoute | Self::NoAccount(_) | Self::NoId => StatusCode::NOT_FOUND,
            Self::TooLate => StatusCode::REQUEST_TIMEOUT,
            Self::Body(_) => StatusCode::BAD_REQUEST,
            Self::Unread => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refused> {
    Ok(serde_json::from_slice(body)?)
}

fn shown<T: Serialize>(value: &T) -> Result<Value, Refused> {
    Ok(serde_json::to_value(value)?)
}

fn done() -> Value {
    json!({ "ok": true })
}

fn number(text: &str) -> Result<u64, Refused> {
    text.parse().map_err(|_| Refused::NoId)
}

fn response(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let content_type = http::HeaderValue::from_static(content_type);
    response.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
    response
}

const HELP: &str = include_str!("control_help.txt");
const BODY_BYTES_MAX: usize = 1 << 20;
