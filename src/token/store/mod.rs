//! Where tokens outlive the process.
//!
//! A store promises that what it loads is what was last saved whole for that account *and* AppID, or nothing: never
//! a torn value, another account's token or a guess. It does not judge whether a token is still alive.
//!
//! # Why a token that cannot be loaded is no error
//!
//! In normal mode WeChat hands out the same token again for the price of one call. So what is torn, foreign or gone
//! is a miss; an error means that the store itself does not work.

use std::future::Future;
use std::io;
use std::path::PathBuf;

use zeroize::Zeroizing;

use crate::config;
use crate::types::{AccessToken, AccountName, AppId, UnixSeconds};

mod file;
mod memory;

pub use file::{FileStore, decode_token, encode_token};
pub use memory::MemoryStore;

/// A token as it is stored.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The token.
    pub access_token: AccessToken,
    /// When the call that brought it was sent.
    pub obtained_at: UnixSeconds,
    /// Its end.
    pub expires_at: UnixSeconds,
    /// Orders the writers of a store that is shared; 0 where one process owns the store.
    pub fence: u64,
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
    fn save(
        &self,
        account: &AccountName,
        app_id: &AppId,
        stored: &Stored,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

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
}

/// The store that the configuration names.
#[derive(Debug, Clone)]
pub enum ConfiguredStore {
    /// Nothing outlives the process.
    Memory(MemoryStore),
    /// A directory.
    File(FileStore),
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

// === impl ConfiguredStore ===

impl ConfiguredStore {
    /// Opens the store. Touches the disk; for the start of the process.
    pub fn open(store: &config::Store) -> Result<Self, StoreError> {
        Ok(match store {
            config::Store::Memory => Self::Memory(MemoryStore::default()),
            config::Store::File { dir } => Self::File(FileStore::open(dir)?),
        })
    }
}

impl ConfiguredStore {
    /// Opens the store beside a process that has it and is about to end: until then, what needs writing waits. Touches
    /// the disk; for the start of the process.
    pub fn open_beside(store: &config::Store) -> Result<Self, StoreError> {
        Ok(match store {
            config::Store::Memory => Self::Memory(MemoryStore::default()),
            config::Store::File { dir } => Self::File(FileStore::open_beside(dir)?),
        })
    }

    /// Whether this process has the store to itself; takes it if nobody has. Touches the disk.
    pub fn is_own(&self) -> Result<bool, StoreError> {
        match self {
            Self::Memory(_) => Ok(true),
            Self::File(store) => store.is_own(),
        }
    }
}

impl TokenStore for ConfiguredStore {
    async fn load(&self, account: &AccountName, app_id: &AppId) -> Result<Option<Stored>, StoreError> {
        match self {
            Self::Memory(store) => store.load(account, app_id).await,
            Self::File(store) => store.load(account, app_id).await,
        }
    }

    async fn save(&self, account: &AccountName, app_id: &AppId, stored: &Stored) -> Result<(), StoreError> {
        match self {
            Self::Memory(store) => store.save(account, app_id, stored).await,
            Self::File(store) => store.save(account, app_id, stored).await,
        }
    }

    async fn load_blob(&self, name: &'static str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        match self {
            Self::Memory(store) => store.load_blob(name).await,
            Self::File(store) => store.load_blob(name).await,
        }
    }

    async fn save_blob(&self, name: &'static str, bytes: Zeroizing<Vec<u8>>) -> Result<(), StoreError> {
        match self {
            Self::Memory(store) => store.save_blob(name, bytes).await,
            Self::File(store) => store.save_blob(name, bytes).await,
        }
    }
}
