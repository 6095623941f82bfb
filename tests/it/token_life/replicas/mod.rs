//! Several replicas, one store, one WeChat: hours of faults from a seed, and what holds at every step of them.
//!
//! The keepers are the real ones (`token::start`), each with a clock of its own; Redis, the network and WeChat are
//! models on the paused clock. A replica that stands still is modelled by its operations and calls: they are held and
//! go on later, while its own timers run. `redis/holders.rs` stops real processes.

mod faults;
mod net;
pub(crate) mod server;
mod wechat;

pub(crate) use net::{Client, Net};

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};
use weigate::token::{Alone, KeeperTask, Life, Renewal, TokenHandle, start};
use weigate::types::Generation;

use self::faults::{Faults, Kind as FaultKind};
use self::server::Server;
use self::wechat::{Kind, Source, WeChat, serial_of};
use super::model::{Wall, account, life, secs};
use crate::harness::note;

struct Simulation {
    seed: u64,
    kind: Kind,
    rng: fastrand::Rng,
    wechat: WeChat,
    server: Server,
    replicas: Vec<Replica>,
    faults: Faults,
    hours: u64,
    /// What a second run of the seed must come to as well.
    story: u64,
    /// How often a client saw a token that WeChat refused, or none.
    refused: u64,
    without: u64,
    /// The refusals that a client got to see, since a second try brought nothing: for how long the store had not
    /// answered that replica, and where to look.
    sights: Arc<Mutex<Vec<(Duration, String)>>>,
}

struct Replica {
    net: Net,
    wall: Wall,
    handle: TokenHandle,
    listener: AbortHandle,
    /// Dropping it ends the process.
    task: Option<KeeperTask>,
    generation: Generation,
    serial: u64,
    /// Until then its faults are an excuse, and for a while after it.
    troubled_until: Instant,
    /// When its wall clock was last set.
    clock_set_at: Option<Instant>,
}

/// What a seed came to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    story: u64,
    fired: BTreeMap<faults::Kind, u64>,
    calls: u64,
    refused: u64,
    without: u64,
    sights: Vec<(Duration, String)>,
    /// Writes that a fence kept out, operations that failed, and those of them that took effect.
    fenced_off: u64,
    failed: u64,
    lost: u64,
}

/// After the last fault that concerns it, a replica has a good token within this time and then always.
const AFTERMATH: Duration = Duration::from_secs(90);

/// The quiet at the end of each run; all replicas agree at its end.
const QUIET: Duration = Duration::from_mins(10);

/// A token's end is counted in whole seconds, at each hand it goes through.
const ROUNDING: Duration = Duration::from_secs(5);

/// Where a call ends the token before at once, the news of it take so long at most.
const NEWS: Duration = Duration::from_secs(30);

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let kind = match seed % 4 {
            0 | 1 => Kind::Stable,
            2 => Kind::Rotating { overlap: Duration::from_mins(5) },
            _ => Kind::Rotating { overlap: Duration::ZERO },
        };
        let count = rng.usize(2..=5);
        let hours = if seed.is_multiple_of(8) { 24 } else { 6 };
        let mut new = Self::of(seed, rng, kind, count, hours);
        let is_calm = (seed / 4).is_multiple_of(5);
        let kinds = faults::ALL.into_iter().filter(|_| !is_calm && new.rng.bool()).collect();
        new.faults = Faults::of(kinds);
        new
    }

    /// So many replicas, and nothing that goes wrong.
    fn of(seed: u64, mut rng: fastrand::Rng, kind: Kind, count: usize, hours: u64) -> Self {
        let (wechat, server) = (WeChat::new(kind), Server::new());
        let replicas = (0..count).map(|index| {
            let net = Net::new(index, kind.grant(), &server, rng.u64(..));
            let wall = Wall::new();
            wall.shift(rng.i64(-600..=600));
            Replica::start(net, wall, kind, &wechat, rng.u64(..))
        });
        let (replicas, faults) = (replicas.collect(), Faults::default());
        let (story, refused, without, sights) = (0, 0, 0, Arc::default());
        Self { seed, kind, rng, wechat, server, replicas, faults, hours, story, refused, without, sights }
    }

    /// Another process in the place of a replica's.
    fn restart(&mut self, index: usize) {
        let seed = self.rng.u64(..);
        let old = &mut self.replicas[index];
        old.listener.abort();
        drop(old.task.take());
        let troubled_until = old.troubled_until;
        let new = Replica::start(old.net.clone(), old.wall.clone(), self.kind, &self.wechat, seed);
        self.replicas[index] = Replica { troubled_until, ..new };
    }

    async fn run(mut self) -> Outcome {
        let begun = Instant::now();
        let end = begun + secs(self.hours * 3600);
        while Instant::now() < end {
            let step_ms = self.rng.u64(500..15_000);
            sleep(Duration::from_millis(step_ms)).await;
            self.let_things_happen(Instant::now() + QUIET + secs(900) > end);
            for index in 0..self.replicas.len() {
                self.look(index);
            }
            self.check_the_order();
        }
        self.check_the_agreement();
        let calls = u64::try_from(self.wechat.state().calls.len()).unwrap();
        if self.faults.kinds.is_empty() {
            // Fourteen a day, whatever the number of replicas; the first comes at the start.
            let most = (14 * self.hours).div_ceil(24) + 1;
            assert!(calls <= most, "{calls} calls in {} hours", self.hours);
        }
        let sum =
            |of: fn(&net::State) -> u64| self.replicas.iter().map(|replica| of(&replica.net.state())).sum();
        Outcome {
            story: self.story,
            fired: self.faults.fired,
            calls,
            refused: self.refused,
            without: self.without,
            sights: std::mem::take(&mut *self.sights.lock().unwrap()),
            fenced_off: self.server.state().refused,
            failed: sum(|net| net.failed),
            lost: sum(|net| net.lost),
        }
    }

    /// What a client of this replica would see now.
    fn look(&mut self, index: usize) {
        let now = Instant::now();
        let replica = &mut self.replicas[index];
        let is_fair = now > replica.troubled_until + AFTERMATH;
        let at = format!("seed {} at {:?} replica {index}", self.seed, now - replica.wall.begun());
        let Some(token) = replica.handle.current(now).map(|token| Arc::clone(&token)) else {
            assert!(!is_fair || now - replica.wall.begun() < secs(60), "{at}: no token");
            self.without += 1;
            return;
        };
        let serial = serial_of(token.access_token.expose());
        assert!(token.generation >= replica.generation, "{at}: a generation goes back");
        let is_in_order = serial >= replica.serial
            || self.wechat.is_a_tie(serial, replica.serial)
            || replica.is_confused(&self.wechat);
        assert!(is_in_order, "{at}: {serial} after {}", replica.serial);
        assert!(now < token.good_until, "{at}: over by its own clock");
        let late = now.saturating_duration_since(self.wechat.told_end(serial));
        assert!(late <= ROUNDING, "{at}: {serial} ended {late:?} ago");
        (replica.generation, replica.serial) = (token.generation, serial);
        let since = now - replica.wall.begun();
        let word = (serial << 32) ^ (token.generation.0 << 8) ^ u64::try_from(index).unwrap();
        self.story = self.story.rotate_left(7) ^ word ^ u64::try_from(since.as_millis()).unwrap();
        if self.wechat.accepts(serial) {
            return;
        }
        self.refused += 1;
        let is_at_once = self.kind == Kind::Rotating { overlap: Duration::ZERO };
        let is_news =
            is_at_once && self.wechat.state().calls.last().is_some_and(|call| call.elapsed() < NEWS);
        let is_excused = is_news || (self.kind != Kind::Stable && self.wechat.is_lost_to(serial));
        assert!(!is_fair || is_excused, "{at}: {serial} is refused");
        // The client asks, and may have hung up before there is an answer.
        let (handle, patience) = (replica.handle.clone(), secs(self.rng.u64(1..15)));
        let (wechat, net, sights) = (self.wechat.clone(), replica.net.clone(), Arc::clone(&self.sights));
        tokio::spawn(async move {
            let renewal = handle.newer_than(token.generation, Instant::now() + patience).await;
            let is_cured = match renewal {
                Renewal::Newer(newer) => wechat.accepts(serial_of(newer.access_token.expose())),
                Renewal::Same | Renewal::Failed => false,
            };
            if !is_cured {
                let silent = net.state().answered_at.elapsed();
                sights.lock().unwrap().push((silent, at));
            }
        });
    }

    /// No older token over a newer one; no rotation beside another.
    fn check_the_order(&mut self) {
        for (old, new) in std::mem::take(&mut self.server.state().overwritten) {
            assert!(new.fence > old.fence, "{old:?} {new:?}");
            let (is, was) = (serial_of(&new.token), serial_of(&old.token));
            let is_in_order = is >= was || self.wechat.is_a_tie(is, was);
            assert!(is_in_order, "seed {}: an older token over a newer one: {old:?} {new:?}", self.seed);
        }
        let wrongs = std::mem::take(&mut self.wechat.state().wrongs);
        assert!(wrongs.is_empty(), "seed {}: {wrongs:?}", self.seed);
    }

    fn check_the_agreement(&self) {
        let in_store = self.server.state().data.token.as_ref().map(|value| serial_of(&value.token));
        for (index, replica) in self.replicas.iter().enumerate() {
            let token = replica.handle.current(Instant::now()).unwrap();
            let serial = serial_of(token.access_token.expose());
            assert!(self.wechat.accepts(serial), "seed {}: {index} ends with a dead token", self.seed);
            assert_eq!(Some(serial), in_store, "seed {}: {index} and the store differ", self.seed);
        }
    }
}

impl Replica {
    /// Whether its token was fetched without a claim, so that only times tell its place among others, and its clock was
    /// set: forward, that looks like a suspension, in which the token's life went by.
    fn is_confused(&self, wechat: &WeChat) -> bool {
        let is_set = self.clock_set_at.is_some_and(|at| at.elapsed() < AFTERMATH);
        is_set && wechat.is_unclaimed(self.serial)
    }

    fn start(net: Net, wall: Wall, kind: Kind, wechat: &WeChat, seed: u64) -> Self {
        let client = Client::new(&net, wall.clock());
        let alone = if kind == Kind::Stable { Alone::Allowed } else { Alone::Never };
        let life = Life { account: account("shop", kind.grant()), alone, ..life("shop", seed, &wall) };
        net.state().handle = None;
        let source = Source { wechat: wechat.clone(), net: net.clone() };
        let (handle, task) = start(life, source, client.clone());
        net.state().handle = Some(handle.clone());
        let listener = tokio::spawn(client.keep()).abort_handle();
        let (generation, serial, troubled_until) = (Generation::NONE, 0, Instant::now());
        let (task, clock_set_at) = (Some(task), None);
        Self { net, wall, handle, listener, task, generation, serial, troubled_until, clock_set_at }
    }
}

fn simulate(seed: u64) -> Outcome {
    paused(async { Simulation::new(seed).run().await })
}

fn paused<T>(run: impl Future<Output = T>) -> T {
    let paused = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    paused.unwrap().block_on(run)
}

#[expect(clippy::disallowed_methods, reason = "a test's own switches")]
pub(super) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|number| number.parse().ok())
}

/// `WEIGATE_SEEDS` raises the count; `WEIGATE_SEED` repeats one, and tells what goes wrong in it.
fn seeds() -> std::ops::Range<u64> {
    number("WEIGATE_SEED").map_or(0..number("WEIGATE_SEEDS").unwrap_or(200), |seed| seed..seed + 1)
}

#[test]
fn replicas_agree_on_a_living_token_whatever_goes_wrong_between_them() {
    let mut fired = BTreeMap::<faults::Kind, u64>::new();
    let (mut refused, mut without, mut fenced_off, mut failed, mut lost, mut calls) = (0, 0, 0, 0, 0, 0);
    let mut bad = Vec::new();
    for seed in seeds() {
        let Ok(outcome) = std::panic::catch_unwind(|| simulate(seed)) else {
            bad.push(seed);
            continue;
        };
        for (kind, count) in outcome.fired {
            *fired.entry(kind).or_default() += count;
        }
        refused += outcome.refused;
        without += outcome.without;
        fenced_off += outcome.fenced_off;
        failed += outcome.failed;
        lost += outcome.lost;
        calls += outcome.calls;
    }
    let count = seeds().count();
    note(&format!(
        "{count} seeds: {fired:?}; {calls} calls, {failed} operations failed, {lost} of them took effect, {fenced_off} \
         writes refused; {refused} looks at a refused token, {without} at none, all while something was wrong"
    ));
    assert!(bad.is_empty(), "failing seeds {bad:?}: WEIGATE_SEED={} repeats the first", bad[0]);
    if count >= 100 {
        for kind in faults::ALL {
            assert!(fired.get(&kind).is_some_and(|times| *times >= 50), "{kind:?} hardly ever happens");
        }
        assert!(fenced_off > 0 && failed > 1000 && lost > 100 && refused > 0 && without > 0);
    }
}

/// `grant = "token"`, where a call ends the token before: days of everything that can go wrong between weigate and the
/// store, every eight minutes. A replica that does not reach the store cannot know that another has renewed, and may not
/// renew: its clients see refusals until the store is back, and no other client does, ever.
#[test]
fn three_replicas_share_a_rotating_token_through_days_of_faults_at_two_calls_a_rotation() {
    let kinds = [FaultKind::Cut, FaultKind::Lossy, FaultKind::Slow, FaultKind::StoreDown, FaultKind::Flush];
    let kinds = [&kinds[..], &[FaultKind::Crash, FaultKind::Freeze, FaultKind::ClockStep]].concat();
    for seed in 0..8 {
        let rng = fastrand::Rng::with_seed(seed);
        let overlap = Duration::from_mins(5);
        let outcome = paused(async {
            let mut simulation = Simulation::of(seed, rng, Kind::Rotating { overlap }, 3, 24);
            simulation.faults = Faults::of(kinds.clone());
            simulation.run().await
        });
        let faults: u64 = outcome.fired.values().sum();
        note(&format!(
            "day {seed}: {faults} faults, {} calls; of some 35,000 looks {} at a refused token, {} at none; {} refusals \
             reached a client, all where the store had not answered for long",
            outcome.calls,
            outcome.refused,
            outcome.without,
            outcome.sights.len()
        ));
        let wrong: Vec<_> = outcome.sights.iter().filter(|(silent, _)| *silent < NEWS).collect();
        assert!(wrong.is_empty(), "the store has answered, and a refusal reaches a client: {wrong:?}");
        assert!(faults > 100 && outcome.calls <= 40, "{outcome:?}");
    }
}

#[test]
fn a_seed_is_one_story() {
    for seed in [1, 6, 13, 22] {
        assert_eq!(simulate(seed), simulate(seed), "seed {seed}");
    }
}
