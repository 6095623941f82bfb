//! Where the Sentinels say that the master is, and whether they still say so.
//!
//! ```text
//! connect   all are asked at once ──> of their answers, the one with the highest epoch counts
//! watch     each is asked every second, over a connection of its own that is kept
//!           ──> one names another address under a higher epoch: the master has moved
//! ```
//!
//! A Sentinel that hangs, is gone or says no changes nothing: the others answer, and where none does, the connection to
//! the master stays. After a failover by command the old master takes writes for some ten seconds more (measured with
//! Redis 7.0), and what it is told then is lost; the Sentinels name the new one after one.
//!
//! # Why the epoch
//!
//! Each failover gives the master's place a new, higher `config-epoch`, and the Sentinels hear of it one after the other,
//! some seconds apart ("Configuration epochs" and "Consistency properties of Sentinel" in
//! <https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/>, read 2026-11-23). By the address alone, one
//! that lags behind would send us back to the old master. The library's own Sentinel client goes by what `SENTINEL
//! MASTERS` says, which is the old address at the one that leads the failover, for as long as it lasts.

use std::collections::HashMap;
use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, ErrorKind, RedisError, RedisResult};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::connect::{CONNECT_MAX, client_of};
use crate::config::{Redis, RedisPlace};

/// What Sentinels say of the master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::token) struct Master {
    pub(super) host: String,
    pub(super) port: u16,
    /// Counts the failovers.
    epoch: u64,
}

/// What a Sentinel knows of one master, by name.
type Said = HashMap<String, String>;

/// Each Sentinel is asked this often.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Asks the Sentinels anew. The first answer is waited for, and then the others for as long as an operation may take.
pub(super) async fn master(settings: &Redis, sentinels: &[(String, u16)], name: &str) -> RedisResult<Master> {
    let asks = sentinels
        .iter()
        .map(|(host, port)| async move { ask(&mut connection(settings, host, *port).await?, name).await });
    let mut asks: FuturesUnordered<_> = asks.collect();
    let (mut newest, mut no) = (None::<Master>, None);
    let mut others = pin!(sleep(CONNECT_MAX));
    loop {
        let answer = tokio::select! {
            answer = asks.next() => answer,
            () = &mut others => None,
        };
        match answer {
            Some(Ok(Some(master))) => {
                if newest.is_none() {
                    others.as_mut().reset(Instant::now() + settings.op);
                }
                newest = newest.filter(|newest| newest.epoch >= master.epoch).or(Some(master));
            }
            Some(Ok(None)) => {}
            Some(Err(error)) => no = Some(error),
            None => break,
        }
    }
    let unknown =
        || RedisError::from((ErrorKind::MasterNameNotFoundBySentinel, "no Sentinel names a master"));
    newest.ok_or_else(|| no.unwrap_or_else(unknown))
}

/// Ends when a Sentinel names another master than `from`; never, where no Sentinel has named it.
pub(in crate::token) async fn moved(settings: &Redis, from: Option<&Master>) {
    let (Some(from), RedisPlace::Sentinel { sentinels, master }) = (from, &settings.url.place) else {
        return pending().await;
    };
    let watches = sentinels.iter().map(|(host, port)| watch(settings, host, *port, master, from));
    let mut watches: FuturesUnordered<_> = watches.collect();
    if watches.next().await.is_none() {
        pending::<()>().await;
    }
}

/// Asks one Sentinel, until it says that the master has moved.
async fn watch(settings: &Redis, host: &str, port: u16, name: &str, from: &Master) {
    let mut turns = interval(ASK_EVERY);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let Ok(Ok(mut asked)) = timeout(CONNECT_MAX, connection(settings, host, port)).await else {
            continue;
        };
        // Until it gives no answer.
        while let Ok(Ok(named)) = timeout(settings.op, ask(&mut asked, name)).await {
            if named.is_some_and(|named| named.is_after(from)) {
                return;
            }
            turns.tick().await;
        }
    }
}

async fn connection(settings: &Redis, host: &str, port: u16) -> RedisResult<MultiplexedConnection> {
    let client = client_of(settings, host, port, &settings.url.sentinel_login, 0)?;
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_MAX)).set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&config).await
}

/// What one Sentinel says; nothing, where it knows no master of that name or holds it to be down.
async fn ask(sentinel: &mut MultiplexedConnection, name: &str) -> RedisResult<Option<Master>> {
    let mut both = ::redis::pipe();
    both.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    both.cmd("SENTINEL").arg("MASTERS");
    let (address, masters): (Option<(String, u16)>, Vec<Said>) = both.query_async(sentinel).await?;
    let its = masters.iter().find(|said| said.get("name").is_some_and(|its| its == name));
    Ok(address.zip(its).and_then(|((host, port), its)| Master::read(host, port, its)))
}

// === impl Master ===

impl Master {
    /// Which the Sentinels call by that address, and of which they say this.
    fn read(host: String, port: u16, said: &Said) -> Option<Self> {
        let (flags, epoch) = (said.get("flags")?, said.get("config-epoch")?.parse().ok()?);
        let is_down = flags.contains("s_down") || flags.contains("o_down");
        // The one that leads a failover speaks of the old master to its end, and gives the new one's address.
        let is_promoted = said.get("ip") != Some(&host) || said.get("port") != Some(&port.to_string());
        (is_promoted || !is_down).then_some(Self { host, port, epoch })
    }

    fn is_after(&self, before: &Self) -> bool {
        self.epoch > before.epoch && (&self.host, self.port) != (&before.host, before.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(host: &str, port: u16, ip: &str, flags: &str, epoch: &str) -> Option<Master> {
        let said = [("ip", ip), ("port", "6379"), ("flags", flags), ("config-epoch", epoch)];
        let said = said.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
        Master::read(host.to_owned(), port, &said)
    }

    #[test]
    fn a_master_that_is_down_is_none_but_the_one_that_takes_its_place_is() {
        assert!(read("a", 6379, "a", "master", "1").is_some());
        assert_eq!(read("a", 6379, "a", "s_down,master", "1"), None);
        assert_eq!(read("a", 6379, "a", "s_down,o_down,master", "1"), None);
        assert!(read("b", 6379, "a", "s_down,o_down,master,failover_in_progress", "1").is_some());
        assert_eq!(read("a", 6379, "a", "master", "x"), None);
    }

    #[test]
    fn only_a_later_failover_moves_a_master() {
        let master = |host, port, epoch| read(host, port, host, "master", epoch).unwrap();
        let from = master("a", 6379, "7");
        assert!(master("b", 6379, "8").is_after(&from));
        assert!(master("a", 6380, "8").is_after(&from));
        assert!(!master("b", 6379, "6").is_after(&from), "it lags behind");
        assert!(!master("b", 6379, "7").is_after(&from), "another name of the same");
        assert!(!master("a", 6379, "8").is_after(&from), "there and back again");
    }
}
