//! Clients that take their time: each is turned away by a limit, and others are served meanwhile.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::frames::{END_HEADERS, END_STREAM, Frame, HEADERS, RST_STREAM, Raw, block, fields, frame, get};
use super::{Then, answers, get_head, head, is_well, post_head, try_talk};
use crate::harness::{PATIENCE, Proxy, Setup, wechat};

const LIMITS: &str = "[server.limits]\nhandshake_ms_max = 300\nheader_ms_max = 300\nidle_ms_max = 1000\n\
                      stall_ms_max = 1000\nrequest_ms_max = 1000\nbody_bytes_per_s_min = 100000";
const MEDIA: &str = "/cgi-bin/media/get?media_id=long";
const MEDIA_BYTES: u64 = 64 << 20;

async fn start(wechat: &weigate::sandbox::Sandbox) -> Proxy {
    Setup::new().server(LIMITS).start(wechat).await
}

/// Sends `first`, and then a byte each time another client was served, until the server has closed. What it said.
async fn drip(address: SocketAddr, first: &str, byte: &[u8]) -> Vec<u8> {
    let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
    write.write_all(first.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    let dripping = async {
        loop {
            assert!(is_well(address).await);
            if write.write_all(byte).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let reading = read.read_to_end(&mut said);
    let ended = async {
        tokio::select! {
            () = dripping => {}
            // A reset is an end too.
            _ = reading => {}
        }
    };
    assert!(tokio::time::timeout(PATIENCE, ended).await.is_ok(), "the drip is held");
    said
}

#[tokio::test]
async fn dripping_heads_and_bodies_are_not_held() {
    let wechat = wechat().await;
    let proxy = start(&wechat).await;
    let unfinished = get_head("X-A: 1");
    let unfinished = unfinished.trim_end();
    assert!(drip(proxy.address, unfinished, b"x").await.is_empty());
    assert!(drip(proxy.address, "P", b"O").await.is_empty());
    assert!(drip(proxy.address, "PRI * HTT", b"").await.is_empty());
    for (head, byte) in [
        (post_head("Content-Length: 100000\r\n"), &b"x"[..]),
        (post_head("Transfer-Encoding: chunked\r\n"), b"1\r\nx\r\n"),
    ] {
        let said = answers(&drip(proxy.address, &head, byte).await, false);
        assert_eq!(said[0].status, 408, "{said:?}");
        assert_eq!(said[0].field("x-weigate-error"), Some("body_incomplete"));
    }
}

#[tokio::test]
async fn a_connection_may_be_there_long_before_its_first_request() {
    let wechat = wechat().await;
    let limits = "[server.limits]\nhandshake_ms_max = 100\nheader_ms_max = 300";
    let proxy = Setup::new().server(limits).start(&wechat).await;
    let mut early = crate::bare::Raw::connect(proxy.address).await;
    // Each of these is looked at, and over a limit that is longer, before the next comes.
    for _ in 0..3 {
        assert!(try_talk(proxy.address, b"GET /", Then::Wait).await.is_some());
    }
    assert_eq!(early.get("/cgi-bin/menu/get").await.status, 200);
}

#[tokio::test]
async fn hundreds_that_stop_are_all_let_go() {
    let wechat = wechat().await;
    let proxy = start(&wechat).await;
    let stops = [
        String::new(),
        "GET / HT".to_owned(),
        get_head("X-A: 1").trim_end().to_owned(),
        post_head("Content-Length: 100000\r\n") + "half",
        post_head("Transfer-Encoding: chunked\r\n") + "5\r\nhe",
        get_head(""),
    ];
    let clients = (0..300).map(|n| try_talk(proxy.address, stops[n % stops.len()].as_bytes(), Then::Wait));
    let (ended, is_well) = tokio::join!(futures_util::future::join_all(clients), is_well(proxy.address));
    assert!(is_well);
    assert_eq!(ended.iter().filter(|ended| ended.is_some()).count(), 300);
}

#[tokio::test]
async fn who_does_not_read_is_let_go() {
    let wechat = wechat().await;
    wechat.control().set_media("long", MEDIA_BYTES, "image/jpeg");
    let proxy = start(&wechat).await;
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(head(&format!("GET {MEDIA} HTTP/1.1"), "").as_bytes()).await.unwrap();
    while proxy.metric("weigate_connections_expired_total").await == 0 {
        assert!(is_well(proxy.address).await);
    }
    let mut said = Vec::new();
    // It ends in a reset, or where the buffers end.
    let _ended = stream.read_to_end(&mut said).await;
    assert!((said.len() as u64) < MEDIA_BYTES);
}

/// A window that never opens holds nothing up that hyper could see (CVE-2019-9517).
#[tokio::test]
async fn a_stream_whose_window_stays_shut_is_reset_and_its_neighbours_go_on() {
    let wechat = wechat().await;
    wechat.control().set_media("long", MEDIA_BYTES, "image/jpeg");
    let proxy = start(&wechat).await;
    // SETTINGS_INITIAL_WINDOW_SIZE = 0
    let mut raw = Raw::open(proxy.address, &[0, 4, 0, 0, 0, 0]).await;
    raw.send(&get(1, MEDIA)).await;
    let frames = raw.until(|frame| frame.ends(1)).await;
    assert!(frames.iter().any(Frame::is_ok), "{frames:?}");
    assert!(frames.last().is_some_and(|frame| frame.kind == RST_STREAM), "{frames:?}");
    assert!(raw.ping().await);
}

#[tokio::test]
async fn a_slow_body_on_http_2_ends_its_stream_alone() {
    let wechat = wechat().await;
    let proxy = start(&wechat).await;
    let mut raw = Raw::open(proxy.address, &[]).await;
    raw.send(&frame(HEADERS, END_HEADERS, 1, &block(&fields("POST", "/cgi-bin/user/info")))).await;
    let frames = raw.until(|frame| frame.stream == 1).await;
    assert!(frames.last().is_some_and(|frame| frame.kind == HEADERS && !frame.is_ok()), "{frames:?}");
    raw.send(&get(3, "/cgi-bin/user/info?openid=x")).await;
    let frames = raw.until(|frame| frame.ends(3)).await;
    assert!(frames.iter().any(|frame| frame.stream == 3 && frame.is_ok()), "{frames:?}");
}

#[tokio::test]
async fn idle_connections_end_politely() {
    let wechat = wechat().await;
    let proxy = start(&wechat).await;
    let said = try_talk(proxy.address, get_head("").as_bytes(), Then::Wait).await.unwrap();
    assert_eq!(answers(&said, false).len(), 1);
    let mut raw = Raw::open(proxy.address, &[]).await;
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&fields("GET", "/cgi-bin/user/info"))))
        .await;
    let frames = raw.until(|frame| frame.goaway().is_some()).await;
    assert_eq!(frames.last().and_then(Frame::goaway), Some(0), "{frames:?}");
}
