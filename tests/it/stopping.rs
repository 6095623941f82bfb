//! A stop loses nothing that was in flight; a reload changes all or nothing.

use futures_util::future::join_all;
use rustix::process::Signal;
use tokio::net::TcpStream;
use weigate::sandbox::{Sandbox, When};

use crate::bare::{Raw, get_head};
use crate::harness::{
    APP_ID, Binary, CLIENT_KEY, PATIENCE, Setup, client, client_lines, get, get_json, until, wechat,
};

const STOPPING: &str = "stopping: requests in flight finish";

async fn readiness(weigate: &Binary) -> (u16, String) {
    let answer = client().get(format!("http://{}/readyz", weigate.admin)).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

fn exit_code(weigate: &mut Binary) -> Option<i32> {
    tokio::task::block_in_place(|| weigate.wait()).code()
}

/// Requests that wait at WeChat, each on a connection of its own.
async fn in_flight(wechat: &Sandbox, weigate: &Binary, count: usize) -> Vec<Raw> {
    let mut clients = Vec::new();
    for _client in 0..count {
        let mut client = Raw::connect(weigate.address).await;
        client.send(get_head("/wxa/slow")).await;
        clients.push(client);
    }
    until(wechat, |counters| counters.held == count as u64).await;
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_when_a_signal_comes_are_all_answered() {
    for signal in [Signal::TERM, Signal::INT] {
        let wechat = wechat().await;
        let mut weigate = Setup::new().spawn(&wechat).await;
        let hold = wechat.control().hold("/wxa/slow", When::BeforeJudging);
        let clients = in_flight(&wechat, &weigate, 50).await;
        // And one that has connected and not said anything yet, which nobody waits for.
        let mut silent = Raw::connect(weigate.address).await;
        weigate.signal(signal);
        weigate.wait_for_log(STOPPING).await;
        let started = tokio::time::Instant::now();
        while readiness(&weigate).await != (503, "stopping\n".to_owned()) {
            assert!(started.elapsed() < PATIENCE);
        }
        // Every worker has heard of it when nobody listens any more.
        while TcpStream::connect(weigate.address).await.is_ok() {
            assert!(started.elapsed() < PATIENCE);
        }
        wechat.control().release(hold);
        let answered = clients.into_iter().map(async |mut client| {
            let reply = client.reply().await;
            assert_eq!(reply.status, 200, "{reply:?}");
            assert_eq!(reply.field("connection"), Some("close"), "{reply:?}");
            assert_eq!(client.rest().await, b"");
        });
        assert_eq!(join_all(answered).await.len(), 50);
        assert_eq!(silent.rest().await, b"");
        assert_eq!(exit_code(&mut weigate), Some(0));
        assert!(weigate.log().contains(r#""message":"stopped""#), "{}", weigate.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_speaks_does_not_hold_up_the_stop() {
    let wechat = wechat().await;
    let limits = "limits = { handshake_ms_max = 60000, header_ms_max = 120000, drain_ms_max = 120000 }";
    let mut weigate = Setup::new().server(limits).spawn(&wechat).await;
    let mut silent = Raw::connect(weigate.address).await;
    // Whoever was accepted later was answered later: the silent one is in by now.
    assert_eq!(get(&weigate.url("/wxa/x")).await.status(), 200);
    weigate.signal(Signal::TERM);
    assert_eq!(silent.rest().await, b"");
    assert_eq!(exit_code(&mut weigate), Some(0));
    assert!(weigate.log().contains(r#""message":"stopped""#), "{}", weigate.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_cuts_what_is_in_flight() {
    let wechat = wechat().await;
    let mut weigate = Setup::new().spawn(&wechat).await;
    let hold = wechat.control().hold("/wxa/slow", When::BeforeJudging);
    let clients = in_flight(&wechat, &weigate, 3).await;
    weigate.signal(Signal::TERM);
    weigate.wait_for_log(STOPPING).await;
    weigate.signal(Signal::INT);
    assert_eq!(exit_code(&mut weigate), Some(0));
    assert!(weigate.log().contains("some requests were cut"), "{}", weigate.log());
    for mut client in clients {
        assert_eq!(client.rest().await, b"", "a request that was cut has no half of an answer");
    }
    wechat.control().release(hold);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_client_that_sends_as_the_signal_comes_is_served_and_told_to_close() {
    let wechat = wechat().await;
    let mut weigate = Setup::new().spawn(&wechat).await;
    let mut clients = Vec::new();
    for _client in 0..50 {
        let mut client = Raw::connect(weigate.address).await;
        assert_eq!(client.get("/wxa/x").await.status, 200);
        clients.push(client);
    }
    weigate.signal(Signal::TERM);
    for client in &mut clients {
        client.send(get_head("/wxa/x")).await;
    }
    let answered = clients.into_iter().map(async |mut client| {
        // Those who were faster than the signal are served as ever, and send again.
        let mut reply = client.reply().await;
        while reply.field("connection") != Some("close") {
            assert_eq!(reply.status, 200, "{reply:?}");
            reply = client.get("/wxa/x").await;
        }
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(client.rest().await, b"");
    });
    assert_eq!(join_all(answered).await.len(), 50);
    assert_eq!(exit_code(&mut weigate), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_adds_a_client_and_removes_one_with_its_placeholder() {
    let wechat = wechat().await;
    let weigate = Setup::new().spawn(&wechat).await;
    let sdk = format!("/cgi-bin/token?grant_type=client_credential&appid={APP_ID}&secret={CLIENT_KEY}");
    let placeholder = get_json(&weigate.url(&sdk)).await["access_token"].as_str().unwrap().to_owned();
    let by_placeholder = weigate.url(&format!("/wxa/x?access_token={placeholder}"));
    let status = async |key: &str| {
        let request = client().get(weigate.url("/wxa/x")).bearer_auth(key);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(client().get(&by_placeholder).send().await.unwrap().status(), 200);
    assert_eq!((status(CLIENT_KEY).await, status("wgk_new").await), (200, 401));

    let path = weigate.dir.path().join("proxy.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    // Both files are broken, the second in a way that only shows when all of it is checked.
    for broken in
        ["this is = not [ toml".to_owned(), text.replace("accounts = [\"shop\"]", "accounts = [\"gone\"]")]
    {
        std::fs::write(&path, broken).unwrap();
        let faults = weigate.log().matches("the configuration has faults").count();
        weigate.signal(Signal::HUP);
        let started = tokio::time::Instant::now();
        while weigate.log().matches("the configuration has faults").count() == faults {
            assert!(started.elapsed() < PATIENCE);
            tokio::task::yield_now().await;
        }
        assert_eq!((status(CLIENT_KEY).await, status("wgk_new").await), (200, 401));
    }
    assert!(!weigate.log().contains("the configuration was reloaded"));

    let (before, _clients) = text.split_once("[[clients]]").unwrap();
    let clients = client_lines("other", "wgk_new", "accounts = [\"shop\"]");
    std::fs::write(&path, format!("{before}{clients}")).unwrap();
    weigate.signal(Signal::HUP);
    weigate.wait_for_log("the configuration was reloaded").await;
    // Each worker takes up the new configuration in its own next turn.
    let started = tokio::time::Instant::now();
    for _turn in 0..20 {
        while status("wgk_new").await != 200 || status(CLIENT_KEY).await != 401 {
            assert!(started.elapsed() < PATIENCE);
        }
    }
    assert_eq!(client().get(&by_placeholder).send().await.unwrap().status(), 401);
    assert_eq!(wechat.control().counters().token_calls_at("/cgi-bin/stable_token"), 1);
    assert!(!weigate.log().contains("wgk_new"));
}
