//! What weigate in front of the sandbox must make of each probe.

use std::net::SocketAddr;

use weigate::sandbox::{Sandbox, SeenRequest};

use super::{Probe, Want};
use crate::probes::{Answer, PATH, Then, answers, brought, is_well, try_talk};

/// Fields that end at weigate, whatever the client wrote.
const NEVER: [&str; 17] = [
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "expect",
    "authorization",
    "proxy-authorization",
    "proxy-connection",
    "x-secret",
    "forwarded",
    "x-forwarded-for",
    "x-weigate-error",
    "content_length",
    "transfer_encoding",
];

/// Sends the probe to weigate in front of the sandbox.
pub(crate) async fn judge(address: SocketAddr, wechat: &Sandbox, probe: &Probe) -> Result<(), String> {
    wechat.control().clear_requests();
    let then = match probe.want {
        Want::Refused | Want::OnceThenClosed(_) => Then::Wait,
        Want::RefusedAtEnd | Want::Here | Want::Once(_) | Want::Twice | Want::Either => Then::HalfClose,
    };
    let bytes = try_talk(address, &probe.bytes, then).await.ok_or("not closed")?;
    let is_h2 = probe.bytes.starts_with(b"PRI");
    let answers = if is_h2 { Vec::new() } else { answers(&bytes, probe.bytes.starts_with(b"HEAD")) };
    if !is_well(address).await {
        return Err("the next client is not served".to_owned());
    }
    let mut seen = brought(wechat);
    seen.retain(|request| !request.raw_query.contains("openid=after"));
    let said = format!("{answers:?} {seen:?}");
    for request in &seen {
        check_request(request, wechat).map_err(|fault| format!("{fault}: {said}"))?;
    }
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    let is_right = match probe.want {
        Want::Refused | Want::RefusedAtEnd => is_refusal(&answers) && seen.is_empty(),
        Want::Here => statuses == [200] && seen.is_empty(),
        Want::Once(body) => statuses == [200] && is_one(&seen, body),
        Want::OnceThenClosed(body) => {
            statuses.first() == Some(&200) && is_refusal(&answers[1..]) && is_one(&seen, body)
        }
        Want::Twice => statuses == [200, 200] && seen.len() == 2,
        Want::Either => {
            (is_refusal(&answers) && seen.is_empty()) || (answers.len() == 1 && is_one(&seen, ""))
        }
    };
    if is_right { Ok(()) } else { Err(said) }
}

/// One no at the most; ours has a word that says why.
fn is_refusal(answers: &[Answer]) -> bool {
    let is_no = |answer: &Answer| {
        answer.status >= 400 && (answer.field("x-weigate-error").is_some() || answer.body.is_empty())
    };
    answers.len() <= 1 && answers.iter().all(is_no)
}

fn is_one(seen: &[SeenRequest], body: &str) -> bool {
    matches!(seen, [request] if request.body_head == body && request.body_bytes == body.len() as u64)
}

/// What WeChat got is what a strict reader sees, and nothing that was between the client and us.
fn check_request(request: &SeenRequest, wechat: &Sandbox) -> Result<(), String> {
    if request.path != PATH {
        return Err(format!("path {}", request.path));
    }
    let tokens = request.query.iter().filter(|(name, _)| name == "access_token").count();
    let others: Vec<_> = request.query.iter().filter(|(name, _)| name != "access_token").collect();
    if tokens != 1 || others != [&("openid".to_owned(), "probe".to_owned())] {
        return Err(format!("query {}", request.raw_query));
    }
    let values = |name: &str| -> Vec<&str> {
        request.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.trim()).collect()
    };
    if values("host") != [wechat.address().to_string()] {
        return Err(format!("host {:?}", values("host")));
    }
    if let Some(name) = NEVER.iter().find(|name| !values(name).is_empty()) {
        return Err(format!("{name} got through"));
    }
    let lengths = values("content-length");
    let is_framed = match request.body_bytes {
        0 => lengths.is_empty() || lengths == ["0"],
        length => lengths == [length.to_string()],
    };
    if is_framed { Ok(()) } else { Err(format!("content-length {lengths:?}")) }
}
