//! From `proxy.toml` to checked values.
//!
//! Two forms: the file as written (`file.rs`: every value with its place, unknown keys refused) and the checked form
//! below (typed, defaults filled in, nothing optional that is not optional at run time). Whoever holds a [`Config`]
//! never validates again.
//!
//! This module reads the file, what it names and the environment; nothing else in the crate reads any of them. Its
//! messages say a place and what would be right there, and never repeat a value.

mod check;
mod error;
mod file;
mod include;
mod load;
mod publish;
mod reader;
mod sandbox;
mod store;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use check::{ClientTrustError, client_verifier};
pub use error::{ConfigError, ConfigErrors, Place};
pub use load::{Loaded, Setting, load, parse};
pub use publish::{KeyTemplate, PublishFormat};
pub use store::{Password, Redis, RedisLogin, RedisPlace, RedisUrl, SealKey, Store};
pub use watch::Watch;
use zeroize::Zeroizing;

use crate::types::{AccountName, AppId, AppSecret, ClientName, GrantKind, Platform, UnixSeconds};

/// A certificate that ends within this time is warned about: at the start, at a reload, and every few hours.
pub const EXPIRY_NEAR: Duration = Duration::from_hours(7 * 24);

/// The whole configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients connect, and what each may use.
    pub server: Server,
    /// The operators' own listener; `None` where it is switched off.
    pub admin: Option<Admin>,
    /// Where requests go.
    pub upstream: Upstream,
    /// Where tokens outlive the process.
    pub store: Store,
    /// How many weigates fetch tokens for these accounts, this one included; 1 to 1000.
    pub replicas: usize,
    /// The Redis where tokens are published, and how long an operation may take there; `None`: no account publishes.
    pub publish: Option<Redis>,
    /// The key that signs placeholders; `None` leaves it to the store.
    pub placeholder_key: Option<PlaceholderKey>,
    /// What is logged and how.
    pub log: Log,
    /// The accounts, at least one, names unique, each AppID once; each corpid once with the same secret.
    pub accounts: Vec<Arc<Account>>,
    /// The clients; names, keys and certificates unique. Empty means that every caller is `anonymous`.
    pub clients: Vec<Client>,
}

/// Where clients connect.
#[derive(Debug, Clone)]
pub struct Server {
    /// At least one.
    pub listen: Vec<ListenAddress>,
    /// Who may connect to its unix sockets, as chmod(2) takes it; `None`: as the process's umask leaves it.
    pub socket_mode: Option<u32>,
    /// `None`: plain HTTP.
    pub tls: Option<ServerTls>,
    /// Whether a change of the configuration's files is taken up by itself.
    pub watch_files: bool,
    /// Threads that carry requests, one runtime each; 1 to 1024.
    pub workers: usize,
    /// Where held bodies beyond memory go: an existing directory that can be written.
    pub spool_dir: PathBuf,
    /// What a client may use.
    pub limits: Limits,
}

/// Bounds on what clients can make big, slow or many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Open client connections, over all workers.
    pub connections_max: usize,
    /// A TLS handshake.
    pub handshake: Duration,
    /// From a request's first byte to the end of its head.
    pub header: Duration,
    /// All fields of a head together; 431 beyond.
    pub header_bytes_max: usize,
    /// Fields in a head; 431 beyond.
    pub headers_max: usize,
    /// A connection before its first request, and between two.
    pub idle: Duration,
    /// Requests on one connection; it ends politely after the last.
    pub requests_per_connection: u64,
    /// A body held for a second try: kept in memory up to here, in an unlinked temporary file beyond.
    pub held_memory_bytes_max: u64,
    /// A body that can be sent at all; 413 beyond.
    pub body_bytes_max: u64,
    /// What a request's body must bring per second, once it has had as long as a head may take; 408 below. What a client
    /// must take of a reply per second, over `stall`; cut below. 0: any pace.
    pub body_bytes_per_s_min: u64,
    /// From a request's head to the head of its reply; 504 beyond.
    pub request: Duration,
    /// A body that makes no progress, either way, is cut after this.
    pub stall: Duration,
    /// In-flight requests get this long at a stop.
    pub drain: Duration,
    /// Requests that may wait for one account's first token; 503 beyond.
    pub token_waiters_max: usize,
}

/// An address to listen at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// `127.0.0.1:8080`, `[::1]:8080`.
    Tcp(SocketAddr),
    /// `unix:/run/weigate.sock`.
    Unix(PathBuf),
}

/// The server's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// PEM, the server's certificate first.
    pub cert_file: PathBuf,
    /// What stands in it.
    pub cert_pem: Vec<u8>,
    /// PEM, the key to it.
    pub key_file: PathBuf,
    /// What stands in it; belongs to the first certificate.
    pub key_pem: PrivateKeyPem,
    /// PEM; where set, clients must show a certificate of this authority.
    pub client_ca_file: Option<PathBuf>,
    /// What stands in it: at least one authority's certificate.
    pub client_ca_pem: Option<Vec<u8>>,
    /// PEM: lists of revoked certificates, one for each authority that signs clients'; `None`: nothing is revoked.
    pub client_crl_pem: Option<Vec<u8>>,
    /// When the first certificate of `cert_file` that ends does.
    pub expires_at: UnixSeconds,
}

/// A private key in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKeyPem(Zeroizing<Vec<u8>>);

/// The operators' own listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Loopback by default.
    pub listen: ListenAddress,
    /// As that of the server.
    pub socket_mode: Option<u32>,
    /// More accounts are summed up in the metrics, and so are more pairs of a client and an account.
    pub metrics_accounts_max: usize,
}

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// At least one; the next one when the first cannot be reached.
    pub hosts: Vec<UpstreamHost>,
    /// The same for the accounts of 企业微信.
    pub wecom_hosts: Vec<UpstreamHost>,
    /// PEM, at least one certificate; trusted instead of the public roots.
    pub ca_pem: Option<Vec<u8>>,
    /// Whether HTTP/2 is offered to hosts with TLS, and spoken with those that agree.
    pub http2: bool,
    /// Reaching one address: TCP and TLS together.
    pub connect: Duration,
    /// An unused connection is closed after this.
    pub idle: Duration,
    /// Unused connections kept, per worker and host.
    pub idle_connections_max: usize,
    /// Open connections, per worker and host.
    pub connections_max: usize,
}

/// `https://api.weixin.qq.com`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UpstreamHost {
    /// Whether the connection speaks TLS.
    pub tls: bool,
    /// A name or an address, lower case, without brackets.
    pub host: String,
    /// 443 or 80 where the file says none.
    pub port: u16,
}

/// The key that signs placeholders: 32 bytes.
#[derive(Clone)]
pub struct PlaceholderKey(pub Zeroizing<[u8; 32]>);

/// What is logged and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// Human-readable or JSON.
    pub format: LogFormat,
    /// The least level of weigate's own events.
    pub level: tracing::Level,
    /// One event per request; refusals are logged in any case.
    pub access: bool,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// One WeChat application. Whoever needs to know who an account is shares this.
#[derive(Debug, Clone)]
pub struct Account {
    /// The operator's name for it.
    pub name: AccountName,
    /// Its AppID; the corpid, on `WeCom`.
    pub app_id: AppId,
    /// Its AppSecret; the application's Secret, on `WeCom`.
    pub app_secret: AppSecret,
    /// How it gets its tokens.
    pub grant: GrantKind,
    /// Under whose keys its token is published besides; each key of the whole configuration once.
    pub publish: Box<[PublishFormat]>,
}

/// Someone who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The operator's name for it.
    pub name: ClientName,
    /// SHA-256 of its key; `None` only where a certificate names the client.
    pub key_sha256: Option<[u8; 32]>,
    /// Names of its certificate, any of which will do: DNS names in lower case, URIs.
    pub cert_san: Vec<String>,
    /// SHA-256 of its certificate in DER; any of them will do.
    pub cert_sha256: Vec<[u8; 32]>,
    /// The accounts it may use.
    pub accounts: ClientAccounts,
    /// The paths it may use; `None`: every path that is not guarded.
    pub allow: Option<Vec<PathPattern>>,
    /// Requests per second; `None`: no limit.
    pub requests_per_s: Option<u32>,
    /// Requests at one time; `None`: no limit.
    pub requests_at_once_max: Option<u32>,
    /// Bodies of known length up to here are streamed, and sent once; `None`: 413 beyond `body_bytes_max`.
    pub streamed_body_bytes_max: Option<u64>,
}

/// The accounts that a client may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientAccounts {
    /// `["*"]`: every account of the configuration.
    All,
    /// At least one, each once, all of them configured.
    These(Vec<AccountName>),
}

/// `/cgi-bin/menu/get`, or `/wxa/*` for all that starts so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathPattern {
    /// This path.
    Exact(String),
    /// All paths that start with this text, which ends in `/`.
    Below(String),
}

// === impl Account ===

impl Account {
    /// Whether both have the same tokens: they differ in [`Self::publish`] at most.
    pub fn is_same(&self, other: &Self) -> bool {
        let Self { name, app_id, app_secret, grant, publish: _ } = self;
        *name == other.name
            && *app_id == other.app_id
            && *grant == other.grant
            && app_secret.is_same(&other.app_secret)
    }
}

// === impl PathPattern ===

impl PathPattern {
    /// Whether `path` (decoded, as judged) matches.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Below(prefix) => path.starts_with(prefix.as_str()),
        }
    }
}

// === impl Limits ===

impl Default for Limits {
    /// The limits of a file that sets none.
    fn default() -> Self {
        Self {
            connections_max: 16_384,
            handshake: Duration::from_secs(5),
            header: Duration::from_secs(10),
            header_bytes_max: 16 << 10,
            headers_max: 100,
            idle: Duration::from_mins(1),
            requests_per_connection: 100_000,
            held_memory_bytes_max: 64 << 10,
            body_bytes_max: 32 << 20,
            body_bytes_per_s_min: 1 << 10,
            request: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            drain: Duration::from_secs(30),
            token_waiters_max: 16_384,
        }
    }
}

// === impl PrivateKeyPem ===

impl PrivateKeyPem {
    fn new(pem: Zeroizing<Vec<u8>>) -> Self {
        Self(pem)
    }

    /// The text. Only what makes the server's TLS configuration may call this.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for PrivateKeyPem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKeyPem")
    }
}

// === impl PlaceholderKey ===

impl std::fmt::Debug for PlaceholderKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PlaceholderKey")
    }
}

// === impl Upstream ===

impl Upstream {
    /// The hosts of a platform.
    pub fn hosts_of(&self, platform: Platform) -> &[UpstreamHost] {
        match platform {
            Platform::Weixin => &self.hosts,
            Platform::Wecom => &self.wecom_hosts,
        }
    }
}

// === impl UpstreamHost ===

impl UpstreamHost {
    /// What goes into `Host`: the port only where it is not the scheme's own.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let default_port = if self.tls { 443 } else { 80 };
        if self.port == default_port { host } else { format!("{host}:{}", self.port) }
    }
}

/// One for each core.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(1024)
}
