//! What operators and clients see when WeChat does not give a token, or does not answer.
//!
//! How often a sick account's token is asked for within an hour is a matter of the paused clock, and tested with the
//! keeper; here only that requests do not set the pace.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]
#![expect(clippy::format_collect, reason = "a digest is short")]

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::join_all;
use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::Value;
use weigate::sandbox::{AccountKind, Control, Fault, FaultDoes, Sandbox, SandboxAccount};

use crate::harness::{
    APP_ID, APP_SECRET, Binary, CLIENT_KEY, PATIENCE, Setup, client, get, get_json, wait_ready, wechat,
    wechat_with, write_private,
};

const TOKEN_CALL: &str = "/cgi-bin/stable_token";
const API: &str = "/cgi-bin/user/info";
const API_CALL: &str = "/cgi-bin/user/info?openid=o6_bmjrPTlm6_2sgVt7hMZOPfL2M";
const OTHER_APP_ID: &str = "wxfedcba9876543210";

/// A way in which the token endpoint does not work.
struct Sickness {
    name: &'static str,
    strike: fn(&Control),
    /// `last.result`
    word: &'static str,
    /// In `last.advice`, in `/readyz` and, for what a person has to cure, in the log.
    advice: &'static str,
    /// What the log's one line says.
    message: &'static str,
    /// In that line.
    told: &'static str,
}

const SICKNESSES: [Sickness; 10] = [
    Sickness {
        name: "wrong secret",
        strike: |wechat| wechat.set_secret(APP_ID, "another-secret").unwrap(),
        word: "wrong_secret",
        advice: "the AppSecret is not this AppID's: compare it",
        message: "WeChat gives no token",
        told: "the AppSecret is not this AppID's: compare it",
    },
    Sickness {
        name: "wrong AppID",
        strike: |wechat| break_token_calls(wechat, FaultDoes::Errcode(40013)),
        word: "wrong_app_id",
        advice: "compare `app_id` with the account's settings page",
        message: "WeChat gives no token",
        told: "compare `app_id` with the account's settings page",
    },
    Sickness {
        name: "address not on the list",
        strike: |wechat| wechat.set_ip_allow_list(APP_ID, Some(Vec::new())).unwrap(),
        word: "ip_not_allowed",
        advice: "add 127.0.0.1 to the account's IP allow-list",
        message: "WeChat gives no token",
        told: "add 127.0.0.1 to the account's IP allow-list",
    },
    Sickness {
        name: "frozen secret",
        strike: |wechat| wechat.freeze(APP_ID).unwrap(),
        word: "secret_frozen",
        advice: "unfreeze it on the account's development settings page",
        message: "WeChat gives no token",
        told: "unfreeze it on the account's development settings page",
    },
    Sickness {
        name: "quota gone",
        strike: |wechat| wechat.set_daily_limit(APP_ID, TOKEN_CALL, Some(0)).unwrap(),
        word: "daily_quota",
        advice: "find the program that fetches its token in a loop",
        message: "WeChat gives no token",
        told: "find the program that fetches its token in a loop",
    },
    Sickness {
        name: "garbage",
        strike: |wechat| break_token_calls(wechat, FaultDoes::Garbage),
        word: "unreachable",
        advice: "check DNS, firewall and TLS",
        message: "could not fetch the token",
        told: "the token endpoint gave no answer",
    },
    Sickness {
        name: "empty 200",
        strike: |wechat| break_token_calls(wechat, FaultDoes::Empty),
        word: "malformed",
        advice: "something other than WeChat seems to answer",
        message: "could not fetch the token",
        told: "the reply to the token call is malformed: it is empty",
    },
    Sickness {
        name: "oversize",
        strike: |wechat| break_token_calls(wechat, FaultDoes::Oversize(10 << 20)),
        word: "malformed",
        advice: "something other than WeChat seems to answer",
        message: "could not fetch the token",
        told: "the reply to the token call is malformed: it is longer than 64 KiB",
    },
    Sickness {
        name: "a token that is too long",
        strike: |wechat| break_token_calls(wechat, FaultDoes::Oversize(2000)),
        word: "malformed",
        advice: "something other than WeChat seems to answer",
        message: "could not fetch the token",
        told: "its access_token is not one",
    },
    Sickness {
        name: "close within the body",
        strike: |wechat| break_token_calls(wechat, FaultDoes::CutBody(20)),
        word: "unreachable",
        advice: "check DNS, firewall and TLS",
        message: "could not fetch the token",
        told: "the token endpoint gave no answer",
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_requests_are_refused_at_once_and_operators_are_told_why() {
    join_all(SICKNESSES.iter().map(check_without_a_token)).await;
}

async fn check_without_a_token(sickness: &Sickness) {
    let name = sickness.name;
    let wechat = mini_program().await;
    (sickness.strike)(wechat.control());
    let binary = spawn_unready(&Setup::new(), &wechat);
    let last = wait_for(binary.admin, "shop", sickness.word).await;
    assert!(last["advice"].as_str().unwrap().contains(sickness.advice), "{name}: {last}");

    let client = client();
    for _ in 0..200 {
        let answer = client.get(binary.url(API_CALL)).bearer_auth(CLIENT_KEY).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{name}");
        assert_eq!(answer.headers()["x-weigate-error"], "no_token", "{name}");
        let retry_after: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!(retry_after >= 1, "{name}");
        let body = answer.text().await.unwrap();
        assert!(body.starts_with(r#"{"errcode":-99503,"errmsg":"weigate: "#), "{name}: {body}");
    }
    assert_few_token_calls(&wechat, name);
    assert_eq!(wechat.control().counters().requests_at(API), 0, "{name}");

    let ready = client.get(format!("http://{}/readyz", binary.admin)).send().await.unwrap();
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE, "{name}");
    let words = ready.text().await.unwrap();
    assert!(words.contains("account shop has no live token"), "{name}: {words}");
    assert!(words.contains(sickness.word) && words.contains(sickness.advice), "{name}: {words}");
    assert_one_line(&binary, sickness).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_token_serves_on_while_no_new_one_can_be_had() {
    join_all(SICKNESSES.iter().map(check_with_a_live_token)).await;
}

async fn check_with_a_live_token(sickness: &Sickness) {
    let name = sickness.name;
    let wechat = mini_program().await;
    let binary = Setup::new().spawn(&wechat).await;
    (sickness.strike)(wechat.control());
    // An API that calls a good token bad once is what makes weigate ask for another.
    let once = Fault { count: Some(1), ..fault(API, FaultDoes::Errcode(40001)) };
    wechat.control().add_fault(once);
    assert_eq!(get_json(&binary.url(API_CALL)).await["errcode"], 40001, "{name}");
    let last = wait_for(binary.admin, "shop", sickness.word).await;
    assert!(last["advice"].as_str().unwrap().contains(sickness.advice), "{name}: {last}");

    assert_all_served(&binary.url(API_CALL), 200).await;
    wait_ready(binary.admin).await;
    assert_few_token_calls(&wechat, name);
    assert_one_line(&binary, sickness).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_endpoint_that_hangs_keeps_requests_waiting_no_longer_than_they_may() {
    let wechat = wechat().await;
    break_token_calls(wechat.control(), FaultDoes::Hang);
    let binary = spawn_unready(&Setup::new().server("limits = { request_ms_max = 1000 }"), &wechat);
    let url = binary.url(API_CALL);
    for answer in join_all((0..200).map(|_| get(&url))).await {
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()["x-weigate-error"], "no_token");
        assert!(answer.headers().contains_key("retry-after"));
    }
    assert_eq!(shop(binary.admin).await["in_flight"], true);
    assert_few_token_calls(&wechat, "hang");
    // The fetch itself gives up after 10 s.
    let last = wait_for(binary.admin, "shop", "timed_out").await;
    assert!(last["advice"].as_str().unwrap().contains("packets are dropped on the way"), "{last}");
    let line = binary.logged(|line| line.contains("could not fetch the token")).await;
    assert!(line.contains("the token endpoint gave no answer in time"), "{line}");
    assert_few_token_calls(&wechat, "hang");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_token_serves_on_while_the_token_endpoint_hangs() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    break_token_calls(wechat.control(), FaultDoes::Hang);
    wechat.control().add_fault(Fault { count: Some(1), ..fault(API, FaultDoes::Errcode(40001)) });
    // This one waits for another token, in vain; nobody else does.
    let url = proxy.url(API_CALL);
    let hasty = tokio::spawn(async move { get(&url).await });
    wechat
        .control()
        .wait_until(|counters| counters.in_flight == 1 && counters.errcodes.contains_key(&40001))
        .await;
    assert_all_served(&proxy.url(API_CALL), 200).await;
    assert_few_token_calls(&wechat, "hang");
    hasty.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_reply_of_the_token_endpoint_is_as_good_as_another() {
    let wechat = wechat().await;
    break_token_calls(wechat.control(), FaultDoes::Chunked);
    let proxy = Setup::new().start(&wechat).await;
    assert_all_served(&proxy.url(API_CALL), 3).await;
    assert_eq!(shop(proxy.admin).await["last"]["result"], "renewed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_gets_well_by_itself_when_the_fault_passes() {
    let wechat = wechat().await;
    break_token_calls(wechat.control(), FaultDoes::Status(502));
    let proxy = Setup::new().start_unready(&wechat).await;
    wait_for(proxy.admin, "shop", "malformed").await;
    wechat.control().clear_faults();
    proxy.wait_ready().await;
    assert_all_served(&proxy.url(API_CALL), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_cured_by_the_right_one_and_a_hangup() {
    let wechat = wechat().await;
    let setup = Setup::new();
    let path = setup.write(&wechat);
    write_private(&setup.dir.path().join("secret"), "not-the-secret-at-all");
    let binary = Binary::spawn(&path, Arc::clone(&setup.dir), |_| {});
    wait_for(binary.admin, "shop", "wrong_secret").await;
    write_private(&binary.dir.path().join("secret"), APP_SECRET);
    binary.signal(Signal::HUP);
    wait_ready(binary.admin).await;
    assert_all_served(&binary.url(API_CALL), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_sick_account_never_touches_another() {
    // The others break the endpoint for both.
    let of_one_account = ["wrong_secret", "ip_not_allowed", "secret_frozen", "daily_quota"];
    for sickness in SICKNESSES.iter().filter(|sickness| of_one_account.contains(&sickness.word)) {
        let name = sickness.name;
        let wechat = wechat_with(|mut options| {
            let shop = SandboxAccount::new(APP_ID, APP_SECRET).of_kind(AccountKind::MiniProgram);
            options.accounts = vec![shop, SandboxAccount::new(OTHER_APP_ID, "the-others-secret")];
            options
        })
        .await;
        (sickness.strike)(wechat.control());
        let digest: String =
            weigate::clients::digest(CLIENT_KEY).iter().map(|byte| format!("{byte:02x}")).collect();
        let setup = Setup::new().clients(&format!(
            "[[clients]]\nname = \"orders\"\naccounts = [\"shop\", \"game\"]\nkey_sha256 = \"{digest}\"\n\
             [[accounts]]\nname = \"game\"\napp_id = \"{OTHER_APP_ID}\"\napp_secret_file = \"game-secret\"\n"
        ));
        write_private(&setup.dir.path().join("game-secret"), "the-others-secret");
        let proxy = setup.start_unready(&wechat).await;
        wait_for(proxy.admin, "shop", sickness.word).await;
        wait_for(proxy.admin, "game", "renewed").await;

        let well = proxy.url(&format!("/@game{API_CALL}"));
        let ill = proxy.url(&format!("/@shop{API_CALL}"));
        for _ in 0..10 {
            assert_eq!(get(&ill).await.status(), StatusCode::SERVICE_UNAVAILABLE, "{name}");
            assert_all_served(&well, 10).await;
        }
        let words = client()
            .get(format!("http://{}/readyz", proxy.admin))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        assert!(words.contains("account shop ") && !words.contains("account game "), "{name}: {words}");
        assert_eq!(proxy.metric("weigate_token_alive{account=\"game\"}").await, 1, "{name}");
        assert_eq!(proxy.metric("weigate_token_alive{account=\"shop\"}").await, 0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_gone_is_a_502_and_the_log_says_so() {
    let wechat = wechat().await;
    let binary = Setup::new().spawn(&wechat).await;
    wechat.stop().await;
    let answer = get(&binary.url(API_CALL)).await;
    assert_refusal(answer, StatusCode::BAD_GATEWAY, "upstream_unreachable").await;
    let line = binary.logged(|line| line.contains("upstream_unreachable")).await;
    assert!(line.contains("no upstream host can be reached (refused)"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_hangs_is_a_504() {
    let wechat = wechat().await;
    let proxy = Setup::new().server("limits = { request_ms_max = 1000 }").start(&wechat).await;
    wechat.control().add_fault(fault(API, FaultDoes::Hang));
    let post = client().post(proxy.url(API_CALL)).bearer_auth(CLIENT_KEY).body("{}").send().await.unwrap();
    assert_refusal(post, StatusCode::GATEWAY_TIMEOUT, "upstream_timeout").await;
    assert_refusal(get(&proxy.url(API_CALL)).await, StatusCode::GATEWAY_TIMEOUT, "upstream_timeout").await;
    wechat.control().clear_faults();
    assert_all_served(&proxy.url(API_CALL), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_is_none_is_a_502_and_a_post_is_not_sent_again() {
    for does in [FaultDoes::Garbage, FaultDoes::Close, FaultDoes::ActThenClose, FaultDoes::CutBody(10)] {
        let wechat = wechat().await;
        let proxy = Setup::new().start(&wechat).await;
        wechat.control().add_fault(fault(API, does.clone()));
        let post =
            client().post(proxy.url(API_CALL)).bearer_auth(CLIENT_KEY).body("{}").send().await.unwrap();
        assert_refusal(post, StatusCode::BAD_GATEWAY, "upstream_broken").await;
        assert_eq!(wechat.control().counters().requests_at(API), 1, "{does:?}");
        assert_refusal(get(&proxy.url(API_CALL)).await, StatusCode::BAD_GATEWAY, "upstream_broken").await;
        wechat.control().clear_faults();
        assert_all_served(&proxy.url(API_CALL), 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_reply_that_breaks_off_never_looks_whole() {
    for how in [FaultDoes::CutBody(1_500_000), FaultDoes::CutBody(2_999_999)] {
        let wechat = wechat().await;
        wechat.control().set_media("m", 3_000_000, "image/jpeg");
        let proxy = Setup::new().start(&wechat).await;
        let url = proxy.url("/cgi-bin/media/get?media_id=m");
        assert_eq!(get(&url).await.bytes().await.unwrap().len(), 3_000_000);
        wechat.control().add_fault(fault("/cgi-bin/media/get", how.clone()));
        let broken = get(&url).await;
        assert_eq!(broken.status(), StatusCode::OK);
        assert!(broken.bytes().await.is_err(), "{how:?}");
    }
}

// === helpers ===

fn fault(path: &str, does: FaultDoes) -> Fault {
    Fault { path: path.to_owned(), method: None, skip: 0, count: None, does }
}

fn break_token_calls(wechat: &Control, does: FaultDoes) {
    wechat.add_fault(fault(TOKEN_CALL, does));
}

/// An account whose allow-list covers token calls only, so that a live token serves on.
async fn mini_program() -> Sandbox {
    wechat_with(|mut options| {
        options.accounts = vec![SandboxAccount::new(APP_ID, APP_SECRET).of_kind(AccountKind::MiniProgram)];
        options
    })
    .await
}

fn spawn_unready(setup: &Setup, wechat: &Sandbox) -> Binary {
    let path = setup.write(wechat);
    Binary::spawn(&path, Arc::clone(&setup.dir), |_| {})
}

async fn accounts(admin: SocketAddr) -> Value {
    get_json(&format!("http://{admin}/accounts")).await
}

async fn shop(admin: SocketAddr) -> Value {
    accounts(admin).await["accounts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == "shop")
        .unwrap()
        .clone()
}

/// Waits until the account's last token call ended so; what is shown of it.
async fn wait_for(admin: SocketAddr, account: &str, word: &str) -> Value {
    let started = tokio::time::Instant::now();
    loop {
        let page = accounts(admin).await;
        let shown = page["accounts"].as_array().unwrap().iter().find(|one| one["name"] == account).unwrap();
        if shown["last"]["result"] == word {
            return shown["last"].clone();
        }
        assert!(started.elapsed() < PATIENCE, "{word} did not come: {page}");
        tokio::task::yield_now().await;
    }
}

async fn assert_all_served(url: &str, count: usize) {
    let client = client();
    for _ in 0..count {
        let answer = client.get(url).bearer_auth(CLIENT_KEY).timeout(PATIENCE).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert_eq!(body["openid"], "o6_bmjrPTlm6_2sgVt7hMZOPfL2M", "{body}");
    }
}

async fn assert_refusal(answer: reqwest::Response, status: StatusCode, word: &str) {
    assert_eq!(answer.status(), status);
    assert_eq!(answer.headers()["x-weigate-error"], word);
    let body = answer.text().await.unwrap();
    assert!(
        body.starts_with(&format!("{{\"errcode\":-99{},\"errmsg\":\"weigate: ", status.as_u16())),
        "{body}"
    );
}

/// Time sets the pace, not requests: a few tries on a slow machine, never one per request.
fn assert_few_token_calls(wechat: &Sandbox, name: &str) {
    let calls = wechat.control().counters().token_calls_at(TOKEN_CALL);
    assert!((1..=12).contains(&calls), "{name}: {calls} token calls");
}

/// What a person has to cure is one line at `error`; what may pass by itself one at `warn`, once a minute.
async fn assert_one_line(binary: &Binary, sickness: &Sickness) {
    let line = binary.logged(|line| line.contains(sickness.message)).await;
    let event: Value = serde_json::from_str(&line).unwrap();
    let is_for_a_person = sickness.message == "WeChat gives no token";
    assert_eq!(event["level"], if is_for_a_person { "ERROR" } else { "WARN" }, "{line}");
    assert_eq!(event["account"], "shop", "{line}");
    assert!(line.contains(sickness.told), "{}: {line}", sickness.name);
    let count = binary.log().matches(sickness.message).count();
    assert_eq!(count, 1, "{}:\n{}", sickness.name, binary.log());
}
