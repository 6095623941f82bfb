//! Checks where tokens are published, and under which keys.

use std::collections::HashMap;

use toml::Spanned;

use super::super::file;
use super::super::publish::{KeyTemplate, PublishFormat};
use super::super::reader::{SecretSource, nearest};
use super::super::store::{Redis, Store};
use super::Checker;
use super::store::OP_DEFAULT;
use crate::types::{AccountName, AppId, GrantKind};

/// What the accounts' lists are judged by beside themselves.
#[derive(Debug, Default)]
pub(super) struct Publishing {
    /// A Redis to publish in is known.
    has_redis: bool,
    /// What the keys of weigate's own store start with, colon included.
    own_keys: Option<String>,
    /// Every key so far, and the text that has it.
    taken: HashMap<String, usize>,
}

impl Checker<'_> {
    /// Where tokens are published: what `[publish]` names, else the store's Redis.
    pub(super) fn publish(&mut self, file: &file::Publish, store: &Store) -> Option<Redis> {
        let op = self.span("publish.op_ms_max", file.op_ms_max.as_ref(), OP_DEFAULT, 50..=5_000);
        let Some(source) = &file.url else {
            if let Some(place) = &file.ca_file {
                self.faults
                    .warn(place, "`publish.ca_file` has no use without `publish.url_env` or `url_file`");
            }
            return match store {
                Store::Redis { redis, .. } if file.op_ms_max.is_some() => Some(Redis { op, ..redis.clone() }),
                Store::Redis { redis, .. } => Some(redis.clone()),
                Store::Memory | Store::File { .. } => None,
            };
        };
        let url = self.redis_url("publish.url", source);
        let ca_pem = file.ca_file.as_ref().and_then(|path| self.authorities("publish.ca_file", path));
        if let (Some(url), Some(place)) = (&url, &file.ca_file)
            && !url.tls
        {
            self.faults.warn(place, "`publish.ca_file` has no use, the URL does not begin with rediss");
        }
        Some(Redis { url: url?, prefix: String::new(), op, ca_pem })
    }

    /// What the lists of all accounts are judged by. `is_known`: `[publish]` names a Redis, be it a good one.
    pub(super) fn publishing(redis: Option<&Redis>, file: &file::Publish, store: &Store) -> Publishing {
        let own_keys = match store {
            Store::Redis { redis, .. } => Some(format!("{}:", redis.prefix)),
            Store::Memory | Store::File { .. } => None,
        };
        Publishing { has_redis: redis.is_some() || file.url.is_some(), own_keys, taken: HashMap::new() }
    }

    /// The formats of one account. `known`: who it is, if that could be read.
    pub(super) fn formats(
        &mut self,
        list: &file::Texts,
        known: Option<(&AccountName, &AppId, GrantKind)>,
        publishing: &mut Publishing,
    ) -> Vec<PublishFormat> {
        if list.get_ref().is_empty() {
            self.faults.at(list, "`publish` is empty, name a format, or leave it out");
        } else if !publishing.has_redis {
            let message = "`publish` needs a Redis: a section [publish] with `url_env` or `url_file`, or \
                           `store.kind` \"redis\"";
            self.faults.at(list, message);
        }
        let mut formats = Vec::with_capacity(list.get_ref().len());
        for text in list.get_ref() {
            let Some(format) = self.format(text) else { continue };
            if let Some((name, app_id, grant)) = known {
                self.judge_keys(text, &format, (name, app_id, grant), publishing);
            }
            formats.push(format);
        }
        formats
    }

    fn format(&mut self, text: &Spanned<String>) -> Option<PublishFormat> {
        let written = text.get_ref().as_str();
        if written.contains(['{', '}']) {
            return match KeyTemplate::parse(written) {
                Ok(template) => Some(PublishFormat::Template(template)),
                Err(fault) => {
                    self.faults.at(text, format!("`publish` has a key that {fault}"));
                    None
                }
            };
        }
        let found = PublishFormat::WORDS.into_iter().find(|(word, _)| *word == written);
        if found.is_none() {
            let words = PublishFormat::WORDS.map(|(word, _)| word);
            let meant = match nearest(written, &words) {
                Some(word) => format!("did you mean \"{word}\"?"),
                None => format!("it takes \"{}\", or a key with {{app_id}} in it", words.join("\", \"")),
            };
            self.faults.at(text, format!("`publish` has a format that is not known, {meant}"));
        }
        found.map(|(_, format)| format)
    }

    fn judge_keys(
        &mut self,
        text: &Spanned<String>,
        format: &PublishFormat,
        (name, app_id, grant): (&AccountName, &AppId, GrantKind),
        publishing: &mut Publishing,
    ) {
        if format.platform().is_some_and(|platform| platform != grant.platform()) {
            let message = "`publish` has a format of the other platform: accounts with `grant` \"wecom\" take \
                           \"silenceper-work\", \"powerwechat\" and keys with {app_id} in them, the others all \
                           but \"silenceper-work\"";
            self.faults.at(text, message);
        }
        for key in format.shown_keys(name, app_id) {
            if publishing.own_keys.as_ref().is_some_and(|own| key.starts_with(own.as_str())) {
                let message = "`publish` has a key that starts with `store.prefix`, those are weigate's own";
                self.faults.at(text, message);
            }
            if let Some(first) = publishing.taken.insert(key, self.source()) {
                let elsewhere = self.elsewhere(first);
                let message = format!(
                    "`publish` has a key that is published already{elsewhere}, under each key stands one token"
                );
                self.faults.at(text, message);
            }
        }
    }

    /// Says where `[publish]` is of no use.
    pub(super) fn warn_of_nothing_published(&mut self, file: &file::Publish, publishes: bool) {
        if let (Some(SecretSource::Env(name, place) | SecretSource::File(name, place)), false) =
            (&file.url, publishes)
        {
            self.enter(0);
            let message = format!("`publish.{name}` has no use, no account has `publish`");
            self.faults.warn(place, message);
        }
    }
}
