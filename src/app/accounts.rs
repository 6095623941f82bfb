//! The accounts and their keepers, as one configuration after another says.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::config::{self, Account, Config, UpstreamHost};
use crate::token::{
    self, Alone, Common, ConfiguredStore, Endpoint, HttpTokenSource, KeeperTask, Ledger, Life, TokenHandle,
    Turns, WallClock,
};
use crate::types::{AccountName, AppId, GrantKind, Platform};

/// Token calls at one time, over all accounts; a quarter more where requests wait.
const FETCHES_MAX: usize = 64;

/// Between two words about a start that is under way.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// All accounts that run.
#[derive(Debug)]
pub struct Accounts {
    /// In the order of their accounts' names.
    running: Vec<KeeperTask>,
    store: ConfiguredStore,
    client: reqwest::Client,
    common: Arc<Common>,
    tokens: Tokens,
}

/// The tokens of all accounts, for whoever shows them.
pub(super) type Tokens = Arc<Mutex<Arc<[TokenHandle]>>>;

/// The endpoint of each platform, shared by the sources of all its accounts.
#[derive(Debug, Clone)]
pub(super) struct Endpoints {
    weixin: Arc<Endpoint>,
    wecom: Arc<Endpoint>,
}

// === impl Endpoints ===

impl Endpoints {
    pub(super) fn new(upstream: &config::Upstream, client: &reqwest::Client) -> Self {
        let of =
            |hosts: &[UpstreamHost]| Arc::new(Endpoint { client: client.clone(), hosts: hosts.to_vec() });
        Self { weixin: of(&upstream.hosts), wecom: of(&upstream.wecom_hosts) }
    }

    pub(super) fn platform(&self, platform: Platform) -> Arc<Endpoint> {
        Arc::clone(match platform {
            Platform::Weixin => &self.weixin,
            Platform::Wecom => &self.wecom,
        })
    }
}

// === impl Accounts ===

impl Accounts {
    pub(super) fn new(store: ConfiguredStore, client: reqwest::Client) -> Self {
        let common = Common {
            ledger: Ledger::default(),
            turns: Turns::new(FETCHES_MAX),
            clock: WallClock::of_the_machine(),
            waiters_max: AtomicUsize::default(),
        };
        let common = Arc::new(common);
        Self { running: Vec::new(), store, client, common, tokens: Arc::new(Mutex::new(Arc::new([]))) }
    }

    /// Starts keepers for new accounts, ends those of removed ones, leaves the others alone.
    pub(super) async fn follow(&mut self, config: &Config) {
        let endpoints = Endpoints::new(&config.upstream, &self.client);
        self.common.waiters_max.store(config.server.limits.token_waiters_max, Ordering::Relaxed);
        let mut before: HashMap<AccountName, KeeperTask> =
            std::mem::take(&mut self.running).into_iter().map(by_name).collect();
        let mut running = Vec::with_capacity(config.accounts.len());
        let (mut started, mut ended) = (Vec::new(), Vec::new());
        for account in &config.accounts {
            // A sick account starts over: whoever reloads has perhaps just cured it, and waits to see.
            let stays = |token: &TokenHandle| token.account().is_same(account) && !token.is_failing();
            match before.remove(&account.name) {
                Some(keeper) if stays(keeper.token()) => running.push(keeper),
                changed => {
                    ended.extend(changed);
                    started.push(account);
                }
            }
        }
        ended.extend(before.into_values());
        // The old keepers end first: two would fetch, and save, for one account.
        stop(ended).await;
        running.extend(started.into_iter().map(|account| self.start(account, &endpoints)));
        running.sort_by(|one, other| name(one).cmp(name(other)));
        self.running = running;
        *self.tokens.lock().unwrap_or_else(PoisonError::into_inner) = self.all().into();
    }

    fn start(&self, account: &Arc<Account>, endpoints: &Endpoints) -> KeeperTask {
        let endpoint = endpoints.platform(account.grant.platform());
        let source = HttpTokenSource::new(endpoint, Arc::clone(account));
        let life = Life {
            account: Arc::clone(account),
            app_id: stored_as(account),
            // Each renewal of such a grant ends a token that another weigate may be using.
            alone: if account.grant.rotates() { Alone::Never } else { Alone::Allowed },
            jitter: fastrand::Rng::new(),
            common: Arc::clone(&self.common),
        };
        token::start(life, source, self.store.clone()).1
    }

    /// The accounts of `config` that run, with their tokens.
    pub(super) fn published<'a>(
        &'a self,
        config: &'a Config,
    ) -> impl Iterator<Item = (&'a Account, TokenHandle)> {
        let token = |account: &Account| {
            let place = self.running.binary_search_by(|keeper| name(keeper).cmp(&account.name)).ok()?;
            Some(self.running.get(place)?.token().clone())
        };
        config.accounts.iter().filter_map(move |account| Some((&**account, token(account)?)))
    }

    pub(super) fn all(&self) -> Vec<TokenHandle> {
        self.running.iter().map(|keeper| keeper.token().clone()).collect()
    }

    pub(super) fn tokens(&self) -> Tokens {
        Arc::clone(&self.tokens)
    }

    /// Ends all keepers; a save that has begun is finished.
    pub(super) async fn stop(self) {
        stop(self.running).await;
    }
}

/// Says in the log how far a start has come, where it takes a while: a hundred thousand first tokens take minutes.
pub(super) async fn report_until_ready(tokens: Tokens) {
    let mut before = None;
    loop {
        tokio::time::sleep(REPORT_EVERY).await;
        let tokens = Arc::clone(&tokens.lock().unwrap_or_else(PoisonError::into_inner));
        let alive = tokens.iter().filter(|token| token.is_alive()).count();
        if alive == tokens.len() {
            if before.is_some() {
                tracing::info!(accounts = alive, "every account has a token");
            }
            return;
        }
        // Nothing more comes by itself; what is wrong with the rest has been told.
        if before == Some(alive) {
            return;
        }
        tracing::info!(with_token = alive, accounts = tokens.len(), "getting the accounts' first tokens");
        before = Some(alive);
    }
}

fn name(keeper: &KeeperTask) -> &AccountName {
    &keeper.token().account().name
}

fn by_name(keeper: KeeperTask) -> (AccountName, KeeperTask) {
    (name(&keeper).clone(), keeper)
}

/// Ends keepers, all at one time: 10 s at most, however many of them wait for a slow store.
async fn stop(keepers: impl IntoIterator<Item = KeeperTask>) {
    futures_util::future::join_all(keepers.into_iter().map(KeeperTask::stop)).await;
}

/// What an account's token is stored under, so that a restart takes no other application's.
///
/// An AppID says whose a token is; a corpid does not, since each application of a corp has a secret, and tokens, of its
/// own (wechat.md §9). Their mark is the secret's fingerprint.
fn stored_as(account: &Account) -> AppId {
    let app_id = account.app_id.as_str();
    let marked = match account.grant {
        GrantKind::StableToken | GrantKind::Token => None,
        GrantKind::Wecom => {
            let corpid: String = app_id.chars().take(48).collect();
            let secret = account.app_secret.fingerprint().to_string();
            AppId::parse(&format!("{corpid}-{}", secret.trim_start_matches('#')))
        }
    };
    marked.unwrap_or_else(|| account.app_id.clone())
}
