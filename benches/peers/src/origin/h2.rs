//! HTTP/2 over TLS, for proxies whose better upstream protocol that is. hyper, on one thread: dearer than `h1.rs`
//! (some 11 µs a request), which costs a fast subject requests per second, not CPU of its own.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, DATE, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use rustls::ServerConfig;
use tokio_rustls::TlsAcceptor;

use crate::world::{Answer, World};

pub fn serve(listener: TcpListener, config: Arc<ServerConfig>, world: &Arc<World>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = runtime.and_then(|runtime| runtime.block_on(accept(listener, config, world)));
    if let Err(error) = served {
        eprintln!("origin: HTTP/2: {error}");
    }
}

async fn accept(listener: TcpListener, config: Arc<ServerConfig>, world: &Arc<World>) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let acceptor = TlsAcceptor::from(config);
    let good = Bytes::from(world.good_body.clone());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (acceptor, world, good) = (acceptor.clone(), Arc::clone(world), good.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| answer(request, Arc::clone(&world), good.clone()));
            let mut builder = Builder::new(TokioExecutor::new());
            builder.http2().max_concurrent_streams(1024);
            // A peer that hangs up is no fault of ours.
            let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    world: Arc<World>,
    good: Bytes,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let target = head.uri.path_and_query().map_or("", |target| target.as_str()).as_bytes();
    let body = if body.is_end_stream() {
        Bytes::new()
    } else {
        body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default()
    };
    let delay_ms = world.delay_ms(target);
    if delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    }
    let body = match world.answer(target, &body) {
        Answer::Good => good,
        Answer::Json(json) => json.into(),
    };
    let mut response = Response::new(Full::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json; encoding=utf-8"));
    response.headers_mut().insert(DATE, HeaderValue::from_static("Sun, 22 Nov 2026 08:00:00 GMT"));
    Ok(response)
}
