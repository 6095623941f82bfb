//! What outlives the process: tokens and placeholders, whatever the end, and whatever was done to the files since.

use std::path::Path;
use std::sync::Arc;

use futures_util::StreamExt as _;
use rustix::process::Signal;
use weigate::sandbox::Sandbox;

use crate::harness::{
    APP_ID, Binary, CLIENT_KEY, Proxy, STABLE_TOKEN, Setup, client, get_json, placeholder, until, wait_ready,
    wechat,
};

fn token_calls(wechat: &Sandbox) -> u64 {
    wechat.control().counters().token_calls_at(STABLE_TOKEN)
}

/// The token is saved beside the request's way; this is where it lands.
async fn wait_for_saved(dir: &Path) {
    let started = tokio::time::Instant::now();
    while !dir.join("state/shop.token").exists() {
        assert!(started.elapsed() < crate::harness::PATIENCE, "the token was never saved");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_costs_no_token_call_even_after_a_kill() {
    let wechat = wechat().await;
    let mut weigate = Setup::new().with_file_store().spawn(&wechat).await;
    let sdk = format!("/cgi-bin/token?grant_type=client_credential&appid={APP_ID}&secret={CLIENT_KEY}");
    let placeholder = get_json(&weigate.url(&sdk)).await["access_token"].as_str().unwrap().to_owned();
    for turn in 0..3 {
        let url = weigate.url(&format!("/cgi-bin/user/info?openid=o{turn}&access_token={placeholder}"));
        let answer = client().get(url).send().await.unwrap();
        assert!(answer.text().await.unwrap().contains(&format!(r#""openid":"o{turn}""#)));
        let dir = Arc::clone(&weigate.dir);
        wait_for_saved(dir.path()).await;
        weigate.signal(Signal::KILL);
        tokio::task::block_in_place(|| weigate.wait());
        weigate = Binary::spawn(&dir.path().join("proxy.toml"), dir, |_| {});
        wait_ready(weigate.admin).await;
        weigate.wait_for_log("took the stored token").await;
    }
    let counters = until(&wechat, |counters| counters.in_flight == 0).await;
    assert_eq!((counters.token_calls_at(STABLE_TOKEN), counters.bad_token_calls), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_revoked_while_weigate_was_down_costs_one_second_try() {
    let wechat = wechat().await;
    let proxy = Setup::new().with_file_store().start(&wechat).await;
    let dir = Arc::clone(&proxy.dir);
    wait_for_saved(dir.path()).await;
    assert!(proxy.stop().await);
    wechat.control().revoke_tokens(APP_ID).unwrap();
    let proxy = Proxy::begin(dir).await;
    proxy.wait_ready().await;
    assert_eq!(get_json(&proxy.url("/cgi-bin/user/info?openid=o6")).await["openid"], "o6");
    assert_eq!(token_calls(&wechat), 2);
}

/// What was done to a file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    CutAt(usize),
    FlippedBit(usize),
    Emptied,
    Zeroed,
    Doubled,
    MadeADirectory,
    Removed,
}

// === impl Damage ===

impl Damage {
    fn is_done_to(self, path: &Path) {
        let mut bytes = std::fs::read(path).unwrap();
        match self {
            Self::CutAt(at) => bytes.truncate(at % bytes.len()),
            Self::FlippedBit(at) => {
                let at = at % (bytes.len() * 8);
                bytes[at / 8] ^= 1 << (at % 8);
            }
            Self::Emptied => bytes.clear(),
            Self::Zeroed => bytes.fill(0),
            Self::Doubled => bytes.extend_from_within(..),
            Self::MadeADirectory => {
                std::fs::remove_file(path).unwrap();
                return std::fs::create_dir(path).unwrap();
            }
            Self::Removed => return std::fs::remove_file(path).unwrap(),
        }
        std::fs::write(path, bytes).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_state_file_is_noticed_and_replaced_and_never_believed() {
    let wechat = wechat().await;
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let cuts = (0..14).map(|_| Damage::CutAt(random.usize(..)));
    let mut damages: Vec<_> = cuts.collect();
    damages.extend((0..22).map(|_| Damage::FlippedBit(random.usize(..))));
    damages.extend([Damage::Emptied, Damage::Zeroed, Damage::Doubled, Damage::Removed]);
    let cases =
        damages.into_iter().flat_map(|damage| [(damage, "shop.token"), (damage, "placeholder-key.blob")]);
    let count = futures_util::stream::iter(cases)
        .map(|(damage, file)| check_damage(&wechat, damage, file))
        .buffer_unordered(8)
        .count()
        .await;
    assert_eq!(count, 80);
    // One for each start with nothing, and one for each token that was damaged.
    assert_eq!(token_calls(&wechat), 80 + 40, "seed {seed}");
    assert_eq!(wechat.control().counters().bad_token_calls, 0, "seed {seed}");
}

async fn check_damage(wechat: &Sandbox, damage: Damage, file: &str) {
    let proxy = Setup::new().with_file_store().start(wechat).await;
    let before = placeholder(&proxy, APP_ID, CLIENT_KEY).await;
    let dir = Arc::clone(&proxy.dir);
    wait_for_saved(dir.path()).await;
    assert!(proxy.stop().await);
    damage.is_done_to(&dir.path().join("state").join(file));

    let proxy = Proxy::begin(dir).await;
    proxy.wait_ready().await;
    let answer = get_json(&proxy.url("/cgi-bin/user/info?openid=o6")).await;
    assert_eq!(answer["openid"], "o6", "{damage:?} {file}");
    let url = proxy.url(&format!("/wxa/x?access_token={before}"));
    let status = client().get(url).send().await.unwrap().status();
    let expected = if file == "shop.token" { 200 } else { 401 };
    assert_eq!(status, expected, "{damage:?} {file}: a placeholder lives as long as its key");
    drop(placeholder(&proxy, APP_ID, CLIENT_KEY).await);
    assert!(proxy.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_file_that_cannot_be_read_at_all_does_not_keep_weigate_from_serving() {
    let wechat = wechat().await;
    let proxy = Setup::new().with_file_store().start(&wechat).await;
    let dir = Arc::clone(&proxy.dir);
    wait_for_saved(dir.path()).await;
    assert!(proxy.stop().await);
    Damage::MadeADirectory.is_done_to(&dir.path().join("state/shop.token"));
    let proxy = Proxy::begin(dir).await;
    proxy.wait_ready().await;
    assert_eq!(get_json(&proxy.url("/cgi-bin/user/info?openid=o6")).await["openid"], "o6");
    assert_eq!(token_calls(&wechat), 2);
}
