//! The leaked button on a paused clock: two forced calls 30 s apart, 20 in 24 hours, whatever crashes between.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use weigate::token::store::MemoryStore;
use weigate::token::{LeakRefusal, SourceError, TokenHandle, TokenSource, start};
use weigate::types::{AppSecret, GrantKind};
use weigate::wechat::token_call::{self, Grant, Mode};

use super::model::{Wall, life, secs, within};

/// `stable_token`, as far as force goes; clones are the same one.
#[derive(Clone, Default)]
struct Forced(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    serial: u64,
    end: Option<Instant>,
    forced: Vec<Instant>,
    normal: u64,
    is_down: bool,
}

impl TokenSource for Forced {
    async fn fetch(&self, mode: Mode) -> Result<Grant, SourceError> {
        sleep(Duration::from_millis(50)).await;
        let mut state = self.0.lock().unwrap();
        let now = Instant::now();
        let is_over = state.end.is_none_or(|end| end <= now + secs(300));
        let is_new = match mode {
            Mode::Normal => {
                state.normal += 1;
                is_over
            }
            Mode::Force => {
                let is_apart = state.forced.last().is_none_or(|last| now >= *last + secs(30));
                state.forced.push(now);
                is_apart
            }
        };
        if state.is_down {
            return Err(SourceError::TimedOut);
        }
        if is_new {
            state.serial += 1;
            state.end = Some(now + secs(7200));
        }
        let left = state.end.map_or(0, |end| (end - now).as_secs());
        let reply = format!(r#"{{"access_token":"{}_token","expires_in":{left}}}"#, state.serial);
        let secret = AppSecret::new("5ecre7".to_owned());
        Ok(token_call::decode(GrantKind::StableToken, 200, reply.as_bytes(), &secret)?)
    }
}

impl Forced {
    fn forced(&self) -> Vec<Instant> {
        self.0.lock().unwrap().forced.clone()
    }
}

async fn until_idle(handle: &TokenHandle) -> &'static str {
    while handle.status().leak.state == "running" {
        sleep(secs(1)).await;
    }
    handle.status().leak.state
}

#[tokio::test(start_paused = true)]
async fn a_press_makes_two_forced_calls_thirty_seconds_apart_and_nothing_else_ever_does() {
    let (source, wall) = (Forced::default(), Wall::new());
    let (handle, task) = start(life("shop", 1, &wall), source.clone(), MemoryStore::default());
    handle.wait(within(5)).await.unwrap();
    sleep(secs(24 * 3600)).await;
    assert!(source.forced().is_empty());

    let before = handle.status().generation;
    let begun = handle.leaked().unwrap();
    assert_eq!((begun.state, begun.calls_left, begun.next_call_in), ("running", 2, Some(Duration::ZERO)));
    assert_eq!(handle.leaked(), Err(LeakRefusal::Running));
    sleep(secs(5)).await;
    let status = handle.status().leak;
    assert_eq!((status.calls_left, status.used, status.last), (1, 1, Some("renewed")));
    assert_eq!(until_idle(&handle).await, "done");
    let forced = source.forced();
    assert_eq!(forced.len(), 2);
    assert!(forced[1] - forced[0] >= secs(30) && forced[1] - forced[0] <= secs(40));
    let status = handle.status();
    assert_eq!((status.generation.0, status.leak.used), (before.0 + 2, 2));
    assert_eq!(status.counts.invalid_early, 0, "nobody else did that");

    // Asks, failures and clocks that jump are no reason to force.
    for _ in 0..50 {
        handle.newer_than(handle.status().generation, within(5)).await;
        sleep(secs(10)).await;
    }
    wall.shift(86_400);
    sleep(secs(3600)).await;
    assert_eq!(source.forced().len(), 2);
    task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn twenty_calls_in_any_twenty_four_hours_and_the_refusal_says_when_it_ends() {
    let (source, wall) = (Forced::default(), Wall::new());
    let (handle, task) = start(life("shop", 2, &wall), source.clone(), MemoryStore::default());
    handle.wait(within(5)).await.unwrap();
    let first = wall.clock().read();
    for press in 0..10 {
        assert!(handle.leaked().is_ok(), "{press}");
        assert_eq!(until_idle(&handle).await, "done", "{press}");
    }
    assert_eq!(source.forced().len(), 20);
    assert_eq!(handle.leaked(), Err(LeakRefusal::Exhausted));
    let resets_at = handle.status().leak.resets_at.unwrap();
    assert!(resets_at.since(first) >= secs(86_400) && resets_at.since(first) < secs(86_410));
    // Two must have fallen out before another press fits.
    sleep(resets_at.since(wall.clock().read()) + secs(60)).await;
    assert!(handle.leaked().is_ok());
    assert_eq!(until_idle(&handle).await, "done");
    for apart in source.forced().windows(2) {
        assert!(apart[1] - apart[0] >= secs(30));
    }
    task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_in_the_middle_forgets_neither_the_second_call_nor_the_count() {
    let (source, wall, store) = (Forced::default(), Wall::new(), MemoryStore::default());
    let (handle, task) = start(life("shop", 3, &wall), source.clone(), store.clone());
    handle.wait(within(5)).await.unwrap();
    handle.leaked().unwrap();
    sleep(secs(8)).await;
    task.stop().await;
    assert_eq!(source.forced().len(), 1);
    sleep(secs(3)).await;

    let (handle, task) = start(life("shop", 4, &wall), source.clone(), store.clone());
    handle.wait(within(5)).await.unwrap();
    let status = handle.status().leak;
    assert_eq!((status.state, status.calls_left, status.used), ("running", 1, 1));
    assert_eq!(until_idle(&handle).await, "done");
    let forced = source.forced();
    assert!(forced.len() == 2 && forced[1] - forced[0] >= secs(30), "{forced:?}");
    task.stop().await;

    let (handle, task) = start(life("shop", 5, &wall), source.clone(), store);
    handle.wait(within(5)).await.unwrap();
    assert_eq!((handle.status().leak.state, handle.status().leak.used), ("idle", 2));
    sleep(secs(300)).await;
    assert_eq!(source.forced().len(), 2);
    task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn calls_that_bring_nothing_are_counted_and_come_to_an_end() {
    let (source, wall) = (Forced::default(), Wall::new());
    let (handle, task) = start(life("shop", 6, &wall), source.clone(), MemoryStore::default());
    handle.wait(within(5)).await.unwrap();
    source.0.lock().unwrap().is_down = true;
    handle.leaked().unwrap();
    assert_eq!(until_idle(&handle).await, "failed");
    assert_eq!((source.forced().len(), handle.status().leak.used), (4, 4));
    source.0.lock().unwrap().is_down = false;
    sleep(secs(60)).await;
    handle.leaked().unwrap();
    assert_eq!(until_idle(&handle).await, "done");
    assert_eq!(source.forced().len(), 6);
    task.stop().await;
}
