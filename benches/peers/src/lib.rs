//! What the harness, the loader and the origin agree on.

/// The AppID of the only account, and the stem of the names of many.
pub const APP_ID: &str = "wx0123456789abcdef";

/// The AppID of account `index` where there are many.
pub fn app_id(index: usize) -> String {
    format!("wx{index:016x}")
}

/// The key of client `index`; not a secret, since everyone can compute it.
pub fn client_key(index: usize) -> String {
    format!("wgk_{index:043}")
}

/// The token of an account in a generation: 157 characters, as WeChat's have.
///
/// Its first digits are the generation, so that the origin can tell a dead token without a table.
pub fn token(app_id: &str, generation: u32) -> String {
    let mut token = format!("{generation:0GENERATION_DIGITS$}_{app_id}_");
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let seed = app_id.bytes().map(usize::from).sum::<usize>();
    token.extend((token.len()..TOKEN_CHARS).map(|at| char::from(letters[(seed + at * 7) % letters.len()])));
    token
}

/// How many digits the generation has at a token's start.
pub const GENERATION_DIGITS: usize = 6;

/// How long a token is.
pub const TOKEN_CHARS: usize = 157;

/// What clients ask for.
pub const TARGET: &str = "/cgi-bin/user/info?openid=o6_bmjrPTlm6_2sgVt7hMZOPfL2M&lang=zh_CN";

/// The header fields that clients send besides `Host` and `Authorization`.
pub const FIELDS: [(&str, &str); 4] = [
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64) WeChatSDK/5.1"),
    ("Accept", "application/json, text/plain, */*"),
    ("Accept-Language", "zh-CN,zh;q=0.9"),
    ("X-Trace", "4bf92f3577b34da6a3ce929d0e0e4736"),
];

/// A whole request of client `index`.
pub fn request(index: usize) -> Vec<u8> {
    let mut request = format!("GET {TARGET} HTTP/1.1\r\nHost: api.weixin.qq.com\r\n");
    for (name, value) in FIELDS {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("Authorization: Bearer {}\r\n\r\n", client_key(index)));
    request.into_bytes()
}

/// What the origin answers a good request: 1,023 bytes of JSON, shaped like `/cgi-bin/user/info`.
pub fn good_body() -> String {
    let head = r#"{"subscribe":1,"openid":"o6_bmjrPTlm6_2sgVt7hMZOPfL2M","nickname":"","sex":0,"language":"zh_CN","city":"","province":"","country":"","headimgurl":"","subscribe_time":1382694957,"unionid":"o6_bmasdasdsad6_2sgVt7hMZOPfL","remark":""#;
    let tail = r#"","groupid":0,"tagid_list":[128,2],"subscribe_scene":"ADD_SCENE_QR_CODE","qr_scene":98765,"qr_scene_str":""}"#;
    format!("{head}{}{tail}", "r".repeat(BODY_BYTES - head.len() - tail.len()))
}

/// How long it is.
pub const BODY_BYTES: usize = 1023;
