//! The operators' own listener: is it alive, is it ready, what does it count, how are the tokens.
//!
//! It is a listener of its own because every path of the other one belongs to WeChat. It can show a token's
//! fingerprint, never a token: nothing here names a type that holds one.
//!
//! ```text
//! GET /livez      200 as long as this process turns its loop
//! GET /readyz     200 when every account has a live token and no stop was asked for; else 503, and which have not
//! GET /metrics    Prometheus' text format
//! GET /accounts   every account's token, its age, its errors, as JSON; ?after=NAME goes on behind a page's last
//!                 name, ?only=failing leaves out those in good health
//! POST /accounts/NAME/leaked   ends a token that has leaked, see `leaked.rs`
//! POST /reload    reads the configuration again; 200 and what changed, or 422 and what is wrong with it
//! ```
//!
//! No answer grows with the number of accounts: of many sick ones `/readyz` names the first few, `/metrics` sums up
//! more accounts than `metrics_accounts_max`, and `/accounts` comes in pages.

mod accounts;
mod leaked;
mod reload;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::{AbortHandle, JoinSet};

pub use reload::{AskReload, Outcome, ReloadAsked, Reloaded};

use crate::telemetry::metrics::Exposition;
use crate::token::{TokenHandle, publish};

/// Where operators connect.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}

/// Writes the metrics of the request's way, which this room knows nothing about.
pub type WriteMetrics = Box<dyn Fn(&mut Exposition) + Send + Sync>;

/// What is shown.
pub struct Seen {
    /// Every account's token, in the order of names.
    pub tokens: Arc<Mutex<Arc<[TokenHandle]>>>,
    /// More accounts are summed up in `/metrics`.
    pub metrics_accounts_max: usize,
    /// A stop was asked for.
    pub is_draining: Arc<AtomicBool>,
    /// Under which keys tokens are published, and what stands there.
    pub published: publish::Figures,
    /// The metrics of the request's way.
    pub write_metrics: WriteMetrics,
    /// Where a reload is asked for.
    pub reload: AskReload,
}

/// Accounts without a token that `/readyz` names; whoever probes wants to know that there are some, and why.
const UNREADY_NAMED_MAX: usize = 20;

/// Operators and their tools are few. One connection more, and the oldest is closed: an answer takes no time, so the
/// oldest is one that idles, and whoever holds idle ones cannot keep a liveness probe out.
const CONNECTIONS_MAX: usize = 64;
const HEADER_MAX: Duration = Duration::from_secs(5);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until it is dropped.
pub async fn serve(listener: Listener, seen: Seen) {
    let seen = Arc::new(seen);
    let mut connections = Connections::default();
    loop {
        let accepted = match &listener {
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| Stream::Tcp(stream)),
            Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
        };
        let seen = Arc::clone(&seen);
        match accepted {
            Ok(Stream::Tcp(stream)) => connections.spawn(connection(stream, seen)),
            Ok(Stream::Unix(stream)) => connections.spawn(connection(stream, seen)),
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

/// The connections that are open, the oldest first. Dropping it closes them all.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    handles: VecDeque<AbortHandle>,
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, seen: Arc<Seen>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let seen = Arc::clone(&seen);
        async move {
            let is_press = |path| leaked::account_in(path).is_some();
            Ok::<_, Infallible>(match (request.method(), request.uri().path()) {
                (&Method::POST, "/reload") => reload::reload(&request, &seen.reload).await,
                (&Method::POST, path) if is_press(path) => leaked::answer(request, &seen).await,
                _ => answer(&request, &seen),
            })
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    // A client that leaves early is no event.
    drop(served);
}

fn answer(request: &Request<Incoming>, seen: &Seen) -> Response<Full<Bytes>> {
    let is_read = *request.method() == Method::GET || *request.method() == Method::HEAD;
    match request.uri().path() {
        "/livez" | "/readyz" | "/metrics" | "/accounts" if !is_read => {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
            response.headers_mut().insert(http::header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            response
        }
        "/reload" => {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only POST\n".to_owned());
            response.headers_mut().insert(http::header::ALLOW, HeaderValue::from_static("POST"));
            response
        }
        "/livez" => text(StatusCode::OK, "alive\n".to_owned()),
        "/readyz" => readiness(seen),
        "/metrics" => {
            let mut response = text(StatusCode::OK, metrics(seen));
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        "/accounts" => {
            let mut response =
                text(StatusCode::OK, accounts::json(&tokens(seen), &seen.published, request.uri().query()));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        _ => text(StatusCode::NOT_FOUND, "no such page: try /livez /readyz /metrics /accounts\n".to_owned()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

fn tokens(seen: &Seen) -> Arc<[TokenHandle]> {
    Arc::clone(&seen.tokens.lock().unwrap_or_else(PoisonError::into_inner))
}

fn readiness(seen: &Seen) -> Response<Full<Bytes>> {
    if seen.is_draining.load(Ordering::Relaxed) {
        return text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned());
    }
    let mut lines = String::new();
    let tokens = tokens(seen);
    let mut unready = tokens.iter().filter(|token| !token.is_alive());
    for status in unready.by_ref().take(UNREADY_NAMED_MAX).map(TokenHandle::status) {
        let why = status.last.as_ref().map_or("waiting for the first token", |last| last.word);
        let advice = status.last.as_ref().and_then(|last| last.advice.as_deref());
        let (colon, advice) = advice.map_or(("", ""), |advice| (": ", advice));
        // Writing to a String cannot fail.
        let _written = writeln!(lines, "account {} has no live token: {why}{colon}{advice}", status.account);
    }
    let more = unready.count();
    if more > 0 {
        let _written = writeln!(lines, "and {more} more of {} accounts", tokens.len());
    }
    if lines.is_empty() {
        return text(StatusCode::OK, "ready\n".to_owned());
    }
    text(StatusCode::SERVICE_UNAVAILABLE, lines)
}

fn metrics(seen: &Seen) -> String {
    let mut page = Exposition::default();
    page.family("weigate_info", "gauge", "always 1; the version that runs");
    page.sample("weigate_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    (seen.write_metrics)(&mut page);
    accounts::write_metrics(&tokens(seen), seen.metrics_accounts_max, &mut page);
    page.into_text()
}

// === impl Connections ===

impl Connections {
    /// Serves one more, and closes the oldest where there are too many.
    fn spawn(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.handles.retain(|handle| !handle.is_finished());
        if self.handles.len() >= CONNECTIONS_MAX
            && let Some(oldest) = self.handles.pop_front()
        {
            oldest.abort();
        }
        self.handles.push_back(self.tasks.spawn(connection));
    }
}

// === impl Seen ===

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seen").finish_non_exhaustive()
    }
}
