//! `upstream.http2`: the same promises, on connections that requests share.

use std::sync::Arc;

use futures_util::future::join_all;
use weigate::sandbox::{Closing, Fault, FaultDoes, Sandbox, SandboxOptions, When};

use crate::bare::{Raw, get_head};
use crate::harness::{
    APP_ID, CLIENT_KEY, PATIENCE, Proxy, STABLE_TOKEN, Setup, client, get, hex, note, until, wechat,
    wechat_with,
};

const MEGABYTE: u64 = 1 << 20;
const DOWNLOAD: &str = "/cgi-bin/media/get?media_id=m";
const SEND: &str = "/cgi-bin/message/custom/send";
const TEXT: &str = "{\"touser\":\"o6\",\"msgtype\":\"text\",\"text\":{\"content\":\"hi\"}}";

async fn modern_wechat() -> Sandbox {
    wechat_with(|options| SandboxOptions { http2: true, ..options }).await
}

/// weigate, one worker, with HTTP/2 offered.
fn offering() -> Setup {
    Setup::new().upstream("http2 = true")
}

async fn post(url: String, body: impl Into<reqwest::Body>) -> reqwest::Response {
    client().post(url).bearer_auth(CLIENT_KEY).body(body).timeout(PATIENCE).send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_share_connections_and_a_dead_token_costs_one_call_and_one_second_try() {
    let wechat = modern_wechat().await;
    let proxy = offering().start(&wechat).await;
    wechat.control().revoke_tokens(APP_ID).unwrap();
    let answer = get(&proxy.url("/cgi-bin/user/info?openid=o6")).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["x-weigate-attempts"]),
        (200, &"2".parse().unwrap())
    );
    assert!(answer.text().await.unwrap().contains(r#""openid":"o6""#));
    wechat.control().revoke_tokens(APP_ID).unwrap();
    let answer = post(proxy.url(SEND), TEXT).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["x-weigate-attempts"]),
        (200, &"2".parse().unwrap())
    );
    assert!(answer.text().await.unwrap().contains(r#""errcode":0"#));
    let seen = wechat.control().requests(Some(SEND), 2);
    assert_eq!((seen[0].errcode, seen[1].errcode), (Some(40001), Some(0)));
    assert_eq!((seen[1].body_head.as_str(), seen[1].has_content_length), (TEXT, true));
    let opened = proxy.metric("weigate_upstream_connections_total").await;
    assert_eq!(opened, proxy.metric("weigate_upstream_http2_connections_total").await);
    assert!(opened <= 4, "one for each worker, and a POST may have wanted a newer one: {opened}");
    assert_eq!(proxy.metric("weigate_upstream_http2_streams").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_http2_gets_http1() {
    let wechat = wechat().await;
    let proxy = offering().start(&wechat).await;
    assert_eq!(get(&proxy.url("/cgi-bin/user/info?openid=o6")).await.status(), 200);
    assert_eq!(post(proxy.url(SEND), TEXT).await.status(), 200);
    assert_eq!(proxy.metric("weigate_upstream_http2_connections_total").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_setting_nobody_is_offered_http2() {
    let wechat = modern_wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    assert_eq!(get(&proxy.url("/cgi-bin/user/info?openid=o6")).await.status(), 200);
    assert_eq!(proxy.metric("weigate_upstream_http2_connections_total").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_requests_whose_token_dies_in_flight_cost_one_token_call_and_eleven_connections() {
    let wechat = modern_wechat().await;
    let proxy = Arc::new(offering().start(&wechat).await);
    let hold = wechat.control().hold("/cgi-bin/user/info", When::BeforeJudging);
    let requests: Vec<_> = (0..1000)
        .map(|number| {
            let proxy = Arc::clone(&proxy);
            tokio::spawn(async move {
                let url = proxy.url(&format!("/cgi-bin/user/info?openid=o{number}"));
                get(&url).await.text().await.unwrap()
            })
        })
        .collect();
    until(&wechat, |counters| counters.held == 1000).await;
    wechat.control().revoke_tokens(APP_ID).unwrap();
    wechat.control().release(hold);
    for (number, answer) in join_all(requests).await.into_iter().enumerate() {
        let answer = answer.unwrap();
        assert!(answer.contains(&format!(r#""openid":"o{number}""#)), "{answer}");
    }
    let counters = wechat.control().counters();
    assert_eq!(counters.token_calls_at(STABLE_TOKEN), 2);
    assert_eq!(counters.requests_at("/cgi-bin/user/info"), 2000);
    let opened = proxy.metric("weigate_upstream_http2_connections_total").await;
    note(&format!("HTTP/2: 1,000 in flight on {opened} connections of 100 streams each"));
    assert!((10..=14).contains(&opened), "{opened} connections for 1,000 requests, 100 on each");
    assert_eq!(proxy.metric("weigate_upstream_unprocessed_retries_total").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_10_mb_that_meets_a_dead_token_arrives_whole_the_second_time() {
    let wechat = modern_wechat().await;
    let proxy = offering().start(&wechat).await;
    wechat.control().expire_tokens(APP_ID).unwrap();
    let boundary = "----weigate-7d1e";
    let mut body = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"media\"; filename=\"a.jpg\"\r\n\
         Content-Type: image/jpeg\r\n\r\n"
    )
    .into_bytes();
    let mut random = fastrand::Rng::with_seed(7);
    body.extend(std::iter::repeat_with(|| random.u8(..)).take((10 << 20) - 1024));
    body.extend(format!("\r\n--{boundary}--\r\n").as_bytes());
    let digest = hex(<sha2::Sha256 as sha2::Digest>::digest(&body));
    let request = client().post(proxy.url("/cgi-bin/media/upload?type=image")).bearer_auth(CLIENT_KEY);
    let request = request.header("content-type", format!("multipart/form-data; boundary={boundary}"));
    let answer = request.body(body).timeout(PATIENCE).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let seen = wechat.control().requests(Some("/cgi-bin/media/upload"), 10);
    assert_eq!(seen.len(), 2);
    assert_eq!((seen[0].errcode, seen[1].errcode), (Some(42001), None));
    assert_eq!(seen[1].body_sha256.as_deref(), Some(&*digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_arrive_byte_for_byte_and_a_cut_one_is_cut() {
    let wechat = modern_wechat().await;
    let proxy = offering().start(&wechat).await;
    for length in [1, 1024, 65_536, 3_000_001] {
        wechat.control().set_media("m", length, "image/jpeg");
        let body = get(&proxy.url(DOWNLOAD)).await.bytes().await.unwrap();
        assert_eq!(body.len() as u64, length);
        assert!(body.iter().enumerate().all(|(at, byte)| usize::from(*byte) == at % 251));
    }
    let does = FaultDoes::CutBody(500_000);
    let path = "/cgi-bin/media/get".to_owned();
    wechat.control().add_fault(Fault { path, method: None, skip: 0, count: Some(1), does });
    let answer = get(&proxy.url(DOWNLOAD)).await;
    assert!(answer.bytes().await.is_err(), "cut after 500,000");
    assert_eq!(get(&proxy.url(DOWNLOAD)).await.bytes().await.unwrap().len(), 3_000_001);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_of_a_gigabyte_costs_a_bounded_buffer_and_holds_up_nobody() {
    let wechat = modern_wechat().await;
    wechat.control().set_media("m", 1024 * MEGABYTE, "video/mp4");
    let weigate = offering().spawn(&wechat).await;
    assert_eq!(get(&weigate.url("/wxa/x")).await.status(), 200);
    let before = weigate.memory_kib().0;
    let mut slow = Vec::new();
    for _reader in 0..10 {
        let mut reader = Raw::connect(weigate.address).await;
        reader.send(get_head(DOWNLOAD)).await;
        assert_eq!(reader.head().await.status, 200);
        slow.push(reader);
    }
    let mut other = Raw::connect(weigate.address).await;
    for _turn in 0..300 {
        assert_eq!(other.get("/wxa/x").await.status, 200);
    }
    assert_eq!(wechat.control().counters().in_flight, 10, "most of the files are still at WeChat");
    let most = weigate.memory_kib().0;
    note(&format!("HTTP/2: {before} KiB before ten slow readers of 1 GiB, {most} KiB at the most"));
    // 256 KiB of window each, what holds it, and a debug build's buffers.
    assert!(most - before < 24 * 1024, "{before} to {most} KiB");
}

async fn post_many(proxy: Arc<Proxy>, count: usize) {
    let client = client();
    for _time in 0..count {
        let request = client.post(proxy.url(SEND)).bearer_auth(CLIENT_KEY).body(TEXT);
        let answer = request.timeout(PATIENCE).send().await.unwrap();
        let (status, said) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 200, "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_wechat_closes_politely_under_load_cost_no_request() {
    let wechat = modern_wechat().await;
    let proxy = Arc::new(offering().start(&wechat).await);
    let callers: Vec<_> = (0..16).map(|_| tokio::spawn(post_many(Arc::clone(&proxy), 60))).collect();
    for done in [100, 300, 500, 700] {
        until(&wechat, |counters| counters.requests_at(SEND) >= done).await;
        wechat.control().close_connections(Closing::Gentle);
    }
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(wechat.control().counters().requests_at(SEND), 960, "each was read once");
}
