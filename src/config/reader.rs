//! Takes settings out of a TOML table by name, and finds fault with all the rest.
//!
//! # Why not serde's derive
//!
//! It stops at the first unknown key or wrong type, and its messages echo values. A [`Section`] goes on, so that
//! the operator sees every fault at once, and knows which keys there are because it has been asked for them: no
//! list is kept twice.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::Faults;

/// One table of the file while it is read.
#[derive(Debug)]
pub(super) struct Section<'t, 'f> {
    /// As the file writes it: `[server]`, `[[accounts]]`; for messages.
    title: &'static str,
    /// Where faults about missing keys go.
    span: Range<usize>,
    /// `None`: the file does not have it, and every setting is absent.
    table: Option<&'t DeTable<'t>>,
    known: Vec<&'static str>,
    /// Keys that once stood here or that people try, and what to write instead.
    refused: Vec<(&'static str, &'static str)>,
    faults: &'f mut Faults,
}

/// Where a secret stands: exactly one of two settings.
#[derive(Debug)]
pub(super) enum SecretSource {
    /// In a variable of the environment.
    Env(&'static str, Spanned<String>),
    /// In a file.
    File(&'static str, Spanned<String>),
}

impl<'t, 'f> Section<'t, 'f> {
    /// Reads a whole document.
    pub(super) fn document<T>(
        title: &'static str,
        table: &'t Spanned<DeTable<'t>>,
        faults: &'f mut Faults,
        read: impl FnOnce(&mut Section<'t, '_>) -> T,
    ) -> T {
        let (span, table) = (table.span(), Some(table.get_ref()));
        Section { title, span, table, known: Vec::new(), refused: Vec::new(), faults }.whole(read)
    }

    /// Reads the section, then refuses the keys nobody asked for.
    fn whole<T>(mut self, read: impl FnOnce(&mut Section<'t, '_>) -> T) -> T {
        let form = read(&mut self);
        self.refuse_unknown();
        form
    }

    fn below(
        &mut self,
        title: &'static str,
        span: Range<usize>,
        table: Option<&'t DeTable<'t>>,
    ) -> Section<'t, '_> {
        Section { title, span, table, known: Vec::new(), refused: Vec::new(), faults: self.faults }
    }

    fn find(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.known.push(key);
        self.peek(key).map(|(_, value)| value)
    }

    fn peek(&self, key: &str) -> Option<(Range<usize>, &'t Spanned<DeValue<'t>>)> {
        let (name, value) = self.table?.iter().find(|(name, _)| name.get_ref() == key)?;
        Some((name.span(), value))
    }

    fn wrong(&mut self, span: &Range<usize>, key: &str, right: &str) {
        self.faults.at_span(span, format!("`{key}` has a value of the wrong kind, it takes {right}"));
    }

    /// A text.
    pub(super) fn text(&mut self, key: &'static str) -> Option<Spanned<String>> {
        let value = self.find(key)?;
        let text = placed_text(value);
        if text.is_none() {
            self.wrong(&value.span(), key, "a text in quotes");
        }
        text
    }

    /// A text that must be there.
    pub(super) fn required_text(&mut self, key: &'static str, example: &str) -> Option<Spanned<String>> {
        self.require(key, example);
        self.text(key)
    }

    /// A whole number that is not negative.
    pub(super) fn number(&mut self, key: &'static str) -> Option<Spanned<u64>> {
        let value = self.find(key)?;
        let number = match value.get_ref() {
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
            DeValue::String(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => None,
        };
        if number.is_none() {
            self.wrong(&value.span(), key, "a whole number without quotes, not below 0");
        }
        number.map(|number| Spanned::new(value.span(), number))
    }

    /// `true` or `false`.
    pub(super) fn switch(&mut self, key: &'static str) -> Option<Spanned<bool>> {
        let value = self.find(key)?;
        let DeValue::Boolean(on) = value.get_ref() else {
            self.wrong(&value.span(), key, "true or false, without quotes");
            return None;
        };
        Some(Spanned::new(value.span(), *on))
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, key: &'static str) -> Option<Spanned<Vec<Spanned<String>>>> {
        let value = self.find(key)?;
        self.list(key, value, "a list of texts, [\"…\", \"…\"]")
    }

    /// A list of texts that must be there.
    pub(super) fn required_texts(
        &mut self,
        key: &'static str,
        example: &str,
    ) -> Option<Spanned<Vec<Spanned<String>>>> {
        self.require(key, example);
        self.texts(key)
    }

    /// A text, or a list of texts.
    pub(super) fn one_or_more_texts(&mut self, key: &'static str) -> Option<Spanned<Vec<Spanned<String>>>> {
        let value = self.find(key)?;
        if let Some(text) = placed_text(value) {
            return Some(Spanned::new(value.span(), vec![text]));
        }
        self.list(key, value, "a text, or a list of texts, [\"…\", \"…\"]")
    }

    fn list(
        &mut self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        right: &str,
    ) -> Option<Spanned<Vec<Spanned<String>>>> {
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong(&value.span(), key, right);
            return None;
        };
        let texts: Vec<_> = items.iter().filter_map(placed_text).collect();
        for item in items.iter().filter(|item| placed_text(item).is_none()) {
            self.wrong(&item.span(), key, right);
        }
        (texts.len() == items.len()).then(|| Spanned::new(value.span(), texts))
    }

    /// A section that may be missing: then each of its settings is.
    pub(super) fn inside<T>(
        &mut self,
        key: &'static str,
        title: &'static str,
        read: impl FnOnce(&mut Section<'t, '_>) -> T,
    ) -> T {
        let value = self.find(key);
        let table = value.and_then(|value| self.table_of(value, key, title));
        let span = value.map_or(0..0, Spanned::span);
        self.below(title, span, table).whole(read)
    }

    /// A section that is something else when it is missing.
    pub(super) fn inside_if_any<T>(
        &mut self,
        key: &'static str,
        title: &'static str,
        read: impl FnOnce(&mut Section<'t, '_>) -> T,
    ) -> Option<T> {
        let value = self.find(key)?;
        let table = self.table_of(value, key, title)?;
        Some(self.below(title, value.span(), Some(table)).whole(read))
    }

    /// Every section of that name; `None` when that is something else.
    pub(super) fn each<T>(
        &mut self,
        key: &'static str,
        title: &'static str,
        read: impl Fn(&mut Section<'t, '_>) -> T,
    ) -> Option<Vec<Spanned<T>>> {
        let Some(value) = self.find(key) else { return Some(Vec::new()) };
        let DeValue::Array(items) = value.get_ref() else {
            self.faults.at(value, format!("`{key}` is not a list of sections, each begins with {title}"));
            return None;
        };
        let mut forms = Vec::with_capacity(items.len());
        for item in items {
            if let Some(table) = self.table_of(item, key, title) {
                let form = self.below(title, item.span(), Some(table)).whole(&read);
                forms.push(Spanned::new(item.span(), form));
            }
        }
        Some(forms)
    }

    fn table_of(
        &mut self,
        value: &'t Spanned<DeValue<'t>>,
        key: &str,
        title: &str,
    ) -> Option<&'t DeTable<'t>> {
        let DeValue::Table(table) = value.get_ref() else {
            self.faults.at(value, format!("`{key}` is not a section, it begins with {title}"));
            return None;
        };
        Some(table)
    }

    /// One of two settings that say where a secret stands.
    pub(super) fn secret(&mut self, env: &'static str, file: &'static str) -> Option<SecretSource> {
        let both = self.peek(env).is_some() && self.peek(file).is_some();
        let from_env = self.text(env).map(|name| SecretSource::Env(env, name));
        let from_file = self.text(file).map(|path| SecretSource::File(file, path));
        if both {
            let spans = [self.peek(env), self.peek(file)].map(|found| found.map_or(0..0, |(span, _)| span));
            let later = spans.into_iter().max_by_key(|span| span.start).unwrap_or(0..0);
            self.faults
                .at_span(&later, format!("`{env}` and `{file}` are both given, leave one of them out"));
            return None;
        }
        from_env.or(from_file)
    }

    /// The same, where one of the two must be there.
    pub(super) fn required_secret(&mut self, env: &'static str, file: &'static str) -> Option<SecretSource> {
        // One that stands here itself is refused in better words.
        let is_refused = self.refused.iter().any(|(key, _)| self.peek(key).is_some());
        if self.peek(env).is_none() && self.peek(file).is_none() && !is_refused {
            let title = self.title;
            let message =
                format!("{title} says nowhere where its secret stands, it needs `{env}` or `{file}`");
            self.faults.at_span(&self.span, message);
        }
        self.secret(env, file)
    }

    /// Refuses a key with words of its own: what to write instead.
    pub(super) fn refuse(&mut self, key: &'static str, cure: &'static str) {
        self.refused.push((key, cure));
        if let Some((span, _)) = self.peek(key) {
            self.faults.at_span(&span, format!("`{key}` {cure}"));
        }
    }

    fn require(&mut self, key: &str, example: &str) {
        if self.table.is_some() && self.peek(key).is_none() {
            self.faults.at_span(&self.span, format!("{} has no `{key}`, write {example}", self.title));
        }
    }

    fn refuse_unknown(&mut self) {
        let Some(table) = self.table else { return };
        for name in table.keys() {
            let key = name.get_ref().as_ref();
            let is_refused = self.refused.iter().any(|(refused, _)| *refused == key);
            if !is_refused && !self.known.contains(&key) {
                let message = self.unknown(key);
                self.faults.at_span(&name.span(), message);
            }
        }
    }

    fn unknown(&self, key: &str) -> String {
        let title = self.title;
        let shown = if could_be_secret(key) { String::new() } else { format!(" `{key}`") };
        let candidates = self.known.iter().chain(self.refused.iter().map(|(key, _)| key));
        let nearest = candidates.map(|known| (distance(key, known), *known)).min();
        // `idle_ms` is far from `idle_ms_max`, and still means it.
        let begun =
            self.known.iter().find(|known| key.len() >= 4 && known.starts_with(key)).map(|known| (0, *known));
        match begun.or(nearest) {
            Some((steps, known)) if steps <= 1 + known.len() / 4 => {
                let cure = self.refused.iter().find(|(refused, _)| *refused == known);
                let cure = cure.map_or(String::new(), |(_, cure)| format!(" That one {cure}"));
                format!("unknown key{shown} in {title}, did you mean `{known}`?{cure}")
            }
            Some(_) | None => {
                let known: Vec<String> = self.known.iter().map(|known| format!("`{known}`")).collect();
                format!("unknown key{shown} in {title}, known are {}", known.join(", "))
            }
        }
    }
}

fn placed_text(value: &Spanned<DeValue<'_>>) -> Option<Spanned<String>> {
    let DeValue::String(text) = value.get_ref() else { return None };
    Some(Spanned::new(value.span(), text.clone().into_owned()))
}

/// Whether an unknown key is better not shown: it may be a secret that lost its quotes or its `=`.
///
/// What is shown looks like the name of a setting: small letters, `_` and `-`, few digits, no long run of
/// hexadecimal digits.
fn could_be_secret(key: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    let digits = key.bytes().filter(u8::is_ascii_digit).count();
    let longest_hex = key.split(|c: char| !c.is_ascii_hexdigit()).map(str::len).max().unwrap_or(0);
    key.is_empty() || key.len() > 40 || !key.bytes().all(plain) || digits > 3 || longest_hex >= 12
}

/// The one of these words that a text was probably meant to be.
pub(super) fn nearest<'w>(text: &str, words: &[&'w str]) -> Option<&'w str> {
    let (steps, word) = words.iter().map(|word| (distance(text, word), *word)).min()?;
    (steps <= 1 + word.len() / 4).then_some(word)
}

/// How many characters must be put in, taken out or changed to make one text the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    const COMPARED_BYTES_MAX: usize = 64;
    if from.len() > COMPARED_BYTES_MAX {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (1..=to.chars().count()).collect();
    for (index, a) in from.chars().enumerate() {
        let (mut diagonal, mut left) = (index, index + 1);
        for (cell, b) in row.iter_mut().zip(to.chars()) {
            let above = *cell;
            left = (diagonal + usize::from(a != b)).min(above + 1).min(left + 1);
            *cell = left;
            diagonal = above;
        }
    }
    row.last().copied().unwrap_or(0)
}
