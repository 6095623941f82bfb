//! Tokens under the keys of other SDKs: a real Redis, readers that do what those SDKs do, and a real wechatpy.

mod damage;
mod keys;
mod places;
mod rotations;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use weigate::sandbox::{Endpoint, Fault, FaultDoes, Sandbox};

use crate::harness::{APP_ID, PATIENCE, Proxy, STABLE_TOKEN, Setup, client, get};
use crate::redis::server::Redis;

const WXJAVA: &str = "wx:access_token:wx0123456789abcdef";
const WXJAVA_MINIAPP: &str = "wa:access_token:wx0123456789abcdef";
const SILENCEPER: &str = "gowechat_officialaccount__access_token_wx0123456789abcdef";
const SILENCEPER_STABLE: &str = "gowechat_officialaccount__stable_access_token_wx0123456789abcdef";
const WECHATPY: &str = "wechatpy:wx0123456789abcdef_access_token";
const OWN: &str = "my:wx0123456789abcdef:access_token";

/// Every format of this platform.
const ALL: &str = r#"publish = ["wxjava-mp", "wxjava-miniapp", "silenceper", "silenceper-miniprogram", "powerwechat", "wechatpy", "my:{app_id}:access_token"]"#;

/// A configuration that publishes in `redis`; `publish` is the line in the account's section.
fn setup(redis: &Redis, publish: &str) -> Setup {
    let setup = Setup::new().and("[publish]\nurl_file = \"publish.url\"\nop_ms_max = 2000");
    crate::harness::write_private(&setup.dir.path().join("publish.url"), &redis.url());
    setup.account(publish)
}

/// Waits until this many keys have our token and no other.
async fn until_current(proxy: &Proxy, keys: u64) {
    let current = r#"weigate_publish_keys{standing="current"}"#;
    until_metric(proxy, current, |count| count == keys).await;
}

async fn until_metric(proxy: &Proxy, sample: &str, is_so: impl Fn(u64) -> bool) {
    let begun = Instant::now();
    while !is_so(proxy.metric(sample).await) {
        assert!(begun.elapsed() < PATIENCE, "{sample} is {}", proxy.metric(sample).await);
        sleep(Duration::from_millis(20)).await;
    }
}

/// WeChat's live token.
fn token_of(wechat: &Sandbox) -> String {
    wechat.control().current_token(APP_ID, Endpoint::StableToken).unwrap().unwrap()
}

/// WeChat comes to the last five minutes of the token's life, and weigate looks for the next one: the old one stays good
/// for five minutes more.
async fn rotate(wechat: &Sandbox, proxy: &Proxy) -> String {
    let before = token_of(wechat);
    // No attempt sooner than this after the last.
    sleep(Duration::from_millis(2200)).await;
    wechat.control().advance(Duration::from_secs(6901));
    let path = "/cgi-bin/menu/get".to_owned();
    let does = FaultDoes::Errcode(42001);
    wechat.control().add_fault(Fault { path, method: None, skip: 0, count: Some(1), does });
    let answer = get(&proxy.url("/cgi-bin/menu/get")).await;
    assert!(answer.headers().contains_key("x-weigate-attempts"));
    let after = token_of(wechat);
    assert_ne!(before, after);
    after
}

/// What WeChat says to this token: nothing, where it is good.
async fn judge(client: &reqwest::Client, base: &str, token: &str) -> Result<(), String> {
    let url = format!("{base}/cgi-bin/user/info?openid=o6&access_token={token}");
    let answer = client.get(url).timeout(PATIENCE).send().await.map_err(|error| error.to_string())?;
    let text = answer.text().await.map_err(|error| error.to_string())?;
    if text.contains(r#""openid":"o6""#) { Ok(()) } else { Err(text) }
}

/// How a program finds its token in Redis.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// `WxMpRedisConfigImpl`: `isAccessTokenExpired` is TTL below 2, `getAccessToken` is GET.
    WxJava(&'static str),
    /// `credential/default_access_token.go`: GET, and whatever is there is the token.
    Plain(&'static str),
}

// === impl Shape ===

impl Shape {
    async fn read(self, redis: &mut MultiplexedConnection) -> Result<String, String> {
        let key = match self {
            Self::WxJava(key) => {
                let ttl: i64 = ::redis::cmd("TTL").arg(key).query_async(redis).await.unwrap();
                if ttl < 2 {
                    return Err(format!("{key} lives {ttl} s"));
                }
                key
            }
            Self::Plain(key) => key,
        };
        let value: Option<String> = ::redis::cmd("GET").arg(key).query_async(redis).await.unwrap();
        value.ok_or_else(|| format!("{key} is not there"))
    }
}

/// Programs that read their token and use it, over and over.
struct Readers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<(u64, Vec<String>)>>,
}

// === impl Readers ===

impl Readers {
    async fn start(redis: &Redis, wechat: &Sandbox, shapes: &[Shape]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for shape in shapes {
            let (redis, base) = (redis.connection().await, wechat.base_url());
            tasks.push(tokio::spawn(read_and_use(*shape, redis, base, Arc::clone(&stop))));
        }
        Self { stop, tasks }
    }

    /// Ends them; how often they found a good token. Not once may they have found another, or none.
    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = 0;
        for task in self.tasks {
            let (reads, faults) = task.await.unwrap();
            assert_eq!(faults, Vec::<String>::new());
            assert!(reads > 20, "{reads} reads");
            all += reads;
        }
        all
    }
}

/// One of them; how often it read, and what was wrong.
async fn read_and_use(
    shape: Shape,
    mut redis: MultiplexedConnection,
    base: String,
    stop: Arc<AtomicBool>,
) -> (u64, Vec<String>) {
    let (client, mut reads, mut faults) = (client(), 0, Vec::new());
    while !stop.load(Ordering::SeqCst) && faults.len() < 5 {
        match shape.read(&mut redis).await {
            Ok(token) => faults.extend(judge(&client, &base, &token).await.err()),
            Err(nothing) => faults.push(nothing),
        }
        reads += 1;
    }
    (reads, faults)
}

fn token_calls(wechat: &Sandbox) -> u64 {
    wechat.control().counters().token_calls_at(STABLE_TOKEN)
}
