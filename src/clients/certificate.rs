//! What a client's certificate says about who it is: its names, and the digest of the whole.
//!
//! Names are those of the extension *subject alternative name*, DNS names and URIs (a SPIFFE ID is a URI). The common
//! name is not one: nobody vouches for its form, and RFC 9525 §2 has done with it. A wildcard is a name like any other,
//! equal to itself alone.

use sha2::{Digest, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate as far as it tells clients apart. That it is genuine is the handshake's affair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// DNS names in lower case, URIs as they are.
    pub names: Vec<String>,
    /// SHA-256 of the certificate in DER, which is what `openssl x509 -fingerprint -sha256` prints.
    pub sha256: [u8; 32],
}

// === impl Certificate ===

impl Certificate {
    /// Reads a certificate. One that has no names, or that cannot be read that far, has its digest all the same.
    pub fn of(der: &[u8]) -> Self {
        let names = X509Certificate::from_der(der).ok().and_then(|(_, certificate)| {
            let names = &certificate.subject_alternative_name().ok()??.value.general_names;
            Some(names.iter().filter_map(name).collect())
        });
        Self { names: names.unwrap_or_default(), sha256: Sha256::digest(der).into() }
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::DNSName(name) = name {
        return Some(name.to_ascii_lowercase());
    }
    if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None }
}
