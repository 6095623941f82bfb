//! What WeChat says with each errcode, without the `rid` that follows.
//!
//! Texts marked *real* were seen in answers (§1.1 and §3.3 of `wechat.md`); the others follow the published tables
//! of meanings, and are no more than likely.

/// The text of an errcode on the general APIs.
pub(super) fn text(errcode: i64) -> &'static str {
    match errcode {
        -1 => "system error",
        0 => "ok",
        // Real, 2026-09-17.
        40001 => {
            "invalid credential, access_token is invalid or not latest, could get access_token by \
             getStableAccessToken, more details at https://mmbizurl.cn/s/JtxxFh33r"
        }
        40002 => "invalid grant_type",
        40003 => "invalid openid",
        40004 => "invalid media type",
        40005 => "invalid file type",
        40006 => "invalid meida size", // WeChat's spelling
        40007 => "invalid media_id",
        40008 => "invalid message type",
        40009 => "invalid image size",
        40010 => "invalid voice size",
        40011 => "invalid video size",
        40012 => "invalid thumb size",
        40013 => "invalid appid", // real
        40014 => "invalid access_token",
        40029 => "invalid code",
        40030 => "invalid refresh_token",
        40037 => "invalid template_id",
        40053 => "invalid action info",
        40097 => "invalid args",
        40125 => "invalid appsecret",
        40159 => "invalid length for path, or the data is not json string",
        40163 => "code been used",
        40169 => "invalid length for scene, or the data is not json string",
        40243 => "appsecret is frozen",
        41001 => "access_token missing", // real
        41002 => "appid missing",
        41004 => "appsecret missing",
        41005 => "media data missing",
        41006 => "media_id missing",
        41008 => "missing code",
        41009 => "missing openid",
        42001 => "access_token expired", // real
        42002 => "refresh_token expired",
        43001 => "require GET method",
        43002 => "require POST method",
        43003 => "require https",
        44001 => "empty media data",
        44002 => "empty post data",
        45009 => "reach max api daily quota limit", // real
        45011 => "api minute-quota reach limit, must slower, retry next minute",
        45157 => "invalid tag name",
        46003 => "menu no exist",
        47001 => "data format error",
        48001 => "api unauthorized", // real
        48006 => "forbid to clear quota because of reaching the limit",
        50004 => "user not allow to use accesstoken, maybe for punishment",
        50007 => "account frozen",
        61007 => "api is unauthorized to component", // real
        61024 => "must use api(api_component_token) to get token for component acct",
        61500 => "date format error",
        76001 => "rid not found",
        76003 => "invalid cgi_path",
        76021 => "cgi_path not found",
        76022 => "could not use this cgi_path, no permission",
        87014 => "risky content",
        89503 => "this call needs administrator confirmation, please wait administrator confirm",
        89506 => "this ip is rejected by administrator twice, blocked 24 hours",
        89507 => "this ip is rejected by administrator, blocked 1 hour",
        _ => "error",
    }
}

/// The text of an errcode on `WeCom`, without the hint and the address that follow
/// (`developer.work.weixin.qq.com/document/path/90313`; the form is real, §9).
pub(super) fn wecom_text(errcode: i64) -> &'static str {
    match errcode {
        -1 => "system busy",
        40001 => "invalid credential",
        40003 => "invalid userid",
        40008 => "invalid message type",
        40013 => "invalid corpid",
        40014 => "invalid access_token",
        40029 => "invalid code",
        40056 => "invalid agentid",
        41001 => "access_token missing",
        41002 => "corpid missing",
        41004 => "corpsecret missing",
        42001 => "access_token expired", // real
        45009 => "api freq out of limit",
        50003 => "app disabled",
        60020 => "not allow to access from your ip",
        60111 => "userid not found",
        60123 => "invalid party id",
        81013 => "user & party & tag all invalid",
        other => text(other),
    }
}

/// The text on `/sns/`, a sub-system of its own: no hint at `getStableAccessToken` there (real, 2026-09-17).
pub(super) fn sns_text(errcode: i64) -> &'static str {
    match errcode {
        40001 => "invalid credential, access_token is invalid or not latest",
        other => text(other),
    }
}
