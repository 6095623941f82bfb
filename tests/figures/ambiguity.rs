//! The raw probes, with one yardstick for all three: a request is refused, or exactly one request comes out behind,
//! which a strict reader reads in one way; and nothing that hides in it is ever served.
//!
//! weigate is held to more than that, whatever its origin: `probes::h1::judge` and `probes::h2::judge` say what must
//! come of each probe, path tricks and closed connections included.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use weigate::sandbox::{Quotas, Sandbox, SandboxAccount, SandboxOptions};

use crate::fronts::{Kind, Plan};
use crate::origin::{Got, Origin};
use crate::probes::frames::{Frame, Raw};
use crate::probes::{h1, h2};
use crate::table::{Row, Table};
use crate::talk::is_served;

pub(crate) const H1: Row = Row { name: "HTTP/1.1 probes unambiguous", must: "all" };
pub(crate) const H1_STRICT: Row = Row { name: "HTTP/1.1 probes as demanded", must: "all" };
pub(crate) const H2: Row = Row { name: "HTTP/2 probes unambiguous", must: "all" };
pub(crate) const H2_STRICT: Row = Row { name: "HTTP/2 probes as demanded", must: "all" };

/// Fronts that share the probes of one run.
const LANES: usize = 4;

/// Silence after which no more is expected. What is on its way to the origin is waited for in any case.
const QUIET: Duration = Duration::from_millis(150);

pub(crate) async fn measure(table: &Table, kind: Kind) {
    let probes = h1::all();
    let lanes = (0..LANES).map(async |lane| {
        let origin = Origin::start().await;
        let front = Plan::to(&[origin.address]).start(kind).await;
        let mut faults = Vec::new();
        for probe in probes.iter().skip(lane).step_by(LANES) {
            origin.take();
            speak(front.address, &probe.bytes, &origin).await;
            let fault = judge_h1(probe, &origin.take());
            if let Some(fault) = fault {
                faults.push(format!("{}: {fault}", probe.name));
            }
        }
        (faults, is_served(front.address).await)
    });
    report(table, H1, kind, probes.len(), join_all(lanes).await);

    let probes = h2::all();
    let lanes = (0..LANES).map(async |lane| {
        let origin = Origin::start().await;
        let front = Plan { http2: true, ..Plan::to(&[origin.address]) }.start(kind).await;
        let mut faults = Vec::new();
        for probe in probes.iter().skip(lane).step_by(LANES) {
            origin.take();
            let mut raw = Raw::open(front.address, &[]).await;
            raw.send(&probe.frames).await;
            let is_end = |frame: &Frame| frame.ends(1) || frame.goaway().is_some_and(|code| code != 0);
            // Whoever waits for more than the probe has is as good as one who refuses.
            drop(timeout(QUIET * 2, raw.until(is_end)).await);
            drop(raw);
            settle(&origin).await;
            if let Some(fault) = judge_h2(probe, &origin.take()) {
                faults.push(format!("{}: {fault}", probe.name));
            }
        }
        let mut raw = Raw::open(front.address, &[]).await;
        (faults, raw.ping().await)
    });
    report(table, H2, kind, probes.len(), join_all(lanes).await);
}

#[expect(clippy::print_stdout, reason = "which probe it was belongs beside how many")]
fn report(table: &Table, row: Row, kind: Kind, count: usize, lanes: Vec<(Vec<String>, bool)>) {
    let is_well = lanes.iter().all(|(_, is_well)| *is_well);
    let faults: Vec<String> = lanes.into_iter().flat_map(|(faults, _)| faults).collect();
    let shown =
        if kind == Kind::Weigate || std::env::var_os("FIGURES_FAULTS").is_some() { faults.len() } else { 0 };
    for fault in faults.iter().take(shown) {
        println!("  {}: {}: {fault}", row.name, kind.name());
    }
    let ill = if is_well { "" } else { ", serves no more" };
    let text = format!("{} of {count}{ill}", count - faults.len());
    table.note(row, kind, text, faults.is_empty() && is_well);
}

/// Sends, listens, closes its side, listens.
async fn speak(address: SocketAddr, bytes: &[u8], origin: &Origin) {
    let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
    let mut room = vec![0; 64 * 1024];
    let sending = async {
        drop(timeout(QUIET * 4, write.write_all(bytes)).await);
    };
    let hearing = async {
        while timeout(QUIET, read.read(&mut room)).await.is_ok_and(|read| read.is_ok_and(|count| count > 0)) {
        }
    };
    tokio::join!(sending, hearing);
    drop(write.shutdown().await);
    while timeout(QUIET / 2, read.read(&mut room)).await.is_ok_and(|read| read.is_ok_and(|count| count > 0)) {
    }
    settle(origin).await;
}

/// Whatever had arrived when the client left is counted.
async fn settle(origin: &Origin) {
    let mut before = origin.bytes();
    loop {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let now = origin.bytes();
        if now == before {
            return;
        }
        before = now;
    }
}

fn judge_h1(probe: &h1::Probe, got: &[Got]) -> Option<String> {
    use h1::Want::{Either, Here, Once, OnceThenClosed, Refused, RefusedAtEnd, Twice};
    if let Some(fault) = got.iter().find_map(fault_of) {
        return Some(fault);
    }
    let most = if probe.want == Twice { 2 } else { 1 };
    if got.len() > most {
        return Some(format!("{} requests behind", got.len()));
    }
    let body = got.first().map(|got| String::from_utf8_lossy(&got.body).into_owned())?;
    // A body that RFC 9112 §6.3 gives no length may not arrive with one.
    let is_about_body = probe.bytes.starts_with(b"POST");
    let is_right = match probe.want {
        Refused | RefusedAtEnd => !is_about_body,
        Once(wanted) | OnceThenClosed(wanted) => body == wanted,
        Here | Either | Twice => true,
    };
    (!is_right).then(|| format!("sent on with the body {body:?}"))
}

fn judge_h2(probe: &h2::Probe, got: &[Got]) -> Option<String> {
    if let Some(fault) = got.iter().find_map(fault_of) {
        return Some(fault);
    }
    let body = match got {
        [] => return None,
        [one] => String::from_utf8_lossy(&one.body).into_owned(),
        _ => return Some(format!("{} requests behind", got.len())),
    };
    let is_right = match probe.want {
        h2::Want::Once(wanted) => body == wanted,
        h2::Want::Refused | h2::Want::Either => body.is_empty(),
    };
    (!is_right).then(|| format!("sent on with the body {body:?}"))
}

/// What a strict reader behind may not see, whoever sent it.
fn fault_of(got: &Got) -> Option<String> {
    if let Some(fault) = got.fault {
        return Some(format!("behind: {fault}: {:?}", got.line));
    }
    if got.line.contains("smuggled") {
        return Some("what was hidden is served".to_owned());
    }
    let hosts: Vec<_> = got.fields.iter().filter(|(name, _)| name == "host").collect();
    if hosts.len() != 1 {
        return Some(format!("behind: {} Host fields", hosts.len()));
    }
    // RFC 9110 §7.6.1; the last is what a probe nominates, or injects.
    let is_hop = |name: &str, value: &str| match name {
        "keep-alive"
        | "proxy-connection"
        | "proxy-authorization"
        | "upgrade"
        | "http2-settings"
        | "x-secret"
        | "injected" => true,
        "te" => value != "trailers",
        "connection" => !matches!(value.to_lowercase().as_str(), "" | "close" | "keep-alive" | "te"),
        _ => false,
    };
    let hop = got.fields.iter().find(|(name, value)| is_hop(name, value));
    hop.map(|(name, value)| format!("got through: {name}: {value}"))
}

/// weigate alone, judged by what it promises for each probe.
#[expect(clippy::print_stdout, reason = "which probe it was belongs beside how many")]
pub(crate) async fn measure_strictly(table: &Table, _kind: Kind) {
    let sandbox = Sandbox::start(SandboxOptions {
        accounts: vec![SandboxAccount::new("wx0123456789abcdef", "app-secret-of-a-test")],
        quotas: Quotas::Unlimited,
        ..SandboxOptions::default()
    });
    let sandbox = sandbox.await.unwrap();
    let front = Plan::to(&[sandbox.address()]).start(Kind::Weigate).await;
    let mut faults = Vec::new();
    let probes = h1::all();
    for probe in &probes {
        if let Err(fault) = h1::judge(front.address, &sandbox, probe).await {
            faults.push(format!("{}: {fault}", probe.name));
        }
    }
    table.note(H1_STRICT, Kind::Weigate, ratio(&faults, probes.len()), faults.is_empty());
    let mut faults_h2 = Vec::new();
    let probes = h2::all();
    for probe in &probes {
        if let Err(fault) = h2::judge(front.address, &sandbox, probe).await {
            faults_h2.push(format!("{}: {fault}", probe.name));
        }
    }
    table.note(H2_STRICT, Kind::Weigate, ratio(&faults_h2, probes.len()), faults_h2.is_empty());
    for fault in faults.iter().chain(&faults_h2) {
        println!("  {fault}");
    }
}

fn ratio(faults: &[String], count: usize) -> String {
    format!("{} of {count}", count - faults.len())
}
