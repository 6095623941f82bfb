//! WeChat says that the token is invalid: one renewal, one second try, and nothing the client could notice.

use std::collections::HashMap;

use futures_util::future::join_all;
use weigate::sandbox::{ArrangedReply, Fault, FaultDoes, Sandbox, When};

use crate::bare::{Bare, reply_with};
use crate::harness::{APP_ID, CLIENT_KEY, PATIENCE, Proxy, STABLE_TOKEN, Setup, client, get, until, wechat};

/// Makes the next request on a path meet an error.
type Spoil<'a> = &'a dyn Fn(&str);

const PATH: &str = "/cgi-bin/user/info";

fn fault(wechat: &Sandbox, path: &str, count: Option<u64>, does: FaultDoes) {
    wechat.control().add_fault(Fault { path: path.to_owned(), method: None, skip: 0, count, does });
}

fn says(content_type: &str, body: &str) -> FaultDoes {
    FaultDoes::Reply(ArrangedReply {
        status: 200,
        content_type: content_type.to_owned(),
        body: body.to_owned(),
    })
}

fn token_calls(wechat: &Sandbox) -> u64 {
    wechat.control().counters().token_calls_at(STABLE_TOKEN)
}

async fn post(proxy: &Proxy, path: &str, body: &str) -> reqwest::Response {
    let request = client().post(proxy.url(path)).bearer_auth(CLIENT_KEY).body(body.to_owned());
    request.timeout(PATIENCE).send().await.unwrap()
}

fn attempts(answer: &reqwest::Response) -> Option<&str> {
    answer.headers().get("x-weigate-attempts").map(|value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_and_a_post_that_meet_an_invalid_token_are_answered_as_if_nothing_had_happened() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let control = wechat.control();
    let spoil: [(i64, Spoil<'_>); 3] = [
        (40001, &|_| control.revoke_tokens(APP_ID).unwrap()),
        (42001, &|_| control.expire_tokens(APP_ID).unwrap()),
        (40014, &|path| {
            control.revoke_tokens(APP_ID).unwrap();
            fault(&wechat, path, Some(1), FaultDoes::Errcode(40014));
        }),
    ];
    for (calls, (errcode, spoil)) in (2..).zip(spoil) {
        spoil(PATH);
        let before = control.counters().errcodes.get(&errcode).copied().unwrap_or(0);
        let answer = get(&proxy.url("/cgi-bin/user/info?openid=o6")).await;
        assert_eq!((answer.status().as_u16(), attempts(&answer)), (200, Some("2")));
        assert!(answer.text().await.unwrap().contains(r#""openid":"o6""#));
        assert_eq!(control.counters().errcodes[&errcode], before + 1);
        assert_eq!(token_calls(&wechat), calls);
        let seen = control.requests(Some(PATH), 2);
        assert_eq!((seen[0].errcode, seen[1].errcode), (Some(errcode), None));
    }
    for (calls, (errcode, spoil)) in (5..).zip(spoil) {
        let path = "/cgi-bin/message/custom/send";
        spoil(path);
        let body = format!(
            "{{\"touser\":\"o{errcode}\",\"msgtype\":\"text\",\"text\":{{\"content\":\"\u{4f60} \\n\"}} }}"
        );
        let answer = post(&proxy, path, &body).await;
        assert_eq!((answer.status().as_u16(), attempts(&answer)), (200, Some("2")));
        assert!(answer.text().await.unwrap().contains(r#""errcode":0"#));
        let seen = control.requests(Some(path), 2);
        assert_eq!((seen[0].errcode, seen[1].errcode), (Some(errcode), Some(0)));
        assert_eq!(seen[0].body_sha256, seen[1].body_sha256);
        assert_eq!((seen[1].body_head.as_str(), seen[1].has_content_length), (body.as_str(), true));
        assert_eq!(token_calls(&wechat), calls);
    }
    assert_eq!(
        proxy.metric(r#"weigate_requests_second_tries_total{client="orders",account="shop"}"#).await,
        6
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_errcode_in_text_is_read_too_with_its_number_as_a_string() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    for (content_type, body) in [
        ("text/plain", "{\"errcode\":42001,\"errmsg\":\"access_token expired\"}"),
        ("application/json; encoding=utf-8", " {\"errmsg\":\"x\", \"errcode\" : \"40001\" }"),
    ] {
        wechat.control().revoke_tokens(APP_ID).unwrap();
        fault(&wechat, PATH, Some(1), says(content_type, body));
        let answer = get(&proxy.url("/cgi-bin/user/info?openid=o6")).await;
        assert_eq!(attempts(&answer), Some("2"), "{body}");
        assert!(answer.text().await.unwrap().contains(r#""openid":"o6""#));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_looks_like_an_invalid_token_is_passed_on_and_costs_nothing() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let long = format!("{{\"errcode\":40001,\"data\":\"{}\"}}", "x".repeat(1024));
    let longest = format!("{{\"errcode\":45009,\"data\":\"{}\"}}", "x".repeat(100));
    for (content_type, body) in [
        ("image/jpeg", "{\"errcode\":40001,\"errmsg\":\"x\"}"),
        ("application/octet-stream", "{\"errcode\":40001,\"errmsg\":\"x\"}"),
        ("application/json", "{\"base_resp\":{\"errcode\":40001}}"),
        ("application/json", "[{\"errcode\":40001}]"),
        ("application/json", "{\"data\":\"\\\"errcode\\\":40001\"}"),
        ("application/json", "{\"errcode\":40001.5}"),
        ("application/json", "{\"errcode\":400011}"),
        ("application/json", "{\"errcode\":41001}"),
        ("application/json", "{\"errcode\":42007}"),
        ("application/json", "{\"errcode\":40097}"),
        ("application/json", "{\"errcode\":48001}"),
        ("application/json", "{\"errcode\":-1}"),
        ("application/json", &longest),
        ("application/json", &long),
    ] {
        fault(&wechat, PATH, Some(1), says(content_type, body));
        let answer = get(&proxy.url("/cgi-bin/user/info?openid=o6")).await;
        assert_eq!(attempts(&answer), None, "{body}");
        assert_eq!(answer.text().await.unwrap(), body);
    }
    fault(&wechat, PATH, Some(1), FaultDoes::Status(401));
    assert_eq!(get(&proxy.url("/cgi-bin/user/info?openid=o6")).await.status(), 401);
    assert_eq!(token_calls(&wechat), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_is_encoded_or_no_200_is_not_looked_into() {
    let wechat = Bare::start(|request| {
        let body = r#"{"errcode":40001}"#;
        if request.target().starts_with("/wxa/encoded") {
            return reply_with(
                "200 OK",
                "content-type: application/json\r\ncontent-encoding: identity\r\n",
                body,
            );
        }
        reply_with("400 Bad Request", "content-type: application/json\r\n", body)
    })
    .await;
    let proxy = Setup::new().start_at(&wechat.base_url()).await;
    for path in ["/wxa/encoded", "/wxa/status"] {
        let answer = get(&proxy.url(path)).await;
        assert_eq!(attempts(&answer), None);
        assert_eq!(answer.text().await.unwrap(), r#"{"errcode":40001}"#);
    }
    assert_eq!(wechat.seen().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_reply_is_passed_on_whatever_it_says() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    for (first, second, status, errcode) in [
        (FaultDoes::Errcode(40001), FaultDoes::Errcode(40001), 200, "40001"),
        (FaultDoes::Errcode(42001), FaultDoes::Errcode(45009), 200, "45009"),
        (FaultDoes::Errcode(40014), FaultDoes::Status(503), 503, ""),
    ] {
        let before = wechat.control().counters().requests_at(PATH);
        wechat.control().revoke_tokens(APP_ID).unwrap();
        fault(&wechat, PATH, Some(1), first);
        fault(&wechat, PATH, Some(1), second);
        let answer = post(&proxy, PATH, "{}").await;
        assert_eq!((answer.status().as_u16(), attempts(&answer)), (status, Some("2")));
        assert!(answer.text().await.unwrap().contains(errcode));
        assert_eq!(wechat.control().counters().requests_at(PATH), before + 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_same_token_comes_back_wechats_answer_is_passed_on_and_the_path_left_alone() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    for path in ["/wxa/one", "/wxa/two"] {
        fault(&wechat, path, None, FaultDoes::Errcode(40001));
    }
    let check = async |path: &str, requests, calls| {
        let answer = get(&proxy.url(path)).await;
        assert_eq!(attempts(&answer), None);
        assert!(answer.text().await.unwrap().contains("40001"));
        let path = path.split('?').next().unwrap();
        assert_eq!((wechat.control().counters().requests_at(path), token_calls(&wechat)), (requests, calls));
    };
    check("/wxa/one", 1, 2).await;
    check("/wxa/one?x=1", 2, 2).await;
    check("/wxa/one", 3, 2).await;
    // Other paths are none the worse for it.
    wechat.control().revoke_tokens(APP_ID).unwrap();
    assert_eq!(attempts(&get(&proxy.url("/wxa/three")).await), Some("2"));
    assert_eq!(token_calls(&wechat), 3);
    check("/wxa/two", 1, 4).await;
    check("/wxa/two", 2, 4).await;
    check("/wxa/one", 4, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_left_alone_still_uses_a_newer_token_that_is_at_hand() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    fault(&wechat, "/wxa/one", Some(1), FaultDoes::Errcode(40001));
    assert!(get(&proxy.url("/wxa/one")).await.text().await.unwrap().contains("40001"));

    // A request that carries the old token is under way while another path renews it.
    let hold = wechat.control().hold("/wxa/one", When::BeforeJudging);
    let slow = tokio::spawn(get_owned(proxy.url("/wxa/one")));
    until(&wechat, |counters| counters.held == 1).await;
    wechat.control().revoke_tokens(APP_ID).unwrap();
    assert_eq!(attempts(&get(&proxy.url("/wxa/two")).await), Some("2"));
    wechat.control().release(hold);
    let answer = slow.await.unwrap();
    assert_eq!(attempts(&answer), Some("2"));
    assert!(answer.text().await.unwrap().contains(r#""errcode":0"#));
}

async fn get_owned(url: String) -> reqwest::Response {
    get(&url).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_requests_whose_token_dies_in_flight_cost_one_token_call_and_all_succeed() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let hold = wechat.control().hold(PATH, When::BeforeJudging);
    let client = client();
    let requests: Vec<_> = (0..1000)
        .map(|number| {
            let url = proxy.url(&format!("{PATH}?openid=o{number}"));
            tokio::spawn(client.get(url).bearer_auth(CLIENT_KEY).timeout(PATIENCE * 4).send())
        })
        .collect();
    until(&wechat, |counters| counters.held == 1000).await;
    wechat.control().revoke_tokens(APP_ID).unwrap();
    wechat.control().release(hold);
    for (number, answer) in join_all(requests).await.into_iter().enumerate() {
        let answer = answer.unwrap().unwrap();
        assert_eq!((answer.status().as_u16(), attempts(&answer)), (200, Some("2")));
        let text = answer.text().await.unwrap();
        assert!(text.contains(&format!(r#""openid":"o{number}""#)), "{text}");
    }
    assert_eq!(token_calls(&wechat), 2);
    let mut sent = HashMap::<String, u32>::new();
    for seen in wechat.control().requests(Some(PATH), 10_000) {
        *sent.entry(seen.query[0].1.clone()).or_default() += 1;
    }
    assert_eq!((sent.len(), sent.values().max()), (1000, Some(&2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_requests_before_the_first_token_cost_one_token_call_and_all_succeed() {
    let wechat = wechat().await;
    let hold = wechat.control().hold(STABLE_TOKEN, When::BeforeJudging);
    let proxy = Setup::new().start_unready(&wechat).await;
    let client = client();
    let requests: Vec<_> = (0..1000)
        .map(|_| {
            tokio::spawn(client.get(proxy.url("/wxa/x")).bearer_auth(CLIENT_KEY).timeout(PATIENCE * 4).send())
        })
        .collect();
    let started = tokio::time::Instant::now();
    while proxy.metric("weigate_requests_in_flight").await < 1000 {
        assert!(started.elapsed() < PATIENCE);
    }
    wechat.control().release(hold);
    for answer in join_all(requests).await {
        assert_eq!(answer.unwrap().unwrap().status(), 200);
    }
    let counters = wechat.control().counters();
    assert_eq!((counters.token_calls_at(STABLE_TOKEN), counters.requests_at("/wxa/x")), (1, 1000));
    assert_eq!(counters.bad_token_calls, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_lands_though_everyone_who_wanted_it_has_hung_up() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let hold = wechat.control().hold(STABLE_TOKEN, When::BeforeJudging);
    wechat.control().revoke_tokens(APP_ID).unwrap();
    let client = client();
    let requests: Vec<_> = (0..100)
        .map(|_| {
            tokio::spawn(client.get(proxy.url("/wxa/x")).bearer_auth(CLIENT_KEY).timeout(PATIENCE * 4).send())
        })
        .collect();
    until(&wechat, |counters| counters.held == 1 && counters.requests_at("/wxa/x") == 100).await;
    for request in &requests {
        request.abort();
    }
    assert!(join_all(requests).await.into_iter().all(|ended| ended.is_err()));
    let started = tokio::time::Instant::now();
    while proxy.metric("weigate_requests_in_flight").await > 0 {
        assert!(started.elapsed() < PATIENCE);
    }
    wechat.control().release(hold);
    until(&wechat, |counters| counters.token_calls_at(STABLE_TOKEN) == 2).await;
    while attempts(&get(&proxy.url("/wxa/y")).await).is_some() {}
    let answer = get(&proxy.url("/wxa/y")).await;
    assert_eq!((answer.status().as_u16(), attempts(&answer)), (200, None));
    assert_eq!(token_calls(&wechat), 2);
    assert_eq!(wechat.control().counters().requests_at("/wxa/x"), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_body_goes_once_and_its_dead_token_is_renewed_for_the_next_request() {
    let wechat = wechat().await;
    let proxy = Setup::new()
        .server("limits = { body_bytes_max = 1024, held_memory_bytes_max = 1024 }")
        .clients("streamed_body_bytes_max = 1048576")
        .start(&wechat)
        .await;
    wechat.control().revoke_tokens(APP_ID).unwrap();
    let body = format!("{{\"x\":\"{}\"}}", "y".repeat(100_000));
    let answer = post(&proxy, "/wxa/upload", &body).await;
    assert_eq!((answer.status().as_u16(), attempts(&answer)), (200, None));
    assert!(answer.text().await.unwrap().contains("40001"));
    assert_eq!(wechat.control().counters().requests_at("/wxa/upload"), 1);

    until(&wechat, |counters| counters.token_calls_at(STABLE_TOKEN) == 2).await;
    loop {
        let answer = post(&proxy, "/wxa/upload", &body).await;
        assert_eq!(attempts(&answer), None);
        if answer.text().await.unwrap().contains(r#""errcode":0"#) {
            break;
        }
    }
    let seen = wechat.control().requests(Some("/wxa/upload"), 1).remove(0);
    assert_eq!((seen.body_bytes, seen.has_content_length), (100_008, true));
    assert_eq!(token_calls(&wechat), 2);
}
