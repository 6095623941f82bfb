//! What is wrong with a configuration, and where.
//!
//! A fault says its place and what would be right; it never repeats a value of the file, since any of them could be
//! a secret in the wrong place. Texts here are made of our own words, names of settings, and numbers of lines.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;

/// Everything that is wrong with a configuration: at least one fault, sorted by place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

/// One fault: `proxy.toml:12:14: what is wrong, what would be right`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    file: Arc<str>,
    place: Option<Place>,
    message: Message,
}

/// A place in a text; both count from 1, columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The character in the line.
    pub column: usize,
}

/// Our own words, never a value of the file.
pub(super) type Message = Cow<'static, str>;

/// One text of the configuration: `proxy.toml`, or a file of its `include_dir`.
#[derive(Debug)]
pub(super) struct Source {
    /// As messages call it.
    pub(super) name: Arc<str>,
    pub(super) text: String,
    /// Where relative paths in it start.
    pub(super) base_dir: Arc<Path>,
}

/// Faults and warnings as they are found, by text and byte offset.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// The text that is being read or judged, by its place among the sources.
    source: usize,
    wrong: Vec<Found>,
    warnings: Vec<Found>,
}

#[derive(Debug)]
struct Found {
    source: usize,
    offset: Option<usize>,
    message: Message,
}

/// Faults that are told, and warnings. Whoever has more is served with a number: the cause is one, mostly, such as a
/// directory of secrets that has not been mounted.
const TOLD_MAX: usize = 200;

// === impl ConfigErrors ===

impl ConfigErrors {
    /// One fault of the file as a whole; `message` is in our own words.
    pub fn whole(file: &str, message: impl Into<Cow<'static, str>>) -> Self {
        Self(vec![ConfigError { file: file.into(), place: None, message: message.into() }])
    }

    /// The faults, sorted by place.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let line_end = if index == 0 { "" } else { "\n" };
            write!(f, "{line_end}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

// === impl ConfigError ===

impl ConfigError {
    /// Where it is; `None` when it concerns the file as a whole.
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// What is wrong, and what would be right.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(Place { line, column }) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for ConfigError {}

// === impl Place ===

impl Place {
    /// The place of a byte offset in `text`; an offset beyond it is its end.
    pub(super) fn of(text: &str, offset: usize) -> Self {
        let offset = text.floor_char_boundary(offset);
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = before.get(line_start..).map_or(0, |head| head.chars().count()) + 1;
        Self { line, column }
    }
}

// === impl Faults ===

impl Faults {
    /// None yet, in this text.
    pub(super) fn of(source: usize) -> Self {
        Self { source, ..Self::default() }
    }

    /// What is found from here on stands in this text.
    pub(super) fn enter(&mut self, source: usize) {
        self.source = source;
    }

    /// The text that is being read or judged.
    pub(super) fn source(&self) -> usize {
        self.source
    }

    /// Takes over what another found.
    pub(super) fn absorb(&mut self, other: Self) {
        self.wrong.extend(other.wrong);
        self.warnings.extend(other.warnings);
    }

    /// Something is wrong with a value.
    pub(super) fn at<T>(&mut self, value: &Spanned<T>, message: impl Into<Message>) {
        self.at_span(&value.span(), message);
    }

    /// Something is wrong at a span of the text.
    pub(super) fn at_span(&mut self, span: &Range<usize>, message: impl Into<Message>) {
        self.wrong.push(self.found(Some(span.start), message));
    }

    /// Something is missing altogether.
    pub(super) fn whole(&mut self, message: impl Into<Message>) {
        self.wrong.push(self.found(None, message));
    }

    /// A value works, but the operator should know something about it.
    pub(super) fn warn<T>(&mut self, value: &Spanned<T>, message: impl Into<Message>) {
        self.warnings.push(self.found(Some(value.span().start), message));
    }

    /// Takes over the parser's own errors, one for each line: what follows on a line is mostly its echo.
    pub(super) fn syntax(&mut self, text: &str, errors: &[toml::de::Error]) {
        let mut lines = BTreeSet::new();
        for error in errors {
            let offset = error.span().map_or(text.len(), |span| span.start);
            if lines.insert(Place::of(text, offset).line) {
                let message = format!("not TOML: {}", blanked(error.message()));
                self.wrong.push(self.found(Some(offset), message));
            }
        }
    }

    /// The warnings, or the faults if there are any.
    pub(super) fn settle(self, sources: &[Source]) -> Result<Vec<String>, ConfigErrors> {
        if self.wrong.is_empty() {
            Ok(placed(self.warnings, sources).iter().map(ToString::to_string).collect())
        } else {
            Err(ConfigErrors(placed(self.wrong, sources)))
        }
    }

    fn found(&self, offset: Option<usize>, message: impl Into<Message>) -> Found {
        Found { source: self.source, offset, message: message.into() }
    }
}

/// What was found, by text and place; of a great many the first few, and how many more there are.
fn placed(mut found: Vec<Found>, sources: &[Source]) -> Vec<ConfigError> {
    found.sort_by_key(|found| (found.source, found.offset));
    let more = found.len().saturating_sub(TOLD_MAX);
    found.truncate(TOLD_MAX);
    let mut placed: Vec<ConfigError> = Vec::with_capacity(found.len() + 1);
    for Found { source, offset, message } in found {
        let Some(source) = sources.get(source) else { continue };
        let place = offset.map(|offset| Place::of(&source.text, offset));
        placed.push(ConfigError { file: Arc::clone(&source.name), place, message });
    }
    if let (1.., Some(main)) = (more, sources.first()) {
        let message = format!("{more} more are not shown").into();
        placed.push(ConfigError { file: Arc::clone(&main.name), place: None, message });
    }
    placed
}

/// The parser's message without what it quotes, unless that is mere punctuation.
///
/// # Why
///
/// Today (toml 1.2) the messages of the parser proper are fixed texts and quote only what was expected; older ones
/// echoed the source. Nobody promises that it stays so.
fn blanked(message: &str) -> String {
    let mut blank = String::with_capacity(message.len());
    for (index, part) in message.split('`').enumerate() {
        let quoted = index % 2 == 1;
        match (quoted, part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_punctuation())) {
            (false, _) => blank.push_str(part),
            (true, true) => blank.extend(["`", part, "`"]),
            (true, false) => blank.push_str("`…`"),
        }
    }
    blank
}
