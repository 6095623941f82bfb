//! Checks accounts and clients: whose secrets we hold, and who may use them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use toml::Spanned;

use super::super::reader::SecretSource;
use super::super::{Account, Client, ClientAccounts, PathPattern, file};
use super::Checker;
use super::certs::Taken;
use super::files::hex_32;
use super::publish::Publishing;
use crate::types::{AccountName, AppId, AppSecret, ClientName, GrantKind, Platform};

/// What the clients' sections are judged by beside themselves.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientBounds {
    pub(super) body_bytes_max: u64,
    /// `server.tls.client_ca_file` is there.
    pub(super) show_certificates: bool,
}

impl Checker<'_> {
    /// `may_rotate`: no other weigate would have the tokens that it needs ended by ours, or the store sees to that.
    pub(super) fn accounts(
        &mut self,
        people: &[file::People],
        may_rotate: bool,
        publishing: &mut Publishing,
    ) -> Vec<Arc<Account>> {
        let written = |people: &file::People| people.accounts.as_ref().map(Vec::len);
        if people.iter().all(|people| written(people) == Some(0)) {
            self.enter(0);
            self.faults.whole("there is no account, it takes at least one section [[accounts]]");
        }
        let (mut names, mut app_ids, mut corps) = (HashMap::new(), HashMap::new(), HashSet::new());
        let mut accounts = Vec::with_capacity(people.iter().filter_map(written).sum());
        for (source, account) in each_account(people) {
            self.enter(source);
            let name = account.name.as_ref().and_then(|text| self.account_name("name", text));
            let app_id = account.app_id.as_ref().and_then(|text| self.app_id(text));
            let app_secret = account.app_secret.as_ref().and_then(|source| self.app_secret(source));
            let grant = account.grant.as_ref().map_or(Some(GrantKind::default()), |grant| self.grant(grant));
            if let (Some(written), Some(true), false) =
                (&account.grant, grant.map(GrantKind::rotates), may_rotate)
            {
                let message = "this `grant` ends the other replicas' token at each renewal, with `store.replicas` above \
                               1 it needs `store.kind` \"redis\", where one of them renews for all; or take \
                               \"stable_token\"";
                self.faults.at(written, message);
            }
            self.refuse_repeated(&mut names, account.name.as_ref(), "another account has this name");
            let known_as = account.app_id.as_ref();
            match grant.map(GrantKind::platform) {
                Some(Platform::Weixin) => {
                    self.refuse_repeated(&mut app_ids, known_as, "another account has this `app_id`");
                }
                // A corp has a secret for each of its applications, and each is an account.
                Some(Platform::Wecom) => {
                    self.refuse_one_application_twice(&mut corps, known_as, app_secret.as_ref());
                }
                None => {}
            }
            let publish = account.publish.as_ref().map_or_else(Vec::new, |list| {
                let known = name.as_ref().zip(app_id.as_ref()).zip(grant);
                let known = known.map(|((name, app_id), grant)| (name, app_id, grant));
                self.formats(list, known, publishing)
            });
            if let (Some(name), Some(app_id), Some(app_secret), Some(grant)) =
                (name, app_id, app_secret, grant)
            {
                let publish = publish.into();
                accounts.push(Arc::new(Account { name, app_id, app_secret, grant, publish }));
            }
        }
        let names: Vec<&str> = accounts.iter().map(|account| account.name.as_str()).collect();
        self.note_names("accounts", &names);
        accounts
    }

    fn account_name(&mut self, setting: &str, text: &Spanned<String>) -> Option<AccountName> {
        let name = AccountName::parse(text.get_ref());
        name.map_err(|error| self.faults.at(text, format!("`{setting}` is not a name: {error}"))).ok()
    }

    fn app_id(&mut self, text: &Spanned<String>) -> Option<AppId> {
        let app_id = AppId::parse(text.get_ref());
        if app_id.is_none() {
            let message =
                "`app_id` is not an AppID, it has letters and digits, such as \"wx0123456789abcdef\"";
            self.faults.at(text, message);
        }
        app_id
    }

    fn app_secret(&mut self, source: &SecretSource) -> Option<AppSecret> {
        let secret = self.secret(source)?;
        Some(AppSecret::new(secret.as_str().to_owned()))
    }

    fn grant(&mut self, written: &Spanned<String>) -> Option<GrantKind> {
        let kind = GrantKind::ALL.into_iter().find(|kind| kind.word() == written.get_ref());
        if kind.is_none() {
            let words = GrantKind::ALL.map(|kind| format!("\"{}\"", kind.word()));
            let message = format!("`grant` is not a way to get tokens, it is one of {}", words.join(", "));
            self.faults.at(written, message);
        }
        kind
    }

    fn refuse_one_application_twice<'t>(
        &mut self,
        seen: &mut HashSet<(&'t str, String)>,
        corpid: Option<&'t Spanned<String>>,
        secret: Option<&AppSecret>,
    ) {
        // The secrets themselves are not compared: two that differ must not be told apart by how long that takes.
        if let (Some(corpid), Some(secret)) = (corpid, secret)
            && !seen.insert((corpid.get_ref(), format!("{secret:?}")))
        {
            let message =
                "another account has this `app_id` and this secret, each application has a secret of its own";
            self.faults.at(corpid, message);
        }
    }

    fn refuse_repeated<'t>(
        &mut self,
        seen: &mut HashMap<&'t str, (usize, usize)>,
        value: Option<&'t Spanned<String>>,
        message: &'static str,
    ) {
        let Some(value) = value else { return };
        let source = self.source();
        let first = *seen.entry(value.get_ref()).or_insert((source, value.span().start));
        if first != (source, value.span().start) {
            let elsewhere = self.elsewhere(first.0);
            self.faults.at(value, format!("{message}{elsewhere}, each has one of its own"));
        }
    }

    /// ` (in FILE)` where that is another file than the one that is being judged.
    pub(super) fn elsewhere(&self, source: usize) -> String {
        let other = self.sources.get(source).filter(|_| source != self.source());
        other.map_or_else(String::new, |other| format!(" (in {})", other.name))
    }

    pub(super) fn clients(&mut self, people: &[file::People], bounds: ClientBounds) -> Vec<Client> {
        let known: HashSet<&str> = each_account(people)
            .filter_map(|(_, account)| Some(account.name.as_ref()?.get_ref().as_str()))
            .collect();
        let (mut names, mut taken) = (HashMap::new(), Taken::default());
        let mut clients = Vec::with_capacity(people.iter().map(|people| people.clients.len()).sum());
        for (source, client) in each_client(people) {
            self.enter(source);
            self.identity(client, bounds);
            let client = client.get_ref();
            self.refuse_repeated(&mut names, client.name.as_ref(), "another client has this name");
            clients.extend(self.client(client, &known, &mut taken, bounds));
        }
        let names: Vec<&str> = clients.iter().map(|client: &Client| client.name.as_str()).collect();
        self.note_names("clients", &names);
        clients
    }

    fn client(
        &mut self,
        written: &file::Client,
        known: &HashSet<&str>,
        taken: &mut Taken,
        bounds: ClientBounds,
    ) -> Option<Client> {
        let name = written.name.as_ref().and_then(|text| {
            let name = ClientName::parse(text.get_ref());
            name.map_err(|error| self.faults.at(text, format!("`name` is not a name: {error}"))).ok()
        });
        if let Some(text) = written.name.as_ref().filter(|text| text.get_ref() == ANONYMOUS) {
            self.faults.at(text, "`name` is the one that callers without a key have, choose another");
        }
        let key_sha256 = written.key_sha256.as_ref().and_then(|text| self.key_digest(text, &mut taken.keys));
        let cert_san = written.cert_san.as_ref().map(|list| self.cert_names(list, &mut taken.cert_names));
        let cert_sha256 =
            written.cert_sha256.as_ref().map(|list| self.cert_digests(list, &mut taken.cert_digests));
        let accounts = written.accounts.as_ref().map(|list| self.client_accounts(list, known));
        let allow = written.allow.as_ref().map(|list| self.patterns(list));
        let requests_per_s = self.optional("requests_per_s", written.requests_per_s.as_ref(), 1, 1_000_000);
        let requests_at_once_max =
            self.optional("requests_at_once_max", written.requests_at_once_max.as_ref(), 1, 1_000_000);
        let streamed_body_bytes_max = self.optional(
            "streamed_body_bytes_max",
            written.streamed_body_bytes_max.as_ref(),
            bounds.body_bytes_max.saturating_add(1),
            STREAMED_BODY_BYTES_MAX,
        );
        let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Some(Client {
            name: name?,
            key_sha256,
            cert_san: cert_san.unwrap_or_default(),
            cert_sha256: cert_sha256.unwrap_or_default(),
            accounts: accounts?,
            allow,
            requests_per_s: requests_per_s.map(narrow),
            requests_at_once_max: requests_at_once_max.map(narrow),
            streamed_body_bytes_max,
        })
    }

    fn optional(
        &mut self,
        setting: &str,
        given: Option<&Spanned<u64>>,
        least: u64,
        most: u64,
    ) -> Option<u64> {
        let given = given?;
        if !(least..=most).contains(given.get_ref()) {
            let message =
                format!("`{setting}` is out of bounds, it takes {least} to {most}, or leave it out");
            self.faults.at(given, message);
        }
        Some(*given.get_ref())
    }

    fn key_digest(
        &mut self,
        text: &Spanned<String>,
        keys: &mut HashMap<[u8; 32], usize>,
    ) -> Option<[u8; 32]> {
        let Some(digest) = hex_32(text.get_ref()) else {
            let message = "`key_sha256` is not a digest, it takes the 64 hexadecimal digits that `weigate key NAME` \
                           prints, never the key itself";
            self.faults.at(text, message);
            return None;
        };
        if Some(digest) == hex_32(SHA256_OF_NOTHING) {
            self.faults
                .at(text, "`key_sha256` is the digest of an empty key, `weigate key NAME` makes a good one");
        }
        if let Some(first) = keys.insert(digest, self.source()) {
            let elsewhere = self.elsewhere(first);
            let message =
                format!("another client{elsewhere} has this `key_sha256`, each has a key of its own");
            self.faults.at(text, message);
        }
        Some(digest)
    }

    fn client_accounts(&mut self, list: &file::Texts, known: &HashSet<&str>) -> ClientAccounts {
        if let [only] = list.get_ref().as_slice()
            && only.get_ref() == EVERY_ACCOUNT
        {
            return ClientAccounts::All;
        }
        if list.get_ref().is_empty() {
            self.faults.at(list, "`accounts` is empty, a client uses at least one account");
        }
        let mut seen = HashSet::new();
        let mut accounts = Vec::with_capacity(list.get_ref().len());
        for text in list.get_ref() {
            if text.get_ref() == EVERY_ACCOUNT {
                self.faults.at(text, "`accounts` has \"*\" beside names, it stands alone for every account");
            } else if !known.contains(text.get_ref().as_str()) {
                let message = "`accounts` has a name that no account has, it takes names from [[accounts]]";
                self.faults.at(text, message);
            } else if !seen.insert(text.get_ref()) {
                self.faults.at(text, "`accounts` has this name already, leave it out");
            }
            // A name that is no name is a fault of the account's own section.
            accounts.extend(AccountName::parse(text.get_ref()));
        }
        ClientAccounts::These(accounts)
    }

    fn patterns(&mut self, list: &file::Texts) -> Vec<PathPattern> {
        if list.get_ref().is_empty() {
            let message = "`allow` is empty, which would allow nothing: name paths, or leave it out to allow all \
                           that is not guarded";
            self.faults.at(list, message);
        }
        let mut seen = HashSet::new();
        let mut patterns = Vec::with_capacity(list.get_ref().len());
        for text in list.get_ref() {
            match pattern(text.get_ref()) {
                Ok(_) if !seen.insert(text.get_ref()) => {
                    self.faults.at(text, "`allow` has this path already, leave it out");
                }
                Ok(pattern) => patterns.push(pattern),
                Err(fault) => self.faults.at(text, format!("`allow` has a path that {fault}")),
            }
        }
        patterns
    }
}

fn each_account(people: &[file::People]) -> impl Iterator<Item = (usize, &file::Account)> {
    people
        .iter()
        .flat_map(|people| people.accounts.iter().flatten().map(|account| (people.source, account.get_ref())))
}

fn each_client(people: &[file::People]) -> impl Iterator<Item = (usize, &Spanned<file::Client>)> {
    people.iter().flat_map(|people| people.clients.iter().map(|client| (people.source, client)))
}

/// A pattern that some path could match.
fn pattern(text: &str) -> Result<PathPattern, &'static str> {
    if !text.starts_with('/') {
        return Err("does not start with a slash, write \"/cgi-bin/menu/get\" or \"/wxa/*\"");
    }
    let (path, is_prefix) = match text.strip_suffix('*') {
        Some(prefix) if prefix.ends_with('/') => (prefix, true),
        Some(_) => return Err("has a * that does not follow a slash, write \"/wxa/*\""),
        None => (text, false),
    };
    if path.contains('*') {
        return Err("has a * before its end, it can only stand at the end, \"/wxa/*\"");
    }
    if path.contains(['?', '#', '%', '\\']) || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(
            "has characters that no judged path has, it takes the plain path, without query and escapes",
        );
    }
    if path.contains("//") || path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err("has an empty segment, `.` or `..`, which no judged path has");
    }
    let path = path.to_owned();
    Ok(if is_prefix { PathPattern::Below(path) } else { PathPattern::Exact(path) })
}

/// In `accounts` of a client: every account there is, those that come with a reload too.
const EVERY_ACCOUNT: &str = "*";

/// The name of every caller where there are no clients.
const ANONYMOUS: &str = "anonymous";

/// What `sha256sum </dev/null` prints: the digest that an unset variable in a script leads to.
const SHA256_OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// 16 GiB: far above what any path of WeChat's takes, and still a bound.
const STREAMED_BODY_BYTES_MAX: u64 = 1 << 34;
