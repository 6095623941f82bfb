//! What stands in Redis is lost, damaged or not ours: a miss, put right within moments, and never used.

use std::time::Duration;

use base64::Engine as _;
use tokio::time::{Instant, sleep};

use super::server::Redis;
use super::{LOCK_KEY, Load, SEAL_KEY, TOKEN_KEY, replicas, revoke, setup, storm, token_calls};
use crate::harness::{Setup, note, wechat};

fn is_ours(value: &[u8]) -> bool {
    value.starts_with(b"weigate-token 1 ")
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_lost_or_damaged_is_put_right_within_moments_and_costs_no_call_and_no_request() {
    let (redis, wechat) = (Redis::start().await, wechat().await);
    let replicas = replicas(2, &redis.url(), &wechat).await;
    let load = Load::start(&replicas, 2);
    let whole = redis.until(TOKEN_KEY, is_ours).await;
    let mut slowest_ms = 0;
    for damage in
        ["flushall", "delete", "list", "hash", "garbage", "empty", "torn", "flipped", "fence", "foreign"]
    {
        let mut bytes = redis.until(TOKEN_KEY, is_ours).await;
        match damage {
            "flushall" => redis.say::<()>("FLUSHALL").await,
            "delete" => redis.say(&format!("DEL {TOKEN_KEY}")).await,
            "list" => {
                redis.say::<()>(&format!("DEL {TOKEN_KEY}")).await;
                redis.say::<()>(&format!("RPUSH {TOKEN_KEY} a b")).await;
            }
            "hash" => {
                redis.say::<()>(&format!("DEL {TOKEN_KEY}")).await;
                redis.say::<()>(&format!("HSET {TOKEN_KEY} a b")).await;
            }
            "garbage" => redis.set(TOKEN_KEY, b"\xff\0 garbage \r\n").await,
            "empty" => redis.set(TOKEN_KEY, b"").await,
            "torn" => redis.set(TOKEN_KEY, &bytes[..bytes.len() - 9]).await,
            "flipped" => {
                *bytes.last_mut().unwrap() ^= 1;
                redis.set(TOKEN_KEY, &bytes).await;
            }
            // A fence far ahead of any clock, which would keep every writer out for ever.
            "fence" => {
                redis
                    .set(TOKEN_KEY, b"weigate-token 1 9007199254740991 sxxxxxxxxxxxxxxxxxxxxxxxxxxxxx")
                    .await;
            }
            // Sealed by someone else, or not at all, and claiming to be newer.
            _ => {
                let time: (u64, u64) = redis.say("TIME").await;
                let json = r#"{"access_token":"evil","obtained_ms":1,"expires_ms":99999999999999}"#;
                let value = format!("weigate-token 1 {} p{json}", time.0 * 1_000_000 + 60_000_000);
                redis.set(TOKEN_KEY, value.as_bytes()).await;
            }
        }
        let (damaged, begun) = (redis.get(TOKEN_KEY).await, Instant::now());
        redis.until(TOKEN_KEY, |value| is_ours(value) && Some(value) != damaged.as_deref()).await;
        slowest_ms = slowest_ms.max(begun.elapsed().as_millis());
        load.more(10).await;
    }
    assert_ne!(redis.until(TOKEN_KEY, is_ours).await, whole);
    let good = load.stop().await;
    assert_eq!(token_calls(&wechat), 1);
    assert_eq!(wechat.control().counters().bad_token_calls, 0, "nothing else than our token was ever used");
    note(&format!("ten kinds of damage put right in {slowest_ms} ms at most, {good} requests meanwhile"));
    assert!(slowest_ms < 20_000, "{slowest_ms} ms");

    // And they still work together.
    redis.say::<()>(&format!("RPUSH {LOCK_KEY} not a lock")).await;
    redis.say::<()>(&format!("PEXPIRE {LOCK_KEY} 300")).await;
    revoke(&wechat);
    storm(&replicas, 16).await;
    assert_eq!(token_calls(&wechat), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_in_redis_shows_a_token_and_without_a_key_that_is_said() {
    let (redis, wechat) = (Redis::start().await, wechat().await);
    let _sealed = replicas(1, &redis.url(), &wechat).await;
    let token =
        wechat.control().current_token(crate::harness::APP_ID, weigate::sandbox::Endpoint::StableToken);
    let token = token.unwrap().unwrap();
    redis.until(TOKEN_KEY, is_ours).await;
    let keys: Vec<String> = redis.say("KEYS *").await;
    assert!(keys.len() >= 3, "{keys:?}");
    for key in &keys {
        let value = redis.get(key).await.unwrap();
        assert!(!String::from_utf8_lossy(&value).contains(&token), "{key}");
    }

    // Without the key, what is sealed is not read, and what is written is open; the configuration says so.
    let open = Redis::start().await;
    let binary = Setup::new().with_redis(&open.url(), "").spawn(&wechat).await;
    binary.wait_for_log("tokens stand in this Redis for all who can read it").await;
    let value = open.until(TOKEN_KEY, is_ours).await;
    assert!(String::from_utf8_lossy(&value).contains(&token));
}

/// A misconfiguration, not an attack: each cannot read what the other writes. Both serve, and Redis is not hammered.
#[tokio::test(flavor = "multi_thread")]
async fn two_seal_keys_on_one_redis_serve_and_do_not_write_over_each_other_for_ever() {
    let (redis, wechat) = (Redis::start().await, wechat().await);
    let one = setup(&redis.url()).start(&wechat).await;
    let other = setup(&redis.url());
    let key = base64::engine::general_purpose::STANDARD.encode(*b"another seal key with 32 bytes..");
    assert_ne!(key, SEAL_KEY);
    crate::harness::write_private(&other.dir.path().join("seal.key"), &key);
    let both = [one, other.start(&wechat).await];
    sleep(Duration::from_secs(6)).await;
    let stats: String = redis.say("INFO commandstats").await;
    let sets =
        stats.lines().find_map(|line| line.strip_prefix("cmdstat_set:calls=")?.split_once(',')).unwrap();
    let sets: u64 = sets.0.parse().unwrap();
    // Each gives back what it misses at most thirty times a minute.
    assert!(sets < 90, "{sets} writes");
    storm(&both, 8).await;
    assert_eq!(wechat.control().counters().bad_token_calls, 0);
}
