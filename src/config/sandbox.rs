//! The configuration of `serve --sandbox`: no file, no environment, nothing on disk.

use std::sync::Arc;

use super::check::{ADMIN_DEFAULT, METRICS_ACCOUNTS_MAX, SERVER_DEFAULT};
use super::{
    Account, Admin, Client, ClientAccounts, Config, Limits, ListenAddress, Log, LogFormat, Server, Store,
    Upstream, UpstreamHost, default_workers,
};
use crate::types::{AccountName, AppId, AppSecret, ClientName, GrantKind, NameError};

impl Config {
    /// A proxy on loopback in front of the sandbox at `upstream`, whose certificates come from `ca_pem`.
    ///
    /// The one account, of `app_id` and `app_secret`, and the one client, whose key has the digest `key_sha256`,
    /// are both called `sandbox`.
    pub fn sandbox(
        upstream: UpstreamHost,
        ca_pem: Option<Vec<u8>>,
        app_id: AppId,
        app_secret: AppSecret,
        key_sha256: [u8; 32],
    ) -> Result<Self, NameError> {
        let account = AccountName::parse("sandbox")?;
        let client = Client {
            name: ClientName::parse("sandbox")?,
            key_sha256: Some(key_sha256),
            cert_san: Vec::new(),
            cert_sha256: Vec::new(),
            accounts: ClientAccounts::These(vec![account.clone()]),
            allow: None,
            requests_per_s: None,
            requests_at_once_max: None,
            streamed_body_bytes_max: None,
        };
        Ok(Self {
            server: Server {
                listen: vec![ListenAddress::Tcp(SERVER_DEFAULT)],
                socket_mode: None,
                tls: None,
                watch_files: false,
                workers: default_workers(),
                spool_dir: std::env::temp_dir(),
                limits: Limits::default(),
            },
            admin: Some(Admin {
                listen: ListenAddress::Tcp(ADMIN_DEFAULT),
                socket_mode: None,
                metrics_accounts_max: METRICS_ACCOUNTS_MAX,
            }),
            upstream: Upstream { hosts: vec![upstream], ca_pem, ..Upstream::default() },
            store: Store::Memory,
            replicas: 1,
            publish: None,
            placeholder_key: None,
            log: Log { format: LogFormat::Text, level: tracing::Level::INFO, access: true },
            accounts: vec![Arc::new(Account {
                name: account,
                app_id,
                app_secret,
                grant: GrantKind::default(),
                publish: Box::default(),
            })],
            clients: vec![client],
        })
    }
}
