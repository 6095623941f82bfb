//! A minimal Pingora proxy that does as much of weigate's job as Pingora can: it appends the token to the query and
//! looks for `errcode` at the start of the reply.
//!
//! Its best known settings (performance.md §2): the token in an `ArcSwap`, a keep-alive pool larger than what is in
//! flight, no work stealing where there is one thread, certificates and names verified, HTTP/2 with 256 streams where
//! it is asked for. It cannot send a request once more for a reply's body: by then the head has gone out.
//!
//! `pingora-peer LISTEN UPSTREAM THREADS plain|h1|h2 CA_FILE TOKEN`

use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::Uri;
use pingora_core::Result;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

struct Inject {
    upstream: String,
    protocol: Protocol,
    token: ArcSwap<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Plain,
    H1,
    H2,
}

#[derive(Default)]
struct Exchange {
    peeked: bool,
}

#[async_trait]
impl ProxyHttp for Inject {
    type CTX = Exchange;

    fn new_ctx(&self) -> Exchange {
        Exchange::default()
    }

    async fn upstream_peer(&self, _: &mut Session, _: &mut Exchange) -> Result<Box<HttpPeer>> {
        let is_tls = self.protocol != Protocol::Plain;
        let mut peer = HttpPeer::new(self.upstream.as_str(), is_tls, "api.weixin.qq.com".to_owned());
        peer.options.connection_timeout = Some(Duration::from_secs(3));
        peer.options.idle_timeout = Some(Duration::from_secs(3600));
        if self.protocol == Protocol::H2 {
            peer.options.set_http_version(2, 2);
            peer.options.max_h2_streams = 256;
        }
        Ok(Box::new(peer))
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        request: &mut RequestHeader,
        _: &mut Exchange,
    ) -> Result<()> {
        let token = self.token.load();
        let path = request.uri.path();
        let target = match request.uri.query() {
            Some(query) => [path, "?", query, "&access_token=", token.as_str()].concat(),
            None => [path, "?access_token=", token.as_str()].concat(),
        };
        if let Ok(uri) = Uri::try_from(target) {
            request.set_uri(uri);
        }
        request.insert_header("host", "api.weixin.qq.com")
    }

    fn upstream_response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        _: bool,
        exchange: &mut Exchange,
    ) -> Result<Option<Duration>> {
        if let Some(chunk) = body.as_ref().filter(|_| !exchange.peeked) {
            exchange.peeked = true;
            let head = &chunk[..chunk.len().min(1024)];
            if memchr::memmem::find(head, b"\"errcode\":").is_some() {
                eprintln!("a reply with an errcode");
            }
        }
        Ok(None)
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, upstream, threads, protocol, ca_file, token] = &arguments[..] else {
        eprintln!("usage: pingora-peer LISTEN UPSTREAM THREADS plain|h1|h2 CA_FILE TOKEN");
        std::process::exit(64);
    };
    let protocol = match protocol.as_str() {
        "plain" => Protocol::Plain,
        "h2" => Protocol::H2,
        _ => Protocol::H1,
    };
    let threads = threads.parse().unwrap_or(1);
    let conf = ServerConf {
        threads,
        work_stealing: threads > 1,
        ca_file: (protocol != Protocol::Plain).then(|| ca_file.clone()),
        upstream_keepalive_pool_size: 4096,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let inject = Inject { upstream: upstream.clone(), protocol, token: ArcSwap::from_pointee(token.clone()) };
    let mut service = http_proxy_service(&server.configuration, inject);
    service.add_tcp(listen);
    server.add_service(service);
    server.run_forever();
}
