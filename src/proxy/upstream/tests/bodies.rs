//! Reading a reply's body: looking ahead, leaving off, throwing away.

use std::sync::Arc;

use http_body::Body;
use tokio::sync::Notify;

use super::origin::Origin;
use super::*;

/// Says the parts of one reply, each when it is told to go on; then serves others at once.
async fn in_parts(parts: &'static [&'static str]) -> (Origin, Arc<Notify>) {
    let go_on = Arc::new(Notify::new());
    let signal = Arc::clone(&go_on);
    let origin = Origin::start(move |mut peer| {
        let signal = Arc::clone(&signal);
        async move {
            if peer.nth == 1 && peer.request().await.is_some() {
                for (nth, part) in parts.iter().enumerate() {
                    if nth > 0 {
                        signal.notified().await;
                    }
                    peer.say(part).await;
                }
            }
            while peer.request().await.is_some() {
                peer.say(OK).await;
            }
        }
    })
    .await;
    (origin, go_on)
}

#[tokio::test]
async fn peek_waits_for_as_much_as_asked_and_consumes_nothing() {
    let (origin, go_on) =
        in_parts(&["HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab", "cde", "fghij"]).await;
    let upstream = upstream(origin.address);
    let mut body = send_head(&upstream, &Method::GET, b"").await.unwrap().into_body();
    assert_eq!(body.peek(2, deadline()).await, Ok(&b"ab"[..]));
    assert_eq!(body.size_hint().exact(), Some(10));
    let soon = Instant::now() + Duration::from_millis(5);
    assert_eq!(body.peek(5, soon).await, Err(BodyError::Timeout));
    go_on.notify_one();
    assert_eq!(body.peek(5, deadline()).await, Ok(&b"abcde"[..]));
    go_on.notify_one();
    assert_eq!(body.peek(1024, deadline()).await, Ok(&b"abcdefghij"[..]));
    assert_eq!(upstream.stats().idle.value(), 1, "the connection is back before the body is read");
    assert_eq!(body.size_hint().exact(), Some(10));
    assert!(!body.is_end_stream());
    assert_eq!(body.collect().await.unwrap().to_bytes(), "abcdefghij");
}

#[tokio::test]
async fn peek_shows_an_error_and_the_body_yields_what_came_before_it() {
    let origin = Origin::start(|mut peer| async move {
        peer.request().await;
        peer.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").await;
    })
    .await;
    let mut body = send_head(&upstream(origin.address), &Method::GET, b"").await.unwrap().into_body();
    assert_eq!(body.peek(10, deadline()).await, Err(BodyError::Truncated));
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
    assert!(!body.is_end_stream());
    assert_eq!(body.frame().await.unwrap().err(), Some(BodyError::Truncated));
    assert!(!body.is_end_stream());
}

#[tokio::test]
async fn the_connection_is_back_in_the_poll_that_yields_the_last_byte() {
    let (origin, go_on) = in_parts(&["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab", "cd"]).await;
    let upstream = upstream(origin.address);
    let mut body = send_head(&upstream, &Method::GET, b"").await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
    assert_eq!((upstream.stats().idle.value(), body.size_hint().exact()), (0, Some(2)));
    go_on.notify_one();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "cd");
    assert!(body.is_end_stream());
    assert_eq!(upstream.stats().idle.value(), 1);
}

#[tokio::test]
async fn a_small_reply_gives_its_connection_back_before_its_body_is_looked_at() {
    for reply in [OK, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"] {
        let origin = Origin::replying(reply).await;
        let upstream = upstream(origin.address);
        let reply = send_head(&upstream, &Method::GET, b"").await.unwrap();
        assert_eq!(upstream.stats().idle.value(), 1);
        assert_eq!(reply.body().size_hint().exact(), Some(2));
    }
}

#[tokio::test]
async fn a_body_dropped_half_read_closes_its_connection() {
    let (origin, _) = in_parts(&["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab", "cd"]).await;
    let upstream = upstream(origin.address);
    let mut body = send_head(&upstream, &Method::GET, b"").await.unwrap().into_body();
    let _half = body.frame().await.unwrap().unwrap();
    drop(body);
    assert_eq!((upstream.stats().idle.value(), upstream.stats().open.value()), (0, 0));
    get(&upstream).await.unwrap();
    assert_eq!(origin.seen.connections(), 2);
}

#[tokio::test]
async fn discard_saves_the_connection_where_the_rest_is_small_and_near() {
    let (origin, go_on) = in_parts(&["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab", "cd"]).await;
    let upstream = upstream(origin.address);
    let body = send_head(&upstream, &Method::GET, b"").await.unwrap().into_body();
    go_on.notify_one();
    body.discard(4, deadline()).await;
    assert_eq!(upstream.stats().idle.value(), 1);
}

#[tokio::test]
async fn discard_closes_where_the_rest_is_large_or_does_not_come() {
    for length in [4, 5] {
        let (origin, _) = in_parts(&["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", "cde"]).await;
        let upstream = upstream(origin.address);
        let body = send_head(&upstream, &Method::GET, b"").await.unwrap().into_body();
        body.discard(length, deadline()).await;
        assert_eq!(upstream.stats().open.value(), 0, "{length}");
    }
}

#[tokio::test]
async fn a_body_that_stops_coming_is_given_up_after_the_stall_limit() {
    let (origin, _) = in_parts(&["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab", "cd"]).await;
    let upstream = upstream(origin.address);
    let write_head = |head: &mut BytesMut, _: &str| head.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
    let stall = Duration::from_millis(30);
    let payload = Payload::Whole(b"");
    let mut request = Outgoing { method: &Method::GET, head: &Written(write_head), payload, stall };
    let body = upstream.send(&mut request, deadline()).await.unwrap().into_body();
    assert_eq!(body.collect().await.err(), Some(BodyError::Stalled));
}

#[tokio::test]
async fn a_large_body_comes_whole_in_frames_of_64_kib_at_most() {
    let origin = Origin::start(|mut peer| async move {
        while peer.request().await.is_some() {
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n").await;
            for at in 0..3000_u32 {
                peer.say([u8::try_from(at % 251).unwrap(); 1000]).await;
            }
        }
    })
    .await;
    let upstream = upstream(origin.address);
    for _time in 0..2 {
        let mut body = send_head(&upstream, &Method::GET, b"").await.unwrap().into_body();
        let mut at = 0;
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.len() <= 65536 && !data.is_empty());
            for byte in data {
                assert_eq!(usize::from(byte), at / 1000 % 251);
                at += 1;
            }
        }
        assert_eq!(at, 3_000_000);
    }
    assert_eq!(origin.seen.connections(), 1);
}

#[tokio::test]
async fn an_empty_body_is_at_its_end() {
    let body = UpstreamBody::default();
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
    assert!(body.collect().await.unwrap().to_bytes().is_empty());
}
