//! A stand-in for api.weixin.qq.com: for trying weigate, for users' own tests, for ours.
//!
//! It does what WeChat's pages say WeChat does, and not what the proxy happens to need: tokens that overlap and die
//! (§1, §2 of `wechat.md`, read 2026-11-22), the real error texts, 412 for bodies without a length (§7.3), quotas
//! (§6), the usual APIs with answers of the real shape (§8). What WeChat does not say is decided where it is
//! needed, and marked *our choice* there. [`Control`] plays the outside world: another system that fetches a
//! token, a revocation, a clock that runs ahead, a network that breaks; over HTTP too (`GET /` on that listener).
//!
//! It promises: bounded memory (a ring of requests, bounded shelves, bodies hashed rather than kept), no lock held
//! across an await, and no task that outlives [`Sandbox`].
//!
//! It does not know the proxy, its configuration or its types, and it is no place for a real AppSecret: whatever
//! it is told it shows to whoever asks its control listener.
//!
//! # Why
//!
//! *Its clock* is tokio's clock plus an offset that control moves. So a test on a paused runtime can live through a
//! week, and one in real time can jump over an expiry. The `Date` header is the real time all the same.
//!
//! *Plain HTTP answers as HTTPS does*, though WeChat says 43003 there: a sandbox that forces certificates on its
//! first user has lost them.

mod accounts;
mod answer;
mod apis;
mod body;
mod clock;
mod control;
mod control_http;
mod counters;
mod errors;
mod faults;
mod forge;
mod media;
mod quota;
mod reply;
mod request;
mod seen;
mod server;
mod sns;
mod state;
mod tls;
mod token_calls;
mod wire;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use accounts::{AccountView, Endpoint};
pub use control::{Control, NoSuchAccount};
pub use counters::Counters;
pub use faults::{ArrangedReply, Fault, FaultDoes, FaultView, HoldView, Slowness, When};
pub use quota::QuotaView;
pub use seen::SeenRequest;
pub use server::Closing;

use state::Shared;
use tls::Identity;

/// How a sandbox is set up.
#[derive(Debug, Clone)]
pub struct SandboxOptions {
    /// Where it stands in for api.weixin.qq.com; port 0 takes a free one.
    pub listen: SocketAddr,
    /// HTTPS, with a certificate authority made at the start ([`Sandbox::ca_pem`]).
    pub tls: bool,
    /// HTTP/2 for clients that ask for it, where TLS is on: 100 requests on one connection at one time. Faults that
    /// replace the bytes of an answer have no place in it.
    pub http2: bool,
    /// Where the control API listens; `None` leaves [`Sandbox::control`] as the only way.
    pub control: Option<SocketAddr>,
    /// The accounts it knows from the start.
    pub accounts: Vec<SandboxAccount>,
    /// How long a token lives.
    pub token_lives_s: u64,
    /// How long an overwritten token stays good, and how early a stable token is renewed; at most half a life.
    pub overlap_s: u64,
    /// Whether daily and minute quotas are kept.
    pub quotas: Quotas,
}

/// Whether the sandbox keeps WeChat's quotas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quotas {
    /// As documented for a newly registered account (§6).
    AsDocumented,
    /// Calls are counted, but only limits that control sets are enforced; for load tests.
    Unlimited,
}

/// An account the sandbox knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxAccount {
    /// The AppID. For `WeCom` the corpid, or, where a corp has several applications, `corpid:application`: so control
    /// can tell them apart, which callers do by their secret.
    pub app_id: String,
    /// Its secret: made up, never a real one.
    pub app_secret: String,
    /// What it is.
    #[serde(default)]
    pub kind: AccountKind,
}

/// What an account is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountKind {
    /// 公众号 or 服务号: an IP allow-list covers every call (§7.4).
    #[default]
    OfficialAccount,
    /// 小程序 or 小游戏: an IP allow-list covers the calls that carry the AppSecret.
    MiniProgram,
    /// 企业微信: `/cgi-bin/gettoken`, APIs and errors of its own (§9). Its IP list covers every call.
    WeCom,
}

/// A running sandbox. Dropping it stops it too, without waiting.
#[derive(Debug)]
pub struct Sandbox {
    address: SocketAddr,
    control_address: Option<SocketAddr>,
    identity: Option<Identity>,
    control: Control,
    stop: watch::Sender<()>,
    tasks: Vec<JoinHandle<()>>,
}

// === impl SandboxOptions ===

impl Default for SandboxOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls: false,
            http2: false,
            control: None,
            accounts: Vec::new(),
            token_lives_s: 7200,
            overlap_s: 300,
            quotas: Quotas::AsDocumented,
        }
    }
}

// === impl SandboxAccount ===

impl SandboxAccount {
    /// An official account.
    pub fn new(app_id: impl Into<String>, app_secret: impl Into<String>) -> Self {
        Self { app_id: app_id.into(), app_secret: app_secret.into(), kind: AccountKind::default() }
    }

    /// The same account as another kind.
    #[must_use]
    pub fn of_kind(mut self, kind: AccountKind) -> Self {
        self.kind = kind;
        self
    }
}

// === impl Sandbox ===

impl Sandbox {
    /// Binds, and serves on the runtime that this is called on.
    pub async fn start(options: SandboxOptions) -> io::Result<Self> {
        let identity = if options.tls {
            // Making keys takes a moment of pure computing.
            let http2 = options.http2;
            Some(
                tokio::task::spawn_blocking(move || Identity::make(http2))
                    .await
                    .map_err(io::Error::other)??,
            )
        } else {
            None
        };
        let listener = server::listen(options.listen)?;
        let address = listener.local_addr()?;
        let control_listener = options.control.map(server::listen).transpose()?;
        let control_address =
            control_listener.as_ref().map(tokio::net::TcpListener::local_addr).transpose()?;

        let shared = Arc::new(Shared::new(&options));
        let control = Control::new(Arc::clone(&shared));
        let (stop, stopped) = watch::channel(());
        let acceptor = identity.as_ref().map(Identity::acceptor);
        let mut tasks = vec![tokio::spawn(server::serve(listener, acceptor, shared, stopped.clone()))];
        if let Some(listener) = control_listener {
            tasks.push(tokio::spawn(control_http::serve(listener, control.clone(), stopped)));
        }
        Ok(Self { address, control_address, identity, control, stop, tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What takes the place of `https://api.weixin.qq.com`, without a slash at the end.
    pub fn base_url(&self) -> String {
        let scheme = if self.identity.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The certificate authority to trust, where TLS is on.
    pub fn ca_pem(&self) -> Option<&str> {
        self.identity.as_ref().map(Identity::ca_pem)
    }

    /// Where the control API listens, if it does.
    pub fn control_address(&self) -> Option<SocketAddr> {
        self.control_address
    }

    /// Everything that the control API can do, as methods.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Cuts every connection and waits until all tasks have ended.
    pub async fn stop(self) {
        let Self { stop, tasks, control, .. } = self;
        drop(stop);
        control.release_all();
        for task in tasks {
            // A task that panicked has said so on stderr; there is nothing left to do about it here.
            let ended = tokio::time::timeout(STOP_WAIT, task).await;
            drop(ended);
        }
    }
}

/// Longer than any task needs to see that it must end; a bound, not an expectation.
const STOP_WAIT: Duration = Duration::from_secs(5);
