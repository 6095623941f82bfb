//! From the server's checked certificate to what handshakes need.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::AppError;
use crate::config::{ServerTls, client_verifier};
use crate::proxy::Tls;

/// What connections accepted from now on speak TLS with.
pub(super) fn server(tls: &ServerTls) -> Result<Arc<Tls>, AppError> {
    let fault = || AppError::ServerTls(rustls::Error::General("not PEM".to_owned()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = tls
        .client_ca_pem
        .as_deref()
        .map(|ca| client_verifier(ca, tls.client_crl_pem.as_deref()))
        .transpose()?;
    let builder = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(AppError::ServerTls)?;
    let builder = match &clients {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&tls.cert_pem).collect();
    let key = PrivateKeyDer::from_pem_slice(tls.key_pem.expose()).map_err(|_| fault())?;
    let mut server =
        builder.with_single_cert(chain.map_err(|_| fault())?, key).map_err(AppError::ServerTls)?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(Tls { server: Arc::new(server), clients }))
}
