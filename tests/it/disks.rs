//! A disk that fails under the file store: requests notice nothing, operators do, and nobody has to restart it.

#![expect(clippy::unwrap_used, reason = "tests may panic")]

use std::path::Path;
use std::sync::Arc;

use futures_util::future::join_all;
use rustix::process::Signal;
use weigate::sandbox::{Endpoint, Sandbox};

use crate::harness::{
    APP_ID, Binary, CLIENT_KEY, PATIENCE, STABLE_TOKEN, Setup, client, metric, until, wait_ready, wechat,
};
use crate::tools::{Trap, trap, untrap};

/// How the disk fails: the call, its error, and the file in the state directory that it is about.
const FAULTS: [(&str, &str, &str); 8] = [
    ("write", "ENOSPC", ".shop.token.tmp"),
    ("openat", "ENOSPC", ".shop.token.tmp"),
    ("openat", "EROFS", ".shop.token.tmp"),
    ("openat", "EACCES", ".shop.token.tmp"),
    ("write", "EIO", ".shop.token.tmp"),
    ("fsync", "EIO", ".shop.token.tmp"),
    ("rename", "EROFS", ".shop.token.tmp"),
    ("unlink", "EIO", ".shop.token.tmp"),
];

const SAVES_FAILED: &str = "weigate_store_saves_failed_total{account=\"shop\"}";

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_costs_no_request_and_heals_without_a_restart() {
    join_all(FAULTS.iter().map(|(call, error, file)| check_fault(call, error, file))).await;
}

async fn check_fault(call: &str, error: &str, file: &str) {
    let case = format!("{call} {error}");
    let wechat = wechat().await;
    let setup = Setup::new().with_file_store();
    let config = setup.write(&wechat);
    let state = setup.dir.path().join("state");
    let fails = Trap {
        paths: vec![state.join(file)],
        calls: call.to_owned(),
        does: Some(format!("error={error}")),
        written_to: None,
    };
    let mut binary = Binary::spawn(&config, Arc::clone(&setup.dir), |command| trap(command, &fails));
    wait_ready(binary.admin).await;
    saves_failed(&binary, 1).await;
    assert_all_served(&binary, &case).await;

    // One more token, which cannot be stored either.
    renew(&wechat, &binary, &case).await;
    saves_failed(&binary, 2).await;
    assert_all_served(&binary, &case).await;
    assert!(!state.join("shop.token").exists(), "{case}");
    let line = binary.logged(|line| line.contains("could not store the token")).await;
    assert!(line.contains("\"account\":\"shop\"") && line.contains("os error"), "{line}");

    // The disk is well again: the next token is stored.
    untrap(&binary).await;
    renew(&wechat, &binary, &case).await;
    let newest = wechat.control().current_token(APP_ID, Endpoint::StableToken).unwrap().unwrap();
    wait_for_text(&state.join("shop.token"), &newest).await;
    assert_all_served(&binary, &case).await;
    assert_eq!(metric(binary.admin, SAVES_FAILED).await, 2, "{case}");
    let counters = until(&wechat, |counters| counters.in_flight == 0).await;
    assert_eq!((counters.token_calls_at(STABLE_TOKEN), counters.bad_token_calls), (3, 2), "{case}");

    binary.signal(Signal::TERM);
    assert!(tokio::task::block_in_place(|| binary.wait()).success(), "{case}\n{}", binary.log());
    let mut names: Vec<_> = std::fs::read_dir(&state)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, [".lock", "placeholder-key.blob", "shop.token"], "{case}");

    // What was stored at last is what the next process takes.
    let again = Binary::spawn(&config, Arc::clone(&setup.dir), |_| {});
    wait_ready(again.admin).await;
    assert_all_served(&again, &case).await;
    assert_eq!(wechat.control().counters().token_calls_at(STABLE_TOKEN), 3, "{case}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_full_disk_takes_what_is_stored_and_serves() {
    let wechat = wechat().await;
    let setup = Setup::new().with_file_store();
    let config = setup.write(&wechat);
    let state = setup.dir.path().join("state");
    let mut first = Binary::spawn(&config, Arc::clone(&setup.dir), |_| {});
    wait_ready(first.admin).await;
    let newest = wechat.control().current_token(APP_ID, Endpoint::StableToken).unwrap().unwrap();
    wait_for_text(&state.join("shop.token"), &newest).await;
    first.signal(Signal::TERM);
    assert!(tokio::task::block_in_place(|| first.wait()).success());

    let full = Trap {
        paths: [".shop.token.tmp", ".placeholder-key.blob.tmp"].map(|name| state.join(name)).to_vec(),
        calls: "write".to_owned(),
        does: Some("error=ENOSPC".to_owned()),
        written_to: None,
    };
    let binary = Binary::spawn(&config, Arc::clone(&setup.dir), |command| trap(command, &full));
    wait_ready(binary.admin).await;
    assert_all_served(&binary, "full at the start").await;
    assert_eq!(wechat.control().counters().token_calls_at(STABLE_TOKEN), 1);
    assert_eq!(metric(binary.admin, SAVES_FAILED).await, 0, "nothing had to be stored");
}

// === helpers ===

/// The token dies; the request that finds it dead is answered all the same, with the next one.
async fn renew(wechat: &Sandbox, binary: &Binary, case: &str) {
    wechat.control().revoke_tokens(APP_ID).unwrap();
    assert_served(binary, &client(), case).await;
}

async fn assert_all_served(binary: &Binary, case: &str) {
    let client = client();
    for _ in 0..50 {
        assert_served(binary, &client, case).await;
    }
}

async fn assert_served(binary: &Binary, client: &reqwest::Client, case: &str) {
    let url = binary.url("/cgi-bin/user/info?openid=o6");
    let answer = client.get(url).bearer_auth(CLIENT_KEY).timeout(PATIENCE).send().await.unwrap();
    let text = answer.text().await.unwrap();
    assert!(text.contains(r#""openid":"o6""#), "{case}: {text}");
}

async fn saves_failed(binary: &Binary, count: u64) {
    let started = tokio::time::Instant::now();
    while metric(binary.admin, SAVES_FAILED).await != count {
        assert!(started.elapsed() < PATIENCE, "never {count} failed saves:\n{}", binary.log());
    }
}

async fn wait_for_text(path: &Path, text: &str) {
    let started = tokio::time::Instant::now();
    while !std::fs::read_to_string(path).is_ok_and(|found| found.contains(text)) {
        assert!(started.elapsed() < PATIENCE, "{} was never stored", path.display());
        tokio::task::yield_now().await;
    }
}
