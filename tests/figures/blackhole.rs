//! The primary upstream host goes silent, connections and all, and comes back.
//!
//! The measurement runs in a network namespace of its own, where nftables drops what goes to the primary. The suite
//! runs itself there once more (`unshare --net`); when that process ends, so does the namespace.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, interval, sleep, timeout};

use crate::fronts::{Kind, Plan};
use crate::origin::{Origin, Ways};
use crate::table::{Row, Table};
use crate::talk::{Conn, get, post};

pub(crate) const FAILED: Row = Row { name: "primary silent: failed after the first 3 s", must: "0" };
pub(crate) const TWICE: Row = Row { name: "primary silent: POSTs that came twice", must: "0" };
pub(crate) const BACK: Row = Row { name: "primary healed: back to it after", must: "< 40 s" };

/// The argument with which the suite runs itself.
pub(crate) const INSIDE: &str = "--in-a-namespace";

/// A request is begun this often, whatever became of those before.
const EVERY: Duration = Duration::from_millis(10);
/// As many before all others, at once: they leave idle connections behind, more than the silence's first second needs.
const CROWD: usize = 500;
const BEFORE: Duration = Duration::from_secs(4);
const SILENT: Duration = Duration::from_secs(12);
const GRACE: Duration = Duration::from_secs(3);
const BACK_MAX: Duration = Duration::from_secs(40);

pub(crate) async fn measure(table: &Table, kind: Kind) {
    let run = move || {
        // A user namespace too, where it is not root who asks.
        let user: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["--map-root-user"] };
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--net"])
            .args(user)
            .args(["sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
            .arg(std::env::current_exe().unwrap())
            .args([INSIDE, kind.name()])
            .stdin(Stdio::null())
            .output()
            .unwrap()
    };
    let done = spawn_blocking(run).await.unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let figures: Vec<&str> = said.lines().find_map(|line| line.strip_prefix("figures ")).map_or_else(
        || panic!("{said}{}", String::from_utf8_lossy(&done.stderr)),
        |line| line.split(' ').collect(),
    );
    let [early, failed, asked, twice, back] = figures[..] else { panic!("{said}") };
    table.note(FAILED, kind, format!("{failed} of {asked} ({early} before)"), failed == "0");
    table.note(TWICE, kind, twice, twice == "0");
    let is_back = back != "never";
    table.note(BACK, kind, if is_back { format!("{back} s") } else { back.to_owned() }, is_back);
}

/// What runs in the namespace; the figures go to stdout.
#[expect(clippy::print_stdout, reason = "that is how the other process hears of it")]
pub(crate) async fn inside(name: &str) {
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name).unwrap();
    let origin = async |address: &str| {
        let listen: SocketAddr = address.parse().unwrap();
        Arc::new(Origin::with(Ways { listen: Some(listen), ..Ways::default() }).await)
    };
    let (primary, other) = (origin("127.0.0.2:7001").await, origin("127.0.0.3:7001").await);
    let front = Plan::to(&[primary.address, other.address]).start(kind).await;
    let begun = Instant::now();
    let clients = ask_until(front.address, begun, begun + BEFORE + SILENT);
    let rules = async {
        sleep(BEFORE).await;
        nft("add table inet silence");
        nft("add chain inet silence to { type filter hook input priority 0; }");
        nft("add rule inet silence to ip daddr 127.0.0.2 tcp dport 7001 drop");
        sleep(SILENT).await;
        nft("delete table inet silence");
        Instant::now()
    };
    let (asked, healed) = tokio::join!(clients, rules);
    let late = |one: &&Asked| one.at > BEFORE + GRACE;
    let failed = asked.iter().filter(late).filter(|one| !one.is_served).count();
    let early = asked.iter().filter(|one| !one.is_served).count() - failed;

    let seen = primary.requests();
    let back = async {
        let mut number = 0;
        while primary.requests() == seen {
            number += 1;
            let mut conn = Conn::open(front.address).await.unwrap();
            drop(conn.ask(get(&format!("/cgi-bin/user/info?id=back-{number}")).as_bytes()).await);
            sleep(Duration::from_millis(50)).await;
        }
        healed.elapsed()
    };
    let back = timeout(BACK_MAX, back).await;
    let back = back.map_or_else(|_| "never".to_owned(), |after| format!("{:.1}", after.as_secs_f64()));

    let mut times: HashMap<String, u32> = primary.ids();
    for (id, count) in other.ids() {
        *times.entry(id).or_default() += count;
    }
    let twice = times.iter().filter(|(id, times)| id.starts_with("post") && **times > 1).count();
    println!("figures {early} {failed} {} {twice} {back}", asked.iter().filter(late).count());
}

/// A request: when it was begun, and whether it was answered with 200.
struct Asked {
    at: Duration,
    is_served: bool,
}

/// GETs and POSTs in turn, each on a connection of its own, so that none waits for another.
async fn ask_until(front: SocketAddr, begun: Instant, until: Instant) -> Vec<Asked> {
    let mut running = Vec::new();
    let mut turns = interval(EVERY);
    loop {
        let number = running.len();
        if number >= CROWD && turns.tick().await >= until {
            break;
        }
        running.push(tokio::spawn(async move {
            let request = if number.is_multiple_of(2) {
                get(&format!("/cgi-bin/user/info?id=get-{number}"))
            } else {
                post(&format!("/cgi-bin/user/info?id=post-{number}"), "{}")
            };
            let at = begun.elapsed();
            let asking = async { Conn::open(front).await?.ask(request.as_bytes()).await };
            Asked { at, is_served: matches!(asking.await, Ok(200)) }
        }));
    }
    join_all(running).await.into_iter().flatten().collect()
}

fn nft(rule: &str) {
    let status = Command::new("nft").args(rule.split(' ')).status().unwrap();
    assert!(status.success(), "nft {rule}");
}
