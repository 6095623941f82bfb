//! The one task behind a Redis store: connects, listens to the channel, looks at all accounts in turn.
//!
//! ```text
//! connect ──> look at every account in turn, a slice every 500 ms, one MGET each
//!         ──> on the channel: look at the account it names
//!         ──> the Sentinels name another master (sentinel.rs): a fault like any other
//!         ──> on any fault: give both connections up, wait 50 ms to 1 s, connect again
//! ```
//!
//! # Why looking, where there is a channel
//!
//! What is published is heard by those who listen at that moment, and a FLUSHALL, an eviction or a failover says
//! nothing at all. The slices are small enough to be sane with 100 000 accounts (some 2500 keys each, all seen
//! within 20 s) and see everything twice a second with 1000. One key, the marker, is in every slice: where it is
//! gone, everything may be, and all slices follow at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::PubSub;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{info, warn};

use super::connect::{Connection, connect};
use super::fault::RedisFault;
use super::sentinel::moved;
use super::{Inner, record};
use crate::types::{AccountName, AppId};

/// Between two slices.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Slices are at least so long, and long enough that all accounts are seen within this many.
const SLICE_MIN: usize = 1000;
const SLICES_MAX: usize = 40;

/// Both connections are tried this often: whether the one can write, whether the other is there.
const PING_EVERY: Duration = Duration::from_secs(1);

/// Between two attempts to connect: the first, doubled up to the last.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A fault that lasts is told once in this time.
const WARN_EVERY: Duration = Duration::from_mins(1);

/// Accounts whose values are read at one time.
const READS_AT_ONCE: usize = 32;

/// Runs until it is dropped.
pub(super) async fn keep(inner: Arc<Inner>) {
    let (mut wait, mut attempt, mut warned_at) = (AGAIN.0, 0, None::<Instant>);
    loop {
        attempt += 1;
        let begun = Instant::now();
        let fault = session(&inner, attempt).await;
        inner.link.take();
        inner.link.has_tried();
        let place = inner.link.settings.url.shown();
        if fault == RedisFault::Moved {
            info!(%place, "the Sentinels name another master: connecting to it");
        } else if warned_at.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            warned_at = Some(Instant::now());
            warn!(
                %place, fault = fault.word(), advice = fault.cure(),
                "no connection to Redis; each weigate fetches for itself until there is one"
            );
        }
        // One that lasted has earned a quick second one.
        wait = if begun.elapsed() > Duration::from_secs(5) { AGAIN.0 } else { (wait * 2).min(AGAIN.1) };
        sleep(wait.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
    }
}

/// From a connection to its end.
async fn session(inner: &Inner, attempt: usize) -> RedisFault {
    let link = &inner.link;
    let (connection, news, master) = match connect(&link.settings, &inner.names.channel(), attempt).await {
        Ok(both) => both,
        Err(fault) => {
            link.count(fault);
            return fault;
        }
    };
    let serial = u64::try_from(attempt).unwrap_or(u64::MAX);
    if let Err(fault) = mark(inner, connection.clone()).await {
        link.count(fault);
        return fault;
    }
    info!(place = %link.settings.url.shown(), "connected to Redis");
    inner.forget_what_was_seen();
    link.put(serial, connection);
    link.has_tried();
    tokio::select! {
        fault = work(inner, news, serial) => fault,
        () = moved(&link.settings, master.as_ref()) => {
            link.count(RedisFault::Moved);
            RedisFault::Moved
        }
    }
}

/// What is done with a connection until it fails.
async fn work(inner: &Inner, news: PubSub, serial: u64) -> RedisFault {
    let link = &inner.link;
    let (mut sink, mut messages) = news.split();
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look = Look::default();
    let mut pinged_at = Instant::now();
    loop {
        let step = async {
            tokio::select! {
                () = link.broken(serial) => Err(RedisFault::Unreachable),
                message = messages.next() => {
                    let Some(message) = message else { return Err(RedisFault::Unreachable) };
                    let mut texts = vec![message];
                    while let Some(Some(more)) = messages.next().now_or_never() {
                        texts.push(more);
                    }
                    let named = texts.iter().filter_map(|text| record::read_message(text.get_payload_bytes()));
                    let named: BTreeSet<_> = named.collect();
                    refresh(inner, inner.followed_of(named)).await
                }
                _ = looks.tick() => look.at(inner).await,
            }
        };
        if let Err(fault) = step.await {
            return fault;
        }
        if pinged_at.elapsed() >= PING_EVERY {
            pinged_at = Instant::now();
            // A master that has become a replica goes on answering whoever only reads.
            match inner.link.run::<Option<String>>(&marking(inner)).await {
                Ok(was_gone) => look.wants_all |= was_gone.is_some(),
                Err(fault) => return fault,
            }
            // A connection that is half open says nothing, for ever.
            match timeout(link.settings.op, sink.ping::<::redis::Value>()).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return RedisFault::from(&error),
                Err(_) => return RedisFault::TimedOut,
            }
        }
    }
}

/// Sets the marker, which also shows that this server can be written to.
async fn mark(inner: &Inner, mut connection: Connection) -> Result<(), RedisFault> {
    match timeout(inner.link.settings.op, connection.run::<Option<String>>(&marking(inner))).await {
        Ok(done) => done.map(drop).map_err(|error| RedisFault::from(&error)),
        Err(_) => Err(RedisFault::TimedOut),
    }
}

/// Answers OK where the marker was gone, nothing where it stood, READONLY where nothing can be written.
fn marking(inner: &Inner) -> ::redis::Cmd {
    let mut set = ::redis::cmd("SET");
    set.arg(inner.names.marker()).arg(1).arg("NX");
    set
}

/// Where the look at all accounts is.
#[derive(Debug, Default)]
struct Look {
    after: Option<AccountName>,
    /// The marker was gone.
    wants_all: bool,
}

impl Look {
    /// One slice; all of them, where the marker is gone.
    async fn at(&mut self, inner: &Inner) -> Result<(), RedisFault> {
        let (count, mut left) = (inner.followed_count(), 1);
        let length = SLICE_MIN.max(count.div_ceil(SLICES_MAX));
        while left > 0 {
            left -= 1;
            let slice = inner.slice_after(self.after.as_ref(), length);
            self.after = if slice.len() < length { None } else { slice.last().map(|(name, _)| name.clone()) };
            let mut get = ::redis::cmd("MGET");
            get.arg(inner.names.marker());
            for (account, app_id) in &slice {
                get.arg(inner.names.token(account, app_id));
            }
            let values: Vec<Option<Vec<u8>>> = inner.link.run(&get).await?;
            let Some((marker, values)) = values.split_first() else { continue };
            if marker.is_none() || std::mem::take(&mut self.wants_all) {
                inner.link.run::<Option<String>>(&marking(inner)).await?;
                left = count.div_ceil(length);
            }
            let seen = slice.into_iter().zip(values);
            let changed = seen.filter(|((account, _), value)| inner.is_changed(account, value.as_deref()));
            refresh(inner, changed.map(|(account, _)| account).collect()).await?;
        }
        Ok(())
    }
}

/// Reads what stands under these accounts, and tells their keepers.
async fn refresh(inner: &Inner, accounts: Vec<(AccountName, AppId)>) -> Result<(), RedisFault> {
    let reads = accounts
        .into_iter()
        .map(|(account, app_id)| async move { inner.refresh(&account, &app_id).await.map(drop) });
    let mut reads = futures_util::stream::iter(reads).buffer_unordered(READS_AT_ONCE);
    while let Some(read) = reads.next().await {
        read?;
    }
    Ok(())
}
