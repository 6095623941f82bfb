//! Publishing: an account's live token under the keys of other SDKs, for applications that cannot change their base URL.
//!
//! ```text
//! the cell of a published account changes ──> bell ──┐
//! connected (again) · every 60 s ──> all accounts ───┴──> for each key one script: write, or leave alone (script.rs)
//! every second ──> are the keys of the next 20 accounts there? those that are not are put back
//! ```
//!
//! It promises that a reader finds a live token at every instant for which there is one: a key is written over, never
//! deleted first, and lives exactly as long as its token. What was deleted or damaged is put right within a minute; with
//! up to 100 accounts, and after a FLUSHALL or a restart of Redis, what is gone is back within seconds. Several weigates
//! may publish under the same keys: none puts an older token over a newer one. Nothing here is on a request's way, and a
//! Redis that is gone stops nothing else.
//!
//! What it cannot promise: a key has two writers where an SDK finds nothing there and fetches for itself. And a token
//! that WeChat has ended is found until weigate is told so, by a request of its own or by an operator.
//!
//! # Why a key of an account that is published no more is left to its end
//!
//! Its readers may be running, and the token is good; it goes with its time.

mod format;
mod metrics;
mod script;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use self::format::Target;
use super::TokenHandle;
use super::store::redis::Link;
use crate::config::{Account, Redis};
use crate::types::AccountName;

pub use metrics::Figures;
pub use session::{advice, try_publishing};

/// Publishes the tokens of the accounts that it was last told of. Dropping it ends that.
#[derive(Debug, Default)]
pub struct Publisher {
    desk: Arc<Desk>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    settings: Redis,
    session: AbortHandle,
}

/// What the publisher, its task and whoever shows it share.
#[derive(Debug, Default)]
struct Desk {
    accounts: Mutex<BTreeMap<AccountName, Arc<Published>>>,
    bell: Arc<Bell>,
    link: Mutex<Option<Arc<Link>>>,
    written: AtomicU64,
}

/// One account, and the keys of its token.
#[derive(Debug)]
struct Published {
    token: TokenHandle,
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    target: Target,
    /// Kept from one configuration to the next.
    seen: Arc<Mutex<Seen>>,
}

/// What is known of a key.
#[derive(Debug, Default)]
struct Seen {
    standing: Standing,
    /// SHA-1 of the last values that we found or put there and that were ours, the newest last.
    ours: Vec<String>,
}

/// What stood under a key when it was last looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Standing {
    /// Nobody has looked, or there was no token to put there.
    #[default]
    Unknown,
    /// Our token.
    Ours,
    /// Another one, which lives longer.
    Newer,
    /// It could not be written.
    Failed,
}

/// Rung by cells whose tokens are published: a set, so that each account is in it at most once.
#[derive(Debug, Default)]
struct Bell {
    rung: Mutex<BTreeSet<AccountName>>,
    notify: Notify,
}

/// A cell's cord to the bell.
#[derive(Debug)]
pub(super) struct Cord {
    account: AccountName,
    bell: Arc<Bell>,
}

/// A key's own values of before that are remembered: more than tokens can be alive at one time.
const OURS_MAX: usize = 4;

// === impl Publisher ===

impl Publisher {
    /// From now on publishes these in the Redis of `settings`, and nothing else anywhere else. What was published and
    /// is not among them stays where it is until it expires. Must be called on a runtime.
    pub fn follow<'a>(
        &mut self,
        settings: Option<&Redis>,
        accounts: impl Iterator<Item = (&'a Account, TokenHandle)>,
    ) {
        let before = std::mem::take(&mut *self.desk.accounts());
        let mut known: BTreeMap<&str, &Arc<Mutex<Seen>>> = BTreeMap::new();
        for key in before.values().flat_map(|published| &published.keys) {
            known.insert(&key.target.key, &key.seen);
        }
        let mut now = BTreeMap::new();
        for (account, token) in accounts.filter(|(account, _)| !account.publish.is_empty()) {
            let key = |target: Target| Key {
                seen: known.get(target.key.as_str()).map(|seen| Arc::clone(seen)).unwrap_or_default(),
                target,
            };
            let keys = Target::all_of(account).into_iter().map(key).collect();
            let cord = Cord { account: account.name.clone(), bell: Arc::clone(&self.desk.bell) };
            token.0.cell.tie(cord);
            now.insert(account.name.clone(), Arc::new(Published { token, keys }));
        }
        let names: Vec<AccountName> = now.keys().cloned().collect();
        *self.desk.accounts() = now;
        self.desk.bell.ring(names);
        self.connect(settings);
    }

    /// What operators see.
    pub fn figures(&self) -> Figures {
        Figures::of(Arc::clone(&self.desk))
    }

    /// Another Redis takes another task; the same goes on with the one it has.
    fn connect(&mut self, settings: Option<&Redis>) {
        if self.running.as_ref().map(|running| &running.settings) == settings {
            return;
        }
        if let Some(running) = self.running.take() {
            running.session.abort();
        }
        let link = settings.map(|settings| Arc::new(Link::new(settings.clone())));
        self.desk.link().clone_from(&link);
        if let (Some(settings), Some(link)) = (settings, link) {
            let session = tokio::spawn(session::keep(Arc::clone(&self.desk), link)).abort_handle();
            self.running = Some(Running { settings: settings.clone(), session });
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.session.abort();
        }
    }
}

// === impl Desk ===

impl Desk {
    fn accounts(&self) -> MutexGuard<'_, BTreeMap<AccountName, Arc<Published>>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self) -> MutexGuard<'_, Option<Arc<Link>>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Arc<Published>> {
        self.accounts().values().map(Arc::clone).collect()
    }

    /// The next accounts after one.
    fn slice_after(&self, after: Option<&AccountName>, length: usize) -> Vec<Arc<Published>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let accounts = self.accounts();
        accounts
            .range::<AccountName, _>((from, Bound::Unbounded))
            .take(length)
            .map(|(_, one)| Arc::clone(one))
            .collect()
    }

    /// Those of the accounts that have rung.
    fn rung(&self) -> Vec<Arc<Published>> {
        let rung = std::mem::take(&mut *self.bell.rung());
        let accounts = self.accounts();
        rung.iter().filter_map(|name| accounts.get(name)).map(Arc::clone).collect()
    }
}

// === impl Key ===

impl Key {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Seen ===

impl Seen {
    /// This value of ours stands there now.
    fn is_ours(&mut self, hash: String) {
        self.standing = Standing::Ours;
        self.ours.retain(|known| *known != hash);
        self.ours.push(hash);
        if self.ours.len() > OURS_MAX {
            self.ours.remove(0);
        }
    }
}

// === impl Bell ===

impl Bell {
    fn rung(&self) -> MutexGuard<'_, BTreeSet<AccountName>> {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self, accounts: impl IntoIterator<Item = AccountName>) {
        self.rung().extend(accounts);
        self.notify.notify_one();
    }
}

// === impl Cord ===

impl Cord {
    /// There is something new to publish. Never waits.
    pub(super) fn pull(&self) {
        self.bell.ring([self.account.clone()]);
    }
}
