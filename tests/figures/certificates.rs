//! TLS on both sides: upstream certificates that must be refused, and what sslyze thinks of the listener.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use crate::fronts::{Kind, Plan, write_private};
use crate::origin::{Origin, Ways};
use crate::table::{Row, Table};
use crate::talk::{Conn, get, is_served};

pub(crate) const REFUSED: Row =
    Row { name: "bad upstream certificates: refused, bytes sent", must: "5 of 5, 0" };
pub(crate) const SSLYZE: Row =
    Row { name: "sslyze, Mozilla intermediate", must: "compliant but for the test CA" };

/// What an upstream certificate says.
struct Bad {
    name: &'static str,
    host: &'static str,
    /// From and until, by year.
    years: (i32, i32),
    signed_by: Signed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Signed {
    Ours,
    Another,
    Itself,
}

const GOOD: Bad = Bad { name: "good", host: "upstream.test", years: (2020, 2200), signed_by: Signed::Ours };

const BAD: [Bad; 5] = [
    Bad { name: "expired", years: (2020, 2021), ..GOOD },
    Bad { name: "not yet valid", years: (2199, 2200), ..GOOD },
    Bad { name: "another name", host: "another.test", ..GOOD },
    Bad { name: "another authority", signed_by: Signed::Another, ..GOOD },
    Bad { name: "self-signed", signed_by: Signed::Itself, ..GOOD },
];

/// A certificate authority.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

// === impl Authority ===

impl Authority {
    fn make(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }
}

fn acceptor(bad: &Bad, ours: &Authority, another: &Authority) -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    // weigate is given an address to go to, the others a name.
    let names = if bad.host == GOOD.host {
        vec![bad.host.to_owned(), "127.0.0.1".to_owned()]
    } else {
        vec![bad.host.to_owned()]
    };
    let mut params = CertificateParams::new(names).unwrap();
    params.not_before = date_time_ymd(bad.years.0, 1, 1);
    params.not_after = date_time_ymd(bad.years.1, 1, 1);
    let made = match bad.signed_by {
        Signed::Ours => params.signed_by(&key, &ours.issuer),
        Signed::Another => params.signed_by(&key, &another.issuer),
        Signed::Itself => params.self_signed(&key),
    };
    let chain: Vec<CertificateDer<'static>> = vec![made.unwrap().der().clone()];
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// The origin is good until the front serves (weigate fetches its token there), and bad in five ways then.
pub(crate) async fn measure_upstream(table: &Table, kind: Kind) {
    let dir = tempfile::tempdir().unwrap();
    let (ours, another) = (Authority::make("ours"), Authority::make("another"));
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, &ours.pem).unwrap();
    let (change, current) = watch::channel(acceptor(&GOOD, &ours, &another));
    let origin = Origin::with(Ways { tls: Some(current), ..Ways::default() }).await;
    let front = Plan { upstream_ca: Some(ca), ..Plan::to(&[origin.address]) }.start(kind).await;
    assert!(is_served(front.address).await, "not even with a good certificate:\n{}", front.log());
    let mut refused = 0;
    let mut taken = Vec::new();
    let before = origin.bytes();
    for bad in &BAD {
        // Ends the connections that were made with the last one.
        change.send_replace(acceptor(bad, &ours, &another));
        sleep(Duration::from_millis(100)).await;
        let mut conn = Conn::open(front.address).await.unwrap();
        let status = conn.ask(get("/cgi-bin/user/info?openid=x").as_bytes()).await;
        if status.is_ok_and(|status| status >= 500) {
            refused += 1;
        } else {
            taken.push(bad.name);
        }
    }
    let bytes = origin.bytes() - before;
    let which = if taken.is_empty() { String::new() } else { format!(" ({})", taken.join(", ")) };
    table.note(REFUSED, kind, format!("{refused} of 5, {bytes}{which}"), refused == 5 && bytes == 0);
}

pub(crate) async fn measure_listener(table: &Table, kind: Kind) {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = certificate(dir.path());
    let origin = Origin::start().await;
    let front = Plan { tls: Some((cert, key)), ..Plan::to(&[origin.address]) }.start(kind).await;
    let target = front.address.to_string();
    let run = move || {
        Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "target/sdk/tls/bin/sslyze",
                "--mozilla_config=intermediate",
                &target,
            ])
            .output()
            .unwrap()
    };
    let done = spawn_blocking(run).await.unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let (_, verdict) = said
        .split_once("COMPLIANCE AGAINST TLS CONFIGURATION")
        .unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&done.stderr)));
    // `* certificate_path_validation: …`, one line for each of Mozilla's checks that fails.
    let failed: Vec<&str> = verdict
        .lines()
        .filter_map(|line| Some(line.trim().strip_prefix("* ")?.split_once(':')?.0))
        .filter(|check| *check != "certificate_path_validation")
        .collect();
    let is_checked = verdict.contains("FAILED - Not compliant") || verdict.contains("OK - Compliant");
    assert!(is_checked, "{verdict}");
    let text = if failed.is_empty() { "compliant".to_owned() } else { format!("not: {}", failed.join(", ")) };
    table.note(SSLYZE, kind, text, failed.is_empty());
}

/// For 127.0.0.1, a quarter long, signed by an authority that sslyze does not know.
fn certificate(dir: &Path) -> (PathBuf, PathBuf) {
    let authority = Authority::make("test CA");
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let today = rustls::pki_types::UnixTime::now().as_secs();
    let days =
        |days: u64| std::time::UNIX_EPOCH + Duration::from_secs(today) + Duration::from_hours(24 * days);
    params.not_before = days(0).into();
    params.not_after = days(90).into();
    let made = params.signed_by(&key, &authority.issuer).unwrap();
    let (cert_file, key_file) = (dir.join("server.pem"), dir.join("server.key"));
    std::fs::write(&cert_file, made.pem() + &authority.pem).unwrap();
    write_private(&key_file, &key.serialize_pem());
    (cert_file, key_file)
}
