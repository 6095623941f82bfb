//! The operators' listener: health, metrics, accounts.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "tests may panic"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use reqwest::{Method, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use weigate::sandbox::SandboxAccount;

use crate::harness::{
    APP_ID, APP_SECRET, CLIENT_KEY, PATIENCE, Setup, client, get, get_json, wechat, wechat_with,
};

const PAGES: [&str; 4] = ["/livez", "/readyz", "/metrics", "/accounts"];

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_answer_get_and_head_and_nothing_else() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    for page in PAGES {
        let url = format!("http://{}{page}", proxy.admin);
        let got = client().get(&url).send().await.unwrap();
        assert_eq!(got.status(), StatusCode::OK, "{page}");
        let length = got.headers()["content-length"].clone();
        assert!(!got.text().await.unwrap().is_empty(), "{page}");

        let head = client().head(&url).send().await.unwrap();
        assert_eq!(head.status(), StatusCode::OK, "{page}");
        // Two looks at a page that counts differ by a digit at most.
        let lengths = [&length, &head.headers()["content-length"]].map(|text| text.to_str().unwrap().len());
        assert_eq!(lengths[0], lengths[1], "{page}");
        assert!(head.text().await.unwrap().is_empty(), "{page}");

        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE] {
            let answer = client().request(method.clone(), &url).body("x").send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {page}");
            assert_eq!(answer.headers()["allow"], "GET, HEAD", "{method} {page}");
        }
        // Probes add queries.
        assert_eq!(
            client().get(format!("{url}?x=1")).send().await.unwrap().status(),
            StatusCode::OK,
            "{page}"
        );
    }
    for page in ["/nothing", "/livez/", "//livez", "/LIVEZ", "/cgi-bin/user/info"] {
        let answer = client().get(format!("http://{}{page}", proxy.admin)).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{page}");
        let words = answer.text().await.unwrap();
        assert!(PAGES.iter().all(|page| words.contains(page)), "{words}");
        assert!(!words.contains("nothing"), "a page repeats what it was asked: {words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_cached_or_taken_for_another_type_and_no_other_field_is_sent() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let known =
        ["cache-control", "content-type", "x-content-type-options", "content-length", "date", "allow"];
    let pages = PAGES.into_iter().chain(["/nothing"]);
    let methods = [Method::GET, Method::HEAD, Method::POST];
    for (page, method) in pages.flat_map(|page| methods.each_ref().map(|method| (page, method.clone()))) {
        let url = format!("http://{}{page}", proxy.admin);
        let answer = client().request(method, &url).send().await.unwrap();
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff", "{page}");
        assert_eq!(answer.headers()["cache-control"], "no-store", "{page}");
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        let is_json = page == "/accounts" && answer.status() == StatusCode::OK;
        let wanted = if is_json { "application/json" } else { "text/plain; " };
        assert!(kind.starts_with(wanted), "{page}: {kind}");
        for name in answer.headers().keys() {
            assert!(known.contains(&name.as_str()), "{page} has {name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readyz_says_which_account_has_no_token_while_livez_stays_well() {
    let wechat = wechat_with(|mut options| {
        options.accounts = vec![SandboxAccount::new(APP_ID, "another-secret")];
        options
    })
    .await;
    let proxy = Setup::new().start_unready(&wechat).await;
    let answer = client().get(format!("http://{}/readyz", proxy.admin)).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.text().await.unwrap().starts_with("account shop has no live token: "));
    let live = client().get(format!("http://{}/livez", proxy.admin)).send().await.unwrap();
    assert_eq!((live.status(), live.text().await.unwrap().as_str()), (StatusCode::OK, "alive\n"));
    wechat.control().set_secret(APP_ID, APP_SECRET).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_shows_the_tokens_life_and_a_fingerprint_only() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let page = get_json(&format!("http://{}/accounts", proxy.admin)).await;
    let shop = &page["accounts"][0];
    assert_eq!((shop["name"].as_str(), shop["alive"].as_bool()), (Some("shop"), Some(true)));
    assert_eq!((shop["generation"].as_u64(), shop["last"]["result"].as_str()), (Some(1), Some("renewed")));
    let left = shop["expires_at"].as_u64().unwrap() - page["now"].as_u64().unwrap();
    assert!((6900..=7200).contains(&left), "{left}");
    let fingerprint = shop["fingerprint"].as_str().unwrap();
    assert!(fingerprint.len() == 7 && fingerprint.starts_with('#'), "{fingerprint}");
    assert_eq!(shop["token_calls"]["renewed"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_are_well_formed_and_named_with_their_units() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    for path in ["/cgi-bin/user/info?openid=o", "/cgi-bin/menu/get", "/-/nothing"] {
        get(&proxy.url(path)).await;
    }
    let page = Page::read(&metrics(proxy.admin).await);
    assert!(page.families.len() >= 20, "{:?}", page.families.keys());

    // What is counted stands in the name; these say how many there are, or are no quantities.
    let without_unit = [
        "weigate_config_reload_successful",
        "weigate_accounts",
        "weigate_accounts_alive",
        "weigate_accounts_failing",
        "weigate_connections",
        "weigate_requests_in_flight",
        "weigate_upstream_connections",
        "weigate_upstream_connections_idle",
        "weigate_upstream_http2_streams",
        "weigate_token_alive",
        "weigate_token_generation",
    ];
    for (name, kind) in &page.families {
        assert!(name.starts_with("weigate_"), "{name}");
        let has_unit = ["_seconds", "_bytes", "_info"].iter().any(|unit| name.ends_with(unit));
        match kind.as_str() {
            "counter" => assert!(name.ends_with("_total"), "{name}"),
            "histogram" => assert!(has_unit, "{name}"),
            "gauge" => {
                assert!(has_unit || without_unit.contains(&name.as_str()), "{name} has no unit");
                assert!(!name.ends_with("_total"), "{name}");
            }
            _ => panic!("{name} is a {kind}"),
        }
    }
    for (series, value) in &page.series {
        assert!(value.is_finite() && *value >= 0.0, "{series:?}");
    }
}

/// An attacker chooses paths and keys; the series must come from the configuration.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_adds_a_series() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    get(&proxy.url("/cgi-bin/menu/get")).await;
    let before = Page::read(&metrics(proxy.admin).await);
    let client = client();
    for number in 0..500 {
        let word = format!("{:x}", fastrand::u64(..));
        let path = [
            format!("/{word}"),
            format!("/cgi-bin/{word}?access_token={word}"),
            format!("/@{word}/cgi-bin/menu/get"),
            format!("/cgi-bin/menu/get?from_appid=wx{word}"),
            format!("/%{word}"),
        ];
        let key = if number % 2 == 0 { CLIENT_KEY } else { word.as_str() };
        let asked = client.get(proxy.url(&path[number % path.len()])).bearer_auth(key);
        asked.header("x-forwarded-for", &word).send().await.unwrap();
    }
    let after = Page::read(&metrics(proxy.admin).await);
    let names = |page: &Page| page.series.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&before), names(&after));
    let labels: BTreeSet<_> = after
        .series
        .keys()
        .flat_map(|(_, labels)| labels)
        .filter(|(name, _)| ["client", "account"].contains(&name.as_str()))
        .map(|(_, value)| value.as_str())
        .collect();
    assert_eq!(labels, BTreeSet::from(["orders", "shop"]));
    let refused: f64 =
        after.series.iter().filter(|((name, _), _)| name == "weigate_refusals_total").map(|(_, n)| n).sum();
    assert!(refused >= 250.0, "{refused}");
}

/// 64 connections that were kept busy kept a liveness probe out for ever, 64 silent ones for 5 s.
#[tokio::test(flavor = "multi_thread")]
async fn no_number_of_connections_keeps_an_operator_out() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let mut busy = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(proxy.admin).await.unwrap();
        ask_livez(&mut stream).await.unwrap();
        busy.spawn(ask_on(stream));
    }
    let alive = get(&format!("http://{}/livez", proxy.admin)).await;
    assert_eq!(alive.status(), StatusCode::OK);
    // One of them made room.
    busy.join_next().await.unwrap().unwrap();
    assert!(!busy.is_empty());
    busy.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_are_closed() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let mut silent = TcpStream::connect(proxy.admin).await.unwrap();
    let mut half = TcpStream::connect(proxy.admin).await.unwrap();
    half.write_all(b"GET /livez HTTP/1.1\r\nhost: ").await.unwrap();
    let mut used = TcpStream::connect(proxy.admin).await.unwrap();
    ask_livez(&mut used).await.unwrap();
    for stream in [&mut silent, &mut half, &mut used] {
        let mut said = Vec::new();
        drop(tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await.unwrap());
        assert!(!said.starts_with(b"HTTP/1.1 200"));
    }
}

/// Asks until the connection is closed.
async fn ask_on(mut stream: TcpStream) {
    while ask_livez(&mut stream).await.is_ok() {}
}

async fn ask_livez(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"alive\n") {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

async fn metrics(admin: SocketAddr) -> String {
    let answer = client().get(format!("http://{admin}/metrics")).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    answer.text().await.unwrap()
}

const HISTOGRAM_ENDS: [&str; 3] = ["_bucket", "_sum", "_count"];

type Labels = Vec<(String, String)>;

/// A page in Prometheus' text format 0.0.4, read more strictly than Prometheus does.
#[derive(Debug, Default)]
struct Page {
    /// Name to type.
    families: BTreeMap<String, String>,
    series: BTreeMap<(String, Labels), f64>,
}

impl Page {
    fn read(text: &str) -> Self {
        let mut page = Self::default();
        let mut helped = None;
        let mut family: Option<(String, String)> = None;
        assert!(text.ends_with('\n'), "the last line does not end");
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').unwrap();
                assert!(!words.trim().is_empty() && !words.contains('\\'), "{line}");
                helped = Some(name.to_owned());
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert_eq!(helped.take().as_deref(), Some(name), "TYPE without its HELP: {line}");
                assert!(is_name(name), "{line}");
                assert!(page.families.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
                family = Some((name.to_owned(), kind.to_owned()));
            } else {
                let (name, labels, value) = sample(line);
                let (of, kind) = family.as_ref().unwrap_or_else(|| panic!("no family: {line}"));
                let belongs = match kind.as_str() {
                    "histogram" => HISTOGRAM_ENDS.iter().any(|end| name == format!("{of}{end}")),
                    _ => name == *of,
                };
                assert!(belongs, "in the family {of}: {line}");
                let is_new = page.series.insert((name, labels), value).is_none();
                assert!(is_new, "twice: {line}");
            }
        }
        page.check_histograms();
        page
    }

    fn check_histograms(&self) {
        for (name, _) in self.families.iter().filter(|(_, kind)| *kind == "histogram") {
            let bucket = format!("{name}_bucket");
            let mut buckets: Vec<(f64, f64)> = self
                .series
                .iter()
                .filter(|((series, _), _)| *series == bucket)
                .map(|((_, labels), value)| (number(&labels[0].1), *value))
                .collect();
            buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
            assert!(buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{name}: {buckets:?}");
            let (last, total) = *buckets.last().unwrap();
            assert!(last.is_infinite(), "{name} has no +Inf");
            assert_eq!(
                self.series[&(format!("{name}_count"), Vec::new())].to_bits(),
                total.to_bits(),
                "{name}"
            );
        }
    }
}

fn sample(line: &str) -> (String, Labels, f64) {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no sample: {line}"));
    let (name, rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest, line),
        None => (Vec::new(), rest),
    };
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("no space before the value: {line}"));
    (name.to_owned(), labels, number(value))
}

/// `a="x",b="y"} 1`; in a value, `\\`, `\"` and `\n` are the only escapes.
fn labels<'a>(mut rest: &'a str, line: &str) -> (Labels, &'a str) {
    let mut labels = Labels::new();
    loop {
        let (name, after) =
            rest.split_once("=\"").unwrap_or_else(|| panic!("a label without a value: {line}"));
        assert!(is_name(name) && !name.contains(':') && !name.starts_with("__"), "{line}");
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next().unwrap_or_else(|| panic!("an open value: {line}")) {
                (at, '"') => break at,
                (_, '\\') => match characters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, plain @ ('\\' | '"'))) => value.push(plain),
                    _ => panic!("a strange escape: {line}"),
                },
                (_, character) => value.push(character),
            }
        };
        assert!(labels.iter().all(|(known, _)| known != name), "a label twice: {line}");
        labels.push((name.to_owned(), value));
        rest = &after[end + 1..];
        if let Some(after) = rest.strip_prefix('}') {
            labels.sort();
            return (labels, after);
        }
        rest = rest.strip_prefix(',').unwrap_or_else(|| panic!("no comma: {line}"));
    }
}

fn is_name(text: &str) -> bool {
    !text.starts_with(|first: char| first.is_ascii_digit())
        && !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn number(text: &str) -> f64 {
    if text == "+Inf" {
        f64::INFINITY
    } else {
        text.parse().unwrap_or_else(|_| panic!("not a number: {text}"))
    }
}
