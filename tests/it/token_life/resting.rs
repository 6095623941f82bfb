//! Keepers that have nothing to do: what they cost, and that whatever is wanted of them wakes them.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use weigate::token::store::MemoryStore;
use weigate::token::{Common, KeeperTask, Renewal, TokenHandle, Turns, WallClock, start};
use weigate::types::{Generation, UnixSeconds};

use super::model::{Fault, Model, Wall, common, life_among, secs, within};

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// Keepers on one clock, with these turns and a WeChat each.
fn keepers(count: u64, turns: &Turns, fault: &Fault) -> Vec<(Model, TokenHandle, KeeperTask)> {
    let common = Arc::new(Common { turns: turns.clone(), ..common(&Wall::new()) });
    let one = |number: u64| {
        let (model, life) = (Model::new(), life_among(&common, &format!("account-{number}"), number));
        model.set(fault.clone());
        let (handle, task) = start(life, model.clone(), MemoryStore::default());
        (model, handle, task)
    };
    (0..count).map(one).collect()
}

#[tokio::test(start_paused = true)]
async fn keepers_at_rest_have_one_task_together_and_wake_for_whatever_is_wanted_of_them() {
    let keepers = keepers(100, &Turns::new(64), &Fault::None);
    sleep(secs(60)).await;
    assert!(keepers.iter().all(|(_, handle, _)| handle.is_alive()));
    assert_eq!(tasks(), 1, "the clock's watcher");

    let (model, handle, _) = &keepers[7];
    assert!(matches!(handle.newer_than(Generation(1), within(10)).await, Renewal::Same));
    assert_eq!(model.calls(), 2, "it was asked");
    sleep(secs(1)).await;
    assert_eq!(tasks(), 1);

    // Two hours and more: each wakes by its alarm.
    sleep(secs(7_300)).await;
    assert!(keepers.iter().all(|(model, handle, _)| handle.is_alive() && model.calls() >= 2));
    assert_eq!(tasks(), 1);
    for (_, handle, task) in keepers {
        task.stop().await;
        assert!(matches!(handle.newer_than(Generation(9), within(10)).await, Renewal::Failed));
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_start_of_many_accounts_has_a_few_tasks_at_one_time() {
    let keepers = keepers(1000, &Turns::new(8), &Fault::Slow(secs(1)));
    let (begun, mut most) = (Instant::now(), 0);
    while keepers.iter().any(|(_, handle, _)| !handle.is_alive()) {
        most = most.max(tasks());
        sleep(std::time::Duration::from_millis(100)).await;
        assert!(begun.elapsed() < secs(200), "in line and never called");
    }
    // Eight that fetch, as many that come and go, who calls them and who watches the clock.
    assert!((8..=20).contains(&most), "{most}");
    assert!(keepers.iter().all(|(model, ..)| model.calls() == 1));
}

#[tokio::test(start_paused = true)]
async fn a_keeper_at_rest_leaves_nothing_behind_when_it_is_dropped() {
    let held = Arc::new(1_800_000_000);
    let kept = Arc::downgrade(&held);
    let begun = Instant::now();
    let clock = WallClock::of(move || UnixSeconds(*held + begun.elapsed().as_secs()));
    let life = life_among(&Arc::new(Common { clock, ..common(&Wall::new()) }), "shop", 7);
    let (handle, task) = start(life, Model::new(), MemoryStore::default());
    handle.wait(within(5)).await.unwrap();
    sleep(secs(60)).await;
    drop(task);
    assert_eq!(
        handle.wait(within(5)).await.map(|token| token.generation),
        Ok(Generation(1)),
        "its token serves on"
    );
    drop(handle);
    // The clock's watcher looks every half minute whether there is a clock.
    sleep(secs(31)).await;
    assert!(kept.upgrade().is_none(), "what it shared is gone");
    assert_eq!(tasks(), 0);
}
