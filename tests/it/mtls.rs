//! Clients that are known by their certificates, and connections without a good one.

use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use weigate::sandbox::Sandbox;

use crate::bare::Raw;
use crate::harness::{APP_ID, CLIENT_KEY, Proxy, Setup, client_lines, hex, wechat};
use crate::pki::{Authority, Identity, Validity, connect, connector, self_signed};

/// weigate with a clients' authority.
struct Gate {
    servers: Authority,
    clients: Authority,
    wechat: Sandbox,
    proxy: Proxy,
}

const TLS: &str =
    "tls = { cert_file = \"server.pem\", key_file = \"server.key\", client_ca_file = \"clients.pem\"CRL }";
const ORDERS: &str = "spiffe://example.org/orders";
const CRM: &str = "crm.internal";

/// `orders` has no key, `crm` has one too, `plain` has nothing else.
fn clients() -> String {
    format!(
        "[[clients]]\nname = \"orders\"\ncert_san = \"{ORDERS}\"\naccounts = [\"shop\"]\n{}{}",
        client_lines("crm", "wgk_crm", &format!("cert_san = [\"{CRM}\"]\naccounts = [\"shop\"]")),
        client_lines("plain", CLIENT_KEY, "accounts = [\"shop\"]"),
    )
}

// === impl Gate ===

impl Gate {
    async fn start() -> Self {
        Self::start_with("", |_, _| {}, &clients()).await
    }

    async fn start_with(more_tls: &str, prepare: impl FnOnce(&Path, &Authority), clients: &str) -> Self {
        let wechat = wechat().await;
        let setup = Setup::new().server(&TLS.replace("CRL", more_tls)).clients(clients);
        let (servers, authority) = (Authority::new(), Authority::new());
        servers.issue(&["localhost"]).write_as_server(setup.dir.path());
        std::fs::write(setup.dir.path().join("clients.pem"), authority.pem()).unwrap();
        prepare(setup.dir.path(), &authority);
        let proxy = setup.start(&wechat).await;
        Self { servers, clients: authority, wechat, proxy }
    }

    async fn connect(&self, identity: Option<&Identity>, protocol: &str) -> TlsStream<TcpStream> {
        let connector = connector(&self.servers, identity, &[protocol]);
        connect(&connector, self.proxy.address).await.unwrap()
    }

    async fn h1(&self, identity: &Identity) -> Raw<TlsStream<TcpStream>> {
        Raw::over(self.connect(Some(identity), "http/1.1").await)
    }

    async fn status(&self, identity: &Identity, target: &str, field: &str) -> u16 {
        ask(&mut self.h1(identity).await, target, field).await
    }

    async fn reload(&mut self) {
        let loaded = weigate::config::load(&self.proxy.dir.path().join("proxy.toml"));
        self.proxy.app().reload(loaded.map(|loaded| loaded.config)).await.unwrap();
    }
}

async fn ask(client: &mut Raw<TlsStream<TcpStream>>, target: &str, field: &str) -> u16 {
    client.send(format!("GET {target} HTTP/1.1\r\nhost: weigate\r\n{field}\r\n")).await;
    client.reply().await.status
}

fn bearer(key: &str) -> String {
    format!("authorization: Bearer {key}\r\n")
}

/// Whether a connection is let in: with TLS 1.3 a client only learns of a no when it reads.
async fn is_let_in(gate: &Gate, identity: Option<&Identity>, protocol: &str) -> bool {
    is_served(gate, identity, protocol, &bearer(CLIENT_KEY)).await
}

async fn is_served(gate: &Gate, identity: Option<&Identity>, protocol: &str, fields: &str) -> bool {
    let connector = connector(&gate.servers, identity, &[protocol]);
    let Ok(stream) = connect(&connector, gate.proxy.address).await else { return false };
    if protocol == "h2" {
        return h2_status(stream).await.is_some_and(|status| status == 200);
    }
    let mut client = Raw::over(stream);
    let head = format!("GET /wxa/x HTTP/1.1\r\nhost: weigate\r\n{fields}connection: close\r\n\r\n");
    if client.try_send(head).await.is_err() {
        return false;
    }
    client.rest().await.starts_with(b"HTTP/1.1 200")
}

/// Waits until every worker has taken up that who shows this certificate is served, or is not: each does in its own next turn, and
/// which of them gets a connection is chance.
async fn everywhere(gate: &Gate, identity: &Identity, is_wanted: bool) {
    let (started, mut in_a_row) = (tokio::time::Instant::now(), 0);
    while in_a_row < 20 {
        assert!(started.elapsed() < crate::harness::PATIENCE, "served: not {is_wanted} everywhere");
        let is_so = is_served(gate, Some(identity), "http/1.1", "").await == is_wanted;
        in_a_row = if is_so { in_a_row + 1 } else { 0 };
    }
}

/// One request with the key of `plain`.
async fn h2_status(stream: TlsStream<TcpStream>) -> Option<u16> {
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.ok()?;
    let driven = tokio::spawn(connection);
    let request =
        http::Request::get("https://weigate/wxa/x").header("authorization", format!("Bearer {CLIENT_KEY}"));
    let response = sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.ok()?;
    let status = response.status().as_u16();
    response.into_body().collect().await.ok()?;
    drop(sender);
    driven.await.ok()?.ok()?;
    Some(status)
}

/// reliability.md S11.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_good_certificate_of_the_authority_is_let_in() {
    let revoked = std::cell::OnceCell::new();
    let gate = Gate::start_with(
        ", client_crl_file = \"clients.crl\"",
        |dir, authority| {
            let identity = authority.issue(&["revoked.internal"]);
            std::fs::write(dir.join("clients.crl"), authority.revokes(&[&identity])).unwrap();
            assert!(revoked.set(identity).is_ok());
        },
        &clients(),
    )
    .await;
    let good = gate.clients.issue(&["any.internal"]);
    let bad = [
        ("none", None),
        ("expired", Some(gate.clients.issue_for(&["any.internal"], Validity::Past))),
        ("not yet good", Some(gate.clients.issue_for(&["any.internal"], Validity::Future))),
        ("another authority's", Some(Authority::new().issue(&["any.internal"]))),
        ("its own", Some(self_signed(&["any.internal"]))),
        ("revoked", revoked.into_inner()),
    ];
    for protocol in ["http/1.1", "h2"] {
        assert!(is_let_in(&gate, Some(&good), protocol).await, "{protocol}");
        let before = gate.wechat.control().counters().requests;
        for (what, identity) in &bad {
            assert!(what == &"none" || identity.is_some());
            assert!(!is_let_in(&gate, identity.as_ref(), protocol).await, "{what} {protocol}");
        }
        assert_eq!(gate.wechat.control().counters().requests, before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_names_a_client_by_uri_or_dns_name_and_never_by_its_common_name() {
    let gate = Gate::start().await;
    let cases = [
        ("a URI", gate.clients.issue(&[ORDERS]), 200),
        ("a DNS name in another case", gate.clients.issue(&["CRM.internal"]), 200),
        ("one of several", gate.clients.issue(&["x.internal", CRM]), 200),
        ("none that is known", gate.clients.issue(&["x.internal"]), 401),
        ("a URI that begins alike", gate.clients.issue(&["spiffe://example.org/orders/2"]), 401),
        ("a URI in another case", gate.clients.issue(&["spiffe://example.org/Orders"]), 401),
        ("a wildcard", gate.clients.issue(&["*.internal"]), 401),
        ("the common name", gate.clients.issue_for_common_name(CRM), 401),
        ("two clients'", gate.clients.issue(&[ORDERS, CRM]), 401),
    ];
    for (what, identity, expected) in &cases {
        assert_eq!(gate.status(identity, "/wxa/x", "").await, *expected, "{what}");
    }
    // Who is named by nothing still has a key.
    let nobody = gate.clients.issue(&["x.internal"]);
    assert_eq!(gate.status(&nobody, "/wxa/x", &bearer(CLIENT_KEY)).await, 200);
    assert_eq!(gate.status(&nobody, "/wxa/x", &bearer("wgk_crm")).await, 200);
    let by_certificate = "weigate_requests_passed_total{client=\"orders\",account=\"shop\"}";
    assert_eq!(gate.proxy.metric(by_certificate).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_names_a_client_by_its_digest() {
    let wechat = wechat().await;
    let setup = Setup::new().server(&TLS.replace("CRL", ""));
    let (servers, authority) = (Authority::new(), Authority::new());
    let (one, other) = (authority.issue(&["same.internal"]), authority.issue(&["same.internal"]));
    servers.issue(&["localhost"]).write_as_server(setup.dir.path());
    std::fs::write(setup.dir.path().join("clients.pem"), authority.pem()).unwrap();
    let digest = hex(<sha2::Sha256 as sha2::Digest>::digest(&one.chain[0]));
    let lines = format!("[[clients]]\nname = \"one\"\ncert_sha256 = \"{digest}\"\naccounts = [\"shop\"]\n");
    let proxy = setup.clients(&lines).start(&wechat).await;
    let gate = Gate { servers, clients: authority, wechat, proxy };
    assert_eq!(gate.status(&one, "/wxa/x", "").await, 200);
    assert_eq!(gate.status(&other, "/wxa/x", "").await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_beside_a_certificate_may_be_anything_but_another_clients() {
    let gate = Gate::start().await;
    let orders = gate.clients.issue(&[ORDERS]);
    let mut client = gate.h1(&orders).await;
    assert_eq!(ask(&mut client, "/wxa/x", "").await, 200);
    assert_eq!(ask(&mut client, "/wxa/x", &bearer("nonsense")).await, 200);
    assert_eq!(ask(&mut client, "/wxa/x?access_token=nonsense", "").await, 200);
    assert_eq!(ask(&mut client, "/wxa/x", &bearer(CLIENT_KEY)).await, 401);
    assert_eq!(ask(&mut client, &format!("/wxa/x?access_token={CLIENT_KEY}"), "").await, 401);
    assert_eq!(ask(&mut client, "/wxa/x", "").await, 200);
    let seen = gate.wechat.control().requests(Some("/wxa/x"), 10);
    let said = format!("{seen:?}");
    assert!(seen.len() == 4 && !said.contains("nonsense") && !said.contains(CLIENT_KEY), "{said}");
    let crm = gate.clients.issue(&[CRM]);
    assert_eq!(gate.status(&crm, "/wxa/x", &bearer("wgk_crm")).await, 200, "its own");
}

/// An SDK wants a secret and a token; behind a certificate the one is anything and the other is the certificate's.
#[tokio::test(flavor = "multi_thread")]
async fn an_sdk_behind_a_certificate_gets_a_placeholder_for_any_secret_and_nobody_else_can_use_it() {
    let gate = Gate::start().await;
    let orders = gate.clients.issue(&[ORDERS]);
    let mut client = gate.h1(&orders).await;
    let call = |secret: &str| format!("/cgi-bin/token?grant_type=client_credential&appid={APP_ID}{secret}");
    let mut token = String::new();
    for secret in ["", "&secret=", "&secret=whatever"] {
        client.send(format!("GET {} HTTP/1.1\r\nhost: weigate\r\n\r\n", call(secret))).await;
        let text = client.reply().await.text();
        let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
        answer["access_token"].as_str().unwrap_or_else(|| panic!("{text}")).clone_into(&mut token);
    }
    assert!(token.starts_with("wgt_"));
    let by_token = format!("/wxa/x?access_token={token}");
    assert_eq!(ask(&mut client, &by_token, "").await, 200);
    // Another client's secret is no secret of this one's.
    client
        .send(format!("GET {} HTTP/1.1\r\nhost: weigate\r\n\r\n", call(&format!("&secret={CLIENT_KEY}"))))
        .await;
    assert!(client.reply().await.text().contains("40125"));

    // Stolen, it is worth nothing: not beside another certificate, not beside one that names nobody.
    for other in [gate.clients.issue(&[CRM]), gate.clients.issue(&["x.internal"])] {
        assert_eq!(gate.status(&other, &by_token, "").await, 401);
        assert_eq!(gate.status(&other, "/wxa/x", &bearer(&token)).await, 401);
    }
    let nobody = gate.clients.issue(&["x.internal"]);
    let mut nobody = gate.h1(&nobody).await;
    nobody.send(format!("GET {} HTTP/1.1\r\nhost: weigate\r\n\r\n", call("&secret=whatever"))).await;
    assert!(nobody.reply().await.text().contains("40125"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_a_clients_certificate_away_from_the_next_request_on() {
    let mut gate = Gate::start().await;
    let (orders, crm) = (gate.clients.issue(&[ORDERS]), gate.clients.issue(&[CRM]));
    let (mut one, mut other) = (gate.h1(&orders).await, gate.h1(&crm).await);
    let path = gate.proxy.dir.path().join("proxy.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let becomes = async |client: &mut Raw<_>, status: u16| {
        // Each worker takes up the new configuration in its own next turn.
        let started = tokio::time::Instant::now();
        while ask(client, "/wxa/x", "").await != status {
            assert!(started.elapsed() < crate::harness::PATIENCE);
        }
    };
    becomes(&mut one, 200).await;
    becomes(&mut other, 200).await;

    std::fs::write(&path, text.replace(ORDERS, "spiffe://example.org/none")).unwrap();
    gate.reload().await;
    becomes(&mut one, 401).await;
    becomes(&mut other, 200).await;
    std::fs::write(&path, &text).unwrap();
    gate.reload().await;
    becomes(&mut one, 200).await;

    // A list that revokes one of them, while both are connected.
    let crl = gate.proxy.dir.path().join("clients.crl");
    std::fs::write(&crl, gate.clients.revokes(&[&orders])).unwrap();
    let tls = "client_ca_file = \"clients.pem\"";
    std::fs::write(&path, text.replace(tls, &format!("{tls}, client_crl_file = \"clients.crl\""))).unwrap();
    gate.reload().await;
    becomes(&mut one, 401).await;
    becomes(&mut other, 200).await;
    everywhere(&gate, &orders, false).await;

    // Another authority beside the old one disturbs nobody; without the old one its clients are nobody.
    std::fs::write(&path, &text).unwrap();
    let authorities = gate.proxy.dir.path().join("clients.pem");
    let next = Authority::new();
    std::fs::write(&authorities, gate.clients.pem() + &next.pem()).unwrap();
    gate.reload().await;
    becomes(&mut one, 200).await;
    becomes(&mut other, 200).await;
    let of_the_next = next.issue(&[ORDERS]);
    everywhere(&gate, &of_the_next, true).await;
    assert_eq!(gate.status(&of_the_next, "/wxa/x", "").await, 200);
    std::fs::write(&authorities, next.pem()).unwrap();
    gate.reload().await;
    becomes(&mut one, 401).await;
    becomes(&mut other, 401).await;
}
