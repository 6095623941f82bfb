//! The origin behind every subject of the benchmark: cheaper than any proxy, so that the proxy is what is measured.
//!
//! One thread answers HTTP/1.1, plain on one port and TLS 1.3 on another (`h1.rs`); a second thread, idle unless it is
//! used, answers HTTP/2 over TLS on a third (`h2.rs`). Every request is judged as WeChat would: without an
//! `access_token` it gets 41001, with one that is not ours 40014, with one of a past generation 42001 (`world.rs`).
//! So a proxy that does not inject is found out, and its requests are counted.
//!
//! `origin CERT_FILE KEY_FILE` prints `{"plain":PORT,"tls":PORT,"h2":PORT}` and serves until it is killed.

mod h1;
mod h2;
mod world;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use socket2::{Domain, Socket, Type};

use world::World;

type Anyhow<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Anyhow<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(cert), Some(key)) = (arguments.next(), arguments.next()) else {
        return Err("usage: origin CERT_FILE KEY_FILE".into());
    };
    let (cert, key) = (fs::read(cert)?, fs::read(key)?);
    let world = Arc::new(World::new());
    let [plain, tls, h2] = [listen()?, listen()?, listen()?];
    let ports = [&plain, &tls, &h2].map(|listener| listener.local_addr().map(|address| address.port()));
    let [plain_port, tls_port, h2_port] = ports;
    let h1 = plain.local_addr()?;
    println!(r#"{{"plain":{},"tls":{},"h2":{}}}"#, plain_port?, tls_port?, h2_port?);

    let h1_config = Arc::new(tls_config(&cert, &key, &[b"http/1.1"])?);
    let h2_config = Arc::new(tls_config(&cert, &key, &[b"h2", b"http/1.1"])?);
    let h2_world = Arc::clone(&world);
    std::thread::spawn(move || h2::serve(h2, h2_config, &h2_world, h1));
    h1::serve(plain, tls, &h1_config, &world)
}

/// With a backlog that a burst of thousands of dials does not overflow: a dropped SYN costs its sender a second, which
/// would be measured as the proxy's. The standard library's is 128.
fn listen() -> Anyhow<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

fn tls_config(cert: &[u8], key: &[u8], protocols: &[&[u8]]) -> Anyhow<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = CertificateDer::pem_slice_iter(cert).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}
