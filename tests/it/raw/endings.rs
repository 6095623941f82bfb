//! How exchanges and connections end: whole, or seen to be cut.

use std::net::SocketAddr;
use std::pin::pin;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::timeout;
use weigate::sandbox::{ArrangedReply, Fault, FaultDoes, Sandbox, When};

use super::frames::{Frame, RST_STREAM, Raw, get};
use super::{Answer, Then, answers, get_head, head, post_head, talk};
use crate::harness::{PATIENCE, Setup, wechat};

const API: &str = "/cgi-bin/user/info";
const UPLOAD_BYTES: usize = 50 << 20;

fn closes(said: &Answer) -> bool {
    said.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
}

/// Sends a head and 50 MB, and reads at the same time, or only then.
async fn upload(address: SocketAddr, head: &str, reads_first: bool) -> Vec<Answer> {
    let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
    let mut said = Vec::new();
    let mut sending = pin!(send(&mut write, head));
    if !reads_first {
        sending.as_mut().await;
    }
    {
        let mut reading = pin!(read.read_to_end(&mut said));
        if reads_first {
            // It has its answer and stops; or it had sent all before it came.
            tokio::select! {
                read = &mut reading => drop(read.unwrap()),
                () = &mut sending => drop(reading.await.unwrap()),
            }
        } else {
            reading.await.unwrap();
        }
    }
    answers(&said, false)
}

async fn send(write: &mut OwnedWriteHalf, head: &str) {
    write.write_all(head.as_bytes()).await.unwrap();
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..UPLOAD_BYTES >> 20 {
        if write.write_all(&piece).await.is_err() {
            break;
        }
    }
}

/// How many of how many got the whole answer.
async fn refused_uploads(address: SocketAddr, head: &str, status: u16) -> (usize, usize) {
    let mut uploads = Vec::new();
    // Those who read only when all is sent make weigate read all of it.
    for (reads_first, rounds, at_once) in [(true, 19, 5), (false, 1, 5)] {
        for _ in 0..rounds {
            let clients = (0..at_once).map(|_| upload(address, head, reads_first));
            let ended = timeout(PATIENCE, join_all(clients)).await;
            uploads.extend(ended.unwrap_or_else(|_| panic!("an upload without an end")));
        }
    }
    let is_whole = |said: &&Vec<Answer>| matches!(&***said, [said] if said.status == status && said.body.ends_with(b"}") && closes(said));
    (uploads.iter().filter(is_whole).count(), uploads.len())
}

#[tokio::test]
async fn a_refusal_is_read_whole_while_the_body_still_comes() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let long = format!("Content-Length: {UPLOAD_BYTES}\r\n");
    let unknown = format!("POST {API} HTTP/1.1\r\nHost: w\r\nAuthorization: Bearer wrong\r\n{long}\r\n");
    for (status, head) in [(413, post_head(&long)), (401, unknown)] {
        let (whole, all) = refused_uploads(proxy.address, &head, status).await;
        println!("{status}: {whole} of {all} read the whole answer");
        assert_eq!((whole, all), (100, 100), "{status}");
    }
}

fn strike(wechat: &Sandbox, path: &str, does: FaultDoes) {
    wechat.control().clear_faults();
    wechat.control().add_fault(Fault { path: path.to_owned(), method: None, skip: 0, count: None, does });
}

#[tokio::test]
async fn what_wechat_cut_short_is_seen_to_be_cut_short() {
    let wechat = wechat().await;
    wechat.control().set_media("long", 1 << 20, "image/jpeg");
    let proxy = Setup::new().start(&wechat).await;
    let media = "/cgi-bin/media/get?media_id=long";
    strike(&wechat, "/cgi-bin/media/get", FaultDoes::CutBody(300_000));
    for version in ["1.1", "1.0"] {
        let said =
            talk(proxy.address, head(&format!("GET {media} HTTP/{version}"), "").as_bytes(), Then::Wait)
                .await;
        let end = said.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8_lossy(&said[..end]).into_owned();
        assert!(head.contains("content-length: 1048576\r\n") && said.len() - end < 1 << 20, "{head}");
    }
    let mut raw = Raw::open(proxy.address, &[]).await;
    // Room for all of it.
    raw.send(&super::frames::frame(8, 0, 0, &[0, 0x20, 0, 0])).await;
    raw.send(&get(1, media)).await;
    raw.send(&super::frames::frame(8, 0, 1, &[0, 0x20, 0, 0])).await;
    let frames = raw.until(|frame| frame.ends(1)).await;
    assert!(frames.last().is_some_and(|frame| frame.kind == RST_STREAM), "{:?}", frames.last());
    // A short one is looked at before it is passed on, so there is still time for an answer.
    strike(&wechat, API, FaultDoes::CutBody(20));
    let said = answers(&talk(proxy.address, get_head("").as_bytes(), Then::HalfClose).await, false);
    assert_eq!((said[0].status, said[0].field("x-weigate-error")), (502, Some("upstream_broken")));
}

#[tokio::test]
async fn http_1_0_gets_what_it_can_read() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    wechat.control().set_media("long", 1 << 20, "image/jpeg");
    strike(&wechat, "/cgi-bin/media/get", FaultDoes::Chunked);
    let line = |version: &str| format!("GET /cgi-bin/media/get?media_id=long HTTP/{version}");
    for more in ["", "Connection: keep-alive\r\n"] {
        // What has no length ends with the connection (RFC 9112 §6.3), whatever the client would like.
        let said = talk(proxy.address, head(&line("1.0"), more).as_bytes(), Then::Wait).await;
        let said = answers(&said, false);
        assert!(said[0].field("transfer-encoding").is_none() && said[0].field("content-length").is_none());
        assert_eq!((said[0].status, said[0].body.len()), (200, 1 << 20));
    }
    let said = answers(&talk(proxy.address, head(&line("1.1"), "").as_bytes(), Then::HalfClose).await, false);
    assert_eq!((said[0].field("transfer-encoding"), said[0].body.len()), (Some("chunked"), 1 << 20));
    // A short one is here whole before its head goes on, so that its length is known.
    strike(&wechat, API, FaultDoes::Chunked);
    for (version, more) in [("1.0", "Connection: keep-alive\r\n"), ("1.1", "")] {
        let request = get_head(more).replace("HTTP/1.1", &format!("HTTP/{version}"));
        let said = answers(&talk(proxy.address, request.as_bytes(), Then::HalfClose).await, false);
        assert_eq!(said[0].field("content-length"), Some(said[0].body.len().to_string().as_str()));
    }
}

#[tokio::test]
async fn head_204_and_304_have_no_body() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let good = get_head("");
    let as_head = good.replacen("GET", "HEAD", 1);
    let said = answers(&talk(proxy.address, as_head.repeat(2).as_bytes(), Then::HalfClose).await, true);
    assert_eq!(said.iter().map(|answer| answer.status).collect::<Vec<_>>(), [200, 200]);
    for status in [204, 304] {
        let reply =
            ArrangedReply { status, content_type: "application/json".to_owned(), body: String::new() };
        strike(&wechat, API, FaultDoes::Reply(reply));
        let said = answers(&talk(proxy.address, good.repeat(2).as_bytes(), Then::HalfClose).await, false);
        assert_eq!(said.iter().map(|answer| answer.status).collect::<Vec<_>>(), [status, status], "{said:?}");
        let is_bare = |answer: &Answer| {
            answer.field("transfer-encoding").is_none()
                && (status == 304 || answer.field("content-length").is_none())
        };
        assert!(said.iter().all(is_bare), "{said:?}");
    }
}

#[tokio::test]
async fn a_connection_ends_after_its_last_request() {
    let wechat = wechat().await;
    let limits = "[server.limits]\nrequests_per_connection_max = 3";
    let proxy = Setup::new().server(limits).start(&wechat).await;
    let said = answers(&talk(proxy.address, get_head("").repeat(5).as_bytes(), Then::Wait).await, false);
    assert_eq!(said.iter().map(closes).collect::<Vec<_>>(), [false, false, true]);
    let mut raw = Raw::open(proxy.address, &[]).await;
    for stream in [1, 3, 5] {
        raw.send(&get(stream, API)).await;
        assert!(
            raw.until(|frame| frame.ends(stream))
                .await
                .iter()
                .any(|frame| frame.is_ok() || frame.goaway().is_some())
        );
    }
    raw.send(&super::frames::frame(
        super::frames::PING,
        super::frames::ACK,
        0,
        &[0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54],
    ))
    .await;
    let frames = raw.until(|_| false).await;
    assert!(frames.iter().all(|frame| frame.goaway().is_none_or(|code| code == 0)), "{frames:?}");
}

#[tokio::test]
async fn who_closes_their_side_after_asking_gets_the_answer() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let hold = wechat.control().hold(API, When::BeforeJudging);
    let request = get_head("");
    let releasing = async {
        while wechat.control().holds().iter().map(|hold| hold.held).sum::<usize>() == 0 {
            tokio::task::yield_now().await;
        }
        wechat.control().release(hold);
    };
    let (said, ()) = tokio::join!(talk(proxy.address, request.as_bytes(), Then::HalfClose), releasing);
    assert_eq!(answers(&said, false)[0].status, 200);
}

#[tokio::test]
async fn a_graceful_goaway_is_a_goaway_without_a_fault() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let mut raw = Raw::open(proxy.address, &[]).await;
    raw.send(&get(1, API)).await;
    assert!(raw.until(|frame| frame.ends(1)).await.iter().any(Frame::is_ok));
    // The client never answers the PING that hyper sends with it (RFC 9113 §6.8), which does not keep weigate.
    let (is_whole, frames) = tokio::join!(proxy.stop(), raw.until(|frame| frame.goaway().is_some()));
    assert_eq!(frames.last().and_then(Frame::goaway), Some(0));
    assert!(is_whole);
}
