//! Which keys are written, which no more, and what is told about them.

use std::process::Command;

use tokio::time::Instant;
use weigate::config;
use weigate::sandbox::{AccountKind, Endpoint, SandboxAccount};

use super::{ALL, OWN, SILENCEPER, WECHATPY, WXJAVA, setup, token_of, until_current};
use crate::harness::{APP_ID, APP_SECRET, PATIENCE, Proxy, Setup, wechat, wechat_with, write_private};
use crate::redis::server::Redis;

/// The MD5 of [`APP_ID`] and [`APP_SECRET`], as `PowerWeChat` makes it.
async fn powerwechat_key(redis: &Redis) -> String {
    let keys: Vec<String> = redis.say("KEYS powerwechat.access_token.*").await;
    assert_eq!(keys.len(), 1, "{keys:?}");
    keys[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_has_its_value_and_the_tokens_own_life_and_no_log_has_either() {
    let (redis, wechat) = (Redis::start().await, wechat().await);
    let proxy = setup(&redis, ALL).log_level("trace").spawn(&wechat).await;
    let token = token_of(&wechat);
    redis.until(OWN, |value| value == token.as_bytes()).await;
    let powerwechat = powerwechat_key(&redis).await;
    let digest = powerwechat.strip_prefix("powerwechat.access_token.").unwrap();
    let md5 =
        Command::new("sh").args(["-c", "printf %s \"$0$1\" | md5sum", APP_ID, APP_SECRET]).output().unwrap();
    assert_eq!(String::from_utf8(md5.stdout).unwrap().split(' ').next(), Some(digest));
    let mut values = vec![
        (powerwechat.clone(), format!("{{\"access_token\":\"{token}\",\"expires_in\":7200}}")),
        (WECHATPY.to_owned(), format!("\"{token}\"")),
        ("gowechat_miniprogram__access_token_wx0123456789abcdef".to_owned(), token.clone()),
        ("gowechat_miniprogram__stable_access_token_wx0123456789abcdef".to_owned(), token.clone()),
    ];
    values.extend([WXJAVA, SILENCEPER, OWN].map(|key| (key.to_owned(), token.clone())));
    for (key, value) in values {
        assert_eq!(String::from_utf8(redis.get(&key).await.unwrap()).unwrap(), value, "{key}");
        let ttl: i64 = redis.say(&format!("TTL {key}")).await;
        assert!((7150..=7200).contains(&ttl), "{key} lives {ttl} s");
    }
    assert_eq!(redis.say::<u64>("DBSIZE").await, 9);

    let page = crate::harness::get_json(&format!("http://{}/accounts", proxy.admin)).await;
    let published = page["accounts"][0]["published"].as_array().unwrap();
    assert_eq!(published.len(), 9);
    let wxjava = serde_json::json!({ "key": WXJAVA, "standing": "current" });
    assert!(published.contains(&wxjava), "{published:?}");
    assert!(!page.to_string().contains(digest) && !page.to_string().contains(&token));

    let path = proxy.dir.path().join("proxy.toml");
    let check = Command::new(env!("CARGO_BIN_EXE_weigate"))
        .args(["check", "--online", "-c", path.to_str().unwrap()])
        .output()
        .unwrap();
    let said = String::from_utf8(check.stdout).unwrap();
    assert!(check.status.success(), "{said}");
    for line in [
        format!("9 key(s) are published at {}:", redis.url()),
        format!("  {WXJAVA}  (wxjava-mp, the token of shop)"),
        format!("  {OWN}  (my:{{app_id}}:access_token, the token of shop)"),
        format!(
            "  powerwechat.access_token.MD5({APP_ID} and the secret of shop)  (powerwechat, the token of shop)"
        ),
        format!("good  publishing at {}: can be reached", redis.url()),
    ] {
        assert!(said.contains(&line), "no {line:?} in\n{said}");
    }
    for text in [said, proxy.log()] {
        assert!(!text.contains(digest) && !text.contains(&token) && !text.contains(APP_SECRET));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corps_token_goes_under_its_own_key() {
    let (corpid, secret) = ("ww0123456789abcdef", "canary-corp-secret-77ab");
    let redis = Redis::start().await;
    let wechat = wechat_with(|mut options| {
        options.accounts.push(SandboxAccount::new(corpid, secret).of_kind(AccountKind::WeCom));
        options
    })
    .await;
    let setup = setup(&redis, "").and(&format!(
        "[[accounts]]\nname = \"corp\"\napp_id = \"{corpid}\"\napp_secret_file = \"corp\"\ngrant = \"wecom\"\n\
         publish = [\"silenceper-work\", \"powerwechat\", \"{{name}}:{{app_id}}\"]"
    ));
    write_private(&setup.dir.path().join("corp"), secret);
    let proxy = setup.start(&wechat).await;
    until_current(&proxy, 3).await;
    let token = wechat.control().current_token(corpid, Endpoint::StableToken).unwrap().unwrap();
    for key in ["gowechat_work__access_token_ww0123456789abcdef", "corp:ww0123456789abcdef"] {
        assert_eq!(redis.get(key).await.unwrap(), token.as_bytes());
    }
    assert_eq!(redis.say::<u64>("DBSIZE").await, 3);
}

async fn reload(proxy: &mut Proxy, change: impl FnOnce(String) -> String) -> Vec<&'static str> {
    let path = proxy.dir.path().join("proxy.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, change(text)).unwrap();
    let loaded = config::load(&path).map(|loaded| loaded.config);
    proxy.app().reload(loaded).await.unwrap().changed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_adds_changes_and_moves_and_what_is_published_no_more_is_left_to_its_end() {
    let (redis, elsewhere, wechat) = (Redis::start().await, Redis::start().await, wechat().await);
    let mut proxy = Setup::new().start(&wechat).await;
    let token = token_of(&wechat);
    assert_eq!(redis.say::<u64>("DBSIZE").await, 0);

    write_private(&proxy.dir.path().join("publish.url"), &redis.url());
    let publish = "publish = \"wxjava-mp\"";
    let changed = reload(&mut proxy, |text| {
        let text = text.replace("name = \"shop\"\n", &format!("name = \"shop\"\n{publish}\n"));
        format!("{text}[publish]\nurl_file = \"publish.url\"\n")
    });
    assert_eq!(changed.await, ["publish"]);
    redis.until(WXJAVA, |value| value == token.as_bytes()).await;

    reload(&mut proxy, |text| text.replace(publish, "publish = [\"silenceper\"]")).await;
    redis.until(SILENCEPER, |value| value == token.as_bytes()).await;
    let ttl: i64 = redis.say(&format!("TTL {WXJAVA}")).await;
    assert!((7100..=7200).contains(&ttl), "{ttl} s: it is good as long as its token");
    redis.say::<u64>(&format!("DEL {WXJAVA} {SILENCEPER}")).await;
    redis.until(SILENCEPER, |value| value == token.as_bytes()).await;
    assert_eq!(redis.get(WXJAVA).await, None, "nobody looks after it any more");

    write_private(&proxy.dir.path().join("publish.url"), &elsewhere.url());
    assert_eq!(reload(&mut proxy, |text| text).await, ["publish"]);
    elsewhere.until(SILENCEPER, |value| value == token.as_bytes()).await;

    reload(&mut proxy, |text| text.replace("publish = [\"silenceper\"]\n", "")).await;
    let begun = Instant::now();
    let clients = "CLIENT LIST TYPE normal";
    while elsewhere.say::<String>(clients).await.lines().filter(|line| line.contains("cmd=eval")).count() > 0
    {
        assert!(begun.elapsed() < PATIENCE);
    }
    assert!(elsewhere.get(SILENCEPER).await.is_some());
}
