//! Several weigates and one Redis: real servers, real Sentinels, and everything that breaks between them.

mod damage;
mod holders;
mod model;
pub(crate) mod places;
pub(crate) mod server;
mod sharing;
mod store;
mod trouble;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::task::JoinHandle;
use weigate::sandbox::Sandbox;

use crate::harness::{APP_ID, CLIENT_KEY, PATIENCE, Proxy, STABLE_TOKEN, Setup, client};

const TOKEN_KEY: &str = "weigate:{wx:wx0123456789abcdef}:shop:token";
const LOCK_KEY: &str = "weigate:{wx:wx0123456789abcdef}:shop:lock";

/// Base64 of 32 bytes.
const SEAL_KEY: &str = "b4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s=";

/// One operation may take longer than by default: tests share two cores, and count calls.
const SEALED: &str = "seal_key_file = \"seal.key\"\nop_ms_max = 1000";

/// A configuration with the store at `url`, sealed.
fn setup(url: &str) -> Setup {
    let setup = Setup::new().with_redis(url, SEALED);
    crate::harness::write_private(&setup.dir.path().join("seal.key"), SEAL_KEY);
    setup
}

/// So many weigates that share the Redis at `url`, all of them ready.
async fn replicas(count: usize, url: &str, wechat: &Sandbox) -> Vec<Proxy> {
    futures_util::future::join_all((0..count).map(|_| setup(url).start(wechat))).await
}

fn token_calls(wechat: &Sandbox) -> u64 {
    wechat.control().counters().token_calls_at(STABLE_TOKEN)
}

/// Requests through every replica, one after the other on each of so many clients, until it is stopped.
struct Load {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(replicas: &[Proxy], clients: usize) -> Self {
        let (stop, good) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let one = |proxy: &Proxy| {
            let url = proxy.url("/cgi-bin/user/info?openid=o6");
            tokio::spawn(calls(url, Arc::clone(&stop), Arc::clone(&good)))
        };
        let tasks = replicas.iter().flat_map(|proxy| (0..clients).map(|_| one(proxy)).collect::<Vec<_>>());
        let tasks = tasks.collect();
        Self { stop, good, tasks }
    }

    /// Waits for so many more good answers.
    async fn more(&self, count: u64) {
        let goal = self.good.load(Ordering::SeqCst) + count;
        let reached = async {
            while self.good.load(Ordering::SeqCst) < goal {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap();
    }

    /// Ends it; how many answers were good. Not one may have been bad.
    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            assert_eq!(task.await.unwrap(), Vec::<String>::new());
        }
        self.good.load(Ordering::SeqCst)
    }
}

/// One request after the other; what was wrong with them.
async fn calls(url: String, stop: Arc<AtomicBool>, good: Arc<AtomicU64>) -> Vec<String> {
    let (client, mut faults) = (client(), Vec::new());
    while !stop.load(Ordering::SeqCst) {
        let answer = call(&client, &url).await;
        good.fetch_add(u64::from(answer.is_ok()), Ordering::SeqCst);
        faults.extend(answer.err());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    faults
}

/// One request; what was wrong with its answer.
async fn call(client: &reqwest::Client, url: &str) -> Result<(), String> {
    let answer = client.get(url).bearer_auth(CLIENT_KEY).timeout(PATIENCE).send().await;
    let answer = answer.map_err(|error| error.to_string())?;
    let status = answer.status();
    let text = answer.text().await.map_err(|error| error.to_string())?;
    if status.is_success() && text.contains(r#""openid":"o6""#) {
        Ok(())
    } else {
        Err(format!("{status} {text}"))
    }
}

/// So many callers at every replica at one time; all of them get what they asked for.
async fn storm(replicas: &[Proxy], callers: usize) {
    let calls = replicas.iter().map(|proxy| {
        let (client, url) = (client(), proxy.url("/cgi-bin/user/info?openid=o6"));
        futures_util::future::join_all((0..callers).map(move |_| {
            let (client, url) = (client.clone(), url.clone());
            async move { call(&client, &url).await }
        }))
    });
    for outcome in futures_util::future::join_all(calls).await.into_iter().flatten() {
        assert_eq!(outcome, Ok(()));
    }
}

/// Waits until a metric of every replica is so.
async fn until_all(replicas: &[Proxy], sample: &str, is_so: impl Fn(u64) -> bool) {
    let begun = tokio::time::Instant::now();
    for proxy in replicas {
        while !is_so(proxy.metric(sample).await) {
            assert!(begun.elapsed() < PATIENCE, "{sample} is {}", proxy.metric(sample).await);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

/// The token of the one account dies, as if its secret had been reset.
fn revoke(wechat: &Sandbox) {
    wechat.control().revoke_tokens(APP_ID).unwrap();
}
