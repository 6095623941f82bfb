//! The simulation's Redis (`token_life/replicas`) and a real one do the same with the same operations.
//!
//! One runs after the other, so nothing may hang on the moment: tokens are of moments that the test makes up, tens of
//! seconds from each other, and a lock is held up for both as long as it is held at all.

use std::time::Duration;

use weigate::token::store::{Claim, Saved, Stored};
use weigate::token::{TokenStore, WallClock};
use weigate::types::{AccessToken, GrantKind, UnixSeconds};

use super::server::Redis;
use super::store::{open, shop, wx};
use crate::token_life::replicas::server::{Data, Server};
use crate::token_life::replicas::{Client, Net};

/// Both stores, and the fences that each has granted: the n-th of one is the n-th of the other.
struct Pair<T> {
    store: T,
    fences: Vec<u64>,
    began: UnixSeconds,
}

/// A token as WeChat may have given it at some moment.
#[derive(Debug, Clone, Copy)]
struct Given {
    token: usize,
    /// Before all claims, or by a clock that is ahead: now, then.
    at: Option<u64>,
    lives_s: u64,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Claim {
        hand: Option<(Given, usize)>,
    },
    /// Of the n-th fence, or without a claim.
    Save {
        given: Given,
        fence: Option<usize>,
    },
    Release {
        fence: usize,
    },
    Load,
    LockEnds,
    TokenEnds,
    Flush,
}

impl Step {
    fn random(rng: &mut fastrand::Rng, number: u64, fences: usize) -> Self {
        // The newest few are the ones that matter.
        let fence = fences.saturating_sub(1 + rng.usize(0..3).min(fences.saturating_sub(1)));
        let given = Given {
            token: rng.usize(0..4),
            at: rng.bool().then_some(10 * number),
            lives_s: [3600, 5400, 7200][rng.usize(0..3)],
        };
        match rng.u8(0..20) {
            0..=6 => Self::Claim { hand: (fences > 0 && rng.bool()).then_some((given, fence)) },
            7..=11 if fences > 0 => Self::Save { given, fence: Some(fence) },
            12..=13 => Self::Save { given, fence: None },
            14..=15 if fences > 0 => Self::Release { fence },
            16 => Self::LockEnds,
            17 => Self::TokenEnds,
            18 if rng.u8(0..3) == 0 => Self::Flush,
            _ => Self::Load,
        }
    }
}

impl<T: TokenStore> Pair<T> {
    fn stored(&self, given: Given, fence: u64) -> Stored {
        let access_token = AccessToken::parse(&format!("{}_token", given.token)).unwrap();
        let past = UnixSeconds(self.began.0 - 20_000);
        let ahead = self.began.plus(Duration::from_secs(1000));
        let obtained_at = given.at.map_or(ahead, |at| past.plus(Duration::from_secs(at)));
        let expires_at = self.began.plus(Duration::from_secs(given.lives_s));
        Stored { access_token, obtained_at, expires_at, fence }
    }

    /// What a store does, without what depends on its time.
    async fn does(&mut self, step: Step) -> String {
        let (account, app_id) = (shop(), wx());
        match step {
            Step::Claim { hand } => {
                let hand = hand.map(|(given, fence)| self.stored(given, self.fences[fence]));
                match self.store.claim(&account, &app_id, hand.as_ref()).await.unwrap() {
                    Claim::Go(fence) => {
                        assert!(self.fences.last().is_none_or(|last| fence > *last), "a fence goes back");
                        self.fences.push(fence);
                        "go".to_owned()
                    }
                    Claim::Adopt(found) => format!("adopt {}", self.shown(&found)),
                    Claim::Wait(most) => format!("wait {}", most.is_zero()),
                }
            }
            Step::Save { given, fence } => {
                let stored = self.stored(given, fence.map_or(0, |fence| self.fences[fence]));
                let saved = self.store.save(&account, &app_id, &stored).await.unwrap();
                format!("{}", saved == Saved::Kept)
            }
            Step::Release { fence } => {
                self.store.release(&account, &app_id, self.fences[fence]).await;
                String::new()
            }
            Step::Load => {
                let found = self.store.load(&account, &app_id).await.unwrap();
                found.map_or_else(|| "none".to_owned(), |found| self.shown(&found))
            }
            Step::LockEnds | Step::TokenEnds | Step::Flush => String::new(),
        }
    }

    /// A fence is the n-th, or one that was made without a claim after the n-th.
    fn shown(&self, found: &Stored) -> String {
        let place = self.fences.partition_point(|fence| *fence < found.fence);
        let is_granted = self.fences.contains(&found.fence);
        let ends = (found.expires_at.since(self.began).as_secs() + 50) / 100;
        format!("{} {place} {is_granted} {ends}", found.access_token.expose())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_simulations_redis_answers_a_thousand_random_operations_as_a_real_one() {
    let redis = Redis::start().await;
    let (server, mut connection) = (Server::new(), redis.connection().await);
    let net = Net::new(0, GrantKind::StableToken, &server, 1);
    net.state().op_max = crate::harness::PATIENCE;
    let (began, clock) = (UnixSeconds::now(), WallClock::of_the_machine());
    let mut model = Pair { store: Client::new(&net, clock), fences: Vec::new(), began };
    let mut real = Pair { store: open(&redis, 0).await, fences: Vec::new(), began };
    let mut rng = fastrand::Rng::with_seed(5);
    let mut told = std::collections::BTreeMap::<String, u32>::new();
    for number in 0..1000 {
        let step = Step::random(&mut rng, number, real.fences.len());
        let (by_model, by_real) = (model.does(step).await, real.does(step).await);
        assert_eq!(by_model, by_real, "operation {number}, {step:?}");
        let word = by_real.split(' ').next().unwrap_or_default().to_owned();
        *told.entry(word).or_default() += 1;
        let data = server.state().data.clone();
        let (left, words) = match step {
            Step::LockEnds => (Data { lock: None, ..data }, "DEL weigate:{wx:wx1}:shop:lock"),
            Step::TokenEnds => (Data { token: None, ..data }, "DEL weigate:{wx:wx1}:shop:token"),
            Step::Flush => (Data::default(), "FLUSHALL"),
            Step::Claim { .. } | Step::Save { .. } | Step::Release { .. } | Step::Load => {
                let lock = data.lock.map(|(fence, _)| (fence, server.state().now_ms() + 15_000));
                (Data { lock, ..data }, "PEXPIRE weigate:{wx:wx1}:shop:lock 15000")
            }
        };
        server.state().lose(left);
        let mut words = words.split(' ');
        let mut command = ::redis::cmd(words.next().unwrap());
        command.arg(words.collect::<Vec<_>>());
        command.query_async::<()>(&mut connection).await.unwrap();
        // A fence is a time: without a claim in whole milliseconds, so the next step is another one's.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for word in ["go", "adopt", "wait", "true", "false", "none", "0_token"] {
        assert!(told.get(word).is_some_and(|times| *times >= 5), "{word} hardly ever comes: {told:?}");
    }
}
