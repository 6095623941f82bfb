//! SIGTERM, which Docker, Kubernetes and systemd send.

use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::Signal;
use tokio::io::AsyncWriteExt as _;
use tokio::time::sleep;

use crate::fronts::{Front, Kind, Plan};
use crate::origin::{Origin, SLOW};
use crate::probes::PATIENCE;
use crate::table::{Row, Table};
use crate::talk::{Conn, get};

pub(crate) const IN_FLIGHT: Row = Row { name: "SIGTERM: lost of 300 in flight", must: "0" };
pub(crate) const IDLE: Row = Row { name: "SIGTERM: errors of 200 idle that send then", must: "0" };

pub(crate) async fn measure(table: &Table, kind: Kind) {
    let origin = Origin::start().await;
    let mut front = Plan::to(&[origin.address]).start(kind).await;
    let mut clients = Vec::new();
    for _client in 0..300 {
        let mut conn = Conn::open(front.address).await.unwrap();
        conn.stream.write_all(get(SLOW).as_bytes()).await.unwrap();
        clients.push(conn);
    }
    while origin.waiting() < 300 {
        sleep(Duration::from_millis(5)).await;
    }
    front.signal(Signal::TERM);
    stopping(&mut front).await;
    origin.release();
    let answers = join_all(clients.iter_mut().map(Conn::reply)).await;
    let lost = answers.iter().filter(|answer| !matches!(answer, Ok(200))).count();
    let has_ended = front.ended(PATIENCE).await.is_some();
    table.note(IN_FLIGHT, kind, format!("{lost}"), lost == 0 && has_ended);

    let origin = Origin::start().await;
    let mut front = Plan::to(&[origin.address]).start(kind).await;
    let request = get("/cgi-bin/user/info?openid=idle");
    let mut clients = Vec::new();
    for _client in 0..200 {
        let mut conn = Conn::open(front.address).await.unwrap();
        assert_eq!(conn.ask(request.as_bytes()).await.unwrap(), 200);
        clients.push(conn);
    }
    front.signal(Signal::TERM);
    let answers = join_all(clients.iter_mut().map(|conn| conn.ask(request.as_bytes()))).await;
    let errors = answers.iter().filter(|answer| !matches!(answer, Ok(200))).count();
    let has_ended = front.ended(PATIENCE).await.is_some();
    table.note(IDLE, kind, format!("{errors}"), errors == 0 && has_ended);
}

/// Waits until the signal has been taken up: weigate says so, the others end.
async fn stopping(front: &mut Front) {
    for _turn in 0..300 {
        if front.log().contains("requests in flight finish") || !front.is_alive() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
}
