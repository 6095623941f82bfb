//! What a worker needs to know of the configuration: read-only, replaced as a whole by a reload.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::server::danger::ClientCertVerifier;

use crate::clients::Clients;
use crate::config::{Limits, Server};
use crate::token::TokenHandle;
use crate::types::{AccountName, AppId, AppSecret, GrantKind};

/// One account, with its token at hand.
#[derive(Debug)]
pub struct Account {
    /// The operator's name for it.
    pub name: AccountName,
    /// Its AppID; the corpid, on `WeCom`.
    pub app_id: AppId,
    /// Its secret, for the few calls that need it.
    pub app_secret: AppSecret,
    /// How it gets its tokens, and with that its platform.
    pub grant: GrantKind,
    /// Where its token is read.
    pub token: TokenHandle,
}

/// How TLS is spoken with clients.
#[derive(Debug)]
pub struct Tls {
    /// For handshakes.
    pub server: Arc<rustls::ServerConfig>,
    /// What judges clients' certificates; `None`: none is asked for.
    pub clients: Option<Arc<dyn ClientCertVerifier>>,
}

/// Accounts, clients and limits as of one configuration.
#[derive(Debug)]
pub struct Snapshot {
    /// Who may call.
    pub clients: Clients,
    /// What a client may use.
    pub limits: Limits,
    /// Where held bodies beyond memory go.
    pub spool_dir: PathBuf,
    /// What connections accepted from now on speak TLS with; `None`: plain HTTP.
    pub tls: Option<Arc<Tls>>,
    by_name: HashSet<Named>,
    by_app_id: HashSet<Of>,
}

/// An account that is found by its name. (A map would keep each name twice.)
#[derive(Debug)]
struct Named(Arc<Account>);

/// The accounts of an AppID, found by it. More than one are rare: that costs those an allocation, and not all.
#[derive(Debug)]
struct Of {
    first: Arc<Account>,
    #[expect(clippy::box_collection, reason = "nearly all have none, and pay a pointer")]
    more: Option<Box<Vec<Arc<Account>>>>,
}

// === impl Snapshot ===

impl Snapshot {
    /// Puts one together.
    #[expect(
        clippy::mutable_key_type,
        reason = "names and AppIDs, by which accounts are found, never change"
    )]
    pub fn new(
        accounts: Vec<Arc<Account>>,
        clients: Clients,
        server: &Server,
        tls: Option<Arc<Tls>>,
    ) -> Self {
        let mut by_app_id = HashSet::<Of>::with_capacity(accounts.len());
        for account in &accounts {
            let account = Arc::clone(account);
            let of = match by_app_id.take(&account.app_id) {
                None => Of { first: account, more: None },
                Some(of) => of.and(account),
            };
            by_app_id.insert(of);
        }
        let by_name = accounts.into_iter().map(Named).collect();
        let (limits, spool_dir) = (server.limits.clone(), server.spool_dir.clone());
        Self { clients, limits, spool_dir, tls, by_name, by_app_id }
    }

    /// The account of this name.
    pub fn account(&self, name: &AccountName) -> Option<&Arc<Account>> {
        self.by_name.get(name).map(|Named(account)| account)
    }

    /// The accounts of this AppID: one, or none; several where it is a corpid that applications share.
    pub fn accounts_of<'a>(&'a self, app_id: &AppId) -> impl Iterator<Item = &'a Arc<Account>> + use<'a> {
        self.by_app_id.get(app_id).into_iter().flat_map(Of::accounts)
    }

    /// The name of the only account, if there is only one.
    pub fn only_name(&self) -> Option<&AccountName> {
        self.by_name.iter().next().filter(|_| self.by_name.len() == 1).map(Borrow::borrow)
    }
}

// === impl Named ===

impl Borrow<AccountName> for Named {
    fn borrow(&self) -> &AccountName {
        &self.0.name
    }
}

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for Named {}

impl Hash for Named {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name.hash(state);
    }
}

// === impl Of ===

impl Of {
    fn and(mut self, account: Arc<Account>) -> Self {
        self.more.get_or_insert_default().push(account);
        self
    }

    fn accounts(&self) -> impl Iterator<Item = &Arc<Account>> {
        std::iter::once(&self.first).chain(self.more.iter().flat_map(|more| more.iter()))
    }
}

impl Borrow<AppId> for Of {
    fn borrow(&self) -> &AppId {
        &self.first.app_id
    }
}

impl PartialEq for Of {
    fn eq(&self, other: &Self) -> bool {
        self.first.app_id == other.first.app_id
    }
}

impl Eq for Of {}

impl Hash for Of {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.first.app_id.hash(state);
    }
}
