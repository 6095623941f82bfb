//! A hundred uploads of 100 MiB at once, in a memory cgroup of 64 MiB.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use futures_util::future::join_all;
use tokio::io::AsyncWriteExt as _;

use crate::fronts::{Kind, Plan};
use crate::origin::Origin;
use crate::probes::CLIENT_KEY;
use crate::table::{Row, Table};
use crate::talk::Conn;

pub(crate) const UPLOADS: Row =
    Row { name: "100 uploads of 100 MiB in 64 MiB: answered, OOM kills, peak", must: "100, 0, < 64 MiB" };

const UPLOAD_BYTES: usize = 100 << 20;
const LIMIT_BYTES: u64 = 64 << 20;

#[expect(clippy::print_stdout, reason = "what else was answered belongs beside how many")]
pub(crate) async fn measure(table: &Table, kind: Kind) {
    let cgroup = match Cgroup::make(kind) {
        Ok(cgroup) => Some(cgroup),
        Err(why) => {
            table.note(UPLOADS, kind, format!("no memory cgroup can be made: {why}"), false);
            None
        }
    };
    let before = cgroup.as_ref().map(Cgroup::enter).unwrap_or_default();
    let origin = Origin::start().await;
    let client = "streamed_body_bytes_max = 209715200";
    // A machine under all this lets a client wait before its first word.
    let limits = "handshake_ms_max = 60000\nheader_ms_max = 60000";
    let mut front = Plan { limits, client, before, ..Plan::to(&[origin.address]) }.start(kind).await;
    let head = format!(
        "POST /cgi-bin/media/upload?type=image HTTP/1.1\r\nHost: w\r\nAuthorization: Bearer {CLIENT_KEY}\r\n\
         Content-Length: {UPLOAD_BYTES}\r\n\r\n"
    );
    // The token call had a body too.
    let before = origin.body_bytes();
    // Tasks of their own, so that each gets its turns.
    let address = front.address;
    let uploads = (0..100).map(|_| tokio::spawn(upload(address, head.clone())));
    let answers: Vec<io::Result<u16>> = join_all(uploads).await.into_iter().map(Result::unwrap).collect();
    if !answers.iter().all(|answer| matches!(answer, Ok(200))) {
        let mut said: Vec<String> = answers.iter().map(|answer| format!("{answer:?}")).collect();
        said.sort();
        said.dedup();
        println!("  {}: {said:?}\n{}", kind.name(), front.log());
    }
    let answered = answers.iter().filter(|answer| matches!(answer, Ok(200))).count();
    let is_whole = origin.body_bytes() - before == (answered * UPLOAD_BYTES) as u64;
    let (kills, peak) = cgroup.as_ref().map_or((0, front.memory().1), Cgroup::figures);
    let is_right = answered == 100 && is_whole && kills == 0 && peak <= LIMIT_BYTES && front.is_alive();
    table.note(UPLOADS, kind, format!("{answered}, {kills}, {} MiB", peak >> 20), is_right);
}

/// One upload; what was answered, also where the answer came before its end.
async fn upload(front: SocketAddr, head: String) -> io::Result<u16> {
    let mut conn = Conn::open(front).await?;
    conn.stream.write_all(head.as_bytes()).await?;
    for _piece in 0..UPLOAD_BYTES / PIECE.len() {
        if conn.stream.write_all(&PIECE).await.is_err() {
            break;
        }
    }
    conn.reply().await
}

static PIECE: [u8; 1 << 18] = [7; 1 << 18];

/// A group of its own, gone when dropped.
struct Cgroup {
    path: PathBuf,
    is_v2: bool,
}

impl Cgroup {
    fn make(kind: Kind) -> Result<Self, String> {
        let name = format!("weigate-figures-{}-{}", std::process::id(), kind.name());
        let v2 = PathBuf::from("/sys/fs/cgroup");
        let offered = std::fs::read_to_string(v2.join("cgroup.controllers")).unwrap_or_default();
        let is_v2 = offered.split_whitespace().any(|controller| controller == "memory");
        let group = if is_v2 {
            // It may be on already, or be somebody else's to switch on: then the limit below says so.
            drop(std::fs::write(v2.join("cgroup.subtree_control"), "+memory"));
            Self { path: v2.join(name), is_v2 }
        } else {
            Self { path: v2.join("memory").join(name), is_v2 }
        };
        let said = |what: &str, fault: std::io::Error| format!("{what} {}: {fault}", group.path.display());
        std::fs::create_dir(&group.path).map_err(|fault| said("mkdir", fault))?;
        let limit = if is_v2 { "memory.max" } else { "memory.limit_in_bytes" };
        std::fs::write(group.path.join(limit), LIMIT_BYTES.to_string())
            .map_err(|fault| said(limit, fault))?;
        Ok(group)
    }

    /// What a shell does to be in it.
    fn enter(&self) -> String {
        format!("echo $$ > {}/cgroup.procs || exit 1", self.path.display())
    }

    /// Processes killed for want of memory, and the most bytes ever in use.
    fn figures(&self) -> (u64, u64) {
        let (events, peak) = if self.is_v2 {
            ("memory.events", "memory.peak")
        } else {
            ("memory.oom_control", "memory.max_usage_in_bytes")
        };
        let events = std::fs::read_to_string(self.path.join(events)).unwrap();
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap();
        // memory.peak is younger than cgroup v2; what is in use now is there in any case.
        let peak = std::fs::read_to_string(self.path.join(peak))
            .or_else(|_| std::fs::read_to_string(self.path.join("memory.current")))
            .unwrap();
        (kills.trim().parse().unwrap(), peak.trim().parse().unwrap())
    }
}

impl Drop for Cgroup {
    #[expect(clippy::disallowed_methods, reason = "a destructor cannot await")]
    fn drop(&mut self) {
        // Its processes end before it does; the kernel may notice a moment later.
        for _turn in 0..200 {
            if std::fs::remove_dir(&self.path).is_ok() || !self.path.exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}
