//! The way to Redis as it is at the moment: there, or not.
//!
//! It promises that an operation ends within its own limit and never waits for a connection: where there is none, it
//! fails at once. Any error, a slow answer among them, gives the connection up; who connects anew asks the Sentinels
//! anew. So a server that hangs costs one operation its limit, and the others nothing.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ::redis::{Cmd, FromRedisValue, RedisResult};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::timeout;

use super::connect::Connection;
use super::fault::RedisFault;
use crate::config::Redis;

/// The connection, its faults, and who waits for either.
#[derive(Debug)]
pub(in crate::token) struct Link {
    pub(in crate::token) settings: Redis,
    open: Mutex<Option<Open>>,
    /// Rung when the connection is given up.
    broken: Notify,
    /// Attempts at a connection that have ended.
    tried: watch::Sender<u64>,
    places: Semaphore,
    faults: [AtomicU64; RedisFault::ALL.len()],
}

#[derive(Debug, Clone)]
struct Open {
    serial: u64,
    connection: Connection,
}

/// Operations in flight at one time; more wait for a place, not for Redis.
const OPERATIONS_MAX: usize = 128;

// === impl Link ===

impl Link {
    pub(in crate::token) fn new(settings: Redis) -> Self {
        Self {
            settings,
            open: Mutex::default(),
            broken: Notify::new(),
            tried: watch::Sender::new(0),
            places: Semaphore::new(OPERATIONS_MAX),
            faults: Default::default(),
        }
    }

    fn open(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::token) fn is_open(&self) -> bool {
        self.open().is_some()
    }

    /// A connection has been made.
    pub(in crate::token) fn put(&self, serial: u64, connection: Connection) {
        *self.open() = Some(Open { serial, connection });
    }

    /// There is none any more.
    pub(in crate::token) fn take(&self) {
        *self.open() = None;
    }

    /// Waits until the connection of that serial number is given up.
    pub(in crate::token) async fn broken(&self, serial: u64) {
        while self.open().as_ref().is_some_and(|open| open.serial == serial) {
            self.broken.notified().await;
        }
    }

    /// An attempt at a connection has ended, one way or the other.
    pub(in crate::token) fn has_tried(&self) {
        self.tried.send_modify(|tried| *tried += 1);
    }

    /// Waits for the end of the first attempt.
    pub(in crate::token) async fn first_try(&self) {
        // The sender is ours: it cannot be gone.
        let _tried = self.tried.subscribe().wait_for(|tried| *tried > 0).await.is_ok();
    }

    pub(in crate::token) fn count(&self, fault: RedisFault) {
        if let Some(counter) = self.faults.get(fault.index()) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// How often each has happened.
    pub(in crate::token) fn faults(&self) -> impl Iterator<Item = (RedisFault, u64)> {
        RedisFault::ALL.into_iter().zip(&self.faults).map(|(fault, counter)| (fault, counter.load(Relaxed)))
    }

    /// Runs one command within its limit. What the server says no to gives the connection up too: another server may
    /// say yes.
    pub(in crate::token) async fn run<V: FromRedisValue>(&self, command: &Cmd) -> Result<V, RedisFault> {
        self.run_unless(command, |_| false).await
    }

    /// The same for a command on a key that may be nobody's to write: that no is about the key, and the connection
    /// stays.
    pub(in crate::token) async fn ask<V: FromRedisValue>(&self, command: &Cmd) -> Result<V, RedisFault> {
        self.run_unless(command, |fault| matches!(fault, RedisFault::Forbidden | RedisFault::Refused)).await
    }

    async fn run_unless<V: FromRedisValue>(
        &self,
        command: &Cmd,
        is_about_the_key: impl FnOnce(RedisFault) -> bool,
    ) -> Result<V, RedisFault> {
        // A closed semaphore bounds nothing.
        let _place = self.places.acquire().await.ok();
        let Some(Open { serial, mut connection }) = self.open().clone() else {
            self.count(RedisFault::Away);
            return Err(RedisFault::Away);
        };
        let answer: RedisResult<V> = match timeout(self.settings.op, connection.run(command)).await {
            Ok(answer) => answer,
            Err(_) => return Err(self.give_up(serial, RedisFault::TimedOut)),
        };
        answer.map_err(|error| {
            let fault = RedisFault::from(&error);
            if is_about_the_key(fault) {
                self.count(fault);
                return fault;
            }
            self.give_up(serial, fault)
        })
    }

    fn give_up(&self, serial: u64, fault: RedisFault) -> RedisFault {
        self.count(fault);
        self.open().take_if(|open| open.serial == serial);
        self.broken.notify_one();
        fault
    }
}
