//! Real time and loopback sockets; no paused clock here.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::types::{AccountName, AppId, AppSecret, GrantKind};

const GOOD: &str = r#"{"access_token":"91_abc","expires_in":7200}"#;

fn client() -> reqwest::Client {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    http_client(tls).unwrap()
}

fn host(port: u16, tls: bool) -> UpstreamHost {
    UpstreamHost { tls, host: "127.0.0.1".to_owned(), port }
}

fn source(hosts: &[UpstreamHost]) -> HttpTokenSource {
    source_of(GrantKind::StableToken, hosts)
}

fn source_of(grant: GrantKind, hosts: &[UpstreamHost]) -> HttpTokenSource {
    let endpoint = Arc::new(Endpoint { client: client(), hosts: hosts.to_vec() });
    let account = Account {
        name: AccountName::parse("shop").unwrap(),
        app_id: AppId::parse("wx1").unwrap(),
        app_secret: AppSecret::new("5ecre7-canary".to_owned()),
        grant,
        publish: Box::default(),
    };
    HttpTokenSource::new(endpoint, Arc::new(account))
}

/// A POST ends with its JSON, a GET with its head.
fn is_whole(request: &[u8]) -> bool {
    request.ends_with(b"}") || request.starts_with(b"GET") && request.ends_with(b"\r\n\r\n")
}

/// Answers one connection with `reply` and hands out the request's text.
async fn answering(reply: String) -> (u16, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !is_whole(&request) {
            assert!(stream.read_buf(&mut request).await.unwrap() > 0);
        }
        // A caller that has had enough may hang up in the middle.
        stream.write_all(reply.as_bytes()).await.ok();
        String::from_utf8(request).unwrap()
    });
    (port, served)
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn the_call_is_a_post_with_a_length_and_a_json_body() {
    let (port, served) = answering(ok(GOOD)).await;
    let grant = source(&[host(port, false)]).fetch(Mode::Normal).await.unwrap();
    assert_eq!(grant.token.expose(), "91_abc");

    let request = served.await.unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("post /cgi-bin/stable_token http/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("\r\ncontent-length: {}", body.len())), "{head}");
    assert!(head.contains("\r\ncontent-type: application/json"), "{head}");
    assert!(!head.contains("transfer-encoding"), "{head}");
    assert!(body.contains(r#""force_refresh":false"#) && body.contains("5ecre7-canary"));
}

#[tokio::test]
async fn wecoms_call_is_a_get_without_a_body() {
    let (port, served) = answering(ok(GOOD)).await;
    source_of(GrantKind::Wecom, &[host(port, false)]).fetch(Mode::Normal).await.unwrap();
    let request = served.await.unwrap();
    let line = "GET /cgi-bin/gettoken?corpid=wx1&corpsecret=5ecre7%2Dcanary HTTP/1.1\r\n";
    assert!(request.starts_with(line), "{request}");
    assert!(!request.to_ascii_lowercase().contains("content-length"), "{request}");
}

#[tokio::test]
async fn the_next_host_is_called_when_the_first_cannot_be_connected_to() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let (port, _served) = answering(ok(GOOD)).await;
    assert!(source(&[host(closed, false), host(port, false)]).fetch(Mode::Normal).await.is_ok());
}

#[tokio::test]
async fn an_answer_that_is_no_token_does_not_move_on_to_the_next_host() {
    let (first, _served) = answering(ok(r#"{"errcode":40125,"errmsg":"no"}"#)).await;
    let (second, _served) = answering(ok(GOOD)).await;
    let error = source(&[host(first, false), host(second, false)]).fetch(Mode::Normal).await.unwrap_err();
    assert_eq!(error.word(), "wrong_secret");
}

#[tokio::test]
async fn broken_answers_are_errors_with_the_right_word() {
    let huge = "x".repeat(10 << 20);
    for (reply, word) in [
        (ok(""), "malformed"),
        (ok(&huge), "malformed"),
        (format!("HTTP/1.1 200 OK\r\n\r\n{huge}"), "malformed"),
        (
            "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".to_owned(),
            "malformed",
        ),
        ("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n".to_owned(), "malformed"),
        (format!("HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{GOOD}"), "unreachable"),
        ("SMTP?\r\n\r\n".to_owned(), "unreachable"),
        (String::new(), "unreachable"),
    ] {
        let (port, _served) = answering(reply.clone()).await;
        let error = source(&[host(port, false)]).fetch(Mode::Normal).await.unwrap_err();
        assert_eq!(error.word(), word, "{reply:.60}: {}", error.told());
    }
}

#[tokio::test]
async fn no_error_holds_a_url_or_the_secret() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    for (kind, tls) in GrantKind::ALL.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
        let error = source_of(kind, &[host(closed, tls)]).fetch(Mode::Normal).await.unwrap_err();
        let printed = format!("{error} {error:?} {}", error.told());
        assert!(!printed.contains("cgi-bin") && !printed.contains("5ecre7"), "{printed}");
        assert!(error.told().len() <= 256);
    }
    // An answer that breaks off, and one that is no HTTP.
    for reply in ["HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{", "SMTP?\r\n\r\n"] {
        let (port, _served) = answering(reply.to_owned()).await;
        let error = source_of(GrantKind::Wecom, &[host(port, false)]).fetch(Mode::Normal).await.unwrap_err();
        let printed = format!("{error} {error:?} {}", error.told());
        assert!(!printed.contains("cgi-bin") && !printed.contains("5ecre7"), "{printed}");
    }
    assert!(!format!("{:?}", source(&[])).contains("5ecre7"));
}
