//! More clients than there is room for.

use std::process::Command;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use weigate::sandbox::When;

use super::{Then, answers, brought, get_head, is_well, talk};
use crate::bare::{self, Raw};
use crate::harness::{Binary, PATIENCE, Setup, metric, note, wait_ready, wechat};

#[tokio::test]
async fn beyond_connections_max_the_backlog_waits_and_nobody_is_lost() {
    let wechat = wechat().await;
    let proxy = Setup::new().server("[server.limits]\nconnections_max = 4").start(&wechat).await;
    let hold = wechat.control().hold("/cgi-bin/user/info", When::BeforeJudging);
    let request = get_head("Connection: close\r\n");
    let release = async {
        // As many as may are on their way; the others wait.
        while wechat.control().holds().iter().map(|hold| hold.held).sum::<usize>() < 4 {
            tokio::task::yield_now().await;
        }
        wechat.control().release(hold);
    };
    let clients = (0..100).map(|_| talk(proxy.address, request.as_bytes(), Then::Wait));
    let (said, ()) = tokio::join!(join_all(clients), release);
    let served = said.iter().filter(|said| answers(said, false)[0].status == 200).count();
    assert_eq!((served, brought(&wechat).len()), (100, 100));
}

#[tokio::test]
async fn idle_connections_make_room_for_one_that_asks() {
    let wechat = wechat().await;
    let proxy = Setup::new()
        .server("[server.limits]\nconnections_max = 8\nidle_ms_max = 3600000")
        .start(&wechat)
        .await;
    let mut idle = Vec::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(get_head("").as_bytes()).await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        idle.push(stream);
    }
    assert!(is_well(proxy.address).await);
}

/// The kernel deals them out: all that are open may be another worker's than the one that is to take one more.
#[tokio::test]
async fn an_idle_connection_makes_room_for_one_at_another_worker() {
    let wechat = wechat().await;
    let proxy = Setup::new()
        .server("[server.limits]\nconnections_max = 1\nidle_ms_max = 3600000")
        .start(&wechat)
        .await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let asked = async {
            stream.write_all(get_head("").as_bytes()).await.unwrap();
            let mut first = [0; 12];
            stream.read_exact(&mut first).await.unwrap();
            assert_eq!(&first, b"HTTP/1.1 200");
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap();
        idle.push(stream);
    }
}

/// 2,000 connections and 256 descriptors (reliability.md L5).
#[tokio::test]
async fn a_process_that_may_open_few_files_stays_reachable() {
    let wechat = wechat().await;
    let setup = Setup::new();
    let path = setup.write(&wechat);
    let binary = Binary::spawn(&path, Arc::clone(&setup.dir), |command| {
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n 256; exec \"$0\" \"$@\""]).arg(command.get_program());
        limited.args(command.get_args());
        *command = limited;
    });
    wait_ready(binary.admin).await;
    binary.logged(|line| line.contains("the limit on open files is too low")).await;
    let crowd = join_all((0..2000).map(|_| TcpStream::connect(binary.address))).await;
    let crowd: Vec<_> = crowd.into_iter().collect::<Result<_, _>>().unwrap();
    assert_eq!(metric(binary.admin, "weigate_accept_errors_total").await, 0);
    // Even while they are there.
    let served = tokio::time::timeout(PATIENCE, is_well(binary.address)).await;
    assert!(served.is_ok_and(|served| served));
    drop(crowd);
    assert!(is_well(binary.address).await);
    assert_eq!(metric(binary.admin, "weigate_accept_errors_total").await, 0);
}

/// Each kept 18 KB once: hyper's buffers outlived the rest, and what was freed stayed with the process.
#[tokio::test]
async fn connections_that_rest_weigh_little() {
    const CLIENTS: u64 = 1000;
    let wechat = wechat().await;
    let setup = Setup::new();
    let path = setup.write(&wechat);
    let binary = Binary::spawn(&path, Arc::clone(&setup.dir), |_| {});
    wait_ready(binary.admin).await;
    let serve = async |client: &mut TcpStream| {
        client.write_all(get_head("").as_bytes()).await.unwrap();
        let mut first = [0; 12];
        client.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
    };
    // What the first requests make lasting is nobody's in particular.
    let mut first = Vec::new();
    for _ in 0..16 {
        let mut client = TcpStream::connect(binary.address).await.unwrap();
        serve(&mut client).await;
        first.push(client);
    }
    let (_, before) = binary.memory_kib();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = TcpStream::connect(binary.address).await.unwrap();
        serve(&mut client).await;
        clients.push(client);
    }
    while metric(binary.admin, "weigate_connections_rested_total").await < 16 + CLIENTS {
        tokio::task::yield_now().await;
    }
    // What they had goes back to the system soon.
    let weight = || binary.memory_kib().1.saturating_sub(before);
    let started = Instant::now();
    while weight() >= 6 * CLIENTS {
        assert!(started.elapsed() < PATIENCE, "{} KiB for {CLIENTS} connections that rest", weight());
        tokio::task::yield_now().await;
    }
    note(&format!("memory: {} KiB for {CLIENTS} connections that rest", weight()));
}

/// Of a crowd, only some keep what they would need at once for the next request.
#[tokio::test]
async fn a_crowd_that_was_answered_rests_at_once_and_is_answered_again() {
    const CLIENTS: usize = 1100;
    /// Of two workers.
    const IDLERS_MAX: usize = 2 * 512;
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let ask = || bare::get_head("/cgi-bin/menu/get");
    let mut crowd = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = Raw::connect(proxy.address).await;
        client.send(ask()).await;
        assert_eq!(client.reply().await.status, 200);
        crowd.push(client);
    }
    let rested = proxy.metric("weigate_connections_rested_total").await;
    assert!(rested >= (CLIENTS - IDLERS_MAX) as u64, "{rested}");
    for client in &mut crowd {
        client.send(ask()).await;
        assert_eq!(client.reply().await.status, 200);
    }
}
