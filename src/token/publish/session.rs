//! The one task that publishes: connects, puts every token where it belongs, and looks after it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::{Desk, Key, Published, Standing, script};
use crate::config::{Account, Redis};
use crate::token::store::RedisFault;
use crate::token::store::redis::{Link, connect_for_commands, moved};
use crate::types::AccountName;

/// Every key is looked at this often, and sooner where one could not be written.
const PASS_EVERY: Duration = Duration::from_mins(1);
const PASS_AGAIN: Duration = Duration::from_secs(5);

/// Some keys are looked at more often, in turn: whether they are there, and the server with them.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The keys of so many accounts.
const LOOKED_AT: usize = 20;

/// Between two attempts to connect: the first, doubled up to the last.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A fault that lasts is told once in this time.
const WARN_EVERY: Duration = Duration::from_mins(1);

/// Accounts whose keys are written at one time.
const ACCOUNTS_AT_ONCE: usize = 32;

/// A token with less to live is not worth a key.
const LEFT_MIN: Duration = Duration::from_secs(1);

/// What a person can do about a fault of the Redis where tokens are published.
pub fn advice(fault: RedisFault) -> &'static str {
    match fault {
        RedisFault::Unreachable => {
            "is it running, is the address right, does a firewall stand between, and with TLS, is its certificate \
             for this name and from an authority in publish.ca_file?"
        }
        RedisFault::Forbidden => {
            "the user needs +eval +get +set +pttl +del +select on every key that `weigate check` shows; for a \
             cluster also +cluster"
        }
        RedisFault::Away
        | RedisFault::TimedOut
        | RedisFault::Login
        | RedisFault::ReadOnly
        | RedisFault::Unready
        | RedisFault::NoMaster
        | RedisFault::Moved
        | RedisFault::Refused => fault.cure(),
    }
}

/// `weigate check --online`: connects, and looks at every key of an account without changing anything; how long an
/// answer took.
pub async fn try_publishing(settings: &Redis, account: &Account) -> Result<Duration, RedisFault> {
    let (mut connection, _) = connect_for_commands(settings).await?;
    let begun = Instant::now();
    for target in super::Target::all_of(account) {
        let looking = script::look(&target.key);
        let looked = timeout(settings.op, connection.run::<i64>(&looking)).await;
        looked.map_err(|_| RedisFault::TimedOut)?.map_err(|error| RedisFault::from(&error))?;
    }
    Ok(begun.elapsed())
}

/// Runs until it is dropped.
pub(super) async fn keep(desk: Arc<Desk>, link: Arc<Link>) {
    let (mut wait, mut warned_at) = (AGAIN.0, None::<Instant>);
    for attempt in 1.. {
        let begun = Instant::now();
        let fault = session(&desk, &link, attempt).await;
        link.take();
        let place = link.settings.url.shown();
        if fault == RedisFault::Moved {
            info!(%place, "the Sentinels name another master: publishing there");
        } else if warned_at.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            warned_at = Some(Instant::now());
            warn!(
                %place, fault = fault.word(), advice = advice(fault),
                "tokens cannot be published; requests go on, and who reads them there has what was there last"
            );
        }
        wait = if begun.elapsed() > Duration::from_secs(5) { AGAIN.0 } else { (wait * 2).min(AGAIN.1) };
        sleep(wait.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
    }
}

/// From a connection to its end.
async fn session(desk: &Desk, link: &Link, attempt: usize) -> RedisFault {
    let (connection, master) = match connect_for_commands(&link.settings).await {
        Ok(both) => both,
        Err(fault) => {
            link.count(fault);
            return fault;
        }
    };
    let serial = u64::try_from(attempt).unwrap_or(u64::MAX);
    link.put(serial, connection);
    info!(place = %link.settings.url.shown(), "connected to the Redis where tokens are published");
    tokio::select! {
        fault = work(desk, link, serial) => fault,
        () = moved(&link.settings, master.as_ref()) => {
            link.count(RedisFault::Moved);
            RedisFault::Moved
        }
    }
}

/// What is done with a connection until it fails.
async fn work(desk: &Desk, link: &Link, serial: u64) -> RedisFault {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut pass_at, mut warned_at, mut looked_at) = (Instant::now(), None::<Instant>, None);
    loop {
        let step = async {
            tokio::select! {
                () = link.broken(serial) => Err(RedisFault::Unreachable),
                () = desk.bell.notify.notified() => publish(desk, link, desk.rung(), &mut warned_at).await,
                () = sleep_until(pass_at) => {
                    pass_at = Instant::now() + PASS_EVERY;
                    publish(desk, link, desk.all(), &mut warned_at).await
                }
                _ = looks.tick() => match look(desk, link, &mut looked_at).await? {
                    Looked::Missing(accounts) => publish(desk, link, accounts, &mut warned_at).await,
                    Looked::Nothing => {
                        pass_at = Instant::now();
                        Ok(true)
                    }
                },
            }
        };
        match step.await {
            Ok(true) => {}
            Ok(false) => pass_at = pass_at.min(Instant::now() + PASS_AGAIN),
            Err(fault) => return fault,
        }
    }
}

/// What a look at some keys has shown.
enum Looked {
    /// These accounts have keys that are gone, or have lost their end.
    Missing(Vec<Arc<Published>>),
    /// None of the keys is there: so perhaps nothing is.
    Nothing,
}

/// Looks at the keys of the next accounts, in turn, that ought to be there.
async fn look(desk: &Desk, link: &Link, after: &mut Option<AccountName>) -> Result<Looked, RedisFault> {
    let slice = desk.slice_after(after.as_ref(), LOOKED_AT);
    *after = slice.last().filter(|_| slice.len() == LOOKED_AT).map(|last| last.token.account().name.clone());
    let looks =
        slice.into_iter().filter(|published| published.token.is_alive()).map(|published| async move {
            let (mut there, mut gone) = (0_u32, 0_u32);
            for key in published.keys.iter().filter(|key| key.seen().standing == Standing::Ours) {
                match link.ask::<i64>(&script::look(&key.target.key)).await {
                    Ok(left) if left < 0 => gone += 1,
                    Ok(_) => there += 1,
                    Err(fault) if !link.is_open() => return Err(fault),
                    Err(_) => {}
                }
            }
            Ok((published, there, gone))
        });
    let mut looks = futures_util::stream::iter(looks).buffer_unordered(ACCOUNTS_AT_ONCE);
    let (mut all_there, mut missing) = (0, Vec::new());
    while let Some(looked) = looks.next().await {
        let (published, there, gone) = looked?;
        all_there += there;
        if gone > 0 {
            missing.push(published);
        }
    }
    Ok(if all_there == 0 && !missing.is_empty() { Looked::Nothing } else { Looked::Missing(missing) })
}

/// Puts these accounts' tokens where they belong; whether all of them could be. An error is one of the connection.
async fn publish(
    desk: &Desk,
    link: &Link,
    accounts: Vec<Arc<Published>>,
    warned_at: &mut Option<Instant>,
) -> Result<bool, RedisFault> {
    let puts = accounts.into_iter().map(|published| async move {
        let failed = put_all(desk, link, &published).await;
        failed.map(|failed| (published, failed))
    });
    let mut puts = futures_util::stream::iter(puts).buffer_unordered(ACCOUNTS_AT_ONCE);
    let mut all_well = true;
    while let Some(failed) = puts.next().await {
        let Some((published, (key, fault))) = failed else { continue };
        if !link.is_open() {
            return Err(fault);
        }
        all_well = false;
        if warned_at.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            *warned_at = Some(Instant::now());
            warn!(
                account = %published.token.account().name, key, fault = fault.word(), advice = advice(fault),
                "a token could not be published under this key"
            );
        }
    }
    Ok(all_well)
}

/// One account's token under each of its keys; the last that failed.
async fn put_all(desk: &Desk, link: &Link, published: &Published) -> Option<(String, RedisFault)> {
    let mut failed = None;
    for key in &published.keys {
        if let Err(fault) = put(desk, link, published, key).await {
            key.seen().standing = Standing::Failed;
            failed = Some((key.target.shown.clone(), fault));
        }
    }
    failed
}

async fn put(desk: &Desk, link: &Link, published: &Published, key: &Key) -> Result<(), RedisFault> {
    let Some(token) = published.token.0.cell.alive() else { return Ok(()) };
    let left = token.left(Instant::now(), published.token.0.clock().read());
    if left < LEFT_MIN {
        return Ok(());
    }
    if let Some(unwanted) = &key.target.unwanted {
        link.ask::<u64>(::redis::cmd("DEL").arg(unwanted)).await?;
    }
    let put = script::put(&key.target, &token.access_token, left, &key.seen().ours);
    let (done, hash): (u8, String) = link.ask(&put).await?;
    if done == 2 {
        debug!(account = %published.token.account().name, key = key.target.shown, "a newer token stands under this key");
        key.seen().standing = Standing::Newer;
        return Ok(());
    }
    desk.written.fetch_add(u64::from(done), Relaxed);
    key.seen().is_ours(hash);
    Ok(())
}
