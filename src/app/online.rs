//! `weigate check --online`: what a configuration needs from the world, tried once, each no with its cure.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::accounts::Endpoints;
use crate::config::{self, Config, UpstreamHost};
use crate::proxy::upstream;
use crate::token::publish;
use crate::token::{self, ConfiguredStore, HttpTokenSource, StoreError, TokenSource as _};
use crate::types::{GrantKind, Platform, UnixSeconds};
use crate::wechat::token_call::Mode;

/// One thing that was tried.
#[derive(Debug)]
pub struct Finding {
    what: String,
    outcome: Result<String, String>,
}

/// Each try gets this long.
const TRY_MAX: Duration = Duration::from_secs(10);

/// A clock that is off by more makes certificates and expiries doubtful.
const SKEW_MAX: Duration = Duration::from_mins(1);

/// Tries the hosts, the clock, the store and one token call that changes nothing per account.
pub async fn check(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let client = upstream::tls_config(config.upstream.ca_pem.as_deref())
        .map_err(|error| error.to_string())
        .and_then(|tls| token::http_client(tls).map_err(|error| error.without_url().to_string()));
    let client = match client {
        Ok(client) => client,
        Err(error) => return vec![Finding { what: "TLS set-up".to_owned(), outcome: Err(error) }],
    };
    let uses = |platform| config.accounts.iter().any(|account| account.grant.platform() == platform);
    let platforms = [Platform::Weixin, Platform::Wecom].into_iter().filter(|platform| uses(*platform));
    for host in platforms.flat_map(|platform| config.upstream.hosts_of(platform)) {
        findings.push(dns(host).await);
        findings.push(reach(&client, host).await);
    }
    findings.push(store(config).await);
    findings.extend(publishing(config).await);
    let endpoints = Endpoints::new(&config.upstream, &client);
    for account in &config.accounts {
        let source = HttpTokenSource::new(endpoints.platform(account.grant.platform()), harmless(account));
        let outcome = match tokio::time::timeout(TRY_MAX, source.fetch(Mode::Normal)).await {
            Err(_) => Err(format!("no answer within {} s", TRY_MAX.as_secs())),
            Ok(Err(error)) => Err(format!("{}; {}", error.told(), error.advice())),
            Ok(Ok(grant)) => Ok(format!("a token that lives {} s", grant.lives.as_secs())),
        };
        findings.push(Finding { what: format!("token call of account {}", account.name), outcome });
    }
    findings
}

/// The call that tells the same of secret and address, and ends no token: `/cgi-bin/token` would end the one in use, and
/// `stable_token` knows nothing of it (wechat.md §2).
fn harmless(account: &Arc<config::Account>) -> Arc<config::Account> {
    if account.grant.rotates() {
        Arc::new(config::Account { grant: GrantKind::StableToken, ..config::Account::clone(account) })
    } else {
        Arc::clone(account)
    }
}

async fn dns(host: &UpstreamHost) -> Finding {
    let looked_up =
        tokio::time::timeout(TRY_MAX, tokio::net::lookup_host((host.host.as_str(), host.port))).await;
    let outcome = match looked_up {
        Err(_) => Err("no answer; is a name server configured and reachable?".to_owned()),
        Ok(Err(error)) => Err(format!("{error}; is a name server configured and reachable?")),
        Ok(Ok(addresses)) => Ok(format!("{} address(es)", addresses.count())),
    };
    Finding { what: format!("name {}", host.host), outcome }
}

/// One request without credentials, for the handshake and the clock.
async fn reach(client: &reqwest::Client, host: &UpstreamHost) -> Finding {
    let what = format!("connection to {host}");
    let url = format!("{host}/cgi-bin/token");
    let response = match client.get(url).timeout(TRY_MAX).send().await.map_err(reqwest::Error::without_url) {
        Ok(response) => response,
        Err(error) => {
            let advice = "is there a firewall, or a proxy that breaks TLS? A private authority goes into upstream.ca_file";
            return Finding { what, outcome: Err(format!("{}; {advice}", chain(&error))) };
        }
    };
    let theirs = response.headers().get(http::header::DATE).and_then(|date| http_date(date.to_str().ok()?));
    let outcome = match theirs {
        None => Ok("reached".to_owned()),
        Some(theirs) => {
            let ours = UnixSeconds::now();
            let skew = ours.since(theirs).max(theirs.since(ours));
            if skew > SKEW_MAX {
                Err(format!(
                    "reached, but this machine's clock is off by {} s; set it by NTP",
                    skew.as_secs()
                ))
            } else {
                Ok(format!("reached, clocks within {} s", skew.as_secs().max(1)))
            }
        }
    };
    Finding { what, outcome }
}

async fn store(config: &Config) -> Finding {
    if let config::Store::Redis { redis, .. } = &config.store {
        let outcome = match token::try_redis(redis).await {
            Ok(took) => {
                Ok(format!("scripts and the channel work, {} ms for an answer", took.as_millis().max(1)))
            }
            Err(fault) => Err(format!("{}: {}", fault.word(), fault.cure())),
        };
        return Finding { what: format!("store {}", redis.url.shown()), outcome };
    }
    let outcome = match ConfiguredStore::open(&config.store) {
        Ok(_) => Ok("can be written".to_owned()),
        // A weigate that runs beside this check is no fault, and has shown that the store works.
        Err(StoreError::InUse(_)) => Ok("in use, by a weigate that runs".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    Finding { what: "store".to_owned(), outcome }
}

/// Whether tokens can be published: the connection, and the keys of the first account that publishes.
async fn publishing(config: &Config) -> Option<Finding> {
    let redis = config.publish.as_ref()?;
    let account = config.accounts.iter().find(|account| !account.publish.is_empty())?;
    let outcome = match publish::try_publishing(redis, account).await {
        Ok(took) => Ok(format!("can be reached, {} ms for an answer", took.as_millis().max(1))),
        Err(fault) => Err(format!("{}: {}", fault.word(), publish::advice(fault))),
    };
    Some(Finding { what: format!("publishing at {}", redis.url.shown()), outcome })
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 §5.6.7).
fn http_date(text: &str) -> Option<UnixSeconds> {
    let time = httpdate::parse_http_date(text).ok()?;
    Some(UnixSeconds(time.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs()))
}

// === impl Finding ===

impl Finding {
    /// Whether something must be done.
    pub fn is_fault(&self) -> bool {
        self.outcome.is_err()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Ok(good) => write!(f, "good  {}: {good}", self.what),
            Err(fault) => write!(f, "FAULT {}: {fault}", self.what),
        }
    }
}
