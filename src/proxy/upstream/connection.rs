//! A connection in use, and its place among the connections of its host.

use std::rc::Weak;
use std::sync::Arc;
use std::time::Duration;

use super::Stats;
use super::mux::Lease;
use super::pool::Host;
use super::socket::Socket;

/// A request's way to the host.
#[derive(Debug)]
pub(super) enum Way {
    /// A connection of its own.
    Alone(Connection),
    /// A place on one that others use too.
    Shared(Lease),
}

/// A connection in use. Closed when dropped; [`Connection::release`] keeps it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: Socket,
    /// How long it was idle before it was taken; `None`: it is new.
    pub(super) was_idle: Option<Duration>,
    pub(super) slot: Slot,
}

/// One of `connections_max`; gives its place to the next in the queue when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    host: Weak<Host>,
    stats: Arc<Stats>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Dialling,
    InUse,
    Idle,
}

// === impl Connection ===

impl Connection {
    pub(super) fn new(socket: Socket, slot: Slot) -> Self {
        Self { socket, was_idle: None, slot }
    }

    /// Done with, and good for another request.
    pub(super) fn release(self) {
        if let Some(host) = self.slot.host.upgrade() {
            host.give(self);
        }
    }

    /// Closed, its place kept for a new one.
    pub(super) fn into_slot(self) -> Slot {
        let Self { socket, mut slot, .. } = self;
        drop(socket);
        slot.enter(Stage::Dialling);
        slot
    }

    /// A reused connection that died without a byte of a reply.
    pub(super) fn note_died(&self) {
        if let (Some(host), Some(idle)) = (self.slot.host.upgrade(), self.was_idle) {
            host.trust.lost_after(idle);
        }
    }
}

// === impl Slot ===

impl Slot {
    /// A place that `host` has counted already.
    pub(super) fn dialling(host: Weak<Host>, stats: Arc<Stats>) -> Self {
        Self { host, stats, stage: Stage::Dialling }
    }

    pub(super) fn enter(&mut self, stage: Stage) {
        self.leave();
        match stage {
            Stage::Dialling => {
                if let Some(host) = self.host.upgrade() {
                    host.dialling.set(host.dialling.get() + 1);
                }
            }
            Stage::InUse => self.stats.open.add(1),
            Stage::Idle => {
                self.stats.open.add(1);
                self.stats.idle.add(1);
            }
        }
        let before = std::mem::replace(&mut self.stage, stage);
        if before == Stage::Dialling
            && let Some(host) = self.host.upgrade()
        {
            host.call_next();
        }
    }

    fn leave(&self) {
        match self.stage {
            Stage::Dialling => {
                if let Some(host) = self.host.upgrade() {
                    host.dialling.set(host.dialling.get().saturating_sub(1));
                }
            }
            Stage::InUse => self.stats.open.sub(1),
            Stage::Idle => {
                self.stats.open.sub(1);
                self.stats.idle.sub(1);
            }
        }
    }

    /// Back without calling the next: the caller is doing so.
    pub(super) fn give_up(&mut self) {
        if let Some(host) = self.host.upgrade() {
            self.leave();
            host.open.set(host.open.get().saturating_sub(1));
        }
        self.host = Weak::new();
        self.stage = Stage::Dialling;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.leave();
        if let Some(host) = self.host.upgrade() {
            host.open.set(host.open.get().saturating_sub(1));
            host.call_next();
        }
    }
}
