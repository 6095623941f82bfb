use proptest::prelude::*;

use super::*;

fn check(path: &str, expected: Result<(Need, bool), PathError>) {
    assert_eq!(judge(path).map(|judged| (judged.need, judged.guarded)), expected, "{path}");
}

#[test]
fn each_path_gets_what_it_needs() {
    for path in [
        "/cgi-bin/menu/get",
        "/wxa/getwxacode",
        "/datacube/getusersummary",
        "/cgi-bin/media/get/jssdk",
        "/",
        "/x/",
        "/a%20b",
    ] {
        check(path, Ok((Need::Token, false)));
    }
    check("/cgi-bin/token", Ok((Need::TokenCall(TokenCall::Token), false)));
    check("/cgi-bin/stable_token", Ok((Need::TokenCall(TokenCall::StableToken), false)));
    check("/cgi-bin/gettoken", Ok((Need::TokenCall(TokenCall::GetToken), false)));
    check("/sns/jscode2session", Ok((Need::Secret, false)));
    check("/sns/oauth2/access_token", Ok((Need::Secret, false)));
    check("/sns/oauth2/refresh_token", Ok((Need::AppId, false)));
    check("/sns/userinfo", Ok((Need::UserToken, false)));
    check("/sns/auth", Ok((Need::UserToken, false)));
    check("/cgi-bin/clear_quota", Ok((Need::Token, true)));
    check("/cgi-bin/clear_quota/v2", Ok((Need::AppSecret, true)));
    check("/cgi-bin/openapi/quota/clear", Ok((Need::Token, true)));
    check("/cgi-bin/openapi/quota/get", Ok((Need::Token, false)));
    check("/cgi-bin/component/api_component_token", Ok((Need::Untouched, true)));
    check("/sns/component/jscode2session", Ok((Need::Untouched, true)));
    check("/sns/oauth2/component/access_token", Ok((Need::Untouched, true)));
    check("/cgi-bin/t%6Fken", Ok((Need::TokenCall(TokenCall::Token), false)));
}

#[test]
fn wecom_has_a_table_of_its_own() {
    let on_wecom = |path| judge(path).unwrap().on(Platform::Wecom);
    for path in ["/cgi-bin/user/get", "/cgi-bin/message/send", "/cgi-bin/clear_quota", "/cgi-bin/serviceable"]
    {
        assert_eq!(on_wecom(path), Ok((Need::Token, false)), "{path}");
    }
    assert_eq!(on_wecom("/cgi-bin/gettoken"), Ok((Need::TokenCall(TokenCall::GetToken), false)));
    for path in [
        "/cgi-bin/service/get_suite_token",
        "/cgi-bin/service",
        "/cgi-bin/token",
        "/sns/jscode2session",
        "/sns/oauth2/access_token",
        "/cgi-bin/component/x",
    ] {
        assert_eq!(on_wecom(path), Ok((Need::Untouched, true)), "{path}");
    }
    for path in ["/CGI-BIN/SERVICE/get_suite_token", "/cgi-bin/Service/x"] {
        assert_eq!(on_wecom(path), Err(PathError::NearMiss), "{path}");
    }
    let judged = judge("/sns/jscode2session").unwrap();
    assert_eq!(judged.on(Platform::Weixin), Ok((Need::Secret, false)));
}

#[test]
fn what_servers_read_in_different_ways_is_refused() {
    use PathError::{Ambiguous, Control, Encoding, NearMiss, Segment};
    for (path, error) in [
        ("/cgi-bin/../cgi-bin/token", Segment),
        ("/cgi-bin/%2e%2e/token", Segment),
        ("/cgi-bin/%2E/token", Segment),
        ("/cgi-bin/.%2e/token", Segment),
        ("/cgi-bin//token", Segment),
        ("/cgi-bin%20/token", Segment),
        ("/cgi-bin/./token", Segment),
        ("//", Segment),
        ("/cgi-bin%2ftoken", Ambiguous),
        ("/cgi-bin%2Ftoken", Ambiguous),
        ("/cgi-bin%5ctoken", Ambiguous),
        ("/cgi-bin\\token", Ambiguous),
        ("/cgi-bin/token;x", Ambiguous),
        ("/cgi-bin/token%3bx", Ambiguous),
        ("/cgi-bin/token%3fx", Ambiguous),
        ("/cgi-bin/token%23x", Ambiguous),
        ("/cgi-bin/%252e%252e/token", Ambiguous),
        ("/cgi-bin/token%00", Control),
        ("/cgi-bin/%0d%0atoken", Control),
        ("/cgi-bin/token%7f", Control),
        ("/cgi-bin/%c2%85token", Control),
        ("/cgi-bin/%c0%afetc", Encoding),
        ("/cgi-bin/%ff", Encoding),
        ("/cgi-bin/%zz", Encoding),
        ("/cgi-bin/%2", Encoding),
        ("/cgi-bin/%", Encoding),
        ("/CGI-BIN/TOKEN", NearMiss),
        ("/cgi-bin/Stable_Token", NearMiss),
        ("/cgi-bin/token/", NearMiss),
        ("/cgi-bin/token.", Segment),
        ("/cgi-bin/token%20", Segment),
        ("/cgi-bin/clear_quota/", NearMiss),
        ("/SNS/userinfo", NearMiss),
        ("cgi-bin/token", Segment),
    ] {
        check(path, Err(error));
    }
}

#[test]
fn extra_slashes_in_front_are_collapsed() {
    assert_eq!(collapse_leading_slashes("//cgi-bin/token"), "/cgi-bin/token");
    assert_eq!(collapse_leading_slashes("/cgi-bin"), "/cgi-bin");
    assert_eq!(collapse_leading_slashes("////"), "/");
    assert_eq!(collapse_leading_slashes(""), "");
}

/// What a careless server might make of a path: decode twice, fold case, merge slashes, resolve dots, cut at `;`.
fn careless(path: &str) -> String {
    let once = percent_decode_str(path).decode_utf8_lossy().into_owned();
    let twice = percent_decode_str(&once).decode_utf8_lossy().replace('\\', "/");
    let cut = twice.split([';', '?', '#', '\0']).next().unwrap_or_default().to_ascii_lowercase();
    let mut segments = Vec::new();
    for segment in cut.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment.trim_end_matches(['.', ' '])),
        }
    }
    format!("/{}", segments.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn no_path_reaches_a_special_one_by_a_detour(
        pieces in proptest::collection::vec(
            prop_oneof![
                Just("/"), Just("cgi-bin"), Just("token"), Just("stable_token"), Just("clear_quota"), Just("component"),
                Just("%2f"), Just("%2F"), Just(".."), Just("."), Just("%2e"), Just("%252e"), Just("%5c"), Just("\\"),
                Just(";x"), Just("%00"), Just("%20"), Just("T"), Just("%74"), Just("oken"), Just("%3f"), Just("sns"), Just("service"), Just("Service"),
            ],
            0..9,
        ),
    ) {
        let path = format!("/{}", pieces.concat());
        if let Ok(judged) = judge(&path) {
            prop_assert_eq!(special(&careless(&path)), special(&judged.decoded), "{}", path);
            if judged.on(Platform::Wecom).is_ok() {
                let (seen, meant) = (special_on_wecom(&careless(&path)), special_on_wecom(&judged.decoded));
                prop_assert_eq!(seen, meant, "{}", path);
            }
        }
    }

    #[test]
    fn any_text_is_judged_without_a_panic(path in "\\PC{0,60}") {
        let _judged = judge(&path);
    }
}
