//! The sandbox does what `wechat.md` says WeChat does.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests may panic")]

mod apis;
mod tokens;
mod world;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weigate::sandbox::{Control, Fault, FaultDoes, Sandbox, SandboxAccount, SandboxOptions};

const APP: &str = "wx0123456789abcdef";
const SECRET: &str = "sandbox-secret";
const PNG: &[u8] = b"\x89PNG not really";
const OPENID: &str = "/cgi-bin/user/info?openid=o1";

struct Bench {
    sandbox: Sandbox,
    client: reqwest::Client,
}

struct Answer {
    status: u16,
    headers: reqwest::header::HeaderMap,
    bytes: Vec<u8>,
}

impl Bench {
    async fn new() -> Self {
        Self::with(SandboxOptions::default()).await
    }

    async fn with(options: SandboxOptions) -> Self {
        let account = SandboxAccount::new(APP, SECRET);
        let accounts = if options.accounts.is_empty() { vec![account] } else { options.accounts };
        let sandbox = Sandbox::start(SandboxOptions { accounts, ..options }).await.unwrap();
        // Another test may have installed it first.
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { sandbox, client }
    }

    fn control(&self) -> &Control {
        self.sandbox.control()
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let reply = request.send().await.unwrap();
        let (status, headers) = (reply.status().as_u16(), reply.headers().clone());
        Answer { status, headers, bytes: reply.bytes().await.unwrap().to_vec() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(self.client.get(format!("{}{path}", self.sandbox.base_url()))).await
    }

    async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        self.send(self.client.post(format!("{}{path}", self.sandbox.base_url())).body(body)).await
    }

    async fn token(&self) -> String {
        let answer = self.get(&token_call(APP, SECRET)).await.json();
        answer["access_token"].as_str().unwrap().to_owned()
    }

    async fn stable(&self, force: bool) -> Value {
        let body = json!({ "grant_type": "client_credential", "appid": APP, "secret": SECRET,
            "force_refresh": force });
        self.post("/cgi-bin/stable_token", body.to_string()).await.json()
    }

    /// The errcode that an ordinary call gets with this token; 0 for success.
    async fn worth(&self, token: &str) -> i64 {
        self.get(&format!("{OPENID}&access_token={token}")).await.errcode()
    }

    async fn call(&self, path: &str, body: &Value) -> Answer {
        let token = self.token().await;
        self.post(&with_token(path, &token), body.to_string()).await
    }

    async fn upload(&self, path: &str, field: &str, bytes: &[u8]) -> Answer {
        let token = self.token().await;
        let url = format!("{}{}", self.sandbox.base_url(), with_token(path, &token));
        let mut body = format!(
            "--b\r\nContent-Disposition: form-data; name=\"{field}\"; filename=\"a.png\"\r\n\
             Content-Type: image/png\r\n\r\n"
        )
        .into_bytes();
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n--b--\r\n");
        let request = self.client.post(url).header("content-type", "multipart/form-data; boundary=b");
        self.send(request.body(body)).await
    }

    /// What comes back for raw bytes, until the connection ends.
    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.sandbox.address()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = Vec::new();
        // A fault may end the connection rudely; what came before counts.
        stream.read_to_end(&mut reply).await.ok();
        String::from_utf8_lossy(&reply).into_owned()
    }

    fn fault(&self, path: &str, does: FaultDoes) -> u64 {
        self.control().add_fault(Fault { path: path.to_owned(), method: None, skip: 0, count: Some(1), does })
    }
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap()
    }

    fn errcode(&self) -> i64 {
        self.json()["errcode"].as_i64().unwrap_or(0)
    }

    fn errmsg(&self) -> String {
        self.json()["errmsg"].as_str().unwrap().to_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

fn token_call(app_id: &str, secret: &str) -> String {
    format!("/cgi-bin/token?grant_type=client_credential&appid={app_id}&secret={secret}")
}

fn with_token(path: &str, token: &str) -> String {
    let join = if path.contains('?') { '&' } else { '?' };
    format!("{path}{join}access_token={token}")
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
