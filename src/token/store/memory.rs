//! A store that ends with the process: for trying, for tests, and for those who want nothing on a disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zeroize::Zeroizing;

use super::{Saved, StoreError, Stored, TokenStore, check_blob};
use crate::types::{AccountName, AppId};

/// Tokens and blobs in memory. Cheap to clone; clones are the same store.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    tokens: HashMap<AccountName, (AppId, Stored)>,
    blobs: HashMap<&'static str, Zeroizing<Vec<u8>>>,
}

// === impl MemoryStore ===

impl MemoryStore {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TokenStore for MemoryStore {
    async fn load(&self, account: &AccountName, app_id: &AppId) -> Result<Option<Stored>, StoreError> {
        let kept = self.kept();
        let found = kept.tokens.get(account).filter(|(owner, _)| owner == app_id);
        Ok(found.map(|(_, stored)| stored.clone()))
    }

    async fn save(
        &self,
        account: &AccountName,
        app_id: &AppId,
        stored: &Stored,
    ) -> Result<Saved, StoreError> {
        self.kept().tokens.insert(account.clone(), (app_id.clone(), stored.clone()));
        Ok(Saved::Kept)
    }

    async fn load_blob(&self, name: &'static str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        check_blob(name, &[])?;
        Ok(self.kept().blobs.get(name).cloned())
    }

    async fn save_blob(&self, name: &'static str, bytes: Zeroizing<Vec<u8>>) -> Result<(), StoreError> {
        check_blob(name, &bytes)?;
        self.kept().blobs.insert(name, bytes);
        Ok(())
    }
}

// === impl Kept ===

/// Blobs are secrets: only how many there are is printed.
impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("tokens", &self.tokens).field("blobs", &self.blobs.len()).finish()
    }
}
