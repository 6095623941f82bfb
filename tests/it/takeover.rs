//! A weigate takes over from another at the same addresses, and nobody notices; one that nobody asked for is refused.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::bare::Raw;
use crate::harness::{Binary, PATIENCE, Setup, get, note, wait_ready, wechat};

const SERVES: &str = "weigate serves";

/// A port that nobody had a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Asks every 20 ms until it is told to stop: on one connection as long as that may be kept, or on a new one each
/// time. Panics where a connection is refused or ends without an answer. Says how many were answered.
async fn ask<S, F>(connect: impl Fn() -> F, keeps: bool, is_over: Arc<AtomicBool>) -> u64
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = std::io::Result<S>>,
{
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let mut open = None;
    let mut answered = 0;
    while !is_over.load(Ordering::Relaxed) {
        ticks.tick().await;
        let mut client = match open.take() {
            Some(client) => client,
            None => Raw::over(connect().await.unwrap_or_else(|error| panic!("after {answered}: {error}"))),
        };
        let reply = client.get("/wxa/x").await;
        assert_eq!(reply.status, 200, "{reply:?}");
        answered += 1;
        if keeps && reply.field("connection") != Some("close") {
            open = Some(client);
        }
    }
    answered
}

fn spawn(path: &Path, dir: &Arc<tempfile::TempDir>) -> Binary {
    Binary::spawn(path, Arc::clone(dir), |command| {
        command.arg("--take-over");
    })
}

/// `proxy.toml` with addresses that a second process can be given too.
fn fixed(setup: &Setup, path: &Path, more: &str) -> (PathBuf, SocketAddr) {
    let (port, admin) = (free_port(), free_port());
    let text = std::fs::read_to_string(path).unwrap();
    let server = format!("[server]\nlisten = [\"127.0.0.1:{port}\"{more}]");
    let text = text
        .replace("[server]\nlisten = \"127.0.0.1:0\"", &server)
        .replace("[admin]\nlisten = \"127.0.0.1:0\"", &format!("[admin]\nlisten = \"127.0.0.1:{admin}\""));
    std::fs::write(path, text).unwrap();
    assert!(setup.dir.path().exists());
    (path.to_owned(), SocketAddr::from(([127, 0, 0, 1], port)))
}

/// reliability.md G2: 20 restarts under 200 requests a second.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_restarts_under_load_refuse_reset_and_fail_nothing() {
    const RESTARTS: usize = 20;
    let wechat = wechat().await;
    let setup = Setup::new().with_file_store();
    let (path, address) = fixed(&setup, &setup.write(&wechat), ", \"unix:weigate.sock\"");
    let dir = Arc::clone(&setup.dir);
    let socket = dir.path().join("weigate.sock");
    let mut weigate = Binary::spawn(&path, Arc::clone(&dir), |_| {});
    wait_ready(weigate.admin).await;
    // A token is in use before it is stored, and the next process is to find it there.
    let stored = async {
        while !dir.path().join("state/shop.token").exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, stored).await.unwrap();

    let is_over = Arc::<AtomicBool>::default();
    let mut asking = Vec::new();
    for keeps in [true, false, true, false] {
        asking.push(tokio::spawn(ask(move || TcpStream::connect(address), keeps, Arc::clone(&is_over))));
        let socket = socket.clone();
        let connect = move || UnixStream::connect(socket.clone());
        asking.push(tokio::spawn(ask(connect, keeps, Arc::clone(&is_over))));
    }
    for turn in 0..RESTARTS {
        let next = spawn(&path, &dir);
        next.wait_for_log(SERVES).await;
        weigate.signal(Signal::TERM);
        let status = tokio::task::block_in_place(|| weigate.wait());
        assert_eq!(status.code(), Some(0), "{turn}: {}", weigate.log());
        assert!(weigate.log().contains(r#""message":"stopped""#), "{turn}: {}", weigate.log());
        // The store and the operators' address are its own before the next one comes.
        next.wait_for_log("the store has been taken over").await;
        next.wait_for_log("the admin address has been taken over").await;
        wait_ready(next.admin).await;
        weigate = next;
    }
    is_over.store(true, Ordering::Relaxed);
    let mut answered = 0;
    for task in asking {
        answered += task.await.unwrap();
    }
    note(&format!("{RESTARTS} restarts, {answered} requests: none refused, reset or failed"));
    assert!(answered > 1_000, "{answered}");
    assert_eq!(wechat.control().counters().token_calls_at(crate::harness::STABLE_TOKEN), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_weigate_at_the_same_port_is_refused_unless_it_is_to_take_over() {
    let wechat = wechat().await;
    let setup = Setup::new();
    let (path, address) = fixed(&setup, &setup.write(&wechat), "");
    // Nothing but the clients' port is in its way: no store, no admin listener.
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, after) = text.split_once("[admin]\n").unwrap();
    let second = path.with_file_name("second.toml");
    std::fs::write(&second, format!("{before}[admin]\nenabled = false\n{after}")).unwrap();
    let first = Binary::spawn(&path, Arc::clone(&setup.dir), |_| {});
    wait_ready(first.admin).await;
    let ran = std::process::Command::new(env!("CARGO_BIN_EXE_weigate"))
        .args(["serve", "--config", second.to_str().unwrap()])
        .output();
    let ran = ran.unwrap();
    let said = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("cannot listen at {address}: Address already in use")), "{said}");
    // It took no connection that was the first one's.
    for _time in 0..20 {
        assert_eq!(get(&first.url("/wxa/x")).await.status(), 200);
    }
}
