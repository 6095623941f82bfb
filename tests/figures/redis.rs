//! Two weigates on one Redis that is killed and comes back while clients ask: what they lose, and what they wait.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::fronts::{Front, Kind, Plan, free_address, write_private};
use crate::origin::Origin;
use crate::probes::PATIENCE;
use crate::table::{Row, Table};
use crate::talk::{Conn, get};

pub(crate) const FAILED: Row = Row { name: "Redis killed under load: failed", must: "0" };
pub(crate) const P99: Row =
    Row { name: "Redis killed under load: p99 with it, without, more", must: "at most 20 ms more" };
pub(crate) const BACK: Row = Row { name: "Redis returns: both connected after", must: "< 5 s" };

/// How long each of the two is looked at.
const SPAN: Duration = Duration::from_secs(4);
const CLIENTS: usize = 8;

/// A machine's stall is not Redis's: the best of so many rounds counts.
const ROUNDS: usize = 3;

/// A redis-server; ends when dropped.
struct Server {
    address: SocketAddr,
    child: Child,
}

impl Server {
    async fn start(address: SocketAddr) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "redis-server", "--bind", "127.0.0.1", "--port"]);
        command.arg(address.port().to_string()).args(["--save", "", "--appendonly", "no"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let up = async {
            while TcpStream::connect(address).await.is_err() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, up).await.unwrap();
        Self { address, child }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) async fn measure(table: &Table, kind: Kind) {
    let origin = Origin::start().await;
    let mut redis = Server::start(free_address()).await;
    let dir = tempfile::tempdir().unwrap();
    let url_file = dir.path().join("redis.url");
    write_private(&url_file, &format!("redis://{}", redis.address));
    let store = format!("kind = \"redis\"\nurl_file = \"{}\"", url_file.display());
    let plan = Plan { store, ..Plan::to(&[origin.address]) };
    let fronts = [plan.start(kind).await, plan.start(kind).await];
    connected(&fronts, true).await;
    let (mut failed, mut asked, mut rounds, mut back) = (0, 0, Vec::new(), Duration::MAX);
    for _round in 0..ROUNDS {
        let addresses = fronts.each_ref().map(|front| front.address);
        let (with, address) = (ask(addresses).await, redis.address);
        let asking = tokio::spawn(ask(addresses));
        drop(redis);
        connected(&fronts, false).await;
        let without = asking.await.unwrap();
        let returned = Instant::now();
        redis = Server::start(address).await;
        connected(&fronts, true).await;
        back = back.min(returned.elapsed());
        failed += with.failed + without.failed;
        asked += with.took.len() + without.took.len();
        rounds.push((without.p99().saturating_sub(with.p99()), with.p99(), without.p99()));
    }
    table.note(FAILED, kind, format!("{failed} of {asked}"), failed == 0 && asked > 1000);
    let (more, with, without) = rounds.into_iter().min().unwrap();
    let ms = |span: Duration| span.as_secs_f64() * 1000.0;
    let text = format!("{:.1}, {:.1}, {:.1} ms", ms(with), ms(without), ms(more));
    table.note(P99, kind, text, more <= Duration::from_millis(20));
    table.note(BACK, kind, format!("{:.1} s", back.as_secs_f64()), back < Duration::from_secs(5));
}

/// What became of some requests.
#[derive(Default)]
struct Came {
    failed: usize,
    took: Vec<Duration>,
}

impl Came {
    fn p99(&self) -> Duration {
        let mut took = self.took.clone();
        took.sort_unstable();
        took[took.len() * 99 / 100]
    }
}

/// Many clients at each of the addresses, one request after the other.
async fn ask(addresses: [SocketAddr; 2]) -> Came {
    let end = Instant::now() + SPAN;
    let clients = addresses.into_iter().flat_map(|address| [address; CLIENTS]).map(|address| async move {
        let (mut came, mut conn) = (Came::default(), Conn::open(address).await.unwrap());
        while Instant::now() < end {
            let begun = Instant::now();
            let answer = conn.ask(get("/cgi-bin/user/info?openid=o6").as_bytes()).await;
            came.took.push(begun.elapsed());
            came.failed += usize::from(!matches!(answer, Ok(200)));
            if answer.is_err() {
                conn = Conn::open(address).await.unwrap();
            }
            sleep(Duration::from_millis(2)).await;
        }
        came
    });
    let mut all = Came::default();
    for came in join_all(clients).await {
        all.failed += came.failed;
        all.took.extend(came.took);
    }
    all
}

/// Waits until both say that they have a connection to Redis, or none.
async fn connected(fronts: &[Front; 2], is_so: bool) {
    let wanted = format!("weigate_store_connected {}", u8::from(is_so));
    let all = async {
        for front in fronts {
            while !front.metrics().await.lines().any(|line| line == wanted) {
                sleep(Duration::from_millis(20)).await;
            }
        }
    };
    timeout(PATIENCE, all).await.unwrap();
}
