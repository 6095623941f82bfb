//! Redis dies, hangs, refuses or comes back: no request notices.

use std::time::Duration;

use rustix::process::Signal;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};

use super::server::Redis;
use super::{Load, TOKEN_KEY, replicas, revoke, setup, storm, token_calls, until_all};
use crate::harness::{PATIENCE, Proxy, note, wechat};

const CONNECTED: &str = "weigate_store_connected";

async fn waits(begun: Instant, replicas: &[Proxy], connected: u64) -> u128 {
    until_all(replicas, CONNECTED, |is| is == connected).await;
    begun.elapsed().as_millis()
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_killed_under_load_costs_no_request_and_comes_back_to_work_by_itself() {
    let (mut redis, wechat) = (Redis::start().await, wechat().await);
    let replicas = replicas(3, &redis.url(), &wechat).await;
    let load = Load::start(&replicas, 3);
    load.more(50).await;
    redis.kill();
    load.more(50).await;
    waits(Instant::now(), &replicas, 0).await;
    // Each for itself now: at most one call each, and the same token for all.
    revoke(&wechat);
    load.more(300).await;
    let generation = r#"weigate_token_generation{account="shop"}"#;
    until_all(&replicas, generation, |generation| generation >= 2).await;
    assert!((2..=4).contains(&token_calls(&wechat)), "{}", token_calls(&wechat));
    let alone = token_calls(&wechat);

    redis.run().await;
    let begun = Instant::now();
    let back_ms = waits(begun, &replicas, 1).await;
    // What was fetched meanwhile is there again, without a call.
    redis.until(TOKEN_KEY, |value| !value.is_empty()).await;
    let published_ms = begun.elapsed().as_millis();
    load.more(50).await;
    let good = load.stop().await;
    assert_eq!(token_calls(&wechat), alone);
    sleep(Duration::from_secs(2)).await;
    revoke(&wechat);
    storm(&replicas, 16).await;
    assert_eq!(token_calls(&wechat), alone + 1, "one call for all again");
    note(&format!(
        "Redis killed and back: {good} requests, 0 failed; connected after {back_ms} ms, token there after {published_ms} ms"
    ));
    assert!(published_ms < 20_000, "{published_ms} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hangs_costs_no_request_and_delays_no_renewal() {
    let (redis, wechat) = (Redis::start().await, wechat().await);
    let replicas = replicas(3, &redis.url(), &wechat).await;
    let load = Load::start(&replicas, 3);
    load.more(50).await;
    redis.signal(Signal::STOP);
    revoke(&wechat);
    let begun = Instant::now();
    let generation = r#"weigate_token_generation{account="shop"}"#;
    until_all(&replicas, generation, |generation| generation >= 2).await;
    let renewed_ms = begun.elapsed().as_millis();
    load.more(300).await;
    waits(begun, &replicas, 0).await;
    redis.signal(Signal::CONT);
    let back_ms = waits(Instant::now(), &replicas, 1).await;
    load.more(50).await;
    let good = load.stop().await;
    let hung = replicas[0].metric(r#"weigate_store_errors_total{kind="timed_out"}"#).await;
    assert!(hung > 0);
    note(&format!(
        "Redis stopped: {good} requests, 0 failed; renewed after {renewed_ms} ms, connected again after {back_ms} ms"
    ));
    assert!(renewed_ms < 10_000, "{renewed_ms} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_not_there_at_the_start_delays_no_start_and_is_used_once_it_comes() {
    let (mut redis, wechat) = (Redis::start().await, wechat().await);
    redis.kill();
    let begun = Instant::now();
    let replicas = replicas(2, &redis.url(), &wechat).await;
    let ready_ms = begun.elapsed().as_millis();
    storm(&replicas, 8).await;
    assert!(token_calls(&wechat) <= 2);
    redis.run().await;
    until_all(&replicas, CONNECTED, |is| is == 1).await;
    redis.until(TOKEN_KEY, |value| !value.is_empty()).await;
    // The shared key for placeholders, too.
    let blob = redis.until("weigate:blob:placeholder-key", |value| !value.is_empty()).await;
    assert!(blob.starts_with(b"weigate-blob 1 s"));
    let given = crate::harness::placeholder(&replicas[0], crate::harness::APP_ID, crate::harness::CLIENT_KEY);
    sleep(Duration::from_millis(1200)).await;
    let given = given.await;
    let url = replicas[1].url(&format!("/cgi-bin/user/info?openid=o6&access_token={given}"));
    let answer = crate::harness::client().get(url).send().await.unwrap().text().await.unwrap();
    assert!(answer.contains(r#""openid":"o6""#), "{answer}");
    note(&format!("ready {ready_ms} ms after a start without Redis"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_a_forbidden_command_and_a_replica_are_faults_of_their_own_and_stop_nothing() {
    let wechat = wechat().await;
    let locked = Redis::with(&["--requirepass", "c0rrect"]).await;
    let limited = Redis::with(&["--user", "weak on >p4ss ~* &* +ping +subscribe +get"]).await;
    let replica = Redis::with(&["--replicaof", "127.0.0.1 1"]).await;
    let cases = [
        (format!("redis://:canary-pass@127.0.0.1:{}", locked.port), "login"),
        (format!("redis://weak:p4ss@127.0.0.1:{}", limited.port), "forbidden"),
        (replica.url(), "read_only"),
    ];
    for (url, kind) in cases {
        let binary = setup(&url).spawn(&wechat).await;
        let begun = Instant::now();
        let sample = format!("weigate_store_errors_total{{kind=\"{kind}\"}}");
        while crate::harness::metric(binary.admin, &sample).await == 0 {
            assert!(begun.elapsed() < PATIENCE, "{kind}: {}", binary.log());
            sleep(Duration::from_millis(20)).await;
        }
        let answer = crate::harness::get(&binary.url("/cgi-bin/user/info?openid=o6")).await;
        assert!(answer.text().await.unwrap().contains(r#""openid":"o6""#), "{kind}");
        binary.wait_for_log("no connection to Redis").await;
        assert!(!binary.log().contains("canary-pass") && !binary.log().contains("p4ss"), "{}", binary.log());
    }
}

/// Whatever stands at the address, with `rediss` it hears a TLS handshake and not a byte of anything else.
#[tokio::test(flavor = "multi_thread")]
async fn with_tls_nothing_is_sent_in_plain_text_be_the_certificate_refused_or_no_tls_there_at_all() {
    let wechat = wechat().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("rediss://user:canary-pass@{}", listener.local_addr().unwrap());
    let proxy = setup(&url).start_unready(&wechat).await;
    for _ in 0..3 {
        let (mut stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        let mut bytes = vec![0; 4096];
        let read = timeout(PATIENCE, stream.read(&mut bytes)).await.unwrap().unwrap();
        assert_eq!(bytes[..2], [0x16, 3], "a handshake");
        assert!(!String::from_utf8_lossy(&bytes[..read]).contains("canary"));
    }
    proxy.wait_ready().await;
    assert_eq!(proxy.metric(CONNECTED).await, 0);
}
