//! `/cgi-bin/token` through some days: every call brings a new token, the one before lives for five minutes at most.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use weigate::token::store::MemoryStore;
use weigate::token::{Renewal, SourceError, TokenSource, start};
use weigate::types::{AppSecret, GrantKind};
use weigate::wechat::token_call::{self, Grant, Mode};

use super::model::{Wall, account, life, secs, within};

/// The endpoint; clones are the same one.
#[derive(Clone, Default)]
struct Endpoint(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    ours: u64,
    serial: u64,
    /// The two tokens that can be alive, the newest last.
    tokens: Vec<(String, Instant)>,
    /// The reply to every n-th call is lost after the call has acted; 0: none.
    loses_every: u64,
}

const LIVES: Duration = Duration::from_hours(2);
const OVERLAP: Duration = Duration::from_mins(5);

impl Endpoint {
    /// What any system's call does.
    fn rotate(&self) -> String {
        let mut state = self.0.lock().unwrap();
        let now = Instant::now();
        state.serial += 1;
        let token = format!("{}_token", state.serial);
        if state.tokens.len() == 2 {
            state.tokens.remove(0);
        }
        if let Some((_, end)) = state.tokens.last_mut() {
            *end = (*end).min(now + OVERLAP);
        }
        state.tokens.push((token.clone(), now + LIVES));
        token
    }

    fn accepts(&self, token: &str) -> bool {
        let state = self.0.lock().unwrap();
        state.tokens.iter().any(|(known, end)| known == token && Instant::now() < *end)
    }

    fn is_newest(&self, token: &str) -> bool {
        self.0.lock().unwrap().tokens.last().is_some_and(|(known, _)| known == token)
    }

    fn ours(&self) -> u64 {
        self.0.lock().unwrap().ours
    }
}

impl TokenSource for Endpoint {
    async fn fetch(&self, mode: Mode) -> Result<Grant, SourceError> {
        assert_eq!(mode, Mode::Normal, "nothing is forced by itself");
        sleep(Duration::from_millis(40)).await;
        let token = self.rotate();
        let is_lost = {
            let mut state = self.0.lock().unwrap();
            state.ours += 1;
            state.loses_every > 0 && state.ours.is_multiple_of(state.loses_every)
        };
        if is_lost {
            std::future::pending::<()>().await;
        }
        sleep(Duration::from_millis(40)).await;
        let reply = format!(r#"{{"access_token":"{token}","expires_in":7200}}"#);
        let secret = AppSecret::new("5ecre7".to_owned());
        Ok(token_call::decode(GrantKind::Token, 200, reply.as_bytes(), &secret)?)
    }
}

fn rotating_life(seed: u64) -> weigate::token::Life {
    weigate::token::Life { account: account("shop", GrantKind::Token), ..life("shop", seed, &Wall::new()) }
}

/// What a request does, once more included; whether WeChat took the token in the end.
async fn request(handle: &weigate::token::TokenHandle, endpoint: &Endpoint) -> bool {
    let token = handle.wait(within(10)).await.unwrap();
    if endpoint.accepts(token.access_token.expose()) {
        return true;
    }
    match handle.newer_than(token.generation, within(10)).await {
        Renewal::Newer(newer) => endpoint.accepts(newer.access_token.expose()),
        Renewal::Same | Renewal::Failed => false,
    }
}

/// A token is refused only in the moment in which a second call, after a reply that was lost, has ended its life and has
/// not brought the next: then the request goes once more.
#[tokio::test(start_paused = true)]
async fn alone_a_life_costs_one_call_and_no_request_is_ever_refused_even_when_replies_are_lost() {
    for (seed, loses_every, calls_a_day_max) in (0..4).flat_map(|seed| [(seed, 0, 13), (seed, 3, 20)]) {
        let endpoint = Endpoint::default();
        endpoint.0.lock().unwrap().loses_every = loses_every;
        let (handle, task) = start(rotating_life(seed), endpoint.clone(), MemoryStore::default());
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_hours(72) {
            let token = handle.wait(within(10)).await.unwrap();
            let is_alive = endpoint.accepts(token.access_token.expose());
            assert!(is_alive || loses_every > 0, "seed {seed}: a refused token");
            assert!(request(&handle, &endpoint).await, "seed {seed} {loses_every}: a refused request");
            sleep(secs(11)).await;
        }
        let calls = endpoint.ours();
        assert!(calls <= calls_a_day_max * 3 + 1, "seed {seed} {loses_every}: {calls} calls");
        task.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn beside_a_system_that_renews_every_two_hours_a_refusal_costs_one_call() {
    for seed in 0..4 {
        let (calls, refused) = a_day_beside(seed, secs(3), every_two_hours()).await;
        // Theirs, and ours after it.
        assert!(calls <= 30, "seed {seed}: {calls} calls");
        assert_eq!(refused, 0, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_revoked_every_quarter_of_an_hour_is_replaced_within_seconds_each_time() {
    let endpoint = Endpoint::default();
    let (handle, task) = start(rotating_life(7), endpoint.clone(), MemoryStore::default());
    handle.wait(within(10)).await.unwrap();
    for _ in 0..20 {
        sleep(Duration::from_mins(15)).await;
        endpoint.0.lock().unwrap().tokens.clear();
        let begun = Instant::now();
        assert!(request(&handle, &endpoint).await);
        assert!(begun.elapsed() < secs(3), "{:?}", begun.elapsed());
    }
    task.stop().await;
}

/// The worst there is: a system that fetches twice as soon as its token is not the newest.
#[tokio::test(start_paused = true)]
async fn a_fight_over_the_token_stays_far_below_the_days_calls() {
    for seed in 0..4 {
        let (calls, _) = a_day_beside(seed, secs(1), at_once()).await;
        assert!((500..=760).contains(&calls), "seed {seed}: {calls} calls");
    }
}

fn every_two_hours() -> impl FnMut(&Endpoint) {
    let mut last = Instant::now();
    move |endpoint: &Endpoint| {
        if last.elapsed() > secs(7000) {
            last = Instant::now();
            endpoint.rotate();
        }
    }
}

fn at_once() -> impl FnMut(&Endpoint) {
    let mut newest = String::new();
    move |endpoint: &Endpoint| {
        if !endpoint.is_newest(&newest) {
            endpoint.rotate();
            newest = endpoint.rotate();
        }
    }
}

/// Requests for a day beside another system: our calls, and the requests that were refused in the end.
async fn a_day_beside(seed: u64, every: Duration, mut theirs: impl FnMut(&Endpoint)) -> (u64, u64) {
    let endpoint = Endpoint::default();
    let (handle, task) = start(rotating_life(seed), endpoint.clone(), MemoryStore::default());
    let (begun, mut refused) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_hours(24) {
        theirs(&endpoint);
        refused += u64::from(!request(&handle, &endpoint).await);
        sleep(every).await;
    }
    task.stop().await;
    (endpoint.ours(), refused)
}
