use proptest::prelude::*;

use super::*;

fn check(reply: &str, expected: Option<i64>) {
    assert_eq!(errcode(reply.as_bytes()).map(|code| code.0), expected, "{reply}");
}

#[test]
fn replies_seen_in_the_wild_are_read() {
    check(
        r#"{"errcode":40001,"errmsg":"invalid credential, access_token is invalid or not latest, could get access_token by getStableAccessToken, more details at https://mmbizurl.cn/s/JtxxFh33r rid: 6aac0063-7ed08fb9-1250f724"}"#,
        Some(40001),
    );
    check(
        r#"{"errcode":42001,"errmsg":"access_token expired rid: 68aeabxx-21ea79xx-3a4424xx"}"#,
        Some(42001),
    );
    check(
        r#"{"errmsg":"access_token missing rid: 6aac0064-355b48ab-4c5b487e","errcode":41001}"#,
        Some(41001),
    );
    check("{\"errcode\":0,\"errmsg\":\"ok\"}", Some(0));
    check("{\"errcode\":-1,\"errmsg\":\"system error\"}", Some(-1));
    check("\u{feff} {\n  \"errmsg\" : \"a \\\" quote\" ,\n  \"errcode\" : \"40014\"\n}", Some(40014));
    check(
        "{\"a\":{\"errcode\":1},\"b\":[1,{\"errcode\":2}],\"c\":null,\"d\":-1.5e3,\"errcode\":42001}",
        Some(42001),
    );
    check("{\"note\":\"raw \u{1} control\",\"errcode\":40001}", Some(40001));
}

#[test]
fn what_is_not_a_top_level_number_is_not_a_code() {
    check("", None);
    check("ok", None);
    check("[{\"errcode\":40001}]", None);
    check("{\"base_resp\":{\"errcode\":40001}}", None);
    check("{\"text\":\"\\\"errcode\\\":40001\"}", None);
    check("{\"text\":\"say \\\"errcode\\\":40001,\", \"x\": 1}", None);
    check("{\"errcode\":40001.5}", None);
    check("{\"errcode\":4e4}", None);
    check("{\"errcode\":true}", None);
    check("{\"errcode\":99999999999999999999}", None);
    check("{\"errcode\":4000", None);
    check("{\"errcode\":\"40001}", None);
    check("{\"a\":1]\"errcode\":40001}", None);
}

#[test]
fn only_three_codes_mean_that_the_token_is_invalid_and_on_wecom_two() {
    for code in [40001, 40014, 42001] {
        assert!(is_token_invalid(Platform::Weixin, ErrCode(code)));
    }
    for code in
        [-1, 0, 40002, 40013, 40097, 40125, 40164, 41001, 42002, 42007, 42009, 43001, 45009, 48001, 61004]
    {
        assert!(!is_token_invalid(Platform::Weixin, ErrCode(code)));
    }
    for (code, is_invalid) in [(40014, true), (42001, true), (40001, false), (41001, false), (42009, false)] {
        assert_eq!(is_token_invalid(Platform::Wecom, ErrCode(code)), is_invalid, "{code} on WeCom");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        errcode(&bytes);
    }

    #[test]
    fn a_strict_parser_and_this_one_agree_on_valid_json(
        before in proptest::collection::vec(("[a-z]{1,6}", "[ -~]{0,12}"), 0..4),
        code in any::<i64>(),
    ) {
        let mut object = serde_json::Map::new();
        for (key, value) in before {
            object.insert(key, serde_json::json!([{ "errcode": 7 }, value]));
        }
        object.insert("errcode".into(), code.into());
        let text = serde_json::Value::Object(object).to_string();
        prop_assert_eq!(errcode(text.as_bytes()), Some(ErrCode(code)));
        for cut in 0..text.len().saturating_sub(1) {
            let cut = errcode(&text.as_bytes()[..cut]);
            prop_assert!(cut.is_none() || cut == Some(ErrCode(code)));
        }
    }
}
