//! Replies of any size: byte for byte, at the client's pace, in constant memory.

use tokio::net::UnixStream;
use weigate::sandbox::{Fault, FaultDoes};

use crate::bare::{Raw, get_head};
use crate::harness::{CLIENT_KEY, PATIENCE, Setup, client, get, note, wechat};

const MEGABYTE: u64 = 1 << 20;
/// What a download of any size may cost: buffers on both sides, and what a debug build's allocator keeps.
const MORE_KIB_MAX: u64 = 16 * 1024;

/// Byte n of a file is n modulo 251.
fn check_pattern(piece: &[u8], at: u64) {
    let first = u8::try_from(at % 251).unwrap();
    let mut expected = first;
    for byte in piece {
        assert_eq!(*byte, expected, "at {at}");
        expected = if expected == 250 { 0 } else { expected + 1 };
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_arrives_byte_for_byte_with_its_fields() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let check = async |length: u64, is_chunked: bool| {
        let answer = get(&proxy.url("/cgi-bin/media/get?media_id=m")).await;
        assert_eq!(answer.headers()["content-type"], "image/jpeg");
        assert_eq!(answer.headers()["content-disposition"], "attachment; filename=\"m.jpg\"");
        assert_eq!(answer.headers()["cache-control"], "no-cache, must-revalidate");
        // A short one that came whole has got a length on the way.
        assert!(answer.content_length().map_or(is_chunked, |told| told == length));
        let body = answer.bytes().await.unwrap();
        assert_eq!(body.len() as u64, length);
        check_pattern(&body, 0);
    };
    for length in [1, 1023, 1024, 1025, 65_535, 65_536, 3_000_001] {
        wechat.control().set_media("m", length, "image/jpeg");
        check(length, false).await;
        let path = "/cgi-bin/media/get".to_owned();
        let does = FaultDoes::Chunked;
        wechat.control().add_fault(Fault { path, method: None, skip: 0, count: Some(1), does });
        check(length, true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_wechat_cuts_is_cut_for_the_client_too() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    wechat.control().set_media("m", MEGABYTE, "image/jpeg");
    for bytes in [1, 2000, 500_000] {
        let path = "/cgi-bin/media/get".to_owned();
        let does = FaultDoes::CutBody(bytes);
        wechat.control().add_fault(Fault { path, method: None, skip: 0, count: Some(1), does });
        let request = client().get(proxy.url("/cgi-bin/media/get?media_id=m")).bearer_auth(CLIENT_KEY);
        let answer = request.timeout(PATIENCE).send().await.unwrap();
        assert!(answer.bytes().await.is_err(), "cut after {bytes}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_download_takes_no_memory() {
    let wechat = wechat().await;
    wechat.control().set_media("long", 80 * MEGABYTE, "video/mp4");
    let weigate = Setup::new().spawn(&wechat).await;
    assert_eq!(get(&weigate.url("/wxa/x")).await.status(), 200);
    let before = weigate.memory_kib().0;
    let mut answer = get(&weigate.url("/cgi-bin/media/get?media_id=long")).await;
    assert_eq!(answer.content_length(), Some(80 * MEGABYTE));
    let mut at = 0;
    while let Some(piece) = answer.chunk().await.unwrap() {
        check_pattern(&piece, at);
        at += piece.len() as u64;
    }
    assert_eq!(at, 80 * MEGABYTE);
    let most = weigate.memory_kib().0;
    note(&format!("memory: {before} KiB before a download of 80 MiB, {most} KiB at the most"));
    assert!(most - before < MORE_KIB_MAX, "{before} to {most} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_slows_wechat_down_and_nobody_else() {
    let wechat = wechat().await;
    wechat.control().set_media("long", 128 * MEGABYTE, "video/mp4");
    let weigate = Setup::new().spawn(&wechat).await;
    assert_eq!(get(&weigate.url("/wxa/x")).await.status(), 200);
    let before = weigate.memory_kib().0;
    let mut slow = Raw::connect(weigate.address).await;
    slow.send(get_head("/cgi-bin/media/get?media_id=long")).await;
    assert_eq!(slow.head().await.status, 200);
    let mut other = Raw::connect(weigate.address).await;
    for _turn in 0..300 {
        assert_eq!(other.get("/wxa/x").await.status, 200);
    }
    let counters = wechat.control().counters();
    assert_eq!(counters.in_flight, 1, "most of the file is still at WeChat");
    let mut at = 0;
    while at < 128 * MEGABYTE {
        let piece = slow.take(usize::try_from(MEGABYTE).unwrap()).await;
        check_pattern(&piece[..1000], at);
        at += MEGABYTE;
    }
    let most = weigate.memory_kib().0;
    note(&format!("memory: {before} KiB before a slow reader of 128 MiB, {most} KiB at the most"));
    assert!(most - before < MORE_KIB_MAX, "{before} to {most} KiB");
}

/// The kernel takes so much for a unix socket (200 KB as a rule), and hyper as much again and more: what hyper holds when the
/// reply has come to its end must reach the client however long that takes, though the connection is idle by all other signs.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_reply_waits_for_a_client_that_takes_its_time() {
    let wechat = wechat().await;
    let setup = Setup::new();
    let socket = setup.dir.path().join("weigate.sock");
    let listen = format!("[\"127.0.0.1:0\", \"unix:{}\"]", socket.display());
    let proxy = setup.listen(&listen).start(&wechat).await;
    let mut slow = Vec::new();
    let kernel_holds: u64 =
        std::fs::read_to_string("/proc/sys/net/core/wmem_default").unwrap().trim().parse().unwrap();
    for hyper_holds in [48 * 1024, 112 * 1024, 176 * 1024, 240 * 1024, 304 * 1024] {
        let length = kernel_holds + hyper_holds;
        wechat.control().set_media(&length.to_string(), length, "image/jpeg");
        let mut client = Raw::over(UnixStream::connect(&socket).await.unwrap());
        client.send(get_head(&format!("/cgi-bin/media/get?media_id={length}"))).await;
        slow.push((length, client));
    }
    let mut quick = Raw::connect(proxy.address).await;
    quick.send(get_head("/cgi-bin/menu/get")).await;
    assert_eq!(quick.reply().await.status, 200);
    // It rests, so those that were idle before it would have.
    while proxy.metric("weigate_connections_rested_total").await == 0 {
        tokio::task::yield_now().await;
    }
    for (length, mut client) in slow {
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.body.len() as u64), (200, length));
        check_pattern(&reply.body, 0);
    }
}
