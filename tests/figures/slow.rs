//! slowhttptest's three attacks at once, 300 connections each, and another client meanwhile.
//!
//! A connection counts as held as long as the front has it open; what the attacker thinks of it says little.

use std::collections::{HashMap, HashSet};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::fronts::{Front, Kind, Plan};
use crate::origin::{LONG, Origin};
use crate::probes::CLIENT_KEY;
use crate::table::{Row, Table};
use crate::talk::is_served;

pub(crate) const HEADER: Row = Row { name: "slow header: held of 300 after 15 s", must: "0" };
pub(crate) const BODY: Row = Row { name: "slow body: held of 300 after 15 s", must: "0" };
pub(crate) const READ: Row = Row { name: "slow read: held of 300 after 45 s", must: "0" };
pub(crate) const OTHERS: Row = Row { name: "meanwhile: others not served", must: "0" };

/// Connections are opened at 150 a second.
const RAMP: Duration = Duration::from_secs(3);

/// None that comes later is waited for.
const LATE_MAX: Duration = Duration::from_secs(20);

/// One run of slowhttptest.
struct Attack {
    row: Row,
    after: Duration,
    child: Child,
    /// Every local port it has had, and the attack's age when that was first seen.
    ports: HashMap<u16, Duration>,
    held: Option<usize>,
}

// === impl Attack ===

impl Attack {
    /// `sockets`: what is open at the front's port, on either side.
    fn look(&mut self, front: &[u32], port: u16, sockets: &[Socket], age: Duration) {
        let own = inodes(self.child.id());
        for socket in sockets.iter().filter(|socket| socket.remote == port && own.contains(&socket.inode)) {
            self.ports.entry(socket.local).or_insert(age);
        }
        if self.held.is_none() && self.is_old_enough(age) {
            let fronts: HashSet<String> = front.iter().copied().flat_map(inodes).collect();
            let is_old = |port: &u16| self.ports.get(port).is_some_and(|since| age >= *since + self.after);
            let is_held = |socket: &&Socket| {
                socket.local == port && is_old(&socket.remote) && fronts.contains(&socket.inode)
            };
            self.held = Some(sockets.iter().filter(is_held).count());
        }
    }

    /// Whether its last connection is: on a busy machine that comes late.
    fn is_old_enough(&self, age: Duration) -> bool {
        let last = self.ports.values().max().copied().unwrap_or_default().clamp(RAMP, LATE_MAX);
        age >= last + self.after
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) async fn measure(table: &Table, kind: Kind) {
    let origin = Origin::start().await;
    let front = Plan::to(&[origin.address]).start(kind).await;
    let url = |path: &str| format!("http://{}{path}?access_token={CLIENT_KEY}", front.address);
    let (short, long) = (url("/cgi-bin/user/info"), url(LONG));
    let soon = Duration::from_secs(15);
    let attacks = vec![
        start(HEADER, soon, &["-H", "-i", "5", "-x", "24", "-u", &short]),
        start(BODY, soon, &["-B", "-i", "5", "-x", "24", "-s", "8192", "-u", &short]),
        start(READ, soon * 3, &["-X", "-n", "5", "-z", "32", "-w", "10", "-y", "20", "-u", &long]),
    ];
    let (mut asked, mut refused) = (0, 0);
    let asking = async {
        loop {
            asked += 1;
            refused += usize::from(!is_served(front.address).await);
            sleep(Duration::from_millis(200)).await;
        }
    };
    let attacks = tokio::select! {
        attacks = watch(attacks, &front) => attacks,
        () = asking => unreachable!(),
    };
    for attack in &attacks {
        let (held, connected) = (attack.held.unwrap_or(usize::MAX), attack.ports.len());
        let text =
            if connected < 290 { format!("{held}, only {connected} connected") } else { held.to_string() };
        table.note(attack.row, kind, text, held == 0 && connected >= 290);
    }
    table.note(OTHERS, kind, format!("{refused} of {asked}"), refused == 0);
}

/// Looks once a second, on a thread where it may take its time, until all is known.
async fn watch(mut attacks: Vec<Attack>, front: &Front) -> Vec<Attack> {
    let started = Instant::now();
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while attacks.iter().any(|attack| attack.held.is_none()) {
        seconds.tick().await;
        let (pids, port, age) = (front.pids(), front.address.port(), started.elapsed());
        let look = move || {
            let sockets = sockets(port);
            for attack in &mut attacks {
                attack.look(&pids, port, &sockets, age);
            }
            attacks
        };
        attacks = spawn_blocking(look).await.unwrap();
    }
    attacks
}

fn start(row: Row, after: Duration, options: &[&str]) -> Attack {
    let child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "slowhttptest", "-c", "300", "-r", "150", "-p", "5", "-l", "70"])
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Attack { row, after, child, ports: HashMap::new(), held: None }
}

/// A line of /proc/net/tcp.
struct Socket {
    local: u16,
    remote: u16,
    inode: String,
}

/// Those that have this port on either side.
fn sockets(port: u16) -> Vec<Socket> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let own = format!(":{port:04X} ");
    let number = |word: &str| u16::from_str_radix(word.split_once(':')?.1, 16).ok();
    let read = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        Some(Socket {
            local: number(words.get(1)?)?,
            remote: number(words.get(2)?)?,
            inode: (*words.get(9)?).to_owned(),
        })
    };
    // Most lines of a busy machine are of connections long gone.
    table.lines().filter(|line| line.contains(&own)).filter_map(read).collect()
}

fn inodes(pid: u32) -> HashSet<String> {
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return HashSet::new() };
    let inode = |target: &str| Some(target.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned());
    files.filter_map(|file| inode(std::fs::read_link(file.ok()?.path()).ok()?.to_str()?)).collect()
}
