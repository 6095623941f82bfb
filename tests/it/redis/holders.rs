//! Whoever holds the lock may die, be stopped, or never have been a weigate: others take over, and the late are refused.

use rustix::process::Signal;
use tokio::time::Instant;
use weigate::sandbox::When;

use super::server::Redis;
use super::{LOCK_KEY, TOKEN_KEY, replicas, revoke, setup, storm, token_calls};
use crate::harness::{STABLE_TOKEN, get, metric, note, until, wechat};

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_nobody_ends_is_taken_over_after_its_15_seconds() {
    let (redis, wechat) = (Redis::start().await, wechat().await);
    // Without an end of its own: whatever wrote it is no weigate.
    redis.set(LOCK_KEY, b"someone").await;
    let begun = Instant::now();
    let both = replicas(2, &redis.url(), &wechat).await;
    let taken_ms = begun.elapsed().as_millis();
    storm(&both, 8).await;
    assert_eq!(token_calls(&wechat), 1);
    note(&format!("a foreign lock was taken over after {taken_ms} ms"));
    assert!((13_000..40_000).contains(&taken_ms), "{taken_ms} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_stopped_while_it_fetches_is_overtaken_and_its_late_write_is_refused() {
    let (redis, wechat) = (Redis::start().await, wechat().await);
    let hold = wechat.control().hold(STABLE_TOKEN, When::AfterJudging);
    let setup_of_the_late = setup(&redis.url());
    let path = setup_of_the_late.write(&wechat);
    let late = crate::harness::Binary::spawn(&path, std::sync::Arc::clone(&setup_of_the_late.dir), |_| {});
    until(&wechat, |counters| counters.held == 1).await;
    late.pause();
    assert!(redis.get(LOCK_KEY).await.is_some(), "it holds the lock");
    // Its answer is on its way into a process that does not run.
    assert!(wechat.control().release(hold));
    let begun = Instant::now();
    let quick = replicas(2, &redis.url(), &wechat).await;
    let taken_ms = begun.elapsed().as_millis();
    assert_eq!(token_calls(&wechat), 2);
    // The token that the stopped one has in its hands is long dead by the time it wakes.
    revoke(&wechat);
    storm(&quick, 8).await;
    assert_eq!(token_calls(&wechat), 3);
    let newest = redis.until(TOKEN_KEY, |value| !value.is_empty()).await;

    late.signal(Signal::CONT);
    crate::harness::wait_ready(late.admin).await;
    let bad = wechat.control().counters().bad_token_calls;
    let answer = get(&late.url("/cgi-bin/user/info?openid=o6")).await;
    assert!(answer.text().await.unwrap().contains(r#""openid":"o6""#));
    storm(&quick, 8).await;
    assert_eq!(redis.get(TOKEN_KEY).await.unwrap(), newest, "what is newer stayed");
    // One who has just woken finds its time for the claim over, perhaps, and asks WeChat itself, which changes nothing.
    assert!(token_calls(&wechat) <= 4, "and nobody else asked WeChat again");
    // It may have tried one request with what it had before it heard the news.
    assert!(wechat.control().counters().bad_token_calls <= bad + 1);
    let refused = metric(late.admin, r#"weigate_store_fenced_off_total{account="shop"}"#).await;
    let adopted = metric(late.admin, r#"weigate_tokens_adopted_total{account="shop"}"#).await;
    assert!(refused + adopted >= 1, "{refused} refused, {adopted} adopted");
    note(&format!("the stopped one was overtaken after {taken_ms} ms; {refused} late write refused"));
    assert!(taken_ms < 40_000, "{taken_ms} ms");
}
