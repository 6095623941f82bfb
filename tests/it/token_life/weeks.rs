//! Seeded weeks of faults: what holds after every step, whatever happened before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use weigate::token::store::MemoryStore;
use weigate::token::{Renewal, TokenHandle, start};

use super::model::{Fault, Model, Wall, life, secs};

/// `WEIGATE_SEEDS` raises the count; a failing seed is printed.
fn seeds() -> std::ops::Range<u64> {
    #[expect(clippy::disallowed_methods, reason = "a test's own switch")]
    let count = std::env::var("WEIGATE_SEEDS").ok().and_then(|count| count.parse().ok());
    0..count.unwrap_or(20)
}

fn for_each<F: Future<Output = ()>>(seeds: impl Iterator<Item = u64>, simulate: impl Fn(u64) -> F) {
    for seed in seeds {
        let simulated = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let paused =
                tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            paused.unwrap().block_on(simulate(seed));
        }));
        assert!(simulated.is_ok(), "the failing seed is {seed}");
    }
}

const DAY_S: u64 = 86_400;

#[test]
fn weeks_of_faults_break_no_promise() {
    for_each(seeds(), |seed| async move {
        let (model, wall) = (Model::new(), Wall::new());
        let (handle, task) = start(life("shop", seed, &wall), model.clone(), MemoryStore::default());
        let weather = Arc::new(AtomicU64::new(60));
        let end = Instant::now() + secs(7 * DAY_S);

        let mut callers = JoinSet::new();
        for caller in 0..20 {
            let rng = fastrand::Rng::with_seed(seed * 1000 + caller);
            callers.spawn(call_until(end, handle.clone(), model.clone(), Arc::clone(&weather), rng));
        }
        change_the_weather(end, &model, &weather, fastrand::Rng::with_seed(seed)).await;
        while let Some(ended) = callers.join_next().await {
            ended.unwrap();
        }
        let counts = handle.status().counts;
        assert!(counts.renewals() > 60 && counts.attempts() > counts.renewals(), "{counts:?}");
        assert_eq!(counts.saves_failed, 0);
        task.stop().await;
    });
}

/// Faults come and go. `weather` says since when (in seconds from the start) a token must be on offer again.
async fn change_the_weather(end: Instant, model: &Model, weather: &AtomicU64, mut rng: fastrand::Rng) {
    let begun = Instant::now();
    while Instant::now() < end {
        sleep(secs(rng.u64(60..6 * 3600))).await;
        if rng.u8(..4) == 0 {
            model.revoke();
            continue;
        }
        let (fault, pace_s) = match rng.u8(..10) {
            0..=2 => (Fault::Down, 0),
            3 => (Fault::Hangs, 0),
            4 => (Fault::Slow(secs(rng.u64(1..15))), 0),
            5 => (Fault::Says("<html>".to_owned()), 0),
            6 => (Fault::Says(r#"{"errcode":-1,"errmsg":"busy"}"#.to_owned()), 0),
            7 => (Fault::Says(r#"{"errcode":40125,"errmsg":"no"}"#.to_owned()), 315),
            8 => (Fault::Says(r#"{"errcode":45011,"errmsg":"no"}"#.to_owned()), 63),
            _ => (Fault::Says(r#"{"errcode":45009,"errmsg":"no"}"#.to_owned()), 1890),
        };
        weather.store(u64::MAX, Ordering::SeqCst);
        model.set(fault);
        sleep(secs(rng.u64(1..2 * 3600))).await;
        model.set(Fault::None);
        // A minute after the source is back, or after the wait that WeChat prescribed.
        weather.store(begun.elapsed().as_secs() + pace_s + 60, Ordering::SeqCst);
    }
}

/// A client that calls now and then, and asks for a newer token when its own is refused.
async fn call_until(
    end: Instant,
    handle: TokenHandle,
    model: Model,
    weather: Arc<AtomicU64>,
    mut rng: fastrand::Rng,
) {
    let begun = Instant::now();
    let mut generation_before = weigate::types::Generation::NONE;
    while Instant::now() < end {
        sleep(secs(rng.u64(1..1200))).await;
        let fair = begun.elapsed().as_secs() > weather.load(Ordering::SeqCst);
        let Some(token) = handle.current(Instant::now()).map(|token| Arc::clone(&token)) else {
            assert!(!fair, "no token on offer though the source has been up for a minute");
            let waited = handle.wait(Instant::now() + secs(5)).await;
            assert!(waited.is_ok() || begun.elapsed().as_secs() <= weather.load(Ordering::SeqCst));
            continue;
        };
        assert!(token.generation >= generation_before, "generations never go back");
        generation_before = token.generation;
        assert!(Instant::now() < token.good_until, "an expired token on offer");
        if model.accepts(token.access_token.expose()) {
            continue;
        }
        // Refused: it was revoked. Some hang up while they wait.
        let patience = if rng.u8(..4) == 0 { secs(1) } else { secs(15) };
        let renewal = handle.newer_than(token.generation, Instant::now() + patience).await;
        match renewal {
            Renewal::Newer(newer) => {
                assert!(newer.generation > token.generation);
                generation_before = newer.generation;
            }
            Renewal::Same => panic!("the model had another token"),
            Renewal::Failed => {
                let fair = fair && begun.elapsed().as_secs() > weather.load(Ordering::SeqCst);
                assert!(!fair || patience < secs(15), "no renewal though the source is up");
            }
        }
    }
}

#[test]
fn steady_state_costs_at_most_fourteen_calls_a_day() {
    // Without faults, weeks differ by their jitter alone: a quarter of them will do.
    for_each(seeds().step_by(4), |seed| async move {
        let (model, wall) = (Model::new(), Wall::new());
        let (handle, task) = start(life("shop", seed, &wall), model.clone(), MemoryStore::default());
        for day in 0..7 {
            let since = Instant::now();
            sleep(secs(DAY_S)).await;
            let calls = model.calls_since(since);
            assert!((12..=14).contains(&calls), "day {day}: {calls} calls");
        }
        let counts = handle.status().counts;
        assert_eq!((counts.invalid_early, counts.clock_jumps, counts.asked), (0, 0, 0));
        task.stop().await;
    });
}
