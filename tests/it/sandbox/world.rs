//! The outside world: holds, faults, connections, TLS, the control API.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use weigate::sandbox::{Closing, FaultDoes, SandboxOptions, Slowness, When};

use super::{APP, Bench, OPENID, SECRET, token_call};

#[tokio::test]
async fn held_requests_are_judged_when_they_are_released() {
    let bench = Bench::new().await;
    let token = bench.token().await;
    let hold = bench.control().hold("/cgi-bin/user/*", When::BeforeJudging);
    let url = format!("{}{OPENID}&access_token={token}", bench.sandbox.base_url());
    let calls: Vec<_> = (0..200).map(|_| tokio::spawn(bench.client.get(&url).send())).collect();
    let counters = bench.control().wait_until(|counters| counters.held == 200).await;
    assert_eq!((counters.in_flight, bench.control().holds()[0].held), (200, 200));
    bench.control().revoke_tokens(APP).unwrap();
    assert!(bench.control().release(hold));
    for call in calls {
        assert!(call.await.unwrap().unwrap().text().await.unwrap().contains("40001"));
    }
    bench.control().wait_until(|counters| counters.in_flight == 0).await;
}

#[tokio::test]
async fn faults_spoil_exactly_the_answers_they_were_asked_to() {
    let bench = Bench::new().await;
    let token = bench.token().await;
    let path = format!("{OPENID}&access_token={token}");
    let url = format!("{}{path}", bench.sandbox.base_url());
    let rule = |does| bench.fault("/cgi-bin/user/info", does);
    rule(FaultDoes::Status(502));
    assert_eq!(bench.get(&path).await.status, 502);
    rule(FaultDoes::Errcode(45011));
    assert!(bench.get(&path).await.errmsg().starts_with("api minute-quota reach limit"));
    rule(FaultDoes::Empty);
    let empty = bench.get(&path).await;
    assert_eq!((empty.bytes.len(), empty.header("content-type")), (0, "text/html; charset=gbk"));
    rule(FaultDoes::Oversize(1 << 20));
    assert!(bench.get(&path).await.bytes.len() > 1 << 20);
    rule(FaultDoes::Chunked);
    let chunked = bench.get(&path).await;
    assert_eq!((chunked.header("content-length"), chunked.json()["openid"].as_str()), ("", Some("o1")));
    rule(FaultDoes::Slow(Slowness { head_ms: 30, drip_bytes: 50, drip_ms: 1 }));
    assert_eq!(bench.get(&path).await.json()["openid"], "o1");
    for does in [FaultDoes::Close, FaultDoes::ActThenClose, FaultDoes::Garbage] {
        rule(does.clone());
        assert!(bench.client.post(&url).body("{}").send().await.is_err(), "{does:?}");
    }
    rule(FaultDoes::CutBody(10));
    let cut = bench.raw(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    assert!(cut.starts_with("HTTP/1.1 200 OK") && cut.split("\r\n\r\n").nth(1).unwrap().len() == 10, "{cut}");
    rule(FaultDoes::ExtraBytes(5));
    let close = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(
        bench
            .raw(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n{close}"))
            .await
            .contains("}xxxxxHTTP/1.1 200 OK")
    );
    assert!(bench.control().faults().is_empty(), "each was met once");
    assert_eq!(bench.get(&path).await.errcode(), 0);
}

#[tokio::test]
async fn a_hanging_request_ends_when_the_client_leaves() {
    let bench = Bench::new().await;
    bench.fault("/cgi-bin/token", FaultDoes::Hang);
    let url = format!("{}{}", bench.sandbox.base_url(), token_call(APP, SECRET));
    let call = tokio::spawn(bench.client.get(url).send());
    bench.control().wait_until(|counters| counters.requests == 1).await;
    assert_eq!(bench.control().counters().in_flight, 1);
    call.abort();
    bench.control().wait_until(|counters| counters.in_flight == 0).await;
    assert_eq!(bench.control().counters().token_calls_at("/cgi-bin/token"), 1);
}

#[tokio::test]
async fn what_was_sent_can_be_looked_at() {
    let bench = Bench::new().await;
    bench.call("/cgi-bin/tags/create?a=%20b", &json!({ "tag": { "name": "n" } })).await;
    let seen = bench.control().requests(Some("/cgi-bin/tags/*"), 10).pop().unwrap();
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/cgi-bin/tags/create"));
    assert_eq!((seen.query[0].1.as_str(), seen.query[1].0.as_str()), (" b", "access_token"));
    assert!(seen.raw_query.starts_with("a=%20b&access_token="), "{}", seen.raw_query);
    assert!(seen.has_content_length && seen.body_bytes == 20, "{seen:?}");
    assert_eq!(seen.body_head, r#"{"tag":{"name":"n"}}"#);
    assert_eq!(seen.body_sha256.unwrap().len(), 64);
    assert!(seen.headers.iter().any(|(name, value)| name == "content-length" && value == "20"));
    assert_eq!((seen.status, seen.errcode), (200, None));
}

#[tokio::test]
async fn closing_connections_gently_ends_the_idle_ones() {
    let bench = Bench::new().await;
    bench.token().await;
    bench.control().wait_until(|counters| counters.connections_open == 1).await;
    bench.control().close_connections(Closing::Gentle);
    bench.control().wait_until(|counters| counters.connections_open == 0).await;
    bench.token().await;
    assert_eq!(bench.control().counters().connections_accepted, 2);
}

#[tokio::test]
async fn tls_is_trusted_by_its_own_authority_and_speaks_http_1_1() {
    let bench = Bench::with(SandboxOptions { tls: true, ..SandboxOptions::default() }).await;
    let ca = reqwest::Certificate::from_pem(bench.sandbox.ca_pem().unwrap().as_bytes()).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([ca]);
    let client = client.resolve("api.weixin.qq.com", bench.sandbox.address()).build().unwrap();
    let path = token_call(APP, SECRET);
    for base in
        [bench.sandbox.base_url(), format!("https://api.weixin.qq.com:{}", bench.sandbox.address().port())]
    {
        let reply = client.get(format!("{base}{path}")).send().await.unwrap();
        assert_eq!(reply.version(), reqwest::Version::HTTP_11);
        assert!(reply.text().await.unwrap().contains("access_token"));
    }
    assert!(bench.client.get(format!("{}{path}", bench.sandbox.base_url())).send().await.is_err());
}

#[tokio::test]
async fn the_control_api_explains_itself_and_does_what_the_handle_does() {
    let control = Some("127.0.0.1:0".parse().unwrap());
    let bench = Bench::with(SandboxOptions { control, ..SandboxOptions::default() }).await;
    let base = format!("http://{}", bench.sandbox.control_address().unwrap());
    let call = async |method: Method, path: &str, body: Value| {
        let answer =
            bench.send(bench.client.request(method, format!("{base}{path}")).body(body.to_string())).await;
        assert_eq!(answer.status, 200, "{path} {}", String::from_utf8_lossy(&answer.bytes));
        answer
    };
    let help = call(Method::GET, "/", json!({})).await;
    assert!(help.header("content-type").starts_with("text/plain") && help.bytes.len() > 2000);
    let token = bench.token().await;
    call(Method::POST, "/clock", json!({ "advance_s": 7200 })).await;
    assert_eq!(bench.worth(&token).await, 42001);
    call(Method::POST, "/accounts", json!({ "app_id": "wx2", "app_secret": "s" })).await;
    call(Method::POST, "/accounts/wx2", json!({ "frozen": true, "ip_allow_list": null })).await;
    assert_eq!(bench.get(&token_call("wx2", "s")).await.errcode(), 40243);
    for action in ["expire", "revoke"] {
        call(Method::POST, &format!("/accounts/{APP}/{action}"), json!({})).await;
    }
    call(Method::POST, &format!("/accounts/{APP}/rotate"), json!({ "endpoint": "stable_token" })).await;
    call(Method::POST, &format!("/accounts/{APP}/quota"), json!({ "path": "/cgi-bin/x", "daily_limit": 3 }))
        .await;
    let quota = call(Method::GET, &format!("/accounts/{APP}/quota"), json!({})).await.json();
    assert_eq!(quota[1], json!({ "path": "/cgi-bin/x", "daily_limit": 3, "used": 0 }));
    let hold = call(Method::POST, "/holds", json!({ "path": "/x" })).await.json();
    call(Method::DELETE, &format!("/holds/{}", hold["id"]), json!({})).await;
    call(Method::POST, "/faults", json!({ "path": "/cgi-bin/*", "count": 1, "does": { "status": 503 } }))
        .await;
    assert_eq!(bench.get("/cgi-bin/token").await.status, 503);
    call(Method::POST, "/faults", json!({ "path": "/x", "does": { "slow": { "head_ms": 1 } } })).await;
    call(Method::POST, "/media", json!({ "media_id": "m", "bytes": 9 })).await;
    let seen = call(Method::GET, "/requests?last=1", json!({})).await.json();
    assert_eq!(seen[0]["status"], 503);
    assert_eq!(
        call(Method::GET, "/wait?requests=3&timeout_ms=9", json!({})).await.json()["statuses"]["503"],
        1
    );
    call(Method::POST, "/connections/close", json!({ "how": "gentle" })).await;
    call(Method::POST, "/reset", json!({})).await;
    assert_eq!(call(Method::GET, "/counters", json!({})).await.json()["requests"], 0);
    let wrong = bench.post("/", "").await;
    assert_eq!(wrong.status, 404);
}

#[tokio::test]
async fn a_stopped_sandbox_is_gone() {
    let bench = Bench::new().await;
    bench.fault("/cgi-bin/token", FaultDoes::Hang);
    let call = tokio::spawn(bench.client.get(format!("{}/cgi-bin/token", bench.sandbox.base_url())).send());
    let control = bench.control().clone();
    control.wait_until(|counters| counters.requests == 1).await;
    let address = bench.sandbox.address();
    bench.sandbox.stop().await;
    assert!(call.await.unwrap().is_err());
    assert_eq!(control.counters().connections_open, 0);
    assert!(TcpStream::connect(address).await.is_err());
}
