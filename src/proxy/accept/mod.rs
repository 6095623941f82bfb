//! A client's connection: a place, its own task, a TLS handshake under a time limit, then HTTP/1.1 or HTTP/2.
//!
//! With TLS the protocol is ALPN's choice. Without it the first bytes decide, however long they take to begin: a client
//! that speaks HTTP/2 with prior knowledge begins with a fixed preface (RFC 9113 §3.4) that no HTTP/1 request begins with.

mod frames;
mod io;

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsAcceptor;

pub(super) use io::Listener;
use io::{ClientIo, Plain};

use super::authenticate::Remembered;
use super::body::ReplyBody;
use super::certificate::Shown;
use super::handle::{Connection, handle};
use super::vitals::{Ending, Idler, StreamVitals, Vitals};
use super::worker::Worker;

/// A worker that cannot accept (out of file descriptors, mostly) tries again after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Accepts until the worker closes its listeners, and then what has arrived until then.
pub(super) async fn accept(worker: Rc<Worker>, listener: Listener) {
    let mut is_failing = false;
    let mut closes = pin!(worker.closes.notified());
    // It counts from here on, not from when it is first waited for.
    closes.as_mut().enable();
    loop {
        let accepted = tokio::select! {
            biased;
            () = closes.as_mut() => break,
            accepted = listener.accept(&worker.outbox) => accepted,
        };
        match accepted {
            Ok(stream) => {
                is_failing = false;
                let Some(place) = worker.room.take().await else { return };
                spawn(&worker, stream, place);
            }
            Err(error) => {
                worker.counts.accept_errors.one();
                // It went away while it waited (man 2 accept).
                if error.kind() == std::io::ErrorKind::ConnectionAborted {
                    continue;
                }
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(cause = %error, "a connection could not be accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // The runtime's own accept knows only what it has been told; this asks the kernel.
    let Ok(mut last) = listener.into_last() else { return };
    while let Some(stream) = last.accept(&worker.outbox) {
        let Some(place) = worker.room.take().await else { return };
        spawn(&worker, stream, place);
    }
}

fn spawn(worker: &Rc<Worker>, stream: Plain, place: OwnedSemaphorePermit) {
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        serve(&worker, stream).await;
        drop(place);
    });
}

async fn serve(worker: &Rc<Worker>, stream: Plain) {
    worker.counts.connections_accepted.one();
    let _count = CountClosed(worker);
    let open = worker.connections.open();
    let vitals = Rc::clone(&open.vitals);
    // A connection that dies in its handshake, or later, is the client's affair: nothing to report.
    let mut served = pin!(serve_stream(worker, &vitals, stream));
    let _ended = unless(|cx| vitals.ending(cx) == Ending::Cut, served.as_mut()).await;
}

struct CountClosed<'a>(&'a Worker);

// === impl CountClosed ===

impl Drop for CountClosed<'_> {
    fn drop(&mut self) {
        self.0.counts.connections_closed.one();
    }
}

/// Runs what comes before the first request; a worker that stops does not wait for it. It has a box of its own, since
/// a handshake's state is large and soon over.
async fn until_stop<T>(
    vitals: &Vitals,
    mut work: Pin<Box<impl Future<Output = std::io::Result<T>>>>,
) -> std::io::Result<T> {
    let done = unless(|cx| vitals.ending(cx) != Ending::None, work.as_mut()).await;
    done.unwrap_or_else(|| Err(std::io::ErrorKind::ConnectionAborted.into()))
}

/// Polls `work` first, so that what is there already counts. (It is pinned by the caller: an `async fn` would keep room
/// for it twice.)
fn unless<T>(
    mut is_over: impl FnMut(&mut Context<'_>) -> bool,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> impl Future<Output = Option<T>> {
    poll_fn(move |cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if is_over(cx) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
}

async fn serve_stream(worker: &Rc<Worker>, vitals: &Rc<Vitals>, stream: Plain) -> std::io::Result<()> {
    let Opened { io, speaks_h2, shown } = Box::pin(open(worker, vitals, stream)).await?;
    vitals.ready(speaks_h2, worker.view().snapshot.limits.requests_per_connection);
    if speaks_h2 {
        Box::pin(serve_h2(worker, vitals, &shown, io)).await;
    } else {
        Box::pin(serve_h1(worker, vitals, &shown, io)).await;
    }
    Ok(())
}

/// A connection whose protocol is known.
struct Opened {
    io: ClientIo,
    speaks_h2: bool,
    shown: Rc<Shown>,
}

async fn open(worker: &Rc<Worker>, vitals: &Rc<Vitals>, stream: Plain) -> std::io::Result<Opened> {
    let tls = worker.view().snapshot.tls.clone();
    let (mut io, speaks_h2, shown) = if let Some(tls) = tls {
        let acceptor = TlsAcceptor::from(Arc::clone(&tls.server));
        let handshake = Box::pin(ClientIo::handshake(stream, Rc::clone(vitals), acceptor));
        let io = until_stop(vitals, handshake).await?;
        let speaks_h2 = io.chose_h2();
        let shown = Shown::new(io.certificates(), tls);
        (io, speaks_h2, shown)
    } else {
        vitals.listens();
        let sniff = Box::pin(sniff(ClientIo::new(stream, Rc::clone(vitals))));
        let (io, speaks_h2) = until_stop(vitals, sniff).await?;
        (io, speaks_h2, Shown::default())
    };
    if speaks_h2 {
        io.watch_frames(PREFACE.len());
    }
    Ok(Opened { io, speaks_h2, shown: Rc::new(shown) })
}

/// Reads as much as it takes to tell HTTP/2's preface from anything else; what was read is read again. As a rule that
/// is a whole head: a part of one would have hyper read twice, into twice the buffer.
async fn sniff(mut io: ClientIo) -> std::io::Result<(ClientIo, bool)> {
    let mut seen = Vec::new();
    while PREFACE.starts_with(&seen) && seen.len() < PREFACE.len() {
        if io.read_some(&mut seen).await? == 0 {
            break;
        }
    }
    let speaks_h2 = seen.starts_with(PREFACE);
    io.put_back(seen);
    Ok((io, speaks_h2))
}

fn service(
    worker: &Rc<Worker>,
    vitals: &Rc<Vitals>,
    shown: &Rc<Shown>,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = Response<ReplyBody>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<ReplyBody>, Infallible>> + use<>,
> + use<> {
    let connection = Rc::new(Connection {
        worker: Rc::clone(worker),
        vitals: Rc::clone(vitals),
        remembered: Remembered::default(),
        shown: Rc::clone(shown),
    });
    service_fn(move |request| handle(Rc::clone(&connection), request))
}

/// Serves HTTP/1.1 until the connection ends.
///
/// hyper keeps its buffers, some 16 KiB, while a connection is idle. One that rests is taken out of hyper's hands and
/// put into a new pair when the client sends again, which costs a few allocations: once a second at the most, or, where
/// more are idle at one time than keep their buffers ([`Idler`]), once a request.
#[expect(clippy::manual_async_fn, reason = "an async fn would keep room for the socket twice")]
fn serve_h1(
    worker: &Rc<Worker>,
    vitals: &Rc<Vitals>,
    shown: &Rc<Shown>,
    mut io: ClientIo,
) -> impl Future<Output = ()> {
    async move {
        loop {
            // In a box of its own, which goes when the connection rests.
            let service = service(worker, vitals, shown);
            let mut connection = Box::new(http1_settings(worker).serve_connection(TokioIo::new(io), service));
            let is_resting = serve_until_rest(&mut connection, vitals, worker.connections.idler()).await;
            if !is_resting {
                return;
            }
            worker.counts.connections_rested.one();
            io = retrieved(*connection);
            let has_news = {
                let mut news = pin!(io.news());
                unless(|cx| vitals.ending(cx) != Ending::None, news.as_mut()).await.is_some()
            };
            if !has_news {
                // It had nothing to say and is told to go.
                let _closed = io.close().await;
                return;
            }
        }
    }
}

/// Says whether it rests; or else it has ended.
fn serve_until_rest<S>(
    connection: &mut http1::Connection<TokioIo<ClientIo>, S>,
    vitals: &Vitals,
    mut idler: Idler<'_>,
) -> impl Future<Output = bool>
where
    S: hyper::service::HttpService<Incoming, ResBody = ReplyBody, Error = Infallible>,
{
    let mut is_finishing = false;
    poll_fn(move |cx| {
        if !is_finishing && vitals.ending(cx) == Ending::Polite {
            is_finishing = true;
            Pin::new(&mut *connection).graceful_shutdown();
        }
        let has_ended = Pin::new(&mut *connection).poll(cx).is_ready();
        let is_one_too_many = idler.is_idle(!has_ended && vitals.is_idle());
        if has_ended || is_one_too_many || vitals.may_rest() {
            Poll::Ready(!has_ended)
        } else {
            Poll::Pending
        }
    })
}

fn http1_settings(worker: &Worker) -> http1::Builder {
    let view = worker.view();
    let limits = &view.snapshot.limits;
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None)
        // A client may close its side once it has asked (RFC 9112 §9.6 asks nothing else of it), and hyper need not
        // look for that while it answers, which saves a system call.
        .half_close(true)
        .max_header_size(limits.header_bytes_max)
        .max_buf_size(limits.header_bytes_max.max(READ_BUFFER_BYTES_MAX));
    // hyper keeps room for 100 on the stack; any other number costs an allocation for each head.
    if limits.headers_max != 100 {
        builder.max_headers(limits.headers_max);
    }
    builder
}

/// A connection's socket, with what hyper had read of it. hyper's buffer, 8 KiB whatever is left in it, goes.
fn retrieved<S>(connection: http1::Connection<TokioIo<ClientIo>, S>) -> ClientIo
where
    S: hyper::service::HttpService<Incoming, ResBody = ReplyBody, Error = Infallible>,
{
    let parts = connection.into_parts();
    let mut io = parts.io.into_inner();
    io.put_back(parts.read_buf.to_vec());
    io
}

async fn serve_h2(worker: &Rc<Worker>, vitals: &Rc<Vitals>, shown: &Rc<Shown>, io: ClientIo) {
    let limits = worker.view().snapshot.limits.clone();
    let mut builder = http2::Builder::new(Streams(Rc::clone(vitals)));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS_MAX)
        .max_pending_accept_reset_streams(H2_RESETS_PENDING_MAX)
        .max_local_error_reset_streams(H2_ERRORS_MAX)
        .keep_alive_interval(H2_PING_EVERY)
        .keep_alive_timeout(H2_PONG_MAX)
        .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
        .initial_stream_window_size(H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(READ_BUFFER_BYTES_MAX);
    let mut connection =
        std::pin::pin!(builder.serve_connection(TokioIo::new(io), service(worker, vitals, shown)));
    let mut is_finishing = false;
    let _served = poll_fn(|cx: &mut Context<'_>| {
        if !is_finishing && vitals.ending(cx) == Ending::Polite {
            is_finishing = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    })
    .await;
}

/// hyper's buffers grow to this when a client sends, or reads, faster than the other side.
const READ_BUFFER_BYTES_MAX: usize = 64 * 1024;
/// What Envoy's advice for servers on the open internet says (reliability.md §1).
const H2_STREAMS_MAX: u32 = 100;
/// Streams that were reset before we looked at them, and streams that we had to reset (RFC 9113 §10.5); one more, and
/// the connection ends with `ENHANCE_YOUR_CALM`.
const H2_RESETS_PENDING_MAX: usize = 20;
const H2_ERRORS_MAX: usize = 100;
/// A client whose machine is gone does not answer a PING.
const H2_PING_EVERY: Duration = Duration::from_secs(30);
const H2_PONG_MAX: Duration = Duration::from_secs(20);
const H2_STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const H2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// Runs a connection's HTTP/2 streams on the worker's own thread.
#[derive(Debug, Clone)]
struct Streams(Rc<Vitals>);

pin_project_lite::pin_project! {
    /// A stream's task, with its notes. Cost: an allocation for each stream, a look at the clock for each waking.
    struct Stream<F> {
        vitals: Rc<StreamVitals>,
        #[pin]
        task: F,
    }
}

// === impl Streams ===

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, task: F) {
        // The connection's task ends its streams' tasks: they fail as soon as it is gone.
        drop(tokio::task::spawn_local(Stream { vitals: self.0.stream(), task }));
    }
}

// === impl Stream ===

impl<F: Future<Output = ()>> Future for Stream<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.vitals.wakes(cx) { this.task.poll(cx) } else { Poll::Ready(()) }
    }
}
