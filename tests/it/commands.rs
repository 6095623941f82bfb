//! The commands as a person at a terminal meets them: what they print, where, and how they end.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use reqwest::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use weigate::config;
use weigate::sandbox::{AccountKind, SandboxAccount};

use crate::harness::{
    APP_ID, APP_SECRET, CLIENT_KEY, PATIENCE, Setup, client, wechat, wechat_with, write_private,
};

#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

#[test]
fn help_and_version_are_no_faults() {
    for command in ["serve", "check", "sandbox", "key", "status", "health"] {
        let ran = run(&[command, "--help"]);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{command}");
        assert!(ran.out.contains("Usage: weigate ") && ran.out.contains("--help"), "{}", ran.out);
        let listed = run(&["--help"]).out;
        assert!(listed.contains(&format!("\n  {command} ")), "{listed}");
    }
    let help = run(&["--help"]);
    assert_eq!((help.code, help.err.as_str()), (0, ""));
    for word in
        ["https://api.weixin.qq.com", "weigate serve --sandbox", "Exit codes: 0, 2 ", "[default: proxy.toml]"]
    {
        assert!(help.out.contains(word), "no {word} in {}", help.out);
    }
    assert!(!help.out.contains('`') || help.out.contains("`serve`"), "{}", help.out);
    assert!(help.out.lines().all(|line| line.chars().count() <= 100), "{}", help.out);
    let version = run(&["--version"]);
    assert_eq!(
        (version.code, version.out.as_str()),
        (0, concat!("weigate ", env!("CARGO_PKG_VERSION"), "\n"))
    );
}

#[test]
fn bad_usage_is_64_and_says_what_would_be_right() {
    for (arguments, words) in [
        (&["nonsense"][..], "Usage: weigate"),
        (&["--nonsense"], "--help"),
        (&["key"], "Usage: weigate key <NAME>"),
        (&["key", "a/b"], "letters, digits"),
        (&["serve", "--listen", "127.0.0.1:0"], "--sandbox"),
        (&["serve", "--sandbox", "--listen", "nonsense"], "--listen <ADDRESS>"),
        (&["sandbox", "--account", "no-colon"], "with a colon between them"),
        (&["sandbox", "--account", ":secret"], "with a colon between them"),
        (&["check", "surplus"], "Usage: weigate check"),
    ] {
        let ran = run(arguments);
        assert_eq!(ran.code, 64, "{arguments:?}: {ran:?}");
        assert!(ran.out.is_empty() && ran.err.contains(words), "{arguments:?}: {ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_is_2_with_all_faults_at_once_and_no_port_is_bound() {
    let wechat = wechat().await;
    let setup = Setup::new();
    let path = setup.write(&wechat);
    let port = free_port();
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text
        .replace(
            "listen = \"127.0.0.1:0\"\nworkers = 2",
            &format!("listen = \"127.0.0.1:{port}\"\nworkers = 0"),
        )
        .replace("app_secret_file = \"secret\"", &format!("app_secret = \"{APP_SECRET}\""))
        .replace("kind = \"memory\"", "knid = \"memory\"");
    std::fs::write(&path, text).unwrap();
    // Nobody else can listen at this port, so who tries says that, and not what is wrong with the file.
    let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    for command in ["serve", "check"] {
        let ran = run(&[command, "--config", path.to_str().unwrap()]);
        assert_eq!(ran.code, 2, "{ran:?}");
        let lines: Vec<&str> = ran.err.lines().collect();
        for (line, fault) in
            [("proxy.toml:3:", "workers"), ("proxy.toml:11:", "knid"), ("proxy.toml:20:", "app_secret_file")]
        {
            assert!(
                lines.iter().any(|said| said.contains(line) && said.contains(fault)),
                "no {line} {fault} in\n{}",
                ran.err
            );
        }
        assert!(!format!("{ran:?}").contains(APP_SECRET), "{ran:?}");
        assert!(ran.out.is_empty(), "{ran:?}");
    }
    drop(taken);
}

#[test]
fn a_missing_configuration_says_which_and_how_to_try_without_one() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("proxy.toml");
    let ran = run(&["--config", missing.to_str().unwrap()]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.contains("proxy.toml: the configuration cannot be read: there is no such file"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("weigate serve --sandbox"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_1_and_named_once() {
    let wechat = wechat().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let setup = Setup::new();
    let path = setup.write(&wechat);
    let text = std::fs::read_to_string(&path).unwrap();
    for section in ["[server]\n", "[admin]\n"] {
        let changed = text.replace(
            &format!("{section}listen = \"127.0.0.1:0\""),
            &format!("{section}listen = \"{address}\""),
        );
        assert_ne!(changed, text);
        std::fs::write(&path, changed).unwrap();
        let ran = run(&["serve", "-c", path.to_str().unwrap()]);
        assert_eq!(ran.code, 1, "{ran:?}");
        let said = format!("weigate: cannot listen at {address}: Address already in use (os error 98)\n");
        assert_eq!(ran.err, said);
    }
    let address = address.to_string();
    let ran = run(&["sandbox", "--listen", &address, "--control", "127.0.0.1:0"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains(&address) && ran.err.contains("Address already in use"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_that_a_file_is_good_and_what_it_holds() {
    let wechat = wechat().await;
    let setup = Setup::new();
    let path = setup.write(&wechat);
    let ran = run(&["check", "--config", path.to_str().unwrap()]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    assert!(ran.out.contains("proxy.toml: good: 1 account(s), 1 client(s)"), "{}", ran.out);
    assert_eq!(wechat.control().counters().requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_online_finds_nothing_where_all_is_well_even_beside_a_running_weigate() {
    let wechat = wechat().await;
    let binary = Setup::new().with_file_store().spawn(&wechat).await;
    let path = binary.dir.path().join("proxy.toml");
    let ran = run(&["check", "--online", "--config", path.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for words in ["good  name 127.0.0.1", "reached, clocks within", "good  store", "a token that lives"] {
        assert!(ran.out.contains(words), "no {words} in {}", ran.out);
    }
    assert!(!ran.out.contains("FAULT"), "{}", ran.out);
    let token = wechat.control().accounts();
    assert!(!token.is_empty() && !ran.out.contains(APP_SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_online_says_each_fault_with_its_cure() {
    let wechat = wechat_with(|mut options| {
        let corp = SandboxAccount::new("ww1", "corp-secret").of_kind(AccountKind::WeCom);
        options.accounts =
            vec![SandboxAccount::new(APP_ID, APP_SECRET).of_kind(AccountKind::MiniProgram), corp];
        options
    })
    .await;
    let setup = Setup::new().and(
        "[[accounts]]\nname = \"corp\"\napp_id = \"ww1\"\napp_secret_file = \"corp\"\ngrant = \"wecom\"",
    );
    crate::harness::write_private(&setup.dir.path().join("corp"), "corp-secret");
    let path = setup.write(&wechat);
    let check = || run(&["check", "--online", "--config", path.to_str().unwrap()]);

    wechat.control().set_secret(APP_ID, "another-secret").unwrap();
    assert_fault(
        &check(),
        &["FAULT token call of account shop", "40125", "the AppSecret is not this AppID's"],
    );
    wechat.control().set_secret(APP_ID, APP_SECRET).unwrap();

    wechat.control().set_ip_allow_list(APP_ID, Some(Vec::new())).unwrap();
    let words = ["FAULT token call of account shop", "40164", "add 127.0.0.1 to the account's IP allow-list"];
    assert_fault(&check(), &words);
    wechat.control().set_ip_allow_list(APP_ID, None).unwrap();
    assert_eq!(check().code, 0);

    wechat.control().set_secret("ww1", "another").unwrap();
    let words = ["FAULT token call of account corp", "40001", "the secret is not one of this corpid's"];
    assert_fault(&check(), &words);
    wechat.control().set_secret("ww1", "corp-secret").unwrap();
    let ran = check();
    assert!(ran.code == 0 && ran.out.contains("good  token call of account corp"), "{ran:?}");

    // The authority of another sandbox.
    let other = crate::harness::wechat().await;
    let ca = path.with_file_name("ca.pem");
    std::fs::write(&ca, other.ca_pem().unwrap()).unwrap();
    assert_fault(&check(), &["FAULT connection to https://127.0.0.1", "certificate", "upstream.ca_file"]);
    std::fs::write(&ca, wechat.ca_pem().unwrap()).unwrap();

    wechat.stop().await;
    assert_fault(&check(), &["FAULT connection to https://127.0.0.1", "refused", "firewall"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_printed_once_with_lines_that_load() {
    let ran = run(&["key", "orders"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let key = ran.out.lines().map(str::trim).find(|line| line.starts_with("wgk_")).unwrap().to_owned();
    assert_eq!(ran.out.matches(&key).count(), 1, "{}", ran.out);
    let (_, lines) = ran.out.split_once("[[clients]]").unwrap();
    assert!(!lines.contains(&key));

    // The lines as they are, in a configuration as it is.
    let wechat = wechat().await;
    let setup = Setup::new().clients(&format!("[[clients]]{lines}"));
    let loaded = config::load(&setup.write(&wechat)).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(loaded.config.clients[0].key_sha256, Some(weigate::clients::digest(&key)));
    assert_eq!(loaded.config.clients[0].name.as_str(), "orders");
    let proxy = setup.start(&wechat).await;
    let call = client().get(proxy.url("/cgi-bin/menu/get")).bearer_auth(&key).send().await.unwrap();
    assert_eq!(call.status(), StatusCode::OK);

    assert_ne!(run(&["key", "orders"]).out, ran.out, "the same key twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sandbox_serves_is_controlled_and_ends_when_asked() {
    for signal in [Signal::INT, Signal::TERM] {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        let arguments = [
            "sandbox",
            "--listen",
            "127.0.0.1:0",
            "--control",
            "127.0.0.1:0",
            "--account",
            "wxa1:s1",
            "--plain",
        ];
        let mut running = Running::start(&arguments, Stream::Out, "an account:");
        let base = running.word_after("WeChat's stand-in:");
        let control = running.word_after("its control API:");
        assert!(running.said.contains("appid wxa1 secret s1"), "{}", running.said);
        assert!(base.starts_with("http://127.0.0.1:") && !ca.exists());

        let url = format!("{base}/cgi-bin/token?grant_type=client_credential&appid=wxa1&secret=s1");
        let body = client().get(url).send().await.unwrap().text().await.unwrap();
        assert!(body.contains("access_token"), "{body}");
        let help = client().get(&control).send().await.unwrap();
        assert_eq!(help.status(), StatusCode::OK);
        assert!(help.text().await.unwrap().contains("faults"));
        let status = running.end(signal);
        assert_eq!(status.code(), Some(0), "{signal:?}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sandbox_writes_its_authority_and_a_proxy_trusts_it() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    let arguments =
        ["sandbox", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--ca-file", ca.to_str().unwrap()];
    let mut running = Running::start(&arguments, Stream::Out, "an account:");
    let base = running.word_after("WeChat's stand-in:");
    let app_id = running.word_after("appid");
    write_private(&dir.path().join("secret"), &running.word_after("secret"));
    let path = dir.path().join("proxy.toml");
    let text = format!(
        "[upstream]\nhosts = [\"{base}\"]\nca_file = \"ca.pem\"\n[store]\nkind = \"memory\"\n\
         [[accounts]]\nname = \"shop\"\napp_id = \"{app_id}\"\napp_secret_file = \"secret\"\n"
    );
    std::fs::write(&path, text).unwrap();
    let ran = run(&["check", "--online", "-c", path.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(running.end(Signal::TERM).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_sandbox_prints_a_curl_line_that_works_as_printed() {
    for (arguments, signal) in [(&["serve", "--sandbox"][..], Signal::INT), (&["--sandbox"], Signal::TERM)] {
        let arguments: Vec<&str> =
            arguments.iter().copied().chain(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).collect();
        let mut running = Running::start(&arguments, Stream::Err, "Ctrl-C stops.");
        let line =
            running.said.lines().map(str::trim).find(|line| line.starts_with("curl ")).unwrap().to_owned();
        let quoted: Vec<&str> = line.split('\'').collect();
        let [_, header, _, url, ""] = quoted[..] else { panic!("{line}") };
        let (name, value) = header.split_once(": ").unwrap();
        let answer = client().get(url).header(name, value).timeout(PATIENCE).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{line}");
        let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert!(body["openid"].is_string() && body.get("errcode").is_none(), "{body}");

        // So do the other addresses.
        let accounts = running.word_after("Tokens, errors, metrics:");
        assert_eq!(client().get(accounts).send().await.unwrap().status(), StatusCode::OK);
        let control = running.word_after("see what arrived:");
        assert_eq!(client().get(control).send().await.unwrap().status(), StatusCode::OK);
        assert_eq!(running.end(signal).code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_a_table_and_health_an_exit_code() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let admin = format!("http://{}", proxy.admin);
    let ran = run(&["status", "--admin", &admin]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    let lines: Vec<Vec<&str>> = ran.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..3], ["ACCOUNT", "TOKEN", "GEN"]);
    assert_eq!(lines[1][..3], ["shop", "live", "1"]);
    assert!(lines[1].contains(&"renewed"), "{}", ran.out);
    // A slash too many is no fault.
    assert_eq!(run(&["status", "--admin", &format!("{admin}/")]).code, 0);
    for arguments in [&["health", "--admin", &admin][..], &["health", "--live", "--admin", &admin]] {
        let ran = run(arguments);
        assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", ""));
    }
    proxy.stop().await;
    for command in ["status", "health"] {
        let ran = run(&[command, "--admin", &admin]);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains(&admin) && ran.err.contains("is weigate running"), "{}", ran.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_status_say_what_a_sick_account_needs() {
    let wechat = wechat_with(|mut options| {
        options.accounts = vec![SandboxAccount::new(APP_ID, "another-secret")];
        options
    })
    .await;
    let proxy = Setup::new().start_unready(&wechat).await;
    let admin = format!("http://{}", proxy.admin);
    wechat.control().wait_until(|counters| counters.errcodes.contains_key(&40125)).await;
    let started = tokio::time::Instant::now();
    let health = loop {
        let ran = run(&["health", "--admin", &admin]);
        assert_eq!(ran.code, 1);
        if ran.err.contains("wrong_secret") {
            break ran;
        }
        assert!(started.elapsed() < PATIENCE, "{ran:?}");
    };
    assert!(health.err.contains("account shop has no live token"), "{}", health.err);
    assert_eq!(run(&["health", "--live", "--admin", &admin]).code, 0);
    let status = run(&["status", "--admin", &admin]);
    assert_eq!(status.code, 0);
    for words in ["NONE", "wrong_secret", "the AppSecret is not this AppID's"] {
        assert!(status.out.contains(words), "no {words} in {}", status.out);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_for_people_unless_json_is_asked_for() {
    let wechat = wechat().await;
    let json = Setup::new().spawn(&wechat).await;
    for line in json.log().lines() {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(
            event["level"].is_string() && event["message"].is_string() && event["target"].is_string(),
            "{line}"
        );
    }
    let path = json.dir.path().join("proxy.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("format = \"json\"\n", "");
    std::fs::write(&path, text).unwrap();
    let mut running = Running::start(&["-c", path.to_str().unwrap()], Stream::Err, "weigate serves");
    assert!(
        running.said.lines().all(|line| line.contains(" INFO ") || line.contains(" WARN ")),
        "{}",
        running.said
    );
    assert!(!running.said.contains('\u{1b}'), "colours in a file: {}", running.said);
    assert!(!running.said.contains(CLIENT_KEY));
    assert_eq!(running.end(Signal::TERM).code(), Some(0));
}

/// The sample lines of `weigate key` name the account that the sample configuration has.
#[test]
fn the_sample_configuration_names_the_account_that_key_prints() {
    let sample = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("proxy.toml")).unwrap();
    assert!(sample.contains("name = \"shop\""));
    assert!(run(&["key", "orders"]).out.contains("accounts = [\"shop\"]"));
}

// === helpers ===

fn run(arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weigate"));
    command.args(arguments).stdin(Stdio::null()).env_remove("WEIGATE_CONFIG").env_remove("WEIGATE_ADMIN");
    let output = command.env("COLUMNS", "100").output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn assert_fault(ran: &Ran, words: &[&str]) {
    assert_eq!(ran.code, 1, "{ran:?}");
    for word in words {
        assert!(ran.out.contains(word), "no {word} in\n{}", ran.out);
    }
    assert!(ran.err.contains("checks failed"), "{}", ran.err);
    let all = format!("{ran:?}");
    assert!(!all.contains(APP_SECRET) && !all.contains("access_token="), "{all}");
}

/// One that nobody listens at; taken by who asked, at once.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    address.port()
}

#[derive(Clone, Copy)]
enum Stream {
    Out,
    Err,
}

/// A command that runs until it is told to end.
struct Running {
    child: Child,
    lines: BufReader<Box<dyn std::io::Read>>,
    said: String,
}

impl Running {
    /// Starts it and reads until a line holds `last`.
    fn start(arguments: &[&str], stream: Stream, last: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weigate"));
        command.args(arguments).stdin(Stdio::null()).env_remove("WEIGATE_CONFIG");
        match stream {
            Stream::Out => command.stdout(Stdio::piped()).stderr(Stdio::inherit()),
            Stream::Err => command.stdout(Stdio::null()).stderr(Stdio::piped()),
        };
        let mut child = command.spawn().unwrap();
        let pipe: Box<dyn std::io::Read> = match stream {
            Stream::Out => Box::new(child.stdout.take().unwrap()),
            Stream::Err => Box::new(child.stderr.take().unwrap()),
        };
        let mut running = Self { child, lines: BufReader::new(pipe), said: String::new() };
        while !running.said.contains(last) {
            let read = running.lines.read_line(&mut running.said).unwrap();
            assert!(read > 0, "it ended: {}", running.said);
        }
        running
    }

    /// The word that follows `words` in what it said.
    fn word_after(&self, words: &str) -> String {
        let (_, after) = self.said.split_once(words).unwrap_or_else(|| panic!("no {words} in {}", self.said));
        after.split_whitespace().next().unwrap().to_owned()
    }

    fn end(&mut self, signal: Signal) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        // Until its end, so that it never writes to a pipe without a reader.
        self.lines.read_to_string(&mut self.said).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}
