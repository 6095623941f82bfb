//! The file as written: every setting there is, each with its place, nothing filled in and nothing judged.
//!
//! Numbers carry their unit in their name. Whoever adds a setting adds it here, in `check`, and in `proxy.toml`,
//! where a test misses it otherwise.

use toml::Spanned;
use toml::de::DeTable;

use super::error::Faults;
use super::reader::{SecretSource, Section};

/// A list of texts with its own place and that of each text.
pub(super) type Texts = Spanned<Vec<Spanned<String>>>;

#[derive(Debug)]
pub(super) struct File {
    pub(super) server: Server,
    pub(super) admin: Admin,
    pub(super) upstream: Upstream,
    pub(super) store: Store,
    pub(super) publish: Publish,
    pub(super) placeholder_key: Option<SecretSource>,
    pub(super) log: Log,
    pub(super) include_dir: Option<Spanned<String>>,
    /// Its own, then those of each included file.
    pub(super) people: Vec<People>,
}

/// What one text says of accounts and clients.
#[derive(Debug)]
pub(super) struct People {
    /// Which text, by its place among the sources.
    pub(super) source: usize,
    /// `None`: something is there, and it is not a list of sections.
    pub(super) accounts: Option<Vec<Spanned<Account>>>,
    pub(super) clients: Vec<Spanned<Client>>,
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) listen: Option<Texts>,
    pub(super) socket_mode: Option<Spanned<String>>,
    pub(super) tls: Option<Tls>,
    pub(super) watch_files: Option<Spanned<bool>>,
    pub(super) workers: Option<Spanned<u64>>,
    pub(super) allow_anonymous: Option<Spanned<bool>>,
    pub(super) spool_dir: Option<Spanned<String>>,
    pub(super) limits: Limits,
}

#[derive(Debug)]
#[expect(clippy::struct_field_names, reason = "the names are those of the settings")]
pub(super) struct Tls {
    pub(super) cert_file: Option<Spanned<String>>,
    pub(super) key_file: Option<Spanned<String>>,
    pub(super) client_ca_file: Option<Spanned<String>>,
    pub(super) client_crl_file: Option<Spanned<String>>,
}

#[derive(Debug)]
pub(super) struct Limits {
    pub(super) connections_max: Option<Spanned<u64>>,
    pub(super) handshake_ms_max: Option<Spanned<u64>>,
    pub(super) header_ms_max: Option<Spanned<u64>>,
    pub(super) header_bytes_max: Option<Spanned<u64>>,
    pub(super) headers_max: Option<Spanned<u64>>,
    pub(super) idle_ms_max: Option<Spanned<u64>>,
    pub(super) requests_per_connection_max: Option<Spanned<u64>>,
    pub(super) held_memory_bytes_max: Option<Spanned<u64>>,
    pub(super) body_bytes_max: Option<Spanned<u64>>,
    pub(super) body_bytes_per_s_min: Option<Spanned<u64>>,
    pub(super) request_ms_max: Option<Spanned<u64>>,
    pub(super) stall_ms_max: Option<Spanned<u64>>,
    pub(super) drain_ms_max: Option<Spanned<u64>>,
    pub(super) token_waiters_max: Option<Spanned<u64>>,
}

#[derive(Debug)]
pub(super) struct Admin {
    pub(super) enabled: Option<Spanned<bool>>,
    pub(super) listen: Option<Spanned<String>>,
    pub(super) socket_mode: Option<Spanned<String>>,
    pub(super) allow_remote: Option<Spanned<bool>>,
    pub(super) metrics_accounts_max: Option<Spanned<u64>>,
}

#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) hosts: Option<Texts>,
    pub(super) wecom_hosts: Option<Texts>,
    pub(super) ca_file: Option<Spanned<String>>,
    pub(super) http2: Option<Spanned<bool>>,
    pub(super) connect_ms_max: Option<Spanned<u64>>,
    pub(super) idle_ms_max: Option<Spanned<u64>>,
    pub(super) idle_connections_max: Option<Spanned<u64>>,
    pub(super) connections_max: Option<Spanned<u64>>,
}

#[derive(Debug)]
pub(super) struct Store {
    pub(super) kind: Option<Spanned<String>>,
    pub(super) dir: Option<Spanned<String>>,
    pub(super) replicas: Option<Spanned<u64>>,
    pub(super) url: Option<SecretSource>,
    pub(super) prefix: Option<Spanned<String>>,
    pub(super) op_ms_max: Option<Spanned<u64>>,
    pub(super) ca_file: Option<Spanned<String>>,
    pub(super) seal_key: Option<SecretSource>,
}

#[derive(Debug)]
pub(super) struct Publish {
    pub(super) url: Option<SecretSource>,
    pub(super) op_ms_max: Option<Spanned<u64>>,
    pub(super) ca_file: Option<Spanned<String>>,
}

#[derive(Debug)]
pub(super) struct Log {
    pub(super) format: Option<Spanned<String>>,
    pub(super) level: Option<Spanned<String>>,
    pub(super) access: Option<Spanned<bool>>,
}

#[derive(Debug)]
pub(super) struct Account {
    pub(super) name: Option<Spanned<String>>,
    pub(super) app_id: Option<Spanned<String>>,
    pub(super) app_secret: Option<SecretSource>,
    pub(super) grant: Option<Spanned<String>>,
    pub(super) publish: Option<Texts>,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) name: Option<Spanned<String>>,
    pub(super) key_sha256: Option<Spanned<String>>,
    pub(super) cert_san: Option<Texts>,
    pub(super) cert_sha256: Option<Texts>,
    pub(super) accounts: Option<Texts>,
    pub(super) allow: Option<Texts>,
    pub(super) requests_per_s: Option<Spanned<u64>>,
    pub(super) requests_at_once_max: Option<Spanned<u64>>,
    pub(super) streamed_body_bytes_max: Option<Spanned<u64>>,
}

/// What to do with a Redis's URL.
const URL_CURE: &str = "never stands in this file, since it holds a password: put the URL into a variable of the \
                        environment or a file of its own, and name it with `url_env` or `url_file`";

// === impl File ===

impl File {
    /// Reads a document; what cannot be read is absent, and a fault.
    pub(super) fn read(table: &Spanned<DeTable<'_>>, faults: &mut Faults) -> Self {
        Section::document("the top level", table, faults, |section| Self {
            include_dir: section.text("include_dir"),
            server: section.inside("server", "[server]", Server::read),
            admin: section.inside("admin", "[admin]", Admin::read),
            upstream: section.inside("upstream", "[upstream]", Upstream::read),
            store: section.inside("store", "[store]", Store::read),
            publish: section.inside("publish", "[publish]", Publish::read),
            placeholder_key: section
                .inside("placeholder", "[placeholder]", |section| section.secret("key_env", "key_file")),
            log: section.inside("log", "[log]", Log::read),
            people: vec![People::read(section, 0)],
        })
    }
}

// === impl People ===

impl People {
    /// Reads an included document, which holds nothing else.
    pub(super) fn included<'t>(table: &'t Spanned<DeTable<'t>>, source: usize, faults: &mut Faults) -> Self {
        Section::document("an included file", table, faults, |section| Self::read(section, source))
    }

    fn read(section: &mut Section<'_, '_>, source: usize) -> Self {
        Self {
            source,
            accounts: section.each("accounts", "[[accounts]]", Account::read),
            clients: section.each("clients", "[[clients]]", Client::read).unwrap_or_default(),
        }
    }
}

// === impl Server ===

impl Server {
    fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            listen: section.one_or_more_texts("listen"),
            socket_mode: section.text("socket_mode"),
            tls: section.inside_if_any("tls", "[server.tls]", |section| Tls {
                cert_file: section.required_text("cert_file", "cert_file = \"server.pem\""),
                key_file: section.required_text("key_file", "key_file = \"server.key\""),
                client_ca_file: section.text("client_ca_file"),
                client_crl_file: section.text("client_crl_file"),
            }),
            watch_files: section.switch("watch_files"),
            workers: section.number("workers"),
            allow_anonymous: section.switch("allow_anonymous"),
            spool_dir: section.text("spool_dir"),
            limits: section.inside("limits", "[server.limits]", Limits::read),
        }
    }
}

// === impl Limits ===

impl Limits {
    fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            connections_max: section.number("connections_max"),
            handshake_ms_max: section.number("handshake_ms_max"),
            header_ms_max: section.number("header_ms_max"),
            header_bytes_max: section.number("header_bytes_max"),
            headers_max: section.number("headers_max"),
            idle_ms_max: section.number("idle_ms_max"),
            requests_per_connection_max: section.number("requests_per_connection_max"),
            held_memory_bytes_max: section.number("held_memory_bytes_max"),
            body_bytes_max: section.number("body_bytes_max"),
            body_bytes_per_s_min: section.number("body_bytes_per_s_min"),
            request_ms_max: section.number("request_ms_max"),
            stall_ms_max: section.number("stall_ms_max"),
            drain_ms_max: section.number("drain_ms_max"),
            token_waiters_max: section.number("token_waiters_max"),
        }
    }
}

// === impl Admin ===

impl Admin {
    fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            enabled: section.switch("enabled"),
            listen: section.text("listen"),
            socket_mode: section.text("socket_mode"),
            allow_remote: section.switch("allow_remote"),
            metrics_accounts_max: section.number("metrics_accounts_max"),
        }
    }
}

// === impl Upstream ===

impl Upstream {
    fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            hosts: section.one_or_more_texts("hosts"),
            wecom_hosts: section.one_or_more_texts("wecom_hosts"),
            ca_file: section.text("ca_file"),
            http2: section.switch("http2"),
            connect_ms_max: section.number("connect_ms_max"),
            idle_ms_max: section.number("idle_ms_max"),
            idle_connections_max: section.number("idle_connections_max"),
            connections_max: section.number("connections_max"),
        }
    }
}

// === impl Store ===

impl Store {
    fn read(section: &mut Section<'_, '_>) -> Self {
        section.refuse("url", URL_CURE);
        section.refuse(
            "seal_key",
            "never stands in this file: put the key into a variable of the environment or a file of its own, and \
             name it with `seal_key_env` or `seal_key_file`",
        );
        Self {
            kind: section.text("kind"),
            dir: section.text("dir"),
            url: section.secret("url_env", "url_file"),
            prefix: section.text("prefix"),
            op_ms_max: section.number("op_ms_max"),
            ca_file: section.text("ca_file"),
            seal_key: section.secret("seal_key_env", "seal_key_file"),
            replicas: section.number("replicas"),
        }
    }
}

// === impl Publish ===

impl Publish {
    fn read(section: &mut Section<'_, '_>) -> Self {
        section.refuse("url", URL_CURE);
        Self {
            url: section.secret("url_env", "url_file"),
            op_ms_max: section.number("op_ms_max"),
            ca_file: section.text("ca_file"),
        }
    }
}

// === impl Log ===

impl Log {
    fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            format: section.text("format"),
            level: section.text("level"),
            access: section.switch("access"),
        }
    }
}

// === impl Account ===

impl Account {
    fn read(section: &mut Section<'_, '_>) -> Self {
        section.refuse(
            "app_secret",
            "never stands in this file: put the secret into a variable of the environment or a file of its own, and \
             name it with `app_secret_env` or `app_secret_file`",
        );
        for (key, cure) in [
            ("corp_id", "is called `app_id` here: an account of 企业微信 has its corpid there"),
            ("corp_secret_env", "is called `app_secret_env` here, for 企业微信 too"),
            ("corp_secret_file", "is called `app_secret_file` here, for 企业微信 too"),
        ] {
            section.refuse(key, cure);
        }
        Self {
            name: section.required_text("name", "name = \"shop\""),
            app_id: section.required_text("app_id", "app_id = \"wx0123456789abcdef\""),
            app_secret: section.required_secret("app_secret_env", "app_secret_file"),
            grant: section.text("grant"),
            publish: section.one_or_more_texts("publish"),
        }
    }
}

// === impl Client ===

impl Client {
    fn read(section: &mut Section<'_, '_>) -> Self {
        section.refuse(
            "key",
            "never stands in this file: `weigate key NAME` makes a key and prints the `key_sha256` that does",
        );
        Self {
            name: section.required_text("name", "name = \"orders\""),
            key_sha256: section.text("key_sha256"),
            cert_san: section.one_or_more_texts("cert_san"),
            cert_sha256: section.one_or_more_texts("cert_sha256"),
            accounts: section.required_texts("accounts", "accounts = [\"shop\"]"),
            allow: section.texts("allow"),
            requests_per_s: section.number("requests_per_s"),
            requests_at_once_max: section.number("requests_at_once_max"),
            streamed_body_bytes_max: section.number("streamed_body_bytes_max"),
        }
    }
}
