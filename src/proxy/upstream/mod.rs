//! Connections to WeChat: a lean, strict HTTP/1.1 client, owned by one worker; and HTTP/2 where that is switched on and
//! the host agrees (ALPN).
//!
//! ```text
//! mod.rs        Upstream::send: choose a host, get a connection, once more where that is safe
//!   health/     is the host reachable; how long may an idle connection be trusted
//!   pool.rs     idle connections, the bound on all of them, the queue    connection.rs  one in use
//!   mux/        HTTP/2: connections that requests share
//!   dial/       names, addresses, TCP, TLS                    tls.rs     which certificates are good
//!   exchange.rs the request out, the head of the reply in     stall.rs   nothing moves: give up
//!   body.rs     the body of the reply                         buffers.rs read and write buffers, lent
//!   socket.rs   TCP or TLS; is it still good                  tls_stream.rs  TLS over it, without buffers
//!   stats.rs    counters
//!   head/       bytes to a checked head                       chunk/     the chunked coding  (pure, for fuzzing)
//! ```
//!
//! # Promises
//!
//! * A request is sent at most once, with three exceptions in which that is safe: a host that could not be connected
//!   to was sent nothing, so the next address and then the next host are tried, for any method; a GET or HEAD
//!   whose connection died without a single byte of a reply is sent again, once, on a new connection
//!   (RFC 9110 §9.2.2, RFC 9112 §9.3.1); and a request of which the other side says that it has not looked at it,
//!   which only HTTP/2 can, is sent again, twice at most, whatever its method (RFC 9113 §8.7).
//! * A reply that could be read in two ways is refused, and bytes beyond a reply never become another reply: the
//!   connection they came on is closed (RFC 9112 §6.3, §11.2).
//! * A reply that was cut short ends in an error, never in a clean end.
//! * Certificates are verified, always.
//! * Nothing is unbounded: heads 64 KiB and 100 fields, chunk extensions, trailers, interim replies, connections,
//!   handshakes at one time; and whoever waits has a deadline.
//!
//! # What it does not do
//!
//! It adds no field and takes none out but `Transfer-Encoding` and a `Connection` that is about the connection alone: what
//! goes up is what [`Head`] says, and other hop-by-hop fields in a reply are the caller's to remove. HTTP/1.1 spawns nothing: all work is done by whoever polls
//! [`Upstream::send`], the [`UpstreamBody`] or [`Upstream::maintain`]; a worker's outbox, where there is one, sends what is
//! small at the end of the turn. An HTTP/2 connection has a local task, so a
//! client that may speak it needs a `LocalRuntime` or a `LocalSet` around it.
//!
//! # Why a client of our own
//!
//! Per request, hyper's client costs 3 µs of CPU at 64 connections and 9 µs at 256, about half of it the task each
//! connection has beside the request's own (measured on the sketches before this was built); and its pool cannot be
//! told which requests may ride an idle connection, which is what keeps POSTs from failing (see `health`). This
//! side talks to one known host, so strictness is cheap here; towards clients hyper stays. HTTP/2 has tables, windows
//! and a state for each stream, which the crate `h2` keeps better than we would; `mux` is what is ours.

mod body;
mod buffers;
mod chunk;
mod connection;
mod dial;
mod error;
mod exchange;
mod head;
mod health;
mod mux;
mod pool;
mod socket;
mod stall;
mod stats;
mod tls;
mod tls_stream;

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::Either;
use http::{HeaderMap, Method, Response};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

pub use body::UpstreamBody;
pub use chunk::{ChunkDecoder, Piece};
pub use error::{BodyError, ConnectError, Malformed, RequestBodyFault, SendError};
pub use head::{Framing, ReplyHead, parse_head};
pub use stats::{Counter, Stats};
pub use tls::{TlsConfigError, tls_config};

use super::outbox::Outbox;
use crate::config;
use crate::types::Platform;
use buffers::Buffers;
use connection::Way;
use dial::Dialler;
use pool::{Bounds, Choice, Host};

/// An error of a request's body; looked at by nobody, since it may hold anything.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A worker's connections to both platforms: two pools of one kind, which share counters.
#[derive(Debug, Clone)]
pub struct Upstreams {
    weixin: Upstream,
    wecom: Upstream,
}

/// A worker's connections to all hosts of one platform. Cheap to clone; stays on its thread.
#[derive(Debug, Clone)]
pub struct Upstream {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// In the order of the configuration, at least one.
    hosts: Vec<Rc<Host>>,
    buffers: Buffers,
    stats: Arc<Stats>,
}

/// A request to send.
pub struct Outgoing<'a> {
    /// Decides whether the request may be repeated, and whether its reply has a body.
    pub method: &'a Method,
    /// The rest of the head. Asked once for each time the request is sent.
    pub head: &'a dyn Head,
    /// What follows the head; the head's framing fields must say the same.
    pub payload: Payload<'a>,
    /// Where a body makes no progress for this long, either way, the exchange is given up.
    pub stall: Duration,
}

/// A request's head, in the form of either version of HTTP.
pub trait Head {
    /// HTTP/1.1: appends all of it, from request line to empty line, framing fields included, for the host whose
    /// `Host` is given.
    fn write(&self, to: &mut BytesMut, authority: &str);

    /// HTTP/2: appends path and query to `target`, and the same fields but `Host` to `fields`.
    fn list(&self, target: &mut BytesMut, fields: &mut HeaderMap);
}

/// A request's body.
pub enum Payload<'a> {
    /// In memory, perhaps empty.
    Whole(&'a [u8]),
    /// To be read while it is sent. A body that turns out shorter or longer than `length` cuts the request off.
    Streamed {
        /// Its length in bytes, as `Content-Length` has it.
        length: u64,
        /// Where it comes from.
        frames: Pin<&'a mut dyn http_body::Body<Data = Bytes, Error = BoxError>>,
    },
}

// === impl Upstreams ===

impl Upstreams {
    /// No connection is made yet. `tls` is what [`tls_config`] gives; requests leave through `outbox`.
    pub(super) fn new(
        settings: &config::Upstream,
        tls: &Arc<rustls::ClientConfig>,
        outbox: &Rc<Outbox>,
    ) -> Self {
        let stats = Arc::<Stats>::default();
        let pool = |hosts: &[config::UpstreamHost]| {
            let (tls, outbox) = (Arc::clone(tls), Some(Rc::clone(outbox)));
            Upstream::to(hosts, settings, tls, dial::system_resolver(), Arc::clone(&stats), outbox)
        };
        Self { weixin: pool(&settings.hosts), wecom: pool(&settings.wecom_hosts) }
    }

    /// The connections to this platform.
    pub fn of(&self, platform: Platform) -> &Upstream {
        match platform {
            Platform::Weixin => &self.weixin,
            Platform::Wecom => &self.wecom,
        }
    }

    /// The counters of both, for any thread to read.
    pub fn stats(&self) -> Arc<Stats> {
        self.weixin.stats()
    }

    /// [`Upstream::maintain`] for both.
    pub async fn maintain(&self) {
        tokio::join!(self.weixin.maintain(), self.wecom.maintain());
    }
}

// === impl Upstream ===

impl Upstream {
    /// No connection is made yet. `tls` is what [`tls_config`] gives.
    pub fn new(settings: &config::Upstream, tls: Arc<rustls::ClientConfig>) -> Self {
        Self::with_resolver(settings, tls, dial::system_resolver())
    }

    fn with_resolver(
        settings: &config::Upstream,
        tls: Arc<rustls::ClientConfig>,
        resolve: dial::Resolve,
    ) -> Self {
        Self::to(&settings.hosts, settings, tls, resolve, Arc::default(), None)
    }

    #[expect(clippy::needless_pass_by_value, reason = "handles, shared by all hosts")]
    fn to(
        hosts: &[config::UpstreamHost],
        settings: &config::Upstream,
        tls: Arc<rustls::ClientConfig>,
        resolve: dial::Resolve,
        stats: Arc<Stats>,
        outbox: Option<Rc<Outbox>>,
    ) -> Self {
        let tls = if settings.http2 { Arc::new(tls::offering_http2(&tls)) } else { tls };
        let hosts = hosts.iter().map(|host| {
            let bounds = Bounds {
                idle: settings.idle,
                idle_connections_max: settings.idle_connections_max,
                connections_max: settings.connections_max,
                connect: settings.connect,
                http2: settings.http2 && host.tls,
            };
            let (tls, resolve) = (Arc::clone(&tls), Rc::clone(&resolve));
            let dialler = Dialler::new(host.clone(), tls, settings.connect, resolve, outbox.clone());
            Host::new(host.authority(), dialler, bounds, Arc::clone(&stats))
        });
        Self { inner: Rc::new(Inner { hosts: hosts.collect(), buffers: Buffers::default(), stats }) }
    }

    /// Sends one request; ready when the head of its final reply is here, the body as far as it came with it.
    ///
    /// Dropping the future at any point closes the connection that was in use. `deadline` bounds all of it, waiting
    /// for a connection included.
    pub async fn send(
        &self,
        request: &mut Outgoing<'_>,
        deadline: Instant,
    ) -> Result<Response<UpstreamBody>, SendError> {
        timeout_at(deadline, self.try_hosts(request)).await.unwrap_or(Err(SendError::Timeout))
    }

    /// The worker's counters, for any thread to read.
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.inner.stats)
    }

    /// Once a second closes idle connections that are too old or were closed by the other side. Never ends: the
    /// worker spawns it once, and aborts it when it stops.
    pub async fn maintain(&self) {
        let mut seconds = interval(MAINTENANCE_EVERY);
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let _now = seconds.tick().await;
            for host in &self.inner.hosts {
                host.sweep();
            }
        }
    }

    /// First the hosts that are not known to be down, in their order; then, if none of them could be reached, the
    /// others.
    async fn try_hosts(&self, request: &mut Outgoing<'_>) -> Result<Response<UpstreamBody>, SendError> {
        let mut repeat = repeat_of(request);
        let mut passed_over = 0_u64;
        let mut cause = ConnectError::Other;
        for (place, host) in self.inner.hosts.iter().enumerate() {
            // The clock is only read where there is something to judge.
            if host.health.cause().is_some() && !host.health.may_try(Instant::now()) {
                passed_over |= bit(place);
                continue;
            }
            match self.try_host(host, request, &mut repeat).await {
                Err(SendError::Unreachable(one)) => cause = one,
                done => return done,
            }
        }
        for (place, host) in self.inner.hosts.iter().enumerate() {
            if passed_over & bit(place) != 0 {
                match self.try_host(host, request, &mut repeat).await {
                    Err(SendError::Unreachable(one)) => cause = one,
                    done => return done,
                }
            }
        }
        Err(SendError::Unreachable(cause))
    }

    /// `repeat` is left at `Now` once the request was sent in vain: then only a new connection will do, on this
    /// host or the next, and what happens there is final.
    async fn try_host(
        &self,
        host: &Host,
        request: &mut Outgoing<'_>,
        repeat: &mut Repeat,
    ) -> Result<Response<UpstreamBody>, SendError> {
        let mut choice = match repeat {
            Repeat::Never => Choice::Trusted,
            Repeat::Once => Choice::Any,
            Repeat::Now => Choice::New { after: host.muxes.youngest() },
        };
        let (mut unread, mut was_closed) = (0_u8, false);
        loop {
            let (after, attempt) = match host.acquire(choice).await {
                Ok(way) => self.attempt(way, host, request),
                // Nothing was sent: the other side was about to close what it had, and does not close the next.
                Err(ConnectError::Closed) if !was_closed => {
                    was_closed = true;
                    continue;
                }
                Err(cause) => return Err(SendError::Unreachable(cause)),
            };
            match attempt.await {
                Err(SendError::ClosedBeforeReply) if *repeat == Repeat::Once => {
                    *repeat = Repeat::Now;
                    self.inner.stats.stale_retries.add(1);
                }
                Err(SendError::Unprocessed)
                    if unread < UNREAD_MAX && matches!(request.payload, Payload::Whole(_)) =>
                {
                    unread += 1;
                    self.inner.stats.unprocessed_retries.add(1);
                }
                done => return done,
            }
            choice = Choice::New { after };
        }
    }

    /// One exchange on a connection, and what a newer one is newer than.
    fn attempt<'a>(
        &'a self,
        way: Way,
        host: &'a Host,
        request: &'a mut Outgoing<'_>,
    ) -> (u64, impl Future<Output = Result<Response<UpstreamBody>, SendError>>) {
        let Inner { buffers, stats, .. } = &*self.inner;
        match way {
            Way::Alone(connection) => {
                (0, Either::Left(exchange::exchange(connection, request, &host.authority, buffers, stats)))
            }
            Way::Shared(lease) => (lease.serial(), Either::Right(mux::exchange(lease, request, stats))),
        }
    }
}

/// Whether a request may be sent again when its connection died without a byte of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Never,
    Once,
    /// It was sent, in vain; the next time is the last.
    Now,
}

fn repeat_of(request: &Outgoing<'_>) -> Repeat {
    let is_safe = *request.method == Method::GET || *request.method == Method::HEAD;
    if is_safe && matches!(request.payload, Payload::Whole(_)) { Repeat::Once } else { Repeat::Never }
}

/// A mark for the host at `place`; none beyond 64 hosts, which then get no second chance.
fn bit(place: usize) -> u64 {
    u32::try_from(place).ok().and_then(|place| 1_u64.checked_shl(place)).unwrap_or(0)
}

// === impl Outgoing ===

impl fmt::Debug for Outgoing<'_> {
    /// Without the head and the body: both may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing").field("method", self.method).finish_non_exhaustive()
    }
}

// === impl Payload ===

impl fmt::Debug for Payload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(content) => write!(f, "Whole({} bytes)", content.len()),
            Self::Streamed { length, .. } => write!(f, "Streamed({length} bytes)"),
        }
    }
}

/// How often a request is sent again that the other side says it has not looked at.
const UNREAD_MAX: u8 = 2;

/// How often idle connections are looked at.
const MAINTENANCE_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
