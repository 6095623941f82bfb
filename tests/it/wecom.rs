//! 企业微信 through weigate: its own hosts, its own token call, its own codes, several applications of one corp.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use weigate::sandbox::{AccountKind, Endpoint, Fault, FaultDoes, Sandbox, SandboxAccount, SeenRequest};

use crate::harness::{
    APP_ID, CLIENT_KEY, PATIENCE, Proxy, STABLE_TOKEN, Setup, client, client_lines, get, get_json, wechat,
    wechat_with, write_private,
};

const CORPID: &str = "ww0123456789abcdef";
const GETTOKEN: &str = "/cgi-bin/gettoken";
/// The corp's two applications: account, secret.
const HR: (&str, &str) = ("hr", "canary-hr-Secret_1-aaaaaaaaaaaaaaaaaaaaaaaa");
const BOT: (&str, &str) = ("bot", "canary-bot-Secret_2-bbbbbbbbbbbbbbbbbbbbbbb");
const HR_KEY: &str = "wgk_canary-hr-client-key-91c2";
const BOTH_KEY: &str = "wgk_canary-both-client-key-3fd0";

/// `WeCom` with both applications, on its own.
async fn wecom() -> Sandbox {
    wechat_with(|mut options| {
        options.tls = false;
        options.accounts = [HR, BOT]
            .map(|(name, secret)| SandboxAccount::new(id_of(name), secret).of_kind(AccountKind::WeCom))
            .to_vec();
        options
    })
    .await
}

/// What control calls an application.
fn id_of(name: &str) -> String {
    format!("{CORPID}:{name}")
}

/// The account `shop` on `WeChat`, `hr` and `bot` on `WeCom`; a client for each of the first two, and one for the corp.
fn setup(wecom: &Sandbox) -> Setup {
    let mut accounts = String::new();
    let setup = Setup::new();
    for (name, secret) in [HR, BOT] {
        write_private(&setup.dir.path().join(name), secret);
        write!(
            accounts,
            "[[accounts]]\nname = \"{name}\"\napp_id = \"{CORPID}\"\napp_secret_file = \"{name}\"\ngrant = \"wecom\"\n"
        )
        .unwrap();
    }
    let clients = [
        client_lines("orders", CLIENT_KEY, "accounts = [\"shop\"]"),
        client_lines("staff", HR_KEY, "accounts = [\"hr\"]"),
        client_lines(
            "corp",
            BOTH_KEY,
            "accounts = [\"hr\", \"bot\"]\nallow = [\"/cgi-bin/*\", \"/cgi-bin/service/*\"]",
        ),
    ];
    setup.wecom(wecom).clients(&clients.concat()).and(&accounts)
}

/// `GET` with a key: status, and the body as JSON.
async fn call(proxy: &Proxy, key: &str, path_and_query: &str) -> (u16, Value) {
    let asked = client().get(proxy.url(path_and_query)).bearer_auth(key).timeout(PATIENCE);
    let answer = asked.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}

/// An SDK's token call: without any header that names a client.
async fn gettoken(proxy: &Proxy, path: &str, query: &str) -> Value {
    let answer = client().get(proxy.url(&format!("{path}?{query}"))).timeout(PATIENCE).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}?{query}");
    serde_json::from_str(&answer.text().await.unwrap()).unwrap()
}

fn token_in(request: &SeenRequest) -> &str {
    let tokens: Vec<_> = request.query.iter().filter(|(name, _)| name == "access_token").collect();
    assert_eq!(tokens.len(), 1, "{request:?}");
    &tokens[0].1
}

fn current(wecom: &Sandbox, name: &str) -> String {
    wecom.control().current_token(&id_of(name), Endpoint::StableToken).unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wecom_account_goes_to_wecoms_hosts_with_its_own_token_and_every_other_one_elsewhere() {
    let (wechat, wecom) = (wechat().await, wecom().await);
    let proxy = setup(&wecom).start(&wechat).await;

    let answer = call(&proxy, HR_KEY, "/cgi-bin/user/get?userid=zhangsan&access_token=mine").await;
    assert_eq!((answer.0, &answer.1["userid"]), (200, &json!("zhangsan")));
    let answer = call(&proxy, BOTH_KEY, "/@bot/cgi-bin/user/get?userid=lisi").await;
    assert_eq!(answer.1["userid"], "lisi");
    assert_eq!(get_json(&proxy.url("/cgi-bin/user/get")).await["total"], 3, "the followers of 公众号");

    let seen = wecom.control().requests(Some("/cgi-bin/user/get"), 10);
    assert_eq!(seen.len(), 2);
    assert_eq!(token_in(&seen[0]), current(&wecom, "hr"));
    assert_eq!(token_in(&seen[1]), current(&wecom, "bot"));
    assert_ne!(token_in(&seen[0]), token_in(&seen[1]), "a token belongs to an application, not to a corp");
    let (theirs, ours) = (wecom.control().counters(), wechat.control().counters());
    assert_eq!((theirs.token_calls_at(GETTOKEN), theirs.token_calls_at(STABLE_TOKEN)), (2, 0));
    assert_eq!((ours.token_calls_at(GETTOKEN), ours.token_calls_at(STABLE_TOKEN)), (0, 1));
    assert_eq!(ours.requests_at("/cgi-bin/user/get"), 1);
    // Each of the two workers has connections of its own.
    let connections = proxy.metric("weigate_upstream_connections_total").await;
    assert!((2..=3).contains(&connections), "{connections}: those to both platforms are counted together");
}

#[tokio::test(flavor = "multi_thread")]
async fn gettoken_is_answered_here_and_a_corpid_of_several_accounts_needs_the_path_to_say_which() {
    let (wechat, wecom) = (wechat().await, wecom().await);
    let proxy = setup(&wecom).start(&wechat).await;
    let before = wecom.control().counters().requests;
    let asked = |key: &str| format!("corpid={CORPID}&corpsecret={key}");

    // One account of the corp is this client's: nothing to choose.
    let answer = gettoken(&proxy, GETTOKEN, &asked(HR_KEY)).await;
    assert_eq!((&answer["errcode"], &answer["expires_in"]), (&json!(0), &json!(7200)), "{answer}");
    let hr = answer["access_token"].as_str().unwrap().to_owned();

    let answer = gettoken(&proxy, GETTOKEN, &asked(BOTH_KEY)).await;
    assert_eq!(answer["errcode"], -99400, "{answer}");
    assert!(answer["errmsg"].as_str().unwrap().contains("/@NAME/cgi-bin/gettoken"), "{answer}");
    let answer = gettoken(&proxy, "/@bot/cgi-bin/gettoken", &asked(BOTH_KEY)).await;
    let bot = answer["access_token"].as_str().unwrap().to_owned();

    for (path, query, errcode) in [
        (GETTOKEN, format!("corpsecret={HR_KEY}"), 41002),
        (GETTOKEN, format!("corpid={CORPID}"), 41004),
        (GETTOKEN, "corpid=wwffffffffffffffff&corpsecret=x".to_owned(), 40013),
        (GETTOKEN, asked("wgk_not-the-key"), 40001),
        // The real secret is no client key.
        (GETTOKEN, asked(HR.1), 40001),
        // An account of another client, and accounts of the other platform's calls.
        (GETTOKEN, asked(CLIENT_KEY), 40013),
        ("/@bot/cgi-bin/gettoken", asked(HR_KEY), 40013),
        (GETTOKEN, format!("corpid={APP_ID}&corpsecret={CLIENT_KEY}"), 40013),
        ("/cgi-bin/token", format!("grant_type=client_credential&appid={CORPID}&secret={HR_KEY}"), 40013),
    ] {
        let answer = gettoken(&proxy, path, &query).await;
        assert_eq!(answer["errcode"], errcode, "{path}?{query}: {answer}");
        assert!(answer.get("access_token").is_none(), "{answer}");
    }
    assert_eq!(wecom.control().counters().requests, before, "none of these is WeCom's business");

    for (placeholder, name) in [(hr, "hr"), (bot, "bot")] {
        let url = proxy.url(&format!("/cgi-bin/user/get?userid=a&access_token={placeholder}"));
        assert!(client().get(url).timeout(PATIENCE).send().await.unwrap().status().is_success());
        let seen = wecom.control().requests(Some("/cgi-bin/user/get"), 1);
        assert_eq!(token_in(&seen[0]), current(&wecom, name));
    }
    // `from_appid` cannot choose either.
    let (status, answer) =
        call(&proxy, BOTH_KEY, &format!("/cgi-bin/user/get?userid=a&from_appid={CORPID}")).await;
    assert_eq!((status, &answer["errcode"]), (400, &json!(-99400)), "{answer}");
    let (status, _) = call(&proxy, HR_KEY, &format!("/cgi-bin/user/get?userid=a&from_appid={CORPID}")).await;
    assert_eq!(status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_or_expired_token_is_renewed_once_and_40001_is_only_passed_on() {
    let (wechat, wecom) = (wechat().await, wecom().await);
    let proxy = setup(&wecom).start(&wechat).await;
    let calls = || wecom.control().counters().token_calls_at(GETTOKEN);
    assert_eq!(calls(), 2);
    let body =
        json!({ "touser": "a", "msgtype": "text", "agentid": 1, "text": { "content": "x" } }).to_string();
    let send = async || {
        let asked = client().post(proxy.url("/cgi-bin/message/send")).bearer_auth(HR_KEY).body(body.clone());
        let answer = asked.timeout(PATIENCE).send().await.unwrap();
        let attempts = answer.headers().get("x-weigate-attempts").cloned();
        let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        (answer["errcode"].as_i64().unwrap(), attempts.is_some())
    };

    wecom.control().revoke_tokens(&id_of("hr")).unwrap();
    assert_eq!(send().await, (0, true));
    assert_eq!((calls(), wecom.control().counters().errcodes[&40014]), (3, 1));
    assert_eq!(send().await, (0, false));

    wecom.control().expire_tokens(&id_of("hr")).unwrap();
    // Two fetches of an account are 2 s apart at least; a request that comes sooner waits for its turn.
    assert_eq!(send().await, (0, true));
    assert_eq!((calls(), wecom.control().counters().errcodes[&42001]), (4, 1));

    let path = "/cgi-bin/message/send".to_owned();
    let does = FaultDoes::Errcode(40001);
    wecom.control().add_fault(Fault { path, method: None, skip: 0, count: None, does });
    assert_eq!(send().await, (40001, false), "a wrong secret, which no other token cures");
    assert_eq!(calls(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_third_party_providers_gets_no_token_of_ours() {
    let (wechat, wecom) = (wechat().await, wecom().await);
    let proxy = setup(&wecom).start(&wechat).await;
    for path in [
        "/cgi-bin/service/get_corp_token?suite_access_token=s",
        "/cgi-bin/service/get_provider_token",
        "/cgi-bin/user/get?userid=a&provider_access_token=p",
        "/cgi-bin/user/get?userid=a&suite_access_token=s",
        "/sns/jscode2session?js_code=good",
    ] {
        assert_eq!(call(&proxy, HR_KEY, path).await.0, 403, "{path}");
    }
    assert_eq!(call(&proxy, HR_KEY, "/CGI-BIN/service/get_provider_token").await.0, 400);
    let before = wecom.control().counters().requests;
    // A client that lists the path: untouched.
    let path = "/@hr/cgi-bin/service/get_corp_token?suite_access_token=s%2B&x=1";
    let asked = client().get(proxy.url(path)).bearer_auth(BOTH_KEY).timeout(PATIENCE).send().await.unwrap();
    assert_eq!(asked.status(), 200);
    assert_eq!(wecom.control().counters().requests, before + 1);
    let seen = wecom.control().requests(Some("/cgi-bin/service/*"), 1);
    assert_eq!(seen[0].raw_query, "suite_access_token=s%2B&x=1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_takes_the_stored_token_unless_the_secret_is_another_applications() {
    let (wechat, wecom) = (wechat().await, wecom().await);
    let setup = setup(&wecom).with_file_store();
    let path = setup.write(&wechat);
    let proxy = Proxy::begin(std::sync::Arc::clone(&setup.dir)).await;
    proxy.wait_ready().await;
    proxy.stop().await;
    let calls = || wecom.control().counters().token_calls_at(GETTOKEN);
    assert_eq!(calls(), 2);

    let proxy = Proxy::begin(std::sync::Arc::clone(&setup.dir)).await;
    proxy.wait_ready().await;
    assert_eq!(call(&proxy, HR_KEY, "/cgi-bin/user/get?userid=a").await.0, 200);
    proxy.stop().await;
    assert_eq!(calls(), 2, "the stored tokens were used");

    // The secret in hr's file is now that of a third application.
    let third = SandboxAccount::new(id_of("third"), "canary-third").of_kind(AccountKind::WeCom);
    wecom.control().add_account(&third);
    write_private(&Path::new(&path).with_file_name("hr"), "canary-third");
    let proxy = Proxy::begin(std::sync::Arc::clone(&setup.dir)).await;
    proxy.wait_ready().await;
    assert_eq!(call(&proxy, HR_KEY, "/cgi-bin/user/get?userid=a").await.0, 200);
    assert_eq!(calls(), 3);
    let seen = wecom.control().requests(Some("/cgi-bin/user/get"), 1);
    assert_eq!(token_in(&seen[0]), current(&wecom, "third"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_not_trusted_is_named_with_its_cure() {
    let (wechat, wecom) = (wechat().await, wecom().await);
    wecom.control().set_ip_allow_list(&id_of("hr"), Some(vec![])).unwrap();
    let proxy = setup(&wecom).start_unready(&wechat).await;
    let started = tokio::time::Instant::now();
    let page = loop {
        let page = get(&format!("http://{}/readyz", proxy.admin)).await.text().await.unwrap();
        // Each account is asked for by itself: the refusal may well come before another one's first token.
        if page.contains("ip_not_allowed") && !page.contains("waiting for the first token") {
            break page;
        }
        assert!(started.elapsed() < PATIENCE, "{page}");
        tokio::task::yield_now().await;
    };
    assert!(page.contains("127.0.0.1") && page.contains("企业可信IP"), "{page}");
    assert!(!page.contains("account bot"), "one sick account does not touch another: {page}");
    assert_eq!(call(&proxy, BOTH_KEY, "/@bot/cgi-bin/user/get?userid=a").await.0, 200);
}
