//! Who may call, what, and how much.
//!
//! A client shows its key, a placeholder that stands for it, or a certificate; [`Clients`] finds the client. What a client may do
//! is a question for [`Client::may_use`] and [`Client::admit`]. This room knows no account's secret and no token.

mod certificate;
mod key;
mod placeholder;
mod rate;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

pub use certificate::Certificate;
pub use key::{KEY_PREFIX, digest, digest_text, generate};
pub use placeholder::{PLACEHOLDER_LIVES, Placeholder, PlaceholderError, Signer};
pub use rate::{InFlight, Rate, RateError};

use crate::config;
use crate::types::{AccountName, ClientName, UnixSeconds};

/// Someone who calls, ready for use on the request's way.
#[derive(Debug)]
pub struct Client {
    /// The operator's name for it; `anonymous` where no clients are configured.
    pub name: ClientName,
    /// Its place among the clients of one configuration, from 0: what is kept for each client can stand in a row.
    pub number: usize,
    /// Bodies of known length up to here are streamed, and sent once.
    pub streamed_body_bytes_max: Option<u64>,
    credential: Credential,
    accounts: Accounts,
    allow: Option<Vec<config::PathPattern>>,
    /// `None`: no limit.
    rate: Option<Box<Rate>>,
}

/// What a client's placeholders are bound to.
#[derive(Debug)]
enum Credential {
    /// SHA-256 of its key.
    Key([u8; 32]),
    /// It has no key; SHA-256 of what its certificate must say.
    Certificate([u8; 32]),
}

#[derive(Debug)]
enum Accounts {
    All,
    /// Sorted: a client may have a hundred thousand.
    These(Vec<AccountName>),
}

/// All clients.
#[derive(Debug)]
pub struct Clients {
    callers: Callers,
    signer: Signer,
}

#[derive(Debug)]
enum Callers {
    /// No clients are configured: every caller is this one.
    Anonymous(Arc<Client>),
    Known {
        by_digest: HashMap<KeyDigest, Arc<Client>, BuildHasherDefault<FirstBytes>>,
        by_cert_san: HashMap<String, Arc<Client>>,
        by_cert_sha256: HashMap<[u8; 32], Arc<Client>>,
        by_name: HashMap<ClientName, Arc<Client>>,
    },
}

// === impl Clients ===

impl Clients {
    /// Builds the clients of a configuration; `signer` signs their placeholders.
    pub fn new(clients: &[config::Client], signer: Signer) -> Self {
        if clients.is_empty() {
            return Self { callers: Callers::Anonymous(Arc::new(Client::anonymous())), signer };
        }
        let (mut by_digest, mut by_name) = (HashMap::default(), HashMap::new());
        let (mut by_cert_san, mut by_cert_sha256) = (HashMap::new(), HashMap::new());
        for (number, written) in clients.iter().enumerate() {
            let client = Arc::new(Client::new(written, number));
            by_digest.extend(written.key_sha256.map(|digest| (KeyDigest(digest), Arc::clone(&client))));
            by_cert_san.extend(written.cert_san.iter().map(|name| (name.clone(), Arc::clone(&client))));
            by_cert_sha256.extend(written.cert_sha256.iter().map(|digest| (*digest, Arc::clone(&client))));
            by_name.insert(client.name.clone(), client);
        }
        let callers = Callers::Known { by_digest, by_cert_san, by_cert_sha256, by_name };
        Self { callers, signer }
    }

    /// The client that every caller is, where no clients are configured.
    pub fn anonymous(&self) -> Option<&Arc<Client>> {
        match &self.callers {
            Callers::Anonymous(client) => Some(client),
            Callers::Known { .. } => None,
        }
    }

    /// The client whose key this is.
    ///
    /// Cost: one SHA-256 and one look-up, whether the key is known or not. The look-up is by digest, so its time
    /// tells nothing about the key, and digests are compared in constant time.
    pub fn by_key(&self, key: &str) -> Option<&Arc<Client>> {
        let Callers::Known { by_digest, .. } = &self.callers else { return None };
        by_digest.get(&KeyDigest(digest(key)))
    }

    /// The client whose certificate this is; it has been verified. One that would be two clients' is nobody's.
    pub fn by_certificate(&self, certificate: &Certificate) -> Option<&Arc<Client>> {
        let Callers::Known { by_cert_san, by_cert_sha256, .. } = &self.callers else { return None };
        let by_name = certificate.names.iter().filter_map(|name| by_cert_san.get(name));
        let mut found = by_name.chain(by_cert_sha256.get(&certificate.sha256));
        let client = found.next()?;
        found.all(|other| Arc::ptr_eq(other, client)).then_some(client)
    }

    /// Whether `text` is a client's key, or looks like a placeholder: what must not travel on to WeChat.
    pub fn is_ours(&self, text: &str) -> bool {
        Placeholder::is_one(text) || self.by_key(text).is_some()
    }

    /// The client and the account that `placeholder` stands for and when it expires, if weigate made it for a client
    /// that is still there with the same key, and it has not expired at `now`.
    pub fn by_placeholder(
        &self,
        placeholder: &str,
        now: UnixSeconds,
    ) -> Result<(&Arc<Client>, AccountName, UnixSeconds), PlaceholderError> {
        let claims = Placeholder::parse(placeholder)?;
        let client = match &self.callers {
            Callers::Anonymous(client) => (client.name == *claims.client()).then_some(client),
            Callers::Known { by_name, .. } => by_name.get(claims.client()),
        };
        let client = client.ok_or(PlaceholderError::Forged)?;
        let (account, expires_at) = claims.verify(&self.signer, client.credential.bytes(), now)?;
        Ok((client, account, expires_at))
    }

    /// A placeholder for `client` and `account`, good for [`PLACEHOLDER_LIVES`] from `now`.
    pub fn placeholder(&self, client: &Client, account: &AccountName, now: UnixSeconds) -> String {
        self.signer.sign(&client.name, account, client.credential.bytes(), now.plus(PLACEHOLDER_LIVES))
    }
}

// === impl Client ===

impl Client {
    fn new(client: &config::Client, number: usize) -> Self {
        Self {
            name: client.name.clone(),
            number,
            streamed_body_bytes_max: client.streamed_body_bytes_max,
            credential: Credential::of(client),
            accounts: Accounts::of(&client.accounts),
            allow: client.allow.clone(),
            rate: Rate::of(client.requests_per_s, client.requests_at_once_max),
        }
    }

    fn anonymous() -> Self {
        #[expect(clippy::expect_used, reason = "the name is a constant")]
        let name = ClientName::parse("anonymous").expect("`anonymous` is a name");
        Self {
            name,
            number: 0,
            streamed_body_bytes_max: None,
            credential: Credential::Key([0; 32]),
            accounts: Accounts::All,
            allow: None,
            rate: None,
        }
    }

    /// Whether it has no key, so that nothing but its certificate shows that it is there. Its placeholders are worth
    /// something beside that certificate only (as RFC 8705 §3 has it for tokens).
    pub fn needs_certificate(&self) -> bool {
        matches!(self.credential, Credential::Certificate(_))
    }

    /// Whether it may use `account`.
    pub fn may_use(&self, account: &AccountName) -> bool {
        match &self.accounts {
            Accounts::All => true,
            Accounts::These(accounts) => accounts.binary_search(account).is_ok(),
        }
    }

    /// Its account, if it has only one; `of_all` is the only one that is configured.
    pub fn only_account<'a>(
        &'a self,
        of_all: impl FnOnce() -> Option<&'a AccountName>,
    ) -> Option<&'a AccountName> {
        match &self.accounts {
            Accounts::These(accounts) => match accounts.as_slice() {
                [only] => Some(only),
                _ => None,
            },
            Accounts::All => of_all(),
        }
    }

    /// Whether it may call `path` (decoded), which is `guarded` or not.
    ///
    /// A guarded path must be meant: named in full, or by a pattern that reaches no further up than the guard's own
    /// room. `/cgi-bin/*` does not open `/cgi-bin/clear_quota`.
    pub fn may_call(&self, path: &str, guarded: bool) -> bool {
        let Some(allow) = &self.allow else { return !guarded };
        allow.iter().any(|pattern| pattern.matches(path) && (!guarded || means_guarded(pattern)))
    }

    /// Whether `allow` was set and names `path`: what a request with a credential of its own needs.
    pub fn lists(&self, path: &str) -> bool {
        self.allow.as_ref().is_some_and(|allow| allow.iter().any(|pattern| pattern.matches(path)))
    }

    /// Lets one request in, or says why not. The request counts as in flight until the guard is dropped.
    pub fn admit(self: &Arc<Self>, now: tokio::time::Instant) -> Result<InFlight, RateError> {
        self.rate.as_ref().map_or(Ok(InFlight::FREE), |rate| rate.admit(self, now))
    }
}

// === impl Credential ===

impl Credential {
    fn of(client: &config::Client) -> Self {
        if let Some(digest) = client.key_sha256 {
            return Self::Key(digest);
        }
        let mut hash = Sha256::new_with_prefix(b"weigate client certificate 1\n");
        for name in &client.cert_san {
            hash.update(name);
            hash.update(b"\n");
        }
        client.cert_sha256.iter().for_each(|digest| hash.update(digest));
        Self::Certificate(hash.finalize().into())
    }

    fn bytes(&self) -> &[u8; 32] {
        match self {
            Self::Key(digest) | Self::Certificate(digest) => digest,
        }
    }
}

// === impl Accounts ===

impl Accounts {
    fn of(accounts: &config::ClientAccounts) -> Self {
        match accounts {
            config::ClientAccounts::All => Self::All,
            config::ClientAccounts::These(accounts) => {
                let mut accounts = accounts.clone();
                accounts.sort_unstable();
                Self::These(accounts)
            }
        }
    }
}

/// SHA-256 of a key, as what its client is found by. Compared in constant time.
#[derive(Debug)]
struct KeyDigest([u8; 32]);

// === impl KeyDigest ===

impl PartialEq for KeyDigest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for KeyDigest {}

impl Hash for KeyDigest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

/// The hash of a digest: its first eight bytes. They are as random as can be, and nobody chooses what is in the table
/// but the operator.
#[derive(Debug, Default)]
struct FirstBytes(u64);

// === impl FirstBytes ===

impl Hasher for FirstBytes {
    fn write(&mut self, digest: &[u8]) {
        self.0 = digest.first_chunk().map_or(0, |first| u64::from_ne_bytes(*first));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn means_guarded(pattern: &config::PathPattern) -> bool {
    const ROOMS: [&str; 6] = [
        "/cgi-bin/component/",
        "/cgi-bin/service/",
        "/cgi-bin/clear_quota/",
        "/cgi-bin/openapi/quota/",
        "/sns/component/",
        "/sns/oauth2/component/",
    ];
    match pattern {
        config::PathPattern::Exact(_) => true,
        config::PathPattern::Below(prefix) => ROOMS.iter().any(|room| prefix.starts_with(room)),
    }
}

#[cfg(test)]
mod tests;
