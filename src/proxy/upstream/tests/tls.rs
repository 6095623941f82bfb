//! Which certificates are good, and that nothing is said to the others.

use std::sync::Arc;

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::origin::{Origin, Peer};
use super::*;
use crate::proxy::upstream::buffers::BUFFER_BYTES;
use crate::proxy::upstream::pool::Choice;
use crate::proxy::upstream::socket::{Probe, Socket};

pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// For `upstream.test`, with these protocols to choose from (ALPN).
    pub(super) fn agreeing_on(&self, protocols: &[&str]) -> TlsAcceptor {
        let mut config = ServerConfig::clone(self.acceptor(&for_names(&["upstream.test"])).config());
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    pub(super) fn pem(&self) -> String {
        self.0.pem()
    }

    fn acceptor(&self, params: &CertificateParams) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        acceptor(params.signed_by(&key, &self.0).unwrap().der(), &key, rustls::DEFAULT_VERSIONS)
    }
}

fn acceptor(
    certificate: &CertificateDer<'static>,
    key: &KeyPair,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

fn for_names(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap()
}

async fn serve(mut peer: Peer) {
    while peer.request().await.is_some() {
        peer.say(OK).await;
    }
}

/// A client that knows the name `upstream.test` and trusts `authority`.
fn upstream_for(origin: &Origin, authority: &Authority, name: &str) -> Upstream {
    let host = UpstreamHost { tls: true, host: name.to_owned(), port: origin.address.port() };
    let tls = tls_config(Some(authority.0.pem().as_bytes())).unwrap();
    let address = origin.address;
    let resolve: dial::Resolve = Rc::new(move |_, _| Box::pin(async move { Ok(vec![address]) }));
    Upstream::with_resolver(&settings(vec![host]), Arc::new(tls), resolve)
}

#[tokio::test]
async fn a_good_certificate_is_accepted_for_a_name_and_for_an_address() {
    let authority = Authority::new();
    let acceptor = authority.acceptor(&for_names(&["upstream.test", "127.0.0.1"]));
    let origin = Origin::start_tls(Some(acceptor), serve).await;
    for name in ["upstream.test", "127.0.0.1"] {
        let upstream = trusting(upstream_for(&origin, &authority, name));
        for _time in 0..5 {
            assert_eq!(get(&upstream).await.unwrap().body, Ok(b"ok".to_vec()));
        }
        post(&upstream, &vec![7; 300_000]).await.unwrap();
        assert_eq!(upstream.stats().reused.value(), 5);
    }
}

#[tokio::test]
async fn bad_certificates_are_refused_and_told_nothing() {
    let authority = Authority::new();
    let mut expired = for_names(&["upstream.test"]);
    (expired.not_before, expired.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2001, 1, 1));
    let mut future = for_names(&["upstream.test"]);
    (future.not_before, future.not_after) = (date_time_ymd(2200, 1, 1), date_time_ymd(2201, 1, 1));
    let key = KeyPair::generate().unwrap();
    let self_signed = for_names(&["upstream.test"]).self_signed(&key).unwrap();
    let cases = [
        ("another name", authority.acceptor(&for_names(&["other.test"]))),
        ("an address instead of a name", authority.acceptor(&for_names(&["127.0.0.1"]))),
        ("expired", authority.acceptor(&expired)),
        ("not yet good", authority.acceptor(&future)),
        ("signed by itself", acceptor(self_signed.der(), &key, rustls::DEFAULT_VERSIONS)),
        ("another authority", Authority::new().acceptor(&for_names(&["upstream.test"]))),
    ];
    for (what, acceptor) in cases {
        let origin = Origin::start_tls(Some(acceptor), serve).await;
        let reply = get(&upstream_for(&origin, &authority, "upstream.test")).await;
        assert_eq!(reply, Err(SendError::Unreachable(ConnectError::Certificate)), "{what}");
        assert_eq!((origin.seen.connections(), origin.seen.bytes()), (1, 0), "{what}");
    }
}

#[tokio::test]
async fn an_origin_that_speaks_no_tls_is_told_nothing() {
    let origin =
        Origin::start(|mut peer| async move { peer.say("HTTP/1.1 400 Bad Request\r\n\r\n").await }).await;
    let reply = get(&upstream_for(&origin, &Authority::new(), "upstream.test")).await;
    assert_eq!(reply, Err(SendError::Unreachable(ConnectError::Tls)));
    assert!(origin.seen.requests().is_empty());
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let authority = Authority::new();
        let key = KeyPair::generate().unwrap();
        let certificate = for_names(&["upstream.test"]).signed_by(&key, &authority.0).unwrap();
        let origin = Origin::start_tls(Some(acceptor(certificate.der(), &key, &[version])), serve).await;
        let upstream = upstream_for(&origin, &authority, "upstream.test");
        get(&upstream).await.unwrap();
        get(&upstream).await.unwrap();
        assert_eq!(origin.seen.connections(), 1);
    }
}

#[tokio::test]
async fn a_reply_that_ends_with_the_connection_needs_the_end_of_tls() {
    let authority = Authority::new();
    let acceptor = authority.acceptor(&for_names(&["upstream.test"]));
    let origin = Origin::start_tls(Some(acceptor), |mut peer: Peer| async move {
        peer.request().await;
        peer.say("HTTP/1.1 200 OK\r\n\r\npart of what was").await;
        // Dropped without close_notify: who says that this was all?
    })
    .await;
    let reply = get(&upstream_for(&origin, &authority, "upstream.test")).await.unwrap();
    assert_eq!(reply.body, Err(BodyError::Truncated));
}

/// TLS 1.3 servers send tickets whenever they like. They are no reason to drop a connection; anything else is.
#[tokio::test]
async fn session_tickets_do_not_spoil_an_idle_connection_and_other_bytes_do() {
    let authority = Authority::new();
    let acceptor = authority.acceptor(&for_names(&["upstream.test"]));
    let origin = Origin::start_tls(Some(acceptor), |mut peer: Peer| async move {
        peer.request().await;
        peer.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").await;
        peer.closed().await;
    })
    .await;
    let upstream = upstream_for(&origin, &authority, "upstream.test");
    let mut connection = upstream.inner.hosts[0].acquire(Choice::New { after: 0 }).await.unwrap().alone();
    readable(&connection.socket).await;
    assert_eq!(connection.socket.probe(), Probe::Alive, "tickets");
    assert_eq!(connection.socket.probe(), Probe::Alive);
    let asked = std::future::poll_fn(|cx| connection.socket.poll_write(cx, b"GET / HTTP/1.1\r\n\r\n")).await;
    assert_eq!(asked.unwrap(), 18);
    while connection.socket.probe() == Probe::Alive {
        tokio::task::yield_now().await;
    }
    assert_eq!(connection.socket.probe(), Probe::Unsolicited);
}

/// Response smuggling within one record: the reply fills the buffer to its last byte, so that what follows it was decrypted
/// and not read, and tokio has heard of nothing.
#[tokio::test]
async fn what_was_decrypted_behind_a_reply_is_never_a_reply_not_even_to_the_next_get() {
    let authority = Authority::new();
    let acceptor = authority.acceptor(&for_names(&["upstream.test"]));
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 4000\r\nX-Fill: ";
    let fill = "x".repeat(BUFFER_BYTES - 4000 - head.len() - 4);
    let reply = format!("{head}{fill}\r\n\r\n{}", "y".repeat(4000));
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let origin = Origin::start_tls(Some(acceptor), move |mut peer: Peer| {
        let said = format!("{reply}{evil}");
        async move {
            while peer.request().await.is_some() {
                peer.say(&said).await;
            }
        }
    })
    .await;
    let upstream = upstream_for(&origin, &authority, "upstream.test");
    for _time in 0..5 {
        assert_eq!(get(&upstream).await.unwrap().body, Ok(vec![b'y'; 4000]));
    }
    assert_eq!(origin.seen.connections(), 5);
}

async fn readable(socket: &Socket) {
    let Socket::Tls(tls) = socket else { panic!("a TLS connection") };
    std::future::poll_fn(|cx| tls.poll_readable(cx)).await.unwrap();
}

#[test]
fn authority_files_without_a_certificate_are_refused() {
    assert!(matches!(tls_config(Some(b"")), Err(TlsConfigError::NoCertificate)));
    assert!(matches!(tls_config(Some(b"hello")), Err(TlsConfigError::NoCertificate)));
    let broken = b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
    assert!(matches!(tls_config(Some(broken)), Err(TlsConfigError::NotPem)));
    let empty = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(tls_config(Some(empty)), Err(TlsConfigError::Unusable(_))));
    assert_eq!(tls_config(None).unwrap().alpn_protocols, [b"http/1.1"]);
}
