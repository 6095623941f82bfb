//! What operators see of publishing.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Desk, Key, Standing};
use crate::telemetry::metrics::Exposition;
use crate::token::store::RedisFault;
use crate::types::AccountName;

/// What operators see of the publisher; does not keep it running.
#[derive(Debug)]
pub struct Figures(Arc<Desk>);

const STANDINGS: [Standing; 4] = [Standing::Ours, Standing::Newer, Standing::Failed, Standing::Unknown];

// === impl Figures ===

impl Figures {
    pub(super) fn of(desk: Arc<Desk>) -> Self {
        Self(desk)
    }

    /// The keys of an account's token, as people may read them, and what stood there at the last look: `current` (our
    /// token), `newer` (another one, which lives longer), `failed` (it could not be written), `unknown`.
    pub fn keys(&self, account: &AccountName) -> Vec<(String, &'static str)> {
        let published = self.0.accounts().get(account).map(Arc::clone);
        let shown = |key: &Key| (key.target.shown.clone(), key.seen().standing.word());
        published.iter().flat_map(|published| &published.keys).map(shown).collect()
    }

    /// Writes the metrics; nothing, where nothing is published.
    pub fn write(&self, to: &mut Exposition) {
        let Some(link) = self.0.link().clone() else { return };
        let name = "weigate_publish_connected";
        to.family(name, "gauge", "1 while there is a connection to the Redis where tokens are published");
        to.sample(name, &[], u64::from(link.is_open()));
        let name = "weigate_publish_keys";
        to.family(
            name,
            "gauge",
            "keys that tokens are published under, by what stood there at the last look",
        );
        let standings: Vec<Standing> = self
            .0
            .all()
            .iter()
            .flat_map(|published| published.keys.iter().map(|key| key.seen().standing).collect::<Vec<_>>())
            .collect();
        for standing in STANDINGS {
            let count = standings.iter().filter(|one| **one == standing).count();
            to.sample(name, &[("standing", standing.word())], u64::try_from(count).unwrap_or(u64::MAX));
        }
        let name = "weigate_publish_writes_total";
        to.family(name, "counter", "tokens written under a key");
        to.sample(name, &[], self.0.written.load(Relaxed));
        let name = "weigate_publish_errors_total";
        to.family(name, "counter", "operations and connections of publishing that failed, by kind");
        for (fault, count) in link.faults().collect::<Vec<(RedisFault, u64)>>() {
            to.sample(name, &[("kind", fault.word())], count);
        }
    }
}

// === impl Standing ===

impl Standing {
    fn word(self) -> &'static str {
        match self {
            Self::Ours => "current",
            Self::Newer => "newer",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}
