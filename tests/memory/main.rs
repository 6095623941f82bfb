//! What an account costs while nothing happens to it. A test program of its own: it counts every byte that is allocated,
//! and its allocator is the one of the product, so that what is resident of them is what the product has too.

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

use tikv_jemallocator::Jemalloc;
use weigate::app::{self, App};
use weigate::config;
use weigate::token::store::{Stored, encode_token};
use weigate::types::{AccessToken, AccountName, AppId, UnixSeconds};

#[global_allocator]
static ALLOCATOR: cap::Cap<Jemalloc> = cap::Cap::new(Jemalloc, usize::MAX);

/// One test at a time: what another one allocates would be counted too.
static ALONE: Mutex<()> = Mutex::new(());

/// Of an account at rest, beyond its configuration.
const BYTES_MAX: usize = 1024;

/// As long as WeChat's are at present.
const TOKEN_CHARS: usize = 136;

const PATIENCE: Duration = Duration::from_mins(1);

/// A hash map is as full with them as with a hundred thousand: to 76 %.
const STORED_ACCOUNTS: usize = 6_250;
const FETCHED_ACCOUNTS: usize = 6_250;
const RESIDENT_ACCOUNTS: usize = 100_000;

/// Set where this program was started by itself: the directory of the configuration whose accounts are to run.
const CHILDS_DIR: &str = "WEIGATE_MEMORY_DIR";

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

async fn readyz(admin: std::net::SocketAddr) -> bool {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut admin = tokio::net::TcpStream::connect(admin).await.unwrap();
    admin.write_all(b"GET /readyz HTTP/1.1\r\nhost: weigate\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    admin.read_to_end(&mut answer).await.unwrap();
    answer.starts_with(b"HTTP/1.1 200 ")
}

/// What this process has resident that is not a file's: its heap and its stacks.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}

fn allocated() -> usize {
    ALLOCATOR.allocated()
}

/// Keepers go to rest one after another: waits until nothing has become less for a second.
async fn calm(bytes: fn() -> usize) {
    let (mut least, mut calm) = (usize::MAX, 0);
    while calm < 5 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let bytes = bytes();
        calm = if bytes < least { 0 } else { calm + 1 };
        least = least.min(bytes);
    }
}

/// The bytes that weigate has besides its parsed configuration, once all accounts have a token and nothing more happens;
/// and the bytes of that configuration.
fn bytes_of(dir: &Path, bytes: fn() -> usize) -> (usize, usize) {
    let before = bytes();
    let config = config::load(&dir.join("proxy.toml")).unwrap_or_else(|faults| panic!("{faults}")).config;
    let configuration = bytes() - before;
    let before = bytes();
    // Threads for files end as soon as there is nothing to do: their stacks are no account's.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_keep_alive(Duration::from_millis(100))
        .enable_all()
        .build()
        .unwrap();
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
            calm(bytes).await;
        };
        tokio::time::timeout(PATIENCE, settled).await.unwrap();
        let bytes = bytes() - before;
        app.stop(std::future::pending()).await;
        bytes
    });
    (bytes, configuration)
}

/// What one account more costs: what many cost, less what one costs.
fn bytes_each(many: &Path, one: &Path, accounts: usize) -> (usize, usize) {
    let ((many, configuration), (one, _)) = (bytes_of(many, allocated), bytes_of(one, allocated));
    (many.saturating_sub(one) / (accounts - 1), configuration / accounts)
}

fn check(what: &str, (bytes, configuration): (usize, usize), accounts: usize) {
    println!(
        "{what}: {bytes} bytes for each of {accounts} accounts at rest (must: under {BYTES_MAX}): its state, its token of \
         {TOKEN_CHARS} characters, its places in all tables; beyond {configuration} bytes of parsed configuration, which \
         are its name, its AppID, its secret and its section"
    );
    assert!(bytes < BYTES_MAX, "{what}: {bytes}");
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
    check("file store", bytes_each(many.path(), one.path(), STORED_ACCOUNTS), STORED_ACCOUNTS);
}

#[test]
fn an_account_at_rest_whose_token_was_fetched_costs_less_than_a_kilobyte_and_the_stores_record_is_part_of_it()
{
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let wechat = Wechat::of(FETCHED_ACCOUNTS);
    let dirs =
        [FETCHED_ACCOUNTS, 1].map(|accounts| configured(accounts, &wechat.base_url, "kind = \"memory\""));
    let [many, one] = &dirs;
    check("memory store", bytes_each(many.path(), one.path(), FETCHED_ACCOUNTS), FETCHED_ACCOUNTS);
}

#[test]
fn an_account_at_rest_whose_token_is_shared_in_a_redis_costs_less_than_a_kilobyte_there_too() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (wechat, redis) = (Wechat::of(FETCHED_ACCOUNTS), Redis::new());
    let store = format!("kind = \"redis\"\nurl_file = \"{}\"", redis.url_file().display());
    let dirs = [FETCHED_ACCOUNTS, 1].map(|accounts| configured(accounts, &wechat.base_url, &store));
    let [many, one] = &dirs;
    check("Redis", bytes_each(many.path(), one.path(), FETCHED_ACCOUNTS), FETCHED_ACCOUNTS);
}

/// What is allocated is not all: an allocator has sizes, and pages that are half used. Pages that another test left behind
/// would be taken again and not be counted, so a process of its own measures this.
#[test]
fn a_hundred_thousand_accounts_at_rest_have_less_than_a_kilobyte_resident_each() {
    if let Some(dir) = std::env::var_os(CHILDS_DIR) {
        let (bytes, configuration) = bytes_of(Path::new(&dir), resident);
        let each = (bytes / RESIDENT_ACCOUNTS, configuration / RESIDENT_ACCOUNTS);
        // All that a process has besides is counted as theirs.
        return check("resident, file store", each, RESIDENT_ACCOUNTS);
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = configured(RESIDENT_ACCOUNTS, "http://127.0.0.1:9", "kind = \"file\"\ndir = \"state\"");
    store_tokens(&dir.path().join("state"), RESIDENT_ACCOUNTS);
    let this = "a_hundred_thousand_accounts_at_rest_have_less_than_a_kilobyte_resident_each";
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", this, "--nocapture"]).env(CHILDS_DIR, dir.path());
    // `weigate serve` tells it to keep free pages for a moment; by the time of the figure that is none either.
    let status = child.env("_RJEM_MALLOC_CONF", "dirty_decay_ms:0").status().unwrap();
    assert!(status.success(), "{status}");
}
