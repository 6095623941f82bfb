//! The accounts and their keepers, as one configuration after another says.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::config::{self, Config, UpstreamHost};
use crate::proxy::Account;
use crate::token::{
    self, Alone, ConfiguredStore, Endpoint, HttpTokenSource, KeeperTask, Ledger, Life, TokenHandle, Turns,
    WallClock,
};
use crate::types::{AccountName, AppId, Fingerprint, GrantKind, Platform};

/// Token calls at one time, over all accounts; a quarter more where requests wait.
const FETCHES_MAX: usize = 64;

/// Between two words about a start that is under way.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// All accounts that run.
#[derive(Debug)]
pub struct Accounts {
    /// In the order of their names.
    running: Vec<Kept>,
    store: ConfiguredStore,
    client: reqwest::Client,
    turns: Turns,
    clock: WallClock,
    ledger: Ledger,
    tokens: Tokens,
}

/// The tokens of all accounts, for whoever shows them.
pub(super) type Tokens = Arc<Mutex<Arc<[TokenHandle]>>>;

#[derive(Debug)]
struct Kept {
    account: Arc<Account>,
    keeper: KeeperTask,
}

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
        let clock = WallClock::of_the_machine();
        Self {
            running: Vec::new(),
            store,
            client,
            turns: Turns::new(FETCHES_MAX),
            clock,
            ledger: Ledger::default(),
            tokens: Arc::new(Mutex::new(Arc::new([]))),
        }
    }

    /// Starts keepers for new accounts, ends those of removed ones, leaves the others alone.
    pub(super) async fn follow(&mut self, config: &Config) {
        let endpoints = Endpoints::new(&config.upstream, &self.client);
        let mut before: HashMap<AccountName, Kept> =
            std::mem::take(&mut self.running).into_iter().map(Kept::by_name).collect();
        let mut running = Vec::with_capacity(config.accounts.len());
        let (mut started, mut ended) = (Vec::new(), Vec::new());
        for account in &config.accounts {
            let secret = account.app_secret.fingerprint();
            // A sick account starts over: whoever reloads has perhaps just cured it, and waits to see.
            let is_well = |kept: &Kept| !kept.account.token.is_failing();
            let same = |kept: &Kept| {
                let Account { app_id, grant, app_secret, .. } = &*kept.account;
                let is_same = *app_id == account.app_id && *grant == account.grant;
                is_same && app_secret.fingerprint() == secret && is_well(kept)
            };
            match before.remove(&account.name) {
                Some(kept) if same(&kept) => {
                    running.push(kept);
                }
                changed => {
                    ended.extend(changed);
                    started.push((account, secret));
                }
            }
        }
        ended.extend(before.into_values());
        // The old keepers end first: two would fetch, and save, for one account.
        stop(ended).await;
        for (account, secret) in started {
            running.push(self.start(account, secret, config, &endpoints));
        }
        running.sort_by(|one, other| one.account.name.cmp(&other.account.name));
        self.running = running;
        let handles = self.running.iter().map(|kept| kept.account.token.clone()).collect();
        *self.tokens.lock().unwrap_or_else(PoisonError::into_inner) = handles;
    }

    fn start(
        &self,
        account: &config::Account,
        secret: Fingerprint,
        config: &Config,
        endpoints: &Endpoints,
    ) -> Kept {
        let source = HttpTokenSource::new(
            endpoints.platform(account.grant.platform()),
            account.grant,
            account.app_id.clone(),
            account.app_secret.clone(),
        );
        let life = Life {
            account: account.name.clone(),
            app_id: stored_as(account, secret),
            grant: account.grant,
            ledger: self.ledger.clone(),
            waiters_max: config.server.limits.token_waiters_max,
            // Each renewal of such a grant ends a token that another weigate may be using.
            alone: if account.grant.rotates() { Alone::Never } else { Alone::Allowed },
            turns: self.turns.clone(),
            clock: self.clock.clone(),
            jitter: fastrand::Rng::new(),
        };
        let (token, keeper) = token::start(life, source, self.store.clone());
        let account = Account {
            name: account.name.clone(),
            app_id: account.app_id.clone(),
            app_secret: account.app_secret.clone(),
            grant: account.grant,
            token,
        };
        Kept { account: Arc::new(account), keeper }
    }

    /// The accounts of `config` that run, with their tokens.
    pub(super) fn published<'a>(
        &'a self,
        config: &'a Config,
    ) -> impl Iterator<Item = (&'a config::Account, TokenHandle)> {
        let token = |account: &config::Account| {
            let place = self.running.binary_search_by(|kept| kept.account.name.cmp(&account.name)).ok()?;
            Some(self.running.get(place)?.account.token.clone())
        };
        config.accounts.iter().filter_map(move |account| Some((account, token(account)?)))
    }

    pub(super) fn all(&self) -> Vec<Arc<Account>> {
        self.running.iter().map(|kept| Arc::clone(&kept.account)).collect()
    }

    pub(super) fn tokens(&self) -> Tokens {
        Arc::clone(&self.tokens)
    }

    /// Ends all keepers; a save that has begun is finished.
    pub(super) async fn stop(self) {
        stop(self.running).await;
    }
}

// === impl Kept ===

impl Kept {
    fn by_name(self) -> (AccountName, Self) {
        (self.account.name.clone(), self)
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

/// Ends keepers, all at one time: 10 s at most, however many of them wait for a slow store.
async fn stop(kept: impl IntoIterator<Item = Kept>) {
    futures_util::future::join_all(kept.into_iter().map(|kept| kept.keeper.stop())).await;
}

/// What an account's token is stored under, so that a restart takes no other application's.
///
/// An AppID says whose a token is; a corpid does not, since each application of a corp has a secret, and tokens, of its
/// own (wechat.md §9). Their mark is the secret's fingerprint.
fn stored_as(account: &config::Account, secret: Fingerprint) -> AppId {
    let app_id = account.app_id.as_str();
    let marked = match account.grant {
        GrantKind::StableToken | GrantKind::Token => None,
        GrantKind::Wecom => {
            let corpid: String = app_id.chars().take(48).collect();
            AppId::parse(&format!("{corpid}-{}", secret.to_string().trim_start_matches('#')))
        }
    };
    marked.unwrap_or_else(|| account.app_id.clone())
}
