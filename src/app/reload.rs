//! What a reload changes and what it leaves alone, and what is told about reloads and the server's certificate.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::config::{Config, EXPIRY_NEAR, PublishFormat};
use crate::telemetry::metrics::Exposition;
use crate::types::{AccountName, UnixSeconds};

/// How the last reload ended, and until when the server's certificate is good. Shared with whoever shows it.
#[derive(Debug)]
pub(super) struct Standing {
    is_good: AtomicBool,
    /// When a configuration was last put in force, in seconds since 1970; the start counts.
    good_at: AtomicU64,
    good: AtomicU64,
    refused: AtomicU64,
    /// In seconds since 1970; 0: no TLS.
    certificate_expires_at: AtomicU64,
}

/// How often the certificate's end is looked at.
const LOOK_AT_CERTIFICATE_EVERY: Duration = Duration::from_hours(6);

// === impl Standing ===

impl Standing {
    pub(super) fn new(config: &Config) -> Self {
        let standing = Self {
            is_good: AtomicBool::new(true),
            good_at: AtomicU64::new(UnixSeconds::now().0),
            good: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            certificate_expires_at: AtomicU64::new(0),
        };
        standing.has_certificate_of(config);
        standing
    }

    /// `config` is in force now.
    pub(super) fn reloaded(&self, config: &Config) {
        self.has_certificate_of(config);
        self.is_good.store(true, Ordering::Relaxed);
        self.good_at.store(UnixSeconds::now().0, Ordering::Relaxed);
        self.good.fetch_add(1, Ordering::Relaxed);
    }

    /// A configuration was turned down.
    pub(super) fn refused(&self) {
        self.is_good.store(false, Ordering::Relaxed);
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    fn has_certificate_of(&self, config: &Config) {
        let expires_at = config.server.tls.as_ref().map_or(0, |tls| tls.expires_at.0);
        self.certificate_expires_at.store(expires_at, Ordering::Relaxed);
    }

    fn certificate_lives(&self, now: UnixSeconds) -> Option<Duration> {
        let expires_at = self.certificate_expires_at.load(Ordering::Relaxed);
        (expires_at > 0).then(|| UnixSeconds(expires_at).since(now))
    }

    pub(super) fn write_metrics(&self, to: &mut Exposition) {
        to.family("weigate_config_reload_successful", "gauge", "1 if the last reload, or the start, was");
        let is_good = self.is_good.load(Ordering::Relaxed);
        to.sample("weigate_config_reload_successful", &[], u8::from(is_good));
        let name = "weigate_config_reload_success_timestamp_seconds";
        to.family(name, "gauge", "when the configuration in force was put in force");
        to.sample(name, &[], self.good_at.load(Ordering::Relaxed));
        let name = "weigate_config_reloads_total";
        to.family(name, "counter", "reloads, by result");
        to.sample(name, &[("result", "done")], self.good.load(Ordering::Relaxed));
        to.sample(name, &[("result", "refused")], self.refused.load(Ordering::Relaxed));
        if let Some(left) = self.certificate_lives(UnixSeconds::now()) {
            let name = "weigate_server_certificate_expires_in_seconds";
            to.family(name, "gauge", "how long the server's certificate is still good; 0: it is not");
            to.sample(name, &[], left.as_secs());
        }
    }
}

/// Warns while the server's certificate is near its end, or past it. The start and a reload have warnings of their own.
pub(super) async fn watch_certificate(standing: Arc<Standing>) {
    loop {
        tokio::time::sleep(LOOK_AT_CERTIFICATE_EVERY).await;
        if let Some(left) = standing.certificate_lives(UnixSeconds::now()).filter(|left| *left < EXPIRY_NEAR)
        {
            let hours_left = left.as_secs() / 3600;
            tracing::warn!(hours_left, "the server's certificate is about to expire, or has");
        }
    }
}

/// The settings that differ between two configurations and cannot change while running.
pub(super) fn fixed_changes(before: &Config, after: &Config) -> Vec<&'static str> {
    let differs = [
        ("server.listen", before.server.listen != after.server.listen),
        ("server.socket_mode", before.server.socket_mode != after.server.socket_mode),
        ("server.tls on or off", before.server.tls.is_some() != after.server.tls.is_some()),
        ("server.workers", before.server.workers != after.server.workers),
        (
            "server.limits.connections_max",
            before.server.limits.connections_max != after.server.limits.connections_max,
        ),
        ("admin", before.admin != after.admin),
        ("upstream", before.upstream != after.upstream),
        ("store", format!("{:?}", before.store) != format!("{:?}", after.store)),
        ("store.replicas", before.replicas != after.replicas),
        (
            "placeholder",
            before.placeholder_key.as_ref().map(|key| *key.0)
                != after.placeholder_key.as_ref().map(|key| *key.0),
        ),
        ("log", before.log != after.log),
    ];
    differing(differs)
}

/// `after`, with what cannot change while running as it is.
pub(super) fn without_fixed_changes(before: &Config, after: Config) -> Config {
    let mut config = Config {
        admin: before.admin.clone(),
        upstream: before.upstream.clone(),
        store: before.store.clone(),
        replicas: before.replicas,
        placeholder_key: before.placeholder_key.clone(),
        log: before.log,
        ..after
    };
    config.server.listen.clone_from(&before.server.listen);
    config.server.socket_mode = before.server.socket_mode;
    config.server.workers = before.server.workers;
    config.server.limits.connections_max = before.server.limits.connections_max;
    if before.server.tls.is_some() != config.server.tls.is_some() {
        config.server.tls.clone_from(&before.server.tls);
    }
    share_accounts(before, &mut config);
    config
}

/// Accounts that stay what they are keep their place in memory too, which their keepers share.
fn share_accounts(before: &Config, after: &mut Config) {
    let before: HashMap<_, _> = before.accounts.iter().map(|account| (&account.name, account)).collect();
    for account in &mut after.accounts {
        if let Some(same) = before
            .get(&account.name)
            .filter(|before| before.is_same(account) && before.publish == account.publish)
        {
            *account = Arc::clone(same);
        }
    }
}

/// What a reload from `before` to `after` changes.
pub(super) fn changes(before: &Config, after: &Config) -> Vec<&'static str> {
    let differs = [
        ("server.tls", before.server.tls != after.server.tls),
        ("server.watch_files", before.server.watch_files != after.server.watch_files),
        ("server.spool_dir", before.server.spool_dir != after.server.spool_dir),
        ("server.limits", before.server.limits != after.server.limits),
        ("accounts", !same_accounts(before, after)),
        ("publish", before.publish != after.publish || !published(before).eq(published(after))),
        ("clients", before.clients != after.clients),
    ];
    differing(differs)
}

fn same_accounts(before: &Config, after: &Config) -> bool {
    let (before, after) = (&before.accounts, &after.accounts);
    before.len() == after.len() && before.iter().zip(after).all(|(before, after)| before.is_same(after))
}

fn published(config: &Config) -> impl Iterator<Item = (&AccountName, &[PublishFormat])> {
    let publishing = config.accounts.iter().filter(|account| !account.publish.is_empty());
    publishing.map(|account| (&account.name, &*account.publish))
}

fn differing<const N: usize>(differs: [(&'static str, bool); N]) -> Vec<&'static str> {
    differs.into_iter().filter(|(_, differs)| *differs).map(|(setting, _)| setting).collect()
}
