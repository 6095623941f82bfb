//! What tests stand on: the sandbox as WeChat, weigate in this process or as the real binary, a client.
//!
//! Everything listens on port 0, ends when it is dropped, and is waited for by what it says, not by a clock.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use weigate::app::{self, App};
use weigate::clients;
use weigate::config::{self, ListenAddress};
use weigate::sandbox::{Counters, Quotas, Sandbox, SandboxAccount, SandboxOptions};

use tokio::sync::watch;

pub(crate) use crate::probes::{CLIENT_KEY, PATIENCE};

pub(crate) const APP_ID: &str = "wx0123456789abcdef";
pub(crate) const APP_SECRET: &str = "canary-app-secret-5f2b9c";

pub(crate) const STABLE_TOKEN: &str = "/cgi-bin/stable_token";

/// WeChat with one official account, over TLS, without quotas.
pub(crate) async fn wechat() -> Sandbox {
    wechat_with(|options| options).await
}

pub(crate) async fn wechat_with(change: impl FnOnce(SandboxOptions) -> SandboxOptions) -> Sandbox {
    let options = SandboxOptions {
        tls: true,
        accounts: vec![SandboxAccount::new(APP_ID, APP_SECRET)],
        quotas: Quotas::Unlimited,
        ..SandboxOptions::default()
    };
    Sandbox::start(change(options)).await.unwrap()
}

/// A configuration in a directory of its own: a client `orders` with [`CLIENT_KEY`] on an account `shop`.
pub(crate) struct Setup {
    pub(crate) dir: Arc<tempfile::TempDir>,
    listen: String,
    store: String,
    more: String,
    upstream: String,
    server: String,
    clients: String,
    level: &'static str,
    wecom: Option<String>,
    account: String,
}

/// weigate in this process.
pub(crate) struct Proxy {
    app: Option<App>,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// Every address that clients can connect to; the first is [`Proxy::address`], if that is TCP.
    pub(crate) addresses: Vec<ListenAddress>,
    pub(crate) dir: Arc<tempfile::TempDir>,
}

/// weigate as a process.
pub(crate) struct Binary {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) dir: Arc<tempfile::TempDir>,
    log: watch::Receiver<String>,
    reader: Option<std::thread::JoinHandle<()>>,
}

// === impl Setup ===

impl Setup {
    pub(crate) fn new() -> Self {
        Self {
            dir: Arc::new(tempfile::tempdir().unwrap()),
            listen: "\"127.0.0.1:0\"".to_owned(),
            store: "kind = \"memory\"\n".to_owned(),
            more: String::new(),
            upstream: String::new(),
            server: "workers = 2".to_owned(),
            clients: client_lines("orders", CLIENT_KEY, "accounts = [\"shop\"]"),
            level: "info",
            wecom: None,
            account: String::new(),
        }
    }

    /// Tokens outlive the process.
    pub(crate) fn with_file_store(mut self) -> Self {
        "kind = \"file\"\ndir = \"state\"".clone_into(&mut self.store);
        self
    }

    /// Tokens are shared through this Redis; `more` are further lines of the store's section.
    pub(crate) fn with_redis(mut self, url: &str, more: &str) -> Self {
        write_private(&self.dir.path().join("redis.url"), url);
        self.store = format!("kind = \"redis\"\nurl_file = \"redis.url\"\n{more}");
        self
    }

    /// More sections, at the end of the file.
    pub(crate) fn and(mut self, toml: &str) -> Self {
        self.more.push_str(toml);
        self.more.push('\n');
        self
    }

    /// Another value for `listen`, as TOML has it.
    pub(crate) fn listen(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.listen);
        self
    }

    /// More lines in `[upstream]`.
    pub(crate) fn upstream(mut self, toml: &str) -> Self {
        self.upstream.push_str(toml);
        self.upstream.push('\n');
        self
    }

    /// More lines in `[server]`.
    pub(crate) fn server(mut self, toml: &str) -> Self {
        self.server.push('\n');
        self.server.push_str(toml);
        self
    }

    /// Other clients than `orders`; more lines for it when the text starts with no `[`.
    pub(crate) fn clients(mut self, toml: &str) -> Self {
        if toml.is_empty() || toml.starts_with('[') {
            toml.clone_into(&mut self.clients);
        } else {
            self.clients.push_str(toml);
        }
        self
    }

    /// Where the accounts of 企业微信 go; without it, to the same sandbox as all others.
    pub(crate) fn wecom(mut self, wecom: &Sandbox) -> Self {
        self.wecom = Some(wecom.base_url());
        self
    }

    /// More lines in the section of the account `shop`.
    pub(crate) fn account(mut self, toml: &str) -> Self {
        self.account.push_str(toml);
        self.account.push('\n');
        self
    }

    /// `trace`, `debug` …
    pub(crate) fn log_level(mut self, level: &'static str) -> Self {
        self.level = level;
        self
    }

    /// Writes `proxy.toml`, the secret's file and the sandbox's authority; says where the first is.
    pub(crate) fn write(&self, wechat: &Sandbox) -> PathBuf {
        self.write_for(&wechat.base_url(), wechat.ca_pem())
    }

    /// The same for any upstream.
    pub(crate) fn write_for(&self, base_url: &str, ca_pem: Option<&str>) -> PathBuf {
        let dir = self.dir.path();
        std::fs::write(dir.join("ca.pem"), ca_pem.unwrap_or_default()).unwrap();
        write_private(&dir.join("secret"), APP_SECRET);
        let ca = if ca_pem.is_some() { "ca_file = \"ca.pem\"" } else { "" };
        let wecom = self.wecom.as_deref().unwrap_or(base_url);
        let text = format!(
            "[server]\nlisten = {}\n{}\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [upstream]\nhosts = [\"{base_url}\"]\nwecom_hosts = [\"{wecom}\"]\n{ca}\n{}[store]\n{}\n\
             [log]\nformat = \"json\"\nlevel = \"{}\"\naccess = true\n\
             [[accounts]]\nname = \"shop\"\napp_id = \"{APP_ID}\"\napp_secret_file = \"secret\"\n{}{}\n{}\n",
            self.listen,
            self.server,
            self.upstream,
            self.store,
            self.level,
            self.account,
            self.clients,
            self.more,
        );
        let path = dir.join("proxy.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Starts weigate in this process and waits until it is ready.
    pub(crate) async fn start(self, wechat: &Sandbox) -> Proxy {
        let proxy = self.start_unready(wechat).await;
        proxy.wait_ready().await;
        proxy
    }

    /// Starts weigate in this process.
    pub(crate) async fn start_unready(self, wechat: &Sandbox) -> Proxy {
        self.write(wechat);
        Proxy::begin(self.dir).await
    }

    /// Starts weigate in this process in front of another upstream than the sandbox, and waits until it is ready.
    pub(crate) async fn start_at(self, base_url: &str) -> Proxy {
        self.write_for(base_url, None);
        let proxy = Proxy::begin(self.dir).await;
        proxy.wait_ready().await;
        proxy
    }

    /// Starts the binary and waits until it is ready.
    pub(crate) async fn spawn(self, wechat: &Sandbox) -> Binary {
        let path = self.write(wechat);
        let binary = Binary::spawn(&path, self.dir, |_| {});
        wait_ready(binary.admin).await;
        binary
    }
}

// === impl Proxy ===

impl Proxy {
    pub(crate) fn url(&self, path_and_query: &str) -> String {
        format!("http://{}{path_and_query}", self.address)
    }

    pub(crate) async fn wait_ready(&self) {
        wait_ready(self.admin).await;
    }

    pub(crate) async fn metric(&self, sample: &str) -> u64 {
        metric(self.admin, sample).await
    }

    pub(crate) fn app(&mut self) -> &mut App {
        self.app.as_mut().unwrap()
    }

    pub(crate) async fn stop(mut self) -> bool {
        self.app.take().unwrap().stop(std::future::pending()).await
    }

    /// Starts what `dir` configures in its `proxy.toml`, without waiting until it is ready.
    pub(crate) async fn begin(dir: Arc<tempfile::TempDir>) -> Self {
        let loaded = config::load(&dir.path().join("proxy.toml")).unwrap_or_else(|faults| panic!("{faults}"));
        let listeners = app::bind(&loaded.config, app::Start::Alone).unwrap();
        let addresses = listeners.server_addresses.clone();
        let address = addresses.iter().find_map(tcp);
        let address = address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 9)));
        let admin = tcp(listeners.admin_address.as_ref().unwrap()).unwrap();
        let app = App::start(loaded.config, listeners).await.unwrap();
        Self { app: Some(app), address, admin, addresses, dir }
    }
}

// === impl Binary ===

impl Binary {
    /// Starts `weigate serve --config PATH`; `change` may set environment and wrappers.
    pub(crate) fn spawn(path: &Path, dir: Arc<tempfile::TempDir>, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weigate"));
        command.arg("serve").arg("--config").arg(path);
        change(&mut command);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let (log, kept) = watch::channel(String::new());
        let mut address = None;
        let mut admin = None;
        while address.is_none() || admin.is_none() {
            let mut line = String::new();
            assert!(lines.read_line(&mut line).unwrap() > 0, "weigate ended: {}", *log.borrow());
            let said = |message: &str| line.contains(message).then(|| address_in(&line)).flatten();
            address = address.or_else(|| said("clients connect here"));
            admin = admin.or_else(|| said("operators connect here"));
            log.send_modify(|text| text.push_str(&line));
        }
        let reader = std::thread::spawn(move || {
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|read| read > 0) {
                log.send_modify(|text| text.push_str(&line));
                line.clear();
            }
        });
        Self { child, address: address.unwrap(), admin: admin.unwrap(), dir, log: kept, reader: Some(reader) }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn url(&self, path_and_query: &str) -> String {
        format!("http://{}{path_and_query}", self.address)
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.borrow().clone()
    }

    /// Waits until it has logged `text`.
    pub(crate) async fn wait_for_log(&self, text: &str) {
        let mut log = self.log.clone();
        let said = log.wait_for(|log| log.contains(text));
        let said = tokio::time::timeout(PATIENCE, said).await;
        assert!(matches!(said, Ok(Ok(_))), "it never said {text:?}:\n{}", self.log());
    }

    /// Waits until a line of the log satisfies `is_it`; that line.
    pub(crate) async fn logged(&self, is_it: impl Fn(&str) -> bool) -> String {
        let started = tokio::time::Instant::now();
        loop {
            if let Some(line) = self.log().lines().find(|line| is_it(line)) {
                return line.to_owned();
            }
            assert!(started.elapsed() < PATIENCE, "not in the log:\n{}", self.log());
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Stops it as `SIGSTOP` does; every thread stands still when this returns.
    pub(crate) fn pause(&self) {
        use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};
        self.signal(Signal::STOP);
        waitid(WaitId::Pid(Pid::from_child(&self.child)), WaitIdOptions::STOPPED).unwrap();
    }

    /// Waits for the end; the whole log is there afterwards.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let status = self.child.wait().unwrap();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        status
    }

    /// The most memory it ever had resident, and what it has now, in KiB.
    pub(crate) fn memory_kib(&self) -> (u64, u64) {
        let mut text = String::new();
        let path = format!("/proc/{}/status", self.pid());
        std::fs::File::open(path).unwrap().read_to_string(&mut text).unwrap();
        let value = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        (value("VmHWM:"), value("VmRSS:"))
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        self.wait();
    }
}

/// A client with a connection pool of its own; no proxy, no redirects.
pub(crate) fn client() -> reqwest::Client {
    // The crate's own client is built without a TLS provider of its own; any choice will do for plain HTTP.
    weigate::token::http_client(weigate::proxy::upstream::tls_config(None).unwrap()).unwrap()
}

/// A GET with the client key.
pub(crate) async fn get(url: &str) -> reqwest::Response {
    client().get(url).bearer_auth(CLIENT_KEY).timeout(PATIENCE).send().await.unwrap()
}

/// A GET with the client key; the body as JSON.
pub(crate) async fn get_json(url: &str) -> serde_json::Value {
    let text = get(url).await.text().await.unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Waits until the sandbox has counted so.
pub(crate) async fn until(wechat: &Sandbox, is_so: impl FnMut(&Counters) -> bool) -> Counters {
    let waited = tokio::time::timeout(PATIENCE, wechat.control().wait_until(is_so)).await;
    waited.unwrap_or_else(|_| panic!("not so in time: {:?}", wechat.control().counters()))
}

/// What an SDK gets that asks weigate for its token.
pub(crate) async fn placeholder(proxy: &Proxy, app_id: &str, key: &str) -> String {
    let url = format!("/cgi-bin/token?grant_type=client_credential&appid={app_id}&secret={key}");
    get_json(&proxy.url(&url)).await["access_token"].as_str().unwrap().to_owned()
}

/// Waits until every account has a token.
pub(crate) async fn wait_ready(admin: SocketAddr) {
    let client = client();
    let started = tokio::time::Instant::now();
    loop {
        let answer = client.get(format!("http://{admin}/readyz")).send().await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "not ready in time");
        tokio::task::yield_now().await;
    }
}

/// The value of one sample of `/metrics`, such as `weigate_connections_total`.
pub(crate) async fn metric(admin: SocketAddr, sample: &str) -> u64 {
    let page = client().get(format!("http://{admin}/metrics")).send().await.unwrap().text().await.unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {sample} in\n{page}")).parse().unwrap()
}

/// A file that only its owner can read.
pub(crate) fn write_private(path: &Path, text: &str) {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file =
        std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// A figure for whoever runs the tests with `--nocapture`.
#[expect(clippy::print_stderr, reason = "that is where test figures go")]
pub(crate) fn note(figure: &str) {
    eprintln!("{figure}");
}

/// A digest as text.
pub(crate) fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

/// A client's section in `proxy.toml`.
pub(crate) fn client_lines(name: &str, key: &str, more: &str) -> String {
    format!("[[clients]]\nname = \"{name}\"\nkey_sha256 = \"{}\"\n{more}\n", hex(clients::digest(key)))
}

fn tcp(address: &ListenAddress) -> Option<SocketAddr> {
    match address {
        ListenAddress::Tcp(address) => Some(*address),
        ListenAddress::Unix(_) => None,
    }
}

fn address_in(line: &str) -> Option<SocketAddr> {
    let event: serde_json::Value = serde_json::from_str(line).ok()?;
    event.get("address")?.as_str()?.parse().ok()
}
