use proptest::prelude::*;

use super::*;

const TOKEN_OUT: Drop = Drop { access_token: true, from_appid: true, appid: false, secret: false };

fn check(query: Option<&str>, expected: &str) {
    let mut sent = Vec::new();
    rewrite(query, TOKEN_OUT, &[("access_token", "REAL")], &mut sent);
    assert_eq!(String::from_utf8(sent).unwrap(), expected, "{query:?}");
}

#[test]
fn exactly_one_access_token_is_left_and_the_rest_keeps_its_bytes() {
    check(None, "?access_token=REAL");
    check(Some(""), "?access_token=REAL");
    check(Some("access_token=x"), "?access_token=REAL");
    check(Some("a=1&access_token=x&b=%2F+%20&&c"), "?a=1&b=%2F+%20&&c&access_token=REAL");
    check(Some("%61ccess_token=x&access%5Ftoken=y&z=1"), "?z=1&access_token=REAL");
    check(Some("ACCESS_TOKEN=x&Access_Token[]=y&access_token%5B0%5D=z"), "?access_token=REAL");
    check(Some("access_token&access_token="), "?access_token=REAL");
    check(Some("+access_token=x&%20access_token%00=y"), "?access_token=REAL");
    // An encoded plus is a plus, and no space.
    check(
        Some("access_token%2B=x&%2baccess_token=y"),
        "?access_token%2B=x&%2baccess_token=y&access_token=REAL",
    );
    // As raw as a query can hold them.
    check(Some(" access_token=x&\u{3000}access_token=y&access_token\u{a0}=z"), "?access_token=REAL");
    check(Some("from_appid=wx1&q=access_token=in_value"), "?q=access_token=in_value&access_token=REAL");
    check(
        Some("component_access_token=c&my_access_token=m"),
        "?component_access_token=c&my_access_token=m&access_token=REAL",
    );
}

#[test]
fn the_first_of_each_parameter_is_read() {
    let found =
        parameters("appid=wx1&secret=s&access_token=a&access_token=b&%66rom_appid=wx2&ACCESS_TOKEN=c");
    assert_eq!(found.appid, Some("wx1"));
    assert_eq!(found.secret, Some("s"));
    assert_eq!(found.access_token, Some("a"));
    assert_eq!(found.from_appid, Some("wx2"));
    assert_eq!(found.foreign_token, None);
    assert_eq!(parameters("ACCESS_TOKEN=c").access_token, None);
}

#[test]
fn a_query_without_anything_to_take_out_says_so() {
    for none in ["", "openid=o&lang=zh_CN", "component_access_token=c", "a&&b="] {
        assert!(!parameters(none).has_droppable, "{none}");
    }
    for some in
        ["access_token=x", "a=1&ACCESS_TOKEN[]=x", "%66rom_appid=x", "appid", "secret=", "appsecret=x"]
    {
        assert!(parameters(some).has_droppable, "{some}");
    }
}

#[test]
fn nothing_left_writes_nothing() {
    let mut sent = Vec::new();
    rewrite(Some("access_token=x"), TOKEN_OUT, &[], &mut sent);
    assert!(sent.is_empty());
}

#[test]
fn values_are_decoded_as_forms_are() {
    assert_eq!(decode("a%2Fb+c").as_deref(), Some("a/b c"));
    assert_eq!(decode("%ff"), None);
}

proptest! {
    #[test]
    fn the_sent_query_equals_the_received_one_but_for_the_token(
        pairs in proptest::collection::vec("[a-z%0-9=+_\\[\\]A-Z]{0,20}", 0..8),
    ) {
        let query = pairs.join("&");
        // What is not looked at again is the same as what is.
        if !parameters(&query).has_droppable {
            let mut whole = Vec::new();
            rewrite(Some(&query), Drop::default(), &[("access_token", "REAL")], &mut whole);
            let mut piecewise = Vec::new();
            rewrite(Some(&query), TOKEN_OUT, &[("access_token", "REAL")], &mut piecewise);
            prop_assert_eq!(whole, piecewise);
        }
        let mut sent = Vec::new();
        rewrite(Some(&query), TOKEN_OUT, &[("access_token", "REAL")], &mut sent);
        let sent = String::from_utf8(sent).unwrap();
        let kept: Vec<&str> = query
            .split('&')
            .filter(|_| !query.is_empty())
            .filter(|pair| !matches!(
                known(pair.split_once('=').map_or(pair, |(name, _)| name)),
                Some(Known::AccessToken | Known::AccessTokenLookalike | Known::FromAppid)
            ))
            .chain(["access_token=REAL"])
            .collect();
        prop_assert_eq!(sent, format!("?{}", kept.join("&")));
    }
}
