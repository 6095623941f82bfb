//! The store's own Redis, a cluster, and a user that may do no more than it must.

use tokio::time::{Instant, sleep};

use super::{ALL, OWN, SILENCEPER, WXJAVA, setup, token_of, until_current, until_metric};
use crate::harness::{APP_ID, PATIENCE, Setup, get, note, wechat, write_private};
use crate::redis::places::{Sentinels, authority, serve};
use crate::redis::server::{Redis, free_port};

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_has_every_key_on_its_own_node() {
    let wechat = wechat().await;
    let bus = free_port().to_string();
    let cluster = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-config-file", "nodes.conf"];
    let redis = Redis::with(&cluster).await;
    redis.say::<()>("CLUSTER ADDSLOTSRANGE 0 16383").await;
    let begun = Instant::now();
    while !redis.say::<String>("CLUSTER INFO").await.contains("cluster_state:ok") {
        assert!(begun.elapsed() < PATIENCE);
        sleep(std::time::Duration::from_millis(20)).await;
    }
    let setup = setup(&redis, ALL);
    let url = format!("redis+cluster://127.0.0.1:{}", redis.port);
    write_private(&setup.dir.path().join("publish.url"), &url);
    let proxy = setup.start(&wechat).await;
    until_current(&proxy, 9).await;
    assert_eq!(redis.get(OWN).await.unwrap(), token_of(&wechat).as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_needs_what_the_readme_says_and_a_key_that_is_not_its_own_harms_no_other() {
    let (wechat, user) = (
        wechat().await,
        "shop on >pw ~wx:* ~wa:* ~gowechat_* ~powerwechat.* ~wechatpy:* +eval +get +set +pttl +del +select",
    );
    let redis = Redis::with(&["--user", user]).await;
    let setup = setup(&redis, ALL);
    let url = format!("redis://shop:pw@127.0.0.1:{}", redis.port);
    write_private(&setup.dir.path().join("publish.url"), &url);
    let proxy = setup.start(&wechat).await;
    // All but `my:…`.
    until_current(&proxy, 8).await;
    until_metric(&proxy, r#"weigate_publish_keys{standing="failed"}"#, |keys| keys == 1).await;
    assert!(proxy.metric(r#"weigate_publish_errors_total{kind="forbidden"}"#).await > 0);
    assert_eq!(proxy.metric("weigate_publish_connected").await, 1);
    sleep(std::time::Duration::from_millis(2200)).await;
    wechat.control().revoke_tokens(APP_ID).unwrap();
    get(&proxy.url("/cgi-bin/user/info?openid=o6")).await;
    let token = token_of(&wechat);
    redis.until(SILENCEPER, |value| value == token.as_bytes()).await;
    redis.say::<String>("ACL SETUSER shop ~my:*").await;
    redis.until(OWN, |value| value == token.as_bytes()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_section_of_its_own_the_stores_redis_has_the_tokens() {
    let (redis, wechat) = (Redis::start().await, wechat().await);
    let url = format!("unix://{}?db=3", redis.socket().display());
    let setup = Setup::new().with_redis(&url, "").account("publish = \"wxjava-mp\"");
    let proxy = setup.start(&wechat).await;
    until_current(&proxy, 1).await;
    let mut get = ::redis::pipe();
    get.cmd("SELECT").arg(3).ignore().cmd("GET").arg(WXJAVA);
    let (found,): (String,) = get.query_async(&mut redis.connection().await).await.unwrap();
    assert_eq!(found, token_of(&wechat));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_tls_has_the_tokens_if_its_authority_is_trusted() {
    let (wechat, authority) = (wechat().await, authority("127.0.0.1"));
    let redis = serve(&authority).await;
    for is_trusted in [true, false] {
        let setup = setup(&redis, ALL);
        let url = format!("rediss://127.0.0.1:{}", redis.port);
        write_private(&setup.dir.path().join("publish.url"), &url);
        if is_trusted {
            std::fs::write(setup.dir.path().join("publish-ca.pem"), &authority.ca).unwrap();
            let proxy = setup.and("ca_file = \"publish-ca.pem\"").start(&wechat).await;
            until_current(&proxy, 9).await;
            assert_eq!(redis.get(OWN).await.unwrap(), token_of(&wechat).as_bytes());
        } else {
            let proxy = setup.start(&wechat).await;
            let unreachable = r#"weigate_publish_errors_total{kind="unreachable"}"#;
            until_metric(&proxy, unreachable, |faults| faults > 0).await;
            assert_eq!(proxy.metric("weigate_publish_connected").await, 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_by_death_the_next_token_goes_to_the_new_master() {
    fail_over(true).await;
}

/// Where the old master goes on taking writes for ten seconds.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_by_command_the_next_token_goes_to_the_new_master_within_seconds() {
    let took_ms = fail_over(false).await;
    note(&format!("publishing: the next token at the new master {took_ms} ms after the Sentinels named it"));
    assert!(took_ms < 8_000, "{took_ms} ms");
}

/// From the new master's name to the next token there.
async fn fail_over(is_by_death: bool) -> u128 {
    let (wechat, master) = (wechat().await, Redis::start().await);
    let follow = ["--replicaof", &format!("127.0.0.1 {}", master.port), "--repl-diskless-sync-delay", "0"];
    let mut servers = [master, Redis::with(&follow).await, Redis::with(&follow).await];
    let sentinels = Sentinels::watch(&servers[0]).await;
    let setup = setup(&servers[0], ALL);
    write_private(&setup.dir.path().join("publish.url"), &sentinels.url());
    let proxy = setup.start(&wechat).await;
    until_current(&proxy, 9).await;
    // Attempts keep a distance of two seconds.
    sleep(std::time::Duration::from_millis(2200)).await;
    if is_by_death {
        servers[0].kill();
    } else {
        sentinels.fail_over().await;
    }
    let waiting = Instant::now();
    while sentinels.master_port().await == servers[0].port {
        assert!(waiting.elapsed() < PATIENCE);
        sleep(std::time::Duration::from_millis(20)).await;
    }
    let begun = Instant::now();
    wechat.control().revoke_tokens(APP_ID).unwrap();
    get(&proxy.url("/cgi-bin/user/info?openid=o6")).await;
    let (token, port) = (token_of(&wechat), sentinels.master_port().await);
    let master = servers.iter().find(|server| server.port == port).unwrap();
    master.until(OWN, |value| value == token.as_bytes()).await;
    begun.elapsed().as_millis()
}
