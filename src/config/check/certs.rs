//! Checks how clients are told apart by their certificates.

use std::collections::{HashMap, HashSet};

use toml::Spanned;

use super::super::file;
use super::Checker;
use super::files::hex_32;
use super::people::ClientBounds;

/// What clients before this one have.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Where each key's client stands.
    pub(super) keys: HashMap<[u8; 32], usize>,
    pub(super) cert_names: HashSet<String>,
    pub(super) cert_digests: HashSet<[u8; 32]>,
}

impl Checker<'_> {
    /// A client is told from others by its key or its certificate, which it must be able to show.
    pub(super) fn identity(&mut self, client: &Spanned<file::Client>, bounds: ClientBounds) {
        let written = client.get_ref();
        let certificates = [&written.cert_san, &written.cert_sha256];
        if written.key_sha256.is_none() && certificates.iter().all(|list| list.is_none()) {
            let message = "[[clients]] has no `key_sha256`, write what `weigate key NAME` prints, or name the \
                           client's certificate with `cert_san` or `cert_sha256`";
            self.faults.at(client, message);
        }
        for list in certificates.into_iter().flatten() {
            if list.get_ref().is_empty() {
                self.faults.at(list, "an empty list names no certificate, leave it out");
            }
            if !bounds.show_certificates {
                let message =
                    "clients are asked for certificates only where `server.tls` has `client_ca_file`";
                self.faults.at(list, message);
            }
        }
    }

    /// Names as certificates have them: DNS names in lower case, URIs as they are.
    pub(super) fn cert_names(&mut self, list: &file::Texts, taken: &mut HashSet<String>) -> Vec<String> {
        let mut names = Vec::with_capacity(list.get_ref().len());
        for text in list.get_ref() {
            let name = if text.get_ref().contains("://") {
                text.get_ref().clone()
            } else {
                text.get_ref().to_ascii_lowercase()
            };
            if !is_uri(&name) && !is_dns_name(&name) {
                let message = "`cert_san` is not a name that a certificate has, it takes a DNS name without wildcard, \
                               \"orders.internal\", or a URI, \"spiffe://example.org/orders\"";
                self.faults.at(text, message);
            } else if taken.insert(name.clone()) {
                names.push(name);
            } else {
                self.faults.at(text, "a client has this `cert_san` already, each has names of its own");
            }
        }
        names
    }

    pub(super) fn cert_digests(
        &mut self,
        list: &file::Texts,
        taken: &mut HashSet<[u8; 32]>,
    ) -> Vec<[u8; 32]> {
        let mut digests = Vec::with_capacity(list.get_ref().len());
        for text in list.get_ref() {
            // openssl prints colons.
            let Some(digest) = hex_32(&text.get_ref().replace(':', "")) else {
                let message = "`cert_sha256` is not a digest, it takes the 64 hexadecimal digits that `openssl x509 \
                               -noout -fingerprint -sha256` prints";
                self.faults.at(text, message);
                continue;
            };
            if taken.insert(digest) {
                digests.push(digest);
            } else {
                self.faults
                    .at(text, "a client has this `cert_sha256` already, each has certificates of its own");
            }
        }
        digests
    }
}

/// A scheme, and something behind it.
fn is_uri(name: &str) -> bool {
    name.split_once("://").is_some_and(|(scheme, rest)| {
        !scheme.is_empty()
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
            && !rest.is_empty()
            && rest.bytes().all(|byte| byte.is_ascii_graphic())
    })
}

/// Labels of letters, digits, `-` and `_`, and no address (RFC 1123 §2.1).
fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    name.len() <= 253 && name.split('.').all(is_label) && !name.split('.').next_back().is_some_and(is_number)
}
