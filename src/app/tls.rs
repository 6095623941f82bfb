//! From the server's checked certificate to what handshakes need.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::AppError;
use crate::config::ServerTls;
use crate::proxy::Tls;

/// What connections accepted from now on speak TLS with.
pub(super) fn server(tls: &ServerTls) -> Result<Arc<Tls>, AppError> {
    let fault = || AppError::ServerTls(rustls::Error::General("not PEM".to_owned()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = tls.client_ca_pem.as_deref().map(verifier).transpose()?;
    let builder = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(AppError::ServerTls)?;
    let builder = match &verifier {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&tls.cert_pem).collect();
    let key = PrivateKeyDer::from_pem_slice(tls.key_pem.expose()).map_err(|_| fault())?;
    let mut server =
        builder.with_single_cert(chain.map_err(|_| fault())?, key).map_err(AppError::ServerTls)?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(Tls { server: Arc::new(server) }))
}

/// What judges clients' certificates.
fn verifier(ca_pem: &[u8]) -> Result<Arc<dyn ClientCertVerifier>, AppError> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem) {
        roots.add(certificate.map_err(|_| AppError::ClientCa)?).map_err(|_| AppError::ClientCa)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map(|verifier| verifier as Arc<dyn ClientCertVerifier>)
        .map_err(|_| AppError::ClientCa)
}
