//! A Redis that several weigates share: one of them fetches, all of them have the token.
//!
//! ```text
//! claim     one script: what stands there is newer ─> adopt it · the lock is free ─> go, with a fence · else wait
//! save      one script: refused below the fence that stands there; ends the claim, tells the others
//! news      the channel, and a look at every account in turn (session.rs)
//! ```
//!
//! It promises what `mod.rs` of the stores says, and: an operation ends within `op_ms_max` and never waits for a
//! connection; what has another type, another seal, another shape or another owner is a miss; a fence never goes
//! back, be everything in Redis lost, since it is Redis's time where that is more than the fence before. Nothing on a
//! request's way comes here.
//!
//! # Why a fence, where the lock is for calls only
//!
//! Whoever holds the lock may be stopped for a minute and come back with what is long replaced. The lock has run out
//! by then; the fence refuses the write.

mod connect;
mod fault;
mod followed;
mod link;
mod record;
mod scripts;
mod sentinel;
mod session;
mod try_out;

use std::collections::BTreeMap;
use std::hash::RandomState;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::AbortHandle;
use zeroize::Zeroizing;

use self::followed::Followed;
use self::record::{Moment, Names};
use self::scripts::Script;
use super::seal::Seal;
use super::{Claim, Listener, News, Record, Saved, StoreError, Stored, TokenStore, check_blob};
use crate::config::{self, SealKey};
use crate::telemetry::metrics::Exposition;
use crate::token::clock::WallClock;
use crate::types::{AccountName, AppId};

pub(in crate::token) use connect::connect_for_commands;
pub use fault::RedisFault;
pub(in crate::token) use link::Link;
pub(in crate::token) use sentinel::moved;
pub use try_out::try_redis;

/// A Redis. Cheap to clone; the connections end with the last clone.
#[derive(Debug, Clone)]
pub struct RedisStore(Arc<Running>);

#[derive(Debug)]
struct Running {
    inner: Arc<Inner>,
    session: AbortHandle,
}

#[derive(Debug)]
struct Inner {
    link: Link,
    names: Names,
    seal: Seal,
    clock: WallClock,
    hasher: RandomState,
    followed: Mutex<BTreeMap<AccountName, Followed>>,
}

/// What operators see of a Redis store.
#[derive(Debug)]
pub struct Figures(Arc<Inner>);

/// A claim lives longer than a fetch may take (10 s).
const CLAIM_LIVES: Duration = Duration::from_secs(15);

/// A save without a claim is tried again when someone else wrote in between.
const OVER_TRIES: usize = 3;

// === impl RedisStore ===

impl RedisStore {
    /// Connects, and goes on connecting, in a task on the current runtime.
    pub fn open(settings: config::Redis, seal_key: Option<&SealKey>, clock: WallClock) -> Self {
        let inner = Arc::new(Inner {
            names: Names::new(&settings.prefix),
            link: Link::new(settings),
            seal: Seal::new(seal_key),
            clock,
            hasher: RandomState::new(),
            followed: Mutex::default(),
        });
        let session = tokio::spawn(session::keep(Arc::clone(&inner))).abort_handle();
        Self(Arc::new(Running { inner, session }))
    }

    /// Waits until the first attempt to connect has ended, one way or the other: 2 s at most.
    pub async fn first_try(&self) {
        self.0.inner.link.first_try().await;
    }

    /// What operators see of the store; does not keep it open.
    pub fn figures(&self) -> Figures {
        Figures(Arc::clone(&self.0.inner))
    }
}

// === impl Figures ===

impl Figures {
    /// Writes the store's metrics.
    pub fn write(&self, to: &mut Exposition) {
        let link = &self.0.link;
        to.family("weigate_store_connected", "gauge", "1 while there is a connection to Redis");
        to.sample("weigate_store_connected", &[], u64::from(link.is_open()));
        to.family("weigate_store_errors_total", "counter", "operations and connections that failed, by kind");
        for (fault, count) in link.faults() {
            to.sample("weigate_store_errors_total", &[("kind", fault.word())], count);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.session.abort();
    }
}

impl TokenStore for RedisStore {
    async fn load(&self, account: &AccountName, app_id: &AppId) -> Result<Option<Stored>, StoreError> {
        let (value, now) = self.0.inner.read(account, app_id).await?;
        Ok(self.0.inner.understand(account, app_id, &value, now))
    }

    async fn save(
        &self,
        account: &AccountName,
        app_id: &AppId,
        stored: &Stored,
    ) -> Result<Saved, StoreError> {
        let inner = &self.0.inner;
        if stored.fence == 0 {
            return inner.save_over(account, app_id, stored).await;
        }
        // The end is counted by Redis's clock, so that has to be known.
        let (_, now) = inner.read(account, app_id).await?;
        if !record::is_plausible(stored.fence, now) {
            return inner.save_over(account, app_id, stored).await;
        }
        if inner.write(account, app_id, stored, now, None).await? {
            return Ok(Saved::Kept);
        }
        match inner.refresh(account, app_id).await.map_err(StoreError::Redis)? {
            Some(found) if found.access_token.is_same(&stored.access_token) => Ok(Saved::Kept),
            Some(_) => Ok(Saved::FencedOff),
            // What stands there is damage, with a fence that somebody gave it.
            None => inner.save_over(account, app_id, stored).await,
        }
    }

    async fn load_blob(&self, name: &'static str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        check_blob(name, &[])?;
        self.0.inner.blob(name).await
    }

    async fn save_blob(&self, name: &'static str, bytes: Zeroizing<Vec<u8>>) -> Result<(), StoreError> {
        check_blob(name, &bytes)?;
        let inner = &self.0.inner;
        let value = record::write_blob(&inner.seal, name, &bytes)?;
        let mut set = ::redis::cmd("SET");
        set.arg(inner.names.blob(name)).arg(value);
        inner.link.run(&set).await.map_err(StoreError::Redis)
    }

    async fn blob_or(
        &self,
        name: &'static str,
        bytes: Zeroizing<Vec<u8>>,
    ) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        check_blob(name, &bytes)?;
        let inner = &self.0.inner;
        let mut set = ::redis::cmd("SETNX");
        set.arg(inner.names.blob(name)).arg(record::write_blob(&inner.seal, name, &bytes)?);
        let _is_new: bool = inner.link.run(&set).await.map_err(StoreError::Redis)?;
        if let Some(kept) = inner.blob(name).await?.filter(|kept| kept.len() == bytes.len()) {
            return Ok(kept);
        }
        // What stands there cannot be used by anyone.
        self.save_blob(name, bytes.clone()).await?;
        Ok(bytes)
    }

    async fn claim(
        &self,
        account: &AccountName,
        app_id: &AppId,
        hand: Option<&Stored>,
    ) -> Result<Claim, StoreError> {
        let inner = &self.0.inner;
        let (token, lock) = (inner.names.token(account, app_id), inner.names.lock(account, app_id));
        let mut known = hand.map_or(0, |hand| hand.fence);
        // What is newer is looked at first; twice, since it may be replaced meanwhile.
        for _ in 0..OVER_TRIES {
            let mut claim = Script::Claim.on(&[&token, &lock]);
            claim.arg(known).arg(millis(CLAIM_LIVES));
            let (kind, number, value): (u8, u64, Vec<u8>) =
                inner.link.run(&claim).await.map_err(StoreError::Redis)?;
            match kind {
                0 => known = record::fence_of(&value),
                1 => return Ok(Claim::Go(number)),
                _ => return Ok(Claim::Wait(Duration::from_millis(number))),
            }
            let now = Moment { redis_ms: number, ours: inner.clock.read() };
            let found = inner.understand(account, app_id, &value, now);
            let is_of_use = |found: &Stored| {
                (found.is_newer_than(hand) || found.confirms(hand)) && now.ours < found.expires_at
            };
            if let Some(found) = found.filter(is_of_use) {
                return Ok(Claim::Adopt(found));
            }
        }
        Ok(Claim::Wait(Duration::ZERO))
    }

    async fn release(&self, account: &AccountName, app_id: &AppId, fence: u64) {
        let inner = &self.0.inner;
        let mut release = Script::Release.on(&[&inner.names.lock(account, app_id)]);
        release.arg(fence).arg(inner.names.channel()).arg(record::message(account, app_id));
        let released = inner.link.run::<u8>(&release).await;
        if let Err(fault) = released {
            tracing::debug!(%account, fault = fault.word(), "a claim was not released; it ends by itself");
        }
    }

    fn news(&self, account: &AccountName, app_id: &AppId, to: Listener) -> News {
        let (teller, news) = News::to(to);
        let followed = Followed { app_id: app_id.clone(), teller, seen: None };
        self.0.inner.followed().insert(account.clone(), followed);
        news
    }
}

// === impl Inner ===

impl Inner {
    /// A value and the time, as Redis has them.
    async fn read(&self, account: &AccountName, app_id: &AppId) -> Result<(Vec<u8>, Moment), StoreError> {
        let read = Script::Read.on(&[&self.names.token(account, app_id)]);
        let (redis_ms, value) = self.link.run(&read).await.map_err(StoreError::Redis)?;
        Ok((value, Moment { redis_ms, ours: self.clock.read() }))
    }

    fn understand(&self, account: &AccountName, app_id: &AppId, value: &[u8], now: Moment) -> Option<Stored> {
        let found = record::read_token(&self.seal, account, app_id, value, now);
        if found.is_none() && !value.is_empty() {
            tracing::warn!(
                %account,
                "what stands in Redis for this account is not taken: it is torn, changed, or another seal's"
            );
        }
        found
    }

    /// Looks at what stands under an account, and tells its keeper.
    async fn refresh(&self, account: &AccountName, app_id: &AppId) -> Result<Option<Stored>, RedisFault> {
        let (value, now) = match self.read(account, app_id).await {
            Ok(read) => read,
            Err(StoreError::Redis(fault)) => return Err(fault),
            Err(_) => return Err(RedisFault::Refused),
        };
        let found = self.understand(account, app_id, &value, now);
        let seen = found.is_some().then(|| self.hash(&value));
        if let Some(followed) = self.followed().get_mut(account) {
            followed.seen = seen;
            followed.teller.tell(found.clone().map_or(Record::Gone, Record::Found));
        }
        Ok(found)
    }

    /// Writes; whether it was taken. `over`: without a claim, in the place of this.
    async fn write(
        &self,
        account: &AccountName,
        app_id: &AppId,
        stored: &Stored,
        now: Moment,
        over: Option<&[u8]>,
    ) -> Result<bool, StoreError> {
        let (value, end_ms) = record::write_token(&self.seal, account, app_id, stored, now)?;
        let (token, lock) = (self.names.token(account, app_id), self.names.lock(account, app_id));
        let mut save = Script::Save.on(&[&token, &lock]);
        save.arg(stored.fence).arg(&value[..]).arg(end_ms);
        save.arg(self.names.channel()).arg(record::message(account, app_id));
        save.arg(u8::from(over.is_some())).arg(over.unwrap_or_default());
        let answer: u8 = self.link.run(&save).await.map_err(StoreError::Redis)?;
        if answer > 0 {
            self.note_seen(account, &value);
        }
        Ok(answer > 0)
    }

    /// Saves what was fetched without a claim, or what stands damaged, unless something as good stands there.
    ///
    /// Without a claim it ranks by the time when it was fetched, as if it had been claimed then: what others have
    /// fetched since is newer.
    async fn save_over(
        &self,
        account: &AccountName,
        app_id: &AppId,
        stored: &Stored,
    ) -> Result<Saved, StoreError> {
        for _ in 0..OVER_TRIES {
            let (value, now) = self.read(account, app_id).await?;
            let found = record::read_token(&self.seal, account, app_id, &value, now);
            let is_same = |found: &Stored| found.access_token.is_same(&stored.access_token);
            let stands = found.as_ref().and_then(|found| {
                let is_newer = found.is_newer_than(Some(stored));
                is_newer.then_some(Saved::FencedOff).or_else(|| is_same(found).then_some(Saved::Kept))
            });
            if let Some(stands) = stands {
                self.refresh(account, app_id).await.map_err(StoreError::Redis)?;
                return Ok(stands);
            }
            let before = Some(record::fence_of(&value)).filter(|fence| record::is_plausible(*fence, now));
            let own = Some(stored.fence).filter(|fence| *fence > 0 && record::is_plausible(*fence, now));
            let own = own.unwrap_or_else(|| record::fence_by_time(stored, now));
            let fenced = Stored { fence: own.max(before.unwrap_or(0) + 1), ..stored.clone() };
            if self.write(account, app_id, &fenced, now, Some(&value)).await? {
                self.refresh(account, app_id).await.map_err(StoreError::Redis)?;
                return Ok(Saved::Kept);
            }
        }
        Err(StoreError::Redis(RedisFault::Refused))
    }

    async fn blob(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let mut get = ::redis::cmd("GET");
        get.arg(self.names.blob(name));
        let value: Option<Vec<u8>> = self.link.run(&get).await.map_err(StoreError::Redis)?;
        Ok(value.and_then(|value| record::read_blob(&self.seal, name, &value)))
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
