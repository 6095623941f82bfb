//! What the origin gets to see.

use std::task::Poll;

use http_body_util::{BodyExt, StreamBody};

use super::origin::Origin;
use super::*;

/// A streamed body of these pieces, then what `after` says.
fn pieces(
    pieces: &[&'static [u8]],
    after: Poll<Option<&'static str>>,
) -> impl http_body::Body<Data = Bytes, Error = BoxError> {
    let mut pieces: std::collections::VecDeque<_> = pieces.iter().copied().collect();
    StreamBody::new(futures_util::stream::poll_fn(move |_| match pieces.pop_front() {
        Some(piece) => Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from_static(piece))))),
        None => after.map(|fault| fault.map(|fault| Err(fault.into()))),
    }))
}

async fn send_streamed(
    upstream: &Upstream,
    length: u64,
    body: impl http_body::Body<Data = Bytes, Error = BoxError>,
    stall: Duration,
) -> Result<Response<UpstreamBody>, SendError> {
    let mut body = std::pin::pin!(body);
    let write_head = |head: &mut BytesMut, authority: &str| {
        let text = format!("POST /x HTTP/1.1\r\nHost: {authority}\r\nContent-Length: {length}\r\n\r\n");
        head.extend_from_slice(text.as_bytes());
    };
    let payload = Payload::Streamed { length, frames: body.as_mut() };
    let mut request = Outgoing { method: &Method::POST, head: &Written(write_head), payload, stall };
    upstream.send(&mut request, deadline()).await
}

#[tokio::test]
async fn the_origin_sees_the_head_and_the_body_byte_for_byte() {
    let origin = Origin::replying(OK).await;
    post(&upstream(origin.address), b"{\"a\": 1}\r\n\0").await.unwrap();
    let expected = format!(
        "POST /cgi-bin/x?access_token=t HTTP/1.1\r\nHost: {}\r\nContent-Length: 11\r\n\r\n{{\"a\": 1}}\r\n\0",
        origin.address
    );
    assert_eq!(origin.seen.requests(), [expected.into_bytes()]);
}

#[tokio::test]
async fn large_bodies_arrive_whole() {
    let origin = Origin::replying(OK).await;
    let upstream = trusting(upstream(origin.address));
    for length in [15 * 1024 - 1, 15 * 1024, 15 * 1024 + 1, 300_000] {
        let body: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
        post(&upstream, &body).await.unwrap();
        assert!(origin.seen.requests().last().unwrap().ends_with(&body));
    }
    assert_eq!(origin.seen.connections(), 1);
}

#[tokio::test]
async fn a_streamed_body_arrives_whole_and_the_connection_is_used_again() {
    let origin = Origin::replying(OK).await;
    let upstream = trusting(upstream(origin.address));
    for _time in 0..2 {
        let body = pieces(&[b"one ", b"", b"two ", b"three"], Poll::Ready(None));
        send_streamed(&upstream, 13, body, STALL).await.unwrap().collect().await.unwrap();
    }
    assert!(origin.seen.requests().iter().all(|request| request.ends_with(b"\r\n\r\none two three")));
    assert_eq!((origin.seen.requests().len(), origin.seen.connections()), (2, 1));
}

#[tokio::test]
async fn a_streamed_body_that_goes_wrong_cuts_the_request_off() {
    let origin = Origin::replying(OK).await;
    let upstream = upstream(origin.address);
    let cases = [
        (pieces(&[b"one"], Poll::Ready(None)), RequestBodyFault::Short),
        (pieces(&[b"one", b"two"], Poll::Ready(None)), RequestBodyFault::Long),
        (pieces(&[b"one"], Poll::Ready(Some("gone"))), RequestBodyFault::Failed),
        (pieces(&[], Poll::Ready(Some("gone"))), RequestBodyFault::Failed),
    ];
    for (body, fault) in cases {
        let reply = send_streamed(&upstream, 5, body, STALL).await;
        assert_eq!(reply.err(), Some(SendError::RequestBody(fault)));
    }
    assert_eq!(upstream.stats().open.value(), 0);
    assert!(origin.seen.requests().is_empty());
}

#[tokio::test]
async fn a_client_that_stops_sending_is_given_up_after_the_stall_limit() {
    let origin = Origin::replying(OK).await;
    let body = pieces(&[b"one"], Poll::Pending);
    let reply = send_streamed(&upstream(origin.address), 5, body, Duration::from_millis(30)).await;
    assert_eq!(reply.err(), Some(SendError::RequestBody(RequestBodyFault::Stalled)));
}

#[tokio::test]
async fn an_origin_that_stops_reading_is_given_up_after_the_stall_limit() {
    let origin = Origin::start(|peer| async move {
        std::future::pending::<()>().await;
        drop(peer);
    })
    .await;
    let endless =
        futures_util::stream::repeat_with(|| Ok(http_body::Frame::data(Bytes::from_static(&[0; 8192]))));
    let reply = send_streamed(
        &upstream(origin.address),
        u64::MAX,
        StreamBody::new(endless),
        Duration::from_millis(100),
    )
    .await;
    assert_eq!(reply.err(), Some(SendError::Stalled));
}

#[tokio::test]
async fn an_early_reply_is_delivered_and_its_connection_not_used_again() {
    let origin = Origin::start(|mut peer| async move {
        peer.request_head().await;
        peer.say("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig").await;
        peer.closed().await;
    })
    .await;
    let upstream = upstream(origin.address);
    let reply = post(&upstream, &vec![0; 30_000_000]).await.unwrap();
    assert_eq!((reply.status.as_u16(), reply.body), (413, Ok(b"big".to_vec())));
    let body = pieces(&[b"one"], Poll::Pending);
    let reply = send_streamed(&upstream, 5, body, STALL).await.unwrap();
    assert_eq!(reply.status(), 413);
    drop(reply);
    assert_eq!((upstream.stats().early_replies.value(), upstream.stats().open.value()), (2, 0));
    assert_eq!(origin.seen.connections(), 2);
}

#[tokio::test]
async fn what_an_origin_said_before_it_hung_up_on_the_body_is_delivered() {
    let origin = Origin::start(|mut peer| async move {
        peer.request_head().await;
        peer.say("HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n").await;
        // Closed with bytes unread: the client sees a reset.
    })
    .await;
    let reply = post(&upstream(origin.address), &vec![0; 30_000_000]).await.unwrap();
    assert_eq!(reply.status.as_u16(), 401);
}

#[tokio::test]
async fn an_interim_reply_does_not_stop_the_body() {
    let origin = Origin::start(|mut peer| async move {
        peer.request_head().await;
        peer.say("HTTP/1.1 100 Continue\r\n\r\n").await;
        assert_eq!(peer.bytes(500_000).await.len(), 500_000);
        peer.say(OK).await;
    })
    .await;
    let reply = post(&upstream(origin.address), &vec![1; 500_000]).await.unwrap();
    assert_eq!(reply.body, Ok(b"ok".to_vec()));
}

#[tokio::test]
async fn the_deadline_ends_the_wait_for_a_reply_and_closes_the_connection() {
    let origin = Origin::start(|mut peer| async move {
        peer.request().await;
        peer.closed().await;
    })
    .await;
    let upstream = upstream(origin.address);
    let write_head = |head: &mut BytesMut, _: &str| head.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
    let payload = Payload::Whole(b"");
    let mut request = Outgoing { method: &Method::GET, head: &Written(write_head), payload, stall: STALL };
    let reply = upstream.send(&mut request, Instant::now() + Duration::from_millis(50)).await;
    assert_eq!(reply.err(), Some(SendError::Timeout));
    assert_eq!(upstream.stats().open.value(), 0);
}

#[test]
fn an_outgoing_request_prints_none_of_its_bytes() {
    let write_head = |_: &mut BytesMut, _: &str| {};
    let payload = Payload::Whole(b"secret");
    let request = Outgoing { method: &Method::GET, head: &Written(write_head), payload, stall: STALL };
    assert!(!format!("{request:?} {:?}", request.payload).contains("secret"));
}
