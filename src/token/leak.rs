//! A token that leaked: two forced refreshes, 30 s apart, by an operator's hand and never otherwise.
//!
//! `WeChat` prescribes exactly that: two calls with `force_refresh`, at least 30 s apart, end a leaked token at once; 20
//! such calls a day (`developers.weixin.qq.com/doc/service/api/base/api_getstableaccesstoken.html`, read 2026-11-22). On
//! `/cgi-bin/token` two ordinary calls do the same: the first leaves the old token five minutes, the second none (wechat.md
//! §1). `WeCom` has no such call.
//!
//! Promises: an attempt with [`Mode::Force`] is asked for here and nowhere else. Every call is noted in the store before
//! it is made, so that neither a crash nor a restart lends one more; what was begun goes on after a restart. A call that
//! brought no new token is made again, four calls in all at most.
//!
//! # Why the last 24 hours, and not a day
//!
//! No page says when WeChat's day begins. Twenty calls in any 24 hours are twenty at most in any day.
//!
//! [`Mode::Force`]: crate::wechat::token_call::Mode::Force

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use super::bell::Ring;
use super::keeper::STORE_MAX;
use super::store::TokenStore;
use super::{Ending, Shared};
use crate::types::{AppId, GrantKind, UnixSeconds};

/// Where a press of the button has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeakStatus {
    /// `idle`, `running`, `done`, `failed` or, on `WeCom`, `impossible`.
    pub state: &'static str,
    /// New tokens that are still to come.
    pub calls_left: u8,
    /// Until the next call; `None` where there is none to come.
    pub next_call_in: Option<Duration>,
    /// How the last call ended, since the start: a word of [`Ending::words`].
    pub last: Option<&'static str>,
    /// Calls in the last 24 hours, of [`CALLS_PER_DAY`].
    pub used: usize,
    /// When the oldest of them counts no more.
    pub resets_at: Option<UnixSeconds>,
}

/// Why a press of the button begins nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LeakRefusal {
    /// There is no call for it.
    #[error(
        "WeCom has no call that ends a token: reset the application's Secret (work.weixin.qq.com, 应用管理), give weigate \
         the new one and reload; the old token ends within two hours"
    )]
    Impossible,
    /// Another press has not come to its end.
    #[error("it is already being done")]
    Running,
    /// Two more calls would be more than WeChat allows.
    #[error("the forced refreshes of the last 24 hours are used up")]
    Exhausted,
    /// The count has not been read from the store yet.
    #[error("weigate has just started and does not know yet what was used: press again in a moment")]
    Starting,
}

/// The button, and what came of it.
#[derive(Debug)]
pub(crate) struct Desk {
    /// `None`: it is known that there was no press, and no call in the last day. That is nearly every account.
    run: Mutex<Option<Box<Run>>>,
}

#[derive(Debug)]
struct Run {
    is_loaded: bool,
    /// Renewals still to come.
    left: u8,
    /// Calls made for this press.
    calls: u8,
    next_at: Option<Instant>,
    used: Vec<UnixSeconds>,
    last: Option<&'static str>,
    state: &'static str,
}

/// What the store knows of the forced refreshes of all its accounts. Clones are the same ledger.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Book>);

/// `None` until someone has asked: a hundred thousand accounts ask once. The blob is all accounts': one of them reads,
/// changes and writes it at a time.
type Book = tokio::sync::Mutex<Option<BTreeMap<String, Kept>>>;

/// As it is stored: for each AppID when it was forced, and what is left of a press.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    at: Vec<u64>,
    left: u8,
}

/// Forced refreshes that WeChat allows a day.
pub const CALLS_PER_DAY: usize = 20;

/// What ends a token: two renewals.
const RENEWALS: u8 = 2;

/// Calls for one press, those that brought nothing included.
const CALLS_MAX: u8 = 4;

/// WeChat wants 30 s; a second more for clocks that differ.
const APART: Duration = Duration::from_secs(31);

const DAY: Duration = Duration::from_hours(24);

const BLOB: &str = "forced-refreshes";

/// Does what presses ask for. Ends when it is dropped; says in `is_at_rest` whether nothing is going on.
pub(super) async fn attend<T: TokenStore>(
    store: &T,
    app_id: &AppId,
    shared: &Shared,
    ledger: &Ledger,
    is_at_rest: &AtomicBool,
) {
    if shared.account.grant == GrantKind::Wecom {
        is_at_rest.store(true, SeqCst);
        return std::future::pending().await;
    }
    if !shared.leak.is_loaded() {
        ledger.begin(store, app_id, shared).await;
    }
    loop {
        let next_at = shared.leak.run().as_ref().and_then(|run| run.next_at);
        is_at_rest.store(next_at.is_none(), SeqCst);
        match next_at {
            Some(at) => ledger.call(at, store, app_id, shared).await,
            None => shared.bell.heard(Ring::Pressed).await,
        }
    }
}

/// Whether a call at `at` still counts. One that lies ahead, by a clock that was set back, does.
fn counts(at: UnixSeconds, now: UnixSeconds) -> bool {
    now.since(at) < DAY
}

// === impl Ledger ===

impl Ledger {
    /// Tells the desk what is known.
    async fn begin<T: TokenStore>(&self, store: &T, app_id: &AppId, shared: &Shared) {
        let mut known = self.0.lock().await;
        let known = match &mut *known {
            Some(known) => known,
            unread @ None => unread.insert(load(store).await),
        };
        let nothing = Kept::default();
        shared.leak.begin(known.get(app_id.as_str()).unwrap_or(&nothing), shared.clock().read());
    }

    /// Makes the next call of a press when its time has come.
    async fn call<T: TokenStore>(&self, at: Instant, store: &T, app_id: &AppId, shared: &Shared) {
        // Before anything else: a crash from here on does not forget that the button was pressed.
        self.note(store, app_id, shared, false).await;
        sleep_until(at).await;
        if !shared.leak.may_call(shared.clock().read()) {
            error!(account = %shared.account.name, "the forced refreshes of the last 24 hours are used up");
            self.note(store, app_id, shared, false).await;
            return;
        }
        self.note(store, app_id, shared, true).await;
        let mut progress = shared.progress.reader();
        let before = progress.take_in().forced;
        shared.bell.ring(Ring::Forced);
        let ending = loop {
            let seen = progress.take_in();
            if seen.forced > before {
                break seen.ending;
            }
            if progress.changed().await.is_err() {
                return;
            }
        };
        shared.leak.ended(ending.as_ref(), &shared.account.name);
        self.note(store, app_id, shared, false).await;
    }

    /// Brings the store up to date, with one call more where one is about to be made. Best effort: a leak does not wait
    /// for a disk that is full, and WeChat counts too.
    async fn note<T: TokenStore>(&self, store: &T, app_id: &AppId, shared: &Shared, calls: bool) {
        let mut known = self.0.lock().await;
        let mut all = load(store).await;
        let now = shared.clock().read();
        all.retain(|_, kept| kept.left > 0 || kept.at.iter().any(|at| counts(UnixSeconds(*at), now)));
        all.insert(app_id.as_str().to_owned(), shared.leak.kept(now, calls));
        let bytes = serde_json::to_vec(&all).unwrap_or_default();
        *known = Some(all);
        match timeout(STORE_MAX, store.save_blob(BLOB, Zeroizing::new(bytes))).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                warn!(account = %shared.account.name, %error, "could not store the count of forced refreshes");
            }
            Err(_) => {
                warn!(account = %shared.account.name, "the store took too long for the count of forced refreshes");
            }
        }
    }
}

async fn load<T: TokenStore>(store: &T) -> BTreeMap<String, Kept> {
    match timeout(STORE_MAX, store.load_blob(BLOB)).await {
        Ok(Ok(bytes)) => bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default(),
        Ok(Err(error)) => {
            warn!(%error, "could not load the count of forced refreshes");
            BTreeMap::new()
        }
        Err(_) => {
            warn!("the store took too long to load the count of forced refreshes");
            BTreeMap::new()
        }
    }
}

// === impl Desk ===

impl Desk {
    pub(super) fn new(kind: GrantKind) -> Self {
        let unread = (kind != GrantKind::Wecom).then(Box::<Run>::default);
        Self { run: Mutex::new(unread) }
    }

    /// Presses the button. Whoever does that rings the bell then ([`Ring::Pressed`]).
    pub(super) fn press(&self, kind: GrantKind, now: UnixSeconds) -> Result<(), LeakRefusal> {
        if kind == GrantKind::Wecom {
            return Err(LeakRefusal::Impossible);
        }
        let mut run = self.run();
        let run = run.get_or_insert_with(|| Box::new(Run::read()));
        if !run.is_loaded {
            return Err(LeakRefusal::Starting);
        }
        if run.left > 0 {
            return Err(LeakRefusal::Running);
        }
        run.used.retain(|at| counts(*at, now));
        if run.used.len() + usize::from(RENEWALS) > CALLS_PER_DAY {
            return Err(LeakRefusal::Exhausted);
        }
        (run.left, run.calls, run.state, run.last) = (RENEWALS, 0, "running", None);
        run.next_at = Some(Instant::now() + run.distance(now));
        Ok(())
    }

    pub(super) fn status(&self, kind: GrantKind, now: UnixSeconds) -> LeakStatus {
        let run = self.run();
        let at_rest = Run::default();
        let run = run.as_deref().unwrap_or(&at_rest);
        let used: Vec<UnixSeconds> = run.used.iter().copied().filter(|at| counts(*at, now)).collect();
        LeakStatus {
            state: if kind == GrantKind::Wecom { "impossible" } else { run.state },
            calls_left: run.left,
            next_call_in: run.next_at.map(|at| at.saturating_duration_since(Instant::now())),
            last: run.last,
            used: used.len(),
            resets_at: used.iter().min().map(|at| at.plus(DAY)),
        }
    }

    /// What the store knows; a press that a restart cut short goes on.
    fn begin(&self, kept: &Kept, now: UnixSeconds) {
        let mut known = self.run();
        let mut run = Box::new(Run::read());
        run.used = kept.at.iter().copied().map(UnixSeconds).filter(|at| counts(*at, now)).collect();
        run.left = kept.left.min(RENEWALS);
        if run.left > 0 {
            run.state = "running";
            run.next_at = Some(Instant::now() + run.distance(now));
        }
        *known = (run.left > 0 || !run.used.is_empty()).then_some(run);
    }

    /// Whether one more call is allowed; where not, the press has failed.
    fn may_call(&self, now: UnixSeconds) -> bool {
        let mut run = self.run();
        let run = run.get_or_insert_with(|| Box::new(Run::read()));
        run.used.retain(|at| counts(*at, now));
        if run.used.len() < CALLS_PER_DAY {
            return true;
        }
        (run.left, run.state, run.next_at) = (0, "failed", None);
        false
    }

    /// A forced attempt has ended.
    fn ended(&self, ending: Option<&Ending>, account: &crate::types::AccountName) {
        let mut run = self.run();
        let run = run.get_or_insert_with(|| Box::new(Run::read()));
        let word = ending.map_or("failed", Ending::word);
        run.last = Some(word);
        if matches!(ending, Some(Ending::Renewed)) {
            run.left = run.left.saturating_sub(1);
        }
        (run.state, run.next_at) = match (run.left, run.calls) {
            (0, _) => ("done", None),
            (_, CALLS_MAX..) => ("failed", None),
            _ => ("running", Some(Instant::now() + APART)),
        };
        if run.state == "failed" {
            run.left = 0;
            error!(%account, word, "the leaked token could not be ended: press again");
        } else {
            info!(%account, word, calls_left = run.left, "forced a new token, since the old one leaked");
        }
    }

    fn kept(&self, now: UnixSeconds, calls: bool) -> Kept {
        let mut run = self.run();
        let run = run.get_or_insert_with(|| Box::new(Run::read()));
        if calls {
            run.used.push(now);
            run.calls = run.calls.saturating_add(1);
        }
        Kept { at: run.used.iter().map(|at| at.0).collect(), left: run.left }
    }

    fn is_loaded(&self) -> bool {
        self.run().as_ref().is_none_or(|run| run.is_loaded)
    }

    fn run(&self) -> MutexGuard<'_, Option<Box<Run>>> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Run ===

impl Default for Run {
    fn default() -> Self {
        Self {
            is_loaded: false,
            left: 0,
            calls: 0,
            next_at: None,
            used: Vec::new(),
            last: None,
            state: "idle",
        }
    }
}

impl Run {
    /// One of whom the store knows nothing.
    fn read() -> Self {
        Self { is_loaded: true, ..Self::default() }
    }

    /// From now until the next call may be made.
    fn distance(&self, now: UnixSeconds) -> Duration {
        let last = self.used.iter().max();
        last.map_or(Duration::ZERO, |last| APART.saturating_sub(now.since(*last)).min(APART))
    }
}
