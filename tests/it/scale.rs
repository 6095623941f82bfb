//! Many accounts in one process: from files, by reload, on pages that do not grow.

#![expect(clippy::unwrap_used, reason = "tests may panic")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use weigate::config;
use weigate::sandbox::{Sandbox, SandboxAccount};

use crate::harness::{
    Proxy, STABLE_TOKEN, Setup, client, hex, metric, note, until, wechat_with, write_private,
};

const ACCOUNTS: usize = 1000;

fn app_id(number: usize) -> String {
    format!("wx{number:016}")
}

fn key(number: usize) -> String {
    format!("wgk_tenant-{number:06}")
}

async fn wechat_of(accounts: usize) -> Sandbox {
    let crowd = (0..accounts).map(|number| SandboxAccount::new(app_id(number), format!("secret-{number}")));
    wechat_with(|mut options| {
        options.accounts.extend(crowd);
        options
    })
    .await
}

/// A file for one tenant: its account, its client, its secret beside it.
fn tenant(dir: &Path, number: usize) {
    write_private(&dir.join(format!("t{number}.secret")), &format!("secret-{number}"));
    let (app_id, digest) = (app_id(number), hex(weigate::clients::digest(&key(number))));
    let text = format!(
        "[[accounts]]\nname = \"a{number:06}\"\napp_id = \"{app_id}\"\napp_secret_file = \"t{number}.secret\"\n\
         [[clients]]\nname = \"c{number:06}\"\nkey_sha256 = \"{digest}\"\naccounts = [\"a{number:06}\"]\n"
    );
    fs::write(dir.join(format!("t{number}.toml")), text).unwrap();
}

/// weigate with the account `shop` and these tenants, tokens in files.
fn setup(wechat: &Sandbox, tenants: std::ops::Range<usize>) -> Setup {
    let setup = Setup::new().with_file_store().log_level("warn");
    let dir = setup.dir.path().join("proxy.d");
    fs::create_dir(&dir).unwrap();
    tenants.for_each(|number| tenant(&dir, number));
    let file = setup.write(wechat);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(file, format!("include_dir = \"proxy.d\"\n{text}")).unwrap();
    setup
}

async fn started(setup: Setup) -> Proxy {
    let proxy = Proxy::begin(setup.dir).await;
    proxy.wait_ready().await;
    proxy
}

async fn reload(proxy: &mut Proxy) {
    let loaded = config::load(&proxy.dir.path().join("proxy.toml")).unwrap();
    proxy.app().reload(Ok(loaded.config)).await.unwrap();
}

async fn status_of(http: &reqwest::Client, proxy: &str, number: usize) -> u16 {
    let url = format!("{proxy}/cgi-bin/user/info?openid=o6_bmjrPTlm6_2sgVt7hMZOPfL2M");
    http.get(url).bearer_auth(key(number)).send().await.unwrap().status().as_u16()
}

/// Counts good and bad answers until it is told to stop.
async fn call_until(
    stop: Arc<AtomicBool>,
    http: reqwest::Client,
    url: String,
    number: usize,
    good: Arc<AtomicUsize>,
    bad: Arc<AtomicUsize>,
) {
    while !stop.load(Ordering::SeqCst) {
        let status = status_of(&http, &url, number).await;
        (if status == 200 { &good } else { &bad }).fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_accounts_are_fetched_once_and_taken_from_the_store_by_the_next_process() {
    let wechat = wechat_of(ACCOUNTS).await;
    let setup = setup(&wechat, 0..ACCOUNTS);
    let dir = Arc::clone(&setup.dir);
    let proxy = started(setup).await;
    let calls = until(&wechat, |seen| seen.token_calls_at(STABLE_TOKEN) > ACCOUNTS as u64)
        .await
        .token_calls_at(STABLE_TOKEN);
    assert_eq!(calls, ACCOUNTS as u64 + 1);
    let (http, url) = (client(), proxy.url(""));
    for number in (0..ACCOUNTS).step_by(7) {
        assert_eq!(status_of(&http, &url, number).await, 200, "{number}");
    }
    assert_eq!(metric(proxy.admin, "weigate_accounts_alive").await, ACCOUNTS as u64 + 1);
    assert!(proxy.stop().await);

    let before = tokio::time::Instant::now();
    let proxy = Proxy::begin(Arc::clone(&dir)).await;
    proxy.wait_ready().await;
    note(&format!("ready with {ACCOUNTS} stored accounts after {:?}", before.elapsed()));
    assert_eq!(status_of(&http, &proxy.url(""), ACCOUNTS - 1).await, 200);
    assert_eq!(
        wechat.control().counters().token_calls_at(STABLE_TOKEN),
        calls,
        "a warm store costs no token call"
    );
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_come_and_go_by_reload_while_requests_flow() {
    let wechat = wechat_of(40).await;
    let mut proxy = started(setup(&wechat, 0..20)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (good, bad) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    // Tenants 10 to 19 stay throughout.
    let callers: Vec<_> = (10..20)
        .map(|number| {
            let (stop, good, bad) = (Arc::clone(&stop), Arc::clone(&good), Arc::clone(&bad));
            let (http, url) = (client(), proxy.url(""));
            tokio::spawn(call_until(stop, http, url, number, good, bad))
        })
        .collect();
    let dir = proxy.dir.path().join("proxy.d");
    for round in 0..4 {
        let (leaving, coming) = (round * 2, 20 + round * 5);
        for number in [leaving, leaving + 1] {
            fs::remove_file(dir.join(format!("t{number}.toml"))).unwrap();
        }
        (coming..coming + 5).for_each(|number| tenant(&dir, number));
        reload(&mut proxy).await;
        proxy.wait_ready().await;
        let (http, url) = (client(), proxy.url(""));
        assert_eq!(status_of(&http, &url, leaving).await, 401, "its file is gone");
        assert_eq!(status_of(&http, &url, coming).await, 200, "its file has come");
    }
    // A broken file changes nothing.
    fs::write(dir.join("broken.toml"), "[[accounts]\n").unwrap();
    assert!(config::load(&proxy.dir.path().join("proxy.toml")).is_err());
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(good.load(Ordering::SeqCst) > 0);
    assert_eq!(bad.load(Ordering::SeqCst), 0, "of {} requests", good.load(Ordering::SeqCst));
    // 21 at the start, 20 came; none was fetched twice.
    assert_eq!(wechat.control().counters().token_calls_at(STABLE_TOKEN), 41);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_operators_see_does_not_grow_with_the_accounts() {
    let wechat = wechat_of(0).await;
    // Nobody knows these, so each is sick.
    let proxy = Proxy::begin(setup(&wechat, 0..1200).dir).await;
    let http = client();
    let text = async |path: &str| {
        http.get(format!("http://{}{path}", proxy.admin)).send().await.unwrap().text().await.unwrap()
    };
    until(&wechat, |seen| seen.token_calls_at(STABLE_TOKEN) >= 1201).await;
    while metric(proxy.admin, "weigate_accounts_failing").await < 1200 {
        tokio::task::yield_now().await;
    }
    let ready = text("/readyz").await;
    assert_eq!(ready.lines().count(), 21, "{ready}");
    assert_eq!(ready.lines().last(), Some("and 1180 more of 1201 accounts"));

    let metrics = text("/metrics").await;
    assert!(metrics.lines().count() < 300, "{}", metrics.lines().count());
    assert_eq!(metric(proxy.admin, "weigate_accounts").await, 1201);
    assert_eq!(metric(proxy.admin, "weigate_token_alive{account=\"*\"}").await, 1);

    let page = async |query: &str| -> serde_json::Value {
        serde_json::from_str(&text(&format!("/accounts{query}")).await).unwrap()
    };
    let first = page("").await;
    assert_eq!((first["accounts"].as_array().unwrap().len(), &first["total"]), (1000, &1201.into()));
    assert_eq!(first["next_after"], "a000999");
    let second = page("?after=a000999").await;
    assert_eq!((second["accounts"].as_array().unwrap().len(), second["next_after"].is_null()), (201, true));
    assert_eq!(second["accounts"][200]["name"], "shop");
    let failing = page("?only=failing&after=a000999").await;
    assert_eq!(failing["accounts"].as_array().unwrap().len(), 200, "all but shop");
    proxy.stop().await;
}
