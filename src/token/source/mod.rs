//! Where grants come from: the trait, and WeChat over HTTP.
//!
//! The HTTP source promises an answer within [`TOTAL_MAX`] for each host it can connect to, a `Content-Length` on
//! every call (a chunked one gets 412), no redirects, no proxy from the environment, no second try of its own, and
//! errors that hold no URL. It knows no schedule: whoever calls it keeps the distances.
//!
//! # Why a connection of its own for every call
//!
//! Calls are minutes to hours apart. A pooled connection would be dead by then, and a POST on it a fault that looks
//! like an outage.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use zeroize::Zeroizing;

use crate::config::{Account, UpstreamHost};
use crate::wechat::token_call::{self, Call, Grant, Mode, Pace, TokenCallError};

#[cfg(test)]
mod tests;

/// Where an account's tokens come from.
pub trait TokenSource: Send + Sync + 'static {
    /// One call. The keeper makes one at a time, gives up after 10 s and may drop the future at any await.
    fn fetch(&self, mode: Mode) -> impl Future<Output = Result<Grant, SourceError>> + Send;
}

/// Why a call brought no grant.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The source answered, and not with a token.
    #[error(transparent)]
    Call(#[from] TokenCallError),
    /// No answer came; the cause holds no URL.
    #[error("the token endpoint gave no answer")]
    Unreachable(#[source] Box<dyn Error + Send + Sync>),
    /// No answer came in time.
    #[error("the token endpoint gave no answer in time")]
    TimedOut,
    /// The source panicked; what it said is on stderr, and not in here.
    #[error("the token call panicked")]
    Panicked,
    /// Nobody was asked: this account's token is fetched under a claim only, and the store grants none.
    #[error("the shared store does not answer, and this account's token is renewed under its lock only")]
    NoClaim,
}

/// Where the accounts of one platform ask for their tokens.
#[derive(Debug)]
pub struct Endpoint {
    /// As [`http_client`] makes it.
    pub client: reqwest::Client,
    /// The platform's hosts, tried in order: the next one when one cannot be connected to.
    pub hosts: Vec<UpstreamHost>,
}

/// WeChat's or `WeCom`'s token endpoint, for one account.
#[derive(Debug)]
pub struct HttpTokenSource {
    endpoint: Arc<Endpoint>,
    account: Arc<Account>,
}

/// Reaching a host: DNS, TCP and TLS together.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// A call to one host, from DNS to the reply's last byte.
pub const TOTAL_MAX: Duration = Duration::from_secs(10);

/// [`TokenSource::fetch`]; a panic in it is an error like any other. Nothing of the keeper's is lent to the source, so
/// no panic leaves anything of it half done.
pub(super) async fn fetch_caught<S: TokenSource>(source: &S, mode: Mode) -> Result<Grant, SourceError> {
    let fetch = AssertUnwindSafe(async { source.fetch(mode).await });
    fetch.catch_unwind().await.unwrap_or(Err(SourceError::Panicked))
}

/// A client as [`HttpTokenSource`] needs it; one serves all accounts. `tls` brings the crypto provider and the
/// roots it trusts. Errors if `tls` is one that reqwest cannot use.
pub fn http_client(tls: rustls::ClientConfig) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .pool_max_idle_per_host(0)
        .connect_timeout(CONNECT_MAX)
        .timeout(TOTAL_MAX)
        .build()
        .map_err(reqwest::Error::without_url)
}

// === impl SourceError ===

impl SourceError {
    /// The words that [`Self::word`] has besides those of the rejections.
    pub const OTHER_WORDS: [&'static str; 5] =
        ["malformed", "unreachable", "timed_out", "panicked", "no_claim"];

    /// The word for it in metrics, logs and refusals.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Call(TokenCallError::Rejected(rejection)) => rejection.kind.word(),
            Self::Call(TokenCallError::Malformed(_)) => "malformed",
            Self::Unreachable(_) => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Panicked => "panicked",
            Self::NoClaim => "no_claim",
        }
    }

    /// How soon to ask again.
    pub fn pace(&self) -> Pace {
        match self {
            Self::Call(TokenCallError::Rejected(rejection)) => rejection.kind.pace(),
            Self::Call(TokenCallError::Malformed(_))
            | Self::Unreachable(_)
            | Self::TimedOut
            | Self::Panicked
            | Self::NoClaim => Pace::Backoff,
        }
    }

    /// What a person can do about it.
    pub fn advice(&self) -> String {
        match self {
            Self::Call(TokenCallError::Rejected(rejection)) => rejection.advice().into_owned(),
            Self::Call(TokenCallError::Malformed(_)) => {
                "something other than WeChat seems to answer: see what stands \
                 between this machine and the upstream hosts"
                    .to_owned()
            }
            Self::Unreachable(_) => {
                "check DNS, firewall and TLS from this machine to the upstream hosts".to_owned()
            }
            Self::TimedOut => {
                "the upstream hosts are slow or packets are dropped on the way; weigate asks again".to_owned()
            }
            Self::Panicked => {
                "this is a fault of weigate's own: report it with the lines on stderr; weigate asks again"
                    .to_owned()
            }
            Self::NoClaim => "see to the shared store: the token in hand serves until its end".to_owned(),
        }
    }

    /// The whole chain of causes in one line of at most 256 bytes, for a log.
    pub fn told(&self) -> String {
        let mut told = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            told.push_str(": ");
            told.push_str(&error.to_string());
            cause = error.source();
        }
        let mut line: String = told.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let cut = (0..=256.min(line.len())).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
        line.truncate(cut);
        line
    }
}

// === impl HttpTokenSource ===

impl HttpTokenSource {
    /// For one account, whose platform's endpoint that is.
    pub fn new(endpoint: Arc<Endpoint>, account: Arc<Account>) -> Self {
        Self { endpoint, account }
    }

    async fn call(&self, host: &UpstreamHost, call: &Call) -> Result<Grant, SourceError> {
        let Account { grant, app_secret, .. } = &*self.account;
        // Perhaps with the secret in it: from here on only errors whose URL was taken out may be seen.
        let url = Zeroizing::new(format!("{host}{}", call.target.as_str()));
        let request = match &call.body {
            Some(body) => self
                .endpoint
                .client
                .post(url.as_str())
                .header(http::header::CONTENT_TYPE, token_call::CONTENT_TYPE)
                .body(Bytes::copy_from_slice(body)),
            None => self.endpoint.client.get(url.as_str()),
        };
        let mut reply = request.send().await.map_err(fault)?;
        let status = reply.status().as_u16();
        let mut bytes = Vec::new();
        while let Some(chunk) = reply.chunk().await.map_err(fault)? {
            bytes.extend_from_slice(&chunk);
            // One chunk past the bound is enough for `decode` to refuse it.
            if bytes.len() > token_call::REPLY_BYTES_MAX {
                break;
            }
        }
        Ok(token_call::decode(*grant, status, &Zeroizing::new(bytes), app_secret)?)
    }
}

impl TokenSource for HttpTokenSource {
    async fn fetch(&self, mode: Mode) -> Result<Grant, SourceError> {
        let Account { grant, app_id, app_secret, .. } = &*self.account;
        let call = token_call::encode(*grant, mode, app_id, app_secret);
        let mut last = SourceError::Unreachable(Box::new(NoHost));
        for host in &self.endpoint.hosts {
            match self.call(host, &call).await {
                Err(SourceError::Unreachable(cause)) if is_connect(cause.as_ref()) => {
                    last = SourceError::Unreachable(cause);
                }
                answer => return answer,
            }
        }
        Err(last)
    }
}

/// No upstream host is configured; `config` does not let that happen.
#[derive(Debug)]
struct NoHost;

impl fmt::Display for NoHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no upstream host")
    }
}

impl Error for NoHost {}

/// reqwest prints the whole URL in its errors; here it is taken out, where they are born.
fn fault(error: reqwest::Error) -> SourceError {
    if error.is_timeout() && !error.is_connect() {
        return SourceError::TimedOut;
    }
    SourceError::Unreachable(Box::new(error.without_url()))
}

fn is_connect(cause: &(dyn Error + Send + Sync + 'static)) -> bool {
    cause.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_connect)
}
