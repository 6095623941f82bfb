//! Many callers, one keeper: who is answered with what, and what it costs.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use weigate::token::store::MemoryStore;
use weigate::token::{Common, KeeperTask, Renewal, TokenHandle, Turns, start};
use weigate::types::Generation;

use super::model::{Fault, Model, Wall, common, life, life_among, secs, within};

const FIRST: Generation = Generation(1);

async fn settled() -> (Model, TokenHandle, KeeperTask) {
    let (model, wall) = (Model::new(), Wall::new());
    let (handle, task) = start(life("shop", 7, &wall), model.clone(), MemoryStore::default());
    handle.wait(within(5)).await.unwrap();
    sleep(secs(60)).await;
    (model, handle, task)
}

#[tokio::test(start_paused = true)]
async fn a_thousand_waiters_without_a_token_cost_one_fetch() {
    let (model, wall) = (Model::new(), Wall::new());
    let (handle, task) = start(life("shop", 7, &wall), model.clone(), MemoryStore::default());
    let mut waiters = JoinSet::new();
    for _ in 0..1000 {
        let handle = handle.clone();
        waiters.spawn(async move { handle.wait(within(10)).await.map(|token| token.generation) });
    }
    while let Some(answer) = waiters.join_next().await {
        assert_eq!(answer.unwrap(), Ok(FIRST));
    }
    assert_eq!(model.calls(), 1);
    task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn waiters_beyond_the_bound_are_turned_away_at_once() {
    let (model, wall) = (Model::new(), Wall::new());
    model.set(Fault::Slow(secs(8)));
    let life = life_among(&Arc::new(Common { waiters_max: 10.into(), ..common(&wall) }), "shop", 7);
    let (handle, task) = start(life, model.clone(), MemoryStore::default());
    let mut waiters = JoinSet::new();
    for _ in 0..15 {
        let handle = handle.clone();
        waiters.spawn(async move {
            let begun = Instant::now();
            let answer = handle.wait(within(30)).await;
            (answer.map(|_| ()).map_err(|no| no.why), begun.elapsed())
        });
    }
    let mut crowded = 0;
    while let Some(answer) = waiters.join_next().await {
        match answer.unwrap() {
            (Err(why), after) => {
                assert!(why == "crowded" && after.is_zero(), "{why} after {after:?}");
                crowded += 1;
            }
            (Ok(()), after) => assert!(after >= secs(8)),
        }
    }
    assert_eq!(crowded, 5);
    // The places are free again.
    assert!(handle.wait(within(1)).await.is_ok());
    task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_ten_seconds_or_their_deadline() {
    let (model, wall) = (Model::new(), Wall::new());
    model.set(Fault::Hangs);
    let (handle, task) = start(life("shop", 7, &wall), model.clone(), MemoryStore::default());
    for (deadline, most) in [(2, 2), (0, 0), (600, 10)] {
        let begun = Instant::now();
        assert!(handle.wait(within(deadline)).await.is_err());
        assert!(begun.elapsed() <= secs(most), "{:?}", begun.elapsed());
    }
    task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_refused_requests_cost_one_fetch() {
    let (model, handle, task) = settled().await;
    model.revoke();
    let calls = model.calls();
    let mut callers = JoinSet::new();
    for _ in 0..1000 {
        let handle = handle.clone();
        callers.spawn(async move { handle.newer_than(FIRST, within(10)).await });
    }
    while let Some(answer) = callers.join_next().await {
        assert!(matches!(answer.unwrap(), Renewal::Newer(newer) if newer.generation == FIRST.next()));
    }
    sleep(secs(60)).await;
    assert_eq!(model.calls() - calls, 1);
    let counts = handle.status().counts;
    assert_eq!((counts.invalid_early, counts.asked), (1, 1));
    task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_callers_hang_up_and_the_renewal_lands() {
    let (model, handle, task) = settled().await;
    model.revoke();
    model.set(Fault::Slow(secs(5)));
    let mut callers = JoinSet::new();
    for _ in 0..100 {
        let handle = handle.clone();
        callers.spawn(async move { handle.newer_than(FIRST, within(30)).await });
    }
    sleep(secs(1)).await;
    callers.shutdown().await;
    sleep(secs(5)).await;
    let token = handle.current(Instant::now()).map(|token| Arc::clone(&token)).unwrap();
    assert!(token.generation == FIRST.next() && model.accepts(token.access_token.expose()));
    task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn asks_for_an_old_generation_cost_nothing() {
    let (model, handle, task) = settled().await;
    model.revoke();
    assert!(matches!(handle.newer_than(FIRST, within(10)).await, Renewal::Newer(_)));
    let calls = model.calls();
    for _ in 0..100 {
        assert!(matches!(handle.newer_than(FIRST, within(10)).await, Renewal::Newer(_)));
        sleep(secs(1)).await;
    }
    assert_eq!(model.calls(), calls);
    task.stop().await;
}

/// An API path that says 40001 whatever the token, called without end.
#[tokio::test(start_paused = true)]
async fn the_same_token_again_is_same_and_costs_about_a_call_a_minute() {
    let (model, handle, task) = settled().await;
    let (begun, calls) = (Instant::now(), model.calls());
    while begun.elapsed() < secs(3600) {
        let (asked, before) = (Instant::now(), model.calls());
        let renewal = handle.newer_than(FIRST, within(10)).await;
        // `Same` is said only by those who saw a call made after their ask.
        let is_fresh = model.calls() > before;
        assert!(matches!((renewal, is_fresh), (Renewal::Same, true) | (Renewal::Failed, false)));
        assert!(asked.elapsed() < secs(3), "{:?}", asked.elapsed());
        sleep(secs(1)).await;
    }
    let cost = model.calls() - calls;
    assert!(cost <= 66, "{cost} calls in an hour");
    let since = begun + secs(120);
    let later: Vec<_> = model.state().calls.iter().filter(|call| **call >= since).copied().collect();
    // An ask may be up to 2 s early and waits; so fetches are never closer than the distance itself.
    assert!(later.windows(2).all(|pair| pair[1] - pair[0] >= secs(60)), "at most one call a minute");

    // A renewal forgives: the next ask is heard at once.
    model.revoke();
    sleep(secs(60)).await;
    assert!(matches!(handle.newer_than(FIRST, within(10)).await, Renewal::Newer(_)));
    sleep(secs(3)).await;
    model.revoke();
    let asked = Instant::now();
    assert!(matches!(handle.newer_than(FIRST.next(), within(10)).await, Renewal::Newer(_)));
    assert!(asked.elapsed() < secs(1));
    task.stop().await;
}

/// The attempt that is going on began before the token was refused: it may have asked too early.
#[tokio::test(start_paused = true)]
async fn the_ending_of_an_attempt_older_than_the_ask_is_no_answer() {
    let (model, handle, task) = settled().await;
    model.set(Fault::Says(r#"{"access_token":"1_token","expires_in":7000}"#.to_owned()));
    assert!(matches!(handle.newer_than(FIRST, within(10)).await, Renewal::Same));
    sleep(secs(300)).await;

    // One asks, the attempt takes 3 s and brings the same; meanwhile the token dies, and another asks.
    model.set(Fault::Slow(secs(3)));
    let early = tokio::spawn({
        let handle = handle.clone();
        async move { handle.newer_than(FIRST, within(20)).await }
    });
    sleep(secs(1)).await;
    model.state().lags = Some("1_token".to_owned());
    let late = handle.newer_than(FIRST, within(20)).await;
    assert!(matches!(early.await.unwrap(), Renewal::Same));
    // The second Same in a row puts the next attempt 4 s away, too far to wait, and nobody has looked since.
    assert!(matches!(late, Renewal::Failed));

    sleep(secs(120)).await;
    model.set(Fault::Slow(secs(3)));
    model.state().lags = Some("1_token".to_owned());
    task.stop().await;
    assert!(matches!(handle.newer_than(FIRST, within(20)).await, Renewal::Failed));
}

#[tokio::test(start_paused = true)]
async fn one_who_asks_during_an_attempt_gets_the_next_ones_answer() {
    let (model, wall) = (Model::new(), Wall::new());
    let (handle, task) = start(life("shop", 7, &wall), model.clone(), MemoryStore::default());
    handle.wait(within(5)).await.unwrap();
    // The scheduled attempt in the window is slow, and brings the old token.
    sleep(secs(6890)).await;
    model.set(Fault::Slow(secs(5)));
    model.state().lags = Some("1_token".to_owned());
    while !handle.status().in_flight {
        sleep(secs(1)).await;
    }
    let calls = model.calls();
    let asked = Instant::now();
    assert!(matches!(handle.newer_than(FIRST, within(25)).await, Renewal::Newer(_)));
    assert!(asked.elapsed() <= secs(13), "{:?}", asked.elapsed());
    assert_eq!(model.calls() - calls, 1, "one more attempt, 2 s after the first");
    task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_lags_behind_does_not_bring_the_old_token_back() {
    let (model, handle, task) = settled().await;
    sleep(secs(6850)).await;
    assert_eq!(handle.status().generation, FIRST);
    sleep(secs(80)).await;
    assert_eq!(handle.status().generation, FIRST.next());
    model.state().lags = Some("1_token".to_owned());
    assert!(matches!(handle.newer_than(FIRST.next(), within(10)).await, Renewal::Same));
    let token = handle.current(Instant::now()).unwrap();
    assert_eq!((token.generation, token.access_token.expose()), (FIRST.next(), "2_token"));
    drop(token);
    task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn fetches_of_all_accounts_together_are_bounded() {
    let common = Arc::new(Common { turns: Turns::new(4), ..common(&Wall::new()) });
    let mut keepers = Vec::new();
    for number in 0..40 {
        let (model, life) = (Model::new(), life_among(&common, &format!("account-{number}"), number));
        model.set(Fault::Slow(secs(1)));
        keepers.push(start(life, model, MemoryStore::default()));
    }
    for second in 1..=10 {
        sleep(secs(1)).await;
        sleep(std::time::Duration::from_millis(1)).await;
        let served = keepers.iter().filter(|(handle, _)| handle.current(Instant::now()).is_some()).count();
        assert_eq!(served, second * 4);
    }
    for (_, task) in keepers {
        task.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_account_that_requests_wait_for_does_not_stand_in_line_behind_the_others() {
    let common = Arc::new(Common { turns: Turns::new(4), ..common(&Wall::new()) });
    let mut keepers = Vec::new();
    for number in 0..400 {
        let (model, life) = (Model::new(), life_among(&common, &format!("account-{number}"), number));
        model.set(Fault::Slow(secs(1)));
        keepers.push(start(life, model, MemoryStore::default()));
    }
    // The line is there before anybody asks; four a second get their turn.
    sleep(std::time::Duration::from_millis(1500)).await;
    let begun = Instant::now();
    assert!(keepers[399].0.wait(within(10)).await.is_ok());
    assert_eq!(begun.elapsed().as_secs(), 1);
    let served = keepers.iter().filter(|(handle, _)| handle.is_alive()).count();
    assert!((9..=10).contains(&served), "{served}");
    for (_, task) in keepers {
        task.stop().await;
    }
}

/// Workers have runtimes of their own; this one runs on real time, since a paused clock belongs to one runtime.
#[test]
fn a_worker_on_another_runtime_is_served() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (model, keepers) = (Model::new(), runtime());
    let (handle, task) = keepers
        .block_on(async { start(life("shop", 7, &Wall::new()), model.clone(), MemoryStore::default()) });
    let worker = std::thread::spawn(move || {
        runtime().block_on(async {
            let token = handle.wait(within(5)).await.unwrap();
            assert!(handle.current(Instant::now()).is_some());
            model.revoke();
            let renewal = handle.newer_than(token.generation, within(5)).await;
            assert!(matches!(renewal, Renewal::Newer(newer) if newer.generation == FIRST.next()));
        });
    });
    keepers.block_on(async {
        while !worker.is_finished() {
            sleep(std::time::Duration::from_millis(5)).await;
        }
        task.stop().await;
    });
    worker.join().unwrap();
}
