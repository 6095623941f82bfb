//! Every way in: HTTP/1.1 and HTTP/2, with TLS and without, TCP and unix sockets, several at once.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use weigate::config::ListenAddress;
use weigate::sandbox::When;

use crate::bare::{Raw, get_head};
use crate::harness::{APP_ID, CLIENT_KEY, Proxy, Setup, until, wechat, write_private};

type Sender = hyper::client::conn::http2::SendRequest<Full<Bytes>>;

/// HTTP/2 with prior knowledge on a connection that is there.
async fn h2(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Sender {
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    drop(tokio::spawn(connection));
    sender
}

async fn send(sender: &Sender, method: &str, target: &str, body: &str) -> (http::response::Parts, String) {
    let request = http::Request::builder()
        .method(method)
        .uri(format!("http://weigate{target}"))
        .header("authorization", format!("Bearer {CLIENT_KEY}"))
        .body(Full::from(body.to_owned()))
        .unwrap();
    let (head, body) = sender.clone().send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head, String::from_utf8(body.to_vec()).unwrap())
}

/// A certificate for `localhost` in the setup's directory, and a client that trusts it.
fn tls(setup: &Setup) -> impl AsyncFn(&Proxy, &[&str]) -> TlsStream<TcpStream> + use<> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(setup.dir.path().join("server.pem"), made.cert.pem()).unwrap();
    write_private(&setup.dir.path().join("server.key"), &made.signing_key.serialize_pem());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    async move |proxy, protocols| {
        let mut config = config.clone();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(proxy.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }
}

const TLS: &str = "tls = { cert_file = \"server.pem\", key_file = \"server.key\" }";

#[tokio::test(flavor = "multi_thread")]
async fn http2_with_prior_knowledge_carries_get_and_post_many_at_a_time() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let sender = h2(TcpStream::connect(proxy.address).await.unwrap()).await;
    let (head, body) = send(&sender, "GET", "/cgi-bin/user/info?openid=o6", "").await;
    assert_eq!((head.status.as_u16(), body.contains(r#""openid":"o6""#)), (200, true));
    assert!(head.headers.contains_key("x-weigate-request-id"));

    // A body without a length, as HTTP/2 may have it, goes up with one; an invalid token costs a second try.
    wechat.control().revoke_tokens(APP_ID).unwrap();
    let body = "{\"touser\":\"o6\",\"msgtype\":\"text\",\"text\":{\"content\":\"x\"}}";
    let (head, answer) = send(&sender, "POST", "/cgi-bin/message/custom/send", body).await;
    assert_eq!((head.status.as_u16(), head.headers["x-weigate-attempts"].to_str().unwrap()), (200, "2"));
    assert!(answer.contains(r#""errcode":0"#));
    let seen = wechat.control().requests(Some("/cgi-bin/message/custom/send"), 1).remove(0);
    assert_eq!((seen.has_content_length, &*seen.body_head), (true, body));
    assert!(seen.headers.iter().all(|(name, _)| name != "transfer-encoding"));
    assert!(!format!("{seen:?}").contains(CLIENT_KEY));

    let hold = wechat.control().hold("/wxa/slow", When::BeforeJudging);
    let streams: Vec<_> = (0..50)
        .map(|number| {
            let sender = sender.clone();
            tokio::spawn(async move { send(&sender, "POST", "/wxa/slow", &number.to_string()).await })
        })
        .collect();
    until(&wechat, |counters| counters.held == 50).await;
    wechat.control().release(hold);
    for stream in streams {
        assert_eq!(stream.await.unwrap().0.status, 200);
    }
    let (head, body) = send(&sender, "GET", "/cgi-bin/%2e%2e/token", "").await;
    assert_eq!((head.status.as_u16(), body.contains("-99400")), (400, true));
    assert_eq!(proxy.metric("weigate_connections_total").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_stream_that_is_given_up_takes_its_request_to_wechat_with_it() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let sender = h2(TcpStream::connect(proxy.address).await.unwrap()).await;
    let hold = wechat.control().hold("/wxa/slow", When::BeforeJudging);
    let stream = {
        let sender = sender.clone();
        tokio::spawn(async move { send(&sender, "GET", "/wxa/slow", "").await })
    };
    until(&wechat, |counters| counters.held == 1).await;
    stream.abort();
    assert!(stream.await.is_err());
    until(&wechat, |counters| counters.in_flight == 0).await;
    wechat.control().release(hold);
    assert_eq!(send(&sender, "GET", "/wxa/x", "").await.0.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_offers_both_protocols_and_lets_the_client_choose() {
    let wechat = wechat().await;
    let setup = Setup::new().server(TLS);
    let connect = tls(&setup);
    let proxy = Setup::start_unready(setup, &wechat).await;
    proxy.wait_ready().await;
    for (offered, chosen) in [
        (vec!["h2", "http/1.1"], Some("h2")),
        (vec!["h2"], Some("h2")),
        (vec!["http/1.1"], Some("http/1.1")),
        (vec![], None),
    ] {
        let stream = connect(&proxy, &offered).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen.map(str::as_bytes));
        if chosen == Some("h2") {
            let sender = h2(stream).await;
            assert_eq!(send(&sender, "GET", "/wxa/x", "").await.0.status, 200);
        } else {
            let mut client = Raw::over(stream);
            assert_eq!(client.get("/wxa/x").await.status, 200);
            assert_eq!(client.get("/wxa/x").await.status, 200);
        }
    }
    // Who speaks plain HTTP there gets no answer and no service.
    let mut client = Raw::connect(proxy.address).await;
    client.send(crate::bare::get_head("/wxa/plain")).await;
    assert!(!client.rest().await.starts_with(b"HTTP/"));
    assert_eq!(wechat.control().counters().requests_at("/wxa/plain"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_listeners_serve_at_once_and_a_dead_socket_file_is_no_obstacle() {
    let wechat = wechat().await;
    let setup = Setup::new();
    let socket = setup.dir.path().join("weigate.sock");
    // A process that died left this behind.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let listen = format!("[\"127.0.0.1:0\", \"unix:{}\", \"[::1]:0\"]", socket.display());
    let proxy = setup.listen(&listen).start(&wechat).await;
    assert_eq!(proxy.addresses.len(), 3);
    for address in &proxy.addresses {
        match address {
            ListenAddress::Tcp(address) => {
                let mut client = Raw::connect(*address).await;
                assert_eq!(client.get("/wxa/x").await.status, 200, "{address}");
            }
            ListenAddress::Unix(path) => {
                let mut client = Raw::over(UnixStream::connect(path).await.unwrap());
                assert_eq!(client.get("/wxa/x").await.status, 200);
                let sender = h2(UnixStream::connect(path).await.unwrap()).await;
                assert_eq!(send(&sender, "POST", "/wxa/x", "{}").await.0.status, 200);
            }
        }
    }
    assert_eq!(wechat.control().counters().requests_at("/wxa/x"), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_has_the_mode_that_is_asked_for() {
    let wechat = wechat().await;
    let setup = Setup::new();
    let socket = setup.dir.path().join("weigate.sock");
    let listen = format!("\"unix:{}\"\nsocket_mode = \"620\"", socket.display());
    let _proxy = setup.listen(&listen).start(&wechat).await;
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o620);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_has_rested_serves_the_next_request_as_if_nothing_had_been() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let mut client = Raw::connect(proxy.address).await;
    client.send(get_head("/cgi-bin/menu/get")).await;
    assert_eq!(client.reply().await.status, 200);
    let rested = || proxy.metric("weigate_connections_rested_total");
    while rested().await == 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..3 {
        client.send(get_head("/cgi-bin/menu/get")).await;
        assert_eq!(client.reply().await.status, 200);
    }
    assert_eq!(proxy.metric("weigate_connections_expired_total").await, 0);
}
