//! HTTP/2 over TLS, for proxies whose better upstream protocol that is. The crate `h2` on one thread, and no task for a
//! request: those that came with one read are answered before anything is written, so that many answers leave with one
//! write. Dearer than `h1.rs`, since heads are packed. Who speaks HTTP/1.1 here (token calls, mostly) is passed on to it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, SendResponse};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderValue};
use http::{Request, Response};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::world::{Answer, World};

/// Serves for ever; `h1` is where HTTP/1.1 is answered, without TLS.
pub fn serve(listener: TcpListener, config: Arc<ServerConfig>, world: &Arc<World>, h1: SocketAddr) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = runtime.and_then(|runtime| runtime.block_on(accept(listener, config, world, h1)));
    if let Err(error) = served {
        eprintln!("origin: HTTP/2: {error}");
    }
}

async fn accept(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    world: &Arc<World>,
    h1: SocketAddr,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let acceptor = TlsAcceptor::from(config);
    let good = Bytes::from(world.good_body.clone());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (acceptor, world, good) = (acceptor.clone(), Arc::clone(world), good.clone());
        tokio::spawn(async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            // A peer that hangs up is no fault of ours.
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                let _ended = connection(OneSlice(stream), &world, &good).await;
            } else if let Ok(mut onward) = TcpStream::connect(h1).await {
                let _ended = copy_bidirectional(&mut stream, &mut onward).await;
            }
        });
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    world: &Arc<World>,
    good: &Bytes,
) -> Result<(), h2::Error> {
    let mut builder = Builder::new();
    builder.max_concurrent_streams(1024).initial_connection_window_size(16 * 1024 * 1024);
    let mut connection = builder.handshake::<_, Bytes>(stream).await?;
    let mut come = Vec::new();
    // To look for a request is to write what has been answered; so all that have come are taken first.
    while let Some(first) = connection.accept().await {
        come.push(first?);
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(next)) = connection.poll_accept(&mut cx) {
            come.push(next?);
        }
        for (request, respond) in come.drain(..) {
            let delay_ms = world.delay_ms(target(&request));
            if delay_ms == 0 && request.body().is_end_stream() {
                answer(world, good, target(&request), &[], respond)?;
            } else {
                let (world, good) = (Arc::clone(world), good.clone());
                tokio::spawn(async move { answer_later(&world, &good, request, respond, delay_ms).await });
            }
        }
    }
    Ok(())
}

/// With a body, or a delay.
async fn answer_later(
    world: &World,
    good: &Bytes,
    mut request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    delay_ms: u64,
) -> Result<(), h2::Error> {
    let mut body = Vec::new();
    while let Some(data) = request.body_mut().data().await {
        let data = data?;
        request.body_mut().flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    if delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    }
    answer(world, good, target(&request), &body, respond)
}

fn target<B>(request: &Request<B>) -> &[u8] {
    request.uri().path_and_query().map_or("", |target| target.as_str()).as_bytes()
}

fn answer(
    world: &World,
    good: &Bytes,
    target: &[u8],
    body: &[u8],
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let body = match world.answer(target, body) {
        Answer::Good => good.clone(),
        Answer::Json(json) => json.into(),
    };
    let mut response = Response::new(());
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; encoding=utf-8"));
    fields.insert(DATE, HeaderValue::from_static("Sun, 22 Nov 2026 08:00:00 GMT"));
    fields.insert(CONTENT_LENGTH, body.len().into());
    respond.send_response(response, false)?.send_data(body, true)
}

/// A stream that says it cannot write several slices at once: h2 then copies bodies of less than 1 KiB, which ours is, to
/// where the heads are, in place of a write and a flush for each.
struct OneSlice<T>(T);

impl<T: AsyncRead + Unpin> AsyncRead for OneSlice<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, to)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for OneSlice<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
