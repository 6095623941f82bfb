//! Listeners and connections: HTTP/1.1 with keep-alive, as believed of api.weixin.qq.com (§7.3), and HTTP/2 where it is
//! switched on.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::answer::{Line, answer};
use super::state::{Open, Shared};
use super::wire::{Injection, Wire};

/// How control closes connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Closing {
    /// Idle ones now, busy ones after their answer.
    Gentle,
    /// All of them, now.
    Abrupt,
}

/// Binds, with a backlog that takes ten thousand callers at once.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(16_384)
}

/// Accepts until `stop` is dropped; then every connection is cut.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    stop: watch::Receiver<()>,
) {
    let mut number = 0;
    accept(listener, stop, |stream, peer| {
        number += 1;
        let line = Line { peer: peer.ip(), number, injection: Arc::default() };
        connection(stream, tls.clone(), Arc::clone(&shared), line)
    })
    .await;
}

/// Accepts, and runs what `serve` makes of each connection, until `stop` is dropped.
pub(super) async fn accept<F, C>(listener: TcpListener, mut stop: watch::Receiver<()>, mut serve: F)
where
    F: FnMut(TcpStream, SocketAddr) -> C,
    C: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            stopped = stop.changed() => if stopped.is_err() { break },
            Some(ended) = connections.join_next() => drop(ended),
            (place, accepted) = next => match accepted {
                Ok((stream, peer)) => {
                    let connection = serve(stream, peer);
                    connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                // Out of descriptors, most likely: the backlog waits.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
        }
    }
    connections.shutdown().await;
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, shared: Arc<Shared>, line: Line) {
    let open = Open::enter(&shared);
    // Without it answers are late, nothing worse.
    stream.set_nodelay(true).ok();
    match tls {
        None => serve_http(stream, shared, line).await,
        Some(tls) => {
            let handshake = tokio::time::timeout(HANDSHAKE_MAX, tls.accept(stream)).await;
            if let Ok(Ok(stream)) = handshake {
                if stream.get_ref().1.alpn_protocol() == Some(b"h2".as_slice()) {
                    serve_http2(stream, shared, line).await;
                } else {
                    serve_http(stream, shared, line).await;
                }
            }
        }
    }
    drop(open);
}

async fn serve_http<S>(stream: S, shared: Arc<Shared>, line: Line)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut closing = shared.closing.subscribe();
    let injection: Arc<Injection> = Arc::clone(&line.injection);
    let line = Arc::new(line);
    let service = service_fn(move |request| answer(Arc::clone(&shared), Arc::clone(&line), request));
    let wire = TokioIo::new(Wire::new(stream, injection));
    let mut http =
        std::pin::pin!(http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).serve_connection(wire, service));
    loop {
        tokio::select! {
            // However it ended, it ended: clients hang up, and faults close connections on purpose.
            ended = http.as_mut() => break drop(ended),
            Ok(()) = closing.changed() => {
                let how = *closing.borrow_and_update();
                match how {
                    Closing::Gentle => http.as_mut().graceful_shutdown(),
                    Closing::Abrupt => break,
                }
            }
        }
    }
}

async fn serve_http2<S>(stream: S, shared: Arc<Shared>, line: Line)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut closing = shared.closing.subscribe();
    let line = Arc::new(line);
    let service = service_fn(move |request| answer(Arc::clone(&shared), Arc::clone(&line), request));
    let mut settings = http2::Builder::new(TokioExecutor::new());
    settings.max_concurrent_streams(STREAMS_MAX);
    let mut http = std::pin::pin!(settings.serve_connection(TokioIo::new(stream), service));
    loop {
        tokio::select! {
            ended = http.as_mut() => break drop(ended),
            Ok(()) = closing.changed() => {
                let how = *closing.borrow_and_update();
                match how {
                    Closing::Gentle => http.as_mut().graceful_shutdown(),
                    Closing::Abrupt => break,
                }
            }
        }
    }
}

/// As many servers have it.
const STREAMS_MAX: u32 = 100;

const CONNECTIONS_MAX: usize = 20_000;
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 128 << 10;
