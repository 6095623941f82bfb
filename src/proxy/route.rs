//! From path and query to where a request goes and what it needs.
//!
//! Two steps, since a client is only known in between: [`Target`] is what the request asks for, [`Route`] is what
//! this client gets.

use std::sync::Arc;

use http::Uri;

use super::authenticate::Caller;
use super::refusal::Refusal;
use super::snapshot::{Account, Snapshot};
use crate::clients::Clients;
use crate::types::{AccountName, AppId};
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

/// What this client gets.
#[derive(Debug)]
pub(super) struct Route<'a> {
    pub(super) account: &'a Arc<Account>,
    pub(super) need: Need,
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
}

// === impl Route ===

impl<'a> Route<'a> {
    /// What is taken out of the query before it is sent.
    pub(super) fn dropped(&self, target: &Target<'_>, caller: &Caller, clients: &Clients) -> Drop {
        let (access_token, login) = match self.need {
            Need::Token | Need::AppId => (true, false),
            Need::Secret | Need::AppSecret | Need::TokenCall(_) => (true, true),
            // The user's own token travels; a client's credential that came under this name does not.
            Need::UserToken | Need::Untouched => {
                let ours = |token: &str| clients.is_ours(token);
                (caller.is_by_access_token || target.parameters.access_token.is_some_and(ours), false)
            }
        };
        let appid = login || self.need == Need::AppId;
        Drop { access_token, from_appid: true, appid, secret: login }
    }

    /// Chooses the account and checks that the client may do this.
    pub(super) fn choose(
        snapshot: &'a Snapshot,
        target: &Target<'_>,
        caller: &Caller,
    ) -> Result<Self, Refusal> {
        let account = account(snapshot, target, caller)?;
        let path = &target.judged.decoded;
        let carries_own = target.parameters.component_access_token.is_some()
            || target.parameters.cloudbase_access_token.is_some();
        if carries_own || target.judged.need == Need::Untouched {
            // Another credential than ours: only for clients whose `allow` names the path.
            let allowed = caller.client.lists(path) && caller.client.may_call(path, target.judged.guarded);
            return if allowed {
                Ok(Self { account, need: Need::Untouched })
            } else {
                Err(Refusal::PathForbidden)
            };
        }
        if !caller.client.may_call(path, target.judged.guarded) {
            return Err(Refusal::PathForbidden);
        }
        Ok(Self { account, need: target.judged.need })
    }
}

/// The placeholder's account; else the path prefix's; else `from_appid`'s; on login calls `appid`'s; else the client's
/// only one.
fn account<'a>(
    snapshot: &'a Snapshot,
    target: &Target<'_>,
    caller: &Caller,
) -> Result<&'a Arc<Account>, Refusal> {
    let account = if let Some(name) = &caller.account {
        snapshot.account(name)
    } else if let Some(prefix) = target.account_prefix {
        AccountName::parse(prefix).ok().and_then(|name| snapshot.account(&name))
    } else if let Some(app_id) = target.parameters.from_appid {
        by_app_id(snapshot, app_id)
    } else if let (Need::Secret | Need::AppId | Need::AppSecret, Some(app_id)) =
        (target.judged.need, target.parameters.appid.filter(|app_id| !app_id.is_empty()))
    {
        by_app_id(snapshot, app_id)
    } else {
        let only = caller.client.only_account(|| snapshot.only_name()).ok_or(Refusal::AccountUnknown)?;
        snapshot.account(only)
    };
    account.filter(|account| caller.client.may_use(&account.name)).ok_or(Refusal::AccountForbidden)
}

pub(super) fn by_app_id<'a>(snapshot: &'a Snapshot, raw: &str) -> Option<&'a Arc<Account>> {
    AppId::parse(&query::decode(raw)?).and_then(|app_id| snapshot.account_of(&app_id))
}
