//! What callers try: a second token, a detour to a guarded path; and what they may well do: any bytes else.

use weigate::sandbox::Endpoint;

use crate::bare::{Raw, get_head};
use crate::harness::{APP_ID, APP_SECRET, CLIENT_KEY, Setup, wechat};

#[tokio::test(flavor = "multi_thread")]
async fn exactly_one_access_token_arrives_and_it_is_ours_whatever_the_query_tries() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let token = wechat.control().current_token(APP_ID, Endpoint::StableToken).unwrap().unwrap();
    let forms = [
        ("", ""),
        ("access_token=x", ""),
        ("access_token=", ""),
        ("access_token", ""),
        ("access_token=x&access_token=y", ""),
        ("a=1&access_token=x", "a=1&"),
        ("access_token=x&a=1", "a=1&"),
        ("a=1&access_token=x&b=2", "a=1&b=2&"),
        ("%61ccess_token=x", ""),
        ("access%5Ftoken=x", ""),
        ("access%5ftoken=x", ""),
        ("%61%63%63%65%73%73%5f%74%6f%6b%65%6e=x", ""),
        ("ACCESS_TOKEN=x", ""),
        ("Access_Token=x", ""),
        ("%41CCESS_TOKEN=x", ""),
        ("access_token[]=x", ""),
        ("access_token[0]=x", ""),
        ("access_token%5B%5D=x", ""),
        ("access_token%5b0%5d=x&access_token[a][b]=y", ""),
        ("+access_token=x", ""),
        ("access_token+=x", ""),
        ("%20access_token=x", ""),
        ("access_token%20=x", ""),
        ("%09access_token%0a=x", ""),
        ("access_token%00=x", ""),
        ("%0d%0aaccess_token=x", ""),
        ("&&access_token=x&&", "&&&&"),
        ("access_token=x=y=z", ""),
        ("access_token=%26access_token%3Dy", ""),
        ("access_token=x%0d%0aHost:%20evil", ""),
        ("from_appid=&access_token=x&%66rom_appid=y&a", "a&"),
        ("redirect=access_token=mine", "redirect=access_token=mine&"),
        ("my_access_token=m&access_tokens=n", "my_access_token=m&access_tokens=n&"),
        ("a=%26access_token%3Dx", "a=%26access_token%3Dx&"),
        ("%ff=%fe&access_token=%fd", "%ff=%fe&"),
        ("a=%&b=%2&c=%zz", "a=%&b=%2&c=%zz&"),
        ("access_token=KEY", ""),
        ("access_token=KEY&%61ccess_token=KEY&ACCESS_TOKEN[]=KEY", ""),
    ];
    assert!(forms.len() >= 30);
    let mut client = Raw::connect(proxy.address).await;
    for (query, kept) in forms {
        // An empty from_appid names no account; that is refused elsewhere.
        let query =
            query.replace("KEY", CLIENT_KEY).replace("from_appid=&", &format!("from_appid={APP_ID}&"));
        for body in ["", "access_token=in_the_body&access_token=twice"] {
            let head = get_head(&format!("/wxa/x?{query}")).replace("GET", "POST");
            let length = format!("\r\ncontent-length: {}\r\n\r\n", body.len());
            client.send(head.replace("\r\n\r\n", &length) + body).await;
            let reply = client.reply().await;
            assert_eq!(reply.status, 200, "{query}: {reply:?}");
            let seen = wechat.control().requests(None, 1).remove(0);
            assert_eq!(seen.raw_query, format!("{kept}access_token={token}"), "{query}");
            assert_eq!(seen.errcode, Some(0), "{query}");
            let said = format!("{seen:?}");
            assert!(!said.contains(CLIENT_KEY) && !said.contains(APP_SECRET), "{query}: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_servers_could_read_in_different_ways_is_refused_and_nothing_reaches_wechat() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let before = wechat.control().counters().requests;
    for path in DETOURS {
        for target in [path.to_owned(), format!("{path}?a=1"), format!("http://weigate{path}")] {
            // hyper closes after what it cannot read, so each has a connection of its own.
            let mut client = Raw::connect(proxy.address).await;
            let reply = client.get(&target).await;
            assert_eq!(reply.status, 400, "{target}: {reply:?}");
        }
    }
    for raw in ["/cgi-bin/\u{1}token", "/cgi-bin/tok en", "cgi-bin/token", "?a=1"] {
        let mut client = Raw::connect(proxy.address).await;
        client.send(get_head(raw)).await;
        assert_eq!(client.head().await.status, 400, "{raw:?}");
    }
    // A fragment is no part of a request target (RFC 9112 §3.2); hyper cuts it off, and what is left is judged, and
    // answered here: a token call without an AppID.
    let mut client = Raw::connect(proxy.address).await;
    assert!(client.get("/cgi-bin/token#/../../wxa/x").await.text().contains("41002"));
    assert_eq!(wechat.control().counters().requests, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_ordinary_path_and_query_arrive_byte_for_byte() {
    const QUERY: &[u8] = b"abzAZ059-._~!$'()*+,;=:@/?&&==|^`{}[]";
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let token = wechat.control().current_token(APP_ID, Endpoint::StableToken).unwrap().unwrap();
    let mut client = Raw::connect(proxy.address).await;
    let start = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(start);
    for turn in 0..400 {
        let path = format!("/wxa{}", random_path(&mut random));
        let query: String = (0..random.usize(0..40))
            .map(|_| match random.u8(0..8) {
                0 => format!("%{:02X}", random.u8(..)),
                1 => format!("%{:02x}", random.u8(..)),
                _ => char::from(QUERY[random.usize(0..QUERY.len())]).to_string(),
            })
            .collect();
        let reply = client.get(&format!("{path}?{query}")).await;
        assert_eq!(reply.status, 200, "seed {start}, turn {turn}: {path}?{query}: {reply:?}");
        let seen = wechat.control().requests(None, 1).remove(0);
        let separator = if query.is_empty() { "" } else { "&" };
        let expected = format!("{query}{separator}access_token={token}");
        assert_eq!((seen.path, seen.raw_query), (path, expected), "seed {start}, turn {turn}");
    }
}

/// Ways to a guarded path, or out of the allowed ones, that some server somewhere would take.
const DETOURS: [&str; 60] = [
    "/cgi-bin/../cgi-bin/token",
    "/wxa/../cgi-bin/clear_quota",
    "/wxa/%2e%2e/cgi-bin/clear_quota",
    "/wxa/%2E%2E/cgi-bin/clear_quota",
    "/wxa/.%2e/cgi-bin/clear_quota",
    "/wxa/%2e./cgi-bin/clear_quota",
    "/wxa/..",
    "/wxa/.",
    "/..",
    "/.",
    "/cgi-bin/./token",
    "/cgi-bin/%2e/token",
    "/cgi-bin//token",
    "/cgi-bin///clear_quota",
    "/cgi-bin/token//",
    "/cgi-bin%2ftoken",
    "/cgi-bin%2Fclear_quota",
    "/%2fcgi-bin/token",
    "/cgi-bin%5ctoken",
    "/cgi-bin%5Ctoken",
    "/cgi-bin\\token",
    "/wxa/..\\cgi-bin\\token",
    "/cgi-bin/token;x",
    "/cgi-bin;x/token",
    "/cgi-bin/token%3b",
    "/cgi-bin/token%3fa=1",
    "/cgi-bin/token%23",
    "/cgi-bin/%252e%252e/token",
    "/cgi-bin%252ftoken",
    "/cgi-bin/tok%2565n",
    "/cgi-bin/token%00",
    "/cgi-bin/token%00.jpg",
    "/cgi-bin/%0d%0atoken",
    "/cgi-bin/token%09",
    "/cgi-bin/token%7f",
    "/cgi-bin/token%20",
    "/cgi-bin%20/token",
    "/cgi-bin/token.",
    "/cgi-bin/token...",
    "/cgi-bin./token",
    "/cgi-bin/%c0%ae%c0%ae/token",
    "/cgi-bin/%c0%afetc",
    "/cgi-bin/%e0%80%af",
    "/cgi-bin/%ff",
    "/cgi-bin/%c2%85token",
    "/cgi-bin/%zz",
    "/cgi-bin/%2",
    "/cgi-bin/%",
    "/cgi-bin/%u0074oken",
    "/CGI-BIN/TOKEN",
    "/cgi-bin/Stable_Token",
    "/cgi-bin/token/",
    "/cgi-bin/clear_quota/",
    "/cgi-bin/clear_quota/V2",
    "/cgi-bin/Component/x",
    "/SNS/userinfo",
    "/cgi-bin/t%4Fken",
    "/@shop/../cgi-bin/token",
    "/@shop/cgi-bin/%2e%2e/token",
    "/@shop/cgi-bin//token",
];

/// One to four segments of letters, marks and escapes that every server reads alike.
fn random_path(random: &mut fastrand::Rng) -> String {
    const MARKS: &[u8] = b"abzAZ059-_~!$'()*+,=:@";
    const ESCAPED: [&str; 8] = ["%41", "%7e", "%2B", "%3d", "%E4%B8%AD", "%e6%96%87", "%22", "%C3%A9"];
    let mut path = String::new();
    for _ in 0..random.usize(1..5) {
        path.push('/');
        for _ in 0..random.usize(1..8) {
            match random.u8(0..6) {
                0 => path.push_str(ESCAPED[random.usize(0..ESCAPED.len())]),
                1 => path.push_str(".x"),
                _ => path.push(char::from(MARKS[random.usize(0..MARKS.len())])),
            }
        }
    }
    path
}
