//! An origin that closes connections 2 ms after each reply: every reuse is a race.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use crate::fronts::{Kind, Plan};
use crate::origin::{Origin, Ways};
use crate::table::{Row, Table};
use crate::talk::{Conn, get, post};

pub(crate) const GET: Row = Row { name: "stale keep-alive: GET errors, duplicates", must: "0, 0 of 2000" };
pub(crate) const POST: Row = Row { name: "stale keep-alive: POST errors, duplicates", must: "0, 0 of 2000" };

const REQUESTS: usize = 2000;
const CLIENTS: usize = 16;

pub(crate) async fn measure(table: &Table, kind: Kind) {
    let ways = Ways { idle: Some(Duration::from_millis(2)), ..Ways::default() };
    let origin = Origin::with(ways).await;
    let front = Plan::to(&[origin.address]).start(kind).await;
    for (row, prefix) in [(GET, "get"), (POST, "post")] {
        let clients =
            (0..CLIENTS).map(|client| tokio::spawn(ask_many(front.address, format!("{prefix}-{client}"))));
        let errors: usize = join_all(clients).await.into_iter().map(Result::unwrap).sum();
        let ids = origin.ids();
        let duplicates = ids.iter().filter(|(id, times)| id.starts_with(prefix) && **times > 1).count();
        table.note(row, kind, format!("{errors}, {duplicates}"), errors == 0 && duplicates == 0);
    }
}

/// One client's requests, each with an id that begins with `name`; how many were not answered with 200.
async fn ask_many(front: SocketAddr, name: String) -> usize {
    let mut conn = Conn::open(front).await.unwrap();
    let mut errors = 0;
    for number in 0..REQUESTS / CLIENTS {
        let target = format!("/cgi-bin/user/info?id={name}-{number}");
        let request = if name.starts_with("get") { get(&target) } else { post(&target, "{}") };
        // A pause around the origin's limit, another each time: that is where the race is.
        sleep(Duration::from_micros(fastrand::u64(0..3000))).await;
        let answer = conn.ask(request.as_bytes()).await;
        errors += usize::from(!matches!(answer, Ok(200)));
        if answer.is_err() {
            conn = Conn::open(front).await.unwrap();
        }
    }
    errors
}
