//! `WeCom`'s token through some days: the same one as long as it lives, and no promise of a new one before.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use weigate::token::store::MemoryStore;
use weigate::token::{SourceError, TokenSource, start};
use weigate::types::{AppSecret, GrantKind};
use weigate::wechat::token_call::{self, Grant, Mode};

use super::model::{Wall, account, life, secs, within};

/// What a repeated call says of the time that is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// What is left.
    Left,
    /// A whole life, which is not so.
    Whole,
    /// A whole life, which it is from then on.
    Prolonged,
}

#[derive(Clone)]
struct Wecom(Arc<Mutex<State>>);

struct State {
    says: Says,
    calls: u64,
    serial: u64,
    end: Option<Instant>,
}

const DAYS: u64 = 3;
const LIVES: Duration = Duration::from_hours(2);

impl TokenSource for Wecom {
    async fn fetch(&self, mode: Mode) -> Result<Grant, SourceError> {
        assert_eq!(mode, Mode::Normal, "nothing is forced by itself");
        sleep(Duration::from_millis(80)).await;
        let reply = {
            let mut state = self.0.lock().unwrap();
            let now = Instant::now();
            state.calls += 1;
            let end = match state.end.filter(|end| *end > now) {
                Some(_) if state.says == Says::Prolonged => now + LIVES,
                Some(end) => end,
                None => {
                    state.serial += 1;
                    now + LIVES
                }
            };
            state.end = Some(end);
            let says = if state.says == Says::Left { end - now } else { LIVES };
            format!(
                r#"{{"errcode":0,"errmsg":"ok","access_token":"{}-token","expires_in":{}}}"#,
                state.serial,
                says.as_secs()
            )
        };
        let secret = AppSecret::new("5ecre7".to_owned());
        Ok(token_call::decode(GrantKind::Wecom, 200, reply.as_bytes(), &secret)?)
    }
}

#[tokio::test(start_paused = true)]
async fn a_life_costs_two_calls_and_no_request_gets_a_dead_token_or_waits_for_long() {
    for (says, calls_a_day_max) in [(Says::Left, 30), (Says::Whole, 37), (Says::Prolonged, 37)] {
        for seed in 0..4 {
            let (calls, waited_max) = live(says, seed).await;
            assert!(calls <= calls_a_day_max * DAYS, "{says:?}, seed {seed}: {calls} calls");
            assert!(waited_max < secs(5), "{says:?}, seed {seed}: a request waited {waited_max:?}");
        }
    }
}

/// A request every 7 s for some days: how many calls that cost, and the longest wait for a token.
async fn live(says: Says, seed: u64) -> (u64, Duration) {
    let wecom = Wecom(Arc::new(Mutex::new(State { says, calls: 0, serial: 0, end: None })));
    let life = weigate::token::Life {
        account: account("corp", GrantKind::Wecom),
        ..life("corp", seed, &Wall::new())
    };
    let (handle, task) = start(life, wecom.clone(), MemoryStore::default());
    let begun = Instant::now();
    let mut waited_max = Duration::ZERO;
    while begun.elapsed() < Duration::from_hours(24 * DAYS) {
        let asked = Instant::now();
        let token = handle.wait(within(10)).await.unwrap();
        waited_max = waited_max.max(asked.elapsed());
        assert!(wecom.accepts(token.access_token.expose()), "{says:?}, seed {seed}: a dead token");
        sleep(secs(7)).await;
    }
    task.stop().await;
    let calls = wecom.0.lock().unwrap().calls;
    (calls, waited_max)
}

impl Wecom {
    fn accepts(&self, token: &str) -> bool {
        let state = self.0.lock().unwrap();
        state.end.is_some_and(|end| Instant::now() < end) && token == format!("{}-token", state.serial)
    }
}
