//! Fields, status and body come through unchanged, but for what is between two neighbours on the wire.

use weigate::sandbox::{ArrangedReply, Fault, FaultDoes};

use crate::bare::{Bare, Raw, get_head, reply_with};
use crate::harness::{CLIENT_KEY, Setup, get, wechat};

#[tokio::test(flavor = "multi_thread")]
async fn a_requests_fields_travel_in_order_and_hop_by_hop_fields_and_credentials_stay_here() {
    let wechat = Bare::start(|_| reply_with("200 OK", "", "{}")).await;
    let proxy = Setup::new().start_at(&wechat.base_url()).await;
    let mut client = Raw::connect(proxy.address).await;
    let request = format!(
        "POST /wxa/x?a=1 HTTP/1.1\r\nHost: weigate.example\r\nAuthorization: Bearer {CLIENT_KEY}\r\n\
         Connection: keep-alive, X-Nominated\r\nConnection: host, content-length, authorization\r\n\
         X-Nominated: 1\r\nX-First: 1\r\nWechatmp-Appid: wx1\r\n\
         Wechatmp-TimeStamp: 1700000000\r\nWechatmp-Signature: a+b/c==\r\nContent-Type: application/json;  charset=utf-8\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic {CLIENT_KEY}\r\n\
         TE: trailers\r\nTrailer: X-Late\r\nUpgrade: websocket\r\nHTTP2-Settings: x\r\nX-Forwarded-For: 10.0.0.1\r\n\
         X-Forwarded-Host: h\r\nX-Forwarded-Proto: https\r\nX-Real-IP: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\n\
         X-Weigate-Anything: 1\r\nX-Many: 1\r\nx-many: 2\r\nCookie: a=b\r\nUser-Agent: ua/1 (x)\r\nX-Empty:\r\n\
         Accept-Encoding: gzip, br\r\nVia: 1.0 fred\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\nhello\r\n1;ext=1\r\n!\r\n0\r\nX-Late: 1\r\n\r\n"
    );
    client.send(request).await;
    assert_eq!(client.reply().await.status, 200);
    let seen = wechat.seen().remove(0);
    let (head, via) = seen.head.split_once("via: 1.1 weigate-").unwrap();
    let (pseudonym, rest) = via.split_at(8);
    assert!(pseudonym.bytes().all(|digit| digit.is_ascii_hexdigit()));
    let expected = format!(
        "POST /wxa/x?a=1&access_token=bare-token-1 HTTP/1.1\r\nhost: {}\r\nx-first: 1\r\nwechatmp-appid: wx1\r\n\
         wechatmp-timestamp: 1700000000\r\nwechatmp-signature: a+b/c==\r\ncontent-type: application/json;  charset=utf-8\r\n\
         x-many: 1\r\nx-many: 2\r\ncookie: a=b\r\nuser-agent: ua/1 (x)\r\nx-empty: \r\naccept-encoding: identity\r\n",
        wechat.address()
    );
    assert_eq!(head, expected);
    assert_eq!(rest, "\r\ncontent-length: 6\r\n\r\n");
    assert_eq!(seen.body, b"hello!");

    // The name that a request got on its way through is what tells a loop.
    let again = format!("via: 1.0 fred, 1.1 weigate-{pseudonym}\r\n\r\n");
    client.send(get_head("/wxa/x").replace("\r\n\r\n", &format!("\r\n{again}"))).await;
    assert_eq!(client.reply().await.status, 508);
    assert_eq!(wechat.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_goes_up_with_its_length_whatever_the_method_and_however_it_came() {
    let wechat = Bare::start(|_| reply_with("200 OK", "", "{}")).await;
    let proxy = Setup::new().start_at(&wechat.base_url()).await;
    let mut client = Raw::connect(proxy.address).await;
    for (method, came, length) in [
        ("GET", "\r\n", None),
        ("GET", "content-length: 0\r\n\r\n", None),
        ("GET", "content-length: 2\r\n\r\nab", Some(2)),
        ("DELETE", "\r\n", None),
        ("DELETE", "transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", Some(1)),
        ("POST", "\r\n", Some(0)),
        ("POST", "content-length: 0\r\n\r\n", Some(0)),
        ("POST", "transfer-encoding: chunked\r\n\r\n0\r\n\r\n", Some(0)),
        ("POST", "transfer-encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n", Some(2)),
        ("PUT", "content-length: 3\r\n\r\nabc", Some(3)),
        ("PATCH", "\r\n", Some(0)),
        ("OPTIONS", "content-length: 1\r\n\r\na", Some(1)),
    ] {
        let head = get_head("/wxa/x").replace("GET", method);
        client.send(head.replace("\r\n\r\n", &format!("\r\n{came}"))).await;
        assert_eq!(client.reply().await.status, 200, "{method} {came:?}");
        let seen = wechat.seen().pop().unwrap();
        assert!(seen.head.starts_with(method));
        let told = seen.head.lines().find_map(|line| line.strip_prefix("content-length: "));
        assert_eq!(told.map(|told| told.parse::<usize>().unwrap()), length, "{method} {came:?}");
        assert_eq!(seen.body.len(), length.unwrap_or(0), "{method} {came:?}");
        assert!(!seen.head.contains("transfer-encoding"), "{method} {came:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replys_status_fields_and_body_reach_the_client() {
    const FIELDS: &str = "X-Openapi-Seqid: 1\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nServer: nginx\r\n\
         Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nWechatmp-Serial: s\r\nETag: \"x\"\r\nContent-Type: text/xml\r\n\
         Location: https://elsewhere.example/\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\
         Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nX-Weigate-Error: forged\r\nX-Weigate-Attempts: 9\r\n\
         X-Weigate-Request-Id: forged\r\n";
    const STATUSES: [(&str, &str); 9] = [
        ("200 OK", "<a/>"),
        ("201 Created", "new"),
        ("302 Found", "elsewhere"),
        ("400 Bad Request", "no"),
        ("412 Precondition Failed", ""),
        ("404 Not Found", ""),
        ("500 Internal Server Error", "oh"),
        ("502 Bad Gateway", "<html>502</html>"),
        ("503 Service Unavailable", "{\"errcode\":40001}"),
    ];
    let wechat = Bare::start(|request| {
        let at: usize = request.target().split(['/', '?']).nth(2).unwrap().parse().unwrap();
        reply_with(STATUSES[at].0, FIELDS, STATUSES[at].1)
    })
    .await;
    let proxy = Setup::new().start_at(&wechat.base_url()).await;
    let mut client = Raw::connect(proxy.address).await;
    for (at, (status, body)) in STATUSES.iter().enumerate() {
        let reply = client.get(&format!("/wxa/{at}")).await;
        assert_eq!(reply.status, status.split(' ').next().unwrap().parse::<u16>().unwrap());
        assert_eq!(reply.text(), *body);
        assert_ne!(reply.field("x-weigate-request-id"), Some("forged"));
        let fields: Vec<_> = reply.fields().filter(|(name, _)| *name != "x-weigate-request-id").collect();
        let length = body.len().to_string();
        let expected = [
            ("x-openapi-seqid", "1"),
            ("date", "Thu, 01 Jan 1970 00:00:00 GMT"),
            ("server", "nginx"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("wechatmp-serial", "s"),
            ("etag", "\"x\""),
            ("content-type", "text/xml"),
            ("location", "https://elsewhere.example/"),
            ("content-length", &length),
        ];
        for field in expected {
            assert!(fields.contains(&field), "{field:?} in {fields:?}");
        }
        assert_eq!(fields.len(), expected.len(), "{fields:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_without_a_body_have_none_and_the_connection_goes_on() {
    let wechat = Bare::start(|request| {
        let reply = match request.target().split(['/', '?']).nth(2).unwrap() {
            "304" => "HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\ncontent-length: 1234\r\n\r\n",
            "204" => "HTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n",
            "100" => "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx",
            _ => "HTTP/1.1 200 OK\r\ncontent-type: image/jpeg\r\ncontent-length: 1234\r\n\r\n",
        };
        reply.as_bytes().to_vec()
    })
    .await;
    let proxy = Setup::new().start_at(&wechat.base_url()).await;
    let mut client = Raw::connect(proxy.address).await;
    for (request, status, length, body) in [
        (get_head("/wxa/head").replace("GET", "HEAD"), 200, Some("1234"), 0),
        (get_head("/wxa/304"), 304, None, 0),
        (get_head("/wxa/304").replace("GET", "HEAD"), 304, None, 0),
        (get_head("/wxa/204"), 204, None, 0),
        (get_head("/wxa/100"), 200, Some("1"), 1),
        (get_head("/wxa/head").replace("GET", "HEAD"), 200, Some("1234"), 0),
    ] {
        client.send(&request).await;
        let reply = client.head().await;
        assert_eq!(reply.status, status, "{request}");
        if status == 204 || length.is_some() {
            assert_eq!(reply.field("content-length"), length, "{request}");
        }
        assert_eq!(reply.field("transfer-encoding"), None, "{request}");
        assert_eq!(client.take(body).await.len(), body);
    }
    let opened = proxy.metric("weigate_upstream_connections_total").await;
    assert_eq!(opened, 1, "each reply left its connection to WeChat fit for the next");
}

#[tokio::test(flavor = "multi_thread")]
async fn wechats_errors_pass_through_byte_for_byte() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let bodies = [
        (
            "application/json; encoding=utf-8",
            "{\"errcode\":45009,\"errmsg\":\"reach max api daily quota limit rid: x\"}",
        ),
        ("text/plain", "{\"errcode\":40007,\"errmsg\":\"invalid media_id\"}"),
        ("application/json", "{\"errcode\" : 48001 ,\"errmsg\":\"control \u{1} and \\u0000\"}\n"),
        ("application/json", "{\"errcode\":41001,"),
        ("text/html", ""),
    ];
    for (content_type, body) in bodies {
        let reply =
            ArrangedReply { status: 200, content_type: content_type.to_owned(), body: body.to_owned() };
        let does = FaultDoes::Reply(reply);
        wechat.control().add_fault(Fault {
            path: "/wxa/x".into(),
            method: None,
            skip: 0,
            count: Some(1),
            does,
        });
        let answer = get(&proxy.url("/wxa/x")).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], content_type);
        assert!(!answer.headers().contains_key("x-weigate-attempts"));
        assert_eq!(answer.text().await.unwrap(), body);
    }
    assert_eq!(wechat.control().counters().token_calls_at("/cgi-bin/stable_token"), 1);
    assert_eq!(get(&proxy.url("/nowhere/at/all")).await.status(), 404);
}
