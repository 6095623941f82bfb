//! `grant = "token"`: every call of `/cgi-bin/token` ends the token before, so there are as few as can be.

#![expect(clippy::unwrap_used, reason = "tests may panic")]

use std::process::Command;

use serde_json::Value;
use weigate::sandbox::{Counters, Endpoint, Fault, FaultDoes, Sandbox, When};

use crate::harness::{APP_ID, CLIENT_KEY, PATIENCE, Proxy, STABLE_TOKEN, Setup, client, get, until, wechat};

const TOKEN: &str = "/cgi-bin/token";
const API: &str = "/cgi-bin/user/info?openid=o1";

/// weigate with the account `shop` on `/cgi-bin/token`.
async fn proxy(wechat: &Sandbox, setup: Setup) -> Proxy {
    let path = setup.write(wechat);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("name = \"shop\"\n", "name = \"shop\"\ngrant = \"token\"\n")).unwrap();
    let proxy = Proxy::begin(setup.dir).await;
    proxy.wait_ready().await;
    proxy
}

/// Of the account, at both endpoints.
fn calls(wechat: &Sandbox) -> (u64, u64) {
    // `check` knocks at /cgi-bin/token without an AppID, too.
    let calls = wechat.control().counters().token_calls;
    let at = |endpoint| calls.get(endpoint).and_then(|by_account| by_account.get(APP_ID)).copied();
    (at(TOKEN).unwrap_or(0), at(STABLE_TOKEN).unwrap_or(0))
}

/// The errcode, if there is one, and whether the request went twice.
async fn ask(proxy: &Proxy, path_and_query: &str) -> (i64, bool) {
    let answer = get(&proxy.url(path_and_query)).await;
    let twice = answer.headers().contains_key("x-weigate-attempts");
    let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    (answer.get("errcode").and_then(Value::as_i64).unwrap_or(0), twice)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_at_the_start_one_for_a_token_that_was_refused_and_none_for_a_restart() {
    let wechat = wechat().await;
    let setup = Setup::new().with_file_store();
    let dir = std::sync::Arc::clone(&setup.dir);
    let running = proxy(&wechat, setup).await;
    assert_eq!(calls(&wechat), (1, 0));
    assert_eq!(ask(&running, API).await, (0, false));

    // The older system fetches twice: ours is dead.
    for _ in 0..2 {
        wechat.control().rotate_from_outside(APP_ID, Endpoint::Token).unwrap();
    }
    let asked: Vec<_> = (0..50).map(|_| ask(&running, API)).collect();
    for answer in futures_util::future::join_all(asked).await {
        assert_eq!(answer.0, 0);
    }
    assert_eq!(calls(&wechat), (2, 0), "one renewal for all who were refused");
    running.stop().await;

    let again = Proxy::begin(dir).await;
    again.wait_ready().await;
    assert_eq!(ask(&again, API).await, (0, false));
    assert_eq!(calls(&wechat), (2, 0), "the stored token was used");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_on_its_way_with_the_old_token_is_not_disturbed_by_a_renewal() {
    let wechat = wechat().await;
    let proxy = proxy(&wechat, Setup::new()).await;
    let hold = wechat.control().hold("/cgi-bin/user/*", When::BeforeJudging);
    let url = proxy.url(API);
    let on_its_way = tokio::spawn(async move {
        client().get(url).bearer_auth(CLIENT_KEY).timeout(PATIENCE).send().await.unwrap()
    });
    until(&wechat, |counters: &Counters| counters.held == 1).await;

    let path = "/cgi-bin/menu/get".to_owned();
    let does = FaultDoes::Errcode(42001);
    wechat.control().add_fault(Fault { path, method: None, skip: 0, count: Some(1), does });
    assert_eq!(ask(&proxy, "/cgi-bin/menu/get").await, (46003, true));
    assert_eq!(calls(&wechat), (2, 0));
    assert!(wechat.control().release(hold));
    let answer = on_its_way.await.unwrap();
    assert!(answer.status() == 200 && !answer.headers().contains_key("x-weigate-attempts"));
    assert_eq!(wechat.control().counters().bad_token_calls, 0, "WeChat keeps the old token for its overlap");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_says_40001_whatever_the_token_costs_one_renewal() {
    let wechat = wechat().await;
    let proxy = proxy(&wechat, Setup::new()).await;
    let body = r#"{"action":"long2short","long_url":"https://example.com/?access_token=mine"}"#;
    for turn in 0..20 {
        let asked = client().post(proxy.url("/cgi-bin/shorturl")).bearer_auth(CLIENT_KEY).body(body);
        let answer = asked.timeout(PATIENCE).send().await.unwrap();
        assert_eq!(answer.headers().contains_key("x-weigate-attempts"), turn == 0, "{turn}");
        assert!(answer.text().await.unwrap().contains("40001"));
    }
    assert_eq!(calls(&wechat), (2, 0));
    // Others still may ask.
    wechat.control().revoke_tokens(APP_ID).unwrap();
    assert_eq!(ask(&proxy, API).await, (0, true));
    assert_eq!(calls(&wechat), (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_online_does_not_end_the_token_in_use() {
    let wechat = wechat().await;
    let setup = Setup::new();
    let dir = std::sync::Arc::clone(&setup.dir);
    let proxy = proxy(&wechat, setup).await;
    let path = dir.path().join("proxy.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_weigate"));
    command.args(["check", "--online", "-c", path.to_str().unwrap()]);
    let ran = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success() && said.contains("good  token call of account shop"), "{said}");
    assert_eq!(calls(&wechat), (1, 1));
    assert_eq!(ask(&proxy, API).await, (0, false));
}
