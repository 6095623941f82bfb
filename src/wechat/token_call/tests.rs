use std::time::Duration;

use super::*;

fn secret() -> AppSecret {
    AppSecret::new("5ecre7-5ecre7-5ecre7".to_owned())
}

fn rejection(body: &str) -> TokenRejection {
    match decode(GrantKind::StableToken, 200, body.as_bytes(), &secret()) {
        Err(TokenCallError::Rejected(rejection)) => rejection,
        other => panic!("{body}: {other:?}"),
    }
}

#[test]
fn the_body_is_what_the_page_says() {
    let app_id = AppId::parse("wx1").unwrap();
    let body = |mode| {
        serde_json::from_slice::<serde_json::Value>(
            &encode(GrantKind::StableToken, mode, &app_id, &secret()).body.unwrap(),
        )
        .unwrap()
    };
    let mut expected = serde_json::json!({
        "grant_type": "client_credential", "appid": "wx1", "secret": "5ecre7-5ecre7-5ecre7", "force_refresh": false,
    });
    assert_eq!(body(Mode::Normal), expected);
    expected["force_refresh"] = true.into();
    assert_eq!(body(Mode::Force), expected);
}

#[test]
fn a_good_reply_is_a_grant() {
    for (body, lives) in [
        (r#"{"access_token":"91_KDMD-x_y","expires_in":7200}"#, 7200),
        (r#"{"access_token":"91_KDMD-x_y","expires_in":60}"#, 60),
        (
            r#" { "errcode": 0, "errmsg": "ok", "expires_in": 345, "access_token": "91_KDMD-x_y", "new": [1] } "#,
            345,
        ),
    ] {
        let grant = decode(GrantKind::StableToken, 200, body.as_bytes(), &secret()).unwrap();
        assert_eq!(grant.token.expose(), "91_KDMD-x_y");
        assert_eq!(grant.lives, Duration::from_secs(lives));
    }
}

#[test]
fn what_is_not_the_documented_shape_is_malformed() {
    let long = format!(r#"{{"access_token":"{}","expires_in":7200}}"#, "a".repeat(1025));
    let huge = format!(r#"{{"access_token":"a","expires_in":7200,"x":"{}"}}"#, "a".repeat(10 << 20));
    for body in [
        "",
        " ",
        "<html><body>502</body></html>",
        r#"{"access_token":"abc","expires_in":72"#,
        r#"{"access_token":"abc"}"#,
        r#"{"expires_in":7200}"#,
        r#"{"access_token":"","expires_in":7200}"#,
        r#"{"access_token":"a b","expires_in":7200}"#,
        r#"{"access_token":"a\r\nX: y","expires_in":7200}"#,
        r#"{"access_token":"a&x=y","expires_in":7200}"#,
        r#"{"access_token":"密","expires_in":7200}"#,
        r#"{"access_token":null,"expires_in":7200}"#,
        r#"{"access_token":["abc"],"expires_in":7200}"#,
        r#"{"access_token":12,"expires_in":7200}"#,
        r#"{"access_token":"abc","expires_in":0}"#,
        r#"{"access_token":"abc","expires_in":59}"#,
        r#"{"access_token":"abc","expires_in":7201}"#,
        r#"{"access_token":"abc","expires_in":-1}"#,
        r#"{"access_token":"abc","expires_in":1000000000000000000}"#,
        r#"{"access_token":"abc","expires_in":1e18}"#,
        r#"{"access_token":"abc","expires_in":"7200"}"#,
        r#"{"access_token":"abc","expires_in":7200.0}"#,
        r#"{"access_token":"abc","expires_in":null}"#,
        r#"{"access_token":"abc","access_token":"abd","expires_in":7200}"#,
        r#"{"access_token":"abc","expires_in":7200} trailing"#,
        r#"{"errcode":"40001","errmsg":"x"}"#,
        r#"{"errcode":40001.0,"errmsg":"x"}"#,
        r#"{"errcode":0}"#,
        r#"{"errcode":null}"#,
        "{}",
        "[]",
        "null",
        "7200",
        &long,
        &huge,
        "\u{feff}{\"access_token\":\"abc\",\"expires_in\":7200}",
    ] {
        let decoded = decode(GrantKind::StableToken, 200, body.as_bytes(), &secret());
        assert!(matches!(decoded, Err(TokenCallError::Malformed(_))), "{body:.80}: {decoded:?}");
    }
    assert!(matches!(
        decode(GrantKind::StableToken, 200, b"\xff\xfe{}", &secret()),
        Err(TokenCallError::Malformed(_))
    ));
    let good = br#"{"access_token":"abc","expires_in":7200}"#;
    for status in [0, 199, 201, 204, 302, 404, 412, 500, 502] {
        assert!(
            matches!(
                decode(GrantKind::StableToken, status, good, &secret()),
                Err(TokenCallError::Malformed(_))
            ),
            "{status}"
        );
    }
}

#[test]
fn every_code_of_the_page_has_its_kind_and_pace() {
    use RejectionKind as K;
    let after = |seconds| Pace::After(Duration::from_secs(seconds));
    for (codes, kind, pace) in [
        (&[-1][..], K::Busy, Pace::Backoff),
        (&[40001, 40125], K::WrongSecret, after(300)),
        (&[40013], K::WrongAppId, after(300)),
        (&[61024], K::WrongPlatform, after(300)),
        (&[40002, 41002, 41004, 43002], K::BadCall, after(300)),
        (&[40243], K::SecretFrozen, after(300)),
        (&[50004, 50007], K::AccountPunished, after(300)),
        (&[40164], K::IpNotAllowed, after(300)),
        (&[89501, 89502, 89503, 89504, 89505], K::AwaitingConfirmation, after(300)),
        (&[89507], K::IpBlockedHour, after(3600)),
        (&[89506], K::IpBlockedDay, after(86400)),
        (&[45011], K::MinuteQuota, after(60)),
        (&[45009], K::DailyQuota, after(1800)),
        (&[1, 48001, 89500, 89508, i64::MAX, i64::MIN], K::Unknown, Pace::Backoff),
    ] {
        for code in codes {
            let rejected = rejection(&format!(r#"{{"errcode":{code},"errmsg":"x"}}"#));
            assert_eq!((rejected.code, rejected.kind), (ErrCode(*code), kind));
            assert_eq!(rejected.kind.pace(), pace, "{code}");
            assert!(rejected.advice().len() > 20, "{code}");
        }
    }
}

#[test]
fn words_are_distinct() {
    let words: std::collections::BTreeSet<_> =
        RejectionKind::ALL.into_iter().map(RejectionKind::word).collect();
    assert_eq!(words.len(), RejectionKind::ALL.len());
}

#[test]
fn the_address_is_taken_out_of_the_message_and_put_into_the_advice() {
    for (errmsg, ip) in [
        (
            "invalid ip 218.58.124.130 ipv6 ::ffff:218.58.124.130, not in whitelist rid: 611740a4-27f9a8ba-065da01b",
            Some("218.58.124.130"),
        ),
        ("invalid ip 218.58.124.130, not in whitelist", Some("218.58.124.130")),
        ("invalid ip ipv6 2408:4001::7, not in whitelist rid: 1-2-3", Some("2408:4001::7")),
        ("invalid ip ipv6 2408:4001::7, ip 1.2.3.4", Some("1.2.3.4")),
        ("not allow to access from your ip, from ip: 10.0.0.1.", Some("10.0.0.1")),
        ("invalid ip 999.1.1.1, not in whitelist", None),
        ("invalid ip <script>alert(1)</script>, not in whitelist", None),
        ("", None),
    ] {
        let rejected = rejection(&format!(r#"{{"errcode":40164,"errmsg":"{errmsg}"}}"#));
        assert_eq!(rejected.ip.map(|ip| ip.to_string()).as_deref(), ip, "{errmsg}");
        assert!(!rejected.advice().contains("script"));
        if let Some(ip) = ip {
            assert!(rejected.advice().contains(ip), "{errmsg}: {}", rejected.advice());
        }
    }
}

#[test]
fn what_wechat_says_is_cut_escaped_and_free_of_the_secret() {
    let said =
        |errmsg: &str| rejection(&serde_json::json!({ "errcode": 40013, "errmsg": errmsg }).to_string()).said;
    assert_eq!(&*said("invalid appid rid: 6aac005a"), "invalid appid rid: 6aac005a");
    assert_eq!(&*said("a\r\nb\u{1b}[31m\u{202e}"), "a\\u{d}\\u{a}b\\u{1b}[31m\\u{202e}");
    assert_eq!(&*said("secret 5ecre7-5ecre7-5ecre7 wrong"), "secret [secret] wrong");
    for length in [250, 253, 254, 256, 257, 10_000] {
        for text in ["a".repeat(length), "密".repeat(length), "\n".repeat(length)] {
            assert!(said(&text).len() <= 256, "{length}");
        }
    }
    // A secret that the cut would halve is struck before the cut.
    let edge = said(&format!("{}{}", "a".repeat(245), "5ecre7-5ecre7-5ecre7"));
    assert!(!edge.contains("5ecre7"), "{edge}");
}

#[test]
fn no_error_prints_the_secret_or_a_token() {
    let body = r#"{"errcode":40125,"access_token":"topsecret-token","errmsg":"5ecre7-5ecre7-5ecre7"}"#;
    let error = decode(GrantKind::StableToken, 200, body.as_bytes(), &secret()).unwrap_err();
    let printed = format!("{error} {error:?}");
    assert!(!printed.contains("5ecre7") && !printed.contains("topsecret"), "{printed}");
}

#[test]
fn wecoms_call_is_a_get_whose_query_holds_the_secret_and_nothing_prints_it() {
    let secret = AppSecret::new("a+b/c=&d".to_owned());
    let call = encode(GrantKind::Wecom, Mode::Normal, &AppId::parse("ww1").unwrap(), &secret);
    assert_eq!(*call.target, "/cgi-bin/gettoken?corpid=ww1&corpsecret=a%2Bb%2Fc%3D%26d");
    assert!(call.body.is_none());
    assert!(!format!("{call:?}").contains("corpsecret"));
}

#[test]
fn the_older_call_is_the_documented_get_and_its_reply_is_read_alike() {
    let call = encode(GrantKind::Token, Mode::Normal, &AppId::parse("wx1").unwrap(), &secret());
    let query = "grant_type=client_credential&appid=wx1&secret=5ecre7%2D5ecre7%2D5ecre7";
    assert_eq!(*call.target, format!("/cgi-bin/token?{query}"));
    assert!(call.body.is_none());
    let decode = |body: &str| decode(GrantKind::Token, 200, body.as_bytes(), &secret());
    assert!(decode(r#"{"access_token":"91_a","expires_in":7200}"#).is_ok());
    assert!(matches!(
        decode(r#"{"access_token":"91_a","expires_in":59}"#),
        Err(TokenCallError::Malformed(_))
    ));
    let Err(TokenCallError::Rejected(rejected)) = decode(r#"{"errcode":45009,"errmsg":"x"}"#) else {
        panic!("not rejected")
    };
    assert_eq!(rejected.kind, RejectionKind::DailyQuota);
}

#[test]
fn wecoms_reply_may_have_little_time_left_and_its_codes_are_its_own() {
    use RejectionKind as K;
    let decode = |body: &str| decode(GrantKind::Wecom, 200, body.as_bytes(), &secret());
    for lives in [0, 1, 59, 7200] {
        let body = format!(r#"{{"errcode":0,"errmsg":"ok","access_token":"abc","expires_in":{lives}}}"#);
        assert_eq!(decode(&body).unwrap().lives, Duration::from_secs(lives));
    }
    for lives in [-1, 7201] {
        let body = format!(r#"{{"errcode":0,"access_token":"abc","expires_in":{lives}}}"#);
        assert!(matches!(decode(&body), Err(TokenCallError::Malformed(_))), "{lives}");
    }
    let after = |seconds| Pace::After(Duration::from_secs(seconds));
    for (codes, kind, pace) in [
        (&[-1, 45033][..], K::Busy, Pace::Backoff),
        (&[40001, 40091], K::WrongSecret, after(300)),
        (&[40013], K::WrongAppId, after(300)),
        (&[41002, 41004], K::BadCall, after(300)),
        (&[50003], K::AccountPunished, after(300)),
        (&[60020], K::IpNotAllowed, after(300)),
        (&[45009], K::MinuteQuota, after(60)),
        (&[40125, 40164, 40243, 45011, 89503, 1], K::Unknown, Pace::Backoff),
    ] {
        for code in codes {
            let body = format!(
                r#"{{"errcode":{code},"errmsg":"no, hint: [1704941403120931704370802], from ip: 203.0.113.7, more info at https://open.work.weixin.qq.com/devtool/query?e={code}"}}"#
            );
            let Err(TokenCallError::Rejected(rejected)) = decode(&body) else { panic!("{body}") };
            assert_eq!((rejected.code, rejected.kind), (ErrCode(*code), kind));
            assert_eq!(rejected.kind.pace(), pace, "{code}");
            let advice = rejected.advice();
            assert!(advice.len() > 20 && !advice.contains("developers.weixin.qq.com"), "{code}: {advice}");
            assert!(!advice.contains("mp.weixin.qq.com"), "{code}: {advice}");
        }
    }
    let Err(TokenCallError::Rejected(rejected)) = decode(
        r#"{"errcode":60020,"errmsg":"not allow to access from your ip, hint: [1], from ip: 203.0.113.7, more info at https://x"}"#,
    ) else {
        panic!("not rejected")
    };
    assert!(rejected.advice().contains("203.0.113.7"), "{}", rejected.advice());
}
