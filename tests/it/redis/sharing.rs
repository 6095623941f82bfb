//! One token call for each account and rotation, whatever the number of weigates.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use weigate::sandbox::SandboxAccount;

use super::server::Redis;
use super::{replicas, revoke, setup, storm, token_calls, until_all};
use crate::harness::{
    APP_ID, APP_SECRET, CLIENT_KEY, Proxy, STABLE_TOKEN, client_lines, get, get_json, note, placeholder,
    wechat, wechat_with,
};

#[tokio::test(flavor = "multi_thread")]
async fn eight_replicas_with_64_callers_each_make_one_token_call_for_every_rotation() {
    let (redis, wechat) = (Redis::start().await, wechat().await);
    let replicas = replicas(8, &redis.url(), &wechat).await;
    assert_eq!(token_calls(&wechat), 1, "eight started at one time");
    for rotation in 2..=4 {
        revoke(&wechat);
        storm(&replicas, 64).await;
        assert_eq!(token_calls(&wechat), rotation);
    }
    let mut adopted = 0;
    for proxy in &replicas {
        adopted += proxy.metric(r#"weigate_tokens_adopted_total{account="shop"}"#).await;
    }
    // Those who started a little later had loaded the first one.
    assert!((7 * 3..=7 * 4).contains(&adopted), "{adopted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_renews_the_others_have_before_they_are_asked() {
    let (redis, wechat) = (Redis::start().await, wechat().await);
    let replicas = replicas(3, &redis.url(), &wechat).await;
    let begun = Instant::now();
    revoke(&wechat);
    get(&replicas[0].url("/cgi-bin/user/info?openid=o6")).await;
    let renewed_ms = begun.elapsed().as_millis();
    until_all(&replicas, r#"weigate_token_generation{account="shop"}"#, |generation| generation == 2).await;
    let heard_ms = begun.elapsed().as_millis() - renewed_ms;
    let bad = wechat.control().counters().bad_token_calls;
    storm(&replicas, 8).await;
    assert_eq!(wechat.control().counters().bad_token_calls, bad, "nobody used the old token again");
    note(&format!("a renewal reached the other replicas within {heard_ms} ms"));
    assert!(heard_ms < 5_000, "{heard_ms} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_starts_later_takes_the_token_that_is_there_and_an_account_knows_its_own() {
    let redis = Redis::start().await;
    let other = SandboxAccount::new("wx00000000000000aa", APP_SECRET);
    let wechat = wechat_with(|mut options| {
        options.accounts.push(other);
        options
    })
    .await;
    let two = |proxy: crate::harness::Setup| {
        proxy.clients(&client_lines("orders", CLIENT_KEY, "accounts = [\"shop\", \"blog\"]")).and(
            "[[accounts]]\nname = \"blog\"\napp_id = \"wx00000000000000aa\"\napp_secret_file = \"secret\"",
        )
    };
    let _first = two(setup(&redis.url())).start(&wechat).await;
    let calls = || wechat.control().counters().token_calls[STABLE_TOKEN].clone();
    assert_eq!((calls()[APP_ID], calls()["wx00000000000000aa"]), (1, 1));
    let later = two(setup(&redis.url())).start(&wechat).await;
    for name in ["shop", "blog"] {
        let answer = get(&later.url(&format!("/@{name}/cgi-bin/user/info?openid=o6"))).await;
        assert!(answer.text().await.unwrap().contains(r#""openid":"o6""#), "{name}");
    }
    assert_eq!((calls()[APP_ID], calls()["wx00000000000000aa"]), (1, 1));
    assert_eq!(wechat.control().counters().bad_token_calls, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_token_endpoint_is_called_by_each_at_its_own_pace_and_all_recover() {
    let (redis, wechat) = (Redis::start().await, wechat().await);
    wechat.control().set_secret(APP_ID, "another").unwrap();
    let replicas: Vec<Proxy> = {
        let starts = (0..4).map(|_| setup(&redis.url()).start_unready(&wechat));
        futures_util::future::join_all(starts).await
    };
    until_all(&replicas, r#"weigate_token_calls_total{account="shop",result="wrong_secret"}"#, |calls| {
        calls > 0
    })
    .await;
    // A wrong secret is tried every five minutes, and by nobody in between.
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(token_calls(&wechat), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn placeholders_of_one_replica_are_good_at_the_others() {
    let (redis, wechat) = (Redis::start().await, wechat().await);
    let replicas = replicas(3, &redis.url(), &wechat).await;
    let given = placeholder(&replicas[0], APP_ID, CLIENT_KEY).await;
    for proxy in &replicas {
        let url = proxy.url(&format!("/cgi-bin/user/info?openid=o6&access_token={given}"));
        let answer = crate::harness::client().get(url).send().await.unwrap().text().await.unwrap();
        assert!(answer.contains(r#""openid":"o6""#), "{answer}");
    }
    let seen = get_json(&replicas[0].url("/cgi-bin/user/info?openid=o6")).await;
    assert_eq!(seen["openid"], "o6");
}
