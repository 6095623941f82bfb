//! A reload changes all or nothing, by whatever way it is asked for, and disturbs nobody.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::Value;
use weigate::sandbox::{Sandbox, When};

use crate::bare::Raw;
use crate::harness::{
    Binary, CLIENT_KEY, STABLE_TOKEN, Setup, client, client_lines, hex, metric, note, wechat, write_private,
};
use crate::pki::{Authority, SERVER_TLS, connector, raw};

const RELOADED: &str = "the configuration was reloaded";
const FAULTS: &str = "the configuration has faults";
const UNWATCHED: &str = "watch_files = false";
const SUCCESSFUL: &str = "weigate_config_reload_successful";

/// `POST /reload` as the README has it.
async fn post_reload(admin: SocketAddr) -> (StatusCode, Value) {
    let request = client().post(format!("http://{admin}/reload")).header("x-weigate-operator", "1");
    let answer = request.send().await.unwrap();
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

fn count(weigate: &Binary, text: &str) -> usize {
    weigate.log().matches(text).count()
}

async fn wait_for_count(weigate: &Binary, text: &str, more_than: usize) {
    let started = tokio::time::Instant::now();
    while count(weigate, text) <= more_than {
        assert!(started.elapsed() < crate::harness::PATIENCE, "{}", weigate.log());
        tokio::task::yield_now().await;
    }
}

async fn with_tls(authority: &Authority, more: &str) -> (Sandbox, Binary) {
    let wechat = wechat().await;
    let setup = Setup::new().server(SERVER_TLS).server(more);
    authority.issue(&["localhost"]).write_as_server(setup.dir.path());
    let weigate = setup.spawn(&wechat).await;
    (wechat, weigate)
}

/// Waits until every worker shows `expected` to those who connect.
async fn wait_for_certificate(tls: &tokio_rustls::TlsConnector, address: SocketAddr, expected: &[u8]) {
    let started = tokio::time::Instant::now();
    let mut in_a_row = 0;
    while in_a_row < 20 {
        let (_, shown) = raw(tls, address).await;
        in_a_row = if shown.as_ref() == expected { in_a_row + 1 } else { 0 };
        assert!(started.elapsed() < crate::harness::PATIENCE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_for_new_connections_and_a_broken_one_for_nobody() {
    let authority = Authority::new();
    let (_wechat, weigate) = with_tls(&authority, UNWATCHED).await;
    let dir = weigate.dir.path();
    let tls = connector(&authority, None, &["http/1.1"]);
    let (mut before, first) = raw(&tls, weigate.address).await;
    assert_eq!(before.get("/wxa/x").await.status, 200);
    let good_at = metric(weigate.admin, "weigate_config_reload_success_timestamp_seconds").await;
    assert!(good_at > 1_700_000_000);

    let next = authority.issue(&["localhost"]);
    let broken: [&dyn Fn(); 3] = [
        // The certificate has come, its key has not yet.
        &|| std::fs::write(dir.join("server.pem"), &next.pem).unwrap(),
        &|| std::fs::write(dir.join("server.pem"), "not a certificate").unwrap(),
        &|| std::fs::remove_file(dir.join("server.pem")).unwrap(),
    ];
    for (index, breaks) in broken.into_iter().enumerate() {
        breaks();
        weigate.signal(Signal::HUP);
        wait_for_count(&weigate, FAULTS, index).await;
        let (mut during, shown) = raw(&tls, weigate.address).await;
        assert_eq!(shown, first);
        assert_eq!(during.get("/wxa/x").await.status, 200);
        assert_eq!(metric(weigate.admin, SUCCESSFUL).await, 0);
    }
    assert!(weigate.log().contains("server.tls.key_file` does not belong"), "{}", weigate.log());
    assert_eq!(count(&weigate, RELOADED), 0);

    next.write_as_server(dir);
    weigate.signal(Signal::HUP);
    weigate.wait_for_log(RELOADED).await;
    wait_for_certificate(&tls, weigate.address, &next.chain[0]).await;
    assert_eq!(before.get("/wxa/x").await.status, 200, "a connection made before goes on");
    assert_eq!(metric(weigate.admin, SUCCESSFUL).await, 1);
    assert_eq!(metric(weigate.admin, "weigate_config_reloads_total{result=\"refused\"}").await, 3);
    assert_eq!(metric(weigate.admin, "weigate_config_reloads_total{result=\"done\"}").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_near_its_end_is_warned_about_and_counted_down() {
    let authority = Authority::new();
    let (_wechat, weigate) = with_tls(&authority, UNWATCHED).await;
    let left = "weigate_server_certificate_expires_in_seconds";
    assert!(metric(weigate.admin, left).await > 365 * 86_400);
    assert!(!weigate.log().contains("expire"), "{}", weigate.log());
    authority.issue_until(&["localhost"], 5 * 86_400 + 600).write_as_server(weigate.dir.path());
    assert_eq!(post_reload(weigate.admin).await.0, StatusCode::OK);
    let seconds = metric(weigate.admin, left).await;
    assert!((5 * 86_400..=5 * 86_400 + 600).contains(&seconds), "{seconds}");
    weigate.wait_for_log("a certificate in `server.tls.cert_file` expires in 5 days").await;
    // One that has expired is used all the same, and said to have.
    authority.issue_for(&["localhost"], crate::pki::Validity::Past).write_as_server(weigate.dir.path());
    assert_eq!(post_reload(weigate.admin).await.0, StatusCode::OK);
    assert_eq!(metric(weigate.admin, left).await, 0);
    weigate.wait_for_log("a certificate in `server.tls.cert_file` has expired").await;
}

/// As Kubernetes does it: `server.pem` leads to `..data/server.pem`, `..data` to a directory, and `..data` is replaced.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_taken_up_without_a_word_through_links_too() {
    let authority = Authority::new();
    let wechat = wechat().await;
    let setup = Setup::new().server(SERVER_TLS);
    let dir = setup.dir.path().to_owned();
    let publish = |version: &str, identity: &crate::pki::Identity| {
        std::fs::create_dir(dir.join(version)).unwrap();
        identity.write_as_server(&dir.join(version));
        symlink(version, dir.join("..data_tmp")).unwrap();
        std::fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    };
    publish("..1", &authority.issue(&["localhost"]));
    for name in ["server.pem", "server.key"] {
        symlink(Path::new("..data").join(name), dir.join(name)).unwrap();
    }
    let weigate = setup.spawn(&wechat).await;
    let tls = connector(&authority, None, &["http/1.1"]);
    let (mut before, _) = raw(&tls, weigate.address).await;
    let next = authority.issue(&["localhost"]);
    publish("..2", &next);
    weigate.wait_for_log(RELOADED).await;
    wait_for_certificate(&tls, weigate.address, &next.chain[0]).await;
    assert_eq!(before.get("/wxa/x").await.status, 200);

    // The configuration itself, replaced as editors do it; then a fault, whose cure is in another file.
    let path = dir.join("proxy.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let replace = |text: String| {
        std::fs::write(dir.join("next"), text).unwrap();
        std::fs::rename(dir.join("next"), &path).unwrap();
    };
    replace(text.replace("app_secret_file = \"secret\"", "app_secret_file = \"later\""));
    weigate.wait_for_log(FAULTS).await;
    let reloads = count(&weigate, RELOADED);
    std::fs::copy(dir.join("secret"), dir.join("later")).unwrap();
    wait_for_count(&weigate, RELOADED, reloads).await;
    assert_eq!(before.get("/wxa/x").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn post_reload_says_what_changed_or_what_is_wrong() {
    let wechat = wechat().await;
    let weigate = Setup::new().server(UNWATCHED).spawn(&wechat).await;
    let (status, said) = post_reload(weigate.admin).await;
    assert_eq!((status, said), (StatusCode::OK, serde_json::json!({"changed": [], "needs_restart": []})));

    let path = weigate.dir.path().join("proxy.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let other = client_lines("other", "wgk_new", "accounts = [\"shop\"]");
    let changed = format!("{text}{other}").replace("kind = \"memory\"", "kind = \"file\"");
    std::fs::write(&path, changed).unwrap();
    let (status, said) = post_reload(weigate.admin).await;
    let expected = serde_json::json!({"changed": ["clients"], "needs_restart": ["store"]});
    assert_eq!((status, said), (StatusCode::OK, expected));

    std::fs::write(&path, text.replace("workers = 2", "workers = 0\nlimits.idle_ms_max = 1")).unwrap();
    let (status, said) = post_reload(weigate.admin).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let faults = said["faults"].as_array().unwrap();
    let places: Vec<_> = faults.iter().map(|fault| fault["line"].as_u64().unwrap()).collect();
    assert_eq!(places, [3, 4], "{said}");
    assert!(faults[0]["message"].as_str().unwrap().contains("`server.workers` is out of bounds"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_restart_can_change_is_named_and_nothing_is_left_out_in_silence() {
    let wechat = wechat().await;
    let setup = Setup::new();
    let socket = setup.dir.path().join("weigate.sock");
    let listen = format!("[\"127.0.0.1:0\", \"unix:{}\"]", socket.display());
    let weigate = setup.listen(&listen).server(UNWATCHED).spawn(&wechat).await;
    let dir = weigate.dir.path();
    write_private(&dir.join("placeholder.key"), &"0123456789abcdef".repeat(4));
    let path = dir.join("proxy.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    for (section, line, named) in [
        ("server", "socket_mode = \"600\"", "server.socket_mode"),
        ("server", "limits.connections_max = 99", "server.limits.connections_max"),
        ("admin", "metrics_accounts_max = 5", "admin"),
        ("upstream", "connect_ms_max = 1234", "upstream"),
        ("upstream", "idle_ms_max = 1234", "upstream"),
        ("upstream", "idle_connections_max = 12", "upstream"),
        ("upstream", "connections_max = 1234", "upstream"),
        ("upstream", "http2 = true", "upstream"),
        ("placeholder", "key_file = \"placeholder.key\"", "placeholder"),
    ] {
        let header = format!("[{section}]\n");
        let with_header = if text.contains(&header) { text.clone() } else { format!("{text}{header}") };
        std::fs::write(&path, with_header.replace(&header, &format!("{header}{line}\n"))).unwrap();
        let expected = serde_json::json!({"changed": [], "needs_restart": [named]});
        assert_eq!(post_reload(weigate.admin).await, (StatusCode::OK, expected), "{line}");
    }
    for (is, will_be, named) in [
        ("workers = 2", "workers = 1", "server.workers"),
        ("access = true", "access = false", "log"),
        ("format = \"json\"", "format = \"text\"", "log"),
    ] {
        std::fs::write(&path, text.replace(is, will_be)).unwrap();
        let expected = serde_json::json!({"changed": [], "needs_restart": [named]});
        assert_eq!(post_reload(weigate.admin).await, (StatusCode::OK, expected), "{will_be}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_a_browser_cannot_ask_for_a_reload() {
    let wechat = wechat().await;
    let weigate = Setup::new().server(UNWATCHED).spawn(&wechat).await;
    let url = format!("http://{}/reload", weigate.admin);
    let form = "application/x-www-form-urlencoded";
    let own = "http://127.0.0.1:9090";
    for fields in [
        &[][..],
        &[("content-type", form)],
        &[("content-type", "text/plain"), ("origin", "http://evil.test")],
        // A name of the attacker's that leads here makes page and target one site, and any field may be set.
        &[("x-weigate-operator", "1"), ("origin", "http://evil.test")],
        &[("x-weigate-operator", "1"), ("origin", own)],
        &[("x-weigate-operator", "1"), ("origin", "null")],
    ] {
        let request =
            fields.iter().fold(client().post(&url), |request, (name, value)| request.header(*name, *value));
        assert_eq!(request.send().await.unwrap().status(), StatusCode::FORBIDDEN, "{fields:?}");
    }
    for method in [reqwest::Method::GET, reqwest::Method::OPTIONS, reqwest::Method::PUT] {
        let request = client().request(method.clone(), &url).header("x-weigate-operator", "1");
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{method}");
        assert_eq!(answer.headers().get("access-control-allow-origin"), None);
    }
    assert_eq!(count(&weigate, RELOADED) + count(&weigate, FAULTS), 0);
}

/// Asks until it is told to stop; panics where a request fails or a connection is closed. Says how many went well.
async fn ask(
    tls: tokio_rustls::TlsConnector,
    address: SocketAddr,
    keeps: bool,
    is_over: Arc<AtomicBool>,
) -> u64 {
    let mut client = raw(&tls, address).await.0;
    let mut good = 0;
    while !is_over.load(Ordering::Relaxed) {
        if !keeps {
            client = raw(&tls, address).await.0;
        }
        let reply = client.get("/wxa/x").await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.field("connection"), None, "{reply:?}");
        good += 1;
    }
    good
}

/// reliability.md G3.
#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_reloads_every_second_one_broken_fail_no_request_and_close_no_connection() {
    const RELOADS: u64 = 400;
    let authority = Authority::new();
    let (_wechat, weigate) = with_tls(&authority, UNWATCHED).await;
    let dir = weigate.dir.path();
    let tls = connector(&authority, None, &["http/1.1"]);
    let is_over = Arc::<AtomicBool>::default();
    // Two that keep their connection, one that makes a new one each time.
    let asking: Vec<_> = [true, true, false]
        .into_iter()
        .map(|keeps| tokio::spawn(ask(tls.clone(), weigate.address, keeps, Arc::clone(&is_over))))
        .collect();
    let path = dir.join("proxy.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let bad_key = hex(weigate::clients::digest("wgk_bad"));
    // It would let another key in and this one out, were it not for its last line.
    let good_key = hex(weigate::clients::digest(CLIENT_KEY));
    let broken = format!("{}\n[[clients]]\nname = \"half\"\n", text.replace(&good_key, &bad_key));
    for turn in 0..RELOADS / 2 {
        std::fs::write(&path, &broken).unwrap();
        assert_eq!(post_reload(weigate.admin).await.0, StatusCode::UNPROCESSABLE_ENTITY);
        let (mut other, _) = raw(&tls, weigate.address).await;
        other.send("GET /wxa/x HTTP/1.1\r\nhost: weigate\r\nauthorization: Bearer wgk_bad\r\n\r\n").await;
        assert_eq!(other.reply().await.status, 401, "a bad configuration was live");

        authority.issue(&["localhost"]).write_as_server(dir);
        let limit = format!("{text}requests_per_s = {}\n", 100_000 + turn);
        std::fs::write(&path, limit).unwrap();
        let (status, said) = post_reload(weigate.admin).await;
        assert_eq!(status, StatusCode::OK, "{said}");
        assert_eq!(said["changed"], serde_json::json!(["server.tls", "clients"]));
    }
    is_over.store(true, Ordering::Relaxed);
    let mut good = 0;
    for task in asking {
        good += task.await.unwrap();
    }
    note(&format!("{RELOADS} reloads, {good} requests, none failed"));
    assert!(good > 100, "{good}");
    let counted = metric(weigate.admin, "weigate_config_reloads_total{result=\"done\"}").await;
    assert_eq!(counted, RELOADS / 2);
    let mut last = Raw::over(crate::pki::connect(&tls, weigate.address).await.unwrap());
    assert_eq!(last.get("/wxa/x").await.status, 200);
}

/// The account is well and stays, with all who wait for its first token.
#[tokio::test(flavor = "multi_thread")]
async fn more_requests_may_wait_for_a_token_as_soon_as_a_reload_says_so() {
    let wechat = wechat().await;
    let hold = wechat.control().hold(STABLE_TOKEN, When::BeforeJudging);
    let setup = Setup::new().server(UNWATCHED).server("limits = { token_waiters_max = 1 }");
    let path = setup.write(&wechat);
    let weigate = Binary::spawn(&path, setup.dir, |_| {});
    wechat.control().wait_until(|seen| seen.held == 1).await;
    let mut asking = FuturesUnordered::new();
    let ask = || get_status(weigate.url("/wxa/x"));
    asking.extend((0..3).map(|_| ask()));
    for _ in 0..2 {
        assert_eq!(asking.next().await, Some(StatusCode::SERVICE_UNAVAILABLE));
    }

    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("token_waiters_max = 1", "token_waiters_max = 3")).unwrap();
    assert_eq!(post_reload(weigate.admin).await.0, StatusCode::OK);
    asking.extend((0..3).map(|_| ask()));
    // One of them is one too many; that it was turned away says that the others wait.
    assert_eq!(asking.next().await, Some(StatusCode::SERVICE_UNAVAILABLE));
    wechat.control().release(hold);
    assert_eq!(asking.collect::<Vec<_>>().await, [StatusCode::OK; 3]);
}

async fn get_status(url: String) -> StatusCode {
    client().get(url).bearer_auth(CLIENT_KEY).send().await.unwrap().status()
}
