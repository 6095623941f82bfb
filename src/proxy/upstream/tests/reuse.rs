//! Keeping connections, and not keeping them; what may be sent twice, and what may not.

use std::cell::RefCell;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::origin::Origin;
use super::*;

#[tokio::test]
async fn a_connection_is_used_again_and_one_buffer_serves_all_requests() {
    let origin = Origin::replying(OK).await;
    let upstream = upstream(origin.address);
    for _time in 0..10 {
        assert_eq!(get(&upstream).await.unwrap().body, Ok(b"ok".to_vec()));
    }
    let stats = upstream.stats();
    assert_eq!((origin.seen.connections(), stats.opened.value(), stats.reused.value()), (1, 1, 9));
    assert_eq!((stats.open.value(), stats.idle.value()), (1, 1));
    assert_eq!(upstream.inner.buffers.spare(), 1);
}

#[tokio::test]
async fn a_connection_is_not_used_again_where_the_reply_speaks_against_it() {
    let replies = [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok!",
        "HTTP/1.1 204 No Content\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n!",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    ];
    for reply in replies {
        let origin = Origin::replying(reply).await;
        let upstream = upstream(origin.address);
        for _time in 0..3 {
            let body = get(&upstream).await.unwrap().body.unwrap();
            assert!(body == b"ok" || body.is_empty(), "{reply:?}");
        }
        assert_eq!((origin.seen.connections(), upstream.stats().open.value()), (3, 0), "{reply:?}");
    }
}

/// Response smuggling: what comes after a reply must not become the reply to someone else's request.
#[tokio::test]
async fn bytes_that_nobody_asked_for_are_never_a_reply() {
    let said = Arc::new(Notify::new());
    let signal = Arc::clone(&said);
    let origin = Origin::start(move |mut peer| {
        let signal = Arc::clone(&signal);
        async move {
            while peer.request().await.is_some() {
                peer.say(OK).await;
                tokio::task::yield_now().await;
                peer.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").await;
                signal.notify_one();
            }
        }
    })
    .await;
    let upstream = upstream(origin.address);
    for _time in 0..5 {
        assert_eq!(get(&upstream).await.unwrap().body, Ok(b"ok".to_vec()));
        said.notified().await;
    }
    assert_eq!(origin.seen.connections(), 5);
}

/// Answers once, takes the next request on that connection, and hangs up on it without a word.
async fn hangs_up_on_the_second_request() -> Origin {
    Origin::start(|mut peer| async move {
        peer.request().await;
        peer.say(OK).await;
        peer.request().await;
    })
    .await
}

#[tokio::test]
async fn a_get_on_a_connection_that_dies_is_sent_once_more_on_a_new_one() {
    let origin = hangs_up_on_the_second_request().await;
    let upstream = upstream(origin.address);
    get(&upstream).await.unwrap();
    get(&upstream).await.unwrap();
    assert_eq!(upstream.stats().stale_retries.value(), 1);
    assert_eq!((origin.seen.requests().len(), origin.seen.connections()), (3, 2));
}

#[tokio::test]
async fn a_get_is_not_sent_a_third_time() {
    let origin = Origin::start(|mut peer| async move {
        peer.request().await;
        if peer.nth == 1 {
            peer.say(OK).await;
            peer.request().await;
        }
    })
    .await;
    let upstream = upstream(origin.address);
    get(&upstream).await.unwrap();
    assert_eq!(get(&upstream).await, Err(SendError::ClosedBeforeReply));
    assert_eq!((origin.seen.requests().len(), origin.seen.connections()), (3, 2));
}

#[tokio::test]
async fn a_post_on_a_connection_that_dies_is_an_error_and_was_sent_once() {
    let origin = hangs_up_on_the_second_request().await;
    let upstream = trusting(upstream(origin.address));
    let trust = &upstream.inner.hosts[0].trust;
    post(&upstream, b"1").await.unwrap();
    assert_eq!(post(&upstream, b"2").await, Err(SendError::ClosedBeforeReply));
    assert_eq!((origin.seen.requests().len(), origin.seen.connections()), (2, 1));
    assert!(trust.span() < Duration::from_secs(1), "{:?}", trust.span());
}

#[tokio::test]
async fn a_post_rides_an_idle_connection_only_once_one_was_seen_alive() {
    let origin = Origin::replying(OK).await;
    let upstream = upstream(origin.address);
    post(&upstream, b"").await.unwrap();
    post(&upstream, b"").await.unwrap();
    assert_eq!(upstream.stats().reused.value(), 0);
    // Idle time is what this is about, so here it must pass.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    post(&upstream, b"").await.unwrap();
    post(&upstream, b"").await.unwrap();
    assert_eq!((upstream.stats().opened.value(), upstream.stats().reused.value()), (3, 1));
}

#[tokio::test]
async fn a_pool_that_is_busy_with_posts_and_always_full_learns_all_the_same() {
    let origin = Origin::replying(OK).await;
    let mut settings = settings(vec![host(origin.address)]);
    settings.idle_connections_max = 3;
    let upstream = upstream_with(&settings);
    let until = Instant::now() + Duration::from_secs(10);
    let caller = || async {
        while upstream.stats().reused.value() == 0 && Instant::now() < until {
            post(&upstream, b"x").await.unwrap();
        }
    };
    join_all((0..8).map(|_| caller())).await;
    assert!(upstream.stats().reused.value() > 0);
}

#[tokio::test]
async fn a_reply_that_began_forbids_a_second_try() {
    let origin = Origin::start(|mut peer| async move {
        peer.request().await;
        peer.say(OK).await;
        peer.request().await;
        peer.say("H").await;
    })
    .await;
    let upstream = upstream(origin.address);
    get(&upstream).await.unwrap();
    assert!(matches!(get(&upstream).await, Err(SendError::MalformedReply(_))));
    assert_eq!(origin.seen.connections(), 1);
}

/// RFC 9110 §9.2.2 and `health.rs`: a proxy in its default state failed 280 of 2,000 POSTs at such an origin.
#[tokio::test]
async fn an_origin_that_closes_idle_connections_after_2_ms_costs_no_error_and_no_duplicate() {
    let origin = Origin::start(|mut peer| async move {
        while let Ok(Some(_)) = timeout(Duration::from_millis(2), peer.request()).await {
            peer.say(OK).await;
        }
    })
    .await;
    let upstream = upstream(origin.address);
    let next = RefCell::new(0..600_u32);
    let caller = || async {
        loop {
            let Some(number) = next.borrow_mut().next() else { break };
            let method = if number % 2 == 0 { Method::GET } else { Method::POST };
            let reply = send(&upstream, &method, format!("number {number}.").as_bytes()).await;
            assert_eq!(reply.map(|reply| reply.body), Ok(Ok(b"ok".to_vec())), "{method} {number}");
            if number % 3 > 0 {
                tokio::time::sleep(Duration::from_micros(u64::from(number * 7919 % 3000))).await;
            }
        }
    };
    join_all((0..4).map(|_| caller())).await;
    let mut requests = origin.seen.requests();
    assert_eq!(requests.len(), 600);
    requests.sort();
    requests.dedup();
    assert_eq!(requests.len(), 600, "no request was seen twice");
    assert!(upstream.stats().reused.value() > 0);
}

#[tokio::test]
async fn a_connection_that_was_closed_or_is_too_old_is_swept_away() {
    let closed = Arc::new(Notify::new());
    let signal = Arc::clone(&closed);
    let origin = Origin::start(move |mut peer| {
        let signal = Arc::clone(&signal);
        async move {
            peer.request().await;
            peer.say(OK).await;
            if peer.nth == 1 {
                drop(peer);
                signal.notify_one();
            } else {
                peer.closed().await;
            }
        }
    })
    .await;
    let mut settings = settings(vec![host(origin.address)]);
    settings.idle = Duration::from_millis(10);
    let upstream = upstream_with(&settings);
    get(&upstream).await.unwrap();
    closed.notified().await;
    upstream.inner.hosts[0].sweep();
    assert_eq!(upstream.stats().open.value(), 0);
    get(&upstream).await.unwrap();
    upstream.inner.hosts[0].sweep();
    assert_eq!(upstream.stats().idle.value(), 1);
    tokio::time::sleep(Duration::from_millis(11)).await;
    upstream.inner.hosts[0].sweep();
    assert_eq!((upstream.stats().open.value(), upstream.stats().idle_closed.value()), (0, 2));
}

#[tokio::test]
async fn no_more_idle_connections_are_kept_than_the_bound() {
    let origin = Origin::replying(OK).await;
    let mut settings = settings(vec![host(origin.address)]);
    settings.idle_connections_max = 3;
    let upstream = upstream_with(&settings);
    let replies = join_all((0..10).map(|_| get(&upstream))).await;
    assert!(replies.iter().all(Result::is_ok));
    assert!(origin.seen.connections() > 3);
    assert_eq!((upstream.stats().open.value(), upstream.stats().idle.value()), (3, 3));
}

#[tokio::test]
async fn requests_beyond_the_bound_wait_in_their_order() {
    let origin = Origin::replying(OK).await;
    let mut settings = settings(vec![host(origin.address)]);
    settings.connections_max = 1;
    let upstream = upstream_with(&settings);
    let bodies: Vec<_> = (0..50).map(|number| format!("{number:02}")).collect();
    let replies = join_all(bodies.iter().map(|body| post(&upstream, body.as_bytes()))).await;
    assert!(replies.iter().all(Result::is_ok));
    let requests = origin.seen.requests();
    let seen: Vec<_> = requests.iter().map(|request| &request[request.len() - 2..]).collect();
    assert_eq!(seen, bodies.iter().map(String::as_bytes).collect::<Vec<_>>());
    assert_eq!((upstream.stats().waits.value(), upstream.stats().open.value()), (49, 1));
}

#[tokio::test]
async fn whoever_gives_up_waiting_holds_nobody_up() {
    let origin = Origin::start(|mut peer| async move {
        peer.request().await;
        peer.closed().await;
    })
    .await;
    let mut settings = settings(vec![host(origin.address)]);
    settings.connections_max = 1;
    let upstream = upstream_with(&settings);
    let soon = Duration::from_millis(20);
    let (first, second) = tokio::join!(timeout(soon, get(&upstream)), timeout(soon, get(&upstream)));
    assert!(first.is_err() && second.is_err());
    assert_eq!(upstream.stats().open.value(), 0);
    assert_eq!(upstream.inner.hosts[0].open.get(), 0);
    assert_eq!(upstream.inner.hosts[0].dialling.get(), 0);
}

#[tokio::test]
async fn a_storm_on_a_cold_pool_is_no_herd() {
    let origin = Origin::replying(OK).await;
    let mut settings = settings(vec![host(origin.address)]);
    settings.connections_max = 100;
    let upstream = upstream_with(&settings);
    let dialling = &upstream.inner.hosts[0].dialling;
    let mut most = 0;
    let mut storm = Box::pin(join_all((0..2000).map(|_| get(&upstream))));
    let replies = futures_util::future::poll_fn(|cx| {
        let polled = storm.as_mut().poll(cx);
        most = most.max(dialling.get());
        polled
    })
    .await;
    assert!(replies.iter().all(Result::is_ok));
    assert!(most <= 64, "{most} at one time");
    assert!(origin.seen.connections() <= 100);
    assert_eq!(origin.seen.requests().len(), 2000);
}

#[tokio::test]
async fn dropping_the_client_closes_its_idle_connections() {
    let closed = Arc::new(Notify::new());
    let signal = Arc::clone(&closed);
    let origin = Origin::start(move |mut peer| {
        let signal = Arc::clone(&signal);
        async move {
            peer.request().await;
            peer.say(OK).await;
            peer.closed().await;
            signal.notify_one();
        }
    })
    .await;
    let upstream = upstream(origin.address);
    get(&upstream).await.unwrap();
    drop(upstream);
    closed.notified().await;
}
