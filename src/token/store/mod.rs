//! Where tokens outlive the process.
//!
//! A store promises that what it loads is what was last saved whole for that account *and* AppID, or nothing: never
//! a torn value, another account's token or a guess. It does not judge whether a token is still alive.
//!
//! # Why a token that cannot be loaded is no error
//!
//! In normal mode WeChat hands out the same token again for the price of one call. So what is torn, foreign or gone
//! is a miss; an error means that the store itself does not work.
//!
//! # Why claims and news stand in the same trait
//!
//! Several processes may share a store, and then one of them fetches for all: it claims, the others wait for the
//! news. A store of one process grants every claim at once and has no news, which is what the trait does where a
//! store says nothing else: the keeper has one way for both.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use super::clock::WallClock;
use crate::config::{self, SealKey};
use crate::types::{AccessToken, AccountName, AppId, UnixSeconds};

mod file;
mod memory;
mod news;
pub(in crate::token) mod redis;
mod seal;

pub use file::{FileStore, decode_token, encode_token};
pub use memory::MemoryStore;
pub use news::{Listener, News, Record, Teller};
pub use redis::{Figures, RedisFault, RedisStore, try_redis};

/// A token as it is stored, or as a keeper has it in hand.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The token.
    pub access_token: AccessToken,
    /// When the call that brought it was sent.
    pub obtained_at: UnixSeconds,
    /// Its end.
    pub expires_at: UnixSeconds,
    /// Orders the writers of a store that is shared. 0: one process owns the store, or the token has been fetched
    /// without a claim and is not in the shared store yet.
    pub fence: u64,
}

/// Whether this process may fetch.
#[derive(Debug, Clone)]
pub enum Claim {
    /// It may; what it then saves carries this fence.
    Go(u64),
    /// Perhaps it need not: this one is newer than what it has in hand, or the same with a higher fence (another
    /// process has asked meanwhile). Where that is not enough, it claims again with this in hand.
    Adopt(Stored),
    /// Another process fetches, and will have saved or given up within this time.
    Wait(Duration),
}

/// What became of a save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// The store has this token.
    Kept,
    /// The store has a newer one and kept that; the news say which.
    FencedOff,
}

/// Something that keeps tokens, and small things beside them. Cheap to clone; clones are the same store.
pub trait TokenStore: Clone + Send + Sync + 'static {
    /// What was last saved for this account under this AppID; `None` where that is nothing that can be used.
    fn load(
        &self,
        account: &AccountName,
        app_id: &AppId,
    ) -> impl Future<Output = Result<Option<Stored>, StoreError>> + Send;

    /// Saves; when it answers, the token survives a crash of the machine (as far as the store can promise that).
    /// In a shared store, ends the claim that the token's fence came from.
    fn save(
        &self,
        account: &AccountName,
        app_id: &AppId,
        stored: &Stored,
    ) -> impl Future<Output = Result<Saved, StoreError>> + Send;

    /// Loads a small value that `save_blob` saved, such as the key that signs placeholders.
    fn load_blob(
        &self,
        name: &'static str,
    ) -> impl Future<Output = Result<Option<Zeroizing<Vec<u8>>>, StoreError>> + Send;

    /// Saves a value of at most [`BLOB_BYTES_MAX`] under a name of 1 to 64 lower-case letters, digits and `-`.
    fn save_blob(
        &self,
        name: &'static str,
        bytes: Zeroizing<Vec<u8>>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The blob of that name that is as long as `bytes`; where there is none, `bytes`, which are saved. Processes
    /// that share the store and ask at one time get the same answer.
    fn blob_or(
        &self,
        name: &'static str,
        bytes: Zeroizing<Vec<u8>>,
    ) -> impl Future<Output = Result<Zeroizing<Vec<u8>>, StoreError>> + Send {
        async move {
            if let Some(kept) = self.load_blob(name).await?.filter(|kept| kept.len() == bytes.len()) {
                return Ok(kept);
            }
            self.save_blob(name, bytes.clone()).await?;
            Ok(bytes)
        }
    }

    /// Whether this process, which has `hand`, may fetch a newer token. A claim that is granted is ended by `save`,
    /// by `release`, or by time.
    fn claim(
        &self,
        _account: &AccountName,
        _app_id: &AppId,
        _hand: Option<&Stored>,
    ) -> impl Future<Output = Result<Claim, StoreError>> + Send {
        std::future::ready(Ok(Claim::Go(0)))
    }

    /// Ends a claim that brought nothing to save. Best effort: time ends it too.
    fn release(
        &self,
        _account: &AccountName,
        _app_id: &AppId,
        _fence: u64,
    ) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// What other processes do with this account's token, from now on, for that listener.
    fn news(&self, _account: &AccountName, _app_id: &AppId, _to: Listener) -> News {
        News::none()
    }
}

/// The store that the configuration names.
#[derive(Debug, Clone)]
pub enum ConfiguredStore {
    /// Nothing outlives the process.
    Memory(MemoryStore),
    /// A directory.
    File(FileStore),
    /// A Redis.
    Redis(RedisStore),
}

/// Why a store does not work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk, or the rights to it.
    #[error("could not {doing} {}: {source}", path.display())]
    Io {
        /// What was being tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the directory.
    #[error("{} is in use by another process: give each weigate a directory of its own", .0.display())]
    InUse(PathBuf),
    /// A blob's name or size is out of bounds.
    #[error("a blob has a name of lower-case letters, digits and `-`, and at most 64 KiB")]
    Blob,
    /// A Redis gave no answer that can be used; the word is one of [`RedisFault::ALL`].
    #[error("Redis: {}; {}", .0.word(), .0.cure())]
    Redis(RedisFault),
    /// No randomness.
    #[error("the system gives no random bytes")]
    Random,
    /// The runtime is shutting down.
    #[error("the runtime is shutting down")]
    Stopping,
}

/// A blob is a key or a note, not a file.
pub const BLOB_BYTES_MAX: usize = 64 * 1024;

/// Whether a blob may be called so and be so long.
fn check_blob(name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_good = (1..=64).contains(&name.len()) && name.bytes().all(plain) && bytes.len() <= BLOB_BYTES_MAX;
    if is_good { Ok(()) } else { Err(StoreError::Blob) }
}

/// Ends are counted in whole seconds, at each hand that a token goes through.
const SAME_END: Duration = Duration::from_secs(2);

// === impl Stored ===

impl Stored {
    /// Whether this is another token than `hand`, and a newer one: by the fence where both went through a shared
    /// store, else by the later end; where those are about the same, by the call that brought it, and at last the one in
    /// the store counts. Nothing in hand is older than anything.
    pub fn is_newer_than(&self, hand: Option<&Self>) -> bool {
        let Some(hand) = hand else { return true };
        if self.access_token.is_same(&hand.access_token) {
            return false;
        }
        if self.fence > 0 && hand.fence > 0 {
            return self.fence > hand.fence;
        }
        let ends_apart = self.expires_at.since(hand.expires_at).max(hand.expires_at.since(self.expires_at));
        if ends_apart > SAME_END {
            return self.expires_at > hand.expires_at;
        }
        (self.obtained_at, self.fence) > (hand.obtained_at, hand.fence)
    }

    /// Whether this is the token in hand, after another process has asked for a newer one and got it again.
    pub fn confirms(&self, hand: Option<&Self>) -> bool {
        hand.is_some_and(|hand| self.access_token.is_same(&hand.access_token) && self.fence > hand.fence)
    }
}

// === impl StoreError ===

impl StoreError {
    /// Whether another moment, or another place, may do better: the store itself may be sound.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Redis(_))
    }
}

// === impl ConfiguredStore ===

impl ConfiguredStore {
    /// Opens the store, on a tokio runtime. Touches the disk; for the start of the process.
    pub fn open(store: &config::Store) -> Result<Self, StoreError> {
        Self::open_with(store, FileStore::open_sealed)
    }

    /// Opens the store beside a process that has it and is about to end: until then, what needs writing waits. Touches
    /// the disk; for the start of the process, on a tokio runtime.
    pub fn open_beside(store: &config::Store) -> Result<Self, StoreError> {
        Self::open_with(store, FileStore::open_beside)
    }

    fn open_with(
        store: &config::Store,
        open_dir: fn(&Path, Option<&SealKey>) -> Result<FileStore, StoreError>,
    ) -> Result<Self, StoreError> {
        Ok(match store {
            config::Store::Memory => Self::Memory(MemoryStore::default()),
            config::Store::File { dir, seal_key } => Self::File(open_dir(dir, seal_key.as_ref())?),
            config::Store::Redis { redis, seal_key } => {
                let clock = WallClock::of_the_machine();
                Self::Redis(RedisStore::open(redis.clone(), seal_key.as_ref(), clock))
            }
        })
    }

    /// Whether this process has the store to itself, as far as one can be had so; takes it if nobody has. Touches the
    /// disk.
    pub fn is_own(&self) -> Result<bool, StoreError> {
        match self {
            Self::Memory(_) | Self::Redis(_) => Ok(true),
            Self::File(store) => store.is_own(),
        }
    }

    /// Waits until it is known whether the store works, 2 s at most.
    pub async fn first_try(&self) {
        match self {
            Self::Memory(_) | Self::File(_) => {}
            Self::Redis(store) => store.first_try().await,
        }
    }

    /// What operators see of the store, where there is more to see than its accounts; does not keep it open.
    pub fn figures(&self) -> Option<Figures> {
        match self {
            Self::Memory(_) | Self::File(_) => None,
            Self::Redis(store) => Some(store.figures()),
        }
    }
}

impl TokenStore for ConfiguredStore {
    async fn load(&self, account: &AccountName, app_id: &AppId) -> Result<Option<Stored>, StoreError> {
        match self {
            Self::Memory(store) => store.load(account, app_id).await,
            Self::File(store) => store.load(account, app_id).await,
            Self::Redis(store) => store.load(account, app_id).await,
        }
    }

    async fn save(
        &self,
        account: &AccountName,
        app_id: &AppId,
        stored: &Stored,
    ) -> Result<Saved, StoreError> {
        match self {
            Self::Memory(store) => store.save(account, app_id, stored).await,
            Self::File(store) => store.save(account, app_id, stored).await,
            Self::Redis(store) => store.save(account, app_id, stored).await,
        }
    }

    async fn load_blob(&self, name: &'static str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        match self {
            Self::Memory(store) => store.load_blob(name).await,
            Self::File(store) => store.load_blob(name).await,
            Self::Redis(store) => store.load_blob(name).await,
        }
    }

    async fn save_blob(&self, name: &'static str, bytes: Zeroizing<Vec<u8>>) -> Result<(), StoreError> {
        match self {
            Self::Memory(store) => store.save_blob(name, bytes).await,
            Self::File(store) => store.save_blob(name, bytes).await,
            Self::Redis(store) => store.save_blob(name, bytes).await,
        }
    }

    async fn blob_or(
        &self,
        name: &'static str,
        bytes: Zeroizing<Vec<u8>>,
    ) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        match self {
            Self::Memory(store) => store.blob_or(name, bytes).await,
            Self::File(store) => store.blob_or(name, bytes).await,
            Self::Redis(store) => store.blob_or(name, bytes).await,
        }
    }

    async fn claim(
        &self,
        account: &AccountName,
        app_id: &AppId,
        hand: Option<&Stored>,
    ) -> Result<Claim, StoreError> {
        match self {
            Self::Memory(store) => store.claim(account, app_id, hand).await,
            Self::File(store) => store.claim(account, app_id, hand).await,
            Self::Redis(store) => store.claim(account, app_id, hand).await,
        }
    }

    async fn release(&self, account: &AccountName, app_id: &AppId, fence: u64) {
        match self {
            Self::Memory(store) => store.release(account, app_id, fence).await,
            Self::File(store) => store.release(account, app_id, fence).await,
            Self::Redis(store) => store.release(account, app_id, fence).await,
        }
    }

    fn news(&self, account: &AccountName, app_id: &AppId, to: Listener) -> News {
        match self {
            Self::Memory(store) => store.news(account, app_id, to),
            Self::File(store) => store.news(account, app_id, to),
            Self::Redis(store) => store.news(account, app_id, to),
        }
    }
}
