//! From path and query to where a request goes and what it needs.
//!
//! Two steps, since a client is only known in between: [`Target`] is what the request asks for, [`Route`] is what
//! this client gets.

use std::rc::Rc;

use http::Uri;

use super::authenticate::Caller;
use super::refusal::Refusal;
use super::snapshot::Snapshot;
use super::worker::{RouteEntry, View};
use crate::clients::{Client, Clients};
use crate::telemetry::metrics::WorkerCounts;
use crate::token::TokenHandle;
use crate::types::{AccountName, AppId, Platform};
use crate::wechat::paths::{self, Judged, Need};
use crate::wechat::query::{self, Drop, Parameters};

/// What a request asks for.
#[derive(Debug)]
pub(super) struct Target<'a> {
    /// The path as it will be sent, byte for byte.
    pub(super) path: &'a str,
    /// The query as it came, without its `?`.
    pub(super) query: Option<&'a str>,
    /// The path, judged.
    pub(super) judged: Judged<'a>,
    /// What weigate reads in the query.
    pub(super) parameters: Parameters<'a>,
    /// The `NAME` of a path prefix `/@NAME`.
    pub(super) account_prefix: Option<&'a str>,
}

/// What this client gets: all that the rest of the way needs to know of target and caller.
#[derive(Debug)]
pub(super) struct Route<'a> {
    pub(super) entry: Rc<RouteEntry>,
    pub(super) need: Need,
    /// The path as it will be sent.
    pub(super) path: &'a str,
    /// The query as it came.
    pub(super) query: Option<&'a str>,
    /// What is taken out of the query before it is sent.
    pub(super) drop: Drop,
    /// How long a body that is not held may be.
    pub(super) streamed_body_bytes_max: Option<u64>,
}

/// weigate's own paths: WeChat has none that start so.
const OWN: &str = "/-/";

// === impl Target ===

impl<'a> Target<'a> {
    /// Reads the request target.
    pub(super) fn of(uri: &'a Uri) -> Result<Self, Refusal> {
        let path = paths::collapse_leading_slashes(uri.path());
        let (account_prefix, path) = match path.strip_prefix("/@") {
            Some(rest) => {
                let (name, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                (Some(name), if path.is_empty() { "/" } else { paths::collapse_leading_slashes(path) })
            }
            None => (None, path),
        };
        if path.starts_with(OWN) {
            return Err(Refusal::NotHere);
        }
        let judged = paths::judge(path).map_err(Refusal::Path)?;
        let parameters = uri.query().map(query::parameters).unwrap_or_default();
        Ok(Self { path, query: uri.query(), judged, parameters, account_prefix })
    }

    /// Whether it says which account is meant.
    fn names_account(&self) -> bool {
        self.account_prefix.is_some() || self.parameters.from_appid.is_some() || self.login_app_id().is_some()
    }

    /// The AppID of a login call.
    fn login_app_id(&self) -> Option<&'a str> {
        let is_login = matches!(self.judged.need, Need::Secret | Need::AppId | Need::AppSecret);
        self.parameters.appid.filter(|app_id| is_login && !app_id.is_empty())
    }
}

// === impl Route ===

impl<'a> Route<'a> {
    /// Chooses the account and checks that the client may do this.
    pub(super) fn choose(
        view: &View,
        counts: &WorkerCounts,
        target: &Target<'a>,
        caller: &Caller,
    ) -> Result<Self, Refusal> {
        let entry = entry(view, counts, target, caller)?;
        let need = permitted(target, &caller.client, entry.platform)?;
        Ok(Self {
            entry,
            need,
            path: target.path,
            query: target.query,
            drop: dropped(need, target, caller, &view.snapshot.clients),
            streamed_body_bytes_max: caller.client.streamed_body_bytes_max,
        })
    }
}

/// What the path needs there, if the client may call it.
fn permitted(target: &Target<'_>, client: &Client, platform: Platform) -> Result<Need, Refusal> {
    let path = &target.judged.decoded;
    let (need, guarded) = target.judged.on(platform).map_err(Refusal::Path)?;
    let carries_own = target.parameters.foreign_token.is_some() || need == Need::Untouched;
    // Another credential than ours: only for clients whose `allow` names the path.
    if !client.may_call(path, guarded) || carries_own && !client.lists(path) {
        return Err(Refusal::PathForbidden);
    }
    Ok(if carries_own { Need::Untouched } else { need })
}

fn dropped(need: Need, target: &Target<'_>, caller: &Caller, clients: &Clients) -> Drop {
    if !target.parameters.has_droppable {
        return Drop::default();
    }
    let (access_token, login) = match need {
        Need::Token | Need::AppId => (true, false),
        Need::Secret | Need::AppSecret | Need::TokenCall(_) => (true, true),
        // The user's own token travels; a client's credential that came under this name does not.
        Need::UserToken | Need::Untouched => {
            let ours = |token: &str| clients.is_ours(token);
            (caller.is_by_access_token || target.parameters.access_token.is_some_and(ours), false)
        }
    };
    let appid = login || need == Need::AppId;
    Drop { access_token, from_appid: true, appid, secret: login }
}

/// Client and account. Where the request itself names no account this is the same for all requests of a caller, and
/// for all callers of a client that show no placeholder: then neither names nor maps are looked at again.
fn entry(
    view: &View,
    counts: &WorkerCounts,
    target: &Target<'_>,
    caller: &Caller,
) -> Result<Rc<RouteEntry>, Refusal> {
    let client = &caller.client;
    let choose = || Ok(view.route(counts, client, token(&view.snapshot, target, caller)?));
    if caller.account.is_none() && target.names_account() {
        return choose();
    }
    if let Some(usual) = caller.usual.get() {
        return Ok(Rc::clone(usual));
    }
    let usual = match view.usual(client).filter(|_| caller.account.is_none()) {
        Some(usual) => usual,
        None => choose()?,
    };
    if caller.account.is_none() {
        view.keep_usual(client, &usual);
    }
    Ok(Rc::clone(caller.usual.get_or_init(|| usual)))
}

/// That of the placeholder's account; else the path prefix's; else `from_appid`'s; on login calls `appid`'s; else the
/// client's only one.
fn token<'a>(
    snapshot: &'a Snapshot,
    target: &Target<'_>,
    caller: &Caller,
) -> Result<&'a TokenHandle, Refusal> {
    let token = if let Some(name) = &caller.account {
        snapshot.token(name)
    } else if let Some(prefix) = target.account_prefix {
        AccountName::parse(prefix).ok().and_then(|name| snapshot.token(&name))
    } else if let Some(app_id) = target.parameters.from_appid {
        only(by_app_id(snapshot, app_id, &caller.client))?
    } else if let Some(app_id) = target.login_app_id() {
        only(by_app_id(snapshot, app_id, &caller.client).filter(|token| on(token, Platform::Weixin)))?
    } else {
        let only = caller.client.only_account(|| snapshot.only_name()).ok_or(Refusal::AccountUnknown)?;
        snapshot.token(only)
    };
    token.filter(|token| caller.client.may_use(&token.account().name)).ok_or(Refusal::AccountForbidden)
}

/// Those of this AppID's accounts that the client may use.
fn by_app_id<'a>(
    snapshot: &'a Snapshot,
    raw: &str,
    client: &Client,
) -> impl Iterator<Item = &'a TokenHandle> {
    let app_id = query::decode(raw).and_then(|text| AppId::parse(&text));
    let tokens = app_id.into_iter().flat_map(|app_id| snapshot.tokens_of(&app_id));
    tokens.filter(|token| client.may_use(&token.account().name))
}

/// Whether its account lives there.
pub(super) fn on(token: &TokenHandle, platform: Platform) -> bool {
    token.account().grant.platform() == platform
}

/// The only one, if there is one. A corpid may be several accounts', and then it chooses none.
fn only<'a>(mut tokens: impl Iterator<Item = &'a TokenHandle>) -> Result<Option<&'a TokenHandle>, Refusal> {
    match (tokens.next(), tokens.next()) {
        (_, Some(_)) => Err(Refusal::AccountUnknown),
        (only, None) => Ok(only),
    }
}

/// A number that stands for a path where the path itself would be too long to keep.
pub(super) fn path_hash(path: &str) -> u64 {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    hasher.write(path.as_bytes());
    hasher.finish()
}
