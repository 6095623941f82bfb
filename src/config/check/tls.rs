//! Checks the server's certificate, its key, and whom clients' certificates must come from.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use toml::Spanned;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::super::{EXPIRY_NEAR, PrivateKeyPem, ServerTls, file};
use super::Checker;
use crate::types::UnixSeconds;

impl Checker<'_> {
    /// The server's certificate with its key; both must belong together.
    pub(super) fn tls(&mut self, file: &file::Tls) -> Option<ServerTls> {
        let client_ca = file.client_ca_file.as_ref();
        let client_ca_pem = client_ca.and_then(|path| self.authorities("server.tls.client_ca_file", path));
        let client_ca_file = client_ca.and_then(|path| self.path("server.tls.client_ca_file", path));
        let client_crl_pem = file.client_crl_file.as_ref().and_then(|path| {
            if client_ca.is_none() {
                let message =
                    "`server.tls.client_crl_file` has no use without `client_ca_file`, leave it out";
                self.faults.at(path, message);
            }
            self.read("server.tls.client_crl_file", path).map(|pem| pem.to_vec())
        });
        if let (Some(ca_pem), Some(crl_pem), Some(path)) =
            (&client_ca_pem, &client_crl_pem, &file.client_crl_file)
            && client_verifier(ca_pem, Some(crl_pem)).is_err()
        {
            let message =
                "the file in `server.tls.client_crl_file` holds no list of revoked certificates in PEM";
            self.faults.at(path, message);
        }
        let (cert, key) = (file.cert_file.as_ref()?, file.key_file.as_ref()?);
        let cert_pem = self.read("server.tls.cert_file", cert);
        let key_pem = self.read_private("server.tls.key_file", key);
        let (cert_pem, key_pem) = (cert_pem?, key_pem?);

        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&cert_pem).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        let key_der = PrivateKeyDer::from_pem_slice(&key_pem).ok();
        let signing_key = key_der.and_then(|der| rustls::crypto::ring::sign::any_supported_type(&der).ok());
        if chain.is_none() {
            self.faults.at(cert, "the file in `server.tls.cert_file` holds no certificate in PEM");
        }
        if signing_key.is_none() {
            self.faults.at(key, "the file in `server.tls.key_file` holds no key in PEM that we can use");
        }
        let chain = chain?;
        let expires_at = self.expiry(cert, &chain);
        let pair = CertifiedKey::new(chain, signing_key?);
        match pair.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(_) => {
                let message = "the key in `server.tls.key_file` does not belong to the first certificate in `cert_file`";
                self.faults.at(key, message);
            }
        }
        self.note("server.tls", if client_ca.is_some() { "on, clients show certificates" } else { "on" });
        Some(ServerTls {
            cert_file: self.path("server.tls.cert_file", cert)?,
            cert_pem: cert_pem.to_vec(),
            key_file: self.path("server.tls.key_file", key)?,
            key_pem: PrivateKeyPem::new(key_pem),
            client_ca_file,
            client_ca_pem,
            client_crl_pem,
            expires_at: expires_at?,
        })
    }

    /// When the first of `chain` ends that does. One that has ended is warned about and used all the same: what
    /// clients make of it is theirs to say.
    fn expiry(&mut self, cert: &Spanned<String>, chain: &[CertificateDer<'_>]) -> Option<UnixSeconds> {
        let ends = chain.iter().map(|der| {
            let (_, certificate) = X509Certificate::from_der(der).ok()?;
            // Before 1970 is as good as 1970.
            let seconds = certificate.validity().not_after.timestamp();
            Some(UnixSeconds(u64::try_from(seconds).unwrap_or(0)))
        });
        let ends: Option<Vec<UnixSeconds>> = ends.collect();
        let Some(first) = ends.and_then(|ends| ends.into_iter().min()) else {
            self.faults
                .at(cert, "the file in `server.tls.cert_file` holds a certificate that cannot be read");
            return None;
        };
        let left = first.since(UnixSeconds::now());
        if left.is_zero() {
            self.faults.warn(cert, "a certificate in `server.tls.cert_file` has expired");
        } else if left < EXPIRY_NEAR {
            let days = left.as_secs() / 86_400;
            let message = format!("a certificate in `server.tls.cert_file` expires in {days} days");
            self.faults.warn(cert, message);
        }
        Some(first)
    }
}

/// Whose certificates to trust cannot be read from these files.
#[derive(Debug, thiserror::Error)]
#[error("clients' certificates cannot be judged by `client_ca_file` and `client_crl_file`")]
pub struct ClientTrustError;

/// What judges clients' certificates: they are of an authority in `ca_pem`, good at the time, and not in a list of
/// `crl_pem`, which then has one for each authority on the way. (A list past its date is used on: what it revokes stays
/// revoked.)
pub fn client_verifier(
    ca_pem: &[u8],
    crl_pem: Option<&[u8]>,
) -> Result<Arc<dyn ClientCertVerifier>, ClientTrustError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem) {
        roots.add(certificate.map_err(|_| ClientTrustError)?).map_err(|_| ClientTrustError)?;
    }
    let lists: Result<Vec<_>, _> =
        CertificateRevocationListDer::pem_slice_iter(crl_pem.unwrap_or_default()).collect();
    let lists = lists.map_err(|_| ClientTrustError)?;
    if crl_pem.is_some() && lists.is_empty() {
        return Err(ClientTrustError);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).with_crls(lists);
    builder.build().map_err(|_| ClientTrustError)
}
