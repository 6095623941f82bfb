//! HTTP/2 clients that make work: what it costs in upstream connections and in memory.

use std::time::Duration;

use tokio::time::timeout;

use crate::fronts::{Front, Kind, Plan};
use crate::origin::Origin;
use crate::probes::floods::{self, HELD};
use crate::probes::frames::{PREFACE, Raw, SETTINGS, frame, get, reset};
use crate::probes::{PATIENCE, Then, try_talk};
use crate::table::{Row, Table};

pub(crate) const PACED: Row =
    Row { name: "h2 paced resets: streams, upstream connections", must: "<= 600, <= 20" };
pub(crate) const MEMORY: Row = Row { name: "h2 floods: most memory for one", must: "< 2 MiB each" };

pub(crate) async fn measure(table: &Table, kind: Kind) {
    let origin = Origin::start().await;
    let front = Plan { http2: true, ..Plan::to(&[origin.address]) }.start(kind).await;
    warm_up(&front).await;
    let before = origin.connections();
    let mut raw = Raw::open(front.address, &[]).await;
    let mut rounds: u32 = 0;
    while rounds < 1000 {
        let stream = rounds * 2 + 1;
        let said = async {
            raw.send(&get(stream, HELD)).await && raw.ping().await && raw.send(&reset(stream)).await
        };
        if !timeout(Duration::from_secs(10), said).await.unwrap_or(false) {
            break;
        }
        rounds += 1;
    }
    let opened = origin.connections() - before;
    table.note(PACED, kind, format!("{rounds}, {opened}"), rounds <= 600 && opened <= 20);
    drop(raw);

    let mut worst = (0, "none");
    let mut open = Vec::new();
    for (name, flood) in floods::all() {
        let bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &flood].concat();
        let (before, _) = front.memory();
        front.forget_peak();
        // A front that takes it all and keeps the connection has borne it: the client leaves. weigate ends it.
        let patience = if kind == Kind::Weigate { PATIENCE } else { Duration::from_secs(2) };
        let talking = timeout(patience, try_talk(front.address, &bytes, Then::Wait));
        if talking.await.is_err() {
            open.push(name);
        }
        let (_, peak) = front.memory();
        let growth = peak.saturating_sub(before);
        if growth >= worst.0 {
            worst = (growth, name);
        }
    }
    let (bytes, name) = worst;
    let kept = if open.is_empty() { String::new() } else { format!(", {} go on", open.len()) };
    #[expect(clippy::cast_precision_loss, reason = "a figure to read")]
    let text = format!("{:.1} MiB ({name}){kept}", bytes as f64 / f64::from(1 << 20));
    table.note(MEMORY, kind, text, bytes < 2 << 20 && open.is_empty());
}

/// Memory that any load takes once is not a flood's.
async fn warm_up(front: &Front) {
    for _connection in 0..8 {
        let mut raw = Raw::open(front.address, &[]).await;
        for round in 0..50 {
            let stream = round * 2 + 1;
            raw.send(&get(stream, "/cgi-bin/user/info?openid=warm")).await;
            drop(raw.until(|frame| frame.ends(stream)).await);
        }
    }
}
