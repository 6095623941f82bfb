//! Who shares a connection, and who waits.

use futures_util::future::join_all;

use super::*;

#[tokio::test]
async fn many_requests_share_one_connection() {
    locally(async {
        let authority = Authority::new();
        let origin = origin(&authority, &[], Frames::serve).await;
        let upstream = upstream(&authority, &origin);
        for _round in 0..3 {
            let replies = join_all((0..200).map(|_| get(&upstream))).await;
            assert!(replies.into_iter().all(|reply| reply.unwrap().body == Ok(b"ok".to_vec())));
        }
        let stats = upstream.stats();
        assert_eq!((origin.seen.connections(), origin.seen.requests().len()), (1, 600));
        assert_eq!((stats.opened.value(), stats.opened_http2.value(), stats.open.value()), (1, 1, 1));
        assert_eq!((stats.idle.value(), stats.reused.value()), (1, 599));
    })
    .await;
}

#[tokio::test]
async fn a_host_that_knows_no_http2_gets_http1_and_mixed_hosts_each_their_own() {
    locally(async {
        let authority = Authority::new();
        let old = authority.agreeing_on(&["http/1.1"]);
        let silent = authority.agreeing_on(&[]);
        for acceptor in [old, silent] {
            let first = Origin::start_tls(Some(acceptor), |mut peer: Peer| async move {
                peer.request().await;
                peer.say(OK).await;
            })
            .await;
            let second = origin(&authority, &[], Frames::serve).await;
            let upstream = client(&authority, &[&first, &second], |_| {});
            post(&upstream, b"x").await.unwrap();
            let text = String::from_utf8(first.seen.requests()[0].clone()).unwrap();
            assert!(text.starts_with("POST /cgi-bin/x?access_token=t HTTP/1.1\r\n"), "{text}");
            first.stop_listening().await;
            post(&upstream, b"y").await.unwrap();
            assert_eq!(second.seen.requests().len(), 1);
            assert_eq!(upstream.stats().opened_http2.value(), 1);
        }
    })
    .await;
}

#[tokio::test]
async fn a_storm_on_a_host_without_http2_dials_as_ever() {
    locally(async {
        let authority = Authority::new();
        let origin =
            Origin::start_tls(Some(authority.agreeing_on(&["http/1.1"])), |mut peer: Peer| async move {
                while peer.request().await.is_some() {
                    peer.say(OK).await;
                }
            })
            .await;
        let upstream = client(&authority, &[&origin], |settings| settings.connections_max = 20);
        let replies = join_all((0..300).map(|_| get(&upstream))).await;
        assert!(replies.iter().all(Result::is_ok));
        assert!(origin.seen.connections() <= 20);
    })
    .await;
}

#[tokio::test]
async fn no_more_requests_are_on_their_way_than_the_origin_allows_and_none_is_turned_away() {
    locally(async {
        let authority = Authority::new();
        // Answers only when as many are here as may be: with fewer it would wait for ever, more it refuses.
        let origin = origin(&authority, &[(MAX_CONCURRENT_STREAMS, 5)], |mut frames| async move {
            loop {
                let mut open = Vec::new();
                while open.len() < 5 {
                    let Some(asked) = frames.request().await else { return };
                    open.push(asked.stream);
                }
                for stream in open {
                    frames.ok(stream).await;
                }
            }
        })
        .await;
        let upstream = client(&authority, &[&origin], |settings| settings.connections_max = 4);
        let replies = join_all((0..200).map(|_| post(&upstream, b"x"))).await;
        assert!(replies.iter().all(Result::is_ok), "{replies:?}");
        assert!((1..=4).contains(&origin.seen.connections()));
        assert_eq!(upstream.stats().unprocessed_retries.value(), 0);
        assert!(upstream.stats().waits.value() > 0);
    })
    .await;
}

#[tokio::test]
async fn whoever_waits_beyond_the_deadline_is_told_so_and_the_others_go_on() {
    locally(async {
        let authority = Authority::new();
        let origin = origin(&authority, &[(MAX_CONCURRENT_STREAMS, 1)], |mut frames| async move {
            // The first is never answered, and is reset; then all are.
            let first = frames.request().await.unwrap();
            let reset = frames.next().await.unwrap();
            assert_eq!((reset.kind, reset.stream), (RST_STREAM, first.stream));
            frames.serve().await;
        })
        .await;
        let upstream = client(&authority, &[&origin], |settings| settings.connections_max = 1);
        let soon = Duration::from_millis(100);
        let (first, second) = tokio::join!(
            tokio::time::timeout(soon, get(&upstream)),
            tokio::time::timeout(soon * 200, get(&upstream)),
        );
        assert!(first.is_err(), "it was never answered");
        assert_eq!(second.unwrap().unwrap().body, Ok(b"ok".to_vec()));
        assert_eq!(origin.seen.connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_time_and_a_post_does_not_trust_an_old_one() {
    locally(async {
        let authority = Authority::new();
        let origin = origin(&authority, &[], Frames::serve).await;
        let upstream = client(&authority, &[&origin], |settings| settings.idle = Duration::from_millis(10));
        post(&upstream, b"x").await.unwrap();
        tokio::time::sleep(Duration::from_millis(11)).await;
        get(&upstream).await.unwrap();
        assert_eq!(origin.seen.connections(), 1, "a GET can be sent again");
        tokio::time::sleep(Duration::from_millis(11)).await;
        post(&upstream, b"x").await.unwrap();
        assert_eq!(origin.seen.connections(), 2, "nothing is known of how long a connection lives");
        tokio::time::sleep(Duration::from_millis(11)).await;
        upstream.inner.hosts[0].sweep();
        assert_eq!((upstream.stats().open.value(), upstream.stats().idle_closed.value()), (0, 2));
        let trusting = trusting(client(&authority, &[&origin], |_| {}));
        post(&trusting, b"x").await.unwrap();
        post(&trusting, b"x").await.unwrap();
        assert_eq!(trusting.stats().opened.value(), 1);
    })
    .await;
}

/// The clock is the number of looks, and a look is a second (`maintain`), so no time has to pass.
#[tokio::test]
async fn a_connection_that_went_silent_is_asked_and_given_up_and_one_that_answers_is_not() {
    locally(async {
        let authority = Authority::new();
        for answers in [true, false] {
            let (pinged, was_pinged) = tokio::sync::watch::channel(0);
            let origin = origin(&authority, &[], move |mut frames| {
                let pinged = pinged.clone();
                async move {
                    while let Some(frame) = frames.read().await {
                        if frame.kind == PING && frame.flags & ACK == 0 {
                            if answers {
                                frames.write(PING, ACK, 0, &frame.payload).await;
                            }
                            pinged.send_modify(|count| *count += 1);
                        }
                    }
                }
            })
            .await;
            let upstream = upstream(&authority, &origin);
            let looks = async {
                let host = &upstream.inner.hosts[0];
                while upstream.stats().opened.value() == 0 {
                    tokio::task::yield_now().await;
                }
                for round in 1..=3 {
                    for _second in 0..6 {
                        host.sweep();
                    }
                    let mut pings = was_pinged.clone();
                    if answers {
                        pings.wait_for(|count| *count >= round).await.unwrap();
                        // Until its answer is here too.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            };
            let asked = tokio::time::timeout(Duration::from_secs(5), async {
                tokio::select! {
                    reply = get(&upstream) => reply.map(|reply| reply.status),
                    () = async { looks.await; std::future::pending::<()>().await } => unreachable!(),
                }
            });
            if answers {
                let asked = tokio::time::timeout(Duration::from_secs(1), asked).await;
                assert!(asked.is_err(), "it is still waiting: {asked:?}");
                assert_eq!(upstream.stats().opened.value(), 1);
            } else {
                // The GET goes to a new connection, which is silent too; there nobody looks any more.
                let ended = tokio::time::timeout(Duration::from_secs(1), asked).await;
                assert!(ended.is_err());
                assert_eq!(upstream.stats().stale_retries.value(), 1);
            }
        }
    })
    .await;
}
