//! Tokens: how they are issued, how they die, what a bad one is answered.

use serde_json::{Value, json};
use weigate::sandbox::{AccountKind, Endpoint, SandboxAccount, SandboxOptions};

use super::{APP, Bench, OPENID, SECRET, seconds, token_call};

#[tokio::test]
async fn a_new_token_leaves_the_last_one_alive_for_five_minutes_and_kills_the_one_before() {
    let bench = Bench::new().await;
    let (first, second) = (bench.token().await, bench.token().await);
    assert_eq!((bench.worth(&first).await, bench.worth(&second).await), (0, 0));
    let third = bench.token().await;
    assert_eq!(bench.worth(&first).await, 40001);
    assert_eq!((bench.worth(&second).await, bench.worth(&third).await), (0, 0));
    bench.control().advance(seconds(301));
    assert_eq!((bench.worth(&second).await, bench.worth(&third).await), (40001, 0));
    bench.control().advance(seconds(7200));
    assert_eq!((bench.worth(&second).await, bench.worth(&third).await), (40001, 42001));
}

#[tokio::test]
async fn tokens_look_like_wechats() {
    let token = Bench::new().await.token().await;
    let (number, rest) = token.split_once('_').unwrap();
    assert!(number.parse::<u32>().is_ok() && (120..150).contains(&rest.len()), "{token}");
    assert!(rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{token}");
}

#[tokio::test]
async fn the_stable_token_stays_the_same_until_its_last_five_minutes() {
    let bench = Bench::new().await;
    let first = bench.stable(false).await;
    assert_eq!(first["expires_in"], 7200);
    bench.control().advance(seconds(6890));
    let again = bench.stable(false).await;
    assert_eq!(again["access_token"], first["access_token"]);
    assert!((300..=310).contains(&again["expires_in"].as_u64().unwrap()), "{again}");
    bench.control().advance(seconds(20));
    let next = bench.stable(false).await;
    assert_ne!(next["access_token"], first["access_token"]);
    assert_eq!(next["expires_in"], 7200);
    let (old, new) = (first["access_token"].as_str().unwrap(), next["access_token"].as_str().unwrap());
    assert_eq!((bench.worth(old).await, bench.worth(new).await), (0, 0), "both live for five minutes");
    bench.control().advance(seconds(300));
    assert_eq!((bench.worth(old).await, bench.worth(new).await), (42001, 0));
}

#[tokio::test]
async fn a_forced_refresh_kills_the_last_token_but_not_within_thirty_seconds_of_another() {
    let bench = Bench::new().await;
    let first = bench.stable(false).await["access_token"].as_str().unwrap().to_owned();
    let second = bench.stable(true).await["access_token"].as_str().unwrap().to_owned();
    assert_eq!((bench.worth(&first).await, bench.worth(&second).await), (40001, 0));
    assert_eq!(bench.stable(true).await["access_token"], *second, "too soon: it does not refresh");
    for _ in 1..20 {
        bench.control().advance(seconds(30));
        assert!(bench.stable(true).await["access_token"].is_string());
    }
    bench.control().advance(seconds(30));
    assert_eq!(bench.stable(true).await["errcode"], 45009, "20 a day");
}

#[tokio::test]
async fn the_two_families_of_tokens_do_not_touch_each_other() {
    let bench = Bench::new().await;
    let stable = bench.stable(false).await["access_token"].as_str().unwrap().to_owned();
    let token = bench.token().await;
    for _ in 0..3 {
        bench.token().await;
    }
    assert_eq!((bench.worth(&stable).await, bench.worth(&token).await), (0, 40001));
    bench.stable(true).await;
    let current = bench.control().current_token(APP, Endpoint::Token).unwrap().unwrap();
    assert_eq!((bench.worth(&stable).await, bench.worth(&current).await), (40001, 0));
}

#[tokio::test]
async fn token_calls_are_checked_in_wechats_order() {
    let bench = Bench::new().await;
    let check = async |path: &str, errcode: i64| {
        assert_eq!(bench.get(path).await.errcode(), errcode, "{path}");
    };
    check("/cgi-bin/token", 41002).await;
    check("/cgi-bin/token?appid=wxnobody", 40013).await;
    check(&format!("/cgi-bin/token?appid={APP}&secret={SECRET}"), 40002).await;
    check(&format!("/cgi-bin/token?grant_type=client_credential&appid={APP}"), 41004).await;
    check(&token_call(APP, "wrong"), 40125).await;
    check("/cgi-bin/stable_token", 43002).await;
    assert_eq!(bench.post("/cgi-bin/stable_token", "").await.errcode(), 44002);
    assert_eq!(bench.post("/cgi-bin/stable_token", "appid=x").await.errcode(), 47001);
    bench.control().freeze(APP).unwrap();
    check(&token_call(APP, SECRET), 40243).await;
    bench.control().unfreeze(APP).unwrap();
    bench.control().set_secret(APP, "new").unwrap();
    check(&token_call(APP, SECRET), 40125).await;
    check(&token_call(APP, "new"), 0).await;
}

#[tokio::test]
async fn an_address_outside_the_allow_list_is_told_its_own_address() {
    let bench = Bench::new().await;
    let token = bench.token().await;
    bench.control().set_ip_allow_list(APP, Some(vec![])).unwrap();
    let answer = bench.get(&token_call(APP, SECRET)).await;
    assert_eq!(answer.errcode(), 40164);
    let text = answer.errmsg();
    assert!(text.starts_with("invalid ip 127.0.0.1 ipv6 ::ffff:127.0.0.1, not in whitelist rid: "), "{text}");
    assert_eq!(bench.worth(&token).await, 40164, "an official account's list covers every call");
    bench.control().add_account(&SandboxAccount::new(APP, SECRET).of_kind(AccountKind::MiniProgram));
    assert_eq!(bench.worth(&token).await, 0, "a mini program's does not");
    bench.control().set_ip_allow_list(APP, Some(vec!["127.0.0.1".parse().unwrap()])).unwrap();
    assert_eq!(bench.get(&token_call(APP, SECRET)).await.errcode(), 0);
}

#[tokio::test]
async fn errors_have_wechats_text_type_and_headers() {
    let bench = Bench::new().await;
    let token = bench.token().await;
    bench.control().revoke_tokens(APP).unwrap();
    let answer = bench.get(&format!("{OPENID}&access_token={token}")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/json; encoding=utf-8");
    assert_eq!(answer.header("connection"), "keep-alive");
    assert_eq!(answer.header("content-length"), answer.bytes.len().to_string());
    assert!(answer.headers.contains_key("date"));
    let text = answer.errmsg();
    let (text, rid) = text.rsplit_once(" rid: ").unwrap();
    assert_eq!(
        text,
        "invalid credential, access_token is invalid or not latest, could get access_token by \
         getStableAccessToken, more details at https://mmbizurl.cn/s/JtxxFh33r"
    );
    let groups: Vec<_> = rid.split('-').collect();
    assert_eq!(groups.iter().map(|group| group.len()).collect::<Vec<_>>(), [8, 8, 8]);
    let at = u64::from_str_radix(groups[0], 16).unwrap();
    assert!((bench.control().now_ms() / 1000).abs_diff(at) < 60);
    let missing = bench.get(OPENID).await;
    assert_eq!(missing.errcode(), 41001);
    assert!(missing.errmsg().starts_with("access_token missing rid: "));
}

#[tokio::test]
async fn each_kind_of_bad_token_has_its_errcode() {
    let bench = Bench::new().await;
    let token = bench.token().await;
    let unknown = format!("91_{}", "a".repeat(130));
    for (bad, errcode) in [
        ("", 41001),
        ("nonsense", 40014),
        (unknown.as_str(), 40001),
        (&format!("{token}{token}"), 40001),
        (&format!("{token}&access_token={token}"), 40001),
        (&format!("{token}&access%5Ftoken={token}"), 40001),
        (&token, 0),
    ] {
        assert_eq!(bench.worth(bad).await, errcode, "{bad}");
    }
    let in_body = bench.post("/cgi-bin/tags/create", json!({ "access_token": token }).to_string()).await;
    assert_eq!(in_body.errcode(), 41001);
    bench.control().expire_tokens(APP).unwrap();
    assert_eq!(bench.worth(&token).await, 42001);
    assert_eq!(bench.control().counters().bad_token_calls, 8);
}

#[tokio::test]
async fn quotas_run_out_and_come_back_at_midnight_or_when_cleared() {
    let bench = Bench::new().await;
    bench.control().set_used(APP, "/cgi-bin/token", 1999).unwrap();
    assert_eq!(bench.get(&token_call(APP, SECRET)).await.errcode(), 0);
    let refused = bench.get(&token_call(APP, SECRET)).await;
    assert_eq!(refused.errcode(), 45009);
    assert!(refused.errmsg().starts_with("reach max api daily quota limit rid: "));
    let clear = json!({ "appid": APP, "appsecret": SECRET }).to_string();
    for _ in 0..10 {
        assert_eq!(bench.post("/cgi-bin/clear_quota/v2", clear.clone()).await.errcode(), 0);
    }
    let query = format!("/cgi-bin/clear_quota/v2?appid={APP}&appsecret={SECRET}");
    assert_eq!(bench.post(&query, "").await.errcode(), 48006, "10 a month");
    assert_eq!(bench.get(&token_call(APP, SECRET)).await.errcode(), 0);
    bench.control().set_daily_limit(APP, "/cgi-bin/user/info", Some(1)).unwrap();
    let token = bench.token().await;
    assert_eq!((bench.worth(&token).await, bench.worth(&token).await), (0, 45009));
    let asked = bench.call("/cgi-bin/openapi/quota/get", &json!({ "cgi_path": "/cgi-bin/user/info" })).await;
    assert_eq!(asked.json()["quota"], json!({ "daily_limit": 1, "used": 1, "remain": 0 }));
    bench.control().advance(seconds(24 * 3600));
    assert_eq!(bench.worth(&bench.token().await).await, 0);
}

#[tokio::test]
async fn a_revoked_token_is_replaced_by_the_next_fetch_and_a_rotated_one_is_shared() {
    let bench = Bench::new().await;
    let text = |value: Value| value["access_token"].as_str().unwrap().to_owned();
    let first = text(bench.stable(false).await);
    bench.control().revoke_tokens(APP).unwrap();
    let second = text(bench.stable(false).await);
    assert_eq!((bench.worth(&first).await, bench.worth(&second).await), (40001, 0));
    let outside = bench.control().rotate_from_outside(APP, Endpoint::StableToken).unwrap();
    assert_eq!(bench.worth(&second).await, 40001);
    assert_eq!(text(bench.stable(false).await), outside);
}

#[tokio::test]
async fn wecom_hands_out_the_same_token_and_words_errors_its_own_way() {
    let account = SandboxAccount::new("ww1", "s").of_kind(AccountKind::WeCom);
    let bench = Bench::with(SandboxOptions { accounts: vec![account], ..SandboxOptions::default() }).await;
    let call = "/cgi-bin/gettoken?corpid=ww1&corpsecret=s";
    let (first, second) = (bench.get(call).await.json(), bench.get(call).await.json());
    assert_eq!((&first["errcode"], &first["access_token"]), (&json!(0), &second["access_token"]));
    let token = first["access_token"].as_str().unwrap();
    assert_eq!(bench.worth(token).await, 0);
    bench.control().expire_tokens("ww1").unwrap();
    let expired = bench.get(&format!("{OPENID}&access_token={token}")).await;
    assert!(expired.errcode() == 42001 && expired.errmsg().starts_with("access_token expired, hint: ["));
}

#[tokio::test]
async fn a_wecom_token_is_handed_out_to_its_end_and_belongs_to_one_application() {
    let application =
        |name: &str| SandboxAccount::new(format!("ww1:{name}"), name).of_kind(AccountKind::WeCom);
    let accounts = vec![application("a"), application("b"), SandboxAccount::new(APP, SECRET)];
    let bench = Bench::with(SandboxOptions { accounts, ..SandboxOptions::default() }).await;
    let fetch = async |secret: &str| {
        bench.get(&format!("/cgi-bin/gettoken?corpid=ww1&corpsecret={secret}")).await.json()
    };
    let text = |answer: &Value| answer["access_token"].as_str().unwrap().to_owned();
    let (a, b) = (text(&fetch("a").await), text(&fetch("b").await));
    assert_ne!(a, b);
    bench.control().advance(std::time::Duration::from_secs(7190));
    let late = fetch("a").await;
    assert_eq!(text(&late), a, "no new one before the end");
    assert!(late["expires_in"].as_u64().unwrap() <= 10, "{late}");
    let member = async |token: &str| {
        bench.get(&format!("/cgi-bin/user/get?userid=zhangsan&access_token={token}")).await
    };
    assert_eq!(member(&a).await.errcode(), 0);
    bench.control().advance(std::time::Duration::from_secs(10));
    assert_eq!(member(&a).await.errcode(), 42001);
    let next = fetch("a").await;
    assert!(text(&next) != a && next["expires_in"] == 7200, "{next}");

    assert_eq!(member("no-token-of-anybodys").await.errcode(), 40014);
    let nobody = bench.get(&format!("/cgi-bin/user/get?userid=nobody&access_token={}", text(&next))).await;
    assert!(nobody.errcode() == 60111 && nobody.errmsg().contains("devtool/query?e=60111"));
    for (call, errcode) in [
        ("/cgi-bin/gettoken?corpsecret=a", 41002),
        ("/cgi-bin/gettoken?corpid=ww1", 41004),
        ("/cgi-bin/gettoken?corpid=ww2&corpsecret=a", 40013),
        ("/cgi-bin/gettoken?corpid=ww1&corpsecret=c", 40001),
        (&format!("/cgi-bin/gettoken?corpid={APP}&corpsecret={SECRET}"), 40013),
        ("/cgi-bin/token?grant_type=client_credential&appid=ww1:a&secret=a", 40013),
    ] {
        assert_eq!(bench.get(call).await.errcode(), errcode, "{call}");
    }
    bench.control().freeze("ww1:a").unwrap();
    assert_eq!(fetch("a").await["errcode"], 50003);
    bench.control().set_ip_allow_list("ww1:b", Some(Vec::new())).unwrap();
    assert_eq!(fetch("b").await["errcode"], 60020);
}
