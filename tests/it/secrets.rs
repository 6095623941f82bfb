//! A whole scenario at trace level, and then not a byte of a secret where none may be.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]
#![expect(clippy::format_collect, reason = "a secret is short")]

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use weigate::clients;
use weigate::config;
use weigate::sandbox::{AccountKind, ArrangedReply, Endpoint, Fault, FaultDoes, Sandbox, SandboxAccount};
use weigate::telemetry::log::{Cut, FIELD_BYTES_MAX};
use weigate::types::{AccessToken, AppSecret, ClientKey};

use crate::harness::{
    APP_ID, Binary, CLIENT_KEY, PATIENCE, Setup, client, wechat, wechat_with, write_private,
};

/// As WeChat makes them: 32 hexadecimal digits.
const SECRET: &str = "c0ffee5ec2e7c0ffee5ec2e7c0ffee99";
/// Of an application of 企业微信: it travels in the query of the token call.
const CORP_SECRET: &str = "canary_Corp-Secret_9f8e7d6c5b4a39281706f5e4d3";
/// A key that was never given out, but might be another system's.
const WRONG_KEY: &str = "wgk_wrong-canary-0f2b4e6a8c9d7b5f3e1a";
const PLACEHOLDER_KEY: [u8; 32] = *b"canary placeholder key, 32 bytes";

const TOKEN_CALL: &str = "/cgi-bin/stable_token";
const API: &str = "/cgi-bin/user/info";

/// What must not be found, by a name for messages.
#[derive(Default)]
struct Canaries(Vec<(String, Vec<u8>)>);

/// Everything the client got.
#[derive(Default)]
struct Heard(Vec<(String, Vec<u8>)>);

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_any_log_answer_metric_or_command_line() {
    let wechat = wechat_with(|mut options| {
        let corp = SandboxAccount::new("ww5ec2e7", CORP_SECRET).of_kind(AccountKind::WeCom);
        options.accounts = vec![SandboxAccount::new(APP_ID, SECRET), corp];
        options
    })
    .await;
    // The first calls fail in ways whose errors might print a URL.
    for does in [FaultDoes::Close, FaultDoes::CutBody(5), FaultDoes::Garbage] {
        wechat.control().add_fault(Fault { count: Some(1), ..fault("/cgi-bin/gettoken", does) });
    }
    let setup = Setup::new().with_file_store().log_level("trace").and(
        "[[accounts]]\nname = \"corp\"\napp_id = \"ww5ec2e7\"\napp_secret_file = \"corp\"\ngrant = \"wecom\"",
    );
    write_private(&setup.dir.path().join("corp"), CORP_SECRET);
    let setup = setup
        .server("limits = { request_ms_max = 3000 }")
        .and("[placeholder]\nkey_file = \"placeholder.key\"");
    write_private(&setup.dir.path().join("placeholder.key"), &STANDARD.encode(PLACEHOLDER_KEY));
    let path = setup.write(&wechat);
    write_private(&setup.dir.path().join("secret"), SECRET);
    let mut binary = Binary::spawn(&path, Arc::clone(&setup.dir), |_| {});
    crate::harness::wait_ready(binary.admin).await;

    let mut heard = Heard::default();
    let mut canaries = Canaries::default();
    canaries.add("AppSecret", SECRET);
    canaries.add("secret of a corp's application", CORP_SECRET);
    canaries.add("client key", CLIENT_KEY);
    canaries.add("wrong key", WRONG_KEY);
    canaries.add_bytes("placeholder key", &PLACEHOLDER_KEY);
    canaries.add_current_token(&wechat);

    good_requests(&binary, &mut heard).await;
    refused_requests(&binary, &mut heard).await;
    raw_requests(&binary, &mut heard).await;
    tokens_that_die(&binary, &wechat, &mut heard, &mut canaries).await;
    sick_upstream(&binary, &wechat, &mut heard).await;
    heard.pages(&binary).await;
    reloads(&binary, &path).await;
    sick_token_endpoint(&binary, &wechat, &mut heard).await;
    heard.pages(&binary).await;

    for seen in wechat.control().requests(None, usize::MAX) {
        for (_, value) in seen.query.iter().filter(|(name, _)| name == "access_token") {
            canaries.add("token", value);
        }
        assert!(seen.query.iter().all(|(_, value)| value != CLIENT_KEY), "the key went to WeChat");
        assert!(
            !format!("{:?}{}", seen.headers, seen.body_head).contains(CLIENT_KEY),
            "the key went to WeChat"
        );
    }
    assert!(canaries.0.len() >= 7, "only {} canaries", canaries.0.len());

    for file in ["cmdline", "environ", "limits", "status"] {
        // Without dumpability, some are root's alone.
        if let Ok(bytes) = std::fs::read(format!("/proc/{}/{file}", binary.pid())) {
            heard.0.push((format!("/proc/PID/{file}"), bytes));
        }
    }
    assert_no_core_files(&binary);
    assert_private(&binary);

    binary.signal(Signal::TERM);
    assert!(binary.wait().success());
    let log = binary.log();
    for message in ["\"request\"", "refused", "renewed the token", "the configuration has faults", "stopped"]
    {
        assert!(log.contains(message), "the scenario left out {message}");
    }
    assert!(!log.contains("panicked"), "{log}");
    assert!(log.contains("[masked]"), "no key was in a path");
    heard.0.push(("the log".to_owned(), log.into_bytes()));
    assert!(heard.0.len() > 60, "only {} places", heard.0.len());
    for (place, bytes) in &heard.0 {
        canaries.assert_none_in(place, bytes);
    }
}

async fn good_requests(binary: &Binary, heard: &mut Heard) {
    let client = client();
    let call = binary.url("/cgi-bin/user/info?openid=o6_bmjrPTlm6_2sgVt7hMZOPfL2M");
    heard.ask(client.get(&call).bearer_auth(CLIENT_KEY), "a key as bearer").await;
    heard.ask(client.get(&call).basic_auth("any", Some(CLIENT_KEY)), "a key as password").await;
    heard.ask(client.get(format!("{call}&access_token={CLIENT_KEY}")), "a key as access_token").await;
    let post = client.post(binary.url("/cgi-bin/message/custom/send")).bearer_auth(CLIENT_KEY);
    heard.ask(post.body(r#"{"touser":"o","msgtype":"text","text":{"content":"x"}}"#), "a POST").await;
    let session = binary.url("/sns/jscode2session?js_code=c&grant_type=authorization_code");
    heard.ask(client.get(&session).bearer_auth(CLIENT_KEY), "a path that takes the AppSecret").await;
    heard.ask(client.get(format!("{session}&secret={CLIENT_KEY}")), "a key as secret").await;

    let call_for_token = binary.url(&format!("/cgi-bin/token?grant_type=client_credential&appid={APP_ID}"));
    let answer =
        heard.ask(client.get(format!("{call_for_token}&secret={CLIENT_KEY}")), "an SDK's token call").await;
    let placeholder = answer["access_token"].as_str().unwrap().to_owned();
    heard.ask(client.get(format!("{call}&access_token={placeholder}")), "a placeholder").await;
    let body = json!({"grant_type": "client_credential", "appid": APP_ID, "secret": CLIENT_KEY}).to_string();
    heard.ask(client.post(binary.url(TOKEN_CALL)).body(body), "stable_token").await;
}

async fn refused_requests(binary: &Binary, heard: &mut Heard) {
    let client = client();
    let token_call = format!("/cgi-bin/token?grant_type=client_credential&appid={APP_ID}&secret=");
    for key in [CLIENT_KEY, WRONG_KEY, SECRET] {
        for path in [
            format!("/cgi-bin/menu/get&access_token={key}"),
            format!("/cgi-bin/menu/get;access_token={key}"),
            format!("/{key}"),
            format!("/{key}/cgi-bin/menu/get"),
            format!("/@{key}/cgi-bin/menu/get"),
            format!("/cgi-bin/%2e%2e/{key}"),
            format!("/-/{key}"),
            format!("/cgi-bin/menu/get?access_token={key}%00"),
            format!("/cgi-bin/menu/get?from_appid={key}"),
            format!("/cgi-bin/menu/get?x={key}&access_token=nothing"),
            format!("{token_call}{key}x"),
        ] {
            let method = if path.contains("menu") { Method::GET } else { Method::POST };
            heard.ask(client.request(method, binary.url(&path)), "a key in a strange place").await;
        }
        let call = binary.url("/cgi-bin/menu/get");
        heard.ask(client.get(&call).header("x-key", key), "a key in a field of its own").await;
        heard
            .ask(client.get(&call).header("authorization", format!("Token {key}")), "a strange scheme")
            .await;
        heard.ask(client.get(&call).header("cookie", format!("key={key}")), "a cookie").await;
        heard.ask(client.get(&call).header("host", format!("{key}:{key}")), "a host").await;
        heard.ask(client.get(&call).header("via", format!("1.1 {key}")), "via").await;
        let wrong = client.get(&call).bearer_auth(format!("{key}x"));
        heard.ask(wrong, "a wrong key").await;
        let body = format!(r#"{{"grant_type":"{key}","appid":"{key}","secret":"{key}""#);
        heard.ask(client.post(binary.url(TOKEN_CALL)).body(body), "a broken token call").await;
    }
}

/// What no HTTP client would send.
async fn raw_requests(binary: &Binary, heard: &mut Heard) {
    for key in [CLIENT_KEY, WRONG_KEY] {
        for request in [
            format!("GET /{key} HTTP/1.1\r\nauthorization: Bearer {key}\r\n\r\n"),
            format!("GET / HTTP/1.1\r\nhost: a\r\nauthorization Bearer {key}\r\n\r\n"),
            format!("GET / HTTP/1.1\r\nhost: a\r\n{key}: {key}\0\r\n\r\n"),
            format!("GET http://any:{key}@127.0.0.1/ HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"),
            format!("GET /{key} {key} HTTP/9.9\r\n\r\n"),
            format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {key}\r\n\r\n"),
            format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", key.repeat(1000)),
            format!("CONNECT {key}:443 HTTP/1.1\r\nhost: {key}:443\r\n\r\n"),
            format!("\x16\x03\x01{key}\r\n\r\n"),
        ] {
            let mut stream = TcpStream::connect(binary.address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            // Who has been answered and stays connected is told that nothing more comes.
            stream.shutdown().await.unwrap();
            let mut answer = Vec::new();
            // A reset after an answer is the peer's right.
            drop(tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap());
            heard.0.push((format!("the answer to {request:?}"), answer));
        }
    }
}

async fn tokens_that_die(binary: &Binary, wechat: &Sandbox, heard: &mut Heard, canaries: &mut Canaries) {
    wechat.control().revoke_tokens(APP_ID).unwrap();
    let call = client().get(binary.url("/cgi-bin/user/info?openid=o")).bearer_auth(CLIENT_KEY);
    assert_eq!(heard.ask(call, "once more").await["openid"], "o");
    canaries.add_current_token(wechat);
    let other = wechat.control().rotate_from_outside(APP_ID, Endpoint::StableToken).unwrap();
    canaries.add("token of another system", &other);
}

async fn sick_upstream(binary: &Binary, wechat: &Sandbox, heard: &mut Heard) {
    let html = ArrangedReply {
        status: 500,
        content_type: "text/html".to_owned(),
        body: "<h1>Bad gateway</h1>".to_owned(),
    };
    for does in [
        FaultDoes::Garbage,
        FaultDoes::Close,
        FaultDoes::CutBody(5),
        FaultDoes::Hang,
        FaultDoes::Status(502),
        FaultDoes::Errcode(45009),
        FaultDoes::Reply(html),
        FaultDoes::ExtraBytes(10),
    ] {
        wechat.control().add_fault(fault(API, does));
        let call = client().get(binary.url("/cgi-bin/user/info?openid=o")).bearer_auth(CLIENT_KEY);
        heard.ask(call, "an upstream fault").await;
        wechat.control().clear_faults();
    }
}

/// Secrets where they do not belong in the file; then a good file again.
async fn reloads(binary: &Binary, path: &std::path::Path) {
    let good = std::fs::read_to_string(path).unwrap();
    for (broken, more) in [
        good.replace("app_secret_file = \"secret\"", &format!("app_secret = \"{SECRET}\"")),
        good.replace("app_secret_file = \"secret\"", &format!("app_secert_file = \"{SECRET}\"")),
        good.replace("key_sha256 = \"", &format!("key = \"{CLIENT_KEY}\"\nkey_sha256 = \"{CLIENT_KEY}")),
        good.replace("kind = \"file\"", &format!("kind = \"{SECRET}\" {SECRET}")),
    ]
    .into_iter()
    .zip(1..)
    {
        assert_ne!(broken, good);
        std::fs::write(path, broken).unwrap();
        binary.signal(Signal::HUP);
        let is_it = |line: &str| line.contains("the configuration has faults");
        let started = tokio::time::Instant::now();
        while binary.log().lines().filter(|line| is_it(line)).count() < more {
            assert!(started.elapsed() < PATIENCE, "no word of fault {more}");
            tokio::task::yield_now().await;
        }
        let checked = Command::new(env!("CARGO_BIN_EXE_weigate"))
            .arg("check")
            .arg("--config")
            .arg(path)
            .output()
            .unwrap();
        assert_eq!(checked.status.code(), Some(2));
        let mut canaries = Canaries::default();
        canaries.add("AppSecret", SECRET);
        canaries.add("client key", CLIENT_KEY);
        canaries.assert_none_in("weigate check's stdout", &checked.stdout);
        canaries.assert_none_in("weigate check's stderr", &checked.stderr);
    }
    std::fs::write(path, good).unwrap();
    binary.signal(Signal::HUP);
    binary.logged(|line| line.contains("the configuration was reloaded")).await;
}

/// WeChat, or what stands in front of it, echoes the secret.
async fn sick_token_endpoint(binary: &Binary, wechat: &Sandbox, heard: &mut Heard) {
    let token = wechat.control().current_token(APP_ID, Endpoint::StableToken).unwrap().unwrap();
    let echo =
        json!({"errcode": 40125, "errmsg": format!("invalid appsecret {SECRET}"), "access_token": token});
    let reply =
        ArrangedReply { status: 200, content_type: "application/json".to_owned(), body: echo.to_string() };
    wechat.control().add_fault(fault(TOKEN_CALL, FaultDoes::Reply(reply)));
    wechat.control().add_fault(Fault { count: Some(1), ..fault(API, FaultDoes::Errcode(40001)) });
    let call = || client().get(binary.url("/cgi-bin/user/info?openid=o")).bearer_auth(CLIENT_KEY);
    heard.ask(call(), "a token call that was refused").await;
    binary.logged(|line| line.contains("WeChat gives no token")).await;
    heard.ask(call(), "after it").await;
}

#[test]
fn no_secret_type_prints_its_text() {
    let printed = format!(
        "{0:?} {0:#?} {1:?} {1:#?} {2:?} {2:#?}",
        AppSecret::new(SECRET.to_owned()),
        AccessToken::parse("92_canary-token-a8c9d7b5f3e1").unwrap(),
        ClientKey::new(CLIENT_KEY.to_owned()),
    );
    assert!(
        printed.contains("AppSecret(#")
            && printed.contains("AccessToken(#")
            && printed.contains("ClientKey(#")
    );
    let mut canaries = Canaries::default();
    for secret in [SECRET, "92_canary-token-a8c9d7b5f3e1", CLIENT_KEY] {
        canaries.add(secret, secret);
    }
    canaries.assert_none_in("Debug", printed.as_bytes());
}

/// Whatever holds a secret, however deep.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_holds_a_secret_prints_it() {
    let wechat = wechat().await;
    let setup = Setup::new().and("[placeholder]\nkey_file = \"placeholder.key\"");
    write_private(&setup.dir.path().join("placeholder.key"), &STANDARD.encode(PLACEHOLDER_KEY));
    let loaded = config::load(&setup.write(&wechat)).unwrap();
    let mut proxy = setup.start(&wechat).await;
    let app = proxy.app();
    let printed = format!("{loaded:?} {loaded:#?} {app:?} {app:#?}");
    assert!(printed.contains("AppSecret(#") && printed.contains("AccessToken(#"), "{printed}");
    let mut canaries = Canaries::default();
    canaries.add("AppSecret", crate::harness::APP_SECRET);
    canaries.add_bytes("placeholder key", &PLACEHOLDER_KEY);
    canaries.add_current_token(&wechat);
    canaries.assert_none_in("Debug", printed.as_bytes());
    let listed = format!("{PLACEHOLDER_KEY:?}");
    assert!(!printed.contains(listed.trim_matches(['[', ']'])), "the placeholder key, as a list");
    proxy.stop().await;
}

#[test]
fn a_path_is_logged_as_it_came() {
    for path in [
        "/cgi-bin/user/info",
        "/datacube/getweanalysisappiddailysummarytrend",
        "/cgi-bin/express/v3",
        "/@shop/a%20b",
    ] {
        assert_eq!(Cut(path).to_string(), path);
    }
    assert_eq!(Cut("/a\n\u{1b}b").to_string(), "/a\\n\\u{1b}b");
}

/// Somebody wrote `&` for `?`, and the whole token stood in the access log.
#[test]
fn what_looks_like_a_credential_in_a_path_is_masked() {
    let token = format!("92_{}", "aB3-".repeat(33));
    for credential in ["wgk_k", "wgt_x", SECRET, &token] {
        for (before, after) in [("/", ""), ("/cgi-bin/menu/get&access_token=", "&x=1"), ("/a/", "/b")] {
            let shown = Cut(&format!("{before}{credential}{after}")).to_string();
            assert_eq!(shown, format!("{before}[masked]{after}"));
        }
    }
}

#[test]
fn a_long_path_is_cut_in_the_log() {
    let edge = "/a".repeat(FIELD_BYTES_MAX / 2);
    assert_eq!(Cut(&edge).to_string(), edge);
    assert_eq!(Cut(&format!("{edge}b")).to_string(), format!("{edge}…"));
    assert!(Cut(&"密".repeat(10_000)).to_string().len() <= FIELD_BYTES_MAX + '…'.len_utf8());
}

/// A search that finds nothing because it cannot find anything passes everything.
#[test]
fn the_search_finds_every_form() {
    let mut canaries = Canaries::default();
    canaries.add("it", CLIENT_KEY);
    let hex: String = CLIENT_KEY.bytes().map(|byte| format!("{byte:02X}")).collect();
    let encoded: String = CLIENT_KEY.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let basics = ["", "x", "xy", "any:"].map(|before| STANDARD.encode(format!("{before}{CLIENT_KEY} after")));
    for text in [CLIENT_KEY.to_owned(), hex, encoded].iter().chain(&basics) {
        let found = canaries.found_in(format!("before {text} after").as_bytes());
        assert!(found.is_some(), "{text}");
    }
    assert!(canaries.found_in(b"nothing to be seen").is_none());
}

// === helpers ===

fn fault(path: &str, does: FaultDoes) -> Fault {
    Fault { path: path.to_owned(), method: None, skip: 0, count: None, does }
}

/// A core file would hold all secrets.
fn assert_no_core_files(binary: &Binary) {
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", binary.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "{line}");
}

/// The store may hold the token; nobody else may read it.
fn assert_private(binary: &Binary) {
    let state = binary.dir.path().join("state");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    let files: Vec<_> = std::fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.iter().any(|file| file.ends_with("shop.token")), "{files:?}");
    for file in &files {
        assert_eq!(mode(file), 0o600, "{}", file.display());
        let text = std::fs::read(file).unwrap();
        let mut canaries = Canaries::default();
        canaries.add("AppSecret", SECRET);
        canaries.add("client key", CLIENT_KEY);
        canaries.assert_none_in("the state", &text);
    }
}

// === impl Heard ===

impl Heard {
    /// Asks, keeps what came, and gives it as JSON where it is.
    async fn ask(&mut self, request: reqwest::RequestBuilder, what: &str) -> Value {
        let answer = request.timeout(PATIENCE).send().await.unwrap();
        self.0.push((
            format!("the head of the answer to {what}"),
            format!("{:?}", answer.headers()).into_bytes(),
        ));
        let body = answer.bytes().await.unwrap();
        let value = serde_json::from_slice(&body).unwrap_or_default();
        self.0.push((format!("the answer to {what}"), body.to_vec()));
        value
    }

    async fn pages(&mut self, binary: &Binary) {
        for page in ["/livez", "/readyz", "/metrics", "/accounts", "/nothing"] {
            let url = format!("http://{}{page}?access_token={CLIENT_KEY}", binary.admin);
            self.ask(client().get(url).bearer_auth(CLIENT_KEY), page).await;
        }
    }
}

// === impl Canaries ===

impl Canaries {
    fn add(&mut self, name: &str, text: &str) {
        self.add_bytes(name, text.as_bytes());
    }

    fn add_bytes(&mut self, name: &str, bytes: &[u8]) {
        assert!(bytes.len() >= 16, "{name} is too short to look for");
        if self.0.iter().all(|(_, known)| known != bytes) {
            self.0.push((name.to_owned(), bytes.to_vec()));
        }
    }

    fn add_current_token(&mut self, wechat: &Sandbox) {
        let token = wechat.control().current_token(APP_ID, Endpoint::StableToken).unwrap().unwrap();
        self.add("token", &token);
    }

    fn assert_none_in(&self, place: &str, bytes: &[u8]) {
        if let Some((name, form, at)) = self.found_in(bytes) {
            let around = &bytes[at.saturating_sub(200)..bytes.len().min(at + 200)];
            panic!("{place} holds the {name} ({form}): {}", String::from_utf8_lossy(around));
        }
    }

    /// Name, form and place of the first that is there.
    fn found_in(&self, bytes: &[u8]) -> Option<(&str, &'static str, usize)> {
        let lower = bytes.to_ascii_lowercase();
        self.0.iter().find_map(|(name, secret)| {
            let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
            let encoded: String = secret.iter().map(|byte| format!("%{byte:02x}")).collect();
            let found = |form, needle: &[u8], bytes: &[u8]| {
                memchr::memmem::find(bytes, needle).map(|at| (name.as_str(), form, at))
            };
            found("raw", secret, bytes)
                .or_else(|| found("hex", hex.as_bytes(), &lower))
                .or_else(|| found("URL-encoded", encoded.as_bytes(), &lower))
                .or_else(|| {
                    base64_forms(secret).iter().find_map(|form| found("base64", form.as_bytes(), bytes))
                })
        })
    }
}

/// What base64 makes of a text at each of the three places it can have in a longer one, without the edges that
/// depend on its neighbours.
fn base64_forms(secret: &[u8]) -> Vec<String> {
    let mut forms = Vec::new();
    for before in 0..3_usize {
        let padded: Vec<u8> = std::iter::repeat_n(0, before).chain(secret.iter().copied()).collect();
        let whole = padded.len() / 3 * 3;
        let skipped = if before == 0 { 0 } else { 4 };
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            forms.push(engine.encode(&padded[..whole]).split_off(skipped));
        }
    }
    forms
}

/// The harness's key is the one whose digest stands in the configuration.
#[test]
fn the_canary_key_is_a_key() {
    assert!(CLIENT_KEY.starts_with(clients::KEY_PREFIX) && WRONG_KEY.starts_with(clients::KEY_PREFIX));
}
