//! What a worker needs to know of the configuration: read-only, replaced as a whole by a reload.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
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
    by_name: HashMap<AccountName, Arc<Account>>,
    by_app_id: HashMap<AppId, Of>,
}

/// The accounts of an AppID. Several are rare: that costs those an allocation, and not all.
#[derive(Debug)]
enum Of {
    One(Arc<Account>),
    #[expect(clippy::box_collection, reason = "as small as the other")]
    Several(Box<Vec<Arc<Account>>>),
}

// === impl Snapshot ===

impl Snapshot {
    /// Puts one together.
    pub fn new(
        accounts: Vec<Arc<Account>>,
        clients: Clients,
        server: &Server,
        tls: Option<Arc<Tls>>,
    ) -> Self {
        let mut by_app_id = HashMap::<AppId, Of>::with_capacity(accounts.len());
        for account in &accounts {
            match by_app_id.entry(account.app_id.clone()) {
                Entry::Occupied(mut of) => of.get_mut().push(Arc::clone(account)),
                Entry::Vacant(none) => drop(none.insert(Of::One(Arc::clone(account)))),
            }
        }
        let by_name = accounts.into_iter().map(|account| (account.name.clone(), account)).collect();
        let (limits, spool_dir) = (server.limits.clone(), server.spool_dir.clone());
        Self { clients, limits, spool_dir, tls, by_name, by_app_id }
    }

    /// The account of this name.
    pub fn account(&self, name: &AccountName) -> Option<&Arc<Account>> {
        self.by_name.get(name)
    }

    /// The accounts of this AppID: one, or none; several where it is a corpid that applications share.
    pub fn accounts_of(&self, app_id: &AppId) -> &[Arc<Account>] {
        self.by_app_id.get(app_id).map(Of::as_slice).unwrap_or_default()
    }

    /// The name of the only account, if there is only one.
    pub fn only_name(&self) -> Option<&AccountName> {
        self.by_name.keys().next().filter(|_| self.by_name.len() == 1)
    }
}

// === impl Of ===

impl Of {
    fn push(&mut self, account: Arc<Account>) {
        match self {
            Self::One(one) => *self = Self::Several(Box::new(vec![Arc::clone(one), account])),
            Self::Several(several) => several.push(account),
        }
    }

    fn as_slice(&self) -> &[Arc<Account>] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Several(several) => several,
        }
    }
}
