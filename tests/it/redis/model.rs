//! The simulation's Redis (`token_life/replicas`) and a real one do the same with the same operations.

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
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Claim {
        hand: Option<(usize, usize)>,
    },
    /// Of the n-th fence, or without a claim.
    Save {
        token: usize,
        fence: Option<usize>,
        lives_s: u64,
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
    fn random(rng: &mut fastrand::Rng, fences: usize) -> Self {
        // The newest few are the ones that matter.
        let fence = fences.saturating_sub(1 + rng.usize(0..3).min(fences.saturating_sub(1)));
        let (token, lives_s) = (rng.usize(0..4), [300, 3600, 7200][rng.usize(0..3)]);
        match rng.u8(0..20) {
            0..=6 => Self::Claim { hand: (fences > 0 && rng.bool()).then_some((token, fence)) },
            7..=11 if fences > 0 => Self::Save { token, fence: Some(fence), lives_s },
            12..=13 => Self::Save { token, fence: None, lives_s },
            14..=15 if fences > 0 => Self::Release { fence },
            16 => Self::LockEnds,
            17 => Self::TokenEnds,
            18 if rng.u8(0..3) == 0 => Self::Flush,
            _ => Self::Load,
        }
    }
}

fn stored(token: usize, lives_s: u64, fence: u64) -> Stored {
    let now = UnixSeconds::now();
    let access_token = AccessToken::parse(&format!("{token}_token")).unwrap();
    Stored { access_token, obtained_at: now, expires_at: now.plus(Duration::from_secs(lives_s)), fence }
}

impl<T: TokenStore> Pair<T> {
    /// What a store does, without what depends on its time.
    async fn does(&mut self, step: Step) -> String {
        let (account, app_id) = (shop(), wx());
        match step {
            Step::Claim { hand } => {
                let hand = hand.map(|(token, fence)| stored(token, 3600, self.fences[fence]));
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
            Step::Save { token, fence, lives_s } => {
                let fence = fence.map_or(0, |fence| self.fences[fence]);
                let saved = self.store.save(&account, &app_id, &stored(token, lives_s, fence)).await.unwrap();
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
        let ends_s = found.expires_at.since(UnixSeconds::now()).as_secs().div_ceil(100);
        format!("{} {place} {is_granted} {ends_s}", found.access_token.expose())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_simulations_redis_answers_a_thousand_random_operations_as_a_real_one() {
    let redis = Redis::start().await;
    let (server, mut connection) = (Server::new(), redis.connection().await);
    let net = Net::new(0, GrantKind::StableToken, &server, 1);
    net.state().op_max = crate::harness::PATIENCE;
    let mut model = Pair { store: Client::new(&net, WallClock::of_the_machine()), fences: Vec::new() };
    let mut real = Pair { store: open(&redis, 0).await, fences: Vec::new() };
    let mut rng = fastrand::Rng::with_seed(5);
    let mut told = std::collections::BTreeMap::<String, u32>::new();
    for number in 0..1000 {
        let step = Step::random(&mut rng, real.fences.len());
        let (by_model, by_real) = (model.does(step).await, real.does(step).await);
        assert_eq!(by_model, by_real, "operation {number}, {step:?}");
        let word = by_real.split(' ').next().unwrap_or_default().to_owned();
        *told.entry(word).or_default() += 1;
        let data = server.state().data.clone();
        let (left, words) = match step {
            Step::LockEnds => (Data { lock: None, ..data }, "DEL weigate:{wx:wx1}:shop:lock"),
            Step::TokenEnds => (Data { token: None, ..data }, "DEL weigate:{wx:wx1}:shop:token"),
            Step::Flush => (Data::default(), "FLUSHALL"),
            Step::Claim { .. } | Step::Save { .. } | Step::Release { .. } | Step::Load => continue,
        };
        server.state().lose(left);
        let mut words = words.split(' ');
        let mut command = ::redis::cmd(words.next().unwrap());
        command.arg(words.collect::<Vec<_>>());
        command.query_async::<()>(&mut connection).await.unwrap();
    }
    for word in ["go", "adopt", "wait", "true", "false", "none", "0_token"] {
        assert!(told.get(word).is_some_and(|times| *times >= 5), "{word} hardly ever comes: {told:?}");
    }
}
