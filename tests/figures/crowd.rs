//! 2,000 connections to a process that may open 256 files.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::fronts::{Kind, Plan};
use crate::origin::Origin;
use crate::table::{Row, Table};
use crate::talk::{Conn, get, is_served};

pub(crate) const CROWD: Row =
    Row { name: "2000 connections, 256 files: alive, admin, recovered", must: "yes, all, < 2 s" };

pub(crate) async fn measure(table: &Table, kind: Kind) {
    let origin = Origin::start().await;
    let mut front =
        Plan { before: "ulimit -n 256".to_owned(), ..Plan::to(&[origin.address]) }.start(kind).await;
    let crowd = timeout(
        Duration::from_secs(20),
        join_all((0..2000).map(|_| timeout(Duration::from_secs(15), TcpStream::connect(front.address)))),
    )
    .await;
    let crowd: Vec<_> = crowd.unwrap().into_iter().flatten().flatten().collect();
    let mut admin = (0, 0);
    if let Some(address) = front.admin {
        for _turn in 0..20 {
            admin.1 += 1;
            let asked = async { Conn::open(address).await?.ask(get("/livez").as_bytes()).await };
            admin.0 += usize::from(matches!(timeout(Duration::from_secs(2), asked).await, Ok(Ok(200))));
            sleep(Duration::from_millis(100)).await;
        }
    }
    let connected = crowd.len();
    drop(crowd);
    let left = Instant::now();
    let recovered = async {
        while !timeout(Duration::from_secs(1), is_served(front.address)).await.unwrap_or(false) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let recovered = timeout(Duration::from_secs(10), recovered).await.is_ok().then(|| left.elapsed());
    let is_alive = front.is_alive();
    let is_right = is_alive
        && connected == 2000
        && admin.0 == admin.1
        && recovered.is_some_and(|after| after < Duration::from_secs(2));
    let after = recovered.map_or_else(|| "never".to_owned(), |after| format!("{:.1} s", after.as_secs_f64()));
    let asked = if front.admin.is_some() { format!("{}/{}", admin.0, admin.1) } else { "-".to_owned() };
    let alive = if is_alive { "yes" } else { "no" };
    table.note(CROWD, kind, format!("{alive}, {asked}, {after}"), is_right);
}
