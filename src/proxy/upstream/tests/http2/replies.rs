//! Replies that break HTTP/2, and those that only look odd.

use super::*;

/// The reply to a GET, or to `method`, whose frames `answer` writes on the stream it is given.
async fn reply_of<S, F>(method: Method, answer: S) -> Result<Reply, SendError>
where
    S: Fn(Frames, u32) -> F + Send + Sync + 'static,
    F: Future<Output = Frames> + Send + 'static,
{
    locally(async {
        let authority = Authority::new();
        let answer = Arc::new(answer);
        let origin = origin(&authority, &[], move |mut frames| {
            let answer = Arc::clone(&answer);
            async move {
                let Some(asked) = frames.request().await else { return };
                let mut frames = answer(frames, asked.stream).await;
                while frames.next().await.is_some() {}
            }
        })
        .await;
        send(&upstream(&authority, &origin), &method, b"").await
    })
    .await
}

#[tokio::test]
async fn fields_that_http2_does_not_know_are_malformed() {
    for (name, value) in [
        ("connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("Content-Type", "text/plain"),
        ("content-length", "2, 2"),
        ("content-length", "+2"),
        ("content-length", ""),
        ("content-length", "99999999999999999999"),
        ("x", " padded"),
        ("x", "padded\t"),
        ("x", "a\r\nset-cookie: b"),
        ("x y", "space"),
        ("", "no name"),
    ] {
        let reply = reply_of(Method::GET, move |mut frames, stream| async move {
            frames.head(stream, 0, &[(name, value)]).await;
            frames.write(DATA, END_STREAM, stream, b"ok").await;
            frames
        })
        .await;
        assert!(matches!(reply, Err(SendError::MalformedReply(_))), "{name:?}: {value:?} gives {reply:?}");
    }
}

#[tokio::test]
async fn two_lengths_a_hundred_and_one_fields_and_a_head_beyond_64_kib_are_malformed() {
    let twice = vec![("content-length".to_owned(), "2".to_owned()); 2];
    let many = (0..101).map(|number| (format!("x-{number}"), "1".to_owned())).collect();
    let long = (0..5).map(|number| (format!("x-{number}"), "x".repeat(14_000))).collect();
    for fields in [twice, many, long] {
        let count = fields.len();
        let reply = reply_of(Method::GET, move |mut frames, stream| {
            let fields: Vec<(String, String)> = fields.clone();
            async move {
                let fields: Vec<_> =
                    fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                let block = block(STATUS_200, &fields);
                let mut pieces = block.chunks(16_384).peekable();
                let mut kind = HEADERS;
                while let Some(piece) = pieces.next() {
                    let flags = if pieces.peek().is_none() { END_HEADERS } else { 0 };
                    frames.write(kind, flags, stream, piece).await;
                    // CONTINUATION
                    kind = 9;
                }
                frames.write(DATA, END_STREAM, stream, b"ok").await;
                frames
            }
        })
        .await;
        assert!(matches!(reply, Err(SendError::MalformedReply(_))), "{count} fields give {reply:?}");
    }
}

#[tokio::test]
async fn a_length_that_the_content_does_not_have_is_an_error_never_a_clean_end() {
    for (length, content) in [("3", "ok"), ("1", "ok"), ("0", "ok"), ("2", "")] {
        let reply = reply_of(Method::GET, move |mut frames, stream| async move {
            frames.head(stream, 0, &[("content-length", length)]).await;
            frames.write(DATA, END_STREAM, stream, content.as_bytes()).await;
            frames
        })
        .await;
        assert!(
            reply.is_err_and(|fault| matches!(fault, SendError::MalformedReply(_)))
                || reply_body_failed(length, content).await,
            "{content:?} under {length}"
        );
    }
}

/// Whether the fault came with the body instead.
async fn reply_body_failed(length: &'static str, content: &'static str) -> bool {
    let reply = reply_of(Method::GET, move |mut frames, stream| async move {
        frames.head(stream, 0, &[("content-length", length)]).await;
        frames.write(DATA, END_STREAM, stream, content.as_bytes()).await;
        frames
    })
    .await;
    reply.is_ok_and(|reply| reply.body.is_err())
}

#[tokio::test]
async fn a_reply_that_is_cut_off_is_an_error() {
    for reset in [true, false] {
        let reply = reply_of(Method::GET, move |mut frames, stream| async move {
            frames.head(stream, 0, &[]).await;
            frames.write(DATA, 0, stream, b"part of").await;
            if reset {
                frames.reset(stream, CANCEL).await;
            } else {
                frames.goodbye(0x7fff_ffff, 2).await;
                // A frame that is longer than it may be: the connection is over.
                frames.peer.say([0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1]).await;
            }
            frames
        })
        .await;
        let body = reply.unwrap().body;
        assert!(matches!(body, Err(BodyError::Truncated | BodyError::Malformed(_))), "{body:?}");
    }
}

#[tokio::test]
async fn interim_replies_are_dropped_up_to_eight_and_101_is_malformed() {
    // `:status` by name from the static table (8), the value as a literal.
    let interim = |code: &str| [&[0x08, 3][..], code.as_bytes()].concat();
    for (code, count, is_good) in [("103", 1, true), ("100", 8, true), ("103", 9, false), ("101", 1, false)] {
        let block = interim(code);
        let reply = reply_of(Method::GET, move |mut frames, stream| {
            let block = block.clone();
            async move {
                for _time in 0..count {
                    frames.write(HEADERS, END_HEADERS, stream, &block).await;
                }
                frames.ok(stream).await;
                frames
            }
        })
        .await;
        match reply {
            Ok(reply) => assert!(is_good && reply.body == Ok(b"ok".to_vec()), "{count} of {code}"),
            Err(fault) => {
                assert!(
                    !is_good && matches!(fault, SendError::MalformedReply(_)),
                    "{count} of {code}: {fault:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn replies_without_content_and_those_with_trailers_are_whole() {
    let head = reply_of(Method::HEAD, |mut frames, stream| async move {
        frames.head(stream, END_STREAM, &[("content-length", "5")]).await;
        frames
    });
    let head = head.await.unwrap();
    assert_eq!((head.body, head.fields["content-length"].as_bytes()), (Ok(Vec::new()), &b"5"[..]));
    let none = reply_of(Method::GET, |mut frames, stream| async move {
        // `:status: 204`
        frames.write(HEADERS, END_HEADERS | END_STREAM, stream, &[0x89]).await;
        frames
    });
    let none = none.await.unwrap();
    assert_eq!((none.status, none.body), (StatusCode::NO_CONTENT, Ok(Vec::new())));
    let with_trailers = reply_of(Method::GET, |mut frames, stream| async move {
        frames.head(stream, 0, &[]).await;
        frames.write(DATA, 0, stream, b"o").await;
        frames.write(DATA, 0, stream, b"").await;
        frames.write(DATA, 0, stream, b"k").await;
        let trailers = &block(0, &[("x-trailer", "1")])[1..];
        frames.write(HEADERS, END_HEADERS | END_STREAM, stream, trailers).await;
        frames
    });
    assert_eq!(with_trailers.await.unwrap().body, Ok(b"ok".to_vec()));
}
