//! The Redis store by itself, and keepers on it whose clocks differ.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use weigate::config::{Account, Config, SealKey, Store};
use weigate::token::store::{Claim, RedisStore, Saved, Stored};
use weigate::token::{
    Alone, Common, Life, Renewal, SourceError, TokenHandle, TokenSource, TokenStore, Turns, WallClock, start,
};
use weigate::types::{AccessToken, AccountName, AppId, AppSecret, GrantKind, UnixSeconds};
use weigate::wechat::token_call::{self, Grant, Mode};
use zeroize::Zeroizing;

use super::server::Redis;
use crate::harness::{PATIENCE, note};

fn settings(redis: &Redis) -> weigate::config::Redis {
    let dir = tempfile::tempdir().unwrap();
    crate::harness::write_private(&dir.path().join("url"), &redis.url());
    crate::harness::write_private(&dir.path().join("secret"), "5ecre7");
    // The longest there is: a busy machine may hold up any operation for longer than the 300 ms by default.
    let text = "[store]\nkind = \"redis\"\nurl_file = \"url\"\nop_ms_max = 5000\n\
                [[accounts]]\nname = \"shop\"\napp_id = \"wx1\"\napp_secret_file = \"secret\"\n";
    let loaded = weigate::config::parse("proxy.toml", text, &|_| None, dir.path()).unwrap();
    let Config { store: Store::Redis { redis, .. }, .. } = loaded.config else { panic!("no Redis") };
    redis
}

fn clock(shift_s: i64) -> WallClock {
    WallClock::of(move || UnixSeconds(UnixSeconds::now().0.checked_add_signed(shift_s).unwrap()))
}

pub(super) async fn open(redis: &Redis, shift_s: i64) -> RedisStore {
    let key = SealKey::new(Zeroizing::new(*b"a seal key of exactly 32 bytes.."));
    let store = RedisStore::open(settings(redis), Some(&key), clock(shift_s));
    store.first_try().await;
    store
}

pub(super) fn shop() -> AccountName {
    AccountName::parse("shop").unwrap()
}

pub(super) fn wx() -> AppId {
    AppId::parse("wx1").unwrap()
}

fn stored(token: &str, lives_s: u64, fence: u64) -> Stored {
    let now = UnixSeconds::now();
    let access_token = AccessToken::parse(token).unwrap();
    Stored { access_token, obtained_at: now, expires_at: now.plus(Duration::from_secs(lives_s)), fence }
}

async fn claimed(store: &RedisStore, hand: Option<&Stored>) -> u64 {
    match store.claim(&shop(), &wx(), hand).await.unwrap() {
        Claim::Go(fence) => fence,
        other @ (Claim::Adopt(_) | Claim::Wait(_)) => panic!("{other:?}"),
    }
}

async fn token_of(store: &RedisStore) -> String {
    store.load(&shop(), &wx()).await.unwrap().unwrap().access_token.expose().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_one_processes_a_late_write_is_refused_and_fences_rise_even_over_a_flushall() {
    let redis = Redis::start().await;
    let (one, other) = (open(&redis, 0).await, open(&redis, 0).await);
    assert!(one.load(&shop(), &wx()).await.unwrap().is_none());

    let first = claimed(&one, None).await;
    let Claim::Wait(most) = other.claim(&shop(), &wx(), None).await.unwrap() else {
        panic!("both may fetch")
    };
    assert!(most <= Duration::from_secs(15) && most > Duration::from_secs(5), "{most:?}");
    // The first is stopped and its lock runs out.
    redis.say::<()>("DEL weigate:{wx:wx1}:shop:lock").await;
    let second = claimed(&other, None).await;
    assert!(second > first);
    assert_eq!(other.save(&shop(), &wx(), &stored("newer", 7200, second)).await.unwrap(), Saved::Kept);
    assert_eq!(one.save(&shop(), &wx(), &stored("older", 7200, first)).await.unwrap(), Saved::FencedOff);
    assert_eq!(token_of(&one).await, "newer");

    // What is newer than what one has in hand is to be adopted, not fetched.
    let Claim::Adopt(found) = one.claim(&shop(), &wx(), Some(&stored("older", 7200, first))).await.unwrap()
    else {
        panic!("it may fetch")
    };
    assert_eq!((found.access_token.expose(), found.fence), ("newer", second));
    // Nor what is the same, but was asked for since; the same as it stands there may be fetched again.
    let again = one.claim(&shop(), &wx(), Some(&stored("newer", 7200, first))).await.unwrap();
    assert!(matches!(again, Claim::Adopt(found) if found.fence == second));
    let third = claimed(&one, Some(&stored("newer", 7200, second))).await;
    assert!(third > second);
    // A claim that brought nothing is open to others at once.
    one.release(&shop(), &wx(), third).await;
    let fourth = claimed(&other, Some(&found)).await;
    // And nobody else's claim is ended by it.
    one.release(&shop(), &wx(), third).await;
    assert!(matches!(one.claim(&shop(), &wx(), Some(&found)).await.unwrap(), Claim::Wait(_)));

    redis.say::<()>("FLUSHALL").await;
    let fifth = claimed(&one, None).await;
    assert!(fifth > fourth, "{fifth} after {fourth}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_flushall_took_comes_back_in_its_old_order_whoever_gives_it_back_first() {
    let redis = Redis::start().await;
    let (behind, ahead) = (open(&redis, 0).await, open(&redis, 0).await);
    let first = claimed(&behind, None).await;
    let older = stored("older", 7200, first);
    assert_eq!(behind.save(&shop(), &wx(), &older).await.unwrap(), Saved::Kept);
    let second = claimed(&ahead, Some(&older)).await;
    let newer = stored("newer", 7200, second);
    assert_eq!(ahead.save(&shop(), &wx(), &newer).await.unwrap(), Saved::Kept);

    redis.say::<()>("FLUSHALL").await;
    // One that has heard nothing for a while is the first, while another fetches.
    let third = claimed(&ahead, Some(&newer)).await;
    assert_eq!(behind.save(&shop(), &wx(), &older).await.unwrap(), Saved::Kept);
    assert_eq!(behind.load(&shop(), &wx()).await.unwrap().unwrap().fence, first);
    assert_eq!(ahead.save(&shop(), &wx(), &newer).await.unwrap(), Saved::Kept);
    assert_eq!(behind.save(&shop(), &wx(), &older).await.unwrap(), Saved::FencedOff);
    assert_eq!(ahead.save(&shop(), &wx(), &stored("newest", 7200, third)).await.unwrap(), Saved::Kept);
    assert_eq!(ahead.save(&shop(), &wx(), &newer).await.unwrap(), Saved::FencedOff);
    assert_eq!(token_of(&behind).await, "newest");

    // A claim goes above what is in hand, be the new master's clock behind.
    redis.say::<()>("FLUSHALL").await;
    let far = Stored { fence: third + 3_600_000_000, ..newer.clone() };
    assert_eq!(claimed(&ahead, Some(&far)).await, far.fence + 1);

    // What is damaged keeps its fence perhaps, and is replaced all the same.
    redis.say::<()>("FLUSHALL").await;
    redis.set("weigate:{wx:wx1}:shop:token", format!("weigate-token 1 {third} garbage").as_bytes()).await;
    assert_eq!(ahead.save(&shop(), &wx(), &stored("newest", 7200, third)).await.unwrap(), Saved::Kept);
    assert_eq!(token_of(&behind).await, "newest");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_fetched_without_a_claim_ranks_by_the_time_of_its_call() {
    let redis = Redis::start().await;
    let store = open(&redis, 0).await;
    let claim = claimed(&store, None).await;
    let called = UnixSeconds(UnixSeconds::now().0 - 60);
    let alone = Stored { obtained_at: called, ..stored("alone", 7140, 0) };
    assert_eq!(store.save(&shop(), &wx(), &alone).await.unwrap(), Saved::Kept);
    let fence = store.load(&shop(), &wx()).await.unwrap().unwrap().fence;
    assert!((59_000_000..62_000_000).contains(&(claim - fence)), "{fence} and {claim}");
    // What was claimed meanwhile is newer.
    assert_eq!(store.save(&shop(), &wx(), &stored("claimed", 7200, claim)).await.unwrap(), Saved::Kept);
    assert_eq!(token_of(&store).await, "claimed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_fetched_without_a_claim_replaces_what_ends_earlier_and_nothing_else() {
    let redis = Redis::start().await;
    let store = open(&redis, 0).await;
    assert_eq!(store.save(&shop(), &wx(), &stored("first", 600, 0)).await.unwrap(), Saved::Kept);
    assert_eq!(store.save(&shop(), &wx(), &stored("earlier", 300, 0)).await.unwrap(), Saved::FencedOff);
    assert_eq!(token_of(&store).await, "first");
    assert_eq!(store.save(&shop(), &wx(), &stored("later", 7200, 0)).await.unwrap(), Saved::Kept);
    assert_eq!(token_of(&store).await, "later");
    let before = store.load(&shop(), &wx()).await.unwrap().unwrap().fence;
    assert_eq!(store.save(&shop(), &wx(), &stored("later", 7200, 0)).await.unwrap(), Saved::Kept);
    assert_eq!(store.load(&shop(), &wx()).await.unwrap().unwrap().fence, before, "the same once is enough");
    // Sixteen at one time, all different: the one that ends last stands there.
    let saves = (0..16).map(|index| {
        let store = store.clone();
        async move { store.save(&shop(), &wx(), &stored(&format!("t{index}"), 7300 + index * 10, 0)).await }
    });
    let saves = futures_util::future::join_all(saves).await;
    assert!(saves.iter().filter(|saved| matches!(saved, Ok(Saved::Kept))).count() >= 1);
    let winner = store.load(&shop(), &wx()).await.unwrap().unwrap();
    assert_eq!(store.save(&shop(), &wx(), &stored("t15", 7450, 0)).await.unwrap(), Saved::Kept, "{winner:?}");
    assert_eq!(token_of(&store).await, "t15");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_together_agree_on_a_blob_and_a_damaged_one_is_replaced() {
    let redis = Redis::start().await;
    let store = open(&redis, 0).await;
    let blobs = (0..16_u8).map(|byte| {
        let store = store.clone();
        async move { store.blob_or("placeholder-key", Zeroizing::new(vec![byte; 32])).await.unwrap() }
    });
    let blobs = futures_util::future::join_all(blobs).await;
    assert!(blobs.iter().all(|blob| *blob == blobs[0]), "{blobs:?}");
    redis.set("weigate:blob:placeholder-key", b"garbage").await;
    assert!(store.load_blob("placeholder-key").await.unwrap().is_none());
    let fresh = store.blob_or("placeholder-key", Zeroizing::new(vec![77; 32])).await.unwrap();
    assert_eq!(*fresh, vec![77; 32]);
    assert_eq!(*store.load_blob("placeholder-key").await.unwrap().unwrap(), vec![77; 32]);
}

/// Hands out a token until the next is asked for, as `stable_token` does, and counts: calls, and tokens. The first
/// token lives as long as the third says, if it says so.
#[derive(Clone, Default)]
struct Platform(Arc<(AtomicU64, AtomicU64, AtomicU64)>);

impl TokenSource for Platform {
    async fn fetch(&self, _: Mode) -> Result<Grant, SourceError> {
        self.0.0.fetch_add(1, Ordering::SeqCst);
        sleep(Duration::from_millis(100)).await;
        let serial = self.0.1.load(Ordering::SeqCst);
        let first_lives_s = self.0.2.load(Ordering::SeqCst);
        let lives_s = if serial == 0 && first_lives_s > 0 { first_lives_s } else { 7200 };
        let reply = format!(r#"{{"access_token":"token-{serial}","expires_in":{lives_s}}}"#);
        Ok(token_call::decode(
            weigate::types::GrantKind::StableToken,
            200,
            reply.as_bytes(),
            &AppSecret::new("5ecre7".to_owned()),
        )?)
    }
}

fn life(shift_s: i64) -> Life {
    let common = Common {
        ledger: weigate::token::Ledger::default(),
        turns: Turns::new(8),
        clock: clock(shift_s),
        waiters_max: 100.into(),
    };
    Life {
        account: account(shop()),
        app_id: wx(),
        alone: Alone::Allowed,
        jitter: fastrand::Rng::new(),
        common: Arc::new(common),
    }
}

fn account(name: AccountName) -> Arc<Account> {
    let (app_secret, grant) = (AppSecret::new("s".to_owned()), GrantKind::StableToken);
    Arc::new(Account { name, app_id: wx(), app_secret, grant, publish: Box::default() })
}

async fn renewed(handle: &TokenHandle) {
    let generation = handle.status().generation.0;
    let asked = handle.newer_than(weigate::types::Generation(generation), Instant::now() + PATIENCE).await;
    assert!(matches!(asked, Renewal::Newer(_)), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_whose_clocks_are_ten_minutes_apart_agree_on_the_end_of_a_token_and_make_one_call() {
    let redis = Redis::start().await;
    let (platform, shifts) = (Platform::default(), [-600, 0, 600]);
    let mut keepers = Vec::new();
    for shift_s in shifts {
        let store = open(&redis, shift_s).await;
        keepers.push(start(life(shift_s), platform.clone(), store));
    }
    for (handle, _) in &keepers {
        handle.wait(Instant::now() + PATIENCE).await.unwrap();
    }
    for calls in 1..=3 {
        assert_eq!(platform.0.0.load(Ordering::SeqCst), calls);
        let mut ends = Vec::new();
        for ((handle, _), shift_s) in keepers.iter().zip(shifts) {
            let status = handle.status();
            assert!(status.alive);
            ends.push(status.expires_at.unwrap().0.checked_add_signed(-shift_s).unwrap());
        }
        let spread = ends.iter().max().unwrap() - ends.iter().min().unwrap();
        assert!(spread <= 5, "the same end by every clock, but for {spread} s");
        // The platform rotates; all notice at one time.
        platform.0.1.fetch_add(1, Ordering::SeqCst);
        sleep(Duration::from_secs(2)).await;
        futures_util::future::join_all(keepers.iter().map(|(handle, _)| renewed(handle))).await;
    }
    note(&format!("{} calls for four tokens on three clocks", platform.0.0.load(Ordering::SeqCst)));
    for (_, task) in keepers {
        task.stop().await;
    }
}

/// A token that lives 60 s is renewed by the clock after 30, here by eight at the same moment.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_by_the_clock_costs_one_call_for_eight_replicas() {
    let (redis, platform) = (Redis::start().await, Platform::default());
    platform.0.2.store(60, Ordering::SeqCst);
    let mut keepers = Vec::new();
    for _ in 0..8 {
        let mut settings = settings(&redis);
        settings.op = Duration::from_secs(1);
        let store = RedisStore::open(settings, None, clock(0));
        store.first_try().await;
        keepers.push(start(life(0), platform.clone(), store));
    }
    for (handle, _) in &keepers {
        handle.wait(Instant::now() + PATIENCE).await.unwrap();
    }
    assert_eq!(platform.0.0.load(Ordering::SeqCst), 1);
    platform.0.1.fetch_add(1, Ordering::SeqCst);
    let begun = Instant::now();
    while keepers.iter().any(|(handle, _)| handle.status().generation.0 < 2) {
        assert!(begun.elapsed() < PATIENCE);
        assert!(keepers.iter().all(|(handle, _)| handle.status().alive));
        sleep(Duration::from_millis(20)).await;
    }
    let claims_failed: u64 = keepers.iter().map(|(handle, _)| handle.status().counts.claims_failed).sum();
    assert_eq!((platform.0.0.load(Ordering::SeqCst), claims_failed), (2, 0));
    for (_, task) in keepers {
        task.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_accounts_share_two_connections_and_find_again_what_a_flushall_took() {
    let redis = Redis::start().await;
    let store = open(&redis, 0).await;
    let mut keepers = Vec::new();
    for number in 0..1000 {
        let life = Life { account: account(AccountName::parse(&format!("a{number}")).unwrap()), ..life(0) };
        keepers.push(start(life, Platform::default(), store.clone()));
    }
    for (handle, _) in &keepers {
        handle.wait(Instant::now() + PATIENCE).await.unwrap();
    }
    let count = || async { redis.say::<Vec<String>>("KEYS *:token").await.len() };
    let begun = Instant::now();
    while count().await < 1000 {
        assert!(begun.elapsed() < PATIENCE);
        sleep(Duration::from_millis(20)).await;
    }
    let clients: String = redis.say("CLIENT LIST").await;
    let ours = clients.lines().filter(|line| line.contains("addr=127.0.0.1")).count();
    assert_eq!(ours, 2, "{clients}");
    redis.say::<()>("FLUSHALL").await;
    let begun = Instant::now();
    while count().await < 1000 {
        assert!(begun.elapsed() < PATIENCE);
        sleep(Duration::from_millis(20)).await;
    }
    note(&format!("1000 accounts were back {} ms after a FLUSHALL", begun.elapsed().as_millis()));
    for (_, task) in keepers {
        task.stop().await;
    }
}
