//! What an account costs while nothing happens to it. A test program of its own: it counts every byte that is allocated.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]
#![expect(clippy::print_stdout, reason = "the figures are the point")]

use std::fmt::Write as _;
use std::fs::{self, DirBuilder};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use weigate::app::{self, App};
use weigate::config;
use weigate::token::store::{MemoryStore, Stored, TokenStore as _, encode_token};
use weigate::types::{AccessToken, AccountName, AppId, UnixSeconds};

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, usize::MAX);

/// One test at a time: what another one allocates would be counted too.
static ALONE: Mutex<()> = Mutex::new(());

/// Of an account at rest, beyond its configuration.
const BYTES_MAX: usize = 1024;

/// Of its place in the table of what is to be looked at in Redis, beyond that.
const FOLLOWED_BYTES_MAX: usize = 144;

/// As long as WeChat's are at present.
const TOKEN_CHARS: usize = 136;

const PATIENCE: Duration = Duration::from_mins(1);

/// Near the load that a hash map has with a hundred thousand: 76 %.
const STORED_ACCOUNTS: usize = 12_000;
const FETCHED_ACCOUNTS: usize = 12_000;

/// WeChat's stand-in, in a process of its own; gone when it is dropped.
struct Wechat {
    child: Child,
    base_url: String,
}

impl Wechat {
    fn of(accounts: usize) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weigate"));
        command.args(["sandbox", "--plain", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
        command.args((0..accounts).map(|number| format!("--account={}:made-up-secret", app_id(number))));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        let base_url = first.split_once("stand-in: ").unwrap().1.trim().to_owned();
        std::thread::spawn(move || lines.count());
        Self { child, base_url }
    }
}

impl Drop for Wechat {
    fn drop(&mut self) {
        let _gone = (self.child.kill(), self.child.wait());
    }
}

/// A Redis that is reached at a socket in this directory; gone when it is dropped.
struct Redis {
    child: Child,
    dir: tempfile::TempDir,
}

impl Redis {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--unixsocket", "redis.sock", "--save", "", "--appendonly", "no"]);
        command.current_dir(dir.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let is_ready = lines.any(|line| line.unwrap().contains("eady to accept connections"));
        assert!(is_ready, "redis-server ended");
        std::thread::spawn(move || lines.count());
        Self { child, dir }
    }

    fn url_file(&self) -> PathBuf {
        let file = self.dir.path().join("url");
        write_secret(&file, &format!("unix://{}", self.dir.path().join("redis.sock").display()));
        file
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _gone = (self.child.kill(), self.child.wait());
    }
}

fn app_id(number: usize) -> String {
    format!("wx{number:016}")
}

fn name(number: usize) -> String {
    format!("a{number:06}")
}

fn write_secret(file: &Path, text: &str) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A directory whose `proxy.toml` has that many accounts; what they share comes first.
fn configured(accounts: usize, base_url: &str, store: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_secret(&dir.path().join("secret"), "made-up-secret");
    let mut text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[store]\n{store}\n\
         [upstream]\nhosts = [\"{base_url}\"]\n"
    );
    for number in 0..accounts {
        let (name, app_id) = (name(number), app_id(number));
        write!(
            text,
            "[[accounts]]\nname = \"{name}\"\napp_id = \"{app_id}\"\napp_secret_file = \"secret\"\n"
        )
        .unwrap();
    }
    fs::write(dir.path().join("proxy.toml"), text).unwrap();
    dir
}

fn stored(number: usize) -> (AccountName, AppId, Stored) {
    let text: String = format!("made-up-token-{number}-").chars().cycle().take(TOKEN_CHARS).collect();
    let now = UnixSeconds::now();
    let stored = Stored {
        access_token: AccessToken::parse(&text).unwrap(),
        obtained_at: now,
        expires_at: now.plus(Duration::from_hours(2)),
        fence: 0,
    };
    (AccountName::parse(&name(number)).unwrap(), AppId::parse(&app_id(number)).unwrap(), stored)
}

/// Puts a token for each account where the file store looks.
fn store_tokens(dir: &Path, accounts: usize) {
    DirBuilder::new().mode(0o700).create(dir).unwrap();
    for (account, app_id, stored) in (0..accounts).map(stored) {
        let file = encode_token(&account, &app_id, &stored).unwrap();
        fs::write(dir.join(format!("{account}.token")), &*file).unwrap();
    }
}

/// What a memory store allocates for each token that it is given, besides the token.
fn bytes_of_a_record(accounts: usize) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (store, records) = (MemoryStore::default(), (0..accounts).map(stored).collect::<Vec<_>>());
    let before = ALLOCATOR.allocated();
    runtime.block_on(async {
        for (account, app_id, stored) in &records {
            store.save(account, app_id, stored).await.unwrap();
        }
    });
    (ALLOCATOR.allocated() - before) / accounts
}

async fn readyz(admin: std::net::SocketAddr) -> bool {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut admin = tokio::net::TcpStream::connect(admin).await.unwrap();
    admin.write_all(b"GET /readyz HTTP/1.1\r\nhost: weigate\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    admin.read_to_end(&mut answer).await.unwrap();
    answer.starts_with(b"HTTP/1.1 200 ")
}

/// Keepers go to rest one after another: waits until nothing has become less for a second.
async fn calm() {
    let (mut least, mut calm) = (usize::MAX, 0);
    while calm < 5 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let bytes = ALLOCATOR.allocated();
        calm = if bytes < least { 0 } else { calm + 1 };
        least = least.min(bytes);
    }
}

/// The bytes that weigate has allocated besides its parsed configuration, once all accounts have a token and nothing
/// more happens; and the bytes of that configuration.
fn bytes_of(dir: &Path) -> (usize, usize) {
    let before = ALLOCATOR.allocated();
    let config = config::load(&dir.join("proxy.toml")).unwrap_or_else(|faults| panic!("{faults}")).config;
    let configuration = ALLOCATOR.allocated() - before;
    let before = ALLOCATOR.allocated();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let bytes = runtime.block_on(async {
        let listeners = app::bind(&config, app::Start::Alone).unwrap();
        let Some(config::ListenAddress::Tcp(admin)) = listeners.admin_address.clone() else {
            panic!("no TCP")
        };
        let app = App::start(config, listeners).await.unwrap();
        let settled = async {
            while !readyz(admin).await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            calm().await;
        };
        tokio::time::timeout(PATIENCE, settled).await.unwrap();
        let bytes = ALLOCATOR.allocated() - before;
        app.stop(std::future::pending()).await;
        bytes
    });
    (bytes, configuration)
}

/// What one account more costs: what many cost, less what one costs.
fn bytes_each(many: &Path, one: &Path, accounts: usize) -> (usize, usize) {
    let ((many, configuration), (one, _)) = (bytes_of(many), bytes_of(one));
    (many.saturating_sub(one) / (accounts - 1), configuration / accounts)
}

fn check(what: &str, (bytes, configuration): (usize, usize), accounts: usize, most: usize) {
    println!(
        "{what}: {bytes} bytes for each of {accounts} accounts at rest (must: under {most}): its state, its token of \
         {TOKEN_CHARS} characters, its places in all tables; beyond {configuration} bytes of parsed configuration, which \
         are its name, its AppID, its secret and its section"
    );
    assert!(bytes < most, "{what}: {bytes}");
}

#[test]
fn an_account_at_rest_whose_token_came_from_a_file_costs_less_than_a_kilobyte() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dirs = [STORED_ACCOUNTS, 1].map(|accounts| {
        let dir = configured(accounts, "http://127.0.0.1:9", "kind = \"file\"\ndir = \"state\"");
        store_tokens(&dir.path().join("state"), accounts);
        dir
    });
    let [many, one] = &dirs;
    check("file store", bytes_each(many.path(), one.path(), STORED_ACCOUNTS), STORED_ACCOUNTS, BYTES_MAX);
}

#[test]
fn an_account_at_rest_whose_token_was_fetched_costs_less_than_a_kilobyte_besides_the_stores_record() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let wechat = Wechat::of(FETCHED_ACCOUNTS);
    let dirs =
        [FETCHED_ACCOUNTS, 1].map(|accounts| configured(accounts, &wechat.base_url, "kind = \"memory\""));
    let [many, one] = &dirs;
    let (bytes, configuration) = bytes_each(many.path(), one.path(), FETCHED_ACCOUNTS);
    // What this store keeps stands in files elsewhere.
    let record = bytes_of_a_record(FETCHED_ACCOUNTS);
    println!("memory store: {record} bytes more for each, which are the store's own");
    check("memory store", (bytes - record, configuration), FETCHED_ACCOUNTS, BYTES_MAX);
}

#[test]
fn an_account_at_rest_whose_token_is_shared_in_a_redis_costs_a_place_in_a_table_more() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (wechat, redis) = (Wechat::of(FETCHED_ACCOUNTS), Redis::new());
    let store = format!("kind = \"redis\"\nurl_file = \"{}\"", redis.url_file().display());
    let dirs = [FETCHED_ACCOUNTS, 1].map(|accounts| configured(accounts, &wechat.base_url, &store));
    let [many, one] = &dirs;
    let most = BYTES_MAX + FOLLOWED_BYTES_MAX;
    check("Redis", bytes_each(many.path(), one.path(), FETCHED_ACCOUNTS), FETCHED_ACCOUNTS, most);
}
