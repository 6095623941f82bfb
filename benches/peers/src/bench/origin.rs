//! The origin's process, and its certificates.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;

use crate::subject::{Cpus, Wire};
use crate::{Anyhow, Bench};

/// An origin that runs; ends with this value.
pub struct Origin {
    child: Child,
    plain: u16,
    tls: u16,
    h2: u16,
}

/// What it has counted.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    pub good: u64,
    /// Requests without our token: a subject that does not inject.
    pub missing: u64,
    pub dead: u64,
    pub token_calls: u64,
}

impl Origin {
    pub fn start(bench: &Bench, cpus: Cpus) -> Anyhow<Self> {
        let mut command = cpus.command(&bench.origin_binary);
        command.arg(bench.run.join("origin.pem")).arg(bench.run.join("origin.key"));
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
        let ports: Value = serde_json::from_str(&line).map_err(|_| "the origin did not start")?;
        let port =
            |name: &str| ports[name].as_u64().and_then(|port| u16::try_from(port).ok()).ok_or("no port");
        Ok(Self { plain: port("plain")?, tls: port("tls")?, h2: port("h2")?, child })
    }

    pub fn port(&self, wire: Wire) -> u16 {
        match wire {
            Wire::Plain => self.plain,
            Wire::TlsH1 => self.tls,
            Wire::TlsH2 => self.h2,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `/-/state`, or a control call such as `/-/kill`.
    pub fn control(&self, target: &str) -> Anyhow<Counts> {
        let answer = http_close(self.plain, target)?;
        let state: Value = serde_json::from_str(answer.lines().last().unwrap_or_default())?;
        let count = |name: &str| state[name].as_u64().unwrap_or(0);
        Ok(Counts {
            good: count("good"),
            missing: count("missing"),
            dead: count("dead"),
            token_calls: count("token_calls"),
        })
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        // It has nothing to lose; where it is gone already, all the better.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// The origin keeps connections open, whatever it is told: reads to the length it names.
fn http_close(port: u16, target: &str) -> Anyhow<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    write!(stream, "GET {target} HTTP/1.1\r\nHost: origin\r\n\r\n")?;
    let mut bytes = [0; 4096];
    let count = stream.read(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..count]).into_owned())
}

/// Makes an authority and a certificate for the origin, as WeChat's: api.weixin.qq.com, and the address we dial.
pub fn write_certificates(dir: &Path) -> Anyhow<()> {
    if dir.join("origin.key").exists() {
        return Ok(());
    }
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "benchmark authority");
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let names = ["api.weixin.qq.com", "localhost", "127.0.0.1"].map(str::to_owned);
    let certificate = CertificateParams::new(names.to_vec())?.signed_by(&key, &ca)?;
    fs::write(dir.join("ca.pem"), ca.pem())?;
    fs::write(dir.join("origin.pem"), certificate.pem())?;
    fs::write(dir.join("origin.key"), key.serialize_pem())?;
    Ok(())
}
