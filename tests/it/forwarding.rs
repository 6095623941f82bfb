//! Method, path, query, fields, body and status come through unchanged.

use crate::harness::{CLIENT_KEY, Setup, client, get, get_json, wechat};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_client_key_gets_wechats_answer() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let answer = get_json(&proxy.url("/cgi-bin/user/info?openid=o6&lang=zh_CN")).await;
    assert_eq!(answer["openid"], "o6");

    let seen = wechat.control().requests(Some("/cgi-bin/user/info"), 1).remove(0);
    assert_eq!(seen.path, "/cgi-bin/user/info");
    let query = &seen.raw_query;
    assert!(query.starts_with("openid=o6&lang=zh_CN&access_token="), "{query}");
    assert!(!format!("{seen:?}").contains(CLIENT_KEY));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_key_is_refused_and_nothing_reaches_wechat() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let before = wechat.control().counters();
    let answer = client().get(proxy.url("/cgi-bin/user/info?openid=o6")).send().await.unwrap();
    assert_eq!(answer.status(), 401);
    assert_eq!(answer.headers()["x-weigate-error"], "unauthenticated");
    let body = answer.text().await.unwrap();
    assert!(body.starts_with(r#"{"errcode":-99401,"errmsg":"weigate: "#), "{body}");
    assert_eq!(before.requests, wechat.control().counters().requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_response_names_its_request() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let one = get(&proxy.url("/cgi-bin/menu/get")).await.headers()["x-weigate-request-id"].clone();
    let two = get(&proxy.url("/cgi-bin/menu/get")).await.headers()["x-weigate-request-id"].clone();
    assert_eq!((one.len(), two.len()), (16, 16));
    assert_ne!(one, two);
}
