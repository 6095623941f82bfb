//! Restarts, clocks, disks and stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::time::{Instant, sleep};
use weigate::token::store::{FileStore, MemoryStore, Saved, Stored};
use weigate::token::{Life, Renewal, StoreError, TokenStore, start};
use weigate::types::{AccountName, AppId, Generation};
use zeroize::Zeroizing;

use super::model::{Fault, Model, Wall, life, secs, within};

#[tokio::test(start_paused = true)]
async fn a_restart_with_the_file_store_costs_no_fetch() {
    let (model, wall, dir) = (Model::new(), Wall::new(), tempfile::tempdir().unwrap());
    let store = FileStore::open(dir.path()).unwrap();
    let (handle, task) = start(life("shop", 1, &wall), model.clone(), store);
    let token = handle.wait(within(5)).await.unwrap();
    task.stop().await;

    for restart in 1..=20 {
        sleep(secs(300)).await;
        let store = FileStore::open(dir.path()).unwrap();
        let (handle, task) = start(life("shop", restart, &wall), model.clone(), store);
        let again = handle.wait(within(5)).await.unwrap();
        assert!(again.access_token.is_same(&token.access_token) && again.generation == Generation(1));
        assert_eq!(again.expires_at, token.expires_at);
        assert!(again.good_until <= token.good_until + secs(1));
        task.stop().await;
    }
    assert_eq!(model.calls(), 1);

    // Its window is open by the next start: renewed soon, and served meanwhile.
    sleep(secs(1000)).await;
    let (handle, task) = start(life("shop", 99, &wall), model.clone(), FileStore::open(dir.path()).unwrap());
    assert!(handle.wait(within(5)).await.unwrap().access_token.is_same(&token.access_token));
    sleep(secs(150)).await;
    assert_eq!((model.calls(), handle.status().generation), (2, Generation(2)));
    task.stop().await;
}

type Change = fn(&mut Life, &Wall);

#[tokio::test(start_paused = true)]
async fn a_stored_token_that_is_dead_of_another_app_or_from_the_future_is_not_taken() {
    let cases: [(&str, Change); 3] = [
        ("dead", |_, wall| wall.shift(7300)),
        ("another app", |life, _| life.app_id = AppId::parse("wx-other").unwrap()),
        ("from the future", |_, wall| wall.shift(-7200)),
    ];
    for (case, change) in cases {
        let (model, wall, store) = (Model::new(), Wall::new(), MemoryStore::default());
        let (handle, task) = start(life("shop", 1, &wall), model.clone(), store.clone());
        handle.wait(within(5)).await.unwrap();
        task.stop().await;

        let mut life = life("shop", 2, &wall);
        change(&mut life, &wall);
        sleep(secs(10)).await;
        let (handle, task) = start(life, model.clone(), store);
        handle.wait(within(5)).await.unwrap();
        assert_eq!(model.calls(), 2, "{case}");
        task.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_set_by_a_day_costs_one_call_and_no_request() {
    for shift in [86_400, -86_400, 400_000_000] {
        let (model, wall) = (Model::new(), Wall::new());
        let (handle, task) = start(life("shop", 7, &wall), model.clone(), MemoryStore::default());
        handle.wait(within(5)).await.unwrap();
        sleep(secs(1000)).await;
        wall.shift(shift);
        for _ in 0..200 {
            assert!(handle.wait(within(5)).await.is_ok(), "{shift}");
            sleep(secs(1)).await;
            let token = handle.wait(within(5)).await.unwrap();
            assert!(model.accepts(token.access_token.expose()));
        }
        assert_eq!(model.calls(), 2, "{shift}: one call more");
        let status = handle.status();
        assert_eq!((status.generation, status.counts.clock_jumps), (Generation(1), 1), "{shift}");
        // And from here on as ever.
        sleep(secs(6000)).await;
        assert_eq!((model.calls(), handle.status().generation), (3, Generation(2)), "{shift}");
        task.stop().await;
    }
}

/// The monotonic clock stands still in a suspension; WeChat's does not.
#[tokio::test(start_paused = true)]
async fn after_a_suspension_the_first_request_uses_a_fresh_token() {
    let (model, wall) = (Model::new(), Wall::new());
    let (handle, task) = start(life("shop", 7, &wall), model.clone(), MemoryStore::default());
    handle.wait(within(5)).await.unwrap();
    sleep(secs(100)).await;
    wall.shift(3 * 3600);
    model.revoke();
    sleep(std::time::Duration::from_millis(20)).await;
    assert!(handle.current(Instant::now()).is_none(), "the dead token is not on offer");
    let token = handle.wait(within(5)).await.unwrap();
    assert!(model.accepts(token.access_token.expose()) && token.generation == Generation(2));
    assert!(handle.current(Instant::now()).is_some());
    task.stop().await;
}

/// A store that can be broken, hang, and counts.
#[derive(Clone, Default)]
struct Brittle(Arc<(AtomicBool, AtomicBool, AtomicUsize, MemoryStore)>);

impl TokenStore for Brittle {
    async fn load(&self, account: &AccountName, app_id: &AppId) -> Result<Option<Stored>, StoreError> {
        self.0.3.load(account, app_id).await
    }

    async fn save(
        &self,
        account: &AccountName,
        app_id: &AppId,
        stored: &Stored,
    ) -> Result<Saved, StoreError> {
        let (broken, hangs, saves, inner) = &*self.0;
        saves.fetch_add(1, Ordering::SeqCst);
        if hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if broken.load(Ordering::SeqCst) {
            let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(StoreError::Io { doing: "write", path: "x".into(), source });
        }
        inner.save(account, app_id, stored).await
    }

    async fn load_blob(&self, _: &'static str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        Ok(None)
    }

    async fn save_blob(&self, _: &'static str, _: Zeroizing<Vec<u8>>) -> Result<(), StoreError> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_lends_no_life_to_a_token_that_could_not_be_stored_at_first() {
    let (model, wall, store) = (Model::new(), Wall::new(), Brittle::default());
    store.0.0.store(true, Ordering::SeqCst);
    let (handle, task) = start(life("shop", 7, &wall), model.clone(), store.clone());
    handle.wait(within(5)).await.unwrap();
    // WeChat, which would say what is left, does not answer.
    model.set(Fault::Down);
    sleep(secs(10)).await;
    wall.shift(-90);
    store.0.0.store(false, Ordering::SeqCst);
    sleep(secs(60)).await;
    let (shop, app_id) = (AccountName::parse("shop").unwrap(), AppId::parse("wx-shop").unwrap());
    let given = store.load(&shop, &app_id).await.unwrap().unwrap();
    let now = wall.clock().read();
    let (left, age) = (given.expires_at.since(now), now.since(given.obtained_at));
    assert!(secs(7120) <= left && left <= secs(7141), "{left:?}");
    assert!(secs(60) <= age && age <= secs(80), "{age:?}");
    task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_costs_no_request_and_heals_without_a_restart() {
    let (model, wall, store) = (Model::new(), Wall::new(), Brittle::default());
    store.0.0.store(true, Ordering::SeqCst);
    let (handle, task) = start(life("shop", 7, &wall), model.clone(), store.clone());
    handle.wait(within(5)).await.unwrap();
    sleep(secs(200)).await;
    assert!(handle.current(Instant::now()).is_some());
    assert!((3..=5).contains(&handle.status().counts.saves_failed));
    store.0.0.store(false, Ordering::SeqCst);
    sleep(secs(60)).await;
    let (shop, app_id) = (AccountName::parse("shop").unwrap(), AppId::parse("wx-shop").unwrap());
    assert!(store.load(&shop, &app_id).await.unwrap().is_some());
    assert_eq!(model.calls(), 1);
    task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_delays_no_renewal() {
    let (model, wall, store) = (Model::new(), Wall::new(), Brittle::default());
    store.0.1.store(true, Ordering::SeqCst);
    let (handle, task) = start(life("shop", 7, &wall), model.clone(), store);
    handle.wait(within(1)).await.unwrap();
    sleep(secs(3)).await;
    model.revoke();
    assert!(matches!(handle.newer_than(Generation(1), within(1)).await, Renewal::Newer(_)));
    let begun = Instant::now();
    task.stop().await;
    assert!(begun.elapsed() <= secs(20), "a stop waits for the disk, but not for ever");
}

#[tokio::test(start_paused = true)]
async fn the_same_token_is_stored_once() {
    let (model, wall, store) = (Model::new(), Wall::new(), Brittle::default());
    let (handle, task) = start(life("shop", 7, &wall), model, store.clone());
    handle.wait(within(1)).await.unwrap();
    for _ in 0..20 {
        assert!(matches!(handle.newer_than(Generation(1), within(3)).await, Renewal::Same));
        sleep(secs(90)).await;
    }
    assert_eq!(store.0.2.load(Ordering::SeqCst), 1);
    task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_tells_those_who_wait_and_leaves_nothing_running() {
    let (model, wall) = (Model::new(), Wall::new());
    model.set(Fault::Hangs);
    let (handle, task) = start(life("shop", 7, &wall), model.clone(), MemoryStore::default());
    let waiter = tokio::spawn({
        let handle = handle.clone();
        async move { handle.wait(within(10)).await.map(|_| ()) }
    });
    sleep(secs(1)).await;
    let begun = Instant::now();
    task.stop().await;
    assert_eq!(waiter.await.unwrap().unwrap_err().why, "stopping");
    assert!(begun.elapsed() < secs(1));
    assert!(handle.wait(within(10)).await.is_err());
    assert!(matches!(handle.newer_than(Generation(1), within(10)).await, Renewal::Failed));
    let calls = model.calls();
    sleep(secs(3600)).await;
    assert_eq!(model.calls(), calls);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_keeper_stops_and_its_token_serves_until_it_dies() {
    let (model, wall) = (Model::new(), Wall::new());
    let (handle, task) = start(life("shop", 7, &wall), model.clone(), MemoryStore::default());
    handle.wait(within(5)).await.unwrap();
    drop(task);
    sleep(secs(7190)).await;
    assert!(handle.current(Instant::now()).is_some());
    sleep(secs(20)).await;
    assert!(handle.current(Instant::now()).is_none());
    assert_eq!(model.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_that_operators_see_holds_the_token() {
    let (model, wall) = (Model::new(), Wall::new());
    let (handle, task) = start(life("shop", 7, &wall), model, MemoryStore::default());
    handle.wait(within(5)).await.unwrap();
    let printed = format!("{handle:?} {:?} {task:?}", handle.status());
    assert!(!printed.contains("1_token"), "{printed}");
    task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_costs_a_failed_attempt_and_no_keeper() {
    let (model, wall) = (Model::new(), Wall::new());
    let (handle, task) = start(life("shop", 7, &wall), model.clone(), MemoryStore::default());
    handle.wait(within(5)).await.unwrap();
    sleep(secs(6900)).await;
    model.set(Fault::Panics);
    for _ in 0..240 {
        sleep(secs(1)).await;
        assert!(handle.current(Instant::now()).is_some(), "the token in hand serves on");
    }
    let status = handle.status();
    let last = status.last.unwrap();
    assert_eq!((last.word, task.is_finished()), ("panicked", false));
    assert!((2..=40).contains(&status.counts.fetches["panicked"]), "{:?}", status.counts);
    assert_eq!(u64::from(status.failures), status.counts.fetches["panicked"]);
    let printed = format!("{:?} {:?}", last.said, last.advice);
    assert!(last.advice.is_some() && !printed.contains("5ecre7"), "{printed}");

    // Past the token's end those who wait are told, and soon after the fault is over all is well.
    sleep(secs(600)).await;
    assert_eq!(handle.wait(within(5)).await.unwrap_err().why, "panicked");
    model.set(Fault::None);
    sleep(secs(6)).await;
    assert_eq!(handle.wait(within(5)).await.unwrap().generation, Generation(2));
    task.stop().await;
}
