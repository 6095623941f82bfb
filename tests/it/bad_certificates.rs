//! An upstream that cannot prove who it is gets not one byte of a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::bare::{Raw, get_head, reply_with};
use crate::harness::{Proxy, Setup};
use crate::pki::{Authority, Identity, Validity, self_signed};

/// An HTTPS origin at `localhost`, with this certificate.
struct Origin {
    port: u16,
    connections: Arc<AtomicU64>,
    /// What came after the handshake.
    bytes: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

// === impl Origin ===

impl Origin {
    async fn start(identity: &Identity) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(identity.chain.clone(), identity.private_key())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (connections, bytes) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let counts = (Arc::clone(&connections), Arc::clone(&bytes));
        let task = tokio::spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counts.0.fetch_add(1, Ordering::SeqCst);
                let (acceptor, bytes) = (acceptor.clone(), Arc::clone(&counts.1));
                serving.spawn(answer(acceptor, stream, bytes));
            }
        });
        Self { port, connections, bytes, task }
    }
}

/// Answers whatever comes, and counts it.
async fn answer(acceptor: TlsAcceptor, stream: TcpStream, bytes: Arc<AtomicU64>) {
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    let mut piece = [0; 4096];
    while let Ok(count) = stream.read(&mut piece).await
        && count > 0
    {
        bytes.fetch_add(count as u64, Ordering::SeqCst);
        let reply = reply_with("200 OK", "", r#"{"errcode":0}"#);
        if stream.write_all(&reply).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// weigate in front of `origin`, trusting `authority`. It never gets a token there.
async fn in_front_of(origin: &Origin, authority: &Authority) -> Proxy {
    let setup = Setup::new();
    setup.write_for(&format!("https://localhost:{}", origin.port), Some(&authority.pem()));
    Proxy::begin(setup.dir).await
}

/// A path on which the user's token travels, so that no token of ours is needed first.
const PATH: &str = "/sns/userinfo?access_token=users-own&openid=o6";

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_with_a_bad_certificate_is_a_502_and_sees_no_byte_of_a_request() {
    let authority = Authority::new();
    let cases = [
        ("expired", authority.issue_for(&["localhost"], Validity::Past)),
        ("not yet good", authority.issue_for(&["localhost"], Validity::Future)),
        ("another name", authority.issue(&["other.test"])),
        ("a name that begins alike", authority.issue(&["localhost.other.test"])),
        ("the address in place of the name", authority.issue(&["127.0.0.1"])),
        ("signed by itself", self_signed(&["localhost"])),
        ("another authority", Authority::new().issue(&["localhost"])),
    ];
    for (what, identity) in cases {
        let origin = Origin::start(&identity).await;
        let proxy = in_front_of(&origin, &authority).await;
        let post = get_head(PATH)
            .replace("GET", "POST")
            .replace("\r\n\r\n", "\r\ncontent-length: 7\r\n\r\n{\"a\":1}");
        for request in [get_head(PATH), post] {
            let mut client = Raw::connect(proxy.address).await;
            client.send(request).await;
            let reply = client.reply().await;
            assert_eq!(reply.status, 502, "{what}: {reply:?}");
            // A class, no detail.
            assert_eq!(reply.field("x-weigate-error"), Some("upstream_unreachable"), "{what}");
            assert!(!reply.text().contains("localhost"), "{what}: {reply:?}");
        }
        let failures = "weigate_upstream_connect_failures_total{reason=\"certificate\"}";
        assert!(proxy.metric(failures).await >= 2, "{what}");
        assert!(origin.connections.load(Ordering::SeqCst) >= 2, "{what}");
        assert!(proxy.stop().await);
        assert_eq!(origin.bytes.load(Ordering::SeqCst), 0, "{what}");
    }
}

/// Without this the test above would hold for an origin that nobody can reach.
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_with_a_good_certificate_is_asked() {
    let authority = Authority::new();
    let origin = Origin::start(&authority.issue(&["localhost"])).await;
    let proxy = in_front_of(&origin, &authority).await;
    let mut client = Raw::connect(proxy.address).await;
    assert_eq!(client.get(PATH).await.status, 200);
    assert!(origin.bytes.load(Ordering::SeqCst) > 0);
    proxy.stop().await;
}
