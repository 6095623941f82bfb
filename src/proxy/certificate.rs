//! The certificate that a connection's client showed, and whose it is.
//!
//! It is read once, at the handshake, and looked up once for each configuration: a reload that removes the client, or
//! gives it another certificate, counts from the next request on. Where the reload brought another authority or list of
//! revoked certificates, the certificate is judged by them anew; where it fails, it names nobody any more.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};

use super::snapshot::Tls;
use super::worker::View;
use crate::clients::{Certificate, Client};
use crate::types::UnixSeconds;

/// What a client showed in its handshake; mostly nothing.
#[derive(Debug, Default)]
pub(super) struct Shown(Option<Box<Inner>>);

struct Inner {
    certificate: Certificate,
    chain: Vec<CertificateDer<'static>>,
    /// By which it was judged.
    tls: Arc<Tls>,
    known: RefCell<Option<Known>>,
}

/// Whose it is under one configuration.
struct Known {
    view: Rc<View>,
    client: Option<Arc<Client>>,
}

// === impl Shown ===

impl Shown {
    /// `chain` passed a handshake under `tls`; empty: no certificate was shown.
    pub(super) fn new(chain: &[CertificateDer<'_>], tls: Arc<Tls>) -> Self {
        Self(chain.first().map(|first| {
            Box::new(Inner {
                certificate: Certificate::of(first),
                chain: chain.iter().map(|der| der.clone().into_owned()).collect(),
                tls,
                known: RefCell::default(),
            })
        }))
    }

    /// The client whose certificate it is.
    pub(super) fn client(&self, view: &Rc<View>) -> Option<Arc<Client>> {
        let inner = self.0.as_ref()?;
        if let Some(known) = inner.known.borrow().as_ref().filter(|known| Rc::ptr_eq(&known.view, view)) {
            return known.client.clone();
        }
        let client = view.snapshot.clients.by_certificate(&inner.certificate).filter(|_| inner.is_good(view));
        let known = Known { view: Rc::clone(view), client: client.cloned() };
        inner.known.borrow_mut().insert(known).client.clone()
    }
}

// === impl Inner ===

impl Inner {
    fn is_good(&self, view: &View) -> bool {
        let Some(tls) = view.snapshot.tls.as_ref() else { return false };
        if Arc::ptr_eq(tls, &self.tls) {
            return true;
        }
        let (Some(verifier), Some((first, rest))) = (&tls.clients, self.chain.split_first()) else {
            return false;
        };
        let now = UnixTime::since_unix_epoch(Duration::from_secs(UnixSeconds::now().0));
        verifier.verify_client_cert(first, rest, now).is_ok()
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}
