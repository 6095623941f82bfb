//! Checks where tokens outlive the process.
//!
//! ```text
//! redis://[[USER][:PASSWORD]@]HOST[:6379][/DB]
//! unix:///PATH/TO/SOCKET[?db=DB]                 redis+unix:// means the same; USER and PASSWORD before the path
//! redis+sentinel://[[USER][:PASSWORD]@]HOST[:26379][,HOST…]/MASTER[/DB][?sentinel_user=…&sentinel_password=…]
//! redis+cluster://[[USER][:PASSWORD]@]HOST[:6379][,HOST…]
//! ```
//!
//! `rediss` instead of `redis` speaks TLS on every connection, to Sentinels and nodes too, verified. Users, passwords
//! and names are percent-decoded.

use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use toml::Spanned;
use zeroize::Zeroizing;

use super::super::file;
use super::super::reader::SecretSource;
use super::super::store::{Password, Redis, RedisLogin, RedisPlace, RedisUrl, SealKey, Store};
use super::Checker;
use super::files::key_bytes;
use super::upstream::{is_host_name, split_port};

const PREFIX_DEFAULT: &str = "weigate";
pub(super) const OP_DEFAULT: Duration = Duration::from_millis(300);

impl Checker<'_> {
    pub(super) fn store(&mut self, file: &file::Store) -> Store {
        let kind = file.kind.as_ref().map_or("file", |kind| kind.get_ref());
        self.warn_of_unused(file, kind);
        let op = self.span("store.op_ms_max", file.op_ms_max.as_ref(), OP_DEFAULT, 50..=5_000);
        match kind {
            "memory" => {
                self.note("store.kind", "memory");
                return Store::Memory;
            }
            "redis" => {
                self.note("store.kind", "redis");
                return self.redis(file, op);
            }
            "file" => {}
            _ => {
                if let Some(kind) = &file.kind {
                    let message =
                        "`store.kind` is not a kind of store, it is \"file\", \"redis\" or \"memory\"";
                    self.faults.at(kind, message);
                }
            }
        }
        let dir = file.dir.as_ref().and_then(|dir| self.path("store.dir", dir));
        if let (Some(path), Some(written)) = (&dir, &file.dir) {
            self.note("store.dir", path.display());
            if path.exists() && !path.is_dir() {
                self.faults
                    .at(written, "`store.dir` is not a directory, it takes one, or a path where one can be");
            }
        }
        let seal_key = file.seal_key.as_ref().and_then(|source| self.seal_key(source));
        Store::File { dir: dir.unwrap_or_else(|| self.base_dir.join("state")), seal_key }
    }

    fn warn_of_unused(&mut self, file: &file::Store, kind: &str) {
        let unused =
            |faults: &mut super::super::error::Faults, name: &str, place: Option<&Spanned<String>>| {
                if let Some(place) = place {
                    faults.warn(place, format!("`store.{name}` has no use with kind \"{kind}\""));
                }
            };
        if kind == "redis" || kind == "memory" {
            unused(&mut self.faults, "dir", file.dir.as_ref());
        }
        if kind == "memory"
            && let Some(SecretSource::Env(name, place) | SecretSource::File(name, place)) = &file.seal_key
        {
            unused(&mut self.faults, name, Some(place));
        }
        if kind == "file" || kind == "memory" {
            if let Some(SecretSource::Env(name, place) | SecretSource::File(name, place)) = &file.url {
                unused(&mut self.faults, name, Some(place));
            }
            unused(&mut self.faults, "prefix", file.prefix.as_ref());
            unused(&mut self.faults, "ca_file", file.ca_file.as_ref());
        }
    }

    fn redis(&mut self, file: &file::Store, op: Duration) -> Store {
        let nowhere = RedisUrl {
            place: RedisPlace::One("127.0.0.1".to_owned(), 6379),
            tls: false,
            login: RedisLogin::default(),
            sentinel_login: RedisLogin::default(),
            db: 0,
        };
        let url = if let Some(source) = &file.url {
            self.redis_url("store.url", source)
        } else {
            if let Some(kind) = &file.kind {
                let message = "`store.kind` \"redis\" needs to know where its URL stands, it needs `url_env` or `url_file`";
                self.faults.at(kind, message);
            }
            None
        };
        let ca_pem = file.ca_file.as_ref().and_then(|path| self.authorities("store.ca_file", path));
        if let (Some(url), Some(place)) = (&url, &file.ca_file)
            && !url.tls
        {
            self.faults.warn(place, "`store.ca_file` has no use, the URL does not begin with rediss");
        }
        if file.seal_key.is_none()
            && let Some(kind) = &file.kind
        {
            let message = "tokens stand in this Redis for all who can read it, `seal_key_file` or `seal_key_env` \
                           seals them: `openssl rand -base64 32` makes a key";
            self.faults.warn(kind, message);
        }
        let seal_key = file.seal_key.as_ref().and_then(|source| self.seal_key(source));
        let redis =
            Redis { url: url.unwrap_or(nowhere), prefix: self.prefix(file.prefix.as_ref()), op, ca_pem };
        Store::Redis { redis, seal_key }
    }

    fn prefix(&mut self, written: Option<&Spanned<String>>) -> String {
        let Some(written) = written else { return PREFIX_DEFAULT.to_owned() };
        let text = written.get_ref();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
        if text.is_empty() || text.len() > 64 || !text.bytes().all(plain) {
            let message =
                "`store.prefix` is not a prefix, it has 1 to 64 letters, digits, `-`, `_`, `.` and `:`";
            self.faults.at(written, message);
        }
        if text != PREFIX_DEFAULT {
            self.note("store.prefix", text);
        }
        text.clone()
    }

    pub(super) fn redis_url(&mut self, name: &'static str, source: &SecretSource) -> Option<RedisUrl> {
        let (SecretSource::Env(setting, place) | SecretSource::File(setting, place)) = source;
        let text = self.secret(source)?;
        match redis_url(&text) {
            Ok(url) => {
                self.note(name, url.shown());
                Some(url)
            }
            Err(fault) => {
                self.faults.at(place, format!("the URL that `{setting}` names {fault}"));
                None
            }
        }
    }

    fn seal_key(&mut self, source: &SecretSource) -> Option<SealKey> {
        self.key(source).map(|key| {
            self.note("store.seal_key", "given");
            SealKey::new(key)
        })
    }

    /// 32 random bytes, in base64 or hexadecimal digits.
    pub(super) fn key(&mut self, source: &SecretSource) -> Option<Zeroizing<[u8; 32]>> {
        let (SecretSource::Env(setting, place) | SecretSource::File(setting, place)) = source;
        let text = self.secret(source)?;
        let Some(key) = key_bytes(&text) else {
            let right = "it is 32 bytes in base64 or hexadecimal digits, `openssl rand -base64 32` makes one";
            self.faults.at(place, format!("`{setting}` does not name a key, {right}"));
            return None;
        };
        if key.iter().all(|byte| Some(byte) == key.first()) {
            self.faults
                .at(place, format!("the key that `{setting}` names is one byte repeated, it must be random"));
            return None;
        }
        Some(key)
    }
}

/// Takes a Redis URL apart. What is wrong is said without a byte of it: it holds a password.
fn redis_url(text: &str) -> Result<RedisUrl, &'static str> {
    let (scheme, rest) =
        text.split_once("://").ok_or("begins with no scheme, such as redis:// or rediss://")?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (login, rest) = match rest.rsplit_once('@') {
        Some((login, rest)) => (login_of(login)?, rest),
        None => (RedisLogin::default(), rest),
    };
    let tls = scheme.starts_with("rediss");
    let mut url = RedisUrl {
        place: RedisPlace::Unix(PathBuf::new()),
        tls,
        login,
        sentinel_login: RedisLogin::default(),
        db: 0,
    };
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = path.strip_suffix('/').unwrap_or(path);
    match scheme {
        "redis" | "rediss" => {
            let [host] = &hosts_of(hosts, 6379)?[..] else {
                return Err("has several hosts, which redis+sentinel:// and redis+cluster:// take");
            };
            url.place = RedisPlace::One(host.0.clone(), host.1);
            url.db = db_of(path)?;
        }
        "unix" | "redis+unix" => {
            let path = decoded(rest)?;
            if !path.starts_with('/') {
                return Err("has no path from the root after unix://");
            }
            url.place = RedisPlace::Unix(path.into());
        }
        "redis+sentinel" | "rediss+sentinel" => {
            let (master, db) = path.split_once('/').unwrap_or((path, ""));
            if master.is_empty() {
                return Err(
                    "does not name the master after the Sentinels, redis+sentinel://HOST:26379/mymaster",
                );
            }
            let master = decoded(master)?;
            url.place = RedisPlace::Sentinel { sentinels: hosts_of(hosts, 26379)?, master };
            url.db = db_of(db)?;
        }
        "redis+cluster" | "rediss+cluster" => {
            if !path.is_empty() {
                return Err("has a path, but a cluster has one database only");
            }
            url.place = RedisPlace::Cluster(hosts_of(hosts, 6379)?);
        }
        _ => {
            return Err(
                "has a scheme that is not known: redis, rediss, unix, redis+sentinel, rediss+sentinel, \
                        redis+cluster and rediss+cluster are",
            );
        }
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let is_sentinel = matches!(url.place, RedisPlace::Sentinel { .. });
        match name {
            "db" if matches!(url.place, RedisPlace::Unix(_)) => url.db = db_of(value)?,
            "sentinel_user" if is_sentinel => url.sentinel_login.user = Some(decoded(value)?),
            "sentinel_password" if is_sentinel => {
                url.sentinel_login.password = Some(Password::new(decoded(value)?));
            }
            _ => return Err("has something after its `?` that is not known for its scheme"),
        }
    }
    Ok(url)
}

fn login_of(text: &str) -> Result<RedisLogin, &'static str> {
    let (user, password) =
        text.split_once(':').map_or((text, None), |(user, password)| (user, Some(password)));
    let user = Some(decoded(user)?).filter(|user| !user.is_empty());
    let password = password.map(decoded).transpose()?.filter(|password| !password.is_empty());
    Ok(RedisLogin { user, password: password.map(Password::new) })
}

fn hosts_of(text: &str, default_port: u16) -> Result<Vec<(String, u16)>, &'static str> {
    text.split(',').map(|authority| host_of(authority, default_port)).collect()
}

fn host_of(authority: &str, default_port: u16) -> Result<(String, u16), &'static str> {
    let (name, port) = split_port(authority).ok_or("has a port that is not a number from 1 to 65535")?;
    let inner = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let is_address = match inner {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.parse::<std::net::Ipv4Addr>().is_ok(),
    };
    if !is_address && !is_host_name(name) {
        return Err(
            "has a host that is neither a name nor an address; `@`, `:`, `/` and `?` in a password are \
                    written %40, %3A, %2F and %3F",
        );
    }
    Ok((inner.unwrap_or(name).to_owned(), port.unwrap_or(default_port)))
}

fn db_of(text: &str) -> Result<u32, &'static str> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| "has a database that is not a number")
}

fn decoded(text: &str) -> Result<String, &'static str> {
    let text =
        percent_decode_str(text).decode_utf8().map_err(|_| "is not UTF-8 after its % signs are read")?;
    if text.chars().any(char::is_control) {
        return Err("has control characters");
    }
    Ok(text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        redis_url(text).map_or_else(str::to_owned, |url| {
            let login = |login: &RedisLogin| {
                let password = login.password.as_ref().map_or("-", Password::expose);
                format!("{} {password}", login.user.as_deref().unwrap_or("-"))
            };
            format!("{} {} {} {}", url.shown(), login(&url.login), url.db, login(&url.sentinel_login))
        })
    }

    #[test]
    fn every_form_is_taken_apart() {
        for (text, wanted) in [
            ("redis://localhost", "redis://localhost:6379 - - 0 - -"),
            ("redis://u:p@10.0.0.1:7000/3", "redis://10.0.0.1:7000 u p 3 - -"),
            ("rediss://:p%40%3a%2f@redis.example.com/", "rediss://redis.example.com:6379 - p@:/ 0 - -"),
            ("redis://u@[::1]:7000", "redis://[::1]:7000 u - 0 - -"),
            ("unix:///run/redis.sock?db=2", "unix:///run/redis.sock - - 2 - -"),
            ("redis+unix://u:p@/run/redis.sock", "unix:///run/redis.sock u p 0 - -"),
            (
                "redis+sentinel://u:p@a,b:26380,c/mymaster/4?sentinel_user=s&sentinel_password=q%26",
                "redis+sentinel://a:26379,b:26380,c:26379/mymaster u p 4 s q&",
            ),
            ("rediss+sentinel://a/m", "rediss+sentinel://a:26379/m - - 0 - -"),
            ("rediss+cluster://:p@a,b:7001", "rediss+cluster://a:6379,b:7001 - p 0 - -"),
        ] {
            assert_eq!(shown(text), wanted);
        }
    }

    #[test]
    fn what_is_no_url_is_refused_without_a_byte_of_it() {
        for text in [
            "CANARY",
            "http://CANARY",
            "redis://:x@CANARY/CANARY",
            "redis://a,b",
            "redis://a/CANARY",
            "redis://a:0",
            "redis://a:CANARY",
            "unix://CANARY",
            "redis+sentinel://a",
            "redis+cluster://a/1",
            "redis://a?CANARY=1",
            "redis://",
            "redis://[CANARY]",
            "redis://a/1?db=2",
            "redis://u:%ff@a",
            "redis://u:%0a@a",
        ] {
            let fault = redis_url(text).err().unwrap_or_default();
            assert!(!fault.is_empty() && !fault.contains("CANARY"), "{text}: {fault}");
        }
    }
}
