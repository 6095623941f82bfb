//! SDKs work unchanged: two real ones as child processes, the token calls of the others as they look on the wire.
//!
//! An SDK is told nothing but a base URL and, as its secret, the client key. In the middle of its work the real token
//! is revoked; it must not notice. `tests/setup` installs what the scripts in `sdk/` need.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]
#![expect(clippy::indexing_slicing, reason = "as above; `value[\"name\"]` of a JSON value cannot panic")]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};

use serde_json::{Value, json};

use weigate::clients::{self, Signer};
use weigate::config::PlaceholderKey;
use weigate::sandbox::{AccountKind, Endpoint, Sandbox, SandboxAccount, SeenRequest};
use weigate::types::{AccountName, ClientName, UnixSeconds};

use crate::harness::{
    APP_ID, APP_SECRET, CLIENT_KEY, PATIENCE, Proxy, Setup, client, wechat, wechat_with, write_private,
};

const STABLE_TOKEN: &str = "/cgi-bin/stable_token";

#[tokio::test(flavor = "multi_thread")]
async fn wechatpy_makes_more_than_twenty_calls_and_never_notices_that_the_token_was_revoked() {
    let python = installed("venv/bin/python");
    check_sdk(|arguments| {
        let mut command = Command::new(python);
        // No bytecode beside the script; no proxy of the machine's between the SDK and weigate.
        command.arg("-B").arg(script("wechatpy_client.py")).args(arguments).env("NO_PROXY", "*");
        command
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wechatpys_client_for_wecom_never_notices_that_the_token_was_revoked() {
    let python = installed("venv/bin/python");
    let (corpid, secret) = ("ww0123456789abcdef", "canary-corp-secret-77ab");
    let wechat = wechat_with(|mut options| {
        options.accounts.push(SandboxAccount::new(corpid, secret).of_kind(AccountKind::WeCom));
        options
    })
    .await;
    let setup = Setup::new()
        .clients(&crate::harness::client_lines("orders", CLIENT_KEY, "accounts = [\"shop\", \"corp\"]"))
        .and(&format!(
            "[[accounts]]\nname = \"corp\"\napp_id = \"{corpid}\"\napp_secret_file = \"corp\"\ngrant = \"wecom\""
        ));
    write_private(&setup.dir.path().join("corp"), secret);
    let proxy = setup.start(&wechat).await;
    let token = || wechat.control().current_token(corpid, Endpoint::StableToken).unwrap().unwrap();

    let mut command = Command::new(python);
    let arguments = [&proxy.url(""), corpid, CLIENT_KEY];
    command.arg("-B").arg(script("wechatpy_wecom.py")).args(arguments).env("NO_PROXY", "*");
    let mut sdk = Sdk::start(&mut command);
    sdk.pause();
    let first = token();
    wechat.control().revoke_tokens(corpid).unwrap();
    sdk.go_on();
    let lines = sdk.end();
    let second = token();
    assert_ne!(first, second);

    let placeholders: BTreeSet<&str> = lines.iter().filter_map(|line| line["placeholder"].as_str()).collect();
    assert_eq!(placeholders.len(), 1, "one placeholder all along");
    assert_eq!(lines.iter().filter(|line| line["call"].is_string()).count(), 22);
    let told = format!("{lines:?}");
    for hidden in [first.as_str(), &second, secret] {
        assert!(!told.contains(hidden), "the SDK was told a secret");
    }
    let counters = wechat.control().counters();
    assert_eq!((counters.bad_token_calls, counters.token_calls_at("/cgi-bin/gettoken")), (1, 2));
    for request in wechat.control().requests(None, usize::MAX) {
        assert!(!format!("{request:?}").contains(CLIENT_KEY), "{} carried the client's key", request.path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn co_wechat_api_makes_more_than_twenty_calls_and_never_notices_that_the_token_was_revoked() {
    let modules = installed("js/node_modules");
    check_sdk(|arguments| {
        let mut command = Command::new("node");
        command.arg(script("co_wechat_api.js")).args(arguments).env("NODE_PATH", modules);
        command
    })
    .await;
}

/// Runs one SDK's script to its end, and looks at what came of it: for the SDK, and at WeChat.
async fn check_sdk(command: impl FnOnce([&str; 3]) -> Command) {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let base = proxy.url("");

    let mut sdk = Sdk::start(&mut command([&base, APP_ID, CLIENT_KEY]));
    sdk.pause();
    let first_token = token_of(&wechat);
    let counters = wechat.control().counters();
    assert_eq!(counters.bad_token_calls, 0);
    wechat.control().revoke_tokens(APP_ID).unwrap();
    sdk.go_on();
    let lines = sdk.end();
    let second_token = token_of(&wechat);
    assert_ne!(first_token, second_token);

    // For the SDK: every call answered, one placeholder all along, nothing that is WeChat's secret.
    let placeholders: Vec<&str> = lines.iter().filter_map(|line| line["placeholder"].as_str()).collect();
    assert_eq!(placeholders.len(), 2, "one at the start, one at the end");
    assert_eq!(placeholders[0], placeholders[1]);
    let placeholder = placeholders[0];
    let calls: BTreeSet<&str> = lines.iter().filter_map(|line| line["call"].as_str()).collect();
    assert!(calls.len() >= 20, "{calls:?}");
    let told = format!("{lines:?}");
    for secret in [&first_token, &second_token, APP_SECRET] {
        assert!(!told.contains(secret), "the SDK was told a secret");
    }

    // At WeChat: one dead call, one new token, and nobody else's credential.
    let now = wechat.control().counters();
    assert_eq!(now.bad_token_calls, 1, "the call that found the token dead");
    assert_eq!(now.token_calls_at(STABLE_TOKEN), counters.token_calls_at(STABLE_TOKEN) + 1);
    assert_eq!(now.requests_at("/cgi-bin/token"), 0);
    assert_eq!(now.requests_at("//cgi-bin/token"), 0);
    let seen = wechat.control().requests(None, usize::MAX);
    let paths: BTreeSet<&str> = seen.iter().map(|request| request.path.as_str()).collect();
    assert!(paths.len() >= 20, "{paths:?}");
    let tokens = [first_token.as_str(), second_token.as_str()];
    let mut is_second = false;
    for request in &seen {
        is_second |= check_seen(request, placeholder, tokens, is_second);
    }
    assert!(is_second);
}

/// Checks what one request carried; says whether it carried the second token.
fn check_seen(request: &SeenRequest, placeholder: &str, tokens: [&str; 2], is_second: bool) -> bool {
    let SeenRequest { path, query, .. } = request;
    let everything = format!("{request:?}");
    for stray in [placeholder, CLIENT_KEY] {
        assert!(!everything.contains(stray), "{path} carried what is the client's");
    }
    assert!(!request.headers.iter().any(|(name, _)| name == "authorization"), "{path}");
    let values = |wanted: &str| -> Vec<&str> {
        query.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.as_str()).collect()
    };
    match path.as_str() {
        STABLE_TOKEN => {
            assert!(request.body_head.contains(APP_SECRET));
            false
        }
        "/sns/jscode2session" | "/sns/oauth2/access_token" => {
            assert_eq!(values("secret"), [APP_SECRET], "{path}");
            assert!(values("access_token").is_empty(), "{path}");
            false
        }
        path if path.starts_with("/sns/") => {
            let theirs = values("access_token");
            assert!(!theirs.iter().any(|token| tokens.contains(token)), "{path} carried the account's token");
            false
        }
        path => {
            let sent = values("access_token");
            assert_eq!(sent.len(), 1, "{path}");
            assert!(tokens.contains(&sent[0]), "{path} carried a token of nobody's");
            assert!(!is_second || sent[0] == tokens[1], "{path} carried a token known to be dead");
            sent[0] == tokens[1]
        }
    }
}

fn token_of(wechat: &Sandbox) -> String {
    wechat.control().current_token(APP_ID, Endpoint::StableToken).unwrap().expect("a live token")
}

/// What `tests/setup` has put there.
pub(crate) fn installed(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/sdk").join(name);
    assert!(path.exists(), "{} is missing: run tests/setup", path.display());
    path
}

pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/sdk").join(name)
}

/// A script that runs, and what it has said.
struct Sdk {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    complaints: mpsc::Receiver<String>,
    heard: Vec<Value>,
}

// === impl Sdk ===

impl Sdk {
    fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{error}: run tests/setup"));
        let lines = lines_of(child.stdout.take().unwrap());
        let complaints = lines_of(child.stderr.take().unwrap());
        Self { stdin: child.stdin.take(), child, lines, complaints, heard: Vec::new() }
    }

    /// Listens until the script waits for us.
    fn pause(&mut self) {
        while let Some(line) = self.line() {
            if line["pause"] == "revoke" {
                return;
            }
            self.heard.push(line);
        }
        self.fail("it ended early");
    }

    fn go_on(&mut self) {
        self.stdin.take().unwrap().write_all(b"\n").unwrap();
    }

    /// Waits for a good end; everything that it has said.
    fn end(mut self) -> Vec<Value> {
        while let Some(line) = self.line() {
            self.heard.push(line);
        }
        let status = self.child.wait().unwrap();
        if !status.success() {
            self.fail(&status.to_string());
        }
        std::mem::take(&mut self.heard)
    }

    /// The next line; `None` at the end.
    fn line(&self) -> Option<Value> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("silent since {:?}", self.heard.last()),
        }
    }

    fn fail(&self, what: &str) -> ! {
        let complaints: Vec<String> = self.complaints.iter().collect();
        panic!("{what}, after {:?}\n{}", self.heard.last(), complaints.join("\n"))
    }
}

impl Drop for Sdk {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// A stream's lines, from a thread that ends with the stream.
fn lines_of(stream: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A token call as it looks on the wire.
#[derive(Debug, Clone)]
struct TokenCall {
    path: &'static str,
    sends: Sends,
    fields: Vec<(&'static str, &'static str)>,
}

/// Where the parameters stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sends {
    Query,
    Form,
    Json,
}

// === impl TokenCall ===

impl TokenCall {
    /// With everything that belongs there.
    fn new(path: &'static str, sends: Sends) -> Self {
        let fields = vec![("grant_type", "client_credential"), ("appid", APP_ID), ("secret", CLIENT_KEY)];
        Self { path, sends, fields }
    }

    fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.fields.retain(|(known, _)| *known != name);
        self.fields.push((name, value));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(known, _)| *known != name);
        self
    }

    /// The answer, which has status 200 and is JSON whatever it says.
    async fn answer(&self, proxy: &Proxy) -> Value {
        let form: Vec<String> = self.fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let form = form.join("&");
        let url = proxy.url(self.path);
        let request = match self.sends {
            Sends::Query => client().get(format!("{url}?{form}")),
            Sends::Form => {
                client().post(url).header("content-type", "application/x-www-form-urlencoded").body(form)
            }
            Sends::Json => {
                let fields = self.fields.iter().map(|(name, value)| ((*name).to_owned(), json!(value)));
                let mut body: serde_json::Map<String, Value> = fields.collect();
                // WxJava and EasyWeChat say it each time.
                body.insert("force_refresh".to_owned(), json!(false));
                let body = Value::Object(body).to_string();
                client().post(url).header("content-type", "application/json").body(body)
            }
        };
        let answer = request.timeout(PATIENCE).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{self:?}");
        let content_type = answer.headers()["content-type"].to_str().unwrap().to_owned();
        assert!(content_type.starts_with("application/json"), "{content_type}");
        serde_json::from_str(&answer.text().await.unwrap()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_token_call_gets_a_placeholder_that_works_as_a_token() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let fetched = wechat.control().counters().token_calls_at(STABLE_TOKEN);
    let cases = [
        // EasyWeChat, silenceper, co-wechat-api, chanxuehong.
        TokenCall::new("/cgi-bin/token", Sends::Query),
        // WxJava with an api host that ends in a slash.
        TokenCall::new("//cgi-bin/token", Sends::Query),
        // WeChat takes a POST as well, and says the same.
        TokenCall::new("/cgi-bin/token", Sends::Form),
        TokenCall::new("//cgi-bin/token", Sends::Form),
        TokenCall::new("/cgi-bin/token", Sends::Json),
        TokenCall::new(STABLE_TOKEN, Sends::Json),
        TokenCall::new("//cgi-bin/stable_token", Sends::Json),
        // A base URL that names the account.
        TokenCall::new("/@shop/cgi-bin/token", Sends::Query),
        TokenCall::new("/@shop//cgi-bin/stable_token", Sends::Json),
    ];
    for case in &cases {
        check_granted(case, &wechat, &proxy).await;
    }
    let counters = wechat.control().counters();
    assert_eq!(counters.token_calls_at(STABLE_TOKEN), fetched, "weigate answers by itself");
    assert_eq!(counters.token_calls_at("/cgi-bin/token"), 0);
    assert_eq!(counters.bad_token_calls, 0);
}

async fn check_granted(case: &TokenCall, wechat: &Sandbox, proxy: &Proxy) {
    let answer = case.answer(proxy).await;
    let fields: Vec<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["access_token", "expires_in"], "{case:?}");
    assert_eq!(answer["expires_in"], 7200, "{case:?}");
    let placeholder = answer["access_token"].as_str().unwrap();
    assert!((40..=512).contains(&placeholder.len()), "{placeholder}");
    assert!(
        placeholder.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)),
        "{placeholder}"
    );
    assert_ne!(placeholder, token_of(wechat));

    // Wherever in the query an SDK puts it, and with WxJava's double slash.
    for path_and_query in [
        format!("/cgi-bin/user/info?access_token={placeholder}&openid=o6&lang=zh_CN"),
        format!("//cgi-bin/user/info?openid=o6&lang=zh_CN&access_token={placeholder}"),
    ] {
        let answer = get_json(proxy, &path_and_query).await;
        assert_eq!(answer.1["openid"], "o6", "{case:?}: {answer:?}");
        let seen = wechat.control().requests(Some("/cgi-bin/user/info"), 1).remove(0);
        assert!(seen.query.contains(&("access_token".to_owned(), token_of(wechat))), "{case:?}");
        assert!(!format!("{seen:?}").contains(placeholder), "{case:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_call_gets_wechats_own_answer_and_reaches_nobody() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let before = wechat.control().counters().requests;
    let forms = [
        TokenCall::new("/cgi-bin/token", Sends::Query),
        TokenCall::new("//cgi-bin/token", Sends::Query),
        TokenCall::new("/cgi-bin/token", Sends::Form),
        TokenCall::new(STABLE_TOKEN, Sends::Json),
        TokenCall::new("//cgi-bin/stable_token", Sends::Json),
    ];
    for form in forms {
        check_refused(form.clone().with("secret", "wgk_not-the-key"), 40125, &proxy).await;
        // The real secret is no client key.
        check_refused(form.clone().with("secret", APP_SECRET), 40125, &proxy).await;
        check_refused(form.clone().with("appid", "wxffffffffffffffff"), 40013, &proxy).await;
        check_refused(form.clone().with("appid", ""), 41002, &proxy).await;
        check_refused(form.clone().without("appid"), 41002, &proxy).await;
        check_refused(form.clone().with("grant_type", "authorization_code"), 40002, &proxy).await;
        check_refused(form.clone().without("secret"), 41004, &proxy).await;
    }
    check_refused(TokenCall::new(STABLE_TOKEN, Sends::Query), 43002, &proxy).await;
    check_refused(TokenCall::new("//cgi-bin/stable_token", Sends::Query), 43002, &proxy).await;
    assert_eq!(wechat.control().counters().requests, before);
}

async fn check_refused(case: TokenCall, errcode: i64, proxy: &Proxy) {
    let answer = case.answer(proxy).await;
    assert_eq!(answer["errcode"], errcode, "{case:?}: {answer}");
    let text = answer["errmsg"].as_str().unwrap();
    assert!(text.contains("rid: "), "{text}");
    assert!(answer.get("access_token").is_none(), "{case:?}");
    assert!(!text.contains(APP_SECRET) && !text.contains(CLIENT_KEY), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placeholder_that_is_expired_or_forged_is_refused_with_a_code_no_sdk_retries_on() {
    let wechat = wechat().await;
    let key = std::array::from_fn(|at| u8::try_from(at).unwrap());
    let setup = Setup::new().and("[placeholder]\nkey_file = \"placeholder.key\"");
    write_private(&setup.dir.path().join("placeholder.key"), &key.map(|byte| format!("{byte:02x}")).concat());
    let proxy = setup.start(&wechat).await;

    let sign = |key: [u8; 32], client_key: &str, account: &str, expires_at: u64| {
        let client = ClientName::parse("orders").unwrap();
        let account = AccountName::parse(account).unwrap();
        let signer = Signer::new(&PlaceholderKey(key.into()));
        signer.sign(&client, &account, &clients::digest(client_key), UnixSeconds(expires_at))
    };
    let now = UnixSeconds::now().0;
    let good = sign(key, CLIENT_KEY, "shop", now + 60);
    assert_eq!(get_json(&proxy, &menu_with(&good)).await.0, 200, "the test signs as weigate does");

    let other_byte = |at: usize| {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    };
    let before = wechat.control().counters().requests;
    let cases = [
        ("expired", sign(key, CLIENT_KEY, "shop", now - 1)),
        ("signed with another weigate's key", sign([8; 32], CLIENT_KEY, "shop", now + 60)),
        ("of a client whose key was changed", sign(key, "wgk_the-key-before", "shop", now + 60)),
        ("another expiry", other_byte(8)),
        ("another client", other_byte(20)),
        ("another signature", other_byte(good.len() - 8)),
        ("cut", good.chars().take(good.len() - 1).collect()),
        ("longer", format!("{good}A")),
        ("the prefix alone", "wgt_".to_owned()),
        ("a token like WeChat's", "72_".to_owned() + &"x".repeat(150)),
        ("WeChat's own token", token_of(&wechat)),
    ];
    for (what, placeholder) in cases {
        let (status, answer) = get_json(&proxy, &menu_with(&placeholder)).await;
        assert_eq!((status, &answer["errcode"]), (401, &json!(-99401)), "{what}: {answer}");
        assert!(!answer.to_string().contains(&placeholder), "{what}: {answer}");
    }
    assert_eq!(wechat.control().counters().requests, before);
}

fn menu_with(access_token: &str) -> String {
    format!("/cgi-bin/get_current_selfmenu_info?access_token={access_token}")
}

/// A GET without any header that names a client: status and body.
async fn get_json(proxy: &Proxy, path_and_query: &str) -> (u16, Value) {
    let answer = client().get(proxy.url(path_and_query)).timeout(PATIENCE).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}
