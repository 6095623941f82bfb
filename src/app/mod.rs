//! The one place that knows every part: builds stores, keepers, clients and workers; reloads and drains them.

mod accounts;
mod descriptors;
mod listen;
mod metrics;
pub mod online;
mod passed;
mod placeholder;
mod reload;
mod takeover;
mod tls;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

pub use crate::admin::Outcome as ReloadOutcome;

/// Where `POST /reload` arrives.
pub type ReloadsAsked = mpsc::Receiver<admin::ReloadAsked>;
pub use crate::proxy::worker::Phase;
pub use accounts::Accounts;
pub use listen::{AdminSocket, ListenError, Listeners, Start, bind, bind_with};
pub use passed::Passed;
use reload::Standing;

use crate::admin;
use crate::clients::{Clients, Signer};
use crate::config::{ClientTrustError, Config, ConfigErrors};
use crate::proxy::upstream::{self, TlsConfigError};
use crate::proxy::worker::{self, Bound, Running, Setup};
use crate::proxy::{Refusal, Room, Snapshot, Tls};
use crate::telemetry::metrics::WorkerCounts;
use crate::token::publish::Publisher;
use crate::token::{self, ConfiguredStore, StoreError};

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
    /// Clients' certificates cannot be judged.
    #[error(transparent)]
    ClientTrust(#[from] ClientTrustError),
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
    publisher: Publisher,
    signer: Signer,
    /// Fetches the shared key that signs placeholders, where the store did not work at the start.
    config: Config,
    snapshot: watch::Sender<Arc<Snapshot>>,
    phase: watch::Sender<Phase>,
    workers: Vec<Running>,
    tls: Option<Arc<Tls>>,
    standing: Arc<Standing>,
    reloads_asked: Option<ReloadsAsked>,
    /// The admin listener, who watches the certificate, and who tells how the start goes.
    beside: tokio::task::JoinSet<()>,
    is_draining: Arc<AtomicBool>,
}

/// A worker that is told to cut gets this long to end.
const CUT_GRACE: Duration = Duration::from_secs(1);

// === impl App ===

impl App {
    /// Starts everything. Must be called on the runtime that keepers and the admin listener are to run on.
    pub async fn start(config: Config, listeners: Listeners) -> Result<Self, AppError> {
        check_spool(&config)?;
        let open = if listeners.takes_over { ConfiguredStore::open_beside } else { ConfiguredStore::open };
        let store = open(&config.store)?;
        store.first_try().await;
        let (signer, waits_for_key) = placeholder::signer(&config, &store).await?;
        let upstream_tls = upstream::tls_config(config.upstream.ca_pem.as_deref())?;
        let token_client = token::http_client(upstream_tls.clone()).map_err(|_| AppError::TokenClient)?;
        let mut accounts = Accounts::new(store.clone(), token_client);
        accounts.follow(&config).await;
        let mut publisher = Publisher::default();
        publisher.follow(config.publish.as_ref(), accounts.published(&config));
        if listeners.takes_over {
            takeover::until_ready(&accounts.tokens()).await;
        }
        listeners.listen().map_err(|source| AppError::Io { doing: "listening", source })?;

        let tls = config.server.tls.as_ref().map(tls::server).transpose()?;
        let first = Arc::new(accounts.snapshot(&config, signer.clone(), tls.clone()));
        let (snapshot, snapshots) = watch::channel(first);
        let (phase, phases) = watch::channel(Phase::Serve);
        let (workers, counts) =
            start_workers(&config, listeners.workers, &Arc::new(upstream_tls), &snapshots, &phases)?;
        let is_draining = Arc::new(AtomicBool::new(false));
        let standing = Arc::new(Standing::new(&config));
        let (ask_reload, reloads_asked) = mpsc::channel(1);
        let metrics_accounts_max = config.admin.as_ref().map_or(0, |admin| admin.metrics_accounts_max);
        let seen = admin::Seen {
            tokens: accounts.tokens(),
            metrics_accounts_max,
            is_draining: Arc::clone(&is_draining),
            published: publisher.figures(),
            write_metrics: metrics::write_metrics(
                counts,
                &workers,
                Arc::clone(&standing),
                store.figures(),
                publisher.figures(),
                metrics_accounts_max,
            ),
            reload: ask_reload,
        };
        let mut beside = beside(listeners.admin, listeners.takes_over, seen, store, Arc::clone(&standing))?;
        beside.spawn(accounts::report_until_ready(accounts.tokens()));
        beside.spawn(waits_for_key);
        Ok(Self {
            accounts,
            publisher,
            signer,
            config,
            snapshot,
            phase,
            workers,
            tls,
            standing,
            reloads_asked: Some(reloads_asked),
            beside,
            is_draining,
        })
    }

    /// Puts another configuration in force: accounts, clients, limits and the server's certificate, all or nothing.
    /// Where there are faults the old one stays, and the faults are handed back. What cannot change while running is
    /// named in a warning and stays.
    ///
    /// A request that has begun ends under the configuration it began under. An account whose AppID and secret are
    /// the same keeps its token and its keeper, unless its last token call failed: then it is tried again at once.
    /// Connections stay; those accepted from now on see the new certificate.
    pub async fn reload(&mut self, loaded: Result<Config, ConfigErrors>) -> admin::Outcome {
        let ready = loaded.and_then(|config| {
            let needs_restart = reload::fixed_changes(&self.config, &config);
            let config = reload::without_fixed_changes(&self.config, config);
            Ok((self.tls_for(&config)?, config, needs_restart))
        });
        let (tls, config, needs_restart) = match ready {
            Ok(ready) => ready,
            Err(faults) => {
                self.standing.refused();
                tracing::error!(%faults, "the configuration has faults; the old one stays in force");
                return Err(faults);
            }
        };
        for setting in &needs_restart {
            tracing::warn!(setting, "this change needs a restart and was left out");
        }
        let changed = reload::changes(&self.config, &config);
        self.accounts.follow(&config).await;
        self.publisher.follow(config.publish.as_ref(), self.accounts.published(&config));
        self.tls = tls;
        let next = self.accounts.snapshot(&config, self.signer.clone(), self.tls.clone());
        let before = self.snapshot.send_replace(Arc::new(next));
        while self.beside.try_join_next().is_some() {}
        self.beside.spawn(bury(before));
        self.config = config;
        self.standing.reloaded(&self.config);
        tracing::info!(
            accounts = self.config.accounts.len(),
            clients = self.config.clients.len(),
            changed = changed.join(", "),
            "the configuration was reloaded"
        );
        Ok(admin::Reloaded { changed, needs_restart })
    }

    /// What connections are to speak TLS with under `config`. The same as before if it is the same, so that clients
    /// may resume their sessions.
    fn tls_for(&self, config: &Config) -> Result<Option<Arc<Tls>>, ConfigErrors> {
        if config.server.tls == self.config.server.tls {
            return Ok(self.tls.clone());
        }
        let made = config.server.tls.as_ref().map(tls::server).transpose();
        made.map_err(|error| ConfigErrors::whole("server.tls", error.to_string()))
    }

    /// Where `POST /reload` on the admin listener arrives. To be taken once; while nobody has it, and when it is
    /// dropped, operators are told that nothing can be reloaded.
    pub fn reloads_asked(&mut self) -> Option<ReloadsAsked> {
        self.reloads_asked.take()
    }

    /// Whether the files of the configuration in force are to be watched.
    pub fn watches_files(&self) -> bool {
        self.config.server.watch_files
    }

    /// Waits until one of the workers ends by itself, which is a fault.
    pub async fn failed(&self) {
        while self.workers.iter().all(|worker| !worker.thread.is_finished()) {
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Stops: readiness off, keep-alives closed politely, requests in flight finished, all within `drain_ms_max` or
    /// until `cut` is ready. Says whether every request came to its end.
    pub async fn stop(mut self, cut: impl Future<Output = ()>) -> bool {
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
        self.beside.shutdown().await;
        is_whole
    }
}

/// Keeps a snapshot until no worker has it any more: taking a hundred thousand clients apart would hold up whoever
/// let go of them last, and that is not to be a worker.
async fn bury(snapshot: Arc<Snapshot>) {
    while Arc::strong_count(&snapshot) > 1 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Starts a worker for each of `listeners`; also hands out what they count.
fn start_workers(
    config: &Config,
    listeners: Vec<Vec<Bound>>,
    upstream_tls: &Arc<rustls::ClientConfig>,
    snapshot: &watch::Receiver<Arc<Snapshot>>,
    phase: &watch::Receiver<Phase>,
) -> Result<(Vec<Running>, Vec<Arc<WorkerCounts>>), AppError> {
    let most = config.server.limits.connections_max;
    let room = Room::for_connections(descriptors::connections_max(most, config.server.workers));
    let pseudonym: Arc<str> = format!("weigate-{:08x}", fastrand::u32(..)).into();
    let (mut workers, mut counts) = (Vec::new(), Vec::new());
    for (index, listeners) in listeners.into_iter().enumerate() {
        let own = Arc::new(WorkerCounts::new(&Refusal::WORDS));
        counts.push(Arc::clone(&own));
        let setup = Setup {
            index,
            listeners,
            upstream: config.upstream.clone(),
            upstream_tls: Arc::clone(upstream_tls),
            snapshot: snapshot.clone(),
            phase: phase.clone(),
            room: Arc::clone(&room),
            counts: own,
            pseudonym: Arc::clone(&pseudonym),
        };
        workers.push(
            worker::spawn(setup).map_err(|source| AppError::Io { doing: "starting a worker", source })?,
        );
    }
    Ok((workers, counts))
}

/// Starts what runs beside the workers: the admin listener, a look at the certificate now and then, and what is left to
/// take over.
fn beside(
    admin: Option<AdminSocket>,
    takes_over: bool,
    seen: admin::Seen,
    store: ConfiguredStore,
    standing: Arc<Standing>,
) -> Result<tokio::task::JoinSet<()>, AppError> {
    let mut beside = tokio::task::JoinSet::new();
    match admin {
        Some(AdminSocket::Bound(bound)) => drop(beside.spawn(serve_admin(bound, seen)?)),
        Some(AdminSocket::Later(settings)) => drop(beside.spawn(takeover::serve_admin(settings, seen))),
        None => {}
    }
    if takes_over {
        beside.spawn(takeover::own_store(store));
    }
    beside.spawn(reload::watch_certificate(standing));
    Ok(beside)
}

/// Makes sure that a body can be held when the first large one comes.
fn check_spool(config: &Config) -> Result<(), AppError> {
    tempfile::tempfile_in(&config.server.spool_dir)
        .map(drop)
        .map_err(|source| AppError::Io { doing: "making a temporary file in server.spool_dir", source })
}

fn serve_admin(bound: Bound, seen: admin::Seen) -> Result<impl Future<Output = ()> + use<>, AppError> {
    let fault = |source| AppError::Io { doing: "starting the admin listener", source };
    let listener = match bound {
        Bound::Tcp(listener) => {
            admin::Listener::Tcp(tokio::net::TcpListener::from_std(listener).map_err(fault)?)
        }
        Bound::Unix(listener) => {
            admin::Listener::Unix(tokio::net::UnixListener::from_std(listener).map_err(fault)?)
        }
    };
    Ok(admin::serve(listener, seen))
}

impl Accounts {
    fn snapshot(&self, config: &Config, signer: Signer, tls: Option<Arc<Tls>>) -> Snapshot {
        let clients = Clients::new(&config.clients, signer);
        Snapshot::new(self.all(), clients, &config.server, tls)
    }
}
