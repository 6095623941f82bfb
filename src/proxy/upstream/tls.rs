//! The TLS settings for talking to WeChat, shared by requests and token calls.
//!
//! Certificates are always verified: there is no switch that turns it off, here or in the configuration. Whoever
//! runs a stand-in for WeChat gives its authority's certificate as `ca_file`, which is then trusted *instead of*
//! the public roots.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;

/// Why no TLS settings could be made.
#[derive(Debug, Error)]
pub enum TlsConfigError {
    /// The text is not PEM.
    #[error("the authority file is not PEM")]
    NotPem,
    /// The text is PEM and holds no certificate.
    #[error("the authority file holds no certificate")]
    NoCertificate,
    /// A certificate cannot serve as an authority, or the crypto provider lacks a protocol version.
    #[error("an authority's certificate cannot be used")]
    Unusable(#[source] rustls::Error),
}

/// TLS 1.3 and 1.2, sessions resumed, ALPN `http/1.1` (so that a server that prefers HTTP/2 does not choose it; where
/// it may, `upstream.http2`, that is offered by [`super::Upstream`]).
///
/// `ca_pem` is the content of `upstream.ca_file`: only these authorities are trusted then. `None`: the public ones
/// that `webpki-roots` carries.
pub fn tls_config(ca_pem: Option<&[u8]>) -> Result<ClientConfig, TlsConfigError> {
    let roots = match ca_pem {
        Some(pem) => roots_of(pem)?,
        None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsConfigError::Unusable)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The same, and HTTP/2 is offered before HTTP/1.1.
pub(super) fn offering_http2(config: &ClientConfig) -> ClientConfig {
    let mut config = config.clone();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

fn roots_of(pem: &[u8]) -> Result<RootCertStore, TlsConfigError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| TlsConfigError::NotPem)?;
        roots.add(certificate).map_err(TlsConfigError::Unusable)?;
    }
    if roots.is_empty() { Err(TlsConfigError::NoCertificate) } else { Ok(roots) }
}
