//! Many accounts that were started at one time, over a day.

use std::sync::Arc;

use tokio::time::{Instant, sleep};
use weigate::token::start;
use weigate::token::store::MemoryStore;

use super::model::{Model, Wall, common, life_among, secs};
use super::replicas::number;
use crate::harness::note;

/// `WEIGATE_ACCOUNTS=100000` for as many.
const ACCOUNTS: u64 = 2_000;

const HOUR_S: u64 = 3_600;

#[tokio::test(start_paused = true)]
async fn the_renewals_of_many_accounts_drift_apart() {
    let accounts = number("WEIGATE_ACCOUNTS").unwrap_or(ACCOUNTS);
    let common = Arc::new(common(&Wall::new()));
    let keepers: Vec<_> = (0..accounts)
        .map(|number| {
            let (model, life) = (Model::new(), life_among(&common, &format!("account-{number}"), number));
            let (handle, task) = start(life, model.clone(), MemoryStore::default());
            (model, handle, task)
        })
        .collect();
    let begun = Instant::now();
    for _hour in 0..24 {
        sleep(secs(HOUR_S)).await;
        assert!(keepers.iter().all(|(_, handle, _)| handle.is_alive()));
    }
    let mut per_second = vec![0_u64; 25 * usize::try_from(HOUR_S).unwrap()];
    for (model, ..) in &keepers {
        for call in &model.state().calls {
            per_second[usize::try_from((*call - begun).as_secs()).unwrap()] += 1;
        }
    }
    let most = |hours: std::ops::Range<u64>| {
        let seconds = hours.start * HOUR_S..hours.end * HOUR_S;
        seconds.map(|second| per_second[usize::try_from(second).unwrap()]).max().unwrap()
    };
    let (first, last, calls) = (most(1..3), most(22..24), per_second.iter().sum::<u64>());
    note(&format!(
        "{accounts} accounts started at one time: {calls} calls in a day; in one second at most {} at the start, \
         {first} at the first renewal, {last} a day later",
        most(0..1)
    ));
    assert!(calls <= 14 * accounts);
    // A minute's worth of each window, and each time a minute more.
    assert!(first <= accounts / 25, "{first}");
    assert!(last <= first / 4, "{last} of {first}");
    for (_, _, task) in keepers {
        task.stop().await;
    }
}
