//! Every kind of URL, with a real server behind it.

use std::fmt::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};
use weigate::sandbox::Sandbox;
use weigate::token::store::RedisFault;

use super::server::{Redis, free_port};
use super::{Load, SEALED, TOKEN_KEY, replicas, revoke, setup, storm, token_calls, until_all};
use crate::harness::{PATIENCE, Proxy, Setup, note, wechat};

/// Two replicas that work together: one call at the start, one for a rotation.
async fn work_together(replicas: &[Proxy], wechat: &Sandbox) {
    until_all(replicas, "weigate_store_connected", |is| is == 1).await;
    let before = token_calls(wechat);
    sleep(Duration::from_secs(2)).await;
    revoke(wechat);
    storm(replicas, 16).await;
    assert_eq!(token_calls(wechat), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_a_user_of_the_list_and_a_numbered_database_work() {
    let wechat = wechat().await;
    // No more than what the README says.
    let user = "shop on >p@ss:w/rd ~weigate:* &weigate:* +get +set +mget +del +eval +time +pttl +pexpire +pexpireat \
                +publish +subscribe +ping +setnx +select";
    let redis = Redis::with(&["--user", user]).await;
    let by_socket = replicas(2, &format!("unix://{}?db=3", redis.socket().display()), &wechat).await;
    assert_eq!(token_calls(&wechat), 1);
    work_together(&by_socket, &wechat).await;
    let keyspace: String = redis.say("INFO keyspace").await;
    assert!(keyspace.contains("db3:") && !keyspace.contains("db0:"), "{keyspace}");

    let url = format!("redis://shop:p%40ss%3Aw%2Frd@127.0.0.1:{}/0", redis.port);
    let by_user = replicas(2, &url, &wechat).await;
    work_together(&by_user, &wechat).await;
    for proxy in &by_user {
        assert_eq!(proxy.metric(r#"weigate_store_errors_total{kind="forbidden"}"#).await, 0);
    }
}

pub(crate) struct Authority {
    pub(crate) ca: String,
    cert: String,
    key: String,
}

pub(crate) fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    Authority { ca: ca.pem(), cert: cert.pem(), key: key.serialize_pem() }
}

/// A server that speaks TLS only.
pub(crate) async fn serve(authority: &Authority) -> Redis {
    let port = free_port();
    let files = tempfile::tempdir().unwrap();
    let file = |end: &str, text: &str| {
        let path = files.path().join(end);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (cert, key) = (file("pem", &authority.cert), file("key", &authority.key));
    let (ca, text) = (file("ca", &authority.ca), port.to_string());
    let tls = ["--tls-port", &text, "--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file"];
    // It has read the files when it answers.
    Redis::begin(port, &[&tls[..], &[&ca, "--tls-auth-clients", "no"]].concat()).await
}

fn trusting(url: &str, authority: &Authority) -> Setup {
    let setup = Setup::new().with_redis(url, &format!("{SEALED}\nca_file = \"redis-ca.pem\""));
    crate::harness::write_private(&setup.dir.path().join("seal.key"), super::SEAL_KEY);
    std::fs::write(setup.dir.path().join("redis-ca.pem"), &authority.ca).unwrap();
    setup
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_works_with_the_right_authority_and_with_another_or_another_name_there_is_no_connection() {
    let wechat = wechat().await;
    let (ours, theirs) = (authority("127.0.0.1"), authority("127.0.0.1"));
    let misnamed = authority("redis.example.com");
    let redis = serve(&ours).await;
    let url = format!("rediss://127.0.0.1:{}", redis.port);
    let both = futures_util::future::join_all((0..2).map(|_| trusting(&url, &ours).start(&wechat))).await;
    assert_eq!(token_calls(&wechat), 1);
    work_together(&both, &wechat).await;

    let elsewhere = serve(&misnamed).await;
    for (url, trusted) in
        [(url.clone(), &theirs), (format!("rediss://127.0.0.1:{}", elsewhere.port), &misnamed)]
    {
        let proxy = trusting(&url, trusted).start(&wechat).await;
        assert_eq!(proxy.metric("weigate_store_connected").await, 0);
        assert!(proxy.metric(r#"weigate_store_errors_total{kind="unreachable"}"#).await > 0);
    }
    let seen: String = elsewhere.say("INFO commandstats").await;
    assert!(!seen.contains("cmdstat_auth") && !seen.contains("cmdstat_set"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_works() {
    let wechat = wechat().await;
    let bus = free_port().to_string();
    let cluster = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-config-file", "nodes.conf"];
    let redis = Redis::with(&cluster).await;
    redis.say::<()>("CLUSTER ADDSLOTSRANGE 0 16383").await;
    let begun = Instant::now();
    while !redis.say::<String>("CLUSTER INFO").await.contains("cluster_state:ok") {
        assert!(begun.elapsed() < PATIENCE);
        sleep(Duration::from_millis(20)).await;
    }
    let both = replicas(2, &format!("redis+cluster://127.0.0.1:{}", redis.port), &wechat).await;
    assert_eq!(token_calls(&wechat), 1);
    work_together(&both, &wechat).await;
    assert!(redis.get(TOKEN_KEY).await.is_some());
}

/// Three Sentinels that watch one master.
pub(crate) struct Sentinels {
    children: Vec<Child>,
    ports: Vec<u16>,
    dir: tempfile::TempDir,
}

impl Sentinels {
    pub(crate) async fn watch(master: &Redis) -> Self {
        let mut sentinels =
            Self { children: Vec::new(), ports: Vec::new(), dir: tempfile::tempdir().unwrap() };
        for number in 0..3 {
            let (port, path) = (free_port(), sentinels.dir.path().join(format!("{number}.conf")));
            let mut text = format!("port {port}\nbind 127.0.0.1\ndir {}\n", sentinels.dir.path().display());
            writeln!(text, "sentinel monitor mymaster 127.0.0.1 {} 2", master.port).unwrap();
            text.push_str("sentinel down-after-milliseconds mymaster 1000\n");
            text.push_str("sentinel failover-timeout mymaster 3000\n");
            std::fs::write(&path, text).unwrap();
            let mut command = Command::new("redis-server");
            command.arg(&path).arg("--sentinel").stdin(Stdio::null()).stdout(Stdio::null());
            sentinels.children.push(command.spawn().unwrap());
            sentinels.ports.push(port);
        }
        let begun = Instant::now();
        while !sentinels.know_each_other().await {
            assert!(begun.elapsed() < PATIENCE);
            sleep(Duration::from_millis(50)).await;
        }
        sentinels
    }

    async fn know_each_other(&self) -> bool {
        for index in 0..3 {
            let info: Option<String> = self.say(index, &["INFO", "sentinel"]).await;
            if !info.is_some_and(|info| info.contains("slaves=2,sentinels=3")) {
                return false;
            }
        }
        true
    }

    async fn say<V: ::redis::FromRedisValue>(&self, index: usize, words: &[&str]) -> Option<V> {
        let client = ::redis::Client::open(format!("redis://127.0.0.1:{}", self.ports[index])).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.ok()?;
        ::redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await.ok()
    }

    pub(crate) async fn master_port(&self) -> u16 {
        let (_, port): (String, String) =
            self.say(0, &["SENTINEL", "get-master-addr-by-name", "mymaster"]).await.unwrap();
        port.parse().unwrap()
    }

    /// Another master than the old one, once three listen to the channel there.
    async fn new_master<'a>(&self, servers: &'a [Redis], old: u16) -> Option<&'a Redis> {
        let port = self.master_port().await;
        let server = servers.iter().find(|server| server.port == port && port != old)?;
        let (_, heard): (String, u64) = server.say("PUBSUB NUMSUB weigate:news").await;
        (heard == 3).then_some(server)
    }

    /// Asks for a failover, as an operator does.
    pub(crate) async fn fail_over(&self) {
        let asked: Option<String> = self.say(1, &["SENTINEL", "FAILOVER", "mymaster"]).await;
        assert_eq!(asked.as_deref(), Some("OK"));
    }

    fn signal(&self, index: usize, signal: Signal) {
        kill_process(Pid::from_child(&self.children[index]), signal).unwrap();
    }

    pub(crate) fn url(&self) -> String {
        let hosts: Vec<String> = self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        format!("redis+sentinel://{}/mymaster", hosts.join(","))
    }
}

impl Drop for Sentinels {
    fn drop(&mut self) {
        for child in &mut self.children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// How often anything has been wrong with the store, at each of them.
async fn faults(replicas: &[Proxy]) -> Vec<Vec<u64>> {
    let of = async |proxy: &Proxy| {
        let mut counts = Vec::new();
        for fault in RedisFault::ALL {
            let sample = format!("weigate_store_errors_total{{kind=\"{}\"}}", fault.word());
            counts.push(proxy.metric(&sample).await);
        }
        counts
    };
    futures_util::future::join_all(replicas.iter().map(of)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn failover_by_command_by_death_and_by_a_master_that_hangs_costs_no_request() {
    let wechat = wechat().await;
    let master = Redis::start().await;
    let port = master.port.to_string();
    let follow = ["--replicaof", &format!("127.0.0.1 {port}"), "--repl-diskless-sync-delay", "0"];
    let mut servers = [master, Redis::with(&follow).await, Redis::with(&follow).await];
    let sentinels = Sentinels::watch(&servers[0]).await;
    let replicas = replicas(3, &sentinels.url(), &wechat).await;
    assert_eq!(token_calls(&wechat), 1);
    let load = Load::start(&replicas, 1);
    for kind in ["command", "command while a Sentinel hangs", "death", "hang"] {
        load.more(20).await;
        if kind.ends_with("a Sentinel hangs") {
            // Which by itself is nobody's trouble, however long it lasts.
            let before = faults(&replicas).await;
            sentinels.signal(2, Signal::STOP);
            load.more(600).await;
            assert_eq!(faults(&replicas).await, before);
        }
        let old = sentinels.master_port().await;
        let at = servers.iter().position(|server| server.port == old).unwrap();
        match kind {
            "command" | "command while a Sentinel hangs" => {
                sentinels.fail_over().await;
            }
            "death" => servers[at].kill(),
            _ => servers[at].signal(Signal::STOP),
        }
        let begun = Instant::now();
        let new = loop {
            assert!(begun.elapsed() < PATIENCE, "{kind}: no new master");
            match sentinels.new_master(&servers, old).await {
                Some(server) => break server,
                None => sleep(Duration::from_millis(20)).await,
            }
        };
        let back_ms = begun.elapsed().as_millis();
        new.until(TOKEN_KEY, |value| !value.is_empty()).await;
        let before = token_calls(&wechat);
        // Attempts keep a distance of two seconds.
        sleep(Duration::from_secs(2)).await;
        revoke(&wechat);
        storm(&replicas, 8).await;
        assert_eq!(token_calls(&wechat), before + 1, "{kind}: one for all again");
        note(&format!("failover by {kind}: all at the new master after {back_ms} ms"));
        assert!(back_ms < 10_000, "{kind}: {back_ms} ms");
        sentinels.signal(2, Signal::CONT);
    }
    let good = load.stop().await;
    note(&format!("{good} requests during four failovers, 0 failed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_that_hang_or_die_all_of_them_cost_no_connection_and_no_operation() {
    let (wechat, master) = (wechat().await, Redis::start().await);
    let follow = ["--replicaof", &format!("127.0.0.1 {}", master.port)];
    let _followers = (Redis::with(&follow).await, Redis::with(&follow).await);
    let sentinels = Sentinels::watch(&master).await;
    let replicas = replicas(2, &sentinels.url(), &wechat).await;
    for index in 0..3 {
        sentinels.signal(index, if index == 0 { Signal::STOP } else { Signal::KILL });
    }
    // Each has been asked twice more, in vain.
    sleep(Duration::from_millis(2500)).await;
    let before = token_calls(&wechat);
    revoke(&wechat);
    storm(&replicas, 8).await;
    assert_eq!(token_calls(&wechat), before + 1);
    assert_eq!(faults(&replicas).await, vec![vec![0; RedisFault::ALL.len()]; 2]);
    until_all(&replicas, "weigate_store_connected", |is| is == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_online_tries_the_redis_and_says_the_cure() {
    let wechat = wechat().await;
    let redis = Redis::with(&["--requirepass", "c0rrect"]).await;
    for (url, is_good, wanted) in [
        (format!("redis://:c0rrect@127.0.0.1:{}", redis.port), true, "scripts and the channel work"),
        (format!("redis://:canary-pass@127.0.0.1:{}", redis.port), false, "user or password in the URL"),
        ("redis://127.0.0.1:1".to_owned(), false, "is it running"),
    ] {
        let setup = setup(&url);
        let path = setup.write(&wechat);
        let mut command = Command::new(env!("CARGO_BIN_EXE_weigate"));
        let output = command.args(["check", "--online", "--config"]).arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
        let line =
            said.lines().find(|line| line.contains("store redis://")).unwrap_or_else(|| panic!("{said}"));
        assert!(line.contains(wanted) && line.starts_with(if is_good { "good" } else { "FAULT" }), "{line}");
        assert_eq!(output.status.success(), is_good, "{said}");
        assert!(!said.contains("canary-pass") && !said.contains("c0rrect"), "{said}");
    }
}
