//! Whatever becomes of a token, readers find one that is good.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use weigate::sandbox::Sandbox;

use super::{
    ALL, OWN, Readers, SILENCEPER, SILENCEPER_STABLE, Shape, WXJAVA, WXJAVA_MINIAPP, rotate, setup,
    token_calls, token_of, until_current,
};
use crate::harness::{APP_ID, get, note, wechat_with, write_private};
use crate::redis::server::Redis;
use crate::sdk::{installed, script};

async fn plain_wechat() -> Sandbox {
    wechat_with(|mut options| {
        options.tls = false;
        options
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_shaped_as_wxjava_and_silenceper_and_a_real_wechatpy_find_a_good_token_at_every_instant() {
    let (redis, wechat) = (Redis::start().await, plain_wechat().await);
    // Two weigates that share a store, and both publish.
    let started = (0..2).map(|_| {
        let setup = setup(&redis, ALL).with_redis(&redis.url(), "seal_key_file = \"seal.key\"");
        write_private(&setup.dir.path().join("seal.key"), "b4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s=");
        setup.start(&wechat)
    });
    let both = futures_util::future::join_all(started).await;
    for proxy in &both {
        until_current(proxy, 9).await;
    }

    let mut wechatpy = Command::new(installed("venv/bin/python"))
        .arg("-B")
        .arg(script("wechatpy_redis.py"))
        .args([&wechat.base_url(), APP_ID, &redis.port.to_string()])
        .env("NO_PROXY", "*")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(wechatpy.stdout.take().unwrap()).lines();
    let mut told = move || told.next().unwrap().unwrap().parse::<u64>().unwrap();
    assert_eq!(told(), 1);
    let shapes = [
        Shape::WxJava(WXJAVA),
        Shape::WxJava(WXJAVA_MINIAPP),
        Shape::Plain(SILENCEPER),
        Shape::Plain(SILENCEPER_STABLE),
        Shape::Plain(OWN),
    ];
    let readers = Readers::start(&redis, &wechat, &shapes).await;

    let mut slowest = Duration::ZERO;
    for turn in 0..4_usize {
        // Now the one weigate finds out that it is time, now the other.
        let token = rotate(&wechat, &both[turn % 2]).await;
        let begun = Instant::now();
        redis.until(SILENCEPER, |value| value == token.as_bytes()).await;
        slowest = slowest.max(begun.elapsed());
        // The look at every key comes once a minute; this is the bell's doing.
        assert!(slowest < Duration::from_secs(20), "{slowest:?}");
        assert_eq!(told(), u64::try_from(turn).unwrap() + 2, "wechatpy has the next token");
    }
    let reads = readers.stop().await;
    // The end of its input tells it to stop.
    drop(wechatpy.stdin.take());
    let calls = told();
    assert!(wechatpy.wait().unwrap().success() && calls > 20, "{calls} calls");
    let counters = wechat.control().counters();
    assert_eq!(counters.bad_token_calls, 0, "nobody used a token that WeChat did not know");
    assert_eq!(token_calls(&wechat), 5, "nobody fetched but the two, together");
    // The look at every key comes once a minute; this is the bell's doing.
    assert!(slowest < Duration::from_secs(20), "{slowest:?}");
    note(&format!(
        "4 rotations, 2 weigates: {reads} reads and wechatpy's {calls} calls, 0 without a good token; \
         the next was there {} ms after it was fetched at most",
        slowest.as_millis()
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_revoked_is_replaced_though_it_seems_to_live_longer_than_the_next() {
    let (redis, wechat) = (Redis::start().await, plain_wechat().await);
    let proxy = setup(&redis, ALL).start(&wechat).await;
    until_current(&proxy, 9).await;
    let first = token_of(&wechat);
    redis.say::<u64>(&format!("PEXPIRE {WXJAVA} 7215000")).await;
    sleep(Duration::from_millis(2200)).await;
    wechat.control().revoke_tokens(APP_ID).unwrap();
    get(&proxy.url("/cgi-bin/user/info?openid=o6")).await;
    let begun = Instant::now();
    let second = token_of(&wechat);
    assert_ne!(first, second);
    for key in [WXJAVA, SILENCEPER, OWN] {
        redis.until(key, |value| value == second.as_bytes()).await;
    }
    note(&format!(
        "a revoked token was replaced everywhere {} ms after the request",
        begun.elapsed().as_millis()
    ));
    let ttl: u64 = redis.say(&format!("TTL {WXJAVA}")).await;
    assert!((7100..=7200).contains(&ttl), "{ttl} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_weigate_with_an_older_token_never_puts_it_over_a_newer_one() {
    let (redis, wechat) = (Redis::start().await, plain_wechat().await);
    // Each has a store of its own: the one learns of nothing that the other does.
    let late = setup(&redis, ALL).start(&wechat).await;
    until_current(&late, 9).await;
    let old = token_of(&wechat);
    sleep(Duration::from_millis(1100)).await;
    wechat.control().revoke_tokens(APP_ID).unwrap();
    let early = setup(&redis, ALL).start(&wechat).await;
    until_current(&early, 9).await;
    let new = token_of(&wechat);
    assert_ne!(old, new);
    // It has lost nothing, and yet looks at all its keys.
    let watched = timeout(Duration::from_secs(4), async {
        redis.say::<u64>("CLIENT KILL TYPE normal SKIPME yes").await;
        loop {
            let value = redis.get(WXJAVA).await.unwrap();
            assert_eq!(String::from_utf8(value).unwrap(), new);
            sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(watched.await.is_err());
    super::until_metric(&late, r#"weigate_publish_keys{standing="newer"}"#, |keys| keys == 9).await;
    until_current(&early, 9).await;
    // Even the one that lags behind has it that way round: its own token is gone at WeChat, and nobody is handed it.
    redis.say::<u64>("CLIENT KILL TYPE normal SKIPME yes").await;
    let all = Readers::start(&redis, &wechat, &[Shape::WxJava(WXJAVA), Shape::Plain(OWN)]).await;
    sleep(Duration::from_millis(1500)).await;
    all.stop().await;
}
