//! From a request's head to the client that sent it.
//!
//! A credential is looked for in one place after another, and the first one present decides:
//!
//! 1. `Authorization: Bearer KEY`, or `Basic` with the key as password (what `http://name:KEY@host` becomes);
//! 2. `access_token=` in the query: a placeholder or the key itself. Not on `/sns/…`, where it is the user's;
//! 3. `secret=` in the query, on the calls where SDKs send the AppSecret, which for them is the client key.
//!
//! A certificate that names a client goes before all of these: what else is shown may say which account, and may not be
//! another client's. A client that has no key is nobody without its certificate.
//!
//! Where no clients are configured, every caller is `anonymous` and a credential is only read for the account that a
//! placeholder names.
//!
//! # Why a connection remembers
//!
//! Clients keep connections, and send the same credential on each request of one. Comparing it with the last one
//! that was good costs a tenth of judging it again. What is remembered is good for one configuration only.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use zeroize::Zeroizing;

use super::handle::Connection;
use super::refusal::Refusal;
use super::route::Target;
use super::worker::{RouteEntry, View};
use crate::clients::{Client, Clients, Placeholder, PlaceholderError};
use crate::types::{AccountName, UnixSeconds};
use crate::wechat::paths::Need;
use crate::wechat::query;

/// Who sent a request.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) client: Arc<Client>,
    /// The account, where the credential was a placeholder.
    pub(super) account: Option<AccountName>,
    /// Whether the credential came as `access_token`, which then never leaves.
    pub(super) is_by_access_token: bool,
    /// Where its requests go that name no account, once one has gone there.
    pub(super) usual: OnceCell<Rc<RouteEntry>>,
    /// Where a placeholder said so: its end.
    good_until: Option<UnixSeconds>,
}

/// The last credential that was good on a connection, and whose it was.
#[derive(Debug, Default)]
pub(super) struct Remembered(RefCell<Option<Known>>);

struct Known {
    view: Rc<View>,
    /// The field is kept as it came, the parameter is copied.
    authorization: Option<HeaderValue>,
    access_token: Option<Zeroizing<Box<str>>>,
    caller: Rc<Caller>,
}

/// Finds the client.
pub(super) fn authenticate(
    view: &Rc<View>,
    authorization: Option<&HeaderValue>,
    target: &Target<'_>,
    connection: &Connection,
) -> Result<Rc<Caller>, Refusal> {
    let remembered = &connection.remembered;
    let access_token = match target.judged.need {
        // There, `access_token` belongs to the user or to another application.
        Need::UserToken | Need::Untouched => None,
        Need::Token | Need::TokenCall(_) | Need::Secret | Need::AppId | Need::AppSecret => {
            target.parameters.access_token
        }
    };
    if let Some(caller) = remembered.recall(view, authorization, access_token) {
        return Ok(caller);
    }
    let clients = &view.snapshot.clients;
    let shown = connection.shown.client(view);
    if shown.is_none()
        && authorization.is_none()
        && access_token.is_none()
        && clients.anonymous().is_none()
        && let Some(caller) = by_secret(clients, target)
    {
        return Ok(Rc::new(caller));
    }
    let caller = Rc::new(match &shown {
        Some(client) => by_certificate(clients, client, authorization, access_token)?,
        None => judge(clients, authorization, access_token).and_then(Caller::without_certificate)?,
    });
    remembered.keep(view, authorization, access_token, &caller);
    Ok(caller)
}

fn judge(
    clients: &Clients,
    authorization: Option<&HeaderValue>,
    access_token: Option<&str>,
) -> Result<Caller, Refusal> {
    if let Some(client) = clients.anonymous() {
        // A placeholder that is not good any more is no credential, only a hint that went stale.
        let hint = access_token.and_then(|token| clients.by_placeholder(token, UnixSeconds::now()).ok());
        let (account, good_until) = hint.map(|(_, account, until)| (account, until)).unzip();
        return Ok(Caller { account, good_until, ..Caller::by_key(client) });
    }
    if let Some(header) = authorization {
        let found = header.to_str().ok().and_then(|text| by_authorization(clients, text));
        let mut caller = found.ok_or(Refusal::Unauthenticated("the key in Authorization is not known"))?;
        // A placeholder beside the key says which account, if it is the same client's.
        if let Some(token) = access_token.filter(|token| Placeholder::is_one(token))
            && let Ok((client, account, until)) = clients.by_placeholder(token, UnixSeconds::now())
            && Arc::ptr_eq(client, &caller.client)
        {
            caller.account = Some(account);
            caller.good_until = Some(until);
        }
        return Ok(caller);
    }
    match access_token {
        Some(token) => by_access_token(clients, token),
        None => Err(Refusal::Unauthenticated(
            "no client key: send Authorization: Bearer KEY, or access_token= with a key or a placeholder",
        )),
    }
}

fn by_certificate(
    clients: &Clients,
    client: &Arc<Client>,
    authorization: Option<&HeaderValue>,
    access_token: Option<&str>,
) -> Result<Caller, Refusal> {
    let by_field =
        authorization.and_then(|field| field.to_str().ok()).and_then(|text| by_authorization(clients, text));
    let by_token = access_token.and_then(|token| by_access_token(clients, token).ok());
    if [&by_field, &by_token].into_iter().flatten().any(|other| !Arc::ptr_eq(&other.client, client)) {
        return Err(Refusal::Unauthenticated(
            "the certificate is one client's, the key or placeholder another's",
        ));
    }
    let is_by_access_token = by_token.is_some();
    let said = by_token.into_iter().chain(by_field).find(|caller| caller.account.is_some());
    let (account, good_until) = said.map_or((None, None), |said| (said.account, said.good_until));
    Ok(Caller { account, is_by_access_token, good_until, ..Caller::by_key(client) })
}

/// `Bearer KEY`, `Basic base64(any:KEY)`; the scheme in any case (RFC 9110 §11.1).
fn by_authorization(clients: &Clients, text: &str) -> Option<Caller> {
    let (scheme, rest) = text.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        // A placeholder is a credential wherever an SDK puts it.
        if Placeholder::is_one(rest) {
            return by_placeholder(clients, rest).ok();
        }
        return clients.by_key(rest).map(Caller::by_key);
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let decoded = Zeroizing::new(STANDARD.decode(rest).ok()?);
        let (_, key) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        return clients.by_key(key).map(Caller::by_key);
    }
    None
}

fn by_access_token(clients: &Clients, token: &str) -> Result<Caller, Refusal> {
    if Placeholder::is_one(token) {
        let found = by_placeholder(clients, token);
        let caller = found.map_err(|error| Refusal::Unauthenticated(placeholder_line(error)))?;
        return Ok(Caller { is_by_access_token: true, ..caller });
    }
    let decoded = || query::decode(token).map(Zeroizing::new);
    let client = clients.by_key(token).or_else(|| clients.by_key(&decoded()?));
    let client = client.ok_or(Refusal::Unauthenticated("access_token= is not a known key or placeholder"))?;
    Ok(Caller { is_by_access_token: true, ..Caller::by_key(client) })
}

fn by_placeholder(clients: &Clients, text: &str) -> Result<Caller, PlaceholderError> {
    let (client, account, until) = clients.by_placeholder(text, UnixSeconds::now())?;
    Ok(Caller { account: Some(account), good_until: Some(until), ..Caller::by_key(client) })
}

fn by_secret(clients: &Clients, target: &Target<'_>) -> Option<Caller> {
    let secret = target.parameters.secret.filter(|_| target.judged.need == Need::Secret)?;
    let key = Zeroizing::new(query::decode(secret)?);
    clients.by_key(&key).map(Caller::by_key)
}

fn placeholder_line(error: PlaceholderError) -> &'static str {
    match error {
        PlaceholderError::Expired => "the placeholder has expired: let the SDK ask for its token again",
        PlaceholderError::NotOne | PlaceholderError::Forged => {
            "the placeholder is not one of ours, or its client or key is gone"
        }
    }
}

// === impl Caller ===

impl Caller {
    /// It came without a certificate that names it.
    fn without_certificate(self) -> Result<Self, Refusal> {
        if self.client.needs_certificate() {
            return Err(Refusal::Unauthenticated(
                "this client is known by its certificate, which is not here",
            ));
        }
        Ok(self)
    }

    fn by_key(client: &Arc<Client>) -> Self {
        Self {
            client: Arc::clone(client),
            account: None,
            is_by_access_token: false,
            usual: OnceCell::new(),
            good_until: None,
        }
    }
}

// === impl Remembered ===

impl Remembered {
    fn recall(
        &self,
        view: &Rc<View>,
        authorization: Option<&HeaderValue>,
        access_token: Option<&str>,
    ) -> Option<Rc<Caller>> {
        let known = self.0.borrow();
        let known = known.as_ref()?;
        let is_same = Rc::ptr_eq(&known.view, view)
            && known.authorization.as_ref() == authorization
            && known.access_token.as_ref().map(|token| &***token) == access_token
            && known.caller.good_until.is_none_or(|until| UnixSeconds::now() < until);
        is_same.then(|| Rc::clone(&known.caller))
    }

    fn keep(
        &self,
        view: &Rc<View>,
        authorization: Option<&HeaderValue>,
        access_token: Option<&str>,
        caller: &Rc<Caller>,
    ) {
        // A field cut out of the head's buffer would keep the whole buffer.
        let copy = |value: &HeaderValue| HeaderValue::from_bytes(value.as_bytes()).ok();
        *self.0.borrow_mut() = Some(Known {
            view: Rc::clone(view),
            authorization: authorization.and_then(copy),
            access_token: access_token.map(|token| Zeroizing::new(token.into())),
            caller: Rc::clone(caller),
        });
    }
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known").field("client", &self.caller.client.name).finish_non_exhaustive()
    }
}
