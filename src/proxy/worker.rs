//! A worker: one thread with a single-threaded runtime, its own listener, its own upstream connections.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::LocalOptions;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::accept::{self, Listener};
use super::outbox::Outbox;
use super::room::Room;
use super::snapshot::Snapshot;
use super::upstream::{Stats, Upstreams};
use super::vitals::{Connections, Ending, SWEEP_EVERY};
use crate::clients::Client;
use crate::config;
use crate::telemetry::metrics::{RouteCounts, WorkerCounts};
use crate::token::{NoToken, Token, TokenHandle};
use crate::types::{ClientName, Platform, RequestId, UnixSeconds};

/// How a stop proceeds; each step follows from the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Requests are served.
    Serve,
    /// What is in flight ends, nothing new is accepted.
    Drain,
    /// Everything ends now.
    Cut,
}

/// A listening socket, bound before any worker starts.
#[derive(Debug)]
pub enum Bound {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}

/// What a worker is made of.
#[derive(Debug)]
pub struct Setup {
    /// From 0.
    pub index: usize,
    /// This worker's own listeners.
    pub listeners: Vec<Bound>,
    /// Where requests go.
    pub upstream: config::Upstream,
    /// How WeChat proves who it is.
    pub upstream_tls: Arc<rustls::ClientConfig>,
    /// Accounts, clients, limits and the server's certificate; a reload sends another.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Whether to stop.
    pub phase: watch::Receiver<Phase>,
    /// For the connections of all workers.
    pub room: Arc<Room>,
    /// Where this worker counts.
    pub counts: Arc<WorkerCounts>,
    /// This process's name in `Via`, the same for all workers.
    pub pseudonym: Arc<str>,
}

/// A worker that runs.
#[derive(Debug)]
pub struct Running {
    /// Ends when the worker has drained.
    pub thread: JoinHandle<io::Result<()>>,
    /// Its upstream connections.
    pub upstream: Arc<Stats>,
}

/// What requests of one worker share.
pub(crate) struct Worker {
    pub(super) upstreams: Upstreams,
    pub(super) outbox: Rc<Outbox>,
    pub(super) connections: Connections,
    pub(super) counts: Arc<WorkerCounts>,
    pub(super) room: Arc<Room>,
    pub(super) pseudonym: Arc<str>,
    pub(super) is_draining: Cell<bool>,
    /// Said once: no more connections than have arrived.
    pub(super) closes: Notify,
    view: RefCell<Rc<View>>,
    next_request: Cell<u64>,
    /// What the wall clock said, and when.
    wall: Cell<Option<(Instant, UnixSeconds)>>,
    refusals_logged: Cell<(Option<Instant>, u32)>,
}

/// A snapshot, and what this worker keeps beside it.
pub(super) struct View {
    pub(super) snapshot: Arc<Snapshot>,
    /// By the addresses of client and account, which live as long as the snapshot.
    routes: RefCell<HashMap<(usize, usize), Rc<RouteEntry>>>,
    /// By the client's number: where its requests go that name no account.
    usual: RefCell<Vec<Option<Rc<RouteEntry>>>>,
}

/// A client on an account: names for the log, counts for the metrics, and what nearly every request needs of the account,
/// so that a request in a crowd of accounts touches this and little else.
#[derive(Debug)]
pub(super) struct RouteEntry {
    pub(super) client: ClientName,
    pub(super) platform: Platform,
    pub(super) counts: Arc<RouteCounts>,
    pub(super) tokens: TokenHandle,
    /// The token as this worker last read it, and its edition.
    token: RefCell<Option<(u32, Rc<Token>)>>,
}

/// A worker reads the wall clock this often at most: 39 ns each time (*measured*). A request can so be handed a token that
/// died in a suspension up to this long, by the monotonic clock, after the last reading; WeChat says 42001 to it and it
/// goes once more.
const WALL_READ_EVERY: Duration = Duration::from_millis(20);

/// After the word to stop, new connections are accepted for this long: whoever sends them here is about to hear of it.
const ACCEPT_GRACE: Duration = Duration::from_millis(200);
/// Then idle connections stay open for this long, so that a client that sends at that very instant, or was the last to
/// be accepted, is served.
const IDLE_GRACE: Duration = Duration::from_millis(200);
/// What has arrived is accepted within this; it takes longer only where connections have run out.
const LAST_ACCEPTS_MAX: Duration = Duration::from_secs(1);

/// Held bodies are written by at most this many threads of a worker.
const BLOCKING_THREADS_MAX: usize = 8;

/// Refusals logged per second; more are counted only.
const REFUSALS_LOGGED_PER_S: u32 = 50;

/// Starts a worker on a thread of its own.
pub fn spawn(setup: Setup) -> io::Result<Running> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name(format!("worker-{}", setup.index)).spawn(move || {
        // (A `LocalSet` would be a scheduler within the scheduler.)
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .build_local(LocalOptions::default())?;
        runtime.block_on(run(setup, sender))
    })?;
    match receiver.recv() {
        Ok(upstream) => Ok(Running { thread, upstream }),
        Err(_) => match thread.join() {
            Ok(Err(error)) => Err(error),
            Ok(Ok(())) | Err(_) => Err(io::Error::other("a worker ended before it began")),
        },
    }
}

async fn run(setup: Setup, started: std::sync::mpsc::SyncSender<Arc<Stats>>) -> io::Result<()> {
    let listeners = setup.listeners.into_iter().map(listener).collect::<io::Result<Vec<_>>>()?;
    let mut snapshot = setup.snapshot;
    let mut phase = setup.phase;
    let mut last_phase = phase.clone();
    let outbox = Rc::<Outbox>::default();
    let worker = Rc::new(Worker {
        upstreams: Upstreams::new(&setup.upstream, &setup.upstream_tls, &outbox),
        outbox: Rc::clone(&outbox),
        connections: Connections::default(),
        counts: setup.counts,
        room: setup.room,
        pseudonym: setup.pseudonym,
        is_draining: Cell::new(false),
        closes: Notify::new(),
        view: RefCell::new(Rc::new(View::of(&mut snapshot))),
        next_request: Cell::new(fastrand::u64(..)),
        wall: Cell::new(None),
        refusals_logged: Cell::new((None, 0)),
    });
    // The other side is only gone when the start has failed elsewhere; the phase will say so.
    let _told = started.send(worker.upstreams.stats());

    let mut accepting: Vec<_> = listeners
        .into_iter()
        .map(|listener| tokio::task::spawn_local(accept::accept(Rc::clone(&worker), listener)))
        .collect();
    let housekeeping = tokio::task::spawn_local(keep_house(Rc::clone(&worker), snapshot));
    let sending = tokio::task::spawn_local({
        let outbox = Rc::clone(&outbox);
        async move { outbox.run().await }
    });

    // An error means that whoever could say more is gone, which is a stop too. What comes back is a lock on the phase:
    // kept, it would hold up the next one for as long as this worker drains.
    drop(phase.wait_for(|phase| *phase >= Phase::Drain).await);
    worker.is_draining.set(true);
    let cut = async { drop(last_phase.wait_for(|phase| *phase >= Phase::Cut).await) };
    tokio::select! {
        () = drain(&worker, &mut accepting) => {}
        () = cut => {}
    }
    housekeeping.abort();
    sending.abort();
    accepting.iter().for_each(tokio::task::JoinHandle::abort);
    worker.connections.end_all(Ending::Cut);
    // Whatever else is said at the end of this turn.
    outbox.send();
    Ok(())
}

fn listener(bound: Bound) -> io::Result<Listener> {
    match bound {
        Bound::Tcp(listener) => tokio::net::TcpListener::from_std(listener).map(Listener::Tcp),
        Bound::Unix(listener) => tokio::net::UnixListener::from_std(listener).map(Listener::Unix),
    }
}

/// Until the worker ends: looks at its connections, at its upstream connections, and for a new snapshot.
async fn keep_house(worker: Rc<Worker>, mut snapshot: watch::Receiver<Arc<Snapshot>>) {
    let sweeping = async {
        let mut ticks = tokio::time::interval(SWEEP_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let view = worker.view();
            let ended = worker.connections.sweep(&view.snapshot.limits, Instant::now());
            worker.counts.connections_expired.add(ended);
        }
    };
    let reloading = async {
        while snapshot.changed().await.is_ok() {
            *worker.view.borrow_mut() = Rc::new(View::of(&mut snapshot));
        }
        std::future::pending::<()>().await;
    };
    let making_room = async {
        loop {
            worker.room.is_wanted().await;
            worker.counts.connections_expired.add(worker.connections.make_room(Instant::now()));
        }
    };
    tokio::join!(sweeping, reloading, making_room, worker.upstreams.maintain());
}

/// Ends when no connection has anything left to say.
///
/// # Why what has arrived is accepted before a listener closes
///
/// The kernel resets connections that wait to be accepted when their listener closes, also where another process listens
/// at the same port (unless `net.ipv4.tcp_migrate_req` is on). What is left is a handshake that is half done at that
/// instant; sockets of systemd's, which do not close, have not even that.
async fn drain(worker: &Worker, accepting: &mut [tokio::task::JoinHandle<()>]) {
    tokio::time::sleep(ACCEPT_GRACE).await;
    worker.closes.notify_waiters();
    let last = futures_util::future::join_all(accepting.iter_mut());
    let _closed = tokio::time::timeout(LAST_ACCEPTS_MAX, last).await;
    accepting.iter().for_each(tokio::task::JoinHandle::abort);
    tokio::time::sleep(IDLE_GRACE).await;
    worker.connections.end_all(Ending::Polite);
    while !worker.connections.are_drained(Instant::now()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

// === impl Worker ===

impl Worker {
    /// The configuration as of now. Cost: a count that only this thread touches.
    pub(super) fn view(&self) -> Rc<View> {
        Rc::clone(&self.view.borrow())
    }

    /// Names the next request: random where the worker began, then by turns of a permutation, so that neither the
    /// count of requests nor its neighbours can be read off.
    pub(super) fn name_request(&self) -> RequestId {
        let number = self.next_request.get();
        self.next_request.set(number.wrapping_add(1));
        RequestId(
            number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xd6e8_feb8_6659_fd93),
        )
    }

    /// The wall clock that `tokens` go by, as all of them do, by a reading that is not older than [`WALL_READ_EVERY`].
    fn wall(&self, now: Instant, tokens: &TokenHandle) -> UnixSeconds {
        if let Some((at, wall)) = self.wall.get()
            && now.saturating_duration_since(at) < WALL_READ_EVERY
        {
            return wall;
        }
        let wall = tokens.wall();
        self.wall.set(Some((now, wall)));
        wall
    }

    /// Whether one more refusal may be logged now.
    pub(super) fn may_log_refusal(&self, now: Instant) -> bool {
        let (since, count) = self.refusals_logged.get();
        match since {
            Some(since) if now.saturating_duration_since(since) < Duration::from_secs(1) => {
                self.refusals_logged.set((Some(since), count.saturating_add(1)));
                count < REFUSALS_LOGGED_PER_S
            }
            Some(_) | None => {
                self.refusals_logged.set((Some(now), 1));
                true
            }
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("connections", &self.connections.count()).finish_non_exhaustive()
    }
}

// === impl View ===

impl View {
    fn of(snapshot: &mut watch::Receiver<Arc<Snapshot>>) -> Self {
        Self {
            snapshot: Arc::clone(&snapshot.borrow_and_update()),
            routes: RefCell::default(),
            usual: RefCell::default(),
        }
    }

    /// The entry of a client on an account of this snapshot.
    pub(super) fn route(
        &self,
        counts: &WorkerCounts,
        client: &Arc<Client>,
        tokens: &TokenHandle,
    ) -> Rc<RouteEntry> {
        let account = tokens.account();
        let key = (Arc::as_ptr(client).addr(), Arc::as_ptr(account).addr());
        let mut routes = self.routes.borrow_mut();
        let entry = routes.entry(key).or_insert_with(|| {
            Rc::new(RouteEntry {
                client: client.name.clone(),
                platform: account.grant.platform(),
                counts: counts.route(&client.name, &account.name),
                tokens: tokens.clone(),
                token: RefCell::new(None),
            })
        });
        Rc::clone(entry)
    }

    /// Where requests of this client go that name no account, if [`Self::keep_usual`] has heard of it.
    pub(super) fn usual(&self, client: &Client) -> Option<Rc<RouteEntry>> {
        self.usual.borrow().get(client.number)?.clone()
    }

    /// Notes it.
    pub(super) fn keep_usual(&self, client: &Client, entry: &Rc<RouteEntry>) {
        let mut usual = self.usual.borrow_mut();
        if usual.len() <= client.number {
            usual.resize(client.number + 1, None);
        }
        if let Some(place) = usual.get_mut(client.number) {
            *place = Some(Rc::clone(entry));
        }
    }
}

// === impl RouteEntry ===

impl RouteEntry {
    /// The account's token, waiting for one until `deadline` if there is none.
    ///
    /// Where it is the one that was read last, which is nearly always, this counts up a number that only this thread
    /// touches. (A clone of what the cell holds would count up one that all workers fight over.)
    pub(super) async fn token(
        &self,
        worker: &Worker,
        now: Instant,
        deadline: Instant,
    ) -> Result<Rc<Token>, NoToken> {
        // Before the token: read after it, a number could hide a newer one.
        let edition = self.tokens.edition();
        if let Some((read, token)) = &*self.token.borrow()
            && *read == edition
            && token.is_alive(now, worker.wall(now, &self.tokens))
        {
            return Ok(Rc::clone(token));
        }
        let current = match self.tokens.current(now) {
            Some(current) => current,
            None => Box::pin(self.tokens.wait(deadline)).await?,
        };
        let token = Rc::new(Token::clone(&current));
        *self.token.borrow_mut() = Some((edition, Rc::clone(&token)));
        Ok(token)
    }
}
