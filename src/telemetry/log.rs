//! The log: one subscriber, to stderr, for people or as JSON.
//!
//! weigate's own events follow `log.level`; other crates stay at `info` and above, however low that is, since their
//! debug output may show headers and URLs. The access log is the target [`ACCESS`].
//!
//! Field names, the same everywhere: `request_id, client, account, method, path, status, errcode, attempts,
//! generation, elapsed_ms, upstream_ms, sent_bytes, cause, advice`.

use std::fmt;
use std::io::IsTerminal as _;

use tracing::Level;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::config::{Log, LogFormat};

/// The target of the access log's events.
pub const ACCESS: &str = "weigate::access";

/// The longest text from outside that goes into a field, in bytes.
pub const FIELD_BYTES_MAX: usize = 256;

/// Builds the subscriber that `settings` describe. Setting it as the default is the caller's business.
pub fn subscriber(settings: &Log) -> impl tracing::Subscriber + Send + Sync + use<> {
    let own = LevelFilter::from_level(settings.level);
    let access = if settings.access { LevelFilter::DEBUG } else { own };
    let filter = Targets::new()
        .with_default(LevelFilter::from_level(settings.level.min(Level::INFO)))
        .with_target("weigate", own)
        .with_target(ACCESS, access.max(own));
    let writer = BoxMakeWriter::new(std::io::stderr);
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    let layer = match settings.format {
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(false).boxed(),
        LogFormat::Text => layer.with_ansi(std::io::stderr().is_terminal()).boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter))
}

/// A text from outside, cut at [`FIELD_BYTES_MAX`] and with control characters escaped.
#[derive(Clone, Copy)]
pub struct Cut<'a>(pub &'a str);

impl fmt::Display for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut length = 0;
        for character in self.0.chars() {
            length += character.len_utf8();
            if length > FIELD_BYTES_MAX {
                return f.write_str("…");
            }
            if character.is_control() {
                write!(f, "{}", character.escape_default())?;
            } else {
                fmt::Write::write_char(f, character)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
