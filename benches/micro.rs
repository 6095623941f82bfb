//! What the pure parts of a request's way cost.
//!
//! `cargo bench --bench micro` times them with criterion. `benches/instructions` counts their instructions, which a
//! busy machine does not change: it runs this binary with `MICRO_OPERATION` and `MICRO_TIMES` under callgrind.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::BytesMut;
use criterion::Criterion;
use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;
use weigate::clients::{self, Clients, Signer};
use weigate::config::{self, PlaceholderKey};
use weigate::proxy::headers::{self, Nominated};
use weigate::proxy::upstream::parse_head;
use weigate::token::{
    Alone, Common, ConfiguredStore, Ledger, Life, SourceError, TokenSource, Turns, WallClock,
};
use weigate::types::{AccessToken, AccountName, AppId, AppSecret, ClientName, GrantKind, UnixSeconds};
use weigate::wechat::token_call::{Grant, Mode};
use weigate::wechat::{envelope, paths, query};

type Operation = (&'static str, Box<dyn FnMut()>);

/// WeChat's tokens have some 157 characters.
const TOKEN: &str = "86_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-_Ab";

const QUERY: &str = "openid=o6_bmjrPTlm6_2sgVt7hMZOPfL2M&lang=zh_CN";

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _inside = runtime.enter();
    let mut operations = operations(&runtime)?;
    if let Ok((name, times)) = counted() {
        let (_, operation) =
            operations.iter_mut().find(|(other, _)| *other == name).context("no such operation")?;
        (0..times).for_each(|_| operation());
        return Ok(());
    }
    let mut criterion = Criterion::default().configure_from_args();
    for (name, operation) in &mut operations {
        criterion.bench_function(name, |bencher| bencher.iter(&mut *operation));
    }
    criterion.final_summary();
    Ok(())
}

/// What `benches/instructions` asks for.
#[expect(clippy::disallowed_methods, reason = "the variables are this benchmark's own")]
fn counted() -> anyhow::Result<(String, u64)> {
    Ok((std::env::var("MICRO_OPERATION")?, std::env::var("MICRO_TIMES")?.parse()?))
}

fn operations(runtime: &tokio::runtime::Runtime) -> anyhow::Result<Vec<Operation>> {
    let mut all: Vec<Operation> = vec![
        ("path_judge", Box::new(|| drop(black_box(paths::judge(black_box("/cgi-bin/user/info")))))),
        (
            "path_judge_encoded",
            Box::new(|| drop(black_box(paths::judge(black_box("/cgi-bin/%E7%94%A8/info"))))),
        ),
        (
            "query_parameters",
            Box::new(|| {
                black_box(query::parameters(black_box(QUERY)));
            }),
        ),
    ];
    let mut buffer = Vec::with_capacity(1024);
    all.push((
        "query_rewrite",
        Box::new(move || {
            buffer.clear();
            let drop = query::Drop { access_token: true, ..query::Drop::default() };
            query::rewrite(black_box(Some(QUERY)), drop, &[("access_token", TOKEN)], &mut buffer);
            black_box(&buffer);
        }),
    ));
    all.extend(envelope_operations());
    all.extend(head_operations());
    all.extend(client_operations()?);
    all.push(token_operation(runtime)?);
    Ok(all)
}

fn envelope_operations() -> [Operation; 3] {
    let good = format!(
        r#"{{"subscribe":1,"openid":"o6_bmjrPTlm6_2sgVt7hMZOPfL2M","remark":"{}"}}"#,
        "r".repeat(950)
    );
    let look = |body: String| {
        move || {
            black_box(envelope::errcode(black_box(body.as_bytes())));
        }
    };
    let ok = r#"{"errcode":0,"errmsg":"ok","msgid":200228332}"#.to_owned();
    let dead =
        r#"{"errcode":42001,"errmsg":"access_token expired rid: 5f2a1c3e-2f7a1c3e-5b8d9f01"}"#.to_owned();
    [
        ("envelope_1kib_without_errcode", Box::new(look(good))),
        ("envelope_errcode_0", Box::new(look(ok))),
        ("envelope_errcode_42001", Box::new(look(dead))),
    ]
}

/// What an application without an SDK sends, and what WeChat answers.
fn head_operations() -> [Operation; 3] {
    let sent: HeaderMap = [
        (http::header::HOST, "api.weixin.qq.com"),
        (http::header::USER_AGENT, "okhttp/4.12.0"),
        (http::header::ACCEPT, "application/json, text/plain, */*"),
        (http::header::AUTHORIZATION, "Bearer wgk_0000000000000000000000000000000000000000000"),
        (http::header::CONTENT_TYPE, "application/json"),
        (http::header::CONTENT_LENGTH, "120"),
    ]
    .map(|(name, value)| (name, HeaderValue::from_static(value)))
    .into_iter()
    .collect();
    let reply = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Type: application/json; encoding=utf-8\r\nDate: Mon, 23 Nov 2026 08:00:00 GMT\r\nContent-Length: 1023\r\n\r\n";
    let mut scrubbed: HeaderMap = [
        (http::header::CONTENT_TYPE, "application/json; encoding=utf-8"),
        (http::header::DATE, "Mon, 23 Nov 2026 08:00:00 GMT"),
        (http::header::CONTENT_LENGTH, "1023"),
    ]
    .map(|(name, value)| (name, HeaderValue::from_static(value)))
    .into_iter()
    .collect();
    let mut buffer = BytesMut::with_capacity(1024);
    [
        (
            "request_headers_copied",
            Box::new(move || {
                buffer.clear();
                let nominated = Nominated::by(black_box(&sent));
                headers::copy_request(black_box(&sent), &nominated, &mut buffer);
                black_box(&buffer);
            }),
        ),
        ("reply_headers_scrubbed", Box::new(move || headers::scrub_reply(black_box(&mut scrubbed)))),
        ("reply_head_parsed", Box::new(move || drop(black_box(parse_head(black_box(reply.as_slice())))))),
    ]
}

fn client_operations() -> anyhow::Result<[Operation; 3]> {
    let key = clients::generate()?.expose().to_owned();
    let account = AccountName::parse("shop")?;
    let client = config::Client {
        name: ClientName::parse("orders")?,
        key_sha256: Some(clients::digest(&key)),
        cert_san: Vec::new(),
        cert_sha256: Vec::new(),
        accounts: config::ClientAccounts::These(vec![account.clone()]),
        allow: None,
        requests_per_s: None,
        requests_at_once_max: None,
        streamed_body_bytes_max: None,
    };
    let signer = Signer::new(&PlaceholderKey(zeroize::Zeroizing::new([7; 32])));
    let clients = Arc::new(Clients::new(&[client], signer));
    let found = Arc::clone(clients.by_key(&key).context("the key is not known")?);
    let now = UnixSeconds::now();
    let placeholder = clients.placeholder(&found, &account, now);
    let by_placeholder = Arc::clone(&clients);
    let at = Instant::now();
    Ok([
        (
            "key_check",
            Box::new(move || {
                black_box(clients.by_key(black_box(&key)));
            }),
        ),
        (
            "placeholder_check",
            Box::new(move || drop(black_box(by_placeholder.by_placeholder(black_box(&placeholder), now)))),
        ),
        ("client_admit", Box::new(move || drop(black_box(found.admit(at))))),
    ])
}

/// What a request does about a token that its worker has read before, which nearly always is the one in force.
fn token_operation(runtime: &tokio::runtime::Runtime) -> anyhow::Result<Operation> {
    let app_id = AppId::parse("wx0123456789abcdef").context("not an AppID")?;
    let account = config::Account {
        name: AccountName::parse("shop")?,
        app_id: app_id.clone(),
        app_secret: AppSecret::new("a secret".to_owned()),
        grant: GrantKind::StableToken,
        publish: Box::default(),
    };
    let common = Common {
        ledger: Ledger::default(),
        turns: Turns::new(1),
        clock: WallClock::of_the_machine(),
        waiters_max: 16.into(),
    };
    let life = Life {
        account: Arc::new(account),
        app_id,
        alone: Alone::Allowed,
        jitter: fastrand::Rng::with_seed(7),
        common: Arc::new(common),
    };
    let token = AccessToken::parse(TOKEN)?;
    let store = ConfiguredStore::open(&config::Store::Memory)?;
    let (handle, keeper) = weigate::token::start(life, Always(token), store);
    runtime.block_on(handle.wait(Instant::now() + Duration::from_secs(5)))?;
    let (now, wall, edition) = (Instant::now(), handle.wall(), handle.edition());
    let read = handle.current(now).context("no token")?;
    let look = move || {
        let _kept = &keeper;
        black_box(black_box(&handle).edition() == edition && black_box(&read).is_alive(now, wall));
    };
    Ok(("token_is_in_force", Box::new(look)))
}

struct Always(AccessToken);

impl TokenSource for Always {
    async fn fetch(&self, _: Mode) -> Result<Grant, SourceError> {
        Ok(Grant { token: self.0.clone(), lives: Duration::from_hours(2) })
    }
}
