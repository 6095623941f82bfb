//! The one place that knows every part: builds stores, keepers, clients and workers; reloads and drains them.

mod accounts;
mod descriptors;
mod listen;
pub mod online;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use zeroize::Zeroizing;

pub use crate::proxy::worker::Phase;
pub use accounts::Accounts;
pub use listen::{ListenError, Listeners, bind};

use crate::admin;
use crate::clients::{Clients, Signer};
use crate::config::{Config, PlaceholderKey, ServerTls};
use crate::proxy::upstream::{self, TlsConfigError};
use crate::proxy::worker::{self, Bound, Running, Setup};
use crate::proxy::{Refusal, Snapshot};
use crate::telemetry::metrics::{self, Exposition, WorkerCounts};
use crate::token::{self, ConfiguredStore, StoreError, TokenStore as _};

/// Why weigate did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The upstream's certificate authority cannot be used.
    #[error("the upstream's certificate authority cannot be used: {0}")]
    UpstreamTls(#[from] TlsConfigError),
    /// The client of token calls cannot be built.
    #[error("the client for token calls cannot be built")]
    TokenClient,
    /// The server's certificate cannot be used.
    #[error("the server's certificate cannot be used: {0}")]
    ServerTls(rustls::Error),
    /// A client certificate authority cannot be used.
    #[error("client_ca_file cannot be used")]
    ClientCa,
    /// No randomness.
    #[error("the system gives no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// A thread, a socket or a file.
    #[error("{doing}: {source}")]
    Io {
        /// What was being tried.
        doing: &'static str,
        /// Why it did not work.
        source: io::Error,
    },
}

/// weigate, running.
#[derive(Debug)]
pub struct App {
    accounts: Accounts,
    signer: Signer,
    config: Config,
    snapshot: watch::Sender<Arc<Snapshot>>,
    phase: watch::Sender<Phase>,
    workers: Vec<Running>,
    admin: Option<tokio::task::JoinHandle<()>>,
    is_draining: Arc<AtomicBool>,
}

/// A worker that is told to cut gets this long to end.
const CUT_GRACE: Duration = Duration::from_secs(1);

// === impl App ===

impl App {
    /// Starts everything. Must be called on the runtime that keepers and the admin listener are to run on.
    pub async fn start(config: Config, listeners: Listeners) -> Result<Self, AppError> {
        check_spool(&config)?;
        let store = ConfiguredStore::open(&config.store)?;
        let signer = Signer::new(&placeholder_key(&config, &store).await?);
        let upstream_tls = upstream::tls_config(config.upstream.ca_pem.as_deref())?;
        let token_client = token::http_client(upstream_tls.clone()).map_err(|_| AppError::TokenClient)?;
        let mut accounts = Accounts::new(store, token_client);
        accounts.follow(&config).await;

        let first = Arc::new(accounts.snapshot(&config, signer.clone()));
        let (snapshot, snapshots) = watch::channel(first);
        let (phase, phases) = watch::channel(Phase::Serve);
        let server_tls = config.server.tls.as_ref().map(server_tls).transpose()?.map(Arc::new);
        let permits = Arc::new(Semaphore::new(descriptors::connections_max(
            config.server.limits.connections_max,
            config.server.workers,
        )));
        let pseudonym: Arc<str> = format!("weigate-{:08x}", fastrand::u32(..)).into();
        let upstream_tls = Arc::new(upstream_tls);
        let mut counts = Vec::new();
        let mut workers = Vec::new();
        for (index, listeners) in listeners.workers.into_iter().enumerate() {
            let own = Arc::new(WorkerCounts::new(&Refusal::WORDS));
            counts.push(Arc::clone(&own));
            let setup = Setup {
                index,
                listeners,
                tls: server_tls.clone(),
                upstream: config.upstream.clone(),
                upstream_tls: Arc::clone(&upstream_tls),
                snapshot: snapshots.clone(),
                phase: phases.clone(),
                permits: Arc::clone(&permits),
                counts: own,
                pseudonym: Arc::clone(&pseudonym),
            };
            workers.push(
                worker::spawn(setup).map_err(|source| AppError::Io { doing: "starting a worker", source })?,
            );
        }
        let is_draining = Arc::new(AtomicBool::new(false));
        let seen = admin::Seen {
            tokens: accounts.tokens(),
            is_draining: Arc::clone(&is_draining),
            write_metrics: write_metrics(counts, &workers),
        };
        let admin = listeners.admin.map(|bound| serve_admin(bound, seen)).transpose()?;
        Ok(Self { accounts, signer, config, snapshot, phase, workers, admin, is_draining })
    }

    /// Puts another configuration in force: accounts, clients and limits. What cannot change while running is named
    /// in a warning and stays.
    ///
    /// A request that has begun ends under the configuration it began under. An account whose AppID and secret are
    /// the same keeps its token and its keeper, unless its last token call failed: then it is tried again at once.
    pub async fn reload(&mut self, config: Config) {
        for fixed in accounts::fixed_changes(&self.config, &config) {
            tracing::warn!(setting = fixed, "this change needs a restart and was left out");
        }
        let config = Config {
            admin: self.config.admin.clone(),
            upstream: self.config.upstream.clone(),
            store: self.config.store.clone(),
            ..config
        };
        self.accounts.follow(&config).await;
        self.snapshot.send_replace(Arc::new(self.accounts.snapshot(&config, self.signer.clone())));
        self.config = config;
        tracing::info!(
            accounts = self.config.accounts.len(),
            clients = self.config.clients.len(),
            "the configuration was reloaded"
        );
    }

    /// Waits until one of the workers ends by itself, which is a fault.
    pub async fn failed(&self) {
        while self.workers.iter().all(|worker| !worker.thread.is_finished()) {
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Stops: readiness off, keep-alives closed politely, requests in flight finished, all within `drain_ms_max` or
    /// until `cut` is ready. Says whether every request came to its end.
    pub async fn stop(self, cut: impl Future<Output = ()>) -> bool {
        self.is_draining.store(true, Ordering::Relaxed);
        self.phase.send_replace(Phase::Drain);
        let workers: Vec<_> = self.workers.iter().map(|worker| &worker.thread).collect();
        let ended = async {
            while workers.iter().any(|thread| !thread.is_finished()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let limit = Instant::now() + self.config.server.limits.drain;
        let is_whole = tokio::select! {
            () = ended => true,
            () = cut => false,
            () = tokio::time::sleep_until(limit) => false,
        };
        self.phase.send_replace(Phase::Cut);
        let last = Instant::now() + CUT_GRACE;
        while self.workers.iter().any(|worker| !worker.thread.is_finished()) && Instant::now() < last {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.accounts.stop().await;
        if let Some(admin) = self.admin {
            admin.abort();
        }
        is_whole
    }
}

/// Makes sure that a body can be held when the first large one comes.
fn check_spool(config: &Config) -> Result<(), AppError> {
    tempfile::tempfile_in(&config.server.spool_dir)
        .map(drop)
        .map_err(|source| AppError::Io { doing: "making a temporary file in server.spool_dir", source })
}

/// The configured key; else the one in the store; else a new one, which goes into the store.
async fn placeholder_key(config: &Config, store: &ConfiguredStore) -> Result<PlaceholderKey, AppError> {
    const BLOB: &str = "placeholder-key";
    if let Some(key) = &config.placeholder_key {
        return Ok(key.clone());
    }
    if let Some(Ok(key)) = store.load_blob(BLOB).await?.map(|bytes| <[u8; 32]>::try_from(bytes.as_slice())) {
        return Ok(PlaceholderKey(Zeroizing::new(key)));
    }
    let mut key = Zeroizing::new([0; 32]);
    getrandom::fill(key.as_mut_slice())?;
    store.save_blob(BLOB, Zeroizing::new(key.to_vec())).await?;
    Ok(PlaceholderKey(key))
}

fn server_tls(tls: &ServerTls) -> Result<rustls::ServerConfig, AppError> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let fault = || AppError::ServerTls(rustls::Error::General("not PEM".to_owned()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(AppError::ServerTls)?;
    let builder = match &tls.client_ca_pem {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                roots.add(certificate.map_err(|_| AppError::ClientCa)?).map_err(|_| AppError::ClientCa)?;
            }
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|_| AppError::ClientCa)?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&tls.cert_pem).collect();
    let key = PrivateKeyDer::from_pem_slice(tls.key_pem.expose()).map_err(|_| fault())?;
    let mut config =
        builder.with_single_cert(chain.map_err(|_| fault())?, key).map_err(AppError::ServerTls)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn serve_admin(bound: Bound, seen: admin::Seen) -> Result<tokio::task::JoinHandle<()>, AppError> {
    let fault = |source| AppError::Io { doing: "starting the admin listener", source };
    let listener = match bound {
        Bound::Tcp(listener) => {
            admin::Listener::Tcp(tokio::net::TcpListener::from_std(listener).map_err(fault)?)
        }
        Bound::Unix(listener) => {
            admin::Listener::Unix(tokio::net::UnixListener::from_std(listener).map_err(fault)?)
        }
    };
    Ok(tokio::spawn(admin::serve(listener, seen)))
}

/// The metrics of all workers: what they count of requests, and of connections to WeChat.
fn write_metrics(counts: Vec<Arc<WorkerCounts>>, workers: &[Running]) -> admin::WriteMetrics {
    let stats: Vec<_> = workers.iter().map(|worker| Arc::clone(&worker.upstream)).collect();
    Box::new(move |to: &mut Exposition| {
        metrics::write(&counts, to);
        let sum = |of: fn(&upstream::Stats) -> &upstream::Counter| {
            stats.iter().map(|stats| of(stats).value()).sum::<u64>()
        };
        let values = [
            ("weigate_upstream_connections", "gauge", "connections to WeChat open", sum(|s| &s.open)),
            ("weigate_upstream_connections_idle", "gauge", "connections to WeChat unused", sum(|s| &s.idle)),
            (
                "weigate_upstream_connections_total",
                "counter",
                "connections to WeChat made",
                sum(|s| &s.opened),
            ),
            (
                "weigate_upstream_reuses_total",
                "counter",
                "requests on a connection used before",
                sum(|s| &s.reused),
            ),
            (
                "weigate_upstream_stale_retries_total",
                "counter",
                "GET and HEAD sent again since a pooled connection had died",
                sum(|s| &s.stale_retries),
            ),
        ];
        for (name, kind, help, value) in values {
            to.family(name, kind, help);
            to.sample(name, &[], value);
        }
        to.family(
            "weigate_upstream_connect_failures_total",
            "counter",
            "connections to WeChat that failed, by reason",
        );
        for (index, cause) in upstream::ConnectError::ALL.into_iter().enumerate() {
            let failures = stats
                .iter()
                .filter_map(|stats| stats.connect_failures.get(index))
                .map(upstream::Counter::value);
            to.sample(
                "weigate_upstream_connect_failures_total",
                &[("reason", cause.word())],
                failures.sum::<u64>(),
            );
        }
    })
}

impl Accounts {
    fn snapshot(&self, config: &Config, signer: Signer) -> Snapshot {
        let clients = Clients::new(&config.clients, signer);
        Snapshot::new(self.all(), clients, config.server.limits.clone(), config.server.spool_dir.clone())
    }
}
