//! What is made of replies, good and bad, however they are cut into segments.

use proptest::prelude::*;

use super::origin::Origin;
use super::*;

/// One reply to one request, then the connection ends.
async fn reply_to(method: &Method, bytes: Vec<u8>) -> Result<Reply, SendError> {
    let origin = Origin::start(move |mut peer| {
        let bytes = bytes.clone();
        async move {
            peer.request().await;
            peer.say(bytes).await;
        }
    })
    .await;
    send(&upstream(origin.address), method, b"").await
}

#[tokio::test]
async fn good_replies_arrive() {
    let cases: &[(&Method, &str, u16, &str)] = &[
        (&Method::GET, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello"),
        (&Method::GET, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, ""),
        (
            &Method::GET,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            200,
            "hello",
        ),
        (&Method::GET, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n", 200, ""),
        (&Method::GET, "HTTP/1.1 200 OK\r\n\r\nuntil the end", 200, "until the end"),
        (&Method::GET, "HTTP/1.0 200 OK\r\n\r\nhello", 200, "hello"),
        (&Method::GET, "HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
        (&Method::GET, "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, ""),
        (&Method::HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, ""),
        (&Method::HEAD, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, ""),
        (&Method::HEAD, "HTTP/1.1 200 OK\r\n\r\n", 200, ""),
        (&Method::GET, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", 404, ""),
        (&Method::GET, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 500 No\r\n\r\nx", 500, "x"),
        // What lies beyond the reply is no part of it.
        (&Method::GET, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n", 200, "ok"),
        (&Method::GET, "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", 204, ""),
    ];
    for (method, bytes, status, body) in cases {
        let reply = reply_to(method, bytes.as_bytes().to_vec()).await;
        let reply = reply.unwrap_or_else(|fault| panic!("{bytes:?}: {fault}"));
        assert_eq!((reply.status.as_u16(), reply.body), (*status, Ok(body.as_bytes().to_vec())), "{bytes:?}");
    }
}

#[tokio::test]
async fn replies_that_break_the_rules_are_refused() {
    let many_interim = format!("{}{OK}", "HTTP/1.1 102 Processing\r\n\r\n".repeat(9));
    let cases: &[&str] = &[
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        &many_interim,
    ];
    for bytes in cases {
        let reply = reply_to(&Method::GET, bytes.as_bytes().to_vec()).await;
        assert!(matches!(reply, Err(SendError::MalformedReply(_))), "{bytes:?} gives {reply:?}");
    }
}

#[tokio::test]
async fn a_reply_that_is_cut_short_ends_in_an_error() {
    let truncated: &[&str] = &[
        "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ];
    for bytes in truncated {
        let reply = reply_to(&Method::GET, bytes.as_bytes().to_vec()).await.unwrap();
        assert_eq!(reply.body, Err(BodyError::Truncated), "{bytes:?}");
    }
    let bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n+1\r\n";
    let reply = reply_to(&Method::GET, bytes.to_vec()).await.unwrap();
    assert!(matches!(reply.body, Err(BodyError::Malformed(_))), "{reply:?}");
    let reply = reply_to(&Method::GET, Vec::new()).await;
    assert_eq!(reply, Err(SendError::ClosedBeforeReply));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// A reply says the same in whatever segments it comes; each is acknowledged by a turn of the runtime.
    #[test]
    fn a_reply_means_the_same_however_it_is_cut(
        which in 0..4_usize,
        content in proptest::collection::vec(any::<u8>(), 0..3000),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut bytes = match which {
            0 => format!("HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: {}\r\n\r\n", content.len()).into_bytes(),
            1 => b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX: y\r\nConnection: close\r\n\r\n".to_vec(),
            _ => b"HTTP/1.1 200 OK\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
        };
        match which {
            0 | 1 => bytes.extend_from_slice(&content),
            _ => {
                for chunk in content.chunks(if which == 2 { 7 } else { 2000 }) {
                    bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    bytes.extend_from_slice(chunk);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
        }
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.sort_unstable();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let reply = runtime.block_on(async move {
            let origin = Origin::start(move |mut peer| {
                let (bytes, cuts) = (bytes.clone(), cuts.clone());
                async move {
                    peer.request().await;
                    let mut from = 0;
                    for to in cuts.into_iter().chain([bytes.len()]) {
                        peer.say(&bytes[from..to]).await;
                        for _turn in 0..3 {
                            tokio::task::yield_now().await;
                        }
                        from = to;
                    }
                }
            })
            .await;
            get(&upstream(origin.address)).await
        });
        let reply = reply.unwrap();
        prop_assert_eq!(&reply.fields["x"], "y");
        prop_assert_eq!(reply.body, Ok(content));
    }
}
