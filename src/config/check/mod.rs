//! From the file form to the checked form; finds every fault before it gives up.
//!
//! A section's check fills in a default where a value is wrong and goes on: the result is thrown away as soon as
//! there is one fault. Judged here is what can be judged without the network; files and variables that the
//! configuration names are read here.

mod certs;
mod files;
mod people;
mod publish;
mod server;
mod store;
mod tls;
mod upstream;

pub(super) use files::why_unreadable;
pub(super) use server::{ADMIN_DEFAULT, METRICS_ACCOUNTS_MAX, SERVER_DEFAULT};
pub use tls::{ClientTrustError, client_verifier};

use std::ffi::OsString;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;

use people::ClientBounds;

use super::error::{Faults, Source};
use super::file::{self, File};
use super::watch::Files;
use super::{Config, Log, LogFormat, Setting};

/// What a check needs at hand.
pub(super) struct Checker<'a> {
    pub(super) faults: Faults,
    /// What is set to another value than the default.
    pub(super) settings: Vec<Setting>,
    /// A variable of the environment by its name.
    pub(super) environment: &'a dyn Fn(&str) -> Option<OsString>,
    /// What has been read, as it was just before.
    pub(super) files: &'a mut Files,
    sources: &'a [Source],
    /// Where relative paths start, in the text that is being judged.
    base_dir: Arc<Path>,
}

impl<'a> Checker<'a> {
    /// Begins with the first of `sources`.
    pub(super) fn new(
        faults: Faults,
        environment: &'a dyn Fn(&str) -> Option<OsString>,
        sources: &'a [Source],
        files: &'a mut Files,
    ) -> Self {
        let base_dir =
            sources.first().map_or_else(|| Path::new(".").into(), |main| Arc::clone(&main.base_dir));
        let mut checker = Self { faults, settings: Vec::new(), environment, files, sources, base_dir };
        checker.enter(0);
        checker
    }

    /// What is judged from here on stands in this text.
    fn enter(&mut self, source: usize) {
        self.faults.enter(source);
        if let Some(source) = self.sources.get(source) {
            self.base_dir = Arc::clone(&source.base_dir);
        }
    }

    /// The checked form; worth something only if no fault has been found by then.
    pub(super) fn check(&mut self, file: &File) -> Config {
        let server = self.server(&file.server, file.people.iter().any(|people| !people.clients.is_empty()));
        let admin = self.admin(&file.admin, &server.listen);
        let upstream = self.upstream(&file.upstream);
        let store = self.store(&file.store);
        let replicas = self.count("store.replicas", file.store.replicas.as_ref(), 1, 1..=1000);
        let placeholder_key = file.placeholder_key.as_ref().and_then(|source| self.placeholder_key(source));
        let log = self.log(&file.log);
        if file.include_dir.is_some() {
            self.note("include_dir", format_args!("{} file(s)", self.sources.len().saturating_sub(1)));
        }
        let is_shared = file.store.kind.as_ref().is_some_and(|kind| kind.get_ref() == "redis");
        let publish = self.publish(&file.publish, &store);
        let mut publishing = Self::publishing(publish.as_ref(), &file.publish, &store);
        let accounts = self.accounts(&file.people, replicas == 1 || is_shared, &mut publishing);
        let publishes = accounts.iter().any(|account| !account.publish.is_empty());
        self.warn_of_nothing_published(&file.publish, publishes);
        let publish = publish.filter(|_| publishes);
        let bounds = ClientBounds {
            body_bytes_max: server.limits.body_bytes_max,
            show_certificates: file.server.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some()),
        };
        let clients = self.clients(&file.people, bounds);
        Config { server, admin, upstream, store, replicas, publish, placeholder_key, log, accounts, clients }
    }

    fn source(&self) -> usize {
        self.faults.source()
    }

    /// Notes a setting that is not its default.
    fn note(&mut self, name: &'static str, value: impl fmt::Display) {
        self.settings.push(Setting { name, value: value.to_string() });
    }

    /// Notes how many there are; of a few, their names.
    fn note_names(&mut self, name: &'static str, names: &[&str]) {
        match names.len() {
            0 => {}
            1..=NAMES_NOTED_MAX => self.note(name, names.join(", ")),
            many => self.note(name, many),
        }
    }

    /// A number within its bounds.
    fn number(
        &mut self,
        name: &'static str,
        given: Option<&Spanned<u64>>,
        default: u64,
        bounds: RangeInclusive<u64>,
    ) -> u64 {
        let Some(given) = given else { return default };
        let number = *given.get_ref();
        if !bounds.contains(&number) {
            let (least, most) = bounds.into_inner();
            self.faults.at(given, format!("`{name}` is out of bounds, it takes {least} to {most}"));
            return default;
        }
        if number != default {
            self.note(name, number);
        }
        number
    }

    fn count(
        &mut self,
        name: &'static str,
        given: Option<&Spanned<u64>>,
        default: usize,
        bounds: RangeInclusive<u64>,
    ) -> usize {
        let number = self.number(name, given, u64::try_from(default).unwrap_or(u64::MAX), bounds);
        usize::try_from(number).unwrap_or(usize::MAX)
    }

    fn span(
        &mut self,
        name: &'static str,
        given: Option<&Spanned<u64>>,
        default: Duration,
        bounds_ms: RangeInclusive<u64>,
    ) -> Duration {
        let default_ms = u64::try_from(default.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.number(name, given, default_ms, bounds_ms))
    }

    fn log(&mut self, file: &file::Log) -> Log {
        let mut log = Log { format: LogFormat::Text, level: tracing::Level::INFO, access: false };
        if let Some(format) = &file.format {
            match format.get_ref().as_str() {
                "text" => {}
                "json" => {
                    self.note("log.format", "json");
                    log.format = LogFormat::Json;
                }
                _ => self.faults.at(format, "`log.format` is \"text\" or \"json\", nothing else"),
            }
        }
        if let Some(level) = &file.level {
            match LEVELS.into_iter().find(|(name, _)| name == level.get_ref()) {
                Some((_, level)) if level == log.level => {}
                Some((name, level)) => {
                    self.note("log.level", name);
                    log.level = level;
                }
                None => self.faults.at(
                    level,
                    "`log.level` is \"error\", \"warn\", \"info\", \"debug\" or \"trace\", nothing else",
                ),
            }
        }
        if file.access.as_ref().is_some_and(|access| *access.get_ref()) {
            self.note("log.access", true);
            log.access = true;
        }
        log
    }
}

/// More names are noted as a number.
const NAMES_NOTED_MAX: usize = 20;

const LEVELS: [(&str, tracing::Level); 5] = [
    ("error", tracing::Level::ERROR),
    ("warn", tracing::Level::WARN),
    ("info", tracing::Level::INFO),
    ("debug", tracing::Level::DEBUG),
    ("trace", tracing::Level::TRACE),
];
