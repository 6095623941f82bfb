//! WeChat's `stable_token` as its pages describe it, with faults at will.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use weigate::config::Account;
use weigate::token::{Alone, Common, Life, SourceError, TokenSource, Turns, WallClock};
use weigate::types::{AccountName, AppId, AppSecret, GrantKind, UnixSeconds};
use weigate::wechat::token_call::{self, Grant, Mode};

/// How the endpoint misbehaves.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fault {
    /// Not at all.
    None,
    /// Connections are refused.
    Down,
    /// Never answers.
    Hangs,
    /// Answers right, after this long.
    Slow(Duration),
    /// Answers these bytes.
    Says(String),
    /// A fault of ours: the call panics.
    Panics,
}

/// The endpoint; clones are the same one.
#[derive(Clone)]
pub(super) struct Model(Arc<Mutex<State>>);

pub(super) struct State {
    pub(super) fault: Fault,
    /// When each call began.
    pub(super) calls: Vec<Instant>,
    /// Hands out this token instead of its own, if it is still alive: a server that lags behind.
    pub(super) lags: Option<String>,
    last_end: Option<Instant>,
    in_flight: usize,
    serial: u64,
    current: Option<(String, Instant)>,
    /// Every token ever handed out and its end.
    ends: HashMap<String, Instant>,
}

const LIVES: Duration = Duration::from_hours(2);
const WINDOW: Duration = Duration::from_mins(5);

impl Model {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            fault: Fault::None,
            calls: Vec::new(),
            lags: None,
            last_end: None,
            in_flight: 0,
            serial: 0,
            current: None,
            ends: HashMap::new(),
        })))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(super) fn set(&self, fault: Fault) {
        self.state().fault = fault;
    }

    pub(super) fn rejects(&self, code: i64) {
        self.set(Fault::Says(format!(
            r#"{{"errcode":{code},"errmsg":"invalid ip 203.0.113.7, no rid: 1-2-3"}}"#
        )));
    }

    pub(super) fn calls(&self) -> usize {
        self.state().calls.len()
    }

    pub(super) fn calls_since(&self, since: Instant) -> usize {
        self.state().calls.iter().filter(|call| **call >= since).count()
    }

    /// Someone resets the secret or forces a refresh: the token dies now, there is a new one.
    pub(super) fn revoke(&self) {
        let now = Instant::now();
        let mut state = self.state();
        for end in state.ends.values_mut() {
            *end = (*end).min(now);
        }
        state.make_token(now);
    }

    /// What an API call with this token would get.
    pub(super) fn accepts(&self, token: &str) -> bool {
        self.state().ends.get(token).is_some_and(|end| Instant::now() < *end)
    }
}

impl State {
    fn make_token(&mut self, now: Instant) -> (String, Instant) {
        self.serial += 1;
        let made = (format!("{}_token", self.serial), now + LIVES);
        self.ends.insert(made.0.clone(), made.1);
        self.current = Some(made.clone());
        made
    }

    /// Normal mode: the same token until its last 300 s, then a new one; both are good for that long.
    fn stable_token(&mut self, now: Instant) -> String {
        let (token, end) = match self.current.clone() {
            Some((token, end)) if end > now + WINDOW => (token, end),
            _ => self.make_token(now),
        };
        let lagging =
            self.lags.take().and_then(|token| self.ends.get(&token).map(|end| (token.clone(), *end)));
        let (token, end) = lagging.unwrap_or((token, end));
        format!(r#"{{"access_token":"{token}","expires_in":{}}}"#, (end - now).as_secs())
    }
}

/// Counts down when the call ends, or is dropped.
struct Call(Model);

impl Drop for Call {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.in_flight -= 1;
        state.last_end = Some(Instant::now());
    }
}

impl TokenSource for Model {
    async fn fetch(&self, mode: Mode) -> Result<Grant, SourceError> {
        assert_eq!(mode, Mode::Normal, "nothing is forced by itself");
        let now = Instant::now();
        let fault = {
            let mut state = self.state();
            assert_eq!(state.in_flight, 0, "two fetches at once");
            let apart = state.last_end.map(|end| now - end);
            assert!(apart.is_none_or(|apart| apart >= Duration::from_secs(2)), "only {apart:?} apart");
            state.in_flight += 1;
            state.calls.push(now);
            state.fault.clone()
        };
        let _call = Call(self.clone());
        let reply = match fault {
            Fault::None => {
                sleep(Duration::from_millis(80)).await;
                self.state().stable_token(Instant::now())
            }
            Fault::Slow(span) => {
                sleep(span).await;
                self.state().stable_token(Instant::now())
            }
            Fault::Down => return Err(SourceError::Unreachable(Box::new(std::io::Error::other("refused")))),
            Fault::Hangs => std::future::pending().await,
            Fault::Says(reply) => reply,
            Fault::Panics => panic!("a panic with 5ecre7 in it"),
        };
        Ok(token_call::decode(
            GrantKind::StableToken,
            200,
            reply.as_bytes(),
            &AppSecret::new("5ecre7".to_owned()),
        )?)
    }
}

/// A wall clock that goes with the paused one, and can be set.
#[derive(Clone)]
pub(super) struct Wall {
    base: Instant,
    shift_s: Arc<AtomicI64>,
}

impl Wall {
    pub(super) fn new() -> Self {
        Self { base: Instant::now(), shift_s: Arc::default() }
    }

    pub(super) fn begun(&self) -> Instant {
        self.base
    }

    pub(super) fn shift(&self, seconds: i64) {
        self.shift_s.fetch_add(seconds, Ordering::SeqCst);
    }

    pub(super) fn clock(&self) -> WallClock {
        let wall = self.clone();
        WallClock::of(move || {
            let since = i64::try_from(wall.base.elapsed().as_secs()).unwrap();
            UnixSeconds((1_800_000_000 + since + wall.shift_s.load(Ordering::SeqCst)).try_into().unwrap())
        })
    }
}

/// An account's life, named and seeded.
pub(super) fn life(name: &str, seed: u64, wall: &Wall) -> Life {
    life_among(&Arc::new(common(wall)), name, seed)
}

/// Of one of several keepers.
pub(super) fn life_among(common: &Arc<Common>, name: &str, seed: u64) -> Life {
    let account = account(name, GrantKind::StableToken);
    Life {
        app_id: account.app_id.clone(),
        account,
        alone: Alone::Allowed,
        jitter: fastrand::Rng::with_seed(seed),
        common: Arc::clone(common),
    }
}

pub(super) fn account(name: &str, grant: GrantKind) -> Arc<Account> {
    Arc::new(Account {
        name: AccountName::parse(name).unwrap(),
        app_id: AppId::parse(&format!("wx-{name}")).unwrap(),
        app_secret: AppSecret::new(format!("secret-of-{name}")),
        grant,
        publish: Box::default(),
    })
}

pub(super) fn common(wall: &Wall) -> Common {
    Common {
        ledger: weigate::token::Ledger::default(),
        turns: Turns::new(64),
        clock: wall.clock(),
        waiters_max: 2000.into(),
    }
}

pub(super) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn within(seconds: u64) -> Instant {
    Instant::now() + secs(seconds)
}
