//! The accounts and their keepers, as one configuration after another says.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use crate::config::{self, Config};
use crate::proxy::Account;
use crate::token::{self, ConfiguredStore, KeeperTask, Life, StableTokenSource, TokenHandle, WallClock};
use crate::types::{AccountName, Fingerprint};

/// Token calls at one time, over all accounts.
const FETCHES_MAX: usize = 64;

/// All accounts that run.
#[derive(Debug)]
pub struct Accounts {
    running: HashMap<AccountName, Kept>,
    store: ConfiguredStore,
    client: reqwest::Client,
    fetches: Arc<Semaphore>,
    tokens: Tokens,
}

/// The tokens of all accounts, for whoever shows them.
pub(super) type Tokens = Arc<Mutex<Vec<TokenHandle>>>;

#[derive(Debug)]
struct Kept {
    account: Arc<Account>,
    secret: Fingerprint,
    keeper: KeeperTask,
}

// === impl Accounts ===

impl Accounts {
    pub(super) fn new(store: ConfiguredStore, client: reqwest::Client) -> Self {
        let fetches = Arc::new(Semaphore::new(FETCHES_MAX));
        Self { running: HashMap::new(), store, client, fetches, tokens: Tokens::default() }
    }

    /// Starts keepers for new accounts, ends those of removed ones, leaves the others alone.
    pub(super) async fn follow(&mut self, config: &Config) {
        let mut before = std::mem::take(&mut self.running);
        for account in &config.accounts {
            let secret = account.app_secret.fingerprint();
            // A sick account starts over: whoever reloads has perhaps just cured it, and waits to see.
            let is_well = |kept: &Kept| kept.account.token.status().failures == 0;
            let same =
                |kept: &Kept| kept.account.app_id == account.app_id && kept.secret == secret && is_well(kept);
            let (kept, changed) = match before.remove(&account.name) {
                Some(kept) if same(&kept) => (Some(kept), None),
                changed => (None, changed),
            };
            // The old keeper ends first: two would fetch, and save, for one account.
            futures_util::future::OptionFuture::from(changed.map(|changed| changed.keeper.stop())).await;
            let kept = kept.unwrap_or_else(|| self.start(account, secret, config));
            self.running.insert(account.name.clone(), kept);
        }
        futures_util::future::join_all(before.into_values().map(|kept| kept.keeper.stop())).await;
        let mut handles: Vec<&Kept> = self.running.values().collect();
        handles.sort_by(|one, other| one.account.name.cmp(&other.account.name));
        let handles = handles.into_iter().map(|kept| kept.account.token.clone()).collect();
        *self.tokens.lock().unwrap_or_else(PoisonError::into_inner) = handles;
    }

    fn start(&self, account: &config::Account, secret: Fingerprint, config: &Config) -> Kept {
        let source = StableTokenSource::new(
            self.client.clone(),
            &config.upstream.hosts,
            account.app_id.clone(),
            account.app_secret.clone(),
        );
        let life = Life {
            account: account.name.clone(),
            app_id: account.app_id.clone(),
            waiters_max: config.server.limits.token_waiters_max,
            fetches: Arc::clone(&self.fetches),
            clock: WallClock::of_the_machine(),
            jitter: fastrand::Rng::new(),
        };
        let (token, keeper) = token::start(life, source, self.store.clone());
        let account = Account {
            name: account.name.clone(),
            app_id: account.app_id.clone(),
            app_secret: account.app_secret.clone(),
            token,
        };
        Kept { account: Arc::new(account), secret, keeper }
    }

    pub(super) fn all(&self) -> Vec<Arc<Account>> {
        self.running.values().map(|kept| Arc::clone(&kept.account)).collect()
    }

    pub(super) fn tokens(&self) -> Tokens {
        Arc::clone(&self.tokens)
    }

    /// Ends all keepers; a save that has begun is finished.
    pub(super) async fn stop(self) {
        futures_util::future::join_all(self.running.into_values().map(|kept| kept.keeper.stop())).await;
    }
}
