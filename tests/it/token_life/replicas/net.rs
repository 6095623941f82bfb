//! A replica's Redis store over a network that fails: the client's side as in `src/token/store/redis/mod.rs`.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use weigate::token::store::{Claim, Listener, News, Record, RedisFault, Saved, Stored, Teller};
use weigate::token::{StoreError, TokenHandle, TokenStore, WallClock};
use weigate::types::{AccessToken, AccountName, AppId, GrantKind, UnixSeconds};
use zeroize::Zeroizing;

use super::server::{Claimed, Seen, Server, State as Redis, Value};
use super::wechat::WeChat;

/// One replica's place in the network; clones are the same one.
#[derive(Clone)]
pub(crate) struct Net {
    pub(crate) index: usize,
    grant: GrantKind,
    server: Server,
    state: Arc<Mutex<State>>,
}

pub(crate) struct State {
    rng: fastrand::Rng,
    pub(crate) is_cut: bool,
    /// The client gives an operation up after this long, wherever it is.
    pub(crate) op_max: Duration,
    /// The share of answers that are lost after the operation took effect, in percent.
    pub(crate) loses: u8,
    /// What an operation takes on its way, at most.
    pub(crate) delay_max: Duration,
    pub(crate) frozen_until: Instant,
    pub(crate) handle: Option<TokenHandle>,
    /// Operations that failed, and those among them that took effect all the same.
    pub(crate) failed: u64,
    pub(crate) lost: u64,
    /// When the store last answered an operation.
    pub(crate) answered_at: Instant,
    /// Whether the last wish for a claim was granted, and the answer came.
    pub(crate) has_claim: bool,
}

/// The store of one replica. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Client(Arc<Inner>);

struct Inner {
    net: Net,
    clock: WallClock,
    followed: Mutex<Option<(Teller, Option<Value>)>>,
}

/// The client gives an operation up after this long.
const OP_MAX: Duration = Duration::from_millis(300);

/// What a busy process with 100 000 accounts takes to look at all of them.
const LOOK_EVERY: Duration = Duration::from_secs(20);

const OVER_TRIES: usize = 3;

impl Net {
    pub(crate) fn new(index: usize, grant: GrantKind, server: &Server, seed: u64) -> Self {
        let state = State {
            rng: fastrand::Rng::with_seed(seed),
            is_cut: false,
            op_max: OP_MAX,
            loses: 0,
            delay_max: Duration::from_millis(2),
            frozen_until: Instant::now(),
            handle: None,
            failed: 0,
            lost: 0,
            answered_at: Instant::now(),
            has_claim: false,
        };
        Self { index, grant, server: server.clone(), state: Arc::new(Mutex::new(state)) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A process that stands still sends and reads nothing.
    pub(super) async fn thaw(&self) {
        let until = self.state().frozen_until;
        sleep_until(until).await;
    }

    pub(super) fn grant(&self) -> GrantKind {
        self.grant
    }

    /// One operation: it takes effect when it arrives, be it long after the client has given up.
    async fn run<R: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Redis) -> R + Send + 'static,
    ) -> Result<R, StoreError> {
        let (op_max, frozen, way, back, is_lost) = {
            let mut state = self.state();
            let delay_max = u64::try_from(state.delay_max.as_micros()).unwrap();
            let (way, back) = (state.rng.u64(0..=delay_max), state.rng.u64(0..=delay_max));
            let is_lost = state.rng.u8(0..100) < state.loses;
            (
                state.op_max,
                state.frozen_until,
                Duration::from_micros(way),
                Duration::from_micros(back),
                is_lost,
            )
        };
        let (answer, answered) = oneshot::channel();
        let net = self.clone();
        tokio::spawn(async move {
            // What was under way when the process froze is held up too.
            sleep_until(frozen).await;
            sleep(way).await;
            if net.state().is_cut || net.server.state().is_down {
                return;
            }
            let did = act(&mut net.server.state());
            sleep(back).await;
            net.thaw().await;
            if is_lost || net.state().is_cut || answer.send(did).is_err() {
                net.state().lost += 1;
            }
        });
        let done = timeout(op_max, answered).await;
        if let Ok(Ok(done)) = done {
            self.state().answered_at = Instant::now();
            return Ok(done);
        }
        self.state().failed += 1;
        Err(StoreError::Redis(if done.is_err() { RedisFault::TimedOut } else { RedisFault::Unreachable }))
    }

    /// Where a call ends a live token, the caller holds the lock, or has no token, or the store has lost the lock.
    pub(super) fn check_that_it_may_rotate(&self, others: &[(usize, Instant)], wechat: &WeChat) {
        let now = Instant::now();
        let has_token = self.state().handle.as_ref().is_some_and(|handle| handle.current(now).is_some());
        let redis = self.server.state();
        let is_lost = redis.lost_at.is_some_and(|at| now - at < Duration::from_secs(16));
        if !has_token || is_lost {
            return;
        }
        let mut wrongs = Vec::new();
        if redis.data.lock.is_none() {
            wrongs.push(format!("replica {} rotates a live token without the lock", self.index));
        }
        for (other, since) in others {
            if now - *since < Duration::from_secs(14) && other_holds_lock(&redis) {
                wrongs.push(format!("replicas {} and {other} rotate at one time", self.index));
            }
        }
        drop(redis);
        wechat.state().wrongs.extend(wrongs);
    }
}

impl State {
    /// Whether a message is lost on its way here.
    fn is_deaf(&mut self) -> bool {
        self.is_cut || self.rng.u8(0..100) < self.loses
    }
}

impl Client {
    pub(crate) fn new(net: &Net, clock: WallClock) -> Self {
        Self(Arc::new(Inner { net: net.clone(), clock, followed: Mutex::default() }))
    }

    /// Listens and looks, until it is dropped.
    pub(crate) async fn keep(self) {
        let mut published = self.0.net.server.state().subscribe();
        let mut is_look = true;
        loop {
            let is_fine = self.refresh(is_look).await.is_ok();
            let again = if is_fine { LOOK_EVERY } else { Duration::from_secs(1) };
            is_look = timeout(again, published.changed()).await.is_err();
            // At most once, says the channel.
            if !is_look && self.0.net.state().is_deaf() {
                sleep(again).await;
                is_look = true;
            }
        }
    }

    async fn read(&self) -> Result<(Option<Value>, u64), StoreError> {
        self.0.net.run(|redis| (redis.data.token.clone(), redis.now_ms())).await
    }

    fn understand(&self, value: &Value, redis_ms: u64) -> Stored {
        let ours = self.0.clock.read();
        let span = |from: u64, to: u64| Duration::from_secs(to.saturating_sub(from) / 1000);
        Stored {
            access_token: AccessToken::parse(&value.token).unwrap(),
            obtained_at: UnixSeconds(ours.0.saturating_sub(span(value.obtained_ms, redis_ms).as_secs())),
            expires_at: ours.plus(span(redis_ms, value.expires_ms)),
            fence: value.fence,
        }
    }

    /// `is_look`: only what has changed is told.
    async fn refresh(&self, is_look: bool) -> Result<Option<Stored>, StoreError> {
        let (value, redis_ms) = self.read().await?;
        let found = value.as_ref().map(|value| self.understand(value, redis_ms));
        if let Some((teller, seen)) = &mut *self.0.followed.lock().unwrap() {
            let again = value.is_some() && value == *seen;
            if !(is_look && again) {
                *seen = value;
                teller.tell(found.clone().map_or(Record::Gone, Record::Found));
            }
        }
        Ok(found)
    }

    async fn write(&self, stored: &Stored, redis_ms: u64, over: Option<Seen>) -> Result<bool, StoreError> {
        let ours = self.0.clock.read();
        let value = Value {
            fence: stored.fence,
            token: stored.access_token.expose().to_owned(),
            obtained_ms: redis_ms.saturating_sub(ours.since(stored.obtained_at).as_secs() * 1000),
            expires_ms: redis_ms + stored.expires_at.since(ours).as_secs() * 1000,
            nonce: self.0.net.server.state().nonce(),
        };
        let written = value.clone();
        let is_kept = self.0.net.run(move |redis| redis.save(&written, over.as_ref())).await?;
        if is_kept && let Some((_, seen)) = &mut *self.0.followed.lock().unwrap() {
            *seen = Some(value);
        }
        Ok(is_kept)
    }

    async fn save_over(&self, stored: &Stored) -> Result<Saved, StoreError> {
        for _ in 0..OVER_TRIES {
            let (value, redis_ms) = self.read().await?;
            let found = value.as_ref().map(|value| self.understand(value, redis_ms));
            let stands = found.as_ref().and_then(|found| {
                let is_same = found.access_token.is_same(&stored.access_token);
                let is_newer = found.is_newer_than(Some(stored)).then_some(Saved::FencedOff);
                is_newer.or_else(|| is_same.then_some(Saved::Kept))
            });
            if let Some(stands) = stands {
                self.refresh(false).await?;
                return Ok(stands);
            }
            let before = value.as_ref().map_or(0, |value| value.fence);
            let age_s = self.0.clock.read().since(stored.obtained_at).as_secs();
            let by_time = redis_ms.saturating_sub(age_s * 1000) * 1000;
            let own = if stored.fence > 0 { stored.fence } else { by_time };
            let fenced = Stored { fence: own.max(before + 1), ..stored.clone() };
            if self.write(&fenced, redis_ms, Some(Seen(value))).await? {
                self.refresh(false).await?;
                return Ok(Saved::Kept);
            }
        }
        Err(StoreError::Redis(RedisFault::Refused))
    }
}

impl TokenStore for Client {
    async fn load(&self, _: &AccountName, _: &AppId) -> Result<Option<Stored>, StoreError> {
        let (value, redis_ms) = self.read().await?;
        Ok(value.map(|value| self.understand(&value, redis_ms)))
    }

    async fn save(&self, _: &AccountName, _: &AppId, stored: &Stored) -> Result<Saved, StoreError> {
        if stored.fence == 0 {
            return self.save_over(stored).await;
        }
        let (_, redis_ms) = self.read().await?;
        if self.write(stored, redis_ms, None).await? {
            return Ok(Saved::Kept);
        }
        match self.refresh(false).await? {
            Some(found) if found.access_token.is_same(&stored.access_token) => Ok(Saved::Kept),
            Some(_) => Ok(Saved::FencedOff),
            None => self.save_over(stored).await,
        }
    }

    async fn load_blob(&self, _: &'static str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        Ok(None)
    }

    async fn save_blob(&self, _: &'static str, _: Zeroizing<Vec<u8>>) -> Result<(), StoreError> {
        Ok(())
    }

    async fn claim(&self, _: &AccountName, _: &AppId, hand: Option<&Stored>) -> Result<Claim, StoreError> {
        let mut known = hand.map_or(0, |hand| hand.fence);
        self.0.net.state().has_claim = false;
        for _ in 0..OVER_TRIES {
            let (claimed, redis_ms) =
                self.0.net.run(move |redis| (redis.claim(known), redis.now_ms())).await?;
            let value = match claimed {
                Claimed::Look(value) => value,
                Claimed::Go(fence) => {
                    self.0.net.state().has_claim = true;
                    return Ok(Claim::Go(fence));
                }
                Claimed::Wait(left_ms) => return Ok(Claim::Wait(Duration::from_millis(left_ms))),
            };
            known = value.fence;
            let found = self.understand(&value, redis_ms);
            if (found.is_newer_than(hand) || found.confirms(hand)) && self.0.clock.read() < found.expires_at {
                return Ok(Claim::Adopt(found));
            }
        }
        Ok(Claim::Wait(Duration::ZERO))
    }

    async fn release(&self, _: &AccountName, _: &AppId, fence: u64) {
        // Time ends it too.
        let _released = self.0.net.run(move |redis| redis.release(fence)).await;
    }

    fn news(&self, _: &AccountName, _: &AppId, to: Listener) -> News {
        let (teller, news) = News::to(to);
        *self.0.followed.lock().unwrap() = Some((teller, None));
        news
    }
}

/// Whether the lock is another's: an own one is taken at most a second before a fetch.
fn other_holds_lock(redis: &Redis) -> bool {
    redis.data.lock.is_some_and(|(_, end_ms)| end_ms < redis.now_ms() + 13_500)
}
