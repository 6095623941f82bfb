//! What others do to the keys, and what Redis loses, is put right; a Redis that is gone stops nothing.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{
    ALL, OWN, SILENCEPER, SILENCEPER_STABLE, WECHATPY, WXJAVA, WXJAVA_MINIAPP, setup, token_of,
    until_current, until_metric,
};
use crate::harness::{APP_ID, PATIENCE, get, note, wechat};
use crate::redis::server::Redis;

const CONNECTED: &str = "weigate_publish_connected";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_damaged_or_made_immortal_is_put_right_and_what_is_newer_stays() {
    let (redis, wechat) = (Redis::start().await, wechat().await);
    let proxy = setup(&redis, ALL).start(&wechat).await;
    until_current(&proxy, 9).await;
    let token = token_of(&wechat);
    let mini = "gowechat_miniprogram__access_token_wx0123456789abcdef";
    for words in [
        &format!("DEL {SILENCEPER_STABLE} {WXJAVA_MINIAPP}"),
        &format!("RPUSH {WXJAVA_MINIAPP} a b"),
        &format!("PERSIST {SILENCEPER}"),
        &format!("SET {OWN} {{\"half\":\"a EX 7000"),
        &format!("SET {WECHATPY} {token} EX 7000"),
        &format!("SET {WECHATPY}_expires_at 1"),
        // Perhaps another weigate's, and perhaps an SDK's own: it lives longer than ours.
        &format!("SET {mini} another-token-of-its-own PX 7215000"),
        // What is gone is noticed within a second, and its account's other keys are looked at, too.
        &format!("DEL {WXJAVA}"),
    ] {
        redis.say::<::redis::Value>(words).await;
    }
    let begun = Instant::now();
    for key in [WXJAVA, WXJAVA_MINIAPP, SILENCEPER, SILENCEPER_STABLE, OWN] {
        while redis.say::<String>(&format!("TYPE {key}")).await != "string" {
            assert!(begun.elapsed() < PATIENCE, "{key}");
            sleep(Duration::from_millis(10)).await;
        }
        redis.until(key, |value| value == token.as_bytes()).await;
        let ttl: i64 = redis.say(&format!("TTL {key}")).await;
        assert!((7000..=7200).contains(&ttl), "{key} lives {ttl} s");
    }
    redis.until(WECHATPY, |value| value == format!("\"{token}\"").as_bytes()).await;
    assert_eq!(redis.get(&format!("{WECHATPY}_expires_at")).await, None);
    note(&format!("all put right after {} ms", begun.elapsed().as_millis()));
    until_metric(&proxy, r#"weigate_publish_keys{standing="newer"}"#, |keys| keys == 1).await;
    until_current(&proxy, 8).await;
    assert_eq!(redis.get(mini).await.unwrap(), b"another-token-of-its-own");

    // One that ends sooner than ours is older, whosever it is; and one that outlives every token is nobody's.
    for life_ms in [600_000, 90_000_000_u64] {
        redis.say::<()>(&format!("SET {mini} another-token-of-its-own PX {life_ms}")).await;
        redis.say::<u64>(&format!("DEL {WXJAVA}")).await;
        redis.until(mini, |value| value == token.as_bytes()).await;
    }
    until_current(&proxy, 9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_loses_everything_or_restarts_has_the_tokens_again_within_seconds() {
    let (mut redis, wechat) = (Redis::start().await, wechat().await);
    let proxy = setup(&redis, ALL).start(&wechat).await;
    until_current(&proxy, 9).await;
    let token = token_of(&wechat);
    redis.say::<()>("FLUSHALL").await;
    let begun = Instant::now();
    redis.until(OWN, |value| value == token.as_bytes()).await;
    let flushed_ms = begun.elapsed().as_millis();

    redis.kill();
    until_metric(&proxy, CONNECTED, |is| is == 0).await;
    // Meanwhile the token is another: requests do not notice that there is no Redis.
    wechat.control().revoke_tokens(APP_ID).unwrap();
    let answer = get(&proxy.url("/cgi-bin/user/info?openid=o6")).await;
    assert!(answer.text().await.unwrap().contains(r#""openid":"o6""#));
    let token = token_of(&wechat);
    redis.run().await;
    let begun = Instant::now();
    redis.until(OWN, |value| value == token.as_bytes()).await;
    let back_ms = begun.elapsed().as_millis();
    until_metric(&proxy, CONNECTED, |is| is == 1).await;
    until_current(&proxy, 9).await;
    note(&format!("published again {flushed_ms} ms after a FLUSHALL, {back_ms} ms after Redis was back"));
    assert!(flushed_ms < 10_000 && back_ms < 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hangs_or_was_never_there_holds_up_no_start_no_request_and_no_renewal() {
    let (mut redis, wechat) = (Redis::start().await, wechat().await);
    redis.kill();
    let proxy = setup(&redis, ALL).spawn(&wechat).await;
    proxy.wait_for_log("tokens cannot be published").await;
    let call = || async {
        let url = proxy.url("/cgi-bin/user/info?openid=o6");
        let asked = timeout(Duration::from_secs(10), get(&url));
        assert!(asked.await.unwrap().text().await.unwrap().contains(r#""openid":"o6""#));
    };
    call().await;
    redis.run().await;
    proxy.wait_for_log("connected to the Redis where tokens are published").await;
    redis.signal(rustix::process::Signal::STOP);
    sleep(Duration::from_millis(2200)).await;
    wechat.control().revoke_tokens(APP_ID).unwrap();
    call().await;
    let token = token_of(&wechat);
    redis.signal(rustix::process::Signal::CONT);
    redis.until(OWN, |value| value == token.as_bytes()).await;
}
