//! The leaked button over HTTP and in the terminal: what it answers, whom it lets press it, and what it leaves behind.

#![expect(clippy::unwrap_used, reason = "tests may panic")]

use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};
use weigate::sandbox::{AccountKind, SandboxAccount};

use crate::harness::{APP_SECRET, PATIENCE, Setup, client, get_json, until, wechat_with, write_private};

const WHY: &str = r#"{"by":"ann","why":"seen in a log: 92_Canary-Leaked-Token-9f8e7d6c5b4a39281706f5e4d3"}"#;

/// Presses; status and body.
async fn press(
    admin: std::net::SocketAddr,
    account: &str,
    fields: &[(&str, &str)],
    body: &str,
) -> (u16, String) {
    let mut asked = client().post(format!("http://{admin}/accounts/{account}/leaked")).body(body.to_owned());
    for (name, value) in fields {
        asked = asked.header(*name, *value);
    }
    let answer = asked.timeout(PATIENCE).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_press_is_answered_at_once_done_in_the_background_logged_without_secrets_and_survives_a_restart() {
    let wechat = wechat_with(|mut options| {
        options.accounts.push(SandboxAccount::new("ww1", "corp-secret").of_kind(AccountKind::WeCom));
        options
    })
    .await;
    let setup = Setup::new().with_file_store().and(
        "[[accounts]]\nname = \"corp\"\napp_id = \"ww1\"\napp_secret_file = \"corp\"\ngrant = \"wecom\"",
    );
    write_private(&setup.dir.path().join("corp"), "corp-secret");
    let dir = Arc::clone(&setup.dir);
    let mut binary = setup.spawn(&wechat).await;
    let json = ("content-type", "application/json");
    assert_eq!(wechat.control().counters().forced, 0);

    // Nobody's page, form or typing error presses it.
    let own = format!("http://{}", binary.admin);
    for (account, fields, body, status) in [
        ("shop", &[("content-type", "text/plain")][..], WHY, 415),
        ("shop", &[("content-type", "application/x-www-form-urlencoded")], "by=ann", 415),
        ("shop", &[], WHY, 415),
        ("shop", &[json, ("origin", "https://evil.example")], WHY, 403),
        ("shop", &[json, ("origin", "http://evil.example"), ("host", "evil.example")], WHY, 403),
        ("shop", &[json, ("origin", "null")], WHY, 403),
        ("shop", &[json], "by=ann", 400),
        ("shop", &[json], r#"{"by":1}"#, 400),
        ("game", &[json], WHY, 404),
        ("corp", &[json], WHY, 422),
    ] {
        let (code, said) = press(binary.admin, account, fields, body).await;
        assert_eq!(code, status, "{account} {fields:?} {body}: {said}");
        assert!(status != 422 || said.contains("reset the application's Secret"), "{said}");
    }
    assert_eq!(wechat.control().counters().forced, 0);

    let first = wechat.control().accounts()[0].stable_token.clone().unwrap();
    let (code, said) = press(binary.admin, "shop", &[json, ("origin", &own)], WHY).await;
    let answer: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (code, &answer["leaked"]["state"], &answer["leaked"]["calls_left"]),
        (202, &json!("running"), &json!(2))
    );
    assert!(answer["message"].as_str().unwrap().contains("31 s"), "{answer}");
    let (code, said) = press(binary.admin, "shop", &[json], WHY).await;
    assert!(code == 409 && said.contains("already"), "{code} {said}");
    until(&wechat, |counters| counters.forced == 1).await;
    binary.wait_for_log("forced a new token").await;
    let second = wechat.control().accounts()[0].stable_token.clone().unwrap();
    assert_ne!(first, second);
    let page = get_json(&format!("http://{}/accounts", binary.admin)).await;
    let shop = page["accounts"].as_array().unwrap().iter().find(|account| account["name"] == "shop").unwrap();
    assert_eq!((&shop["leaked"]["used"], &shop["leaked"]["calls_left"]), (&json!(1), &json!(1)));

    binary.signal(rustix::process::Signal::TERM);
    assert!(binary.wait().success());
    let log = binary.log();
    let audit: Vec<&str> = log.lines().filter(|line| line.contains("told that the token leaked")).collect();
    assert_eq!(audit.len(), 3, "{log}");
    assert!(audit.iter().all(|line| line.contains("\"by\":\"ann\"") && line.contains("seen in a log: …")));
    for secret in [first.as_str(), &second, "92_Canary", APP_SECRET] {
        assert!(!log.contains(secret), "{log}");
    }

    // The next process knows what is left to do, and does not do it too soon.
    the_next_process_goes_on(&dir).await;
    assert_eq!(wechat.control().counters().forced, 1, "30 s have not passed");
}

async fn the_next_process_goes_on(dir: &Arc<tempfile::TempDir>) {
    let again = crate::harness::Binary::spawn(&dir.path().join("proxy.toml"), Arc::clone(dir), |_| {});
    crate::harness::wait_ready(again.admin).await;
    let admin = format!("http://{}", again.admin);
    let run =
        |arguments: &[&str]| Command::new(env!("CARGO_BIN_EXE_weigate")).args(arguments).output().unwrap();
    let status = run(&["status", "--admin", &admin]);
    let shown = String::from_utf8(status.stdout).unwrap();
    assert!(shown.contains("leaked token of shop: running, 1 call(s) to come"), "{shown}");
    let pressed = run(&["leaked", "shop", "--admin", &admin, "--by", "bob", "--why", "test"]);
    assert_eq!(pressed.status.code(), Some(1));
    assert!(String::from_utf8(pressed.stderr).unwrap().contains("already being done"));
    let pressed = run(&["leaked", "corp", "--admin", &admin]);
    assert!(String::from_utf8(pressed.stderr).unwrap().contains("reset the application's Secret"));
    let pressed = run(&["leaked", "../x", "--admin", &admin]);
    assert!(String::from_utf8(pressed.stderr).unwrap().contains("no account's name"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_begins_it_and_says_what_will_happen() {
    let wechat = wechat_with(|options| options).await;
    let proxy = Setup::new().start(&wechat).await;
    let admin = format!("http://{}", proxy.admin);
    let mut command = Command::new(env!("CARGO_BIN_EXE_weigate"));
    command.args(["leaked", "shop", "--admin", &admin]);
    let ran = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success() && said.starts_with("shop: two new tokens are fetched"), "{said}");
    until(&wechat, |counters| counters.forced == 1).await;
}
