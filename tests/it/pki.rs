//! Authorities, certificates and TLS clients for tests.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair, SanType, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::bare::Raw;
use crate::harness::write_private;

/// Signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key.
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) pem: String,
    pub(crate) key: KeyPair,
    pub(crate) serial: u64,
}

/// When a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Validity {
    Now,
    Past,
    Future,
}

/// `server.tls` with the files that [`Identity::write_as_server`] writes.
pub(crate) const SERVER_TLS: &str = "tls = { cert_file = \"server.pem\", key_file = \"server.key\" }";

// === impl Authority ===

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        // Two of one name would be taken for each other until their keys are tried.
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("CA {:x}", fastrand::u64(..)));
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    /// A list in PEM that says that these are revoked.
    pub(crate) fn revokes(&self, identities: &[&Identity]) -> String {
        let revoked = identities.iter().map(|identity| rcgen::RevokedCertParams {
            serial_number: identity.serial.into(),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = rcgen::CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2200, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).unwrap().pem().unwrap()
    }

    /// A certificate for these names; `spiffe://…` and its like become URIs.
    pub(crate) fn issue(&self, names: &[&str]) -> Identity {
        self.issue_for(names, Validity::Now)
    }

    /// One that is good for so long.
    pub(crate) fn issue_until(&self, names: &[&str], seconds: u64) -> Identity {
        let mut params = params(names, Validity::Now);
        #[expect(clippy::disallowed_methods, reason = "a certificate's end is wall time")]
        let now = std::time::SystemTime::now();
        let since_1970 = now.duration_since(std::time::UNIX_EPOCH).unwrap();
        let end = since_1970 + std::time::Duration::from_secs(seconds);
        params.not_after = date_time_ymd(1970, 1, 1) + end;
        self.sign(params)
    }

    pub(crate) fn issue_for(&self, names: &[&str], validity: Validity) -> Identity {
        self.sign(params(names, validity))
    }

    /// One that says who it is only where nobody should look.
    pub(crate) fn issue_for_common_name(&self, name: &str) -> Identity {
        let mut params = params(&[], Validity::Now);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Identity {
        let serial = fastrand::u64(1..u64::MAX >> 1);
        params.serial_number = Some(serial.into());
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity { chain: vec![certificate.der().clone()], pem: certificate.pem(), key, serial }
    }
}

/// A certificate that nobody but itself vouches for.
pub(crate) fn self_signed(names: &[&str]) -> Identity {
    let key = KeyPair::generate().unwrap();
    let certificate = params(names, Validity::Now).self_signed(&key).unwrap();
    Identity { chain: vec![certificate.der().clone()], pem: certificate.pem(), key, serial: 0 }
}

fn params(names: &[&str], validity: Validity) -> CertificateParams {
    let (uris, hosts): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| name.contains("://"));
    let hosts: Vec<String> = hosts.into_iter().map(str::to_owned).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.subject_alt_names.extend(uris.into_iter().map(|uri| SanType::URI(uri.try_into().unwrap())));
    match validity {
        Validity::Now => {}
        Validity::Past => {
            (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2001, 1, 1));
        }
        Validity::Future => {
            (params.not_before, params.not_after) = (date_time_ymd(2200, 1, 1), date_time_ymd(2201, 1, 1));
        }
    }
    params
}

// === impl Identity ===

impl Identity {
    /// Puts it where [`SERVER_TLS`] says.
    pub(crate) fn write_as_server(&self, dir: &Path) {
        std::fs::write(dir.join("server.pem"), &self.pem).unwrap();
        write_private(&dir.join("server.key"), &self.key.serialize_pem());
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }
}

/// A client that trusts `authority` and shows `identity`, if any.
pub(crate) fn connector(
    authority: &Authority,
    identity: Option<&Identity>,
    protocols: &[&str],
) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        Some(identity) => {
            builder.with_client_auth_cert(identity.chain.clone(), identity.private_key()).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

/// A connection to `localhost` at `address`.
pub(crate) async fn connect(
    connector: &TlsConnector,
    address: SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    connector.connect(ServerName::try_from("localhost").unwrap(), stream).await
}

/// HTTP/1.1 over TLS, and the server's certificate.
pub(crate) async fn raw(
    connector: &TlsConnector,
    address: SocketAddr,
) -> (Raw<TlsStream<TcpStream>>, CertificateDer<'static>) {
    let stream = connect(connector, address).await.unwrap();
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
    (Raw::over(stream), shown)
}
