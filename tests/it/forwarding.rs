//! Who may call what on which account, and what goes up with it.

use futures_util::future::join_all;
use weigate::sandbox::{Endpoint, Sandbox, SandboxAccount, SandboxOptions, When};

use crate::harness::{
    APP_ID, APP_SECRET, CLIENT_KEY, PATIENCE, Proxy, STABLE_TOKEN, Setup, client, client_lines, get,
    get_json, placeholder, until, wechat, wechat_with,
};

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

const OTHER_APP_ID: &str = "wxfedcba9876543210";
const BOTH_KEY: &str = "wgk_canary-key-of-both-11aa";

/// WeChat with two accounts, and weigate with a client for one of them and a client for both.
async fn two_accounts() -> (Sandbox, Proxy) {
    let other = SandboxAccount::new(OTHER_APP_ID, APP_SECRET);
    let wechat = wechat_with(|options| SandboxOptions {
        accounts: [options.accounts, vec![other]].concat(),
        ..options
    })
    .await;
    let game = format!(
        "[[accounts]]\nname = \"game\"\napp_id = \"{OTHER_APP_ID}\"\napp_secret_file = \"secret\"\n{}",
        client_lines("both", BOTH_KEY, "accounts = [\"shop\", \"game\"]")
    );
    let proxy = Setup::new().and(&game).start(&wechat).await;
    (wechat, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_account_is_the_placeholders_else_the_prefixs_else_from_appids_else_the_only_one() {
    let (wechat, proxy) = two_accounts().await;
    let placeholder = placeholder(&proxy, OTHER_APP_ID, BOTH_KEY).await;
    let by_placeholder = format!("/cgi-bin/user/info?openid=o6&access_token={placeholder}");
    let by_both = format!("/@shop{by_placeholder}");
    let from_appid = format!("/cgi-bin/user/info?from_appid={OTHER_APP_ID}&openid=o6");
    let encoded = "/cgi-bin/user/info?%66rom_appid=%77xfedcba9876543210&openid=o6".to_owned();
    let prefixed = format!("/@shop{from_appid}");
    for (key, target, app_id) in [
        (CLIENT_KEY, "/cgi-bin/user/info?openid=o6", APP_ID),
        (CLIENT_KEY, "/@shop/cgi-bin/user/info?openid=o6", APP_ID),
        (BOTH_KEY, "/@shop/cgi-bin/user/info?openid=o6", APP_ID),
        (BOTH_KEY, "//@game//cgi-bin/user/info?openid=o6", OTHER_APP_ID),
        (BOTH_KEY, &from_appid, OTHER_APP_ID),
        (BOTH_KEY, &encoded, OTHER_APP_ID),
        (BOTH_KEY, &prefixed, APP_ID),
        (BOTH_KEY, &by_placeholder, OTHER_APP_ID),
        (BOTH_KEY, &by_both, OTHER_APP_ID),
        ("", &by_placeholder, OTHER_APP_ID),
    ] {
        let mut request = client().get(proxy.url(target));
        if !key.is_empty() {
            request = request.bearer_auth(key);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{target}");
        let seen = wechat.control().requests(None, 1).remove(0);
        let token = wechat.control().current_token(app_id, Endpoint::StableToken).unwrap().unwrap();
        assert_eq!(seen.raw_query, format!("openid=o6&access_token={token}"), "{target}");
        assert_eq!(seen.path, "/cgi-bin/user/info", "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_unknown_ambiguous_or_anothers_is_refused_and_none_is_named() {
    let (wechat, proxy) = two_accounts().await;
    let before = wechat.control().counters().requests;
    let from_other = format!("/wxa/x?from_appid={OTHER_APP_ID}");
    for (key, target, status, word) in [
        (BOTH_KEY, "/wxa/x", 400, "account_unknown"),
        (BOTH_KEY, "/@nobody/wxa/x", 403, "account_forbidden"),
        (BOTH_KEY, "/@/wxa/x", 403, "account_forbidden"),
        (BOTH_KEY, "/@SHOP/wxa/x", 403, "account_forbidden"),
        (BOTH_KEY, "/wxa/x?from_appid=wx0000000000000000", 403, "account_forbidden"),
        (BOTH_KEY, "/wxa/x?from_appid=", 403, "account_forbidden"),
        (CLIENT_KEY, "/@game/wxa/x", 403, "account_forbidden"),
        (CLIENT_KEY, &from_other, 403, "account_forbidden"),
    ] {
        let answer = client().get(proxy.url(target)).bearer_auth(key).send().await.unwrap();
        assert_eq!(answer.status(), status, "{target}");
        assert_eq!(answer.headers()["x-weigate-error"], word, "{target}");
        let text = answer.text().await.unwrap();
        for name in ["shop", "game", APP_ID, OTHER_APP_ID] {
            assert!(!text.contains(name), "{target}: {text}");
        }
    }
    assert_eq!(wechat.control().counters().requests, before);
}

fn filled_in(secret: &str) -> [(String, String); 2] {
    [("appid".into(), APP_ID.into()), (secret.into(), APP_SECRET.into())]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_call_gets_appid_and_secret_and_the_client_key_never_leaves() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let forged =
        format!("%73ecret={CLIENT_KEY}&secret=x&appsecret=y&appid={APP_ID}&access_token={CLIENT_KEY}");
    for (path, code, other) in [
        ("/sns/jscode2session", "js_code", format!("appid={APP_ID}&secret={CLIENT_KEY}")),
        ("/sns/oauth2/access_token", "code", format!("appid={APP_ID}&secret={CLIENT_KEY}")),
        ("/sns/oauth2/access_token", "code", forged),
        ("/sns/jscode2session", "js_code", format!("secret={CLIENT_KEY}")),
    ] {
        let code = format!("{code}=good{}", fastrand::u64(..));
        let grant = "grant_type=authorization_code";
        let url = proxy.url(&format!("{path}?{other}&{code}&{grant}"));
        let answer = client().get(url).send().await.unwrap().text().await.unwrap();
        assert!(answer.contains(r#""openid":"#), "{answer}");
        let seen = wechat.control().requests(Some(path), 1).remove(0);
        assert!(seen.raw_query.starts_with(&format!("{code}&{grant}&appid=")), "{seen:?}");
        assert_eq!(seen.query[2..], filled_in("secret"));
        assert!(!format!("{seen:?}").contains(CLIENT_KEY));
    }
    // With the key in Authorization nothing needs to be said in the query.
    let url = proxy.url("/sns/jscode2session?js_code=good2&grant_type=authorization_code");
    assert!(get_json(&url).await["session_key"].is_string());
    let url = proxy.url(&format!("/sns/jscode2session?appid={APP_ID}&secret=wrong&js_code=good3"));
    assert_eq!(client().get(url).send().await.unwrap().status(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_own_token_travels_untouched_and_its_40001_starts_nothing() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let url = proxy.url("/sns/oauth2/access_token?code=good1&grant_type=authorization_code");
    let user = get_json(&url).await;
    let (openid, token) = (user["openid"].as_str().unwrap(), user["access_token"].as_str().unwrap());

    let query = format!("access_token={token}&openid={openid}&lang=zh_CN");
    assert_eq!(get_json(&proxy.url(&format!("/sns/userinfo?{query}"))).await["openid"], openid);
    assert_eq!(wechat.control().requests(Some("/sns/userinfo"), 1)[0].raw_query, query);
    assert_eq!(get_json(&proxy.url(&format!("/sns/auth?{query}"))).await["errcode"], 0);

    let refresh = user["refresh_token"].as_str().unwrap();
    let query = format!("grant_type=refresh_token&refresh_token={refresh}");
    let answer = get_json(&proxy.url(&format!("/sns/oauth2/refresh_token?appid=other&{query}"))).await;
    // An `appid` that is nobody's is refused; none at all is filled in.
    assert_eq!(answer["errcode"], -99403);
    assert_eq!(get_json(&proxy.url(&format!("/sns/oauth2/refresh_token?{query}"))).await["openid"], openid);
    let seen = wechat.control().requests(Some("/sns/oauth2/refresh_token"), 1).remove(0);
    assert_eq!(seen.raw_query, format!("{query}&appid={APP_ID}"));

    let answer = get(&proxy.url("/sns/userinfo?access_token=dead&openid=o6")).await;
    assert!(!answer.headers().contains_key("x-weigate-attempts"));
    let answer: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(answer["errcode"], 40001);
    let counters = wechat.control().counters();
    assert_eq!((counters.token_calls_at(STABLE_TOKEN), counters.requests_at("/sns/userinfo")), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_cost_the_account_dearly_are_only_for_clients_that_list_them() {
    let wechat = wechat().await;
    let keys = ["wgk_unlisted", "wgk_wide", "wgk_named", "wgk_room"];
    let allows = [
        "",
        "allow = [\"/cgi-bin/*\"]",
        "allow = [\"/cgi-bin/clear_quota\", \"/cgi-bin/clear_quota/v2\"]",
        "allow = [\"/cgi-bin/openapi/quota/*\", \"/cgi-bin/component/*\"]",
    ];
    let sections = keys.iter().zip(allows).zip("abcd".chars()).map(|((key, allow), name)| {
        client_lines(&name.to_string(), key, &format!("accounts = [\"shop\"]\n{allow}"))
    });
    let proxy = Setup::new().clients(&sections.collect::<String>()).start(&wechat).await;
    let component = "/cgi-bin/component/api_query_auth?component_access_token=c%2Bc&x=1";
    for (target, statuses) in [
        ("/cgi-bin/clear_quota", [403, 403, 200, 403]),
        ("/cgi-bin/clear_quota/v2", [403, 403, 200, 403]),
        ("/cgi-bin/openapi/quota/clear", [403, 403, 403, 200]),
        ("/cgi-bin/openapi/quota/get", [200, 200, 403, 200]),
        (component, [403, 403, 403, 200]),
        ("/cgi-bin/menu/get?component_access_token=c", [403, 200, 403, 403]),
        ("/cgi-bin/menu/get?cloudbase_access_token=c", [403, 200, 403, 403]),
        ("/wxa/x", [200, 403, 403, 403]),
    ] {
        for (key, status) in keys.iter().zip(statuses) {
            let before = wechat.control().counters().requests;
            let request = client().post(proxy.url(target)).bearer_auth(key).body("{}");
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), status, "{key} {target}");
            let reached = wechat.control().counters().requests - before;
            assert_eq!(reached, u64::from(status == 200), "{key} {target}");
            let word = answer.headers().get("x-weigate-error").map(|word| word.to_str().unwrap());
            assert_eq!(word, (status == 403).then_some("path_forbidden"));
        }
        // One of them got through, and what it sent is what WeChat saw.
        let seen = wechat.control().requests(None, 1).remove(0);
        match target.split_once('?') {
            Some((_, query)) => assert_eq!(seen.raw_query, query),
            None if target.ends_with("v2") => assert_eq!(seen.query, filled_in("appsecret")),
            None => assert_eq!(seen.query.len(), 1),
        }
    }
    assert_eq!(wechat.control().counters().token_calls_at(STABLE_TOKEN), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_a_second_or_at_once_than_a_client_may_send_are_refused_with_429() {
    let wechat = wechat().await;
    let clients = client_lines("slow", "wgk_slow", "accounts = [\"shop\"]\nrequests_per_s = 1")
        + &client_lines("few", "wgk_few", "accounts = [\"shop\"]\nrequests_at_once_max = 2");
    let proxy = Setup::new().clients(&clients).start(&wechat).await;
    let send = |key: &'static str, path: &str| client().get(proxy.url(path)).bearer_auth(key).send();

    let answers = join_all((0..20).map(|_| send("wgk_slow", "/wxa/slow"))).await;
    let statuses: Vec<_> = answers.iter().map(|answer| answer.as_ref().unwrap().status().as_u16()).collect();
    assert!(statuses.contains(&200) && statuses.contains(&429), "{statuses:?}");

    let hold = wechat.control().hold("/wxa/few", When::BeforeJudging);
    let two = [tokio::spawn(send("wgk_few", "/wxa/few")), tokio::spawn(send("wgk_few", "/wxa/few"))];
    until(&wechat, |counters| counters.held == 2).await;
    let refused = send("wgk_few", "/wxa/few").await.unwrap();
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["x-weigate-error"], "rate_limited");
    assert_eq!(refused.headers()["retry-after"], "1");
    wechat.control().release(hold);
    for answer in two {
        let answer = answer.await.unwrap().unwrap();
        assert_eq!(answer.status(), 200);
        answer.text().await.unwrap();
    }
    // A place is given back when the answer's last byte has left, which is a moment before we have read it.
    let started = tokio::time::Instant::now();
    while send("wgk_few", "/wxa/few").await.unwrap().status() != 200 {
        assert!(started.elapsed() < PATIENCE);
    }
}
