//! The whole client against scripted origins.

#![expect(clippy::excessive_nesting, reason = "a script within an origin within a test")]

mod bodies;
mod hosts;
mod http2;
mod origin;
mod replies;
mod requests;
mod reuse;
mod tls;
mod tls_stream;

use std::net::SocketAddr;

use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;

use super::connection::Connection;
use super::*;
use crate::config::UpstreamHost;

/// Far enough away to play no part.
fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

const STALL: Duration = Duration::from_secs(10);

fn host(address: SocketAddr) -> UpstreamHost {
    UpstreamHost { tls: false, host: address.ip().to_string(), port: address.port() }
}

fn settings(hosts: Vec<UpstreamHost>) -> config::Upstream {
    config::Upstream {
        wecom_hosts: Vec::new(),
        hosts,
        ca_pem: None,
        http2: false,
        connect: Duration::from_secs(5),
        idle: Duration::from_secs(50),
        idle_connections_max: 64,
        connections_max: 256,
    }
}

fn upstream_with(settings: &config::Upstream) -> Upstream {
    Upstream::new(settings, Arc::new(tls_config(None).unwrap()))
}

fn upstream(address: SocketAddr) -> Upstream {
    upstream_with(&settings(vec![host(address)]))
}

/// As after an hour in which idle connections were seen alive.
fn trusting(upstream: Upstream) -> Upstream {
    for host in &upstream.inner.hosts {
        host.trust.seen_alive(Duration::from_hours(1));
    }
    upstream
}

impl Way {
    fn alone(self) -> Connection {
        match self {
            Self::Alone(connection) => connection,
            Self::Shared(_) => panic!("a connection of its own"),
        }
    }
}

/// A head as a test writes it; for HTTP/2 taken apart again.
struct Written<F>(F);

impl<F: Fn(&mut BytesMut, &str)> Head for Written<F> {
    fn write(&self, to: &mut BytesMut, authority: &str) {
        (self.0)(to, authority);
    }

    fn list(&self, target: &mut BytesMut, fields: &mut HeaderMap) {
        let mut head = BytesMut::new();
        (self.0)(&mut head, "");
        let text = String::from_utf8(head.to_vec()).unwrap();
        target.extend_from_slice(text.split(' ').nth(1).unwrap().as_bytes());
        for line in text.lines().skip(1).filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap();
            if name != "Host" {
                fields.append(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
            }
        }
    }
}

/// A whole reply.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reply {
    status: StatusCode,
    fields: HeaderMap,
    body: Result<Vec<u8>, BodyError>,
}

async fn send_head(
    upstream: &Upstream,
    method: &Method,
    body: &[u8],
) -> Result<Response<UpstreamBody>, SendError> {
    let write_head = |head: &mut BytesMut, authority: &str| {
        let text = format!(
            "{method} /cgi-bin/x?access_token=t HTTP/1.1\r\nHost: {authority}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        head.extend_from_slice(text.as_bytes());
    };
    let mut request =
        Outgoing { method, head: &Written(write_head), payload: Payload::Whole(body), stall: STALL };
    upstream.send(&mut request, deadline()).await
}

async fn send(upstream: &Upstream, method: &Method, body: &[u8]) -> Result<Reply, SendError> {
    let (head, body) = send_head(upstream, method, body).await?.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes().to_vec());
    Ok(Reply { status: head.status, fields: head.headers, body })
}

async fn get(upstream: &Upstream) -> Result<Reply, SendError> {
    send(upstream, &Method::GET, b"").await
}

async fn post(upstream: &Upstream, body: &[u8]) -> Result<Reply, SendError> {
    send(upstream, &Method::POST, body).await
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
