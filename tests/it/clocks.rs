//! The real binary with a wall clock that jumps, is wrong, or goes on while the process stands still. WeChat is the
//! sandbox in this process, which goes by the machine's own time and says which request came with a dead token.

#![expect(clippy::unwrap_used, reason = "tests may panic")]

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::Signal;
use weigate::sandbox::{Counters, Endpoint, Quotas, Sandbox, SandboxAccount, SandboxOptions};
use weigate::types::UnixSeconds;

use crate::harness::{
    APP_ID, APP_SECRET, Binary, CLIENT_KEY, PATIENCE, STABLE_TOKEN, Setup, client, metric, note, until,
    wait_ready,
};
use crate::tools::{FalseClock, clear_shared_memory};

const DAY_S: i64 = 86_400;

/// The first second that does not fit into 31 bits.
const Y2038_S: i64 = 1 << 31;

const JUMPS: &str = "weigate_clock_jumps_total{account=\"shop\"}";

/// A test starts so long before that second.
const BEFORE_S: i64 = 5;

/// Plain HTTP: certificates have ends of their own, which a clock in 2038 is past.
async fn plain_wechat() -> Sandbox {
    let options = SandboxOptions {
        accounts: vec![SandboxAccount::new(APP_ID, APP_SECRET)],
        quotas: Quotas::Unlimited,
        ..SandboxOptions::default()
    };
    Sandbox::start(options).await.unwrap()
}

/// What the sandbox has counted when so many token calls, or more, are over.
async fn settled(wechat: &Sandbox, token_calls: u64) -> Counters {
    let is_over =
        |counters: &Counters| counters.in_flight == 0 && counters.token_calls_at(STABLE_TOKEN) >= token_calls;
    until(wechat, is_over).await
}

/// A weigate with a clock of its own.
struct Clocked {
    binary: Binary,
    clock: FalseClock,
    setup: Setup,
}

impl Clocked {
    async fn start(wechat: &Sandbox, ahead_s: i64) -> Self {
        let setup = Setup::new().with_file_store();
        setup.write(wechat);
        let clock = FalseClock::new(setup.dir.path().join("clock"), ahead_s);
        let binary = Self::spawn(&setup, &clock).await;
        Self { binary, clock, setup }
    }

    async fn spawn(setup: &Setup, clock: &FalseClock) -> Binary {
        let config = setup.dir.path().join("proxy.toml");
        let binary = Binary::spawn(&config, Arc::clone(&setup.dir), |command| clock.give_to(command));
        wait_ready(binary.admin).await;
        clear_shared_memory(binary.pid());
        binary
    }

    async fn jumps(&self) -> u64 {
        metric(self.binary.admin, JUMPS).await
    }

    /// A client that calls without haste until `is_over`; how many of its calls were answered, which is all.
    async fn load(&self, is_over: impl AsyncFn() -> bool) -> u64 {
        let client = client();
        let mut served = 0;
        let started = tokio::time::Instant::now();
        while !is_over().await {
            for _ in 0..10 {
                assert_served(&self.binary, &client).await;
                served += 1;
            }
            assert!(started.elapsed() < PATIENCE, "no end of it:\n{}", self.binary.log());
            // Light, not as fast as it can.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        served
    }

    /// Fifty calls, all answered.
    async fn load_a_little(&self) -> u64 {
        let client = client();
        for _ in 0..50 {
            assert_served(&self.binary, &client).await;
        }
        50
    }
}

async fn assert_served(binary: &Binary, client: &reqwest::Client) {
    let url = binary.url("/cgi-bin/user/info?openid=o6");
    let answer = client.get(url).bearer_auth(CLIENT_KEY).timeout(PATIENCE).send().await.unwrap();
    let text = answer.text().await.unwrap();
    assert!(text.contains(r#""openid":"o6""#), "{text}\n{}", binary.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_under_load_costs_no_request_and_one_token_call() {
    let to_2038_s = Y2038_S + 60 - i64::try_from(UnixSeconds::now().0).unwrap();
    join_all([DAY_S, -DAY_S, to_2038_s].map(check_jump)).await;
}

async fn check_jump(ahead_s: i64) {
    let wechat = plain_wechat().await;
    let mut weigate = Clocked::start(&wechat, 0).await;
    weigate.load_a_little().await;
    assert_eq!(weigate.jumps().await, 0);

    weigate.clock.set(ahead_s);
    let served = weigate.load(async || weigate.jumps().await > 0).await;
    let served = served + weigate.load_a_little().await;
    let counters = settled(&wechat, 2).await;
    let calls = counters.token_calls_at(STABLE_TOKEN);
    note(&format!("{ahead_s:+} s under load: {served} requests, all served; {calls} token calls"));
    assert_eq!((calls, counters.bad_token_calls), (2, 0), "{ahead_s}");
    assert_eq!(weigate.jumps().await, 1, "{ahead_s}");
    weigate.binary.logged(|line| line.contains("the wall clock has jumped")).await;

    // The end that is stored is right by the new clock: a restart takes it, without another call.
    weigate.binary.signal(Signal::TERM);
    assert!(tokio::task::block_in_place(|| weigate.binary.wait()).success(), "{}", weigate.binary.log());
    weigate.binary = Clocked::spawn(&weigate.setup, &weigate.clock).await;
    weigate.binary.wait_for_log("took the stored token").await;
    weigate.load_a_little().await;
    let counters = wechat.control().counters();
    assert_eq!((counters.token_calls_at(STABLE_TOKEN), counters.bad_token_calls), (2, 0), "{ahead_s}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_31_bits_passes_unnoticed() {
    let wechat = plain_wechat().await;
    let ahead_s = Y2038_S - BEFORE_S - i64::try_from(UnixSeconds::now().0).unwrap();
    let weigate = Clocked::start(&wechat, ahead_s).await;
    let is_past = async || i64::try_from(UnixSeconds::now().0).unwrap() + ahead_s > Y2038_S + 2;
    let served = weigate.load(is_past).await;
    note(&format!("2038 under load: {served} requests, all served"));
    let counters = until(&wechat, |counters| counters.in_flight == 0).await;
    assert_eq!((counters.token_calls_at(STABLE_TOKEN), counters.bad_token_calls), (1, 0));
    assert_eq!(weigate.jumps().await, 0, "time went by, nothing jumped");
}

/// The process stands still for three hours, as on a machine that was suspended; WeChat does not.
#[tokio::test(flavor = "multi_thread")]
async fn after_three_hours_of_suspension_the_first_requests_use_a_fresh_token() {
    let wechat = plain_wechat().await;
    let weigate = Clocked::start(&wechat, 0).await;
    weigate.load_a_little().await;
    let old = wechat.control().current_token(APP_ID, Endpoint::StableToken).unwrap();

    weigate.binary.pause();
    let stat = format!("/proc/{}/stat", weigate.binary.pid());
    while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
        tokio::task::yield_now().await;
    }
    wechat.control().advance(Duration::from_hours(3));
    weigate.clock.set(3 * 3600);
    // By the monotonic clock too a suspension takes longer than the cell goes without a look at the wall clock (20 ms).
    tokio::time::sleep(Duration::from_millis(100)).await;
    let urls = vec![weigate.binary.url("/cgi-bin/user/info?openid=o6"); 20];
    let waiting: Vec<_> =
        urls.into_iter().map(|url| tokio::spawn(async move { crate::harness::get(&url).await })).collect();
    weigate.binary.signal(Signal::CONT);
    for answer in join_all(waiting).await {
        assert!(answer.unwrap().text().await.unwrap().contains(r#""openid":"o6""#));
    }
    weigate.load_a_little().await;
    let counters = until(&wechat, |counters| counters.in_flight == 0).await;
    assert_eq!((counters.token_calls_at(STABLE_TOKEN), counters.bad_token_calls), (2, 0));
    assert_ne!(wechat.control().current_token(APP_ID, Endpoint::StableToken).unwrap(), old);
}

/// Each with a file store of its own. WeChat hands all of them the same token.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_whose_clocks_are_ten_minutes_apart_never_use_a_dead_token() {
    const SKEWS_S: [i64; 3] = [-600, 0, 600];
    let wechat = plain_wechat().await;
    let replicas = join_all(SKEWS_S.map(|skew_s| Clocked::start(&wechat, skew_s))).await;
    join_all(replicas.iter().map(Clocked::load_a_little)).await;
    assert_eq!(wechat.control().counters().token_calls_at(STABLE_TOKEN), 3, "one each");
    let first = wechat.control().current_token(APP_ID, Endpoint::StableToken).unwrap();

    // Two hours less a minute, by everyone's clock: WeChat has a new token, and the old one lives a minute more.
    let passed = Duration::from_mins(119);
    wechat.control().advance(passed);
    for (replica, skew_s) in replicas.iter().zip(SKEWS_S) {
        replica.clock.set(skew_s + i64::try_from(passed.as_secs()).unwrap());
    }
    let renewing = replicas.iter().map(|replica| replica.load(async || replica.jumps().await > 0));
    let served = join_all(renewing).await;
    join_all(replicas.iter().map(Clocked::load_a_little)).await;
    let counters = settled(&wechat, 6).await;
    let calls = counters.token_calls_at(STABLE_TOKEN);
    note(&format!("clocks ten minutes apart: {served:?} requests, all served; {calls} token calls of three"));
    assert_eq!((calls, counters.bad_token_calls), (6, 0), "one each for the rotation");
    assert_ne!(wechat.control().current_token(APP_ID, Endpoint::StableToken).unwrap(), first);
}
