//! Refusals, resets and goodbyes: what may be sent again and what may not.

use futures_util::future::join_all;

use super::*;

#[tokio::test]
async fn a_refused_request_is_sent_again_whatever_its_method_and_three_times_at_most() {
    locally(async {
        let authority = Authority::new();
        for method in [Method::GET, Method::POST] {
            for refusals in 1..=3 {
                let origin = origin(&authority, &[], move |mut frames| async move {
                    let nth = frames.peer.nth;
                    while let Some(asked) = frames.request().await {
                        if nth <= refusals {
                            frames.reset(asked.stream, REFUSED_STREAM).await;
                        } else {
                            frames.ok(asked.stream).await;
                        }
                    }
                })
                .await;
                let upstream = upstream(&authority, &origin);
                let reply = send(&upstream, &method, b"once").await;
                if refusals <= 2 {
                    assert_eq!(reply.unwrap().body, Ok(b"ok".to_vec()), "{method} {refusals}");
                } else {
                    assert_eq!(reply, Err(SendError::Unprocessed), "{method}");
                }
                let tries = (refusals + 1).min(3);
                assert_eq!(origin.seen.requests().len(), tries);
                assert_eq!(upstream.stats().unprocessed_retries.value(), tries as u64 - 1);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_refused_stream_of_a_body_that_is_gone_is_not_sent_again() {
    locally(async {
        let authority = Authority::new();
        let origin = origin(&authority, &[], |mut frames| async move {
            while let Some(asked) = frames.request().await {
                frames.reset(asked.stream, REFUSED_STREAM).await;
            }
        })
        .await;
        let upstream = upstream(&authority, &origin);
        let mut frames =
            std::pin::pin!(http_body_util::Full::new(Bytes::from_static(b"gone")).map_err(Into::into));
        let payload = Payload::Streamed { length: 4, frames: frames.as_mut() };
        let write_head = |head: &mut BytesMut, _: &str| {
            head.extend_from_slice(b"POST /x HTTP/1.1\r\nContent-Length: 4\r\n\r\n");
        };
        let mut request =
            Outgoing { method: &Method::POST, head: &Written(write_head), payload, stall: STALL };
        assert_eq!(upstream.send(&mut request, deadline()).await.err(), Some(SendError::Unprocessed));
        assert_eq!(origin.seen.requests().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn streams_above_a_goodbyes_last_are_sent_again_and_those_below_are_finished() {
    locally(async {
        let authority = Authority::new();
        let origin = origin(&authority, &[], |mut frames| async move {
            if frames.peer.nth > 1 {
                return frames.serve().await;
            }
            let mut open = Vec::new();
            while open.len() < 10 {
                open.push(frames.request().await.unwrap().stream);
            }
            open.sort_unstable();
            frames.goodbye(open[3], 0).await;
            // The ones that are promised an answer get it, later.
            tokio::time::sleep(Duration::from_millis(20)).await;
            for stream in &open[..4] {
                frames.ok(*stream).await;
            }
            assert_eq!(frames.next().await.map(|frame| frame.kind), Some(GOAWAY));
            assert_eq!(frames.peer.closed().await, 0, "nothing more is sent on it");
        })
        .await;
        let upstream = upstream(&authority, &origin);
        let replies = join_all((0..10).map(|_| post(&upstream, b"x"))).await;
        assert!(replies.iter().all(Result::is_ok), "{replies:?}");
        assert_eq!((origin.seen.connections(), origin.seen.requests().len()), (2, 16));
        assert_eq!(upstream.stats().unprocessed_retries.value(), 6);
        upstream.inner.hosts[0].sweep();
        assert_eq!(upstream.stats().open.value(), 1, "the old one is closed");
    })
    .await;
}

#[tokio::test]
async fn an_origin_that_says_goodbye_after_every_few_requests_loses_none_and_keeps_nobody_waiting() {
    locally(async {
        let authority = Authority::new();
        let origin = origin(&authority, &[], |mut frames| async move {
            for _request in 0..99 {
                let Some(asked) = frames.request().await else { return };
                frames.ok(asked.stream).await;
            }
            let Some(last) = frames.request().await else { return };
            frames.goodbye(last.stream, 0).await;
            frames.ok(last.stream).await;
            while frames.next().await.is_some() {}
        })
        .await;
        let upstream = trusting(upstream(&authority, &origin));
        let caller = || async {
            for _time in 0..125 {
                post(&upstream, b"x").await.unwrap();
            }
        };
        join_all((0..8).map(|_| caller())).await;
        let tries = u64::try_from(origin.seen.requests().len()).unwrap();
        assert_eq!(tries, 1000, "each was read once");
        assert!((10..=24).contains(&origin.seen.connections()), "{}", origin.seen.connections());
    })
    .await;
}

#[tokio::test]
async fn a_reset_or_a_death_before_the_reply_is_no_leave_to_send_a_post_again() {
    locally(async {
        let authority = Authority::new();
        let origin = origin(&authority, &[], |mut frames| async move {
            let asked = frames.request().await.unwrap();
            match frames.peer.nth {
                1 | 2 => frames.reset(asked.stream, CANCEL).await,
                // Closed without a word.
                3 | 4 => return,
                _ => frames.ok(asked.stream).await,
            }
            frames.peer.closed().await;
        })
        .await;
        for (method, expected, connections) in [
            (Method::POST, Some(SendError::Reset), 1),
            (Method::GET, Some(SendError::Reset), 2),
            (Method::POST, Some(SendError::ClosedBeforeReply), 3),
            (Method::GET, None, 5),
        ] {
            let upstream = upstream(&authority, &origin);
            assert_eq!(send(&upstream, &method, b"").await.err(), expected, "{method}");
            assert_eq!(origin.seen.connections(), connections);
        }
        assert_eq!(origin.seen.requests().len(), 5);
    })
    .await;
}

#[tokio::test]
async fn when_a_connection_dies_its_crowd_of_gets_goes_to_one_new_one() {
    locally(async {
        let authority = Authority::new();
        let origin = origin(&authority, &[], |mut frames| async move {
            if frames.peer.nth > 1 {
                return frames.serve().await;
            }
            for _request in 0..50 {
                frames.request().await.unwrap();
            }
        })
        .await;
        let upstream = upstream(&authority, &origin);
        let replies = join_all((0..50).map(|_| get(&upstream))).await;
        assert!(replies.iter().all(Result::is_ok));
        assert_eq!((origin.seen.connections(), origin.seen.requests().len()), (2, 100));
        assert_eq!(upstream.stats().stale_retries.value(), 50);
    })
    .await;
}

#[tokio::test]
async fn a_reply_that_nobody_wants_any_more_resets_its_stream_and_not_the_connection() {
    locally(async {
        let authority = Authority::new();
        let origin = origin(&authority, &[], |mut frames| async move {
            let asked = frames.request().await.unwrap();
            frames.head(asked.stream, 0, &[("content-length", "9")]).await;
            frames.write(DATA, 0, asked.stream, b"part").await;
            let mut other = 0;
            let mut is_reset = false;
            while let Some(frame) = frames.next().await {
                if frame.kind == RST_STREAM {
                    assert_eq!(frame.stream, asked.stream);
                    is_reset = true;
                    frames.write(DATA, END_STREAM, asked.stream, b" and").await;
                } else if frame.kind == HEADERS {
                    other = frame.stream;
                }
                if is_reset && other > 0 {
                    frames.ok(std::mem::take(&mut other)).await;
                }
            }
        })
        .await;
        let upstream = upstream(&authority, &origin);
        let reply = send_head(&upstream, &Method::GET, b"").await.unwrap();
        drop(reply);
        assert_eq!(get(&upstream).await.unwrap().body, Ok(b"ok".to_vec()));
        assert_eq!(origin.seen.connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_is_dropped_says_goodbye() {
    locally(async {
        let authority = Authority::new();
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let origin = origin(&authority, &[], move |mut frames| {
            let told = told.clone();
            async move {
                let asked = frames.request().await.unwrap();
                frames.ok(asked.stream).await;
                told.send(frames.next().await.map(|frame| frame.kind)).unwrap();
            }
        })
        .await;
        let upstream = upstream(&authority, &origin);
        get(&upstream).await.unwrap();
        drop(upstream);
        assert_eq!(heard.recv().await, Some(Some(GOAWAY)));
    })
    .await;
}
