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
use crate::types::{AccountName, AppId};

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
struct Named(TokenHandle);

/// The accounts of an AppID, found by it. More than one are rare: that costs those an allocation, and not all.
#[derive(Debug)]
struct Of {
    first: TokenHandle,
    #[expect(clippy::box_collection, reason = "nearly all have none, and pay a pointer")]
    more: Option<Box<Vec<TokenHandle>>>,
}

// === impl Snapshot ===

impl Snapshot {
    /// Puts one together.
    #[expect(
        clippy::mutable_key_type,
        reason = "names and AppIDs, by which accounts are found, never change"
    )]
    pub fn new(tokens: Vec<TokenHandle>, clients: Clients, server: &Server, tls: Option<Arc<Tls>>) -> Self {
        let mut by_app_id = HashSet::<Of>::with_capacity(tokens.len());
        for token in &tokens {
            let token = token.clone();
            let of = match by_app_id.take(&token.account().app_id) {
                None => Of { first: token, more: None },
                Some(of) => of.and(token),
            };
            by_app_id.insert(of);
        }
        let by_name = tokens.into_iter().map(Named).collect();
        let (limits, spool_dir) = (server.limits.clone(), server.spool_dir.clone());
        Self { clients, limits, spool_dir, tls, by_name, by_app_id }
    }

    /// The token of the account of this name.
    pub fn token(&self, name: &AccountName) -> Option<&TokenHandle> {
        self.by_name.get(name).map(|Named(token)| token)
    }

    /// The tokens of this AppID's accounts: one, or none; several where it is a corpid that applications share.
    pub fn tokens_of<'a>(&'a self, app_id: &AppId) -> impl Iterator<Item = &'a TokenHandle> + use<'a> {
        self.by_app_id.get(app_id).into_iter().flat_map(Of::tokens)
    }

    /// The name of the only account, if there is only one.
    pub fn only_name(&self) -> Option<&AccountName> {
        self.by_name.iter().next().filter(|_| self.by_name.len() == 1).map(Borrow::borrow)
    }
}

// === impl Named ===

impl Borrow<AccountName> for Named {
    fn borrow(&self) -> &AccountName {
        &self.0.account().name
    }
}

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        self.0.account().name == other.0.account().name
    }
}

impl Eq for Named {}

impl Hash for Named {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.account().name.hash(state);
    }
}

// === impl Of ===

impl Of {
    fn and(mut self, token: TokenHandle) -> Self {
        self.more.get_or_insert_default().push(token);
        self
    }

    fn tokens(&self) -> impl Iterator<Item = &TokenHandle> {
        std::iter::once(&self.first).chain(self.more.iter().flat_map(|more| more.iter()))
    }
}

impl Borrow<AppId> for Of {
    fn borrow(&self) -> &AppId {
        &self.first.account().app_id
    }
}

impl PartialEq for Of {
    fn eq(&self, other: &Self) -> bool {
        self.first.account().app_id == other.first.account().app_id
    }
}

impl Eq for Of {}

impl Hash for Of {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.first.account().app_id.hash(state);
    }
}
