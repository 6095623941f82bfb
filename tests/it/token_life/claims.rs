//! What a keeper does with a store that others share: it claims, adopts, waits, and does without where it may.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use weigate::token::store::{Claim, Listener, News, Record, Saved, Stored, Teller};
use weigate::token::{Alone, Life, StoreError, TokenHandle, TokenStore, start};
use weigate::types::{AccessToken, AccountName, AppId, UnixSeconds};
use zeroize::Zeroizing;

use super::model::{Fault, Model, Wall, life, secs, within};

/// A shared store whose answers the test gives.
#[derive(Clone)]
struct Shared(Arc<State>);

struct State {
    answer: Mutex<Answer>,
    teller: Mutex<Option<Teller>>,
    saved: Mutex<Vec<Stored>>,
    released: Mutex<Vec<u64>>,
}

#[derive(Clone)]
enum Answer {
    Go(u64),
    Wait,
    Fails,
    Hangs,
}

impl Shared {
    fn new(answer: Answer) -> Self {
        let (teller, saved, released) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self(Arc::new(State { answer: Mutex::new(answer), teller, saved, released }))
    }

    fn answers(&self, answer: Answer) {
        *self.0.answer.lock().unwrap() = answer;
    }

    fn says(&self, record: Record) {
        self.0.teller.lock().unwrap().as_ref().unwrap().tell(record);
    }

    fn fences(&self) -> Vec<u64> {
        self.0.saved.lock().unwrap().iter().map(|stored| stored.fence).collect()
    }
}

impl TokenStore for Shared {
    async fn load(&self, _: &AccountName, _: &AppId) -> Result<Option<Stored>, StoreError> {
        Ok(None)
    }

    async fn save(&self, _: &AccountName, _: &AppId, stored: &Stored) -> Result<Saved, StoreError> {
        self.0.saved.lock().unwrap().push(stored.clone());
        Ok(Saved::Kept)
    }

    async fn load_blob(&self, _: &'static str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        Ok(None)
    }

    async fn save_blob(&self, _: &'static str, _: Zeroizing<Vec<u8>>) -> Result<(), StoreError> {
        Ok(())
    }

    async fn claim(&self, _: &AccountName, _: &AppId, _: Option<&Stored>) -> Result<Claim, StoreError> {
        let answer = self.0.answer.lock().unwrap().clone();
        match answer {
            Answer::Go(fence) => Ok(Claim::Go(fence)),
            Answer::Wait => Ok(Claim::Wait(secs(15))),
            Answer::Fails => Err(StoreError::Stopping),
            Answer::Hangs => std::future::pending().await,
        }
    }

    async fn release(&self, _: &AccountName, _: &AppId, fence: u64) {
        self.0.released.lock().unwrap().push(fence);
    }

    fn news(&self, _: &AccountName, _: &AppId, to: Listener) -> News {
        let (teller, news) = News::to(to);
        *self.0.teller.lock().unwrap() = Some(teller);
        news
    }
}

fn alone(alone: Alone, wall: &Wall) -> Life {
    Life { alone, ..life("shop", 7, wall) }
}

fn stored(wall: &Wall, token: &str, lives: Duration, fence: u64) -> Stored {
    let now: UnixSeconds = wall.clock().read();
    Stored {
        access_token: AccessToken::parse(token).unwrap(),
        obtained_at: now,
        expires_at: now.plus(lives),
        fence,
    }
}

fn token(handle: &TokenHandle) -> String {
    handle.current(Instant::now()).unwrap().access_token.expose().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_or_hangs_delays_a_renewal_by_a_second_at_most() {
    for answer in [Answer::Fails, Answer::Hangs] {
        let (model, wall, store) = (Model::new(), Wall::new(), Shared::new(answer));
        let begun = Instant::now();
        let (handle, task) = start(alone(Alone::Allowed, &wall), model.clone(), store.clone());
        handle.wait(within(5)).await.unwrap();
        assert!(begun.elapsed() <= Duration::from_millis(1200), "{:?}", begun.elapsed());
        sleep(secs(1)).await;
        assert_eq!(store.fences(), [0], "kept for the time when it works again");
        assert_eq!(handle.status().counts.claims_failed, 1);
        task.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn where_a_fetch_kills_the_token_before_it_no_claim_means_no_fetch_while_there_is_one() {
    let (model, wall, store) = (Model::new(), Wall::new(), Shared::new(Answer::Go(9)));
    let (handle, task) = start(alone(Alone::Never, &wall), model.clone(), store.clone());
    handle.wait(within(5)).await.unwrap();
    assert_eq!((model.calls(), store.fences()), (1, vec![9]));
    store.answers(Answer::Fails);
    // Through the window, to the very end of the token.
    sleep(secs(7190)).await;
    assert_eq!(model.calls(), 1);
    assert!(handle.current(Instant::now()).is_some());
    assert_eq!(handle.status().last.unwrap().word, "no_claim");
    // With nothing left to kill, a token is better than none.
    sleep(secs(30)).await;
    assert!(model.calls() >= 2);
    assert!(handle.current(Instant::now()).is_some());
    task.stop().await;

    let (model, wall, store) = (Model::new(), Wall::new(), Shared::new(Answer::Wait));
    let (_handle, task) = start(alone(Alone::Never, &wall), model.clone(), store);
    sleep(secs(300)).await;
    assert_eq!(model.calls(), 0, "another's claim is waited for, however long");
    task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn others_claims_are_waited_for_half_a_minute_and_what_they_bring_is_taken_at_once() {
    let (model, wall, store) = (Model::new(), Wall::new(), Shared::new(Answer::Wait));
    let begun = Instant::now();
    let (handle, task) = start(alone(Alone::Allowed, &wall), model.clone(), store.clone());
    handle.wait(within(100)).await.unwrap_err();
    while model.calls() == 0 {
        sleep(Duration::from_millis(100)).await;
    }
    assert!((30..=50).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    task.stop().await;

    let (model, wall, store) = (Model::new(), Wall::new(), Shared::new(Answer::Wait));
    let (handle, task) = start(alone(Alone::Allowed, &wall), model.clone(), store.clone());
    sleep(secs(1)).await;
    store.says(Record::Found(stored(&wall, "by-another", secs(7200), 50)));
    handle.wait(within(1)).await.unwrap();
    assert_eq!((token(&handle).as_str(), model.calls()), ("by-another", 0));
    assert_eq!(handle.status().counts.adopted, 1);
    task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn news_of_an_older_token_never_replace_a_newer_one_and_a_lost_one_is_given_back() {
    let (model, wall, store) = (Model::new(), Wall::new(), Shared::new(Answer::Go(100)));
    let (handle, task) = start(alone(Alone::Allowed, &wall), model.clone(), store.clone());
    handle.wait(within(5)).await.unwrap();
    let ours = token(&handle);
    let hear = async |record| {
        store.says(record);
        sleep(Duration::from_millis(10)).await;
    };
    hear(Record::Found(stored(&wall, "older", secs(9000), 99))).await;
    assert_eq!(token(&handle), ours, "a lower fence");
    assert_eq!(store.fences(), [100, 100], "the store had lost ours");
    hear(Record::Found(stored(&wall, "dead", secs(0), 101))).await;
    assert_eq!(token(&handle), ours, "nothing that is dead");
    hear(Record::Gone).await;
    assert_eq!(store.fences(), [100, 100, 100], "it is given back as what it was");
    hear(Record::Found(stored(&wall, &ours, secs(7200), 600))).await;
    hear(Record::Found(stored(&wall, "newer", secs(100), 601))).await;
    assert_eq!(token(&handle), "newer", "a higher fence is newer, be its end earlier");
    assert_eq!(model.calls(), 1);
    // A store that loses everything all the time is not written to all the time.
    let before = store.fences().len();
    for _ in 0..100 {
        hear(Record::Gone).await;
    }
    assert!(store.fences().len() <= before + 30);
    task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn of_a_token_without_a_claim_and_another_the_one_that_ends_later_is_newer_and_in_doubt_the_later_call()
{
    let (model, wall, store) = (Model::new(), Wall::new(), Shared::new(Answer::Fails));
    let (handle, task) = start(alone(Alone::Allowed, &wall), model.clone(), store.clone());
    handle.wait(within(5)).await.unwrap();
    let ours = token(&handle);
    let hear = async |token: &str, lives_s: u64, age_s: u64| {
        let told = stored(&wall, token, secs(lives_s), 500);
        let obtained_at = UnixSeconds(told.obtained_at.0 - age_s);
        store.says(Record::Found(Stored { obtained_at, ..told }));
        sleep(Duration::from_millis(10)).await;
    };
    hear("ends-earlier", 7000, 0).await;
    assert_eq!(token(&handle), ours);
    hear("called-earlier", 7201, 3).await;
    assert_eq!(token(&handle), ours, "a second is a matter of counting");
    hear("called-with-ours", 7199, 0).await;
    assert_eq!(token(&handle), "called-with-ours", "all agree on the one in the store");
    task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_lends_no_life_to_a_token_that_is_given_back() {
    let (model, wall, store) = (Model::new(), Wall::new(), Shared::new(Answer::Go(100)));
    let (handle, task) = start(alone(Alone::Allowed, &wall), model.clone(), store.clone());
    handle.wait(within(5)).await.unwrap();
    // WeChat, which would say what is left, does not answer.
    model.set(Fault::Down);
    sleep(secs(3600)).await;
    wall.shift(-86_400);
    store.says(Record::Gone);
    sleep(Duration::from_millis(10)).await;
    let given = store.0.saved.lock().unwrap().last().cloned().unwrap();
    let left = given.expires_at.since(wall.clock().read());
    assert!(secs(3590) <= left && left <= secs(3601), "{left:?}");
    task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_brings_nothing_gives_its_claim_back() {
    let (model, wall, store) = (Model::new(), Wall::new(), Shared::new(Answer::Go(77)));
    model.rejects(40125);
    let (_handle, task) = start(alone(Alone::Allowed, &wall), model.clone(), store.clone());
    sleep(secs(5)).await;
    assert_eq!(*store.0.released.lock().unwrap(), [77]);
    assert!(store.fences().is_empty());
    task.stop().await;
}
