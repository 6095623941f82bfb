//! The accounts whose keepers run here, and what of them has been seen in Redis.

use std::collections::BTreeMap;
use std::hash::BuildHasher as _;
use std::num::NonZeroU64;
use std::ops::Bound;
use std::sync::{MutexGuard, PoisonError};

use super::Inner;
use crate::token::store::{Record, Teller};
use crate::types::{AccountName, AppId};

/// An account whose keeper runs here.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) app_id: AppId,
    pub(super) teller: Teller,
    /// A hash of the value that the keeper knows of.
    pub(super) seen: Option<NonZeroU64>,
}

impl Inner {
    pub(super) fn followed(&self) -> MutexGuard<'_, BTreeMap<AccountName, Followed>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn followed_count(&self) -> usize {
        self.followed().len()
    }

    /// The next accounts after one; those whose keepers have ended are forgotten.
    pub(super) fn slice_after(
        &self,
        after: Option<&AccountName>,
        length: usize,
    ) -> Vec<(AccountName, AppId)> {
        let mut followed = self.followed();
        if after.is_none() {
            followed.retain(|_, followed| followed.teller.is_heard());
        }
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let slice = followed.range::<AccountName, _>((from, Bound::Unbounded)).take(length);
        slice.map(|(account, followed)| (account.clone(), followed.app_id.clone())).collect()
    }

    /// Those accounts among the named ones that run here.
    pub(super) fn followed_of<'a>(
        &self,
        named: impl IntoIterator<Item = (AccountName, &'a str)>,
    ) -> Vec<(AccountName, AppId)> {
        let followed = self.followed();
        let known = named.into_iter().filter_map(|(account, app_id)| {
            let followed = followed.get(&account).filter(|followed| followed.app_id.as_str() == app_id)?;
            Some((account, followed.app_id.clone()))
        });
        known.collect()
    }

    /// Whether a value has to be looked at. One that is not there has been, and its keeper is told.
    pub(super) fn is_changed(&self, account: &AccountName, value: Option<&[u8]>) -> bool {
        let hash = value.map(|value| self.hash(value));
        let mut followed = self.followed();
        let Some(followed) = followed.get_mut(account) else { return false };
        if hash.is_none() {
            followed.seen = None;
            followed.teller.tell(Record::Gone);
        }
        hash.is_some() && hash != followed.seen
    }

    pub(super) fn note_seen(&self, account: &AccountName, value: &[u8]) {
        let hash = self.hash(value);
        if let Some(followed) = self.followed().get_mut(account) {
            followed.seen = Some(hash);
        }
    }

    /// Never 0, so that there is room for none.
    pub(super) fn hash(&self, value: &[u8]) -> NonZeroU64 {
        NonZeroU64::MIN | self.hasher.hash_one(value)
    }

    /// A new connection may lead to another server.
    pub(super) fn forget_what_was_seen(&self) {
        for followed in self.followed().values_mut() {
            followed.seen = None;
        }
    }
}
