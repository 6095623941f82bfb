//! Bodies in both directions, and the windows that hold them back.

use super::*;

#[tokio::test]
async fn an_upload_waits_for_windows_and_arrives_whole() {
    locally(async {
        let authority = Authority::new();
        let origin = origin(&authority, &[(INITIAL_WINDOW_SIZE, 1000)], |mut frames| async move {
            while let Some(head) = frames.next().await {
                let (mut length, mut is_over) = (0_usize, head.flags & END_STREAM != 0);
                while !is_over {
                    let data = frames.next().await.unwrap();
                    assert!(data.payload.len() <= 1000, "no more than the window");
                    for byte in &data.payload {
                        assert_eq!(usize::from(*byte), length % 251);
                        length += 1;
                    }
                    is_over = data.flags & END_STREAM != 0;
                    let more = u32::try_from(data.payload.len()).unwrap().max(1).to_be_bytes();
                    frames.write(WINDOW_UPDATE, 0, 0, &more).await;
                    if !is_over {
                        frames.write(WINDOW_UPDATE, 0, head.stream, &more).await;
                    }
                }
                let length = length.to_string();
                frames.head(head.stream, END_STREAM, &[("x-length", &length)]).await;
            }
        })
        .await;
        let upstream = trusting(upstream(&authority, &origin));
        for length in [0, 1, 1000, 1001, 70_000, 200_000] {
            let body: Vec<u8> = (0..length).map(|at: usize| u8::try_from(at % 251).unwrap()).collect();
            let reply = post(&upstream, &body).await.unwrap();
            assert_eq!(reply.fields["x-length"].to_str().unwrap(), length.to_string());
        }
        assert_eq!(origin.seen.connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_upload_that_the_origin_does_not_read_is_given_up_after_the_stall_limit() {
    locally(async {
        let authority = Authority::new();
        let origin = origin(&authority, &[(INITIAL_WINDOW_SIZE, 1000)], |mut frames| async move {
            while frames.next().await.is_some() {}
        })
        .await;
        let upstream = upstream(&authority, &origin);
        let body = vec![0; 5000];
        let write_head = |head: &mut BytesMut, _: &str| head.extend_from_slice(b"POST /x HTTP/1.1\r\n\r\n");
        let payload = Payload::Whole(&body);
        let stall = Duration::from_millis(50);
        let mut request = Outgoing { method: &Method::POST, head: &Written(write_head), payload, stall };
        assert_eq!(upstream.send(&mut request, deadline()).await.err(), Some(SendError::Stalled));
    })
    .await;
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_upload_is_the_answer() {
    locally(async {
        let authority = Authority::new();
        let origin = origin(&authority, &[(INITIAL_WINDOW_SIZE, 1000)], |mut frames| async move {
            let head = frames.next().await.unwrap();
            frames.ok(head.stream).await;
            frames.reset(head.stream, 0).await;
            while let Some(frame) = frames.next().await {
                if frame.kind == HEADERS {
                    frames.ok(frame.stream).await;
                }
            }
        })
        .await;
        let upstream = trusting(upstream(&authority, &origin));
        let reply = post(&upstream, &vec![0; 100_000]).await.unwrap();
        assert_eq!(reply.body, Ok(b"ok".to_vec()));
        assert_eq!(upstream.stats().early_replies.value(), 1);
        assert_eq!(get(&upstream).await.unwrap().body, Ok(b"ok".to_vec()));
        assert_eq!(origin.seen.connections(), 1, "an early answer costs no connection");
    })
    .await;
}

#[tokio::test]
async fn bodies_of_another_length_than_promised_are_reset() {
    locally(async {
        let authority = Authority::new();
        let origin = origin(&authority, &[], |mut frames| async move {
            while let Some(frame) = frames.next().await {
                assert!(frame.kind != DATA || frame.flags & END_STREAM == 0, "it looks whole");
            }
        })
        .await;
        let upstream = upstream(&authority, &origin);
        for (length, fault) in [(3, RequestBodyFault::Long), (5, RequestBodyFault::Short)] {
            let mut frames =
                std::pin::pin!(http_body_util::Full::new(Bytes::from_static(b"four")).map_err(Into::into));
            let payload = Payload::Streamed { length, frames: frames.as_mut() };
            let write_head =
                |head: &mut BytesMut, _: &str| head.extend_from_slice(b"POST /x HTTP/1.1\r\n\r\n");
            let mut request =
                Outgoing { method: &Method::POST, head: &Written(write_head), payload, stall: STALL };
            let reply = upstream.send(&mut request, deadline()).await;
            assert_eq!(reply.err(), Some(SendError::RequestBody(fault)));
        }
    })
    .await;
}

/// The slow reader's window fills and stays full, and the others do not notice.
#[tokio::test]
async fn a_reader_that_does_not_read_holds_up_nobody_and_holds_256_kib() {
    locally(async {
        let authority = Authority::new();
        let (sent, mut was_sent) = tokio::sync::watch::channel(0_usize);
        let origin = origin(&authority, &[], move |mut frames| {
            let sent = sent.clone();
            async move {
                let slow = frames.request().await.unwrap().stream;
                frames.head(slow, 0, &[("content-length", "1048576")]).await;
                let mut left = 1_048_576_usize;
                let mut window = 262_144_usize;
                while left > 0 {
                    while window > 0 && left > 0 {
                        let now = window.min(left).min(16_384);
                        window -= now;
                        left -= now;
                        let flags = if left == 0 { END_STREAM } else { 0 };
                        frames.write(DATA, flags, slow, &vec![7; now]).await;
                    }
                    sent.send_replace(1_048_576 - left);
                    if left == 0 {
                        break;
                    }
                    match frames.read().await {
                        Some(Frame { kind: WINDOW_UPDATE, stream, payload, .. }) if stream == slow => {
                            let more = u32::from_be_bytes(payload.try_into().unwrap());
                            window += usize::try_from(more).unwrap();
                        }
                        Some(Frame { kind: HEADERS, stream, .. }) => frames.ok(stream).await,
                        Some(_) => {}
                        None => return,
                    }
                }
                frames.serve().await;
            }
        })
        .await;
        let upstream = upstream(&authority, &origin);
        let mut slow = send_head(&upstream, &Method::GET, b"").await.unwrap().into_body();
        assert!(slow.peek(1000, deadline()).await.unwrap().len() >= 1000);
        was_sent.wait_for(|sent| *sent >= 262_144).await.unwrap();
        for _time in 0..20 {
            assert_eq!(get(&upstream).await.unwrap().body, Ok(b"ok".to_vec()));
        }
        // One frame was taken to be peeked at, and so much more may have come.
        assert!(*was_sent.borrow() <= 262_144 + 2 * 16_384, "{}", *was_sent.borrow());
        let body = slow.collect().await.unwrap().to_bytes();
        assert_eq!((body.len(), body.iter().all(|byte| *byte == 7)), (1_048_576, true));
        assert_eq!(origin.seen.connections(), 1);
    })
    .await;
}
