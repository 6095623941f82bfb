//! Bodies: held so that they can go twice, refused where they are too long, never left behind.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use sha2::{Digest as _, Sha256};
use tokio::sync::Barrier;
use weigate::sandbox::Sandbox;

use crate::bare::{Bare, Raw, RawReply, get_head, reply_with};
use crate::harness::{
    APP_ID, Binary, CLIENT_KEY, PATIENCE, STABLE_TOKEN, Setup, client, get, hex, note, until, wait_ready,
    wechat,
};

const UPLOAD: &str = "/cgi-bin/media/upload?type=image";
const MEGABYTES_10: usize = 10 << 20;

/// A multipart body with one file of 10 MB, and its type.
fn upload() -> (Bytes, String) {
    let boundary = "----weigate-7d1e";
    let mut body = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"media\"; filename=\"a.jpg\"\r\n\
         Content-Type: image/jpeg\r\n\r\n"
    )
    .into_bytes();
    let mut random = fastrand::Rng::with_seed(7);
    let end = format!("\r\n--{boundary}--\r\n");
    let file = std::iter::repeat_with(|| random.u8(..)).take(MEGABYTES_10 - 1024);
    body.extend(file);
    body.extend(end.as_bytes());
    (body.into(), format!("multipart/form-data; boundary={boundary}"))
}

/// Sends a body in chunks of 64 KiB on a connection of its own; its end when all who share `last` have come so far.
async fn send_chunked(address: SocketAddr, content_type: &str, body: &Bytes, last: &Barrier) -> RawReply {
    let mut client = Raw::connect(address).await;
    let fields = format!("\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n");
    client.send(get_head(UPLOAD).replace("GET", "POST").replace("\r\n\r\n", &fields)).await;
    for piece in body.chunks(64 * 1024) {
        client.send(format!("{:x}\r\n", piece.len())).await;
        client.send(piece).await;
        client.send("\r\n").await;
    }
    last.wait().await;
    client.send("0\r\n\r\n").await;
    let reply = client.reply().await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_chunked_upload_that_meets_an_expired_token_arrives_once_and_whole() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    wechat.control().expire_tokens(APP_ID).unwrap();
    let (body, content_type) = upload();
    let reply = send_chunked(proxy.address, &content_type, &body, &Barrier::new(1)).await;
    assert_eq!(reply.field("x-weigate-attempts"), Some("2"), "{reply:?}");
    assert!(reply.text().contains(r#""media_id":"#), "{reply:?}");
    let seen = wechat.control().requests(Some("/cgi-bin/media/upload"), 10);
    let digest = hex(Sha256::digest(&body));
    assert_eq!(seen.len(), 2);
    assert_eq!((seen[0].errcode, seen[1].errcode), (Some(42001), None));
    for seen in seen {
        assert_eq!((seen.body_bytes, seen.has_content_length), (body.len() as u64, true));
        assert_eq!(seen.body_sha256.as_deref(), Some(&*digest));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_such_uploads_at_once_take_no_memory_to_speak_of_and_leave_no_file() {
    let (body, content_type) = upload();
    let expected = body.clone();
    let wechat = Bare::start(move |request| {
        let fields = "content-type: application/json\r\n";
        if request.body != expected {
            return reply_with("400 Bad Request", "", "not the body that was sent");
        }
        if request.target().ends_with("access_token=bare-token-1") {
            return reply_with("200 OK", fields, r#"{"errcode":42001}"#);
        }
        reply_with("200 OK", fields, r#"{"errcode":0}"#)
    })
    .await;
    // Three gigabytes go through this machine, which may have more to do.
    let patient = "limits = { request_ms_max = 300000, stall_ms_max = 300000 }";
    let setup = Setup::new().server("spool_dir = \"spool\"").server(patient);
    let spool = setup.dir.path().join("spool");
    std::fs::create_dir(&spool).unwrap();
    let path = setup.write_for(&wechat.base_url(), None);
    let weigate = Binary::spawn(&path, Arc::clone(&setup.dir), |_| {});
    wait_ready(weigate.admin).await;
    let before = weigate.memory_kib().0;
    let last = Arc::new(Barrier::new(100));
    let uploads = (0..100).map(|_| {
        let (body, content_type, address) = (body.clone(), content_type.clone(), weigate.address);
        let last = Arc::clone(&last);
        tokio::spawn(async move { send_chunked(address, &content_type, &body, &last).await })
    });
    let mut twice = 0;
    let replies = join_all(uploads).await;
    for line in weigate.log().lines().filter(|line| line.contains("refused")).take(10) {
        note(line);
    }
    for reply in replies {
        let reply = reply.unwrap();
        assert_eq!(reply.text(), r#"{"errcode":0}"#);
        twice += u32::from(reply.field("x-weigate-attempts") == Some("2"));
    }
    // Whoever comes late finds the new token there already.
    assert!(twice > 0);
    assert_eq!(std::fs::read_dir(&spool).unwrap().count(), 0);
    let most = weigate.memory_kib().0;
    note(&format!("memory: {before} KiB at the start, {most} KiB at the most; {twice} went twice"));
    assert!(most < 100 * 1024, "{most} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_whose_length_says_too_much_is_refused_unread() {
    let wechat = wechat().await;
    let proxy = Setup::new().server("limits = { body_bytes_max = 100000 }").start(&wechat).await;
    let before = wechat.control().counters().requests;
    let head = get_head("/wxa/x").replace("GET", "POST");
    let fields = |length: usize| format!("\r\ncontent-length: {length}\r\nexpect: 100-continue\r\n\r\n");

    let mut client = Raw::connect(proxy.address).await;
    client.send(head.replace("\r\n\r\n", &fields(100_001))).await;
    let reply = client.head().await;
    assert_eq!((reply.status, reply.field("x-weigate-error")), (413, Some("body_too_large")), "{reply:?}");
    // Nor is anyone invited to send whom we do not know.
    let mut client = Raw::connect(proxy.address).await;
    client.send(head.replace("\r\n\r\n", &fields(10)).replace(CLIENT_KEY, "wgk_nobody")).await;
    assert_eq!(client.head().await.status, 401);
    assert_eq!(wechat.control().counters().requests, before);
    // At the bound all is well.
    let mut client = Raw::connect(proxy.address).await;
    client.send(head.replace("\r\n\r\n", &fields(100_000))).await;
    assert_eq!(client.head().await.status, 100);
    client.send(vec![b'x'; 100_000]).await;
    assert_eq!(client.reply().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_on_sending_can_read_the_refusal() {
    let wechat = wechat().await;
    let proxy = Setup::new().server("limits = { body_bytes_max = 100000 }").start(&wechat).await;
    let before = wechat.control().counters().requests;
    let head = get_head("/wxa/x").replace("GET", "POST");
    let chunk =
        [format!("{:x}\r\n", 64 * 1024).into_bytes(), vec![b'x'; 64 * 1024], b"\r\n".to_vec()].concat();
    let check = async |fields: &str, piece: &[u8]| {
        let mut client = Raw::connect(proxy.address).await;
        client.send(head.replace("\r\n\r\n", &format!("\r\n{fields}\r\n\r\n"))).await;
        // A client of the usual kind: it looks for an answer only when it has sent all, or cannot.
        let mut sent = 0;
        while sent < 64 && client.try_send(piece).await.is_ok() {
            sent += 1;
        }
        let reply = client.reply().await;
        assert_eq!(reply.status, 413, "{fields}: {reply:?}");
        assert!(reply.text().contains("-99413"), "{fields}: {reply:?}");
    };
    for _turn in 0..10 {
        check("transfer-encoding: chunked", &chunk).await;
        check("content-length: 100000000", &vec![b'x'; 64 * 1024]).await;
    }
    assert_eq!(wechat.control().counters().requests, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_half_way_never_reaches_wechat_and_leaves_no_file() {
    let wechat = wechat().await;
    let setup = Setup::new().server("spool_dir = \"spool\"\nlimits = { stall_ms_max = 1000 }");
    let spool = setup.dir.path().join("spool");
    std::fs::create_dir(&spool).unwrap();
    let proxy = setup.start(&wechat).await;
    let head = get_head("/wxa/x").replace("GET", "POST");
    let chunked = [b"40000\r\n".to_vec(), vec![b'x'; 0x40000], b"\r\n".to_vec()].concat();
    let mut stopped = Vec::new();
    for (fields, sent) in [
        ("content-length: 1000000", vec![b'x'; 500_000]),
        ("content-length: 1000", vec![b'x'; 999]),
        ("transfer-encoding: chunked", chunked),
        ("transfer-encoding: chunked", b"5\r\nhello\r\n".to_vec()),
        ("transfer-encoding: chunked", b"5\r\nhello\r\nnothing of the kind\r\n".to_vec()),
    ] {
        let begin = async || {
            let mut client = Raw::connect(proxy.address).await;
            client.send(head.replace("\r\n\r\n", &format!("\r\n{fields}\r\n\r\n"))).await;
            client.send(&sent).await;
            client
        };
        drop(begin().await);
        stopped.push(begin().await);
        assert_eq!(std::fs::read_dir(&spool).unwrap().count(), 0);
    }
    // One that stays, and sends nothing more, is told so.
    for mut client in stopped {
        let status = client.reply().await.status;
        assert!(matches!(status, 400 | 408), "{status}");
    }
    let started = tokio::time::Instant::now();
    while proxy.metric("weigate_requests_in_flight").await > 0 {
        assert!(started.elapsed() < PATIENCE);
    }
    assert_eq!(get(&proxy.url("/wxa/last")).await.status(), 200);
    let counters = wechat.control().counters();
    assert_eq!((counters.requests_at("/wxa/x"), counters.requests_at("/wxa/last")), (0, 1));
    assert_eq!(std::fs::read_dir(&spool).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_body_of_known_length_arrives_whole_and_one_beyond_the_clients_bound_is_refused() {
    let wechat = wechat().await;
    let proxy = Setup::new()
        .server("limits = { body_bytes_max = 1024, held_memory_bytes_max = 1024 }")
        .clients("streamed_body_bytes_max = 3000000")
        .start(&wechat)
        .await;
    let body = Bytes::from((0..3_000_000_u32).map(|n| (n % 251) as u8).collect::<Vec<_>>());
    let send = async |body: Bytes| {
        let request = client().post(proxy.url("/wxa/x")).bearer_auth(CLIENT_KEY).body(body);
        request.send().await.unwrap().status()
    };
    assert_eq!(send(body.clone()).await, 200);
    let seen = wechat.control().requests(Some("/wxa/x"), 1).remove(0);
    let digest = hex(Sha256::digest(&body));
    assert_eq!((seen.body_bytes, seen.body_sha256), (3_000_000, Some(digest)));
    assert_eq!(send([body, Bytes::from_static(b"x")].concat().into()).await, 413);
    assert_eq!(wechat.control().counters().requests_at("/wxa/x"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_body_may_take_longer_than_a_request_as_long_as_it_moves() {
    let wechat = wechat().await;
    let proxy = Setup::new()
        .server("limits = { body_bytes_max = 1024, held_memory_bytes_max = 1024, request_ms_max = 1000 }")
        .clients("streamed_body_bytes_max = 3000000")
        .start(&wechat)
        .await;
    let mut client = Raw::connect(proxy.address).await;
    let fields = "\r\ncontent-length: 2000000\r\n\r\n";
    client.send(get_head("/wxa/x").replace("GET", "POST").replace("\r\n\r\n", fields)).await;
    // The pause is what is tried here: longer than a request may take, shorter than a body may stand still.
    let mut pause = tokio::time::interval(std::time::Duration::from_millis(500));
    for _piece in 0..4 {
        pause.tick().await;
        client.send(vec![b'x'; 500_000]).await;
    }
    let reply = client.reply().await;
    assert_eq!(reply.status, 200, "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_directory_that_cannot_be_written_ends_the_start_with_words() {
    let wechat = wechat().await;
    let run = |wechat: &Sandbox, server: &str| {
        let setup = Setup::new().server(server);
        let path = setup.write(wechat);
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_weigate"));
        command.args(["serve", "--config"]).arg(path).env("TMPDIR", setup.dir.path().join("missing"));
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = run(&wechat, "");
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("making a temporary file in server.spool_dir: No such file or directory"),
        "{said}"
    );
    let (code, said) = run(&wechat, "spool_dir = \"missing\"");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("`server.spool_dir` is not a directory in which we can write"), "{said}");
    assert_eq!(wechat.control().counters().token_calls_at(STABLE_TOKEN), 0);
    drop(until(&wechat, |counters| counters.in_flight == 0).await);
}
