//! A property through the whole proxy: whatever the method, path, query, fields, body and framing, WeChat gets what the
//! client sent, but for `access_token`.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use crate::bare::{Bare, Raw, reply_with};
use crate::harness::{CLIENT_KEY, Setup};

/// Requests made up; each takes about a millisecond.
const CASES: usize = 600;

#[derive(Debug, Clone)]
enum Parameter {
    Kept(String),
    /// One of the ways to say `access_token`.
    Taken(String),
}

#[derive(Debug, Clone)]
struct Made {
    method: &'static str,
    path: String,
    query: Option<Vec<Parameter>>,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    /// `None`: with a length.
    chunks_of: Option<usize>,
}

fn path() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => "[A-Za-z0-9_~!$'()*+,:@&=-]{1,8}",
        1 => "[a-z]{1,3}\\.[a-z]{1,3}",
        1 => "%[46][1-9A-Fa-f]",
        1 => "(%E5%be%ae|%e4%bf%A1)",
    ];
    let segment = vec(piece, 1..4).prop_map(|pieces| pieces.concat());
    vec(segment, 0..5).prop_map(|segments| format!("/wxa/{}", segments.join("/")))
}

fn parameter() -> impl Strategy<Value = Parameter> {
    prop_oneof![
        5 => "[a-zA-Z0-9_.\\[\\]+-]{0,10}=[a-zA-Z0-9_.~!$'()*+,:@/?-]{0,20}".prop_map(Parameter::Kept),
        2 => "[a-z]{1,4}(%[0-9a-fA-F]{2}){0,3}=(%[0-9a-fA-F]{2}){0,5}=?".prop_map(Parameter::Kept),
        1 => "[b-z]{0,6}".prop_map(Parameter::Kept),
        1 => "(access_token|access%5ftoken|%61ccess_token|acces%73_toke%6E)(=[a-zA-Z0-9%_-]{0,12})?"
            .prop_map(Parameter::Taken),
    ]
}

fn made() -> impl Strategy<Value = Made> {
    let method = prop::sample::select(vec!["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]);
    // A name that nobody gives a meaning to.
    let field = ("x-[a-z]{1,3}-[a-z0-9_.!#$%&'*+^`|~-]{1,8}", "([!-~]([ -~]{0,30}[!-~])?)?");
    let body = prop_oneof![2 => vec(any::<u8>(), 0..300), 1 => vec(any::<u8>(), 60_000..70_000)];
    (
        method,
        path(),
        prop::option::of(vec(parameter(), 0..6)),
        vec(field, 0..6),
        body,
        prop::option::of(1_usize..5_000),
    )
        .prop_map(|(method, path, query, fields, body, chunks_of)| Made {
            method,
            path,
            query,
            fields,
            body,
            chunks_of,
        })
}

impl Made {
    fn target(&self) -> String {
        let Some(query) = &self.query else { return self.path.clone() };
        let pairs = query.iter().map(|(Parameter::Kept(text) | Parameter::Taken(text))| text.as_str());
        format!("{}?{}", self.path, pairs.collect::<Vec<_>>().join("&"))
    }

    /// What WeChat is to see.
    fn sent_target(&self) -> String {
        let kept = self.query.iter().flatten().filter_map(|parameter| match parameter {
            Parameter::Kept(text) => Some(text.as_str()),
            Parameter::Taken(_) => None,
        });
        let mut pairs: Vec<&str> = kept.collect();
        // `?` alone is a query of nothing.
        if pairs == [""] && self.query.as_ref().is_some_and(|query| query.len() == 1) {
            pairs.clear();
        }
        pairs.push("access_token=bare-token-1");
        format!("{}?{}", self.path, pairs.join("&"))
    }

    fn request(&self) -> Vec<u8> {
        let framing = match self.chunks_of {
            Some(_) => "transfer-encoding: chunked".to_owned(),
            None => format!("content-length: {}", self.body.len()),
        };
        let fields: Vec<String> =
            self.fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let mut request = format!(
            "{} {} HTTP/1.1\r\nhost: weigate\r\n{fields}authorization: Bearer {CLIENT_KEY}\r\n{framing}\r\n\r\n",
            self.method,
            self.target(),
            fields = fields.concat(),
        )
        .into_bytes();
        let Some(size) = self.chunks_of else {
            request.extend(&self.body);
            return request;
        };
        for chunk in self.body.chunks(size) {
            request.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            request.extend(chunk);
            request.extend(b"\r\n");
        }
        request.extend(b"0\r\n\r\n");
        request
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wechat_gets_what_the_client_sent_but_for_the_token() {
    let wechat = Bare::start(|_| reply_with("200 OK", "", "{}")).await;
    let proxy = Setup::new().start_at(&wechat.base_url()).await;
    let mut runner = TestRunner::deterministic();
    let mut client = Raw::connect(proxy.address).await;
    for case in 0..CASES {
        let made = made().new_tree(&mut runner).unwrap().current();
        let shown = format!("case {case}: {} {} {:?}", made.method, made.target(), made.fields);
        client.send(made.request()).await;
        let reply = client.reply().await;
        assert_eq!(reply.status, 200, "{shown}\n{reply:?}");
        let seen = wechat.take_seen();
        assert_eq!(seen.len(), 1, "{shown}");
        let line = format!("{} {} HTTP/1.1", made.method, made.sent_target());
        assert_eq!(seen[0].head.lines().next().unwrap(), line, "{shown}");
        let fields: Vec<(String, String)> = (seen[0].head.lines().skip(1))
            .filter_map(|line| line.split_once(": "))
            .filter(|(name, _)| name.starts_with("x-"))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        assert_eq!(fields, made.fields, "{shown}");
        assert!(seen[0].body == made.body, "{shown}: {} bytes of {}", seen[0].body.len(), made.body.len());
    }
}
