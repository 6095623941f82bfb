//! Hosts that cannot be reached, and what is tried instead.

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::origin::Origin;
use super::*;

async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

fn failures(upstream: &Upstream, cause: ConnectError) -> u64 {
    let place = ConnectError::ALL.iter().position(|one| *one == cause).unwrap();
    upstream.stats().connect_failures[place].value()
}

#[tokio::test]
async fn the_next_host_is_tried_for_any_method_and_the_first_is_left_alone_for_a_while() {
    let origin = Origin::replying(OK).await;
    let upstream = upstream_with(&settings(vec![host(closed_port().await), host(origin.address)]));
    for _time in 0..10 {
        get(&upstream).await.unwrap();
        post(&upstream, b"x").await.unwrap();
    }
    assert_eq!(failures(&upstream, ConnectError::Refused), 1);
    assert_eq!(origin.seen.requests().len(), 20);
    let expected = format!("Host: {}\r\n", origin.address);
    assert!(String::from_utf8_lossy(&origin.seen.requests()[0]).contains(&expected));
}

#[tokio::test]
async fn no_host_to_be_reached_is_an_answer_at_once_and_every_time() {
    let upstream = upstream_with(&settings(vec![host(closed_port().await), host(closed_port().await)]));
    for _time in 0..3 {
        assert_eq!(get(&upstream).await, Err(SendError::Unreachable(ConnectError::Refused)));
    }
    assert_eq!(failures(&upstream, ConnectError::Refused), 6);
}

#[tokio::test]
async fn a_host_that_comes_back_is_used_again() {
    let address = closed_port().await;
    let upstream = upstream(address);
    assert!(get(&upstream).await.is_err());
    let listener = TcpListener::bind(address).await.unwrap();
    let (reply, ()) = tokio::join!(get(&upstream), async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut request = [0; 512];
        assert!(tcp.read(&mut request).await.unwrap() > 0);
        tcp.write_all(OK.as_bytes()).await.unwrap();
    });
    assert_eq!(reply.unwrap().body, Ok(b"ok".to_vec()));
    assert!(upstream.inner.hosts[0].health.cause().is_none());
}

#[tokio::test]
async fn new_connections_that_are_closed_at_once_are_no_use_and_get_nothing() {
    let origin = Origin::start(|_peer| async {}).await;
    let upstream = upstream(origin.address);
    // Until the close arrives a connection looks good, so the request may have been sent on one.
    let reply = post(&upstream, b"x").await;
    assert!(matches!(
        reply,
        Err(SendError::ClosedBeforeReply | SendError::Unreachable(ConnectError::Closed))
    ));
    assert!(origin.seen.connections() <= 4);
}

#[tokio::test]
async fn what_is_said_before_a_request_is_no_reply() {
    let origin = Origin::start(|mut peer| async move {
        peer.say(OK).await;
        peer.closed().await;
    })
    .await;
    let upstream = upstream(origin.address);
    let mut connection =
        upstream.inner.hosts[0].acquire(pool::Choice::New { after: 0 }).await.map(Way::alone);
    // Whether the bytes are there in time is not ours to say; once they are, they are noticed.
    if let Ok(connection) = &mut connection {
        while connection.socket.probe() == socket::Probe::Alive {
            tokio::task::yield_now().await;
        }
        assert_eq!(connection.socket.probe(), socket::Probe::Unsolicited);
    } else {
        assert_eq!(connection.err(), Some(ConnectError::Closed));
    }
}

#[tokio::test]
async fn a_storm_on_hosts_that_refuse_is_turned_away_at_once() {
    let upstream = upstream(closed_port().await);
    let replies = join_all((0..500).map(|_| get(&upstream))).await;
    assert!(replies.iter().all(|reply| *reply == Err(SendError::Unreachable(ConnectError::Refused))));
    assert_eq!(upstream.inner.hosts[0].open.get(), 0);
    assert!(failures(&upstream, ConnectError::Refused) <= 128);
}

#[tokio::test]
async fn a_get_whose_connection_died_with_its_host_goes_to_the_next_host() {
    let first = Origin::start(|mut peer| async move {
        peer.request().await;
        peer.say(OK).await;
        peer.request().await;
    })
    .await;
    let second = Origin::replying(OK).await;
    let upstream = upstream_with(&settings(vec![host(first.address), host(second.address)]));
    get(&upstream).await.unwrap();
    // The listener goes; the connection that is open stays until the next request.
    let seen = first.seen.clone();
    first.stop_listening().await;
    get(&upstream).await.unwrap();
    assert_eq!((seen.requests().len(), second.seen.requests().len()), (2, 1));
}
