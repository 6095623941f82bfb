//! What goes wrong, when, and until when: all of it from the seed.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Simulation;
use super::server::Data;
use crate::token_life::model::{Fault, secs};

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A replica does not reach the store.
    Cut,
    /// Operations take effect and their answers are lost; so are messages on the channel.
    Lossy,
    /// Operations take seconds: they arrive after the replica has given them up.
    Slow,
    /// The store is gone for a while; it comes back with all, nothing, or what it had a while ago.
    StoreDown,
    /// The store loses everything at once.
    Flush,
    /// A replica's process dies, and another takes its place.
    Crash,
    /// A replica's operations and calls stand still for up to a minute, then go on.
    Freeze,
    /// A replica's wall clock is set.
    ClockStep,
    /// WeChat does not answer, or only slowly, or with an error.
    WeChat,
    /// The token is revoked.
    Revoke,
}

pub(super) const ALL: [Kind; 10] = [
    Kind::Cut,
    Kind::Lossy,
    Kind::Slow,
    Kind::StoreDown,
    Kind::Flush,
    Kind::Crash,
    Kind::Freeze,
    Kind::ClockStep,
    Kind::WeChat,
    Kind::Revoke,
];

/// What goes on, and what has happened.
#[derive(Default)]
pub(super) struct Faults {
    pub(super) kinds: Vec<Kind>,
    next_at: Option<Instant>,
    active: Vec<(Instant, Kind, usize)>,
    /// What the store had a while ago.
    earlier: Data,
    pub(super) fired: BTreeMap<Kind, u64>,
}

impl Faults {
    pub(super) fn of(kinds: Vec<Kind>) -> Self {
        Self { kinds, ..Self::default() }
    }
}

impl Simulation {
    /// Begins what is due, and ends what is over. `is_calm`: nothing new begins.
    pub(super) fn let_things_happen(&mut self, is_calm: bool) {
        let now = Instant::now();
        let over: Vec<_> = self.faults.active.extract_if(.., |(until, ..)| *until <= now).collect();
        for (_, kind, index) in over {
            self.end(kind, index);
        }
        if self.rng.u8(0..6) == 0 {
            self.faults.earlier = self.server.state().data.clone();
        }
        let due = *self.faults.next_at.get_or_insert(now + secs(60));
        if is_calm || self.faults.kinds.is_empty() || now < due {
            return;
        }
        // Some come in bursts.
        let apart = if self.rng.u8(0..3) == 0 { self.rng.u64(0..20) } else { self.rng.u64(60..1500) };
        self.faults.next_at = Some(now + secs(apart));
        let kind = self.faults.kinds[self.rng.usize(0..self.faults.kinds.len())];
        *self.faults.fired.entry(kind).or_default() += 1;
        let index = self.rng.usize(0..self.replicas.len());
        self.begin(kind, index);
    }

    fn begin(&mut self, kind: Kind, index: usize) {
        let now = Instant::now();
        if super::number("WEIGATE_SEED").is_some() {
            crate::harness::note(&format!(
                "{:?}: {kind:?} at replica {index}",
                now - self.replicas[0].wall.begun()
            ));
        }
        let longest = [20, 120, 900][self.rng.usize(0..3)];
        let mut span = secs(self.rng.u64(1..longest));
        match kind {
            Kind::Cut => self.replicas[index].net.state().is_cut = true,
            Kind::Lossy => self.replicas[index].net.state().loses = self.rng.u8(20..90),
            Kind::Slow => {
                self.replicas[index].net.state().delay_max = Duration::from_millis(self.rng.u64(100..9000));
            }
            Kind::StoreDown => {
                self.server.state().is_down = true;
                let back_with =
                    [self.server.state().data.clone(), Data::default(), self.faults.earlier.clone()];
                let back_with = back_with[self.rng.usize(0..3)].clone();
                self.server.state().lose(back_with);
            }
            Kind::Flush => self.server.state().lose(Data::default()),
            Kind::Crash => self.restart(index),
            Kind::Freeze => {
                span = secs(self.rng.u64(1..60));
                self.replicas[index].net.state().frozen_until = now + span;
            }
            Kind::ClockStep => {
                let step_s = [86_400, -86_400, 600, -600, 90, -90][self.rng.usize(0..6)];
                self.replicas[index].wall.shift(step_s);
                self.replicas[index].clock_set_at = Some(now);
                span = Duration::ZERO;
            }
            Kind::WeChat => {
                let says = |code: u64| Fault::Says(format!(r#"{{"errcode":{code},"errmsg":"no"}}"#));
                let fault = match self.rng.u8(0..7) {
                    0 | 1 => Fault::Down,
                    2 => Fault::Hangs,
                    3 | 4 => Fault::Slow(secs(self.rng.u64(1..15))),
                    5 => says(45011),
                    _ => Fault::Says("<html>".to_owned()),
                };
                self.wechat.state().fault = fault;
            }
            Kind::Revoke => self.wechat.revoke(),
        }
        self.faults.active.push((now + span, kind, index));
        self.trouble(kind, index, now + span);
    }

    /// Until when what goes wrong is excused: WeChat may prescribe a wait of a minute.
    fn trouble(&mut self, kind: Kind, index: usize, until: Instant) {
        let until = until + secs(if kind == Kind::WeChat { 70 } else { 0 });
        // Where a call ends the token before, one replica's trouble is that of all.
        let is_own = self.kind == super::wechat::Kind::Stable
            && !matches!(kind, Kind::StoreDown | Kind::Flush | Kind::WeChat | Kind::Revoke);
        for (of, replica) in self.replicas.iter_mut().enumerate() {
            if of == index || !is_own {
                replica.troubled_until = replica.troubled_until.max(until);
            }
        }
    }

    fn end(&mut self, kind: Kind, index: usize) {
        let mut net = self.replicas[index].net.state();
        match kind {
            Kind::Cut => net.is_cut = false,
            Kind::Lossy => net.loses = 0,
            Kind::Slow => net.delay_max = Duration::from_millis(2),
            Kind::StoreDown => self.server.state().is_down = false,
            Kind::WeChat => self.wechat.state().fault = Fault::None,
            Kind::Flush | Kind::Crash | Kind::Freeze | Kind::ClockStep | Kind::Revoke => {}
        }
    }
}
