//! One WeChat for all replicas: `stable_token`, or `/cgi-bin/token` whose every call ends the token before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use weigate::token::{SourceError, TokenSource};
use weigate::types::{AppSecret, GrantKind};
use weigate::wechat::token_call::{self, Grant, Mode};

use super::net::Net;
use crate::token_life::model::Fault;

/// How the account gets its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The same token until its last five minutes.
    Stable,
    /// Each call brings a new token; the one before lives for this long more, the one before that not at all.
    Rotating { overlap: Duration },
}

/// The platform; clones are the same one.
#[derive(Clone)]
pub(super) struct WeChat(Arc<Mutex<State>>);

pub(super) struct State {
    pub(super) kind: Kind,
    pub(super) fault: Fault,
    /// When each call arrived.
    pub(super) calls: Vec<Instant>,
    /// Serials of the tokens and their ends. A token is called after its serial.
    ends: BTreeMap<u64, Instant>,
    /// As if nobody had ended any: what a token's life is told to be.
    told_ends: BTreeMap<u64, Instant>,
    /// Serials of the tokens that were called for without a claim.
    unclaimed: BTreeSet<u64>,
    /// Serials of the tokens that nobody was told of: whoever called has given up, or died.
    unheard: BTreeSet<u64>,
    /// Who waits for an answer, by replica.
    in_flight: BTreeMap<usize, Instant>,
    /// What must not happen, and did.
    pub(super) wrongs: Vec<String>,
}

/// One replica's way to it.
pub(super) struct Source {
    pub(super) wechat: WeChat,
    pub(super) net: Net,
}

const LIVES: Duration = Duration::from_hours(2);
const WINDOW: Duration = Duration::from_mins(5);

impl WeChat {
    pub(super) fn new(kind: Kind) -> Self {
        Self(Arc::new(Mutex::new(State {
            kind,
            fault: Fault::None,
            calls: Vec::new(),
            ends: BTreeMap::new(),
            told_ends: BTreeMap::new(),
            unclaimed: BTreeSet::new(),
            unheard: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            wrongs: Vec::new(),
        })))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// What an API call with this token would get.
    pub(super) fn accepts(&self, serial: u64) -> bool {
        self.state().ends.get(&serial).is_some_and(|end| Instant::now() < *end)
    }

    /// The end that was told when the token was handed out.
    pub(super) fn told_end(&self, serial: u64) -> Instant {
        self.state().told_ends[&serial]
    }

    /// Whether two tokens were called for in the same second or the next, one of them at least without a claim: their
    /// ends, in whole seconds, don't say which is the newer. Only with [`Kind::Rotating`].
    pub(super) fn is_a_tie(&self, one: u64, other: u64) -> bool {
        let (told_one, told_other) = (self.told_end(one), self.told_end(other));
        let apart = told_one.max(told_other) - told_one.min(told_other);
        let state = self.state();
        let is_unclaimed = state.unclaimed.contains(&one) || state.unclaimed.contains(&other);
        state.kind != Kind::Stable && is_unclaimed && apart <= Duration::from_secs(2)
    }

    /// Whether a token was called for without a claim.
    pub(super) fn is_unclaimed(&self, serial: u64) -> bool {
        self.state().unclaimed.contains(&serial)
    }

    /// Whether nobody can know that the newest token has ended this one, but by a refusal: nobody was told of it, or both
    /// were called for at one time without a claim, and this one counts as the newer.
    pub(super) fn is_lost_to(&self, serial: u64) -> bool {
        let Some(newest) = self.state().newest() else { return false };
        let is_unheard = self.state().unheard.contains(&newest);
        is_unheard || self.is_a_tie(serial, newest)
    }

    /// Someone resets the secret or forces a refresh.
    pub(super) fn revoke(&self) {
        let now = Instant::now();
        let mut state = self.state();
        for end in state.ends.values_mut() {
            *end = (*end).min(now);
        }
        state.make_token(now);
    }
}

/// The serial in a token's name.
pub(super) fn serial_of(token: &str) -> u64 {
    token.strip_suffix("_token").unwrap().parse().unwrap()
}

impl State {
    fn newest(&self) -> Option<u64> {
        self.ends.keys().next_back().copied()
    }

    fn make_token(&mut self, now: Instant) -> (u64, Instant) {
        let serial = self.ends.last_key_value().map_or(1, |(serial, _)| serial + 1);
        self.ends.insert(serial, now + LIVES);
        self.told_ends.insert(serial, now + LIVES);
        (serial, now + LIVES)
    }

    fn token(&mut self, now: Instant, is_claimed: bool) -> String {
        let newest = self.ends.last_key_value().map(|(serial, end)| (*serial, *end));
        let (serial, end) = match (self.kind, newest) {
            (Kind::Stable, Some((serial, end))) if end > now + WINDOW => (serial, end),
            (Kind::Rotating { overlap }, Some((newest, _))) => {
                let left = |serial| if serial == newest { overlap } else { Duration::ZERO };
                self.ends.iter_mut().for_each(|(serial, end)| *end = (*end).min(now + left(*serial)));
                self.make_token(now)
            }
            _ => self.make_token(now),
        };
        if !is_claimed {
            self.unclaimed.insert(serial);
        }
        format!(r#"{{"access_token":"{serial}_token","expires_in":{}}}"#, (end - now).as_secs())
    }
}

/// Counts down when the call ends, or is dropped.
struct Call(WeChat, usize);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.state().in_flight.remove(&self.1);
    }
}

impl TokenSource for Source {
    async fn fetch(&self, mode: Mode) -> Result<Grant, SourceError> {
        assert_eq!(mode, Mode::Normal, "nothing is forced by itself");
        let (kind, others) = {
            let mut state = self.wechat.state();
            let others: Vec<_> = state.in_flight.iter().map(|(who, since)| (*who, *since)).collect();
            state.in_flight.insert(self.net.index, Instant::now());
            (state.kind, others)
        };
        let is_claimed = self.net.state().has_claim;
        let _call = Call(self.wechat.clone(), self.net.index);
        if kind != Kind::Stable {
            self.net.check_that_it_may_rotate(&others, &self.wechat);
        }
        self.net.thaw().await;
        let fault = {
            let mut state = self.wechat.state();
            state.calls.push(Instant::now());
            state.fault.clone()
        };
        let mut heard = None;
        let reply = match fault {
            Fault::None | Fault::Slow(_) => {
                let span = if let Fault::Slow(span) = fault { span } else { Duration::from_millis(80) };
                sleep(span / 2).await;
                let (token, serial) = {
                    let mut state = self.wechat.state();
                    let token = state.token(Instant::now(), is_claimed);
                    let serial = state.newest();
                    state.unheard.extend(serial);
                    (token, serial)
                };
                sleep(span / 2).await;
                heard = serial;
                token
            }
            Fault::Down => return Err(SourceError::Unreachable(Box::new(std::io::Error::other("refused")))),
            Fault::Hangs => std::future::pending().await,
            Fault::Says(reply) => reply,
            Fault::Panics => panic!("a panic"),
        };
        self.net.thaw().await;
        if let Some(serial) = heard {
            self.wechat.state().unheard.remove(&serial);
        }
        let (kind, secret) = (self.net.grant(), AppSecret::new("5ecre7".to_owned()));
        Ok(token_call::decode(kind, 200, reply.as_bytes(), &secret)?)
    }
}

impl Kind {
    pub(super) fn grant(self) -> GrantKind {
        if self == Self::Stable { GrantKind::StableToken } else { GrantKind::Token }
    }
}
