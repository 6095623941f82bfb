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

/// A text from outside, such as a path: what looks like a credential masked, control characters escaped, cut at
/// [`FIELD_BYTES_MAX`].
///
/// # Why credentials
///
/// `/cgi-bin/menu/get&access_token=…` is a slip of the pen that puts a key into the path, and the path is logged. No
/// path of WeChat's has a word of `CREDENTIAL_BYTES_MIN` characters with a digit in it; keys, placeholders, tokens and
/// AppSecrets are such words.
#[derive(Clone, Copy)]
pub struct Cut<'a>(pub &'a str);

/// A word that is this long and has a digit is taken for a credential: an AppSecret has 32.
const CREDENTIAL_BYTES_MIN: usize = 24;

/// What a client key and a placeholder start with (`clients/key.rs`, `clients/placeholder.rs`): masked whatever their length.
const CREDENTIAL_PREFIXES: [&str; 2] = ["wgk_", "wgt_"];

impl fmt::Display for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut length = 0;
        for character in masked(self.0) {
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

/// The text, word by word, without those that look like a credential.
fn masked(text: &str) -> impl Iterator<Item = char> {
    text.split_inclusive(|character| !is_of_a_word(character)).flat_map(|word| {
        let (bare, end) = word.split_at(word.trim_end_matches(|last| !is_of_a_word(last)).len());
        let shown = if is_credential(bare) { "[masked]" } else { bare };
        shown.chars().chain(end.chars())
    })
}

/// Whether a character may stand in a key, a placeholder, a token or an AppSecret.
fn is_of_a_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.' | '~')
}

fn is_credential(word: &str) -> bool {
    let is_long = word.len() >= CREDENTIAL_BYTES_MIN && word.bytes().any(|byte| byte.is_ascii_digit());
    is_long || CREDENTIAL_PREFIXES.iter().any(|prefix| word.contains(prefix))
}

impl fmt::Debug for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
